"""The files that AWX is given agree with each other and with what the tests install."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup import Exit
from stack_backup.app import Unfinished
from stack_backup_lab.bed import ansible
from stack_backup_lab.bed.commands import run
from stack_backup_lab.paths import PROJECT

AWX = PROJECT / "scripts" / "awx"
PLAYBOOKS = sorted(path.stem for path in AWX.glob("*.yaml"))
REQUIRED = {"question_name", "question_description", "variable", "type", "required", "default"}
NOBODY = "http://127.0.0.1:1"
"""Where no cluster answers."""


def _asked(name: str) -> dict[str, bool]:
    """The variables that a playbook's own comment declares, and whether they may be left out."""
    text = (AWX / f"{name}.yaml").read_text()
    return {
        match[1]: match[2] is not None
        for match in re.finditer(r"^# ([a-z_]+) {2,}(optional: )?", text, re.MULTILINE)
    }


def _play(playbook: Path, variables: dict[str, Any], **environment: str) -> subprocess.CompletedProcess[str]:
    """A real ansible-playbook, with the command line of this environment in its PATH."""
    return subprocess.run(
        [ansible.ensure() / "ansible-playbook", playbook, "--extra-vars", json.dumps(variables)],
        env={
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": os.environ["HOME"],
            "LANG": "C.UTF-8",
            "ANSIBLE_LOCALHOST_WARNING": "False",
            "ANSIBLE_SHOW_CUSTOM_STATS": "True",
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_there_is_a_survey_for_every_playbook() -> None:
    assert len(PLAYBOOKS) > 5
    assert sorted(path.stem for path in (AWX / "surveys").iterdir()) == PLAYBOOKS


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_survey_asks_for_what_its_playbook_needs(name: str) -> None:
    survey = json.loads((AWX / "surveys" / f"{name}.json").read_text())
    assert {"name", "description", "spec"} == survey.keys()
    asked = _asked(name)
    for question in survey["spec"]:
        assert question.keys() >= REQUIRED, question
        assert question["type"] in ("text", "textarea", "multiplechoice")
        assert asked[question["variable"]] is not question["required"] or question["type"] == "multiplechoice"
        if question["type"] == "multiplechoice":
            assert question["default"] in ["", *question["choices"]]
        else:
            assert question["min"] <= question["max"]
    needed = {variable for variable, optional in asked.items() if not optional}
    assert needed <= {question["variable"] for question in survey["spec"]}


def test_the_survey_s_stacks_are_the_values_files() -> None:
    survey = json.loads((AWX / "surveys" / "install.json").read_text())
    (stacks,) = [question["choices"] for question in survey["spec"] if question["variable"] == "stack"]
    assert sorted(stacks) == sorted(path.stem for path in (PROJECT / "values").glob("*.yaml"))


@pytest.mark.parametrize("name", ["recover-media", "refresh"])
def test_the_survey_s_answers_are_what_the_program_knows(name: str) -> None:
    survey = json.loads((AWX / "surveys" / f"{name}.json").read_text())
    [choices] = [one["choices"] for one in survey["spec"] if one["variable"] == "unfinished"]
    assert choices == list(Unfinished)


def test_the_execution_environment_has_the_version_that_is_tested() -> None:
    pins = dict(re.findall(r"^([a-z-]+)==(\S+)", (AWX / "requirements.lock").read_text(), re.MULTILINE))
    needs = yaml.safe_load((AWX / "execution-environment.yml").read_text())["dependencies"]
    assert needs["ansible_core"]["package_pip"] == f"ansible-core=={pins['ansible-core']}"


def test_the_execution_environment_can_be_built_and_has_all_of_the_command_line(tmp_path: Path) -> None:
    builder = ansible.ensure() / "ansible-builder"
    run([builder, "create", "--file", AWX / "execution-environment.yml", "--context", tmp_path])
    text = (tmp_path / "Containerfile").read_text()
    assert "helm" in text
    assert text.index("COPY _build/stack-backup /tmp/stack-backup") < text.index("stack-backup --version")
    sources = tmp_path / "_build" / "stack-backup"
    assert (sources / "requirements.lock").read_bytes() == (PROJECT / "requirements.lock").read_bytes()
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", tmp_path, sources])
    (wheel,) = tmp_path.glob("*.whl")
    packaged = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".py", ".html"))}
    assert packaged == {
        f"{folder.name}/{path.name}"
        for folder in (
            PROJECT / "scripts" / "stack_backup",
            PROJECT / "charts" / "stack-backup" / "files" / "stack_backup_jobs",
        )
        for path in [*folder.glob("*.py"), *folder.glob("*.html")]
    }


