"""What trees of files hold, as sorted records, and how two of them differ. Each tree is walked by a process
of its own (on a local disk it is Python that costs) and by as many threads as pay (on a file server it is the
waiting), and never lies in memory as a whole: sorted runs in a scratch file are merged. Records are merged
and compared by thousands, with the interpreter's own sorts and sets.

A record is `PATH NUL KIND [ARGUMENTS]`. Names are bytes; `\\` and newlines in them and in a link's target are
escaped, so that a record is a line. NUL comes before every other byte: records are in the order of their
paths, a folder before what it holds. Kinds: f SIZE SECONDS [ROOT] (a file and its time of change), d (a
folder), l TARGET (a link), p (an unfinished file of ours), s (anything else).
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import operator
import os
import queue
import re
import stat
import tempfile
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from stack_backup_jobs.errors import JobError, user
from stack_backup_jobs.formats import OWN, Exit
from stack_backup_jobs.job import say
from stack_backup_jobs.process import Forked

UNFINISHED = re.compile(rb"\.[0-9a-f]{8}\.stack\.partial\Z")
"""What a killed run leaves: named so that nobody else's file is taken for it."""
_OWN, _PARTIAL = OWN.encode(), b".stack.partial"
RUN, BATCH, BLOCK = 50_000, 64, 1 << 14
"""Records that are sorted in memory; entries that a thread looks at at once; bytes read of a run."""
MANY = 4096
"""Records that are compared at once."""
SHOWN = 20
"""Names of one kind in the log."""
LAST = (1 << 31) - 1
"""Seconds since 1970; every file system holds the times from 0 until then."""
SLOW = 0.0005
"""Seconds for one entry from which it is waiting that costs, and one more thread pays. On a local disk it is
a hundredth of that, and threads would only wait for each other.
"""
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

    def open(self) -> None:
        if self._file is None:
            self._file, path = tempfile.mkstemp(prefix=".listing.", dir=self._scratch)
            Path(path).unlink()

    def handed_on(self) -> dict[str, object]:
        """All that there is, but for what lies in the file, for the same listing in another process."""
        self._last.sort()
        self._spill()
        return {name: value for name, value in vars(self).items() if name not in ("_lock", "_file")}

    def _spill(self) -> None:
        self.open()
        assert self._file is not None
        start = place = self._runs[-1][1] if self._runs else 0
        for number in range(0, len(self._last), BATCH * 8):
            # Never much at once: what a thread has had of the C library's memory is not given to another.
            data = memoryview(b"\n".join(self._last[number : number + BATCH * 8]) + b"\n")
            while data:
                written = os.pwrite(self._file, data, place)
                place, data = place + written, data[written:]
        self._runs.append((start, place))
        self._last = []

    def _run(self, place: int, end: int) -> Iterator[list[bytes]]:
        assert self._file is not None
        rest = b""
        while place < end:
            block = os.pread(self._file, min(BLOCK, end - place), place)
            if not block:
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(self._scratch))
            place += len(block)
            *records, rest = (rest + block).split(b"\n")
            if records:
                yield records

    def __iter__(self) -> Iterator[bytes]:
        if not self._sorted:
            self._last.sort()
            self._sorted = True
        runs = [self._run(*run) for run in self._runs]
        return chain.from_iterable(_merged([*runs, iter([self._last] if self._last else [])]))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file, self._runs, self._last = None, [], []


def patterns(exclude: Iterable[str]) -> re.Pattern[bytes] | None:
    """Of names that are no part of a tree, at any depth."""
    text = "|".join(map(fnmatch.translate, exclude))
    return re.compile(os.fsencode(text)) if text else None


def _merged(runs: list[Iterator[list[bytes]]]) -> Iterator[list[bytes]]:
    """Sorted runs as one: of each what is no more than the least of their last records, sorted at once."""
    heads = [(records, 0, run) for run in runs if (records := next(run, None))]
    while heads:
        least, merged, left = min(records[-1] for records, _, _ in heads), [], []
        for records, place, run in heads:
            end = bisect_right(records, least, place)
            merged += records[place:end]
            if end < len(records):
                left.append((records, end, run))
            elif more := next(run, None):
                left.append((more, 0, run))
        heads = left
        merged.sort()
        yield merged


