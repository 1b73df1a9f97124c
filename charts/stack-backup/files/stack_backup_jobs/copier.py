"""Copies files of one tree into another by threads: each under a temporary name, renamed when it is whole.
One odd file costs no other: it is named and passed over.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import os
import queue
import secrets
import shutil
import stat
import threading
import time
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

from stack_backup_jobs.errors import JobError, user
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.job import say
from stack_backup_jobs.trees import LAST, SHOWN, Entry, shown

CHUNK = 1 << 18
SLOW = 0.002
"""Seconds for one small file from which waiting is what costs, and one more thread pays."""
QUICK = 2
"""Threads on a local disk: it is the kernel that works there, on as many cores. Those that make files in one
folder only wait for each other.
"""
NAME = (errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL)
"""What a file system says to a name that it cannot hold."""
NO_LINK = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV)
FROM = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
TO = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
NAMED = 200
"""Bytes of a name that are part of its temporary one."""
HANGS = 0.2
"""Seconds without an end of any piece that tell the same, before the first has ended."""

P = ParamSpec("P")
T = TypeVar("T")


class Crew(Generic[T]):
    """Up to `most` threads that do `work`, of which more are called in while it is waiting that costs. The
    first error of one ends all, and is raised where the crew is given work or awaited. `weight` is the number
    of files in a piece.
    """

    def __init__(
        self, most: int, work: Callable[[T], None], weight: Callable[[T], int] = lambda _: 1
    ) -> None:
        self._most, self._do, self._weight = most, work, weight
        self._queue: queue.Queue[T | None] = queue.Queue(2 * most)
        self._threads: list[threading.Thread] = []
        self._busy, self._done, self._last = 0.0, 0, time.monotonic()
        self._error: BaseException | None = None

    @property
    def waits(self) -> bool:
        """Is it waiting that costs?"""
        return len(self._threads) > QUICK

    def give(self, piece: T) -> None:
        if self._error is not None:
            raise self._error
        self._grow()
        self._queue.put(piece)

    def _grow(self) -> None:
        slow = self._busy > SLOW * self._done or time.monotonic() - self._last > HANGS
        busy = self._threads and self._queue.empty()
        if len(self._threads) < self._most and not busy and (slow or len(self._threads) < QUICK):
            self._threads.append(threading.Thread(target=self._work, daemon=True))
            self._threads[-1].start()

    def _work(self) -> None:
        while (piece := self._queue.get()) is not None:
            if self._error is not None:
                continue
            begun = time.monotonic()
            try:
                self._do(piece)
            except BaseException as error:
                self._error = self._error or error
            self._last = time.monotonic()
            self._busy += self._last - begun
            self._done += self._weight(piece)

    def __enter__(self) -> Crew[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        self._error = (
            self._error or error
        )  # they stop at the next chunk, and nobody waits long for one that hangs
        while self._error is None and not self._queue.empty():
            self._grow()
            time.sleep(0.005)
        while self._error is not None and not self._queue.empty():
            with contextlib.suppress(queue.Empty):
                self._queue.get_nowait()
        for _thread in self._threads:
            self._queue.put(None)  # there is room for two each
        for thread in self._threads:
            thread.join(None if self._error is None else 2)
        if kind is None and self._error is not None:
            raise self._error

    @property
    def stopped(self) -> bool:
        return self._error is not None


class Pace:
    """Lets all threads together have no more than `rate` bytes a second (0: any)."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = time.monotonic()
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        if self._rate:
            with self._lock:
                self._free = max(self._free, time.monotonic()) + size / self._rate
                wait = self._free - time.monotonic()
            time.sleep(max(0.0, wait))


