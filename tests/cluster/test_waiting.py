"""What keeps a run from starting on a real cluster is said within ten seconds, with the way out.

As a new operator meets it: by values that this cluster cannot serve, with no right but those documented.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stack_backup_lab.render import RELEASE, merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.runtime.kube import Object
from tests.cluster.conftest import VALUES
from tests.cluster.operators import access, documented_role
from tests.render import contract

NAMESPACE = "stack-test-waiting"
SECTION = "postgresBackupHourly"
LIMIT = 10.0
"""Seconds from the Job to the sentence."""
ONCE: dict[str, Any] = {"volumes": {"accessModes": ["ReadWriteOnce"], "databaseBackup": {"accessModes": []}}}
MANY: dict[str, Any] = {"volumes": {"accessModes": ["ReadWriteMany"], "databaseBackup": {"accessModes": []}}}


def _words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stack_backup", *arguments]


def _environment(kubeconfig: Path) -> dict[str, str]:
    return os.environ | {"KUBECONFIG": str(kubeconfig), "COLUMNS": "80", "PYTHONUNBUFFERED": "1"}


class Said(NamedTuple):
    """What `run` said of its Job before it was interrupted, and what `status` said meanwhile."""

    sentence: str
    seconds: float
    status: dict[str, Any]

    @property
    def job(self) -> dict[str, Any]:
        (job,) = [one for one in self.status["jobs"] if one["job"] == contract.HOURLY]
        return dict(job)


def _status(kubeconfig: Path) -> dict[str, Any]:
    command = _words("status", "--output", "json")
    end = subprocess.run(
        command, env=_environment(kubeconfig), capture_output=True, text=True, timeout=60, check=False
    )
    assert end.returncode in (0, 1), end
    document: dict[str, Any] = json.loads(end.stdout)
    return document


def _waits(stack: ClusterStack, kubeconfig: Path) -> Said:
    """Run the backup until it has said what it waits for, and remove its Job."""
    process = subprocess.Popen(
        _words("run", contract.HOURLY),
        env=_environment(kubeconfig),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    name = ""
    try:
        began = re.fullmatch(rf"Job (\S+) in {NAMESPACE}\n", process.stdout.readline())
        assert began, process.stdout.read()
        name, started = began[1], time.monotonic()
        watchdog = subprocess.Popen(["sh", "-c", f"sleep 40; kill -INT {process.pid}"])
        try:
            sentence = process.stdout.readline()
        finally:
            watchdog.kill()
            watchdog.wait()
        seconds = time.monotonic() - started
        status = _status(kubeconfig)
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(30) == 130, rest
        assert f"Job {name} in {NAMESPACE} keeps running without this command." in rest
        return Said(sentence, seconds, status)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if name:
            stack.kube.delete("Job", name, NAMESPACE)


@pytest.fixture(scope="module")
def new(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A release whose claim asks the cluster's class for what it cannot give."""
    with runtime.stack(NAMESPACE) as stack:
        stack.install(merge_values(VALUES, MANY))
        yield stack


