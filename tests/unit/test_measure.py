"""How much a tree holds, and whether it can be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stack_backup_jobs.measure import measure, unreadable


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for folder in range(40):
        (tmp_path / f"a/{folder}/inner").mkdir(parents=True)
        for number in range(folder):
            (tmp_path / f"a/{folder}/inner/{number}").write_bytes(b"x" * number)
    (tmp_path / "link").symlink_to("a/target")
    (tmp_path / "a/39/inner/link").symlink_to("other")
    os.mkfifo(tmp_path / "a/pipe")
    (tmp_path / "a/name.0123abcd.stack.partial").write_bytes(b"half")
    for name in (".stack-backup/state", "a/lost+found/x", "a/.nfs01", os.fsdecode(b"bad \xff\nname")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    return tmp_path


def test_a_tree_is_counted(tree: Path) -> None:
    found = measure(tree, ["lost+found", ".nfs*"])
    files = sum(range(40)) + 1
    size = sum(number for folder in range(40) for number in range(folder)) + 1
    assert (found.kinds["f"], found.sizes["f"]) == (files, size)
    assert (found.kinds["l"], found.sizes["l"]) == (2, len("a/targetother"))
    assert (found.kinds["s"], found.kinds["p"]) == (1, 1)
    assert measure(tree).kinds["f"] == files + 2


def test_a_tree_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "none")


def test_what_cannot_be_opened(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert unreadable(tree) is None
    real = os.open

    def opened(path: bytes, flags: int) -> int:
        if path.endswith(b"/a/7/inner/3"):
            raise PermissionError(13, "Permission denied", path)
        if path.endswith(b"/a/8/inner/3"):
            raise FileNotFoundError(2, "No such file", path)
        return real(path, flags)

    monkeypatch.setattr("os.open", opened)
    error = unreadable(tree)
    assert isinstance(error, PermissionError)
    assert error.filename == os.fsencode(tree / "a/7/inner/3")
