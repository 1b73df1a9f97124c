"""The room that a server has for a new database: asked before it is loaded, and watched until it is."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import MIB, Exit
from stack_backup_jobs.job import say
from stack_backup_jobs.session import ServerError, Session, UnreachableError, literal
from stack_backup_jobs.target import Target

ROW_COST = 13
"""Tenths of a database's bytes that it may take when it is new."""
RESERVE, LARGEST_RESERVE = 64 * MIB, 2048 * MIB
"""What must remain of a server's volume, always: more than is written between two looks at it."""
FASTEST = 512 * MIB
"""Bytes a second that a server may write: so often must its room be looked at."""
LARGER = "Make the volume of the database larger: it must hold the live database and the new one."
_DF = re.compile(r"(.*?)\s+\d+\s+\d+\s+(\d+)\s+\d+%\s+(.*)")


@dataclass(frozen=True)
class Free:
    """Bytes of one file system; `what` begins a sentence."""

    what: str
    filesystem: tuple[str, str]
    bytes: int

    def failure(self, rest: str, advice: str = LARGER) -> JobError:
        return JobError(Exit.NO_ROOM, f"{self.what} has {self.bytes // MIB} MiB left, {rest}", advice)


class Room:
    """Of the volumes of a server's data, its log of changes, and these tablespaces where it has them; and
    what is left of the bytes that the value serverRoom says (`said`), by what the new database, the log and
    temporary files have taken since.
    """

    def __init__(self, target: Target, spaces: Iterable[str], said: int | None) -> None:
        self._target, self._spaces, self._said = target, sorted(spaces), said
        self._taken: int | None = None

    def look(self, session: Session) -> list[Free]:
        """The data's, the log's, the tablespaces', and the value's last; nothing where nobody knows. Raises
        ServerError.
        """
        found = self._asked(session)
        if self._said is not None:
            ((size,),) = session.query(
                "SELECT (SELECT coalesce(sum(pg_database_size(oid)), 0) FROM pg_database WHERE datname ="
                f" {literal(self._target.side)}) + (SELECT coalesce(sum(size), 0) FROM pg_ls_waldir())"
                " + (SELECT coalesce(sum(size), 0) FROM pg_ls_tmpdir())"
            )
            self._taken = int(str(size)) if self._taken is None else self._taken
            left = max(0, self._said - (int(str(size)) - self._taken))
            found.append(Free("The server's volume (value databaseRecovery.serverRoom)", ("", ""), left))
        return found

    def _asked(self, session: Session) -> list[Free]:
        """By the server's own `df`."""
        names = ", ".join(map(literal, ["", *self._spaces]))
        try:
            spaces = session.query(
                f"SELECT spcname, oid FROM pg_tablespace WHERE spcname IN ({names}) AND spcname !~ '^pg_'"
            )
            places = [".", "pg_wal/.", *(f"pg_tblspc/{number}/." for _, number in spaces)]
            session.execute(
                "CREATE TEMP TABLE IF NOT EXISTS room (number int GENERATED ALWAYS AS IDENTITY, line text)"
            )
            session.execute("TRUNCATE room")
            session.execute(f"COPY room (line) FROM PROGRAM 'LC_ALL=C df -P -k {' '.join(places)}'")
            rows = session.query("SELECT line FROM room ORDER BY number")
        except UnreachableError:
            raise
        except ServerError as error:
            say(f"The server cannot be asked for the free space of its volume: {error}.")
            return []
        found = [match for (line,) in rows if (match := _DF.fullmatch(str(line))) is not None]
        if len(found) != len(places):
            say("The server cannot be asked for the free space of its volume: df says something else.")
            return []
        volume = "The server's volume"
        names_ = [volume, volume, *(f"The volume of the tablespace {name}" for name, _ in spaces)]
        return [
            Free(name, (match[1], match[3]), int(match[2]) << 10)
            for name, match in zip(names_, found, strict=True)
        ]

    def check(self, size: int) -> int:
        """Is there room for a database of so many bytes beside the live one? How much of it goes to which
        tablespace, nobody knows before. Returns the bytes that must remain free.

        Raises JobError, ServerError.
        """
        with self._target.server.session() as session:
            free = self.look(session)
            ((most,),) = session.query("SELECT pg_size_bytes(current_setting('max_wal_size'))")
        if not free:
            raise JobError(
                Exit.SETUP,
                "The server may not be asked for the room on its volume (COPY … FROM PROGRAM).",
                "Check it yourself, and set databaseRecovery.serverRoom to the free bytes, such as 50Gi.",
            )
        reserve = RESERVE + min(size // 20, LARGEST_RESERVE)
        data, log = size * ROW_COST // 10, min(int(str(most)), size * ROW_COST // 10)
        needs = [(free[-1], data + log + reserve)] if self._said is not None else []
        if asked := free[: len(free) - len(needs)]:
            own, logs, *spaces = asked
            volumes = {one.filesystem: one for one in (*spaces, own)}
            together = (
                own
                if len(volumes) == 1
                else Free(
                    "The volumes of the server and its tablespaces together",
                    ("", ""),
                    sum(one.bytes for one in volumes.values()),
                )
            )
            apart = logs.filesystem not in volumes
            needs += [(together, data + reserve + (0 if apart else log))]
            needs += [(logs, log + RESERVE)] if apart else []
            needs += [(one, reserve) for one in volumes.values()]
        for one, need in needs:
            if one.bytes < need:
                raise one.failure(f"and the new database beside the live one needs {need // MIB} MiB.")
        return reserve


@contextlib.contextmanager
def watched(target: Target, room: tuple[Room, int] | None, stop: Callable[[], None]) -> Iterator[None]:
    """Stops the block when it uses up the room of the server; without `room` nobody looks.
    `room` has the bytes that must remain. Raises JobError.
    """
    watch = Watch(target, *room, stop) if room else None
    try:
        yield
    except (JobError, ServerError):
        if watch is not None and watch.failure is not None:
            raise watch.failure from None
        raise
    finally:
        if watch is not None:
            watch.end()


class Watch:
    """Looks at a server's room while a database is loaded, more often where there is less, and calls `stop`
    when less than `reserve` bytes are left.
    """

    def __init__(self, target: Target, room: Room, reserve: int, stop: Callable[[], None]) -> None:
        self._server, self._room, self._reserve, self._stop = target.server, room, reserve, stop
        self._over = threading.Event()
        self.failure: JobError | None = None
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        pause = 0.0
        while not self._over.is_set():
            try:
                with self._server.session() as session:
                    while not self._over.wait(pause):
                        if not (free := self._room.look(session)):
                            return
                        least = min(free, key=lambda one: one.bytes)
                        if least.bytes < self._reserve:
                            return self._full(least)
                        pause = min(1.0, max(0.05, (least.bytes - self._reserve) / FASTEST / 2))
            except ServerError:
                self._over.wait(0.5)  # the load itself will meet it

    def _full(self, least: Free) -> None:
        self.failure = least.failure(f"and {self._reserve // MIB} MiB must remain: the load was stopped.")
        self._stop()

    def end(self) -> None:
        self._over.set()
        self._thread.join()
