"""The recovery of the application's database: a dump is loaded beside the live database, counted, and takes
its place in one step, or not at all. The server keeps its own roles and passwords. With TABLES, those tables
are brought back beside the live ones, and nothing is replaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs import compare
from stack_backup_jobs.choice import Source, check_sanitised, choose
from stack_backup_jobs.errors import JobError, status
from stack_backup_jobs.formats import Dump, Exit
from stack_backup_jobs.job import Job, Outcome, say
from stack_backup_jobs.restore import UNCOUNTED, Options, Restore, patterns
from stack_backup_jobs.server import OfServer, check_client, client_version, password_in
from stack_backup_jobs.session import ServerError, UnreachableError
from stack_backup_jobs.settings import check_confirmed, load, number, one_of, optional
from stack_backup_jobs.store import OFFSITE, sources
from stack_backup_jobs.tables import ACCEPTED, Tables, wanted
from stack_backup_jobs.target import Target


@dataclass(frozen=True)
class Settings(OfServer):
    database_owner: str
    owner_password_file: Path
    dump: str
    allow_source_server: bool
    keep_former_seconds: int
    sql_file: Path
    scratch: Path
    source: str = one_of("replica", "backup", OFFSITE, default="replica")
    source_volume: str = optional()
    source_folders: str = optional()
    """Nothing for both where the source is off-site."""
    jobs: int = number(1, 2)
    accepted: str = optional()
    """Patterns of objects, a line each."""
    allow_other_owner: bool = optional("false")
    sanitised_only: bool = optional("false")
    tablespaces: bool = optional("true")
    server_room: int = number(0, 0)
    """Bytes; 0: the server is asked."""
    confirm: str = optional()
    tables: str = optional()
    """Those that are brought back beside the live ones, a line each; nothing: the database is replaced."""


def program(job: Job) -> Outcome:
    job.leaves("The live database is as it was.")
    settings = load(Settings)
    names = wanted(settings.tables)
    if not names:
        check_confirmed(settings.confirm, settings.namespace, "the database")
    owner_password = password_in(settings.owner_password_file)
    folders = sources(job, settings.source, settings.source_volume, settings.source_folders)
    folder, dump = choose(job, folders, settings.dump)
    check_sanitised(dump, settings.sanitised_only)
    server = settings.server()
    target = Target(job, server, settings.database_name)
    if not names:
        check_server(settings, dump, target)
    check_client(client_version(job), target.version, target.major)
    target.hold()
    target.clear()
    server.drop_former()  # they take room that this recovery needs
    if names:
        return beside(job, settings, target, folder, dump, names)
    options = Options(
        settings.jobs,
        patterns(settings.accepted),
        settings.database_owner,
        settings.allow_other_owner,
        settings.tablespaces,
        settings.server_room or None,
    )
    restore = Restore(job, folder, dump, options)
    restore.read(copied=settings.scratch)
    part = restore.part(settings.database_name)
    restore.check(target, part)
    for warning in restore.warnings:
        say(warning)
    job.figure(
        started=dump.manifest.get("started") if dump.manifest else "", tables=part.tables, rows=part.rows
    )
    held = restore.load(target, part, watched=True)
    if wrong := restore.differences(part, held):
        raise JobError(
            Exit.DATA,
            f"The new database is not what the dump holds: {'; '.join(wrong[:5])}.",
            "Use another dump, and look at the log of the server.",
        )
    run_sql(restore, target, settings.sql_file)
    return replace(job, settings, target, restore, held, owner_password)


def beside(
    job: Job, settings: Settings, target: Target, folder: Source, dump: Dump, names: list[str]
) -> Outcome:
    """Tables of the dump, into a schema of the live database."""
    accepted = (*patterns(settings.accepted), ACCEPTED)
    room = settings.server_room or None
    options = Options(settings.jobs, accepted, tablespaces=settings.tablespaces, room=room)
    restore = Restore(job, folder, dump, options)
    tables = Tables(job, restore, target, names, settings.database_owner)
    tables.check()
    restore.read(copied=settings.scratch)
    part = restore.part(settings.database_name)
    restore.check(target, part)
    for warning in restore.warnings:
        say(warning)
    return tables.run(part)


def check_server(settings: Settings, dump: Dump, target: Target) -> None:
    """Is this the server that is meant?"""
    source = dump.manifest.get("system_identifier") if dump.manifest else ""
    if source == target.identifier and not settings.allow_source_server:
        raise JobError(
            Exit.PERMISSION,
            f"{dump.name} was taken from this very server ({target.server}), and its database is not to be "
            "replaced by that.",
            "If that is what you want, as for a lost production database, set "
            "databaseRecovery.allowSourceServer.",
        )


def run_sql(restore: Restore, target: Target, path: Path) -> None:
    """The SQL of the values, in one transaction; only superusers have been in the new database before."""
    text = path.read_bytes() if status(path) else b""
    if not text.strip():
        return
    say("Running the SQL of the value databaseRecovery.sql in the new database.")
    try:
        with restore.session(target, ours=False) as session:
            session.execute(text)
    except UnreachableError:
        raise
    except ServerError as error:
        what = f"The SQL of the value databaseRecovery.sql failed: {error}."
        raise JobError(Exit.SETUP, what, "Correct it and run the job again.") from error


def replace(
    job: Job, settings: Settings, target: Target, restore: Restore, held: compare.Held, password: str
) -> Outcome:
    """The swap, and the verdict over it."""
    part, owner = restore.part(settings.database_name), settings.database_owner
    own = None if owner == settings.database_superuser else password
    if target.swap(
        settings.keep_former_seconds, Restore.connection_limit(part), part.is_template, owner, own
    ):
        job.figure(former=target.former)
    try:
        if left := target.server.drop_former():
            job.figure(former_left=left)
    except (JobError, ServerError) as error:
        say(f"Former databases could not be looked after, the next run does it: {error}.")
    counted = f"{held.rows} rows in {len(held.tables)} tables"
    counted += ", all counted" if not part.inserts else f"; {UNCOUNTED}"
    name = str(job.figures["dump"])
    return Outcome(
        Exit.DONE,
        "recovered",
        f"The database {settings.database_name} of {settings.namespace} is that of {name}: "
        f"{counted}.{restore.lacking()}",
    )
