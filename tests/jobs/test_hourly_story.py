"""The story of the hourly backup on the local runtime, and that it can end badly."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import psycopg

from stack_backup_lab.data import dataset
from stack_backup_lab.runtime.local import LocalRuntime
from stack_backup_lab.story.engine import Step, StoryError, tell
from stack_backup_lab.story.hourly_story import HourlyStory
from stack_backup_lab.story.stacks import NAMESPACE

RESTORED = "Restore the dump into an empty server"


def test_a_backup_is_restored_to_what_the_database_held_then(runtime: LocalRuntime, tmp_path: Path) -> None:
    with runtime.stack(NAMESPACE) as stack:
        story = HourlyStory(stack, tmp_path, molecules=1000)
        told = list(tell(story.steps()))
    if told[-1].error:
        raise told[-1].error
    assert all(evidence.seen for evidence in told)
    first, second = story.rounds
    for number, one in enumerate(story.rounds, start=1):
        assert one.job.verdict["verified"] == number
        assert one.differences == 0
        assert (one.rows_written_afterwards, one.rows_restored_of_those) == (110, 0)
    assert (first.rows_compared or 0) > 10_000
    assert (second.rows_compared or 0) > (first.rows_compared or 0), "what was written meanwhile is there now"


def test_a_restore_that_lost_one_row_ends_the_story(runtime: LocalRuntime, tmp_path: Path) -> None:
    with runtime.stack(NAMESPACE) as stack:
        story = HourlyStory(stack, tmp_path, molecules=50)
        told = []
        for evidence in tell(story.steps()):
            told.append(evidence)
            if evidence.title == RESTORED:
                assert evidence.ok, evidence.seen
                with psycopg.connect(story.restored.dsn(dataset.DATABASE)) as connection:
                    connection.execute("DELETE FROM viewer_note WHERE id = 1")
    assert told[-1].title == "Compare every row"
    assert isinstance(told[-1].error, StoryError)
    assert "rows of public.viewer_note: 50 rows, 1 of them only here: 1 , fragalysis" in told[-1].seen


def test_the_first_step_that_fails_is_the_last() -> None:
    begun: list[str] = []

    def fail() -> str:
        raise StoryError("the dump is empty")

    def steps() -> Generator[Step, None, None]:
        try:
            yield Step("one", lambda: "seen")
            yield Step("two", fail)
            yield Step("three", lambda: "never")
        finally:
            begun.append("end")

    told = list(tell(steps(), begun.append))
    assert begun == ["one", "two", "end"]
    assert [(one.title, one.seen, one.ok) for one in told] == [
        ("one", "seen", True),
        ("two", "the dump is empty", False),
    ]
