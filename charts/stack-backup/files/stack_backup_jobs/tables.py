"""Tables of a dump, beside the live ones: loaded into a database of their own as a recovery does it, and
copied from there into a schema of the live database. Nothing that is there is touched: nothing to confirm.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from dataclasses import dataclass

from stack_backup_jobs import compare
from stack_backup_jobs.compare import Name
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.job import Job, Outcome, say
from stack_backup_jobs.loader import IMAGE
from stack_backup_jobs.reader import Part
from stack_backup_jobs.restore import Restore
from stack_backup_jobs.room import Room, watched
from stack_backup_jobs.server import of_server
from stack_backup_jobs.session import ServerError, Session, identifier, literal
from stack_backup_jobs.target import Target

ACCEPTED = "CHECK CONSTRAINT *"
"""What may look into a table that is not loaded, and is no part of what is brought back."""
_TABLES = """SELECT nspname, relname, c.oid, relkind
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p') AND relpersistence <> 't' AND nspname !~ '^pg_'
  AND nspname <> 'information_schema' ORDER BY 1, 2"""
_TREE = """SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE c.oid IN (SELECT {oid}::oid UNION SELECT relid FROM pg_partition_tree({oid}::oid))"""
_COLUMNS = """SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = {oid}::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum"""


def wanted(text: str) -> list[str]:
    """The names in a variable that has one in each line. Raises JobError."""
    found = [line.strip() for line in text.split("\n") if line.strip()]
    last = [compare.names(name)[-1:] for name in found]
    if len(set(last)) < len(last):
        raise JobError(
            Exit.USAGE,
            f"Two tables of one name cannot lie in one schema: {', '.join(found)}.",
            "Bring them back one after the other, and rename the schema in between.",
        )
    return found


def schema_of(time: str) -> str:
    """`restored_2026_11_25t11_51_08z`, for the time of a dump: it needs no quotes."""
    return "restored_" + re.sub(r"[-:]", "_", time).lower()


@dataclass
class Table:
    """One that is wanted, as the private database has it."""

    schema: str
    name: str
    partitioned: bool
    columns: list[tuple[str, str]]
    """Names and types."""
    tree: set[Name]
    """Itself and its partitions."""

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"

    @property
    def source(self) -> str:
        """Rows of tables that inherit from it are their own."""
        return f"{'' if self.partitioned else 'ONLY '}{identifier(self.schema)}.{identifier(self.name)}"


class Tables:
    """Of a dump that was read, into the database that `target` would replace in a recovery."""

    def __init__(self, job: Job, restore: Restore, target: Target, names: list[str], owner: str) -> None:
        self._job, self._restore, self._target = job, restore, target
        self._names, self._owner = names, owner
        self.schema = schema_of(restore.dump.time)
        self._tables: list[Table] = []

    def check(self) -> None:
        """Is there room for the names in the live database? Raises JobError."""
        there = self._target.server.query(
            "SELECT relname FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
            f" WHERE nspname = {literal(self.schema)}",
            self._target.database,
        )
        last = {compare.names(name)[-1] for name in self._names}
        if taken := sorted(last & {str(name) for (name,) in there}):
            raise JobError(
                Exit.SETUP,
                f"The schema {self.schema} of {self._target.database} has {', '.join(taken)} already.",
                "It is from an earlier run: use it, or drop or rename it and run the job again.",
            )

    def run(self, part: Part) -> Outcome:
        """Raises JobError, ServerError."""
        room = self._restore.load_some(self._target, part, self._choose)
        said = {} if part.inserts else self._restore.said(part.name).tables
        say(f"Copying {len(self._tables)} tables into the schema {self.schema} of {self._target.database}.")
        with self._job.lap("copy_seconds"):
            counted = self._copy(said, room)
        self._job.figure(
            schema=self.schema,
            tables=len(counted),
            rows=sum(counted.values()),
            restored=[f"{name}: {rows}" for name, rows in counted.items()],
        )
        shown = ", ".join(f"{name} ({rows} rows)" for name, rows in list(counted.items())[:5])
        more = f" and {len(counted) - 5} more" if len(counted) > 5 else ""
        return Outcome(
            Exit.DONE,
            "restored",
            f"{shown}{more} of {self._restore.dump.name} are in the schema {self.schema} of"
            f" {self._target.database}, as columns and rows. No other table was touched. Copy from there what"
            f" you need, then drop the schema.{self._restore.lacking()}",
        )

    # ---- the private database ----

    def _choose(self, session: Session) -> set[Name]:
        """The tables whose rows are needed; all definitions are there. Raises JobError, ServerError."""
        there: dict[Name, tuple[str, str | None]] = {
            (str(space), str(name)): (str(oid), kind) for space, name, oid, kind in session.query(_TABLES)
        }
        needed: set[Name] = set()
        for text in self._names:
            key = self._find(text, list(there))
            oid, kind = there[key]
            columns = [(str(name), str(of)) for name, of in session.query(_COLUMNS.format(oid=oid))]
            tree: set[Name] = {
                (str(space), str(name)) for space, name in session.query(_TREE.format(oid=oid))
            }
            self._tables.append(Table(key[0], key[1], kind == "p", columns, tree))
            needed |= tree
            # Rows of a partition may be in the dump by the root of its tree.
            root = session.query(
                "SELECT nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
                f" WHERE c.oid = pg_partition_root({oid}::oid)"
            )
            needed |= {(str(space), str(name)) for space, name in root}
        self._check_types()
        return needed

    def _find(self, text: str, there: list[Name]) -> Name:
        """`table`, of any schema where only one has it, or `schema.table`."""
        asked = compare.names(text)
        found = [name for name in there if name[-len(asked) :] == asked]
        if len(found) == 1:
            return found[0]
        dump = self._restore.dump.name
        if found:
            shown = ", ".join(map(".".join, found))
            raise JobError(
                Exit.SOURCE, f"{dump} holds several tables {text}: {shown}.", "Name one with its schema."
            )
        all_names = [".".join(name) for name in there] + [name[-1] for name in there]
        near = dict.fromkeys(difflib.get_close_matches(".".join(asked), all_names, 4))
        advice = f"Names near it: {', '.join(near)}." if near else "Check its name and its schema."
        raise JobError(Exit.SOURCE, f"{dump} holds no table {text}.", advice)

    def _check_types(self) -> None:
        """Does the live database know the type of every column?"""
        types = sorted({of for table in self._tables for _, of in table.columns})
        listed = ", ".join(f"({literal(of)})" for of in types)
        if not types:
            return
        lacking = self._target.server.query(
            f"SELECT of FROM (VALUES {listed}) AS wanted (of) WHERE to_regtype(of) IS NULL",
            self._target.database,
        )
        if missing := {str(of) for (of,) in lacking}:
            columns = [
                f"{table}.{name} ({of})"
                for table in self._tables
                for name, of in table.columns
                if of in missing
            ]
            raise JobError(
                Exit.SETUP,
                f"The live database lacks the type of {', '.join(columns[:5])}.",
                "Make the type there, or bring the whole dump back in another stack and copy from there.",
            )

    # ---- the live one ----

    def _copy(self, said: dict[Name, int], room: tuple[Room, int]) -> dict[str, int]:
        """In one transaction: all of it is there in the end, or nothing. Raises JobError, ServerError."""
        server, target = self._target.server, self._target
        schema, owner = identifier(self.schema), identifier(self._owner)
        counted: dict[str, int] = {}
        with contextlib.ExitStack() as stack:
            live = stack.enter_context(server.session(target.database))
            side = stack.enter_context(server.session(target.side))
            stack.enter_context(watched(target, room, live.abort))
            live.execute("BEGIN")
            live.execute(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {owner}")
            about = literal(f"Tables of {self._restore.dump.name}; no application needs them.")
            live.execute(f"COMMENT ON SCHEMA {schema} IS {about}")
            for table in self._tables:
                into = f"{schema}.{identifier(table.name)}"
                rows = self._copy_one(side, live, table, into)
                live.execute(f"ALTER TABLE {into} OWNER TO {owner}")
                known = [said[name] for name in table.tree if name in said]
                if known and rows != sum(known):
                    raise JobError(
                        Exit.DATA,
                        f"{table} has {rows} rows, and {self._restore.dump.name} holds {sum(known)}.",
                        "Use another dump, and look at the log of the server.",
                    )
                counted[str(table)] = rows
            self._job.leaves(
                "No live table was touched. Whether the schema "
                f"{self.schema} was made is not known: look for it."
            )
            live.execute("COMMIT")
        return counted

    def _copy_one(self, side: Session, live: Session, table: Table, into: str) -> int:
        columns = ", ".join(f"{identifier(name)} {of}" for name, of in table.columns)
        names = ", ".join(identifier(name) for name, _ in table.columns)
        try:
            live.execute(f"CREATE TABLE {into} ({columns})")
            rows = live.copy_in(
                f"COPY {into} FROM STDIN",
                side.copy_out(f"COPY (SELECT {names} FROM {table.source}) TO STDOUT"),
            )
        except ServerError as error:
            failure = of_server(error, f"Copying {table}")
            if error.sqlstate[:2] in ("22", "42"):  # a type of that name which is another
                failure.code, failure.advice = Exit.SETUP, IMAGE
            raise failure from error
        self._job.progress(f"{table}: {rows} rows")
        return rows
