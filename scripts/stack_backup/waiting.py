"""What keeps a Job from starting: the cluster's own words, and the way out.

Pods alone say much of it. Events and claims say more, and are None for somebody who may not list them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple

from stack_backup.runs import Object, statuses, time_of

SLOW = 5.0
"""Seconds after which a pod that says nothing is said to be slow."""
PATIENCE = 120.0
"""Seconds that a volume may take to be made and attached."""
_ROUTINE = ("WaitForFirstConsumer", "WaitForPodScheduled", "Provisioning", "ExternalProvisioning", "Pending")
"""Of a claim that is on its way, or that no pod has used yet."""
_USUAL = (None, "PodInitializing", "ContainerCreating")
_PULLS = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable")
_IMAGES = {"python": "python.image", "rclone": "rclone.image"}
"""The value of a container's image; else that of the database."""


@dataclass(frozen=True)
class Blocker:
    """What a Job waits for. `message` is the cluster's own, `remedy` what an operator can do.

    `passing`: it usually passes by itself, as the pull of an image does.
    """

    object: str
    reason: str
    message: str
    remedy: str
    passing: bool = False

    def __str__(self) -> str:
        return f"{self.object} ({self.reason}): {self.message} {self.remedy}".rstrip()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class View(NamedTuple):
    """What the cluster shows of a namespace; None: this user may not list them."""

    events: Sequence[Object] | None
    claims: Sequence[Object] | None

    def of(self, kind: str, name: str) -> list[Object]:
        """The events of an object, oldest first."""
        own = [one for one in self.events or () if _is_of(one, kind, name)]
        return sorted(own, key=event_time)

    def claim(self, name: str) -> Object | None:
        return next((one for one in self.claims or () if one["metadata"]["name"] == name), None)


class _Way(NamedTuple):
    """A way out, where the cluster's words match."""

    words: str
    remedy: str


