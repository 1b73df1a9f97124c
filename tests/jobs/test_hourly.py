"""The hourly backup when all goes well: what it publishes, and that it comes back from it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from stack_backup_lab.data import comparison, dataset
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from tests.jobs import faults
from tests.jobs.hourly import CLAIM, FINAL, FOLDER, JOB, KEEP, NAMESPACE, VALUES, Hourly
from tests.outcomes import green, red


def counted(stack: LocalStack) -> dict[str, int]:
    """Rows of every table of `frag` that is dumped, by its name as COPY writes it, counted by the server."""
    with psycopg.connect(stack.database.dsn("frag")) as connection:
        tables = connection.execute(
            "SELECT quote_ident(nspname) || '.' || quote_ident(relname), c.oid::regclass::text"
            " FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
            " WHERE relkind = 'r' AND c.oid >= 16384 AND nspname !~ '^pg_'"
        ).fetchall()
        counts = {}
        for name, regclass in tables:
            row = connection.execute(f"SELECT count(*) FROM ONLY {regclass}".encode()).fetchone()
            assert row is not None
            counts[name] = row[0]
    return counts


def test_a_dump_has_the_contracts_name_and_nobody_else_can_read_it(hourly: Hourly) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    with hourly.unharmed(published=1):
        name = hourly.backup()
    match = FINAL.fullmatch(name)
    assert match
    assert match[2] == "gz"
    assert before <= datetime.fromisoformat(match[1]) <= datetime.now(UTC)
    root = hourly.volume.path / FOLDER
    for path in (root / name, root / ".manifest" / f"{name}.tsv"):
        status = path.stat()
        assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 999, 999), path
    assert hourly.volume.list() == [FOLDER]
    # Today's recovery tool takes all that matches this for a dump.
    assert [path.name for path in hourly.volume.path.glob("*/backup*")] == [name]


def test_the_manifest_says_what_the_dump_holds(hourly: Hourly) -> None:
    name = hourly.backup()
    dump, manifest = hourly.read(name), hourly.manifest(name)
    text = gzip.decompress(dump)
    one = {key: values[0][0] for key, values in manifest.items() if len(values) == 1}
    assert one["format"] == "1"
    assert one["name"] == name
    assert one["sha256"] == hashlib.sha256(dump).hexdigest()
    assert one["bytes"] == str(len(dump))
    assert one["sql_bytes"] == str(len(text))
    assert one["started"] in name
    assert one["started"] <= one["finished"] <= f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    assert (one["job"], one["namespace"], one["compressor"]) == (JOB, NAMESPACE, "gzip")
    with psycopg.connect(hourly.stack.database.dsn("postgres")) as connection:
        row = connection.execute(
            "SELECT current_setting('server_version'), system_identifier::text FROM pg_control_system()"
        ).fetchone()
    assert row == (one["server_version"], one["system_identifier"])
    assert one["client_version"] == one["server_version"], "the image is the server's own"
    assert sorted(manifest["database"]) == [["frag"], ["postgres"], ["template1"]]
    assert ["frag", "plpgsql", "1.0"] in manifest["extension"]
    rows = {
        table.replace("\\\\", "\\"): int(count)
        for database, table, count in manifest["table"]
        if database == "frag"
    }
    assert rows == counted(hourly.stack)
    assert "suspicious" not in manifest


def test_the_verdict_is_one_line_in_the_log_and_in_the_termination_message(hourly: Hourly) -> None:
    result = hourly.run()
    [name] = hourly.dumps()
    verdict = dict(result.verdict)
    assert json.loads(result.log.splitlines()[-1]) == verdict
    manifest = hourly.manifest(name)
    message = verdict.pop("message")
    assert name in message
    seconds = verdict.pop("seconds")
    assert 0 <= seconds <= result.seconds + 1
    size, free, fits = (verdict.pop(key) for key in ("volume_bytes", "free_bytes", "fits_bytes"))
    assert len(hourly.read(name)) < fits < free < size
    assert verdict == {
        "job": JOB,
        "exit": 0,
        "outcome": "published",
        "dump": name,
        "bytes": len(hourly.read(name)),
        "databases": 3,
        "tables": len(manifest["table"]),
        "rows": sum(int(count) for *_, count in manifest["table"]),
        "verified": 1,
        "removed": 0,
    }


def test_the_log_holds_no_secret(hourly: Hourly) -> None:
    log = hourly.run().log
    for secret in hourly.stack.secrets["database"].values():
        assert secret.decode().strip() not in log
        assert secret.decode()[:16] not in log


def restored(hourly: Hourly, name: str, folder: Path) -> list[comparison.Difference]:
    """What differs between the stack's server and one that the dump was loaded into."""
    dump = hourly.volume.fetch(f"{FOLDER}/{name}", folder)
    source = comparison.snapshot(hourly.stack.database)
    with hourly.stack.scratch_server() as scratch:
        scratch.load(dump)
        return comparison.differences(source, comparison.snapshot(scratch))


