"""The drill: the newest verified dump is recovered in the pod, by the recovery's own steps, into a server of
the pod's own in the stack's own database image; compared with its manifest, asked what the values say, and
thrown away.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from stack_backup_jobs.choice import LATEST, Source, choose
from stack_backup_jobs.errors import JobError, is_folder, status
from stack_backup_jobs.folder import source
from stack_backup_jobs.formats import OWN, Dump, Exit, MediaState, escaped, seconds_of
from stack_backup_jobs.job import Job, Outcome, say
from stack_backup_jobs.private_server import PrivateServer, check_room
from stack_backup_jobs.restore import UNCOUNTED, Options, Restore, patterns
from stack_backup_jobs.session import ServerError, UnreachableError, identifier, literal
from stack_backup_jobs.settings import load, number, one_of, optional
from stack_backup_jobs.store import OFFSITE, sources
from stack_backup_jobs.target import Target

SHOWN = 100
"""Of each kind of trouble, so many lines in the log."""
SCRATCH = "Make the scratch space larger (value databaseDrill.scratch.size), or give it a storage class."


@dataclass(frozen=True)
class Settings:
    """The variables of these names."""

    database_superuser: str
    database_name: str
    dump: str
    maximum_age_seconds: int
    sql_folder: Path
    scratch: Path
    source: str = one_of("backup", OFFSITE, default="backup")
    source_volume: str = optional()
    source_folders: str = optional()
    """Nothing for both where the source is off-site."""
    media_replica_volume: str = optional()
    database_owner: str = optional()
    budget_recovery_seconds: int = number(0, 0)
    budget_data_loss_seconds: int = number(0, 0)
    """0: there is no budget."""
    jobs: int = number(1, 2)
    accepted: str = optional()
    allow_other_owner: bool = optional("false")


@dataclass
class Proof:
    """What has been found, and how much of it there was."""

    problems: list[str]
    databases: int = 0
    tables: int = 0
    rows: int = 0


def program(job: Job) -> Outcome:
    job.leaves("The drill changes nothing: the dumps and the live database are as they were.")
    settings = load(Settings)
    folder, dump = chosen(job, settings)
    fetched = settings.scratch if settings.source == OFFSITE else None
    check_room(settings.scratch, dump, SCRATCH, fetched is not None)
    options = Options(settings.jobs, patterns(settings.accepted), other_owner=settings.allow_other_owner)
    restore = Restore(job, folder, dump, options)
    begun = time.monotonic()
    with job.lap("read_seconds"):
        restore.read(copied=fetched)
    restore.part(settings.database_name)
    private = PrivateServer(
        job, settings.scratch / f"server.{secrets.token_hex(4)}", settings.database_superuser
    )
    proof = Proof([])
    try:
        make_tablespaces(private, restore)
        restore_all(job, settings, restore, private, proof, settings.database_owner)
        job.figure(recovery_seconds=math.ceil(time.monotonic() - begun))
        target = Target(job, private.server, settings.database_name, lasting=False)
        target.side = settings.database_name
        run_assertions(job, settings, restore, target, proof)
        look_up_references(job, settings, restore, target, proof)
    except (ServerError, JobError) as error:
        raise private.explained(error, SCRATCH) from error
    if proof.problems:
        what = f"{dump.name} was restored, but: {' '.join(proof.problems)}"
        raise JobError(Exit.DATA, what, "The log above names each.")
    counted = f"all {proof.rows} rows in {proof.tables} tables came back as its manifest says"
    if any(part.inserts for part in restore.dumped.parts.values()):
        counted = f"{proof.rows} rows in {proof.tables} tables came back; {UNCOUNTED}"
    said = f"{dump.name} can be restored: {counted} (in {job.seconds} s).{restore.lacking()}"
    over = exceeded(job, settings)
    return Outcome(Exit.BUDGET if over else Exit.DONE, "proved", f"{said}{over}")


def exceeded(job: Job, settings: Settings) -> str:
    """Sentences on each budget that is exceeded, or nothing."""
    over = []
    sentences = ""
    for name, limit, figure, what, advice in (
        (
            "recoverySeconds",
            settings.budget_recovery_seconds,
            "recovery_seconds",
            "The recovery took",
            "Give the drill more sessions, more processors or a faster scratch",
        ),
        (
            "dataLossSeconds",
            settings.budget_data_loss_seconds,
            "data_loss_seconds",
            "A loss of the server would have cost the data of up to",
            "Find out why no dump was published for so long",
        ),
    ):
        measured = job.figures[figure]
        if limit and isinstance(measured, int) and measured > limit:
            over.append(name)
            sentences += f" {what} {measured} s, and databaseDrill.budget.{name} is {limit}. {advice}, or"
            sentences += " raise the budget."
    if over:
        job.figure(budget_exceeded=over)
    return sentences


def chosen(job: Job, settings: Settings) -> tuple[Source, Dump]:
    """A verified dump; the latest one must be young."""
    if settings.source != OFFSITE:
        advice = "Check whether the hourly backup has run, and whether this is its volume."
        source(job, Path(settings.source_volume), advice)
    folders = sources(job, settings.source, settings.source_volume, settings.source_folders)
    folder, dump = choose(job, folders, settings.dump)
    if dump.manifest is None:
        what = f"{dump.name} has no manifest, so there is nothing to compare it with."
        raise JobError(Exit.SOURCE, what, "Choose another dump.")
    lost = next((found for one in folders if (found := data_loss(one.dumps())) is not None), dump.age)
    job.figure(bytes=dump.size, age_seconds=dump.age, data_loss_seconds=lost)
    if settings.dump == LATEST and dump.age > settings.maximum_age_seconds:
        raise JobError(
            Exit.DATA,
            f"The newest verified dump {dump.name} is {dump.age // 60} minutes old "
            f"(maximum: {settings.maximum_age_seconds // 60}).",
            "Find out why no newer one comes there.",
        )
    return folder, dump


def data_loss(dumps: Iterable[Dump]) -> int | None:
    """The most that a lost server could have cost, in seconds: how old the newest good dump ever was, from
    its own time until the next one was finished, or until now. None where there is no good dump.
    """
    good = sorted((dump for dump in dumps if dump.good), key=lambda dump: dump.time)
    if not good:
        return None
    gaps = [finished(after) - seconds_of(before.time) for before, after in pairwise(good)]
    return int(max([*gaps, good[-1].age]))


def finished(dump: Dump) -> float:
    """When a dump was written and read back; its own time where the manifest does not say."""
    try:
        return seconds_of(dump.manifest.get("finished") if dump.manifest else "")
    except ValueError:
        return seconds_of(dump.time)


def make_tablespaces(private: PrivateServer, restore: Restore) -> None:
    """Those of the dump, so that all goes where it would go in the stack's server."""
    with private.server.session() as session:
        for number_, name in enumerate(restore.roles.tablespaces):
            place = private.folder / f"tablespace.{number_}"
            place.mkdir(0o700)
            session.execute(f"CREATE TABLESPACE {identifier(name)} LOCATION {literal(str(place))}")


