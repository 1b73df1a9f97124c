"""The exporter as the chart has it: in its own pod, of runs that real jobs have left in the history."""

from __future__ import annotations

import sys
import time

from prometheus_client.parser import text_string_to_metric_families

from stack_backup_jobs.formats import seconds_of, time_of
from stack_backup_lab.runtime.local import LocalStack
from tests.jobs.hourly import JOB, Hourly

ASK = """import sys, urllib.request
print(urllib.request.urlopen("http://127.0.0.1:8080/metrics", timeout=5).read().decode())"""


def metrics(stack: LocalStack) -> dict[str, float]:
    """What a scrape within the stack's network gets, of the hourly backup; nothing while nobody answers."""
    done = stack.namespaces.run([sys.executable, "-c", ASK], check=False)
    return {
        sample.name.removeprefix("stack_backup_"): sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
        if sample.labels.get("cronjob", JOB) == JOB
    }


def test_it_tells_of_real_runs_and_of_one_that_ends_while_it_serves(hourly: Hourly) -> None:
    hourly.install({"monitoring": {"exporter": {"enabled": True}}})
    stack = hourly.stack
    stack.volume("history").clear()
    name = hourly.backup()
    with stack.serving("stack-backup-exporter") as pod:
        end = time.monotonic() + 60
        while not (found := metrics(stack)).get("last_run_timestamp_seconds"):
            assert pod.running, pod.log
            assert time.monotonic() < end, pod.log
            time.sleep(0.2)
        assert found["last_exit_code"] == 0
        assert found["last_run_timestamp_seconds"] == found["last_success_timestamp_seconds"]
        assert found["dump_timestamp_seconds"] == seconds_of(time_of(name))
        assert found["dump_bytes"] == len(hourly.read(name))
        assert found["dump_rows"] == hourly.rows(name)
        assert found["dump_suspicious"] == 0
        assert 0 < found["volume_free_bytes"] < found["volume_size_bytes"]
        red, end = hourly.run(environment={"DATABASE_SUPERUSER": "nobody"}), time.monotonic() + 60
        while not (found := metrics(stack))["last_exit_code"]:
            assert time.monotonic() < end, pod.log
            time.sleep(0.2)
        assert found["last_exit_code"] == red.exit_code
        assert found["dump_timestamp_seconds"] == seconds_of(time_of(name))
        pod.terminate()
        assert pod.exit_code == 0
        assert "Traceback" not in pod.log
