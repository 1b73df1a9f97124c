"""Ansible, which only the tests of the playbooks need."""

from __future__ import annotations

from pathlib import Path

from stack_backup_lab.bed import environment
from stack_backup_lab.paths import PROJECT

PINS = PROJECT / "scripts" / "awx" / "requirements.lock"


def ensure() -> Path:
    """The folder of `ansible-playbook` at the pinned version, installed where it is not. Raises BedError."""
    return environment.ensure("ansible", PINS, "Ansible", 20)