@pytest.mark.parametrize("compressor", ["gzip", "zstd"])
def test_a_dump_gives_back_every_row_and_object(hourly: Hourly, tmp_path: Path, compressor: str) -> None:
    hourly.install({"postgresBackupHourly": {"compressor": compressor}})
    name = hourly.backup()
    assert name.endswith({"gzip": ".sql.gz", "zstd": ".sql.zst"}[compressor])
    assert hourly.manifest(name)["compressor"] == [[compressor]]
    assert restored(hourly, name, tmp_path) == []


def test_the_comparison_sees_what_a_dump_lacks(hourly: Hourly, tmp_path: Path) -> None:
    name = hourly.backup()
    server = hourly.stack.database
    server.execute("CREATE TABLE later (n int); INSERT INTO auth_group (name) VALUES ('later');", "frag")
    try:
        found = {(item.database, item.what) for item in restored(hourly, name, tmp_path)}
    finally:
        server.execute("DROP TABLE later; DELETE FROM auth_group WHERE name = 'later';", "frag")
    assert {("frag", "table public.later"), ("frag", "rows of public.auth_group")} <= found


ZSTD = ("zstd", "unzstd", "zstdcat", "zstdmt")


def test_gzip_needs_no_command_of_the_image(hourly: Hourly) -> None:
    name = hourly.backup(without=(*ZSTD, "gzip", "gunzip"))
    assert gzip.decompress(hourly.read(name)).endswith(
        b"-- PostgreSQL database cluster dump complete\n--\n\n"
    )


def test_zstd_does(hourly: Hourly) -> None:
    hourly.install({"postgresBackupHourly": {"compressor": "zstd"}})
    with hourly.unharmed():
        result = hourly.run(without=ZSTD)
    red(result, 78, "no zstd", "value postgresBackupHourly.compressor")


def test_the_file_is_plain_gzip_for_any_reader(hourly: Hourly, tmp_path: Path) -> None:
    dump = hourly.volume.fetch(f"{FOLDER}/{hourly.backup()}", tmp_path)
    done = subprocess.run(["gzip", "--test", "--verbose", dump], capture_output=True, text=True, check=True)
    assert done.stderr.rstrip().endswith("OK")


def test_a_newline_at_the_end_of_the_secret_is_no_part_of_the_password(hourly: Hourly) -> None:
    hourly.stack.secrets["database"]["root_password"] += b"\n"
    hourly.backup()


def test_databases_with_awkward_names_are_dumped_and_listed(hourly: Hourly) -> None:
    names = ["Front End", 'it\'s \\ "quoted"', "tab\there", "-rf"]
    with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            listed = [name for [name] in hourly.manifest(hourly.backup())["database"]]
        finally:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    assert sorted(listed) == sorted([*names, "frag", "postgres", "template1"])


@contextlib.contextmanager
def replaced(hourly: Hourly, drop_after: str, *commands: str) -> Iterator[str]:
    """A database that a recovery has replaced, larger than all others, with `commands` run in it."""
    name = "frag_former_20240101000000"
    with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        try:
            with psycopg.connect(hourly.stack.database.dsn(name), autocommit=True) as inside:
                inside.execute("CREATE TABLE t AS SELECT md5(n::text) FROM generate_series(1, 300000) n")
                for command in commands:
                    inside.execute(command.encode())
            connection.execute(f"ALTER DATABASE {name} SET stack_backup.drop_after = '{drop_after}'".encode())
            yield name
        finally:
            connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE false".encode())
            connection.execute(f"DROP DATABASE {name}".encode())


