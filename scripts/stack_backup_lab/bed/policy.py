"""checkov and zizmor, which judge what Helm renders and what the workflows do."""

from __future__ import annotations

from pathlib import Path

from stack_backup_lab.bed import environment
from stack_backup_lab.paths import PROJECT

PINS = PROJECT / "tests" / "policy" / "requirements.lock"


def ensure() -> Path:
    """The folder of `checkov` and `zizmor` at their pins, installed where it is not. Raises BedError."""
    return environment.ensure("policy", PINS, "checkov and zizmor (250 MB)", 60)
