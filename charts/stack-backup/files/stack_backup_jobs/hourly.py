"""The hourly dump: pg_dumpall, packed, under its final name only when it is whole, then the retention."""

from __future__ import annotations

import os
import subprocess
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.choice import shrunk
from stack_backup_jobs.errors import JobError, of_volume
from stack_backup_jobs.folder import DIFFERS, Folder, deadline_of_the_job, read_afresh, sync
from stack_backup_jobs.formats import MIB, Dump, Exit, Manifest, dump_name, newest, stamp
from stack_backup_jobs.job import Job, Outcome, say
from stack_backup_jobs.pack import CHUNK, SUFFIX, Packed, Packer, widen
from stack_backup_jobs.reader import NotWholeError, Reader
from stack_backup_jobs.server import OfServer, Server, check_client, client_version, of_server
from stack_backup_jobs.session import EXTRA, SETTINGS, ServerError
from stack_backup_jobs.settings import load, number, one_of

Records = list[tuple[str, ...]]


@dataclass(frozen=True)
class Settings(OfServer):
    backup_volume: Path
    backup_folder: str
    keep: int = number(1)
    compressor: str = one_of("gzip", "zstd")
    minimum_share: int = number(0)
    dumps_kept: int = number(1)
    """How many dumps the volume holds in all, those of the tiers included."""


def program(job: Job) -> Outcome:
    job.leaves("Nothing was published, and every earlier dump is as it was.")
    settings = load(Settings)
    started = stamp()
    name = dump_name(started, SUFFIX[settings.compressor])
    server = settings.server()
    folder = Folder(job, settings.backup_volume / settings.backup_folder)
    folder.open()
    with deadline_of_the_job(job, folder.path):
        there = inspect(job, server, settings.database_name)
        earlier, unread = earlier_dumps(folder)
        check_room(folder, earlier)
        temporary = folder.temporary(name)
        say(f"Dumping the server {server} to {folder.file(name)}.")
        read, packed = whole_dump(job, server, there, temporary, settings.compressor)
        head = head_of(job, settings.namespace, settings.compressor, there, (name, started), read, packed)
        body = [*there.extensions, *there.sizes, *read.records]
        doubt = shrunk(Manifest((*head, *body)), newest(earlier), settings.minimum_share)
        manifest = Manifest((*head, *([("suspicious", "yes")] if doubt else []), *body))
        folder.publish(temporary, folder.write_manifest(manifest, name), name)
        if unread:
            raise of_volume(unread, "It was not compared with the earlier dumps, and none was removed")
        outcome = retain(job, folder, manifest, doubt, settings.keep, there)
        job.figure(**folder.capacity(settings.dumps_kept))
        return outcome


# ---- the server --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class There:
    """What is known of a server before the dump."""

    client: str
    version: str
    major: int
    identifier: str
    life: str
    """Another one where the server, or all of its sessions, began anew."""
    databases: list[str]
    """Those that the dump must hold."""
    left_out: list[str]
    """Those that recoveries have replaced: they go when their time is over, and count nowhere."""
    templates: list[str]
    """Those that take no connections: pg_dumpall passes over them."""
    former_left: list[str]
    sizes: Records
    extensions: Records


LIFE = "SELECT concat(pg_postmaster_start_time(), (SELECT stats_reset FROM pg_stat_bgwriter))"


