"""What the chart refuses, and that every tool that a user may check with refuses it alike, naming the key."""

from __future__ import annotations

from typing import Any

import pytest

from stack_backup.render import CHART, RenderError, load_values, merge_values, render
from stack_backup.testbed.paths import BIN
from tests.render.schema import Key, complaints, default_keys, dotted, load, nested, nodes
from tests.render.stacks import computed, lint

SCHEMA = load()
KEYS = default_keys(load_values(CHART / "values.yaml"), SCHEMA)
CLOSED: list[Key] = [
    key for key, node in {(): SCHEMA, **nodes(SCHEMA)}.items() if node.get("additionalProperties") is False
]


def _said(values: dict[str, Any], executable: str = "helm") -> dict[str, str]:
    """What each way of checking says against the values; a way that accepts them says nothing."""
    try:
        render(values, helm=BIN / executable)
        by_template = ""
    except RenderError as error:
        by_template = str(error)
    accepted, by_lint = lint(values, executable)
    return {
        "jsonschema": "\n".join(complaints(computed(values), SCHEMA)),
        f"{executable} template": by_template,
        f"{executable} lint": "" if accepted else by_lint,
    }


BAD: list[tuple[str, dict[str, Any]]] = [
    ("keep", {"backup": {"keep": 0}}),
    ("keep", {"backup": {"keep": -1}}),
    ("keep", {"backup": {"keep": "24"}}),
    ("keep", {"backup": {"keep": 24.5}}),
    ("compressor", {"backup": {"compressor": "bzip2"}}),
    ("compressor", {"backup": {"compressor": ""}}),
    ("host", {"database": {"host": ""}}),
    ("host", {"database": {"host": "data base"}}),
    ("port", {"database": {"port": 0}}),
    ("port", {"database": {"port": 65536}}),
    ("port", {"database": {"port": "5432"}}),
    ("superuser", {"database": {"superuser": ""}}),
    ("name", {"database": {"name": ""}}),
    ("name", {"database": {"secret": {"name": "Not_A_Name"}}}),
    ("superuserKey", {"database": {"secret": {"superuserKey": "a/b"}}}),
    ("minimumShare", {"backup": {"minimumShare": 101}}),
    ("deadlineSeconds", {"backup": {"deadlineSeconds": 0}}),
    ("startingDeadlineSeconds", {"backup": {"startingDeadlineSeconds": 9}}),
    ("timeZone", {"backup": {"timeZone": ""}}),
    ("suspend", {"backup": {"suspend": "no"}}),
    ("runAsUser", {"pod": {"runAsUser": 0}}),
    ("size", {"volumes": {"databaseBackup": {"size": "100 GB"}}}),
    ("size", {"volumes": {"databaseBackup": {"size": 0}}}),
    ("accessModes", {"volumes": {"databaseBackup": {"accessModes": ["ReadWrite"]}}}),
    ("tag", {"database": {"image": {"tag": "latest"}}}),
    ("digest", {"database": {"image": {"digest": "sha256:abc"}}}),
    ("pullPolicy", {"database": {"image": {"pullPolicy": "Sometimes"}}}),
    ("kepe", {"backup": {"kepe": 24}}),
    ("backups", {"backups": {}}),
    ("backup", {"backup": []}),
    ("keep", {"backup": {"keep": None}}),
    ("labels", {"pod": {"labels": {"app.kubernetes.io/name": "mine"}}}),
    ("databasePeers", {"networkPolicy": {"databasePeers": [{}]}}),
]
SCHEDULES = [
    "", "hourly", "51 * * *", "51 * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
    "* * * * 8", "TZ=UTC 51 * * * *", "CRON_TZ=UTC 51 * * * *", "@reboot", "51,* * * *", "a * * * *",
    "*/0 * * * *",
]  # fmt: skip


