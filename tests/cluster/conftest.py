"""Fixtures of the cluster layer: one cluster for the session, one stack that most tests share."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from stack_backup_jobs.formats import MANIFESTS
from stack_backup_lab.bed import commands, images, kind_cluster, prometheus, tools
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import KEEP, ClusterRuntime, ClusterStack
from stack_backup_lab.runtime.kube import KubeError, Object
from stack_backup_lab.story.stacks import BACKUP_ALONE, TEST_MACHINE, VALUES
from tests.jobs.dumps import BEGUN
from tests.render import contract

IMAGE = "stack-database:15"
NAMESPACE = "stack-test-backup"
SCHEDULE = f"{(datetime.now(UTC).minute - 2) % 60} * * * *"
"""Not before the tests are over: they count runs and dumps, and none may come in between."""
AWAY: dict[str, Any] = {"postgresBackupHourly": {"schedule": SCHEDULE}}
VALUES = merge_values(
    VALUES,
    TEST_MACHINE,
    BACKUP_ALONE,
    AWAY,
    # Several runs at once have to fit beside a control plane on two cores.
    {"postgresBackupHourly": {"resources": {"requests": {"cpu": "50m"}}}},
)
"""Production's own values; only image, volume, requests and minute are those of the test cluster."""

_STACKS: list[ClusterStack] = []
_SHOWN: list[BaseException] = []


def _path(name: str) -> str:
    return f"tests/cluster/{name}.py"


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


SHARED = {
    contract.NAMESPACE: ("test_whole_story", "test_runbook"),
    NAMESPACE: ("test_backup", "test_failures", "test_pods", "test_release", "test_runtime", "test_cluster"),
}
"""The files that share a namespace: one worker takes them. Every other file has namespaces of its own."""
LONG = ("test_cli", "test_awx", "test_waiting")
"""With those above, the files that begin first: no worker shall be left with one of them at the end."""
_GROUPS = {_path(file): namespace for namespace, files in SHARED.items() for file in files}
_FIRST = [*_GROUPS, *map(_path, LONG)]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test of this folder needs the cluster, and none may forget to say so."""
    for item in items:
        if "tests/cluster/" in item.nodeid:
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: [*_FIRST, _file(item.nodeid)].index(_file(item.nodeid)))


class ByNamespace(LoadFileScheduling):
    """As `--dist loadfile`, with the files that share a namespace as one."""

    def _split_scope(self, nodeid: str) -> str:
        file = _file(nodeid)
        return _GROUPS.get(file, file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByNamespace:
    config.option.loadscopereorder = False  # it would take the most tests for the most work
    return ByNamespace(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure shows what the cluster knew at that moment, and marks its stacks as worth keeping."""
    report = yield
    if report.failed and call.excinfo is not None:
        error = call.excinfo.value
        # A wait that failed has gathered the evidence already; a fixture that failed fails many tests.
        told = isinstance(error, KubeError) or error in _SHOWN
        _SHOWN.append(error)
        for stack in _STACKS:
            stack.failed = True
            if not told:
                report.sections.append((f"namespace {stack.namespace}", stack.kube.evidence(stack.namespace)))
    return report


@pytest.fixture(scope="session")
def runtime() -> Iterator[ClusterRuntime]:
    """The test cluster, used again where it lives; one that this session had to make is removed again."""
    tools.ensure("helm", "helm3", "kubectl")
    with kind_cluster.used(keep=KEEP) as found:
        for image in (IMAGE, images.RCLONE, images.PYTHON):
            found.load(images.archive(image))
        runtime = ClusterRuntime(found, image=images.IMAGES[IMAGE].reference)
        _define(runtime, *prometheus.definitions())
        yield runtime


def _define(runtime: ClusterRuntime, *definitions: Path) -> None:
    """Let the cluster know the resources of Prometheus Operator; those that it knows stay as they are."""
    files = [f"--filename={definition}" for definition in definitions]
    with commands.lock("cluster-definitions"):  # other workers bring the same
        runtime.kube.run("apply", "--server-side", *files)
    runtime.kube.run("wait", "--for=condition=established", "--timeout=60s", *files)


@pytest.fixture(scope="session")
def stack(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A stack with production's release in it."""
    with runtime.stack(NAMESPACE) as stack:
        _STACKS.append(stack)
        stack.install(VALUES)
        # A dump without any table is refused; the application's database is filled by the story alone.
        stack.database.execute("CREATE TABLE note AS SELECT 'beside the application' AS text")
        yield stack
        _STACKS.remove(stack)


def dumps(stack: ClusterStack) -> list[str]:
    """Names in the folder of dumps, without that of their manifests and what tells when a Job has begun."""
    there = stack.volume(contract.CLAIM).list(contract.FOLDER)
    return [name for name in there if name != MANIFESTS and not name.startswith(BEGUN)]


def await_success(stack: ClusterStack) -> None:
    """Wait until the controller has written the newest finished run to its CronJob as a success."""
    jobs = stack.kube.find("Job", stack.namespace)
    newest = max(job["status"]["completionTime"] for job in jobs if "completionTime" in job["status"])

    def written(cronjobs: list[Object]) -> bool:
        (status,) = (cronjob["status"] for cronjob in cronjobs)
        return str(status.get("lastSuccessfulTime", "")) >= newest and not status.get("active")

    stack.kube.wait(
        "CronJob",
        written,
        what="the CronJob's status",
        timeout=60,
        namespace=stack.namespace,
        name=contract.HOURLY,
    )


def release_objects(stack: ClusterStack) -> dict[str, Object]:
    """Every live object that Helm says belongs to the release, by `Kind/name`."""
    kinds = (
        "ConfigMap",
        "CronJob",
        "NetworkPolicy",
        "PersistentVolumeClaim",
        "Secret",
        "Service",
        "ServiceAccount",
    )
    return {
        f"{kind}/{item['metadata']['name']}": item | {"kind": kind}
        for kind in kinds
        for item in stack.kube.find(kind, stack.namespace, labels="app.kubernetes.io/managed-by=Helm")
    }
