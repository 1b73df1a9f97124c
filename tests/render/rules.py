"""Rules that every pod, every CronJob, every object and every render as a whole keeps.

A rule takes one thing and yields a sentence for each breach. `test_rules.py` holds every render against every
rule, and breaks a render at least once for every rule to see that the rule can fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from zoneinfo import available_timezones

Thing = dict[str, Any]
Rule = Callable[[Thing], Iterator[str]]
RenderRule = Callable[[Sequence[Thing]], Iterator[str]]

# Of the restricted Pod Security level.
ALLOWED_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected",
    "secret",
}  # fmt: skip
# 52 leaves the controller room for the eleven characters that it appends to name a Job.
CRONJOB_NAME, LABEL_VALUE = 52, 63
DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
SCALE = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15} | {
    f"{letter}i": 1024.0**power for power, letter in enumerate("KMGTP", 1)
}
# Exit codes that a second attempt cannot mend: usage, missing source, no space, permission, configuration.
HOPELESS = {64, 66, 73, 76, 77, 78}
# Where each job may write: every other claim that it mounts is a source, and a source is never written.
# Scratch space ends with the pod, and every job writes its verdicts to the history.
WRITES: dict[str, set[str]] = {
    "postgres-backup-hourly": {"/backup"},
    "postgres-backup-daily": {"/backup"},
    "postgres-backup-weekly": {"/backup"},
    "postgres-backup-monthly": {"/backup"},
    "postgres-replicator-backup": {"/replica"},
    "media-replicator": {"/media-replica"},
    "database-recovery": set(),
    "media-recovery": {"/media"},
    "database-drill": set(),
    "replica-check": {"/state"},
    "offsite": set(),
}
# It writes where any of the others does, a file of its own that it removes.
EXAMINES = "doctor"
# What takes the place of live data.
REPLACES = {"database-recovery", "media-recovery"}
# Claims that a stack has of its own; all others that a pod mounts are made by the chart.
OF_THE_STACK = {"media"}


def quantity(text: str | int) -> float:
    """A Kubernetes quantity in bytes or cores. Raises ValueError for what is none."""
    match = QUANTITY.fullmatch(str(text))
    if match is None:
        raise ValueError(f"{text!r} is no quantity")
    return float(match[1]) * SCALE.get(match[2], 1)


def containers(pod: Thing) -> list[Thing]:
    return [*pod.get("initContainers", []), *pod.get("containers", []), *pod.get("ephemeralContainers", [])]


# -- pods ----------------------------------------------------------------------------------------------------


def runs_as_a_numbered_user(pod: Thing) -> Iterator[str]:
    context = pod.get("securityContext", {})
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    for key in ("runAsUser", "runAsGroup"):
        if not isinstance(context.get(key), int) or context[key] == 0:
            yield f"{key} is {context.get(key)!r}, not a number above 0"
    for container in containers(pod):
        own = container.get("securityContext", {})
        if own.get("runAsNonRoot") is False or own.get("runAsUser") == 0 or own.get("runAsGroup") == 0:
            yield f"container {container['name']} runs as root"


def has_the_default_seccomp_profile(pod: Thing) -> Iterator[str]:
    if pod.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield "the pod's seccompProfile is not RuntimeDefault"
    for container in containers(pod):
        if container.get("securityContext", {}).get("seccompProfile", {"type": "RuntimeDefault"}) != {
            "type": "RuntimeDefault"
        }:
            yield f"container {container['name']} has a seccompProfile of its own"


def shares_nothing_with_the_host(pod: Thing) -> Iterator[str]:
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if pod.get(key):
            yield f"{key} is set"
    for key in ("sysctls", "seLinuxOptions", "windowsOptions", "appArmorProfile"):
        if key in pod.get("securityContext", {}):
            yield f"securityContext.{key} is set"
    for container in containers(pod):
        if any("hostPort" in port for port in container.get("ports", [])):
            yield f"container {container['name']} has a hostPort"
        if container.get("securityContext", {}).get("procMount", "Default") != "Default":
            yield f"container {container['name']} sets procMount"


def gains_no_privileges(pod: Thing) -> Iterator[str]:
    for container in containers(pod):
        context = container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False:
            yield f"container {container['name']}: allowPrivilegeEscalation is not false"
        if context.get("privileged"):
            yield f"container {container['name']} is privileged"
        if context.get("capabilities") != {"drop": ["ALL"]}:
            yield f"container {container['name']} does not drop ALL capabilities, or adds some"


def has_a_read_only_root(pod: Thing) -> Iterator[str]:
    for container in containers(pod):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield f"container {container['name']}: readOnlyRootFilesystem is not true"


def mounts_only_allowed_volumes(pod: Thing) -> Iterator[str]:
    for volume in pod.get("volumes", []):
        for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES:
            yield f"volume {volume['name']} is of the kind {kind}, which the restricted level refuses"


def has_no_service_account_token(pod: Thing) -> Iterator[str]:
    if pod.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"
    if not pod.get("serviceAccountName"):
        yield "serviceAccountName is not set"
    if pod.get("enableServiceLinks") is not False:
        yield "enableServiceLinks is not false: every Service of the namespace would be in the environment"
    if any("serviceAccountToken" in source for source in _projected(pod)):
        yield "a projected volume holds a ServiceAccount token"


def _projected(pod: Thing) -> Iterator[Thing]:
    for volume in pod.get("volumes", []):
        yield from volume.get("projected", {}).get("sources", [])


def reads_secrets_as_files(pod: Thing) -> Iterator[str]:
    for container in containers(pod):
        for variable in container.get("env", []):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield f"container {container['name']}: {variable['name']} comes from a Secret"
        if any("secretRef" in source for source in container.get("envFrom", [])):
            yield f"container {container['name']} takes its environment from a Secret"
    for volume in pod.get("volumes", []):
        if "secret" in volume and not volume["secret"].get("items"):
            yield f"volume {volume['name']} shows every key of the Secret, not only those that the job needs"


def mounts_what_it_reads_read_only(pod: Thing) -> Iterator[str]:
    given = {volume["name"]: volume for volume in pod.get("volumes", [])}
    for container in containers(pod):
        for mount in container.get("volumeMounts", []):
            volume = given.get(mount["name"], {})
            if ("secret" in volume or "configMap" in volume) and mount.get("readOnly") is not True:
                yield f"container {container['name']}: {mount['mountPath']} is not mounted read-only"


def reads_claims_read_only_at_both_ends(pod: Thing) -> Iterator[str]:
    """The claim's end makes the node mount it read-only, the mount's keeps the container from writing."""
    claims = {
        volume["name"]: volume["persistentVolumeClaim"].get("readOnly", False)
        for volume in pod.get("volumes", [])
        if "persistentVolumeClaim" in volume
    }
    for container in containers(pod):
        for mount in container.get("volumeMounts", []):
            if claims.get(mount["name"], mount.get("readOnly", False)) != mount.get("readOnly", False):
                yield (
                    f"container {container['name']}: {mount['mountPath']} is read-only at one end only, "
                    "of the volume and its mount"
                )


def mounts_every_volume_once(pod: Thing) -> Iterator[str]:
    given = [volume["name"] for volume in pod.get("volumes", [])]
    mounts = [
        (container["name"], mount)
        for container in containers(pod)
        for mount in container.get("volumeMounts", [])
    ]
    used = {mount["name"] for _, mount in mounts}
    for name in set(given) - used:
        yield f"volume {name} is mounted nowhere"
    for name in used - set(given):
        yield f"volume {name} is mounted, but not given"
    paths = [(container, mount["mountPath"]) for container, mount in mounts]
    for container, path in {where for where in paths if paths.count(where) > 1}:
        yield f"container {container}: two volumes are mounted at {path}"
    if len(given) != len(set(given)):
        yield "two volumes share a name"


def has_requests_and_limits(pod: Thing) -> Iterator[str]:
    for container in containers(pod):
        resources = container.get("resources", {})
        for group, name in (("requests", "cpu"), ("requests", "memory"), ("limits", "memory")):
            if name not in resources.get(group, {}):
                yield f"container {container['name']} has no resources.{group}.{name}"
        for name, limit in resources.get("limits", {}).items():
            if quantity(resources.get("requests", {}).get(name, 0)) > quantity(limit):
                yield f"container {container['name']} requests more {name} than its limit"


def bounds_its_scratch_space(pod: Thing) -> Iterator[str]:
    limits = [
        quantity(container.get("resources", {}).get("limits", {}).get("memory", 0))
        for container in containers(pod)
    ]
    in_memory = 0.0
    for volume in pod.get("volumes", []):
        if "ephemeral" in volume:
            claim = volume["ephemeral"]["volumeClaimTemplate"]["spec"]
            if "storage" not in claim.get("resources", {}).get("requests", {}):
                yield f"ephemeral {volume['name']} asks for no size"
        if "emptyDir" not in volume:
            continue
        if "sizeLimit" not in volume["emptyDir"]:
            yield f"emptyDir {volume['name']} has no sizeLimit"
        elif volume["emptyDir"].get("medium") == "Memory":
            in_memory += quantity(volume["emptyDir"]["sizeLimit"])
    if in_memory >= min(limits, default=0) and in_memory:
        yield "what may lie in its memory volumes is as much as a container's memory limit"


def pins_its_images(pod: Thing) -> Iterator[str]:
    for container in containers(pod):
        image = container.get("image", "")
        name, _, digest = image.partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if digest:
            if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
                yield f"container {container['name']}: {image} has a malformed digest"
        elif tag in ("", "latest"):
            yield f"container {container['name']}: {image!r} is not pinned"
        if container.get("imagePullPolicy") not in ("Always", "IfNotPresent", "Never"):
            yield f"container {container['name']}: imagePullPolicy is {container.get('imagePullPolicy')!r}"


def can_clean_up(pod: Thing) -> Iterator[str]:
    if not pod.get("terminationGracePeriodSeconds", 0) >= 30:
        yield "terminationGracePeriodSeconds is below 30: a job could not clean up after TERM"


def states_each_variable_once(pod: Thing) -> Iterator[str]:
    for container in containers(pod):
        names = [variable["name"] for variable in container.get("env", [])]
        for name in {name for name in names if names.count(name) > 1}:
            yield f"container {container['name']}: {name} is set twice"
        for variable in container.get("env", []):
            if not isinstance(variable.get("value", ""), str):
                yield f"container {container['name']}: {variable['name']} is no string"


POD_RULES: list[Rule] = [
    runs_as_a_numbered_user,
    has_the_default_seccomp_profile,
    shares_nothing_with_the_host,
    gains_no_privileges,
    has_a_read_only_root,
    mounts_only_allowed_volumes,
    has_no_service_account_token,
    reads_secrets_as_files,
    mounts_what_it_reads_read_only,
    reads_claims_read_only_at_both_ends,
    mounts_every_volume_once,
    has_requests_and_limits,
    bounds_its_scratch_space,
    pins_its_images,
    can_clean_up,
    states_each_variable_once,
]


# -- CronJobs ------------------------------------------------------------------------------------------------


def has_a_name_that_its_jobs_can_carry(cronjob: Thing) -> Iterator[str]:
    name = cronjob["metadata"]["name"]
    if len(name) > CRONJOB_NAME:
        yield f"its name has {len(name)} characters, more than {CRONJOB_NAME}"


def starts_when_it_says(cronjob: Thing) -> Iterator[str]:
    spec = cronjob["spec"]
    if not is_cron(spec["schedule"]):
        yield f"schedule {spec['schedule']!r} is no cron expression"
    if spec.get("timeZone") not in available_timezones():
        yield f"timeZone is {spec.get('timeZone')!r}: the controller's zone would be used, or nothing run"
    if not isinstance(spec.get("suspend"), bool):
        yield "suspend is not written out: whoever suspends it by hand would never be undone by an upgrade"
    if not spec.get("startingDeadlineSeconds", 0) >= 60:
        yield "startingDeadlineSeconds is below 60: runs may never start"


def never_overlaps_itself(cronjob: Thing) -> Iterator[str]:
    if cronjob["spec"].get("concurrencyPolicy") != "Forbid":
        yield f"concurrencyPolicy is {cronjob['spec'].get('concurrencyPolicy')!r}"
    if cronjob["spec"]["jobTemplate"]["spec"].get("podReplacementPolicy") != "Failed":
        yield "podReplacementPolicy is not Failed: two pods of a Job could run at once"


def ends(cronjob: Thing) -> Iterator[str]:
    """Under Forbid a pod that never starts would stop every later run."""
    job = cronjob["spec"]["jobTemplate"]["spec"]
    deadline = job.get("activeDeadlineSeconds", 0)
    if not deadline > 0:
        yield "it has no activeDeadlineSeconds"
    if "backoffLimit" not in job:
        yield "backoffLimit is left at six"
    for container in containers(job["template"]["spec"]):
        inner = {variable["name"]: variable.get("value") for variable in container.get("env", [])}.get(
            "DEADLINE_SECONDS"
        )
        if inner is not None and not 0 < int(inner) <= deadline:
            yield f"container {container['name']}: DEADLINE_SECONDS is {inner}, the Job's own {deadline}"


def is_not_restarted_in_place(cronjob: Thing) -> Iterator[str]:
    """podFailurePolicy needs it, and a failed pod keeps its log."""
    pod = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    if pod.get("restartPolicy") != "Never":
        yield f"restartPolicy is {pod.get('restartPolicy')!r}"


def keeps_its_evidence(cronjob: Thing) -> Iterator[str]:
    for key in ("successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        if not cronjob["spec"].get(key, 0) >= 1:
            yield f"{key} is {cronjob['spec'].get(key)!r}: nothing would be left to read"
    if cronjob["spec"]["jobTemplate"]["spec"].get("ttlSecondsAfterFinished", 86400) < 86400:
        yield "ttlSecondsAfterFinished removes a failed Job with its log within a day"


def gives_up_only_where_a_retry_cannot_help(cronjob: Thing) -> Iterator[str]:
    job = cronjob["spec"]["jobTemplate"]["spec"]
    rules = job.get("podFailurePolicy", {}).get("rules", [])
    names = {container["name"] for container in job["template"]["spec"]["containers"]}
    for rule in rules:
        on = rule.get("onExitCodes", {})
        if on and on.get("values") != sorted(set(on.get("values", []))):
            yield f"the exit codes {on.get('values')} are not sorted and unique"
        if on and on.get("containerName") not in names:
            yield f"a failure rule names the container {on.get('containerName')!r}, which is not there"
    if cronjob["metadata"]["name"] in REPLACES:
        return
    first = rules[0] if rules else {}
    if first.get("action") != "Ignore" or [c["type"] for c in first.get("onPodConditions", [])] != [
        "DisruptionTarget"
    ]:
        yield "its first failure rule does not ignore a disruption: a drained node would count as a failure"
    codes: set[int] = set()
    for rule in rules:
        on = rule.get("onExitCodes", {})
        if rule.get("action") == "FailJob" and on.get("operator") == "In":
            codes |= set(on["values"])
    if codes != HOPELESS:
        yield f"it gives up on the exit codes {sorted(codes)}, not on {sorted(HOPELESS)}"


def repeats_nothing_that_replaces_data(cronjob: Thing) -> Iterator[str]:
    """Neither after a failure nor after a disruption: somebody looks first."""
    if cronjob["metadata"]["name"] not in REPLACES:
        return
    job = cronjob["spec"]["jobTemplate"]["spec"]
    if job.get("backoffLimit") != 0:
        yield f"backoffLimit is {job.get('backoffLimit')!r}: it would be repeated blindly"
    rules = [
        (
            rule["action"],
            rule.get("onExitCodes", {}).get("operator"),
            rule.get("onExitCodes", {}).get("values"),
        )
        for rule in job.get("podFailurePolicy", {}).get("rules", [])
    ]
    if rules != [("FailJob", "NotIn", [0])]:
        yield f"its failure rules are {rules}, not to fail the Job at any exit code but 0"


def replaces_data_only_when_confirmed(cronjob: Thing) -> Iterator[str]:
    """By hand the confirmation comes with the run; what runs by itself names its own namespace."""
    if cronjob["metadata"]["name"] not in REPLACES:
        return
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    confirm = {variable["name"]: variable.get("value") for variable in container["env"]}.get("CONFIRM")
    if confirm is None:
        yield "it has no CONFIRM"
    elif confirm not in ("", cronjob["metadata"]["namespace"]):
        yield f"CONFIRM is {confirm!r}, not its namespace"
    elif not confirm and cronjob["spec"].get("suspend") is not True:
        yield "it is not suspended, although nothing confirms what it replaces"


def runs_never_or_as_scheduled(cronjob: Thing) -> Iterator[str]:
    """The words of a template of runs by hand: they are in no stack's own schedule."""
    if cronjob["spec"]["schedule"] == "@yearly" and cronjob["spec"].get("suspend") is not True:
        yield "it is a template of runs by hand, and would run every New Year"


