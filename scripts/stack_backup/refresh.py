"""A stack's database and media brought back as one pair: what belongs together, in which order, how long."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from stack_backup import CliError, Exit, follow
from stack_backup.evidence import number, text
from stack_backup.points import Found, Media, chosen, of_release, where_is
from stack_backup.release import Release
from stack_backup.runs import variables
from stack_backup.waiting import Blocker
from stack_backup_jobs.formats import seconds_of
from stack_backup_jobs.listing import Point
from stack_backup_jobs.store import MEDIA as COPY
from stack_backup_jobs.store import OFFSITE, STATE

DATABASE, MEDIA = "database-recovery", "media-recovery"
DONE = ("recovered", "copied")
"""Outcomes of both; `restored`, of some tables, tells nothing of a whole database."""
NOTHING = "Nothing was started."
ALONE = "To recover each by itself: recover media, then recover database."
DAY = 86400
"""Seconds by which a mirror may be younger than the dump: both are made every night."""


@dataclass(frozen=True)
class Plan:
    """What a refresh brings and what it replaces. Seconds are those that earlier runs or drills took, where
    there are any; `as_of` is the time that the media are of.
    """

    namespace: str
    database: str
    dump: Point
    keep_former_seconds: int
    media: Media
    as_of: str
    delete: bool
    unfinished: str
    order: tuple[str, ...]
    seconds: dict[str, float | None]
    warnings: list[str] = field(default_factory=list)

    @property
    def usual(self) -> float | None:
        """Seconds for both; None while one of them has never run here."""
        known = [one for one in self.seconds.values() if one is not None]
        return sum(known) if len(known) == len(self.order) else None

    def as_dict(self) -> dict[str, Any]:
        return {
            "database": self.database,
            "dump": asdict(self.dump),
            "keep_former_seconds": self.keep_former_seconds,
            "media": self.media.as_dict(),
            "media_as_of": self.as_of,
            "delete": self.delete,
            "unfinished": self.unfinished,
            "order": list(self.order),
            "usual_seconds": self.usual,
            "warnings": self.warnings,
        }

    def environment(self, job: str) -> dict[str, str]:
        own = {"CONFIRM": self.namespace}
        if job == DATABASE:
            return own | {"DUMP": self.dump.time}
        return own | {"DELETE": str(self.delete).lower(), "UNFINISHED": self.unfinished}


def plan(
    release: Release,
    as_of: str | None,
    delete: bool | None,
    unfinished: str | None,
    blocked: Callable[[Blocker], None],
) -> Plan:
    """Of the newest verified dump (with `as_of`, a stamp, that or one before) and the mirror of the media.
    Raises CliError, also where one half could only fail.
    """
    cronjobs = {job: release.cronjob(job) for job in (DATABASE, MEDIA)}
    of = {job: variables(cronjob["spec"]["jobTemplate"]["spec"]) for job, cronjob in cronjobs.items()}
    found = of_release(release, blocked, cronjobs)
    dump = chosen(found.places, of[DATABASE], as_of)
    if unfinished is None:
        unfinished = of[MEDIA].get("UNFINISHED", "refuse")
    if delete is None:
        delete = of[MEDIA].get("DELETE") == "true"
    media = _mirror(found, of[MEDIA], unfinished)
    last = media.status != "complete" and unfinished == "last-complete"
    media_as_of = str(media.completed if last else media.since)
    return Plan(
        namespace=release.namespace,
        database=of[DATABASE].get("DATABASE_NAME", ""),
        dump=dump,
        keep_former_seconds=int(of[DATABASE].get("KEEP_FORMER_SECONDS") or 0),
        media=media,
        as_of=media_as_of,
        delete=delete,
        unfinished=unfinished,
        # Files come before the rows that name them; where files are deleted, after the rows that named them.
        order=(DATABASE, MEDIA) if delete else (MEDIA, DATABASE),
        seconds={job: _usual(release, job, found, dump) for job in (DATABASE, MEDIA)},
        warnings=_warnings(dump, media, media_as_of),
    )


def _usual(release: Release, job: str, found: Found, dump: Point) -> float | None:
    """Seconds that it takes: as the Jobs say that the cluster keeps, else as the history does, else, of the
    database, as a drill of a dump has shown.
    """
    known = follow.usual(release, job)
    if known is not None:
        return known
    took = [
        seconds
        for record in found.history.records
        if record.verdict.get("job") == job
        and text(record, "outcome") in DONE
        and (seconds := number(record, "seconds")) is not None
    ]
    if took:
        return median(took)
    proof = found.proofs.of(dump).recovery if job == DATABASE else None
    return proof.seconds if proof else None


def _mirror(found: Found, environment: Mapping[str, str], unfinished: str) -> Media:
    """What media-recovery brings, of which its variables tell: a replica, or what lies off-site."""
    if environment.get("SOURCE") == OFFSITE:
        return _off_site(found, environment.get("FOLDER", COPY))
    if not found.media:
        raise CliError(Exit.NO_RELEASE, f"{MEDIA} mounts no replica of the media. {NOTHING}")
    media = found.media[0]
    if media.problem:
        raise CliError(Exit.RED, f"The replica of the media: {media.problem} {NOTHING}")
    if not media.status:
        raise CliError(
            Exit.NO_RELEASE,
            f"The claim {media.claim} holds no mirror of the media. {NOTHING} Let media-replicator run where "
            "the media come from.",
        )
    if media.status != "complete" and unfinished == "refuse":
        raise CliError(
            Exit.TRANSIENT,
            f"The replica of the media is being written since {media.since}, and mixes two days. {NOTHING} "
            "Wait for the end of media-replicator, or choose with --unfinished what is taken.",
        )
    return media


def _off_site(found: Found, folder: str) -> Media:
    """The last complete copy of the store. Whether it is still whole, only the recovery counts."""
    if folder != COPY:
        raise CliError(
            Exit.NO_RELEASE,
            f"The value mediaRecovery.folder is {folder}: of which time that copy is, nothing says, so it "
            f"makes no pair with a dump. {NOTHING} {ALONE}",
        )
    for store in found.places:  # one place of dumps, and the store
        if store.problem:
            where = where_is(store.claim, capital=True)
            raise CliError(Exit.RED, f"{where}: {store.problem} {NOTHING}")
    if not found.media:
        raise CliError(
            Exit.NO_RELEASE,
            f"No complete copy of the media is recorded off-site ({STATE}). {NOTHING} Let the job offsite "
            f"run where the media come from (value offsite.media). {ALONE}",
        )
    return found.media[0]


def _warnings(dump: Point, media: Media, as_of: str) -> list[str]:
    found = []
    if as_of < dump.time:
        found.append(
            f"The media are as of {as_of}, older than the dump ({dump.time}): rows may name files that are "
            "not there yet. The next mirror brings them."
        )
    elif seconds_of(as_of) - seconds_of(dump.time) > DAY:
        found.append(
            f"The media are as of {as_of}, newer than the dump ({dump.time}): files that were deleted "
            "in between are not among them."
        )
    if media.status != "complete":
        found.append(f"The last mirror of the media did not finish: it was begun at {media.since}.")
    if dump.namespace and media.namespace and dump.namespace != media.namespace:
        found.append(f"The dump is from {dump.namespace}, and the media are from {media.namespace}.")
    return found


@dataclass
class Refreshed:
    """How it ended: both runs, or the first one that failed."""

    plan: Plan
    runs: list[dict[str, Any]]

    @property
    def exit(self) -> int:
        return int(self.runs[-1]["exit"])

    @property
    def message(self) -> str:
        plan, last = self.plan, self.runs[-1]
        if not self.exit:
            return f"{plan.namespace} has the database of {plan.dump.time} and the media as of {plan.as_of}."
        said = str(last["message"]).rstrip()
        if len(self.runs) == 1:
            other = "media" if last["job"] == DATABASE else "database"
            was = "were" if other == "media" else "was"
            return (
                f"The first half failed, and nothing was started after it: the {other} of {plan.namespace} "
                f"{was} not touched. {last['job']}: {said}"
            )
        if last["job"] == DATABASE:
            return (
                f"The media are there, the database was not replaced: {said} When that is fixed, go on with "
                f"stack-backup recover database --dump {plan.dump.time} --confirm {plan.namespace}"
            )
        return (
            f"The database is that of {plan.dump.time}, and not all media are there: {said} When that is "
            f"fixed, go on with stack-backup recover media --confirm {plan.namespace}"
        )

    def as_dict(self) -> dict[str, Any]:
        return {
            "namespace": self.plan.namespace,
            "exit": self.exit,
            "outcome": "failed" if self.exit else "refreshed",
            "message": self.message,
            "seconds": sum(float(run["seconds"]) for run in self.runs),
            "plan": self.plan.as_dict(),
            "runs": self.runs,
        }


def carry_out(plan: Plan, run: Callable[[str, dict[str, str]], dict[str, Any]]) -> Refreshed:
    """Both halves, one after the other; `run` runs a job and returns its document."""
    done: list[dict[str, Any]] = []
    for job in plan.order:
        done.append(run(job, plan.environment(job)))
        if done[-1]["exit"]:
            break
    return Refreshed(plan, done)
