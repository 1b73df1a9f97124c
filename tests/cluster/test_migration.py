"""Coming from objects that Ansible made: docs/migration.md's commands take them over, and no dump is lost."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Iterator
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

OLD_DUMPS = [dump_name(f"2022-11-28T{hour:02}:51:08Z", "gz") for hour in range(3)]


def _old_objects() -> list[dict[str, Any]]:
    """CronJob and claim as the operators' playbooks make them: the contract's names, another pod."""
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
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    job = {"schedule": contract.SCHEDULE, "jobTemplate": {"spec": {"template": {"spec": pod}}}}
    return [
        {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": contract.CLAIM},
            "spec": claim,
        },
        {"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": contract.HOURLY}, "spec": job},
    ]


@pytest.fixture(params=["helm", "helm3"])
def old(request: pytest.FixtureRequest, runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A stack with what Ansible made in it, three dumps without manifests, and one of the two Helms."""
    with runtime.stack(contract.NAMESPACE) as stack:
        stack.helm = BIN / request.param
        stack.database.execute("CREATE TABLE note AS SELECT 'kept' AS text", "frag")
        for body in _old_objects():
            stack.kube.create(body, stack.namespace)
        volume = stack.volume(contract.CLAIM)
        for name in OLD_DUMPS:
            volume.write(f"{contract.FOLDER}/{name}", gzip.compress(b"-- an older tool's dump\n"))
        yield stack


@pytest.mark.timeout(600)
def test_the_documented_commands_take_over_what_ansible_made(old: ClusterStack, tmp_path: Path) -> None:
    claim = old.kube.get("PersistentVolumeClaim", contract.CLAIM, old.namespace)
    assert claim is not None
    # What a test cluster needs: its own image and sizes. The commands are the document's.
    values = tmp_path / "here.yaml"
    values.write_text(yaml.safe_dump(VALUES))
    (tmp_path / "helm").symlink_to(old.helm)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{BIN}:{os.environ['PATH']}",
        "KUBECONFIG": str(old.kube.kubeconfig),
    }
    for command in commands(PROJECT / "docs" / "migration.md"):
        command = command.replace("YOUR-VALUES.yaml", str(values))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=PROJECT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    cronjob = old.kube.get("CronJob", contract.HOURLY, old.namespace)
    assert cronjob is not None
    (container,) = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    assert container["name"] == contract.HOURLY
    assert "BACKUP_TYPE" not in {variable["name"] for variable in container["env"]}
    after = old.kube.get("PersistentVolumeClaim", contract.CLAIM, old.namespace)
    assert after is not None
    assert after["metadata"]["uid"] == claim["metadata"]["uid"]
    names = old.volume(contract.CLAIM).list(contract.FOLDER)
    assert set(OLD_DUMPS) < set(names)
    new = set(names) - {*OLD_DUMPS, MANIFESTS}
    assert old.volume(contract.CLAIM).list(f"{contract.FOLDER}/{MANIFESTS}") == [
        manifest_name(name) for name in sorted(new)
    ]
    assert new, "the new release has taken a backup"
    old.uninstall()
    assert old.volume(contract.CLAIM).list(contract.FOLDER) == names
