"""A folder of dumps on a volume as a test sees it: names, manifests, what must hold in any case."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stack_backup_jobs import formats
from stack_backup_jobs.formats import MANIFESTS, dump_name, manifest_name, stamp
from stack_backup_lab.runtime.local import LocalVolume

FINAL = formats.NAME
"""The contract's file name with its parts, and with the suffix of zstd, which the contract does not know."""

BEGUN = ".tmp.run."
"""What a run that failed leaves so that the Job's next pod knows when the Job began. It is no dump's."""

PODS_USER = 999
"""User and group of the chart's pods."""

Manifest = dict[str, list[list[str]]]
"""The fields of every line of a manifest, by the line's key."""


def await_a_free_second(taken: Iterable[str]) -> None:
    """Runs name what they make by the second; `taken`: names of what there is."""
    names = list(taken)
    while any(stamp() in name for name in names):
        time.sleep(0.05)


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


class DumpFolder:
    """One folder of dumps. `sample` is what is planted there; without one nothing can be."""

    def __init__(self, volume: LocalVolume, folder: str, sample: Sample | None) -> None:
        self.volume = volume
        self.folder = folder
        self.sample = sample

    def dumps(self) -> list[str]:
        """The final names in the folder, oldest first."""
        return [name for name in self.volume.list(self.folder) if FINAL.fullmatch(name)]

    def others(self) -> list[str]:
        """All other files of the folder and of its manifests' folder, but the manifests of dumps."""
        manifests = {manifest_name(name) for name in self.dumps()}
        there = [
            name
            for name in self.volume.list(self.folder)
            if not FINAL.fullmatch(name) and name != MANIFESTS and not name.startswith(BEGUN)
        ]
        return there + [
            name for name in self.volume.list(f"{self.folder}/{MANIFESTS}") if name not in manifests
        ]

    def verified(self) -> list[str]:
        """The dumps whose manifest names them with their size, oldest first."""
        return [name for name in self.dumps() if self._is_verified(name)]

    def read(self, name: str) -> bytes:
        return self.volume.read(f"{self.folder}/{name}")

    def manifest_path(self, name: str) -> str:
        return f"{self.folder}/{MANIFESTS}/{manifest_name(name)}"

    def rows(self, name: str) -> int:
        """Of all tables, as the manifest has them."""
        return sum(int(rows) for _, _, rows in self.manifest(name)["table"])

    def manifest(self, name: str) -> Manifest:
        text = self.volume.read(self.manifest_path(name)).decode("utf-8", "surrogateescape")
        found = formats.Manifest.parse(text)
        assert found.format() == text
        for key, *values in found.records:
            assert len(formats.RECORDS[key]) == len(values), (key, values)
        return {key: [list(values) for values in found.all(key)] for key, *_ in found.records}

    def files(self) -> dict[str, File]:
        """Every dump and manifest, by name."""
        root = self.volume.path / self.folder
        paths = [
            f"{folder}{name}"
            for folder in ("", f"{MANIFESTS}/")
            for name in self.volume.list(f"{self.folder}/{folder}")
        ]
        return {
            path: File((root / path).stat().st_ino, hashlib.sha256((root / path).read_bytes()).hexdigest())
            for path in paths
            if (root / path).is_file() and not path.startswith(BEGUN)
        }

    def plant(
        self, age: timedelta, *, verified: bool = True, dump: bytes | None = None, **manifest: object
    ) -> str:
        """A dump that is `age` old: a copy of the sample (or `dump`), with a manifest if it is `verified`.

        `manifest` gives other values to keys of the manifest.
        """
        return self.plant_at(datetime.now(UTC) - age, verified=verified, dump=dump, **manifest)

    def plant_at(
        self, moment: datetime, *, verified: bool = True, dump: bytes | None = None, **manifest: object
    ) -> str:
        """The same with the time `moment` in its name."""
        assert self.sample is not None
        dump = self.sample.dump if dump is None else dump
        name = dump_name(stamp(moment.timestamp()), "gz")
        self._write(f"{self.folder}/{name}", dump)
        if verified:
            text = self.sample.manifest.decode()
            for key, value in {"name": name, "bytes": len(dump), **manifest}.items():
                text, count = re.subn(rf"^{key}\t.*$", f"{key}\t{value}", text, flags=re.MULTILINE)
                if not count:
                    text += f"{key}\t{value}\n"
            self._write(self.manifest_path(name), text.encode())
        return name

    def damage(self, name: str, at: int = 1000) -> None:
        """Change one byte of a dump in place: name, size and manifest stay what they were."""
        with (self.volume.path / self.folder / name).open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))

    def plant_verified(self, count: int) -> list[str]:
        """Verified dumps of the last `count` hours, oldest first."""
        return [self.plant(timedelta(hours=hours)) for hours in range(count, 0, -1)]

    def make_old(self, age: timedelta) -> None:
        """Let all that lies in the folder be untouched for `age`."""
        then = (datetime.now(UTC) - age).timestamp()
        for path in (self.volume.path / self.folder).rglob("*"):
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
        assert len(new) == published, self.volume.list(self.folder)
        assert set(new) <= set(self.verified())
        assert len(after) == len(before) + 2 * published, sorted(after)

    def _write(self, path: str, data: bytes) -> None:
        """A file as a job leaves it: nobody may link what is another's."""
        self.volume.write(path, data)
        os.chown(self.volume.path / path, PODS_USER, PODS_USER)
        (self.volume.path / path).chmod(0o640)

    def _is_verified(self, name: str) -> bool:
        if manifest_name(name) not in self.volume.list(f"{self.folder}/{MANIFESTS}"):
            return False
        text = self.volume.read(self.manifest_path(name)).decode("utf-8", "surrogateescape")
        return formats.Manifest.parse(text).agrees(name, len(self.read(name)))
