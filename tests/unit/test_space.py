"""The space of a volume, and the figures that verdicts have of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from stack_backup_jobs import space as spaces
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.job import Job
from stack_backup_jobs.space import Space, capacity, space

NAME = "backup-2022-11-28T08:5{}:08Z-dumpall.sql.gz"


def test_space_is_what_the_file_system_says(tmp_path: Path) -> None:
    there, found = os.statvfs(tmp_path), space(tmp_path)
    assert found.bytes == there.f_blocks * there.f_frsize
    assert abs(found.free - there.f_bavail * there.f_frsize) < 1 << 30
    assert (found.inodes is None) == (there.f_files == 0)


def test_figures_of_a_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "space", lambda _: Space(900, 500, None))
    assert capacity(tmp_path, lambda free: 40 + free) == {
        "volume_bytes": 900,
        "free_bytes": 500,
        "fits_bytes": 540,
    }


def test_a_dump_in_two_folders_takes_its_bytes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spaces, "space", lambda _: Space(900, 500, None))
    for folder in ("hourly", "daily"):
        (tmp_path / folder).mkdir()
    for number in (1, 2):
        (tmp_path / "hourly" / NAME.format(number)).write_bytes(bytes(50))
    (tmp_path / "hourly" / "other").write_bytes(bytes(1000))
    os.link(tmp_path / "hourly" / NAME.format(1), tmp_path / "daily" / NAME.format(1))
    job = Job()
    found = Folder(job, tmp_path / "hourly").capacity(kept=2)
    job.end()
    assert found["fits_bytes"] == (500 + 100) // 3


def test_a_volume_that_cannot_be_read_has_no_figures(tmp_path: Path) -> None:
    """And no other consequence: a run that did its work is not red for them."""

    def fails(_: int) -> int:
        raise OSError(5, "Input/output error")

    assert capacity(tmp_path / "nowhere", lambda free: free) == {}
    assert capacity(tmp_path, fails) == {}
