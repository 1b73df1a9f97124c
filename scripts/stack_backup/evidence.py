"""What the history of a release's runs proves: of each restore point, of each job, and of a period."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

from stack_backup_jobs.formats import Exit, Record, seconds_of, stamp, time_of
from stack_backup_jobs.listing import Point

BACKUP, DRILL, RECOVERY, CHECK = (
    "postgres-backup-hourly",
    "database-drill",
    "database-recovery",
    "replica-check",
)
DAY = 86400


# ---- of a restore point ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """How a run ended: `outcome` and `exit` of its verdict."""

    ended: str
    outcome: str
    exit: int
    message: str


@dataclass(frozen=True)
class Recovery:
    """How long the recovery of a dump takes. `basis`: the `drill` or the `recovery` of this very dump that
    took so long, or `estimate`: the newest drill's time, scaled by the sizes of both dumps.
    """

    seconds: int
    basis: str


@dataclass(frozen=True)
class Proof:
    """Of one dump: its newest drill, when one proved it last, how long a recovery takes (RTO), and how much a
    recovery to it loses now (RPO), in seconds.
    """

    drill: Run | None
    proved: str | None
    recovery: Recovery | None
    data_loss_seconds: int


class Proofs:
    """What drills and recoveries, oldest first, say of dumps."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._drills: dict[str, Run] = {}
        self._proved: dict[str, str] = {}
        self._recovery: dict[str, Recovery] = {}
        self._pace: tuple[int, int] | None = None
        """Seconds and bytes of the newest good drill."""
        for record in records:
            job, dump = record.verdict.get("job"), text(record, "dump")
            if job == DRILL and dump:
                self._drills[dump] = run(record)
            if not dump or text(record, "outcome") != {DRILL: "proved", RECOVERY: "recovered"}.get(str(job)):
                continue
            seconds = number(record, "recovery_seconds" if job == DRILL else "seconds")
            if job == DRILL:
                self._proved[dump] = record.ended
                if seconds is not None and (size := number(record, "bytes")):
                    self._pace = (seconds, size)
            if seconds is not None:
                self._recovery[dump] = Recovery(seconds, "drill" if job == DRILL else "recovery")

    def of(self, point: Point) -> Proof:
        recovery = self._recovery.get(point.dump)
        if recovery is None and self._pace is not None:
            seconds, size = self._pace
            recovery = Recovery(math.ceil(seconds * point.bytes / size), "estimate")
        return Proof(
            drill=self._drills.get(point.dump),
            proved=self._proved.get(point.dump),
            recovery=recovery,
            data_loss_seconds=max(0, int(time.time() - seconds_of(point.time))),
        )


def run(record: Record) -> Run:
    return Run(record.ended, text(record, "outcome"), code(record), text(record, "message"))


def text(record: Record, key: str) -> str:
    """A member of a verdict; nothing where it has none, or one of another type."""
    value = record.verdict.get(key)
    return value if isinstance(value, str) else ""


def number(record: Record, key: str) -> int | None:
    """The same of a number from 0 on; one that no program gives is none."""
    value = record.verdict.get(key)
    good = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 60
    return value if good else None


def code(record: Record) -> int:
    """The exit code; a verdict without one is no good one."""
    found = number(record, "exit")
    return int(Exit.TRANSIENT) if found is None else found


# ---- of a period -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobSummary:
    """One job's runs of the period. `oldest`: the end of its oldest run in the whole history, which is how
    far back it reaches.
    """

    job: str
    by_hand: bool
    runs: int
    succeeded: int
    oldest: str | None
    last_success: str | None
    last: Run | None
    median_seconds: int | None

    @property
    def rate(self) -> float | None:
        return self.succeeded / self.runs if self.runs else None


@dataclass(frozen=True)
class Budget:
    """A budget of the values, what was measured, and by which run. `met` is None where there is no budget, or
    nothing was measured.
    """

    value: str
    limit: int | None
    measured: int | None
    source: str

    @property
    def met(self) -> bool | None:
        return None if self.limit is None or self.measured is None else self.measured <= self.limit


@dataclass(frozen=True)
class Source:
    """What a report is of, and by what it was made."""

    cluster: str
    namespace: str
    chart: str
    tool: str
    generated: str
    since: str
    """The beginning of the period; its end is `generated`."""