def inspect(job: Job, server: Server, database: str) -> There:
    """All that can be known before the dump; a server that cannot give a whole one is refused here."""
    client = client_version(job)
    try:
        with server.session(database) as session:
            ((version, identifier, life),) = session.query(
                f"SELECT current_setting('server_version'), system_identifier, ({LIFE})"
                " FROM pg_control_system()"
            )
            major = session.version
            session.query("SELECT FROM pg_authid LIMIT 0")  # else pg_dumpall will not be allowed to
    except ServerError as error:
        raise of_server(error, f"Asking the server {server}") from error
    check_client(client, str(version), major)
    former_left = server.drop_former()
    former = set(server.former())
    rows = server.query(
        "SELECT datname, datallowconn AND datconnlimit <> -2, datistemplate, pg_database_size(oid)"
        " FROM pg_database ORDER BY datname",
        database,
    )
    rows = [row for row in rows if row[0] not in former]
    if refusing := ", ".join(f'"{name}"' for name, takes, template, _ in rows if takes == template == "f"):
        raise JobError(
            Exit.SOURCE,
            f"These databases take no connections, so they cannot be dumped: {refusing}.",
            "Let them take connections (ALTER DATABASE … ALLOW_CONNECTIONS true), or drop what is invalid.",
        )
    sizes: Records = [("size", str(name), str(size)) for name, takes, _, size in rows if takes == "t"]
    templates = [str(name) for name, takes, _, _ in rows if takes == "f" and name != "template0"]
    extensions: Records = [
        ("extension", name, str(extension), str(number))
        for _, name, _ in sizes
        for extension, number in server.query(
            "SELECT extname, extversion FROM pg_extension ORDER BY extname", name
        )
    ]
    return There(
        client=client,
        version=str(version),
        major=major,
        identifier=str(identifier),
        life=str(life),
        databases=[name for _, name, _ in sizes],
        left_out=sorted(former),
        templates=templates,
        former_left=former_left,
        sizes=sizes,
        extensions=extensions,
    )


def earlier_dumps(folder: Folder) -> tuple[list[Dump], OSError | None]:
    """What cannot be read of them makes the run red, but keeps no dump from being made."""
    try:
        return folder.dumps(), None
    except OSError as error:
        say(f"The earlier dumps cannot be read: {error}.")
        return [], error


