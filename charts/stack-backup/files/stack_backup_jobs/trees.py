"""What trees of files hold, as sorted records, and how two of them differ. A tree is walked by many threads
at once (on a file server it is the waiting that costs), and never lies in memory as a whole: sorted runs in a
scratch file are merged.

A record is `PATH NUL KIND [ARGUMENTS]`. Names are bytes; `\\` and newlines in them and in a link's target are
escaped, so that a record is a line. NUL comes before every other byte: records are in the order of their
paths, a folder before what it holds. Kinds: f SIZE SECONDS [ROOT] (a file and its time of change), d (a
folder), l TARGET (a link), p (an unfinished file of ours), s (anything else).
"""

from __future__ import annotations

import errno
import fnmatch
import heapq
import os
import queue
import re
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stack_backup_jobs.errors import Failure, user
from stack_backup_jobs.formats import OWN, Exit
from stack_backup_jobs.job import say

UNFINISHED = re.compile(rb"\.[0-9a-f]{8}\.stack\.partial\Z")
"""What a killed run leaves: named so that nobody else's file is taken for it."""
_OWN = OWN.encode()
RUN, BATCH, BLOCK = 50_000, 64, 1 << 14
"""Records that are sorted in memory; entries that a thread looks at at once; bytes read of a run."""
SHOWN = 20
"""Names of one kind in the log."""
LAST = (1 << 31) - 1
"""Seconds since 1970; every file system holds the times from 0 until then."""
SLOW = 0.0005
"""Seconds for one entry from which it is waiting that costs, and one more thread pays."""
DATED = 100_000


class Entry(NamedTuple):
    path: bytes
    kind: str
    size: int = 0
    seconds: int = 0
    target: bytes = b""
    root: int = 0
    """Where it lies, of several trees that are read as one."""

    @property
    def record(self) -> bytes:
        if self.kind == "f":
            root = b" %d" % self.root if self.root else b""
            return b"%s\0f %d %d%s" % (escaped(self.path), self.size, self.seconds, root)
        rest = b" " + escaped(self.target) if self.kind == "l" else b""
        return escaped(self.path) + b"\0" + self.kind.encode() + rest

    @property
    def shown(self) -> str:
        return shown(self.path)


def shown(path: bytes) -> str:
    """A path in the log and in verdicts."""
    return os.fsdecode(escaped(path)).encode(errors="backslashreplace").decode()


def escaped(name: bytes) -> bytes:
    if b"\\" in name or b"\n" in name:
        return name.replace(b"\\", b"\\\\").replace(b"\n", b"\\n")
    return name


def _plain(text: bytes) -> bytes:
    return (
        re.sub(rb"\\(.)", lambda found: b"\n" if found[1] == b"n" else found[1], text)
        if b"\\" in text
        else text
    )


def entry_of(record: bytes) -> Entry:
    path, _, rest = record.partition(b"\0")
    kind = rest[:1].decode()
    if kind == "f":
        _, size, seconds, *root = rest.split(b" ")
        return Entry(_plain(path), kind, int(size), int(seconds), root=int(root[0]) if root else 0)
    return Entry(_plain(path), kind, target=_plain(rest[2:]))


# ---- listings ---------------------------------------------------------------------------------------------


class Listing:
    """Records of a tree, in order each time it is iterated: in a file of `scratch` without a name, but for
    the last `RUN` of them.
    """

    def __init__(self, scratch: Path) -> None:
        self.files = self.bytes = self.links = 0
        """Regular files, their sizes together, and links."""
        self.dated: list[Entry] = []
        """Files whose time not every file system can hold; the first DATED of them."""
        self.special: list[bytes] = []
        self._scratch = scratch
        self._runs: list[tuple[int, int]] = []
        self._last: list[bytes] = []
        self._sorted = True
        self._lock = threading.Lock()
        self._file: int | None = None

    def add(self, entries: list[Entry]) -> None:
        """In any order, by any thread."""
        files = [entry for entry in entries if entry.kind == "f"]
        links = sum(entry.kind == "l" for entry in entries)
        records = [entry.record for entry in entries]
        self.add_records(records, len(files), sum(entry.size for entry in files), links)

    def date(self, entry: Entry) -> None:
        if len(self.dated) < DATED:
            self.dated.append(entry)

    def add_records(self, records: list[bytes], files: int, size: int, links: int) -> None:
        with self._lock:
            self.files += files
            self.bytes += size
            self.links += links
            self._last += records
            self._sorted = False
            if len(self._last) >= RUN:
                self._last.sort()
                self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file, path = tempfile.mkstemp(prefix=".listing.", dir=self._scratch)
            Path(path).unlink()
        start = place = self._runs[-1][1] if self._runs else 0
        for number in range(0, len(self._last), BATCH * 8):
            # Never much at once: what a thread has had of the C library's memory is not given to another.
            data = memoryview(b"\n".join(self._last[number : number + BATCH * 8]) + b"\n")
            while data:
                written = os.pwrite(self._file, data, place)
                place, data = place + written, data[written:]
        self._runs.append((start, place))
        self._last = []

    def _run(self, place: int, end: int) -> Iterator[bytes]:
        assert self._file is not None
        rest = b""
        while place < end:
            block = os.pread(self._file, min(BLOCK, end - place), place)
            if not block:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(self._scratch))
            place += len(block)
            *records, rest = (rest + block).split(b"\n")
            yield from records

    def __iter__(self) -> Iterator[bytes]:
        if not self._sorted:
            self._last.sort()
            self._sorted = True
        return (
            heapq.merge(*(self._run(*run) for run in self._runs), self._last)
            if self._runs
            else iter(self._last)
        )

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._runs, self._last = None, [], []


