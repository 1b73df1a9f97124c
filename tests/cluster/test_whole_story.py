"""The whole story on two clusters that share an export, told by the demo's own stacks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.story import demo
from stack_backup_lab.story.engine import Evidence, tell
from stack_backup_lab.story.stacks import DEVELOPER, STAGING
from stack_backup_lab.story.whole_story import WholeStory


class Told(WholeStory):
    """The story, and how each of its steps ended."""

    evidence: list[Evidence]


@pytest.fixture(scope="module")
def story(runtime: ClusterRuntime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    assert runtime
    with demo.on_clusters() as stacks:
        story = Told(*stacks, tmp_path_factory.mktemp("media"), molecules=500, files=100)
        story.evidence = list(tell(story.steps()))
        for stack in stacks:
            assert isinstance(stack, ClusterStack)
            stack.failed = not story.evidence[-1].ok
        yield story


@pytest.mark.timeout(1500)
def test_the_story_comes_out(story: Told) -> None:
    for step in story.evidence:
        assert step.ok, f"{step.title}: {step.seen}"
    assert len(story.rounds) == 2


def test_every_stack_came_back_as_of_the_backup(story: Told) -> None:
    for one in story.rounds:
        assert [recovery.stack for recovery in one.databases] == [STAGING, DEVELOPER, "production-stack"]
        assert [recovery.differences for recovery in one.databases] == [0, 0, 0]
        assert [recovery.later_rows for recovery in one.databases] == [0, 0, 0]
        assert one.media_differences == one.later_files == {STAGING: 0, DEVELOPER: 0}


def test_the_other_cluster_alarmed_when_the_replica_was_altered(story: Told) -> None:
    for one in story.rounds:
        assert one.alarm is not None
        assert one.alarm.exit_code == 65
        assert one.dump in one.alarm.verdict["message"]
