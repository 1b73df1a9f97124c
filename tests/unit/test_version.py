"""The version is the same wherever it stands."""

from __future__ import annotations

import re
import tomllib

import yaml

from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART


def _version() -> str:
    version: str = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    return version


def test_chart_and_package_have_one_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["version"] == chart["appVersion"] == _version()


def test_the_changelog_begins_with_what_is_unreleased_and_ends_its_releases_with_the_version() -> None:
    headings = re.findall(r"^## (.*)$", (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+\.\d+\.\d+) - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(released), headings
    # Before the first release there is none.
    assert [found[1] for found in released[:1] if found] in ([], [_version()])
