"""What keeps a Job from starting: objects and events as clusters write them, and the way out of each.

The words are those of Kubernetes (scheduler, kubelet, controllers, admission), containerd, mount.nfs and
provisioners; what a kind cluster can be brought to say is seen for real in tests/cluster/test_waiting.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stack_backup import waiting
from stack_backup.runs import Object
from stack_backup.waiting import Blocker, View

NOW = datetime(2026, 11, 25, 12, 0, 30, tzinfo=UTC)
MADE = "2026-11-25T12:00:00Z"
RUN, POD, CLAIM = "job-1", "job-1-abcde", "database-backup"


def _job(**spec: Any) -> Object:
    template = {"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": CLAIM}}]}}
    metadata = {"name": RUN, "creationTimestamp": MADE}
    return {"metadata": metadata, "spec": {"template": template} | spec, "status": {}}


def _pod(
    *, node: str = "", unschedulable: str = "", phase: str = "Pending", **statuses: dict[str, Any]
) -> Object:
    """Its containers are in these states; `python` is an init container."""
    conditions: list[Object] = [{"type": "Initialized", "status": "False"}]
    if unschedulable:
        said = {"reason": "Unschedulable", "message": unschedulable}
        conditions.append({"type": "PodScheduled", "status": "False"} | said)
    lists: dict[str, list[Object]] = {"initContainerStatuses": [], "containerStatuses": []}
    for name, state in statuses.items():
        kind = "initContainerStatuses" if name == "python" else "containerStatuses"
        lists[kind].append({"name": name, "state": state})
    volumes = [{"name": "v", "persistentVolumeClaim": {"claimName": CLAIM}}]
    return {
        "metadata": {"name": POD, "creationTimestamp": MADE},
        "spec": {"volumes": volumes} | ({"nodeName": node} if node else {}),
        "status": {"phase": phase, "conditions": conditions} | lists,
    }


def _event(kind: str, name: str, reason: str, message: str, *, at: int = 5, normal: bool = False) -> Object:
    return {
        "metadata": {"creationTimestamp": MADE},
        "involvedObject": {"kind": kind, "name": name},
        "type": "Normal" if normal else "Warning",
        "reason": reason,
        "message": message,
        "lastTimestamp": f"2026-11-25T12:00:{at:02}Z",
    }


def _claim(phase: str = "Pending", name: str = CLAIM) -> Object:
    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/name": "stack-backup"}},
        "spec": {"accessModes": ["ReadWriteMany"]},
        "status": {"phase": phase},
    }


def _blockers(
    pods: Iterable[Object], *events: Object, claims: list[Object] | None = None, job: Object | None = None
) -> list[Blocker]:
    view = View(events, [_claim("Bound")] if claims is None else claims)
    return waiting.blockers(job or _job(), list(pods), view, NOW)


WAITS_FOR_VOLUME = _event(
    "PersistentVolumeClaim", CLAIM, "WaitForFirstConsumer", "waiting for …", normal=True
)


@pytest.mark.parametrize(
    ("reason", "says", "remedy"),
    [
        (
            "ProvisioningFailed",
            'failed to provision volume with StorageClass "standard": NodePath only supports '
            "ReadWriteOnce and ReadWriteOncePod (1.22+) access modes",
            "set volumes.accessModes to [ReadWriteOnce]",
        ),
        (
            "ProvisioningFailed",
            'failed to provision volume with StorageClass "gp3": rpc error: code = InvalidArgument '
            "desc = Volume capabilities MULTI_NODE_MULTI_WRITER not supported",
            "asks for (ReadWriteMany). Name a class that can (volumes.databaseBackup.storageClass)",
        ),
        ("ProvisioningFailed", 'storageclass.storage.k8s.io "fast" not found', "kubectl get storageclass"),
        (
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
            "no default storage class: name one (volumes.databaseBackup.storageClass)",
        ),
        ("FailedBinding", 'volume "v-1" already bound to a different claim.', "spec.claimRef"),
    ],
)
def test_a_claim_that_is_not_bound_brings_its_provisioner_s_words(
    reason: str, says: str, remedy: str
) -> None:
    event = _event("PersistentVolumeClaim", CLAIM, reason, says)
    later = _event("PersistentVolumeClaim", CLAIM, "ExternalProvisioning", "Waiting …", at=20, normal=True)
    pod = _pod(unschedulable="0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.")
    (one,) = _blockers([pod], event, later, WAITS_FOR_VOLUME, claims=[_claim()])
    assert (one.object, one.reason) == (f"claim {CLAIM}", reason)
    assert one.message.rstrip(".") == says.rstrip(".")
    assert remedy in one.remedy


def test_a_claim_on_its_way_is_no_blocker_at_once_and_one_that_stays_is() -> None:
    pod = _pod()
    provisioning = _event("PersistentVolumeClaim", CLAIM, "Provisioning", "provisioning …", normal=True)
    view = View([WAITS_FOR_VOLUME, provisioning], [_claim()])
    early = datetime(2026, 11, 25, 12, 0, 4, tzinfo=UTC)
    assert waiting.blockers(_job(), [pod], view, early) == []
    (one,) = waiting.blockers(_job(), [pod], view, NOW)
    assert (one.object, one.passing) == (f"claim {CLAIM}", True)
    (one,) = waiting.blockers(_job(), [pod], view, NOW + timedelta(minutes=5))
    assert not one.passing


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        ('0/1 nodes are available: persistentvolumeclaim "media" not found.', "volumes.media.existingClaim"),
        ("0/3 nodes are available: 3 Insufficient memory.", "resources.requests"),
        ("0/3 nodes are available: 3 Insufficient ephemeral-storage.", "storageClass"),
        ("0/1 nodes are available: 1 node(s) had untolerated taint {gpu: yes}.", "tolerations"),
        ("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", "nodeSelector"),
        ("0/2 nodes are available: 2 node(s) had volume node affinity conflict.", "on other nodes"),
        ("0/1 nodes are available: 1 node(s) were unschedulable.", "kubectl uncordon"),
    ],
)
def test_a_pod_that_finds_no_node_brings_the_scheduler_s_words(says: str, remedy: str) -> None:
    """Which stand in the pod itself: whoever may not list events and claims sees them, too."""
    for view in (View((), [_claim("Bound")]), View(None, None)):
        (one,) = waiting.blockers(_job(), [_pod(unschedulable=says)], view, NOW)
        assert (one.reason, one.message) == ("Unschedulable", says)
        assert remedy in one.remedy


PULL = 'failed to pull and unpack image "docker.io/x/y:1": failed to resolve reference "docker.io/x/y:1": '


@pytest.mark.parametrize(
    ("container", "reason", "says", "remedy"),
    [
        ("job", "ErrImagePull", f"{PULL}docker.io/x/y:1: not found", "correct database.image (repo"),
        ("python", "ErrImagePull", f"{PULL}docker.io/x/y:1: not found", "correct python.image (repo"),
        (
            "job",
            "ErrImagePull",
            f"{PULL}failed to do request: dial tcp: lookup r: no such host",
            "global.imageReg",
        ),
        ("job", "ErrImagePull", f"{PULL}pull access denied, authorization failed", "pod.imagePullSecrets"),
        ("job", "ErrImagePull", "httpReadSeeker: 429 Too Many Requests - toomanyrequests", "limits pulls"),
        (
            "job",
            "ErrImageNeverPull",
            'Container image "x" is not present with pull policy of Never',
            "pullPolicy",
        ),
        ("job", "InvalidImageName", "couldn't parse image name: invalid reference format", "database.image"),
        ("job", "CreateContainerConfigError", 'secret "database" not found', "Create the Secret"),
        ("job", "CreateContainerConfigError", 'configmap "programs" not found', "Upgrade the release"),
        (
            "job",
            "CreateContainerConfigError",
            "container has runAsNonRoot and image has non-numeric user (postgres)",
            "pod.runAsUser",
        ),
    ],
)
def test_a_container_that_cannot_be_made_brings_the_node_s_words(
    container: str, reason: str, says: str, remedy: str
) -> None:
    waits = {"waiting": {"reason": reason, "message": says}}
    (one,) = _blockers([_pod(node="n", **{container: waits})])
    assert (one.reason, one.message) == (reason, f"{says}.")
    assert container in one.object
    assert remedy in one.remedy


def test_a_back_off_is_explained_by_the_pull_before_it() -> None:
    waits = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}}
    event = _event("Pod", POD, "Failed", f"Failed to pull image: {PULL}docker.io/x/y:1: not found")
    (one,) = _blockers([_pod(node="n", job=waits)], event)
    assert "not found" in one.message


CREATING = {"waiting": {"reason": "ContainerCreating"}}


@pytest.mark.parametrize(
    ("reason", "says", "remedy"),
    [
        (
            "FailedAttachVolume",
            'Multi-Attach error for volume "pvc-1" Volume is already exclusively attached to one node and '
            "can't be attached to another",
            "jobDefaults.nodeSelector",
        ),
        (
            "FailedMount",
            'MountVolume.SetUp failed for volume "programs" : configmap "programs" not found',
            "Upgrade the release",
        ),
        (
            "FailedMount",
            'MountVolume.SetUp failed for volume "s" : secret "s" not found',
            "Create the Secret",
        ),
        (
            "FailedMount",
            'MountVolume.SetUp failed for volume "r" : mount failed: exit status 32 Output: mount.nfs: '
            "access denied by server while mounting 192.0.2.1:/nfs",
            "does not let this node in",
        ),
        (
            "FailedMount",
            "mount: /var/lib/kubelet/…: bad option; for several filesystems (e.g. nfs, cifs) you might need "
            "a /sbin/mount.<type> helper program",
            "no NFS client",
        ),
        ("FailedMount", "mount.nfs: Connection timed out for 192.0.2.1:/nfs", "does not answer the node"),
        (
            "FailedMount",
            "mount.nfs: mounting 192.0.2.1:/x failed: No such file or directory",
            "no such export",
        ),
        ("FailedCreatePodSandBox", "failed to setup network for sandbox", "describe pod"),
    ],
)
def test_a_volume_that_is_not_mounted_brings_the_node_s_words(reason: str, says: str, remedy: str) -> None:
    (one,) = _blockers([_pod(node="n", python=CREATING)], _event("Pod", POD, reason, says))
    assert (one.object, one.reason, one.message) == (f"Pod {POD}", reason, f"{says}.")
    assert remedy in one.remedy


def test_what_was_mounted_in_the_end_is_no_blocker() -> None:
    failed = _event("Pod", POD, "FailedMount", "MountVolume.SetUp failed", at=3)
    pulled = _event("Pod", POD, "Pulled", "Successfully pulled image", at=9, normal=True)
    assert _blockers([_pod(node="n", python=CREATING)], failed, pulled) == []


def test_a_long_pull_and_a_silent_mount_are_named() -> None:
    pulling = _event("Pod", POD, "Pulling", 'Pulling image "x"', normal=True)
    (one,) = _blockers([_pod(node="n", python=CREATING)], pulling)
    assert (one.reason, one.message) == ("Pulling", 'Pulling image "x".')
    scheduled = _event("Pod", POD, "Scheduled", "Successfully assigned …", normal=True)
    (one,) = _blockers([_pod(node="n", python=CREATING)], scheduled)
    assert CLAIM in one.message
    assert "file server" in one.remedy


@pytest.mark.parametrize(
    ("says", "remedy"),
    [
        (
            'pods "p" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0',
            "raise",
        ),
        ('pods "p" is forbidden: failed quota: q: must specify limits.cpu for: job', "jobDefaults.resources"),
        ('pods "p" is forbidden: violates PodSecurity "restricted:latest": hostPath volumes', "restricted"),
        ('pods "p" is forbidden: maximum cpu usage per Container is 10m, but limit is 1', "LimitRange"),
        (
            'pods "p" is forbidden: error looking up service account n/s: serviceaccount "s" not found',
            "serviceAcc",
        ),
        ('pods "p" is forbidden: no PriorityClass with name high was found', "priorityClassName"),
        ('admission webhook "policy.example.org" denied the request: no', "policy of the cluster"),
    ],
)
def test_a_job_without_a_pod_brings_what_refuses_it(says: str, remedy: str) -> None:
    (one,) = _blockers([], _event("Job", RUN, "FailedCreate", f"Error creating: {says}"))
    assert (one.object, one.reason) == (f"Job {RUN}", "FailedCreate")
    assert says in one.message
    assert remedy in one.remedy


def test_a_job_without_a_pod_names_the_right_that_would_explain_it() -> None:
    (one,) = waiting.blockers(_job(), [], View(None, None), NOW)
    assert (one.reason, "you may not list events" in one.remedy) == ("NoPod", True)
    (one,) = waiting.blockers(_job(suspend=True), [], View(None, None), NOW)
    assert one.reason == "Suspended"


@pytest.mark.parametrize(
    "pod",
    [
        _pod(node="n", phase="Running", job={"running": {}}),
        _pod(node="n", phase="Succeeded", job={"terminated": {}}),
        _pod(node="n", python={"running": {}}, job={"waiting": {"reason": "PodInitializing"}}),
        _pod(node="n", phase="Failed"),
    ],
    ids=["runs", "has ended", "initialises", "was evicted"],
)
def test_what_runs_waits_for_nothing(pod: Object) -> None:
    assert _blockers([pod], _event("Pod", POD, "FailedMount", "MountVolume.SetUp failed"), claims=[]) == []


def test_a_job_that_ended_at_its_deadline_is_explained_while_events_are_left() -> None:
    """Its pods were deleted then."""
    view = View([_event("Pod", POD, "FailedScheduling", "0/1 nodes are available: 1 Insufficient cpu.")], [])
    assert [one.reason for one in waiting.in_the_end(_job(), view)] == ["FailedScheduling", "NotFound"]
    assert waiting.in_the_end(_job(), View(None, None)) == []
    refused = _event("Job", RUN, "FailedCreate", "Error creating: exceeded quota: q", at=3)
    ended = _event("Job", RUN, "DeadlineExceeded", "Job was active longer than specified deadline", at=9)
    (one,) = waiting.in_the_end(_job(), View([refused, ended], [_claim("Bound")]))
    assert "exceeded quota" in one.message
    why = _event("Pod", POD, "Failed", "Failed to pull image: manifest unknown", at=3)
    behind = _event("Pod", POD, "Failed", "Error: ErrImagePull", at=4)
    (one,) = waiting.in_the_end(_job(), View([why, behind], [_claim("Bound")]))
    assert "manifest unknown" in one.message


def test_claims_and_secrets_that_are_not_there_are_named_once() -> None:
    volumes = [
        {"name": "v", "persistentVolumeClaim": {"claimName": "media"}},
        {"name": "b", "persistentVolumeClaim": {"claimName": CLAIM}},
        {"name": "s", "secret": {"secretName": "database"}},
    ]
    cronjob = {"spec": {"jobTemplate": {"spec": {"template": {"spec": {"volumes": volumes}}}}}}
    view = View([WAITS_FOR_VOLUME], [_claim()])
    found = waiting.missing([cronjob, cronjob], view, lambda name: False)  # noqa: ARG005
    assert [one.object for one in found] == ["claim media", "Secret database"]
    assert waiting.missing([cronjob], View(None, None), lambda name: None) == []  # noqa: ARG005


def test_the_newest_time_of_an_event_counts_whoever_wrote_it() -> None:
    written = {"series": {"lastObservedTime": "4"}, "eventTime": "2", "metadata": {"creationTimestamp": "1"}}
    assert waiting.event_time(written) == "4"
    assert waiting.event_time(written | {"series": None}) == "2"
    assert waiting.event_time({"metadata": {"creationTimestamp": "1"}}) == "1"
