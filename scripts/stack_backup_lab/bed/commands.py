"""Commands, and locks between processes."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from stack_backup_lab.bed import BedError
from stack_backup_lab.paths import CACHE

LAST_LINES = 15
SHOWN_WORDS = 8
LOCK_INTERVAL = 0.2
"""Seconds between two attempts at a lock that another process holds."""

_children: set[subprocess.Popen[bytes]] = set()
"""What `run` waits for, in any thread."""
_stopped = threading.Event()
_threads: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""For each lock between processes, who of this one's threads asks for it."""


class CommandError(BedError):
    """A command ended with another status than 0, or not in time.

    `status` is its exit status (None: not in time), `output` what it printed, both streams.
    """

    def __init__(self, message: str, status: int | None, output: str) -> None:
        super().__init__(message)
        self.status = status
        self.output = output


def run(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    input: str | None = None,
    timeout: float | None = None,
) -> str:
    """Run `command` to its end and return all that it printed (both streams, in order).

    With `log`, the output goes to that file while the command runs, so a user can watch it. `env` is added
    to this process's own environment; `timeout` is in seconds. Raises CommandError, with the last lines.
    """
    if _stopped.is_set():
        raise BedError("Stopped before it was done.")
    words = [str(word) for word in command]
    shown = shlex.join(words) if len(words) <= SHOWN_WORDS else f"{shlex.join(words[:SHOWN_WORDS])} ..."
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
    with (log or Path(os.devnull)).open("wb") as sink:
        try:
            child = subprocess.Popen(
                words,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
                stdout=subprocess.PIPE if log is None else sink,
                stderr=subprocess.STDOUT,
            )
        except FileNotFoundError as error:
            raise CommandError(f"{words[0]} is not installed, so `{shown}` was not run.", 127, "") from error
        status: int | None
        _children.add(child)
        try:
            printed, _ = child.communicate(None if input is None else input.encode(), timeout)
            status = child.returncode
        except subprocess.TimeoutExpired:
            child.kill()
            printed, _ = child.communicate()
            status = None
        except BaseException:
            with suppress(PermissionError):  # sudo, which gets a terminal's interrupt by itself
                child.terminate()  # no child goes on writing behind our back
            child.wait()
            raise
        finally:
            _children.discard(child)
    output = (printed if log is None else log.read_bytes()).decode(errors="replace")
    if status == 0:
        return output
    how = f"did not end within {timeout:g} s" if status is None else f"ended with status {status}"
    tail = "\n".join(f"  | {line}" for line in output.rstrip().splitlines()[-LAST_LINES:])
    where = f"\nAll of its output: {log}" if log is not None else ""
    raise CommandError(f"`{shown}` {how}:\n{tail}{where}", status, output)


def stop() -> None:
    """End what `run` waits for in other threads, and let it begin nothing more: this process is to end."""
    _stopped.set()
    for child in tuple(_children):
        with suppress(PermissionError):
            child.terminate()


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Only one process of this machine is inside `lock(name)` at a time; the others wait."""
    path = CACHE / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with _threads[name], path.open("w") as handle:
        if not taken(handle):
            print(f"{name}: another process is at it; waiting for it to end ...", flush=True)
            while not taken(handle):
                if _stopped.wait(LOCK_INTERVAL):
                    raise BedError("Stopped while it waited for another process.")
        yield


def taken(handle: IO[str]) -> bool:
    """Whether this process alone has the lock of an open file now; it does not wait for it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
