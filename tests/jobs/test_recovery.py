"""The recovery of a database: what it brings back, what it refuses, and every way to end it."""

from __future__ import annotations

import gzip
import hashlib
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.data import comparison, dataset
from stack_backup_lab.render import merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack, LocalVolume, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.dumps import await_a_free_second
from tests.jobs.mutants import mutant
from tests.outcomes import green, red
from tests.render import contract

JOB = "database-recovery"
NAMESPACE = "staging-stack"
LATER = "written after the dump"
NFS = {"nfs": {"server": "nas.example.org"}}
COMMON = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"dumpSize": "1Mi"},
    "volumes": {"databaseReplica": NFS, "mediaReplica": NFS},
    "databaseRecovery": {"enabled": True, "scratch": {"size": "1Gi"}},
}
PRODUCTION = merge_values(
    COMMON,
    {"postgresReplicatorBackup": {"enabled": True}},
    {"databaseRecovery": {"source": "backup", "allowSourceServer": True}},
)
STAGING = merge_values(COMMON, {"postgresBackupHourly": {"enabled": False}})
LIVE = "SELECT string_agg(datname || ' ' || datconnlimit, ', ' ORDER BY datname) FROM pg_database"

# What a reader of dumps could take for their structure, and what a comparison must not miss.
CONTENT = r"""
SELECT format('CREATE ROLE %I; GRANT %I TO %I', 'member ' || n, 'member ' || n, 'fragalysis')
    FROM generate_series(1, 100) n \gexec
CREATE TABLE "naïve ""Ünïcode"" table" (id int PRIMARY KEY, "select" text);
INSERT INTO "naïve ""Ünïcode"" table"
    SELECT n, E'\\connect frag\n--\n-- PostgreSQL database cluster dump complete\n--\n'
    FROM generate_series(1, 7) n;
CREATE TABLE rowless (id int);
CREATE TABLE measured (day date, value int, twice int GENERATED ALWAYS AS (value * 2) STORED)
    PARTITION BY RANGE (day);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measured_rest PARTITION OF measured DEFAULT;
INSERT INTO measured (day, value) SELECT date '2025-06-01' + n * 30, n FROM generate_series(1, 20) n;
CREATE FUNCTION deceives() RETURNS text LANGUAGE sql AS $body$ SELECT '
\connect frag
-- Database "frag" dump
COPY public.rowless (id) FROM stdin;
1
\.
-- Name: DATABASE frag; Type: ACL; Schema: -; Owner: fragalysis
--
-- PostgreSQL database cluster dump complete
--
' $body$;
ALTER TABLE measured ENABLE ROW LEVEL SECURITY;
CREATE POLICY nobody ON measured TO "member 7" USING (false);
ALTER TABLE rowless OWNER TO "member 8";
ALTER DEFAULT PRIVILEGES FOR ROLE "member 9" IN SCHEMA public GRANT SELECT ON TABLES TO "member 10";
CREATE DATABASE "another ""odd"" naïve one";
COMMENT ON DATABASE frag IS E'A comment.\n\\connect postgres\n';
ALTER DATABASE frag SET work_mem = '5MB';
GRANT CONNECT ON DATABASE frag TO frag_reader;
"""


@dataclass(repr=False)
class World:
    """Production, whose dump lies in the replica, and staging, which is recovered from it."""

    production: LocalStack
    staging: LocalStack
    dump: str
    held: comparison.Snapshot

    @property
    def replica(self) -> LocalVolume:
        return self.staging.volume(self.staging.claim_of(JOB, "source"))

    @property
    def path(self) -> str:
        return f"hourly/{self.dump}"

    @property
    def manifest(self) -> str:
        return f"hourly/.manifest/{self.dump}.tsv"

    @property
    def stamp(self) -> str:
        return re.sub(r"backup-(.*)-dumpall.*", r"\1", self.dump)

    def start(self, **options: Any) -> RunningJob:
        return self.staging.start(JOB, **_asked(options))

    def recover(self, **options: Any) -> JobResult:
        return self.staging.run(JOB, **_asked(options))

    def differences(self, stack: LocalStack) -> list[str]:
        """What differs from what production's database held, but for what belongs to servers."""
        now = comparison.snapshot(stack.database, [dataset.DATABASE])
        return [
            str(one) for one in comparison.differences(self.held, now) if one.database == dataset.DATABASE
        ]