@pytest.mark.parametrize(
    ("name", "told", "called"),
    [
        ("backup-now", {}, ["run", "postgres-backup-hourly"]),
        ("status", {}, ["status"]),
        ("list-dumps", {}, ["list"]),
        ("report", {}, ["report"]),
        ("report", {"days": ""}, ["report"]),
        ("report", {"days": "90"}, ["report", "--days", "90"]),
        ("recover-database", {"confirm": "s"}, ["recover", "database", "--confirm", "s"]),
        ("recover-database", {"confirm": "s", "dump": ""}, ["recover", "database", "--confirm", "s"]),
        (
            "recover-database",
            {"confirm": "s", "dump": "latest"},
            ["recover", "database", "--confirm", "s", "--dump", "latest"],
        ),
        ("recover-media", {"confirm": "s"}, ["recover", "media", "--confirm", "s", "--no-delete"]),
        (
            "recover-media",
            {"confirm": "s", "unfinished": "", "delete_others": "false"},
            ["recover", "media", "--confirm", "s", "--no-delete"],
        ),
        ("doctor", {}, ["doctor"]),
        ("refresh", {"confirm": "s"}, ["refresh", "--confirm", "s", "--no-delete"]),
        ("refresh", {"plan_only": "true", "as_of": ""}, ["refresh", "--plan", "--no-delete"]),
        (
            "refresh",
            {"confirm": "s", "plan_only": "false", "as_of": "2026-11-25", "delete_others": "true"},
            ["refresh", "--confirm", "s", "--delete", "--as-of", "2026-11-25"],
        ),
        (
            "refresh",
            {"confirm": "s", "unfinished": "last-complete"},
            ["refresh", "--confirm", "s", "--no-delete", "--unfinished", "last-complete"],
        ),
        (
            "recover-media",
            {"confirm": "s", "delete_others": "true", "unfinished": "last-complete"},
            ["recover", "media", "--confirm", "s", "--delete", "--unfinished", "last-complete"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value) or "nothing",
)
def test_what_a_playbook_calls(tmp_path: Path, name: str, told: dict[str, str], called: list[str]) -> None:
    shutil.copy(AWX / f"{name}.yaml", tmp_path)
    (tmp_path / "tasks").mkdir()
    show = [
        {"ansible.builtin.copy": {"dest": str(tmp_path / "shown"), "content": "{{ arguments | to_json }}"}}
    ]
    (tmp_path / "tasks" / "stack-backup.yaml").write_text(yaml.safe_dump(show))
    done = _play(tmp_path / f"{name}.yaml", {"stack_namespace": "s", **told})
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "shown").read_text()) == called


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_playbook_that_is_not_told_the_namespace_starts_nothing(name: str) -> None:
    done = _play(AWX / f"{name}.yaml", {"stack": "production"})
    assert done.returncode != 0
    assert "Nothing was started. The variable stack_namespace must be" in done.stdout


def test_an_install_that_names_no_stack_changes_nothing() -> None:
    done = _play(AWX / "install.yaml", {"stack_namespace": "s", "stack": "none"})
    assert done.returncode != 0
    assert "Nothing was changed. The variable stack must be" in done.stdout


@pytest.mark.parametrize("name", ["status", "backup-now", "list-dumps", "report", "doctor", "refresh"])
def test_a_cluster_that_does_not_answer_is_red_with_the_command_line_s_own_sentence(name: str) -> None:
    """AWX's credential, as AWX hands it on, is what the command line uses."""
    done = _play(
        AWX / f"{name}.yaml",
        {"stack_namespace": "s"},
        K8S_AUTH_HOST=NOBODY,
        K8S_AUTH_API_KEY="a token",
        K8S_AUTH_VERIFY_SSL="False",
    )
    assert done.returncode == 2, done.stdout
    assert f"The cluster at {NOBODY} does not answer" in done.stdout.split("TASK [The verdict]")[1]
    assert f'"exit": {int(Exit.UNREACHABLE)}' in done.stdout.split("CUSTOM STATS")[1]
    assert "a token" not in done.stdout + done.stderr


FINDING = {"subject": "media", "check": "room", "message": "It is full.", "advice": "Make it larger."}
PLAN = {"database": "frag", "dump": {"time": "T1"}, "media_as_of": "T2", "warnings": ["Rows may be ahead."]}


@pytest.mark.parametrize(
    ("name", "told", "document", "code", "said"),
    [
        (
            "doctor",
            {},
            {"findings": [{**FINDING, "result": "failed"}]},
            1,
            "failed: media: It is full. Make it",
        ),
        ("doctor", {}, {"findings": [{**FINDING, "result": "ok"}]}, 0, "All is well."),
        ("refresh", {"plan_only": True}, {"plan": PLAN}, 0, "becomes the dump T1, the media are as of T2."),
        ("refresh", {"plan_only": True}, {"plan": PLAN}, 0, "Rows may be ahead."),
        ("refresh", {"confirm": "s"}, {"plan": PLAN, "message": "Both came."}, 0, "Both came."),
        ("refresh", {"confirm": "s"}, {"plan": PLAN, "message": "The first half failed."}, 75, "first half"),
    ],
)
def test_a_playbook_ends_as_the_command_does_and_says_what_it_says(
    tmp_path: Path, name: str, told: dict[str, Any], document: dict[str, Any], code: int, said: str
) -> None:
    """A command that prints such a document stands for the cluster."""
    command = tmp_path / "stack-backup"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(document)}\nEND\nexit {code}\n")
    command.chmod(0o755)
    done = _play(
        AWX / f"{name}.yaml", {"stack_namespace": "s", **told}, PATH=f"{tmp_path}:{os.environ['PATH']}"
    )
    assert done.returncode == (2 if code else 0), done.stdout
    assert said in done.stdout.split("TASK [The verdict]")[1].split("CUSTOM STATS")[0]


def test_where_the_command_line_is_missing_that_is_said() -> None:
    done = _play(AWX / "status.yaml", {"stack_namespace": "s"}, PATH="/usr/bin:/bin")
    assert done.returncode == 2
    assert "stack-backup gave no answer. Is it installed" in done.stdout.split("TASK [The verdict]")[1]
