"""Every object of every stack is what Kubernetes takes, in every version that the chart admits."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
from kubernetes_validate.utils import all_versions
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError

from stack_backup_lab.render import CHART, Objects, RenderError, load_values, merge_values, render
from tests.render.stacks import STACKS, template


def _oldest() -> tuple[int, int]:
    constraint = load_values(CHART / "Chart.yaml")["kubeVersion"]
    match = re.fullmatch(r">=\s*(\d+)\.(\d+)\.0-0", constraint)
    assert match, f"kubeVersion {constraint!r} must read >=X.Y.0-0: the -0 admits vendors' versions"
    return int(match[1]), int(match[2])


def _minor(version: str) -> tuple[int, int]:
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


OLDEST = _oldest()
MINORS = sorted({_minor(version) for version in all_versions()} - {(0, 0)})
ADMITTED = [minor for minor in MINORS if minor >= OLDEST]


CUSTOM = {"monitoring.coreos.com/v1"}
"""Kinds that Prometheus Operator brings: their tests hold what they are made of."""


def _text(minor: tuple[int, int]) -> str:
    return f"{minor[0]}.{minor[1]}"


def test_the_schemas_reach_from_the_oldest_admitted_minor_to_the_newest() -> None:
    assert OLDEST in MINORS, f"no schemas for {_text(OLDEST)}; there are {', '.join(map(_text, MINORS))}"
    # podFailurePolicy and timeZone, which every job needs, are stable from 1.31 on.
    assert OLDEST >= (1, 31)
    assert len(ADMITTED) >= 2


@pytest.mark.parametrize("minor", [_text(minor) for minor in ADMITTED])
def test_every_object_is_valid(minor: str, stack: str) -> None:
    values, namespace = STACKS[stack]
    objects = render(values, namespace=namespace, kube_version=f"{minor}.0")
    assert len(objects)
    for name, item in zip(objects.names(), objects, strict=True):
        if item["apiVersion"] in CUSTOM:
            continue
        try:
            used = kubernetes_validate.validate(item, minor, strict=True)
        except kubernetes_validate.ValidationError as error:
            pytest.fail(f"{name} is not valid for Kubernetes {minor}: {list(error.path)} {error.message}")
        assert _text(_minor(used)) == minor


@pytest.mark.parametrize("claim", ["", "123"])
@pytest.mark.parametrize("name", ["123", "1e3", "true"])
def test_names_that_read_as_something_else_stay_text(name: str, claim: str) -> None:
    values: dict[str, Any] = {
        "database": {
            "image": {"repository": name, "tag": name},
            "host": name,
            "superuser": name,
            "name": name,
            "owner": name,
            "secret": {"name": name, "superuserKey": name, "ownerKey": name},
        },
        "rclone": {"image": {"repository": name, "tag": name}},
        "postgresReplicatorBackup": {"folder": name},
        "databaseRecovery": {"sql": name, "confirm": name, "scratch": {"storageClass": name}},
        "databaseDrill": {"assertions": {name: name}, "references": name, "scratch": {"storageClass": name}},
        "mediaReplicator": {"sentinel": name, "bandwidthLimit": "123"},
        "mediaRecovery": {"confirm": name},
        "offsite": {"remote": f"{name}:{name}", "secret": {"name": name, "key": name}},
        "serviceAccount": {"name": name},
        "volumes": {
            "databaseBackup": {"existingClaim": claim, "storageClass": name},
            "databaseReplica": {"existingClaim": claim and "456", "nfs": {"server": name}},
            "mediaReplica": {
                "existingClaim": claim and "1e4",
                "nfs": {"server": name, "mountOptions": [name]},
            },
            "media": {"existingClaim": "789"},
            "replicaCheck": {"existingClaim": claim and "1e5", "storageClass": name},
        },
    }
    values = merge_values(STACKS["ci/everything"][0], values)
    for item in render(values, namespace=name, release=name):
        if item["apiVersion"] in CUSTOM:
            continue
        kubernetes_validate.validate(item, _text(OLDEST), strict=True)


@pytest.mark.parametrize(
    "name", ['it\'s "quoted"', "back\\slash", "{{ .Values }}", "frägalysis ☃", " blank ", "a: b #c"]
)
def test_an_awkward_name_of_the_database_reaches_the_pod_unchanged(name: str) -> None:
    _, pod = next(render({"database": {"name": name}}).pods())
    environment = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert environment["DATABASE_NAME"] == name


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'it''s' AS \"quoted\";\n-- {{ .Values }}\n",
        "  SELECT 1;\n---\nSELECT 2;\n\n",
        "\\connect frag\n\t#no comment",
        "SELECT 'frägalysis ☃';",
        "true",
    ],
)
def test_sql_of_the_values_reaches_its_file_unchanged(sql: str) -> None:
    own = {
        "databaseRecovery": {"sql": sql},
        "databaseDrill": {"references": sql, "assertions": {"first": sql, "second": sql}},
        "postgresReplicatorBackup": {"sanitise": {"sql": {"comments": sql}, "fragalysis": False}},
    }
    values, namespace = STACKS["ci/everything"]
    data = render(merge_values(values, own), namespace=namespace).get("ConfigMap", "stack-backup-sql")["data"]
    files = {name.removesuffix(".sql"): text for name, text in data.items() if name.endswith(".sql")}
    names = ["assertion-first", "assertion-has-targets", "assertion-second", "recovery", "references"]
    assert sorted(files) == [*names, "sanitise-2-comments"]
    assert {text for name, text in files.items() if name != "assertion-has-targets"} == {sql}


@pytest.mark.parametrize("breach", ["unknown field", "wrong type", "no schema"])
def test_an_invalid_object_is_found(production: Objects, breach: str) -> None:
    item = production.of_kind("CronJob")[0]
    if breach == "unknown field":
        item["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]["imagePolicy"] = "Always"
    elif breach == "wrong type":
        item["spec"]["schedule"] = 51
    else:
        item["apiVersion"] = "batch/v2"
    with pytest.raises((kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError)):
        kubernetes_validate.validate(item, _text(ADMITTED[0]), strict=True)


def test_an_older_cluster_is_refused() -> None:
    major, minor = OLDEST
    with pytest.raises(RenderError, match=f"incompatible with Kubernetes v{major}.{minor - 1}.0"):
        render(kube_version=f"{major}.{minor - 1}.0")


def test_a_vendors_version_is_admitted() -> None:
    assert render(kube_version=f"{_text(OLDEST)}.4-eks-1a2b3c").names() == render().names()


def test_no_key_is_written_twice(stack: str) -> None:
    values, namespace = STACKS[stack]
    documents = list(YAML(typ="safe").load_all(template(values, namespace)))
    assert any(documents)


def test_a_key_written_twice_is_found() -> None:
    with pytest.raises(DuplicateKeyError):
        YAML(typ="safe").load("spec: {a: 1, a: 2}")


@pytest.mark.parametrize(
    "path", sorted(CHART.glob("*.yaml")) + sorted(CHART.glob("ci/*.yaml")), ids=lambda p: p.name
)
def test_no_key_of_the_chart_is_written_twice(path: object) -> None:
    YAML(typ="safe").load(path)
