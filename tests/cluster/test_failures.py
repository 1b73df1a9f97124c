"""What goes wrong on a cluster ends red, within its time, and says why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import ClusterStack
from stack_backup_lab.runtime.kube import Object
from tests.cluster.conftest import VALUES, dumps
from tests.render import contract

DEADLINE = 25
"""Seconds that a pod gets which never starts; production's own are in its render tests."""

GONE = "database-gone"


def _hasten(spec: Object) -> None:
    spec["activeDeadlineSeconds"] = DEADLINE


@pytest.fixture(scope="module")
def ends(stack: ClusterStack) -> Mapping[str, JobResult]:
    """How one run ended under each fault. All at once: a Job keeps the template it was made from."""
    service: dict[str, Any] = {"ports": [{"port": contract.PORT}], "selector": {"app": GONE}}
    body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": GONE}, "spec": service}
    stack.kube.create(body, stack.namespace)
    before = dumps(stack)
    faults: dict[str, tuple[dict[str, Any], Any]] = {
        "no image": ({"database": {"image": {"tag": "no-such-tag"}}}, _hasten),
        "unreachable": ({"database": {"host": GONE}}, None),
        "no key": ({"database": {"secret": {"superuserKey": "no_such_key"}}}, None),
        "no Secret": ({"database": {"secret": {"name": "no-such-secret"}}}, None),
    }
    begun = {}
    for fault, (values, change) in faults.items():
        stack.install(merge_values(VALUES, values))
        begun[fault] = stack.begin(contract.HOURLY, change)
    stack.install(VALUES)
    ends = {fault: stack.ended(contract.HOURLY, name, timeout=300) for fault, name in begun.items()}
    stack.kube.delete("Service", GONE, stack.namespace)
    assert dumps(stack) == before
    return ends


@pytest.mark.parametrize(
    ("fault", "code", "reason", "says"),
    [
        ("no key", 78, "PodFailurePolicy", "database.secret"),
        ("no Secret", 78, "PodFailurePolicy", "database.secret"),
        ("unreachable", 69, "BackoffLimitExceeded", GONE),
    ],
)
def test_the_job_ends_red_with_a_sentence_that_says_why(
    ends: Mapping[str, JobResult], fault: str, code: int, reason: str, says: str
) -> None:
    end = ends[fault]
    assert end.exit_code == code, end.log
    assert end.reason == reason
    assert end.verdict["exit"] == code
    assert end.verdict["outcome"] == "failed"
    assert says in end.verdict["message"]
    assert "every earlier dump is as it was" in end.verdict["message"]


def test_an_unreachable_database_is_tried_again_once(ends: Mapping[str, JobResult]) -> None:
    assert ends["unreachable"].log.count('"exit":69') == 2


def test_a_missing_key_is_not_tried_again(ends: Mapping[str, JobResult]) -> None:
    assert ends["no key"].log.count('"exit":78') == 1


def test_a_pod_that_never_starts_ends_at_its_deadline(ends: Mapping[str, JobResult]) -> None:
    end = ends["no image"]
    assert end.reason == "DeadlineExceeded"
    assert end.exit_code is None
    assert not end.succeeded
    assert end.seconds >= DEADLINE


def test_a_failed_run_does_not_stop_the_next(stack: ClusterStack, ends: Mapping[str, JobResult]) -> None:
    assert not any(end.succeeded for end in ends.values())
    assert stack.run(contract.HOURLY).succeeded
