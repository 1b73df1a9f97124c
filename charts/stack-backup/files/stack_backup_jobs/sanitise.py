"""A dump without what must not leave: the newest one is restored into a server of the pod's own, SQL of the
values changes it there, and what is dumped from that server goes to the replica.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.choice import shrunk
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder, need_room, read_afresh, sha256_of
from stack_backup_jobs.formats import NAME, Dump, Exit, Manifest, newest
from stack_backup_jobs.hourly import Records, head_of, inspect, whole_dump
from stack_backup_jobs.job import Job, say
from stack_backup_jobs.pack import SUFFIX
from stack_backup_jobs.private_server import PrivateServer, check_room
from stack_backup_jobs.restore import Options, Restore, patterns
from stack_backup_jobs.server import of_server
from stack_backup_jobs.session import ServerError, UnreachableError
from stack_backup_jobs.settings import load, number, optional
from stack_backup_jobs.target import Target

SCRATCH = (
    "Make the scratch space larger (value postgresReplicatorBackup.sanitise.scratch.size), or give it a "
    "storage class."
)
CLEAR = "SELECT format('DROP USER MAPPING FOR %s SERVER %I', {user}, srvname) FROM pg_user_mappings".format(
    user="CASE umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(usename) END"
)
"""Passwords for other servers, which no SQL of an application's tables would think of."""


@dataclass(frozen=True)
class Settings:
    """The variables of these names."""

    database_superuser: str
    database_name: str
    sql_folder: Path
    scratch: Path
    jobs: int = number(1, 2)
    accepted: str = optional()


def options_of_the_dump(major: int) -> list[str]:
    """What pg_dumpall leaves out: verifiers of passwords, what people have written about objects, connections
    to other servers, and samples of values that the planner keeps.
    """
    words = ["--no-role-passwords", "--no-comments", "--no-subscriptions"]
    return words + (["--no-statistics"] if major >= 18 else [])


def sanitised(dumps: list[Dump]) -> list[Dump]:
    return [dump for dump in dumps if dump.manifest is not None and dump.manifest.sanitised]


def bring(job: Job, folder: Folder, origin: Folder, dump: Dump, share: int) -> bool:
    """Brings `dump` to the replica, sanitised, under its own name. False where it is there already, so, and
    whole. Raises JobError; nothing of it has left then.
    """
    here = {found.name: found for found in sanitised(folder.dumps())}
    if there := here.get(dump.name):
        if read_afresh(job, folder.file(dump.name), dump.name) != sha256_of(there):
            raise JobError(
                Exit.DATA,
                f"{folder.file(dump.name)} is not what its manifest says: its sha256 differs.",
                "It was changed or damaged there: move it away, check the volume and its file server, and "
                "run this job again.",
            )
        return False
    need_room(folder, dump.size)
    temporary = folder.temporary(dump.name)
    manifest = made(job, origin, dump, temporary)
    if why := shrunk(manifest, newest(here.values()), share):
        raise JobError(
            Exit.DATA,
            f"{dump.name}, sanitised, shrank since the newest sanitised dump of the replica. {why}; it was "
            "not published, and no dump was removed.",
            "Find out what became of the data, or what the SQL removes now; if all is well, run once with "
            "postgresReplicatorBackup.minimumShare 0.",
        )
    # One that has not been sanitised may have this name: the same dump, copied before sanitising was on.
    job.leaves("Nothing was published, and every sanitised dump of the replica is as it was.")
    folder.remove(dump.name)
    folder.publish(temporary, folder.write_manifest(manifest, dump.name), dump.name)
    return True


def remove_others(job: Job, folder: Folder) -> None:
    """Nobody may take what is not sanitised, now that there is another: its readers lose it at once."""
    kept = {dump.name for dump in sanitised(folder.dumps())}
    # By name, and so what else is ignored, too: a time in the future, another size than its manifest's.
    names = [path.name for path in folder.path.iterdir() if NAME.fullmatch(path.name)]
    others = [name for name in names if name not in kept]
    for name in others:
        say(f"Removing {name}: nothing shows that it is sanitised.")
        folder.remove(name)
    if others:
        job.figure(unsanitised_removed=len(others))


