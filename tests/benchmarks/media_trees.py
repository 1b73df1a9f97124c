"""Mirror and recovery of the media beside rsync and cp, on this machine's disk and with a file server's
latency.

Nothing is deleted between two measurements: ext4 does not give away an inode again for minutes after its file
was deleted, looks at each of them for every new file, and a copy takes ten times as long.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stack_backup.runs import JobResult
from stack_backup_lab.bed import system
from stack_backup_lab.data import media_files
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime
from tests.benchmarks.measure import Line, green, settled, timed, with_command

NAMESPACE, JOB, RECOVERY = "media-stack", "media-replicator", "media-recovery"
SOURCE, REPLICA, TARGET = "media", "media-replica", "media-of-staging"
VALUES: Mapping[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"enabled": False},
    "mediaReplicator": {"enabled": True},
    "mediaRecovery": {"enabled": True, "confirm": NAMESPACE},
    "volumes": {"mediaReplica": {"existingClaim": REPLICA}},
}
PACKAGES = ("gcc", "libc6-dev", "rsync")
LIBRARY = "latency.so"
MICROSECONDS = 2000
"""That every operation on a file takes longer."""
OF_A_FOLDER = 200


class Media:
    """A tree, and its mirrors: ours and the peers'."""

    def __init__(self, stacks: ExitStack, files: int) -> None:
        system.ensure_packages(*PACKAGES)
        stack = stacks.enter_context(LocalRuntime().stack(NAMESPACE, "postgres:15"))
        for claim in (SOURCE, REPLICA, TARGET):
            stack.add_claim(claim)
        self._stack = stack
        # On the disk of the volumes, so that all is written to the same.
        self._folder = Path(
            stacks.enter_context(tempfile.TemporaryDirectory(dir=stack.volume(SOURCE).path.parent))
        )
        self._library = self._folder / LIBRARY
        code = Path(__file__).with_name("latency.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", self._library, code], check=True)
        stack.secrets["latency"] = {LIBRARY: self._library.read_bytes()}
        self._source, self._files = stack.volume(SOURCE).path, files
        self._chance = random.Random(1)
        self._folders = 0
        for number in range(files):
            self._write(number)
        media_files.give(self._source, 999)
        rsync = "rsync -a --delete"
        self._first = Line(f"Media, {files:,} files, first copy", "cp -a, sync", 1.5)
        self._recovered = Line("Media, recovery of all", "cp -a, sync", 1.5)
        self._same = Line("Media, nothing changed", rsync, 1.5)
        self._changed = Line("Media, 1 % changed", rsync, 1.5)
        self._slow = Line("Media, nothing changed, 2 ms an operation", rsync, 0.25)
        self.starts: list[float] = []

    @property
    def lines(self) -> list[Line]:
        return [self._first, self._recovered, self._same, self._changed, self._slow]

    def round(self) -> None:
        self.starts.append(self._mirror(with_command(_objects(), "true")).seconds)
        start = min(self.starts)
        self._clear(self._stack.volume(REPLICA).path)
        self._clear(self._stack.volume(TARGET).path)
        self._peer = self._new()
        self._first.add(self._mirror(), start, self._copy(self._source, self._peer))
        recovery = self._mirror(_objects(TARGET), RECOVERY)
        self._recovered.add(recovery, start, self._copy(self._stack.volume(REPLICA).path, self._new()))
        self._same.add(self._mirror(), start, self._rsync())
        for number in self._chance.sample(range(self._files), self._files // 100):
            self._write(number)
        media_files.give(self._source, 999)
        self._changed.add(self._mirror(), start, self._rsync())
        if not self._slow.ours:  # once: rsync takes a quarter of an hour
            latency = {"LD_PRELOAD": str(self._library), "LATENCY_MICROSECONDS": str(MICROSECONDS)}
            self._slow.add(self._mirror(_slowed(_objects())), start, self._rsync(latency))

    def _write(self, number: int) -> None:
        path = self._source / f"set-{number // OF_A_FOLDER}" / f"fragment-{number}.mol"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self._chance.randbytes(self._chance.randrange(1, 8000)))

    def _new(self) -> Path:
        """A folder that is not there yet, on the disk of the volumes."""
        self._folders += 1
        return self._folder / str(self._folders)

    def _clear(self, volume: Path) -> None:
        aside = self._new()
        aside.mkdir()
        for path in volume.iterdir():
            path.rename(aside / path.name)

    def _copy(self, tree: Path, to: Path) -> float:
        copy = ("sh", "-c", 'cp -a "$0/." "$1" && sync', str(tree), str(to))
        with settled():
            return timed(lambda: _run(*copy))

    def _rsync(self, environment: Mapping[str, str] | None = None) -> float:
        with settled():
            return timed(
                lambda: _run(
                    "rsync",
                    "-a",
                    "--delete",
                    f"{self._source}/",
                    f"{self._peer}/",
                    **(environment or {}),
                )
            )

    def _mirror(self, objects: Objects | None = None, job: str = JOB) -> JobResult:
        self._stack.apply(objects or _objects())
        with settled():
            return green(self._stack.run(job, timeout=7200))


def _objects(media: str = SOURCE) -> Objects:
    return render(merge_values(VALUES, {"volumes": {"media": {"existingClaim": media}}}), namespace=NAMESPACE)


def _slowed(objects: Objects) -> Objects:
    """The same objects, whose programs find every operation on a file slow."""
    pod = objects.get("CronJob", JOB)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    pod["volumes"].append({"name": "latency", "secret": {"secretName": "latency"}})
    container["volumeMounts"].append({"name": "latency", "mountPath": "/usr/local/latency", "readOnly": True})
    container["env"] += [
        {"name": "LD_PRELOAD", "value": f"/usr/local/latency/{LIBRARY}"},
        {"name": "LATENCY_MICROSECONDS", "value": str(MICROSECONDS)},
    ]
    return objects


def _run(*command: str, **environment: str) -> None:
    subprocess.run(command, check=True, env={**os.environ, **environment})
