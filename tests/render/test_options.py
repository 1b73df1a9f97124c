"""What an operator may set differently does what its comment says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from stack_backup_lab.paths import BIN
from stack_backup_lab.render import CHART, Objects, merge_values, render
from tests.render import contract
from tests.render.rules import containers, selects
from tests.render.stacks import STACKS


def _pod(objects: Objects) -> dict[str, Any]:
    (found,) = [pod for owner, pod in objects.pods() if owner == f"CronJob/{contract.HOURLY}"]
    return found


def _claim(**values: Any) -> dict[str, Any]:
    spec: dict[str, Any] = render({"volumes": {"databaseBackup": values}}).get(
        "PersistentVolumeClaim", contract.CLAIM
    )["spec"]
    return spec


def test_the_history_s_claim_is_like_the_backup_s_unless_it_is_told_otherwise() -> None:
    def history(**volumes: Any) -> dict[str, Any]:
        spec: dict[str, Any] = render({"volumes": volumes}).get("PersistentVolumeClaim", contract.HISTORY)[
            "spec"
        ]
        return spec

    backup = {"storageClass": "disk", "accessModes": ["ReadWriteOnce"]}
    like = history(databaseBackup=backup)
    assert (like["storageClassName"], like["accessModes"]) == ("disk", ["ReadWriteOnce"])
    own = history(databaseBackup=backup, history={"storageClass": "-", "accessModes": ["ReadWriteMany"]})
    assert (own["storageClassName"], own["accessModes"]) == ("", ["ReadWriteMany"])


def test_without_a_backup_nothing_runs_and_no_volume_is_taken() -> None:
    objects = render({"postgresBackupHourly": {"enabled": False}})
    assert list(objects.pods()) == []
    assert objects.of_kind("CronJob") == objects.of_kind("PersistentVolumeClaim") == []


def test_a_claim_that_exists_is_used_and_none_is_made() -> None:
    existing = {"databaseBackup": "old-claim", "history": "old-history"}
    objects = render({"volumes": {key: {"existingClaim": name} for key, name in existing.items()}})
    assert objects.of_kind("PersistentVolumeClaim") == []
    claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in _pod(objects)["volumes"]}
    assert claims >= set(existing.values())


def test_a_claim_of_the_default_class_names_none() -> None:
    assert "storageClassName" not in _claim()


def test_a_claim_for_a_volume_made_by_hand_has_an_empty_class() -> None:
    assert _claim(storageClass="-")["storageClassName"] == ""


def test_a_claim_is_of_the_given_class_size_and_modes() -> None:
    spec = _claim(storageClass="nfs", size="300Gi", accessModes=["ReadWriteMany"])
    assert spec["storageClassName"] == "nfs"
    assert spec["resources"]["requests"]["storage"] == "300Gi"
    assert spec["accessModes"] == ["ReadWriteMany"]


def test_a_suspended_backup_keeps_its_cronjob() -> None:
    assert (
        render({"postgresBackupHourly": {"suspend": True}}).get("CronJob", contract.HOURLY)["spec"]["suspend"]
        is True
    )


def test_a_digest_takes_the_place_of_the_tag() -> None:
    digest = f"sha256:{64 * 'a'}"
    values = {
        "database": {
            "image": {"repository": "registry.example.org:5000/database", "tag": "15", "digest": digest}
        }
    }
    (container,) = _pod(render(values))["containers"]
    assert container["image"] == f"registry.example.org:5000/database@{digest}"


@pytest.mark.parametrize("group", [None, 5000])
def test_the_group_of_the_volume_can_be_left_out(group: int | None) -> None:
    context = _pod(render({"pod": {"fsGroup": group}}))["securityContext"]
    assert context.get("fsGroup") == group
    assert context.get("fsGroupChangePolicy") == ("OnRootMismatch" if group else None)


def test_who_a_pod_is_and_how_it_gets_its_images_reaches_the_pod() -> None:
    values = {
        "pod": {
            "runAsUser": 1001,
            "runAsGroup": 1002,
            "supplementalGroups": [5000, 6000],
            "imagePullSecrets": [{"name": "mirror"}, {"name": "registry"}],
        },
        "global": {"imagePullSecrets": ["by-name", {"name": "mirror"}]},
    }
    pod = _pod(render(values))
    context = pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (1001, 1002)
    assert context["supplementalGroups"] == [5000, 6000]
    assert pod["imagePullSecrets"] == [{"name": "by-name"}, {"name": "mirror"}, {"name": "registry"}]


@pytest.mark.parametrize(
    ("named", "pulled"),
    [
        ("postgres", "mirror.example.org/dockerhub/postgres:15"),
        ("rdkit/database", "mirror.example.org/dockerhub/rdkit/database:15"),
        ("ghcr.io/rdkit/database", "mirror.example.org/dockerhub/rdkit/database:15"),
        ("localhost:5000/database", "mirror.example.org/dockerhub/database:15"),
        ("localhost/stack/database", "mirror.example.org/dockerhub/stack/database:15"),
    ],
)
def test_one_registry_takes_the_place_of_that_of_every_image(named: str, pulled: str) -> None:
    registry = {"global": {"imageRegistry": "mirror.example.org/dockerhub/"}}
    objects = _everything(**registry, database={"image": {"repository": named, "digest": ""}})
    for owner, pod in objects.pods():
        images = {container["image"] for container in containers(pod)}
        assert pulled in images or owner.startswith("Deployment/")
        assert all(image.startswith("mirror.example.org/dockerhub/") for image in images)


def test_init_containers_have_resources_of_their_own() -> None:
    values = {
        "python": {"resources": {"limits": {"memory": "300Mi", "ephemeral-storage": "1Gi"}}},
        "rclone": {"resources": {"requests": {"cpu": "70m"}}},
    }
    pod = _everything(**values).get("CronJob", contract.OFFSITE)["spec"]["jobTemplate"]["spec"]["template"][
        "spec"
    ]
    python, rclone = pod["initContainers"]
    assert (python["name"], rclone["name"]) == ("python", "rclone")
    assert python["resources"]["limits"] == {"cpu": "1", "memory": "300Mi", "ephemeral-storage": "1Gi"}
    assert rclone["resources"]["requests"] == {"cpu": "70m", "memory": "64Mi"}


@pytest.mark.parametrize(
    ("own", "storage_class", "requested"),
    [(None, "", "50Gi"), ("60Gi", "", "60Gi"), (None, "fast", None), ("1Gi", "fast", "1Gi")],
)
def test_scratch_space_on_the_nodes_disk_is_requested(
    own: str | None, storage_class: str, requested: str | None
) -> None:
    drill: dict[str, Any] = {"scratch": {"size": "50Gi", "storageClass": storage_class}}
    if own:
        drill["resources"] = {"requests": {"ephemeral-storage": own}}
    job = _everything(databaseDrill=drill).get("CronJob", "database-drill")["spec"]["jobTemplate"]["spec"]
    resources = job["template"]["spec"]["containers"][0]["resources"]
    assert resources["requests"].get("ephemeral-storage") == requested


def test_further_labels_are_on_every_object_and_select_none() -> None:
    objects = _everything(
        commonLabels={"app.kubernetes.io/part-of": "stack", "team": "all"},
        jobDefaults={"podLabels": {"team": "own"}},
    )
    for item in objects:
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "stack"
    for item in objects.of_kind("NetworkPolicy"):
        assert "app.kubernetes.io/part-of" not in item["spec"]["podSelector"]["matchLabels"]
    for job in objects.of_kind("CronJob"):
        labels = job["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
        assert (labels["app.kubernetes.io/part-of"], labels["team"]) == ("stack", "own")


def test_claims_and_volumes_have_labels_annotations_and_a_volume_of_ones_own() -> None:
    own = {"labels": {"backup": "yes"}, "annotations": {"example.org/owner": "data"}}
    names = ("databaseBackup", "history", "replicaCheck", "databaseReplica", "mediaReplica")
    values = merge_values(
        {"volumes": {name: {**own} for name in names}},
        {"volumes": {"databaseBackup": {"volumeName": "by-hand"}}},
    )
    objects = _everything(**values)
    kept = [*objects.of_kind("PersistentVolumeClaim"), *objects.of_kind("PersistentVolume")]
    assert len(kept) == 7
    for item in kept:
        assert item["metadata"]["labels"]["backup"] == "yes"
        assert (
            item["metadata"]["annotations"].items()
            >= {
                "helm.sh/resource-policy": "keep",
                "example.org/owner": "data",
            }.items()
        )
    claims = {item["metadata"]["name"]: item["spec"].get("volumeName") for item in kept[:5]}
    assert claims[contract.CLAIM] == "by-hand"
    assert claims[contract.REPLICA_CHECK] is None


def test_labels_of_a_claim_change_no_name_that_cannot_change() -> None:
    own = {"volumes": {"databaseReplica": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}}
    assert _everything(**own).names() == _everything().names()


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_large_id_stays_a_whole_number(executable: str) -> None:
    """Templates see numbers as floats, and write large ones as 1.00066e+09, which no API server takes."""
    large = 1000660000
    ids = {"runAsUser": large, "runAsGroup": large, "fsGroup": large, "supplementalGroups": [large]}
    context = _pod(render({"pod": ids}, helm=BIN / executable))["securityContext"]
    found = [context["runAsUser"], context["runAsGroup"], context["fsGroup"], *context["supplementalGroups"]]
    assert found == 4 * [large]
    assert {type(number) for number in found} == {int}


@pytest.mark.parametrize(
    ("account", "used", "made"),
    [
        ({}, "stack-backup", ["stack-backup"]),
        ({"name": "backup"}, "backup", ["backup"]),
        ({"create": False, "name": "stack"}, "stack", []),
        ({"create": False}, "default", []),
    ],
    ids=str,
)
def test_the_account_is_made_or_used(account: dict[str, Any], used: str, made: list[str]) -> None:
    objects = render({"serviceAccount": account})
    assert _pod(objects)["serviceAccountName"] == used
    assert [item["metadata"]["name"] for item in objects.of_kind("ServiceAccount")] == made


@pytest.mark.parametrize(
    ("tls", "variables", "keys"),
    [
        ({}, {"PGSSLMODE": "prefer"}, []),
        ({"mode": "require"}, {"PGSSLMODE": "require"}, []),
        (
            {"mode": "verify-full", "secret": {"name": "certificates", "caKey": "root"}},
            {"PGSSLMODE": "verify-full", "PGSSLROOTCERT": "/secrets/tls/ca.crt"},
            ["root"],
        ),
        (
            {"secret": {"name": "certificates", "certificateKey": "own", "privateKeyKey": "private"}},
            {"PGSSLMODE": "prefer", "PGSSLCERT": "/secrets/tls/tls.crt", "PGSSLKEY": "/secrets/tls/tls.key"},
            ["own", "private"],
        ),
        (
            {"mode": "disable", "secret": {"name": "certificates", "certificateKey": "own"}},
            {"PGSSLMODE": "disable"},
            [],
        ),
    ],
    ids=str,
)
def test_only_what_the_mode_needs_is_mounted_for_tls(
    tls: dict[str, Any], variables: dict[str, str], keys: list[str]
) -> None:
    pod = _pod(render({"database": {"tls": tls}}))
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert {name: value for name, value in environment.items() if name.startswith("PGSSL")} == variables
    mounted = [volume["secret"] for volume in pod["volumes"] if volume["name"] == "database-tls"]
    assert [item["key"] for secret in mounted for item in secret["items"]] == keys
    assert not any(secret["secretName"] != "certificates" for secret in mounted)


# -- recoveries, drills and replicas ------------------------------------------------------------------------


def _everything(**values: Any) -> Objects:
    base, namespace = STACKS["ci/everything"]
    return render(merge_values(base, values), namespace=namespace)


def _volumes(objects: Objects, job: str) -> dict[str, Any]:
    pod = objects.get("CronJob", job)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return {volume["name"]: volume for volume in pod["volumes"]}


@pytest.mark.parametrize("section", ["databaseRecovery", "mediaRecovery"])
def test_a_recovery_is_a_template_of_runs_by_hand_until_it_has_a_schedule(section: str) -> None:
    job = {"databaseRecovery": contract.DATABASE_RECOVERY, "mediaRecovery": contract.MEDIA_RECOVERY}[section]
    spec = _everything().get("CronJob", job)["spec"]
    assert (spec["schedule"], spec["suspend"]) == ("@yearly", True)
    _, namespace = STACKS["ci/everything"]
    nightly: dict[str, Any] = {"schedule": "30 5 * * *", "confirm": namespace, "source": "offsite"}
    spec = _everything(**{section: nightly}).get("CronJob", job)["spec"]
    assert (spec["schedule"], spec["suspend"]) == ("30 5 * * *", False)
    spec = _everything(**{section: {**nightly, "suspend": True}}).get("CronJob", job)["spec"]
    assert (spec["schedule"], spec["suspend"]) == ("30 5 * * *", True)


@pytest.mark.parametrize(
    ("section", "job"),
    [("databaseRecovery", contract.DATABASE_RECOVERY), ("databaseDrill", "database-drill")],
)
def test_scratch_space_is_on_the_nodes_disk_or_of_a_class(section: str, job: str) -> None:
    values = {section: {"scratch": {"size": "50Gi", "storageClass": ""}}}
    assert _volumes(_everything(**values), job)["scratch"]["emptyDir"] == {"sizeLimit": "50Gi"}
    values = {section: {"scratch": {"size": "50Gi", "storageClass": "fast"}}}
    claim = _volumes(_everything(**values), job)["scratch"]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "resources": {"requests": {"storage": "50Gi"}},
    }


def test_only_a_drill_that_looks_up_media_files_mounts_their_replica() -> None:
    assert "media-replica" in _volumes(_everything(), "database-drill")
    assert "media-replica" not in _volumes(_everything(databaseDrill={"references": ""}), "database-drill")


def test_an_off_site_copy_without_media_mounts_none() -> None:
    assert "media" in _volumes(_everything(), contract.OFFSITE)
    assert "media" not in _volumes(_everything(offsite={"media": False}), contract.OFFSITE)


def test_a_replica_on_a_claim_that_exists_needs_no_export() -> None:
    names = {"databaseReplica": "dumps-by-hand", "mediaReplica": "media-by-hand"}
    objects = _everything(volumes={key: {"existingClaim": name} for key, name in names.items()})
    assert objects.of_kind("PersistentVolume") == []
    mounted = {
        volume["persistentVolumeClaim"]["claimName"]
        for job in objects.of_kind("CronJob")
        for volume in _volumes(objects, job["metadata"]["name"]).values()
        if "persistentVolumeClaim" in volume
    }
    assert set(names.values()) < mounted
    made = {item["metadata"]["name"] for item in objects.of_kind("PersistentVolumeClaim")}
    assert made == {contract.CLAIM, contract.HISTORY, contract.REPLICA_CHECK}


def test_a_volume_that_no_job_needs_is_not_made() -> None:
    """Staging with the database alone has no volume of media, and the other way round."""
    values, namespace = STACKS["staging"]
    for kept, left_out in (("database", "media"), ("media", "database")):
        changed = merge_values(
            values, {f"{left_out}Recovery": {"enabled": False}, "replicaCheck": {"enabled": False}}
        )
        names = " ".join(render(changed, namespace=namespace).names())
        assert f"PersistentVolume/{namespace}-{kept}-replica-" in names
        assert f"{left_out}-replica" not in names


def test_the_claim_of_the_dumps_can_be_mounted_by_several_jobs() -> None:
    assert _claim()["accessModes"] == ["ReadWriteMany"]


def test_one_value_suits_every_claim_to_a_class_of_single_node_volumes() -> None:
    """But for one that names its own modes, and the exports, which are no claims of a class."""
    values, namespace = STACKS["production"]
    once = merge_values(values, {"volumes": {"accessModes": ["ReadWriteOnce"]}})
    claims = render(once, namespace=namespace).of_kind("PersistentVolumeClaim")
    modes = {one["metadata"]["name"]: one["spec"]["accessModes"] for one in claims}
    of_a_class = {name for name in modes if "replica-" not in name}
    assert of_a_class
    assert all((modes[name] == ["ReadWriteOnce"]) is (name in of_a_class) for name in modes), modes
    own = merge_values(once, {"volumes": {"databaseBackup": {"accessModes": ["ReadWriteMany"]}}})
    claim = render(own, namespace=namespace).get("PersistentVolumeClaim", contract.CLAIM)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


# -- what pods may reach -------------------------------------------------------------------------------------


def _policies(objects: Objects, labels: dict[str, str]) -> list[dict[str, Any]]:
    """The NetworkPolicies that select a pod with these labels."""
    return [
        item["spec"]
        for item in objects.of_kind("NetworkPolicy")
        if selects(item["spec"]["podSelector"], labels)
    ]


def _ways_out(objects: Objects, job: str) -> list[dict[str, Any]]:
    """The rules of every policy that lets the job's pods reach something."""
    template = objects.get("CronJob", job)["spec"]["jobTemplate"]["spec"]["template"]
    return [
        rule for spec in _policies(objects, template["metadata"]["labels"]) for rule in spec.get("egress", [])
    ]


