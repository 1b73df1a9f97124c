"""The package stays what it is meant to be: small, of the standard library alone, and readable."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import pytest

from stack_backup_jobs import run
from stack_backup_lab.render import CHART

FILES = CHART / "files"
PACKAGE = FILES / "stack_backup_jobs"
MODULES = sorted(PACKAGE.glob("*.py"))


def _tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def test_nothing_but_python_and_a_short_start_lies_in_the_pods() -> None:
    found = {path.relative_to(FILES) for path in FILES.rglob("*") if path.is_file()}
    others = {str(path) for path in found if path.suffix not in (".py", ".pyc", ".sql")}
    assert others == {"start.sh"}
    start = (FILES / "start.sh").read_text(encoding="utf-8").splitlines()
    assert start[0] == "#!/bin/sh"
    assert len(start) <= 20


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_a_module_needs_the_standard_library_alone(module: Path) -> None:
    for node in ast.walk(_tree(module)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.partition(".")[0]
            assert top in sys.stdlib_module_names or top == "stack_backup_jobs", name


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_no_function_is_longer_than_60_lines(module: Path) -> None:
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{module.name}: {node.name}"


SILENT = {
    "exists",
    "is_dir",
    "is_file",
    "is_symlink",
    "is_mount",
    "isdir",
    "isfile",
    "islink",
    "ismount",
    "lexists",
}
"""Questions of `pathlib` and `os.path`: what cannot be read answers no, from Python 3.14 on all of it."""


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_what_cannot_be_read_is_never_taken_for_absent(module: Path) -> None:
    """`errors.status` tells; what os.scandir gives has `follow_symlinks`, and raises."""
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SILENT:
            named = {keyword.arg for keyword in node.keywords}
            assert "follow_symlinks" in named, f"{module.name}, line {node.lineno}: {node.func.attr}"


@pytest.mark.parametrize("name", run.JOBS.values())
def test_a_job_s_module_is_a_program(name: str) -> None:
    module = importlib.import_module(f"stack_backup_jobs.{name}")
    assert callable(module.program)
    assert module.__doc__
