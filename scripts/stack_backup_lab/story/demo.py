"""`python -m stack_backup_lab.story`: production's data, from a backup to every stack recovered from it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stack_backup_jobs.formats import time_of
from stack_backup_lab import LabError
from stack_backup_lab.bed import images, kind_cluster, tools
from stack_backup_lab.data import dataset
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.runtime import Stack
from stack_backup_lab.runtime.cluster import ClusterRuntime
from stack_backup_lab.runtime.local import LocalRuntime
from stack_backup_lab.story.engine import Evidence, megabytes, tell
from stack_backup_lab.story.stacks import DEVELOPER, NAMESPACE, STAGING
from stack_backup_lab.story.whole_story import Round, WholeStory

KEPT = PROJECT / "build" / "demo"
DEVELOPMENT = f"{kind_cluster.NAME}-development"
"""The second cluster: where the developers' stacks are."""

Stacks = tuple[Stack, Stack, Stack]
"""Production's, staging's and a developer's."""


def main() -> int:
    options = _options()
    console = Console(highlight=False)
    started = monotonic()
    try:
        dataset.provide()
        with _folder(options.keep) as folder, (on_clusters if options.cluster else locally)() as stacks:
            where = "two kind clusters" if options.cluster else "this machine"
            console.print(f"Ready after {monotonic() - started:.1f} s: three stacks on {where}")
            story = WholeStory(
                *stacks,
                folder,
                molecules=options.molecules,
                files=options.media_files,
            )
            evidence = list(_live(console, story))
    except LabError as error:
        console.print(f"[bold red]The demo could not be set up.[/] {escape(str(error))}")
        return 1
    if story.rounds:
        console.print(_table(story.rounds))
    if not evidence[-1].ok:
        console.print(f"[bold red]Failed: {escape(evidence[-1].title)}.[/] {escape(evidence[-1].seen)}")
        return 1
    if options.keep:
        console.print(f"The files lie in {os.path.relpath(KEPT)}")
    recoveries = [recovery for one in story.rounds for recovery in one.databases]
    trees = sum(len(one.media_differences) for one in story.rounds)
    console.print(
        f"[bold green]{len(recoveries)} databases and {trees} media trees recovered and compared[/]: "
        f"{sum(one.rows for one in recoveries):,} rows, 0 differences, {monotonic() - started:.0f} s in all"
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack_backup_lab.story", description=__doc__)
    parser.add_argument(
        "--cluster", action="store_true", help="on two kind clusters, the first run by its schedule"
    )
    parser.add_argument("--keep", action="store_true", help=f"leave the files in {KEPT.relative_to(PROJECT)}")
    parser.add_argument("--molecules", type=int, default=5000, help="how many to load (default: %(default)s)")
    parser.add_argument(
        "--media-files", type=int, default=500, help="how many small files (default: %(default)s)"
    )
    return parser.parse_args()


@contextmanager
def locally() -> Iterator[Stacks]:
    """Three stacks on this machine, with folders in the place of the exports."""
    tools.ensure_any_helm()
    runtime = LocalRuntime()
    with ExitStack() as open_stacks:
        production, staging, developer = (
            open_stacks.enter_context(runtime.stack(name)) for name in (NAMESPACE, STAGING, DEVELOPER)
        )
        yield production, staging, developer


@contextmanager
def on_clusters() -> Iterator[Stacks]:
    """Production and staging on one cluster, the developer's stack on another; those made here go again."""
    tools.ensure("helm")
    image = "stack-database:15"
    with ExitStack() as open_stacks:
        runtimes = []
        for name in (kind_cluster.NAME, DEVELOPMENT):
            found = open_stacks.enter_context(kind_cluster.used(name))
            for one in (image, images.RCLONE, images.PYTHON):
                found.load(images.archive(one))
            runtimes.append(ClusterRuntime(found, image=images.IMAGES[image].reference))
        here, there = runtimes
        production, staging = (open_stacks.enter_context(here.stack(name)) for name in (NAMESPACE, STAGING))
        yield production, staging, open_stacks.enter_context(there.stack(DEVELOPER))


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    if keep:
        KEPT.mkdir(parents=True, exist_ok=True)
        yield KEPT
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def _live(console: Console, story: WholeStory) -> Iterator[Evidence]:
    """Each step as it ends; where there is a terminal, also the one that is under way."""
    with console.status("") as status:
        for evidence in tell(story.steps(), lambda title: status.update(escape(title))):
            mark = "[green]ok[/]    " if evidence.ok else "[bold red]FAILED[/]"
            console.print(f"{mark} {evidence.seconds:5.1f} s  [bold]{escape(evidence.title)}[/]")
            if evidence.ok:
                console.print(Padding(Text(evidence.seen, style="dim"), (0, 0, 0, 17), expand=False))
            yield evidence


def _table(rounds: list[Round]) -> Table:
    table = Table(title="What was lost, and what came back", title_justify="left", title_style="bold")
    table.add_column("")
    for number in range(1, len(rounds) + 1):
        table.add_column(f"Round {number}", justify="right", overflow="fold")
    for name, show in _ROWS.items():
        table.add_row(name, *(show(one) for one in rounds))
    for number, title in enumerate(
        (f"Database of {STAGING}", f"Database of {DEVELOPER}", "Database dropped")
    ):
        table.add_row(title, *(_database(one, number) for one in rounds))
    for stack in (STAGING, DEVELOPER):
        table.add_row(f"Media of {stack}", *(_media(one, stack) for one in rounds))
    return table


def _database(one: Round, number: int) -> str:
    if number >= len(one.databases):
        return "-"
    found = one.databases[number]
    return f"{found.rows:,} rows, {found.differences} differ, {found.later_rows} later"


def _media(one: Round, stack: str) -> str:
    if stack not in one.media_differences:
        return "-"
    return f"{one.media_differences[stack]} differ, {one.later_files[stack]} later"


_ROWS: dict[str, Callable[[Round], str]] = {
    "Dump of": lambda one: time_of(one.dump),
    "Size, rows": lambda one: (
        f"{megabytes(one.backup.verdict['bytes'])}, {one.backup.verdict['rows']:,} rows"
    ),
    "Media mirrored": lambda one: f"{one.media_files:,} files, {megabytes(one.media_bytes)}",
    "Drill": lambda one: f"{one.drill.verdict['outcome']}, {one.drill.seconds:.1f} s" if one.drill else "-",
    "One byte altered": lambda one: f"alarm, exit code {one.alarm.exit_code}" if one.alarm else "-",
}


if __name__ == "__main__":
    sys.exit(main())
