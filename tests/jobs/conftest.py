"""Fixtures of the jobs layer: one stack for the whole session, a clean volume and Secret for every test."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_backup_lab.bed import images
from stack_backup_lab.data import dataset
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from tests.jobs.chain import STAGING_NAMESPACE, Chain
from tests.jobs.hourly import IMAGE, NAMESPACE, VALUES, Hourly, Sample
from tests.render import contract


@pytest.fixture(scope="session")
def runtime() -> LocalRuntime:
    return LocalRuntime()


@pytest.fixture(scope="session")
def postgres15() -> Path:
    """The root file system of the stock image."""
    return images.rootfs(IMAGE)


@pytest.fixture(scope="session")
def production(runtime: LocalRuntime) -> Iterator[LocalStack]:
    """The production stack: the application's tables (no molecules, which need an extension), the release."""
    with runtime.stack(NAMESPACE, IMAGE) as stack:
        dataset.fill(stack.database, molecules=0)
        stack.install(VALUES)
        yield stack


@pytest.fixture(scope="session")
def sample(production: LocalStack) -> Sample:
    """A dump of the production stack, to plant copies of."""
    hourly = Hourly(production, None)
    name = hourly.backup()
    return Sample(hourly.read(name), hourly.volume.read(hourly.manifest_path(name)))


@pytest.fixture
def hourly(production: LocalStack, sample: Sample) -> Iterator[Hourly]:
    """The hourly backup of the production stack; its volume is empty, its Secret as it was installed."""
    production.volume("database-backup").clear()
    production.install(VALUES)
    secrets = copy.deepcopy(production.secrets)
    yield Hourly(production, sample)
    production.secrets.clear()
    production.secrets.update(secrets)


@pytest.fixture
def history(hourly: Hourly) -> list[str]:
    """Three verified dumps of the last hours, oldest first."""
    return hourly.plant_verified(3)


@pytest.fixture(scope="module")
def stacks(runtime: LocalRuntime) -> Iterator[tuple[LocalStack, LocalStack]]:
    """Production and staging for a `Chain`, each with a server of its own."""
    with (
        runtime.stack(contract.NAMESPACE, "postgres:15") as production,
        runtime.stack(STAGING_NAMESPACE, "postgres:15") as staging,
    ):
        yield production, staging


@pytest.fixture
def chain(stacks: tuple[LocalStack, LocalStack]) -> Chain:
    return Chain(*stacks)
