"""Tables of a dump, brought back beside the live ones by database-recovery with TABLES."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.tables import schema_of
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.test_recovery import JOB, PRODUCTION
from tests.outcomes import green, red
from tests.render import contract

UNTOUCHED = "The live database is as it was"
CONTENT = r"""
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE SCHEMA other;
CREATE TABLE note (id serial PRIMARY KEY, text varchar(40) NOT NULL, mood mood,
    at timestamptz DEFAULT now(), length int GENERATED ALWAYS AS (length(text)) STORED);
INSERT INTO note (text, mood) SELECT E'a\tnote\n' || n, 'bad' FROM generate_series(1, 2000) n;
INSERT INTO note (text) VALUES (E'\\.'), ('');
CREATE TABLE "Odd ""name"", a" (id int, "select" numeric(9, 3)[]);
INSERT INTO "Odd ""name"", a" VALUES (1, '{1.5,NULL}');
CREATE TABLE twice (id int);
CREATE TABLE other.twice AS SELECT 1 AS id;
CREATE TABLE rowless (id int);
CREATE TABLE parent (id int);
CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (2), (3);
CREATE TABLE measured (day date, value int) PARTITION BY RANGE (day);
CREATE TABLE measured_2025 PARTITION OF measured FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');
CREATE TABLE measured_rest PARTITION OF measured DEFAULT;
INSERT INTO measured SELECT date '2025-06-01' + n * 30, n FROM generate_series(1, 20) n;
CREATE TABLE known (id int PRIMARY KEY);
INSERT INTO known VALUES (1), (2);
CREATE FUNCTION is_known(int) RETURNS bool LANGUAGE sql
    AS 'SELECT EXISTS (SELECT FROM public.known WHERE id = $1)';
CREATE TABLE checked (id int CHECK (is_known(id)));
INSERT INTO checked VALUES (1), (2);
"""


class Production:
    """A stack with one dump, whose live tables have changed since."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.dump = green(stack.run(contract.HOURLY)).verdict["dump"]
        self.stamp = self.dump.removeprefix("backup-").removesuffix("-dumpall.sql.gz")
        self.schema = schema_of(self.stamp)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.stack.database.dsn("frag")) as connection:
            return connection.execute(sql.encode()).fetchall()

    def back(self, *tables: str, **options: Any) -> JobResult:
        fields = {key: options.pop(key) for key in ("shims", "without", "python") if key in options}
        environment = {"TABLES": "\n".join(tables), **{key.upper(): value for key, value in options.items()}}
        return self.stack.run(JOB, environment=environment, faults=Faults(**fields))

    @property
    def state(self) -> object:
        """Databases, schemas, and what every table of the application holds."""
        databases = self.ask("SELECT datname, datconnlimit FROM pg_database ORDER BY 1")
        schemas = self.ask("SELECT nspname FROM pg_namespace ORDER BY 1")
        tables = self.ask(
            "SELECT oid, relfilenode, pg_relation_size(oid) FROM pg_class WHERE relkind = 'r'"
            " AND relnamespace IN ('public'::regnamespace, 'other'::regnamespace) ORDER BY 1"
        )
        return databases, schemas, tables, self.ask("SELECT count(*), sum(length) FROM note")

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        before = self.state
        yield
        assert self.state == before

    def refused(self, code: int, *words: str, tables: tuple[str, ...] = ("note",), **options: Any) -> None:
        with self.unharmed():
            red(self.back(*tables, **options), code, UNTOUCHED, *words)


@pytest.fixture(scope="module")
def made(runtime: LocalRuntime) -> Iterator[Production]:
    with runtime.stack(contract.NAMESPACE, "postgres:15") as stack:
        stack.database.execute(CONTENT, "frag")
        stack.install(merge_values(PRODUCTION, {"postgresReplicatorBackup": {"enabled": False}}))
        made = Production(stack)
        stack.database.execute("DELETE FROM note; INSERT INTO note (text) VALUES ('later')", "frag")
        yield made


@pytest.fixture
def production(made: Production) -> Iterator[Production]:
    yield made
    made.stack.database.execute(f"DROP SCHEMA IF EXISTS {made.schema} CASCADE", "frag")


