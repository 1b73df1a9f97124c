"""What mirror and recovery of the media share: the state of a replica, the survey of two trees, and the
copying.

REPLICA/…                        the mirrored tree, at the root
REPLICA/.stack-backup/state      since when a mirror is in progress, or when the last complete one ended
REPLICA/.stack-backup/sample.tsv the sha256 of some files, as the source has them
REPLICA/.stack-backup/trash/TIME what the run that began at TIME deleted or replaced
REPLICA/.stack-backup/added/TIME what that run had to add, until a mirror is complete
REPLICA/.stack-backup/lock       the run that is at work
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from stack_backup_jobs.copier import Copier, Crew, Odd, Pace
from stack_backup_jobs.errors import JobError, is_folder, of_volume, status
from stack_backup_jobs.formats import MIB, OWN, STATE, TEMPORARY, Exit, MediaState, OtherFormatError
from stack_backup_jobs.job import Job
from stack_backup_jobs.settings import number, rate
from stack_backup_jobs.space import space
from stack_backup_jobs.trees import SHOWN, Difference, Entry, shown

NO_ROOM = "Make room on the volume; the next run goes on from here."
TARGET = "Check its claim (value volumes.media.existingClaim)."
SHARE, FEW = 256, 32
"""Files of one folder that a thread copies one after the other; where waiting is what costs."""


@dataclass(frozen=True)
class Common:
    namespace: str
    pod_name: str
    media_volume: Path
    media_replica_volume: Path
    scratch: Path
    transfers: int = number(1)
    checkers: int = number(1)
    bandwidth_limit: float = rate()


def read_state(replica: Path) -> MediaState | None:
    """None where no mirror has ever begun. Raises JobError, and OSError for one that cannot be read."""
    try:
        text = (replica / OWN / STATE).read_bytes()
    except FileNotFoundError:
        return None
    try:
        return MediaState.parse(text.decode(errors="replace"))
    except OtherFormatError as error:
        what = f'The state of the replica is of the format "{error}", and this program knows 1.'
        raise JobError(Exit.SETUP, what, "Upgrade the release.") from None
    except ValueError:
        raise JobError(
            Exit.DATA,
            "The state of the replica is damaged.",
            f"Check the export. Without the file {OWN}/{STATE}, media-replicator takes over what lies there.",
        ) from None


def replace(path: Path, data: bytes, job: Job) -> None:
    """In one step, and for good."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}.{job.pod}.{os.getpid()}")
    job.ends.callback(temporary.unlink, missing_ok=True)
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    file = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def check_target(target: Path, job: Job) -> None:
    """May a recovery write there? Raises JobError and OSError."""
    if not is_folder(target):
        raise JobError(Exit.SOURCE, f"The stack's media volume {target} is not there.", TARGET)
    if status(target / OWN, follow=False):
        what = f"The volume to write to holds a folder {OWN}: it is a replica itself."
        raise JobError(Exit.PERMISSION, what, TARGET)
    probe(target, job)


def probe(folder: Path, job: Job) -> None:
    """Proves that files can be made and removed there. Raises OSError."""
    path = folder / f"{TEMPORARY}probe.{job.pod}.{secrets.token_hex(4)}"
    job.ends.callback(path.unlink, missing_ok=True)
    path.write_bytes(b"probe\n")
    path.unlink()


# ---- what is to be done -----------------------------------------------------------------------------------


@dataclass
class Plan:
    """What makes a target as the source is: numbers of files and links, and bytes."""

    to_copy: int = 0
    need_bytes: int = 0
    lost: int = 0
    """Only in the target."""
    conflicts: int = 0
    """A file on one side, and a folder or a link on the other."""
    gone: bool = False
    """Whether anything is only in the target, folders too."""
    empty: bool = True
    """Nothing differs at all."""


def plan_of(found: Iterable[Difference], conflict: Callable[[Entry], None]) -> Plan:
    plan = Plan()
    for source, target in found:
        plan.empty = False
        if source is None:
            plan.lost += target is not None and target.kind not in "dp"
            plan.gone = True
            continue
        if target is not None and target.kind != source.kind:
            plan.conflicts += 1
            if plan.conflicts <= SHOWN:
                conflict(target)
        plan.to_copy += source.kind != "d" or target is not None
        plan.need_bytes += source.size
    return plan


class Apply:
    """Copies, and then removes, by threads: what could not be copied has cost nothing."""

    def __init__(self, job: Job, settings: Common, target: Path, trash: Path | None, odd: Odd) -> None:
        self._job, self._settings = job, settings
        pace = Pace(settings.bandwidth_limit)
        self.copier = Copier(os.fsencode(target), os.fsencode(trash) if trash else None, pace, odd)

    def run(
        self,
        found: Callable[[], Iterable[Difference]],
        plan: Plan,
        root_of: Callable[[Entry], bytes],
        delete: bool,
    ) -> None:
        """`root_of` says where a file of the source lies; what only the target has goes with `delete`."""
        copier = self.copier

        def copy(piece: list[Difference]) -> None:
            for source, target in piece:
                if source is not None:
                    copier.copy(root_of(source), source, target)
                percent = 100 * copier.bytes // max(1, plan.need_bytes)
                done = f"{copier.copied} of {plan.to_copy} copied, {copier.bytes // MIB} MiB, {percent}%"
                self._job.progress(done)

        def remove(piece: list[Difference]) -> None:
            for _, target in piece:
                if target is not None:
                    copier.remove(target)

        self._work(self._to_copy(found()), copy)
        if delete and plan.gone:
            self._work(self._to_remove(found()), remove)

    def _work(self, found: Iterable[Difference], do: Callable[[list[Difference]], None]) -> None:
        """Some of one folder together."""
        with Crew(self._settings.transfers, do, len) as crew:
            self.copier.stopped = lambda: crew.stopped
            for _, some in groupby(found, lambda one: one.path.rpartition(b"/")[0]):
                while piece := list(islice(some, FEW if crew.waits else SHARE)):
                    crew.give(piece)

    def _to_copy(self, found: Iterable[Difference]) -> Iterator[Difference]:
        """Files and links. Folders are made at once: they come before what they hold."""
        for source, target in found:
            if target is not None and target.kind == "p":
                self._job.say(f"Removing {target.shown}, left by a run that was killed.")
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(self.copier.target, target.path))
                target = None
            if source is not None and source.kind == "d":
                self.copier.folder(source.path, target)
            elif source is not None:
                yield Difference(source, target)

    def _to_remove(self, found: Iterable[Difference]) -> Iterator[Difference]:
        """Folders go as a whole, at once."""
        gone: set[bytes] = set()
        for source, target in found:
            if target is None or target.kind == "p" or _inside(target.path, gone):
                continue
            if target.kind == "d" and (source is None or source.kind != "d"):
                gone.add(target.path)
            if source is None and target.kind == "d":
                self.copier.remove(target)
            elif source is None:
                yield Difference(source, target)


def _inside(path: bytes, folders: set[bytes]) -> bool:
    """Did it go with a folder?"""
    while folders and (path := os.path.dirname(path)):
        if path in folders:
            return True
    return False


def named(job: Job, path: bytes, what: str) -> None:
    job.say(f"{what}: {shown(path)}")


def require_room(volume: Path, need: int, what: str, advice: str) -> None:
    free = space(volume).free
    if free < need:
        text = f"{what} has {free // MIB} MiB left, and {need // MIB} MiB are to be copied."
        raise JobError(Exit.NO_ROOM, text, advice)


@contextlib.contextmanager
def on_target() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise of_volume(error, no_room=NO_ROOM) from error
