"""Commands as process groups of their own: what ends the program ends all of them, and their children, at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PATIENCE = 3.0
"""Seconds between TERM and KILL."""


@dataclass(frozen=True)
class Done:
    """How a command ended: 128 + the signal for one that was killed."""

    code: int
    out: bytes
    err: str


class Processes:
    """All that the program has started and that has not ended yet. `told` hears of every group that begins (+) and ends
    (-).
    """

    def __init__(self, told: Callable[[int], None] = lambda _: None) -> None:
        self._running: list[subprocess.Popen[bytes]] = []
        self._told = told
        self._lock = threading.Lock()
        self._closed = False

    def start(
        self, command: Sequence[str | bytes], *, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Standard input is /dev/null unless told otherwise. Raises FileNotFoundError for a command that is not there."""
        options.setdefault("stdin", subprocess.DEVNULL)
        with self._lock:
            if self._closed:
                raise RuntimeError("The program ends: nothing is started any more.")
            started = subprocess.Popen(command, env={**os.environ, **(env or {})}, process_group=0, **options)
            self._running.append(started)
        self._told(started.pid)
        return started

    def run(
        self, command: Sequence[str | bytes], *, env: Mapping[str, str] | None = None, data: bytes = b"", **options: Any
    ) -> Done:
        """To its end, with all that it says in memory: for what says little."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = self.start(command, env=env, **{**pipes, **options})
        out, err = process.communicate(data)
        return Done(self.ended(process), out or b"", (err or b"").decode(errors="replace"))

    def ended(self, process: subprocess.Popen[bytes]) -> int:
        """Waits for its end: the exit code."""
        code = process.wait()
        with self._lock, contextlib.suppress(ValueError):
            self._running.remove(process)
        self._told(-process.pid)
        return 128 - code if code < 0 else code

    def kill(self, process: subprocess.Popen[bytes], number: signal.Signals = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    def end(self, *, close: bool = False) -> None:
        """Ends all of them: TERM, PATIENCE, KILL. With `close` none can be started any more."""
        with self._lock:
            self._closed = self._closed or close
            running, self._running = self._running, []
        for process in running:
            self.kill(process, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            self.kill(process)
            process.wait()
            self._told(-process.pid)
