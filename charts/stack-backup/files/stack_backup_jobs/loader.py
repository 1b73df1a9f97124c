"""Loads one database of a dump into a new, empty one: first all that must be there before the rows, then the
rows by several sessions, then indexes and constraints by several, then the rest in its order.
"""

from __future__ import annotations

import fnmatch
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from stack_backup_jobs.computed import transaction, without
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import MIB, Exit
from stack_backup_jobs.job import Job, say
from stack_backup_jobs.pack import Unpacker
from stack_backup_jobs.reader import CopyBlock, Part, Settings, Statement, settle
from stack_backup_jobs.server import of_server
from stack_backup_jobs.session import ServerError, Session, UnreachableError, codec
from stack_backup_jobs.sessions import Sessions

IMAGE = "Use the image that the stack's own server runs (value database.image)."
INDEPENDENT = {"INDEX", "CONSTRAINT"}
"""Entries that need nothing of each other, wherever they follow one another."""
_COMMENT = re.compile(
    r"COMMENT (.*)\.(INDEX|STATISTICS|VIEW|MATERIALIZED VIEW|FUNCTION|TABLE) (.*)", re.DOTALL
)
SHARE = 32 * MIB
"""Bytes of rows that are not worth another session."""
_TABLE = re.compile(rb"ALTER TABLE (?:ONLY )?(\S+)")
_TIMEOUT = re.compile(rb"SET \w+_timeout = 0;")
_TABLESPACE = re.compile(rb"SET default_tablespace = .*;", re.DOTALL)


@dataclass
class Broken:
    """An object of the dump that the server refuses, as it is named in values and verdicts: `INDEX
    public.site_where`.
    """

    name: str
    error: ServerError

    def __str__(self) -> str:
        return f"{self.name}: {self.error}" if self.name else str(self.error)


@dataclass
class Loaded:
    """What became of it: objects that were left out, constraints that are not valid, as it was accepted."""

    left_out: list[str] = field(default_factory=list)
    not_valid: list[str] = field(default_factory=list)
    rowless: set[str] = field(default_factory=set)
    """Tables whose rows were left out."""


def is_accepted(name: str, accepted: Iterable[str]) -> bool:
    return bool(name) and any(fnmatch.fnmatchcase(name, pattern) for pattern in accepted)


def failure_of(broken: Broken) -> JobError:
    """By what was done, and the SQLSTATE."""
    error = broken.error
    what = f"The dump could not be loaded: {broken}."
    if isinstance(error, UnreachableError) or error.sqlstate[:2] in ("08", "53", "57"):
        known = of_server(error)
        return JobError(known.code, what, known.advice)
    lacking = error.sqlstate in ("0A000", "58P01") and not broken.name.startswith("CHECK CONSTRAINT ")
    if broken.name.startswith("EXTENSION ") or lacking or not broken.name:
        return JobError(Exit.SETUP, what, IMAGE)
    return JobError(
        Exit.DATA,
        what,
        "Fix it where the dump comes from, or use another dump"
        f', or accept that this object is missing: the value database.accepted, "{broken.name}".',
    )


