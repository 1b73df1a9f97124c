"""Coming from older tools: docs/migration.md's commands take over what they made, and no dump is lost."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup_jobs.formats import MANIFESTS, dump_name, manifest_name
from stack_backup_lab.paths import BIN, PROJECT
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from tests.cluster.conftest import VALUES
from tests.cluster.documents import commands
from tests.render import contract

MIGRATION = PROJECT / "docs" / "migration.md"
BOTH = ("Install the release on the existing claim", "Take a backup and read its verdict")
OLD_DUMPS = [dump_name(f"2022-11-28T{hour:02}:51:08Z", "gz") for hour in range(3)]
TIERS = ("hourly", "daily", "weekly", "monthly")
Shell = Callable[[str], "subprocess.CompletedProcess[str]"]
_NUMBERS = count(1)


def _cronjob(name: str) -> dict[str, Any]:
    """A CronJob as the older tools make it: the contract's names, another pod."""
    container = {
        "name": "backup",
        "image": "localhost/stack-database:15",
        "command": ["sh", "-c", "pg_dumpall --username=admin --no-password | gzip >/backup/x"],
        "env": [{"name": "BACKUP_TYPE", "value": "hourly"}],
        "volumeMounts": [{"name": "backup", "mountPath": "/backup"}],
    }
    pod = {
        "restartPolicy": "OnFailure",
        "containers": [container],
        "volumes": [{"name": "backup", "persistentVolumeClaim": {"claimName": contract.CLAIM}}],
    }
    job = {"schedule": contract.SCHEDULE, "jobTemplate": {"spec": {"template": {"spec": pod}}}}
    return {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": name}, "spec": job}


CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": contract.CLAIM},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


@pytest.fixture(params=["helm", "helm3"])
def old(request: pytest.FixtureRequest, runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A stack before the migration, with one of the two Helms. Each has a name that no other has to leave."""
    with runtime.stack(f"stack-test-migration-{next(_NUMBERS)}") as stack:
        stack.helm = BIN / request.param
        stack.database.execute("CREATE TABLE note AS SELECT 'kept' AS text", "frag")
        yield stack


@pytest.fixture
def shell(old: ClusterStack, tmp_path: Path) -> Shell:
    """Runs a command of the page. What a test cluster needs are its own namespace, image and sizes."""
    values = tmp_path / "here.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    (tmp_path / "helm").symlink_to(old.helm)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}",
        "KUBECONFIG": str(old.kube.kubeconfig),
    }
    own = {
        "YOUR-VALUES.yaml": values,
        "YOUR-RELEASE": "argus",
        "YOUR-CHART": tmp_path / "fragalysis-stack",
        contract.NAMESPACE: old.namespace,
    }

    def run(command: str) -> subprocess.CompletedProcess[str]:
        for word, here in own.items():
            command = command.replace(word, str(here))
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def _follow(shell: Shell, *headings: str) -> None:
    for heading in headings:
        for command in commands(MIGRATION, heading):
            done = shell(command)
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


def _fill(old: ClusterStack) -> str:
    """Three dumps without manifests on the claim that is there; its uid."""
    volume = old.volume(contract.CLAIM)
    for name in OLD_DUMPS:
        volume.write(f"{contract.FOLDER}/{name}", gzip.compress(b"-- an older tool's dump\n"))
    return _uid(old)


def _uid(old: ClusterStack) -> str:
    claim = old.kube.get("PersistentVolumeClaim", contract.CLAIM, old.namespace)
    assert claim is not None
    return str(claim["metadata"]["uid"])


def _assert_taken_over(old: ClusterStack, uid: str) -> None:
    """The same claim with every dump and a new one; and all of it outlives the release."""
    cronjob = old.kube.get("CronJob", contract.HOURLY, old.namespace)
    assert cronjob is not None
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["name"] == contract.HOURLY
    assert "BACKUP_TYPE" not in {variable["name"] for variable in container["env"]}
    assert _uid(old) == uid
    names = old.volume(contract.CLAIM).list(contract.FOLDER)
    assert set(OLD_DUMPS) < set(names)
    new = set(names) - {*OLD_DUMPS, MANIFESTS}
    assert old.volume(contract.CLAIM).list(f"{contract.FOLDER}/{MANIFESTS}") == [
        manifest_name(name) for name in sorted(new)
    ]
    assert new, "the new release has taken a backup"
    old.uninstall()
    assert old.volume(contract.CLAIM).list(contract.FOLDER) == names


@pytest.mark.timeout(600)
def test_the_documented_commands_take_over_what_ansible_made(old: ClusterStack, shell: Shell) -> None:
    for body in (CLAIM, _cronjob(contract.HOURLY)):
        old.kube.create(body, old.namespace)
    uid = _fill(old)
    _follow(shell, "From objects that Ansible made", *BOTH)
    _assert_taken_over(old, uid)


def _switch(command: str, *, on: bool) -> str:
    """That chart's backups on or off."""
    values = f"--set backups.database.enabled={str(on).lower()}"
    return f"helm {command} YOUR-RELEASE YOUR-CHART --namespace {contract.NAMESPACE} {values}"


@pytest.fixture
def other(old: ClusterStack, shell: Shell, tmp_path: Path) -> str:
    """A release like that of fragalysis-helm: one switch for four CronJobs and the claim. The claim's uid."""
    chart = tmp_path / "fragalysis-stack"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: fragalysis-stack, version: 1.0.0}")
    (chart / "values.yaml").write_text("backups: {database: {enabled: false}}")
    objects = yaml.safe_dump_all([CLAIM, *(_cronjob(f"postgres-backup-{tier}") for tier in TIERS)])
    (chart / "templates" / "backups.yaml").write_text(
        f"{{{{- if .Values.backups.database.enabled }}}}\n{objects}\n{{{{- end }}}}\n"
    )
    installed = shell(_switch("install", on=True))
    assert installed.returncode == 0, installed.stderr
    return _fill(old)


@pytest.mark.timeout(600)
def test_the_documented_commands_take_over_from_fragalysis_helm(
    old: ClusterStack, shell: Shell, other: str
) -> None:
    _follow(shell, "From fragalysis-helm", *BOTH)
    again = shell(_switch("upgrade", on=True))
    assert again.returncode != 0
    assert "invalid ownership metadata" in again.stderr
    _assert_taken_over(old, other)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("old", ["helm"], indirect=True)
def test_without_the_first_step_that_release_deletes_the_claim(
    old: ClusterStack, shell: Shell, other: str
) -> None:
    """What the page protects from is real."""
    assert other
    off = shell(_switch("upgrade", on=False))
    assert off.returncode == 0, off.stderr
    claim = old.kube.get("PersistentVolumeClaim", contract.CLAIM, old.namespace)
    assert claim is None or claim["metadata"].get("deletionTimestamp")
