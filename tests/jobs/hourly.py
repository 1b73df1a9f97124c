"""Production's hourly backup as a test sees it: names, volume, verdict, what must hold in any case."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stack_backup.render import merge_values
from stack_backup.runtime import JobResult
from stack_backup.runtime.local import LocalStack, LocalVolume, RunningJob
from stack_backup.runtime.pod import Faults
from tests.render import contract

JOB = contract.HOURLY
NAMESPACE = contract.NAMESPACE
CLAIM = contract.CLAIM
FOLDER = contract.FOLDER
KEEP = contract.KEEP
# The contract's file name with its parts, and with the suffix of zstd, which the contract does not know.
FINAL = re.compile(r"backup-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)-dumpall\.sql\.(gz|zst)")

IMAGE = "postgres:15"
VALUES: dict[str, Any] = {"database": {"image": {"repository": "postgres", "tag": "15"}}}

Manifest = dict[str, list[list[str]]]
"""The fields of every line of a manifest, by the line's key."""


@dataclass(frozen=True)
class Sample:
    """A dump with its manifest."""

    dump: bytes
    manifest: bytes


@dataclass(frozen=True)
class File:
    """What tells that nobody has touched a file: another inode or content is another file."""

    inode: int
    sha256: str


class Hourly:
    """The hourly backup of a stack."""

    def __init__(self, stack: LocalStack, sample: Sample | None) -> None:
        self.stack = stack
        self._sample = sample

    @property
    def volume(self) -> LocalVolume:
        return self.stack.volume(CLAIM)

    def install(self, values: Mapping[str, Any]) -> None:
        """Upgrade the release to the layer's own values with these on top."""
        self.stack.install(merge_values(VALUES, values))

    def start(self, **faults: Any) -> RunningJob:
        """Start the job with `Faults(**faults)`, in a second of its own, for it gives the dump its name."""
        taken = [*self.dumps(), *self.volume.list(f"{FOLDER}/.manifest")]  # a killed run may leave a manifest
        while any(datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") in name for name in taken):
            time.sleep(0.05)
        return self.stack.start(JOB, Faults(**faults))

    def run(self, **faults: Any) -> JobResult:
        with self.start(**faults) as job:
            return job.wait()

    def backup(self, **faults: Any) -> str:
        """Take a backup that must succeed; its file name."""
        before = self.dumps()
        result = self.run(**faults)
        assert result.succeeded, result.log
        [name] = set(self.dumps()) - set(before)
        assert result.verdict["dump"] == name
        return name

    def dumps(self) -> list[str]:
        """The final names in the folder, oldest first."""
        return [name for name in self.volume.list(FOLDER) if FINAL.fullmatch(name)]

    def others(self) -> list[str]:
        """All other files of the folder and of its manifests' folder, but the manifests of dumps."""
        manifests = {f"{name}.tsv" for name in self.dumps()}
        there = [
            name for name in self.volume.list(FOLDER) if not FINAL.fullmatch(name) and name != ".manifest"
        ]
        return there + [name for name in self.volume.list(f"{FOLDER}/.manifest") if name not in manifests]

    def verified(self) -> list[str]:
        """The dumps whose manifest names them with their size, oldest first."""
        return [name for name in self.dumps() if self._is_verified(name)]

    def read(self, name: str) -> bytes:
        return self.volume.read(f"{FOLDER}/{name}")

    def manifest_path(self, name: str) -> str:
        return f"{FOLDER}/.manifest/{name}.tsv"

    def manifest(self, name: str) -> Manifest:
        lines: Manifest = {}
        for line in self.volume.read(self.manifest_path(name)).decode().splitlines():
            key, *values = line.split("\t")
            lines.setdefault(key, []).append(values)
        return lines

    def files(self) -> dict[str, File]:
        """Every dump and manifest, by name."""
        root = self.volume.path / FOLDER
        paths = [
            f"{folder}{name}"
            for folder in ("", ".manifest/")
            for name in self.volume.list(f"{FOLDER}/{folder}")
        ]
        return {
            path: File((root / path).stat().st_ino, hashlib.sha256((root / path).read_bytes()).hexdigest())
            for path in paths
            if (root / path).is_file()
        }

    def plant(
        self, age: timedelta, *, verified: bool = True, dump: bytes | None = None, **manifest: object
    ) -> str:
        """A dump that is `age` old: a copy of the sample (or `dump`), with a manifest if it is `verified`.

        `manifest` gives other values to keys of the manifest.
        """
        assert self._sample is not None
        dump = self._sample.dump if dump is None else dump
        stamp = datetime.now(UTC) - age
        name = f"backup-{stamp:%Y-%m-%dT%H:%M:%SZ}-dumpall.sql.gz"
        self.volume.write(f"{FOLDER}/{name}", dump)
        if verified:
            text = self._sample.manifest.decode()
            for key, value in {"name": name, "bytes": len(dump), **manifest}.items():
                text, count = re.subn(rf"^{key}\t.*$", f"{key}\t{value}", text, flags=re.MULTILINE)
                if not count:
                    text += f"{key}\t{value}\n"
            self.volume.write(self.manifest_path(name), text.encode())
        return name

    def plant_verified(self, count: int) -> list[str]:
        """Verified dumps of the last `count` hours, oldest first."""
        return [self.plant(timedelta(hours=hours)) for hours in range(count, 0, -1)]

    def make_old(self, age: timedelta) -> None:
        """Let all that lies in the folder be untouched for `age`."""
        then = (datetime.now(UTC) - age).timestamp()
        for path in (self.volume.path / FOLDER).rglob("*"):
            os.utime(path, (then, then))

    @contextlib.contextmanager
    def unharmed(self, published: int = 0) -> Iterator[None]:
        """What is in the folder before the block is there unchanged after it, and besides it only `published`
        new dumps, all verified: no other name, unfinished or not."""
        before = self.files()
        dumps = self.dumps()
        yield
        after = self.files()
        assert {name: after.get(name) for name in before} == before
        new = [name for name in self.dumps() if name not in dumps]
        assert len(new) == published, self.volume.list(FOLDER)
        assert set(new) <= set(self.verified())
        assert len(after) == len(before) + 2 * published, sorted(after)

    def _is_verified(self, name: str) -> bool:
        if f"{name}.tsv" not in self.volume.list(f"{FOLDER}/.manifest"):
            return False
        manifest = self.manifest(name)
        return manifest["name"] == [[name]] and manifest["bytes"] == [[str(len(self.read(name)))]]


def assert_failed(result: JobResult, code: int, *words: str) -> None:
    """Red, with the documented exit code, and a verdict whose one sentence holds `words`."""
    assert result.exit_code == code, result.log
    verdict = result.verdict
    assert verdict, f"no verdict in the termination message:\n{result.log}"
    assert (verdict["job"], verdict["exit"], verdict["outcome"]) == (JOB, code, "failed"), verdict
    for word in words:
        assert word.lower() in verdict["message"].lower(), verdict["message"]
    assert "\n" not in verdict["message"]
    assert result.log.splitlines()[-1].startswith("{"), "the verdict is the last line of the log"