def _asked(options: dict[str, Any]) -> dict[str, Any]:
    """The job with its confirmation; `shims` and such are faults, all else is environment."""
    fields = {key: options.pop(key) for key in ("shims", "without", "python") if key in options}
    environment = {key.upper(): value for key, value in options.items()}
    return {"environment": {"CONFIRM": NAMESPACE, **environment}, "faults": Faults(**fields)}


@pytest.fixture(scope="module")
def world(runtime: LocalRuntime) -> Iterator[World]:
    with (
        runtime.stack(contract.NAMESPACE, "postgres:15") as production,
        runtime.stack(NAMESPACE, "postgres:15") as staging,
    ):
        dataset.fill(production.database, molecules=0)
        production.database.execute(CONTENT, dataset.DATABASE)
        production.install(PRODUCTION)
        staging.install(STAGING)
        held = comparison.snapshot(production.database, [dataset.DATABASE])
        dump = production.run(contract.HOURLY).verdict["dump"]
        assert production.run("postgres-replicator-backup").succeeded
        dataset.add_rows_after(production.database, LATER)
        yield World(production, staging, dump, held)


@pytest.fixture
def old(world: World) -> Iterator[World]:
    """Staging with a database of its own, which a failure must leave as it is."""
    server = world.staging.database
    for name in _databases(world.staging):
        if name.startswith("frag"):
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    server.execute("CREATE DATABASE frag OWNER fragalysis CONNECTION LIMIT 40")
    server.execute("CREATE TABLE mine AS SELECT 'staging' AS text", "frag")
    world.staging.install(STAGING)
    files = {name: world.replica.read(name) for name in (world.path, world.manifest)}
    yield world
    for name in world.replica.list("hourly"):
        if name.startswith("backup-") and name != world.dump:
            world.replica.remove(f"hourly/{name}")
    for name, data in files.items():
        world.replica.write(name, data)


def _databases(stack: LocalStack) -> list[str]:
    with psycopg.connect(stack.database.dsn("postgres")) as connection:
        return [name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()]


def _state(stack: LocalStack) -> tuple[str, object]:
    """Databases with their connection limits, and whether the live one is staging's own."""
    with psycopg.connect(stack.database.dsn("postgres")) as connection:
        row = connection.execute(LIVE.encode()).fetchone()
    assert row is not None
    with psycopg.connect(stack.database.dsn("frag")) as connection:
        mine = connection.execute("SELECT to_regclass('public.mine')::text").fetchone()
    return row[0], mine


@contextmanager
def unharmed(world: World) -> Iterator[None]:
    """Staging's databases and the content of the live one are after the block what they were before."""
    before = _state(world.staging)
    yield
    assert _state(world.staging) == before


def refused(world: World, code: int, *words: str, **options: Any) -> JobResult:
    with unharmed(world):
        result = world.recover(**options)
    red(result, code, "The live database is as it was", *words)
    return result


def recovered(world: World, **options: Any) -> JobResult:
    return green(world.recover(**options), "recovered")


def plant(world: World, stamp: str, sql: bytes, *, suffix: str = "gz") -> None:
    """A dump of an older tool: no manifest."""
    world.replica.write(f"hourly/backup-{stamp}-dumpall.sql.{suffix}", gzip.compress(sql, 1))


OLD = "2020-02-29T08:51:08Z"


# ---- what comes back ----


