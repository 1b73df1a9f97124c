"""Every safeguard that a test of the jobs takes out is still in its program, once."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_backup_lab.render import CHART

FILES = CHART / "files"
TESTS = Path(__file__).parents[1] / "jobs"


def safeguards() -> Iterator[tuple[str, str, str]]:
    """The module of the tests, the file of the program, and the text of the safeguard."""
    for path in sorted(TESTS.glob("test_*.py")):
        if "MUTANTS" not in path.read_text(encoding="utf-8"):
            continue  # some of the others import what takes a second
        module = importlib.import_module(f"tests.jobs.{path.stem}")
        for one in getattr(module, "MUTANTS", {}).values():
            *file, safeguard, _, _ = one
            yield path.stem, file[0] if file else module.PROGRAM, safeguard


@pytest.mark.parametrize(("test", "file", "safeguard"), list(safeguards()))
def test_a_safeguard_that_is_taken_out_is_there(test: str, file: str, safeguard: str) -> None:
    (program,) = [path for path in (FILES / file, FILES / "stack_backup_jobs" / file) if path.is_file()]
    assert program.read_text(encoding="utf-8").count(safeguard) == 1, test


def test_there_are_many() -> None:
    assert len(list(safeguards())) > 30
