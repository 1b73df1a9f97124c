"""The doctor on a real cluster: `helm test`, and the command line with no right but those documented."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack_backup_jobs.formats import FAILED, OK, SKIPPED, Finding
from stack_backup_lab.paths import BIN
from stack_backup_lab.render import RELEASE, merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from tests.cluster.operators import RECOVERABLE, access, documented_role, wrong_password
from tests.render import contract

NAMESPACE = "stack-test-doctor"
PODS = {"doctor-database", "doctor-database-backup", "doctor-history"}


@pytest.fixture(scope="module")
def stack(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    with runtime.stack(NAMESPACE) as stack:
        stack.install(RECOVERABLE)
        yield stack


@pytest.fixture(scope="module")
def operator(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return access(stack, "operator", documented_role(), tmp_path_factory.mktemp("operator"))


def helm_test(stack: ClusterStack) -> subprocess.CompletedProcess[str]:
    command = ["test", RELEASE, "--namespace", stack.namespace, "--logs", "--timeout", "4m"]
    return subprocess.run(
        [BIN / "helm", *command, "--kubeconfig", stack.kube.kubeconfig],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def doctor(kubeconfig: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stack_backup", "doctor", *arguments],
        env=os.environ | {"KUBECONFIG": str(kubeconfig), "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def findings(end: subprocess.CompletedProcess[str]) -> list[Finding]:
    document: dict[str, Any] = json.loads(end.stdout)
    assert document["namespace"] == NAMESPACE
    assert document["red"] is (end.returncode == 1)
    return [Finding(**one) for one in document["findings"]]


def failed(end: subprocess.CompletedProcess[str]) -> list[tuple[str, str]]:
    return [(one.subject, one.check) for one in findings(end) if one.result == FAILED]


def test_helm_test_is_green_where_all_is_well_again_and_again(stack: ClusterStack) -> None:
    for _ in range(2):
        end = helm_test(stack)
        assert end.returncode == 0, end.stdout + end.stderr
        found = [one for line in end.stdout.splitlines() if (one := Finding.parse(line))]
        assert {one.subject for one in found} == {"database", contract.CLAIM, contract.HISTORY}
        assert {one.result for one in found} == {OK, SKIPPED}
    pods = {pod["metadata"]["name"]: pod["status"]["phase"] for pod in stack.kube.find("Pod", NAMESPACE)}
    assert {name: phase for name, phase in pods.items() if name in PODS} == dict.fromkeys(PODS, "Succeeded")
    assert stack.volume(contract.CLAIM).list() == []


def test_a_wrong_password_is_found_by_both(stack: ClusterStack, operator: Path) -> None:
    with wrong_password(stack):
        tested, end = helm_test(stack), doctor(operator, "--output", "json")
    assert tested.returncode != 0
    assert "failed\tdatabase\tlogin\t" in tested.stdout, tested.stdout + tested.stderr
    assert end.returncode == 1, end
    assert failed(end) == [("database", "login")]
    (login,) = [one for one in findings(end) if one.result == FAILED]
    assert "28P01" in login.message
    assert "Secret" in login.advice


def test_the_command_line_says_that_all_is_well_and_leaves_nothing(
    stack: ClusterStack, operator: Path
) -> None:
    end = doctor(operator)
    assert end.returncode == 0, end
    assert "none failed" in end.stdout
    assert {one.result for one in findings(doctor(operator, "--output", "json"))} <= {OK, SKIPPED}
    assert not [
        job for job in stack.kube.find("Job", NAMESPACE) if not job["metadata"].get("deletionTimestamp")
    ]


def test_a_volume_that_cannot_be_mounted_is_named_within_a_minute_and_keeps_no_other(
    stack: ClusterStack, operator: Path
) -> None:
    stack.install(
        merge_values(RECOVERABLE, {"volumes": {"databaseBackup": {"existingClaim": "no-such-claim"}}})
    )
    try:
        begun = time.monotonic()
        end = doctor(operator, "--output", "json")
        seconds = time.monotonic() - begun
    finally:
        stack.install(RECOVERABLE)
    assert end.returncode == 1, end
    assert failed(end) == [(contract.CLAIM, "start")]
    (start,) = [one for one in findings(end) if one.result == FAILED]
    assert "no-such-claim" in start.message
    assert start.advice
    assert seconds < 90, "50 s, and what the others take"
    assert ("database", "login") in {(one.subject, one.check) for one in findings(end) if one.result == OK}