def writes_only_what_is_its_own(cronjob: Thing) -> Iterator[str]:
    name = cronjob["metadata"]["name"]
    pod = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    claims = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
    written = {
        mount["mountPath"]
        for container in containers(pod)
        for mount in container.get("volumeMounts", [])
        if mount["name"] in claims and mount.get("readOnly") is not True
    } - {"/history"}
    if name == EXAMINES:
        return  # see lets_the_doctor_write_only_where_a_job_does
    if name not in WRITES:
        yield "WRITES does not say where it may write"
    elif written != WRITES[name]:
        yield f"it can write to {sorted(written)}, not to {sorted(WRITES[name])}"


def is_cron(text: str) -> bool:
    """Five fields of numbers or names within their ranges, or one of the @words; no seconds, no time zone."""
    if re.fullmatch(r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)", text):
        return True
    months = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
    days = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
    ranges = [(0, 59, []), (0, 23, []), (1, 31, []), (1, 12, months), (0, 6, days)]
    fields = text.split()
    return len(fields) == 5 and all(
        _is_cron_part(part.lower(), *bounds)
        for field, bounds in zip(fields, ranges, strict=True)
        for part in field.split(",")
    )


def _is_cron_part(part: str, low: int, high: int, names: list[str]) -> bool:
    match = re.fullmatch(r"(\*|\w+(?:-\w+)?)(?:/([1-9]\d*))?", part)
    if match is None:
        return False
    numbers = [
        str(low + names.index(word)) if word in names else word for word in match[1].split("-") if word != "*"
    ]
    return all(number.isdecimal() and low <= int(number) <= high for number in numbers) and numbers == sorted(
        numbers, key=int
    )