@pytest.mark.parametrize(("key", "values"), BAD, ids=str)
def test_a_bad_value_is_refused_by_every_tool(key: str, values: dict[str, Any]) -> None:
    for tool, said in _said(values).items():
        assert said, f"{tool} accepts {values}"
        assert key in said, f"{tool} does not name {key}: {said}"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_is_no_cron_expression_is_refused(schedule: str) -> None:
    values = {"backup": {"schedule": schedule}}
    assert "/backup/schedule" in "\n".join(complaints(computed(values), SCHEMA))
    with pytest.raises(RenderError, match="/backup/schedule"):
        render(values)


@pytest.mark.parametrize("schedule", ["51 * * * *", "*/20 0-6,22 1 */3 1-5", "@hourly", "0 0 1 JAN SUN"])
def test_a_schedule_that_is_a_cron_expression_is_accepted(schedule: str) -> None:
    assert render({"backup": {"schedule": schedule}}).of_kind("CronJob")[0]["spec"]["schedule"] == schedule


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_key_that_no_map_knows_is_refused_at_every_level(executable: str) -> None:
    """All at once, for speed: every tool lists every breach."""
    values = merge_values(*(nested((*key, f"stray{number}"), 1) for number, key in enumerate(CLOSED)))
    assert len(CLOSED) > 5
    for tool, said in _said(values, executable).items():
        for number, key in enumerate(CLOSED):
            assert f"'stray{number}'" in said, (
                f"{tool} takes an unknown key under {dotted(key) or 'the root'}"
            )


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_value_of_the_wrong_type_is_refused_for_every_key(executable: str) -> None:
    leaves = [key for key in KEYS if not any(other[:-1] == key for other in KEYS)]
    values = merge_values(*(nested(key, _of_a_wrong_type(nodes(SCHEMA)[key])) for key in leaves))
    for tool, said in _said(values, executable).items():
        for key in leaves:
            assert f"'/{'/'.join(key)}'" in said, f"{tool} takes any type for {dotted(key)}"


def _of_a_wrong_type(node: dict[str, Any]) -> Any:
    """A value of a type that the schema's node does not name."""
    return [1] if node.get("type") != "array" else {"wrong": 1}


def _size(size: str, **backup: Any) -> dict[str, Any]:
    return {"volumes": {"databaseBackup": {"size": size}}, "backup": backup}


# What a schema cannot express, because it depends on several keys.
GUARDS: list[tuple[dict[str, Any], str]] = [
    (
        _size("100Gi"),
        "volumes.databaseBackup.size is 100Gi, but backup.keep 24 dumps of backup.dumpSize 3400Mi",
    ),
    (_size("120Gi", keep=48), "backup.keep 48"),
    (_size("120Gi", dumpSize="1Ti"), "backup.dumpSize 1Ti"),
    (_size("100000000"), "volumes.databaseBackup.size is 100000000"),
    (_size("12.9Gi", keep=9, dumpSize="1Gi"), "need 13312Mi: make the volume larger or keep fewer dumps"),
    (
        {"backup": {"deadlineSeconds": 3300}},
        "backup.deadlineSeconds 3300 and backup.startingDeadlineSeconds 600",
    ),
    ({"backup": {"startingDeadlineSeconds": 901}}, "backup.startingDeadlineSeconds 901"),
    ({"backup": {"schedule": "@hourly", "deadlineSeconds": 3300}}, "exceed the hour"),
    ({"backup": {"schedule": "7 * * * *", "deadlineSeconds": 3300}}, "exceed the hour"),
]


@pytest.mark.parametrize(("values", "sentence"), GUARDS, ids=lambda part: str(part)[:70])
def test_a_guard_says_what_is_wrong(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RenderError) as caught:
        render(values)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        _size("13Gi", keep=9, dumpSize="1Gi"),
        _size("14G", keep=9, dumpSize="1000M"),
        _size("13312Mi", keep=9, dumpSize="1073741824"),
        {"volumes": {"databaseBackup": {"size": "1Gi", "existingClaim": "made-by-hand"}}},
        {"backup": {"deadlineSeconds": 3000}},
        {"backup": {"deadlineSeconds": 7200, "schedule": "51 */4 * * *"}},
    ],
    ids=str,
)
def test_a_guard_lets_pass_what_just_fits(values: dict[str, Any]) -> None:
    assert render(values).of_kind("CronJob")
