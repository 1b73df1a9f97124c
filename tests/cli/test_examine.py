"""The doctor's Jobs, and what the command line makes of what they find; without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from stack_backup import examine, show
from stack_backup.runs import JobResult, Object
from stack_backup.waiting import Blocker
from stack_backup_jobs.formats import FAILED, OK, SKIPPED, WARNING, Finding, verdict_of
from stack_backup_lab.render import CHART, render
from tests.render.stacks import STACKS


@pytest.fixture
def cronjob() -> Object:
    values, namespace = STACKS["ci/everything"]
    return render(values, namespace=namespace).get("CronJob", examine.JOB)


def _pod(cronjob: Object, subject: str) -> dict[str, Any]:
    pod: dict[str, Any] = examine.examining_job(cronjob, subject)["spec"]["template"]["spec"]
    return pod


def test_each_subject_has_a_pod_that_waits_for_no_other_s_volume(cronjob: Object) -> None:
    found = examine.subjects(cronjob)
    volumes = [
        one["name"]
        for one in cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in one
    ]
    assert sorted(found) == sorted(["database", "offsite", *volumes])
    for subject in found:
        pod = _pod(cronjob, subject)
        claims = [one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one]
        assert claims == [subject] * (subject in volumes)
        (container,) = pod["containers"]
        assert {one["name"] for one in container["volumeMounts"]} <= {one["name"] for one in pod["volumes"]}
        (asked,) = [one["value"] for one in container["env"] if one["name"] == "SUBJECTS"]
        assert asked == subject
        lenders = {one["name"] for one in pod["initContainers"]}
        assert lenders == ({"python", "rclone"} if subject == "offsite" else {"python"})


def test_it_is_no_run_of_the_cronjob_and_keeps_its_way_to_the_database(cronjob: Object) -> None:
    job = examine.examining_job(cronjob, "database")
    assert "ownerReferences" not in job["metadata"]
    assert job["spec"]["backoffLimit"] == 0
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/component"] == examine.JOB, "the policies select by it"


class Run:
    """Stands for a Job of the cluster: the program itself, on a folder of this machine."""

    def __init__(self, volumes: Path, **environment: str) -> None:
        self.pods: list[Object] = []
        self.blockers: list[Blocker] = []
        self._environment = {
            **{
                "JOB": examine.JOB,
                "NAMESPACE": "a-stack",
                "POD_NAME": "doctor-abcde",
                "DEADLINE_SECONDS": "300",
            },
            **{"PGHOST": "localhost", "PGPORT": "1", "PASSWORD_FILE": str(volumes / "none")},
            **{"DATABASE_SUPERUSER": "admin", "DATABASE_NAME": "frag", "DATABASE_OWNER": "fragalysis"},
            **{"SUBJECTS": "media", "VOLUMES": f"media:written:{volumes / 'media'}::0"},
            **{"DUMP_SIZE": "1", "CONFIGURATION_FILE": str(volumes / "none")},
            **environment,
        }

    def follow(self, line: Callable[[str], None], *_: object) -> JobResult:
        done = subprocess.run(
            [sys.executable, "-I", CHART / "files", examine.JOB],
            env={"TMPDIR": os.environ.get("TMPDIR", "/tmp")} | self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        verdict = verdict_of(done.stdout)
        for text in done.stdout.splitlines():
            if not verdict_of(text):
                line(text)
        return JobResult(
            examine.JOB, done.returncode, verdict, done.stdout, 0.0, "Failed" * bool(done.returncode)
        )


def _found(run: Any, subject: str = "media", begun: float | None = None) -> list[Finding]:
    return examine.found(run, subject, time.monotonic() if begun is None else begun, lambda _: None)


def test_what_the_program_finds_is_read(tmp_path: Path) -> None:
    (tmp_path / "media").mkdir()
    found = _found(Run(tmp_path))
    assert {one.result for one in found} == {OK, SKIPPED}
    assert {one.subject for one in found} == {"media"}
    assert not list((tmp_path / "media").iterdir())
    failed = _found(Run(tmp_path, SUBJECTS="database"), "database")
    assert (failed[0].result, failed[0].check) == (FAILED, "secret")
    assert {one.result for one in failed[1:]} == {SKIPPED}


def test_a_program_that_could_not_begin_is_a_finding(tmp_path: Path) -> None:
    (finding,) = _found(Run(tmp_path, VOLUMES="media"))
    assert (finding.result, finding.check) == (FAILED, examine.START)
    assert "VOLUMES" in finding.message


class Waiting:
    """A Job whose pod does not start."""

    def __init__(self, blockers: Sequence[Blocker]) -> None:
        self.pods: list[Object] = [{"status": {"phase": "Pending"}}]
        self.blockers = blockers

    def follow(self, _: object, state: Callable[[str], None], *__: object) -> JobResult:
        state("its pod starts")
        return JobResult(examine.JOB, None, {}, "", 0.0, "DeadlineExceeded")


MOUNT = Blocker("Pod doctor-media", "FailedMount", "mount.nfs: Connection timed out.", "Check the server.")


def test_a_volume_that_is_not_mounted_in_time_is_named_with_the_way_out() -> None:
    (finding,) = _found(Waiting([MOUNT]), begun=time.monotonic() - examine.STARTING - 1)
    assert (finding.result, finding.subject, finding.check) == (FAILED, "media", examine.START)
    assert "mount.nfs: Connection timed out." in finding.message
    assert finding.advice == "Check the server."


def test_an_image_that_is_being_pulled_is_waited_for() -> None:
    pulling = Blocker("Pod doctor-media", "Pulling", "Pulling image.", "Wait.")
    (finding,) = _found(Waiting([pulling]), begun=time.monotonic() - 2 * examine.STARTING)
    assert "DeadlineExceeded" in finding.message


def test_what_a_person_sees_fits_80_columns_and_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    found = [
        Finding(OK, "database", "secret", "The Secret has the passwords."),
        Finding(FAILED, "database", "login", "The server refuses it.", "Correct the Secret."),
        Finding(SKIPPED, "database", "superuser", "It needs what `login` asks."),
        Finding(WARNING, "media-replica", "owner", "It squashes users.", "Set anonuid."),
    ]
    show.findings(Console(width=80, highlight=False), "a-stack", found)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    for words in ("login: The server refuses it. Correct the", "superuser", "owner: It squashes users. Set"):
        assert words in text
    assert "1 of 4 checks failed. 1 warning." in text