def made(job: Job, origin: Folder, dump: Dump, target: Path) -> Manifest:
    """Writes the sanitised dump to `target`: its manifest."""
    settings = load(Settings)
    check_room(settings.scratch, dump, SCRATCH)
    options = Options(settings.jobs, patterns(settings.accepted), tablespaces=False)
    restore = Restore(job, origin, dump, options)
    with job.lap("read_seconds"):
        restore.read()
    restore.part(settings.database_name)
    folder = settings.scratch / f"server.{secrets.token_hex(4)}"
    private = PrivateServer(job, folder, settings.database_superuser)
    try:
        copy = load_copy(job, settings, restore, private)
        with job.lap("sanitise_seconds"):
            run_sql(job, settings.sql_folder, restore, copy)
        return dump_copy(job, settings, private, dump, target)
    except (ServerError, JobError) as error:
        raise private.explained(error, SCRATCH) from error


def load_copy(job: Job, settings: Settings, restore: Restore, private: PrivateServer) -> Target:
    """The one database, by the recovery's steps; no other is in the copy, so none can leave."""
    part = restore.part(settings.database_name)
    copy = Target(job, private.server, settings.database_name, lasting=False)
    restore.check(copy, part)
    if restore.warnings:
        advice = "Use the image that the server runs (value database.image)."
        raise JobError(Exit.SETUP, restore.warnings[0], advice)
    held = restore.load(copy, part, watched=False)
    if wrong := restore.differences(part, held):
        raise JobError(
            Exit.DATA,
            f"{restore.dump.name} was restored, but differs from its manifest: {'; '.join(wrong[:3])}.",
            "Run database-drill: its log names each difference.",
        )
    limit = restore.connection_limit(part)
    copy.swap(0, limit, part.is_template, part.owner or settings.database_superuser, None)
    copy.side = settings.database_name
    return copy


def run_sql(job: Job, folder: Path, restore: Restore, copy: Target) -> None:
    """Each text in a transaction of its own, in the order of their names."""
    paths = sorted(folder.glob("sanitise-*.sql"))
    if not paths:
        raise JobError(
            Exit.SETUP,
            "There is no SQL that sanitises the copy.",
            "Set postgresReplicatorBackup.sanitise.fragalysis or postgresReplicatorBackup.sanitise.sql.",
        )
    with restore.session(copy) as session:
        for (statement,) in session.query(CLEAR):
            session.execute(str(statement))
    for path in paths:
        name = path.stem.split("-", 2)[2]
        say(f"Running the SQL {name} in the copy.")
        try:
            with restore.session(copy, ours=False) as session:
                session.execute(path.read_bytes())
        except UnreachableError:
            raise
        except ServerError as error:
            if of_server(error).code == Exit.NO_ROOM:
                raise
            what = f"The SQL {name} failed in the copy: {error}."
            advice = "Correct it (value postgresReplicatorBackup.sanitise) and run the job again."
            raise JobError(Exit.SETUP, what, advice) from error
    job.figure(sanitised_by=[path.stem.split("-", 2)[2] for path in paths])


def dump_copy(job: Job, settings: Settings, private: PrivateServer, dump: Dump, target: Path) -> Manifest:
    """As the hourly backup dumps the stack's server, of which the manifest tells: the copy is of that."""
    assert dump.manifest is not None
    compressor = next(word for word, suffix in SUFFIX.items() if dump.name.endswith(f".{suffix}"))
    there = inspect(job, private.server, settings.database_name)
    say(f"Dumping the copy to {target.parent}.")
    with job.lap("dump_seconds"):
        read, packed = whole_dump(
            job, private.server, there, target, compressor, *options_of_the_dump(there.major)
        )
    source = dump.manifest.get
    of_source = dataclasses.replace(
        there,
        version=source("server_version") or there.version,
        identifier=source("system_identifier"),
    )
    named = (dump.name, source("started"))
    head = head_of(job, source("namespace"), compressor, of_source, named, read, packed)
    marks: Records = [("sanitised", "yes")]
    return Manifest((*head, *marks, *there.extensions, *there.sizes, *read.records))
