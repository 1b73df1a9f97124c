"""A folder of dumps: final names are whole dumps only, and what is unfinished has another name.

FOLDER/backup-…-dumpall.sql.gz    final names
FOLDER/.manifest/NAME.tsv         what a dump holds; a dump that agrees with its manifest is verified
FOLDER/.tmp.…                     unfinished
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from stack_backup_jobs.errors import JobError, status
from stack_backup_jobs.formats import (
    AHEAD,
    MANIFESTS,
    MIB,
    NAME,
    STAMP,
    TEMPORARY,
    Dump,
    Exit,
    Figure,
    Manifest,
    manifest_name,
    seconds_of,
    stamp,
    superseded,
)
from stack_backup_jobs.job import Job
from stack_backup_jobs.run import RESERVE
from stack_backup_jobs.space import capacity, space

NO_LINK = (errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EXDEV)
"""How file systems say that they give no second name; Linux gives none to the files of others."""
DIFFERS = "Check the volume and its file server: it does not keep what it is given."


class Folder:
    """Every method raises OSError where the volume refuses, and nothing is taken for absent but what is."""

    def __init__(self, job: Job, path: Path) -> None:
        self.path = path
        self._job = job
        self._ignored: set[str] = set()

    # ---- what is there ----

    def file(self, name: str) -> Path:
        return self.path / name

    def manifest_file(self, name: str) -> Path:
        return self.path / MANIFESTS / manifest_name(name)

    def dumps(self, ahead: float = AHEAD) -> list[Dump]:
        """Oldest first, without those whose time is more than `ahead` seconds in the future."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if NAME.fullmatch(entry.name) is None or not entry.is_file(follow_symlinks=False):
                    continue
                if (why := no_time(entry.name, ahead)) and entry.name not in self._ignored:
                    self._ignored.add(entry.name)
                    self._job.say(f"Ignoring {entry.name}: {why}.")
                if not why:
                    with contextlib.suppress(FileNotFoundError):  # another run has removed it meanwhile
                        found.append(self._dump(entry.name, entry.stat(follow_symlinks=False).st_size))
        return sorted(found, key=lambda dump: dump.name)

    def verified(self) -> int:
        """How many dumps agree with their manifests."""
        return sum(dump.manifest is not None for dump in self.dumps())

    def _dump(self, name: str, size: int) -> Dump:
        try:
            with self.manifest_file(name).open(
                encoding="utf-8", errors="surrogateescape", newline="\n"
            ) as file:
                manifest = Manifest.parse(file.read())
                since = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return Dump(name, size, None)
        return Dump(name, size, manifest if manifest.agrees(name, size) else None, since, listed=True)

    def bring(self, dump: Dump, target: Path) -> str:
        """Copies a dump out of the folder: the sha256 of what was read."""
        return copy(self._job, self.file(dump.name), target)

    def room(self) -> int:
        """Free bytes."""
        return space(self.path).free

    def capacity(self, kept: int) -> dict[str, Figure]:
        """Figures of the volume; a dump may grow until `kept` of them, and one being written, fill it."""

        def fits(free: int) -> int:
            held: dict[int, int] = {}
            for folder in filter(Path.is_dir, self.path.parent.iterdir()):
                for path in filter(lambda one: NAME.fullmatch(one.name), folder.iterdir()):
                    status = path.lstat()  # a tier's dump is a hard link
                    held[status.st_ino] = status.st_size
            return (free + sum(held.values())) // (kept + 1)

        return capacity(self.path, fits)

    # ---- what is written ----

    def open(self) -> None:
        """Makes it where needed, proves that files can be made, linked and removed in it, and takes away what
        killed runs left: nobody has touched it for longer than any run may live.
        """
        (self.path / MANIFESTS).mkdir(parents=True, exist_ok=True)
        probe, second = self.temporary("probe"), self.temporary("probe.link")
        probe.write_bytes(b"probe\n")
        os.link(probe, second)
        probe.unlink()
        second.unlink()
        limit = time.time() - int(os.environ.get("DEADLINE_SECONDS", "0")) - 300
        for folder in (self.path, self.path / MANIFESTS):
            with os.scandir(folder) as entries:
                unfinished = [entry for entry in entries if entry.name.startswith(TEMPORARY)]
            for entry in unfinished:
                with contextlib.suppress(FileNotFoundError):  # its run has ended, or another has swept it
                    if (
                        entry.is_file(follow_symlinks=False)
                        and entry.stat(follow_symlinks=False).st_mtime < limit
                    ):
                        self._job.say(f"Removing {entry.path}, left by a run that was killed.")
                        Path(entry.path).unlink()

    def temporary(self, name: str, folder: str = "") -> Path:
        """A name for what is unfinished; it is gone when the program ends."""
        path = self.path / folder / f"{TEMPORARY}{name}.{self._job.pod}.{os.getpid()}.{secrets.token_hex(4)}"
        self._job.ends.callback(path.unlink, missing_ok=True)
        return path

    def write_manifest(self, manifest: Manifest, name: str) -> Path:
        """Under a temporary name."""
        path = self.temporary(name, MANIFESTS)
        path.write_bytes(manifest.format().encode("utf-8", "surrogateescape"))
        return path

    def publish(self, dump: Path, manifest: Path, name: str) -> None:
        """Gives a finished dump its final name, for good. The link to it is the commit point: a manifest
        alone is nothing to a reader.
        """
        final, record, before = self.file(name), self.manifest_file(name), self._job.untouched

        def came() -> str:
            return f"The new dump {name} is published and whole." if same(final, dump) else before

        sync(dump)
        sync(manifest)
        self._job.leaves(
            f"If there is a dump {name}, it is whole, and every earlier dump is as it was.", came
        )
        try:
            link(manifest, record)
            link(dump, final)
        except BaseException:
            # Whatever ends it in the middle, the files tell how far it came.
            if same(record, manifest) and not same(final, dump) and number(final) is None:
                record.unlink()
            raise
        self._job.leaves(f"The new dump {name} is published and whole.")

    def prune(
        self,
        keep: int,
        grace: float = 0,
        whole: Callable[[Dump], bool] | None = None,
        kind: str = "An old dump",
    ) -> int:
        """Removes what `keep` newer good dumps have superseded, for at least `grace` seconds: it may still be
        read. `whole` must be true of a dump, too, to be counted. How many it removed. Lists the folder again:
        another run may have changed it. Raises JobError where one (`kind`) cannot be removed.
        """
        dumps = self.dumps()
        if whole and len(dumps) > keep:
            dumps = list(_counted(dumps, keep, whole))
        old = superseded(dumps, keep)
        if old and grace and not superseded(dumps, keep, time.time(), grace):
            self._job.say(f"Leaving {len(old)} superseded dumps for a while: somebody may be reading them.")
            return 0
        for dump in old:
            self._job.say(f"Removing {dump.name}: {keep} newer dumps are verified.")
            try:
                self.remove(dump.name)
            except OSError as error:
                raise JobError(
                    Exit.TRANSIENT,
                    f"{kind} could not be removed: {error.strerror}.",
                    "Check the volume: without retention it fills up.",
                ) from error
        return len(old)

    def remove(self, name: str) -> None:
        """A dump with its manifest, if it is there: the dump first, so that no reader takes half of it."""
        self.file(name).unlink(missing_ok=True)
        self.manifest_file(name).unlink(missing_ok=True)

    # ---- what comes from another folder ----

    def take_over(self, source: Folder, dump: Dump, *, linked: bool) -> bool:
        """Brings a verified dump with its manifest here, under its own name, for good: with `linked` as
        another name of the same file, where the file system gives one, else a copy. False where it is here
        already, and whole.
        """
        path, origin = self.file(dump.name), source.file(dump.name)
        if number(path) is not None:
            return self._present(source, dump)
        manifest = source.manifest_file(dump.name).read_bytes()
        temporary = self.temporary(dump.name)
        if linked:
            expect_digest(self._job, origin, dump, f"The source {dump.name}")
            if self._can_link(origin, temporary):
                # The dump itself: a temporary link would be as old as it, so that another run might sweep it.
                temporary = origin
        if temporary is not origin:
            self._copy(origin, dump, temporary)
        self._put_manifest(manifest, dump.name)
        before = self._job.untouched
        self._job.leaves(
            f"If there is a dump {dump.name} in {self.path}, it is whole; every earlier dump is as it was.",
            lambda: f"The new dump {dump.name} is published and whole." if same(path, temporary) else before,
        )
        try:
            link(temporary, path)
        except TakenError:
            self._job.leaves(before)
            return self._present(source, dump)
        return True

    def _present(self, source: Folder, dump: Dump) -> bool:
        """A dump of this name is here. It is read again: the sizes agree in a damaged one, too."""
        path = self.file(dump.name)
        if not same(path, source.file(dump.name)) and read_afresh(self._job, path) != sha256_of(dump):
            raise JobError(
                Exit.DATA,
                f"{path} is there already, but it is not what the manifest of the source says: "
                "its sha256 differs.",
                "It was changed or damaged there: move it away, check the volume and its file server, "
                "and run this job again.",
            )
        self._put_manifest(source.manifest_file(dump.name).read_bytes(), dump.name)
        return False

    def _copy(self, origin: Path, dump: Dump, target: Path) -> None:
        need_room(self, dump.size)
        if copy(self._job, origin, target) != sha256_of(dump):
            raise _differs(f"The source {dump.name}")
        if read_afresh(self._job, target) != sha256_of(dump):
            raise JobError(
                Exit.VOLUME, f"The copy of {dump.name} reads back differently from its source.", DIFFERS
            )

    def _put_manifest(self, content: bytes, name: str) -> None:
        """A run that was killed may have left the same or half of one."""
        target = self.manifest_file(name)
        if _content(target) == content:
            return
        temporary = self.temporary(name, MANIFESTS)
        temporary.write_bytes(content)
        sync(temporary)
        try:
            temporary.replace(target)
        except OSError:
            if _content(target) != content:  # else a file server has done it, and lost the answer
                raise
        sync(target.parent)

    def _can_link(self, origin: Path, temporary: Path) -> bool:
        try:
            os.link(origin, temporary)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
            self._job.say(f"No link can be made, so {origin.name} is copied: {error.strerror}.")
            return False
        temporary.unlink()
        return True


