"""Compare the content of PostgreSQL servers: every row of every table, and all else a whole dump must carry.

Two servers of the same major version are the same when `differences` finds nothing: rows, sequences, schema,
large objects, roles with their passwords' verifiers and memberships, privileges, owners, settings, comments.
What a server was at one moment is a `Snapshot`, so that a restored server can be held against the source as
it was when the dump was taken.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import psycopg

from stack_backup_lab.runtime import Server

_CATALOGUE = (Path(__file__).parent / "sql" / "catalogue.sql").read_bytes()

_TABLES = """
SELECT c.oid::regclass::text,
    ARRAY(SELECT attname::text FROM pg_attribute
          WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum),
    ARRAY(SELECT a.attname::text FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid
          WHERE i.indrelid = c.oid AND i.indisprimary AND a.attnum = ANY (i.indkey) ORDER BY a.attnum),
    c.relkind = 'r'
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'm') AND c.relispopulated AND c.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp)'
ORDER BY 1
"""

_LONG = 200
"""Bytes of one value that a snapshot keeps; of a longer one it keeps these and a digest of the whole."""

_SHOWN = 3
"""Rows of one table that a difference shows."""

SERVER = ""
"""The database name under which a snapshot files what belongs to the server as a whole."""

_OF_THE_SERVER = ("database ", "role ", "tablespace ", "parameter ")


@dataclass(frozen=True)
class Table:
    """The rows of one table or materialised view, sorted, each as PostgreSQL's COPY writes it."""

    columns: tuple[str, ...]
    key: tuple[str, ...]
    """Columns of the primary key; empty where there is none."""
    rows: tuple[bytes, ...]
    dumped: bool
    """A dump holds its rows. Those of a materialised view are computed anew."""


