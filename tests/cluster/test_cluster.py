"""The test cluster itself, where its faults would show as faults of a backup."""

from __future__ import annotations

import json

from stack_backup_lab.runtime.cluster import ClusterRuntime


def test_kube_proxy_reads_its_rules_back_as_it_wrote_them(runtime: ClusterRuntime) -> None:
    """Else it removes them all at its next full round, an hour after its start: no Service works then."""
    (proxy,) = runtime.kube.find("Pod", "kube-system", labels="k8s-app=kube-proxy")
    command = ("nft", "--json", "list", "map", "ip", "kube-proxy", "service-ips")
    listed = json.loads(runtime.kube.execute("kube-system", proxy["metadata"]["name"], *command))
    (services,) = (item["map"]["elem"] for item in listed["nftables"] if "map" in item)
    assert {protocol for (key, _) in services for protocol in key["concat"][1:2]} == {"tcp", "udp"}
