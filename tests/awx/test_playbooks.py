"""The files that AWX is given agree with each other and with what the tests install."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from stack_backup.app import Unfinished
from stack_backup_lab.bed import ansible
from stack_backup_lab.bed.commands import CommandError, run
from stack_backup_lab.paths import PROJECT

AWX = PROJECT / "scripts" / "awx"
PLAYBOOKS = sorted(path.stem for path in AWX.glob("*.yaml"))
REQUIRED = {"question_name", "question_description", "variable", "type", "required", "default"}


def _asked(name: str) -> dict[str, bool]:
    """The variables that a playbook's own comment declares, and whether they may be left out."""
    text = (AWX / f"{name}.yaml").read_text()
    return {
        match[1]: match[2] is not None
        for match in re.finditer(r"^# ([a-z_]+) {2,}(optional: )?", text, re.MULTILINE)
    }


def test_there_is_a_survey_for_every_playbook() -> None:
    assert PLAYBOOKS == ["backup-now", "install", "recover-database", "recover-media"]
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


def test_the_execution_environment_has_the_versions_that_were_tested() -> None:
    pins = dict(
        re.findall(r"^([a-z-]+)==(\S+)", (AWX / "requirements.lock").read_text().lower(), re.MULTILINE)
    )
    needs = yaml.safe_load((AWX / "execution-environment.yml").read_text())["dependencies"]
    assert needs["ansible_core"]["package_pip"] == f"ansible-core=={pins['ansible-core']}"
    assert [one.lower() for one in needs["python"]] == [
        f"kubernetes=={pins['kubernetes']}",
        f"pyyaml=={pins['pyyaml']}",
    ]
    collections = ansible.ensure().parent.glob(
        "lib/*/site-packages/ansible_collections/kubernetes/core/MANIFEST.json"
    )
    (manifest,) = [json.loads(path.read_text()) for path in collections]
    (core,) = needs["galaxy"]["collections"]
    assert core == {"name": "kubernetes.core", "version": manifest["collection_info"]["version"]}


def test_ansible_builder_takes_the_execution_environment(tmp_path: Path) -> None:
    builder = ansible.ensure() / "ansible-builder"
    run([builder, "create", "--file", AWX / "execution-environment.yml", "--context", tmp_path])
    assert "helm" in (tmp_path / "Containerfile").read_text()


@pytest.mark.parametrize(
    ("told", "handed_on"),
    [
        ({}, {"CONFIRM": "s", "DELETE": "false"}),
        ({"unfinished": ""}, {"CONFIRM": "s", "DELETE": "false"}),
        (
            {"delete_others": "true", "unfinished": "last-complete"},
            {"CONFIRM": "s", "DELETE": "true", "UNFINISHED": "last-complete"},
        ),
    ],
    ids=["nothing", "an empty answer", "all"],
)
def test_what_a_recovery_of_the_media_hands_on(
    tmp_path: Path, told: dict[str, str], handed_on: dict[str, str]
) -> None:
    shutil.copy(AWX / "recover-media.yaml", tmp_path)
    (tmp_path / "tasks").mkdir()
    show = [{"ansible.builtin.copy": {"dest": str(tmp_path / "shown"), "content": "{{ job_environment }}"}}]
    (tmp_path / "tasks" / "run-job.yaml").write_text(yaml.safe_dump(show))
    variables = json.dumps({"stack_namespace": "s", "confirm": "s", **told})
    playbook = ansible.ensure() / "ansible-playbook"
    run([playbook, tmp_path / "recover-media.yaml", "--extra-vars", variables])
    assert json.loads((tmp_path / "shown").read_text()) == handed_on


def test_the_survey_s_answers_are_what_the_program_knows() -> None:
    survey = json.loads((AWX / "surveys" / "recover-media.json").read_text())
    [choices] = [one["choices"] for one in survey["spec"] if one["variable"] == "unfinished"]
    assert choices == list(Unfinished)


@pytest.mark.parametrize("name", PLAYBOOKS)
def test_a_playbook_that_is_not_told_the_namespace_starts_nothing(name: str) -> None:
    playbook = ansible.ensure() / "ansible-playbook"
    with pytest.raises(CommandError) as caught:
        run([playbook, AWX / f"{name}.yaml"], env={"ANSIBLE_LOCALHOST_WARNING": "False"})
    assert re.search(r"Nothing was (changed|started)", caught.value.output)
