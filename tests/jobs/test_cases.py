"""What users have, one case each, from production's database by dump and drill to staging's; and attacks on
what a recovery promises.
"""

from __future__ import annotations

import gzip
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack_backup_jobs.session import identifier, literal
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack, LocalVolume
from stack_backup_lab.runtime.pod import Faults
from stack_backup_lab.runtime.sandbox import Bind
from tests.jobs import faults
from tests.jobs.chain import (
    DRILL,
    RECOVERY,
    STAGING,
    STAGING_NAMESPACE,
    Chain,
    anew,
    ask,
    conninfo,
    differences,
    names,
    value,
)
from tests.outcomes import green, red
from tests.render import contract

UNTOUCHED = "The live database is as it was"


def fill(chain: Chain, sql: str, database: str = "frag") -> None:
    chain.production.database.execute(sql, database)


# ---- memory that grows with the data ----


def test_more_text_than_the_pods_memory(chain: Chain) -> None:
    """97 MB of text, 4 MB packed: the pod's folder in memory has 64 MiB."""
    fill(chain, "CREATE TABLE big AS SELECT n, repeat('x', 40) AS pad FROM generate_series(1, 2000000) n")
    green(chain.backup())
    green(chain.drill())
    result = green(chain.recover())
    assert value(chain.staging, "SELECT count(DISTINCT n) FROM big WHERE pad = repeat('x', 40)") == 2000000
    assert result.verdict["rows"] == 2000000
    assert result.peak_memory is not None
    assert result.peak_memory < 128 << 20


# ---- what the content depends on is there before it ----


def test_a_view_that_depends_on_the_databases_time_zone(chain: Chain) -> None:
    fill(chain, "ALTER DATABASE frag SET timezone = 'America/New_York'", "postgres")
    fill(
        chain,
        "CREATE TABLE shot (id serial PRIMARY KEY, taken timestamptz NOT NULL);"
        "INSERT INTO shot (taken) SELECT timestamptz '2024-03-01 00:30:00+00' + n * interval '1 hour'"
        " FROM generate_series(0, 71) n;"
        "CREATE MATERIALIZED VIEW shots_by_day AS SELECT taken::date AS day, count(*) AS shots FROM shot"
        " GROUP BY 1;",
    )
    # What staging's own superuser has set must not change it, either.
    chain.staging.database.execute("ALTER ROLE admin SET timezone = 'Asia/Tokyo'")
    green(chain.backup())
    green(chain.drill())
    green(chain.recover())
    days = "SELECT day::text, shots FROM shots_by_day ORDER BY day"
    assert ask(chain.staging, days) == ask(chain.production, days)


def test_an_event_trigger_of_a_second_superuser(chain: Chain) -> None:
    fill(chain, "CREATE ROLE dba_kim SUPERUSER LOGIN PASSWORD 'x'", "postgres")
    fill(
        chain,
        "CREATE TABLE t AS SELECT generate_series(1, 10) n;"
        "CREATE FUNCTION guard() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;"
        "CREATE EVENT TRIGGER guard ON sql_drop EXECUTE FUNCTION guard();"
        "ALTER EVENT TRIGGER guard OWNER TO dba_kim;",
    )
    chain.there_and_back()
    assert ask(chain.staging, "SELECT rolsuper, rolcanlogin FROM pg_roles WHERE rolname = 'dba_kim'") == [
        (True, False)
    ]


OTHER_OWNER = {"database": {"owner": "app_staging"}}
SCHEMA_OF_OWNER = (
    "SET ROLE fragalysis; CREATE SCHEMA app; CREATE TABLE app.target AS SELECT generate_series(1, 10) n"
)


def test_an_owner_of_another_name_is_refused_in_advance(chain: Chain) -> None:
    fill(chain, SCHEMA_OF_OWNER)
    chain.install(OTHER_OWNER)
    green(chain.backup())
    before = names(chain.staging)
    words = ("belongs to fragalysis", "app_staging", "databaseRecovery.allowOtherOwner")
    red(chain.drill(), 78, *words)
    red(chain.recover(), 78, UNTOUCHED, *words)
    assert names(chain.staging) == before


def test_an_owner_of_another_name_that_is_allowed_can_use_all(chain: Chain) -> None:
    fill(chain, SCHEMA_OF_OWNER)
    chain.install({**OTHER_OWNER, "databaseRecovery": {"allowOtherOwner": True}})
    green(chain.backup())
    green(chain.drill())
    green(chain.recover())
    chain.staging.database.passwords["app_staging"] = chain.staging.database.passwords["fragalysis"]
    query = "SELECT count(*) FROM app.target"
    assert value(chain.staging, query, user="app_staging") == 10
    assert value(chain.staging, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'frag'") == (
        "app_staging"
    )


def test_a_superusers_database_makes_nobody_a_superuser(chain: Chain) -> None:
    """Whoever is a member of a superuser's role can become that."""
    fill(chain, "ALTER DATABASE frag OWNER TO admin", "postgres")
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    chain.install({**OTHER_OWNER, "databaseRecovery": {"allowOtherOwner": True}})
    green(chain.backup())
    red(chain.recover(), 78, UNTOUCHED, "admin", "superuser")
    fill(chain, "CREATE ROLE clerk; GRANT admin TO clerk; ALTER DATABASE frag OWNER TO clerk", "postgres")
    green(chain.backup())
    red(chain.recover(), 78, UNTOUCHED, "clerk", "superuser")


def test_a_dump_gives_no_power_to_who_was_there(chain: Chain) -> None:
    """Neither at once nor by the way of other new roles; what else they are a member of, they are here."""
    fill(
        chain,
        "CREATE ROLE boss SUPERUSER; CREATE ROLE step; CREATE ROLE shell; CREATE ROLE back;"
        "CREATE ROLE guests; GRANT boss TO step, fragalysis; GRANT admin TO back;"
        "GRANT step, shell, back, guests TO fragalysis; GRANT pg_execute_server_program TO shell",
        "postgres",
    )
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n; GRANT SELECT ON t TO guests")
    green(chain.backup())
    green(chain.drill())
    verdict = green(chain.recover()).verdict
    of = "SELECT rolname FROM pg_roles WHERE pg_has_role('fragalysis', oid, 'MEMBER') ORDER BY 1"
    # By its own nature an owner is one of PostgreSQL's owners of a database.
    assert [name for (name,) in ask(chain.staging, of)] == ["fragalysis", "guests", "pg_database_owner"]
    assert verdict["roles_differ"] == ["fragalysis"]


# ---- what is counted ----


