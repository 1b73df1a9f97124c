"""`python -m tests.benchmarks`: what the jobs cost beside what users run without them.

Every round runs each job next to its peer, on the same server and volumes; ratios are medians of all rounds.
Nothing is asserted. A job's seconds are those of its pod, less those of a pod that does nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from statistics import median

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stack_backup_lab.bed import BedError, tools
from stack_backup_lab.data import dataset
from stack_backup_lab.runtime.postgres import LocalServerError
from stack_backup_lab.runtime.sandbox import SandboxError
from tests.benchmarks.database import Database
from tests.benchmarks.measure import MIB, Line, NotMeasuredError
from tests.benchmarks.media_trees import Media

MEMORY = 128 * MIB
AWAY = 2.0
"""Seconds for which the live database may be away."""


def main() -> int:
    options = _options()
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 150
    parts: list[Database | Media] = []
    try:
        dataset.provide()
        tools.ensure("helm")
        with ExitStack() as stacks, console.status("") as status:
            if "database" in options.parts:
                status.update("Filling the database")
                parts.append(Database(stacks, options.megabytes, options.replica_megabytes))
            if "media" in options.parts:
                status.update("Writing the media")
                parts.append(Media(stacks, options.files))
            for number in range(1, options.rounds + 1):
                for part in parts:
                    status.update(f"Round {number}: {type(part).__name__.lower()}")
                    part.round()
    except (BedError, NotMeasuredError, SandboxError, LocalServerError) as failure:
        console.print(f"[bold red]Nothing was measured.[/] {escape(str(failure))}")
        return 1
    _show(console, parts, options.rounds)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    for name, value, text in (
        ("--megabytes", 2000, "of SQL in the database"),
        ("--replica-megabytes", 3072, "of the dump that is replicated"),
        ("--files", 135_000, "of the media"),
        ("--rounds", 3, "of every measurement"),
    ):
        parser.add_argument(name, type=int, default=value, help=f"{text} (default: %(default)s)")
    parser.add_argument("--parts", nargs="+", default=["database", "media"], choices=["database", "media"])
    return parser.parse_args()


def _show(console: Console, parts: list[Database | Media], rounds: int) -> None:
    table = Table(title=f"{os.cpu_count()} cores, medians of {rounds} rounds", title_justify="left")
    for heading in ("Work", "Seconds", "Beside", "Seconds", "Ratio", "At most", "", "Memory"):
        left = heading in ("Work", "Beside", "")
        table.add_column(heading, justify="left" if left else "right", no_wrap=True)
    for line in (line for part in parts for line in part.lines):
        table.add_row(*_cells(line))
    console.print(table)
    starts = [seconds for part in parts for seconds in part.starts]
    console.print(f"A pod that does nothing takes {min(starts):.1f} s, which is no part of the above")
    for part in parts:
        if isinstance(part, Database):
            away = median(part.away)
            console.print(f"{part.bytes / MIB:,.0f} MiB of SQL")
            console.print(f"{_met(away <= AWAY)} live database away {away:.1f} s (at most {AWAY:.0f})")
    memory = max(line.memory for part in parts for line in part.lines)
    console.print(f"{_met(memory <= MEMORY)} peak memory {memory / MIB:.0f} MiB (at most {MEMORY // MIB})")


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.title,
        f"{median(line.ours):.1f}",
        line.peer,
        f"{median(line.theirs):.1f}",
        f"{line.ratio:.2f} x",
        f"{line.at_most:.2f} x",
        _met(line.ratio <= line.at_most),
        f"{line.memory / MIB:.0f} MiB",
    )


def _met(met: bool) -> str:
    return "[green]met[/]" if met else "[yellow]not met[/]"


if __name__ == "__main__":
    sys.exit(main())
