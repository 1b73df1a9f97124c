"""Trees of files, walked by many threads at once: on a file server it is the waiting that costs."""

from __future__ import annotations

import fnmatch
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

THREADS = 16
_WAITING = 4096
"""Folders that may wait; beyond, a thread walks what it finds itself, so that memory does not grow."""

Visit = Callable[["os.DirEntry[bytes]"], None]


@dataclass
class Measure:
    """Of files and of symbolic links, sizes in bytes; `special` is what is neither of them nor a folder."""

    files: int = 0
    size: int = 0
    links: int = 0
    link_size: int = 0
    """Of the paths to which they point."""
    special: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def count(self, entry: os.DirEntry[bytes]) -> None:
        file, link = entry.is_file(follow_symlinks=False), entry.is_symlink()
        size = entry.stat(follow_symlinks=False).st_size
        with self._lock:
            self.files += file
            self.size += size * file
            self.links += link
            self.link_size += size * link
            self.special += not (file or link)


def measure(root: Path, exclude: Iterable[str] = (), own: str = "") -> Measure:
    """What a tree holds, without the folder `own` at its root, and without names that match a pattern of
    `exclude`, at any depth. What goes meanwhile is no error. Raises OSError where not all can be read.
    """
    found = Measure()
    _Walk(root, found.count, exclude, own).run()
    return found


def unreadable(root: Path, exclude: Iterable[str] = ()) -> OSError | None:
    """An error of opening the files and folders of a tree, or None."""

    def look(entry: os.DirEntry[bytes]) -> None:
        if entry.is_file(follow_symlinks=False):
            os.close(os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK))

    try:
        _Walk(root, look, exclude, "").run()
    except OSError as error:
        return error
    return None


class _Walk:
    """`visit` is called with all that is no folder, by several threads."""

    def __init__(self, root: Path, visit: Visit, exclude: Iterable[str], own: str) -> None:
        self._root = os.fsencode(root)
        self._visit = visit
        self._own = os.fsencode(own)
        patterns = "|".join(map(fnmatch.translate, exclude))
        self._excluded = re.compile(os.fsencode(patterns)) if patterns else None
        self._folders = [self._root]
        self._busy = 0
        self._error: BaseException | None = None
        self._change = threading.Condition()

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(THREADS)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException as signal:
            self._end(signal)  # the threads see it, and end by themselves
            raise
        if self._error is not None:
            raise self._error

    def _end(self, error: BaseException) -> None:
        with self._change:
            self._error = self._error or error
            self._change.notify_all()

    def _work(self) -> None:
        while (folder := self._next()) is not None:
            try:
                self._list(folder)
            except Exception as error:
                self._end(error)
            with self._change:
                self._busy -= 1
                if not self._busy:
                    self._change.notify_all()

    def _next(self) -> bytes | None:
        with self._change:
            while not self._folders and self._busy and self._error is None:
                self._change.wait()
            if self._error is not None or not self._folders:
                return None
            self._busy += 1
            return self._folders.pop()

    def _list(self, folder: bytes) -> None:
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if self._error is not None:
                        return
                    self._meet(entry, folder)
        except FileNotFoundError:
            if folder == self._root:
                raise

    def _meet(self, entry: os.DirEntry[bytes], folder: bytes) -> None:
        if folder == self._root and entry.name == self._own:
            return
        if self._excluded is not None and self._excluded.match(entry.name):
            return
        if not entry.is_dir(follow_symlinks=False):
            try:
                self._visit(entry)
            except FileNotFoundError:
                return
        elif len(self._folders) < _WAITING:
            with self._change:
                self._folders.append(entry.path)
                self._change.notify()
        else:
            self._list(entry.path)
