"""The chart's values.schema.json as paths: which keys there are, and which of them are closed maps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

from stack_backup_lab.render import CHART

Key = tuple[str, ...]


@cache
def load(chart: Path = CHART) -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    return schema


def dotted(key: Key) -> str:
    return ".".join(key)


def nodes(schema: Mapping[str, Any]) -> dict[Key, dict[str, Any]]:
    """The schema of every key, maps included; `$ref`s within the document are followed."""
    return dict(_nodes(schema, schema, ()))


def _nodes(
    root: Mapping[str, Any], node: Mapping[str, Any], key: Key
) -> Iterator[tuple[Key, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        resolved = _resolve(root, child)
        yield (*key, name), resolved
        yield from _nodes(root, resolved, (*key, name))


def _resolve(root: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """The node with what its `$ref` names, or the first of its `allOf`; what stands beside them wins."""
    (reference, *_) = [*([node] if "$ref" in node else []), *node.get("allOf", [])] or [{}]
    if "$ref" not in reference:
        return dict(node)
    target: Any = root
    for step in reference["$ref"].removeprefix("#/").split("/"):
        target = target[step]
    below = _resolve(root, target)
    merged = {**below, **{name: value for name, value in node.items() if name not in ("$ref", "allOf")}}
    if "properties" in merged:
        merged["properties"] = {**below.get("properties", {}), **node.get("properties", {})}
    return merged


def default_keys(defaults: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[Key, Any]:
    """Every key of values.yaml with its value; maps that the schema leaves to the user are not entered."""
    known = nodes(schema)

    def walk(values: Mapping[str, Any], key: Key) -> Iterator[tuple[Key, Any]]:
        for name, value in values.items():
            here = (*key, name)
            yield here, value
            if isinstance(value, dict) and "properties" in known.get(here, {"properties": {}}):
                yield from walk(value, here)

    return dict(walk(defaults, ()))


def complaints(values: Mapping[str, Any], schema: Mapping[str, Any]) -> list[str]:
    """What jsonschema has against values, each with its place in Helm's notation: `at "
    "'/postgresBackupHourly/keep': …`."""
    validator = jsonschema.Draft202012Validator(schema)
    return [
        f"at '/{'/'.join(map(str, error.path))}': {error.message}" for error in validator.iter_errors(values)
    ]


def nested(key: Key, value: Any) -> dict[str, Any]:
    """`value` under the keys of `key`."""
    for name in reversed(key):
        value = {name: value}
    result: dict[str, Any] = value
    return result