def test_everything_comes_back_and_nothing_that_came_later(old: World) -> None:
    result = recovered(old)
    assert old.differences(old.staging) == []
    assert dataset.count_rows_after(old.staging.database, LATER) == 0
    assert dataset.count_rows_after(old.production.database, LATER) > 0
    assert result.verdict["dump"] == old.dump
    assert result.verdict["rows"] > 9000
    former = result.verdict["former"]
    with pytest.raises(psycopg.OperationalError, match="not currently accepting connections"):
        psycopg.connect(old.staging.database.dsn(former))
    old.staging.database.execute(f'ALTER DATABASE "{former}" ALLOW_CONNECTIONS true')
    with psycopg.connect(old.staging.database.dsn(former)) as connection:
        assert connection.execute("SELECT text FROM mine").fetchone() == ("staging",)
    assert sorted(name for name in _databases(old.staging) if name.startswith("frag")) == ["frag", former]


def test_what_belongs_to_the_database_itself_comes_back_too(old: World) -> None:
    recovered(old)
    query = (
        "SELECT shobj_description(oid, 'pg_database'), datconnlimit, pg_get_userbyid(datdba),"
        " has_database_privilege('frag_reader', 'frag', 'CONNECT') FROM pg_database WHERE datname = 'frag'"
    )
    found = []
    for stack in (old.production, old.staging):
        with psycopg.connect(stack.database.dsn("frag")) as connection:
            found.append(
                (connection.execute(query).fetchone(), connection.execute("SHOW work_mem").fetchone())
            )
    assert found[0] == found[1]
    assert found[0][0][0].startswith("A comment.\n\\connect postgres")


def test_the_stack_keeps_its_own_passwords(old: World) -> None:
    own, theirs = (stack.database.passwords["fragalysis"] for stack in (old.staging, old.production))
    recovered(old)
    psycopg.connect(old.staging.database.dsn("frag", "fragalysis", own)).close()
    psycopg.connect(old.staging.database.dsn("frag")).close()  # the superuser's
    for user, password in (("fragalysis", theirs), ("admin", old.production.database.passwords["admin"])):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(old.staging.database.dsn("frag", user, password))
    query = "SELECT rolcanlogin, rolpassword FROM pg_authid WHERE rolname = 'member 8'"
    with psycopg.connect(old.staging.database.dsn("frag")) as connection:
        assert connection.execute(query).fetchone() == (False, None)


def test_whoever_is_connected_is_thrown_out(old: World) -> None:
    with psycopg.connect(old.staging.database.dsn("frag"), autocommit=True) as session:
        session.execute("SELECT 1")
        recovered(old)
        with pytest.raises(psycopg.OperationalError):
            session.execute("SELECT 1")


def test_a_database_that_is_not_there_is_made(old: World) -> None:
    old.staging.database.execute("DROP DATABASE frag")
    result = recovered(old)
    assert "former" not in result.verdict
    assert old.differences(old.staging) == []


def test_a_second_recovery_repeats_the_first(old: World) -> None:
    recovered(old)
    recovered(old)
    assert old.differences(old.staging) == []


def test_former_databases_are_dropped_when_their_time_is_over(old: World) -> None:
    server = old.staging.database
    names = ["frag_former_20200101000000", "frag_former_20200102000000", "frag_former_mine"]
    for name in names:
        server.execute(f"CREATE DATABASE {name}")
    for name in (names[0], names[2], "frag"):  # which no setting alone may drop
        server.execute(f"ALTER DATABASE {name} SET stack_backup.drop_after = '2020-01-02T00:00:00Z'")
    kept = recovered(old).verdict["former"]
    assert set(_databases(old.staging)) & {*names, kept} == {*names[1:], kept}
    assert recovered(old, keep_former_seconds="0").verdict["former"] not in _databases(old.staging)
    assert kept in _databases(old.staging), "its own time is a day"


def test_production_dropped_its_database(world: World) -> None:
    world.production.database.execute("DROP DATABASE frag WITH (FORCE)")
    result = world.production.run(JOB, environment={"CONFIRM": contract.NAMESPACE})
    green(result)
    assert world.differences(world.production) == []
    dataset.add_rows_after(world.production.database, LATER)