def test_a_pod_reaches_what_its_job_needs_and_nothing_reaches_it(stack: str, objects: Objects) -> None:
    everything = stack == "ci/everything"
    reached = {
        contract.HOURLY: [53, contract.PORT],
        contract.DATABASE_RECOVERY: [53, contract.PORT],
        contract.OFFSITE: [53, 443, 8443],
    }
    given = [item["metadata"]["name"] for item in objects.of_kind("CronJob")]
    for name in given:
        ports = {port["port"] for rule in _ways_out(objects, name) for port in rule["ports"]}
        if name != contract.DOCTOR:
            assert sorted(ports) == sorted({*reached.get(name, []), *([53, 9443] if everything else [])}), (
                name
            )
        else:  # what any of the others reaches
            assert sorted(ports) == sorted({port for one in given for port in reached.get(one, [])})
    assert not everything or set(given) > set(reached)


def test_the_off_site_store_is_looked_for_anywhere_or_where_it_is_said_to_be() -> None:
    peers = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    for given, expected in (([], {}), (peers, {"to": peers})):
        values = {
            "offsite": {"enabled": True, "remote": "s3:backups", "folders": ["hourly"]},
            "networkPolicy": {"offsitePeers": given, "offsitePorts": [9000]},
        }
        *_, rule = _ways_out(render(values), contract.OFFSITE)
        assert rule == {"ports": [{"port": 9000, "protocol": "TCP"}], **expected}


