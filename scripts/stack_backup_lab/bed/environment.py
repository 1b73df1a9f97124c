"""Environments of Python programs that only a few tests need, each made from a lock of its own."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from stack_backup_lab.bed import progress, system
from stack_backup_lab.bed.commands import lock, run
from stack_backup_lab.paths import CACHE, LOGS


def ensure(name: str, pins: Path, what: str, seconds: float) -> Path:
    """The folder of the commands that `pins` installs; it is made where it is not there. Raises BedError.

    `what` is installed in about `seconds`, for who waits.
    """
    digest = hashlib.sha256(pins.read_bytes() + sys.version.encode()).hexdigest()[:12]
    # Its scripts name their own folder: so it is made in its place, and the mark says that it is whole.
    home = CACHE / f"{name}-{digest}"
    whole = home / ".installed"
    with lock(name):
        if not whole.exists():
            system.remove(home)
            with progress.step(name, f"Installing {what}", seconds):
                run([sys.executable, "-m", "venv", home])
                pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet"]
                # Compiling thousands of modules would take longer than all else, and few of them are used.
                run([*pip, "--no-compile", "--require-hashes", "-r", pins], log=LOGS / f"{name}.log")
            whole.touch()
    return home / "bin"
