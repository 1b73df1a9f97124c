"""What the operator reads after `helm install`: the next commands, ready to be typed."""

from __future__ import annotations

import re
from functools import cache

import pytest

from stack_backup_lab.render import Objects, merge_values, render
from tests.render import contract
from tests.render.stacks import STACKS, notes


@cache
def _notes(stack: str) -> str:
    return notes(*STACKS[stack])


def test_every_command_names_its_namespace(stack: str) -> None:
    _, namespace = STACKS[stack]
    commands = re.findall(r"^ *((?:kubectl|stack-backup) .*)$", _notes(stack), re.MULTILINE)
    assert commands
    for command in commands:
        assert f"--namespace {namespace} " in f"{command} ".replace("--namespace=", "--namespace "), command


def test_every_object_that_is_named_is_there(stack: str) -> None:
    values, namespace = STACKS[stack]
    names = render(values, namespace=namespace).names()
    text = _notes(stack)
    for name in re.findall(r"cronjob/([a-z0-9-]+)", text):
        assert f"CronJob/{name}" in names
    for name in re.findall(r"(?:pvc|persistentvolumeclaim)/([a-z0-9-]+)", text):
        assert f"PersistentVolumeClaim/{name}" in names


@pytest.mark.parametrize(
    "needed",
    [
        f"stack-backup run {contract.HOURLY} ",
        contract.CLAIM,
        "create job",
        "logs",
        *contract.SECRET_KEYS.values(),
    ],
)
def test_production_is_told_how_to_run_and_read_its_backup(needed: str) -> None:
    assert needed in _notes("production")


def test_production_is_told_how_to_recover_and_never_to_refresh() -> None:
    text = _notes("production")
    for what in ("database", "media"):
        assert (
            f"stack-backup recover {what} --namespace {contract.NAMESPACE} --confirm {contract.NAMESPACE}\n"
            in text
        )
    assert "refresh" not in text


def test_every_job_is_named_with_its_time(stack: str, objects: Objects) -> None:
    text = _notes(stack)
    for job in objects.of_kind("CronJob"):
        (line,) = re.findall(rf"^  {job['metadata']['name']}  .*$", text, re.MULTILINE)
        schedule = "by hand" if job["spec"]["suspend"] else job["spec"]["schedule"]
        assert f" {schedule} " in line
        assert len(line) <= 130, line


def test_every_claim_of_dumps_or_media_is_named(stack: str, objects: Objects) -> None:
    text = _notes(stack)
    for claim in objects.of_kind("PersistentVolumeClaim"):
        name = claim["metadata"]["name"]
        assert name in text or name == contract.REPLICA_CHECK


@pytest.mark.parametrize("consumer", contract.CONSUMERS)
def test_a_consumer_is_told_how_to_refresh_and_nothing_of_backups(consumer: str) -> None:
    text, namespace = _notes(consumer), contract.CONSUMERS[consumer]
    assert f"stack-backup refresh --namespace {namespace}\n" in text
    assert "cronjob/replica-check" in text
    assert not re.search(r"backed up|backup-now|list-dumps|postgres-backup", text)


def test_a_job_that_is_held_is_said_to_be() -> None:
    values = {"postgresBackupHourly": {"suspend": True}}
    assert re.search(rf"{contract.HOURLY} +suspended ", notes(values, contract.NAMESPACE))


def test_a_release_without_jobs_says_so() -> None:
    text = notes({"postgresBackupHourly": {"enabled": False}}, contract.NAMESPACE)
    assert "No job is enabled for production-stack" in text
    assert "kubectl" not in text


def test_a_claim_that_wants_more_than_some_classes_give_is_named() -> None:
    """What is missing is seen on a cluster alone (tests/cluster/test_waiting.py)."""
    values, namespace = STACKS["production"]
    says = f"Claims that ask for ReadWriteMany: {contract.CLAIM}, {contract.HISTORY}."
    assert says in notes(values, namespace)
    assert "Still missing" not in notes(values, namespace)
    old = {"databaseBackup": {"existingClaim": "old"}}
    assert f"Claims that ask for ReadWriteMany: {contract.HISTORY}." in notes(
        merge_values(values, {"volumes": old}), namespace
    )
    for volumes in ({"accessModes": ["ReadWriteOnce"]}, old):
        assert says not in notes(merge_values(values, {"volumes": volumes}), namespace)


def test_it_is_short(stack: str) -> None:
    assert len(_notes(stack).splitlines()) <= 31


def test_no_template_syntax_is_left(stack: str) -> None:
    assert not re.search(r"\{\{|\}\}|<no value>|<nil>", _notes(stack))
