"""The playbooks as AWX runs them: a real ansible-playbook, and a release made from nothing."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup_jobs.formats import time_of
from stack_backup_lab.render import CHART, merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from tests.cluster.conftest import dumps, release_objects
from tests.cluster.operators import (
    RECOVERABLE,
    RECOVERY,
    access,
    another_program,
    documented_role,
    play,
    programs,
    tables,
    wrong_password,
)
from tests.render import contract

NAMESPACE = "stack-test-awx"
Playbook = Callable[..., subprocess.CompletedProcess[str]]


def credential(kubeconfig: Path, home: Path) -> dict[str, str]:
    """The cluster and the token of a kubeconfig as AWX hands a credential on."""
    content = yaml.safe_load(kubeconfig.read_text())
    (cluster,), (user,) = content["clusters"], content["users"]
    certificate = home / "certificate"
    certificate.write_bytes(base64.b64decode(cluster["cluster"]["certificate-authority-data"]))
    return {
        "K8S_AUTH_HOST": cluster["cluster"]["server"],
        "K8S_AUTH_API_KEY": user["user"]["token"],
        "K8S_AUTH_VERIFY_SSL": "True",
        "K8S_AUTH_SSL_CA_CERT": str(certificate),
    }


@pytest.fixture(scope="module")
def stack(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A stack without a release: the playbook installs it."""
    with runtime.stack(NAMESPACE) as stack:
        stack.database.execute("CREATE TABLE note AS SELECT 'beside the application' AS text")
        yield stack


@pytest.fixture(scope="module")
def playbook(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """Runs a playbook with these variables, as the cluster's administrator or somebody else, and with a
    kubeconfig or as AWX does.
    """
    home = tmp_path_factory.mktemp("ansible")

    def run(
        name: str, *, kubeconfig: Path = stack.kube.kubeconfig, as_awx: bool = False, **variables: Any
    ) -> subprocess.CompletedProcess[str]:
        access = credential(kubeconfig, home) if as_awx else {"KUBECONFIG": str(kubeconfig)}
        return play(name, home, access, stack_namespace=NAMESPACE, **variables)

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


def _versions(stack: ClusterStack) -> dict[str, int]:
    """How often each CronJob of the release was changed."""
    found = stack.kube.find("CronJob", stack.namespace)
    return {one["metadata"]["name"]: one["metadata"]["generation"] for one in found}


def _manual(stack: ClusterStack) -> list[dict[str, Any]]:
    return [job for job in stack.kube.find("Job", stack.namespace) if "-manual-" in job["metadata"]["name"]]


def test_the_release_is_installed(installed: subprocess.CompletedProcess[str], stack: ClusterStack) -> None:
    assert installed.returncode == 0, installed.stdout
    assert _revision(installed) == 1
    assert {f"CronJob/{contract.HOURLY}", f"CronJob/{RECOVERY}"} <= release_objects(stack).keys()
    assert "CronJob/media-replicator" not in release_objects(stack)


def test_installing_again_changes_nothing(
    playbook: Playbook, installed: subprocess.CompletedProcess[str], stack: ClusterStack
) -> None:
    assert installed.returncode == 0
    before = _versions(stack)
    end = playbook("install", stack="production", stack_values=RECOVERABLE)
    assert end.returncode == 0, end.stdout
    assert _versions(stack) == before


def test_an_upgrade_that_failed_stays_red_until_it_is_good(
    playbook: Playbook, installed: subprocess.CompletedProcess[str]
) -> None:
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
        ({"postgresBackupHourly": {"keep": 0}}, "keep"),
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
    end = playbook("backup-now", kubeconfig=operator, as_awx=True)
    assert end.returncode == 0, end.stdout
    (new,) = set(dumps(stack)) - set(before)
    assert f"The dump {new} is published and verified" in end.stdout.split("TASK [The verdict]")[1]
    assert "Dumping the server database:5432" in end.stdout
    assert '"outcome": "published"' in end.stdout.split("CUSTOM STATS")[1]


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
def test_a_recovery_with_another_confirmation_starts_nothing(
    playbook: Playbook, stack: ClusterStack, operator: Path
) -> None:
    before = len(_manual(stack))
    end = playbook("recover-database", kubeconfig=operator, confirm="production-stack")
    assert end.returncode == 2, end.stdout
    said = end.stdout.split("TASK [The verdict]")[1]
    assert f"The confirmation is 'production-stack', but the namespace is '{NAMESPACE}'." in said
    assert len(_manual(stack)) == before


@pytest.mark.usefixtures("installed")
def test_the_restore_points_are_listed(playbook: Playbook, stack: ClusterStack) -> None:
    end = playbook("list-dumps")
    assert end.returncode == 0, end.stdout
    shown = end.stdout.split("TASK [The verdict]")[1]
    assert dumps(stack)
    assert all(name in shown for name in dumps(stack))


@pytest.mark.usefixtures("installed")
def test_the_doctor_is_green_and_red_as_its_checks_are(
    playbook: Playbook, stack: ClusterStack, tmp_path: Path
) -> None:
    """With the whole documented Role: it deletes its Jobs, which only look."""
    doctor = access(stack, "doctor", documented_role(), tmp_path)
    end = playbook("doctor", kubeconfig=doctor, as_awx=True)
    assert end.returncode == 0, end.stdout
    with wrong_password(stack):
        end = playbook("doctor", kubeconfig=doctor)
    assert end.returncode == 2, end.stdout
    assert "failed: database: " in end.stdout.split("TASK [The verdict]")[1]


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
    said = end.stdout.split("TASK [The verdict]")[1]
    assert "The Job failed: its program ended with 3 and left no verdict." in said
    assert '"lost"' in end.stdout
    (name,) = set(re.findall(rf"Job ({RECOVERY}-manual-\S+) in {NAMESPACE}", end.stdout))
    assert name in {job["metadata"]["name"] for job in _manual(stack)}


@pytest.mark.usefixtures("installed")
def test_the_status_is_red_while_a_job_is_and_names_it(playbook: Playbook, operator: Path) -> None:
    end = playbook("status", kubeconfig=operator)
    assert end.returncode == 2, end.stdout
    assert f"{RECOVERY}: the last run failed" in end.stdout.split("TASK [The verdict]")[1]
    assert playbook("recover-database", kubeconfig=operator, confirm=NAMESPACE).returncode == 0
    end = playbook("status", kubeconfig=operator)
    assert end.returncode == 0, end.stdout
    assert "All is well." in end.stdout.split("TASK [The verdict]")[1]


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
