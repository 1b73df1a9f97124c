"""The chart as data: values in, Kubernetes objects out.

Helm renders, through pyhelm3. Two things are done here because pyhelm3 does them otherwise: values of several
files are merged as Helm merges them (pyhelm3 joins lists and ignores null), and errors are cut down to Helm's
own sentence.
"""

from __future__ import annotations

import asyncio
import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, overload

import yaml
from pyhelm3 import Client, Command, Error, command
from pyhelm3.models import Chart

from stack_backup_lab import LabError
from stack_backup_lab.paths import BIN, PROJECT

CHART = PROJECT / "charts" / "stack-backup"
NAMESPACE = "production-stack"
RELEASE = "stack-backup"


class RenderError(LabError):
    """Helm refused the chart or its values; the message is Helm's own, without its decoration."""


class Objects(Sequence[dict[str, Any]]):
    """The objects of one render, in Helm's order. They are the caller's own to change."""

    def __init__(self, objects: Sequence[dict[str, Any]]) -> None:
        self._objects = list(objects)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        return self._objects[index]

    def __len__(self) -> int:
        return len(self._objects)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """The object of this kind and name; KeyError names what there is instead."""
        for item in self._objects:
            if item["kind"] == kind and item["metadata"]["name"] == name:
                return item
        raise KeyError(f"no {kind}/{name} among {', '.join(self.names())}")

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [item for item in self._objects if item["kind"] == kind]

    def names(self) -> list[str]:
        """`Kind/name` of every object, in Helm's order."""
        return [f"{item['kind']}/{item['metadata']['name']}" for item in self._objects]

    def pods(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Every pod specification, however deep it lies in its object, with its owner as `Kind/name`."""
        for owner, item in zip(self.names(), self._objects, strict=True):
            for pod in _pods(item):
                yield owner, pod


def _pods(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if isinstance(node.get("containers"), list):
            yield node
        for child in node.values():
            yield from _pods(child)
    elif isinstance(node, list):
        for child in node:
            yield from _pods(child)


def render(
    values: Mapping[str, Any] | None = None,
    *,
    namespace: str = NAMESPACE,
    release: str = RELEASE,
    helm: Path | None = None,
    chart: Path | None = None,
    kube_version: str | None = None,
) -> Objects:
    """Render the chart with `values` laid over its defaults.

    `helm` is the executable (the project's Helm 4 where None), `kube_version` the Kubernetes version that the
    templates see (that of Helm's client library where None). Renders are cached until a file of the chart
    changes. Raises RenderError with Helm's sentence. Not to be called from a running event loop.
    """
    chart = CHART if chart is None else chart
    rendered = _render(
        json.dumps(values or {}, sort_keys=True),
        namespace,
        release,
        BIN / "helm" if helm is None else helm,
        chart,
        _state(chart),
        kube_version,
    )
    return Objects(copy.deepcopy(rendered))


def merge_values(*layers: Mapping[str, Any] | Path) -> dict[str, Any]:
    """Merge values as Helm merges several `-f` files: maps by key, all else replaced, the last layer wins.

    A null stays in the result: there it makes Helm drop the chart's default of that key.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        _lay_over(merged, load_values(layer) if isinstance(layer, Path) else layer)
    return merged


def _lay_over(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(under.get(key), dict):
            _lay_over(under[key], value)
        else:
            under[key] = copy.deepcopy(value)


def load_values(path: Path) -> dict[str, Any]:
    """The values of a YAML file; an empty file has none. Raises RenderError when the file holds no map."""
    values = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RenderError(f"{path} holds a {type(values).__name__}, not a map of values.")
    return values


class _Loader(yaml.CSafeLoader):
    """pyhelm3's loader of YAML, on libyaml: a render is read in a tenth of the time."""


_Loader.add_constructor("tag:yaml.org,2002:value", command.SafeLoader.construct_value)
command.SafeLoader = _Loader


class _Command(Command):  # type: ignore[misc]  # pyhelm3 is untyped
    """Helm with one option of `helm template` that pyhelm3 does not offer."""

    def __init__(self, executable: str, kube_version: str | None) -> None:
        super().__init__(executable=executable)
        self._kube_version = kube_version

    async def run(self, command: list[Any], input: bytes | None = None) -> bytes:
        if self._kube_version and command[0] == "template":
            command = [*command, "--kube-version", self._kube_version]
        output: bytes = await super().run(command, input)
        return output


@cache
def _client(helm: Path, kube_version: str | None) -> Client:
    if not helm.is_file():
        raise RenderError(f"Helm is not at {helm}; nothing was rendered. `make tools` puts it there.")
    return Client(command=_Command(str(helm), kube_version), executable=str(helm))


@cache
def _chart(helm: Path, chart: Path, _state: object) -> Chart:
    try:
        return asyncio.run(_client(helm, None).get_chart(chart))
    except Error as error:
        raise RenderError(sentence(str(error))) from error


@cache
def _render(
    values: str,
    namespace: str,
    release: str,
    helm: Path,
    chart: Path,
    state: object,
    kube_version: str | None,
) -> list[dict[str, Any]]:
    client, loaded = _client(helm, kube_version), _chart(helm, chart, state)

    async def template() -> list[dict[str, Any] | None]:
        return list(await client.template_resources(loaded, release, json.loads(values), namespace=namespace))

    try:
        # A template that renders nothing but comments is an empty document.
        return [item for item in asyncio.run(template()) if item is not None]
    except Error as error:
        raise RenderError(sentence(str(error))) from error
    except yaml.YAMLError as error:
        raise RenderError(f"The chart rendered something that is no YAML: {error}") from error


def _state(chart: Path) -> tuple[tuple[str, int, int], ...]:
    """What tells one state of the chart's files from another, cheaply: names, sizes, times of change."""
    files = sorted(path for path in chart.rglob("*") if path.is_file())
    return tuple((str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files)


_NOISE = (
    re.compile(r"^(?:level=|WARNING:|\S+\.go:\d+:).*\n?", re.MULTILINE),  # log lines of Helm 4 and Helm 3
    re.compile(r"\A\s*Error: (?:INSTALLATION FAILED: )?(?:execution error at \([^)]*\): )?"),
    re.compile(r"\s*Use --debug flag to render out invalid YAML\s*\Z"),
)


def sentence(stderr: str) -> str:
    """What Helm has to say in `stderr`, without log lines, prefixes and advice for chart developers."""
    for noise in _NOISE:
        stderr = noise.sub("", stderr)
    return stderr.strip()