@dataclass(frozen=True)
class Snapshot:
    """What a server held at one moment."""

    databases: tuple[str, ...]
    objects: Mapping[tuple[str, str, str], str]
    """(database, aspect, object) to its value; what belongs to the whole server is under `SERVER`."""
    tables: Mapping[tuple[str, str], Table]
    """(database, qualified and quoted name) to its rows."""

    @property
    def rows(self) -> int:
        return sum(len(table.rows) for table in self.tables.values())


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: in which database (or `SERVER`), what, and how it is on either side."""

    database: str
    what: str
    left: str
    right: str

    def __str__(self) -> str:
        where = f"database {self.database}: " if self.database else ""
        return f"{where}{self.what}: {self.left} | {self.right}"


def snapshot(server: Server, databases: Sequence[str] | None = None) -> Snapshot:
    """Read a server, or some of its databases, as they are now. Each database is read in one transaction.

    Without `databases`, all that accept connections are read. Every row is kept in memory, shortened to
    `_LONG` bytes a value: meant for the data of a test, not for a production database.
    """
    if databases is None:
        with _connect(server, "postgres") as connection:
            query = "SELECT datname FROM pg_database WHERE datallowconn ORDER BY 1"
            databases = [name for (name,) in connection.execute(query)]
    objects: dict[tuple[str, str, str], str] = {}
    tables: dict[tuple[str, str], Table] = {}
    for database in databases:
        with _connect(server, database) as connection, connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            objects.update(_objects(connection, database))
            for name, columns, key, dumped in connection.execute(_TABLES).fetchall():
                rows = tuple(sorted(_rows(connection, name)))
                tables[database, name] = Table(tuple(columns), tuple(key), rows, dumped)
    return Snapshot(tuple(databases), objects, tables)


def differences(left: Snapshot, right: Snapshot) -> list[Difference]:
    """All that is not the same in two snapshots, what concerns the server first; empty if they are equal."""
    found = [
        Difference(key[0], f"{key[1]} of {key[2]}", *_excerpts(left.objects.get(key), right.objects.get(key)))
        for key in sorted(left.objects.keys() | right.objects.keys())
        if left.objects.get(key) != right.objects.get(key)
    ]
    for database, name in sorted(left.tables.keys() | right.tables.keys()):
        here, there = left.tables.get((database, name)), right.tables.get((database, name))
        if here is None or there is None:
            sides = ("absent" if table is None else f"{len(table.rows)} rows" for table in (here, there))
            found.append(Difference(database, f"table {name}", *sides))
        elif here.rows != there.rows:
            found.append(Difference(database, f"rows of {name}", *_changed(here, there)))
    return found


def _connect(server: Server, database: str) -> psycopg.Connection:
    connection = psycopg.connect(server.dsn(database), autocommit=True)
    # A role's or a database's own settings must not change how values are written.
    for setting in (
        "search_path = ''",
        "timezone = 'UTC'",
        "datestyle = 'ISO, YMD'",
        "intervalstyle = 'postgres'",
        "bytea_output = 'hex'",
        "extra_float_digits = 1",
        "xmloption = 'content'",
        "lc_monetary = 'C'",
        "client_encoding = 'UTF8'",
        "statement_timeout = 0",
    ):
        connection.execute(f"SET {setting}".encode())
    return connection


def _objects(connection: psycopg.Connection, database: str) -> dict[tuple[str, str, str], str]:
    found: dict[tuple[str, str, str], str] = {}

    def add(aspect: str, name: str, value: str) -> None:
        shared = name.startswith(_OF_THE_SERVER) or aspect in ("membership", "settings")
        key = (SERVER if shared else database, aspect, name)
        found[key] = f"{found[key]}\n{value}" if key in found else value

    for aspect, name, value in sorted(connection.execute(_CATALOGUE).fetchall()):
        add(aspect, name, value)
    for (name,) in connection.execute("SELECT seqrelid::regclass::text FROM pg_sequence").fetchall():
        state = connection.execute(f"SELECT last_value, is_called FROM {name}".encode()).fetchone()
        assert state is not None
        add("value", f"sequence {name}", f"{state[0]}, {'used' if state[1] else 'next'}")
    return found


def _rows(connection: psycopg.Connection, table: str) -> Iterator[bytes]:
    # ONLY, because the partitions and children of a table are read on their own; SELECT, because a plain COPY
    # leaves generated columns out.
    query = f"COPY (SELECT * FROM ONLY {table}) TO STDOUT"
    with connection.cursor() as cursor, cursor.copy(query.encode()) as copy:
        for line in copy:
            yield b"\t".join(_short(value) for value in bytes(line).rstrip(b"\n").split(b"\t"))


def _short(value: bytes) -> bytes:
    if len(value) <= _LONG:
        return value
    digest = hashlib.sha256(value).hexdigest()[:32].encode()
    return b"%s... (%d bytes, sha256 %s)" % (value[:_LONG], len(value), digest)


def _changed(here: Table, there: Table) -> tuple[str, str]:
    """How the rows of one table differ: their numbers, and the first of them on either side."""
    missing = list((Counter(here.rows) - Counter(there.rows)).elements())
    extra = list((Counter(there.rows) - Counter(here.rows)).elements())
    if here.columns == there.columns and here.key:
        # The row of the same primary key stands first on both sides, so that a changed value is seen at once.
        key = [here.columns.index(name) for name in here.key]
        left, right = _by_key(missing, key), _by_key(extra, key)
        common = [k for k in left if k in right]
        missing = [left[k] for k in common] + [row for k, row in left.items() if k not in right]
        extra = [right[k] for k in common] + [row for k, row in right.items() if k not in left]
    return _side(here, missing), _side(there, extra)


def _by_key(rows: Iterable[bytes], key: Sequence[int]) -> dict[tuple[bytes, ...], bytes]:
    split = ((row, row.split(b"\t")) for row in rows)
    return {tuple(values[i] for i in key): row for row, values in split}


def _side(table: Table, rows: Sequence[bytes]) -> str:
    shown = "; ".join(row.decode().replace("\t", " , ") for row in islice(rows, _SHOWN))
    return f"{len(table.rows)} rows, {len(rows)} of them only here" + (f": {shown}" if shown else "")


def _excerpts(left: str | None, right: str | None, width: int = 160) -> tuple[str, str]:
    """Both values around the first character in which they differ."""
    start = 0
    if left is not None and right is not None:
        pairs = zip(left, right, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(left), len(right)))
        start = max(0, first - 40)
    return _excerpt(left, start, width), _excerpt(right, start, width)


def _excerpt(value: str | None, start: int, width: int) -> str:
    if value is None:
        return "absent"
    end = start + width
    return repr(("..." if start else "") + value[start:end] + ("..." if len(value) > end else ""))
