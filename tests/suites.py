"""`python -m tests.suites NAME=COMMAND …`: every suite runs, whatever became of those before it.

The end says which failed, how long each took, and what pytest counted; it is red if one of them was.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from stack_backup_lab.bed import progress

SUMMARY = "STACK_BACKUP_SUMMARY"
"""Variable that names a file, into which a run of pytest writes what it counted (`tests/conftest.py`)."""
INTERRUPTED = 130


@dataclass(frozen=True)
class Suite:
    """One that has run. `counted` is pytest's own summary, empty where the command is not pytest."""

    name: str
    status: int
    seconds: float
    counted: str

    @property
    def row(self) -> str:
        how = "passed" if self.status == 0 else "FAILED"
        return f"{self.name:<12} {how}  {progress.human(self.seconds):>12}  {self.counted}".rstrip()


def run(name: str, command: str, folder: Path) -> Suite:
    print(f"\n==== {name}: {command}", flush=True)
    summary = folder / name
    started = time.monotonic()
    environment = {**os.environ, SUMMARY: str(summary)}
    status = subprocess.run(["bash", "-c", command], env=environment, check=False).returncode
    counted = summary.read_text() if summary.exists() else ""
    return Suite(name, status, time.monotonic() - started, counted)


def total(suites: list[Suite]) -> str:
    """What pytest counted in all of them, as it says it of one."""
    counts: Counter[str] = Counter()
    for suite in suites:
        for number, what in re.findall(r"(\d+) (\w+)", suite.counted):
            counts["errors" if what == "error" else what] += int(number)
    counts["failed"] += 0
    counts["passed"] += 0
    words = ", ".join(f"{counts.pop(what)} {what}" for what in ("failed", "passed"))
    return ", ".join([words, *(f"{number} {what}" for what, number in counts.items())])


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    suites: list[Suite] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for argument in arguments:
                name, _, command = argument.partition("=")
                suites.append(run(name, command, Path(folder)))
        except KeyboardInterrupt:
            print("\nInterrupted: what had not ended is not in the list.")
    print("\n==== All suites")
    for suite in suites:
        print(suite.row)
    print(f"==== {total(suites)} in {time.monotonic() - started:.2f}s ====", flush=True)
    if len(suites) < len(arguments):
        return INTERRUPTED
    return int(any(suite.status for suite in suites))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
