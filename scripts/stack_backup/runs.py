"""A run of a job on a cluster: the Job that is made from a CronJob, and how it ended, from its objects.

The cluster runtime and the operators' command line make and read their Jobs here.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from stack_backup_jobs.formats import verdict_of

Object = dict[str, Any]
"""An object of the API, as its JSON has it."""


@dataclass(frozen=True)
class JobResult:
    """How one run of a job ended.

    `exit_code` is the program's own (for a pod that never started: None), `verdict` its last JSON line as the
    termination message holds it (empty when there is none), `log` all that its containers printed, and
    `seconds` the wall time from start to end.
    """

    job: str
    exit_code: int | None
    verdict: Mapping[str, Any]
    log: str
    seconds: float
    reason: str = field(default="")
    """The Job's failure reason on a cluster (`DeadlineExceeded`, `PodFailurePolicy`, ...), else empty.

    The local runtime says `OOMKilled` where a process of the pod was killed because memory ran out.
    """
    peak_memory: int | None = None
    """Bytes that the pod used at most, looked at ten times a second (None: not measured, as on a cluster).

    Counted are the private memory of its processes, but for PostgreSQL's own, and what its
    volumes in memory held.
    """

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0


def with_environment(template: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    """A copy of a pod template whose containers have these variables, whatever they had before."""
    changed: dict[str, Any] = copy.deepcopy(dict(template))
    for container in changed["spec"]["containers"]:
        others = [variable for variable in container.get("env", []) if variable["name"] not in environment]
        given = {name: value.replace("$", "$$") for name, value in environment.items()}
        container["env"] = [*others, *({"name": name, "value": value} for name, value in given.items())]
    return changed


def variables(job: Object) -> dict[str, str]:
    """What the specification of a Job gives its program as it is. The kubelet takes `$$` for `$`."""
    (container,) = job["template"]["spec"]["containers"]
    return {
        one["name"]: one["value"].replace("$$", "$") for one in container.get("env", ()) if "value" in one
    }


def manual_job(cronjob: Object, change: Callable[[Object], None] | None = None) -> Object:
    """The Job that `kubectl create job --from=cronjob/...` makes; it counts as the CronJob's own run.

    `change` may alter its specification.
    """
    name, template = cronjob["metadata"]["name"], cronjob["spec"]["jobTemplate"]
    if change is not None:
        change(template["spec"])
    metadata = template.get("metadata", {})
    manual = {"cronjob.kubernetes.io/instantiate": "manual"}
    owner = {key: cronjob["metadata"][key] for key in ("name", "uid")}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{name}-manual-{secrets.token_hex(3)}",
            "labels": metadata.get("labels", {}),
            "annotations": manual | metadata.get("annotations", {}),
            "ownerReferences": [owner | {"apiVersion": "batch/v1", "kind": "CronJob", "controller": True}],
        },
        "spec": template["spec"],
    }


def finished(job: Object) -> Object | None:
    """The condition that ended a Job. SuccessCriteriaMet or FailureTarget may stand before it in the list."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return dict(condition)
    return None


def pods_of(pods: list[Object], job: str) -> list[Object]:
    """The pods of a Job, oldest first."""
    label = "batch.kubernetes.io/job-name"
    own = [pod for pod in pods if pod["metadata"].get("labels", {}).get(label) == job]
    return sorted(own, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def containers(pod: Object) -> Iterator[Object]:
    """The statuses of a pod's containers that have started, in the order in which they do."""
    for kind in ("initContainerStatuses", "containerStatuses"):
        for status in statuses(pod, kind):
            if status.get("containerID"):
                yield status


def statuses(pod: Object, kind: str) -> list[Object]:
    return list(pod.get("status", {}).get(kind, ()))


def result(cronjob: str, job: Object, pods: list[Object], log: str) -> JobResult:
    """How a finished Job of this CronJob ended; `pods` are its own."""
    condition = finished(job)
    assert condition is not None
    started = [status for pod in pods for status in containers(pod)]
    last = started[-1]["state"].get("terminated", {}) if started else {}
    began = job["status"].get("startTime", job["metadata"]["creationTimestamp"])
    return JobResult(
        job=cronjob,
        exit_code=last.get("exitCode"),
        verdict=verdict_of(last.get("message", "")),
        log=log,
        seconds=(time_of(condition["lastTransitionTime"]) - time_of(began)).total_seconds(),
        reason=condition["reason"] if condition["type"] == "Failed" else "",
    )


def time_of(stamp: Any) -> datetime:
    return datetime.fromisoformat(str(stamp))