def has_an_interpreter(cronjob: Thing) -> Iterator[str]:
    """One that an init container brings, or the image's own: PYTHON says which."""
    pod = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if container["command"][:2] != ["/bin/sh", "/programs/start.sh"] or len(container["command"]) != 3:
        yield f"its command is {container['command']}, not that of a program"
    python = {variable["name"]: variable.get("value") for variable in container["env"]}.get("PYTHON")
    lent = any(lender["name"] == "python" for lender in pod.get("initContainers", []))
    if python != ("/tools/python/bin/python3" if lent else "python3"):
        yield f"PYTHON is {python!r}, and an interpreter is {'' if lent else 'not '}brought"
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    if lent and mounts.get("/tools") != "tools":
        yield "the interpreter that is brought is not mounted"


# -- Deployments ---------------------------------------------------------------------------------------------


def only_reads(deployment: Thing) -> Iterator[str]:
    """A pod that stays is no job: it writes to no claim, and gets no Secret."""
    for volume in deployment["spec"]["template"]["spec"]["volumes"]:
        if "secret" in volume:
            yield f"it mounts the Secret of volume {volume['name']}"
        if "persistentVolumeClaim" in volume and not volume["persistentVolumeClaim"].get("readOnly"):
            yield f"it can write to volume {volume['name']}"


