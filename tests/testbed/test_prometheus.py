"""Prometheus is unpacked whole, and no server is started by it."""

from __future__ import annotations

import subprocess

from stack_backup_lab.bed import prometheus


def test_both_programs_start() -> None:
    folder = prometheus.ensure()
    for name in ("prometheus", "promtool"):
        done = subprocess.run([folder / name, "--version"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert name in done.stdout
    assert not list(folder.parent.parent.glob("*.deb"))
