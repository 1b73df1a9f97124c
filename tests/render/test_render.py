"""`stack_backup_lab.render` shows what Helm shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup_lab.paths import BIN
from stack_backup_lab.render import CHART, Objects, RenderError, load_values, merge_values, render, sentence
from tests.render.stacks import STACKS, computed, helm

ECHO = """
{{- if .Values.broken }}{{ fail "broken is set; nothing was rendered; unset it" }}{{ end }}
{{- if .Values.typo }}{{ .Values.typo.x.y }}{{ end }}
apiVersion: v1
kind: ConfigMap
metadata:
  name: echo
data:
  values: {{ .Values | toJson | quote }}
  namespace: {{ .Release.Namespace }}
  release: {{ .Release.Name }}
  kubernetes: {{ .Capabilities.KubeVersion.Version }}
---
# nothing but a comment
"""
DEFAULTS = "keep: 24\nlist: [1, 2]\nmap: {a: 1, b: {c: 2}}\nbroken: false\ntypo: {}\n"


@pytest.fixture
def echo(tmp_path: Path) -> Path:
    """A chart that shows the values which its templates see."""
    chart = tmp_path / "echo"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("apiVersion: v2\nname: echo\nversion: 0.1.0\n")
    (chart / "values.yaml").write_text(DEFAULTS)
    (chart / "templates" / "echo.yaml").write_text(ECHO)
    return chart


def _seen(objects: Objects) -> Any:
    return json.loads(objects.get("ConfigMap", "echo")["data"]["values"])


LAYERS: list[list[dict[str, Any]]] = [
    [{"map": {"a": 5}}, {"map": {"b": {"d": 6}}}],
    [{"list": [3]}, {"list": [4]}],
    [{"keep": 0}, {}],
    [{"keep": None}],
    [{"map": {"b": None}}, {"map": {"a": None}}],
    [{"map": None}, {"map": {"z": 1}}],
    [{"map": {"z": 1}}, {"map": None}],
    [{"map": {"b": {"c": None}}}, {"map": {"b": {"c": 7}}}],
    [{"new": {"x": 1}}, {"new": {"y": [1]}}, {"new": {"y": []}}],
    [{"new": None}],
    [{"new": {"x": None, "list": [{"y": None}]}}],
]


@pytest.mark.parametrize("executable", ["helm", "helm3"])
@pytest.mark.parametrize("layers", LAYERS, ids=str)
def test_values_are_merged_as_helm_merges_its_files(
    layers: list[dict[str, Any]], executable: str, echo: Path, tmp_path: Path
) -> None:
    files: list[str | Path] = []
    for number, layer in enumerate(layers):
        path = tmp_path / f"{number}.yaml"
        path.write_text(json.dumps(layer))
        files += ["--values", path]
    by_helm = helm("template", "r", echo, *files, executable=executable)
    assert by_helm.returncode == 0, by_helm.stderr
    expected = json.loads(next(yaml.safe_load_all(by_helm.stdout))["data"]["values"])
    merged = merge_values(*layers)
    assert _seen(render(merged, chart=echo, helm=BIN / executable)) == expected
    assert computed(merged, echo) == expected


def test_merging_changes_no_layer() -> None:
    layer = {"map": {"list": [1]}}
    merged = merge_values(layer, {"map": {"a": 1}})
    merged["map"]["list"].append(2)
    assert layer == {"map": {"list": [1]}}


def test_files_and_maps_are_merged_alike(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("keep: 3\nmap: {a: 1}\n")
    assert merge_values(path, {"map": {"b": 2}}) == {"keep": 3, "map": {"a": 1, "b": 2}}


def test_an_empty_values_file_has_no_values(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("# all defaults\n")
    assert load_values(path) == {}


def test_a_values_file_without_a_map_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text("- keep: 3\n")
    with pytest.raises(RenderError, match="holds a list, not a map"):
        load_values(path)


def test_namespace_release_and_kubernetes_version_reach_the_templates(echo: Path) -> None:
    objects = render(chart=echo, namespace="staging-stack", release="other", kube_version="1.34.2")
    data = objects.get("ConfigMap", "echo")["data"]
    assert (data["namespace"], data["release"], data["kubernetes"]) == ("staging-stack", "other", "v1.34.2")


def test_an_empty_document_is_no_object(echo: Path) -> None:
    assert render(chart=echo).names() == ["ConfigMap/echo"]


def test_a_guard_says_its_sentence_and_nothing_else(echo: Path) -> None:
    for executable in ("helm", "helm3"):
        with pytest.raises(RenderError) as caught:
            render({"broken": True}, chart=echo, helm=BIN / executable)
        assert str(caught.value) == "broken is set; nothing was rendered; unset it"


def test_a_broken_template_is_named_with_its_line(echo: Path) -> None:
    for executable in ("helm", "helm3"):
        with pytest.raises(
            RenderError, match=r"(?s)\A(template: )?echo/templates/echo.yaml:3:.*typo.x.y"
        ) as caught:
            render({"typo": {"x": 1}}, chart=echo, helm=BIN / executable)
        assert "--debug" not in str(caught.value)


def test_log_lines_are_left_out() -> None:
    assert (
        sentence('level=WARN msg="unable"\nI said\nlint.go:7: [INFO] Fail: no\nError: it is so\n')
        == "I said\nError: it is so"
    )
    assert (
        sentence("WARNING: Kubernetes configuration file is group-readable.\nError: it is so\n") == "it is so"
    )


def test_a_chart_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="absent"):
        render(chart=tmp_path / "absent")


def test_helm_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RenderError, match="absent; nothing was rendered"):
        render(helm=tmp_path / "absent")


def test_a_render_is_the_callers_own_and_repeated_from_the_cache(echo: Path) -> None:
    first = render(chart=echo)
    first[0]["metadata"]["name"] = "changed"
    assert render(chart=echo).names() == ["ConfigMap/echo"]


def test_a_changed_chart_is_rendered_anew(echo: Path) -> None:
    assert _seen(render(chart=echo))["keep"] == 24
    (echo / "values.yaml").write_text(DEFAULTS.replace("24", "240"))
    assert _seen(render(chart=echo))["keep"] == 240


def test_an_absent_object_is_answered_with_what_there_is(echo: Path) -> None:
    with pytest.raises(KeyError, match="no Secret/echo among ConfigMap/echo"):
        render(chart=echo).get("Secret", "echo")


def test_pods_are_found_at_every_depth() -> None:
    pod = {"containers": [{"name": "a"}]}
    objects = Objects(
        [
            {"kind": "Pod", "metadata": {"name": "p"}, "spec": pod},
            {"kind": "Deployment", "metadata": {"name": "d"}, "spec": {"template": {"spec": pod}}},
            {
                "kind": "CronJob",
                "metadata": {"name": "c"},
                "spec": {"jobTemplate": {"spec": {"template": {"spec": pod}}}},
            },
            {"kind": "List", "metadata": {"name": "l"}, "items": [{"spec": pod}]},
            {"kind": "ConfigMap", "metadata": {"name": "m"}, "data": {"containers": "text"}},
        ]
    )
    assert [owner for owner, _ in objects.pods()] == ["Pod/p", "Deployment/d", "CronJob/c", "List/l"]


def test_helm_3_and_helm_4_render_the_same(stack: str) -> None:
    values, namespace = STACKS[stack]
    with_4 = render(values, namespace=namespace)
    with_3 = render(values, namespace=namespace, helm=BIN / "helm3")
    assert len(with_4)
    assert list(with_3) == list(with_4)


def test_helm_3_is_helm_3_and_helm_4_is_helm_4() -> None:
    for executable, major in (("helm", "v4."), ("helm3", "v3.")):
        assert helm("version", "--template", "{{ .Version }}", executable=executable).stdout.startswith(major)


def test_the_chart_is_the_projects() -> None:
    assert load_values(CHART / "Chart.yaml")["name"] == "stack-backup"
