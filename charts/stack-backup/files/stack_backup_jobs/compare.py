"""What a restored database holds, beside what its dump holds: rows of every table by the rules by which
pg_dump writes them, sequences, large objects, extensions.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

from stack_backup_jobs.formats import Manifest
from stack_backup_jobs.session import ServerError, Session, UnreachableError, identifier
from stack_backup_jobs.sessions import Sessions

Name = tuple[str, ...]
"""Schema and name."""
T = TypeVar("T")
R = TypeVar("R")

# A partitioned table is dumped by its partitions, or they by it. A table of an extension is dumped where the
# extension says so, as far as it says so. Rows of foreign tables and partitions are not in a dump.
_RELATIONS = """
SELECT nspname, relname, relkind, coalesce(rootspace, ''), coalesce(rootname, ''), member, configured,
  coalesce(condition, '')
FROM (
  SELECT nspname, relname, relkind, rootspace, rootname, EXISTS (
      SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = c.oid AND deptype = 'e'
    ) AS member,
    x.oid IS NOT NULL AS configured, x.condition
  FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
    LEFT JOIN (SELECT r.oid AS root, rn.nspname AS rootspace, r.relname AS rootname FROM pg_class r
      JOIN pg_namespace rn ON rn.oid = r.relnamespace) roots ON root = pg_partition_root(c.oid)
    LEFT JOIN (SELECT unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_extension) x
      ON x.oid = c.oid
  WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND nspname !~ '^pg_'
    AND nspname <> 'information_schema'
) listed
"""


@dataclass
class Held:
    """What one database holds, by name; a tree of partitions that was loaded by its root is its root."""

    tables: dict[Name, int] = field(default_factory=dict)
    sequences: dict[Name, tuple[str, str]] = field(default_factory=dict)
    extensions: dict[str, str] = field(default_factory=dict)
    objects: int = 0
    members: dict[Name, Name] = field(default_factory=dict)
    """Partitions of trees that were loaded by their root, and that root."""

    @property
    def rows(self) -> int:
        return sum(self.tables.values())


def names(text: str) -> Name:
    """The parts of `schema."Table"`, whatever of it is quoted."""
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part
        for part in re.findall(r'"(?:[^"]|"")*"|[^".]+', text)
    )


def expected(manifest: Manifest, database: str) -> Held:
    """What a manifest says of one database."""
    held = Held(objects=sum(int(count) for name, count in manifest.all("largeobject") if name == database))
    for _, table, rows in (values for values in manifest.all("table") if values[0] == database):
        held.tables[names(table)] = held.tables.get(names(table), 0) + int(rows)
    for _, sequence, value, used in (values for values in manifest.all("sequence") if values[0] == database):
        held.sequences[names(sequence)] = (value, used)
    for _, extension, version in (values for values in manifest.all("extension") if values[0] == database):
        held.extensions[extension] = version
    return held


def found(open_session: Callable[[], Session], said: Held, jobs: int) -> Held:
    """What the database holds now, counted by `jobs` sessions; `said` tells which trees were loaded by their
    root.

    Raises ServerError.
    """
    held = Held()
    with open_session() as session:
        relations = session.query(_RELATIONS)
        (objects,) = session.query("SELECT count(*) FROM pg_largeobject_metadata")
        held.objects = int(str(objects[0]))
        held.extensions = {
            str(name): str(version)
            for name, version in session.query("SELECT extname, extversion FROM pg_extension")
        }
        for space, name in session.query(
            "SELECT nspname, relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind "
            "= 'S'"
            " AND relpersistence <> 't' AND nspname !~ '^pg_' AND nspname <> 'information_schema'"
        ):
            key = (str(space), str(name))
            ((value, used),) = session.query(
                f"SELECT last_value, is_called FROM {identifier(key[0])}.{identifier(key[1])}"
            )
            held.sequences[key] = (str(value), str(used))
    by_root = {
        tuple(map(str, (r[3], r[4])))
        for r in relations
        if r[2] == "p" and (str(r[0]), str(r[1])) in said.tables
    }
    counted: dict[Name, list[tuple[str, str]]] = defaultdict(list)
    for space, name, kind, rootspace, rootname, member, configured, condition in relations:
        key, root = (str(space), str(name)), (str(rootspace), str(rootname))
        if member == "t" and configured != "t" and key not in said.tables:
            continue
        if kind == "r":
            table = f"{identifier(key[0])}.{identifier(key[1])}"
            counted[root if root in by_root else key].append((table, str(condition)))
        elif root in by_root:
            counted[root] += []  # one without partitions of its own
        if root in by_root:
            held.members[key] = root
    held.tables = _count(open_session, counted, jobs)
    return held


def _count(
    open_session: Callable[[], Session], counted: dict[Name, list[tuple[str, str]]], jobs: int
) -> dict[Name, int]:
    """The rows of these tables that fulfil their conditions, added up by name."""

    def rows(session: Session, item: tuple[Name, list[tuple[str, str]]]) -> tuple[Name, int]:
        return item[0], sum(_rows(session, *one) for one in item[1])

    return dict(shared(open_session, sorted(counted.items()), jobs, rows))


def _rows(session: Session, table: str, condition: str) -> int:
    try:
        ((count,),) = session.query(f"SELECT count(*) FROM ONLY {table} {condition}")
        return int(str(count))
    except UnreachableError:
        raise
    except ServerError:
        if condition:
            raise
    # To plan a query, the server runs functions of the table's indexes, which may refuse whoever is not its
    # owner. COPY, by which the rows were dumped, needs no plan.
    return int(session.execute(f"COPY {table} TO '/dev/null'").split()[1])


def shared(
    open_session: Callable[[], Session], items: Iterable[T], jobs: int, do: Callable[[Session, T], R]
) -> list[R]:
    """What `do` gives for every item, by `jobs` sessions at once. When the run is told to stop, what runs in
    the server ends.
    """
    work, lock = iter(items), threading.Lock()

    def some(session: Session) -> list[R]:
        done: list[R] = []
        while True:
            with lock:
                found = list(islice(work, 1))
            if not found:
                return done
            done.append(do(session, found[0]))

    with Sessions(open_session, jobs) as sessions:
        opened = [sessions.open() for _ in range(jobs)]
        done = sessions.results([sessions.pool.submit(some, session) for session in opened])
        return [one for some_of_them in done for one in some_of_them]


def folded(said: Held, members: dict[Name, Name]) -> dict[Name, int]:
    """The rows of each table, those of partitions of a tree that was loaded by its root as the root's."""
    tables: dict[Name, int] = defaultdict(int)
    for name, rows in said.tables.items():
        tables[members.get(name, name)] += rows
    return tables


