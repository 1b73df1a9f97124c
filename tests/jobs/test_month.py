"""The report of `make demo-report`, of few days: real runs with moved clocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stack_backup.evidence import BACKUP, DAY, DRILL
from stack_backup_jobs.formats import seconds_of
from stack_backup_lab.story import month


def test_the_report_is_of_the_days_that_were_lived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(month, "DAYS", 3)
    monkeypatch.setattr(month, "WEEK", 3)
    monkeypatch.setattr(month, "FAILS", range(2))  # the first of them is older than the report
    assert "demo data" in month.make(tmp_path).read_text()
    made = json.loads((tmp_path / "report.json").read_text())
    runs = [(run["verdict"]["job"], run["verdict"]["outcome"]) for run in made["runs"]]
    assert runs == [(BACKUP, "failed"), (BACKUP, "published"), (DRILL, "proved")]
    failed, published, _ = (seconds_of(run["ended"]) for run in made["runs"])
    assert abs(published - failed - DAY) < 600
    [point] = made["places"][0]["points"]
    assert abs(seconds_of(point["time"]) - seconds_of(made["runs"][1]["begun"])) < 60
    assert point["drill"]["outcome"] == "proved"
    assert "<testsuite" in (tmp_path / "report.xml").read_text()
