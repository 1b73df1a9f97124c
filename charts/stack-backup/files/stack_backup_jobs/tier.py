"""A daily, weekly or monthly dump: the newest good hourly one by a hard link (a copy where none can be made),
at most one a period. The daily run makes up for a weekly or monthly one that was missed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stack_backup_jobs.choice import newest_in, shrunk
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder, deadline_of_the_job, source
from stack_backup_jobs.formats import Dump, Exit, newest, seconds_of
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.settings import load, number, one_of, optional

PERIODS = {"daily": "%Y-%m-%d", "weekly": "%G-W%V", "monthly": "%Y-%m"}
DAY = 86400
MISSED = {"weekly": 7 * DAY + DAY // 2, "monthly": 31 * DAY + DAY // 2}
"""How old a tier's newest dump is, in seconds, when one did not come that was due."""


@dataclass(frozen=True)
class Settings:
    backup_volume: Path
    source_folder: str
    tier: str = one_of(*PERIODS)
    keep: int = number(1)
    maximum_age_seconds: int = number(1)
    minimum_share: int = number(0)
    make_up: str = optional()
    """For the daily run: the other tiers, and how many dumps each keeps: `weekly 4 monthly 12`."""


def program(job: Job) -> Outcome:
    job.leaves("Nothing was published, and every earlier dump is as it was.")
    settings = load(Settings)
    advice = "Check whether the hourly backup has run, and whether this is its volume."
    hourly = source(job, settings.backup_volume / settings.source_folder, advice)
    dump, passed = newest_in(hourly)
    if dump.age > settings.maximum_age_seconds:
        raise JobError(
            Exit.DATA,
            f"The newest verified dump {dump.name} is {dump.age // 60} minutes old "
            f"(maximum: {settings.maximum_age_seconds // 60}). {passed}",
            "Find out why the hourly backup publishes no newer one; then run this job again.",
        )
    tier = Tier(job, settings, settings.tier)
    tier.folder.open()
    with deadline_of_the_job(job, tier.folder.path):
        existing, published = tier.bring(hourly, dump)
        job.figure(dump=existing.name, bytes=existing.size, rows=existing.rows)
        job.leaves(f"The {tier.name} dump {existing.name} is safe.")
        removed = tier.prune(settings.keep)
        job.figure(verified=tier.folder.verified(), removed=removed)
        notes = "".join(make_up(job, settings, hourly, dump))
    period = period_of(existing, tier.name)
    if not published:
        what = f"The {tier.name} dump of {period} is there already: {existing.name}."
        return Outcome(Exit.DONE, "present", what + notes)
    return Outcome(Exit.DONE, "published", f"{existing.name} is the {tier.name} dump of {period}.{notes}")


def make_up(job: Job, settings: Settings, hourly: Folder, dump: Dump) -> list[str]:
    """Brings the other tiers what did not come when it was due. A tier that has none yet waits for its own
    time.
    """
    notes = []
    words = settings.make_up.split()
    for name, keep in zip(words[::2], words[1::2], strict=True):
        tier = Tier(job, settings, name)
        if (last := tier.newest()) and last.age > MISSED[name]:
            tier.folder.open()
            existing, _ = tier.bring(hourly, dump)
            job.leaves(f"The {name} dump {existing.name} is safe.")
            tier.prune(int(keep))
            notes.append(f" The {name} dump was missed: {existing.name} makes up for it.")
    return notes


def period_of(dump: Dump, tier: str) -> str:
    """The day, ISO week or month of a dump's time."""
    return datetime.fromtimestamp(seconds_of(dump.time), UTC).strftime(PERIODS[tier])


class Tier:
    def __init__(self, job: Job, settings: Settings, name: str) -> None:
        self.name, self._share = name, settings.minimum_share
        self.folder = Folder(job, settings.backup_volume / name)

    def newest(self) -> Dump | None:
        try:
            return newest(self.folder.dumps())
        except FileNotFoundError:
            return None

    def bring(self, hourly: Folder, dump: Dump) -> tuple[Dump, bool]:
        """The dump of the period, and whether it came just now."""
        good = [there for there in self.folder.dumps() if there.good]
        period = period_of(dump, self.name)
        if ours := [there for there in good if period_of(there, self.name) == period]:
            return ours[-1], False
        before = newest(good)
        if before and (why := shrunk(dump.manifest, before, self._share)):
            raise JobError(
                Exit.DATA,
                f"{dump.name}, the newest verified dump, shrank since {before.name}, the newest {self.name} "
                f"one. {why}; it was not taken, and no dump was removed.",
                "Find out what became of the data; if all is well, run once with "
                "postgresBackupTiers.minimumShare 0.",
            )
        return dump, self.folder.take_over(hourly, dump, linked=True)

    def prune(self, keep: int) -> int:
        return self.folder.prune(keep, kind=f"An old {self.name} dump")
