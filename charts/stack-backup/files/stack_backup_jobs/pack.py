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
import struct
import subprocess
import threading
import zlib
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import write_all
from stack_backup_jobs.formats import MIB, Exit
from stack_backup_jobs.job import Job

CHUNK = 1 << 16
"""Bytes read from a pipe at a time: more takes longer."""
PIECE = 2 * CHUNK
"""Bytes of unpacked text that are given at a time."""
MEMBER = MIB
"""Bytes of text in one gzip member: its header costs nothing, and nothing waits for it."""
GZIP, DEFLATE = 31, -15
"""zlib's own words for the gzip format, and for what is in it without a header."""
HEADER = struct.Struct("<10sH2sHI")
"""Of a member: gzip's own, and an extra field "SB" that tells how many bytes the member has. Gunzip passes
over it; we find the next member by it, and so unpack several at once.
"""
_OWN = (b"\x1f\x8b\x08\x04\0\0\0\0\0\xff", 8, b"SB", 4)
_TRAILER = struct.Struct("<II")
LARGEST = 2 * MEMBER
"""Bytes of a member that are read at once: more is none of ours."""
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
    packer = zlib.compressobj(1, zlib.DEFLATED, DEFLATE)
    parts = packer.compress(text), packer.flush(), _TRAILER.pack(zlib.crc32(text), len(text))
    return b"".join((HEADER.pack(*_OWN, HEADER.size + sum(map(len, parts))), *parts))


def _next_of_ours(file: BinaryIO) -> bytes:
    """The member that begins here, as far as it is there; nothing, and not a step further, where it does not
    tell its length.
    """
    at, header = file.tell(), file.read(HEADER.size)
    if len(header) == HEADER.size:
        *own, length = HEADER.unpack(header)
        if tuple(own) == _OWN and HEADER.size < length <= LARGEST:
            return header + file.read(length - HEADER.size)
    file.seek(at)
    return b""


def _unpacked(member: bytes) -> list[bytes]:
    """The text of one member, in pieces that fit into a processor's cache. Raises zlib.error."""
    unpacker, pieces, data = zlib.decompressobj(GZIP), [], member
    while not unpacker.eof:
        pieces.append(piece := unpacker.decompress(data, PIECE))
        data = unpacker.unconsumed_tail
        if not piece and not data and not unpacker.eof:
            raise zlib.error("a member is cut off")
        if len(pieces) * PIECE > 2 * LARGEST:
            raise zlib.error("a member has more text than ours have")
    if unpacker.unused_data:
        raise zlib.error("a member is shorter than it says")
    return pieces


class _Members:
    """Packs parts of the text at once, each a gzip member of its own."""

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._members: queue.Queue[Future[bytes] | None] = queue.Queue(2 * threads)
        self._part: list[bytes] = []
        self._length = 0

    def put(self, text: bytes) -> None:
        for at in range(0, len(text), MEMBER):
            self._part.append(part := text[at : at + MEMBER])
            self._length += len(part)
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


def no_zstd(what: str) -> JobError:
    return JobError(
        Exit.SETUP,
        what,
        "Set the value postgresBackupHourly.compressor to gzip, or use a database image that has zstd.",
    )


def ended(code: int, command: str) -> None:
    """Raises JobError for a command that did not end well."""
    if code == Exit.KILLED:
        raise JobError(
            Exit.KILLED,
            f"{command} was killed, most likely because it ran out of memory.",
            "Raise the memory limit of this job (value resources).",
        )
    if code:
        raise JobError(Exit.TRANSIENT, f"{command} ended with {code}.", "Read the lines above.")


def widen(fd: int) -> None:
    """Lets a pipe hold more, where the user may have it."""
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, MIB)


# ---- the text again ----------------------------------------------------------------------------------------

SPACING, PLACES = 64 * MIB, 256
"""Bytes of text between two places from which unpacking can begin, at first; and how many are remembered:
when there are more, every second one is forgotten. One takes some 45 KiB.
"""
STREAMS = 4
"""Commands that wait to be read on."""
MEMBERS = 4096
"""How many beginnings of members are remembered: they take nothing."""


@dataclass(frozen=True)
class _Place:
    """The unpacker as it was when it had read the file up to `at`, and had given the text before `text`;
    without one, a member begins there.
    """

    text: int
    at: int
    unpacker: Any = None


class _Places:
    """Where unpacking can begin: `most` places, at least `spacing` bytes of text apart."""

    def __init__(self, spacing: int, most: int) -> None:
        self._spacing, self._most = spacing, most
        self._places = [_Place(0, 0)]
        self._lock = threading.Lock()

    def before(self, text: int) -> _Place:
        with self._lock:
            return self._places[bisect.bisect_right(self._places, text, key=lambda place: place.text) - 1]

    def add(self, text: int, at: int, unpacker: Any = None) -> None:
        with self._lock:
            if text < self._places[-1].text + self._spacing:
                return
            self._places.append(_Place(text, at, unpacker and unpacker.copy()))
            if len(self._places) > self._most:
                self._spacing *= 2
                self._places = self._places[::2]