_CLAIM = (
    _Way(
        r"only supports? ReadWriteOnce|access ?modes?|multi.?node|ReadWriteMany",
        "Its storage class cannot give the access mode that it asks for ({modes}). Name a class that can "
        "({value}), or set volumes.accessModes to [ReadWriteOnce]; delete the "
        "claim, which is empty, and upgrade the release.",
    ),
    _Way(
        r"storageclass\S* \S+ not found",
        "No such storage class: `kubectl get storageclass` lists those there are. Correct {value}, delete "
        "the claim, which is empty, and upgrade the release.",
    ),
    _Way(
        r"no storage class is set",
        "The cluster has no default storage class: name one ({value}), or make a volume for the claim.",
    ),
    _Way(
        r"volume \S+ not found|already bound to a different claim|is not available",
        "The volume that it names is missing or belongs to another claim: `kubectl get pv` shows it. A "
        "Released volume is free again once its spec.claimRef is removed.",
    ),
    _Way(
        r"waiting for a volume to be created|waiting for first consumer",
        "The provisioner of its class makes the volume. If this stays, check that its pods run.",
    ),
    _Way(r"", "`kubectl describe pvc` shows all events of the claim; its storage class is set by {value}."),
)
_NODE = (
    _Way(
        r'persistentvolumeclaim "[^"]*" not found',
        "The chart does not make a claim that a value existingClaim names. Install the stack first, or "
        "correct the name (such as volumes.media.existingClaim).",
    ),
    _Way(
        r"Insufficient ephemeral-storage",
        "No node's own disk has room for the scratch space: set the scratch space's storageClass or a "
        "smaller size.",
    ),
    _Way(
        r"Insufficient (?:cpu|memory)",
        "No node has as much free as the pod requests: lower resources.requests of this job, or add a node.",
    ),
    _Way(r"untolerated taint", "Set tolerations of this job, or of jobDefaults."),
    _Way(
        r"node affinity conflict",
        "Its volume can be used on other nodes only: correct nodeSelector or affinity of the job.",
    ),
    _Way(
        r"node affinity/selector|node\(s\) didn't match",
        "No node fits nodeSelector or affinity of this job, or of jobDefaults.",
    ),
    _Way(r"unschedulable|no nodes available", "Uncordon a node (`kubectl uncordon`), or add one."),
    _Way(r"", "`kubectl describe pod` shows what each node lacks."),
)
_IMAGE = (
    _Way(r"invalid.*(?:name|reference)|couldn't parse", "Correct {image}."),
    _Way(
        r"no such host|i/o timeout|connection refused|dial tcp|deadline exceeded|x509|tls:|misbehaving",
        "The node does not reach the registry: check its network, or name a mirror in global.imageRegistry.",
    ),
    _Way(
        r"toomanyrequests|rate limit",
        "The registry limits pulls: give the pods an account (pod.imagePullSecrets), or name a mirror "
        "in global.imageRegistry.",
    ),
    _Way(
        r"unauthorized|authentication required|denied|forbidden",
        "The registry refuses: name a Secret of its credentials in pod.imagePullSecrets, or correct {image}.",
    ),
    _Way(
        r"not found|manifest unknown|no such manifest",
        "There is no such image: correct {image} (repository, tag, digest).",
    ),
    _Way(r"never", "The image is not on the node, and {image}.pullPolicy forbids to pull it."),
    _Way(r"", "Check {image}, and that the node reaches its registry."),
)
_CONTAINER = (
    _Way(
        r"secret",
        "Create the Secret, or correct the value that names it: the page of the job in docs/jobs has it.",
    ),
    _Way(r"configmap", "Upgrade the release: it makes the ConfigMaps of its programs."),
    _Way(r"non-numeric user|run as root", "Set pod.runAsUser to the numeric user of the image."),
    _Way(r"", "`kubectl describe pod` shows all of it."),
)
_MOUNT = (
    _Way(
        r"Multi-Attach",
        "The volume is in use on another node, and its access mode allows one: wait until that pod has "
        "ended, or run all jobs on one node (jobDefaults.nodeSelector).",
    ),
    _Way(
        r"configmap \S+ not found",
        "Upgrade the release: it makes the ConfigMaps of its programs. Others come from extraVolumes.",
    ),
    _Way(r"secret \S+ not found", "Create the Secret, or correct the value that names it."),
    _Way(
        r"access denied|not permitted|permission denied",
        "The server does not let this node in: correct the export, or its path in volumes.",
    ),
    _Way(r"bad option|helper program|program not found", "The node has no NFS client: install it there."),
    _Way(
        r"timed out|timeout|no route|refused|not responding|unreachable|resolve|not known",
        "The file server does not answer the node: check the server and its address in volumes, and the "
        "network between them.",
    ),
    _Way(r"no such file", "The server has no such export: correct the path in volumes."),
    _Way(
        r"",
        "The node cannot mount it: check server, path and options in volumes, and that the node has what "
        "its kind of volume needs.",
    ),
)
_REFUSED = (
    _Way(
        r"must specify",
        "A quota of the namespace demands requests and limits: set them in jobDefaults.resources.",
    ),
    _Way(
        r"exceeded quota",
        "Wait until others have ended, raise the quota, or lower resources of this job: `kubectl get "
        "resourcequota` shows what is used.",
    ),
    _Way(
        r"violates PodSecurity",
        "The chart's own pods keep the level `restricted`: what is named comes from values of yours (pod, "
        "extraVolumes, extraEnv) or from what changes pods in this cluster.",
    ),
    _Way(
        r"(?:maximum|minimum) \S+ usage|LimitRange|limit to request ratio",
        "A LimitRange of the namespace forbids it: set resources of this job (python.resources and "
        "rclone.resources for init containers) within it.",
    ),
    _Way(
        r"service ?account",
        "Create the account, or set serviceAccount.create, or correct serviceAccount.name.",
    ),
    _Way(r"PriorityClass", "Correct priorityClassName of this job, or of jobDefaults."),
    _Way(r"webhook", "A policy of the cluster refuses the pod: its owner knows what it wants."),
    _Way(r"being terminated", "The namespace is being deleted."),
    _Way(r"", "`kubectl describe job` shows all of it."),
)
_WAYS = {
    "FailedAttachVolume": _MOUNT,
    "FailedMapVolume": _MOUNT,
    "FailedMount": _MOUNT,
    "FailedScheduling": _NODE,
    "Failed": _IMAGE,
    "InspectFailed": _IMAGE,
}


