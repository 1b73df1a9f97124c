"""What a volume lets the pod's user do, as the jobs do it: with one file of the doctor's own, which is
removed.

It is asked in a process of its own: a call on a file server that hangs cannot be interrupted.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.errors import JobError, is_folder, of_volume, user
from stack_backup_jobs.examination import DoubtError, Examination, NotAskedError, Question
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.formats import AHEAD, MIB, TEMPORARY, Exit
from stack_backup_jobs.job import Job
from stack_backup_jobs.space import space

PATTERN = 4096
"""Bytes of the file."""
LATE = 60
"""Seconds by which two clocks may differ."""
GROWTH = 13
"""Tenths of the newest dump that the next one may need, as the hourly backup says."""


@dataclass(frozen=True)
class Place:
    """A volume as the release's jobs have it."""

    name: str
    path: Path
    written: bool
    """Whether a job of this release writes there."""
    folder: str
    """Where below its root, once that is there; nothing for the root."""
    keep: int
    """Dumps that are kept there; 0 where it holds none."""

    @classmethod
    def parse(cls, word: str) -> Place:
        """Of `NAME:MODE:PATH:FOLDER:KEEP`. Raises ValueError."""
        name, mode, path, folder, keep = word.split(":")
        if mode not in ("read", "written") or not name:
            raise ValueError(word)
        return cls(name, Path(path), mode == "written", folder, int(keep))


