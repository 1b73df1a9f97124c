"""A release from its version to its files: one command sets the version, one makes all that is published."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tomllib
import urllib.request
import zipfile
from pathlib import Path

import pytest
import yaml

from stack_backup_lab import dist
from stack_backup_lab.bed import BedError, tools
from stack_backup_lab.bed.commands import CommandError, run
from stack_backup_lab.paths import BIN, PROJECT
from tests.registry import registry

VERSION = "98.7.6"
TAG = f"v{VERSION}"
RELEASE = PROJECT / ".cache" / "release"
VALIDATE = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
for name in sys.argv[1:]:
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(name).read())
    assert error is None, f"{name}: {error}"
"""


def _git(clone: Path, *arguments: str) -> str:
    who = ["-c", "user.name=Tests", "-c", "user.email=tests@localhost"]
    return run(["git", *who, *arguments], cwd=clone)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of this project as it is after a release."""
    tools.ensure("helm")
    run(["make", "--no-print-directory", ".cache/release/.installed"], cwd=PROJECT)
    clone = tmp_path_factory.mktemp("release") / "clone"
    run(["git", "clone", "--quiet", "--depth", "1", f"file://{PROJECT}", clone])
    run([RELEASE / "bin" / "bump-my-version", "bump", "--new-version", VERSION], cwd=clone)
    _git(clone, "commit", "--quiet", "--all", "--message", f"Release {VERSION}")
    _git(clone, "tag", "--annotate", TAG, "--message", VERSION)
    return clone


@pytest.fixture(scope="module")
def files(released: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is published, by name."""
    return {file.name: file for file in dist.make(tmp_path_factory.mktemp("dist") / "dist", TAG, released)}


def test_one_command_sets_the_version_everywhere(released: Path) -> None:
    project = tomllib.loads((released / "pyproject.toml").read_text())["project"]
    chart = yaml.safe_load((released / "charts/stack-backup/Chart.yaml").read_text())
    assert [project["version"], chart["version"], chart["appVersion"]] == [VERSION] * 3
    changed = _git(released, "show", "--format=", "--name-only", "HEAD").split()
    assert changed == ["CHANGELOG.md", "charts/stack-backup/Chart.yaml", "pyproject.toml"]


def test_what_was_unreleased_is_of_the_version(released: Path, files: dict[str, Path]) -> None:
    before = dist.section(_git(released, "show", "HEAD~1:CHANGELOG.md"), "Unreleased")
    assert files[dist.NOTES].read_text(encoding="utf-8") == before
    with pytest.raises(BedError, match="says nothing about Unreleased"):
        dist.section((released / "CHANGELOG.md").read_text(encoding="utf-8"), "Unreleased")


def test_a_release_has_chart_and_wheel_what_is_in_them_and_their_digests(files: dict[str, Path]) -> None:
    chart, wheel = f"stack-backup-{VERSION}.tgz", f"stack_backup-{VERSION}-py3-none-any.whl"
    published = {chart, f"{chart}.cdx.json", wheel, f"{wheel}.cdx.json", f"{wheel}.requirements.lock"}
    assert files.keys() == {*published, dist.DIGESTS, dist.NOTES}
    digests = dict(reversed(line.split()) for line in files[dist.DIGESTS].read_text().splitlines())
    assert digests == {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in published}


def test_the_archive_is_a_chart_that_renders(files: dict[str, Path]) -> None:
    archive = files[f"stack-backup-{VERSION}.tgz"]
    assert yaml.safe_load(run([BIN / "helm", "show", "chart", archive]))["version"] == VERSION
    assert "kind: CronJob" in run([BIN / "helm", "template", "stack-backup", archive])


def test_the_wheel_has_the_command_line_and_nothing_of_the_lab(files: dict[str, Path]) -> None:
    with zipfile.ZipFile(files[f"stack_backup-{VERSION}-py3-none-any.whl"]) as wheel:
        folders = {name.split("/")[0] for name in wheel.namelist()}
    assert folders == {"stack_backup", "stack_backup_jobs", f"stack_backup-{VERSION}.dist-info"}


def test_the_lists_of_what_is_in_it_are_cyclonedx_and_whole(files: dict[str, Path]) -> None:
    lists = [file for name, file in files.items() if name.endswith(".cdx.json")]
    run([RELEASE / "bin" / "python", "-c", VALIDATE, *lists])
    chart, wheel = (json.loads(file.read_text(encoding="utf-8")) for file in lists)
    assert "rclone/rclone" in {component["name"] for component in chart["components"]}
    lock = files[f"stack_backup-{VERSION}-py3-none-any.whl.requirements.lock"].read_text()
    assert len(wheel["components"]) == lock.count("==") > 10
    assert {"kubernetes", "typer"} <= {component["name"] for component in wheel["components"]}


