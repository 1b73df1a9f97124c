"""The history: the verdict of every run, one file each, in a folder of its job on a volume of its own.

The supervisor keeps it (`keep`) once a run has ended, in a process that it does not wait for longer than
KEEPING: a history that hangs or is full changes no verdict.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

from stack_backup_jobs.formats import TEMPORARY, Record, Verdict, seconds_of

KEEPING = 5.0
"""Seconds in which a record must have been written, at most."""
SUFFIX = ".json"
LOOKED_AT = 60
"""Records that growth is computed of: enough for a month of whichever job."""
LOOKED_BACK, LEAST = 30 * 86400, 2 * 86400
"""Seconds of the past that growth is computed of, and from how many on."""
FAR = 36500
"""Days: what grows more slowly than that does not grow."""


def keep(folder: Path, record: Record, most: int) -> None:
    """One more record, of which the newest `most` stay. Raises OSError."""
    own = folder / record.job
    own.mkdir(exist_ok=True)
    name = f"{record.ended}.{record.pod}{SUFFIX}"
    unfinished = own / f"{TEMPORARY}{name}"
    with unfinished.open("w", encoding="utf-8") as file:
        file.write(record.text())
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(own / name)
    for old in names(own)[: -max(1, most)]:
        (own / old).unlink(missing_ok=True)
    for left in own.glob(f"{TEMPORARY}*"):  # of pods that were killed; another run's own is younger
        with contextlib.suppress(FileNotFoundError):
            if left.stat().st_mtime < seconds_of(record.ended) - 3600:
                left.unlink()


def names(own: Path) -> list[str]:
    """The files of one job's records, oldest first; none where there is no folder."""
    try:
        found = os.listdir(own)  # noqa: PTH208 (names alone: no look at each)
    except FileNotFoundError:
        return []
    return sorted(name for name in found if name.endswith(SUFFIX) and not name.startswith("."))


def read(own: Path, newest: int | None = None) -> Iterator[Record]:
    """The records of one job, oldest first, of which only the `newest` where that is given. What is damaged
    is passed over. Raises OSError for a volume that cannot be read.
    """
    found = names(own)
    return _records(own, found if newest is None else found[-newest:])


def _records(own: Path, found: Iterable[str]) -> Iterator[Record]:
    for name in found:
        with contextlib.suppress(FileNotFoundError, ValueError):
            yield Record.parse((own / name).read_text("utf-8", errors="replace"))


def jobs(folder: Path) -> list[str]:
    """The jobs that have a history."""
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))


def days_to_full(own: Path, verdict: Verdict, now: str) -> int | None:
    """In how many days a volume is full, if what lies there (`bytes`) goes on to grow as it did in the last
    month, to what has room there (`fits_bytes`); None where nothing grows, or too little is known.
    """
    size, fits = verdict.figures.get("bytes"), verdict.figures.get("fits_bytes")
    if verdict.exit or not isinstance(size, int) or not isinstance(fits, int):
        return None
    found = [name for name in names(own) if seconds_of(now) - _time(name) <= LOOKED_BACK]
    step = max(1, -(-len(found) // LOOKED_AT))
    points = [(seconds_of(now), size)]
    for record in _records(own, found[::step]):
        held = record.verdict.get("bytes")
        if isinstance(held, int) and not record.verdict["exit"]:
            points.append((seconds_of(record.ended), held))
    if max(points)[0] - min(points)[0] < LEAST:
        return None
    growth = slope(points) * 86400
    if growth <= 0:
        return None
    days = max(0.0, (fits - size) / growth)
    return int(days) if days < FAR else None


def slope(points: Sequence[tuple[float, int]]) -> float:
    """Theil and Sen's: the median of all pairs' slopes, which single outliers do not move."""
    pairs = combinations(sorted(points), 2)
    return median([(b - a) / (then - first) for (first, a), (then, b) in pairs if then > first] or [0.0])


def _time(name: str) -> float:
    """Of a record, by its name; of another name the beginning of all time."""
    try:
        return seconds_of(name[:20])
    except ValueError:
        return 0.0


def figures_after(folder: Path, most: int, verdict: Verdict, about: dict[str, Any]) -> dict[str, int]:
    """Keeps the verdict of a run (`about`: begun, ended, pod), and gives the figures that only its history
    knows. Raises OSError.
    """
    days = days_to_full(folder / verdict.job, verdict, about["ended"])
    more = {} if days is None else {"days_to_full": days}
    keep(folder, Record(**about, verdict=verdict.with_figures(more).members()), most)
    return more
