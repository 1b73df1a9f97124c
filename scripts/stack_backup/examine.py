"""What the doctor finds of the server, the off-site store and each volume, each in a Job of its own, at once.

One that cannot be mounted keeps its own pod from starting, and no other: that is a finding, too. The Jobs are
made from the release's CronJob of the doctor, and deleted when they have told.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from stack_backup import follow
from stack_backup.follow import Run
from stack_backup.release import Release
from stack_backup.runs import Object, variables, with_environment
from stack_backup.waiting import Blocker, started
from stack_backup_jobs.formats import FAILED, Finding

JOB, OFFSITE = "doctor", "offsite"
START = "start"
"""The check that only this command can make."""
STARTING = 50.0
"""Seconds that a pod has to start, once its images are there."""
KEPT = 300
"""Seconds for which a Job stays that nobody deletes."""


class _NotStartedError(Exception):
    """A pod has not started in time."""


def of_release(release: Release, blocked: Callable[[Blocker], None] = lambda _: None) -> list[Finding]:
    """Every finding. `blocked` is told what keeps a pod from starting, meanwhile. Raises CliError."""
    cronjob = release.cronjob(JOB)
    runs: list[tuple[str, Run]] = []
    try:
        for subject in subjects(cronjob):
            body = examining_job(cronjob, subject)
            runs.append((subject, Run(release, JOB, body["metadata"]["name"])))
            release.create(body)
        begun = time.monotonic()
        return [one for subject, run in runs for one in found(run, subject, begun, blocked)]
    finally:
        for _, run in runs:
            release.delete("Job", run.name)


def subjects(cronjob: Object) -> list[str]:
    return variables(cronjob["spec"]["jobTemplate"]["spec"])["SUBJECTS"].split()


def examining_job(cronjob: Object, subject: str) -> Object:
    """A Job with the doctor's pod for one subject: of all claims only that one's is mounted.

    It has no owner, as it is no run of that CronJob and must not count as one. Nobody has to delete it.
    """
    spec = cronjob["spec"]["jobTemplate"]["spec"]
    template = with_environment(spec["template"], {"SUBJECTS": subject, "HISTORY": ""})
    pod = template["spec"]
    pod["volumes"] = [
        one for one in pod["volumes"] if "persistentVolumeClaim" not in one or one["name"] == subject
    ]
    pod["initContainers"] = [
        one for one in pod.get("initContainers", ()) if one["name"] != "rclone" or subject == OFFSITE
    ]
    mounted = {one["name"] for one in pod["volumes"]}
    (container,) = pod["containers"]
    container["volumeMounts"] = [one for one in container["volumeMounts"] if one["name"] in mounted]
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": f"{JOB}-{subject}-{secrets.token_hex(3)}",
            "labels": {"app.kubernetes.io/name": "stack-backup-doctor"},
        },
        "spec": {
            "activeDeadlineSeconds": spec["activeDeadlineSeconds"],
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": KEPT,
            "template": template,
        },
    }


def found(run: Run, subject: str, begun: float, blocked: Callable[[Blocker], None]) -> list[Finding]:
    """What one of the Jobs tells. `begun`: when all were made, in monotonic seconds."""
    findings: list[Finding] = []

    def line(text: str) -> None:
        if (finding := Finding.parse(text)) is not None:
            findings.append(finding)

    def state(_: str) -> None:
        waits = not (run.pods and started(run.pods[-1]))
        pulling = any(one.reason == "Pulling" for one in run.blockers)
        if waits and not pulling and time.monotonic() - begun > STARTING:
            raise _NotStartedError

    try:
        end = run.follow(line, state, blocked)
    except _NotStartedError:
        why = " ".join(f"{one.object} ({one.reason}): {one.message}" for one in run.blockers)
        ways = " ".join(dict.fromkeys(one.remedy for one in run.blockers))
        what = f"Its pod has not started within {STARTING:.0f} s. {why}".rstrip()
        return [
            Finding(FAILED, subject, START, what, ways or "`kubectl describe pod` says what it waits for.")
        ]
    if not findings:
        what = follow.message(end, run.pods, run.blockers)
        findings = [
            Finding(FAILED, subject, START, what, "Read the log of such a pod: `stack-backup run doctor`.")
        ]
    return findings
