"""`python -m tests.coverage [LAYER …]`: which lines of the product each layer of tests runs.

`unit` and `cli` are measured by coverage.py, in the tests' own processes and those that they start from them.
A pod of `jobs` writes its lines itself (`record` of `runtime/python_faults.py`): it has an interpreter, a
user and a file system of its own, and may be killed. What runs on a cluster is not measured.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coverage import Coverage
from stack_backup_lab.paths import PROJECT

FOLDER = PROJECT / "build" / "coverage"
FILES = PROJECT / "charts" / "stack-backup" / "files"
PACKAGES = (FILES / "stack_backup_jobs", PROJECT / "scripts" / "stack_backup")
LAYERS = ("unit", "cli", "jobs")
LINES = "lines"
IN_PODS = "/programs/"

Lines = dict[Path, set[int]]


def measured(layer: str, arguments: list[str]) -> Lines:
    """The lines that a layer runs."""
    folder = FOLDER / layer
    shutil.rmtree(folder, ignore_errors=True)
    (folder / LINES).mkdir(parents=True)
    settings = folder / "coveragerc"
    settings.write_text(
        f"[run]\nparallel = true\ndata_file = {folder}/data\npatch = subprocess, _exit\n"
        f"source = {', '.join(map(str, PACKAGES))}\ndisable_warnings = no-data-collected\n"
    )
    pytest = ["pytest", "--numprocesses", "auto", "--dist", "loadfile", f"tests/{layer}", *arguments]
    if layer == "jobs":
        environment = {**os.environ, "STACK_BACKUP_LINES": str(folder / LINES)}
        subprocess.run([sys.executable, "-m", *pytest], cwd=PROJECT, env=environment, check=False)
        return _lines_of_pods(folder / LINES)
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "run", "--rcfile", settings, "-m", *pytest], cwd=PROJECT, check=False)
    found = Coverage(config_file=str(settings))
    found.combine()
    data = found.get_data()
    return {Path(file): set(data.lines(file) or ()) for file in data.measured_files()}


def _lines_of_pods(folder: Path) -> Lines:
    found: defaultdict[Path, set[int]] = defaultdict(set)
    for file in folder.iterdir():
        for line in set(file.read_text().splitlines()):
            path, _, number = line.rpartition(":")
            found[FILES / path.removeprefix(IN_PODS)].add(int(number))
    return dict(found)


def _modules() -> list[Path]:
    return [path for package in PACKAGES for path in sorted(package.glob("*.py"))]


def _run(path: Path, lines: set[int]) -> tuple[set[int], set[int]]:
    """The statements of a module, and those that are run where `lines` are: one may have several."""
    judge = Coverage(data_file=None, config_file=False)
    judge.get_data().add_lines({str(path): lines})
    _, statements, missing, _ = judge.analysis(str(path))
    return set(statements), set(statements) - set(missing)


def table(layers: dict[str, Lines]) -> Table:
    shown = Table(title="Lines of the product that the tests run", title_justify="left")
    shown.add_column("")
    for name in ("lines", *layers, "any"):
        shown.add_column(name, justify="right")
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for path in _modules():
        run = {name: _run(path, lines.get(path, set()))[1] for name, lines in layers.items()}
        run["any"] = set().union(*run.values())
        if statements := _run(path, set())[0]:
            counts = Counter({"lines": len(statements)} | {name: len(them) for name, them in run.items()})
            sums[path.parent.name] += counts
            _add_row(shown, f"{path.parent.name}.{path.stem}", counts)
    shown.add_section()
    for package, total in sums.items():
        _add_row(shown, package, total)
    return shown


def _add_row(shown: Table, name: str, counts: Counter[str]) -> None:
    lines = counts["lines"]
    layers = [str(column.header) for column in shown.columns[2:]]
    shares = [f"{100 * counts[layer] / lines:.0f} %" for layer in layers]
    shown.add_row(name, str(lines), *shares)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.coverage", description=__doc__)
    parser.add_argument("layers", nargs="*", choices=[*LAYERS, []], help="some of them only")
    parser.add_argument(
        "--only", default="", metavar="EXPRESSION", help="pytest's -k: some of the tests only"
    )
    options = parser.parse_args()
    arguments = ["-k", options.only] if options.only else []
    layers = {name: measured(name, arguments) for name in options.layers or LAYERS}
    Console(width=100).print(table(layers))


if __name__ == "__main__":
    main()