def test_a_wheel_is_the_same_whenever_it_is_built(
    released: Path, files: dict[str, Path], tmp_path: Path
) -> None:
    again = {file.name: file for file in dist.make(tmp_path / "dist", TAG, released)}
    wheel = f"stack_backup-{VERSION}-py3-none-any.whl"
    assert again[wheel].read_bytes() == files[wheel].read_bytes()


@pytest.mark.parametrize(
    ("tag", "change", "sentence"),
    [
        ("v98.7.7", None, r"name 98\.7\.6 and 98\.7\.7; nothing was made"),
        ("v98.7.8", ("pyproject.toml", VERSION, "98.7.8"), r"name 98\.7\.6 and 98\.7\.8"),
        (TAG, ("CHANGELOG.md", f"## {VERSION} - ", "## 98.7.5 - "), rf"says nothing about {VERSION}"),
    ],
    ids=["another tag", "another version of the package", "nothing in the changelog"],
)
def test_a_release_that_contradicts_itself_is_not_made(
    released: Path, tmp_path: Path, tag: str, change: tuple[str, str, str] | None, sentence: str
) -> None:
    run(["git", "clone", "--quiet", released, tmp_path / "clone"])
    clone = tmp_path / "clone"
    if change is not None:
        name, old, new = change
        (clone / name).write_text((clone / name).read_text(encoding="utf-8").replace(old, new))
        _git(clone, "commit", "--quiet", "--all", "--message", "Something else")
    _git(clone, "tag", "--force", tag)
    with pytest.raises(BedError, match=sentence):
        dist.make(tmp_path / "dist", tag, clone)
    assert not (tmp_path / "dist").exists()


def _pushed(
    folder: Path, address: str, home: Path, executable: str = "helm"
) -> subprocess.CompletedProcess[str]:
    """The step of the workflow that pushes the chart, to a registry on this machine."""
    workflow = yaml.safe_load((PROJECT / ".github/workflows/release.yaml").read_text(encoding="utf-8"))
    (step,) = (one for one in workflow["jobs"]["publish"]["steps"] if one.get("id") == "push")
    assert step["working-directory"] == "dist"
    assert workflow["defaults"]["run"]["shell"] == "bash"
    tools.ensure(executable)
    (home / "bin").mkdir(parents=True)
    helm = home / "bin" / "helm"
    # This registry has no TLS.
    helm.write_text(f'#!/bin/sh\nexec {BIN / executable} "$@" --plain-http\n')
    helm.chmod(0o755)
    environment = {
        "PATH": f"{home}/bin:/usr/bin:/bin",
        "HOME": str(home),
        "GITHUB_ACTOR": "somebody",
        "GITHUB_REPOSITORY_OWNER": "Somebody",
        "GITHUB_OUTPUT": str(home / "output"),
        "TOKEN": "secret",
    }
    script = step["run"].replace("ghcr.io", address)
    # As GitHub runs it.
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_the_workflow_pushes_the_chart_and_knows_its_digest(
    files: dict[str, Path], tmp_path: Path, executable: str
) -> None:
    archive = files[f"stack-backup-{VERSION}.tgz"]
    with registry(tmp_path) as address:
        done = _pushed(archive.parent, address, tmp_path / "home", executable)
        assert done.returncode == 0, done.stdout + done.stderr
        output = dict(line.split("=") for line in (tmp_path / "home" / "output").read_text().splitlines())
        assert output["chart"] == f"{address}/somebody/charts/stack-backup"
        place = ["pull", f"oci://{output['chart']}", "--destination", tmp_path, "--plain-http"]
        said = run([BIN / executable, *place, "--version", VERSION])
        assert output["digest"] in said
    assert (tmp_path / archive.name).read_bytes() == archive.read_bytes()


def test_the_workflow_pushes_nothing_that_is_not_what_was_built(
    files: dict[str, Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(files[dist.DIGESTS].parent, tmp_path / "dist")
    with (folder / f"stack-backup-{VERSION}.tgz").open("ab") as archive:
        archive.write(b"more")
    with registry(tmp_path) as address:
        done = _pushed(folder, address, tmp_path / "home")
        with urllib.request.urlopen(f"http://{address}/v2/_catalog") as answer:
            assert json.load(answer) == {"repositories": []}
    assert done.returncode != 0
    assert f"stack-backup-{VERSION}.tgz: FAILED" in done.stdout


def test_a_tag_that_is_not_there_is_named(released: Path, tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="v0\\.0\\.0"):
        dist.make(tmp_path / "dist", "v0.0.0", released)
