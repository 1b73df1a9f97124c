"""A run by hand: its Job is made, its log followed, and its end read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType

from stack_backup import CliError, Exit
from stack_backup.release import Release
from stack_backup.runs import (
    JobResult,
    Object,
    containers,
    finished,
    manual_job,
    pods_of,
    result,
    time_of,
    variables,
    with_environment,
)
from stack_backup.waiting import Blocker, blockers, started
from stack_backup_jobs.formats import verdict_of

POLL = 1.0
GRACE = 3.0
"""Seconds for which something must keep a Job from starting before it is worth a word."""
PATIENCE = 60.0
"""Seconds for which the cluster may not answer while a Job runs: it goes on without us."""


@dataclass
class Run:
    """One Job of a release that this command has started."""

    release: Release
    job: str
    name: str
    usual: float | None = None
    """Seconds that the job took when it last succeeded."""
    give_up: float | None = None
    """Seconds for which it may be kept from starting by what does not pass by itself; None: its deadline."""
    pods: list[Object] = field(default_factory=list)
    """Its pods as they were seen last."""
    blockers: list[Blocker] = field(default_factory=list)
    """What kept it from starting when it was seen last; empty once it has started."""
    _since: dict[tuple[str, str], float] = field(default_factory=dict)
    _told: set[tuple[str, str]] = field(default_factory=set)
    _read: dict[tuple[str, str], int] = field(default_factory=dict)
    _ended: set[tuple[str, str]] = field(default_factory=set)

    def follow(
        self,
        line: Callable[[str], None],
        state: Callable[[str], None],
        blocked: Callable[[Blocker], None] = lambda _: None,
    ) -> JobResult:
        """Give every line of the log to `line`, what is going on to `state`, and what keeps it from starting
        to `blocked` (each once), until the Job has ended.
        """
        away: float | None = None
        while True:
            try:
                job = self.release.get("Job", self.name)
                if job is None:
                    raise CliError(
                        Exit.RED, f"Job {self.name} was deleted while it ran; how it ended is not known."
                    )
                self.pods = pods_of(self.release.find("Pod", _of(self.name)), self.name)
                away = None  # a log that is quiet for long breaks off, too
                over = finished(job)
                if not over:
                    self._look(job, blocked)
                state(_doing(self.pods, self.blockers))
                self._follow(line)
                if not over and self._stuck():
                    return JobResult(self.job, None, {}, "", 0.0, "NotStarted")
                if over:
                    if self.pods and started(self.pods[-1]):
                        self.blockers = []
                    return result(self.job, job, self.pods, "")
            except CliError as problem:
                if problem.code != Exit.UNREACHABLE:
                    raise
                now = time.monotonic()
                away = now if away is None else away
                if now - away > PATIENCE:
                    raise
                state("the cluster does not answer; trying again")
            time.sleep(POLL)

    def _look(self, job: Object, blocked: Callable[[Blocker], None]) -> None:
        """What keeps it from starting, after a moment: most that a young pod waits for comes by itself."""
        if self.pods and started(self.pods[-1]):
            self.blockers, self._since = [], {}
            return
        found = {(one.object, one.remedy): one for one in blockers(job, self.pods, self.release.view())}
        now = time.monotonic()
        self._since = {key: self._since.get(key, now) for key in found}
        self.blockers = [one for key, one in found.items() if now - self._since[key] >= GRACE]
        for one in self.blockers:
            key = (one.object, one.remedy)
            if key not in self._told:
                self._told.add(key)
                blocked(one)

    def _stuck(self) -> bool:
        now = time.monotonic()
        return self.give_up is not None and any(
            now - self._since[(one.object, one.remedy)] > self.give_up
            for one in self.blockers
            if not one.passing
        )

    def _follow(self, line: Callable[[str], None]) -> None:
        for pod in self.pods:
            for status in containers(pod):
                key = (pod["metadata"]["name"], status["name"])
                if key in self._ended:
                    continue
                over = "terminated" in status["state"]
                # A connection that broke is taken up where it was: what was read already is passed over.
                for seen, text in enumerate(self.release.log(*key, follow=not over), start=1):
                    if seen > self._read.get(key, 0):
                        self._read[key] = seen
                        if not verdict_of(text):
                            line(text)
                if over:
                    self._ended.add(key)


def start(release: Release, job: str, environment: Mapping[str, str]) -> Run:
    """Make a Job from the CronJob `job`, these variables laid over its own."""
    cronjob = release.cronjob(job)
    took = usual(release, job, environment)

    def change(spec: Object) -> None:
        spec["template"] = with_environment(spec["template"], environment)

    made = release.create(manual_job(cronjob, change))
    return Run(release, job, made["metadata"]["name"], took)


def usual(release: Release, job: str, environment: Mapping[str, str] = MappingProxyType({})) -> float | None:
    """The median of the seconds that earlier good runs of a job took, as far as the cluster keeps them.

    Runs of database-recovery for some tables say nothing of those that bring a database, and the reverse.
    """
    some = "TABLES" in environment
    done = [
        one["status"]
        for one in release.find("Job", f"app.kubernetes.io/component={job}")
        if "completionTime" in one.get("status", {}) and ("TABLES" in variables(one["spec"])) == some
    ]
    took = [(time_of(one["completionTime"]) - time_of(one["startTime"])).total_seconds() for one in done]
    return median(took) if took else None


def exit_code(end: JobResult) -> int:
    """The program's own code; 1 for a Job that failed without one."""
    if not end.reason:
        return 0
    return end.exit_code or int(Exit.RED)


def message(end: JobResult, pods: list[Object], waited: Sequence[Blocker] = ()) -> str:
    """The program's own sentence, or what is known of a Job that failed without one."""
    if end.verdict.get("message"):
        return str(end.verdict["message"])
    if not end.reason:
        return "The Job is complete, but its program left no verdict."
    if end.exit_code:
        return f"The Job failed: its program ended with {end.exit_code} and left no verdict. Read its log."
    if waited:
        return f"The Job failed ({end.reason}): it could not start. {' '.join(map(str, waited))}"
    return f"The Job failed ({end.reason}) without a verdict of its program: {_doing(pods)}."


def _of(job: str) -> str:
    return f"batch.kubernetes.io/job-name={job}"


def _doing(pods: list[Object], waited: Sequence[Blocker] = ()) -> str:
    """What the newest pod is doing, or waits for, in a few words."""
    if waited:
        return f"waits for {waited[0].object} ({waited[0].reason})"
    if not pods:
        return "it has no pod any more"
    pod = pods[-1]
    if any("running" in status["state"] for status in containers(pod)):
        return "running"
    return "its pod has ended" if started(pod) else "its pod starts"
