"""A run by hand: its Job is made, its log followed, and its end read."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

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
    statuses,
    time_of,
    with_environment,
)
from stack_backup_jobs.formats import verdict_of

POLL = 1.0
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
    pods: list[Object] = field(default_factory=list)
    """Its pods as they were seen last."""
    _read: dict[tuple[str, str], int] = field(default_factory=dict)
    _ended: set[tuple[str, str]] = field(default_factory=set)

    def follow(self, line: Callable[[str], None], state: Callable[[str], None]) -> JobResult:
        """Give every line of the log to `line` and what is going on to `state`, until the Job has ended."""
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
                state(_doing(self.pods))
                self._follow(line)
                if finished(job):
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
    earlier = [
        one
        for one in release.find("Job", f"app.kubernetes.io/component={job}")
        if "completionTime" in one.get("status", {})
    ]

    def change(spec: Object) -> None:
        spec["template"] = with_environment(spec["template"], environment)

    made = release.create(manual_job(cronjob, change))
    took = [
        (time_of(one["status"]["completionTime"]) - time_of(one["status"]["startTime"])).total_seconds()
        for one in earlier
    ]
    return Run(release, job, made["metadata"]["name"], median(took) if took else None)


def exit_code(end: JobResult) -> int:
    """The program's own code; 1 for a Job that failed without one."""
    if not end.reason:
        return 0
    return end.exit_code or int(Exit.RED)


def message(end: JobResult, pods: list[Object]) -> str:
    """The program's own sentence, or what is known of a Job that failed without one."""
    if end.verdict.get("message"):
        return str(end.verdict["message"])
    if not end.reason:
        return "The Job is complete, but its program left no verdict."
    if end.exit_code:
        return f"The Job failed: its program ended with {end.exit_code} and left no verdict. Read its log."
    return f"The Job failed ({end.reason}) without a verdict of its program: {_doing(pods)}."


def _of(job: str) -> str:
    return f"batch.kubernetes.io/job-name={job}"


def _doing(pods: list[Object]) -> str:
    """What the newest pod is doing, or waits for."""
    if not pods:
        return "it has no pod any more"
    pod = pods[-1]
    for condition in pod.get("status", {}).get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] != "True":
            return f"its pod finds no node ({condition.get('message') or condition.get('reason', '')})"
    for kind in ("initContainerStatuses", "containerStatuses"):
        for status in statuses(pod, kind):
            waiting: Mapping[str, Any] = status["state"].get("waiting", {})
            if waiting.get("reason") not in (None, "PodInitializing", "ContainerCreating"):
                return f"its pod waits: {waiting['reason']} {waiting.get('message', '')}".rstrip()
            if "running" in status["state"]:
                return "running"
    if pod.get("status", {}).get("phase") == "Pending":
        return "its pod starts"
    return "its pod has ended"