class _Stream:
    """A command that unpacks: it has given the text up to the byte `text`, and `last` after it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process, self._out = process, process.stdout
        self.output = self._out.fileno()
        self.text, self.last = 0, b""

    def ended(self, job: Job) -> int:
        self._out.close()
        return job.processes.ended(self._process)

    def stop(self, job: Job) -> None:
        job.processes.kill(self._process, signal.SIGKILL)
        self.ended(job)


class Unpacker:
    """The text of a dump. Several threads may read it, each from a place of its own."""

    def __init__(self, job: Job, path: Path) -> None:
        self._job, self._path = job, path
        self._members, self._others = _Places(MEMBER, MEMBERS), _Places(SPACING, PLACES)
        self._streams: list[_Stream] = []
        job.ends.callback(self._stop_streams)
        self._lock = threading.Lock()
        self.forward = path.suffix == ".zst"
        """Whether a place is found fast only by who comes from before it."""

    def chunks(self, start: int = 0, threads: int = 1) -> Iterator[bytes]:
        """From the byte `start` of the text on, unpacked by so many threads where the file allows it. Raises
        JobError for a file that is damaged or cut off.
        """
        if self._path.suffix == ".zst":
            stream = self._stream_before(start)
            text, position = self._zstd(stream), stream.text
        else:
            place = max(self._members.before(start), self._others.before(start), key=lambda place: place.text)
            text, position = self._gzip(place, threads), place.text
        with contextlib.closing(text):
            for chunk in text:
                position += len(chunk)
                if position - len(chunk) >= start:
                    yield chunk
                elif position > start:
                    yield chunk[start - position :]

    def _gzip(self, place: _Place, threads: int) -> Generator[bytes, None, None]:
        with self._path.open("rb") as file:
            file.seek(place.at)
            try:
                if place.unpacker is None:
                    place = yield from self._ours(file, place, threads)
                yield from self._theirs(file, place)
            except zlib.error as error:
                raise self._damaged() from error

    def _ours(self, file: BinaryIO, place: _Place, threads: int) -> Generator[bytes, None, _Place]:
        """The text of members that tell their length; and the place after them."""
        text, at, ahead = place.text, place.at, 0  # a small table needs the first of them alone
        waiting: deque[tuple[int, Future[list[bytes]]]] = deque()
        with ThreadPoolExecutor(threads) as pool:
            try:
                while True:
                    while len(waiting) <= ahead and (member := _next_of_ours(file)):
                        waiting.append((at, pool.submit(_unpacked, member)))
                        at += len(member)
                    if not waiting:
                        return _Place(text, at)
                    begins, unpacked = waiting.popleft()
                    self._members.add(text, begins)
                    for piece in unpacked.result():
                        text += len(piece)
                        yield piece
                    ahead = threads
            finally:
                for _, unpacked in waiting:
                    unpacked.cancel()

    def _theirs(self, file: BinaryIO, place: _Place) -> Generator[bytes, None, None]:
        """The text of members that do not tell their length, such as the only one of a file."""
        unpacker = place.unpacker.copy() if place.unpacker else zlib.decompressobj(GZIP)
        position, data, begins = place.text, b"", place.unpacker is None
        while data or (data := file.read(CHUNK)):
            # Here all that was read has been given, or a member begins.
            self._others.add(position, file.tell() - len(data), None if begins else unpacker)
            while data:
                chunk = unpacker.decompress(data, PIECE)
                begins, data = unpacker.eof, unpacker.unconsumed_tail
                position += len(chunk)
                if chunk:
                    yield chunk
                if begins:
                    data, unpacker = unpacker.unused_data, zlib.decompressobj(GZIP)
                    break
        if not begins or not position:
            raise self._damaged()

    def _zstd(self, stream: _Stream) -> Generator[bytes, None, None]:
        try:
            if stream.last:
                yield stream.last
            while chunk := os.read(stream.output, CHUNK):
                stream.text, stream.last = stream.text + len(stream.last), chunk
                yield chunk
        except GeneratorExit:  # the next who reads may want what follows
            with self._lock:
                self._streams.append(stream)
                old = self._streams.pop(0) if len(self._streams) > STREAMS else None
            if old is not None:
                old.stop(self._job)
            raise
        if code := stream.ended(self._job):
            if code == Exit.KILLED:
                ended(code, "zstd")
            raise self._damaged()

    def _stop_streams(self) -> None:
        for stream in self._streams:
            stream.stop(self._job)

    def _stream_before(self, start: int) -> _Stream:
        """Text packed by zstd can only be read from its beginning on: so what was read up to a place before
        is read on.
        """
        with self._lock:
            fit = [stream for stream in self._streams if stream.text <= start]
            if fit:
                self._streams.remove(best := max(fit, key=lambda stream: stream.text))
                return best
        with self._path.open("rb") as file:
            try:
                return _Stream(
                    self._job.processes.start(["zstd", "-dc", "-q"], stdin=file, stdout=subprocess.PIPE)
                )
            except FileNotFoundError as error:
                raise no_zstd(f"{self._path.name} is packed with zstd, and the image has none.") from error

    def _damaged(self) -> JobError:
        return JobError(
            Exit.DATA, f"{self._path.name} cannot be unpacked to its end.", "It is damaged: use another dump."
        )
