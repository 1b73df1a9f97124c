"""The playbooks as AWX runs them: a real ansible-playbook, and a release made from nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack_backup_jobs.formats import time_of
from stack_backup_lab.bed import ansible
from stack_backup_lab.paths import BIN, PROJECT
from stack_backup_lab.render import CHART, merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from tests.cluster.conftest import dumps, release_objects
from tests.cluster.operators import (
    RECOVERABLE,
    RECOVERY,
    access,
    another_program,
    documented_role,
    programs,
    tables,
)
from tests.render import contract

NAMESPACE = "stack-test-awx"
AWX = PROJECT / "scripts" / "awx"
Playbook = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def stack(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A stack without a release: the playbook installs it."""
    with runtime.stack(NAMESPACE) as stack:
        stack.database.execute("CREATE TABLE note AS SELECT 'beside the application' AS text")
        yield stack


@pytest.fixture(scope="module")
def playbook(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """Runs a playbook with these variables, as the cluster's administrator or somebody else."""
    binary = ansible.ensure() / "ansible-playbook"
    home = tmp_path_factory.mktemp("ansible")

    def run(
        name: str, *, kubeconfig: Path = stack.kube.kubeconfig, **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        asked = {"stack_namespace": NAMESPACE, "helm_binary": str(BIN / "helm3"), **variables}
        return subprocess.run(
            [binary, AWX / f"{name}.yaml", "--extra-vars", json.dumps(asked)],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "K8S_AUTH_KUBECONFIG": str(kubeconfig),
                "ANSIBLE_LOCALHOST_WARNING": "False",
                "ANSIBLE_SHOW_CUSTOM_STATS": "True",
                "COLUMNS": "200",
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def installed(playbook: Playbook) -> subprocess.CompletedProcess[str]:
    """The release, made by the playbook with production's values and the test cluster's laid over them."""
    return playbook("install", stack="production", stack_values=json.dumps(RECOVERABLE))


@pytest.fixture(scope="module")
def operator(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Somebody who may run jobs as docs/awx.md says: the documented Role, without `delete`."""
    role = documented_role()
    for rule in role["rules"]:
        rule["verbs"] = [verb for verb in rule["verbs"] if verb != "delete"]
    return access(stack, "awx", role, tmp_path_factory.mktemp("awx"))


def _revision(end: subprocess.CompletedProcess[str]) -> int:
    match = re.search(r"is deployed, revision (\d+)", end.stdout)
    assert match, end.stdout
    return int(match[1])


def _manual(stack: ClusterStack) -> list[dict[str, Any]]:
    return [job for job in stack.kube.find("Job", stack.namespace) if "-awx-" in job["metadata"]["name"]]


def test_the_release_is_installed(installed: subprocess.CompletedProcess[str], stack: ClusterStack) -> None:
    assert installed.returncode == 0, installed.stdout
    assert _revision(installed) == 1
    assert {f"CronJob/{contract.HOURLY}", f"CronJob/{RECOVERY}"} <= release_objects(stack).keys()
    assert "CronJob/media-replicator" not in release_objects(stack)


def test_installing_again_changes_nothing(
    playbook: Playbook, installed: subprocess.CompletedProcess[str]
) -> None:
    end = playbook("install", stack="production", stack_values=RECOVERABLE)
    assert end.returncode == 0, end.stdout
    assert _revision(end) == _revision(installed)
    assert "nothing to change" in end.stdout


def test_an_upgrade_that_failed_stays_red_until_it_is_good(
    playbook: Playbook, installed: subprocess.CompletedProcess[str]
) -> None:
    """The module by itself calls the second one "ok": the values are those of the failed release."""
    wrong = merge_values(RECOVERABLE, {"volumes": {"databaseBackup": {"accessModes": ["ReadWriteMany"]}}})
    for _ in range(2):
        end = playbook("install", stack="production", stack_values=wrong)
        assert end.returncode != 0, end.stdout
        assert "spec is immutable after creation" in end.stdout
    end = playbook("install", stack="production", stack_values=RECOVERABLE)
    assert end.returncode == 0, end.stdout
    assert _revision(end) > _revision(installed)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"backup": {"keep": 0}}, "keep"),
        ({"backups": {}}, "backups"),
    ],
    ids=["bad value", "unknown value"],
)
@pytest.mark.usefixtures("installed")
def test_wrong_values_are_red_with_helm_s_own_sentence(
    playbook: Playbook, values: dict[str, Any], says: str
) -> None:
    end = playbook("install", stack="production", stack_values=merge_values(RECOVERABLE, values))
    assert end.returncode != 0, end.stdout
    assert "values don't meet the specifications of the schema" in end.stdout
    assert says in end.stdout


@pytest.mark.usefixtures("installed")
def test_a_backup_now_is_green_and_shows_its_verdict(
    playbook: Playbook, stack: ClusterStack, operator: Path
) -> None:
    before = dumps(stack)
    end = playbook("backup-now", kubeconfig=operator)
    assert end.returncode == 0, end.stdout
    (new,) = set(dumps(stack)) - set(before)
    assert f"The dump {new} is published and verified" in end.stdout
    assert "Dumping the server database:5432" in end.stdout
    assert "stack_backup_verdict" in end.stdout.split("CUSTOM STATS")[1]


@pytest.mark.usefixtures("installed")
def test_a_job_made_by_awx_counts_as_its_cronjob_s_own(stack: ClusterStack) -> None:
    cronjob = stack.kube.get("CronJob", contract.HOURLY, stack.namespace)
    assert cronjob is not None
    jobs = [job for job in _manual(stack) if contract.HOURLY in job["metadata"]["name"]]
    assert jobs
    for job in jobs:
        (owner,) = job["metadata"]["ownerReferences"]
        assert owner["uid"] == cronjob["metadata"]["uid"]
        assert job["metadata"]["labels"]["app.kubernetes.io/component"] == contract.HOURLY


@pytest.mark.usefixtures("installed")
def test_a_recovery_that_refuses_is_red_with_the_program_s_own_sentence(
    playbook: Playbook, operator: Path
) -> None:
    end = playbook("recover-database", kubeconfig=operator, confirm="production-stack")
    assert end.returncode == 2, end.stdout
    failed = next(line for line in end.stdout.splitlines() if line.startswith("fatal: "))
    assert f"The run is confirmed for production-stack, and this is {NAMESPACE}." in failed
    assert "The live database is as it was." in failed


@pytest.mark.usefixtures("installed")
def test_a_recovery_is_green_and_brings_the_named_dump_back(
    playbook: Playbook, stack: ClusterStack, operator: Path
) -> None:
    stack.database.execute("CREATE TABLE kept AS SELECT 1 AS number", "frag")
    backup = playbook("backup-now", kubeconfig=operator)
    assert backup.returncode == 0, backup.stdout
    stack.database.execute("DROP TABLE kept; CREATE TABLE lost AS SELECT 1 AS number", "frag")
    assert playbook("backup-now", kubeconfig=operator).returncode == 0
    (name,) = set(re.findall(r"The dump (\S+) is published", backup.stdout))
    end = playbook("recover-database", kubeconfig=operator, confirm=NAMESPACE, dump=time_of(name))
    assert end.returncode == 0, end.stdout
    assert '"outcome": "recovered"' in end.stdout
    assert tables(stack) == ["kept"]


@pytest.mark.usefixtures("installed")
def test_a_job_that_leaves_no_verdict_is_red_and_named(
    playbook: Playbook, stack: ClusterStack, operator: Path
) -> None:
    with another_program(stack, "echo lost; exit 3"):
        end = playbook("recover-database", kubeconfig=operator, confirm=NAMESPACE)
    assert end.returncode == 2, end.stdout
    (name,) = re.findall(rf"fatal: .*Job ({RECOVERY}-awx-\S+) in {NAMESPACE} failed", end.stdout)
    assert "without a verdict of its program" in end.stdout
    assert '"lost"' in end.stdout
    assert name in {job["metadata"]["name"] for job in _manual(stack)}


@pytest.mark.usefixtures("installed")
def test_a_job_that_the_release_does_not_have_is_red(
    playbook: Playbook, stack: ClusterStack, operator: Path
) -> None:
    before = len(_manual(stack))
    end = playbook("recover-media", kubeconfig=operator, confirm=NAMESPACE)
    assert end.returncode == 2, end.stdout
    assert f"There is no job media-recovery in namespace {NAMESPACE}; nothing was started." in end.stdout
    assert contract.HOURLY in end.stdout
    assert len(_manual(stack)) == before


def test_a_chart_that_changed_under_the_same_version_is_installed(
    playbook: Playbook, installed: subprocess.CompletedProcess[str], stack: ClusterStack, tmp_path: Path
) -> None:
    """The module by itself sees no difference: it compares no file of the chart."""
    assert installed.returncode == 0
    first = _revision(playbook("install", stack="production", stack_values=RECOVERABLE))
    chart = shutil.copytree(CHART, tmp_path / CHART.name)
    with (chart / "files" / "stack_backup_jobs" / "formats.py").open("a") as module:
        module.write("# changed\n")
    # What a user sets by -e outranks the play's own.
    end = playbook("install", stack="production", stack_values=RECOVERABLE, chart=str(chart))
    assert end.returncode == 0, end.stdout
    assert _revision(end) == first + 1
    assert programs(stack)["stack_backup_jobs.formats.py"].endswith("# changed\n")
