"""Many stacks at a glance: of one namespace or all, in one cluster or several."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from stack_backup import CliError, status
from stack_backup.release import connect
from stack_backup.status import JobStatus, StackStatus

COLUMNS = {
    "Backup": ("postgres-backup-hourly",),
    "Proved": ("database-drill",),
    "Replica": ("postgres-replicator-backup", "replica-check"),
    "Media": ("media-replicator",),
    "Recovered": ("database-recovery",),
}
"""What is asked of each stack, and the jobs whose last success answers it: the first that the stack has."""
_AT_ONCE = 8


@dataclass(frozen=True)
class ClusterStatus:
    """The stacks that a context of the kubeconfig reaches, or why it reaches none."""

    context: str
    stacks: list[StackStatus]
    problem: str = ""

    @property
    def red(self) -> bool:
        return bool(self.problem) or any(stack.red for stack in self.stacks)

    def as_dict(self) -> dict[str, Any]:
        return {
            "context": self.context,
            "problem": self.problem,
            "red": self.red,
            "stacks": [stack.as_dict() for stack in self.stacks],
        }


def of_clusters(
    kubeconfig: str | None, contexts: Sequence[str | None], namespace: str | None, *, everywhere: bool
) -> list[ClusterStatus]:
    """Each context's stacks, by name. With several, one that does not answer does not hide the others."""
    found = []
    for context in contexts:
        try:
            found.append(_of_cluster(kubeconfig, context, namespace, everywhere=everywhere))
        except CliError as problem:
            if len(contexts) == 1:
                raise
            found.append(ClusterStatus(context or "", [], str(problem)))
    return found


def _of_cluster(
    kubeconfig: str | None, context: str | None, namespace: str | None, *, everywhere: bool
) -> ClusterStatus:
    release = connect(kubeconfig, context, namespace)
    places = release.namespaces() if everywhere else [release.namespace]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        stacks = list(pool.map(lambda place: status.of_stack(release.at(place)), places))
    return ClusterStatus(release.context, stacks)


def answer(stack: StackStatus, column: str) -> JobStatus | None:
    """The job of a stack that answers what a column asks."""
    jobs = {job.job: job for job in stack.jobs}
    return next((jobs[name] for name in COLUMNS[column] if name in jobs), None)