class TakenError(JobError):
    """A final name is in use."""


def source(job: Job, path: Path, advice: str) -> Folder:
    """A folder that is only read. Raises JobError where there is none; one that cannot be listed is not an
    empty one.
    """
    try:
        with os.scandir(path):
            return Folder(job, path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise JobError(Exit.SOURCE, f"There is no folder {path}.", advice) from error


def need_room(folder: Folder, size: int) -> None:
    free, need = folder.room(), size + MIB
    if free < need:
        raise JobError(
            Exit.NO_ROOM,
            f"{folder.path} has {free // MIB} MiB left, and the dump needs {need // MIB} MiB.",
            "Make room there or keep fewer dumps; no dump is ever deleted to make room.",
        )


# ---- files -------------------------------------------------------------------------------------------------


def number(path: Path) -> tuple[int, int] | None:
    """What tells a file from others, whatever its names; None where there is none of that name."""
    there = status(path, follow=False)
    return (there.st_dev, there.st_ino) if there else None


def same(path: Path, other: Path) -> bool:
    """Are both names there, and of one file?"""
    return (found := number(path)) is not None and found == number(other)


def sync(path: Path) -> None:
    """A file, or a folder's names, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        os.close(fd)


def link(path: Path, name: Path) -> None:
    """Never takes a name that is in use. A file server may do it and lose the answer. Raises TakenError."""
    try:
        os.link(path, name)
    except OSError as error:
        if (there := number(name)) is None:
            raise
        if there != number(path):
            raise TakenError(
                Exit.TRANSIENT,
                f"The name {name.name} is taken already.",
                "Two runs began in the same second: the next one will find its own name.",
            ) from error
    sync(name.parent)


def read_afresh(job: Job, path: Path, what: str = "") -> str:
    """The sha256, from the disk or the file server where the kernel allows it, and not from memory."""
    digest, total, buffer = hashlib.sha256(), 0, bytearray(MIB)
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
            total += count
            job.progress(f"{total // MIB} MiB read{what and f' of {what}'}")
    return digest.hexdigest()


def copy(job: Job, origin: Path, target: Path) -> str:
    """A file, to the disk: the sha256 of what was read. Written while the next part is read and hashed."""
    digest, total = hashlib.sha256(), 0
    with origin.open("rb", buffering=0) as file, Writer(target) as out:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while chunk := file.read(MIB):
            out.put(chunk)
            digest.update(chunk)
            total += len(chunk)
            job.progress(f"{total // MIB} MiB written")
    return digest.hexdigest()


class Writer:
    """A new file, written by a thread of its own and synced at the end. What fails there is raised here."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
        self._chunks: queue.Queue[bytes | None] = queue.Queue(4)
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()

    def put(self, chunk: bytes) -> None:
        if self._error:
            raise self._error
        self._chunks.put(chunk)

    def _write(self) -> None:
        try:
            while (chunk := self._chunks.get()) is not None:
                write_all(self._file, chunk)
            os.fsync(self._file)
        except OSError as error:
            error.filename = str(self._path)
            self._error = error
            while chunk is not None:  # whoever gives more must not wait
                chunk = self._chunks.get()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._chunks.put(None)
            self._thread.join()
            os.close(self._file)
            if self._error:
                raise self._error
        else:
            with contextlib.suppress(queue.Full):
                self._chunks.put_nowait(None)


def write_all(fd: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def expect_digest(job: Job, path: Path, dump: Dump, what: str) -> None:
    """The file must have the sha256 that the dump's manifest says."""
    if read_afresh(job, path, dump.name) != sha256_of(dump):
        raise _differs(what)


@contextlib.contextmanager
def deadline_of_the_job(job: Job, folder: Path) -> Iterator[None]:
    """The deadline is the Job's: a pod that is started again after a failure has the rest of it. When the
    first one began is kept in the folder, as what is unfinished is.
    """
    name = os.environ.get("JOB_NAME", "")
    path = folder / f"{TEMPORARY}run.{name[:63]}"
    if name:
        begun = (_content(path) or b"").decode(errors="replace").strip()
        if STAMP.fullmatch(begun):
            left = max(0.0, seconds_of(begun) + int(os.environ["DEADLINE_SECONDS"]) - RESERVE - time.time())
            job.say(f"The Job began at {begun}: {int(left)} s are left of its deadline.")
            job.tell(allowed=left)
        else:
            path.write_text(f"{stamp()}\n", encoding="ascii")
    yield
    if name:
        path.unlink(missing_ok=True)


def no_time(name: str, allowed: float) -> str:
    """Why the time in a dump's name is not to be believed, or nothing."""
    try:
        ahead = seconds_of(NAME.fullmatch(name)[1]) - time.time() > allowed  # type: ignore[index]
    except ValueError:
        return "there is no such time"
    return "its time is in the future" if ahead else ""


def _counted(dumps: Iterable[Dump], keep: int, whole: Callable[[Dump], bool]) -> Iterator[Dump]:
    """The same, without a manifest where one is not whole; those after the `keep`-th are not asked."""
    left = keep
    for dump in sorted(dumps, key=lambda dump: dump.name, reverse=True):
        if dump.good and left:
            if not whole(dump):
                yield dataclasses.replace(dump, manifest=None)
                continue
            left -= 1
        yield dump


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def sha256_of(dump: Dump) -> str:
    return dump.manifest.get("sha256") if dump.manifest else ""


def _differs(what: str) -> JobError:
    return JobError(
        Exit.DATA,
        f"{what} is not what its manifest says: its sha256 differs.",
        "It was changed or damaged: use another dump, and check the volume and its file server.",
    )
