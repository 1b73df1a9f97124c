"""The local runtime is a runtime."""

from __future__ import annotations

import pytest

from stack_backup_lab.runtime import ScheduledStack, Stack
from tests.conformance import *  # noqa: F403 (the tests)
from tests.jobs.hourly import Hourly


@pytest.fixture
def any_stack(hourly: Hourly) -> Stack:
    return hourly.stack


def test_it_has_no_scheduler(any_stack: Stack) -> None:
    assert not isinstance(any_stack, ScheduledStack)
