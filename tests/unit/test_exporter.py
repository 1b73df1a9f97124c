"""The exporter as a process: what it answers, also while the volume of the history hangs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stack_backup_jobs.formats import Record
from stack_backup_jobs.metrics import READ
from stack_backup_lab.render import CHART

HOURLY = "postgres-backup-hourly"
LAST = f'stack_backup_last_exit_code{{cronjob="{HOURLY}"}}'


class Exporter:
    def __init__(self, folder: Path, port: int, process: subprocess.Popen[str]) -> None:
        self.folder, self.port, self.process = folder, port, process

    def get(self, path: str = "/metrics", host: str = "127.0.0.1") -> str:
        with urllib.request.urlopen(f"http://{host}:{self.port}{path}", timeout=5) as answer:
            if path == "/metrics":
                assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            text: str = answer.read().decode()
        return text

    def values(self) -> dict[str, float]:
        found = {}
        for family in text_string_to_metric_families(self.get()):
            for sample in family.samples:
                labels = ",".join(f'{name}="{value}"' for name, value in sample.labels.items())
                found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
        return found

    def until(self, met: Callable[[dict[str, float]], object]) -> dict[str, float]:
        end = time.monotonic() + 20
        while not met(found := self.values()):
            assert time.monotonic() < end, found
            time.sleep(0.05)
        return found

    def record(self, ended: str, exit_code: int, job: str = HOURLY) -> Path:
        """As a job writes it: whole, or not there."""
        (self.folder / job).mkdir(exist_ok=True)
        path = self.folder / job / f"{ended}.pod.json"
        verdict = {"job": job, "exit": exit_code, "outcome": "…", "message": "…", "seconds": 1}
        temporary = path.with_name(f".tmp.{path.name}")
        temporary.write_text(Record(ended, ended, "pod", verdict).text())
        temporary.replace(path)
        return path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Exporter]:
    port = free_port()
    environment = {"HISTORY_VOLUME": str(folder), "JOBS": f"{HOURLY} replica-check"}
    environment |= {"PORT": str(port), "PAUSE_SECONDS": "1", "PATH": os.environ["PATH"]}
    command = [sys.executable, "-B", "-m", "stack_backup_jobs.exporter"]
    with subprocess.Popen(
        command, cwd=CHART / "files", env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        exporter = Exporter(folder, port, process)
        try:
            end = time.monotonic() + 20
            while True:
                with contextlib.suppress(urllib.error.URLError):
                    exporter.get("/healthz")
                    break
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.05)
            yield exporter
        finally:
            process.kill()


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    with started(tmp_path) as exporter:
        yield exporter


def test_a_run_is_shown_when_it_has_ended_and_no_other_job_is(exporter: Exporter) -> None:
    exporter.until(lambda found: found[READ] > 0)
    exporter.record("2026-11-25T09:52:30Z", 69)
    exporter.record("2026-11-25T09:53:30Z", 65, "a-job-of-no-release")
    assert exporter.until(lambda found: LAST in found)[LAST] == 69
    exporter.record("2026-11-25T10:52:30Z", 0)
    assert exporter.until(lambda found: found[LAST] == 0)
    assert "a-job-of-no-release" not in exporter.get()


def test_a_damaged_file_hides_no_other_and_one_that_is_removed_is_forgotten(exporter: Exporter) -> None:
    newest = exporter.record("2026-11-25T10:52:30Z", 74)
    exporter.record("2026-11-25T09:52:30Z", 69)
    for number, text in enumerate(["", "{", "[]", "\0", '{"format":1}', '{"format":1,"verdict":[]}']):
        (newest.parent / f"2026-11-25T11:52:3{number}Z.pod.json").write_text(text)
    (newest.parent / "notes.txt").write_text("by hand")
    assert exporter.until(lambda found: LAST in found)[LAST] == 74
    newest.unlink()
    exporter.until(lambda found: found[LAST] == 69)


def test_while_the_volume_hangs_the_last_facts_are_served_with_their_age(exporter: Exporter) -> None:
    """A pipe that nobody writes to hangs whoever opens it, as a file server does that is away."""
    exporter.record("2026-11-25T09:52:30Z", 69)
    exporter.until(lambda found: found.get(LAST) == 69)
    pipe = exporter.folder / HOURLY / "2026-11-25T10:52:30Z.pod.json"
    os.mkfifo(pipe)
    time.sleep(2)  # two readings
    stands = exporter.values()[READ]
    exporter.record("2026-11-25T11:52:30Z", 0)
    time.sleep(2)
    begun = time.monotonic()
    found = exporter.values()
    assert (found[LAST], found[READ]) == (69, stands)
    assert time.monotonic() - begun < 1
    assert exporter.get("/healthz") == "ok\n"
    pipe.open("w").close()  # the server is back
    exporter.until(lambda found: found[LAST] == 0 and found[READ] > stands)


def test_it_ends_at_once_when_it_is_told_to_although_the_volume_hangs(exporter: Exporter) -> None:
    (exporter.folder / HOURLY).mkdir()
    os.mkfifo(exporter.folder / HOURLY / "2026-11-25T10:52:30Z.pod.json")
    time.sleep(1.5)
    exporter.process.send_signal(signal.SIGTERM)
    assert exporter.process.wait(5) == 0


def test_a_volume_that_is_away_is_said_once_and_its_facts_stay(exporter: Exporter) -> None:
    exporter.record("2026-11-25T09:52:30Z", 69)
    exporter.until(lambda found: found.get(LAST) == 69)
    exporter.folder.rename(away := exporter.folder.with_name("away"))
    time.sleep(3)
    stands = exporter.values()
    assert stands[LAST] == 69
    away.rename(exporter.folder)
    exporter.until(lambda found: found[READ] > stands[READ])
    exporter.process.terminate()
    said = (exporter.process.stdout or contextlib.nullcontext()).read()  # type: ignore[union-attr]
    assert said.count("The history cannot be read: ") == 1


def test_a_client_that_says_nothing_keeps_no_other(exporter: Exporter) -> None:
    with contextlib.ExitStack() as silent:
        for _ in range(20):
            silent.enter_context(socket.create_connection(("127.0.0.1", exporter.port)))
        assert exporter.get("/healthz") == "ok\n"


def test_it_answers_over_ipv6_too_and_nothing_but_what_it_is_for(exporter: Exporter) -> None:
    assert exporter.get("/healthz", "[::1]") == "ok\n"
    with pytest.raises(urllib.error.HTTPError, match="404"):
        exporter.get("/etc/passwd")
    request = urllib.request.Request(f"http://127.0.0.1:{exporter.port}/metrics", data=b"x")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=5)