def restore_all(
    job: Job, settings: Settings, restore: Restore, private: PrivateServer, proof: Proof, owner: str
) -> None:
    """Every database of the dump, each by the recovery's steps, to its swap."""
    manifest = restore.dump.manifest
    assert manifest is not None
    listed = set(manifest.databases)
    wrong = [
        f"the database {name}: missing" for name in manifest.databases if name not in restore.dumped.parts
    ]
    wrong += [
        f"the database {name}: not in the manifest, but restored"
        for name in restore.dumped.parts
        if name not in listed
    ]
    for name, part in restore.dumped.parts.items():
        target = Target(job, private.server, name, lasting=False)
        if name == settings.database_name and owner:
            restore.check_owner(target, part, owner)
        restore.check(target, part)
        if restore.warnings:
            advice = (
                "Use the image that the server runs (value database.image), or bring the server up to it"
                " (ALTER EXTENSION … UPDATE)."
            )
            raise JobError(Exit.SETUP, restore.warnings[0], advice)
        held = restore.load(target, part, watched=False)
        proof.databases += 1
        proof.tables += len(held.tables)
        proof.rows += held.rows
        wrong += restore.differences(part, held)
        if name == settings.database_name:
            target.swap(
                0, part.connection_limit, part.is_template, part.owner or settings.database_superuser, None
            )
    job.figure(databases=proof.databases, tables=proof.tables, rows=proof.rows)
    if wrong:
        say("What was restored differs from the manifest:")
        for line in wrong[:SHOWN]:
            say(line)
        places = f"{len(wrong)} place{'s' if len(wrong) > 1 else ''}"
        more = "; …" if len(wrong) > 3 else ""
        proof.problems.append(
            f"What was restored differs from the manifest in {places}: {'; '.join(wrong[:3])}{more}."
        )


