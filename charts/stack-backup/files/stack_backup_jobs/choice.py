"""Which dump is meant: the latest, or one that is named."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Protocol, TypeVar

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.formats import STAMP, Dump, Exit, Manifest, newest
from stack_backup_jobs.job import Job

LATEST = "latest"


class Source(Protocol):
    """A folder of dumps, wherever it lies."""

    @property
    def path(self) -> PurePath: ...

    def dumps(self) -> list[Dump]:
        """Oldest first."""

    def bring(self, dump: Dump, target: Path) -> str:
        """Copies a dump to a file: its sha256."""


S = TypeVar("S", bound=Source)


def folders_in(job: Job, volume: Path, names: Iterable[str]) -> list[Folder]:
    """Those of the folders that are there: none is left out but what is absent. Raises OSError."""
    found = []
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            (volume / name).stat()
            found.append(Folder(job, volume / name))
    return found


def choose(job: Job, folders: Sequence[S], dump: str) -> tuple[S, Dump]:
    """The newest good dump of all folders for `latest`; else that of the time, suspicious or not, a verified
    one before one without a manifest. Raises JobError where there is none; never another one.
    """
    if dump != LATEST and STAMP.fullmatch(dump) is None:
        raise JobError(
            Exit.USAGE,
            f'DUMP is "{dump}"; it must be latest or the time in a dump\'s name, '
            "such as 2022-11-28T08:51:08Z.",
            "Correct the value, or what the run was started with.",
        )
    there = [(folder, found) for folder in folders for found in folder.dumps()]
    if not there:
        named = " ".join(folder.path.name for folder in folders)
        raise JobError(
            Exit.SOURCE,
            f"There is no verified dump in the folders {named} of the source: there is no dump at all.",
            "Check that the right volume is mounted, and that the backup or the replicator runs.",
        )
    if dump == LATEST:
        passed = doubt(found for _, found in there)
        if (meant := newest(found for _, found in there)) is None:
            what = f"There is no verified dump in the source, so none is the latest. {passed}".strip()
            raise JobError(Exit.SOURCE, what, f"Name one with DUMP: {_times(there)}.")
        if passed:
            job.say(passed)
        named_so = [pair for pair in there if pair[1] is meant]
    else:
        named_so = [pair for pair in there if pair[1].time == dump]
        if not named_so:
            raise JobError(Exit.SOURCE, f"There is no dump of {dump}.", f"There are: {_times(there)}.")
    folder, chosen = max(named_so, key=lambda pair: pair[1].manifest is not None)
    if chosen.manifest is None and chosen.listed:
        raise JobError(
            Exit.DATA,
            f"{chosen.name} is not of the size that its manifest says.",
            "It was cut off or changed: use another dump.",
        )
    job.figure(dump=chosen.name)
    return folder, chosen


def check_sanitised(dump: Dump, only: bool) -> None:
    """Is it one that a stack may have that takes `only` sanitised ones? Raises JobError."""
    if only and not (dump.manifest and dump.manifest.sanitised):
        raise JobError(
            Exit.PERMISSION,
            f"{dump.name} is not to come here: its manifest does not say that it was sanitised, and the "
            "value databaseRecovery.sanitisedOnly lets no other in.",
            "Let production sanitise its replica (value postgresReplicatorBackup.sanitise.enabled), name a "
            "dump that is sanitised, or set databaseRecovery.sanitisedOnly to false.",
        )


def doubt(dumps: Iterable[Dump]) -> str:
    """A sentence about a suspicious dump that is newer than every good one, or nothing."""
    ordered = sorted((dump for dump in dumps if dump.manifest is not None), key=lambda dump: dump.time)
    if ordered and not ordered[-1].good:
        return f"{ordered[-1].name} is marked as suspicious, and was skipped."
    return ""


def newest_in(folder: Folder) -> tuple[Dump, str]:
    """The newest good dump of a folder that is fed by the hourly backup, and `doubt`. Raises JobError."""
    dumps = folder.dumps()
    passed = doubt(dumps)
    if (found := newest(dumps)) is None:
        what = f"There is no verified dump in {folder.path}. {passed}".strip()
        raise JobError(Exit.SOURCE, what, "Find out why the hourly backup publishes none.")
    return found, passed


def shrunk(new: Manifest | None, before: Dump | None, share: int) -> str:
    """What tells that a dump holds less than `share` % of the one before, or nothing."""
    if new is None or before is None or before.manifest is None:
        return ""
    size, was_size = new.number("sql_bytes"), before.manifest.number("sql_bytes")
    tables, was_tables = len(new.all("table")), len(before.manifest.all("table"))
    if size * 100 >= was_size * share and tables * 100 >= was_tables * share:
        return ""
    ours, theirs = new.get("system_identifier"), before.manifest.get("system_identifier")
    other = (
        "" if ours == theirs else f", and is of another server (system identifier {ours}, before {theirs})"
    )
    return (
        f"It holds {size} bytes of SQL in {tables} tables, less than {share} % of the {was_size} bytes in "
        f"{was_tables} tables before{other}"
    )


def _times(there: Iterable[tuple[Source, Dump]]) -> str:
    """Of the newest few."""
    return " ".join(sorted({found.time for _, found in there}, reverse=True)[:6])
