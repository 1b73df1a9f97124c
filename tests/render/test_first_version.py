"""From the first version of the chart: values are taken, or refused by their new name; volumes stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stack_backup_lab.paths import BIN
from stack_backup_lab.render import RenderError, load_values, render
from tests.render import contract
from tests.render.schema import Key, complaints, default_keys, dotted, load, nested, nodes
from tests.render.stacks import computed

DATA = Path(__file__).parent / "data"
RENAMED = {
    "backup": "postgresBackupHourly",
    "tiers": "postgresBackupTiers",
    "databaseReplica": "postgresReplicatorBackup",
    "mediaReplica": "mediaReplicator",
    "drill": "databaseDrill",
}


def _by_their_new_names(values: dict[str, Any]) -> dict[str, Any]:
    """Sections as today's chart calls them: the sentence that refuses the old name asks for no more."""
    return {RENAMED.get(section, section): own for section, own in values.items()}


AS_RELEASED = load_values(DATA / "first-values.yaml")
FIRST = _by_their_new_names(AS_RELEASED)
STACKS = load_values(DATA / "first-stacks.yaml")
SCHEMA = load()
NODES = nodes(SCHEMA)
DEPRECATED = {key for key, node in NODES.items() if node.get("deprecated")}
_KEYS = default_keys(FIRST, SCHEMA)
LEAVES: dict[Key, Any] = {key: value for key, value in _KEYS.items() if not any(k[:-1] == key for k in _KEYS)}
LEAVES |= {(section,): AS_RELEASED[section] for section in RENAMED}


def test_there_is_a_lot_to_take() -> None:
    assert len(LEAVES) > 150
    assert LEAVES[("postgresBackupHourly", "keep")] == 24


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_its_defaults_install_as_a_values_file(executable: str) -> None:
    """Whoever copied the whole of values.yaml to change a line of it."""
    made, today = (
        render(values, namespace="stack-alice-default", helm=BIN / executable) for values in (FIRST, {})
    )
    assert made.names() == today.names()


@pytest.mark.parametrize("key", sorted(LEAVES), ids=dotted)
def test_a_value_is_taken_or_refused_by_its_new_name(key: Key) -> None:
    """Maps are closed, so what is taken is known; `test_values` proves that what is known has effect."""
    assert complaints(computed(nested(key, LEAVES[key])), SCHEMA) == []
    if key in DEPRECATED:
        something = {"array": [{"key": "a"}], "object": {"a": "b"}}[NODES[key]["type"]]
        with pytest.raises(RenderError) as refused:
            render(nested(key, something))
        old, new = re.findall(r"([\w.]+) is ([\w.]+) now", str(refused.value))[0]
        assert old == dotted(key)
        assert tuple(new.split(".")) in NODES.keys() - DEPRECATED


@pytest.mark.parametrize("stack", STACKS)
def test_an_upgrade_leaves_jobs_and_volumes_alone(stack: str) -> None:
    """Kubernetes refuses another specification of a volume that is there, and Helm deletes what is gone."""
    first = STACKS[stack]
    objects = render(_by_their_new_names(first["values"]), namespace=first["namespace"])
    names = sorted(job["metadata"]["name"] for job in objects.of_kind("CronJob"))
    assert [name for name in names if name != contract.DOCTOR] == first["cronJobs"]
    volumes = {
        name: one
        for name, one in zip(objects.names(), objects, strict=True)
        if one["kind"] in ("PersistentVolume", "PersistentVolumeClaim")
    }
    specs = {name: one["spec"] for name, one in volumes.items()}
    assert specs.pop("PersistentVolumeClaim/history")
    assert specs == first["volumes"]
    for name, one in volumes.items():
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep", name
