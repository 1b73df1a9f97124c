"""The whole story on the local runtime; that it can end badly; and the demo that tells it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stack_backup_lab.data import dataset
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.story import demo
from stack_backup_lab.story.engine import StoryError, tell
from stack_backup_lab.story.stacks import DEVELOPER, STAGING
from stack_backup_lab.story.whole_story import WholeStory


def test_every_stack_comes_back_twice(tmp_path: Path) -> None:
    with demo.locally() as stacks:
        story = WholeStory(*stacks, tmp_path, molecules=200, files=60)
        told = list(tell(story.steps()))
    if told[-1].error:
        raise told[-1].error
    assert len(story.rounds) == 2
    for one in story.rounds:
        assert [recovery.differences for recovery in one.databases] == [0, 0, 0]
        assert [recovery.later_rows for recovery in one.databases] == [0, 0, 0]
        assert min(recovery.rows for recovery in one.databases) > 9000
        assert one.media_files > 60
        assert one.media_differences == one.later_files == {STAGING: 0, DEVELOPER: 0}
        assert one.drill is not None
        assert one.drill.verdict["outcome"] == "proved"
        assert one.alarm is not None
        assert one.alarm.exit_code == 65


RECOVERED = f"Recover the database of {STAGING}"


def test_a_story_whose_stack_was_not_recovered_ends_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is against the source as of the backup: one row more in what was held is seen."""
    snapshot = WholeStory._snapshot

    def altered(self: WholeStory, stack: object) -> object:
        found = snapshot(self, stack)  # type: ignore[arg-type]
        if stack is self._readers[STAGING]:
            table = found.tables[dataset.DATABASE, "public.viewer_note"]
            found.tables[dataset.DATABASE, "public.viewer_note"] = type(table)(  # type: ignore[index]
                table.columns, table.key, table.rows[1:], table.dumped
            )
        return found

    monkeypatch.setattr(WholeStory, "_snapshot", altered)
    with demo.locally() as stacks:
        told = list(tell(WholeStory(*stacks, tmp_path, molecules=0, files=20, rounds=1).steps()))
    assert told[-1].title == RECOVERED
    assert isinstance(told[-1].error, StoryError)
    assert "1 differences in staging-stack" in told[-1].seen


def test_the_demo_prints_what_happened() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stack_backup_lab.story.demo", "--molecules", "20", "--media-files", "20"],
        env={**os.environ, "COLUMNS": "100"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\x1b" not in done.stdout, "no colours where there is no terminal"
    assert max(map(len, done.stdout.splitlines())) <= 100
    for line in ("6 databases and 4 media trees recovered and compared", "backup-", "0 differ", "proved"):
        assert line in done.stdout


def test_the_demo_says_where_it_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--molecules", "10"])
    monkeypatch.setattr(dataset, "DATABASE", "missing")
    assert demo.main() == 1
    printed = capsys.readouterr().out
    assert "Failed: Fill production's database and media with real input." in printed
    assert '"missing" does not exist' in printed
