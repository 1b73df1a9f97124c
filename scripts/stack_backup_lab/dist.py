"""`python -m stack_backup_lab.dist FOLDER [TAG]`: the files of a release, made of what is committed alone.

Without a tag they are a preview of the next release, of the newest commit.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from stack_backup_lab.bed import BedError, system
from stack_backup_lab.bed.commands import run
from stack_backup_lab.paths import BIN, PROJECT

CYCLONEDX = PROJECT / ".cache" / "release" / "bin" / "cyclonedx-py"
DIGESTS = "SHA256SUMS"
NOTES = "NOTES.md"


def section(changelog: str, heading: str) -> str:
    """What the changelog says under a heading, a version or `Unreleased`. Raises BedError if nothing."""
    found = re.search(
        rf"^## {re.escape(heading)}(?: - [^\n]*)?\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL
    )
    if not found or not found[1].strip():
        raise BedError(f"CHANGELOG.md says nothing about {heading}; nothing was made.")
    return found[1].strip() + "\n"


def images(chart: dict[str, Any]) -> dict[str, Any]:
    """The images of a chart as CycloneDX: what its pods run that is not in the archive."""
    listed = yaml.safe_load(chart["annotations"]["artifacthub.io/images"])
    components = [
        {"type": "container", "bom-ref": purl, "name": name, "version": tag, "purl": purl}
        for name, _, tag in (image["image"].rpartition(":") for image in listed)
        for purl in [f"pkg:docker/{name}@{tag}"]
    ]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": "chart",
                "name": chart["name"],
                "version": chart["version"],
                "licenses": [{"license": {"id": chart["annotations"]["artifacthub.io/license"]}}],
            }
        },
        "components": components,
        "dependencies": [{"ref": "chart", "dependsOn": [each["bom-ref"] for each in components]}],
    }


def make(folder: Path, tag: str | None = None, project: Path = PROJECT) -> list[Path]:
    """Write the files of a release into `folder`, which has nothing else afterwards. Raises BedError."""
    revision = f"{tag or 'HEAD'}^{{commit}}"
    with TemporaryDirectory() as place:
        source, made = Path(place, "source"), Path(place, "made")
        source.mkdir()
        made.mkdir()
        run(["git", "archive", "--output", f"{place}/source.tar", revision], cwd=project)
        run(["tar", "-xf", f"{place}/source.tar", "-C", source])
        # The wheel of a commit is the same whenever it is built.
        epoch = run(["git", "show", "--no-patch", "--format=%ct", revision], cwd=project).strip()
        _fill(made, source, tag, epoch)
        system.remove(folder)
        shutil.copytree(made, folder)
    return sorted(folder.iterdir())


def _fill(folder: Path, source: Path, tag: str | None, epoch: str) -> None:
    package = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    path = source / "charts" / package["name"]
    chart = yaml.safe_load((path / "Chart.yaml").read_text(encoding="utf-8"))
    version = package["version"]
    versions = {version, chart["version"], chart["appVersion"], tag.removeprefix("v") if tag else version}
    if len(versions) > 1:
        found = " and ".join(sorted(versions))
        raise BedError(
            f"The tag, pyproject.toml and Chart.yaml name {found}; nothing was made. `make version` sets all."
        )
    changelog = (source / "CHANGELOG.md").read_text(encoding="utf-8")
    (folder / NOTES).write_text(section(changelog, version if tag else "Unreleased"), encoding="utf-8")

    run([BIN / "helm", "package", path, "--destination", folder])
    archive = next(folder.glob("*.tgz"))
    archive.with_name(f"{archive.name}.cdx.json").write_text(json.dumps(images(chart), indent=2) + "\n")

    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*pip, "--wheel-dir", folder, source], env={"SOURCE_DATE_EPOCH": epoch})
    wheel = next(folder.glob("*.whl"))
    lock = shutil.copy(source / "requirements.lock", folder / f"{wheel.name}.requirements.lock")
    cyclonedx: list[str | Path] = [CYCLONEDX, "requirements", lock, "--pyproject", source / "pyproject.toml"]
    run([*cyclonedx, "--output-reproducible", "--output-file", folder / f"{wheel.name}.cdx.json"])

    (folder / DIGESTS).write_text(
        "".join(
            f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
            for file in sorted(folder.iterdir())
            if file.name != NOTES
        )
    )


if __name__ == "__main__":
    try:
        for file in make(Path(sys.argv[1]).absolute(), next(iter(sys.argv[2:]), None)):
            print(file.relative_to(Path.cwd()))
    except BedError as failure:
        sys.exit(f"stack-backup: {failure}")
