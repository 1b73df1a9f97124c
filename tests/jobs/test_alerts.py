"""A real Prometheus scrapes the exporter beside a stack: a backup that fails is pending, then firing.

Where promtool holds the rules against series that a test has written, here the series are those of real runs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from stack_backup_jobs.formats import seconds_of
from stack_backup_lab.render import CHART, merge_values, render
from stack_backup_lab.runtime.sandbox import Namespaces
from tests import alerting
from tests.alerting import MONITORING, Watch
from tests.jobs.hourly import JOB, NAMESPACE, VALUES, Hourly
from tests.outcomes import green, red

EXPORTER, PROMETHEUS = 9641, 9640
ASK = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=5).read().decode())"


@contextmanager
def started(namespaces: Namespaces, command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server inside the stack, which ends with the block, or with the stack."""
    with log.open("wb") as output:
        server = namespaces.popen(command, output)
    try:
        yield server
    finally:
        with suppress(ProcessLookupError):
            server.send_signal(signal.SIGKILL)
        server.wait()


def _rules() -> list[Any]:
    objects = render(merge_values(VALUES, {"monitoring": MONITORING}), namespace=NAMESPACE)
    groups: list[Any] = objects.get("PrometheusRule", "stack-backup")["spec"]["groups"]
    return groups


@pytest.fixture
def watch(hourly: Hourly, tmp_path: Path) -> Iterator[Watch]:
    """Prometheus and the exporter beside the stack, whose history is empty."""
    hourly.stack.volume("history").clear()
    namespaces = hourly.stack.namespaces
    claim = namespaces.folder / "claims" / "history"
    target = {"targets": [f"127.0.0.1:{EXPORTER}"], "labels": {"namespace": NAMESPACE}}
    scraped = {"job_name": "exporter", "static_configs": [target]}
    exporter = ["env", f"PYTHONPATH={CHART / 'files'}", f"HISTORY_VOLUME={claim}", f"JOBS={JOB}"]
    exporter += [f"PORT={EXPORTER}", "PAUSE_SECONDS=1", sys.executable, "-m", "stack_backup_jobs.exporter"]
    server = alerting.server(tmp_path, PROMETHEUS, _rules(), [scraped])

    def answer(path: str) -> Any:
        address = f"http://127.0.0.1:{PROMETHEUS}/api/v1/{path}"
        done = namespaces.run([sys.executable, "-c", ASK, address], check=False)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else None

    logs = [tmp_path / "exporter.log", tmp_path / "prometheus.log"]
    with started(namespaces, exporter, logs[0]), started(namespaces, server, logs[1]):
        yield Watch(answer, JOB, logs)


def test_a_backup_that_fails_is_told_of_and_one_that_succeeds_ends_it(hourly: Hourly, watch: Watch) -> None:
    good = green(hourly.run(), "published")
    watch.until(lambda: watch.value("stack_backup_last_success_timestamp_seconds") is not None)
    assert watch.value("stack_backup_last_exit_code") == 0
    assert watch.is_quiet("JobFailed")
    assert watch.value("stack_backup_dump_bytes") == good.verdict["bytes"]

    bad = red(hourly.run(environment={"COMPRESSOR": "none"}), 64)
    watch.goes_off("JobFailed")
    assert watch.value("stack_backup_last_exit_code") == bad.verdict["exit"]

    green(hourly.run(), "published")
    watch.until(lambda: watch.is_quiet("JobFailed"))
    # kube-state-metrics is nowhere here, and that is told, too.
    watch.until(lambda: watch.alerts().get("JobAbsent") == "firing")


def test_a_backup_that_has_not_succeeded_for_hours_is_late(hourly: Hourly, watch: Watch) -> None:
    """Its history is set back: what ended just now ended three hours ago."""
    green(hourly.run(), "published")
    history = hourly.stack.volume("history")
    (name,) = history.list(JOB)
    record = json.loads(history.read(f"{JOB}/{name}"))
    watch.until(lambda: watch.value("stack_backup_last_success_timestamp_seconds") is not None)
    assert watch.is_quiet("JobLate")
    long_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3 * 3600))
    history.remove(f"{JOB}/{name}")
    history.write(
        f"{JOB}/{long_ago}.{name.partition('.')[2]}", json.dumps(record | {"ended": long_ago}).encode()
    )
    watch.goes_off("JobLate")
    assert watch.value("stack_backup_last_success_timestamp_seconds") == seconds_of(long_ago)
