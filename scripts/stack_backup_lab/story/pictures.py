"""`python -m stack_backup_lab.story.pictures`: the terminal's pictures in the documents, from real runs.

The story of production's data is told once on a kind cluster; then the command line is run as operators run
it, and what it prints is drawn.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from io import StringIO
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from stack_backup_lab import LabError
from stack_backup_lab.bed import images, kind_cluster, tools
from stack_backup_lab.data import dataset
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime
from stack_backup_lab.story.engine import tell
from stack_backup_lab.story.stacks import CONSUMER_VALUES, DEVELOPER, JOB, NAMESPACE, STAGING, TEST_MACHINE
from stack_backup_lab.story.whole_story import WholeStory

PICTURES = PROJECT / "docs" / "pictures"
WIDTH = 96
IMAGE = "stack-database:15"
LARGEST = 60_000
"""Bytes of a picture: each clone has them all."""

COMMANDS: dict[str, tuple[int, tuple[str, ...]]] = {
    "status": (0, ("status", "--namespace", NAMESPACE)),
    "list": (0, ("list", "--namespace", NAMESPACE)),
    "recover": (0, ("recover", "database", "--namespace", STAGING, "--confirm", STAGING)),
    "stacks": (1, ("status", "--all-namespaces")),
}
"""What is drawn of the stacks after the story, and the exit code: one of the stacks cannot start its run."""
UNSERVED: Mapping[str, Any] = {
    "postgresBackupHourly": {"enabled": True},
    "volumes": {
        "accessModes": ["ReadWriteMany"],
        "databaseBackup": {"accessModes": []},
        "history": {"accessModes": ["ReadWriteOnce"]},  # as it is: a claim cannot be changed
    },
}
"""Laid over the developer's values: a backup whose claim the cluster's class cannot serve."""
WAITING = ("run", JOB, "--namespace", DEVELOPER)


def main() -> int:
    try:
        dataset.provide()
        for name, text in _runs():
            PICTURES.mkdir(exist_ok=True)
            drawn = picture(text)
            if len(drawn) > LARGEST:
                raise LabError(f"The picture {name} has {len(drawn)} bytes; {LARGEST} is the limit.")
            (PICTURES / f"{name}.svg").write_text(drawn, encoding="utf-8")
            print(f"{name}.svg: {len(drawn)} bytes")
    except LabError as error:
        print(f"The pictures could not be made. {error}", file=sys.stderr)
        return 1
    return 0


def _runs() -> Iterator[tuple[str, str]]:
    """The name of each picture, and what the terminal shows."""
    tools.ensure("helm")
    with ExitStack() as open_stacks:
        found = open_stacks.enter_context(kind_cluster.used())
        for one in (IMAGE, images.RCLONE, images.PYTHON):
            found.load(images.archive(one))
        runtime = ClusterRuntime(found, image=images.IMAGES[IMAGE].reference)
        production, staging, developer = (
            open_stacks.enter_context(runtime.stack(name)) for name in (NAMESPACE, STAGING, DEVELOPER)
        )
        folder = Path(open_stacks.enter_context(tempfile.TemporaryDirectory()))
        story = WholeStory(production, staging, developer, folder, molecules=2000, files=200, rounds=1)
        for evidence in tell(story.steps(), print):
            if not evidence.ok:
                raise LabError(f"{evidence.title}: {evidence.seen}")
        developer.install(merge_values(CONSUMER_VALUES, TEST_MACHINE, UNSERVED))
        yield "waiting", _shown(found.kubeconfig, 124, *WAITING, seconds=12)
        for name, (code, words) in COMMANDS.items():
            yield name, _shown(found.kubeconfig, code, *words)


def _shown(kubeconfig: Path, code: int, *words: str, seconds: float | None = None) -> str:
    """The command, and all that it prints on a terminal; cut off after `seconds` as by Ctrl-C (then 124)."""
    command = [sys.executable, "-m", "stack_backup", *words]
    environment = os.environ | {
        "KUBECONFIG": str(kubeconfig),
        "COLUMNS": str(WIDTH),
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
        "TTY_INTERACTIVE": "0",  # no bar that moves
    }
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, timeout=seconds, check=False)
        printed, came = ended.stdout, ended.returncode
    except subprocess.TimeoutExpired as cut:
        printed, came = cut.stdout or b"", 124
    if came != code:
        raise LabError(f"stack-backup {' '.join(words)} ended with {came}: {printed.decode()}")
    return f"$ stack-backup {' '.join(words)}\n{printed.decode()}"


def picture(text: str) -> str:
    """An SVG of a terminal with this text; it names no font from elsewhere."""
    console = Console(record=True, width=WIDTH, file=StringIO(), force_terminal=True, highlight=False)
    console.print(Text.from_ansi(text), soft_wrap=False)
    drawn = console.export_svg(title="stack-backup")
    drawn = re.sub(r"\s*@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    return drawn.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")


if __name__ == "__main__":
    sys.exit(main())
