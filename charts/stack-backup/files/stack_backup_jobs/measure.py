"""How much a tree of files holds, and whether all of it can be read."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from stack_backup_jobs.trees import Listing, Walk, entry_of

THREADS = 16


class Measure(Listing):
    """Only counts: how many there are of the kinds of entries (f file, l link, p unfinished file of ours, s
    what is no file, link or folder), and their bytes.
    """

    def __init__(self) -> None:
        super().__init__(Path())
        self.kinds: Counter[str] = Counter()
        self.sizes: Counter[str] = Counter()

    def add_records(self, records: list[bytes], files: int, size: int, links: int) -> None:  # noqa: ARG002
        with self._lock:
            self.kinds["f"] += files
            self.sizes["f"] += size
            for record in records if files < len(records) else ():
                if (entry := entry_of(record)).kind != "f":
                    self.kinds[entry.kind] += 1
                    self.sizes[entry.kind] += len(entry.target)


def measure(root: Path, exclude: Iterable[str] = ()) -> Measure:
    """A tree without our own folder, and without names that match a pattern of `exclude`. Raises OSError
    where it cannot be read as a whole.
    """
    found = Measure()
    _walk(root, found, exclude)
    return found


def unreadable(root: Path, exclude: Iterable[str] = ()) -> OSError | None:
    """An error of opening the folders and files of a tree, or None."""

    class Opened(Measure):
        def add_records(self, records: list[bytes], files: int, size: int, links: int) -> None:  # noqa: ARG002
            for entry in map(entry_of, records):
                with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                    if entry.kind == "f":
                        os.close(os.open(os.fsencode(root) + b"/" + entry.path, os.O_RDONLY))

    try:
        _walk(root, Opened(), exclude)
    except OSError as error:
        return error
    return None


def _walk(root: Path, found: Measure, exclude: Iterable[str]) -> None:
    walk = Walk(root, found, THREADS, exclude, source=False)
    walk.end()
    if walk.errors:
        raise walk.errors[0]
