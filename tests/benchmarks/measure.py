"""What was measured: ours beside a peer, round by round."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median

from stack_backup.runs import JobResult
from stack_backup_lab.render import Objects

MIB = 2**20


@dataclass
class Line:
    """One piece of work: seconds of ours and of the peer, and how many times the peer's ours may take."""

    title: str
    peer: str
    at_most: float
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    memory: int = 0
    """Bytes that the job's pod used at most, beside the processes of a PostgreSQL server."""

    def add(self, ours: JobResult, start: float, theirs: float) -> None:
        """`start`: the seconds of a pod that does nothing, which are no part of the work."""
        self.ours.append(ours.seconds - start)
        self.theirs.append(theirs)
        self.memory = max(self.memory, ours.peak_memory or 0)

    @property
    def ratio(self) -> float:
        """Of what was done one after the other, so that it holds on a busy machine, too."""
        return median(ours / theirs for ours, theirs in zip(self.ours, self.theirs, strict=True))


class NotMeasuredError(RuntimeError):
    """A run that was to be measured has failed; the message says how."""


def green(result: JobResult) -> JobResult:
    if not result.succeeded:
        raise NotMeasuredError(f"{result.job} ended with exit code {result.exit_code}: {result.log}")
    return result


def with_command(objects: Objects, command: str, *, lent: bool = True) -> Objects:
    """The same objects, every pod running a command in the place of its program; if not `lent`, without the
    init containers that lend it an interpreter.
    """
    changed = Objects(copy.deepcopy(list(objects)))
    for _, pod in changed.pods():
        pod["containers"][0]["command"] = ["/bin/bash", "-ec", command]
        if not lent:
            pod["initContainers"] = []
    return changed


def timed(work: Callable[[], object]) -> float:
    """Seconds that some work takes."""
    started = time.monotonic()
    work()
    return time.monotonic() - started


@contextmanager
def settled() -> Iterator[None]:
    """What earlier runs have left to be written is not this one's to wait for."""
    os.sync()
    yield