class Loader:
    """`open_session` gives a session of the new database; `accepted` are patterns of objects that may fail;
    without `tablespaces` all goes to the server's default one.
    """

    def __init__(
        self,
        job: Job,
        dump: Unpacker,
        part: Part,
        open_session: Callable[[], Session],
        jobs: int,
        accepted: Iterable[str] = (),
        tablespaces: bool = True,
    ) -> None:
        self._job, self._dump, self._part = job, dump, part
        self._jobs, self._accepted, self._tablespaces = max(1, jobs), list(accepted), tablespaces
        self._sessions = Sessions(open_session, self._jobs + 1)
        self._submit, self._await = self._sessions.pool.submit, self._sessions.results
        self._free: list[Session] = []
        self._set: dict[Session, Settings] = {}
        self._lock = threading.Lock()
        self._broken: list[Broken] = []
        self._late: list[CopyBlock] = []
        self._put_off: list[tuple[Statement, str]] = []
        self._bytes = 0
        self.loaded = Loaded()

    def run(self) -> Loaded:
        """Raises JobError."""
        try:
            with self._sessions:
                self._phases()
        except ServerError as error:
            raise failure_of(Broken("", error)) from error
        if len(self._broken) == 1:
            raise failure_of(self._broken[0])
        if self._broken:
            shown = "; ".join(map(str, self._broken[:5])) + ("; …" if len(self._broken) > 5 else "")
            raise JobError(
                Exit.DATA,
                f"The dump could not be loaded: {len(self._broken)} of its objects are refused: {shown}.",
                "Fix them where the dump comes from, or accept that they are missing (value "
                "database.accepted).",
            )
        return self.loaded

    def stop(self) -> None:
        """Ends what runs in the server, from any thread; the load fails then."""
        self._sessions.abort()

    def _phases(self) -> None:
        part, main = self._part, self._session()
        self._await([self._submit(self._in_order, main, part.before)])
        if part.orderly:
            forward = self._dump.forward
            shares = self._shares(part.blocks)
            work = iter(sorted(shares, key=lambda share: share[0].start if forward else -share[0].length))
            copies = [self._submit(self._copy_some, work) for _ in range(self._jobs)]
            self._await([self._submit(self._loose, main), *copies])
        else:
            self._await([self._submit(self._as_it_comes, main)])
        for block in sorted(self._late, key=lambda block: block.start):
            self._await([self._submit(self._copy_again, main, block)])
        for constraint, told in self._put_off:
            self._await([self._submit(self._put_back, main, constraint, told)])
        self._after(main)

    # ---- sessions ----

    def _session(self) -> Session:
        session = self._sessions.open()
        self._set[session] = ()
        return session

    def _settle(self, session: Session, wanted: Settings) -> None:
        """Sets what a statement of the dump wants to be set."""
        for statement in settle(self._set[session], wanted):
            unknown = _TIMEOUT.match(statement)  # newer ones are not known everywhere, and ours are off
            if not unknown and (self._tablespaces or not _TABLESPACE.match(statement)):
                session.execute(statement)
        self._set[session] = wanted

    # ---- before the rows, and where all goes in its order ----

    def _in_order(self, session: Session, span: tuple[int, int]) -> None:
        for statement in self._part.statements(self._dump.chunks(span[0]), *span):
            self._execute(session, statement)

    def _execute(self, session: Session, statement: Statement) -> None:
        try:
            self._settle(session, statement.settings)
            session.execute(statement.sql)
        except UnreachableError:
            raise
        except ServerError as error:
            self._refused(session, statement, error)

    def _refused(self, session: Session, statement: Statement, error: ServerError) -> None:
        """Accepted; or kept, where what follows can be tried all the same; else the end."""
        name = statement.name
        if self._is_said_of_nothing(name):
            return
        if self._is_accepted(name):
            if statement.type in ("FK CONSTRAINT", "CHECK CONSTRAINT") and self._not_valid(
                session, statement
            ):
                self.loaded.not_valid.append(name)
            else:
                say(f"{name} is left out, as it was accepted: {error}.")
                self.loaded.left_out.append(name)
            return
        broken = Broken(name, error)
        say(f"The server refuses {broken}.")
        if statement.start < self._part.after[0] or not name:
            raise failure_of(broken)
        with self._lock:
            self._broken.append(broken)

    def _is_accepted(self, name: str) -> bool:
        return is_accepted(name, self._accepted)

    def _is_said_of_nothing(self, name: str) -> bool:
        """A comment on an object that was refused."""
        about = _COMMENT.fullmatch(name)
        return about is not None and f"{about[2]} {about[1]}.{about[3]}" in self._missing()

    def _missing(self) -> set[str]:
        return {*self.loaded.left_out, *(broken.name for broken in self._broken)}

    def _not_valid(self, session: Session, statement: Statement) -> bool:
        """A constraint that its rows do not fulfil, for all that comes."""
        try:
            session.execute(statement.sql.rstrip().rstrip(b";") + b" NOT VALID;")
        except UnreachableError:
            raise
        except ServerError:
            return False
        say(f"{statement.name} is not valid for rows that are there, as it was accepted.")
        return True

    # ---- rows ----

    def _loose(self, session: Session) -> None:
        """What stands between the rows of tables: sequences, large objects."""
        for span in self._part.between:
            self._in_order(session, span)

    def _as_it_comes(self, session: Session) -> None:
        blocks, spans = list(self._part.blocks), list(self._part.between)
        while blocks or spans:
            if not spans or (blocks and blocks[0].start < spans[0][0]):
                self._copy(session, blocks[0], blocks.pop(0))
            else:
                self._in_order(session, spans.pop(0))

    def _shares(self, blocks: list[CopyBlock]) -> Iterator[tuple[CopyBlock, CopyBlock]]:
        """What sessions load at once, each with the block that it is of: the rows of a table that has more
        than one session's share of all are loaded by several, else the others would wait for it.
        """
        share = max(sum(block.length for block in blocks) // self._jobs, SHARE)
        for block in blocks:
            start, end = block.start, block.start + block.length
            divided = self._jobs > 1 and block.length > share + SHARE and self._is_alone(block)
            while divided and end - start > share + SHARE:
                cut = min(self._next_row(start + share), end)
                yield replace(block, start=start, length=cut - start), block
                start = cut
            if start < end or start == block.start:
                yield replace(block, start=start, length=end - start), block

    def _is_alone(self, block: CopyBlock) -> bool:
        """Does nothing else bring rows to its table?"""
        same = sum(other.table == block.table for other in self._part.blocks)
        return same == 1 and not block.via_root and not self._part.inserts

    def _next_row(self, at: int) -> int:
        r"""Where the first row after this byte of the text begins: COPY writes a newline in a row as `\n`."""
        for chunk in self._dump.chunks(at):
            if (end := chunk.find(b"\n")) >= 0:
                return at + end + 1
            at += len(chunk)
        return at

    def _copy_some(self, work: Iterator[tuple[CopyBlock, CopyBlock]]) -> None:
        session = None
        while True:
            with self._lock:
                share, block = next(work, (None, None))
            if share is None or block is None:
                if session is not None:
                    self._give_back(session)
                return
            session = session or self._take()
            self._copy(session, share, block)

    def _rows(self, block: CopyBlock) -> Iterator[bytes]:
        left = block.length
        if not left:
            return
        for chunk in self._dump.chunks(block.start):
            if self._sessions.aborted:
                raise JobError(Exit.TRANSIENT, "The load was stopped.")
            piece = chunk[:left]
            left -= len(piece)
            with self._lock:
                self._bytes += len(piece)
            yield piece
            if not left:
                return
            self._job.progress(f"{self._bytes // MIB} MiB of rows loaded")

    def _copy(self, session: Session, share: CopyBlock, block: CopyBlock) -> None:
        try:
            self._settle(session, block.settings)
            session.copy_in(block.statement, self._rows(share))
        except UnreachableError:
            raise
        except ServerError as error:
            if error.sqlstate[:2] in ("08", "53", "57"):
                raise failure_of(Broken(block.name, error)) from error
            say(f"{block.name} is loaded again when all other rows are there: {error}.")
            with self._lock:
                if block not in self._late:
                    self._late.append(block)

    def _copy_again(self, session: Session, block: CopyBlock) -> None:
        """Rows that were refused: what is computed of them may look into another table. If it fails still,
        they come without it.
        """
        alone = self._is_alone(block)

        def rows() -> None:
            if alone:  # an attempt that failed has left its room taken, and other sessions their share
                session.execute(f"TRUNCATE ONLY {block.table}")
            session.copy_in(block.statement, self._rows(block))

        self._settle(session, block.settings)
        try:
            with transaction(session):
                return rows()
        except UnreachableError:
            raise
        except ServerError as error:
            refused = error
        try:
            broken = without(session, block.table, rows)
        except UnreachableError:
            raise
        except ServerError:
            return self._rowless(block, refused)
        for rule, refusal in broken:
            sql = rule.again.encode(codec(self._part.encoding), "surrogateescape")
            statement = Statement(sql, self._part.after[0], rule.type, rule.name, block.settings)
            if rule.lasting:
                say(f"{rule.name} is checked when all rows are there: {refusal}.")
                self._put_off.append((statement, rule.comment))
            else:
                self._refused(session, statement, refusal)

    def _rowless(self, block: CopyBlock, error: ServerError) -> None:
        if not self._is_accepted(block.name):
            raise failure_of(Broken(block.name, error)) from error
        say(f"{block.name} is left out, as it was accepted: {error}.")
        self.loaded.left_out.append(block.name)
        self.loaded.rowless.add(block.table)

    def _put_back(self, session: Session, statement: Statement, told: str) -> None:
        """A CHECK that was put off, and its comment."""
        self._execute(session, statement)
        if told and statement.name not in self._missing():
            session.execute(told)

    # ---- after the rows ----

    def _after(self, main: Session) -> None:
        """Runs of independent entries by several sessions, all else in its order."""
        run: list[Statement] = []
        for statement in self._part.statements(self._dump.chunks(self._part.after[0]), *self._part.after):
            if statement.type in INDEPENDENT and self._jobs > 1:
                run.append(statement)
                continue
            self._await_run(run)
            run = []
            self._await([self._submit(self._execute, main, statement)])
        self._await_run(run)

    def _await_run(self, run: list[Statement]) -> None:
        """An entry's statements, and those that change the same table, one after the other."""
        groups: dict[bytes | str, list[Statement]] = {}
        for statement in run:
            found = _TABLE.match(statement.sql) if statement.type == "CONSTRAINT" else None
            groups.setdefault(found[1] if found else statement.name, []).append(statement)
        work = iter(groups.values())
        self._await([self._submit(self._execute_some, work) for _ in range(min(self._jobs, len(groups)))])

    def _execute_some(self, work: Iterator[list[Statement]]) -> None:
        session = self._take()
        while True:
            with self._lock:
                group = next(work, None)
            if group is None:
                return self._give_back(session)
            for statement in group:
                self._execute(session, statement)

    def _take(self) -> Session:
        with self._lock:
            if self._free:
                return self._free.pop()
        return self._session()

    def _give_back(self, session: Session) -> None:
        with self._lock:
            self._free.append(session)
