"""The space of the volume that holds a path, as its file system counts it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.formats import Figure


@dataclass(frozen=True)
class Space:
    bytes: int
    free: int
    """Bytes."""
    inodes: int | None
    """Free ones; None where the file system counts none."""


def space(path: Path) -> Space:
    """Raises OSError."""
    there = os.statvfs(path)
    inodes = there.f_favail if there.f_files else None
    return Space(there.f_blocks * there.f_frsize, there.f_bavail * there.f_frsize, inodes)


def capacity(path: Path, fits: Callable[[int], int]) -> dict[str, Figure]:
    """Figures of the volume: its size, what is free, and what `fits` makes of that. None of them where the
    volume, or what `fits` looks at, cannot be read: they decide nothing.
    """
    try:
        there = space(path)
        return {"volume_bytes": there.bytes, "free_bytes": there.free, "fits_bytes": fits(there.free)}
    except OSError:
        return {}