@dataclass(frozen=True)
class Evidence:
    """All that a report shows. `records` are of the period, oldest first."""

    source: Source
    records: Sequence[Record]
    jobs: Sequence[JobSummary]
    budgets: Sequence[Budget]
    ages: Sequence[tuple[float, float]]
    """The age of the newest verified dump over time, both in seconds; see `ages`."""
    problems: Sequence[str] = field(default=())
    """What could not be read: the evidence is incomplete."""

    def of_job(self, job: str) -> list[Record]:
        return [record for record in self.records if record.verdict.get("job") == job]

    @property
    def red(self) -> list[Record]:
        """The runs that did not end well, newest first."""
        return [record for record in reversed(self.records) if code(record)]

    def as_dict(self) -> dict[str, Any]:
        """As the JSON document has it."""
        return {
            **asdict(self.source),
            "problems": list(self.problems),
            "budgets": [asdict(one) | {"met": one.met} for one in self.budgets],
            "jobs": [asdict(one) for one in self.jobs],
            "runs": [
                {"begun": one.begun, "ended": one.ended, "pod": one.pod, "verdict": dict(one.verdict)}
                for one in self.records
            ],
        }


def gathered(
    source: Source,
    records: Sequence[Record],
    by_hand: Mapping[str, bool],
    limits: Mapping[str, int | None],
    problems: Sequence[str] = (),
) -> Evidence:
    """The evidence of a period. `records` are the whole history, oldest first; `by_hand` has every job of the
    release, and whether it only runs by hand; `limits` the budgets of the values, by their names.
    """
    period = [record for record in records if record.ended >= source.since]
    names = sorted({*by_hand, *(str(record.verdict.get("job", "")) for record in period)} - {""})
    return Evidence(
        source=source,
        records=period,
        jobs=[_summary(name, by_hand.get(name, False), records, source.since) for name in names],
        budgets=_budgets(limits, period, ages(records, source)),
        ages=ages(records, source),
        problems=problems,
    )


def _summary(job: str, by_hand: bool, records: Sequence[Record], since: str) -> JobSummary:
    own = [record for record in records if record.verdict.get("job") == job]
    period = [record for record in own if record.ended >= since]
    good = [record for record in period if code(record) == 0]
    took = [seconds for record in good if (seconds := number(record, "seconds")) is not None]
    return JobSummary(
        job=job,
        by_hand=by_hand,
        runs=len(period),
        succeeded=len(good),
        oldest=own[0].ended if own else None,
        last_success=next((record.ended for record in reversed(own) if code(record) == 0), None),
        last=run(own[-1]) if own else None,
        median_seconds=round(median(took)) if took else None,
    )


def ages(records: Sequence[Record], source: Source) -> list[tuple[float, float]]:
    """The age of the newest verified dump, as the backups of the period saw it: it grows until the next one
    is published, and grows still at the end. Where no backup runs, the replica check's dumps are meant.
    """
    begin, end = seconds_of(source.since), seconds_of(source.generated)
    for job in (BACKUP, CHECK):
        published = [
            (seconds_of(record.ended), taken)
            for record in records
            if record.verdict.get("job") == job and code(record) == 0
            if (taken := _taken(text(record, "dump"))) is not None
        ]
        if published:
            break
    else:
        return []
    found: list[tuple[float, float]] = []
    for (done, dump), (following, _) in pairwise([*published, (end, 0.0)]):
        if following >= begin:
            start = max(done, begin)
            found += [(start, start - dump), (following, following - dump)]
    return found


def _taken(dump: str) -> float | None:
    """The time in the name of a dump, where that is one."""
    try:
        return seconds_of(time_of(dump))
    except ValueError:
        return None


def _budgets(
    limits: Mapping[str, int | None], period: Sequence[Record], seen: Sequence[tuple[float, float]]
) -> list[Budget]:
    """Of the recovery, by the newest drill that proved a dump; of the loss, by the worst of the period."""
    found = []
    if "recoverySeconds" in limits:
        proved = [
            (number(record, "recovery_seconds"), text(record, "dump"))
            for record in period
            if record.verdict.get("job") == DRILL and text(record, "outcome") == "proved"
        ]
        seconds, dump = proved[-1] if proved else (None, "")
        found.append(Budget("recoverySeconds", limits["recoverySeconds"], seconds, dump))
    if "dataLossSeconds" in limits:
        when, worst = max(seen, key=lambda one: one[1], default=(0.0, None))
        said = "" if worst is None else stamp(when)
        found.append(
            Budget("dataLossSeconds", limits["dataLossSeconds"], None if worst is None else int(worst), said)
        )
    return found
