"""What the operator reads after `helm install`: the next commands, ready to be typed."""

from __future__ import annotations

import re

import pytest

from stack_backup.render import render
from tests.render import contract
from tests.render.stacks import STACKS, notes


def _notes(stack: str) -> str:
    return notes(*STACKS[stack])


def test_every_command_names_its_namespace(stack: str) -> None:
    _, namespace = STACKS[stack]
    commands = re.findall(r"^ *(kubectl .*)$", _notes(stack), re.MULTILINE)
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
    [contract.HOURLY, contract.CLAIM, "create job", "logs", contract.OWNER, *contract.SECRET_KEYS.values()],
)
def test_production_is_told_how_to_run_and_read_its_backup(needed: str) -> None:
    assert needed in _notes("production")


def test_no_template_syntax_is_left(stack: str) -> None:
    assert not re.search(r"\{\{|\}\}|<no value>|<nil>", _notes(stack))
