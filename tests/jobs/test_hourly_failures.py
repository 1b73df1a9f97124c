"""Whatever goes wrong: red with its exit code and a sentence, nothing partial, no earlier dump lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from stack_backup.runs import JobResult
from stack_backup_lab.runtime.local import USER
from tests.jobs import faults
from tests.jobs.hourly import FOLDER, Hourly
from tests.outcomes import red

WRITING = "'/.tmp.backup-' in path and '.manifest' not in path"
"""What is done to the unfinished dump."""
PUBLISHING = "'/hourly/backup-' in target"

AMID_THE_DUMP = faults.hold_python("stack_backup_jobs.pack:Packer.write", "b'COPY public' in args[0]")
"""Stops when the first rows of the application come: most of the dump is still to be made."""

UNTOUCHED = "every earlier dump is as it was"


def refused(hourly: Hourly, code: int, *words: str, **changes: Any) -> JobResult:
    """A run that must fail and leave all as it was."""
    with hourly.unharmed():
        result = hourly.run(**changes)
    red(result, code, UNTOUCHED, *words)
    return result


pytestmark = pytest.mark.usefixtures("history")


# ---- the Secret ----


def test_wrong_password(hourly: Hourly) -> None:
    hourly.stack.secrets["database"]["root_password"] = b"wrong"
    refused(hourly, 77, "password authentication failed", "Secret")


def test_missing_key(hourly: Hourly) -> None:
    del hourly.stack.secrets["database"]["root_password"]
    refused(hourly, 78, "no password", "key")


def test_missing_secret(hourly: Hourly) -> None:
    del hourly.stack.secrets["database"]
    refused(hourly, 78, "no password", "Secret")


@pytest.mark.parametrize("password", [b"", b"\n", b"two\nlines"])
def test_password_that_is_none(hourly: Hourly, password: bytes) -> None:
    hourly.stack.secrets["database"]["root_password"] = password
    refused(hourly, 78, "password", "Secret")


def test_role_that_may_not(hourly: Hourly) -> None:
    hourly.install({"database": {"superuser": USER}})
    hourly.stack.secrets["database"]["root_password"] = hourly.stack.secrets["database"]["user_password"]
    refused(hourly, 77, "permission denied")


# ---- the server ----


def test_server_that_is_down(hourly: Hourly) -> None:
    with hourly.stack.database.stopped():
        refused(hourly, 69, "database:5432", "refused")


def test_host_that_does_not_exist(hourly: Hourly) -> None:
    hourly.install({"database": {"host": "nowhere"}})
    refused(hourly, 69, "nowhere:5432", "name")


def test_server_that_never_answers(hourly: Hourly) -> None:
    # As the program does it, but with less patience.
    hasty = faults.patch_python("stack_backup_jobs.session", "Session.__init__.__kwdefaults__['timeout'] = 2")
    with hourly.stack.database.hanging():
        refused(hourly, 69, "database:5432", "timed out", python=hasty)


def test_server_that_crashes_amid_a_dump(hourly: Hourly) -> None:
    with hourly.unharmed(), hourly.start(python=AMID_THE_DUMP) as job:
        job.reached("reached")
        hourly.stack.database.stop(immediate=True)
        hourly.stack.database.start()
        job.release("go")
        result = job.wait()
    red(result, 69, "pg_dumpall did not finish", UNTOUCHED)


def test_server_that_shuts_down_amid_a_dump(hourly: Hourly) -> None:
    with hourly.unharmed(), hourly.start(python=AMID_THE_DUMP) as job:
        job.reached("reached")
        with hourly.stack.database.stopped():
            job.release("go")
            result = job.wait()
    red(result, 69, "pg_dumpall did not finish", UNTOUCHED)


@contextlib.contextmanager
def altered(hourly: Hourly, there: str, back: str) -> Iterator[None]:
    """The databases of the server otherwise for the length of a block."""
    with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
        connection.execute(there.encode())
        try:
            yield
        finally:
            connection.execute(back.encode())


def test_database_that_takes_no_connections(hourly: Hourly) -> None:
    command = "ALTER DATABASE frag ALLOW_CONNECTIONS "
    with altered(hourly, command + "false", command + "true"):
        refused(hourly, 66, '"frag"', "not currently accepting connections")


def test_any_database_that_takes_no_connections(hourly: Hourly) -> None:
    create, drop = 'CREATE DATABASE "Front End" ALLOW_CONNECTIONS false', 'DROP DATABASE "Front End"'
    with altered(hourly, create, drop):
        refused(hourly, 66, '"Front End"')


def test_application_database_that_is_missing(hourly: Hourly) -> None:
    with altered(hourly, "ALTER DATABASE frag RENAME TO frog", "ALTER DATABASE frog RENAME TO frag"):
        refused(hourly, 66, '"frag"')


def test_connection_limit_does_not_keep_the_superuser_out(hourly: Hourly) -> None:
    with altered(hourly, "ALTER DATABASE frag CONNECTION LIMIT 0", "ALTER DATABASE frag CONNECTION LIMIT -1"):
        hourly.backup()


def test_database_dropped_amid_a_dump(hourly: Hourly) -> None:
    with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE passing")
        with hourly.unharmed(), hourly.start(python=AMID_THE_DUMP) as job:
            job.reached("reached")
            connection.execute("DROP DATABASE passing")
            job.release("go")
            result = job.wait()
    red(result, 75, "passing", UNTOUCHED)


def test_lock_that_is_never_given_up_ends_at_the_inner_deadline(hourly: Hourly) -> None:
    locked = psycopg.connect(hourly.stack.database.dsn("frag"))
    locked.execute("LOCK TABLE auth_user IN ACCESS EXCLUSIVE MODE")
    try:
        result = refused(hourly, 124, "within 5 s", "lock", environment={"DEADLINE_SECONDS": "125"})
        assert result.reason == "", "it ends itself, before Kubernetes takes pod and log away"
    finally:
        locked.close()
    with psycopg.connect(hourly.stack.database.dsn("postgres")) as connection:
        query = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pg_dump'")
        assert connection.execute(query).fetchone() == (0,), "no dump goes on in the server"


# ---- the stream ----

TRAILER = "'--' '-- PostgreSQL database cluster dump complete' '--' ''"


def test_stream_that_ends_early_though_pg_dumpall_is_content(hourly: Hourly) -> None:
    short = faults.dump_by('pg_dumpall "$@" | head -c 2000000; true')
    refused(hourly, 65, "ended before its last line", shims=short)


def test_stream_that_ends_within_a_row_that_reads_like_the_end(hourly: Hourly) -> None:
    """The rows of an application may hold the very lines that end a dump; as rows they do not end it."""
    cut = f"""pg_dumpall "$@" | sed '/^COPY "Old Data"/q'; printf '%s\\n' {TRAILER}"""
    refused(hourly, 65, "ended before its last line", shims=faults.dump_by(cut))


def test_stream_that_ends_within_a_text_that_reads_like_the_end(hourly: Hourly) -> None:
    """So may comments and the bodies of functions."""
    comment = "sed -e '/^COMMENT ON /{s/ IS .*/ IS/;q}'"
    cut = f"""pg_dumpall "$@" | {comment}; printf '%s\\n' "'" {TRAILER}"""
    refused(hourly, 65, "ended before its last line", shims=faults.dump_by(cut))


def test_only_the_roles_are_no_dump(hourly: Hourly) -> None:
    refused(hourly, 65, "lacks the database", shims=faults.dump_by('pg_dumpall "$@" --globals-only'))


def test_dump_that_lacks_a_database(hourly: Hourly) -> None:
    lacking = faults.dump_by('pg_dumpall "$@" --exclude-database=frag')
    refused(hourly, 65, "lacks the database frag", shims=lacking)


def test_pg_dumpall_that_fails_at_the_end(hourly: Hourly) -> None:
    refused(hourly, 65, "pg_dumpall ended with 1", shims=faults.dump_by('pg_dumpall "$@"; exit 1'))


EARLY, LATE = "head -c 1000 >/dev/null; exit 3", "cat >/dev/null; exit 3"


@pytest.mark.parametrize("script", [EARLY, LATE], ids=["early", "late"])
def test_compressor_that_fails(hourly: Hourly, script: str) -> None:
    hourly.install({"postgresBackupHourly": {"compressor": "zstd"}})
    refused(hourly, 75, "zstd ended with 3", shims=faults.amid_pipe("zstd", script))


def test_thread_that_fails(hourly: Hourly) -> None:
    broken = faults.patch_python("stack_backup_jobs.pack", "def _member(text): raise ArithmeticError('odd')")
    refused(hourly, 75, "ArithmeticError: odd", python=broken)


def test_process_killed_for_want_of_memory(hourly: Hourly) -> None:
    refused(hourly, 137, "memory", shims=faults.dump_by("head -c 99999 /dev/zero; kill -KILL $$"))
    hourly.install({"postgresBackupHourly": {"compressor": "zstd"}})
    refused(hourly, 137, "memory", shims=faults.amid_pipe("zstd", "kill -KILL $$"))


# ---- the volume ----


def test_volume_without_room_for_another_dump(hourly: Hourly) -> None:
    size = sum(len(hourly.read(name)) for name in hourly.dumps())
    with hourly.volume.limited(size + 600_000):
        result = refused(hourly, 73, "a dump like the newest needs", "larger")
    assert "Dumping" not in result.log, "it is known before anything is written"


def test_volume_that_fills_up_amid_the_dump(hourly: Hourly) -> None:
    # The newest dump is small, so the room seems to be enough.
    hourly.plant(timedelta(minutes=30), dump=b"small")
    size = sum(len(hourly.read(name)) for name in hourly.dumps())
    with hourly.volume.limited(size + 600_000):
        refused(hourly, 73, "No space left")


def test_volume_that_is_full_before_the_first_dump(hourly: Hourly) -> None:
    hourly.volume.clear()
    with hourly.volume.limited(300_000):
        result = hourly.run()
        red(result, 73, "No space left")
        assert hourly.dumps() == hourly.others() == []


def test_volume_that_is_read_only(hourly: Hourly) -> None:
    with hourly.volume.read_only():
        refused(hourly, 77, "Read-only file system")


def test_folder_that_belongs_to_someone_else(hourly: Hourly) -> None:
    folder = hourly.volume.path / FOLDER
    folder.chmod(0o555)
    try:
        refused(hourly, 77, "Permission denied", "999:999")
    finally:
        folder.chmod(0o2775)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("EIO", 74, "Input/output error"),
        ("ENOSPC", 73, "No space left on device"),
        ("EDQUOT", 73, "Disk quota exceeded"),
        ("ESTALE", 75, "Stale file handle"),
    ],
)
@pytest.mark.parametrize("what", ["dump", "manifest"])
def test_file_system_that_cannot_keep_what_it_took(
    hourly: Hourly, error: str, code: int, words: str, what: str
) -> None:
    when = WRITING if what == "dump" else "'/.manifest/.tmp.backup-' in path"
    refused(hourly, code, words, python=faults.fail_python("os.fsync", error, when))


DAMAGED = faults.patch_python(
    "stack_backup_jobs.folder",
    """
