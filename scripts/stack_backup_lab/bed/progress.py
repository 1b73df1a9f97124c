"""What long steps are doing, and how long they will still take; several may be under way at once.

The estimate is the step's duration the last time it ran on this machine, else the one built in by the caller.
"""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stack_backup_lab.paths import CACHE

DURATIONS = CACHE / "durations.json"
PLAIN_INTERVAL = 60.0
"""Seconds between two lines about the same step where the output is no terminal."""

_turn = threading.RLock()
"""Of the terminal's last line, and of the file of durations."""
_under_way: list[Callable[[], str]] = []
"""What each step under way says of itself, in the order in which they began."""


def human(seconds: float) -> str:
    """`40 s`, `3 min 20 s`: rounded to what a person wants to know."""
    whole = max(round(seconds), 1)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min" if minutes >= 10 or rest == 0 else f"{minutes} min {rest} s"


def estimate(step: str, builtin: float) -> float:
    """Seconds that `step` will probably take."""
    return float(_recorded().get(step, builtin))


def say(text: str) -> None:
    """One line that is seen at once, wherever the output goes."""
    with _turn:
        terminal = sys.stdout.isatty()
        print(f"\r\033[K{text}" if terminal else text, flush=True)
        if terminal:
            _show()


def _show() -> None:
    """The terminal's last line: all that is under way."""
    doing = "; ".join(tell() for tell in _under_way)
    print(f"\r\033[K{doing[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


@contextmanager
def step(name: str, doing: str, builtin: float) -> Iterator[None]:
    """Show that `doing` goes on until the block ends, and record how long it took under `name`.

    `builtin`: seconds it took where it was measured, used until this machine has its own measurement.
    """
    expected = estimate(name, builtin)
    terminal = sys.stdout.isatty()
    started = time.monotonic()
    ended = threading.Event()

    def left() -> str:
        so_far = time.monotonic() - started
        if so_far < 0.5:
            return f"{doing} ... about {human(expected)}"
        if so_far < expected:
            return f"{doing} ... about {human(expected - so_far)} left"
        return f"{doing} ... longer than usual, at it for {human(so_far)}"

    def watch() -> None:
        while not ended.wait(1.0 if terminal else PLAIN_INTERVAL):
            with _turn:
                if not ended.is_set():
                    _show() if terminal else say(left())

    def over(how: str) -> None:
        ended.set()
        with _turn:
            _under_way.remove(left)
            if how:
                say(f"{doing}: {how} {human(time.monotonic() - started)}")
        watcher.join()

    with _turn:
        _under_way.append(left)
        _show() if terminal else say(left())
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        over("stopped after" if terminal else "")
        raise
    over("done in")
    _record(name, time.monotonic() - started)


def _recorded() -> dict[str, float]:
    try:
        return dict(json.loads(DURATIONS.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}  # only an estimate: a damaged file costs nothing but the built-in numbers


def _record(name: str, seconds: float) -> None:
    with _turn:
        DURATIONS.parent.mkdir(parents=True, exist_ok=True)
        partial = DURATIONS.with_suffix(f".{threading.get_native_id()}")
        durations = _recorded() | {name: round(seconds, 1)}
        partial.write_text(json.dumps(durations, indent=1, sort_keys=True) + "\n")
        partial.replace(DURATIONS)