def test_the_hourly_backup_drops_what_production_was_recovered_from(world: World) -> None:
    server = world.production.database
    server.execute("CREATE DATABASE frag_former_20200101000000")
    server.execute("ALTER DATABASE frag SET stack_backup.drop_after = '2020-01-02T00:00:00Z'")
    first = green(world.production.run(contract.HOURLY))
    assert {"frag", "frag_former_20200101000000"} <= set(_databases(world.production))
    command = "ALTER DATABASE frag_former_20200101000000 SET stack_backup.drop_after = '2020-01-02T00:00:00Z'"
    server.execute(command)
    await_a_free_second([str(first.verdict["dump"])])
    green(world.production.run(contract.HOURLY))
    assert "frag_former_20200101000000" not in _databases(world.production)
    assert "frag" in _databases(world.production)
    server.execute("ALTER DATABASE frag RESET stack_backup.drop_after")


HIDE = "UPDATE auth_user SET email = id || '@example.org';"


def test_sql_runs_before_the_database_is_live(old: World) -> None:
    old.staging.install(merge_values(STAGING, {"databaseRecovery": {"sql": HIDE}}))
    recovered(old)
    with psycopg.connect(old.staging.database.dsn("frag")) as connection:
        query = "SELECT count(*), count(*) FILTER (WHERE email = id || '@example.org') FROM auth_user"
        everybody, hidden = connection.execute(query).fetchone() or (0, 0)
    assert everybody == hidden > 0


def test_sql_that_fails_replaces_nothing(old: World) -> None:
    old.staging.install(merge_values(STAGING, {"databaseRecovery": {"sql": f"{HIDE} SELECT 1 / 0;"}}))
    refused(old, 78, "databaseRecovery.sql", "division by zero")


# ---- dumps of older tools and of other versions ----


def _sql(world: World) -> bytes:
    return gzip.decompress(world.replica.read(world.path))


def test_a_dump_without_a_manifest_is_recovered_when_named(old: World) -> None:
    plant(old, OLD, _sql(old))
    assert recovered(old, dump=OLD).verdict["dump"] == f"backup-{OLD}-dumpall.sql.gz"
    assert old.differences(old.staging) == []


def test_a_dump_without_a_manifest_is_never_the_latest(old: World) -> None:
    plant(old, "2027-01-01T00:00:00Z", _sql(old))
    plant(old, OLD, _sql(old))
    assert recovered(old).verdict["dump"] == old.dump
    old.replica.remove(old.manifest)
    refused_result = old.recover()
    red(refused_result, 66, "verified", OLD)


def test_a_dump_without_guards_around_its_text(old: World) -> None:
    """Before 15.14 and 17.6 nothing marked what is text: the reader follows its quotes."""
    sql = re.sub(rb"(?m)^\\(un)?restrict [A-Za-z0-9]{40,}\n", b"", _sql(old))
    assert b"\n\\restrict " not in sql
    plant(old, OLD, sql)
    recovered(old, dump=OLD)
    assert old.differences(old.staging) == []


def test_a_dump_that_drops_what_is_there_drops_nothing(old: World) -> None:
    shims = faults.dump_by('pg_dumpall "$@" --clean --if-exists')
    production = old.production
    with psycopg.connect(production.database.dsn("frag")) as connection:
        later = connection.execute("SELECT count(*) FROM viewer_note").fetchone()
    made = production.run(contract.HOURLY, faults=Faults(shims=shims))
    assert made.succeeded, made.log
    sql = gzip.decompress(production.volume("database-backup").read(f"hourly/{made.verdict['dump']}"))
    assert b"\nDROP DATABASE IF EXISTS frag;" in sql
    assert b"\nDROP ROLE IF EXISTS admin;" in sql
    plant(old, OLD, sql)
    former = recovered(old, dump=OLD).verdict["former"]
    with psycopg.connect(old.staging.database.dsn("frag")) as connection:
        assert connection.execute("SELECT count(*) FROM viewer_note").fetchone() == later
    assert former in _databases(old.staging)


