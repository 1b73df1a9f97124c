"""What an operator may set differently does what its comment says."""

from __future__ import annotations

from typing import Any

import pytest

from stack_backup.render import Objects, render
from stack_backup.testbed.paths import BIN
from tests.render import contract


def _pod(objects: Objects) -> dict[str, Any]:
    (found,) = [pod for owner, pod in objects.pods() if owner == f"CronJob/{contract.HOURLY}"]
    return found


def _claim(**values: Any) -> dict[str, Any]:
    spec: dict[str, Any] = render({"volumes": {"databaseBackup": values}}).get(
        "PersistentVolumeClaim", contract.CLAIM
    )["spec"]
    return spec


def test_without_a_backup_nothing_runs_and_no_volume_is_taken() -> None:
    objects = render({"backup": {"enabled": False}})
    assert list(objects.pods()) == []
    assert objects.of_kind("CronJob") == objects.of_kind("PersistentVolumeClaim") == []


def test_a_claim_that_exists_is_used_and_none_is_made() -> None:
    objects = render({"volumes": {"databaseBackup": {"existingClaim": "old-claim"}}})
    assert objects.of_kind("PersistentVolumeClaim") == []
    claims = [volume.get("persistentVolumeClaim", {}).get("claimName") for volume in _pod(objects)["volumes"]]
    assert "old-claim" in claims


def test_a_claim_of_the_default_class_names_none() -> None:
    assert "storageClassName" not in _claim()


def test_a_claim_for_a_volume_made_by_hand_has_an_empty_class() -> None:
    assert _claim(storageClass="-")["storageClassName"] == ""


def test_a_claim_is_of_the_given_class_size_and_modes() -> None:
    spec = _claim(storageClass="nfs", size="300Gi", accessModes=["ReadWriteMany"])
    assert spec["storageClassName"] == "nfs"
    assert spec["resources"]["requests"]["storage"] == "300Gi"
    assert spec["accessModes"] == ["ReadWriteMany"]


def test_a_suspended_backup_keeps_its_cronjob() -> None:
    assert render({"backup": {"suspend": True}}).get("CronJob", contract.HOURLY)["spec"]["suspend"] is True


def test_a_digest_takes_the_place_of_the_tag() -> None:
    digest = f"sha256:{64 * 'a'}"
    values = {
        "database": {
            "image": {"repository": "registry.example.org:5000/database", "tag": "15", "digest": digest}
        }
    }
    (container,) = _pod(render(values))["containers"]
    assert container["image"] == f"registry.example.org:5000/database@{digest}"


@pytest.mark.parametrize("group", [None, 5000])
def test_the_group_of_the_volume_can_be_left_out(group: int | None) -> None:
    context = _pod(render({"pod": {"fsGroup": group}}))["securityContext"]
    assert context.get("fsGroup") == group
    assert context.get("fsGroupChangePolicy") == ("OnRootMismatch" if group else None)


def test_what_all_pods_have_in_common_reaches_the_pod() -> None:
    toleration = {"key": "dedicated", "operator": "Exists", "effect": "NoSchedule"}
    affinity: dict[str, Any] = {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}}
    values = {
        "pod": {
            "runAsUser": 1001,
            "runAsGroup": 1002,
            "supplementalGroups": [5000, 6000],
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [toleration],
            "affinity": affinity,
            "imagePullSecrets": [{"name": "registry"}],
            "labels": {"team": "1"},
            "annotations": {"example.org/note": "true"},
        }
    }
    objects = render(values)
    template = objects.get("CronJob", contract.HOURLY)["spec"]["jobTemplate"]["spec"]["template"]
    pod = template["spec"]
    context = pod["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"]) == (1001, 1002)
    assert context["supplementalGroups"] == [5000, 6000]
    assert pod["nodeSelector"] == {"disk": "ssd"}
    assert pod["tolerations"] == [toleration]
    assert pod["affinity"] == affinity
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    assert template["metadata"]["labels"]["team"] == "1"
    assert template["metadata"]["annotations"]["example.org/note"] == "true"


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_large_id_stays_a_whole_number(executable: str) -> None:
    """Templates see numbers as floats, and write large ones as 1.00066e+09, which no API server takes."""
    large = 1000660000
    ids = {"runAsUser": large, "runAsGroup": large, "fsGroup": large, "supplementalGroups": [large]}
    context = _pod(render({"pod": ids}, helm=BIN / executable))["securityContext"]
    found = [context["runAsUser"], context["runAsGroup"], context["fsGroup"], *context["supplementalGroups"]]
    assert found == 4 * [large]
    assert {type(number) for number in found} == {int}


@pytest.mark.parametrize(
    ("account", "used", "made"),
    [
        ({}, "stack-backup", ["stack-backup"]),
        ({"name": "backup"}, "backup", ["backup"]),
        ({"create": False, "name": "stack"}, "stack", []),
        ({"create": False}, "default", []),
    ],
    ids=str,
)
def test_the_account_is_made_or_used(account: dict[str, Any], used: str, made: list[str]) -> None:
    objects = render({"serviceAccount": account})
    assert _pod(objects)["serviceAccountName"] == used
    assert [item["metadata"]["name"] for item in objects.of_kind("ServiceAccount")] == made


# -- what pods may reach -------------------------------------------------------------------------------------


def _policies(objects: Objects, labels: dict[str, str]) -> list[dict[str, Any]]:
    """The NetworkPolicies that select a pod with these labels."""
    return [
        item["spec"]
        for item in objects.of_kind("NetworkPolicy")
        if item["spec"]["podSelector"]["matchLabels"].items() <= labels.items()
    ]


def test_every_pod_may_reach_the_database_and_name_service_and_nothing_reaches_it(objects: Objects) -> None:
    for item in objects.of_kind("CronJob"):
        labels = item["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
        (policy,) = _policies(objects, labels)
        assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
        assert "ingress" not in policy
        ports = [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]
        assert ports == [[53, 53], [contract.PORT]]


def test_pods_of_others_are_left_alone(production: Objects) -> None:
    assert _policies(production, {"app": "database"}) == []
    assert (
        _policies(production, {"app.kubernetes.io/name": "stack-backup", "app.kubernetes.io/instance": "x"})
        == []
    )


def test_the_database_is_looked_for_in_the_stacks_namespace_or_where_it_is_said_to_be() -> None:
    peers = [{"ipBlock": {"cidr": "10.0.0.7/32"}}]
    for given, expected in (([], [{"podSelector": {}}]), (peers, peers)):
        values = {"networkPolicy": {"databasePeers": given}, "database": {"port": 6432}}
        (item,) = render(values).of_kind("NetworkPolicy")
        assert item["spec"]["egress"][-1] == {"to": expected, "ports": [{"port": 6432, "protocol": "TCP"}]}


def test_the_policy_can_be_left_out() -> None:
    assert render({"networkPolicy": {"enabled": False}}).of_kind("NetworkPolicy") == []