def test_what_recovers_from_off_site_has_the_store_s_keys_and_way_and_no_volume_of_a_source() -> None:
    sections = {
        "database-recovery": ("databaseRecovery", set()),
        "database-drill": ("databaseDrill", set()),
        "media-recovery": ("mediaRecovery", {"media"}),
    }
    recovering = {section: {"enabled": True, "source": "offsite"} for section, _ in sections.values()}
    objects = render(
        {"postgresBackupHourly": {"enabled": False}, "offsite": {"remote": "s3:backups/production"}}
        | recovering
    )
    pods = {owner.removeprefix("CronJob/"): pod for owner, pod in objects.pods() if "CronJob/" in owner}
    for job, (_, mounted) in sections.items():
        volumes = {volume["name"]: volume for volume in pods[job]["volumes"]}
        claims = {
            one["persistentVolumeClaim"]["claimName"]
            for one in volumes.values()
            if "persistentVolumeClaim" in one
        }
        assert claims - {contract.HISTORY} == mounted
        assert volumes["offsite-secret"]["secret"]["secretName"] == "offsite"
        assert "rclone" in [one["name"] for one in pods[job]["initContainers"]]
        (container,) = pods[job]["containers"]
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert (environment["SOURCE"], environment["REMOTE"]) == ("offsite", "s3:backups/production")
        ports = [port["port"] for rule in _ways_out(objects, job) for port in rule["ports"]]
        assert (443 in ports, 5432 in ports) == (True, job == "database-recovery")
    from_volumes = {section: {"enabled": True} for section in ("databaseRecovery", "mediaRecovery")}
    nfs = {"nfs": {"server": "nas.example.org"}}
    objects = render({**from_volumes, "volumes": {"databaseReplica": nfs, "mediaReplica": nfs}})
    assert "offsite-secret" not in str(list(objects.pods()))