def patterns(exclude: Iterable[str]) -> re.Pattern[bytes] | None:
    """Of names that are no part of a tree, at any depth."""
    text = "|".join(map(fnmatch.translate, exclude))
    return re.compile(os.fsencode(text)) if text else None


class Walk:
    """Of one tree, by up to `threads` threads. Our own folder at its root is no part of it. Of a source,
    unfinished files are none either, and what is neither file, folder nor link goes to `special`. What goes
    meanwhile is no error.
    """

    def __init__(
        self, root: Path, listing: Listing, threads: int, exclude: Iterable[str], source: bool
    ) -> None:
        self.root, self.listing = os.fsencode(root), listing
        self.errors: list[OSError] = []
        self._most, self._source, self._excluded = threads, source, patterns(exclude)
        self._queue: queue.LifoQueue[tuple[bytes, list[os.DirEntry[bytes]]] | bytes | None]
        self._queue = queue.LifoQueue()
        self._queue.put(b"")
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        for _ in range(2):
            self._call_in()

    def end(self) -> None:
        """Waits for it. Errors are in `errors`: the tree was not read as a whole then."""
        try:
            self._queue.join()
        finally:
            for _ in range(self._most):
                self._queue.put(None)

    def _call_in(self) -> None:
        """One thread more. On a local disk they would only wait for each other."""
        with self._lock:
            if len(self._threads) < self._most:
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            begun = time.monotonic()
            try:
                seen = self._list(item) if isinstance(item, bytes) else self._look(*item)
                if time.monotonic() - begun > SLOW * (seen + 1):
                    self._call_in()
            except OSError as error:
                self.errors.append(error)
            finally:
                self._queue.task_done()

    def _list(self, folder: bytes) -> int:
        """How many entries it has looked at itself."""
        below, seen = folder + b"/" if folder else b"", 0
        try:
            entries = os.scandir(self.root + b"/" + folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder:
                return 0
            raise
        with entries:
            while batch := list(islice(entries, BATCH)):
                if len(batch) == BATCH and self._queue.qsize() < 2 * self._most:
                    self._queue.put((below, batch))
                else:
                    seen += self._look(below, batch)
        return seen

    def _look(self, below: bytes, entries: list[os.DirEntry[bytes]]) -> int:
        """The most frequent work of all, so it makes records without entries."""
        records, files, size, links = [], 0, 0, 0
        excluded = self._excluded.match if self._excluded else None
        for entry in entries:
            name = entry.name
            if (excluded is not None and excluded(name)) or (not below and name == _OWN):
                continue
            path = below + name
            try:
                if entry.is_dir(follow_symlinks=False):
                    self._queue.put(path)
                    records.append(escaped(path) + b"\0d")
                    continue
                status = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.path) if stat.S_ISLNK(status.st_mode) else b""
            except FileNotFoundError:
                continue
            if not (target or stat.S_ISREG(status.st_mode)) or UNFINISHED.search(name):
                records += self._odd(path, unfinished=bool(UNFINISHED.search(name)))
            elif target:
                links += 1
                records.append(escaped(path) + b"\0l " + escaped(target))
            else:
                files += 1
                size += status.st_size
                seconds = int(status[stat.ST_MTIME])
                records.append(b"%s\0f %d %d" % (escaped(path), status.st_size, seconds))
                if not 0 <= seconds <= LAST:
                    self.listing.date(Entry(path, "f", status.st_size, seconds))
        self.listing.add_records(records, files, size, links)
        return len(entries)

    def _odd(self, path: bytes, unfinished: bool) -> list[bytes]:
        if not self._source:
            return [Entry(path, "p" if unfinished else "s").record]
        if not unfinished and len(self.listing.special) < SHOWN:
            self.listing.special.append(path)
        return []


