"""The NFS volumes of every stack on a live API server: taken, and bound to the claims that are meant."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from stack_backup_lab.render import render
from stack_backup_lab.runtime.cluster import ClusterRuntime
from stack_backup_lab.runtime.kube import Object
from stack_backup_lab.runtime.manifests import namespace_object
from tests.render.stacks import STACKS

NAMESPACES = {
    "production": "stack-test-nfs-a",
    "staging": "stack-test-nfs-b",
    "developer": "stack-test-nfs-c",
}


@pytest.fixture(scope="module")
def volumes(runtime: ClusterRuntime) -> Iterator[list[Object]]:
    """The volumes and static claims of three stacks side by side, as the chart renders them."""
    made: list[Object] = []
    for stack, namespace in NAMESPACES.items():
        if not runtime.kube.get("Namespace", namespace):
            runtime.kube.create(namespace_object(namespace))
        objects = render(STACKS[stack][0], namespace=namespace)
        claims = [one for one in objects.of_kind("PersistentVolumeClaim") if "volumeName" in one["spec"]]
        found = [*objects.of_kind("PersistentVolume"), *claims]
        body = json.dumps({"apiVersion": "v1", "kind": "List", "items": found}).encode()
        runtime.kube.run("apply", "--server-side", "--filename=-", stdin=body)
        made += found
    yield made
    for namespace in NAMESPACES.values():
        runtime.kube.delete("Namespace", namespace)
    for one in made:
        if one["kind"] == "PersistentVolume":
            runtime.kube.delete("PersistentVolume", one["metadata"]["name"])


def test_every_claim_is_bound_to_the_volume_of_its_own_stack(
    runtime: ClusterRuntime, volumes: list[Object]
) -> None:
    claims = [one for one in volumes if one["kind"] == "PersistentVolumeClaim"]
    assert len(claims) == 6
    for claim in claims:
        name, namespace = claim["metadata"]["name"], claim["metadata"]["namespace"]
        bound = runtime.kube.wait(
            "PersistentVolumeClaim",
            lambda found: [one for one in found if one["status"].get("phase") == "Bound"],
            what=f"claim {name} of {namespace} bound",
            timeout=60,
            namespace=namespace,
            name=name,
        )
        volume = runtime.kube.get("PersistentVolume", bound[0]["spec"]["volumeName"])
        assert volume is not None
        assert volume["spec"]["claimRef"]["namespace"] == namespace
        assert volume["spec"]["claimRef"]["name"] == name
        assert volume["spec"]["nfs"]["server"] == "130.246.213.182"
        assert volume["spec"]["nfs"].get("readOnly", False) == (namespace != NAMESPACES["production"])
