"""The comparison of two trees: it must see what a copier may get wrong."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stack_backup_lab.data import media_files


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    folder = tmp_path / "tree"
    folder.mkdir()
    media_files.fill(folder, files=5, owner=None)
    return folder


def flip(path: Path) -> None:
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a byte": ("sizes/sparse", flip),
    "a time": ("names/case", lambda path: os.utime(path, (media_files.EPOCH, media_files.EPOCH))),
    "a file less": ("names/case", Path.unlink),
    "one of two Unicode forms": (os.fsdecode(b"names/twin-e\xcc\x81"), Path.unlink),
    "one of two names that are no text": (os.fsdecode(b"names/no-utf-8-twin-\xff"), Path.unlink),
    "an empty folder less": ("links/empty", Path.rmdir),
    "a link to elsewhere": ("links/dangling", lambda path: relink(path, "elsewhere/at/all")),
    "a link less": ("links/relative", Path.unlink),
    "a file of ours that is not at the root": ("names/.stack-backup", Path.touch),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_difference_is_seen(tree: Path, tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(tree, tmp_path / "copy", symlinks=True)
    assert media_files.differences(media_files.snapshot(tree), media_files.snapshot(copy)) == []
    path, change = CHANGES[name]
    change(copy / path)
    [difference] = media_files.differences(media_files.snapshot(tree), media_files.snapshot(copy))
    assert difference.startswith(f"{path!r}: ")


def test_a_tree_goes_into_a_pod_and_comes_back(tree: Path, tmp_path: Path) -> None:
    pod = tmp_path / "pod"
    pod.mkdir()
    subprocess.run(["tar", "-C", pod, "-xpf", "-"], input=media_files.pack(tree), check=True)
    assert media_files.differences(media_files.snapshot(tree), media_files.snapshot(pod)) == []
    (pod / ".stack-backup").mkdir()
    archive = subprocess.run(["tar", "-C", pod, "-cf", "-", "."], capture_output=True, check=True).stdout
    assert (
        media_files.differences(media_files.snapshot(tree), media_files.snapshot_of(io.BytesIO(archive)))
        == []
    )


def test_the_same_seed_makes_the_same_tree(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    media_files.fill(other, files=5, owner=None)
    assert media_files.differences(media_files.snapshot(tree), media_files.snapshot(other)) == []
