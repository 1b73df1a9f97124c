"""Where the lab keeps things."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
"""The project's own folder (a clone of the repository)."""

BIN = PROJECT / ".cache" / "bin"
"""Tools in use by this clone, ignored by git."""

CACHE = Path(os.environ.get("STACK_BACKUP_CACHE") or Path.home() / ".cache" / "stack-backup").absolute()
"""Shared by all clones on this machine and kept by `clean`: built tools, package files, root file systems."""

LOGS = CACHE / "logs"
"""One file per long command, with all that it printed."""