LATER, OVER = "2999-01-01 00:00:00+00", "2024-01-02 00:00:00+00"


@pytest.mark.parametrize("takes", ["true", "false"])
def test_a_former_database_counts_nowhere(hourly: Hourly, takes: str) -> None:
    """Case 40, and kind F: neither is it dumped, nor does a dump seem to shrink when it has gone."""
    with replaced(hourly, LATER) as name:
        with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {takes}".encode())
        first = hourly.backup()
    for key in ("database", "size", "extension", "table"):
        assert name not in {values[0] for values in hourly.manifest(first)[key]}, key
    assert b"\\connect frag_former" not in gzip.decompress(hourly.read(first))
    hourly.backup()


def test_a_former_database_is_dropped_when_its_time_is_over_though_it_is_a_template(hourly: Hourly) -> None:
    """Case 07a."""
    with replaced(hourly, OVER, "ALTER DATABASE frag_former_20240101000000 IS_TEMPLATE true") as name:
        result = hourly.run()
        with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
            there = connection.execute("SELECT FROM pg_database WHERE datname = %s", [name]).fetchall()
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    green(result)
    assert there == []
    assert "former_left" not in result.verdict


def test_a_former_database_that_cannot_be_dropped_stops_nothing(hourly: Hourly) -> None:
    """Somebody has left a transaction open that holds its lock."""
    hasty = faults.patch_python("stack_backup_jobs.server", "DROP_PATIENCE = '1s'")
    with replaced(hourly, OVER) as name, psycopg.connect(hourly.stack.database.dsn("postgres")) as open_one:
        open_one.execute(f"ALTER DATABASE {name} SET work_mem = '4MB'".encode())
        result = hourly.run(python=hasty)
        open_one.rollback()
    assert (result.exit_code, result.verdict["outcome"]) == (0, "published"), result.log
    assert result.verdict["former_left"] == [name]
    assert name in result.verdict["message"]


def test_a_template_that_takes_no_connections_is_named(hourly: Hourly) -> None:
    """Case 08."""
    with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE golden IS_TEMPLATE true ALLOW_CONNECTIONS false")
        try:
            result = hourly.run()
        finally:
            connection.execute("ALTER DATABASE golden IS_TEMPLATE false")
            connection.execute("DROP DATABASE golden")
    green(result)
    assert result.verdict["not_backed_up"] == ["golden"]
    assert "golden" in result.verdict["message"]


def test_no_timeout_of_the_server_ends_a_dump(hourly: Hourly) -> None:
    """Case 12."""
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout")
    timeouts = {**dict.fromkeys(names, "1ms"), "idle_session_timeout": "200ms"}
    with psycopg.connect(hourly.stack.database.dsn("postgres"), autocommit=True) as connection:
        for name, value in timeouts.items():
            connection.execute(f"ALTER ROLE admin SET {name} = '{value}'".encode())
        try:
            hourly.backup()
        finally:
            connection.execute("ALTER ROLE admin RESET ALL")


def test_a_manifest_tells_the_size_of_every_database(hourly: Hourly) -> None:
    sizes = {name: int(size) for name, size in hourly.manifest(hourly.backup())["size"]}
    with psycopg.connect(hourly.stack.database.dsn("postgres")) as connection:
        row = connection.execute("SELECT pg_database_size('frag')").fetchone()
    assert row is not None
    assert sizes.keys() == {"frag", "postgres", "template1"}
    assert sizes["frag"] == pytest.approx(row[0], rel=0.1)


@pytest.mark.parametrize(("code", "number"), [("EIO", 74), ("EACCES", 77)])
def test_an_earlier_manifest_that_cannot_be_read_is_told_but_the_new_dump_is_published(
    hourly: Hourly, code: str, number: int
) -> None:
    old = hourly.plant_verified(KEEP + 2)
    failing = faults.fail_python("open", code, f"{old[-1]!r} in path and '.tsv' in path")
    with hourly.unharmed(published=1):
        result = hourly.run(python=failing)
    red(result, number, old[-1], "is published and whole", "none was removed")


