"""Pods under the restricted level: what the API server refuses, and what a running pod can and cannot do."""

from __future__ import annotations

import pytest
from kubernetes.client import ApiException

from stack_backup_lab.runtime.cluster import ClusterStack
from stack_backup_lab.runtime.kube import Object
from tests.render import contract

_PROBE = r"""
can() { "${@:2}" >/dev/null 2>&1 && echo "$1 yes" || echo "$1 no"; }
echo "uid $(id -u)"
echo "gid $(id -g)"
awk '/^(CapEff|CapBnd|NoNewPrivs|Seccomp):/ { print $1, $2 }' /proc/self/status
can write-root touch /probe
can write-programs touch /programs/probe
can write-tools touch /tools/probe
can write-secrets touch /secrets/database/probe
can write-backup touch /backup/.tmp.probe
can write-tmp touch /tmp/probe
rm -f /backup/.tmp.probe
can token test -e /var/run/secrets/kubernetes.io
can read-password test -s /secrets/database/superuser-password
echo "tmp $(stat -f -c %T /tmp)"
echo "services $(env | sed -n 's/_SERVICE_HOST=.*//p' | xargs)"
"""


def _look_around(spec: Object) -> None:
    (container,) = spec["template"]["spec"]["containers"]
    container["command"] = ["/bin/bash", "-c", _PROBE]


@pytest.fixture(scope="module")
def seen(stack: ClusterStack) -> dict[str, str]:
    """What a program sees in the hourly job's own pod: the rendered one, with another command."""
    end = stack.ended(contract.HOURLY, stack.begin(contract.HOURLY, _look_around))
    assert end.succeeded, end.log
    return dict(line.split(" ", 1) for line in end.log.splitlines())


def test_the_namespace_refuses_what_the_restricted_level_forbids(stack: ClusterStack) -> None:
    container = {"name": "root", "image": "stack-database:15", "securityContext": {"runAsUser": 0}}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "root"},
        "spec": {"containers": [container]},
    }
    with pytest.raises(ApiException, match="violates PodSecurity"):
        stack.kube.create(pod, stack.namespace)


def test_the_pod_is_the_database_user_without_any_privilege(seen: dict[str, str]) -> None:
    assert (seen["uid"], seen["gid"]) == ("999", "999")
    assert int(seen["CapEff:"], 16) == int(seen["CapBnd:"], 16) == 0
    assert seen["NoNewPrivs:"] == "1"
    assert seen["Seccomp:"] == "2"  # a filter


def test_the_pod_writes_to_its_volume_and_to_memory_alone(seen: dict[str, str]) -> None:
    writable = {
        key.removeprefix("write-")
        for key, answer in seen.items()
        if key.startswith("write-") and answer == "yes"
    }
    assert writable == {"backup", "tmp"}
    assert seen["tmp"] == "tmpfs"


def test_the_pod_knows_the_password_and_nothing_of_the_cluster(seen: dict[str, str]) -> None:
    assert seen["read-password"] == "yes"
    assert seen["token"] == "no"
    assert seen["services"] == "KUBERNETES"  # which every pod is told, enableServiceLinks or not


def test_the_network_policy_selects_the_backup_pods_and_no_others(
    stack: ClusterStack, seen: dict[str, str]
) -> None:
    """This cluster's network does not enforce policies: what they select is all that can be seen here."""
    assert seen
    ran = _names(stack.kube.find("Pod", stack.namespace, labels="batch.kubernetes.io/job-name"))
    assert ran
    selected: set[str] = set()
    for policy in stack.kube.find("NetworkPolicy", stack.namespace):
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        assert labels, f"{policy['metadata']['name']} selects every pod of the namespace"
        chosen = ",".join(f"{key}={value}" for key, value in labels.items())
        selected |= _names(stack.kube.find("Pod", stack.namespace, labels=chosen))
    assert selected == ran


def _names(objects: list[Object]) -> set[str]:
    return {item["metadata"]["name"] for item in objects}