def blockers(job: Object, pods: Sequence[Object], view: View, now: datetime | None = None) -> list[Blocker]:
    """Why a Job that has not ended does not run. `pods`: its own, oldest first. Empty: it runs, or will."""
    now = now or datetime.now(UTC)
    if not pods:
        return list(_without_pod(job, view, now))
    pod = pods[-1]
    if started(pod) or pod["metadata"].get("deletionTimestamp"):
        return []
    if not pod["spec"].get("nodeName"):
        return list(_unscheduled(pod, view, now))
    return list(_on_its_node(pod, view, now))


def started(pod: Object) -> bool:
    """Whether its program has: a pod is Pending as long as an init container runs."""
    return bool(pod.get("status", {}).get("phase", "Pending") != "Pending")


def in_the_end(job: Object, view: View) -> list[Blocker]:
    """What kept a Job from starting that has ended since, as far as events are left: its pods are gone."""
    name = job["metadata"]["name"]
    # The newest event of all is the end itself, such as DeadlineExceeded.
    refused = [one for one in view.of("Job", name) if one.get("reason") == "FailedCreate"]
    found = [_refusal(name, one) for one in refused[-1:]]
    of_pods = [
        one
        for one in view.events or ()
        if one["involvedObject"].get("kind") == "Pod"
        and str(one["involvedObject"].get("name", "")).startswith(f"{name}-")
    ]
    if telling := _telling(sorted(of_pods, key=event_time)):
        found.append(_from_event(telling[-1]))
    return found + list(_of_claims(claims_of(job["spec"]["template"]["spec"]), view))


def claims_of(spec: Object) -> list[str]:
    """The claims that a pod with this specification mounts."""
    volumes = (one.get("persistentVolumeClaim", {}).get("claimName") for one in spec.get("volumes", ()))
    return [name for name in volumes if name]


def unbound(name: str, view: View, *, needed: bool = False) -> Blocker | None:
    """Why a claim is not bound. None: it is, or nobody may tell, or (unless `needed`) it waits for its first
    pod.
    """
    if view.claims is None:
        return None
    claim = view.claim(name)
    if claim is None:
        return _blocker(f"claim {name}", "NotFound", f'persistentvolumeclaim "{name}" not found', _NODE)
    phase = claim.get("status", {}).get("phase", "Pending")
    if phase == "Bound":
        return None
    events = view.of("PersistentVolumeClaim", name)
    # A failure counts for more than the wait that the controller announces again and again beside it.
    telling = [one for one in events if one.get("type") == "Warning"] or [
        one for one in events if needed or one.get("reason") not in _ROUTINE
    ]
    modes = ", ".join(claim["spec"].get("accessModes", ()))
    if telling:
        reason, said = str(telling[-1].get("reason", phase)), _words(telling[-1])
    elif needed or phase == "Lost":
        reason, said = phase, f"The claim is {phase}"
    else:
        return None
    found = _blocker(f"claim {name}", reason, said, _CLAIM, modes=modes, value=_class_of(claim))
    return replace(found, passing=reason in _ROUTINE)


