"""Programs with one safeguard taken out: the tests must see it. What they cannot see is not tested.

These are what only a real job can tell; a tool does it to the pure parts (tests/mutants).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from stack_backup_lab.render import CHART


def mutant(folder: Path, file: str, safeguard: str, instead: str) -> Path:
    """A copy of the chart in `folder` in whose program `file` the only `safeguard` is `instead`."""
    chart = shutil.copytree(CHART, folder / "chart")
    program = chart / "files" / file
    text = program.read_text()
    assert text.count(safeguard) == 1, f"{file} has no such safeguard any more: {safeguard!r}"
    program.write_text(text.replace(safeguard, instead))
    return chart
