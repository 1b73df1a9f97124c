"""What is red, from a release's objects alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from stack_backup import status
from stack_backup.runs import Object
from stack_backup.waiting import View

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
VOLUMES = [
    {"name": "database-backup", "persistentVolumeClaim": {"claimName": "database-backup"}},
    {"name": "database-secret", "secret": {"secretName": "database"}},
]


class Release:
    """A release of one CronJob, without a cluster."""

    namespace = "production-stack"
    events: list[Object] | None = None
    claims: list[Object] | None = None
    secrets: bool | None = None

    def __init__(self, cronjob: Object, *runs: tuple[Object, Object]) -> None:
        self._cronjob, self._runs = cronjob, runs

    def cronjobs(self) -> dict[str, Object]:
        return {self._cronjob["metadata"]["name"]: self._cronjob}

    def find(self, kind: str, labels: str | None = None) -> list[Object]:  # noqa: ARG002
        return [run[kind == "Pod"] for run in self._runs]

    def view(self) -> View:
        return View(self.events, self.claims)

    def exists(self, kind: str, name: str) -> bool | None:  # noqa: ARG002
        return self.secrets


def _cronjob(schedule: str = "51 * * * *", *, suspend: bool = False, success: str | None = None) -> Object:
    return {
        "metadata": {"name": "job", "uid": "u", "creationTimestamp": "2026-11-01T00:00:00Z"},
        "spec": {
            "schedule": schedule,
            "timeZone": "Etc/UTC",
            "suspend": suspend,
            "startingDeadlineSeconds": 600,
            "jobTemplate": {
                "spec": {"activeDeadlineSeconds": 2700, "template": {"spec": {"volumes": VOLUMES}}}
            },
        },
        "status": {} if success is None else {"lastSuccessfulTime": success},
    }


def _run(began: str, code: int, message: dict[str, Any] | None = None) -> tuple[Object, Object]:
    """A Job and its pod that ended a minute after `began`."""
    ended = began.replace(":00Z", ":30Z")
    kind = "Failed" if code else "Complete"
    condition = {"type": kind, "status": "True", "lastTransitionTime": ended, "reason": "PodFailurePolicy"}
    job: Object = {
        "metadata": {
            "name": f"job-{began}",
            "creationTimestamp": began,
            "ownerReferences": [{"uid": "u"}],
        },
        "status": {"startTime": began, "conditions": [condition]}
        | ({} if code else {"completionTime": ended}),
    }
    if not code:
        job["status"]["completionTime"] = ended
    text = "" if message is None else json.dumps({"job": "job", "exit": code, **message})
    state = {"terminated": {"exitCode": code, "message": text}}
    pod = {
        "metadata": {
            "name": "p",
            "creationTimestamp": began,
            "labels": {"batch.kubernetes.io/job-name": f"job-{began}"},
        },
        "status": {"containerStatuses": [{"name": "job", "containerID": "c", "state": state}]},
    }
    return job, pod


def _status(cronjob: Object, *runs: tuple[Object, Object]) -> status.JobStatus:
    (one,) = status.of_stack(Release(cronjob, *runs), NOW).jobs  # type: ignore[arg-type]
    return one


def test_a_fresh_success_is_well_and_the_next_run_is_known() -> None:
    one = _status(_cronjob(), _run("2026-11-25T11:51:00Z", 0, {"outcome": "published"}))
    assert one.red == ""
    assert one.last_success == "2026-11-25T11:51:30Z"
    assert one.last_success_age == 510
    assert one.next_run == "2026-11-25T12:51:00Z"
    assert one.last_run is not None
    assert one.last_run.verdict == {"job": "job", "exit": 0, "outcome": "published"}


def test_the_newest_run_counts_whatever_came_before() -> None:
    good, bad = _run("2026-11-25T10:51:00Z", 0), _run("2026-11-25T11:51:00Z", 65, {"message": "It shrank."})
    assert _status(_cronjob(), good, bad).red == "the last run failed"
    later = _run("2026-11-25T11:55:00Z", 0)
    assert _status(_cronjob(), bad, later).red == ""


def test_a_failure_brings_the_program_s_sentence_and_code() -> None:
    one = _status(_cronjob(), _run("2026-11-25T11:51:00Z", 73, {"message": "The volume is full."}))
    assert one.last_run is not None
    assert (one.last_run.exit_code, one.last_run.message) == (73, "The volume is full.")


@pytest.mark.parametrize(
    ("success", "red"),
    [
        # 10:51 may begin until 11:01 and end until 11:46; 11:51 may still be at it.
        ("2026-11-25T10:52:00Z", False),
        ("2026-11-25T10:50:00Z", True),
        (None, True),
    ],
)
def test_a_run_that_should_have_ended_well_by_now_is_missed(success: str | None, red: bool) -> None:
    one = _status(_cronjob(success=success))
    assert bool(one.red) is red
    if red:
        assert one.red == "no success since the run of 2026-11-25 10:51 UTC was due"


def test_a_new_release_has_missed_nothing_yet() -> None:
    cronjob = _cronjob()
    cronjob["metadata"]["creationTimestamp"] = "2026-11-25T11:00:00Z"
    assert _status(cronjob).red == ""


def test_a_schedule_that_is_held_misses_nothing_and_has_no_next_run() -> None:
    one = _status(_cronjob(suspend=True))
    assert (one.suspended, one.red, one.next_run) == (True, "", None)
    assert one.schedule == "51 * * * *"


def test_a_job_for_runs_by_hand_is_not_held() -> None:
    one = _status(_cronjob("@yearly", suspend=True))
    assert (one.suspended, one.schedule, one.red) == (False, "", "")


@pytest.mark.parametrize(
    ("schedule", "next_run"),
    [("@hourly", "2026-11-25T13:00:00Z"), ("4 2 * * *", "2026-11-26T02:04:00Z"), ("@every 1h", None)],
)
def test_every_schedule_has_its_next_run_or_none(schedule: str, next_run: str | None) -> None:
    assert _status(_cronjob(schedule)).next_run == next_run


def test_a_schedule_is_in_its_own_time_zone() -> None:
    cronjob = _cronjob("30 1 * * *")
    cronjob["spec"]["timeZone"] = "America/New_York"
    assert _status(cronjob).next_run == "2026-11-26T06:30:00Z"
