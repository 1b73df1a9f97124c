"""A server into which a database is recovered: its lock, and the one step that replaces the live
database.

The live database NAME; NAME_restore_TIME, the new one beside it until it takes its place; NAME_former_TIME,
the one that was replaced, which takes no connections and is dropped when its time is over.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import Exit, stamp
from stack_backup_jobs.job import Job, say
from stack_backup_jobs.server import Server, of_server
from stack_backup_jobs.session import (
    ServerError,
    Session,
    UnreachableError,
    identifier,
    literal,
    scram_verifier,
)

LOCK = 1937006963  # "stck"
LOCK_PATIENCE = 30.0
"""Seconds to wait for another recovery: the server needs a moment to see that one is gone."""
SWAP_PATIENCE = 10.0
"""Seconds in which the last session of the live database must be gone."""
LAST_WORDS = 4.0
"""Seconds in which the server must end the session of a swap whose answer was not waited for."""
LONGEST = 63
"""Bytes of a name in the server."""


def sidename(database: str, word: str, time: str) -> str:
    """A name beside the database's own: as much of it as there is room for, whole characters only."""
    rest = f"_{word}_{time}"
    return database.encode(errors="surrogateescape")[: LONGEST - len(rest)].decode(errors="ignore") + rest


class Target:
    """One recovery into one server: `database` is the live one that is replaced in the end."""

    def __init__(self, job: Job, server: Server, database: str, *, lasting: bool = True) -> None:
        """`lasting`: of a server that outlives the run, so that a failure must say what it leaves there."""
        self._job, self.server, self.database, self._lasting = job, server, database, lasting
        self._stamp = datetime.now(UTC).strftime("%Y%m%d%H%M%S")
        self.side = sidename(database, "restore", self._stamp)
        self.former = sidename(database, "former", self._stamp)
        self._fenced = False
        self._begun = False
        self._backend: str | None = None
        (row,) = server.query(
            "SELECT current_setting('server_version'), current_setting('server_version_num')::int / 10000, "
            "system_identifier"
            " FROM pg_control_system()"
        )
        self.version, self.major, self.identifier = str(row[0]), int(str(row[1])), str(row[2])

    # ---- alone, and on clean ground ----

    def hold(self) -> None:
        """Only one recovery at a time: a session holds a lock as long as this run lives, and the server ends
        it with the run, however that ends.
        """
        me = f"recovery.{self._job.pod}"[:LONGEST]
        try:
            session = self.server.session(
                application_name=me, tcp_keepalives_idle="30", tcp_keepalives_interval="10"
            )
            self._job.ends.callback(session.close)
            deadline = time.monotonic() + LOCK_PATIENCE
            while session.query(f"SELECT pg_try_advisory_lock({LOCK})") != [("t",)]:
                if time.monotonic() > deadline:
                    holder = session.query(
                        "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE "
                        "locktype = 'advisory'"
                        f" AND granted AND classid = 0 AND objid = {LOCK}"
                    )
                    raise JobError(
                        Exit.TRANSIENT,
                        "Another recovery is at work in this server:"
                        f" {holder[0][0] if holder else 'it has just ended'}.",
                        "Wait for its end, then run this job again.",
                    )
                time.sleep(0.5)
        except ServerError as error:
            raise of_server(error, f"Asking the server {self.server}") from error

    def clear(self) -> None:
        """Takes away what runs that were killed have left: a fence before the live database, half-loaded
        databases.
        """
        if (limit := self._fence()) is not None:
            say("Lifting the fence that a run that was killed has left before the live database.")
            self.server.query(self._unfence(limit))
        prefix = re.escape(self.side.removesuffix(self._stamp))
        for (name,) in self.server.query("SELECT datname FROM pg_database"):
            if re.fullmatch(prefix + r"\d{14}", str(name), re.ASCII):
                say(f"Dropping {name}, left by a run that was killed.")
                self.server.drop(str(name))

    def _fence(self) -> str | None:
        """How many connections the live database had before a fence was put up, where there is one."""
        rows = self.server.query(
            "SELECT split_part(setting, '=', 2) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = "
            "s.setdatabase,"
            f" unnest(setconfig) setting WHERE setrole = 0 AND datname = {literal(self.database)}"
            " AND setting LIKE 'stack_backup.fence=%'"
        )
        return str(int(str(rows[0][0]))) if rows else None

    def _unfence(self, limit: str) -> str:
        live = identifier(self.database)
        reset = f'ALTER DATABASE {live} RESET "stack_backup.fence"'
        return f"ALTER DATABASE {live} CONNECTION LIMIT {limit}; {reset}"

    # ---- the new database ----

    def begin(self, create: str) -> None:
        """Makes the new database, for superusers alone; `create` are the options of its CREATE DATABASE."""
        self._begun = True
        if self._lasting:
            self._job.ends.callback(self._abandon)
        try:
            with self.server.session() as session:
                session.execute(f"CREATE DATABASE {identifier(self.side)} {create} CONNECTION LIMIT 0")
        except UnreachableError:
            raise
        except ServerError as error:
            failure = of_server(error, "Making the new database")
            if failure.code != Exit.NO_ROOM:
                failure.code = Exit.SETUP
                failure.advice = "Use the image that the stack's own server runs (value database.image)."
            raise failure from error

    def _abandon(self) -> None:
        """A run that ends before the swap leaves nothing. (The server may be the reason: then the next run
        does it.)
        """
        if not self._begun:
            return
        with self.server.session() as session:
            if self._fenced:
                for statement in self._unfence(self._limit).split("; "):
                    session.execute(statement)
            there = session.query(f"SELECT FROM pg_database WHERE datname = {literal(self.side)}")
        if there:
            self.server.drop(self.side)
        self._begun = self._fenced = False

    # ---- the swap ----

    def swap(self, keep: float, limit: int, template: bool, owner: str, password: str | None) -> bool:
        """Two renames in one transaction, with all that must come with them. Nobody gets into the live
        database meanwhile; who is in it is thrown out. Returns whether there was one.

        `limit` and `template` are the new database's own; `owner` gets this stack's `password`, as a verifier
        that tells nobody the password; the former database is kept for `keep` seconds.
        """
        rows = self.server.query(
            f"SELECT datconnlimit FROM pg_database WHERE datname = {literal(self.database)}"
        )
        was = bool(rows)
        self._limit = str(rows[0][0]) if rows else "-1"
        self._leaves(
            f"Whether the live database {self.database} was replaced already is not known: where a database"
            f" {self.former} "
            "exists, it was.",
            lambda: self.ask(was),
        )
        try:
            with self.server.session() as session:
                if was:
                    say("Replacing the live database.")
                    self._fenced = True
                    live = identifier(self.database)
                    session.execute(
                        f'ALTER DATABASE {live} SET "stack_backup.fence" = {literal(self._limit)}'
                    )
                    session.execute(f"ALTER DATABASE {live} CONNECTION LIMIT 0")
                ((self._backend,),) = session.query("SELECT pg_backend_pid()")
                self._swap(session, self._statements(was, keep, limit, template, owner, password))
        except ServerError as error:
            if not self.done(was):
                failure = of_server(error, "Replacing the live database")
                raise JobError(failure.code, failure.what, failure.advice) from error
        self._begun = self._fenced = False
        self._leaves(self.ask(was))
        return was

    def _leaves(self, text: str, ask: Callable[[], str] | None = None) -> None:
        if self._lasting:
            self._job.leaves(text, ask)

    def _statements(
        self, was: bool, keep: float, limit: int, template: bool, owner: str, password: str | None
    ) -> list[str]:
        live, side, former = map(identifier, (self.database, self.side, self.former))
        until = literal(stamp(time.time() + keep))
        statements = ["BEGIN"]
        if was:
            statements += [
                f"ALTER DATABASE {live} RENAME TO {former}",
                f'ALTER DATABASE {former} SET "stack_backup.drop_after" = {until}',
                f'ALTER DATABASE {former} RESET "stack_backup.fence"',
                # Passed over by pg_dumpall, and out of everybody's reach.
                f"ALTER DATABASE {former} ALLOW_CONNECTIONS false CONNECTION LIMIT {self._limit} IS_TEMPLATE "
                "false",
            ]
        statements += [
            f"ALTER DATABASE {side} RENAME TO {live}",
            f"ALTER DATABASE {live} CONNECTION LIMIT {limit} IS_TEMPLATE {'true' if template else 'false'}",
        ]
        if password is not None:
            statements.append(
                f"ALTER ROLE {identifier(owner)} LOGIN PASSWORD {literal(scram_verifier(password))}"
            )
        return [*statements, "COMMIT"]

    def _swap(self, session: Session, statements: list[str]) -> None:
        names = f"({literal(self.database)}, {literal(self.side)})"
        deadline = time.monotonic() + SWAP_PATIENCE
        while True:
            session.query(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                f" AND datname IN {names}"
            )
            try:
                for statement in statements:
                    session.execute(statement)
                return
            except UnreachableError:
                raise
            except ServerError as error:
                session.execute("ROLLBACK")
                if error.sqlstate != "55006" or time.monotonic() > deadline:  # somebody is in it
                    advice = "Stop what connects to it as a superuser, and run the job again."
                    what = f"The live database could not be replaced: {error}."
                    raise JobError(Exit.TRANSIENT, what, advice) from error
                time.sleep(0.2)

    def done(self, was: bool) -> bool:
        """Asks the server whether the swap has happened: its answer may have been lost, and it may be at it
        still.
        """
        mine = f"pid = {self._backend or 0} AND application_name LIKE 'stack-backup %'"
        deadline = time.monotonic() + LAST_WORDS
        ending = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {mine}"
        while self.server.query(ending) and time.monotonic() < deadline:
            time.sleep(0.1)
        names = {str(name) for (name,) in self.server.query("SELECT datname FROM pg_database")}
        return self.side not in names and (self.former if was else self.database) in names

    def ask(self, was: bool) -> str:
        """The sentence that is true of the live database, by the server's own word."""
        if not self.done(was):
            return "The live database is as it was."
        if was:
            return f"The recovered database is live already, and the former one is kept as {self.former}."
        return "The recovered database is live already; there was none before."
