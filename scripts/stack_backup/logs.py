"""What the runs of a job have printed, as far as the cluster keeps them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from stack_backup import CliError, Exit
from stack_backup.release import Release
from stack_backup.runs import Object, containers, finished, pods_of
from stack_backup.status import owned
from stack_backup.waiting import Blocker, blockers, in_the_end


@dataclass(frozen=True)
class ContainerLog:
    """What one container of a run has printed so far."""

    pod: str
    container: str
    lines: list[str]


@dataclass(frozen=True)
class RunLog:
    """One Job, and the logs of its containers in the order in which they started."""

    name: str
    began: str
    ended: str | None
    logs: list[ContainerLog]
    blockers: list[Blocker] = field(default_factory=list)
    """Why nothing has been printed."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def of_job(release: Release, job: str, *, previous: bool = False, every: bool = False) -> list[RunLog]:
    """The newest run, the one before it (`previous`), or every run that is kept, oldest first."""
    cronjob = release.cronjob(job)
    runs = sorted(
        (one for one in release.find("Job") if owned(one, cronjob)),
        key=lambda one: str(one["metadata"]["creationTimestamp"]),
    )
    wanted = runs if every else runs[-2:-1] if previous else runs[-1:]
    if not wanted:
        raise CliError(
            Exit.NO_RELEASE,
            f"The cluster keeps no {'run before the newest' if runs else 'run'} of {job} in namespace "
            f"{release.namespace}.",
        )
    return [_of_run(release, one) for one in wanted]


def _of_run(release: Release, job: Object) -> RunLog:
    name = job["metadata"]["name"]
    pods = pods_of(release.find("Pod", f"batch.kubernetes.io/job-name={name}"), name)
    logs = []
    for pod in pods:
        for status in containers(pod):
            key = (pod["metadata"]["name"], status["name"])
            logs.append(ContainerLog(*key, list(release.log(*key))))
    over = finished(job)
    waits: list[Blocker] = []
    if not logs:
        view = release.view()
        waits = in_the_end(job, view) if over else blockers(job, pods, view)
    ended = str(over["lastTransitionTime"]) if over else None
    return RunLog(name, str(job["metadata"]["creationTimestamp"]), ended, logs, waits)