def run_assertions(job: Job, settings: Settings, restore: Restore, target: Target, proof: Proof) -> None:
    """Each is true, or it has failed."""
    paths = sorted(path for path in settings.sql_folder.iterdir() if path.match("assertion-*.sql"))
    failed = []
    for path in paths:
        name = path.stem.removeprefix("assertion-")
        try:
            with restore.session(target, ours=False) as session:
                rows = session.query(path.read_text())
                answer = "\n".join("|".join(str(value) for value in row) for row in rows)[:200]
        except UnreachableError:
            raise
        except ServerError as error:
            answer = str(error)
        if answer in ("t", "true"):
            say(f"The assertion {name} holds.")
        else:
            say(f'The assertion {name} does not hold: it says "{answer}".')
            failed.append(name)
    job.figure(assertions=len(paths))
    if failed:
        proof.problems.append(f"These assertions do not hold: {', '.join(failed)}.")


def look_up_references(job: Job, settings: Settings, restore: Restore, target: Target, proof: Proof) -> None:
    """Every media file that the restored database names must be in the replica of the media."""
    path = settings.sql_folder / "references.sql"
    text = path.read_text() if status(path) else ""
    if not settings.media_replica_volume or not text.strip():
        return
    replica = Path(settings.media_replica_volume)
    if not is_folder(replica):
        raise JobError(
            Exit.SOURCE,
            f"The replica of the media {replica} is not there.",
            "Check its claim and its file server (value volumes.mediaReplica).",
        )
    say("Looking up the media files that the database names.")
    count = missing = refused = 0
    try:
        with restore.session(target, ours=False) as session:
            for name, *_ in session.rows(text):
                if not name:
                    continue  # no file is named there
                count += 1
                if name.startswith("/") or ".." in name.split("/"):
                    refused += 1
                    if refused <= SHOWN:
                        say(f"No path within the replica: {escaped(name)}")
                elif not status(replica / name, follow=False):
                    missing += 1
                    if missing <= SHOWN:
                        say(f"Missing in the replica of the media: {escaped(name)}")
                job.progress(f"{count} files looked up")
    except UnreachableError:
        raise
    except ServerError as error:
        what = f"The value databaseDrill.references could not be asked: {error}."
        raise JobError(Exit.DATA, what, "Correct it.") from error
    job.figure(references=count, missing=missing)
    if missing:
        proof.problems.append(
            f"{missing} of {count} media files that the database names are missing in the replica of the"
            f" media{mirrored(replica)}."
        )
    if refused:
        proof.problems.append(
            f"{refused} of {count} paths that databaseDrill.references gives lead out of the replica "
            "(absolute, or "
            "with ..)."
        )


def mirrored(replica: Path) -> str:
    """A file that is younger than the mirror is no loss."""
    try:
        state = MediaState.parse((replica / OWN / "state").read_text())
    except (FileNotFoundError, ValueError):
        return ""
    return f", whose last complete mirror is of {state.completed}" if state.completed else ""