class Odd:
    """Files that are passed over, by path, and why. The first are named in the log."""

    MOST = 100_000
    """Beyond, it is not the files that are odd, and memory would grow with them."""

    def __init__(self) -> None:
        self.why: dict[bytes, tuple[int, str]] = {}
        self._lock = threading.Lock()

    def add(self, path: bytes, why: OSError | str) -> None:
        code, text = (0, why) if isinstance(why, str) else (why.errno or 0, why.strerror or "unknown")
        with self._lock:
            if path not in self.why and len(self.why) < SHOWN:
                say(f"Skipped: {shown(path)}: {text}")
            self.why.setdefault(path, (code, text))
            if len(self.why) > self.MOST:
                raise self.failure(f"More than {self.MOST} files cannot be copied")

    def __len__(self) -> int:
        return len(self.why)

    @property
    def sentence(self) -> str:
        """Of the first ones, for a verdict."""
        some = [f"{shown(path)} ({text})" for path, (_, text) in sorted(self.why.items())[:3]]
        return ", ".join(some) + (" and others" if len(self.why) > 3 else "")

    def failure(self, what: str) -> JobError:
        if any(code in (errno.EACCES, errno.EPERM) for code, _ in self.why.values()):
            advice = f"The pod's user {user()} must be able to read them: correct their owner or their mode."
            return JobError(Exit.PERMISSION, f"{what}: {self.sentence}.", advice)
        return JobError(Exit.DATA, f"{what}: {self.sentence}.", "Fix or rename what the lines above name.")


class _PassedOver(Exception):
    def __init__(self, why: OSError | str) -> None:
        self.why = why


class _Went(Exception):
    """It is not in the source any more, or of another kind: that belongs to the next run."""


