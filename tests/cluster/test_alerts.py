"""Alerts on a cluster, from its jobs to Prometheus: real CronJobs, a real kube-state-metrics, the release's
own exporter, and the rules as the API server keeps them, by the definitions of Prometheus Operator.

What only the passing of hours shows is promtool's (tests/render/test_alerts.py).
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from stack_backup_lab.bed import tools
from stack_backup_lab.paths import BIN
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.runtime.kube import PortForward
from stack_backup_lab.story.dashboard import free_port
from tests import alerting
from tests.alerting import MONITORING, Watch
from tests.cluster.conftest import VALUES
from tests.outcomes import green, red
from tests.render import contract

NAMESPACE = "stack-test-alerts"
WATCHED = merge_values(
    VALUES,
    {
        "volumes": {"history": {"size": "64Mi"}},
        "monitoring": {**MONITORING, "podMonitor": {"enabled": True}},
    },
)
EXPORTER = 8080
SELECTOR = re.compile(r"\w*\{[^{}]*\}")


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as server:
        try:
            yield
        finally:
            server.kill()


def _answer_at(address: str) -> Any:
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return json.load(answer)["data"]
    except (urllib.error.URLError, ConnectionError):
        return None


@pytest.fixture(scope="module")
def stack(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A release with all of its monitoring."""
    with runtime.stack(NAMESPACE) as stack:
        stack.install(WATCHED)
        stack.database.execute("CREATE TABLE note AS SELECT 'beside the application' AS text")
        yield stack


@pytest.fixture(scope="module")
def watch(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watch]:
    tools.ensure("kube-state-metrics")
    folder = tmp_path_factory.mktemp("prometheus")
    pods = stack.kube.wait(
        "Pod",
        lambda pods: [pod for pod in pods if pod["status"]["phase"] == "Running"],
        what="the exporter",
        timeout=120,
        namespace=NAMESPACE,
        labels="app.kubernetes.io/component=exporter",
    )
    ports = {name: free_port() for name in ("metrics", "telemetry", "prometheus")}
    state = [str(BIN / "kube-state-metrics"), f"--kubeconfig={stack.kube.kubeconfig}"]
    state += [f"--namespaces={NAMESPACE}", "--resources=cronjobs,jobs", "--host=127.0.0.1"]
    state += ["--telemetry-host=127.0.0.1", f"--port={ports['metrics']}"]
    state += [f"--telemetry-port={ports['telemetry']}"]
    exporter = PortForward(stack.kube, NAMESPACE, pods[0]["metadata"]["name"], EXPORTER)
    scraped = [
        _scrape("kube-state-metrics", ports["metrics"]),
        _scrape("exporter", exporter.port(), namespace=NAMESPACE),
    ]
    rules = stack.kube.get("PrometheusRule", "stack-backup", NAMESPACE)
    assert rules is not None
    server = alerting.server(folder, ports["prometheus"], rules["spec"]["groups"], scraped)
    logs = [folder / "kube-state-metrics.log", folder / "prometheus.log"]

    def answer(path: str) -> Any:
        return _answer_at(f"http://127.0.0.1:{ports['prometheus']}/api/v1/{path}")

    with ExitStack() as servers:
        servers.callback(exporter.close)
        servers.enter_context(_running(state, logs[0]))
        servers.enter_context(_running(server, logs[1]))
        yield Watch(answer, contract.HOURLY, logs)


def _scrape(name: str, port: int, **labels: str) -> dict[str, Any]:
    """`honor_labels`: kube-state-metrics' own namespace is the CronJob's."""
    target = {"targets": [f"127.0.0.1:{port}"], "labels": labels}
    return {"job_name": name, "honor_labels": True, "static_configs": [target]}


def _with_password(stack: ClusterStack, password: str) -> None:
    stack.kube.patch(
        "Secret", contract.SECRET, NAMESPACE, {"stringData": {contract.SECRET_KEYS["superuser"]: password}}
    )


def test_a_backup_that_fails_is_told_of_and_one_that_succeeds_ends_it(
    stack: ClusterStack, watch: Watch
) -> None:
    green(stack.run(contract.HOURLY), "published")
    watch.until(lambda: watch.value("kube_cronjob_status_last_successful_time") is not None)
    watch.until(lambda: watch.value("stack_backup_last_success_timestamp_seconds") is not None)
    watch.until(lambda: watch.alerts() == {})

    _with_password(stack, "another")
    red(stack.run(contract.HOURLY), 77)
    watch.goes_off("JobFailed")

    _with_password(stack, stack.passwords[contract.SUPERUSER])
    green(stack.run(contract.HOURLY), "published")
    watch.until(lambda: watch.alerts() == {})


def test_kube_state_metrics_has_every_series_that_the_rules_ask_for(
    stack: ClusterStack, watch: Watch
) -> None:
    """By name and labels, as they stand in the rules; a run that failed and one that was green are over."""
    rules = stack.kube.get("PrometheusRule", "stack-backup", NAMESPACE)
    expressions = [rule["expr"] for group in rules["spec"]["groups"] for rule in group["rules"]]
    asked = {selector for text in expressions for selector in SELECTOR.findall(text) if "kube_" in selector}
    mine = {selector for selector in asked if contract.HOURLY in selector or "condition" in selector}
    assert len(mine) >= 6
    assert [selector for selector in sorted(mine) if not watch.knows(selector)] == []


def test_a_job_that_is_suspended_is_told_of(stack: ClusterStack, watch: Watch) -> None:
    for suspend in (True, False):
        stack.kube.patch("CronJob", contract.HOURLY, NAMESPACE, {"spec": {"suspend": suspend}})
        if suspend:
            watch.goes_off("JobSuspended")
    watch.until(lambda: watch.alerts() == {})


def test_a_job_that_was_deleted_is_told_of(stack: ClusterStack, watch: Watch) -> None:
    stack.kube.delete("CronJob", contract.HOURLY, NAMESPACE)
    watch.goes_off("JobAbsent")
    stack.install(WATCHED)
    watch.until(lambda: watch.alerts() == {})