class Walk:
    """Of one tree, by up to `threads` threads. Our own folder at its root is no part of it. Of a source,
    unfinished files are none either, and what is neither file, folder nor link goes to `special`. What goes
    meanwhile is no error. With `names` files are only counted.
    """

    def __init__(
        self,
        root: Path,
        listing: Listing,
        threads: int,
        exclude: Iterable[str],
        source: bool,
        names: bool = False,
    ) -> None:
        self.root, self.listing = os.fsencode(root), listing
        self.errors: list[OSError] = []
        self._failure: Exception | None = None
        self._most, self._source, self._names = threads, source, names
        self._excluded = patterns(exclude)
        self._queue: queue.LifoQueue[tuple[bytes, list[os.DirEntry[bytes]]] | bytes | None]
        self._queue = queue.LifoQueue()
        self._queue.put(b"")
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._busy, self._seen = 0.0, 0
        self._call_in()

    def end(self) -> None:
        """Waits for it. Errors are in `errors`: the tree was not read as a whole then. What else a thread has
        met is raised.
        """
        try:
            self._queue.join()
        finally:
            for _ in range(self._most):
                self._queue.put(None)
        if self._failure is not None:
            raise self._failure

    def _call_in(self) -> None:
        with self._lock:
            if len(self._threads) < self._most:
                self._threads.append(threading.Thread(target=self._work, daemon=True))
                self._threads[-1].start()

    def _took(self, begun: float, entries: int) -> None:
        self._busy += time.monotonic() - begun
        self._seen += entries
        if self._busy > SLOW * self._seen:
            self._call_in()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if isinstance(item, bytes):
                    self._list(item)
                else:
                    self._look(*item)
            except OSError as error:
                self.errors.append(error)
            except Exception as error:  # else nobody would take what still waits
                self._failure = error
            finally:
                self._queue.task_done()

    def _list(self, folder: bytes) -> None:
        below, begun = folder + b"/" if folder else b"", time.monotonic()
        try:
            entries = os.scandir(self.root + b"/" + folder)
        except (FileNotFoundError, NotADirectoryError):
            if folder:
                return
            raise
        self._took(begun, 1)
        with entries:
            while batch := list(islice(entries, BATCH)):
                some = len(self._threads) > 1 and self._queue.qsize() < 2 * self._most
                if some and len(batch) == BATCH:
                    self._queue.put((below, batch))
                else:
                    self._look(below, batch)

    def _look(self, below: bytes, entries: list[os.DirEntry[bytes]]) -> None:
        """The most frequent work of all, so it makes records without entries."""
        begun, records, files, size, links = time.monotonic(), [], 0, 0, 0
        excluded = self._excluded.match if self._excluded else None
        own, names = b"" if below else _OWN, self._names
        for entry in entries:
            name = entry.name
            if name == own or (excluded is not None and excluded(name)):
                continue
            path = line = below + name
            if b"\\" in path or b"\n" in path:
                line = escaped(path)
            try:
                if entry.is_dir(follow_symlinks=False):
                    self._queue.put(path)
                    records.append(line + b"\0d")
                    continue
                unfinished = name.endswith(_PARTIAL) and UNFINISHED.search(name)
                if names:
                    files += entry.is_file(follow_symlinks=False) and not unfinished
                    continue
                status = entry.stat(follow_symlinks=False)
                mode, length, seconds = status[stat.ST_MODE], status[stat.ST_SIZE], status[stat.ST_MTIME]
                if stat.S_ISREG(mode) and not unfinished:
                    files += 1
                    size += length
                    records.append(b"%s\0f %d %d" % (line, length, seconds))
                    if not 0 <= seconds <= LAST:
                        self.listing.date(Entry(path, "f", length, int(seconds)))
                elif stat.S_ISLNK(mode) and not unfinished:
                    records.append(line + b"\0l " + escaped(os.readlink(entry.path)))
                    links += 1
                else:
                    records += self._odd(path, bool(unfinished))
            except FileNotFoundError:
                continue
        self.listing.add_records(records, files, size, links)
        self._took(begun, len(entries))

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
    names: bool = False
    """Only how many files it holds is asked."""


