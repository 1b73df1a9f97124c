"""One run of a program as the program sees it: its log, its figures, what a failure leaves, what ends with it.

It runs in a process of its own, the worker; what it says here, the supervisor (run.py) hears. A program is a function of
a Job that returns an Outcome, or raises Failure, OSError (of a volume), ServerError.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.errors import Failure, Stopped
from stack_backup_jobs.formats import Figure, stamp
from stack_backup_jobs.process import Processes


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did its work: the exit code (65 for `suspicious`), the verdict's word and sentence."""

    code: int
    word: str
    message: str


def say(text: str) -> None:
    """One line of the log. What an untrusted side says (file names, a server) is kept to one line."""
    line = f"{stamp()} {text}".replace("\n", " ") + "\n"
    with contextlib.suppress(BrokenPipeError):
        os.write(1, line.encode(errors="backslashreplace"))


class Job:
    """`work` is a folder in memory that ends with the run: for kilobytes. `ends` is done at the end, whatever it is, the
    last first; what fails there is only logged.
    """

    def __init__(self, channel: socket.socket | None = None) -> None:
        self.name = os.environ.get("JOB", "")
        self.pod = os.environ.get("POD_NAME", "")[:63]
        self.started = time.monotonic()
        self.figures: dict[str, Figure] = {}
        self._channel = channel
        self._untouched: str | Callable[[], str] = ""
        self._told = 0.0
        self._held = 0
        self._stop = False
        self.processes = Processes(lambda group: self.tell(group=group))
        self.ends = contextlib.ExitStack()
        self.work = Path(tempfile.mkdtemp(prefix="work."))
        self.ends.callback(shutil.rmtree, self.work, ignore_errors=True)

    @property
    def seconds(self) -> int:
        return int(time.monotonic() - self.started)

    def say(self, text: str) -> None:
        say(text)

    # ---- what the supervisor hears ----

    def tell(self, **message: object) -> None:
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.sendall(json.dumps(message).encode() + b"\n")

    def leaves(self, text: str, ask: Callable[[], str] | None = None) -> None:
        """What a failure from now on leaves as it was. `ask` finds it out where it can (a server, a volume), in seconds;
        `text` is for when nobody can be asked any more, and must be true all the same.
        """
        self._untouched = ask or text
        self.tell(untouched=text)

    @property
    def untouched(self) -> str:
        if isinstance(self._untouched, str):
            return self._untouched
        return self._untouched()

    def figure(self, **figures: Figure) -> None:
        """More members of the verdict."""
        self.figures.update(figures)
        self.tell(figures=figures)

    def progress(self, text: str) -> None:
        """How far a long piece of work is (`12 MiB written`): the log shows it every 30 s. Cheap enough for every chunk."""
        now = time.monotonic()
        if now - self._told >= 1:
            self._told = now
            self.tell(progress=text)

    # ---- signals ----

    def stop(self) -> None:
        """A signal has come: raises Stopped in the main thread, at once or when what is held has ended."""
        self._stop = True
        if not self._held:
            raise Stopped

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No signal interrupts the block: it is heeded at its end. For what is short and must not be left half done."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._stop and not self._held:
            raise Stopped

    def end(self) -> None:
        """Ends what still runs and takes away what is unfinished."""
        self._held += 1
        self.processes.end()
        failed: list[BaseException] = []
        while self.ends._exit_callbacks:  # type: ignore[attr-defined]
            # One after the other: what cannot be taken away must not keep the rest.
            last = contextlib.ExitStack()
            last._exit_callbacks.append(self.ends._exit_callbacks.pop())  # type: ignore[attr-defined]
            try:
                last.close()
            except Exception as error:
                failed.append(error)
        for error in failed:
            reason = error.what if isinstance(error, Failure) else "".join(traceback.format_exception_only(error)).strip()
            say(f"What this run has begun could not all be taken back ({reason}); the next run does it.")
        self.processes.end(close=True)
