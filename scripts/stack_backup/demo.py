"""`python -m stack_backup.demo`: the hourly backup, from values to a restored and compared database."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from stack_backup import dataset
from stack_backup.runtime import Runtime
from stack_backup.runtime.cluster import ClusterRuntime
from stack_backup.runtime.kube import KubeError
from stack_backup.runtime.local import LocalRuntime
from stack_backup.runtime.postgres import ServerError
from stack_backup.runtime.sandbox import SandboxError
from stack_backup.scenario import NAMESPACE, Evidence, HourlyBackup, Round, megabytes, tell
from stack_backup.testbed import Failure, cluster, images, tools
from stack_backup.testbed.paths import PROJECT

KEPT = PROJECT / "build" / "demo"


def main() -> int:
    options = _options()
    console = Console(highlight=False)
    started = monotonic()
    try:
        dataset.provide()
        runtime = _cluster() if options.cluster else _local()
        with _folder(options.keep) as folder, runtime.stack(NAMESPACE) as stack:
            ready = f"Ready after {monotonic() - started:.1f} s"
            console.print(f"{ready}: the {runtime.name} runtime, namespace {NAMESPACE}")
            story = HourlyBackup(stack, folder, molecules=options.molecules, scheduled=options.cluster)
            evidence = list(_live(console, story))
    except (Failure, SandboxError, ServerError, KubeError) as failure:
        console.print(f"[bold red]The demo could not be set up.[/] {escape(str(failure))}")
        return 1
    if story.rounds:
        console.print(_table(story.rounds))
    if not evidence[-1].ok:
        console.print(f"[bold red]Failed: {escape(evidence[-1].title)}.[/] {escape(evidence[-1].seen)}")
        return 1
    if options.keep:
        console.print(f"The dumps lie in {os.path.relpath(KEPT)}")
    compared = sum(one.rows_compared or 0 for one in story.rounds)
    console.print(
        f"[bold green]{len(story.rounds)} backups taken, restored and compared[/]: {compared:,} rows, "
        f"0 differences, {monotonic() - started:.0f} s in all"
    )
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m stack_backup.demo", description=__doc__)
    parser.add_argument(
        "--cluster", action="store_true", help="on a kind cluster, the first run by its schedule"
    )
    parser.add_argument("--keep", action="store_true", help=f"leave the dumps in {KEPT.relative_to(PROJECT)}")
    parser.add_argument("--molecules", type=int, default=5000, help="how many to load (default: %(default)s)")
    return parser.parse_args()


def _local() -> Runtime:
    tools.ensure("helm")
    return LocalRuntime()


def _cluster() -> Runtime:
    tools.ensure("helm")
    up = cluster.ensure()
    image = "stack-database:15"
    up.load(images.archive(image))
    return ClusterRuntime(up, image=images.IMAGES[image].reference)


@contextmanager
def _folder(keep: bool) -> Iterator[Path]:
    if keep:
        KEPT.mkdir(parents=True, exist_ok=True)
    with nullcontext(KEPT) if keep else tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def _live(console: Console, story: HourlyBackup) -> Iterator[Evidence]:
    """Each step as it ends; where there is a terminal, also the one that is under way."""
    with console.status("") as status:
        for evidence in tell(story.steps(), lambda title: status.update(escape(title))):
            mark = "[green]ok[/]    " if evidence.ok else "[bold red]FAILED[/]"
            console.print(f"{mark} {evidence.seconds:5.1f} s  [bold]{escape(evidence.title)}[/]")
            if evidence.ok:
                console.print(Padding(Text(evidence.seen, style="dim"), (0, 0, 0, 17), expand=False))
            yield evidence


def _table(rounds: list[Round]) -> Table:
    table = Table(title="What was backed up, and what came back", title_justify="left", title_style="bold")
    table.add_column("")
    for number in range(1, len(rounds) + 1):
        table.add_column(f"Backup {number}", justify="right", overflow="fold")
    for name, show in _ROWS.items():
        table.add_row(name, *(show(one) for one in rounds))
    return table


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} s"


_ROWS: dict[str, Callable[[Round], str]] = {
    "Dump of": lambda one: one.dump.removeprefix("backup-").partition("-dumpall")[0],
    "Size": lambda one: megabytes(one.job.verdict["bytes"]),
    "Databases": lambda one: ", ".join(sorted(name for (name,) in one.manifest.get("database", []))),
    "Tables": lambda one: _number(one.job.verdict["tables"]),
    "Rows": lambda one: _number(one.job.verdict["rows"]),
    "Exit code": lambda one: str(one.job.exit_code),
    "Time of the job": lambda one: _seconds(one.job.seconds),
    "Verified dumps so far": lambda one: _number(one.job.verdict["verified"]),
    "Time of the restore": lambda one: _seconds(one.restore_seconds),
    "Rows compared": lambda one: _number(one.rows_compared),
    "Properties compared": lambda one: _number(one.properties_compared),
    "Differences": lambda one: _number(one.differences),
    "Rows written afterwards": lambda one: _number(one.rows_written_afterwards),
    "... of those restored": lambda one: _number(one.rows_restored_of_those),
}


if __name__ == "__main__":
    sys.exit(main())
