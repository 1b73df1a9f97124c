"""values.yaml, its schema, its documentation and the templates know the same keys."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from stack_backup.render import CHART, NAMESPACE, RenderError, load_values, render
from stack_backup.testbed import tools
from stack_backup.testbed.paths import BIN
from tests.render.schema import Key, complaints, default_keys, dotted, load, nested, nodes
from tests.render.stacks import STACKS, computed, lint, notes

SCHEMA = load()
DEFAULTS = load_values(CHART / "values.yaml")
KEYS = default_keys(DEFAULTS, SCHEMA)
LEAVES = {key: value for key, value in KEYS.items() if not any(other[:-1] == key for other in KEYS)}

# Maps whose keys are the user's or Kubernetes' own.
OPEN = {
    ("global",),
    ("pod", "affinity"),
    ("pod", "annotations"),
    ("pod", "labels"),
    ("pod", "nodeSelector"),
    ("serviceAccount", "annotations"),
}


def _undocumented(text: str) -> list[str]:
    """Keys of a values.yaml without helm-docs' `# --` in the comment above them or a map around them."""
    path: list[tuple[int, str]] = []
    documented: dict[Key, bool] = {}
    comment: list[str] = []
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.strip())
            continue
        match = re.match(r"( *)([A-Za-z][A-Za-z0-9]*):", line)
        if match:
            indent = len(match[1])
            path = [step for step in path if step[0] < indent] + [(indent, match[2])]
            documented[tuple(name for _, name in path)] = any(entry.startswith("# --") for entry in comment)
        comment = []
    parents = {key[:-1] for key in documented}
    return [
        dotted(key)
        for key in documented
        if key not in parents and not any(documented[key[:length]] for length in range(1, len(key) + 1))
    ]


def test_every_key_of_the_defaults_is_in_the_schema_and_every_key_of_the_schema_in_the_defaults() -> None:
    assert set(KEYS) == set(nodes(SCHEMA))


def test_every_map_of_the_schema_is_closed_or_known_to_be_open() -> None:
    opened = {
        key
        for key, node in {(): SCHEMA, **nodes(SCHEMA)}.items()
        if (node.get("type") == "object" or "properties" in node)
        and node.get("additionalProperties") is not False
    }
    assert opened == OPEN


def test_every_key_of_the_schema_has_a_type_and_is_explained() -> None:
    for key, node in nodes(SCHEMA).items():
        assert node.get("description"), dotted(key)
        assert "type" in node or "enum" in node, dotted(key)


def test_the_schema_is_one_that_helm_and_jsonschema_read_alike() -> None:
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    text = (CHART / "values.schema.json").read_text(encoding="utf-8")
    assert '"format"' not in text, "validators differ in what they check of a format: use pattern or enum"
    assert not re.search(r"\(\?[=!<]", text), "Go's regular expressions cannot look around"


def test_no_default_is_null() -> None:
    """Helm 4 drops such a key, Helm 3 keeps it."""
    assert [dotted(key) for key, value in KEYS.items() if value is None] == []


def test_every_key_of_the_defaults_is_documented() -> None:
    assert _undocumented((CHART / "values.yaml").read_text(encoding="utf-8")) == []


def test_an_undocumented_key_is_found() -> None:
    text = "a:\n  # Why.\n  b: 1\n  # -- In\n  # two lines.\n  c: 1\nd: 2\n# -- All.\ne:\n  f: 3\n"
    assert _undocumented(text) == ["a.b", "d"]