class Copier:
    """Into the tree at `target`. What is replaced or removed goes to `trash`, with its path; without one it
    is gone. Raises OSError where the target refuses.
    """

    def __init__(self, target: bytes, trash: bytes | None, pace: Pace, odd: Odd) -> None:
        self.target, self.trash, self.odd = target, trash, odd
        self.copied = self.bytes = 0
        self.stopped: Callable[[], bool] = lambda: False
        self._pace = pace
        self._numbers = itertools.count(secrets.randbits(32))

    # ---- one entry ----

    def folder(self, path: bytes, there: Entry | None) -> None:
        """Makes a folder, in the place of what is there."""
        try:
            if there is not None:
                self._remove(there)
            self._make_folder(self._in_target(path))
        except OSError as error:
            self._judge(path, error)

    def copy(self, root: bytes, entry: Entry, there: Entry | None) -> None:
        """A file or a link, in the place of what is there."""
        final = self._in_target(entry.path)
        temporary = b"%s.%08x.stack.partial" % (_cut(final), next(self._numbers) & 0xFFFFFFFF)
        try:
            try:
                if entry.kind == "l":
                    self._in_folder(temporary, os.symlink, entry.target, temporary)
                else:
                    self._copy_file(root + b"/" + entry.path, temporary, entry)
                if there is not None:
                    self._set_aside(entry.path, there)
                _rename(temporary, final)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
        except _Went:
            return
        except _PassedOver as passed:
            self.odd.add(entry.path, passed.why)
            return
        except OSError as error:
            self._judge(entry.path, error)
            return
        self.copied += 1

    def _judge(self, path: bytes, error: OSError) -> None:
        """A name that the target cannot hold is odd; anything else is the target's fault, or the run's."""
        if error.errno not in NAME:
            raise error
        self.odd.add(path, error)

    def remove(self, there: Entry) -> None:
        """With all that it holds."""
        try:
            self._remove(there)
        except OSError as error:
            self._judge(there.path, error)

    def _remove(self, there: Entry) -> None:
        path = self._in_target(there.path)
        if self.trash is not None:
            self._to_trash(there.path, os.rename)
        elif there.kind == "d":
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _set_aside(self, path: bytes, there: Entry) -> None:
        """What is in the way of a rename to this name, or is to be kept."""
        if self.trash is None and there.kind != "d":
            return
        if there.kind != "f":
            return self._remove(there)
        try:
            self._to_trash(path, os.link)  # so that its name is never without a file
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            self._remove(there)

    def _to_trash(self, path: bytes, move: Callable[[bytes, bytes], None]) -> None:
        assert self.trash is not None
        place = self.trash + b"/" + path
        with contextlib.suppress(FileExistsError if move is os.link else FileNotFoundError):
            self._in_folder(place, move, self._in_target(path), place)

    def _in_folder(self, path: bytes, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Once more with the folder of a path made, where that was what a call lacked."""
        try:
            return call(*args, **kwargs)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path))
            return call(*args, **kwargs)

    def _make_folder(self, path: bytes) -> None:
        try:
            os.mkdir(path, 0o755)
        except FileNotFoundError:
            self._make_folder(os.path.dirname(path))
            self._make_folder(path)
        except FileExistsError:
            if not stat.S_ISDIR(os.lstat(path).st_mode):
                raise

    def _in_target(self, path: bytes) -> bytes:
        return self.target + b"/" + path

    # ---- the content of a file ----

    def _copy_file(self, source: bytes, temporary: bytes, entry: Entry) -> None:
        """Only what stood still while it was read is a copy. Twice is enough: what is always written never
        does.
        """
        target = self._in_folder(temporary, os.open, temporary, TO, 0o644)
        try:
            if not self._copy_once(source, target, entry):
                os.ftruncate(target, 0)
                if not self._copy_once(source, target, entry):
                    raise _PassedOver("it is being written all the time")
        finally:
            os.close(target)  # a file server may refuse only now

    def _copy_once(self, source: bytes, target: int, entry: Entry) -> bool:
        file = _of_source(os.open, source, FROM)
        try:
            before = _of_source(os.fstat, file)
            if not stat.S_ISREG(before.st_mode):
                raise _Went
            done = 0
            while done < before.st_size:
                if self.stopped():
                    raise _Went
                chunk = _of_source(os.read, file, min(CHUNK, before.st_size - done))
                if not chunk:
                    return False
                self._pace.take(len(chunk))
                written = os.pwrite(target, chunk, done)
                while written < len(chunk):
                    written += os.pwrite(target, memoryview(chunk)[written:], done + written)
                done += len(chunk)
                self.bytes += len(chunk)
            after = _of_source(os.fstat, file)
        finally:
            os.close(file)
        if (done, before.st_size, before.st_mtime_ns) != (after.st_size, after.st_size, after.st_mtime_ns):
            return False
        if (got := _set_time(target, before.st_mtime_ns)) is not None:
            self.odd.add(entry.path, out_of_range(before.st_mtime_ns // 1_000_000_000, got))
        return True


def out_of_range(seconds: int, held: int) -> str:
    """Why a copy has another time, in seconds since 1970."""
    return f"the target cannot hold its time {seconds} and has {held}; its content is the same"


def _of_source(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What the source does not give is odd, or not there any more."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO):
            raise _Went from None
        raise _PassedOver(error) from None


def _set_time(file: int, time_ns: int) -> int | None:
    """Gives a file its time. The seconds that it has instead where the target does not hold that one."""
    seconds = time_ns // 1_000_000_000
    try:
        os.utime(file, ns=(time_ns, time_ns))
    except (OSError, OverflowError):
        if 0 <= seconds <= LAST:
            raise
        nearest = min(max(seconds, 0), LAST)
        os.utime(file, (nearest, nearest))
    if 0 <= seconds <= LAST:
        return None
    got = os.fstat(file).st_mtime_ns // 1_000_000_000
    return None if abs(got - seconds) <= 1 else got


def times_held_in(folder: bytes) -> Callable[[int], int]:
    """The time, in seconds, that a file in this folder has when it is given one: asked for what is out of the
    usual.
    """

    @functools.cache
    def ask(seconds: int) -> int:
        path = os.path.join(folder, b".tmp.time." + secrets.token_hex(4).encode())
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            got = _set_time(file, seconds * 1_000_000_000)
        finally:
            os.close(file)
            os.unlink(path)
        return seconds if got is None else got

    return lambda seconds: seconds if 0 <= seconds <= LAST else ask(seconds)


def _cut(path: bytes) -> bytes:
    """Of a path's last name what leaves room for a suffix, and is text if the name is."""
    folder, _, name = path.rpartition(b"/")
    if len(name) <= NAMED:
        return path
    short = name[:NAMED]
    with contextlib.suppress(UnicodeDecodeError):
        name.decode()
        short = short.decode(errors="ignore").encode()
    return folder + b"/" + short


def _rename(temporary: bytes, final: bytes) -> None:
    try:
        os.rename(temporary, final)
    except FileNotFoundError:
        os.lstat(final)  # a file server may have done it, and lost its answer; the comparison sees what it is
