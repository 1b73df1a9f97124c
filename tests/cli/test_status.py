"""What is red, from a release's objects alone."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from rich.console import Console

from stack_backup import show, status
from stack_backup.overview import ClusterStatus
from stack_backup.runs import Object
from stack_backup.waiting import View
from stack_backup_jobs import run

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
    over = _run("2026-11-25T11:54:00Z", 76, {"outcome": "proved"})
    assert _status(_cronjob(), bad, over).red == "the last run was over budget"
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


def _stack(*cronjobs: Object, missing: bool = False) -> status.StackStatus:
    """A stack of jobs that have not run yet, and of those that have a success."""
    jobs = [_status(one) for one in cronjobs]
    found = status.of_stack(_release(cronjobs[0], missing=missing), NOW).missing
    return status.StackStatus("production-stack", jobs, found)


def _release(cronjob: Object, *, missing: bool) -> Release:
    release = Release(cronjob)
    if missing:
        release.events, release.claims, release.secrets = [], [], False
    return release


def _shown(stack: status.StackStatus, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    show.status(console, stack)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


WELL = "2026-11-25T11:52:00Z"


@pytest.mark.parametrize(
    ("cronjob", "says", "red"),
    [
        (_cronjob(success=WELL), "All is well.", False),
        (_cronjob("@yearly", suspend=True), "All is well.", False),
        (_cronjob("41 0 8 12 *"), "1 of 1 jobs has never succeeded.", False),
        (_cronjob(), "1 of 1 jobs is red.", True),
        (_cronjob(suspend=True, success=WELL), "1 suspended.", False),
        (_cronjob(suspend=True), "1 of 1 jobs has never succeeded.", False),
    ],
    ids=["success", "by hand", "not yet due", "never, and due", "suspended", "suspended and never"],
)
def test_what_has_never_succeeded_is_not_well(cronjob: Object, says: str, red: bool) -> None:
    """A new release is not red before its first run was due."""
    stack = _stack(cronjob)
    assert _shown(stack).splitlines()[-1] == says
    assert stack.red is red


def test_what_is_missing_is_named_and_red() -> None:
    stack = _stack(_cronjob(success=WELL), missing=True)
    assert stack.red
    assert [one["object"] for one in stack.as_dict()["missing"]] == [
        "claim database-backup",
        "Secret database",
    ]
    shown = " ".join(_shown(stack).split())
    assert 'claim database-backup (NotFound): persistentvolumeclaim "database-backup" not found.' in shown
    assert shown.endswith("2 missing.")


def _waiting(release_of: Any, **pod_is: Any) -> tuple[status.StackStatus, status.JobStatus]:
    """A stack whose newest run has a pod that is this, and nothing else."""
    job, pod = _run("2026-11-25T11:59:00Z", 0)
    job |= {"status": {}, "spec": _cronjob()["spec"]["jobTemplate"]["spec"]}
    pod |= {"spec": pod_is.pop("spec", {}), "status": {"phase": "Pending", **pod_is}}
    stack = status.of_stack(release_of(_cronjob(success=WELL), (job, pod)), NOW)
    return stack, stack.jobs[0]


def test_a_run_that_cannot_start_is_red_and_says_why() -> None:
    said = {"reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}
    stack, one = _waiting(Release, conditions=[{"type": "PodScheduled", "status": "False"} | said])
    assert (one.red, [blocker.reason for blocker in one.blockers]) == (
        "its run cannot start",
        ["Unschedulable"],
    )
    assert stack.red
    assert "cannot start" in _shown(stack)
    assert "1 Insufficient cpu." in _shown(stack)


class Pulling(Release):
    """Its pod's image is being pulled."""

    claims: ClassVar[list[Object]] = [{"metadata": {"name": "database-backup"}, "status": {"phase": "Bound"}}]
    events: ClassVar[list[Object]] = [
        {
            "metadata": {},
            "involvedObject": {"kind": "Pod", "name": "p"},
            "type": "Normal",
            "reason": "Pulling",
            "message": 'Pulling image "postgres:15"',
            "lastTimestamp": "2026-11-25T11:59:01Z",
        }
    ]


