"""Every set of values that the project ships, with the namespace that it is meant for."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stack_backup_lab.paths import BIN, PROJECT
from stack_backup_lab.render import CHART, RELEASE, load_values, merge_values

SHIPPED = {
    "production": ("production", "production-stack"),
    "staging": ("consumer", "staging-stack"),
    "developer": ("consumer", "stack-alice-default"),
}
"""The stacks that values are shipped for: the file's name, and the namespace."""


def _stacks() -> dict[str, tuple[dict[str, Any], str]]:
    found: dict[str, tuple[dict[str, Any], str]] = {"defaults": ({}, "stack-alice-default")}
    for stack, (file, namespace) in SHIPPED.items():
        found[stack] = (load_values(PROJECT / "values" / f"{file}.yaml"), namespace)
    for path in sorted((CHART / "ci").glob("*-values.yaml")):
        found[f"ci/{path.name.removesuffix('-values.yaml')}"] = (load_values(path), "stack-alice-default")
    return found


STACKS = _stacks()


def computed(values: Mapping[str, Any], chart: Path = CHART) -> dict[str, Any]:
    """What Helm checks and gives to the templates: the values over the defaults, keys set to null dropped."""
    defaults = load_values(chart / "values.yaml")
    merged: dict[str, Any] = _drop_nulled(merge_values(defaults, values), defaults)
    return merged


def _drop_nulled(merged: Any, defaults: Any) -> Any:
    """Only a default can be dropped: of a key that the defaults do not have, Helm keeps the null."""
    if not isinstance(merged, dict) or not isinstance(defaults, dict):
        return merged
    return {
        key: _drop_nulled(value, defaults.get(key))
        for key, value in merged.items()
        if not (value is None and key in defaults)
    }


def helm(
    *arguments: str | Path, values: Mapping[str, Any] | None = None, executable: str = "helm"
) -> subprocess.CompletedProcess[str]:
    """Run Helm itself, values on standard input, for what pyhelm3 has no call. No cluster is in reach."""
    command = [BIN / executable, *arguments]
    if values is not None:
        command += ["--values", "-"]
    return subprocess.run(
        command,
        input=json.dumps(values)
        if values is not None
        else "",  # JSON is YAML, and has no key that reads as true
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "KUBECONFIG": "/dev/null"},
    )


def template(values: Mapping[str, Any], namespace: str, executable: str = "helm", chart: Path = CHART) -> str:
    """The rendered text, for what parsed objects cannot show, such as a key that is written twice."""
    done = helm("template", RELEASE, chart, "--namespace", namespace, values=values, executable=executable)
    assert done.returncode == 0, done.stderr
    return done.stdout


def notes(values: Mapping[str, Any], namespace: str) -> str:
    """What the operator reads after `helm install`."""
    done = helm("install", RELEASE, CHART, "--namespace", namespace, "--dry-run=client", values=values)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("\nNOTES:\n")[2]


def lint(values: Mapping[str, Any], executable: str = "helm", chart: Path = CHART) -> tuple[bool, str]:
    """Whether `helm lint --strict` is content, and what it says."""
    done = helm("lint", "--strict", chart, values=values, executable=executable)
    return done.returncode == 0, done.stdout + done.stderr


def to_yaml(data: Any) -> str:
    """YAML with two blanks of indentation, keys in their given order, maps of plain values on one line."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 120
    text = StringIO()
    yaml.dump(data, text)
    return text.getvalue()