def missing(cronjobs: Iterable[Object], view: View, exists: Callable[[str], bool | None]) -> list[Blocker]:
    """What these CronJobs' pods mount and is not there. `exists` is asked for a Secret."""
    specs = [one["spec"]["jobTemplate"]["spec"]["template"]["spec"] for one in cronjobs]
    claims = {name: None for spec in specs for name in claims_of(spec)}
    secrets = {
        volume["secret"]["secretName"]: None
        for spec in specs
        for volume in spec.get("volumes", ())
        if volume.get("secret", {}).get("secretName")
    }
    return [
        *_of_claims(claims, view),
        *(
            _blocker(f"Secret {name}", "NotFound", f'secrets "{name}" not found', _CONTAINER)
            for name in secrets
            if exists(name) is False
        ),
    ]


def _class_of(claim: Object) -> str:
    """The value of its storage class: the chart's own claims are named as their sections are."""
    first, *rest = claim["metadata"]["name"].split("-")
    own = claim["metadata"].get("labels", {}).get("app.kubernetes.io/name") == "stack-backup"
    return f"volumes.{first}{''.join(map(str.title, rest))}.storageClass" if own else "storageClass"


def event_time(event: Object) -> str:
    """When it was seen last: which member says so depends on who wrote it."""
    series = event.get("series") or {}
    times = (
        series.get("lastObservedTime"),
        event.get("lastTimestamp"),
        event.get("eventTime"),
        event.get("firstTimestamp"),
        event["metadata"].get("creationTimestamp"),
    )
    return next((str(one) for one in times if one), "")


def _without_pod(job: Object, view: View, now: datetime) -> Iterator[Blocker]:
    name = job["metadata"]["name"]
    if job["spec"].get("suspend"):
        yield Blocker(
            f"Job {name}", "Suspended", "The Job is suspended.", "Whoever suspended it can resume it."
        )
        return
    failed = [one for one in view.of("Job", name) if one.get("reason") == "FailedCreate"]
    if failed:
        yield _refusal(name, failed[-1])
    elif _age(job, now) > SLOW and not job.get("status", {}).get("failed"):
        yield Blocker(
            f"Job {name}",
            "NoPod",
            "The cluster has made no pod for it.",
            "The Job's events say why: `kubectl describe job` shows them."
            if view.events is not None
            else "The Job's events say why, and you may not list events: ask for that right.",
        )


def _refusal(job: str, event: Object) -> Blocker:
    return _blocker(f"Job {job}", str(event["reason"]), _words(event), _REFUSED)


def _unscheduled(pod: Object, view: View, now: datetime) -> Iterator[Blocker]:
    name = pod["metadata"]["name"]
    late = _age(pod, now) > SLOW
    found = list(_of_claims(claims_of(pod["spec"]), view, needed=late))
    yield from (replace(one, passing=one.passing and _age(pod, now) < PATIENCE) for one in found)
    said = next(
        (
            (str(one.get("reason", "")), str(one.get("message", "")))
            for one in pod.get("status", {}).get("conditions", ())
            if one["type"] == "PodScheduled" and one["status"] != "True"
        ),
        None,
    )
    if said and not (found and re.search(r"persistentvolumeclaim", said[1], re.IGNORECASE)):
        yield _blocker(f"Pod {name}", said[0] or "Unschedulable", said[1], _NODE)
    elif not found and late:
        mounted = ", ".join(claims_of(pod["spec"]))
        yield Blocker(
            f"Pod {name}",
            "Pending",
            f"The scheduler has not placed it yet. It mounts the claims {mounted}."
            if mounted
            else "The scheduler has not placed it yet.",
            "`kubectl get pvc` shows which of them is not bound, `kubectl describe pod` the rest.",
            passing=_age(pod, now) < PATIENCE,
        )


def _of_claims(names: Iterable[str], view: View, *, needed: bool = False) -> Iterator[Blocker]:
    yield from filter(None, (unbound(name, view, needed=needed) for name in names))