@pytest.fixture(scope="module")
def newer(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, "postgres:17") as stack:
        stack.install(merge_values(STAGING, {"database": {"image": {"tag": "17"}}}))
        yield stack


def test_a_newer_server_takes_an_older_dump(old: World, newer: LocalStack) -> None:
    result = newer.run(JOB, environment={"CONFIRM": NAMESPACE})
    green(result)
    with psycopg.connect(newer.database.dsn("frag")) as connection:
        for (_, name), table in old.held.tables.items():
            count = connection.execute(f"SELECT count(*) FROM ONLY {name}".encode()).fetchone()
            assert count == (len(table.rows),), name


def test_an_old_dump_of_the_newer_server(runtime: LocalRuntime) -> None:
    with runtime.stack(contract.NAMESPACE, "postgres:17") as stack:
        stack.install(merge_values(PRODUCTION, {"database": {"image": {"tag": "17"}}}))
        dataset.fill(stack.database, molecules=0)
        held = comparison.snapshot(stack.database, [dataset.DATABASE])
        dump = stack.run(contract.HOURLY).verdict["dump"]
        stack.volume("database-backup").remove(f"hourly/.manifest/{dump}.tsv")
        dataset.add_rows_after(stack.database, LATER)
        environment = {"CONFIRM": contract.NAMESPACE, "DUMP": re.sub(r"backup-(.*)-dumpall.*", r"\1", dump)}
        result = stack.run(JOB, environment=environment)
        green(result)
        now = comparison.snapshot(stack.database, [dataset.DATABASE])
        assert [one for one in comparison.differences(held, now) if one.database == dataset.DATABASE] == []


def test_an_older_server_refuses_a_newer_dump(old: World) -> None:
    plant(
        old,
        OLD,
        _sql(old).replace(b"-- Dumped from database version 15.", b"-- Dumped from database version 17."),
    )
    refused(old, 78, "17.", "newer major", dump=OLD)


# ---- what is refused ----


def test_nothing_is_replaced_without_its_name(old: World) -> None:
    refused(old, 64, f"CONFIRM={NAMESPACE}", confirm="")
    refused(old, 77, "production-stack", confirm="production-stack")


def test_a_dump_that_is_not_there_is_an_error(old: World) -> None:
    refused(old, 66, OLD, old.stamp, dump=OLD)


def test_an_empty_source(old: World) -> None:
    old.replica.remove(old.path)
    refused(old, 66, "no dump")


def test_the_server_that_was_dumped_is_refused(world: World) -> None:
    environment = {"CONFIRM": contract.NAMESPACE, "ALLOW_SOURCE_SERVER": "false"}
    before = comparison.snapshot(world.production.database)
    result = world.production.run(JOB, environment=environment)
    red(result, 77, "this very server", "allowSourceServer")
    assert comparison.differences(before, comparison.snapshot(world.production.database)) == []