def test_only_jobs_that_notify_get_addresses_and_a_way_to_them() -> None:
    peers = [{"ipBlock": {"cidr": "192.0.2.0/24"}}]
    daily, weekly = "postgres-backup-daily", "postgres-backup-weekly"
    own = {"ping": [daily], "peers": peers, "ports": [8443]}
    for webhook, told in (
        ("", {daily}),
        ("hook", {contract.HOURLY, daily, weekly, "postgres-backup-monthly"}),
    ):
        notify = {**own, "webhook": webhook}
        jobs_on = {"postgresBackupTiers": {"enabled": True}, "postgresBackupHourly": {"dumpSize": "1Gi"}}
        objects = render({**jobs_on, "notify": notify})
        jobs = [item["metadata"]["name"] for item in objects.of_kind("CronJob")]
        rule = {"ports": [{"port": 8443, "protocol": "TCP"}], "to": peers}
        assert {name for name in jobs if rule in _ways_out(objects, name)} == told
        none: dict[str, Any] = {"secret": {"items": []}}
        items = {name: _volumes(objects, name).get("notify", none)["secret"]["items"] for name in jobs}
        held = {name: [item["key"] for item in listed] for name, listed in items.items()}
        assert {name for name, keys in held.items() if keys} == told
        assert held[daily] == [daily, *filter(None, [webhook])]
        assert held[weekly] == [*filter(None, [webhook])]


