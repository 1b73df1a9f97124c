"""How the jobs of a release are: what ran last, how it ended, and whether a run is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from stack_backup import follow, waiting
from stack_backup.release import RELEASE_LABEL, Release
from stack_backup.runs import Object, finished, pods_of, result, time_of
from stack_backup.waiting import Blocker, View
from stack_backup_jobs.formats import Exit, stamp

BY_HAND = "@yearly"
"""The schedule of a suspended CronJob that is only the template of runs by hand."""
_WORDS = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


@dataclass(frozen=True)
class LastRun:
    """The newest Job of a CronJob that has ended."""

    name: str
    ended: str
    exit_code: int | None
    message: str
    verdict: Mapping[str, Any]


@dataclass(frozen=True)
class JobStatus:
    """One job of the release. Times are ISO 8601 in UTC, ages in seconds."""

    job: str
    schedule: str
    """Five cron fields or a word; empty where the job runs by hand only."""
    time_zone: str
    suspended: bool
    running: list[str]
    last_success: str | None
    last_success_age: int | None
    last_run: LastRun | None
    next_run: str | None
    red: str
    """Why an operator has to look at it, in a few words; empty when all is well."""
    blockers: list[Blocker]
    """What keeps its newest run from starting."""

    @property
    def never(self) -> bool:
        """Whether it has a schedule, and has never succeeded: then it protects nothing yet."""
        return bool(self.schedule) and self.last_success is None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class StackStatus:
    """The release of one namespace."""

    namespace: str
    jobs: list[JobStatus]
    missing: list[Blocker]
    """What its pods need and is not there: claims that are not bound, Secrets."""

    @property
    def red(self) -> bool:
        return bool(self.missing) or any(job.red for job in self.jobs)

    def as_dict(self) -> dict[str, Any]:
        return {
            "namespace": self.namespace,
            "red": self.red,
            "jobs": [job.as_dict() for job in self.jobs],
            "missing": [one.as_dict() for one in self.missing],
        }


def of_stack(release: Release, now: datetime | None = None) -> StackStatus:
    """The status of every job of the release, by name, and what it lacks. Raises CliError."""
    now = now or datetime.now(UTC)
    cronjobs = release.cronjobs()
    jobs = release.find("Job")
    pods = release.find("Pod", RELEASE_LABEL)
    view = release.view()
    found = [_of_job(cronjobs[name], jobs, pods, view, now) for name in sorted(cronjobs)]
    missing = waiting.missing(cronjobs.values(), view, lambda secret: release.exists("Secret", secret))
    told = {one.object for job in found for one in job.blockers}
    return StackStatus(release.namespace, found, [one for one in missing if one.object not in told])


def _of_job(cronjob: Object, jobs: list[Object], pods: list[Object], view: View, now: datetime) -> JobStatus:
    name, spec, state = cronjob["metadata"]["name"], cronjob["spec"], cronjob.get("status", {})
    own = [job for job in jobs if owned(job, cronjob)]
    over = sorted((job for job in own if finished(job)), key=_ended)
    last = _last_run(name, over[-1], pods, view) if over else None
    active = sorted((job for job in own if not finished(job)), key=_created)
    blocked = _blocked(active[-1], pods, view, now) if active else []
    # The controller writes a success to the CronJob a little late; the Jobs themselves know at once.
    successes = [state["lastSuccessfulTime"]] if state.get("lastSuccessfulTime") else []
    successes += [
        str(job["status"]["completionTime"]) for job in own if "completionTime" in job.get("status", {})
    ]
    success = max(map(time_of, successes), default=None)
    by_hand = bool(spec.get("suspend")) and spec["schedule"] == BY_HAND
    suspended = bool(spec.get("suspend")) and not by_hand
    schedule = None if spec.get("suspend") else Schedule(spec["schedule"], spec.get("timeZone") or "Etc/UTC")
    red = ""
    if not all(one.passing for one in blocked):
        red = "its run cannot start"
    elif last is not None and last.exit_code != 0:
        red = f"the last run {'was over budget' if last.exit_code == Exit.BUDGET else 'failed'}"
    elif schedule is not None and (missed := schedule.missed(cronjob, success, now)):
        red = f"no success since the run of {missed:%Y-%m-%d %H:%M} UTC was due"
    upcoming = None if schedule is None else schedule.next(now)
    return JobStatus(
        job=name,
        schedule="" if by_hand else spec["schedule"],
        time_zone=spec.get("timeZone") or "Etc/UTC",
        suspended=suspended,
        running=sorted(job["metadata"]["name"] for job in active),
        last_success=None if success is None else _iso(success),
        last_success_age=None if success is None else round((now - success).total_seconds()),
        last_run=last,
        next_run=None if upcoming is None else _iso(upcoming),
        red=red,
        blockers=blocked,
    )


class Schedule:
    """A CronJob's schedule in its time zone; one that is not understood has no times."""

    def __init__(self, expression: str, time_zone: str) -> None:
        self._expression = _WORDS.get(expression, expression)
        self._zone = ZoneInfo(time_zone)

    def next(self, now: datetime) -> datetime | None:
        return self._tick(now, reverse=False)

    def missed(self, cronjob: Object, success: datetime | None, now: datetime) -> datetime | None:
        """When the newest run was due that should have ended well by now, and has not."""
        spec = cronjob["spec"]
        allowed = spec.get("startingDeadlineSeconds", 0) + spec["jobTemplate"]["spec"].get(
            "activeDeadlineSeconds", 0
        )
        due = self._tick(now - timedelta(seconds=allowed), reverse=True)
        known = success or time_of(cronjob["metadata"]["creationTimestamp"])
        return due if due is not None and known < due else None

    def _tick(self, moment: datetime, *, reverse: bool) -> datetime | None:
        try:
            return next(CronSim(self._expression, moment.astimezone(self._zone), reverse)).astimezone(UTC)
        except (CronSimError, StopIteration):
            return None


def _blocked(job: Object, pods: list[Object], view: View, now: datetime) -> list[Blocker]:
    """Most that a young Job waits for comes by itself."""
    if (now - time_of(_created(job))).total_seconds() < follow.GRACE:
        return []
    return waiting.blockers(job, pods_of(pods, job["metadata"]["name"]), view, now)


def _last_run(cronjob: str, job: Object, pods: list[Object], view: View) -> LastRun:
    own = pods_of(pods, job["metadata"]["name"])
    end = result(cronjob, job, own, "")
    return LastRun(
        name=job["metadata"]["name"],
        ended=_iso(time_of(_ended(job))),
        exit_code=follow.exit_code(end),
        message=follow.message(end, own, waiting.in_the_end(job, view) if not own else ()),
        verdict=end.verdict,
    )


def owned(job: Object, cronjob: Object) -> bool:
    owners = job["metadata"].get("ownerReferences", ())
    return any(owner["uid"] == cronjob["metadata"]["uid"] for owner in owners)


def _created(job: Object) -> str:
    return str(job["metadata"]["creationTimestamp"])


def _ended(job: Object) -> str:
    condition = finished(job)
    return str(condition["lastTransitionTime"]) if condition else ""


def _iso(moment: datetime) -> str:
    return stamp(moment.timestamp())
