"""Dumps as they are packed: gzip members that every gunzip reads, packed by as many threads as the pod has
cores, or zstd by its command; and their text again, from any place on.
"""

from __future__ import annotations

import bisect
import contextlib
import fcntl
import hashlib
import os
import queue
import signal
import subprocess
import threading
import zlib
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stack_backup_jobs.errors import Failure
from stack_backup_jobs.folder import write_all
from stack_backup_jobs.formats import MIB, Exit
from stack_backup_jobs.job import Job

CHUNK = 1 << 16
"""Bytes read from a pipe at a time: more takes longer."""
MEMBER = MIB
"""Bytes of text in one gzip member: its header costs nothing, and nothing waits for it."""
GZIP = 31
"""zlib's own word for the gzip format."""
SUFFIX = {"gzip": "gz", "zstd": "zst"}


def cores() -> int:
    """How many the pod may use: what its limit gives, or what it may run on."""
    there = len(os.sched_getaffinity(0))
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (
                int(word) for name in files for word in Path("/sys/fs/cgroup", name).read_text().split()
            )
            if quota > 0:
                return max(1, min(there, -(-quota // period)))
    return there


@dataclass(frozen=True)
class Packed:
    sha256: str
    size: int


class Packer:
    """Text is packed and written to a new file, and what is written is hashed. What goes wrong in between,
    `write` and `close` raise.
    """

    def __init__(self, job: Job, path: Path, compressor: str) -> None:
        self._job, self._path = job, path
        self._digest, self._size = hashlib.sha256(), 0
        self._error: BaseException | None = None
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        self._pack = _Members(cores()) if compressor == "gzip" else _Zstd(job, cores())
        self._thread = threading.Thread(target=self._store, daemon=True)
        self._thread.start()

    def write(self, text: bytes) -> None:
        if self._error:
            raise self._error
        self._pack.put(text)
        self._job.progress(f"{self._size // MIB} MiB written")

    def close(self) -> Packed:
        """Waits until all is written; not for the disk."""
        self._pack.close()
        self._thread.join()
        os.close(self._out)
        if self._error:
            raise self._error
        self._pack.check()
        return Packed(self._digest.hexdigest(), self._size)

    def _store(self) -> None:
        try:
            for packed in self._pack.packed():
                if self._error is None:
                    self._keep(packed)
        except BaseException as error:  # the main thread raises it
            self._error = self._error or error

    def _keep(self, packed: bytes) -> None:
        try:
            write_all(self._out, packed)
        except OSError as error:
            error.filename = str(self._path)
            self._error = error  # what still comes is taken and left, so that nobody waits
        self._digest.update(packed)
        self._size += len(packed)


def _member(text: bytes) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, GZIP, 9)
    return packer.compress(text) + packer.flush()


class _Members:
    """Packs parts of the text at once, each a gzip member of its own."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._members: queue.Queue[Future[bytes] | None] = queue.Queue(2 * threads)
        self._part: list[bytes] = []
        self._length = 0

    def put(self, text: bytes) -> None:
        self._part.append(text)
        self._length += len(text)
        if self._length >= MEMBER:
            self._next()

    def _next(self) -> None:
        self._members.put(self._pool.submit(_member, b"".join(self._part)))
        self._part, self._length = [], 0

    def close(self) -> None:
        self._next()
        self._members.put(None)
        self._pool.shutdown(wait=False)

    def check(self) -> None:
        pass

    def packed(self) -> Iterator[bytes]:
        while (member := self._members.get()) is not None:
            yield member.result()


class _Zstd:
    def __init__(self, job: Job, threads: int) -> None:
        self._job = job
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        try:
            self._process = job.processes.start(["zstd", "-1", f"-T{threads}", "-q", "-c"], **pipes)
        except FileNotFoundError as error:
            raise no_zstd("The image has no zstd.") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        widen(self._in.fileno())

    def put(self, text: bytes) -> None:
        try:
            write_all(self._in.fileno(), text)
        except BrokenPipeError:
            self.check()
            raise

    def close(self) -> None:
        self._in.close()

    def check(self) -> None:
        self._out.close()
        ended(self._job.processes.ended(self._process), "zstd")

    def packed(self) -> Iterator[bytes]:
        while part := os.read(self._out.fileno(), CHUNK):
            yield part


def no_zstd(what: str) -> Failure:
    return Failure(
        Exit.SETUP, what, "Set the value backup.compressor to gzip, or use a database image that has zstd."
    )


def ended(code: int, command: str) -> None:
    """Raises Failure for a command that did not end well."""
    if code == Exit.KILLED:
        raise Failure(
            Exit.KILLED,
            f"{command} was killed, most likely for want of memory.",
            "Raise the memory limit of this job (value resources).",
        )
    if code:
        raise Failure(Exit.PASSING, f"{command} ended with {code}.", "Read the lines above.")


def widen(fd: int) -> None:
    """Lets a pipe hold more, where the user may have it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)


# ---- the text again ----------------------------------------------------------------------------------------

SPACING, PLACES = 64 * MIB, 256
"""Bytes of text between two places from which unpacking can begin, at first; and how many are remembered:
when there are more, every second one is forgotten. One takes some 45 KiB.
"""


@dataclass(frozen=True)
class _Place:
    """The unpacker as it was when it had read the file up to `at`, and had given the text before `text`;
    without one, a member begins there.
    """

    text: int
    at: int
    unpacker: Any = None


class Unpacker:
    """The text of a dump. Several threads may read it, each from a place of its own."""

    def __init__(self, job: Job, path: Path) -> None:
        self._job, self._path = job, path
        self._lock = threading.Lock()
        self._places = [_Place(0, 0)]
        self._spacing = SPACING

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """From the byte `start` of the text on. Raises Failure for a file that is damaged or cut off."""
        if self._path.suffix == ".zst":
            text, position = self._zstd(), 0
        else:
            with self._lock:
                place = self._places[
                    bisect.bisect_right(self._places, start, key=lambda place: place.text) - 1
                ]
            text, position = self._gzip(place), place.text
        with contextlib.closing(text):
            for chunk in text:
                position += len(chunk)
                if position - len(chunk) >= start:
                    yield chunk
                elif position > start:
                    yield chunk[start - position :]

    def _gzip(self, place: _Place) -> Generator[bytes, None, None]:
        unpacker = place.unpacker.copy() if place.unpacker else zlib.decompressobj(GZIP)
        position, data, begins = place.text, b"", place.unpacker is None
        with self._path.open("rb", buffering=0) as file:
            file.seek(place.at)
            while True:
                if not data and not (data := file.read(CHUNK)):
                    break
                # Here all that was read has been given, or a member begins.
                self._remember(position, file.tell() - len(data), None if begins else unpacker)
                while data:
                    try:
                        chunk = unpacker.decompress(data, 4 * CHUNK)
                    except zlib.error as error:
                        raise self._damaged() from error
                    begins, data = unpacker.eof, unpacker.unconsumed_tail
                    position += len(chunk)
                    if chunk:
                        yield chunk
                    if begins:
                        data, unpacker = unpacker.unused_data, zlib.decompressobj(GZIP)
                        break
        if not begins or not position:
            raise self._damaged()

    def _remember(self, text: int, at: int, unpacker: Any) -> None:
        with self._lock:
            if text < self._places[-1].text + self._spacing:
                return
            self._places.append(_Place(text, at, unpacker and unpacker.copy()))
            if len(self._places) > PLACES:
                self._spacing *= 2
                self._places = self._places[::2]

    def _zstd(self) -> Generator[bytes, None, None]:
        with self._path.open("rb") as file:
            try:
                process = self._job.processes.start(["zstd", "-dc", "-q"], stdin=file, stdout=subprocess.PIPE)
            except FileNotFoundError as error:
                raise no_zstd(f"{self._path.name} is packed with zstd, and the image has none.") from error
        assert process.stdout is not None
        whole = False
        try:
            while chunk := os.read(process.stdout.fileno(), CHUNK):
                yield chunk
            whole = True
        finally:
            process.stdout.close()
            if not whole:
                self._job.processes.kill(process, signal.SIGKILL)
            code = self._job.processes.ended(process)
        if code == Exit.KILLED:
            ended(code, "zstd")
        if code:
            raise self._damaged()

    def _damaged(self) -> Failure:
        return Failure(
            Exit.DATA, f"{self._path.name} cannot be unpacked to its end.", "It is damaged: use another dump."
        )
