"""Folders that are one process's own, and are known as left over when that process has ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

FOLDER = "stack-backup-local"
"""Folder of all stacks of this machine, in the directory for temporary files."""


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def own_folder(
    name: str, parent: Path | None = None, remove: Callable[[Path], None] = _remove
) -> tuple[Path, int]:
    """A new folder and its lock (a descriptor); those whose maker has ended are removed on the way."""
    parent = parent or Path(tempfile.gettempdir()) / FOLDER
    parent.mkdir(exist_ok=True)
    with _locked(parent):
        for folder in (path for path in parent.iterdir() if path.is_dir()):
            with contextlib.suppress(BlockingIOError), _locked(folder, wait=False):
                remove(folder)
        made = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=parent))
        made.chmod(0o755)
        lock = os.open(made, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return made, lock


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
