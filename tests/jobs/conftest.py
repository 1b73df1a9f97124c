"""Fixtures of the jobs layer: one server per version for the whole session, a clean volume for every test."""

from __future__ import annotations

from pathlib import Path

import pytest

from stack_backup.runtime.local import LocalRuntime
from stack_backup.testbed import images


@pytest.fixture(scope="session")
def runtime() -> LocalRuntime:
    return LocalRuntime()


@pytest.fixture(scope="session")
def postgres15() -> Path:
    """The root file system of the stock image."""
    return images.rootfs("postgres:15")
