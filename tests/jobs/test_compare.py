"""The comparison itself: it finds every kind of difference, and none where there is none."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from stack_backup_lab.data import comparison, dataset
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.runtime.postgres import LocalServer

CHANGES = {
    "one changed byte": (
        "UPDATE viewer_file SET content = set_byte(content, 7, 8) WHERE name = 'every byte'",
        "UPDATE viewer_file SET content = set_byte(content, 7, 7) WHERE name = 'every byte'",
        "rows of public.viewer_file",
    ),
    "the last byte of a long value": (
        "UPDATE viewer_text SET value = left(value, -1) || 'y' WHERE label = 'long line'",
        r"UPDATE viewer_text SET value = left(value, -1) || '\' WHERE label = 'long line'",
        "rows of public.viewer_text",
    ),
    "composed for decomposed characters": (
        "UPDATE viewer_text SET value = normalize(value, NFC) WHERE label = 'decomposed'",
        "UPDATE viewer_text SET value = normalize(value, NFD) WHERE label = 'decomposed'",
        "rows of public.viewer_text",
    ),
    "an empty text for none": (
        "UPDATE viewer_text SET value = '' WHERE label = 'null'",
        "UPDATE viewer_text SET value = NULL WHERE label = 'null'",
        "rows of public.viewer_text",
    ),
    "a missing row": (
        "DELETE FROM viewer_booking WHERE beamline = 'i03'",
        "INSERT INTO viewer_booking VALUES ('i03', 'empty', NULL, '0')",
        "rows of public.viewer_booking",
    ),
    "one of two equal rows": (
        "INSERT INTO viewer_columnless DEFAULT VALUES",
        "DELETE FROM viewer_columnless WHERE ctid = (SELECT max(ctid) FROM viewer_columnless)",
        "rows of public.viewer_columnless",
    ),
    "a row in another partition": (
        "UPDATE viewer_action SET happened = happened + interval '20 years' WHERE id = 1",
        "UPDATE viewer_action SET happened = happened - interval '20 years' WHERE id = 1",
        "rows of public.viewer_action_rest",
    ),
    "a materialised view that is not filled": (
        "REFRESH MATERIALIZED VIEW viewer_users_by_month WITH NO DATA",
        "REFRESH MATERIALIZED VIEW viewer_users_by_month",
        "table public.viewer_users_by_month",
    ),
    "a sequence's value": (
        "SELECT setval('run_number', -307)",
        "SELECT setval('run_number', -300)",
        "value of sequence public.run_number",
    ),
    "whether a sequence was used": (
        "SELECT nextval('never_used')",
        "SELECT setval('never_used', 42, false)",
        "value of sequence public.never_used",
    ),
    "a sequence's step": (
        "ALTER SEQUENCE never_used INCREMENT 2",
        "ALTER SEQUENCE never_used INCREMENT 1",
        "parameters of sequence public.never_used",
    ),
    "an extra table": ("CREATE TABLE extra ()", "DROP TABLE extra", "definition of table public.extra"),
    "an extra column": (
        "ALTER TABLE viewer_empty ADD COLUMN extra integer",
        "ALTER TABLE viewer_empty DROP COLUMN extra",
        "definition of column extra of table public.viewer_empty",
    ),
    "a default": (
        "ALTER TABLE viewer_note ALTER COLUMN secret SET DEFAULT true",
        "ALTER TABLE viewer_note ALTER COLUMN secret SET DEFAULT false",
        "definition of column secret of table public.viewer_note",
    ),
    "an index": ("CREATE INDEX extra ON viewer_note (text)", "DROP INDEX extra", "index public.extra"),
    "a constraint": (
        "ALTER TABLE viewer_note ADD CONSTRAINT extra CHECK (id > 0) NOT VALID",
        "ALTER TABLE viewer_note DROP CONSTRAINT extra",
        "definition of constraint extra on table public.viewer_note",
    ),
    "a trigger that is off": (
        "ALTER TABLE viewer_compound DISABLE TRIGGER touch",
        "ALTER TABLE viewer_compound ENABLE TRIGGER touch",
        "definition of trigger touch",
    ),
    "row security": (
        "ALTER TABLE viewer_note NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE viewer_note FORCE ROW LEVEL SECURITY",
        "definition of table public.viewer_note",
    ),
    "a policy": (
        "ALTER POLICY open_notes ON viewer_note USING (true)",
        "ALTER POLICY open_notes ON viewer_note USING (NOT secret)",
        "definition of policy open_notes",
    ),
    "a partition": (
        "ALTER TABLE viewer_action DETACH PARTITION viewer_action_2022",
        "ALTER TABLE viewer_action ATTACH PARTITION viewer_action_2022"
        " FOR VALUES FROM ('2022-01-01Z') TO ('2023-01-01Z')",
        "definition of table public.viewer_action_2022",
    ),
    "a function's body": (
        "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('how_to_restore'::regproc), 'not', 'now'); END $$",
        "DO $$ BEGIN EXECUTE replace(pg_get_functiondef('how_to_restore'::regproc), 'now', 'not'); END $$",
        "definition of function public.how_to_restore",
    ),
    "a label of an enum": (
        "ALTER TYPE target_status RENAME VALUE 'new' TO 'old'",
        "ALTER TYPE target_status RENAME VALUE 'old' TO 'new'",
        "definition of type public.target_status",
    ),
    "an extension": ("CREATE EXTENSION citext", "DROP EXTENSION citext", "definition of extension citext"),
    "a large object": (
        r"SELECT lo_put(preview, 0, '\x01') FROM viewer_file WHERE id = 2",
        r"SELECT lo_put(preview, 0, '\x00') FROM viewer_file WHERE id = 2",
        "content of large object",
    ),
    "an owner": (
        "ALTER TABLE viewer_empty OWNER TO frag_reader",
        "ALTER TABLE viewer_empty OWNER TO fragalysis",
        "owner of table public.viewer_empty",
    ),
    "an owner who is the superuser": (
        "ALTER FUNCTION touch OWNER TO admin",
        "ALTER FUNCTION touch OWNER TO fragalysis",
        "owner of function public.touch()",
    ),
    "a grant": (
        "GRANT INSERT ON viewer_note TO frag_reader",
        "REVOKE INSERT ON viewer_note FROM frag_reader",
        "privileges of table public.viewer_note",
    ),
    "a grant on a column": (
        "GRANT UPDATE (email) ON auth_user TO frag_reader",
        "REVOKE UPDATE (email) ON auth_user FROM frag_reader",
        "privileges of column email of table public.auth_user",
    ),
    "a grant on the database": (
        "GRANT TEMPORARY ON DATABASE frag TO frag_reader",
        "REVOKE TEMPORARY ON DATABASE frag FROM frag_reader",
        "privileges of database frag",
    ),
    "default privileges": (
        "ALTER DEFAULT PRIVILEGES FOR ROLE fragalysis GRANT SELECT ON SEQUENCES TO frag_reader",
        "ALTER DEFAULT PRIVILEGES FOR ROLE fragalysis REVOKE SELECT ON SEQUENCES FROM frag_reader",
        "privileges of default privileges on new sequences",
    ),
    "a comment": (
        "COMMENT ON COLUMN auth_user.email IS 'x'",
        "COMMENT ON COLUMN auth_user.email IS NULL",
        "comment of column email",
    ),
    "a setting of the database": (
        "ALTER DATABASE frag SET timezone = 'UTC'",
        "ALTER DATABASE frag SET timezone = 'Europe/London'",
        "settings of database frag",
    ),
    "a setting of a role": (
        "ALTER ROLE fragalysis SET statement_timeout = '9min'",
        "ALTER ROLE fragalysis SET statement_timeout = '10min'",
        "settings of role fragalysis",
    ),
    "an attribute of a role": (
        "ALTER ROLE frag_reader CREATEDB",
        "ALTER ROLE frag_reader NOCREATEDB",
        "attributes of role frag_reader",
    ),
    "a password": (
        "UPDATE pg_authid SET rolpassword = rolpassword || 'x' WHERE rolname = 'fragalysis'",
        "UPDATE pg_authid SET rolpassword = left(rolpassword, -1) WHERE rolname = 'fragalysis'",
        "password of role fragalysis",
    ),
    "a role's membership": (
        'REVOKE "frag Group" FROM frag_reader',
        'GRANT "frag Group" TO frag_reader WITH ADMIN OPTION',
        "membership of frag_reader in frag Group",
    ),
    "an extra role": ("CREATE ROLE extra", "DROP ROLE extra", "attributes of role extra"),
    "an extra database": ("CREATE DATABASE extra", "DROP DATABASE extra", "definition of database extra"),
}
"""What is changed, how that is undone, and the difference that is found between."""


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack("compare-stack") as stack:
        dataset.fill(stack.database, molecules=50)
        yield stack


@pytest.fixture(scope="module")
def before(stack: LocalStack) -> Iterator[comparison.Snapshot]:
    before = snapshot(stack.database)
    yield before
    assert comparison.differences(before, snapshot(stack.database)) == [], "every change is undone"


def snapshot(server: LocalServer) -> comparison.Snapshot:
    return comparison.snapshot(server, [dataset.DATABASE])


def execute(server: LocalServer, statement: str) -> None:
    with psycopg.connect(server.dsn(dataset.DATABASE), autocommit=True) as connection:
        connection.execute(statement.encode())


@pytest.mark.parametrize(("change", "undo", "found"), CHANGES.values(), ids=CHANGES.keys())
def test_every_kind_of_difference_is_found(
    stack: LocalStack, before: comparison.Snapshot, change: str, undo: str, found: str
) -> None:
    execute(stack.database, change)
    try:
        differences = comparison.differences(before, snapshot(stack.database))
    finally:
        execute(stack.database, undo)
    assert any(found in str(one) for one in differences), "\n".join(map(str, differences))
    for one in differences:
        assert one.left != one.right, f"it says nothing about what differs: {one}"


def test_a_difference_shows_the_row_of_the_same_key_on_both_sides(
    stack: LocalStack, before: comparison.Snapshot
) -> None:
    execute(stack.database, "UPDATE auth_user SET email = 'new-' || id || '@example.org' WHERE id IN (3, 4)")
    [difference] = comparison.differences(before, snapshot(stack.database))
    execute(stack.database, "UPDATE auth_user SET email = 'User.' || id || '@example.org' WHERE id IN (3, 4)")
    assert difference.what == "rows of public.auth_user"
    for side, address in ((difference.left, "User.3@example.org"), (difference.right, "new-3@example.org")):
        assert side.startswith("500 rows, 2 of them only here: 3 , pbkdf2"), side
        assert address in side, side


def test_a_difference_shows_no_verifier(stack: LocalStack) -> None:
    with psycopg.connect(stack.database.dsn("postgres")) as connection:
        verifiers = connection.execute("SELECT rolpassword FROM pg_authid WHERE rolpassword <> ''").fetchall()
    told = repr(comparison.differences(comparison.Snapshot((), {}, {}), snapshot(stack.database)))
    assert len(verifiers) == 3
    for (verifier,) in verifiers:
        assert verifier.split("$")[2] not in told


def test_the_same_seed_gives_the_same_rows(runtime: LocalRuntime, before: comparison.Snapshot) -> None:
    with runtime.stack("seed-stack") as stack:
        dataset.fill(stack.database, molecules=50)
        assert snapshot(stack.database).tables == before.tables


def test_a_database_that_is_not_empty_is_not_filled(stack: LocalStack, before: comparison.Snapshot) -> None:
    with pytest.raises(dataset.DatasetError, match="not empty"):
        dataset.fill(stack.database, molecules=50)
    assert comparison.differences(before, snapshot(stack.database)) == []


def test_the_texts_hold_every_character_of_the_basic_plane() -> None:
    written = set().union(*(text for _, text in dataset.awkward_texts() if text))
    surrogates = range(0xD800, 0xE000)
    assert {chr(point) for point in range(1, 0x10000) if point not in surrogates} <= written