PUBLISHING = "'/hourly/backup-' in target"
"""The link that gives a dump its final name."""


def test_two_runs_at_once_both_publish(hourly: Hourly) -> None:
    held = faults.hold_python("os.link", PUBLISHING)
    with hourly.unharmed(published=2), hourly.start(python=held) as first:
        first.reached("reached")
        second = hourly.run()
        assert second.succeeded, second.log
        first.release("go")
        assert first.wait().succeeded, first.wait().log
    assert len({hourly.manifest(name)["started"][0][0] for name in hourly.dumps()}) == 2


@pytest.mark.parametrize("point", [PUBLISHING, "'/.manifest/backup-' in target"], ids=["dump", "manifest"])
def test_of_two_runs_in_the_same_second_one_publishes(hourly: Hourly, point: str) -> None:
    stamp = f"{datetime.now(UTC) - timedelta(minutes=1):%Y-%m-%dT%H:%M:%SZ}"
    clock = faults.patch_python("stack_backup_jobs.hourly", f"stamp = lambda: '{stamp}'")
    with hourly.start(python=faults.hold_python("os.link", point) + clock) as first:
        first.reached("reached")
        second = hourly.run(python=clock)
        first.release("go")
        results = [first.wait(), second]
    assert sorted(result.exit_code or 0 for result in results) == [0, 75], [result.log for result in results]
    [loser] = [result for result in results if not result.succeeded]
    assert "taken" in loser.verdict["message"]
    [name] = hourly.dumps()
    assert hourly.verified() == [name]
    assert hourly.others() == []


@pytest.mark.parametrize("code", ["EIO", "EEXIST"], ids=["no answer", "asked again"])
def test_an_answer_lost_by_the_file_server_is_no_failure(hourly: Hourly, code: str) -> None:
    with hourly.unharmed(published=1):
        result = hourly.run(python=lost_link(code))
    green(result)


def lost_link(code: str) -> str:
    """A file server that does it, and whose answer is an error."""
    return faults.patch_python(
        "stack_backup_jobs.folder",
        f"""
real = os.link
def lost(path, name):
    real(path, name)
    if name.name.startswith("backup-"):
        raise OSError(errno.{code}, os.strerror(errno.{code}), str(path), None, str(name))
os.link = lost
""",
    )


@pytest.fixture(scope="module")
def newer(runtime: LocalRuntime) -> Iterator[LocalStack]:
    """A stack whose server is of the next major version but one."""
    with runtime.stack("staging-stack", "postgres:17") as stack:
        dataset.fill(stack.database, molecules=0)
        yield stack


def test_postgresql_17_comes_back_whole(newer: LocalStack, tmp_path: Path) -> None:
    newer.install({"database": {"image": {"repository": "postgres", "tag": "17"}}})
    hourly = Hourly(newer, None)
    name = hourly.backup()
    assert hourly.manifest(name)["server_version"][0][0].startswith("17.")
    assert restored(hourly, name, tmp_path) == []


def test_a_client_older_than_the_server_is_refused(newer: LocalStack) -> None:
    newer.install(VALUES)
    hourly = Hourly(newer, None)
    with hourly.unharmed():
        result = hourly.run()
    assert result.exit_code == 78, result.log
    assert "older than the server" in result.verdict["message"]


def test_real_molecules_come_back_whole(runtime: LocalRuntime, tmp_path: Path) -> None:
    """The demo's own data: RDKit molecules, fingerprints and their indexes among the application's tables."""
    with runtime.stack(NAMESPACE) as stack:
        filled = dataset.fill(stack.database, molecules=500)
        assert filled.molecules == 500
        stack.install(VALUES)
        hourly = Hourly(stack, None)
        name = hourly.backup()
        assert ["frag", "rdkit"] in [extension[:2] for extension in hourly.manifest(name)["extension"]]
        assert restored(hourly, name, tmp_path) == []
        assert stack.volume(CLAIM).list(FOLDER) == [".manifest", name]