class Tree(NamedTuple):
    root: Path
    what: str
    """As a sentence begins with it: `The source`."""
    source: bool = True


def listings(scratch: Path, threads: int, exclude: Sequence[str], *trees: Tree) -> list[Listing]:
    """Of several trees at once. Raises Failure where one cannot be read as a whole."""
    walks = [Walk(tree.root, Listing(scratch), threads, exclude, tree.source) for tree in trees]
    for walk in walks:
        walk.end()
    for walk, tree in zip(walks, trees, strict=True):
        if walk.errors:
            raise unreadable(walk.errors, tree.what)
        for path in walk.listing.special:
            say(f"Special: {shown(path)}")
    return [walk.listing for walk in walks]


def unreadable(errors: list[OSError], what: str) -> Failure:
    """Names some, and judges by the first."""
    for error in errors[:SHOWN]:
        say(f"Cannot be read: {shown(os.fsencode(error.filename or ''))}: {error.strerror}")
    first = errors[0]
    code, advice = Exit.VOLUME, "Check the volume and its file server."
    if first.errno in (errno.EACCES, errno.EPERM):
        code = Exit.PERMISSION
        advice = (
            f"The pod's user {user()} must be able to read all of it: correct the owner or the mode of what "
            "the "
            "lines above name, or leave it out (value mediaReplica.exclude)."
        )
    elif first.errno in (errno.ESTALE, errno.ENOENT):
        code, advice = Exit.PASSING, "The next run tries again; if it comes back, check the file server."
    return Failure(
        code,
        f"{what} cannot be read as a whole: {shown(os.fsencode(first.filename or ''))}: {first.strerror}.",
        advice,
    )


# ---- comparison -------------------------------------------------------------------------------------------


def unequal(one: Iterable[bytes], other: Iterable[bytes]) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Of two sorted streams of records those that the other has not: those of the same path together."""
    ones, others = iter(one), iter(other)
    a, b = next(ones, None), next(others, None)
    while a is not None or b is not None:
        if a == b:
            a, b = next(ones, None), next(others, None)
        elif a is not None and b is not None and a.partition(b"\0")[0] == b.partition(b"\0")[0]:
            yield a, b
            a, b = next(ones, None), next(others, None)
        elif b is None or (a is not None and a < b):
            yield a, None
            a = next(ones, None)
        else:
            yield None, b
            b = next(others, None)


Held = Callable[[int], int]
"""The time that a target gives to a file, for the one that it is told: it may not have that range."""


def same(one: Entry, other: Entry, held: Held = int) -> bool:
    """Is `other`, of a target, a copy of `one`? Times may differ by a second."""
    if one.kind != other.kind or one.size != other.size or one.target != other.target:
        return False
    return abs(one.seconds - other.seconds) <= 1 or abs(held(one.seconds) - other.seconds) <= 1


class Difference(NamedTuple):
    source: Entry | None
    target: Entry | None

    @property
    def path(self) -> bytes:
        entry = self.source or self.target
        assert entry is not None
        return entry.path


def differences(source: Iterable[bytes], target: Iterable[bytes], held: Held = int) -> Iterator[Difference]:
    """Where a target is not what the source is, in the order of paths."""
    for one, other in unequal(source, target):
        found = Difference(entry_of(one) if one else None, entry_of(other) if other else None)
        if not (found.source and found.target and same(found.source, found.target, held)):
            yield found


def unexplained(
    found: Iterable[Difference], before: Iterable[bytes], held: Held = int
) -> Iterator[Difference]:
    """Those that do not come from a change of the source since it was listed as `before`: what came, changed
    or went belongs to the next run.
    """
    for difference, then in _with_before(found, before):
        source, target = difference
        if source is None:
            if then is None:
                yield difference
        elif then is not None and same(then, source) and not (target and same(then, target, held)):
            yield difference


def _with_before(
    found: Iterable[Difference], before: Iterable[bytes]
) -> Iterator[tuple[Difference, Entry | None]]:
    records = iter(before)
    record = next(records, None)
    for difference in found:
        path = escaped(difference.path) + b"\0"
        while record is not None and record < path:
            record = next(records, None)
        yield difference, entry_of(record) if record is not None and record.startswith(path) else None