def test_a_run_whose_image_is_being_pulled_starts_and_is_not_red() -> None:
    stack, one = _waiting(Pulling, spec={"nodeName": "n"})
    assert (one.red, stack.red, [blocker.reason for blocker in one.blockers]) == ("", False, ["Pulling"])
    assert "starting" in _shown(stack)


class Unclaimed(Release):
    """Its claim is not there."""

    claims: ClassVar[list[Object]] = []


def test_what_a_run_waits_for_is_not_missing_a_second_time() -> None:
    stack, one = _waiting(Unclaimed, spec={"volumes": VOLUMES})
    assert [blocker.object for blocker in one.blockers] == ["claim database-backup"]
    assert (stack.missing, stack.red) == ([], True)


class Explained(Release):
    """Its last run's pods are gone; an event is left."""

    events: ClassVar[list[Object]] = [
        {
            "metadata": {},
            "involvedObject": {"kind": "Job", "name": "job-2026-11-25T11:51:00Z"},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": "Error creating: pods is forbidden: exceeded quota: q",
            "lastTimestamp": "2026-11-25T11:52:00Z",
        }
    ]

    def find(self, kind: str, labels: str | None = None) -> list[Object]:
        return [] if kind == "Pod" else super().find(kind, labels)


def test_a_run_that_ended_without_a_pod_says_what_refused_it() -> None:
    job, pod = _run("2026-11-25T11:51:00Z", 1)
    job["spec"] = _cronjob()["spec"]["jobTemplate"]["spec"]
    (one,) = status.of_stack(Explained(_cronjob(), (job, pod)), NOW).jobs  # type: ignore[arg-type]
    assert one.last_run is not None
    assert "could not start" in one.last_run.message
    assert "exceeded quota: q" in one.last_run.message


def test_the_table_of_every_job_fits_80_columns() -> None:
    """No line is wrapped or cut: a row a job."""
    rows = []
    for name, at in [(name, at) for name in JOBS for at in (None, "2026-11-01T00:00:00Z")]:
        for message in ({"outcome": "published"}, None):
            runs = [_run("2026-11-24T11:51:00Z", 0 if message else 137, message)]
            cronjob = _cronjob("31 10 * * 0", success=at)
            rows.append(dataclasses.replace(_status(cronjob, *runs), job=name))
    lines = _shown(status.StackStatus("stack-a-long-name-default", rows, [])).splitlines()
    assert max(map(len, lines)) <= 80
    starts = [line for line in lines if line.strip().startswith(tuple(JOBS)) and "31 10 * * 0" in line]
    assert len(starts) == len(rows)
    assert not [line for line in lines if line.startswith("   ") and line.strip()]


JOBS = tuple(job for job in run.JOBS if job != "list")


def test_stacks_of_two_clusters_stand_side_by_side_in_80_columns() -> None:
    backup, drill, check = (_status(_cronjob(success=at)) for at in (WELL, None, "2026-11-20T00:00:00Z"))
    production = [
        dataclasses.replace(backup, job="postgres-backup-hourly"),
        dataclasses.replace(drill, job="database-drill"),
    ]
    alice = [dataclasses.replace(check, job="replica-check")]
    clusters = [
        ClusterStatus("production", [status.StackStatus("production-stack", production, [])]),
        ClusterStatus("development", [status.StackStatus("stack-alice-default", alice, [])]),
        ClusterStatus("elsewhere", [], "The cluster does not answer."),
    ]
    console = Console(file=io.StringIO(), width=80, highlight=False)
    show.overview(console, clusters)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.startswith("  ")}
    assert rows["production-stack"] == ["8", "min", "never", "-", "-", "-", "1", "red"]
    assert rows["stack-alice-default"] == ["-", "-", "5", "days", "-", "-", "1", "red"]
    assert max(map(len, lines)) <= 80
    assert lines.index("production") < lines.index("development") < lines.index("elsewhere")
    assert "elsewhere: The cluster does not answer." in lines
    assert any(line.startswith("production-stack database-drill: no success since") for line in lines)
    assert [cluster.red for cluster in clusters] == [True, True, True]