def test_the_charts_readme_is_generated_from_its_values(tmp_path: Path) -> None:
    tools.ensure("helm-docs")
    done = subprocess.run(
        [BIN / "helm-docs", "--chart-search-root", CHART.parent, "--dry-run", "--log-level", "error"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.strip() == (CHART / "README.md").read_text(encoding="utf-8").strip(), "run `make docs`"


def test_every_stack_is_accepted(stack: str) -> None:
    values, _ = STACKS[stack]
    assert complaints(computed(values), SCHEMA) == []
    for executable in ("helm", "helm3"):
        ok, said = lint(values, executable)
        assert ok, said


# -- every value shows ---------------------------------------------------------------------------------------

# Another value for each key of which one cannot be guessed from its default.
OTHER: dict[str, Any] = {
    "backup.dumpSize": "1Ti",
    "backup.resources.limits.cpu": "3",
    "backup.resources.limits.memory": "3Gi",
    "backup.resources.requests.cpu": "200m",
    "backup.resources.requests.memory": "200Mi",
    "backup.schedule": "7 * * * *",
    "backup.timeZone": "Europe/London",
    "database.image.digest": f"sha256:{64 * 'a'}",
    "networkPolicy.databasePeers": [{"podSelector": {"matchLabels": {"app": "database"}}}],
    "pod.affinity": {"podAffinity": {}},
    "pod.imagePullSecrets": [{"name": "registry"}],
    "pod.supplementalGroups": [5000],
    "pod.tolerations": [{"operator": "Exists"}],
    "volumes.databaseBackup.accessModes": ["ReadWriteMany"],
    "volumes.databaseBackup.size": "500Gi",
}
# Read by nobody: Helm gives it to every chart.
WITHOUT_EFFECT = {("global",)}


def _other(key: Key) -> Any:
    """A value that the key does not have by default."""
    name, value, node = dotted(key), LEAVES[key], nodes(SCHEMA)[key]
    if name in OTHER:
        return OTHER[name]
    if "enum" in node:
        return next(choice for choice in node["enum"] if choice != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value - 1 if value == node.get("maximum") else value + 1
    if isinstance(value, str):
        return f"{value}x" if value else "example"
    if isinstance(value, dict):
        return {"example": "x"}
    return ["example"]


def _objects(values: dict[str, Any], chart: Path = CHART) -> list[dict[str, Any]] | str:
    """The render, or the sentence of the guard that stopped it."""
    try:
        return list(render(values, chart=chart))
    except RenderError as error:
        if "schema" in str(error):
            raise
        return str(error)


@pytest.mark.parametrize("key", [key for key in LEAVES if key not in WITHOUT_EFFECT], ids=dotted)
def test_every_value_changes_what_is_rendered(key: Key) -> None:
    changed = nested(key, _other(key))
    assert _objects(changed) != _objects({}) or notes(changed, NAMESPACE) != notes({}, NAMESPACE)


def test_every_exception_is_of_a_key_that_is_there() -> None:
    assert {*OTHER, *map(dotted, WITHOUT_EFFECT)} <= {dotted(key) for key in LEAVES}


# -- a broken chart is found ---------------------------------------------------------------------------------


@pytest.fixture
def spare(chart: Path) -> Path:
    """The chart with one more default, `spare`, that no template reads."""
    with (chart / "values.yaml").open("a", encoding="utf-8") as defaults:
        defaults.write("spare: 1\n")
    return chart


def test_a_default_that_the_schema_does_not_know_is_found(spare: Path) -> None:
    assert ("spare",) in set(default_keys(load_values(spare / "values.yaml"), load(spare))) - set(
        nodes(load(spare))
    )
    with pytest.raises(RenderError, match="'spare'"):
        render(chart=spare)


def test_a_value_that_no_template_reads_is_found(spare: Path) -> None:
    schema = json.loads((spare / "values.schema.json").read_text(encoding="utf-8"))
    schema["properties"]["spare"] = {"type": "integer"}
    (spare / "values.schema.json").write_text(json.dumps(schema), encoding="utf-8")
    assert _objects({"spare": 2}, spare) == _objects({}, spare)
    assert _objects({"backup": {"keep": 2}}, spare) != _objects({}, spare)


def test_an_undocumented_default_is_found(spare: Path) -> None:
    assert _undocumented((spare / "values.yaml").read_text(encoding="utf-8")) == ["spare"]
