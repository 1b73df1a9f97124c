"""A stack with a release as an operator meets it, and the operator's own access to the cluster."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import yaml

from stack_backup_lab.bed import ansible
from stack_backup_lab.paths import BIN, PROJECT
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import ClusterStack
from tests.cluster.conftest import VALUES
from tests.render import contract

RECOVERY = "database-recovery"
RECOVERABLE = merge_values(
    VALUES, {"databaseRecovery": {"enabled": True, "source": "backup", "scratch": {"size": "64Mi"}}}
)
"""Production's hourly backup, and its recovery by hand."""

# What it was given, and a refusal by the programs' own frame: here the way to and from a program is tested.
REFUSES = """
exec "$PYTHON" -I - <<'END'
import os, sys, time
sys.path.insert(0, "/programs")
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.run import Supervisor

def program(job):
    job.leaves("The database is as it was.")
    seconds = int(os.environ.get("SLEEP", "0"))
    job.say(f"I was told to sleep {seconds} s.")
    time.sleep(seconds)
    given = (os.environ["CONFIRM"], os.environ["DUMP"])
    raise JobError(Exit.PERMISSION, 'The confirmation is "%s" and the dump "%s".' % given, "Look again.")

sys.exit(Supervisor(program).run())
END
"""


@contextmanager
def another_program(stack: ClusterStack, script: str = REFUSES) -> Iterator[None]:
    """Let the CronJob of the recovery run another program for a while."""

    def put(command: list[str]) -> list[str]:
        cronjob = stack.kube.get("CronJob", RECOVERY, stack.namespace)
        assert cronjob is not None
        template = cronjob["spec"]["jobTemplate"]["spec"]["template"]
        container = template["spec"]["containers"][0]
        before: list[str] = container["command"]
        container["command"] = command
        patch = {"spec": {"jobTemplate": {"spec": {"template": template}}}}
        stack.kube.patch("CronJob", RECOVERY, stack.namespace, patch)
        return before

    own = put(["/bin/bash", "-c", script])
    try:
        yield
    finally:
        put(own)


def play(name: str, home: Path, access: dict[str, str], **variables: Any) -> subprocess.CompletedProcess[str]:
    """A real ansible-playbook with these variables; `access` is the environment in which it finds the
    cluster.
    """
    playbook = PROJECT / "scripts" / "awx" / f"{name}.yaml"
    return subprocess.run(
        [ansible.ensure() / "ansible-playbook", playbook, "--extra-vars", json.dumps(variables)],
        env={
            "PATH": f"{BIN}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home),
            "LANG": "C.UTF-8",
            **access,
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_SHOW_CUSTOM_STATS": "True",
            "COLUMNS": "200",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@contextmanager
def wrong_password(stack: ClusterStack) -> Iterator[None]:
    """In the Secret."""
    key = contract.SECRET_KEYS["superuser"]
    secret = stack.kube.get("Secret", contract.SECRET, stack.namespace)
    assert secret is not None
    for value in (base64.b64encode(b"another").decode(), secret["data"][key]):
        stack.kube.patch("Secret", contract.SECRET, stack.namespace, {"data": {key: value}})
        if value != secret["data"][key]:
            yield


def programs(stack: ClusterStack) -> dict[str, str]:
    """The files that the pods of the recovery mount, by the keys of their ConfigMap."""
    cronjob = stack.kube.get("CronJob", RECOVERY, stack.namespace)
    assert cronjob is not None
    volumes = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
    (name,) = [one["configMap"]["name"] for one in volumes if one["name"] == "programs"]
    found = stack.kube.get("ConfigMap", name, stack.namespace)
    assert found is not None
    data: dict[str, str] = found["data"]
    return data


def documented_role() -> dict[str, Any]:
    """The Role that docs/command-line.md tells administrators to give."""
    text = (PROJECT / "docs" / "command-line.md").read_text()
    (role,) = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    return dict(role)


def access(stack: ClusterStack, user: str, role: dict[str, Any], folder: Path) -> Path:
    """The kubeconfig of a user with this Role in the stack's namespace, and no right beyond."""
    objects = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": user}},
        role | {"metadata": {"name": user}},
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": user},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
            "subjects": [{"kind": "ServiceAccount", "name": user, "namespace": stack.namespace}],
        },
    ]
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode()
    stack.kube.run("apply", "--filename=-", namespace=stack.namespace, stdin=body)
    token = stack.kube.run("create", "token", user, namespace=stack.namespace).decode().strip()
    config = yaml.safe_load(stack.kube.kubeconfig.read_text())
    config["users"] = [{"name": user, "user": {"token": token}}]
    for context in config["contexts"]:
        context["context"] |= {"user": user, "namespace": stack.namespace}
    path = folder / f"{user}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def tables(stack: ClusterStack) -> list[str]:
    """The tables of the application's database."""
    with psycopg.connect(stack.database.dsn("frag")) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [name for (name,) in found.fetchall()]
