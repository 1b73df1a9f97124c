"""What Kubernetes keeps in one object, of at most 1 MiB: the programs, and Helm's record of a release."""

from __future__ import annotations

import base64
import gzip
import json
from fnmatch import fnmatch

import pytest
import yaml

from stack_backup_lab.render import CHART, Objects, render
from tests.render.stacks import STACKS

MOST = 1 << 20
IGNORED = ["ci/*", "README.md.gotmpl", "*__pycache__*"]


def recorded(objects: Objects) -> int:
    """Bytes of the record as Helm writes it: the chart's files and what it rendered, as JSON, packed."""

    def files(*, templates: bool) -> list[dict[str, str]]:
        names = [path.relative_to(CHART).as_posix() for path in sorted(CHART.rglob("*")) if path.is_file()]
        return [
            {"name": name, "data": base64.b64encode((CHART / name).read_bytes()).decode()}
            for name in names
            if name.startswith("templates/") == templates and not any(fnmatch(name, one) for one in IGNORED)
        ]

    record = {
        "chart": {"templates": files(templates=True), "files": files(templates=False)},
        "manifest": yaml.safe_dump_all(objects),
    }
    return len(base64.b64encode(gzip.compress(json.dumps(record).encode(), 9)))


@pytest.fixture(scope="module")
def everything() -> Objects:
    values, namespace = STACKS["ci/everything"]
    return render(values, namespace=namespace)


def test_helm_s_record_of_a_release_fits_its_secret(everything: Objects) -> None:
    """Helm's own was 632,640 bytes on kind, this 658,752; an operator's values come on top."""
    assert 400_000 < recorded(everything) < MOST * 3 // 4


def test_the_programs_fit_their_configmap(everything: Objects) -> None:
    sizes = {
        item["metadata"]["name"]: sum(len(key) + len(text.encode()) for key, text in item["data"].items())
        for item in everything.of_kind("ConfigMap")
    }
    assert max(sizes.values()) > 400_000
    assert max(sizes.values()) < MOST * 3 // 4, sizes
