"""A variable that makes no sense, as an operator's `--set` may bring one: of every job, of every kind.

The chart refuses such values; what is tried here never came through it.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any

import pytest

from stack_backup_jobs import run
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from tests.render import contract

NAMESPACE = "variables"
NFS = {"nfs": {"server": "variables.example.org"}}
SCRATCH = {"enabled": True, "scratch": {"size": "1Gi"}}
VALUES: dict[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"dumpSize": "15Mi"},
    **{
        key: {"enabled": True}
        for key in ("postgresBackupTiers", "postgresReplicatorBackup", "mediaReplicator", "replicaCheck")
    },
    **dict.fromkeys(("databaseRecovery", "databaseDrill"), SCRATCH),
    "mediaRecovery": {"enabled": True, "confirm": NAMESPACE},
    "offsite": {"enabled": True, "remote": "s3:bucket/place"},
    "volumes": {"databaseReplica": NFS, "mediaReplica": NFS},
}
PROGRAMS = sorted(run.JOBS.keys() - run.OF_NO_JOB)
CRONJOB = {"postgres-backup-tier": "postgres-backup-daily"}
"""Where it is not called as the program."""
LIMITS = "BANDWIDTH_LIMIT"
"""What its text may be, no type says."""


def settings_of(job: str) -> list[dataclasses.Field[Any]]:
    return list(dataclasses.fields(importlib.import_module(f"stack_backup_jobs.{run.JOBS[job]}").Settings))


def senseless(field: dataclasses.Field[Any]) -> list[str]:
    """What is no value of a setting."""
    declared = field.metadata
    bad = []
    if str(field.type) == "int":
        bad += ["many", str(declared.get("least", 0) - 1)]
    elif str(field.type) == "bool" or declared.get("words"):
        bad.append("perhaps")
    if declared.get("default") is None:
        bad.append("")
    if field.name.upper() == LIMITS:
        bad += ["-1", "50M --delete-before"]
    return bad


def table() -> Iterator[tuple[str, str, str]]:
    """Of each job, one setting of each kind; `tests/unit/test_settings.py` knows the kinds."""
    for job in PROGRAMS:
        tried: dict[str, int] = {}
        for field in settings_of(job):
            for value in senseless(field):
                kind = f"{field.name.upper() == LIMITS}{field.type}{value}"
                tried[kind] = tried.get(kind, 0) + 1
                if tried[kind] == 1:
                    yield CRONJOB.get(job, job), field.name.upper(), value


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, "postgres:15") as stack:
        stack.add_claim("media")
        stack.secrets["offsite"] = {"rclone.conf": b"[s3]\ntype = s3\n"}
        stack.install(VALUES)
        yield stack


def files(stack: LocalStack) -> dict[str, int]:
    """All that lies on the volumes of the stack, with its change time; the verdict goes to the history."""
    return {
        str(path): path.lstat().st_ctime_ns
        for claim in stack.claims
        if claim != contract.HISTORY
        for path in stack.volume(claim).path.rglob("*")
    }


@pytest.mark.parametrize(("job", "name", "value"), list(table()))
def test_a_variable_that_makes_no_sense_is_named_before_anything_is_touched(
    stack: LocalStack, job: str, name: str, value: str
) -> None:
    before = files(stack)
    result = stack.run(job, environment={name: value})
    assert (result.exit_code, result.verdict["exit"], result.verdict["outcome"]) == (64, 64, "failed"), result
    assert name in result.verdict["message"]
    assert files(stack) == before
