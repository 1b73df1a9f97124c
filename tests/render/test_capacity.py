"""What docs/capacity.md computes from values is what the chart asks for: no byte more, and none less."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import pytest

from stack_backup_lab import capacity
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import RenderError, merge_values, render

PRODUCTION = capacity.computed(PROJECT / "values" / "production.yaml")
ROWS = [row.value for row in capacity.rows(PRODUCTION)]


def sized(value: str, size: int) -> dict[str, Any]:
    """So many MiB for the volume whose size is that value."""
    nested: Any = f"{size}Mi"
    for name in reversed(value.split(".")):
        nested = {name: nested}
    result: dict[str, Any] = nested
    return result


def test_the_page_is_as_the_values_are() -> None:
    text = capacity.PAGE.read_text(encoding="utf-8")
    assert capacity.page(text) == text, "run `make docs`"
    (line,) = [line for line in text.splitlines() if line.startswith("| `volumes.databaseBackup.size`")]
    assert [cell.strip() for cell in line.split("|")][2:5] == [
        f"1.3 {capacity.TIMES} (24 + 7 + 4 + 12 + 1) {capacity.TIMES} dump",
        "207.2 GiB",
        "210.0 GiB",
    ]


def test_there_are_several_volumes() -> None:
    assert len(ROWS) >= 4


@pytest.mark.parametrize("value", ROWS)
def test_the_chart_takes_just_what_is_computed(value: str) -> None:
    chance = random.Random(value)
    keeps: dict[str, Any] = {
        "postgresBackupHourly": {"dumpSize": f"{chance.randint(100, 9999)}Mi", "keep": chance.randint(1, 99)},
        "postgresReplicatorBackup": {"keep": chance.randint(1, 9)},
        "postgresBackupTiers": {"daily": {"keep": chance.randint(1, 30)}},
    }
    values = merge_values(PRODUCTION, keeps)
    for row in capacity.rows(values):
        values = merge_values(values, sized(row.value, -(-row.needs // 2**20)))
    (row,) = [row for row in capacity.rows(values) if row.value == value]
    assert row.enough
    render(values, namespace="production-stack")
    with pytest.raises(RenderError, match=value.replace(".", r"\.")):
        render(merge_values(values, sized(value, row.needs // 2**20 - 1)), namespace="production-stack")


def test_what_is_too_small_is_called_so() -> None:
    text = capacity.table(merge_values(PRODUCTION, {"postgresBackupHourly": {"dumpSize": "5Gi"}}))
    assert "| 312.0 GiB | 210.0 GiB | 3.4 GiB (too small) |" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "values/production.yaml keep=3",
            "keep is not known: give files of values, and dumpSize=5Gi or the like.",
        ),
        ("dumpSize=many", "'many' is not a size such as 120Gi."),
        ("dumpSize=0Gi", "'0Gi' is not a size such as 120Gi."),
        ("values/nobody.yaml", "values/nobody.yaml: No such file or directory."),
    ],
)
def test_what_cannot_be_computed_is_said_in_a_sentence(arguments: str, said: str) -> None:
    command = [sys.executable, "-m", "stack_backup_lab.capacity", *arguments.split()]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, f"{said}\n")


@pytest.mark.parametrize(("text", "size"), [("0.5Gi", 2**29), ("1.5k", 1500), ("2Pi", 2**51), (7, 7)])
def test_sizes_are_read_as_kubernetes_writes_them(text: str | int, size: int) -> None:
    assert capacity.size_of(text) == size
