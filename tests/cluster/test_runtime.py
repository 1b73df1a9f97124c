"""A cluster's runtime is a runtime."""

from __future__ import annotations

import pytest

from stack_backup_lab.runtime import ScheduledStack, Stack
from stack_backup_lab.runtime.cluster import ClusterStack
from tests.conformance import *  # noqa: F403 (the tests)


@pytest.fixture
def any_stack(stack: ClusterStack) -> Stack:
    return stack


def test_it_has_a_scheduler(any_stack: Stack) -> None:
    assert isinstance(any_stack, ScheduledStack)
