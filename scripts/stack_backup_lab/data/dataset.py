"""Real input for a stack's database: molecules of Debian's `rdkit-data` among a Django application's tables.

What the tables hold is chosen so that a dump, a copy or a cut that is not exact shows: every kind of object
that an application makes, every awkward text; lines in functions, comments and rows that read like a dump's.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from time import monotonic

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from stack_backup_lab import LabError
from stack_backup_lab.bed import system
from stack_backup_lab.runtime import Server

DATABASE = "frag"
OWNER = "fragalysis"
READER = "frag_reader"
READER_PASSWORD = r"""it's: a \ "pass:word\: $HOME `id` %s é """
"""Of the role `READER`: what a password file, a shell and SQL all have to quote, with a space at its end."""

AFTERWARDS = "written after the backup"
"""Marks the rows that `add_rows_after` writes."""

_SQL = Path(__file__).parent / "sql"
_RDKIT = Path("/usr/share/RDKit")
_SDF = (
    "Data/NCI/first_200.props.sdf",
    "Projects/DbCLI/testData/pubchem.200.sdf",
    "Contrib/PBF/testData/egfr.sdf",
)


class DatasetError(LabError):
    """The database could not be filled; it is left as it was."""


@dataclass(frozen=True)
class Summary:
    """What `fill` wrote. `rows` counts those of all tables and materialised views."""

    molecules: int
    tables: int
    rows: int
    large_objects: int
    seconds: float


def provide() -> None:
    """Install the molecules on this machine where they are missing. Raises BedError with a sentence."""
    if not _RDKIT.exists():
        system.ensure_packages("rdkit-data")


def fill(server: Server, *, molecules: int = 5000, seed: int = 1) -> Summary:
    """Fill the empty database `frag` of a running server that has the role `fragalysis`.

    The same `seed` gives the same rows. More molecules than rdkit-data has (about 15,000) are its own over
    again; with none, neither that package nor the server's RDKit extension is needed. All is written in one
    transaction. Raises DatasetError if the database is not empty.
    """
    started = monotonic()
    with psycopg.connect(server.dsn(DATABASE)) as connection:
        if _number(connection, "SELECT count(*) FROM pg_class WHERE oid >= 16384"):
            raise DatasetError(f"database {DATABASE} is not empty: nothing was written; fill a new one")
        connection.execute("SELECT setseed(%s)", [1 / (1 + abs(seed))])
        _make_roles(connection)
        _run(connection, "schema.sql")
        connection.execute(f"SET LOCAL ROLE {OWNER}".encode())
        _run(connection, "rows.sql")
        _write_texts(connection)
        _write_large_objects(connection)
        connection.execute("RESET ROLE")
        if molecules:
            _write_molecules(connection, molecules)
            _write_poses(connection)
            connection.execute("RESET ROLE")
        return _summary(connection, started)


def add_rows_after(server: Server, note: str = AFTERWARDS) -> int:
    """Go on as a live application does: new rows, changed rows, fewer rows, a new table, a new large object.

    Returns the number of new rows that carry `note`: `count_rows_after` finds them.
    """
    with psycopg.connect(server.dsn(DATABASE)) as connection:
        connection.execute(f"SET LOCAL ROLE {OWNER}".encode())
        connection.execute(
            "INSERT INTO viewer_action (happened, user_id, what)"
            " SELECT now() + n * interval '1 second', n, %s FROM generate_series(1, 100) n",
            [note],
        )
        connection.execute("INSERT INTO viewer_note (text) SELECT %s FROM generate_series(1, 10)", [note])
        connection.execute("UPDATE auth_user SET last_login = now() WHERE id <= 10")
        connection.execute(
            "DELETE FROM django_session WHERE session_key IN (SELECT min(session_key) FROM django_session)"
        )
        connection.execute("SELECT nextval('run_number'), lo_from_bytea(0, %s)", [note.encode()])
        number = _number(connection, "SELECT count(*) FROM pg_class")
        connection.execute(f"CREATE TABLE viewer_later_{number} AS SELECT 1 AS one".encode())
    return count_rows_after(server, note)


def count_rows_after(server: Server, note: str = AFTERWARDS) -> int:
    """Rows in the database that `add_rows_after` wrote with this note."""
    with psycopg.connect(server.dsn(DATABASE)) as connection:
        actions = _number(connection, "SELECT count(*) FROM viewer_action WHERE what = %s", note)
        return actions + _number(connection, "SELECT count(*) FROM viewer_note WHERE text = %s", note)


