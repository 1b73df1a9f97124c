"""What the runs of the history say, as metrics in Prometheus' text format. docs/metrics.md names each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from stack_backup_jobs.formats import Record, seconds_of, time_of

T = TypeVar("T")

DRILL = "database-drill"
DUMPS = ("postgres-backup-", "postgres-replicator-", "replica-check")
"""How the names of the jobs begin whose figure `dump` is the newest one that they keep or see."""
MEDIA = {
    "media-replicator": ("", "completed"),
    "replica-check": ("media_", "media_completed"),
    "offsite": ("media_", "media_files"),
}
"""How the figures of the media begin, and which a run has that has counted what it had to skip."""
BUDGETS = ("recoverySeconds", "dataLossSeconds")
READ = "stack_backup_exporter_history_read_timestamp_seconds"
GAUGES = {
    "stack_backup_last_run_timestamp_seconds": "When the newest run ended.",
    "stack_backup_last_success_timestamp_seconds": "When the newest run that ended with exit code 0 ended.",
    "stack_backup_last_exit_code": "Exit code of the newest run.",
    "stack_backup_last_duration_seconds": "How long the newest run took.",
    "stack_backup_dump_timestamp_seconds": "Time of the newest verified dump that is not suspicious.",
    "stack_backup_dump_bytes": "Size of the newest dump, compressed, a suspicious one included.",
    "stack_backup_dump_rows": "Rows in the newest dump, a suspicious one included.",
    "stack_backup_dump_suspicious": "1 if the newest dump holds far less than the one before.",
    "stack_backup_dump_info": "The stack (its namespace) that the newest dump is of. Always 1.",
    "stack_backup_drill_timestamp_seconds": "Time of the dump that was last proved to be restorable.",
    "stack_backup_drill_recovery_seconds": "How long the recovery of that dump took in the drill.",
    "stack_backup_drill_data_loss_seconds": "How old the newest verified dump ever was, as that drill found.",
    "stack_backup_media_files": "Media files, as last counted.",
    "stack_backup_media_bytes": "Size of the media files, as last counted.",
    "stack_backup_media_exceptions": "Media files that the newest complete copy skipped.",
    "stack_backup_media_complete_timestamp_seconds": "When the newest complete copy of the media ended.",
    "stack_backup_media_info": "The stack (its namespace) that the copy of the media is of. Always 1.",
    "stack_backup_volume_size_bytes": "Size of the volume that the job writes to.",
    "stack_backup_volume_free_bytes": "Free bytes of the volume that the job writes to.",
    "stack_backup_volume_days_to_full": "Days until that volume is full, if it goes on as it did.",
    "stack_backup_budget_exceeded": "1 if the drill that last proved a dump was over that budget.",
    READ: "When the exporter last read the history; 0: never.",
}
"""Every metric is a gauge; what each says of itself."""


@dataclass(frozen=True)
class Sample:
    name: str
    labels: Mapping[str, str]
    value: float

    def text(self) -> str:
        labels = ",".join(f'{name}="{escaped(value)}"' for name, value in self.labels.items())
        return f"{self.name}{{{labels}}} {self.value:.16g}" if labels else f"{self.name} {self.value:.16g}"


def escaped(value: str) -> str:
    """The value of a label."""
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def exposition(samples: Iterable[Sample]) -> str:
    """Samples as text, those of a metric together, below what it says of itself."""
    by_name: dict[str, list[Sample]] = {name: [] for name in GAUGES}
    for sample in samples:
        by_name[sample.name].append(sample)
    lines = []
    for name, found in by_name.items():
        if found:
            lines += [f"# HELP {name} {GAUGES[name]}", f"# TYPE {name} gauge"]
            lines += [sample.text() for sample in found]
    return "".join(f"{line}\n" for line in lines)


Verdict = Mapping[str, Any]
Fact = tuple[str, float | None]
"""A metric's name without its prefix, and its value; None where no run has told it."""