def test_partitions_by_the_hash_of_an_enum(chain: Chain) -> None:
    fill(
        chain,
        "CREATE TYPE beamline AS ENUM ('i02', 'i03', 'i04', 'i24');"
        "CREATE TABLE visit (id int, line beamline NOT NULL, note text) PARTITION BY HASH (line);"
        "CREATE TABLE visit_0 PARTITION OF visit FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "CREATE TABLE visit_1 PARTITION OF visit FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "INSERT INTO visit SELECT n, (enum_range(NULL::beamline))[1 + n % 4], 'n' || n"
        " FROM generate_series(1, 100) n;",
    )
    green(chain.backup())
    green(chain.drill())
    assert green(chain.recover()).verdict["rows"] == 100
    rows = "SELECT * FROM visit ORDER BY id"
    assert ask(chain.staging, rows) == ask(chain.production, rows)


def test_names_in_latin1(chain: Chain) -> None:
    fill(
        chain,
        "DROP DATABASE frag;"
        "CREATE DATABASE frag OWNER fragalysis TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'",
        "postgres",
    )
    fill(
        chain,
        "SET client_encoding = 'UTF8'; CREATE TABLE \"Größe\" (id serial, name text);"
        "INSERT INTO \"Größe\" (name) VALUES ('größer'), ('naïve'); COMMENT ON DATABASE frag IS 'für alle'",
    )
    chain.there_and_back()
    assert value(chain.staging, "SHOW server_encoding") == "LATIN1"