real = read_afresh
def read_afresh(job, path, what=""):
    if ".tmp." in path.name:
        os.truncate(path, path.stat().st_size - 1)
    return real(job, path, what)
""",
)
"""A disk that gives back something else than it was given."""


def test_disk_that_gives_back_something_else(hourly: Hourly) -> None:
    refused(hourly, 74, "reads back differently", python=DAMAGED)


# ---- ends from outside ----

READING_BACK = f"{WRITING} and args[1] in ('r', 'rb')"
POINTS: dict[str, dict[str, Any]] = {
    "before the folder": {"python": faults.hold_python("os.mkdir", "'/backup' in path")},
    "the write probe": {"python": faults.hold_python("os.link", "'probe' in target")},
    "the first query": {"python": faults.hold_python("socket.connect")},
    "the dump's begin": {"shims": faults.hold("pg_dumpall", "[[ $* != *--version* ]]")},
    "amid the dump": {"python": AMID_THE_DUMP},
    "amid the write": {"python": faults.hold_python("os.write", WRITING)},
    "the fsync": {"python": faults.hold_python("os.fsync", WRITING)},
    "the read-back": {"python": faults.hold_python("open", READING_BACK)},
    "the manifest": {"python": faults.hold_python("open", "'/.manifest/.tmp.backup-' in path")},
    "publishing the manifest": {"python": faults.hold_python("os.link", "'/.manifest/backup-' in target")},
    "publishing the dump": {"python": faults.hold_python("os.link", PUBLISHING)},
}


def test_what_killed_runs_leave_disturbs_no_later_run(hourly: Hourly) -> None:
    for point in ("the write probe", "amid the dump", "publishing the manifest", "publishing the dump"):
        with hourly.start(**POINTS[point]) as job:
            job.reached("reached")
            job.signal(signal.SIGKILL)
            job.wait()
    assert len([name for name in hourly.others() if ".tmp." in name]) >= 4
    hourly.backup()
    hourly.make_old(timedelta(seconds=3100))
    hourly.backup()
    assert len(hourly.dumps()) == len(hourly.verified()) == 5
    assert [name for name in hourly.others() if ".tmp." in name] == []


PUBLISHED_POINTS = {
    "the folder's fsync": faults.hold_python("os.fsync", "path == '/backup/hourly'"),
    "the retention": faults.hold_python("os.remove", "'/backup-' in path and '.tmp.' not in path"),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("point", PUBLISHED_POINTS)
def test_ended_after_publishing(hourly: Hourly, point: str, number: signal.Signals) -> None:
    hourly.plant_verified(27)
    before = hourly.dumps()
    with hourly.start(python=PUBLISHED_POINTS[point]) as job:
        job.reached("reached")
        job.signal(number)
        job.release("go")
        result = job.wait()
    assert result.exit_code == 128 + number
    [new] = set(hourly.dumps()) - set(before)
    assert new in hourly.verified()
    assert len(hourly.verified()) >= 24
    assert hourly.dumps()[-24:] == hourly.verified()[-24:], "no gap: what is removed is the oldest"
    if number == signal.SIGTERM:
        assert f"{new} is published" in result.verdict["message"]
    again = hourly.run()
    assert again.succeeded, again.log
    assert len(hourly.verified()) == 24