class Volume:
    """One examination of it; `dump_size` is what a dump is expected to have, where none is there yet."""

    def __init__(self, job: Job, place: Place, dump_size: int) -> None:
        self._job, self._place, self._dump_size = job, place, dump_size
        self._examination = Examination(place.name)
        self._folder = place.path
        # As the jobs name what is unfinished, of dumps and of media: none takes it for anything else.
        name = f"{TEMPORARY}doctor.{job.pod}"
        self._names = [f"{name}.{secrets.token_hex(4)}.stack.partial" for _ in range(3)]

    def examined(self) -> Examination:
        examination = self._examination
        if not examination.in_turn([("list", self._list), ("mode", self._mode)]):
            return examination
        if self._place.written:
            try:
                examination.in_turn(self._written())
            finally:
                for path in map(self._path, range(3)):
                    with contextlib.suppress(OSError):
                        path.unlink(missing_ok=True)
            examination.ask("room", self._room)
        return examination

    def _path(self, number: int) -> Path:
        return self._folder / self._names[number]

    def _list(self) -> str:
        with as_failure("Listing the volume failed"):
            names = len(os.listdir(self._place.path))  # noqa: PTH208 (only counted)
            if self._place.folder and is_folder(self._place.path / self._place.folder):
                self._folder = self._place.path / self._place.folder
                os.listdir(self._folder)  # noqa: PTH208
        return f"{names} names at its root."

    def _mode(self) -> str:
        """As mounted; and a mount that says otherwise than it does is found out by the writing."""
        read_only = bool(os.statvfs(self._place.path).f_flag & os.ST_RDONLY)
        if self._place.written and read_only:
            raise JobError(
                Exit.PERMISSION,
                "It is mounted read-only, and a job of this release writes there.",
                "Check the access modes and mount options of its PersistentVolume, and whether its file "
                "system turned read-only after an error.",
            )
        if not self._place.written and not read_only:
            raise JobError(
                Exit.SETUP,
                "It can be written here, and no job of this release may write there.",
                "Upgrade the release: it mounts what it only reads read-only.",
            )
        return "Mounted read-only." if read_only else "Mounted for writing."

    # ---- the file of our own ----

    def _written(self) -> Iterator[tuple[str, Question]]:
        yield "write", self._write
        yield "fsync", self._sync
        yield "read-back", self._read_back
        yield "rename", self._rename
        yield "link", self._link
        yield "owner", self._owner
        yield "times", self._times
        yield "clock", self._clock
        yield "remove", self._remove

    def _write(self) -> str:
        self._content = secrets.token_bytes(PATTERN)
        self._begun = time.time()
        with as_failure(f"Writing a file in {self._folder} failed"), self._path(0).open("xb") as file:
            file.write(self._content)
        return f"A file was written in {self._folder}."

    def _sync(self) -> str:
        with as_failure("Bringing a file to the disk (fsync) failed"):
            for path in (self._path(0), self._folder):
                number = os.open(path, os.O_RDONLY)
                try:
                    os.fsync(number)
                finally:
                    os.close(number)
        return "The file and its folder were brought to the disk."

    def _read_back(self) -> str:
        with as_failure("Reading a file back failed"), self._path(0).open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            found = file.read()
        if found != self._content:
            raise JobError(
                Exit.VOLUME,
                "A file reads back differently from what was written.",
                "Check the volume and its file server: it does not keep what it is given.",
            )
        return "The file reads back as it was written."

    def _rename(self) -> str:
        with as_failure("Renaming a file failed"):
            self._path(0).rename(self._path(1))
        return "The file has got another name."

    def _link(self) -> str:
        if not self._place.keep:
            raise NotAskedError("No dump is published here: only that needs hard links.")
        with as_failure("A second name of a file (a hard link) was refused"):
            os.link(self._path(1), self._path(2))
        return "The file has had two names: a dump is published so."

    def _owner(self) -> str:
        found = self._path(1).stat()
        if found.st_uid != os.getuid():
            raise DoubtError(
                f"What the pod's user {user()} writes belongs to {found.st_uid}:{found.st_gid}: the file "
                "server squashes users.",
                "Let the export keep users (no_all_squash), or let anonuid and anongid be those of the pods "
                "(values pod.runAsUser and pod.runAsGroup) in every stack.",
            )
        return f"The file belongs to the pod's user {user()}."

    def _times(self) -> str:
        """A mirror tells files by their time."""
        with as_failure("Setting mode and time of a file of its own was refused"):
            status = self._path(1).stat()
            self._path(1).chmod(0o640)
            os.utime(self._path(1), (86400, 86400))
            kept = self._path(1).stat().st_mtime
            os.utime(self._path(1), ns=(status.st_atime_ns, status.st_mtime_ns))
        if kept != 86400:
            raise JobError(
                Exit.VOLUME,
                f"A file whose time was set to 1970-01-02 has another one ({kept:.0f} s since 1970).",
                "Check the volume and its file server: a mirror could not tell what has changed.",
            )
        return "Mode and time of the file were set."

    def _clock(self) -> str:
        return compared(self._path(1).stat().st_mtime - self._begun, "the file server")

    def _remove(self) -> str:
        with as_failure("Removing a file of its own failed"):
            self._path(1).unlink()
            self._path(2).unlink(missing_ok=True)
        return "The file is removed."

    # ---- room ----

    def _room(self) -> str:
        there = space(self._folder)
        free = there.free
        said = f"{free // MIB} of {there.bytes // MIB} MiB are free"
        if free < MIB or there.inodes == 0:
            counted = "" if there.inodes is None else f", {there.inodes} inodes"
            raise _no_room(f"{said}{counted}.")
        if not self._place.keep:
            return f"{said}."
        count, held, newest = self._dumps()
        newest = newest or self._dump_size
        said += f"; {count} dumps take {held // MIB} MiB, the newest {newest // MIB} MiB"
        if free < newest * GROWTH // 10:
            raise _no_room(f"{said}: the next one does not fit.")
        if held + free < newest * (self._place.keep + 1):
            raise DoubtError(
                f"{said}: {self._place.keep} as large as that, and one being written, do not fit.",
                "Make the volume larger or keep fewer dumps before it is full.",
            )
        return f"{said}, and {self._place.keep} are kept."

    def _dumps(self) -> tuple[int, int, int]:
        """How many there are in all folders, their bytes (a file counts once), and those of the newest."""
        sizes: dict[tuple[int, int], int] = {}
        newest = ("", 0)
        for path in self._place.path.iterdir():
            if path.name != "lost+found" and is_folder(path, follow=False):
                for dump in Folder(self._job, path).dumps():
                    status = (path / dump.name).stat()
                    sizes[status.st_dev, status.st_ino] = status.st_size
                    newest = max(newest, (dump.name, dump.size))
        return len(sizes), sum(sizes.values()), newest[1]


def compared(ahead: float, whose: str) -> str:
    """Of two clocks: `ahead` is by how many seconds the other one is. Raises JobError, DoubtError."""
    what = f"The clock of {whose} is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} this pod's."
    advice = "Let both keep time (NTP): dumps are named, and their age is told, by the clock."
    if abs(ahead) >= AHEAD:
        raise JobError(Exit.SETUP, what, advice)
    if abs(ahead) >= LATE:
        raise DoubtError(what, advice)
    return f"The clock of {whose} agrees to {abs(ahead):.0f} s."


def _no_room(what: str) -> JobError:
    return JobError(
        Exit.NO_ROOM,
        what,
        "Make the volume larger or keep fewer dumps; no dump is ever deleted to make room.",
    )


@contextlib.contextmanager
def as_failure(what: str) -> Iterator[None]:
    """What a file system says within the block, with these words before it."""
    try:
        yield
    except OSError as error:
        raise of_volume(error, what) from error


def examine(job: Job, place: Place, dump_size: int) -> Callable[[], Examination]:
    """For a process of its own, which may be asked to end."""

    def examined() -> Examination:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit())
        return Volume(job, place, dump_size).examined()

    return examined
