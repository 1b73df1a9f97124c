"""Ansible with its collections, in an environment of its own: half a gigabyte that only its tests need."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from stack_backup_lab.bed import progress, system
from stack_backup_lab.bed.commands import lock, run
from stack_backup_lab.paths import CACHE, LOGS, PROJECT

PINS = PROJECT / "scripts" / "awx" / "requirements.lock"


def ensure() -> Path:
    """The folder of `ansible-playbook` at the pinned version, installed where it is not. Raises BedError."""
    digest = hashlib.sha256(PINS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    # Its scripts name their own folder: so it is made in its place, and the mark says that it is whole.
    home = CACHE / f"ansible-{digest}"
    whole = home / ".installed"
    with lock("ansible"):
        if not whole.exists():
            system.remove(home)
            with progress.step("ansible", "Installing Ansible and its collections (500 MB)", 90):
                run([sys.executable, "-m", "venv", home])
                pip: list[str | Path] = [home / "bin" / "python", "-m", "pip", "install", "--quiet"]
                # Compiling thousands of modules would take longer than all else, and few of them are used.
                run([*pip, "--no-compile", "--require-hashes", "-r", PINS], log=LOGS / "ansible.log")
            whole.touch()
    return home / "bin"
