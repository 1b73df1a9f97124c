"""Fixtures of the render layer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from kubernetes_validate import utils

from stack_backup_lab.bed import tools
from stack_backup_lab.render import CHART, Objects, render
from tests.render.stacks import STACKS


@pytest.fixture(scope="session", autouse=True)
def _helm3() -> None:
    tools.ensure("helm3")


@pytest.fixture(scope="session", autouse=True)
def _schemas_of_kubernetes_are_read_once() -> Iterator[None]:
    """Of a megabyte each, they would be parsed again for every object."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "schema_contents", cache(utils.schema_contents))
        yield


@pytest.fixture(params=STACKS)
def stack(request: pytest.FixtureRequest) -> str:
    """The name of a set of values that the project ships."""
    name: str = request.param
    return name


@pytest.fixture
def objects(stack: str) -> Objects:
    values, namespace = STACKS[stack]
    return render(values, namespace=namespace)


@pytest.fixture
def production() -> Objects:
    values, namespace = STACKS["production"]
    return render(values, namespace=namespace)


@pytest.fixture
def chart(tmp_path: Path) -> Path:
    """A copy of the chart, to be broken."""
    return shutil.copytree(CHART, tmp_path / "stack-backup")
