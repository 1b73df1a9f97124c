"""Commands as process groups of their own: what ends the program ends them and their children at once."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

T = TypeVar("T")

PATIENCE = 3.0
"""Seconds between the signal that asks and KILL."""


@dataclass(frozen=True)
class Done:
    """How a command ended: 128 + the signal for one that was killed."""

    code: int
    out: bytes
    err: str


class Processes:
    """All that the program has started and that has not ended yet. No signal interrupts what is `held`: a
    command that has been started is always known here.
    """

    def __init__(self, held: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext) -> None:
        self._running: dict[subprocess.Popen[bytes], signal.Signals] = {}
        self._held = held
        self._lock = threading.Lock()
        self._closed = False

    def start(
        self,
        command: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        ending: signal.Signals = signal.SIGTERM,
        **options: Any,
    ) -> subprocess.Popen[bytes]:
        """`ending` is the signal that asks it to end. Standard input is /dev/null unless told otherwise.

        Raises FileNotFoundError for a command that is not there.
        """
        options.setdefault("stdin", subprocess.DEVNULL)
        with self._held(), self._lock:
            if self._closed:
                raise RuntimeError("The program ends: nothing is started any more.")
            started = subprocess.Popen(command, env={**os.environ, **(env or {})}, process_group=0, **options)
            self._running[started] = ending
        return started

    def run(
        self,
        command: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Done:
        """To its end, with all that it says in memory: for what says little."""
        pipes = dict.fromkeys(("stdout", "stderr"), subprocess.PIPE)
        process = self.start(command, env=env, **{**pipes, **options})
        out, err = process.communicate()
        return Done(self.ended(process), out or b"", (err or b"").decode(errors="replace"))

    def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for its end: the exit code. What it has left behind ends, too, such as the pg_dump of a
        pg_dumpall that was killed.
        """
        code = process.wait()
        with self._held(), self._lock:
            if self._running.pop(process, None) is not None:
                _signal(process, signal.SIGKILL)
        return 128 - code if code < 0 else code

    def kill(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
        if process.returncode is None:
            _signal(process, number)

    def stop(self, *processes: subprocess.Popen[bytes]) -> None:
        """Ends them: each is asked, and after PATIENCE killed."""
        with self._lock:
            asked = {process: self._running.pop(process) for process in processes if process in self._running}
        for process, ending in asked.items():
            _signal(process, ending)
        deadline = time.monotonic() + PATIENCE
        for process in asked:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)
            process.wait()

    def end(self, *, close: bool = False) -> None:
        """Ends all of them. With `close` none can be started any more."""
        with self._lock:
            self._closed = self._closed or close
            running = list(self._running)
        self.stop(*running)


class Forked(Generic[T]):
    """Work of ours in a process of its own: threads would take turns. It is of the same session as we are."""

    def __init__(self, work: Callable[[], T]) -> None:
        reading, end = os.pipe()
        self._pipe = open(reading, "rb")  # noqa: PTH123, SIM115 (a descriptor, closed by its reader or `kill`)
        self._process = os.fork()  # other threads of ours hold nothing that the work needs
        if not self._process:
            _forked(work, end)
        os.close(end)

    def result(self) -> T:
        """What the work gives, or raises. EOFError: it was killed."""
        with self._pipe as pipe:
            said: tuple[T, Exception | None] = pickle.loads(pipe.read())
        process, self._process = self._process, 0
        os.waitpid(process, 0)
        if said[1] is not None:
            raise said[1]
        return said[0]

    def ready(self, seconds: float) -> bool:
        """Whether `result` will not wait, at the latest after so many seconds."""
        return bool(select.select([self._pipe], [], [], seconds)[0])

    def ask(self) -> None:
        """To end, by TERM."""
        if self._process:
            os.kill(self._process, signal.SIGTERM)

    def kill(self, patience: float = 0.0) -> None:
        """If it has not ended within so many seconds. Nobody waits for it after that: it may be waiting for a
        file server itself.
        """
        if patience > 0 and not self._pipe.closed:
            self.ready(patience)
        self._pipe.close()
        if self._process:
            os.kill(self._process, signal.SIGKILL)


def aside(work: Callable[[], T], seconds: float) -> T:
    """What the work gives, or raises, in a process that is left alone when it takes longer: it may hang where
    nothing interrupts it. Raises TimeoutError then, and ChildProcessError if it was killed.
    """
    forked = Forked(work)
    try:
        if not forked.ready(seconds):
            raise TimeoutError(f"not done within {seconds:.2g} s")
        return forked.result()
    except EOFError:
        raise ChildProcessError("the process that did it was killed") from None
    finally:
        forked.kill()


def _forked(work: Callable[[], object], end: int) -> NoReturn:
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        said: tuple[object, Exception | None]
        try:
            said = work(), None
        except Exception as error:
            said = None, error
        with open(end, "wb") as pipe:
            pickle.dump(said, pipe)
    finally:
        os._exit(0)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """To its group, which may outlive it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def family(session: int) -> set[int]:
    """The processes of a session that still run, with all that descend from them in whichever session."""
    parents: dict[int, int] = {}
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):  # noqa: PTH208 (the kernel's own)
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
            state, parent, _, of, *_ = file.read().rpartition(b")")[2].split()
            if state not in (b"Z", b"X"):
                parents[int(name)] = int(parent)
                found |= {int(name)} if int(of) == session else set()
    while more := {process for process, parent in parents.items() if parent in found} - found:
        found |= more
    return found