def test_pods_of_others_are_left_alone(production: Objects) -> None:
    assert _policies(production, {"app": "database"}) == []
    assert (
        _policies(production, {"app.kubernetes.io/name": "stack-backup", "app.kubernetes.io/instance": "x"})
        == []
    )


def test_the_database_is_looked_for_in_the_stacks_namespace_or_where_it_is_said_to_be() -> None:
    peers = [{"ipBlock": {"cidr": "10.0.0.7/32"}}]
    for given, expected in (([], [{"podSelector": {}}]), (peers, peers)):
        values = {"networkPolicy": {"databasePeers": given}, "database": {"port": 6432}}
        *_, rule = _ways_out(render(values), contract.HOURLY)
        assert rule == {"to": expected, "ports": [{"port": 6432, "protocol": "TCP"}]}


def test_the_policy_can_be_left_out() -> None:
    assert render({"networkPolicy": {"enabled": False}}).of_kind("NetworkPolicy") == []


def test_the_minute_h_is_one_that_a_namespace_has_for_good() -> None:
    """So the hourly jobs of many stacks on one export are spread over the hour."""
    hourly = {"enabled": True, "schedule": "H * * * *"}

    def schedule(namespace: str, **others: Any) -> str:
        values = {"postgresBackupHourly": {**hourly, **others}}
        found: str = render(values, namespace=namespace).get("CronJob", contract.HOURLY)["spec"]["schedule"]
        return found

    schedules = [schedule(f"stack-user{number}-one") for number in range(12)]
    assert schedule("stack-user0-one", keep=3) == schedules[0]
    assert all(re.fullmatch(r"[1-5]?\d \* \* \* \*", one) for one in schedules)
    assert len(set(schedules)) > 6


def test_an_umbrella_takes_the_chart_by_a_condition(tmp_path: Path) -> None:
    """Its values reach the chart with `enabled`, and with what other charts have in `global`."""
    umbrella = tmp_path / "stack"
    shutil.copytree(CHART, umbrella / "charts" / "stack-backup")
    dependency = {"name": "stack-backup", "version": "*", "condition": "stack-backup.enabled"}
    about = {"apiVersion": "v2", "name": "stack", "version": "1.0.0", "dependencies": [dependency]}
    (umbrella / "Chart.yaml").write_text(json.dumps(about))
    shared = {"global": {"storageClass": "of-another-chart"}}
    there = render({"stack-backup": {"enabled": True}, **shared}, chart=umbrella)
    assert there.get("CronJob", contract.HOURLY)
    assert not render({"stack-backup": {"enabled": False}, **shared}, chart=umbrella)
