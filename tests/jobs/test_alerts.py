"""A real Prometheus scrapes the exporter beside a stack: a backup that fails is pending, then firing.

Where promtool holds the rules against series that a test has written, here the series are those of real runs.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup_jobs.formats import seconds_of
from stack_backup_lab.bed import prometheus
from stack_backup_lab.render import CHART, merge_values, render
from stack_backup_lab.runtime.sandbox import Namespaces
from tests.jobs.hourly import JOB, NAMESPACE, VALUES, Hourly
from tests.outcomes import green, red

EXPORTER, PROMETHEUS = 9641, 9640
PENDING = "4s"
"""In the place of the rules' own minutes, so that a test sees an alert wait and then fire."""
MONITORING = {
    "exporter": {"enabled": True},
    "alerts": {"enabled": True, "runbookUrl": "https://docs.example.org/%s"},
}
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


class Watch:
    """What Prometheus knows of the hourly backup."""

    def __init__(self, namespaces: Namespaces, logs: list[Path]) -> None:
        self._namespaces, self._logs = namespaces, logs

    def _get(self, path: str) -> Any:
        address = f"http://127.0.0.1:{PROMETHEUS}/api/v1/{path}"
        done = self._namespaces.run([sys.executable, "-c", ASK, address], check=False)
        return json.loads(done.stdout)["data"] if done.returncode == 0 else None

    def alerts(self) -> dict[str, str]:
        """The alerts that are not quiet, with their states."""
        found = (self._get("alerts") or {"alerts": []})["alerts"]
        return {
            one["labels"]["alertname"]: one["state"] for one in found if one["labels"].get("cronjob") == JOB
        }

    def value(self, series: str) -> float | None:
        found = self._get(f"query?query={series}%7Bcronjob=%22{JOB}%22%7D")
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            logs = "\n".join(log.read_text(errors="replace") for log in self._logs)
            assert time.monotonic() < end, f"{self.alerts()}\n{logs}"
            time.sleep(0.3)

    def goes_off(self, alert: str) -> None:
        """It is seen to wait before it fires."""
        states: list[str] = []

        def fires() -> bool:
            states.append(self.alerts().get(f"StackBackup{alert}", "inactive"))
            return states[-1] == "firing"

        self.until(fires)
        assert list(dict.fromkeys(states))[-2:] == ["pending", "firing"]

    def is_quiet(self, alert: str) -> bool:
        return f"StackBackup{alert}" not in self.alerts()


def _rules() -> dict[str, Any]:
    objects = render(merge_values(VALUES, {"monitoring": MONITORING}), namespace=NAMESPACE)
    groups = objects.get("PrometheusRule", "stack-backup")["spec"]["groups"]
    for group in groups:
        for rule in group["rules"]:
            rule["for"] = PENDING
    return {"groups": groups}


@pytest.fixture
def watch(hourly: Hourly, tmp_path: Path) -> Iterator[Watch]:
    """Prometheus and the exporter beside the stack, whose history is empty."""
    hourly.stack.volume("history").clear()
    namespaces = hourly.stack.namespaces
    claim = namespaces.folder / "claims" / "history"
    target = {"targets": [f"127.0.0.1:{EXPORTER}"], "labels": {"namespace": NAMESPACE}}
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(tmp_path / "rules.yaml")],
        "scrape_configs": [{"job_name": "exporter", "static_configs": [target]}],
    }
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(_rules()))
    (tmp_path / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    exporter = ["env", f"PYTHONPATH={CHART / 'files'}", f"HISTORY_VOLUME={claim}", f"JOBS={JOB}"]
    exporter += [f"PORT={EXPORTER}", "PAUSE_SECONDS=1", sys.executable, "-m", "stack_backup_jobs.exporter"]
    server = [str(prometheus.ensure() / "prometheus"), f"--config.file={tmp_path / 'prometheus.yaml'}"]
    server += [f"--storage.tsdb.path={tmp_path / 'data'}", f"--web.listen-address=127.0.0.1:{PROMETHEUS}"]
    logs = [tmp_path / "exporter.log", tmp_path / "prometheus.log"]
    with started(namespaces, exporter, logs[0]), started(namespaces, server, logs[1]):
        yield Watch(namespaces, logs)


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
    watch.until(lambda: watch.alerts().get("StackBackupJobAbsent") == "firing")


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
