"""What a long step is doing, and how long it will still take.

The estimate is the step's duration the last time it ran on this machine, else the one built in by the caller.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stack_backup_lab.paths import CACHE

DURATIONS = CACHE / "durations.json"
PLAIN_INTERVAL = 60.0
"""Seconds between two lines about the same step where the output is no terminal."""


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
    print(text, flush=True)


@contextmanager
def step(name: str, doing: str, builtin: float) -> Iterator[None]:
    """Show that `doing` goes on until the block ends, and record how long it took under `name`.

    `builtin`: seconds it took where it was measured, used until this machine has its own measurement.
    """
    expected = estimate(name, builtin)
    terminal = sys.stdout.isatty()
    started = time.monotonic()
    ended = threading.Event()

    def show(text: str, end: str = "\n") -> None:
        print(f"\r\033[K{text}" if terminal else text, end=end, flush=True)

    def left() -> str:
        so_far = time.monotonic() - started
        if so_far < expected:
            return f"about {human(expected - so_far)} left"
        return f"longer than usual, at it for {human(so_far)}"

    def watch() -> None:
        while not ended.wait(1.0 if terminal else PLAIN_INTERVAL):
            show(f"{doing} ... {left()}", end="" if terminal else "\n")

    show(f"{doing} ... about {human(expected)}", end="" if terminal else "\n")
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except BaseException:
        ended.set()
        watcher.join()
        if terminal:
            show(f"{doing}: stopped after {human(time.monotonic() - started)}")
        raise
    ended.set()
    watcher.join()
    took = time.monotonic() - started
    show(f"{doing}: done in {human(took)}")
    _record(name, took)


def _recorded() -> dict[str, float]:
    try:
        return dict(json.loads(DURATIONS.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return {}  # only an estimate: a damaged file costs nothing but the built-in numbers


def _record(name: str, seconds: float) -> None:
    DURATIONS.parent.mkdir(parents=True, exist_ok=True)
    partial = DURATIONS.with_suffix(f".{threading.get_native_id()}")
    partial.write_text(json.dumps(_recorded() | {name: round(seconds, 1)}, indent=1, sort_keys=True) + "\n")
    partial.replace(DURATIONS)