def test_tables_come_back_beside_the_live_ones(production: Production) -> None:
    before = production.state
    result = green(
        production.back("note", 'public."Odd ""name"", a"', "other.twice", "public.rowless"), "restored"
    )
    verdict = result.verdict
    assert (verdict["schema"], verdict["tables"], verdict["rows"]) == (production.schema, 4, 2004)
    assert "public.note: 2002" in verdict["restored"]
    schema = production.schema
    assert production.ask(
        f"SELECT count(*), count(mood), sum(length), min(text) FROM {schema}.note WHERE text <> ''"
    ) == [(2001, 2000, sum(len(f"a\tnote\n{n}") for n in range(1, 2001)) + 2, "\\.")]
    assert production.ask(f'SELECT "select"::text FROM {schema}."Odd ""name"", a"') == [("{1.500,NULL}",)]
    assert production.ask(f"SELECT count(*) FROM {schema}.rowless") == [(0,)]
    types = (
        "SELECT atttypid::regtype::text FROM pg_attribute WHERE attrelid = '{}.note'::regclass AND attnum > 0"
    )
    assert production.ask(types.format(schema)) == production.ask(types.format("public"))
    owners = f"SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = '{schema}'"
    assert production.ask(owners) == [("fragalysis",)]
    production.stack.database.execute(f"DROP SCHEMA {schema} CASCADE", "frag")
    assert production.state == before


def test_rows_of_partitions_come_with_their_root_and_those_of_heirs_do_not(production: Production) -> None:
    verdict = green(production.back("measured", "measured_2025", "parent")).verdict
    assert sorted(verdict["restored"]) == [
        "public.measured: 20",
        "public.measured_2025: 7",
        "public.parent: 1",
    ]


def test_a_check_that_looks_into_another_table_keeps_no_row_back(production: Production) -> None:
    verdict = green(production.back("checked")).verdict
    assert verdict["rows"] == 2


def test_another_table_of_the_same_dump_can_follow(production: Production) -> None:
    green(production.back("note"))
    green(production.back("rowless", dump=production.stamp))
    red(production.back("note"), 78, UNTOUCHED, production.schema, "has note already", "drop or rename it")


@pytest.mark.parametrize(
    ("tables", "code", "words"),
    [
        (("nota",), 66, ("holds no table nota", "note")),
        (("public.twise",), 66, ("holds no table public.twise", "public.twice")),
        (("twice",), 66, ("several tables twice: other.twice, public.twice",)),
        (("other.twice", "public.twice"), 64, ("Two tables of one name",)),
    ],
    ids=["no such table", "no such name in the schema", "of several schemas", "two of one name"],
)
def test_a_name_that_is_not_one_table_is_refused(
    production: Production, tables: tuple[str, ...], code: int, words: tuple[str, ...]
) -> None:
    production.refused(code, *words, tables=tables)


def test_a_type_that_the_live_database_lacks_is_named(production: Production) -> None:
    production.stack.database.execute("ALTER TYPE mood RENAME TO temper", "frag")
    try:
        production.refused(78, "lacks the type of public.note.mood (public.mood)")
    finally:
        production.stack.database.execute("ALTER TYPE temper RENAME TO mood", "frag")


def test_a_type_of_that_name_that_is_another_leaves_nothing(production: Production) -> None:
    execute = production.stack.database.execute
    execute("ALTER TYPE mood RENAME VALUE 'bad' TO 'worse'", "frag")
    try:
        production.refused(78, "Copying public.note failed", "mood", tables=("rowless", "note"))
    finally:
        execute("ALTER TYPE mood RENAME VALUE 'worse' TO 'bad'", "frag")


def test_a_row_that_is_lost_on_the_way_is_noticed_and_leaves_nothing(production: Production) -> None:
    lossy = """
def copy_out(self, sql, _own=Session.copy_out):
    yield from _own(self, sql.replace(') TO STDOUT', ' OFFSET 1) TO STDOUT'))
Session.copy_out = copy_out
"""
    production.refused(
        65,
        "public.note has 2001 rows",
        "holds 2002",
        python=faults.patch_python("stack_backup_jobs.session", lossy),
    )


def test_a_copy_that_would_fill_the_volume_of_the_server_is_stopped(production: Production) -> None:
    filling = """
from stack_backup_jobs import room
import time
copying = []
def look(self, session, own=room.Room.look):
    return [room.Free("The server's volume", ("", ""), 1 << 20)] if copying else own(self, session)
def copy_out(self, sql, own=Session.copy_out):
    copying.append(sql)
    for chunk in own(self, sql):
        time.sleep(3)
        yield chunk
room.Room.look, Session.copy_out = look, copy_out
"""
    production.refused(
        73, "has 1 MiB left", "was stopped", python=faults.patch_python("stack_backup_jobs.tables", filling)
    )


def test_killed_amid_the_copy_leaves_a_database_that_the_next_run_drops(production: Production) -> None:
    before = production.ask("SELECT nspname FROM pg_namespace ORDER BY 1")
    killed = production.back(
        "note", python=faults.kill_python("stack_backup_jobs.tables:Tables._copy_one", "True")
    )
    assert killed.exit_code == 137
    assert production.ask("SELECT nspname FROM pg_namespace ORDER BY 1") == before
    green(production.back("note"))
    assert production.ask("SELECT datname FROM pg_database WHERE datname LIKE '%restore%'") == []
