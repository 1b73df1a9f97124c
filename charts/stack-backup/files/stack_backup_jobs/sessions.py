"""Several sessions of one database at once, each used by one thread of a pool."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TypeVar

from stack_backup_jobs.session import Session, UnreachableError

T = TypeVar("T")


class Sessions:
    """As a context: an error aborts them all, so that their threads hear of it wherever they are. They are
    closed when these have ended, and not before: a thread may still wait for the descriptor.
    """

    def __init__(self, open_session: Callable[[], Session], threads: int) -> None:
        self.pool = ThreadPoolExecutor(threads)
        self.aborted = False
        self._open_session = open_session
        self._opened: list[Session] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Sessions:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is not None:
                self.abort()
        finally:
            try:
                self.pool.shutdown()
            finally:
                for session in self._opened:
                    session.close()

    def open(self) -> Session:
        """One more, by whichever thread. Raises ServerError."""
        session = self._open_session()
        with self._lock:
            if not self.aborted:
                self._opened.append(session)
                return session
        session.close()
        raise UnreachableError("the other sessions were aborted", "57P01")

    def abort(self) -> None:
        """Ends what runs in the server, from any thread."""
        with self._lock:
            self.aborted = True
        for session in self._opened:  # no more come now
            session.abort()

    def results(self, futures: list[Future[T]]) -> list[T]:
        """By the main thread, which hears signals. The first error is not hidden by those that come of it."""
        done, _ = wait(futures, return_when=FIRST_EXCEPTION)
        errors = [error for future in done if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, UnreachableError)):
            raise error
        return [future.result() for future in futures]