@pytest.fixture(scope="module")
def operator(new: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return access(new, "operator", documented_role(), tmp_path_factory.mktemp("operator"))


@pytest.fixture(scope="module")
def unbound(new: ClusterStack, operator: Path) -> Said:
    return _waits(new, operator)


@pytest.fixture(scope="module")
def stack(new: ClusterStack, unbound: Said) -> ClusterStack:
    """The same after its operator has done what the sentences said."""
    unserved = {one["object"].removeprefix("claim ") for one in unbound.job["blockers"]}
    for name in unserved:
        new.kube.delete("PersistentVolumeClaim", name, NAMESPACE)
    new.kube.wait(
        "PersistentVolumeClaim",
        lambda claims: unserved.isdisjoint(claim["metadata"]["name"] for claim in claims),
        what="the end of the claims",
        timeout=60,
        namespace=NAMESPACE,
    )
    new.install(merge_values(VALUES, ONCE))
    return new


def test_a_class_that_cannot_give_the_access_mode_is_named(unbound: Said) -> None:
    assert unbound.seconds < LIMIT, unbound
    assert re.match(rf"claim ({contract.CLAIM}|history) \(ProvisioningFailed\): ", unbound.sentence)
    assert "only supports ReadWriteOnce" in unbound.sentence
    assert "set volumes.accessModes to [ReadWriteOnce]" in unbound.sentence
    assert unbound.job["red"] == "its run cannot start"
    claims = {one["object"]: one["reason"] for one in unbound.job["blockers"]}
    assert claims == dict.fromkeys((f"claim {contract.CLAIM}", "claim history"), "ProvisioningFailed")
    assert unbound.status["red"] is True


def test_what_the_sentence_advises_makes_the_next_run_green(stack: ClusterStack, operator: Path) -> None:
    stack.database.execute("CREATE TABLE note AS SELECT 'the first' AS text")
    end = stack.run(contract.HOURLY)
    assert end.succeeded, end.log
    status = _status(operator)
    assert (status["red"], status["missing"]) == (False, [])


def test_a_secret_is_looked_for_without_its_values(stack: ClusterStack) -> None:
    found = stack.kube.metadata("Secret", "database", NAMESPACE)
    assert found is not None
    assert (found["kind"], "data" in found) == ("PartialObjectMetadata", False)
    assert stack.kube.metadata("Secret", "no-such-secret", NAMESPACE) is None


@contextmanager
def _object(stack: ClusterStack, body: Object) -> Iterator[None]:
    stack.kube.create({"apiVersion": "v1", "metadata": {"name": "waiting"}} | body, NAMESPACE)
    try:
        yield
    finally:
        stack.kube.delete(body["kind"], "waiting", NAMESPACE)


def _mounted(source: Object) -> dict[str, Any]:
    volumes = [{"name": "more"} | source]
    mounts = [{"name": "more", "mountPath": "/more"}]
    return {SECTION: {"extraVolumes": volumes, "extraVolumeMounts": mounts}}


@pytest.mark.parametrize(
    ("values", "reason", "says", "remedy"),
    [
        ({SECTION: {"nodeSelector": {"no": "such"}}}, "Unschedulable", "node", "nodeSelector"),
        (
            {SECTION: {"resources": {"requests": {"cpu": "1000"}, "limits": {"cpu": None}}}},
            "Unschedulable",
            "Insufficient cpu",
            "resources.requests",
        ),
        (
            {"volumes": {"databaseBackup": {"existingClaim": "no-such-claim"}}},
            "NotFound",
            "no-such-claim",
            "existingClaim",
        ),
        (
            {"python": {"image": {"tag": "no-such-tag"}}},
            "ErrImagePull|ImagePullBackOff",
            "no-such-tag",
            "python.image|global.imageRegistry",
        ),
        (_mounted({"configMap": {"name": "no-such-map"}}), "FailedMount", "no-such-map", "ConfigMap"),
        (
            {"serviceAccount": {"create": False, "name": "no-such-account"}},
            "FailedCreate",
            "no-such-account",
            "serviceAccount.name",
        ),
        (_mounted({"hostPath": {"path": "/etc"}}), "FailedCreate", "violates PodSecurity", "restricted"),
    ],
    ids=["selector", "cpu", "claim", "image", "ConfigMap", "account", "PodSecurity"],
)
def test_what_values_of_this_release_keep_from_starting(
    stack: ClusterStack, operator: Path, values: dict[str, Any], reason: str, says: str, remedy: str
) -> None:
    stack.install(merge_values(VALUES, ONCE, values))
    _explained(_waits(stack, operator), reason, says, remedy)


def test_the_notes_of_an_installation_say_what_is_missing(stack: ClusterStack) -> None:
    values: dict[str, Any] = {
        "database": {"secret": {"superuserKey": "no_such_key"}},
        "volumes": {"databaseBackup": {"existingClaim": "no-such-claim"}},
    }
    stack.install(merge_values(VALUES, values))
    notes = _notes(stack)
    assert "Still missing" in notes
    assert "key no_such_key of Secret database" in notes
    assert "claim no-such-claim (volumes.databaseBackup.existingClaim)" in notes
    stack.install(merge_values(VALUES, {"database": {"secret": {"name": "no-such-secret"}}}))
    assert "Secret no-such-secret with root_password" in _notes(stack)
    stack.install(merge_values(VALUES, ONCE))
    assert "Still missing" not in _notes(stack)


def _notes(stack: ClusterStack) -> str:
    command = [stack.helm, "get", "notes", RELEASE, "--namespace", NAMESPACE, "--kubeconfig"]
    return subprocess.run(
        [*command, stack.kube.kubeconfig], capture_output=True, text=True, check=True, timeout=60
    ).stdout


@pytest.fixture(scope="module")
def served(stack: ClusterStack) -> ClusterStack:
    """With values that the cluster can serve again."""
    stack.install(merge_values(VALUES, ONCE))
    return stack


QUOTA = {"kind": "ResourceQuota", "spec": {"hard": {"count/pods": "1"}}}
RANGE = {"kind": "LimitRange", "spec": {"limits": [{"type": "Container", "max": {"memory": "8Mi"}}]}}


@pytest.mark.parametrize(
    ("body", "says", "remedy"),
    [(QUOTA, "exceeded quota: waiting", "resourcequota"), (RANGE, "maximum memory usage", "LimitRange")],
    ids=["quota", "range"],
)
def test_what_the_namespace_forbids(
    served: ClusterStack, operator: Path, body: Object, says: str, remedy: str
) -> None:
    with _object(served, body):
        _explained(_waits(served, operator), "FailedCreate", says, remedy)


def test_without_the_right_to_see_events_it_is_asked_for(served: ClusterStack, tmp_path: Path) -> None:
    role = documented_role()
    rules = [rule for rule in role["rules"] if "events" not in rule["resources"]]
    assert len(rules) < len(role["rules"])
    poor = access(served, "without-events", role | {"rules": rules}, tmp_path)
    with _object(served, QUOTA):
        _explained(_waits(served, poor), "NoPod", "has made no pod", "you may not list events")


def _explained(said: Said, reason: str, says: str, remedy: str) -> None:
    assert said.seconds < LIMIT, said
    assert re.search(rf"\(({reason})\): .*{says}.*({remedy})", said.sentence), said.sentence
    assert said.job["red"] == "its run cannot start"
    assert any(re.fullmatch(reason, one["reason"]) for one in said.job["blockers"]), said.job