def listings(scratch: Path, threads: int, exclude: Sequence[str], *trees: Tree) -> list[Listing]:
    """Of several trees at once. Raises JobError where one cannot be read as a whole."""
    found = [Listing(scratch) for _ in trees]
    walks: list[Forked[tuple[dict[str, object], list[OSError]]]] = []

    def walk(tree: Tree, listing: Listing) -> tuple[dict[str, object], list[OSError]]:
        walk = Walk(tree.root, listing, threads, exclude, tree.source, tree.names)
        walk.end()
        return listing.handed_on(), walk.errors

    try:
        for tree, listing in zip(trees, found, strict=True):
            listing.open()
            walks.append(Forked(functools.partial(walk, tree, listing)))
        for tree, listing, process in zip(trees, found, walks, strict=True):
            try:
                attributes, errors = process.result()
            except EOFError:
                what = f"The process that listed it was killed: {tree.root}."
                raise JobError(
                    Exit.KILLED, what, "Raise the memory limit of this job (value resources)."
                ) from None
            if errors:
                raise unreadable(errors, tree.what)
            vars(listing).update(attributes)
            for path in listing.special:
                say(f"Special: {shown(path)}")
    finally:
        for process in walks:
            process.kill()
    return found


def unreadable(errors: list[OSError], what: str) -> JobError:
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
            "lines above name, or leave it out (value mediaReplicator.exclude)."
        )
    elif first.errno in (errno.ESTALE, errno.ENOENT):
        code, advice = Exit.TRANSIENT, "The next run tries again; if it comes back, check the file server."
    return JobError(
        code,
        f"{what} cannot be read as a whole: {shown(os.fsencode(first.filename or ''))}: {first.strerror}.",
        advice,
    )


# ---- comparison -------------------------------------------------------------------------------------------


def unequal(one: Iterable[bytes], other: Iterable[bytes]) -> Iterator[tuple[bytes | None, bytes | None]]:
    """Of two sorted streams of records those that the other has not: those of the same path together."""
    ones, others = iter(one), iter(other)
    a, b = list(islice(ones, MANY)), list(islice(others, MANY))
    while a or b:
        if a == b:
            a, b = [], []
        else:
            # Up to the path that both have been read to: `\xff` comes after the kind of each of its records.
            least = min(some[-1].partition(b"\0")[0] for some in (a, b) if some) + b"\0\xff"
            ends = bisect_right(a, least), bisect_right(b, least)
            yield from _unequal(a[: ends[0]], b[: ends[1]])
            a, b = a[ends[0] :], b[ends[1] :]
        a, b = a or list(islice(ones, MANY)), b or list(islice(others, MANY))


def _unequal(one: list[bytes], other: list[bytes]) -> Iterator[tuple[bytes | None, bytes | None]]:
    ones, others = set(one), set(other)
    there = {record.partition(b"\0")[0]: record for record in other if record not in ones}
    pairs: list[tuple[bytes, bytes | None, bytes | None]] = []
    for record in one:
        if record not in others:
            path = record.partition(b"\0")[0]
            pairs.append((path + b"\0", record, there.pop(path, None)))
    pairs += [(path + b"\0", None, record) for path, record in there.items()]
    pairs.sort(key=operator.itemgetter(0))
    yield from (pair[1:] for pair in pairs)


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


def unexplained(found: Iterable[Difference], now: Callable[[bytes], Entry | None]) -> Iterator[Difference]:
    """Those that do not come from a change of the source since it was listed: what came, changed or went
    belongs to the next run. `now` is asked what the source has of a path.
    """
    for difference in found:
        source, there = difference.source, now(difference.path)
        if there is None if source is None else there is not None and same(source, there):
            yield difference


def of_source(root: bytes, path: bytes) -> Entry | None:
    """What a source has of this path now."""
    place = root + b"/" + path
    try:
        status = os.lstat(place)
        target = os.readlink(place) if stat.S_ISLNK(status.st_mode) else b""
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(status.st_mode):
        return Entry(path, "f", status.st_size, int(status[stat.ST_MTIME]))
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, "d")
    return Entry(path, "l", target=target) if target else None
