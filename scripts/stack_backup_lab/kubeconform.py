"""`python -m stack_backup_lab.kubeconform NAMESPACE=VALUES…`: the objects of stacks through kubeconform.

The schemas are those of the package kubernetes-validate. Their references name an address of their own, which
kubeconform does not follow, so the definitions that a kind needs are written into its schema.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kubernetes_validate
import yaml

from stack_backup_lab.bed import BedError, tools
from stack_backup_lab.bed.commands import run
from stack_backup_lab.paths import BIN
from stack_backup_lab.render import Objects, load_values, render

SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"
OLDEST = 31
"""The oldest minor of Kubernetes 1.x that Chart.yaml admits."""


def check(objects: Objects, minor: int, folder: Path) -> str:
    """What kubeconform says of the objects for Kubernetes 1.`minor`. Raises BedError when it refuses one."""
    source = SCHEMAS / f"v1.{minor}.0-local-strict"
    definitions = json.loads((source / "_definitions.json").read_text())["$defs"]
    for item in objects:
        name = f"{item['kind']}-{item['apiVersion'].replace('.k8s.io', '').replace('/', '-')}.json".lower()
        schema = json.loads((source / name).read_text())
        (folder / name).write_text(json.dumps(_standalone(schema, definitions)))
    manifest = folder / "objects.yaml"
    manifest.write_text(yaml.safe_dump_all(objects))
    location = str(folder / "{{.ResourceKind}}{{.KindSuffix}}.json")
    kubeconform = BIN / "kubeconform"
    return run([kubeconform, "-strict", "-summary", "-schema-location", location, str(manifest)]).strip()


def _standalone(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    needed: dict[str, Any] = {}
    waiting = [schema]
    while waiting:
        for name in _references(waiting.pop()):
            if name not in needed:
                needed[name] = definitions[name]
                waiting.append(definitions[name])
    text = json.dumps({**schema, "definitions": needed})
    inside = '"#/definitions/'
    whole = text.replace('"/api/_definitions.json#/$defs/', inside).replace('"#/$defs/', inside)
    return dict(json.loads(whole))


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value.rsplit("/", 1)[-1]
            else:
                yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)


def main(stacks: list[str]) -> None:
    tools.ensure("helm", "kubeconform")
    newest = max(int(path.name.split(".")[1]) for path in SCHEMAS.glob("v1.*-local-strict"))
    for stack in stacks:
        namespace, _, values = stack.partition("=")
        objects = render(load_values(Path(values)), namespace=namespace)
        for minor in (OLDEST, newest):
            with TemporaryDirectory() as folder:
                print(f"{values} in {namespace}, Kubernetes 1.{minor}: {check(objects, minor, Path(folder))}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except BedError as failure:
        sys.exit(f"stack-backup: {failure}")