def check_room(folder: Folder, earlier: list[Dump]) -> None:
    """Room for a dump like the newest, and some growth."""
    verified = [dump for dump in earlier if dump.manifest] or earlier
    if verified and (free := folder.room()) < (need := verified[-1].size * 13 // 10):
        raise JobError(
            Exit.NO_ROOM,
            f"The volume has {free // MIB} MiB left, and a dump like the newest needs {need // MIB} MiB.",
            "Make the volume larger or keep fewer dumps; no dump is ever deleted to make room.",
        )


# ---- the dump ----------------------------------------------------------------------------------------------


def environment(job: Job, server: Server, major: int) -> Mapping[str, str]:
    """Of libpq, for pg_dumpall: timeouts are not for it, nor what the superuser's role has set of what
    pg_dumpall does not set itself.
    """
    since = {"idle_session_timeout": 14, "transaction_timeout": 17, "event_triggers": 17}
    off = {key: "0" for key in SETTINGS if key.endswith("_timeout")}
    off |= {key: EXTRA[key] for key, first in since.items() if major >= first}
    off |= {"role": "none", "DateStyle": "ISO"}
    return server.libpq(job) | {
        "PGOPTIONS": " ".join(f"-c {key}={value}" for key, value in off.items()),
    }


def whole_dump(
    job: Job, server: Server, there: There, target: Path, compressor: str, *options: str
) -> tuple[Reader, Packed]:
    """Of the server, on the disk, and read back from there; `options` are further ones of pg_dumpall."""
    read, packed = take_dump(job, server, there, target, compressor, options)
    check_contents(read, there)
    sync(target)  # else nothing of it can be dropped from memory
    if read_afresh(job, target, "the new dump") != packed.sha256:
        raise JobError(Exit.VOLUME, "The dump reads back differently from what was written.", DIFFERS)
    return read, packed


def take_dump(
    job: Job, server: Server, there: There, target: Path, compressor: str, options: Sequence[str]
) -> tuple[Reader, Packed]:
    """One pass counts what the dump holds, packs it, writes it, and hashes what was written."""
    command = ["pg_dumpall", f"--username={server.superuser}", "--no-password", *options]
    command += [f'--exclude-database="{name.replace(chr(34), chr(34) * 2)}"' for name in there.left_out]
    packer = Packer(job, target, compressor)
    dump = job.processes.start(
        [os.fsencode(word) for word in command],
        env=environment(job, server, there.major),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert dump.stdout is not None
    widen(dump.stdout.fileno())
    said: deque[str] = deque(maxlen=3)
    listener = threading.Thread(target=listen, args=(dump.stderr, said), daemon=True)
    listener.start()
    reader = Reader()
    while chunk := os.read(dump.stdout.fileno(), CHUNK):
        reader.feed(chunk)
        packer.write(chunk)
    packed = packer.close()
    listener.join()
    if code := job.processes.ended(dump):
        raise not_finished(server, there, code, " ".join(said))
    try:
        reader.close()
    except NotWholeError as error:
        what = "The stream of pg_dumpall ended before its last line."
        raise JobError(Exit.DATA, what, "Read the log of the server.") from error
    return reader, packed


def listen(errors: Iterable[bytes], said: deque[str]) -> None:
    """Logs what pg_dumpall says, and keeps the last lines of it."""
    for line in errors:
        text = line.decode(errors="backslashreplace").strip()[:500]
        say(text)
        said.append(text)


def not_finished(server: Server, there: There, code: int, said: str) -> JobError:
    """Why pg_dumpall has failed: it says so in words alone, and so the server is asked."""
    if code == Exit.KILLED:
        return JobError(
            Exit.KILLED,
            "pg_dumpall was killed, most likely because it ran out of memory.",
            "Raise the memory limit (value resources of this job).",
        )
    if not said:
        said = f"pg_dumpall ended with {code} and said nothing."
    what = f"pg_dumpall did not finish: {said}"
    try:
        with server.session() as session:
            ((life,),) = session.query(LIFE)
            left = {name for (name,) in session.query("SELECT datname FROM pg_database WHERE datallowconn")}
    except ServerError as error:
        failure = of_server(error)
        return JobError(failure.code, f"{what} The server says: {error}.", failure.advice)
    if life != there.life:
        return JobError(
            Exit.UNAVAILABLE,
            f"{what} The server has restarted in the meantime.",
            "Its log says why; the next run dumps it again.",
        )
    if gone := ", ".join(name for name in there.databases if name not in left):
        return JobError(
            Exit.TRANSIENT,
            f"{what} The database {gone} is gone, or takes no connections any more.",
            "Run the job again.",
        )
    return JobError(Exit.DATA, what, "Read the lines above and the log of the server.")


def check_contents(read: Reader, there: There) -> None:
    """A dump that lacks a database is a whole stream all the same."""
    held = {record[1] for record in read.records if record[0] == "database"}
    for name in there.databases:
        if name not in held:
            raise JobError(
                Exit.DATA,
                f"The dump lacks the database {name}.",
                "It may have been dropped meanwhile: run the job again.",
            )
    if not any(record[0] == "table" for record in read.records):
        raise JobError(Exit.DATA, "The dump holds no table at all.", "Check that this is the right server.")


def head_of(
    job: Job,
    namespace: str,
    compressor: str,
    there: There,
    named: tuple[str, str],
    read: Reader,
    packed: Packed,
) -> Records:
    name, started = named
    return [
        ("format", "1"),
        ("name", name),
        ("sha256", packed.sha256),
        ("bytes", str(packed.size)),
        ("sql_bytes", str(read.sql_bytes)),
        ("started", started),
        ("finished", stamp()),
        ("job", job.name),
        ("namespace", namespace),
        ("client_version", there.client),
        ("server_version", there.version),
        ("system_identifier", there.identifier),
        ("compressor", compressor),
    ]


# ---- what is kept ------------------------------------------------------------------------------------------


def retain(job: Job, folder: Folder, manifest: Manifest, doubt: str, keep: int, there: There) -> Outcome:
    """The retention, and the verdict over a published dump."""
    name, size = manifest.get("name"), manifest.number("bytes")
    job.figure(
        dump=name,
        bytes=size,
        databases=len(manifest.databases),
        tables=len(manifest.all("table")),
        rows=manifest.rows(),
    )
    removed = 0 if doubt else folder.prune(keep)
    job.figure(verified=folder.verified(), removed=removed)
    notes = ""
    if there.templates:
        job.figure(not_backed_up=there.templates)
        notes += (
            f" Not backed up, for they take no connections, are the templates {', '.join(there.templates)}."
        )
    if there.former_left:
        job.figure(former_left=there.former_left)
        notes += f" The former databases {', '.join(there.former_left)} could not be dropped: see the log."
    if doubt:
        return Outcome(
            Exit.DATA,
            "suspicious",
            f"The dump {name} is published, but it shrank. {doubt}; it is marked as suspicious and no older "
            "dump was removed. Find out what became of the data; if all is well, run once with "
            f"postgresBackupHourly.minimumShare 0.{notes}",
        )
    return Outcome(
        Exit.DONE,
        "published",
        f"The dump {name} is published and verified ({size // MIB} MiB in {job.seconds} s).{notes}",
    )
