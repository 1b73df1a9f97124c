"""One run of a program as the program sees it: log, figures, what a failure leaves, what ends with it.

It runs in a process of its own, the worker; what it says here, the supervisor (run.py) hears. A program is
a function of a Job that returns an Outcome, or raises JobError, OSError (of a volume), ServerError.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec

from stack_backup_jobs.errors import Stopped
from stack_backup_jobs.formats import Figure, stamp
from stack_backup_jobs.process import Processes

P = ParamSpec("P")

LINE = 4096
"""Bytes of a line of the log: a pipe takes as many at once, whoever else writes."""
UNREAD = 5.0
"""Seconds after which a line is left out that nobody reads: a log must not hold up the end of a run."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended that did its work: the exit code, the verdict's word and sentence."""

    code: int
    word: str
    message: str


def say(text: str) -> None:
    """One line of the log. What an untrusted side says (file names, a server) is kept to one line."""
    write(f"{stamp()} {text}".replace("\n", " "))


def write(line: str) -> None:
    data = line.encode(errors="backslashreplace")[: LINE - 1] + b"\n"
    with contextlib.suppress(OSError):
        if select.select([], [1], [], UNREAD)[1]:
            os.write(1, data)


class Ends:
    """What is done when a run ends, whatever its end is."""

    def __init__(self) -> None:
        self._callbacks: list[Callable[[], object]] = []

    def callback(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        self._callbacks.append(partial(function, *args, **kwargs))

    def run(self) -> None:
        """The last first. One that fails is only logged: it must not keep the others."""
        while self._callbacks:
            try:
                self._callbacks.pop()()
            except Exception as error:
                what = str(error) or type(error).__name__
                say(f"What this run has begun could not all be taken back ({what}); the next run does it.")


class Job:
    """`work` is a folder in memory that ends with the run: for kilobytes. `ends` is done at its end."""

    def __init__(self, channel: socket.socket | None = None) -> None:
        self.name = os.environ.get("JOB", "")
        self.pod = os.environ.get("POD_NAME", "")[:63]
        self.started = time.monotonic()
        self.figures: dict[str, Figure] = {}
        self.stopped = False
        """Whether a signal has come."""
        self._channel = channel
        self._untouched: str | Callable[[], str] = ""
        self._told = 0.0
        self._held = 0
        self._raised = False
        self.processes = Processes(self.held)
        self.ends = Ends()
        self.work = Path(tempfile.mkdtemp(prefix="work."))
        self.ends.callback(shutil.rmtree, self.work, ignore_errors=True)

    @property
    def seconds(self) -> int:
        return int(time.monotonic() - self.started)

    def say(self, text: str) -> None:
        say(text)

    # ---- what the supervisor hears ----

    def tell(self, **message: object) -> None:
        """The channel keeps messages apart, and takes one as a whole or not at all."""
        if self._channel is not None:
            with contextlib.suppress(OSError):
                self._channel.send(json.dumps(message).encode())

    def leaves(self, text: str, ask: Callable[[], str] | None = None) -> None:
        """What a failure from now on leaves as it was. `ask` finds it out where it can (a server, a volume),
        in seconds; `text` is for when nobody can be asked any more, and must be true all the same.
        """
        self._untouched = ask or text
        self.tell(untouched=text)

    @property
    def untouched(self) -> str:
        if isinstance(self._untouched, str):
            return self._untouched
        return self._untouched()

    def figure(self, **figures: Figure) -> None:
        """More members of the verdict; of a list the first 50: a verdict has no room for more."""
        cut: dict[str, Figure] = {
            name: [text[:200] for text in value[:50]] if isinstance(value, list) else value
            for name, value in figures.items()
        }
        self.figures.update(cut)
        self.tell(figures=cut)

    @contextlib.contextmanager
    def lap(self, key: str) -> Iterator[None]:
        """The seconds of the block become a figure, added to what it was before."""
        begun, before = time.monotonic(), self.figures.get(key, 0)
        yield
        self.figure(**{key: int(time.monotonic() - begun) + (before if isinstance(before, int) else 0)})

    def progress(self, text: str) -> None:
        """How far a long piece of work is (`12 MiB written`), for the log; cheap enough for every chunk."""
        now = time.monotonic()
        if now - self._told >= 1:
            self._told = now
            self.tell(progress=text)

    # ---- signals ----

    def stop(self) -> None:
        """A signal has come: raises Stopped in the main thread, once, now or when what is held has ended."""
        self.stopped = True
        if not self._held and not self._raised:
            self._raised = True
            raise Stopped

    def raise_again(self) -> None:
        """Stopped came where Python lets nothing pass, as in a finaliser: the next signal raises it again."""
        self._raised = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """No signal interrupts the block, it is heeded at its end: for what must not be left half done."""
        if threading.current_thread() is not threading.main_thread():
            yield  # signals reach the main thread only
            return
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self.stopped:
                self.stop()

    def deaf(self) -> None:
        """From now on no signal interrupts anything: the run ends."""
        self._held += 1

    def end(self) -> None:
        """Ends what still runs and takes away what is unfinished."""
        self.deaf()
        self.processes.end()
        self.ends.run()
        self.processes.end(close=True)
