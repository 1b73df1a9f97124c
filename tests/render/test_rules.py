"""Every rule holds for every stack, and every rule can fail."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from stack_backup_lab.render import Objects, merge_values, render
from tests.render import contract
from tests.render.rules import (
    CRONJOB_RULES,
    DEPLOYMENT_RULES,
    EXAMINES,
    OBJECT_RULES,
    POD_RULES,
    RENDER_RULES,
    REPLACES,
    WRITES,
    RenderRule,
    Rule,
    Thing,
    containers,
    is_cron,
    selects,
)
from tests.render.stacks import STACKS

Sabotage = Callable[[Thing], object]


def _breaches(rule: Rule, owned: list[tuple[str, Thing]]) -> list[str]:
    return [f"{owner}: {breach}" for owner, thing in owned for breach in rule(thing)]


@pytest.mark.parametrize("rule", POD_RULES, ids=lambda rule: rule.__name__)
def test_every_pod(rule: Rule, objects: Objects) -> None:
    pods = list(objects.pods())
    assert pods or not objects.of_kind("CronJob")
    assert _breaches(rule, pods) == []


@pytest.mark.parametrize("rule", CRONJOB_RULES, ids=lambda rule: rule.__name__)
def test_every_cronjob(rule: Rule, objects: Objects) -> None:
    assert _breaches(rule, [(item["metadata"]["name"], item) for item in objects.of_kind("CronJob")]) == []


@pytest.mark.parametrize("rule", DEPLOYMENT_RULES, ids=lambda rule: rule.__name__)
def test_every_deployment(rule: Rule, objects: Objects) -> None:
    assert _breaches(rule, [(item["metadata"]["name"], item) for item in objects.of_kind("Deployment")]) == []


@pytest.mark.parametrize("rule", OBJECT_RULES, ids=lambda rule: rule.__name__)
def test_every_object(rule: Rule, objects: Objects) -> None:
    assert _breaches(rule, list(zip(objects.names(), objects, strict=True))) == []


@pytest.mark.parametrize("rule", RENDER_RULES, ids=lambda rule: rule.__name__)
def test_every_render(rule: RenderRule, objects: Objects) -> None:
    assert list(rule(objects)) == []


def test_the_rules_have_seen_every_job(stack: str, objects: Objects) -> None:
    jobs = {item["metadata"]["name"] for item in objects.of_kind("CronJob")}
    known = {*WRITES, EXAMINES}
    assert jobs <= known
    assert stack != "ci/everything" or jobs == known
    assert WRITES.keys() >= REPLACES


# How to break each rule once: a change to production's pod, CronJob, object or whole render.
def _container(pod: Thing) -> Thing:
    container: Thing = pod["containers"][0]
    return container


def _set(*path: Any) -> Sabotage:
    """Set what lies under the keys and indices of `path` to its last element."""
    *keys, last, value = path

    def change(thing: Thing) -> None:
        place: Any = thing
        for key in keys:
            place = place.setdefault(key, {}) if isinstance(place, dict) else place[key]
        place[last] = value

    return change


def _drop(*path: Any) -> Sabotage:
    *keys, last = path

    def change(thing: Thing) -> None:
        place: Any = thing
        for key in keys:
            place = place[key]
        del place[last]

    return change


def _append(*path: Any) -> Sabotage:
    *keys, value = path

    def change(thing: Thing) -> None:
        place: Any = thing
        for key in keys[:-1]:
            place = place[key]
        place.setdefault(keys[-1], []).append(value)

    return change


def _twice(pod: Thing) -> None:
    """The first variable once more; a lender has none of its own."""
    variables = _container(pod).setdefault("env", [{"name": "ONE", "value": "1"}])
    variables.append(dict(variables[0]))


BROKEN_PODS: list[tuple[str, Sabotage]] = [
    ("runs_as_a_numbered_user", _drop("securityContext", "runAsNonRoot")),
    ("runs_as_a_numbered_user", _drop("securityContext", "runAsUser")),
    ("runs_as_a_numbered_user", _set("securityContext", "runAsGroup", 0)),
    ("runs_as_a_numbered_user", _set("containers", 0, "securityContext", "runAsUser", 0)),
    ("has_the_default_seccomp_profile", _drop("securityContext", "seccompProfile")),
    (
        "has_the_default_seccomp_profile",
        _set("containers", 0, "securityContext", "seccompProfile", {"type": "Unconfined"}),
    ),
    ("shares_nothing_with_the_host", _set("hostNetwork", True)),
    ("shares_nothing_with_the_host", _set("hostPID", True)),
    ("shares_nothing_with_the_host", _set("hostIPC", True)),
    ("shares_nothing_with_the_host", _set("containers", 0, "ports", [{"containerPort": 80, "hostPort": 80}])),
    ("shares_nothing_with_the_host", _set("containers", 0, "securityContext", "procMount", "Unmasked")),
    ("shares_nothing_with_the_host", _set("securityContext", "sysctls", [])),
    ("gains_no_privileges", _drop("containers", 0, "securityContext", "allowPrivilegeEscalation")),
    ("gains_no_privileges", _set("containers", 0, "securityContext", "privileged", True)),
    ("gains_no_privileges", _set("containers", 0, "securityContext", "capabilities", "add", ["CHOWN"])),
    ("has_a_read_only_root", _drop("containers", 0, "securityContext", "readOnlyRootFilesystem")),
    (
        "mounts_only_allowed_volumes",
        _append("volumes", {"name": "replica", "nfs": {"server": "a", "path": "/"}}),
    ),
    (
        "reads_claims_read_only_at_both_ends",
        lambda pod: [
            claim.update(readOnly=not claim.get("readOnly", False))
            for claim in (one.get("persistentVolumeClaim", {}) for one in pod["volumes"])
        ],
    ),
    (
        "reads_claims_read_only_at_both_ends",
        lambda pod: [
            mount.update(readOnly=not mount.get("readOnly", False))
            for container in containers(pod)
            for mount in container["volumeMounts"]
        ],
    ),
    ("mounts_only_allowed_volumes", _append("volumes", {"name": "host", "hostPath": {"path": "/"}})),
    ("has_no_service_account_token", _drop("automountServiceAccountToken")),
    ("has_no_service_account_token", _drop("serviceAccountName")),
    ("has_no_service_account_token", _drop("enableServiceLinks")),
    (
        "has_no_service_account_token",
        _append(
            "volumes", {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}
        ),
    ),
    (
        "reads_secrets_as_files",
        _append(
            "containers",
            0,
            "env",
            {"name": "PGPASSWORD", "valueFrom": {"secretKeyRef": {"name": "database"}}},
        ),
    ),
    ("reads_secrets_as_files", _append("containers", 0, "envFrom", {"secretRef": {"name": "database"}})),
    ("reads_secrets_as_files", _append("volumes", {"name": "all", "secret": {"secretName": "database"}})),
    (
        "mounts_what_it_reads_read_only",
        _append("containers", 0, "volumeMounts", {"name": "programs", "mountPath": "/more"}),
    ),
    ("mounts_every_volume_once", _append("volumes", {"name": "unused", "emptyDir": {}})),
    (
        "mounts_every_volume_once",
        _append("containers", 0, "volumeMounts", {"name": "absent", "mountPath": "/absent"}),
    ),
    (
        "mounts_every_volume_once",
        lambda pod: _container(pod)["volumeMounts"].append(copy.deepcopy(_container(pod)["volumeMounts"][0])),
    ),
    ("has_requests_and_limits", _drop("containers", 0, "resources", "limits", "memory")),
    ("has_requests_and_limits", _drop("containers", 0, "resources", "requests", "cpu")),
    ("has_requests_and_limits", _set("containers", 0, "resources", "requests", "memory", "1Ti")),
    (
        "bounds_its_scratch_space",
        lambda pod: [
            volume["emptyDir"].pop("sizeLimit") for volume in pod["volumes"] if "emptyDir" in volume
        ],
    ),
    (
        "bounds_its_scratch_space",
        _append("volumes", {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ti"}}),
    ),
    (
        "bounds_its_scratch_space",
        _append("volumes", {"name": "m", "ephemeral": {"volumeClaimTemplate": {"spec": {"resources": {}}}}}),
    ),
    ("pins_its_images", _set("containers", 0, "image", "postgres")),
    ("pins_its_images", _set("containers", 0, "image", "registry:5000/postgres:latest")),
    ("pins_its_images", _set("containers", 0, "image", "postgres:15@sha256:abc")),
    ("pins_its_images", _drop("containers", 0, "imagePullPolicy")),
    ("can_clean_up", _drop("terminationGracePeriodSeconds")),
    ("states_each_variable_once", _twice),
    ("states_each_variable_once", _append("containers", 0, "env", {"name": "EXTRA", "value": 5})),
]

JOB = ("spec", "jobTemplate", "spec")
RULES = (*JOB, "podFailurePolicy", "rules")


def _confirm(value: str | None) -> Sabotage:
    def change(cronjob: Thing) -> None:
        (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        (variable,) = [variable for variable in container["env"] if variable["name"] == "CONFIRM"]
        variable.update({"value": value} if value is not None else {"name": "OTHER"})

    return change


def _writable(path: str) -> Sabotage:
    def change(cronjob: Thing) -> None:
        (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == path]
        mount["readOnly"] = not mount.get("readOnly", False)

    return change


OF_A_POD = (*JOB, "template", "spec")
BROKEN_CRONJOBS: list[tuple[str, Sabotage]] = [
    ("has_an_interpreter", _set(*OF_A_POD, "initContainers", [])),
    ("has_an_interpreter", _set(*OF_A_POD, "containers", 0, "env", [])),
    ("has_an_interpreter", _set(*OF_A_POD, "containers", 0, "volumeMounts", [])),
    ("has_an_interpreter", _set(*OF_A_POD, "containers", 0, "command", ["/bin/sh", "/programs/start.sh"])),
    ("has_a_name_that_its_jobs_can_carry", _set("metadata", "name", 53 * "a")),
    ("starts_when_it_says", _set("spec", "schedule", "60 * * * *")),
    ("starts_when_it_says", _drop("spec", "timeZone")),
    ("starts_when_it_says", _set("spec", "timeZone", "Europe/Didcot")),
    ("starts_when_it_says", _drop("spec", "suspend")),
    ("starts_when_it_says", _set("spec", "startingDeadlineSeconds", 5)),
    ("never_overlaps_itself", _set("spec", "concurrencyPolicy", "Replace")),
    ("never_overlaps_itself", _drop("spec", "jobTemplate", "spec", "podReplacementPolicy")),
    ("ends", _drop("spec", "jobTemplate", "spec", "activeDeadlineSeconds")),
    ("ends", _drop("spec", "jobTemplate", "spec", "backoffLimit")),
    ("ends", _set("spec", "jobTemplate", "spec", "activeDeadlineSeconds", 60)),
    ("is_not_restarted_in_place", _set(*OF_A_POD, "restartPolicy", "OnFailure")),
    ("keeps_its_evidence", _set("spec", "failedJobsHistoryLimit", 0)),
    ("keeps_its_evidence", _set("spec", "jobTemplate", "spec", "ttlSecondsAfterFinished", 60)),
    (
        "gives_up_only_where_a_retry_cannot_help",
        lambda item: item["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"].reverse(),
    ),
    ("gives_up_only_where_a_retry_cannot_help", _drop("spec", "jobTemplate", "spec", "podFailurePolicy")),
    (
        "gives_up_only_where_a_retry_cannot_help",
        _set(
            "spec", "jobTemplate", "spec", "podFailurePolicy", "rules", 1, "onExitCodes", "values", [64, 65]
        ),
    ),
    (
        "gives_up_only_where_a_retry_cannot_help",
        _set(
            "spec", "jobTemplate", "spec", "podFailurePolicy", "rules", 1, "onExitCodes", "containerName", "x"
        ),
    ),
    ("runs_never_or_as_scheduled", _set("spec", "schedule", "@yearly")),
    ("writes_only_what_is_its_own", _writable("/backup")),
    ("writes_only_what_is_its_own", _set("metadata", "name", "another")),
]
BROKEN_RECOVERIES: list[tuple[str, Sabotage]] = [
    ("gives_up_only_where_a_retry_cannot_help", _set(*RULES, 0, "onExitCodes", "containerName", "rclone")),
    ("repeats_nothing_that_replaces_data", _set(*JOB, "backoffLimit", 1)),
    ("repeats_nothing_that_replaces_data", _set(*RULES, 0, "onExitCodes", "operator", "In")),
    ("repeats_nothing_that_replaces_data", _set(*RULES, 0, "action", "Count")),
    ("repeats_nothing_that_replaces_data", _append(*RULES, {"action": "Ignore"})),
    ("repeats_nothing_that_replaces_data", _drop(*JOB, "podFailurePolicy")),
    ("replaces_data_only_when_confirmed", _confirm(None)),
    ("replaces_data_only_when_confirmed", _confirm("staging-stack")),
    ("replaces_data_only_when_confirmed", _set("spec", "suspend", False)),
    ("runs_never_or_as_scheduled", _set("spec", "suspend", False)),
    ("writes_only_what_is_its_own", _writable("/media-replica")),
    ("writes_only_what_is_its_own", _writable("/media")),
]

OF_A_DEPLOYMENT = ("spec", "template", "spec")
COMPONENT = "app.kubernetes.io/component"
BROKEN_DEPLOYMENTS: list[tuple[str, Sabotage]] = [
    ("only_reads", _set(*OF_A_DEPLOYMENT, "volumes", 1, "persistentVolumeClaim", "readOnly", False)),
    ("only_reads", _append(*OF_A_DEPLOYMENT, "volumes", {"name": "x", "secret": {"secretName": "x"}})),
    ("selects_its_own_pods", _set("spec", "selector", "matchLabels", COMPONENT, "another")),
    ("selects_its_own_pods", _drop("spec", "selector", "matchLabels", COMPONENT)),
    ("selects_its_own_pods", _set("spec", "selector", "matchLabels", "helm.sh/chart", "stack-backup-0.1.0")),
    ("is_asked_whether_it_answers", _drop(*OF_A_DEPLOYMENT, "containers", 0, "readinessProbe")),
    ("is_asked_whether_it_answers", _drop(*OF_A_DEPLOYMENT, "containers", 0, "livenessProbe")),
]

BROKEN_OBJECTS: list[tuple[str, str, Sabotage]] = [
    ("has_valid_names_and_labels", "ConfigMap", _set("metadata", "name", "Stack_Backup")),
    (
        "has_valid_names_and_labels",
        "CronJob",
        _set("spec", "jobTemplate", "metadata", "labels", "x", 64 * "a"),
    ),
    ("says_what_it_belongs_to", "ServiceAccount", _drop("metadata", "labels", "app.kubernetes.io/instance")),
    ("says_what_it_belongs_to", "ServiceAccount", _drop("metadata", "labels", "helm.sh/chart")),
    ("survives_uninstall_if_it_holds_data", "PersistentVolumeClaim", _drop("metadata", "annotations")),
    ("survives_uninstall_if_it_holds_data", "PersistentVolumeClaim", _set("kind", "PersistentVolume")),
    ("runs_only_when_asked", "CronJob", _set("kind", "Job")),
    ("runs_only_when_asked", "ConfigMap", _set("metadata", "annotations", "helm.sh/hook", "pre-install")),
    ("runs_only_when_asked", "Pod", _set("metadata", "annotations", "helm.sh/hook", "post-install")),
    ("runs_only_when_asked", "Pod", _drop("metadata", "annotations", "helm.sh/hook")),
    ("runs_only_when_asked", "Pod", _drop("metadata", "annotations", "helm.sh/hook-delete-policy")),
    ("runs_only_when_asked", "Pod", _drop("spec", "activeDeadlineSeconds")),
    ("gives_no_token", "ServiceAccount", _drop("automountServiceAccountToken")),
]


def _volume(kind: str, *change: Any) -> Callable[[list[Thing]], object]:
    """A change to the first object of a kind of the render."""
    return lambda objects: _set(*change)(next(item for item in objects if item["kind"] == kind))


def _without(kind: str) -> Callable[[list[Thing]], object]:
    return lambda objects: objects.remove(next(item for item in objects if item["kind"] == kind))


def _only_read(objects: list[Thing]) -> None:
    """Every job only reads the replica of the dumps."""
    for job in [item for item in objects if item["kind"] == "CronJob"]:
        for volume in job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]:
            if volume["name"] == "database-replica":
                volume["persistentVolumeClaim"]["readOnly"] = True


def _doctor(kind: str) -> Callable[[list[Thing]], object]:
    """It reads what jobs write, and writes what they read, as CronJob or as pods of `helm test`."""

    def change(objects: list[Thing]) -> None:
        for item in objects:
            if item["kind"] == kind and item["metadata"]["name"].startswith(EXAMINES):
                pod = item if kind == "Pod" else item["spec"]["jobTemplate"]["spec"]["template"]
                for claim in (one.get("persistentVolumeClaim", {}) for one in pod["spec"]["volumes"]):
                    claim["readOnly"] = not claim.get("readOnly", False)

    return change


BROKEN_RENDERS: list[tuple[str, Callable[[list[Thing]], object]]] = [
    (rule, _volume("PersistentVolume", *change))
    for rule, *change in [
        ("binds_every_volume_to_its_own_claim", "metadata", "name", "database-replica"),
        ("binds_every_volume_to_its_own_claim", "spec", "storageClassName", "nfs"),
        ("binds_every_volume_to_its_own_claim", "spec", "accessModes", ["ReadWriteOnce"]),
        ("binds_every_volume_to_its_own_claim", "spec", "capacity", "storage", "1Gi"),
        ("binds_every_volume_to_its_own_claim", "spec", "claimRef", "namespace", "staging-stack"),
        ("binds_every_volume_to_its_own_claim", "spec", "claimRef", {}),
        ("lets_only_the_producer_write_a_replica", "spec", "nfs", "readOnly", True),
        ("lets_only_the_producer_write_a_replica", "spec", "accessModes", ["ReadOnlyMany"]),
        ("lets_only_the_producer_write_a_replica", "spec", "nfs", None),
    ]
] + [
    ("binds_every_volume_to_its_own_claim", _without("PersistentVolume")),
    ("lets_only_the_producer_write_a_replica", _only_read),
    ("mounts_only_claims_that_are_there", _without("PersistentVolumeClaim")),
    ("mounts_only_claims_that_are_there", _volume("PersistentVolumeClaim", "metadata", "name", "spare")),
    ("closes_every_pod_to_the_network", _without("NetworkPolicy")),
    ("lets_the_doctor_write_only_where_a_job_does", _doctor("CronJob")),
    ("lets_the_doctor_write_only_where_a_job_does", _doctor("Pod")),
] + [
    ("closes_every_pod_to_the_network", _volume("NetworkPolicy", "spec", key, value))
    for key, value in [
        ("policyTypes", ["Egress"]),
        ("egress", [{}]),
        ("ingress", [{"ports": [{"port": 1}]}]),
        ("podSelector", {"matchLabels": {"a": "b"}}),
    ]
]  # fmt: skip


def _pod(objects: Objects, job: str) -> Thing:
    (pod,) = [pod for owner, pod in objects.pods() if owner == f"CronJob/{job}"]
    return pod


@pytest.mark.parametrize(("name", "sabotage"), BROKEN_PODS)
def test_a_rule_of_pods_can_fail(name: str, sabotage: Sabotage, production: Objects) -> None:
    _expect_breach(POD_RULES, name, _pod(production, contract.HOURLY), sabotage)


@pytest.mark.parametrize("lender", ["python", "rclone"])
@pytest.mark.parametrize(("name", "sabotage"), BROKEN_PODS)
def test_a_rule_of_pods_sees_the_containers_that_lend_a_program(
    name: str, sabotage: Sabotage, lender: str
) -> None:
    values, namespace = STACKS["ci/everything"]
    pod = _pod(render(values, namespace=namespace), contract.OFFSITE)  # which has both
    place = [container["name"] for container in pod["initContainers"]].index(lender)

    def other(pod: Thing) -> None:
        """The same change, to the container that the change does not mean."""
        own, lenders = pod["containers"], pod["initContainers"]
        own[0], lenders[place] = lenders[place], own[0]
        sabotage(pod)
        own[0], lenders[place] = lenders[place], own[0]

    _expect_breach(POD_RULES, name, pod, other)


@pytest.mark.parametrize(("name", "sabotage"), BROKEN_CRONJOBS)
def test_a_rule_of_cronjobs_can_fail(name: str, sabotage: Sabotage, production: Objects) -> None:
    _expect_breach(CRONJOB_RULES, name, production.get("CronJob", contract.HOURLY), sabotage)


@pytest.mark.parametrize(("name", "sabotage"), BROKEN_RECOVERIES)
def test_a_rule_of_recoveries_can_fail(name: str, sabotage: Sabotage, production: Objects) -> None:
    _expect_breach(CRONJOB_RULES, name, production.get("CronJob", contract.MEDIA_RECOVERY), sabotage)


def _exporter() -> Objects:
    values, namespace = STACKS["production"]
    return render(merge_values(values, {"monitoring": {"exporter": {"enabled": True}}}), namespace=namespace)


@pytest.mark.parametrize(("name", "sabotage"), BROKEN_DEPLOYMENTS)
def test_a_rule_of_deployments_can_fail(name: str, sabotage: Sabotage) -> None:
    _expect_breach(DEPLOYMENT_RULES, name, _exporter().get("Deployment", "stack-backup-exporter"), sabotage)


@pytest.mark.parametrize(
    "ingress",
    [
        [{"ports": [{"port": "metrics"}]}],
        [{"from": [{"podSelector": {}}]}],
        [{"from": [{"podSelector": {}}], "ports": [{"port": "metrics"}, {"port": 22}]}],
    ],
    ids=str,
)
def test_a_pod_that_serves_is_reached_at_its_own_port_by_named_peers_alone(ingress: list[Thing]) -> None:
    objects = list(_exporter())
    (rule,) = [rule for rule in RENDER_RULES if rule.__name__ == "closes_every_pod_to_the_network"]
    assert list(rule(objects)) == []
    policies = [item for item in objects if item["kind"] == "NetworkPolicy"]
    (own,) = [item for item in policies if item["metadata"]["name"] == "stack-backup-exporter"]
    own["spec"]["ingress"] = ingress
    assert list(rule(objects)) != []


@pytest.mark.parametrize(("name", "kind", "sabotage"), BROKEN_OBJECTS)
def test_a_rule_of_objects_can_fail(name: str, kind: str, sabotage: Sabotage, production: Objects) -> None:
    _expect_breach(OBJECT_RULES, name, production.of_kind(kind)[0], sabotage)


@pytest.mark.parametrize(("name", "sabotage"), BROKEN_RENDERS)
def test_a_rule_of_renders_can_fail(
    name: str, sabotage: Callable[[list[Thing]], object], production: Objects
) -> None:
    (rule,) = [rule for rule in RENDER_RULES if rule.__name__ == name]
    whole = list(production)
    assert list(rule(whole)) == []
    sabotage(whole)
    assert list(rule(whole)) != []


def test_a_consumer_that_could_write_is_found() -> None:
    values, namespace = STACKS["staging"]
    objects = render(values, namespace=namespace)
    volume = objects.of_kind("PersistentVolume")[0]
    for change in (_drop("spec", "nfs", "readOnly"), _set("spec", "accessModes", ["ReadWriteMany"])):
        broken = copy.deepcopy(list(objects))
        change(broken[objects.names().index(f"PersistentVolume/{volume['metadata']['name']}")])
        (rule,) = [rule for rule in RENDER_RULES if rule.__name__ == "lets_only_the_producer_write_a_replica"]
        assert list(rule(objects)) == []
        assert list(rule(broken)) != []


def _expect_breach(rules: list[Rule], name: str, thing: Thing, sabotage: Sabotage) -> None:
    (rule,) = [rule for rule in rules if rule.__name__ == name]
    assert list(rule(thing)) == []
    sabotage(thing)
    assert list(rule(thing)) != []


def test_every_rule_is_broken_once() -> None:
    broken = {
        entry[0]
        for entry in [
            *BROKEN_PODS, *BROKEN_CRONJOBS, *BROKEN_RECOVERIES, *BROKEN_DEPLOYMENTS, *BROKEN_OBJECTS,
            *BROKEN_RENDERS,
        ]
    }  # fmt: skip
    rules = [*POD_RULES, *CRONJOB_RULES, *DEPLOYMENT_RULES, *OBJECT_RULES, *RENDER_RULES]
    assert broken == {rule.__name__ for rule in rules}


@pytest.mark.parametrize(
    ("expression", "matches"),
    [
        ({"operator": "In", "values": ["b", "c"]}, True),
        ({"operator": "In", "values": ["c"]}, False),
        ({"operator": "NotIn", "values": ["c"]}, True),
        ({"operator": "NotIn", "values": ["b"]}, False),
        ({"operator": "Exists"}, True),
        ({"operator": "DoesNotExist"}, False),
    ],
    ids=str,
)
def test_a_selector_selects_as_kubernetes_does(expression: Thing, matches: bool) -> None:
    selector = {"matchExpressions": [{"key": "a", **expression}]}
    assert selects(selector, {"a": "b"}) is matches
    assert not selects({"matchLabels": {"x": "y"}, **selector}, {"a": "b"})
    assert selects({}, {"a": "b"})


@pytest.mark.parametrize(
    "text", ["51 * * * *", "*/5 0-6,22 1 jan MON-FRI", "@hourly", "0 0 31 12 6", "0-30/10 * * * *"]
)
def test_a_cron_expression(text: str) -> None:
    assert is_cron(text)


@pytest.mark.parametrize(
    "text",
    ["", "51 * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 7", "*/0 * * * *",
     "30-10 * * * *", "@reboot", "0 51 * * * *", "TZ=UTC 51 * * * *", "a * * * *", "1, * * * *"],
)  # fmt: skip
def test_no_cron_expression(text: str) -> None:
    assert not is_cron(text)