def differences(database: str, said: Held, there: Held) -> list[str]:
    """One sentence for each."""
    tables = folded(said, there.members)
    say = []
    for name, rows in tables.items():
        if there.tables.get(name) != rows:
            now = f"{there.tables[name]} rows instead of {rows} rows" if name in there.tables else "missing"
            say.append(f"the table {'.'.join(name)} of {database}: {now}")
    for name, rows in there.tables.items():
        if name not in tables:
            say.append(
                f"the table {'.'.join(name)} of {database}: not in the manifest, but restored ({rows} rows)"
            )
    for name, value in said.sequences.items():
        if there.sequences.get(name) != value:
            now = (
                _position(there.sequences[name]) + f" instead of {_position(value)}"
                if name in there.sequences
                else "missing"
            )
            say.append(f"the sequence {'.'.join(name)} of {database}: {now}")
    say += [
        f"the extension {name} of {database}: missing"
        for name in said.extensions
        if name not in there.extensions
    ]
    if said.objects != there.objects:
        now = (
            f"{there.objects} instead of {said.objects}"
            if said.objects
            else f"not in the manifest, but restored ({there.objects})"
        )
        say.append(f"the large objects of {database}: {now}")
    return say


def _position(sequence: tuple[str, str]) -> str:
    value, used = sequence
    return value if used == "t" else f"{value} (not given out yet)"
