"""A stack's media_files, its replica and its volume to recover to, as the tests see them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import ADDED, OWN, SAMPLE, STATE, TEMPORARY, TRASH
from stack_backup_lab.data import media_files
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalStack, LocalVolume, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.outcomes import green

NAMESPACE = "media-stack"
IMAGE = "postgres:15"
MIRROR, RECOVERY = "media-replicator", "media-recovery"
SOURCE, REPLICA, TARGET = "media", "media-replica", "media-of-staging"

VALUES: dict[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"enabled": False},
    "mediaReplicator": {"enabled": True, "sampleFiles": 20},
    "mediaRecovery": {"enabled": True, "confirm": NAMESPACE},
    "volumes": {"mediaReplica": {"existingClaim": REPLICA}},
}
TO_STAGING: dict[str, Any] = {"volumes": {"media": {"existingClaim": TARGET}}}
"""The same release, but its media are the volume to recover to."""

FILES = 20
"""Small files of a tree, so that a share of them is a number of files."""

AMID = faults.hold_python("stack_backup_jobs.media:Apply.run")
"""Stops when all is looked at and marked, and nothing is copied yet (if anything is to be)."""
AFTER = faults.hold_python("stack_backup_jobs.media:Apply.run", after=True)
"""Stops when all is copied, and not compared yet."""

SLOWLY = {"BANDWIDTH_LIMIT": "1M"}
"""With a file of some MiB, for what happens amid a copy."""


class Media:
    """The media of a stack: `source`, `replica` and `target` are folders of this machine."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.source = stack.volume(SOURCE).path
        self.replica = stack.volume(REPLICA).path
        self.target = stack.volume(TARGET).path

    def clear(self) -> None:
        """Empty volumes that belong to the pods, and the release as it was."""
        for folder in (self.source, self.replica, self.target):
            for path in folder.iterdir():
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
            media_files.give(folder, 999)
            folder.chmod(0o2770)
        self.install({})

    def install(self, values: Mapping[str, Any]) -> None:
        self.stack.install(merge_values(VALUES, values))

    def volume(self, claim: str) -> LocalVolume:
        return self.stack.volume(claim)

    def start(
        self, job: str = MIRROR, *, environment: Mapping[str, str] | None = None, **faults: Any
    ) -> RunningJob:
        return self.stack.start(job, Faults(**faults), environment)

    def run(
        self, job: str = MIRROR, *, environment: Mapping[str, str] | None = None, **faults: Any
    ) -> JobResult:
        with self.start(job, environment=environment, **faults) as running:
            return running.wait()

    def mirror(self, **environment: str) -> JobResult:
        """A mirror that must succeed, and be exact."""
        result = self.run(environment=environment)
        green(result, "copied")
        assert (
            media_files.differences(media_files.snapshot(self.source), media_files.snapshot(self.replica))
            == []
        )
        assert self.state()["status"] == "complete"
        assert self.leftovers() == []
        return result

    def recover(self, **environment: str) -> JobResult:
        """A recovery to the target that must succeed."""
        self.install(TO_STAGING)
        result = self.run(RECOVERY, environment=environment)
        green(result, "copied")
        return result

    def state(self) -> dict[str, str]:
        text = (self.replica / OWN / STATE).read_text()
        return dict(line.split("\t", 1) for line in text.splitlines())

    def trash(self) -> list[Path]:
        """The trash of every run, oldest first."""
        return sorted((self.replica / OWN / TRASH).iterdir())

    def leftovers(self) -> list[str]:
        """Our own files in the replica that have no business there when no run is at work."""
        names = {path.name for path in (self.replica / OWN).iterdir()}
        journals = [path.name for path in (self.replica / OWN / ADDED).iterdir()]
        return sorted(names - {STATE, SAMPLE, TRASH, ADDED}) + journals + partial(self.replica)

    def set(self, path: str, content: str | bytes, root: Path | None = None) -> None:
        """Write a file of the source as the stack does it, now."""
        target = (root or self.source) / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
        media_files.give(root or self.source, 999)

    @contextmanager
    def untouched(self, folder: Path) -> Iterator[None]:
        """Everything in a folder is there unchanged after the block, our own files included."""
        before = everything(folder)
        yield
        after = everything(folder)
        assert after == before, sorted(set(after.items()) ^ set(before.items()))


def everything(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode, size and time of every file; a folder of ours that is empty is nothing, nor when a Job began."""
    found = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if (not path.is_dir() or path.is_symlink()) and not path.name.startswith(f"{TEMPORARY}run."):
            found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def partial(folder: Path) -> list[str]:
    """Unfinished files."""
    return [
        str(path) for path in folder.rglob("*") if re.search(r"\.[0-9a-f]{8}\.stack\.partial$", path.name)
    ]


def make_fifo(path: Path) -> None:
    subprocess.run(["mkfifo", str(path)], check=True)


def fill_up(volume: LocalVolume, leave: int) -> None:
    """Somebody else takes the room of a volume, but for some bytes."""
    free = os.statvfs(volume.path)
    (volume.path / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize - leave))
