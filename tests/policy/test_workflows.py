"""What actionlint and zizmor say of the workflows, which cannot run here; and what both cannot know."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from stack_backup_lab.bed import policy, tools
from stack_backup_lab.kubeconform import OLDEST, SCHEMAS
from stack_backup_lab.paths import BIN, PROJECT

GITHUB = PROJECT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yaml"))
USES = re.compile(
    r"uses: (?P<action>[\w./-]+)@(?P<pin>\S+)(?:  # (?P<version>v\d+\.\d+\.\d+))?$", re.MULTILINE
)


def _said(project: Path) -> str:
    """What the two tools have against the workflows of a project; empty if nothing."""
    tools.ensure("actionlint", "shellcheck")
    said = ""
    zizmor = [policy.ensure() / "zizmor", "--offline", "--persona", "auditor", "--min-severity", "low"]
    for command in (
        [BIN / "actionlint", "-no-color"],
        [*zizmor, "--color", "never", "--no-progress", ".github"],
    ):
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0 or done.stdout, done.stderr
        said += done.stdout if done.returncode else ""
    return said


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The workflows, to be broken. actionlint takes the root of a repository for a project."""
    (tmp_path / ".git").mkdir()
    shutil.copytree(GITHUB, tmp_path / ".github")
    return tmp_path


def test_the_tools_have_nothing_against_the_workflows(copy: Path) -> None:
    assert _said(copy) == ""


CHECKOUT = next(
    use[0].removeprefix("uses: ")
    for path in WORKFLOWS
    for use in USES.finditer(path.read_text(encoding="utf-8"))
    if use["action"] == "actions/checkout"
)
# What is put in the place of what, and what is then said.
BROKEN = [
    ("release.yaml", "steps.push.outputs.chart }}@", "steps.pull.outputs.chart }}@", '"pull" is not defined'),
    ("test.yaml", '"$COMMAND"', '"${{ github.head_ref }}"', "template-injection"),
    ("test.yaml", '"$COMMAND"', "$COMMAND", "SC2086"),
    ("docs.yaml", CHECKOUT, "actions/checkout@v7", "unpinned-uses"),
    ("docs.yaml", "permissions: {}", "permissions: write-all", "excessive-permissions"),
    ("kubernetes.yaml", "persist-credentials: false", "persist-credentials: true", "artipacked"),
    ("kubernetes.yaml", "ubuntu-24.04", "ubuntu-2404", '"ubuntu-2404" is unknown'),
]


@pytest.mark.parametrize(("name", "old", "new", "sentence"), BROKEN)
def test_a_broken_workflow_is_found(copy: Path, name: str, old: str, new: str, sentence: str) -> None:
    path = copy / ".github" / "workflows" / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    assert sentence in _said(copy)


def test_an_action_is_the_same_wherever_it_is_used() -> None:
    found: dict[str, set[tuple[str, str | None]]] = {}
    for path in WORKFLOWS:
        for use in USES.finditer(path.read_text(encoding="utf-8")):
            assert re.fullmatch(r"[0-9a-f]{40}", use["pin"]), use[0]
            assert use["version"], f"{use[0]} does not say which version that is"
            found.setdefault(use["action"], set()).add((use["pin"], use["version"]))
    assert len(found) > 5
    assert {action: pins for action, pins in found.items() if len(pins) > 1} == {}


def test_the_matrix_has_the_oldest_and_the_newest_kubernetes() -> None:
    """The oldest that Chart.yaml admits, and the newest whose schemas the render tests have."""
    jobs: dict[str, Any] = yaml.safe_load((GITHUB / "workflows/kubernetes.yaml").read_text(encoding="utf-8"))[
        "jobs"
    ]
    matrix = jobs["cluster"]["strategy"]["matrix"]["include"]
    newest = max(int(path.name.split(".")[1]) for path in SCHEMAS.glob("v1.*-local-strict"))
    assert [each["minor"] for each in matrix] == [f"1.{OLDEST}", f"1.{newest}"]
    assert all(each["node"].startswith(f"kindest/node:v{each['minor']}.") for each in matrix)
    assert kubernetes_validate.latest_version().startswith(f"1.{newest}.")