def test_a_dump_of_inserts_is_never_said_to_be_counted(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT generate_series(1, 10) n")
    text = chain.production.database.output("pg_dumpall", "--inserts")
    chain.replica.write("hourly/backup-2020-02-29T08:51:08Z-dumpall.sql.gz", gzip.compress(text, 1))
    result = green(chain.recover(dump="2020-02-29T08:51:08Z"))
    assert "all counted" not in result.verdict["message"]
    assert "INSERT" in result.verdict["message"]
    assert value(chain.staging, "SELECT count(*) FROM t") == 10


# ---- what is optional ends nothing ----


def test_a_former_database_that_was_a_template(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT generate_series(1, 10) n")
    fill(chain, "ALTER DATABASE frag IS_TEMPLATE true", "postgres")
    green(chain.backup())
    former = green(chain.recover(chain.production, keep_former_seconds="0")).verdict["former"]
    assert former not in names(chain.production)
    assert value(chain.production, "SELECT datistemplate FROM pg_database WHERE datname = 'frag'")
    green(chain.backup())


def test_a_former_database_that_cannot_be_dropped_stops_nothing(chain: Chain) -> None:
    """A transaction that is prepared in it keeps it."""
    fill(chain, "CREATE TABLE t AS SELECT generate_series(1, 10) n")
    green(chain.backup())
    former = green(chain.recover(chain.production)).verdict["former"]
    server = chain.production.database
    server.execute("ALTER SYSTEM SET max_prepared_transactions = 5")
    server.stop()
    server.start()
    server.execute(f"ALTER DATABASE {former} ALLOW_CONNECTIONS true")
    server.execute("BEGIN; CREATE TABLE kept (n int); PREPARE TRANSACTION 'mine'", former)
    server.execute(f"ALTER DATABASE {former} SET stack_backup.drop_after = '2020-01-02T00:00:00Z'")
    try:
        result = green(chain.backup())
        assert result.verdict["former_left"] == [former]
        assert former in result.verdict["message"]
        assert former.encode() not in gzip.decompress(chain.volume.read(f"hourly/{chain.dump}"))
        assert green(chain.recover(chain.production)).verdict["former_left"] == [former]
    finally:
        server.execute("ROLLBACK PREPARED 'mine'", former)


def test_a_setting_that_a_newer_server_refuses(chain: Chain, newer: LocalStack) -> None:
    """Before the swap, and again in the same way; the owner's password in the server is another one than
    the Secret's.
    """
    fill(chain, "CREATE TABLE t AS SELECT generate_series(1, 10) n")
    fill(chain, "ALTER DATABASE frag SET timezone = 'US/Eastern'", "postgres")
    green(chain.backup())
    newer.database.execute("ALTER ROLE fragalysis PASSWORD 'another'")
    newer.database.execute("CREATE TABLE mine AS SELECT 1 AS n", "frag")
    before = names(newer)
    for _ in range(2):
        red(chain.recover(newer), 65, UNTOUCHED, "DATABASE PROPERTIES frag", "database.accepted", "22023")
        assert names(newer) == before
        assert value(newer, "SELECT count(*) FROM mine") == 1
    newer_with(newer, {"database": {"accepted": ["DATABASE PROPERTIES *"]}})
    result = green(chain.recover(newer))
    assert result.verdict["left_out"] == ["DATABASE PROPERTIES frag"]
    assert value(newer, "SELECT count(*) FROM t") == 10
    assert value(newer, "SELECT 1", user="fragalysis") == 1


def test_a_roles_setting_that_a_newer_server_refuses(chain: Chain, newer: LocalStack) -> None:
    """Nothing of the roles is made then, so that the next run finds what this one found."""
    fill(chain, "CREATE ROLE reader; ALTER ROLE reader SET timezone = 'US/Eastern'", "postgres")
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n; GRANT SELECT ON t TO reader")
    green(chain.backup())
    for _ in range(2):
        red(chain.recover(newer), 65, UNTOUCHED, "ROLE reader", "database.accepted")
        assert ask(newer, "SELECT FROM pg_roles WHERE rolname = 'reader'") == []
    newer_with(newer, {"database": {"accepted": ["ROLE reader"]}})
    assert green(chain.recover(newer)).verdict["left_out"] == ["ROLE reader"]


def test_a_foreign_partition_whose_server_is_away(chain: Chain) -> None:
    fill(
        chain,
        "CREATE EXTENSION postgres_fdw;"
        "CREATE SERVER archive FOREIGN DATA WRAPPER postgres_fdw"
        " OPTIONS (host '127.0.0.1', port '5999', dbname 'archive');"
        "CREATE USER MAPPING FOR PUBLIC SERVER archive OPTIONS (user 'reader', password 'not-a-real-one');"
        "CREATE TABLE event (at date, what text) PARTITION BY RANGE (at);"
        "CREATE TABLE event_2025 PARTITION OF event FOR VALUES FROM ('2025-01-01') TO ('2026-01-01');"
        "CREATE FOREIGN TABLE event_2020 PARTITION OF event FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')"
        " SERVER archive;"
        "INSERT INTO event SELECT date '2025-01-01' + n, 'e' || n FROM generate_series(0, 99) n;",
    )
    result = chain.there_and_back()
    assert "could not be analysed" in result.log
    assert value(chain.staging, "SELECT count(*) FROM pg_stats WHERE tablename = 'event_2025'") == 2


def test_a_template_without_connections_is_named(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    fill(chain, "CREATE DATABASE golden IS_TEMPLATE true ALLOW_CONNECTIONS false", "postgres")
    result = green(chain.backup())
    assert result.verdict["not_backed_up"] == ["golden"]
    assert "golden" in result.verdict["message"]


# ---- what the server, the database or a role have set ----


@pytest.mark.parametrize("milliseconds", [40, 120])
def test_a_timeout_of_the_server(chain: Chain, milliseconds: int) -> None:
    fill(chain, "CREATE TABLE big AS SELECT n, repeat('x', 40) AS pad FROM generate_series(1, 300000) n")
    green(chain.backup())
    chain.staging.database.execute(f"ALTER SYSTEM SET statement_timeout = '{milliseconds}ms'")
    chain.staging.database.execute("SELECT pg_reload_conf()")
    green(chain.recover())
    chain.staging.database.execute("ALTER SYSTEM RESET statement_timeout")
    chain.staging.database.execute("SELECT pg_reload_conf()")
    assert value(chain.staging, "SELECT count(*) FROM big") == 300000


OF_THE_ROLE = {
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), "1"),
    **dict.fromkeys(("default_transaction_read_only", "default_transaction_deferrable"), "on"),
    **dict.fromkeys(("row_security", "array_nulls", "synchronous_commit", "check_function_bodies"), "off"),
    **dict.fromkeys(("exit_on_error", "transform_null_equals", "quote_all_identifiers"), "on"),
    **dict.fromkeys(("default_tablespace", "temp_tablespaces"), "space one"),
    "role": "quiet",
    "search_path": "nowhere",
    "session_replication_role": "replica",
    "default_transaction_isolation": "serializable",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "Asia/Tokyo",
    "bytea_output": "escape",
    "xmloption": "document",
    "xmlbinary": "hex",
    "extra_float_digits": "-10",
    "default_table_access_method": "nothing",
    "default_text_search_config": "german",
    "app.tenant": "another",
}
SAID = (
    "SELECT shot, at::text, took::text, raw::text, ratio::text, xmlelement(name x, raw)::text, tags,"
    " to_tsvector('the houses'), coalesce(current_setting('app.tenant', true), ''), (shot = NULL) IS NULL"
)


def test_what_the_superusers_role_has_set(chain: Chain) -> None:
    """It changes neither what is dumped nor what is loaded and computed."""
    fill(chain, "CREATE ROLE till VALID UNTIL '2031-02-01 00:00:00+00'", "postgres")
    fill(
        chain,
        "CREATE TABLE shot (shot int, at timestamptz, took interval, raw bytea, ratio float8, tags text[]);"
        "INSERT INTO shot SELECT n, timestamptz '2024-03-01 00:30:00+00' + n * interval '1 day',"
        " n * interval '26 hours', decode('00ff27', 'hex'), n / 3.0, ARRAY[NULL, 'NULL', 'x']"
        " FROM generate_series(1, 1000) n; CREATE TABLE doc (x xml); INSERT INTO doc VALUES ('a <b/>');"
        f"CREATE MATERIALIZED VIEW said AS {SAID} FROM shot; CREATE INDEX ON said (shot);",
    )
    before = names(chain.staging)
    sets = "".join(
        f"ALTER ROLE admin SET {key} = {(identifier if text == 'space one' else literal)(text)};"
        for key, text in OF_THE_ROLE.items()
    )
    try:
        for stack in (chain.production, chain.staging):
            stack.database.execute(
                "SET allow_in_place_tablespaces = on; CREATE TABLESPACE \"space one\" LOCATION '';"
                f"CREATE ROLE quiet; GRANT quiet TO admin; {sets}"
            )
        green(chain.backup())
        green(chain.drill())
        green(chain.recover())
    finally:
        for stack in (chain.production, chain.staging):
            options = "-c role=none -c default_transaction_read_only=off -c statement_timeout=0"
            options += " -c lock_timeout=0 -c idle_in_transaction_session_timeout=0"
            with psycopg.connect(
                stack.database.dsn("postgres"), options=options, autocommit=True
            ) as connection:
                connection.execute("ALTER ROLE admin RESET ALL")
    assert differences(chain.production, chain.staging) == []
    for query in ("SELECT * FROM said ORDER BY 1", "SELECT * FROM shot ORDER BY 1", ROLES_END):
        assert ask(chain.staging, query) == ask(chain.production, query)
    assert value(chain.staging, "SELECT count(*) FROM pg_class WHERE reltablespace > 1664") == 0
    assert len(names(chain.staging)) == len(before) + 1


ROLES_END = "SELECT rolvaliduntil FROM pg_roles WHERE rolname = 'till'"


# ---- former databases ----


def test_back_to_an_earlier_dump_after_growth(chain: Chain) -> None:
    """No later hourly dump is suspicious, nor holds what was replaced."""
    fill(chain, "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n")
    green(chain.backup())
    stamp, production = chain.stamp, chain.production
    fill(chain, "INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 2000) n")
    former = green(chain.recover(production, dump=stamp, keep_former_seconds="3")).verdict["former"]
    assert former in names(production)
    assert green(chain.backup()).verdict["rows"] == 20000
    time.sleep(3)
    for _ in range(2):
        time.sleep(1)
        assert green(chain.backup()).verdict["outcome"] == "published"
    assert former not in names(production)
    green(chain.drill())


# ---- an image of another major version ----


@pytest.fixture(scope="module")
def newer_server(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(STAGING_NAMESPACE, "postgres:17") as stack:
        yield stack


@pytest.fixture
def newer(newer_server: LocalStack) -> LocalStack:
    """Staging with a server of another major version, beside the chain's."""
    anew(newer_server)
    newer_with(newer_server, {})
    return newer_server


def newer_with(stack: LocalStack, values: dict[str, Any]) -> None:
    image = {"database": {"image": {"repository": "postgres", "tag": "17"}}}
    stack.install(merge_values(merge_values(STAGING, image), values))


def test_an_image_of_another_major_version_is_refused_at_once(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    green(chain.backup())
    before = names(chain.staging)
    chain.install({"database": {"image": {"tag": "17"}}})
    red(chain.backup(), 78, "17.", "15.", "database.image")
    red(chain.recover(), 78, UNTOUCHED, "17.", "15.", "database.image")
    assert names(chain.staging) == before
    assert len([name for name in chain.volume.list("hourly") if name.startswith("backup-")]) == 1


# ---- what pg_dump itself cannot bring back ----

WITHOUT_A_PATH = (
    "CREATE FUNCTION factor() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2';"
    "CREATE FUNCTION twice(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN factor() * n; END'"
)
FAULTY: dict[str, tuple[str, str, str]] = {
    "an index by a function without a path": (
        "CREATE EXTENSION cube; CREATE EXTENSION earthdistance;"
        "CREATE TABLE site (name text, lat float8, lon float8);"
        "INSERT INTO site VALUES ('one', 51.57, -1.31), ('two', 48.2, 16.4);"
        "CREATE INDEX site_where ON site USING gist (ll_to_earth(lat, lon));"
        "COMMENT ON INDEX site_where IS 'where it is';",
        "left_out",
        "INDEX public.site_where",
    ),
    "a trigger by an operator without a path": (
        "CREATE EXTENSION hstore; CREATE TABLE item (id int, tags hstore);"
        "INSERT INTO item VALUES (1, 'a=>1');"
        "CREATE FUNCTION changed() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;"
        "CREATE TRIGGER changed BEFORE UPDATE ON item FOR EACH ROW"
        " WHEN (OLD.tags IS DISTINCT FROM NEW.tags) EXECUTE FUNCTION changed();",
        "left_out",
        "TRIGGER public.item changed",
    ),
    "a check that time has made false": (
        "CREATE TABLE token (id int, expires timestamptz CHECK (expires > now()));"
        "INSERT INTO token SELECT n, now() + interval '100 ms' + n * interval '1 day'"
        " FROM generate_series(0, 9) n; SELECT pg_sleep(0.2)",
        "not_valid",
        "CHECK CONSTRAINT public.token token_expires_check",
    ),
    "a row without its parent": (
        "CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent VALUES (1);"
        "CREATE TABLE child (id int, parent int REFERENCES parent); SET session_replication_role = replica;"
        "INSERT INTO child VALUES (1, 1), (2, 99);",
        "not_valid",
        "FK CONSTRAINT public.child child_parent_fkey",
    ),
    "a check that cannot be computed without a path": (
        f"{WITHOUT_A_PATH}; CREATE TABLE priced (a int CHECK (twice(a) > 0), b int CHECK (b > 0));"
        "COMMENT ON CONSTRAINT priced_b_check ON priced IS 'holds'; INSERT INTO priced VALUES (1, 1), (2, 2)",
        "not_valid",
        "CHECK CONSTRAINT public.priced priced_a_check",
    ),
    "a domain's check that time has made false": (
        "CREATE DOMAIN future AS timestamptz CONSTRAINT ahead CHECK (VALUE > now());"
        "COMMENT ON CONSTRAINT ahead ON DOMAIN future IS 'not yet'; CREATE DOMAIN later AS future;"
        "CREATE TYPE span AS (since later, till timestamptz); CREATE TABLE ticket (id int, valid span[]);"
        "INSERT INTO ticket"
        " SELECT n, ARRAY[ROW(now() + interval '100 ms' + n * interval '1 day', NULL)::span]"
        " FROM generate_series(0, 9) n; SELECT pg_sleep(0.2)",
        "not_valid",
        "CHECK CONSTRAINT public.future ahead",
    ),
    "a domain's NULL that got in": (
        "CREATE DOMAIN known AS text NOT NULL; CREATE TABLE named (id int, name known);"
        "INSERT INTO named VALUES (1, 'x'), (2, (SELECT name FROM named WHERE false))",
        "left_out",
        "DOMAIN public.known NOT NULL",
    ),
    "a generated column by a function without a path": (
        f"{WITHOUT_A_PATH}; CREATE TABLE measure (n int, half int GENERATED ALWAYS AS (n / 2) STORED,"
        " double int NOT NULL GENERATED ALWAYS AS (twice(n)) STORED);"
        "CREATE VIEW doubles AS SELECT double, half FROM measure; CREATE INDEX ON measure (double, half);"
        "INSERT INTO measure SELECT generate_series(1, 10)",
        "left_out",
        "DEFAULT public.measure double",
    ),
    "a partition's generated column": (
        f"{WITHOUT_A_PATH}; CREATE TABLE tree (n int, double int GENERATED ALWAYS AS (twice(n)) STORED)"
        " PARTITION BY HASH (n);"
        "CREATE TABLE leaf PARTITION OF tree FOR VALUES WITH (MODULUS 1, REMAINDER 0);"
        "INSERT INTO tree SELECT generate_series(1, 10)",
        "left_out",
        "DEFAULT public.tree double",
    ),
    "rows that their partition does not take": (
        f"{WITHOUT_A_PATH}; CREATE TABLE tree (n int) PARTITION BY RANGE (twice(n));"
        "CREATE TABLE leaf PARTITION OF tree FOR VALUES FROM (0) TO (50);"
        "CREATE TABLE other AS SELECT 1 AS n;"
        "INSERT INTO tree SELECT generate_series(1, 10)",
        "left_out",
        "TABLE DATA public.leaf",
    ),
}


def test_rows_that_are_refused_where_sessions_share_a_table(chain: Chain) -> None:
    """What other sessions have loaded of it goes, and comes again with the rest: no row twice, none lost."""
    fill(
        chain,
        "CREATE TABLE zz_limit (top int); CREATE FUNCTION allowed(int) RETURNS boolean LANGUAGE sql STABLE AS"
        " 'SELECT EXISTS (SELECT FROM public.zz_limit WHERE top >= $1)'; INSERT INTO zz_limit VALUES (5000);"
        "CREATE TABLE part (n int CHECK (n < 4900 OR allowed(n)), t text);"
        "INSERT INTO part SELECT n, repeat('x', 100) FROM generate_series(1, 5000) n",
    )
    green(chain.backup())
    small = faults.patch_python(
        "stack_backup_jobs.loader",
        """
import time
SHARE = 50_000
real = Loader._copy
def last(self, session, share, block):
    time.sleep(2 * block.table.endswith("zz_limit"))
    real(self, session, share, block)
Loader._copy = last
""",
    )
    for result in (chain.production.run(DRILL, faults=Faults(python=small)), chain.recover(python=small)):
        log = green(result).log
        assert "TABLE DATA public.part is loaded again" in log, log
    assert ask(chain.staging, "SELECT count(*), count(DISTINCT n) FROM part") == [(5000, 5000)]


@pytest.mark.parametrize("case", FAULTY)
def test_what_pg_dump_cannot_bring_back_is_named_and_can_be_accepted(chain: Chain, case: str) -> None:
    sql, key, name = FAULTY[case]
    fill(chain, sql)
    green(chain.backup())
    before = names(chain.staging)
    red(chain.drill(), 65, name, "database.accepted")
    red(chain.recover(), 65, name, "database.accepted", UNTOUCHED)
    assert names(chain.staging) == before
    # All that is refused is named: once that is accepted, the rest comes back.
    chain.install({"database": {"accepted": [name]}, "databaseRecovery": {"jobs": 1}})
    for result in (green(chain.drill()), green(chain.recover())):
        assert result.verdict[key] == [name]
        assert "accepted" in result.verdict["message"]
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    for (table,) in ask(chain.production, tables):
        if f"TABLE DATA public.{table}" == name:
            continue
        count = f"SELECT count(*) FROM {table}"
        assert value(chain.staging, count) == value(chain.production, count)
    # Nothing else is lost.
    rule = name.split()[-1]
    for query in (RULES, COMMENTS):
        assert ask(chain.staging, query) == ask(chain.production, query)
    not_valid = ask(chain.staging, "SELECT DISTINCT conname FROM pg_constraint WHERE NOT convalidated")
    assert not_valid == ([(rule,)] if key == "not_valid" else [])
    kept = [(column,) for (column,) in ask(chain.production, GENERATED) if column != rule]
    assert ask(chain.staging, GENERATED) == kept


RULES = (
    "SELECT conname, contype::text, conrelid::regclass::text, contypid::regtype::text FROM pg_constraint"
    " WHERE contype <> 'n' ORDER BY 1, 2, 3, 4"
)
COMMENTS = "SELECT obj_description(oid, 'pg_constraint') FROM pg_constraint WHERE contype <> 'n' ORDER BY 1"
GENERATED = "SELECT attname FROM pg_attribute WHERE attgenerated = 's' ORDER BY 1"


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_check_that_looks_into_another_table(chain: Chain, jobs: int) -> None:
    """It is true when all rows are there, in whichever order they came; also that of a tree of partitions."""
    fill(
        chain,
        "CREATE TABLE z_lookup (code text); INSERT INTO z_lookup VALUES ('a');"
        "CREATE FUNCTION known(c text) RETURNS boolean LANGUAGE sql AS"
        " $$ SELECT EXISTS (SELECT FROM public.z_lookup WHERE code = c) $$;"
        "CREATE TABLE a_data (code text CHECK (public.known(code))); INSERT INTO a_data VALUES ('a');"
        "COMMENT ON CONSTRAINT a_data_code_check ON a_data IS 'looks';"
        "CREATE TABLE a_tree (code text CHECK (public.known(code))) PARTITION BY LIST (code);"
        "CREATE TABLE a_leaf PARTITION OF a_tree DEFAULT; INSERT INTO a_tree VALUES ('a');"
        "CREATE DOMAIN known_text AS text CHECK (public.known(VALUE));"
        "CREATE TABLE a_list (codes known_text[]); INSERT INTO a_list VALUES ('{a}');"
        "CREATE FUNCTION found(c text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ DECLARE it text;"
        " BEGIN SELECT code INTO STRICT it FROM public.z_lookup WHERE code = c; RETURN it || it; END $$;"
        "CREATE TABLE a_made (code text, same text GENERATED ALWAYS AS (public.found(code)) STORED);"
        "INSERT INTO a_made VALUES ('a')",
    )
    chain.there_and_back({"databaseRecovery": {"jobs": jobs}, "databaseDrill": {"jobs": jobs}})


def test_an_index_by_a_function_that_asks_who_runs_it(chain: Chain) -> None:
    """The server runs it when it plans a query of the table, as whoever asks."""
    fill(
        chain,
        "CREATE FUNCTION mine(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS"
        " $$ BEGIN ASSERT current_user = 'fragalysis'; RETURN n; END $$;"
        "CREATE TABLE t AS SELECT generate_series(1, 10) n; ALTER TABLE t OWNER TO fragalysis;"
        "CREATE INDEX ON t ((mine(n) + mine(0)))",
    )
    assert "all counted" in chain.there_and_back().verdict["message"]


# ---- attacks on the promises ----


def test_a_command_of_psql_in_a_dump_is_refused_before_a_byte_is_loaded(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    green(chain.backup())
    text = gzip.decompress(chain.volume.read(f"hourly/{chain.dump}"))
    begin = text.index(b"CREATE TABLE public.t")
    text = text[:begin] + b"\\! touch /faults/run\n" + text[begin:]
    chain.replica.write("hourly/backup-2020-02-29T08:51:08Z-dumpall.sql.gz", gzip.compress(text, 1))
    before = names(chain.staging)
    environment = {"CONFIRM": STAGING_NAMESPACE, "DUMP": "2020-02-29T08:51:08Z"}
    loads = faults.hold_python("stack_backup_jobs.target:Target.begin")
    with chain.staging.start(RECOVERY, Faults(python=loads), environment) as job:
        red(job.wait(), 65, UNTOUCHED, "\\!")
        assert not (job.pod.faults / "run").exists()
        assert not (job.pod.faults / "reached").exists()
    assert names(chain.staging) == before


def test_no_secret_where_strings_are_of_the_old_kind(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    green(chain.backup())
    server = chain.staging.database
    for statement in ("standard_conforming_strings = off", "log_statement = 'all'"):
        server.execute(f"ALTER SYSTEM SET {statement}")
    server.execute("SELECT pg_reload_conf()")
    result = green(chain.recover())
    log = server.log.read_text(errors="replace")
    assert "ALTER ROLE" in log
    for secret in chain.staging.secrets["database"].values():
        assert secret.decode()[:16] not in result.log + log
    assert value(chain.staging, "SELECT 1", user="fragalysis") == 1


LOST_ANSWER = """
from pathlib import Path
def execute(self, sql, real=Session.execute, swap=[]):
    swap += [sql] if " RENAME TO " in str(sql) else []
    if sql != "COMMIT" or not swap:
        return real(self, sql)
    self._ask(sql)
    Path("/faults/reached").touch()
    while not Path("/faults/go").exists():
        time.sleep(0.01)
    return self._end()
Session.execute = execute
"""


def test_told_to_stop_between_the_commit_and_its_answer(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    green(chain.backup())
    python = faults.patch_python("stack_backup_jobs.session", LOST_ANSWER)
    with chain.staging.start(RECOVERY, Faults(python=python), {"CONFIRM": STAGING_NAMESPACE}) as job:
        job.reached("reached")
        job.signal(signal.SIGTERM)
        result = job.wait()
    red(result, 143, "is live already", "frag_former_")
    assert value(chain.staging, "SELECT count(*) FROM t") == 1
    assert value(chain.staging, "SELECT 1", user="fragalysis") == 1


SWAPPED = faults.hold_python("stack_backup_jobs.target:Target._swap", after=True)
PROPERTIES = """
ALTER DATABASE frag SET search_path = app, public;
REVOKE CONNECT ON DATABASE frag FROM PUBLIC;
ALTER ROLE fragalysis IN DATABASE frag SET work_mem = '7MB';
"""


def test_whoever_comes_in_after_the_swap_finds_settings_and_privileges(chain: Chain) -> None:
    fill(chain, "CREATE ROLE stranger")
    fill(chain, PROPERTIES, "postgres")
    fill(chain, "CREATE TABLE t AS SELECT 1 AS n")
    green(chain.backup())
    staging = chain.staging
    staging.database.execute("CREATE ROLE stranger LOGIN PASSWORD 'x'")
    staging.database.passwords["stranger"] = "x"
    with staging.start(RECOVERY, Faults(python=SWAPPED), {"CONFIRM": STAGING_NAMESPACE}) as job:
        job.reached("reached")
        assert value(staging, "SHOW search_path", user="fragalysis") == "app, public"
        assert value(staging, "SHOW work_mem", user="fragalysis") == "7MB"
        with pytest.raises(psycopg.OperationalError, match="CONNECT privilege"):
            value(staging, "SELECT 1", user="stranger")
        job.release("go")
        green(job.wait())


def test_nobody_but_the_superuser_is_in_the_new_database_before_it_is_live(chain: Chain) -> None:
    fill(chain, "CREATE TABLE person AS SELECT 'a name' AS name; GRANT SELECT ON person TO fragalysis")
    chain.install({"databaseRecovery": {"sql": "UPDATE person SET name = 'nobody'"}})
    green(chain.backup())
    staging = chain.staging
    hold = faults.hold_python("stack_backup_jobs.recovery:run_sql")
    with staging.start(RECOVERY, Faults(python=hold), {"CONFIRM": STAGING_NAMESPACE}) as job:
        job.reached("reached")
        [side] = [name for name in names(staging) if "restore" in name]
        assert value(staging, "SELECT name FROM person", side) == "a name"
        with pytest.raises(psycopg.OperationalError, match="too many connections"):
            value(staging, "SELECT name FROM person", side, "fragalysis")
        job.release("go")
        green(job.wait())
    assert value(staging, "SELECT name FROM person", user="fragalysis") == "nobody"


# ---- the server's own room ----


@pytest.fixture
def small(chain: Chain) -> Iterator[Chain]:
    """Staging's server has a disk of its own, with room for little more than it holds."""
    server = chain.staging.database
    disk = LocalVolume(chain.staging.namespaces, chain.staging.namespaces.folder / server.name / "data")
    server.execute("ALTER SYSTEM SET max_wal_size = '64MB'")
    server.stop()
    with disk.limited(330 << 20):
        server.start()
        yield chain
        server.stop(immediate=True)
    server.start()


def sized(chain: Chain, mebibytes: int) -> None:
    """Rows of so many MiB in production, and the same in staging."""
    rows = f"SELECT n, repeat(md5(n::text), 30) AS pad FROM generate_series(1, {mebibytes * 1024}) n"
    fill(chain, f"CREATE TABLE t AS {rows}")
    green(chain.backup())


def alive(stack: LocalStack) -> None:
    """It writes, and can be stopped and started again."""
    stack.database.execute("CREATE TABLE written AS SELECT generate_series(1, 1000) n; CHECKPOINT", "frag")
    stack.database.stop()
    stack.database.start()
    assert value(stack, "SELECT count(*) FROM written") == 1000


def test_a_server_without_room_for_a_second_copy_is_refused_in_advance(small: Chain) -> None:
    sized(small, 200)
    before = names(small.staging)
    red(small.recover(), 73, UNTOUCHED, "the server's volume has", "Make the volume of the database larger")
    assert names(small.staging) == before
    alive(small.staging)


def test_a_load_that_takes_more_room_than_was_thought_is_stopped(small: Chain) -> None:
    larger_than_thought(small)
    before = names(small.staging)
    red(small.recover(), 73, UNTOUCHED, "the server's volume has", "the load was stopped")
    assert names(small.staging) == before
    alive(small.staging)


def larger_than_thought(small: Chain) -> None:
    """The manifest is an older one that says nothing of sizes, and the text is shorter than its table."""
    fill(small, "CREATE TABLE t (n int, a text GENERATED ALWAYS AS (repeat(md5(n::text), 120)) STORED)")
    fill(small, "ALTER TABLE t ALTER a SET STORAGE EXTERNAL; INSERT INTO t SELECT generate_series(1, 80000)")
    green(small.backup())
    path = f"hourly/.manifest/{small.dump}.tsv"
    manifest = small.replica.read(path).decode()
    small.replica.write(path, re.sub(r"(?m)^size\t.*\n", "", manifest).encode())


@pytest.fixture
def unasked(chain: Chain) -> Iterator[Chain]:
    """Staging's server can run no `df`."""
    server = chain.staging.database
    nothing = chain.staging.namespaces.folder / server.name / "exchange" / "df"
    nothing.touch(0o644)
    with server.stopped():
        server.binds.append(Bind(nothing, "/usr/bin/df", read_only=True))
    yield chain
    with server.stopped():
        server.binds.clear()


def test_room_that_the_server_cannot_be_asked_for(unasked: Chain) -> None:
    """The values say it then; the load is watched all the same."""
    larger_than_thought(unasked)
    before = names(unasked.staging)
    red(unasked.recover(), 78, UNTOUCHED, "databaseRecovery.serverRoom")
    unasked.install({"databaseRecovery": {"serverRoom": "40Mi"}})
    red(unasked.recover(), 73, UNTOUCHED, "databaseRecovery.serverRoom", "has 40 MiB left", "needs")
    unasked.install({"databaseRecovery": {"serverRoom": "200Mi"}})
    red(unasked.recover(), 73, UNTOUCHED, "databaseRecovery.serverRoom", "the load was stopped")
    assert names(unasked.staging) == before
    unasked.install({"databaseRecovery": {"serverRoom": "2Gi"}})
    green(unasked.recover())


def test_what_the_values_say_of_the_room_binds_a_server_that_can_be_asked(chain: Chain) -> None:
    """As where a quota holds that its file system does not show."""
    sized(chain, 50)
    chain.install({"databaseRecovery": {"serverRoom": "90Mi"}})
    red(chain.recover(), 73, UNTOUCHED, "databaseRecovery.serverRoom", "has 90 MiB left")


@pytest.fixture
def space(chain: Chain) -> Iterator[Chain]:
    """A tablespace of both servers; staging's has a disk of its own."""
    fill(chain, "SET allow_in_place_tablespaces = on; CREATE TABLESPACE \"space one\" LOCATION ''")
    server = chain.staging.database
    folder = chain.staging.namespaces.folder / server.name / "exchange" / "space"
    folder.mkdir()
    shutil.chown(folder, *_owner(folder.parent))
    server.stop()
    with LocalVolume(chain.staging.namespaces, folder).limited(130 << 20):
        server.start()
        server.execute("CREATE TABLESPACE \"space one\" LOCATION '/exchange/space'")
        yield chain
        server.execute('DROP TABLESPACE "space one"')
        server.stop()
    server.start()
    folder.rmdir()


def test_the_room_of_a_tablespace_is_watched(space: Chain) -> None:
    """How much of a database goes there, nobody knows before."""
    rows = "SELECT n, repeat(md5(n::text), 30) AS pad FROM generate_series(1, 100000) n"
    fill(space, f'CREATE TABLE t TABLESPACE "space one" AS {rows}')
    green(space.backup())
    before = names(space.staging)
    words = ("the volume of the tablespace space one has", "the load was stopped")
    red(space.recover(), 73, UNTOUCHED, *words)
    assert names(space.staging) == before
    alive(space.staging)
    space.install({"databaseRecovery": {"tablespaces": False}})
    green(space.recover())


def _owner(path: Path) -> tuple[int, int]:
    return path.stat().st_uid, path.stat().st_gid


# ---- every kind of object ----

KINDS = r"""
CREATE ROLE "odd ""role"" ä" NOLOGIN CREATEDB CONNECTION LIMIT 3 VALID UNTIL '2031-01-01';
COMMENT ON ROLE "odd ""role"" ä" IS 'what it''s for';
ALTER ROLE "odd ""role"" ä" SET work_mem = '6MB';
CREATE ROLE grp; GRANT grp TO "odd ""role"" ä" WITH ADMIN OPTION; GRANT pg_read_all_data TO grp;
GRANT grp TO fragalysis;
CREATE SCHEMA "Odd schema"; CREATE EXTENSION hstore SCHEMA "Odd schema"; CREATE EXTENSION pg_trgm;
CREATE TABLE "Odd schema"."back\slash" (id int GENERATED ALWAYS AS IDENTITY (START 7 INCREMENT 3), t text,
    twice int GENERATED ALWAYS AS (length(t) * 2) STORED, CONSTRAINT "c k" CHECK (t <> 'no') NO INHERIT);
INSERT INTO "Odd schema"."back\slash" (t) VALUES
    ('\.'), (E'\\.\n\\.\n'), (E'a\tb\\N'), ('$$ ''" \connect x'), (NULL), (repeat('x', 100000));
CREATE UNLOGGED TABLE fast (id serial PRIMARY KEY); INSERT INTO fast DEFAULT VALUES;
CREATE TABLE mother (id int, at date) ; CREATE TABLE child (extra text) INHERITS (mother);
INSERT INTO mother VALUES (1, '2024-01-01'); INSERT INTO child VALUES (2, '2024-01-02', 'x');
ALTER TABLE mother ALTER at SET STATISTICS 500;
CREATE STATISTICS both_of ON id, at FROM mother; COMMENT ON STATISTICS both_of IS 'both';
CREATE DOMAIN positive AS int CHECK (VALUE > 0); CREATE TYPE pair AS (a int, b positive);
CREATE TABLE uses (p pair, tags "Odd schema".hstore, EXCLUDE USING gist (int4range(0, 1) WITH &&));
CREATE TABLE parts (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO ('2025-01-01')
    PARTITION BY LIST (id);
CREATE TABLE parts_1_1 PARTITION OF parts_1 DEFAULT;
CREATE INDEX ON parts (at DESC); INSERT INTO parts SELECT n, '2024-05-01' FROM generate_series(1, 50) n;
CREATE TABLE refers (id int, at date, FOREIGN KEY (id, at) REFERENCES parts ON DELETE CASCADE);
INSERT INTO refers VALUES (1, '2024-05-01');
CREATE INDEX refers_at ON refers (at); ALTER TABLE refers CLUSTER ON refers_at;
CREATE UNIQUE INDEX refers_id ON refers (id); ALTER TABLE refers ALTER id SET NOT NULL;
ALTER TABLE refers REPLICA IDENTITY USING INDEX refers_id;
CREATE VIEW grouped AS SELECT id, max(at) FROM fast JOIN parts USING (id) GROUP BY fast.id, parts.id;
CREATE MATERIALIZED VIEW kept AS SELECT count(*) FROM parts; CREATE UNIQUE INDEX ON kept (count);
CREATE MATERIALIZED VIEW empty AS SELECT 1 AS one WITH NO DATA;
CREATE FUNCTION body() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END;
CREATE PROCEDURE does() LANGUAGE plpgsql AS $f$ BEGIN PERFORM '$$;'; END $f$;
CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER fires BEFORE INSERT ON refers FOR EACH ROW EXECUTE FUNCTION fires();
ALTER TABLE refers DISABLE TRIGGER fires;
CREATE RULE nothing AS ON DELETE TO fast DO INSTEAD NOTHING;
CREATE PUBLICATION all_of FOR ALL TABLES; CREATE PUBLICATION one_of FOR TABLE refers;
CREATE SUBSCRIPTION sub CONNECTION 'host=127.0.0.1 port=5999 dbname=x' PUBLICATION p WITH (connect = false);
SELECT lo_from_bytea(4711, 'content'); ALTER LARGE OBJECT 4711 OWNER TO grp;
GRANT SELECT ON LARGE OBJECT 4711 TO fragalysis; COMMENT ON LARGE OBJECT 4711 IS 'an object';
SELECT lo_from_bytea(4712, decode(repeat('00ff27', 200000), 'hex'));
CREATE SEQUENCE down INCREMENT -5 MINVALUE -100 MAXVALUE 10 START 10 CYCLE; SELECT nextval('down');
CREATE COLLATION "de" (provider = icu, locale = 'de'); CREATE TABLE sorted (t text COLLATE "de");
CREATE TEXT SEARCH CONFIGURATION ts (COPY = english);
CREATE OPERATOR ### (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int);
CREATE FUNCTION guard() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER guard ON ddl_command_end EXECUTE FUNCTION guard();
ALTER TABLE mother ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mother TO grp USING (id > 0);
ALTER DEFAULT PRIVILEGES FOR ROLE grp GRANT SELECT ON TABLES TO fragalysis;
GRANT SELECT (id) ON mother TO grp; COMMENT ON COLUMN mother.id IS E'line\n\\connect x\n';
ALTER TABLE child OWNER TO "odd ""role"" ä";
COMMENT ON DATABASE frag IS 'with CONNECTION LIMIT 5; and IS_TEMPLATE = true; in it';
ALTER DATABASE frag SET search_path = "Odd schema", public; ALTER DATABASE frag SET DateStyle = 'SQL, DMY';
ALTER DATABASE frag CONNECTION LIMIT 40; REVOKE TEMPORARY ON DATABASE frag FROM PUBLIC;
REVOKE CREATE ON DATABASE frag FROM fragalysis; GRANT CREATE ON DATABASE frag TO grp WITH GRANT OPTION;
ALTER ROLE "odd ""role"" ä" IN DATABASE frag SET lock_timeout = '3s';
"""
ROLES = (
    "SELECT rolname, rolcreatedb, rolconnlimit, rolvaliduntil::text, rolconfig,"
    " shobj_description(oid, 'pg_authid'), ARRAY(SELECT roleid::regrole::text || admin_option"
    " FROM pg_auth_members WHERE member = pg_roles.oid ORDER BY 1)"
    " FROM pg_roles WHERE rolname IN ('grp', 'odd \"role\" ä') ORDER BY 1"
)


@pytest.mark.parametrize("jobs", [1, 2])
def test_every_kind_of_object_comes_back_the_same(chain: Chain, jobs: int) -> None:
    chain.production.database.execute(KINDS, "frag")
    chain.there_and_back({"databaseRecovery": {"jobs": jobs}, "databaseDrill": {"jobs": jobs}})
    assert ask(chain.staging, ROLES) == ask(chain.production, ROLES)
    assert ask(chain.staging, "SELECT subenabled FROM pg_subscription") == [(False,)]
    # A subscription keeps nothing from being cleared away, here or after the next recovery.
    former = green(chain.recover(keep_former_seconds="0")).verdict["former"]
    assert former not in names(chain.staging)


# ---- neighbours ----


def test_tablespaces_that_the_server_lacks(chain: Chain) -> None:
    """Refused in advance with the way out; the drill makes them."""
    fill(chain, "SET allow_in_place_tablespaces = on; CREATE TABLESPACE \"space one\" LOCATION ''")
    fill(chain, 'CREATE TABLE t TABLESPACE "space one" AS SELECT generate_series(1, 10) n')
    fill(chain, 'ALTER DATABASE frag SET default_tablespace = "space one"', "postgres")
    green(chain.backup())
    green(chain.drill())
    before = names(chain.staging)
    red(chain.recover(), 78, UNTOUCHED, "space one", "databaseRecovery.tablespaces")
    assert names(chain.staging) == before
    chain.install({"databaseRecovery": {"tablespaces": False}})
    green(chain.recover())
    assert value(chain.staging, "SELECT count(*) FROM t") == 10


@pytest.mark.parametrize("name", ["a " * 31 + "b", 'it\'s "odd" \\ $x %s =', "ä" * 31])
def test_a_database_of_an_odd_name(chain: Chain, name: str) -> None:
    """Of up to 63 bytes: what is beside it has a shorter name; what a killed run leaves is cleared."""
    quoted = '"' + name.replace('"', '""') + '"'
    fill(chain, f"CREATE DATABASE {quoted} OWNER fragalysis", "postgres")
    fill(
        chain,
        f"ALTER DATABASE {quoted} SET work_mem = '5MB'; COMMENT ON DATABASE {quoted} IS 'x'",
        "postgres",
    )
    fill(chain, "CREATE TABLE t AS SELECT generate_series(1, 10) n", conninfo(name))
    chain.install({"database": {"name": name}})
    green(chain.backup())
    green(chain.drill())
    killed = faults.hold_python("stack_backup_jobs.compare:found")
    with chain.staging.start(RECOVERY, Faults(python=killed), {"CONFIRM": STAGING_NAMESPACE}) as job:
        job.reached("reached")
        job.signal(signal.SIGKILL)
        job.wait()
    assert len([one for one in names(chain.staging) if "_restore_" in one]) == 1
    for _ in range(2):
        green(chain.recover())
    assert differences(chain.production, chain.staging, name) == []
    assert not [one for one in names(chain.staging) if "_restore_" in one]
    assert len([one for one in names(chain.staging) if "_former_" in one]) == 1


@pytest.fixture(scope="module")
def newest(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(contract.NAMESPACE, "postgres:17") as stack:
        yield stack


@pytest.mark.parametrize("jobs", [2])
def test_every_kind_of_object_of_the_newest_version(
    newest: LocalStack, newer_server: LocalStack, jobs: int
) -> None:
    chain = Chain(newest, newer_server)
    chain.production.database.execute(KINDS, "frag")
    fill(chain, "CREATE ROLE m; GRANT grp TO m WITH INHERIT FALSE, SET FALSE; GRANT pg_maintain TO m")
    chain.there_and_back({"databaseRecovery": {"jobs": jobs}})


# ---- an extension with tables of its own ----


@pytest.fixture(scope="module")
def postgis(runtime: LocalRuntime) -> Iterator[tuple[LocalStack, LocalStack]]:
    with (
        runtime.stack(contract.NAMESPACE, "postgis-database:15") as production,
        runtime.stack(STAGING_NAMESPACE, "postgis-database:15") as staging,
    ):
        yield production, staging


def test_postgis_comes_back(postgis: tuple[LocalStack, LocalStack]) -> None:
    """Its table of reference systems is dumped in part: only what the user has added."""
    chain = Chain(*postgis)
    fill(
        chain,
        "CREATE EXTENSION postgis; CREATE TABLE beamline (name text, place geometry(Point, 4326));"
        "INSERT INTO beamline VALUES ('I04-1', ST_SetSRID(ST_MakePoint(-1.31, 51.57), 4326));"
        "CREATE INDEX ON beamline USING gist (place);"
        "INSERT INTO spatial_ref_sys (srid, auth_name, auth_srid) VALUES (990001, 'ours', 1)",
    )
    result = chain.there_and_back()
    assert "all counted" in result.verdict["message"]
    rows = "SELECT count(*) FROM spatial_ref_sys"
    assert value(chain.staging, rows) == value(chain.production, rows)


# ---- the pod's user ----


def test_any_user_without_a_name_in_the_image(chain: Chain) -> None:
    fill(chain, "CREATE TABLE t AS SELECT generate_series(1, 10) n")
    user = {"runAsUser": 12345, "runAsGroup": 12345, "fsGroup": 12345}
    chain.there_and_back({"pod": user})