def test_one_byte_is_different(old: World) -> None:
    data = old.replica.read(old.path)
    old.replica.write(old.path, data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    refused(old, 65, "sha256 differs")


def test_a_dump_that_was_cut_off(old: World) -> None:
    old.replica.write(old.path, old.replica.read(old.path)[:-100])
    refused(old, 65, "size", dump=old.stamp)
    red(old.recover(), 66, "verified")


@pytest.mark.parametrize("share", [0.3, 0.999])
def test_a_text_that_was_cut_off_though_its_manifest_agrees(old: World, share: float) -> None:
    sql = _sql(old)
    data = gzip.compress(sql[: int(len(sql) * share)], 1)
    old.replica.write(old.path, data)
    manifest = old.replica.read(old.manifest).decode()
    for key, value in (("bytes", len(data)), ("sha256", hashlib.sha256(data).hexdigest())):
        manifest = re.sub(rf"(?m)^{key}\t.*$", f"{key}\t{value}", manifest)
    old.replica.write(old.manifest, manifest.encode())
    refused(old, 65, "cut off")


def test_a_dump_of_something_else(old: World) -> None:
    plant(old, OLD, b"-- not a dump\nSELECT 1;\n")
    refused(old, 65, "cut off", dump=OLD)


def test_a_server_without_the_extension(old: World) -> None:
    manifest = old.replica.read(old.manifest) + b"extension\tfrag\trdkit\t4.2\n"
    old.replica.write(old.manifest, manifest)
    refused(old, 78, "rdkit", "image")


def test_a_statement_that_fails(old: World) -> None:
    sql = _sql(old).replace(b"\nCREATE TABLE public.rowless (", b"\nCREATE TABLE public.rowless (id oops,", 1)
    plant(old, OLD, sql)
    refused(old, 65, "oops", dump=OLD)


def test_rows_that_a_trigger_swallows_are_missed(old: World) -> None:
    """Loaded without an error and not whole all the same: only counting tells."""
    sql = _sql(old)
    rows = re.search(rb"(?s)\nCOPY public\.viewer_note .*?\n\\\.\n", sql)
    assert rows
    trigger = (
        b"\nCREATE FUNCTION public.no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        b"\nCREATE TRIGGER no BEFORE INSERT ON public.viewer_note FOR EACH ROW EXECUTE FUNCTION public.no();"
    )
    sql = sql.replace(rows[0], trigger + rows[0], 1)
    plant(old, OLD, sql)
    refused(old, 65, "the table public.viewer_note of frag: 0 rows instead of", dump=OLD)


def test_no_room_for_the_copy(old: World) -> None:
    old.staging.install(merge_values(STAGING, {"databaseRecovery": {"scratch": {"size": "1Mi"}}}))
    refused(old, 73, "databaseRecovery.scratch.size")


def test_no_password_and_no_server(old: World) -> None:
    secret = old.staging.secrets["database"]
    own = secret.pop("user_password")
    refused(old, 78, "no password in owner-password")
    secret["user_password"] = own
    password = secret.pop("root_password")
    try:
        refused(old, 78, "no password")
        secret["root_password"] = b"wrong"
        refused(old, 77, "password authentication failed")
    finally:
        secret["root_password"] = password
    with old.staging.database.stopped():
        result = old.recover()
    red(result, 69, "refused", "The live database is as it was")


# ---- ends from outside ----

PACKAGE = "stack_backup_jobs"
POINTS = {
    "the copy": faults.hold_python(f"{PACKAGE}.folder:copy"),
    "the reading": faults.hold_python(f"{PACKAGE}.reader:read"),
    "the new database": faults.hold_python(f"{PACKAGE}.target:Target.begin"),
    "the settings": faults.hold_python(f"{PACKAGE}.restore:Restore._property"),
    "the loading": faults.hold_python(f"{PACKAGE}.session:Session.copy_in", "b'viewer_text' in args[0]"),
    "the counting": faults.hold_python(f"{PACKAGE}.compare:found"),
    "the fence": faults.hold_python(f"{PACKAGE}.target:Target.swap"),
    "the swap": faults.hold_python(f"{PACKAGE}.target:Target._swap"),
}
SWAPPED = faults.hold_python(f"{PACKAGE}.target:Target._swap", after=True)


def test_told_to_stop_after_the_swap(old: World) -> None:
    """The recovered database is live, and the run says so by the server's own word: nothing is left to do."""
    with old.start(python=SWAPPED + faults.HEARD) as job:
        job.reached("reached")
        job.signal(signal.SIGTERM)
        job.reached("heard")
        job.release("go")
        result = job.wait()
    red(result, 143, "is live already", "frag_former_")
    assert old.differences(old.staging) == []
    recovered(old)


def test_two_recoveries_at_once(old: World) -> None:
    """The second waits for the first a while, and then ends red with nothing done."""
    hasty = faults.patch_python(f"{PACKAGE}.target", "LOCK_PATIENCE = 1")
    with old.start(python=POINTS["the swap"]) as first:
        first.reached("reached")
        before = _databases(old.staging)
        second = old.recover(python=hasty)
        red(second, 75, "another recovery is at work", "The live database is as it was")
        assert _databases(old.staging) == before
        first.release("go")
        assert first.wait().succeeded, first.wait().log
    assert old.differences(old.staging) == []


def test_a_refused_run_has_touched_nothing(world: World) -> None:
    """The wrong server is recognised before what looks like a leftover is cleared there."""
    server = world.production.database
    server.execute("CREATE DATABASE frag_restore_20200101000000")
    environment = {"CONFIRM": contract.NAMESPACE, "ALLOW_SOURCE_SERVER": "false", "DUMP": world.stamp}
    assert world.production.run(JOB, environment=environment).exit_code == 77
    assert "frag_restore_20200101000000" in _databases(world.production)
    server.execute("DROP DATABASE frag_restore_20200101000000")


def test_a_dump_that_was_taken_behind_a_fence(old: World) -> None:
    """A backup may run while a recovery that was killed has left its fence: nobody is locked out by it."""
    server = old.production.database
    server.execute("ALTER DATABASE frag SET stack_backup.fence = '33'")
    server.execute("ALTER DATABASE frag CONNECTION LIMIT 0")
    try:
        dump = old.production.run(contract.HOURLY).verdict["dump"]
    finally:
        server.execute("ALTER DATABASE frag CONNECTION LIMIT -1")
        server.execute("ALTER DATABASE frag RESET stack_backup.fence")
    plant(old, OLD, gzip.decompress(old.production.volume("database-backup").read(f"hourly/{dump}")))
    recovered(old, dump=OLD)
    with psycopg.connect(old.staging.database.dsn("frag")) as connection:
        query = "SELECT datconnlimit FROM pg_database WHERE datname = 'frag'"
        assert connection.execute(query).fetchone() == (33,)
        assert connection.execute("SELECT current_setting('stack_backup.fence', true)").fetchone() == (None,)


def lost(instead: str) -> str:
    """The server's answer to the swap is lost, and `instead` is what has happened."""
    source = f"""
real = Target._swap
def lost(self, session, statements):
    {instead}
    raise UnreachableError("the connection was lost", "08006")
Target._swap = lost
"""
    return faults.patch_python(f"{PACKAGE}.target", source)


def test_an_answer_that_was_lost_after_the_swap(old: World) -> None:
    recovered(old, python=lost("real(self, session, statements)"))
    assert old.differences(old.staging) == []


def test_a_swap_that_never_was_is_no_success(old: World) -> None:
    """The new database is gone, and the live one is still the old one: that is no lost answer."""
    refused(old, 69, "Replacing the live database failed", python=lost("self.server.drop(self.side)"))


def test_the_log_holds_no_secret(old: World) -> None:
    log = recovered(old).log
    for secret in old.staging.secrets["database"].values():
        assert secret.decode().strip()[:16] not in log


# ---- safeguards taken out ----

RESTORE, RECOVERY = f"{PACKAGE}/restore.py", f"{PACKAGE}/recovery.py"
MUTANTS: dict[str, tuple[str, str, str, Callable[[World], None]]] = {
    "no digest": (RESTORE, 'digest != manifest.get("sha256")', "False", test_one_byte_is_different),
    "no counting": (
        RECOVERY,
        "if wrong := restore.differences(part, held):",
        "if wrong := []:",
        test_rows_that_a_trigger_swallows_are_missed,
    ),
    "an error is no end": (
        f"{PACKAGE}/loader.py",
        "self._refused(session, statement, error)",
        "pass",
        test_a_statement_that_fails,
    ),
    "any confirmation": (
        f"{PACKAGE}/settings.py",
        "confirm != namespace",
        "False",
        test_nothing_is_replaced_without_its_name,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(old: World, tmp_path: Path, name: str) -> None:
    file, safeguard, instead, test = MUTANTS[name]
    chart = mutant(tmp_path, file, safeguard, instead)
    old.staging.apply(render(STAGING, namespace=NAMESPACE, chart=chart))
    with pytest.raises(AssertionError):
        test(old)