def awkward_texts() -> Iterator[tuple[str, str | None]]:
    """Texts that a careless program changes, each with a label; together they hold every character of the
    basic plane that PostgreSQL can store (all but U+0000), and some of each plane above it."""
    yield "null", None
    yield "empty", ""
    yield "looks like null", r"\N"
    yield "looks like the end of a COPY", "\\.\n\\.\n"
    yield "looks like a meta-command", "\n\\connect frag\n\\! exit 1\n\\unrestrict x\n"
    yield "looks like a statement", "\nCOPY public.x (a) FROM stdin;\n1\n\\.\n"
    yield "looks like another database", '--\n-- Database "postgres" dump\n--\n\n\\connect postgres\n'
    yield "looks like a role", "\nCREATE ROLE admin;\nALTER ROLE admin WITH PASSWORD 'x';\n"
    yield "looks like the trailer", "x\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
    yield "backslashes", "\\ \\\\ \\n \\t \\r \\x41 \\101 \\b \\\t\\\n\\"
    yield "line ends", "unix\nwindows\r\nmac\rvertical\vform\fnext\x85line\u2028paragraph\u2029tab\tend"
    yield "spaces", "  leading, trailing \t "
    yield "quotes", "' '' \" \"\" ` $$ $_$ $1 %s %% {} ; -- /* */ # & < >"
    yield "composed", "\u00e9 \u00c5 \u00f1 \ufb01"
    yield "decomposed", "e\u0301 A\u030a n\u0303 fi"
    yield "right to left", "\u202eabc\u202c שלום \u200f"
    yield "byte order mark", "\ufeffx\ufeff"
    yield "joined", "👩\u200d🔬 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    yield "last character", "\U0010ffff"
    yield "control characters", "".join(map(chr, [*range(1, 32), 127, *range(128, 160)]))
    yield "long line", "x\\" * 500_000
    for plane in range(17):
        # Surrogates are not characters.
        for block in range(0, 0x10000 if plane == 0 else 0x200, 0x200):
            points = range(plane * 0x10000 + block or 1, plane * 0x10000 + block + 0x200)
            if not 0xD800 <= points[0] < 0xE000:
                yield f"from U+{points[0]:04X}", "".join(map(chr, points))


def _make_roles(connection: psycopg.Connection) -> None:
    reader = sql.Identifier(READER)
    for statement in (
        sql.SQL("CREATE ROLE {} LOGIN CONNECTION LIMIT 20 VALID UNTIL '2099-12-31Z' PASSWORD {}").format(
            reader, sql.Literal(READER_PASSWORD)
        ),
        sql.SQL('CREATE ROLE "frag Group" NOINHERIT CREATEROLE'),
        sql.SQL('GRANT "frag Group" TO {} WITH ADMIN OPTION').format(reader),
        sql.SQL("COMMENT ON ROLE {} IS {}").format(reader, sql.Literal("Reads.\n\\connect frag\n")),
    ):
        connection.execute(statement)


def _run(connection: psycopg.Connection, file: str) -> None:
    connection.execute((_SQL / file).read_bytes())


def _write_texts(connection: psycopg.Connection) -> None:
    with connection.cursor() as cursor, cursor.copy("COPY viewer_text FROM STDIN") as copy:
        for number, row in enumerate(awkward_texts()):
            copy.write_row((number, *row))


def _write_large_objects(connection: psycopg.Connection) -> None:
    contents = (b"", b"\0", bytes(range(256)) * 3000, b"\\.\n\\connect frag\n")
    for file, content in enumerate(contents, start=1):
        number = _number(connection, "SELECT lo_from_bytea(0, %s)", content)
        connection.execute("UPDATE viewer_file SET preview = %s WHERE id = %s", [number, file])
    connection.execute(f"GRANT SELECT ON LARGE OBJECT {number} TO {READER}".encode())
    connection.execute(f"COMMENT ON LARGE OBJECT {number} IS 'Preview; \\ of nothing'".encode())


def _write_molecules(connection: psycopg.Connection, molecules: int) -> None:
    connection.execute("CREATE EXTENSION rdkit")
    connection.execute(
        "CREATE TEMPORARY TABLE incoming (number integer, smiles text, name text) ON COMMIT DROP"
    )
    connection.execute(f"GRANT SELECT ON incoming TO {OWNER}".encode())
    # Some are not read by RDKit: a few more than are wanted, so that enough are left.
    rows = _molecules()
    with connection.cursor() as cursor, cursor.copy("COPY incoming FROM STDIN") as copy:
        for number in range(1, molecules + molecules // 100 + 20):
            copy.write_row((number, *next(rows)))
    connection.execute("SELECT set_config('dataset.molecules', %s, true)", [str(molecules)])
    _run(connection, "molecules.sql")


def _molecules() -> Iterator[tuple[str, str]]:
    """SMILES and name of rdkit-data's molecules, without end."""
    for turn in count():
        suffix = f" batch {turn}" if turn else ""
        for line in _file("Data/NCI/first_5K.smi").read_text().splitlines():
            smiles, number = line.split()
            yield smiles, f"NSC {number}{suffix}"
        with _file("Data/Pains/test_data/wehi_mols.csv").open(newline="") as lines:
            for smiles, name in csv.reader(lines):
                yield smiles, name + suffix


def _write_poses(connection: psycopg.Connection) -> None:
    """Whole SD records: the coordinates as text of many lines, their data items as JSON."""
    query = "COPY viewer_pose (title, sdf, properties) FROM STDIN"
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        for name in _SDF:
            for record in _file(name).read_text().split("$$$$\n")[:-1]:
                items = dict(re.findall(r"^> +<(.+?)>.*\n((?:.+\n)*)", record, flags=re.MULTILINE))
                copy.write_row((record.partition("\n")[0], record, Jsonb(items)))


def _file(name: str) -> Path:
    provide()
    return _RDKIT / name


def _summary(connection: psycopg.Connection, started: float) -> Summary:
    relations = connection.execute(
        "SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'm')"
        " AND relispopulated AND relpersistence = 'p' AND relnamespace <> 'pg_toast'::regnamespace"
    ).fetchall()
    rows = {name: _number(connection, f"SELECT count(*) FROM ONLY {name}") for (name,) in relations}
    return Summary(
        molecules=rows.get("rdk.mols", 0),
        tables=len(rows),
        rows=sum(rows.values()),
        large_objects=_number(connection, "SELECT count(*) FROM pg_largeobject_metadata"),
        seconds=monotonic() - started,
    )


def _number(connection: psycopg.Connection, query: str, *values: object) -> int:
    row = connection.execute(query.encode(), values or None).fetchone()
    assert row is not None
    return int(row[0])