def samples_of(job: str, records: Sequence[Record]) -> Iterator[Sample]:
    """What the runs of a job, oldest first, say: each fact by the newest run that tells it. What none tells
    has no sample: an alert must see that it is absent, and take no 0 for it.
    """
    runs = Runs(records)
    facts = [*runs.ends(), *runs.volume()]
    if job == DRILL:
        facts += runs.drill()
    if job.startswith(DUMPS):
        facts += runs.dump()
    if job in MEDIA:
        facts += runs.media(*MEDIA[job])
    for name, value in facts:
        if value is not None:
            yield Sample(f"stack_backup_{name}", {"cronjob": job}, value)
    for name, figure in (("dump_info", "stack"), ("media_info", "media_stack")):
        if stack := runs.newest(figure, text):
            yield Sample(f"stack_backup_{name}", {"cronjob": job, "stack": stack}, 1)
    if job == DRILL:
        for budget, exceeded in runs.budgets():
            labels = {"cronjob": job, "budget": budget}
            yield Sample("stack_backup_budget_exceeded", labels, exceeded)


class Runs:
    """Of one job, from the newest to the oldest."""

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records[::-1]

    def first(self, wanted: Callable[[Verdict], object]) -> Record | None:
        return next((record for record in self._records if wanted(record.verdict)), None)

    def newest(self, figure: str, kind: Callable[[Verdict, str], T | None]) -> T | None:
        """A figure, of the newest run that gave it."""
        found = self.first(lambda verdict: kind(verdict, figure) is not None)
        return kind(found.verdict, figure) if found else None

    def ended(self, wanted: Callable[[Verdict], object]) -> float | None:
        found = self.first(wanted)
        return seconds_of(found.ended) if found else None

    def ends(self) -> Iterator[Fact]:
        yield "last_run_timestamp_seconds", self.ended(lambda _: True)
        yield "last_success_timestamp_seconds", self.ended(lambda verdict: verdict.get("exit") == 0)
        yield "last_exit_code", self.newest("exit", number)
        yield "last_duration_seconds", self.newest("seconds", number)

    def dump(self) -> Iterator[Fact]:
        if good := self.first(lambda verdict: dumped_at(verdict) and not is_suspicious(verdict)):
            yield "dump_timestamp_seconds", dumped_at(good.verdict)
        if newest := self.first(dumped_at):
            yield "dump_bytes", number(newest.verdict, "bytes")
            yield "dump_rows", number(newest.verdict, "rows")
            yield "dump_suspicious", is_suspicious(newest.verdict)

    def drill(self) -> Iterator[Fact]:
        if proved := self.first(is_proof):
            yield "drill_timestamp_seconds", dumped_at(proved.verdict)
            yield "drill_recovery_seconds", number(proved.verdict, "recovery_seconds")
            yield "drill_data_loss_seconds", number(proved.verdict, "data_loss_seconds")

    def budgets(self) -> Iterator[tuple[str, bool]]:
        if proved := self.first(is_proof):
            exceeded = proved.verdict.get("budget_exceeded")
            for budget in BUDGETS:
                yield budget, isinstance(exceeded, list) and budget in exceeded

    def media(self, prefix: str, counted: str) -> Iterator[Fact]:
        """A run that has the figure `counted` knows of all exceptions: without their figure, of none."""
        yield "media_files", self.newest(f"{prefix}files", number)
        yield "media_bytes", self.newest(f"{prefix}bytes", number)
        yield "media_complete_timestamp_seconds", self.newest(f"{prefix}completed", moment)
        if found := self.first(lambda verdict: counted in verdict):
            yield "media_exceptions", number(found.verdict, f"{prefix}exceptions") or 0

    def volume(self) -> Iterator[Fact]:
        yield "volume_size_bytes", self.newest("volume_bytes", number)
        yield "volume_free_bytes", self.newest("free_bytes", number)
        yield "volume_days_to_full", self.newest("days_to_full", number)


# ---- figures, which an older release may have given otherwise ----------------------------------------------


def number(verdict: Verdict, figure: str) -> float | None:
    found = verdict.get(figure)
    return found if isinstance(found, int | float) and not isinstance(found, bool) else None


def text(verdict: Verdict, figure: str) -> str | None:
    found = verdict.get(figure)
    return found if isinstance(found, str) and found else None


def moment(verdict: Verdict, figure: str) -> float | None:
    try:
        return seconds_of(str(verdict.get(figure)))
    except ValueError:
        return None


def dumped_at(verdict: Verdict) -> float | None:
    try:
        return seconds_of(time_of(str(verdict.get("dump"))))
    except ValueError:
        return None


def is_suspicious(verdict: Verdict) -> bool:
    return verdict.get("outcome") == "suspicious"


def is_proof(verdict: Verdict) -> bool:
    """A drill that is over its budget is red, and has proved the dump, too."""
    return dumped_at(verdict) is not None and verdict.get("outcome") == "proved"