def _on_its_node(pod: Object, view: View, now: datetime) -> Iterator[Blocker]:
    name = pod["metadata"]["name"]
    events = view.of("Pod", name)
    for kind in ("initContainerStatuses", "containerStatuses"):
        for status in statuses(pod, kind):
            waiting = status["state"].get("waiting", {})
            if waiting.get("reason") not in _USUAL:
                yield _container(pod, status["name"], waiting, events)
                return
            if "running" in status["state"] or "terminated" in status["state"]:
                events = []  # it has its volumes
    failed = _telling(events)
    # Once an image is pulled, what has been mounted before has been mounted.
    pulling = [one for one in events if one.get("reason") in ("Pulling", "Pulled")]
    if failed and not (pulling and event_time(pulling[-1]) > event_time(failed[-1])):
        yield _from_event(failed[-1])
    elif _age(pod, now) > SLOW and events and pulling and pulling[-1]["reason"] == "Pulling":
        yield Blocker(
            f"Pod {name}", "Pulling", f"{_words(pulling[-1])}.", "A node pulls an image once.", passing=True
        )
    elif _age(pod, now) > SLOW and not pulling and (events or view.events is None) and _untouched(pod):
        mounted = ", ".join(claims_of(pod["spec"]))
        yield Blocker(
            f"Pod {name}",
            "ContainerCreating",
            f"Node {pod['spec']['nodeName']} is still preparing it. It mounts the claims {mounted}.",
            "Where a file server does not answer, the node says so only after two minutes.",
            passing=True,
        )


def _untouched(pod: Object) -> bool:
    """Whether none of its containers has ever started."""
    kinds = ("initContainerStatuses", "containerStatuses")
    return not any(one.get("containerID") for kind in kinds for one in statuses(pod, kind))


def _container(pod: Object, container: str, waiting: Object, events: list[Object]) -> Blocker:
    said = str(waiting.get("message", ""))
    reason = str(waiting["reason"])
    if reason in _PULLS:
        # "Back-off pulling image" alone says nothing of why; the event before it does.
        failed = [_words(one) for one in events if one.get("reason") == "Failed" and "pull" in _words(one)]
        said = failed[-1] if failed and re.fullmatch(r'Back-off pulling image "[^"]*"', said) else said
        ways, image = _IMAGE, _IMAGES.get(container, "database.image")
        return _blocker(f"container {container}", reason, said, ways, image=image)
    return _blocker(f"container {container} of Pod {pod['metadata']['name']}", reason, said, _CONTAINER)


def _from_event(event: Object) -> Blocker:
    about = event["involvedObject"]
    reason = str(event.get("reason", ""))
    ways = _WAYS.get(reason, _CONTAINER)
    container = re.search(r"\{([^}]*)\}", str(about.get("fieldPath", "")))
    image = _IMAGES.get(container[1] if container else "", "database.image")
    return _blocker(f"Pod {about['name']}", reason, _words(event), ways, image=image)


def _blocker(about: str, reason: str, message: str, ways: Sequence[_Way], **values: str) -> Blocker:
    message = " ".join(message.split())
    remedy = next(way.remedy for way in ways if re.search(way.words, message, re.IGNORECASE))
    for name, value in values.items():
        remedy = remedy.replace(f"{{{name}}}", value)
    return Blocker(about, reason, message if message.endswith(".") else f"{message}.", remedy)


def _telling(events: list[Object]) -> list[Object]:
    """Warnings that say why: `Error: ErrImagePull` stands behind one that does."""
    warnings = [one for one in events if one.get("type") == "Warning"]
    return [one for one in warnings if not re.fullmatch(r"Error: \w+", _words(one))]


def _words(event: Object) -> str:
    return " ".join(str(event.get("message") or "").split())


def _is_of(event: Object, kind: str, name: str) -> bool:
    about = event["involvedObject"]
    return bool(about.get("kind") == kind and about.get("name") == name)


def _age(thing: Object, now: datetime) -> float:
    return (now - time_of(thing["metadata"]["creationTimestamp"])).total_seconds()