def selects_its_own_pods(deployment: Thing) -> Iterator[str]:
    """And none of a job's, whose labels are the same but for the component."""
    selector, labels = deployment["spec"]["selector"], deployment["spec"]["template"]["metadata"]["labels"]
    if not selects(selector, labels):
        yield "it does not select its own pods"
    if selects(selector, {**labels, "app.kubernetes.io/component": "another"}):
        yield "it selects the pods of any component"
    if selector["matchLabels"].keys() & {"helm.sh/chart", "app.kubernetes.io/version"}:
        yield "its selector changes with a release, which Kubernetes refuses"


def is_asked_whether_it_answers(deployment: Thing) -> Iterator[str]:
    for container in deployment["spec"]["template"]["spec"]["containers"]:
        for probe in ("readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"container {container['name']} has no {probe}"


DEPLOYMENT_RULES: list[Rule] = [only_reads, selects_its_own_pods, is_asked_whether_it_answers]
CRONJOB_RULES: list[Rule] = [
    has_an_interpreter,
    has_a_name_that_its_jobs_can_carry,
    starts_when_it_says,
    never_overlaps_itself,
    ends,
    is_not_restarted_in_place,
    keeps_its_evidence,
    gives_up_only_where_a_retry_cannot_help,
    repeats_nothing_that_replaces_data,
    replaces_data_only_when_confirmed,
    runs_never_or_as_scheduled,
    writes_only_what_is_its_own,
]


# -- all objects ---------------------------------------------------------------------------------------------


def has_valid_names_and_labels(item: Thing) -> Iterator[str]:
    name = item["metadata"]["name"]
    if len(name) > 253 or not DNS_SUBDOMAIN.fullmatch(name):
        yield f"{name!r} is no DNS name"
    for labels in _labels(item):
        for key, value in labels.items():
            if not isinstance(value, str) or len(value) > LABEL_VALUE or not LABEL.fullmatch(value):
                yield f"label {key}={value!r} is not valid"


def _labels(node: object) -> Iterator[Thing]:
    if isinstance(node, dict):
        for key, child in node.items():
            if key in ("labels", "matchLabels") and isinstance(child, dict):
                yield child
            else:
                yield from _labels(child)
    elif isinstance(node, list):
        for child in node:
            yield from _labels(child)


def says_what_it_belongs_to(item: Thing) -> Iterator[str]:
    labels = item["metadata"].get("labels", {})
    for key in ("name", "instance", "version", "managed-by"):
        if not labels.get(f"app.kubernetes.io/{key}"):
            yield f"it has no label app.kubernetes.io/{key}"
    if not labels.get("helm.sh/chart"):
        yield "it has no label helm.sh/chart"


def survives_uninstall_if_it_holds_data(item: Thing) -> Iterator[str]:
    if item["kind"] in ("PersistentVolumeClaim", "PersistentVolume"):
        policy = item["metadata"].get("annotations", {}).get("helm.sh/resource-policy")
        if policy != "keep":
            yield f"helm.sh/resource-policy is {policy!r}: uninstall would delete the data"
    if item["kind"] == "PersistentVolume" and item["spec"].get("persistentVolumeReclaimPolicy") != "Retain":
        yield "persistentVolumeReclaimPolicy is not Retain"


def runs_only_when_asked(item: Thing) -> Iterator[str]:
    """A plain Job would run again with an upgrade once it has been cleaned up; hooks belong to no release:
    only a pod of `helm test` may be one, and the next test deletes it.
    """
    annotations = item["metadata"].get("annotations", {})
    hook = annotations.get("helm.sh/hook")
    if item["kind"] in ("Job", "Pod") and hook != "test":
        yield f"a plain {item['kind']} is in the chart"
    if hook is not None and (item["kind"], hook) != ("Pod", "test"):
        yield "it is a hook: uninstall would leave it behind"
    if hook is not None and annotations.get("helm.sh/hook-delete-policy") != "before-hook-creation":
        yield "it is not deleted before the next of its kind"
    if item["kind"] == "Pod" and not item["spec"].get("activeDeadlineSeconds", 0) > 0:
        yield "it has no activeDeadlineSeconds: a pod that never starts would stay"


def gives_no_token(item: Thing) -> Iterator[str]:
    if item["kind"] == "ServiceAccount" and item.get("automountServiceAccountToken") is not False:
        yield "automountServiceAccountToken is not false"


OBJECT_RULES: list[Rule] = [
    has_valid_names_and_labels,
    says_what_it_belongs_to,
    survives_uninstall_if_it_holds_data,
    runs_only_when_asked,
    gives_no_token,
]


# -- a render as a whole -------------------------------------------------------------------------------------


def _of_kind(objects: Sequence[Thing], kind: str) -> dict[str, Thing]:
    return {item["metadata"]["name"]: item for item in objects if item["kind"] == kind}


def _templates(objects: Sequence[Thing]) -> Iterator[tuple[str, Thing]]:
    """The pod template of every CronJob and Deployment, with its owner."""
    for name, cronjob in _of_kind(objects, "CronJob").items():
        yield name, cronjob["spec"]["jobTemplate"]["spec"]["template"]
    for name, deployment in _of_kind(objects, "Deployment").items():
        yield name, deployment["spec"]["template"]


def _mounts_of_claims(objects: Sequence[Thing]) -> Iterator[tuple[str, str, bool]]:
    """The owner, the claim and whether it is written, for every claim of every pod."""
    for name, template in _templates(objects):
        for volume in template["spec"]["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]
                yield name, claim["claimName"], not claim.get("readOnly", False)


def binds_every_volume_to_its_own_claim(objects: Sequence[Thing]) -> Iterator[str]:
    """Both ways, and without a class: no other claim can take the volume, no provisioner the claim."""
    claims, volumes = _of_kind(objects, "PersistentVolumeClaim"), _of_kind(objects, "PersistentVolume")
    for name, volume in volumes.items():
        reference, spec = volume["spec"].get("claimRef", {}), volume["spec"]
        claim = claims.get(reference.get("name", ""))
        if claim is None or claim["metadata"]["namespace"] != reference.get("namespace"):
            yield f"PersistentVolume {name} is kept for the claim {reference}, which is not there"
            continue
        wanted = claim["spec"]
        if name != f"{reference['namespace']}-{reference['name']}":
            yield f"PersistentVolume {name} does not carry its namespace and claim in its name"
        if wanted.get("volumeName") != name:
            yield f"claim {reference['name']} is not bound to PersistentVolume {name}"
        if not spec.get("storageClassName") == wanted.get("storageClassName") == "":
            yield f"PersistentVolume {name} or its claim has a storage class, or the cluster's default one"
        if spec["accessModes"] != wanted["accessModes"]:
            yield f"PersistentVolume {name} and its claim differ in their access modes"
        if spec["capacity"]["storage"] != wanted["resources"]["requests"]["storage"]:
            yield f"PersistentVolume {name} and its claim differ in size"
    for name, claim in claims.items():
        if claim["spec"].get("volumeName", "") not in {"", *volumes}:
            yield f"claim {name} waits for a PersistentVolume that is not there"


def lets_only_the_producer_write_a_replica(objects: Sequence[Thing]) -> Iterator[str]:
    written = {claim for _, claim, writes in _mounts_of_claims(objects) if writes}
    for name, volume in _of_kind(objects, "PersistentVolume").items():
        export, claim = volume["spec"].get("nfs"), volume["spec"].get("claimRef", {}).get("name")
        if export is None:
            yield f"PersistentVolume {name} is not of NFS"
            continue
        read_only = export.get("readOnly", False) and volume["spec"]["accessModes"] == ["ReadOnlyMany"]
        if claim in written and volume["spec"]["accessModes"] != ["ReadWriteMany"]:
            yield f"PersistentVolume {name} is written, but not ReadWriteMany"
        if claim in written and export.get("readOnly", False):
            yield f"PersistentVolume {name} is read-only, but a job writes it"
        if claim not in written and not read_only:
            yield f"PersistentVolume {name} can be written, but no job of this release makes the replica"


def lets_the_doctor_write_only_where_a_job_does(objects: Sequence[Thing]) -> Iterator[str]:
    """Of the CronJob and of the pods of `helm test`; and it is given all that is mounted at all."""
    mounts = list(_mounts_of_claims(objects))
    jobs = {(claim, writes) for owner, claim, writes in mounts if owner != EXAMINES}
    written = {claim for claim, writes in jobs if writes}
    own = {claim: writes for owner, claim, writes in mounts if owner == EXAMINES}
    wanted = {claim: claim in written for claim, _ in jobs}
    if own and own != wanted:
        yield f"the doctor mounts {own}, and the jobs mount {wanted} (whether they write)"
    tested: dict[str, bool] = {}
    for pod in _of_kind(objects, "Pod").values():
        for volume in pod["spec"]["volumes"]:
            if (claim := volume.get("persistentVolumeClaim")) is not None:
                tested[claim["claimName"]] = not claim.get("readOnly", False)
    if tested != own:
        yield f"the pods of `helm test` mount {tested}, and the doctor {own}"


def mounts_only_claims_that_are_there(objects: Sequence[Thing]) -> Iterator[str]:
    claims = {*_of_kind(objects, "PersistentVolumeClaim"), *OF_THE_STACK}
    mounted = set()
    for owner, claim, _ in _mounts_of_claims(objects):
        mounted.add(claim)
        if claim not in claims:
            yield f"{owner} mounts the claim {claim}, which nobody makes"
    for claim in claims - mounted - OF_THE_STACK:
        yield f"the claim {claim} is mounted by no job"


def closes_every_pod_to_the_network(objects: Sequence[Thing]) -> Iterator[str]:
    """One policy denies everything to every pod; others add no more than ways out to given ports, and a way
    in to the named ports of a pod that serves.
    """
    policies = _of_kind(objects, "NetworkPolicy").values()
    for name, template in _templates(objects):
        labels = template["metadata"]["labels"]
        served = {port["name"] for one in template["spec"]["containers"] for port in one.get("ports", [])}
        own = [policy["spec"] for policy in policies if selects(policy["spec"]["podSelector"], labels)]
        denying = [
            spec
            for spec in own
            if set(spec["policyTypes"]) == {"Ingress", "Egress"}
            and not spec.get("egress")
            and not spec.get("ingress")
        ]
        if not denying:
            yield f"no policy denies everything to the pods of {name}"
        for spec in own:
            for rule in spec.get("ingress", []):
                ports = {port["port"] for port in rule.get("ports", [])}
                if not ports or not ports <= served or not rule.get("from"):
                    yield f"a policy lets something reach the pods of {name}"
            if any(not rule.get("ports") for rule in spec.get("egress", [])):
                yield f"a policy lets the pods of {name} reach every port"


def selects(selector: Thing, labels: dict[str, str]) -> bool:
    """Whether a label selector matches; an empty one matches everything."""
    met = {
        "In": lambda value, values: value in values,
        "NotIn": lambda value, values: value not in values,
        "Exists": lambda value, _: value is not None,
        "DoesNotExist": lambda value, _: value is None,
    }
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        met[expression["operator"]](labels.get(expression["key"]), expression.get("values", []))
        for expression in selector.get("matchExpressions", [])
    )


RENDER_RULES: list[RenderRule] = [
    binds_every_volume_to_its_own_claim,
    lets_only_the_producer_write_a_replica,
    lets_the_doctor_write_only_where_a_job_does,
    mounts_only_claims_that_are_there,
    closes_every_pod_to_the_network,
]
