"""The exporter's objects, and the dashboard: its queries are asked of Prometheus' own tool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup_jobs.metrics import GAUGES
from stack_backup_lab.bed import prometheus
from stack_backup_lab.render import CHART, Objects, RenderError, merge_values, render
from tests.render.stacks import STACKS

BOARD = json.loads((CHART / "dashboards" / "stack-backup.json").read_text(encoding="utf-8"))
HOUR, DAY = 3600, 86400


def _monitored(**monitoring: Any) -> Objects:
    values, namespace = STACKS["production"]
    own = merge_values({"exporter": {"enabled": True}}, monitoring)
    return render(merge_values(values, {"monitoring": own}), namespace=namespace)


def _exporter(objects: Objects) -> dict[str, Any]:
    template: dict[str, Any] = objects.get("Deployment", "stack-backup-exporter")["spec"]["template"]
    return template


# -- the exporter --------------------------------------------------------------------------------------------


def test_nothing_is_monitored_unless_it_is_asked_for(production: Objects) -> None:
    names = " ".join(production.names())
    assert not re.search("exporter|PodMonitor|dashboard|Deployment", names)


def test_the_exporter_tells_of_every_job_of_its_release() -> None:
    objects = _monitored()
    (container,) = _exporter(objects)["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    jobs = {item["metadata"]["name"] for item in objects.of_kind("CronJob")}
    assert set(environment["JOBS"].split()) == jobs
    assert [port["containerPort"] for port in container["ports"]] == [int(environment["PORT"])]


def test_annotations_tell_where_to_scrape_unless_a_podmonitor_does() -> None:
    annotations = _exporter(_monitored())["metadata"]["annotations"]
    assert annotations == {
        "prometheus.io/scrape": "true",
        "prometheus.io/port": "8080",
        "prometheus.io/path": "/metrics",
    }
    objects = _monitored(podMonitor={"enabled": True, "labels": {"release": "prometheus"}, "interval": "15s"})
    assert "annotations" not in _exporter(objects)["metadata"]
    monitor = objects.get("PodMonitor", "stack-backup")
    assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    selector = objects.get("Deployment", "stack-backup-exporter")["spec"]["selector"]
    assert monitor["spec"] == {
        "selector": selector,
        "podMetricsEndpoints": [
            {"port": "metrics", "path": "/metrics", "interval": "15s", "scrapeTimeout": "10s"}
        ],
    }


@pytest.mark.parametrize(
    ("peers", "admitted"),
    [([], [{"namespaceSelector": {}}]), ([{"podSelector": {"matchLabels": {"app": "prometheus"}}}], None)],
)
def test_who_may_scrape_it(peers: list[Any], admitted: list[Any] | None) -> None:
    policy = _monitored(exporter={"peers": peers}).get("NetworkPolicy", "stack-backup-exporter")["spec"]
    ports = [{"port": "metrics", "protocol": "TCP"}]
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"from": admitted or peers, "ports": ports}]


def test_it_runs_in_the_database_image_where_that_has_its_own_python() -> None:
    values, namespace = STACKS["production"]
    own = {"python": {"image": {"repository": ""}}, "monitoring": {"exporter": {"enabled": True}}}
    objects = render(merge_values(values, own), namespace=namespace)
    image = {pod["containers"][0]["image"] for _, pod in objects.pods()}
    assert len(image) == 1


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"history": {"enabled": False}, "monitoring": {"exporter": {"enabled": True}}},
            "history.enabled is",
        ),
        ({"monitoring": {"podMonitor": {"enabled": True}}}, "there is nothing to scrape"),
    ],
)
def test_what_would_have_nothing_to_tell_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RenderError, match=sentence):
        render(values)


# -- the dashboard -------------------------------------------------------------------------------------------


def _queries() -> Iterator[tuple[str, str]]:
    """Every query with its panel's title; with all stacks in the place of the variable."""
    for panel in BOARD["panels"]:
        for target in panel["targets"]:
            yield f"{panel['title']}, {target['refId']}", target["expr"].replace("$namespace", ".+")


def _promtool(tmp_path: Path, command: str, document: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump(document))
    return subprocess.run(
        [prometheus.ensure() / "promtool", command, "rules", file],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_dashboard_is_brought_as_it_is_with_the_labels_that_grafana_looks_for() -> None:
    objects = render({"monitoring": {"dashboard": {"enabled": True, "annotations": {"grafana_folder": "B"}}}})
    brought = objects.get("ConfigMap", "stack-backup-dashboard")
    assert json.loads(brought["data"]["stack-backup.json"]) == BOARD
    assert brought["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert brought["metadata"]["annotations"] == {"grafana_folder": "B"}


def test_every_query_of_the_dashboard_is_one_and_its_metrics_are_there(tmp_path: Path) -> None:
    queries = dict(_queries())
    assert len(queries) > 25
    rules = [{"record": "a", "expr": query, "labels": {"of": of}} for of, query in queries.items()]
    document: dict[str, Any] = {"groups": [{"name": "dashboard", "rules": rules}]}
    done = _promtool(tmp_path, "check", document)
    assert done.returncode == 0, done.stdout + done.stderr
    named = {name for query in queries.values() for name in re.findall(r"stack_backup_\w+", query)}
    assert named <= GAUGES.keys()
    rules[0]["expr"] += ")"
    assert _promtool(tmp_path, "check", document).returncode != 0


def test_panels_do_not_cover_each_other_and_ask_the_chosen_source() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        for one in (panel, *panel["targets"]):
            assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


NOW = 10 * DAY
SERIES = {
    # One stack that is well, seen from two clusters; and one whose night went wrong.
    'dump_timestamp_seconds{namespace="good", cronjob="postgres-backup-hourly"}': NOW - HOUR,
    'dump_timestamp_seconds{namespace="bad", cronjob="postgres-backup-hourly"}': NOW - 5 * HOUR,
    'dump_suspicious{namespace="good", cronjob="postgres-backup-hourly"}': 0,
    'dump_suspicious{namespace="bad", cronjob="postgres-backup-hourly"}': 1,
    'last_run_timestamp_seconds{namespace="good", cronjob="postgres-backup-hourly"}': NOW - HOUR,
    'last_run_timestamp_seconds{namespace="bad", cronjob="postgres-backup-hourly"}': NOW - HOUR,
    'last_run_timestamp_seconds{namespace="good", cronjob="postgres-replicator-backup"}': NOW - 10 * HOUR,
    'last_run_timestamp_seconds{namespace="bad", cronjob="postgres-replicator-backup"}': NOW - 10 * HOUR,
    'last_exit_code{namespace="good", cronjob="postgres-backup-hourly"}': 0,
    'last_exit_code{namespace="bad", cronjob="postgres-backup-hourly"}': 65,
    'last_exit_code{namespace="bad", cronjob="media-replicator"}': 74,
    'drill_timestamp_seconds{namespace="good", cronjob="database-drill"}': NOW - 2 * DAY,
    'media_complete_timestamp_seconds{namespace="good", cronjob="media-replicator"}': NOW - 10 * HOUR,
    'media_complete_timestamp_seconds{namespace="bad", cronjob="media-replicator"}': NOW - 30 * HOUR,
    'dump_timestamp_seconds{namespace="near", cluster="one", cronjob="replica-check"}': NOW - 11 * HOUR,
    'dump_timestamp_seconds{namespace="far", cluster="two", cronjob="replica-check"}': NOW - 12 * HOUR,
    'dump_info{namespace="near", cluster="one", cronjob="replica-check", stack="good"}': 1,
    'dump_info{namespace="far", cluster="two", cronjob="replica-check", stack="good"}': 1,
}
ONE_ROW_A_STACK: dict[str, dict[str, float]] = {
    "A": {"good": HOUR, "bad": 5 * HOUR},
    "B": {"good": 0, "bad": 1},
    "C": {"good": 2 * DAY},
    "D": {},
    "E": {"good": 12 * HOUR},
    "F": {"good": 2},
    "G": {"good": 10 * HOUR, "bad": 30 * HOUR},
    "H": {},
    "I": {"bad": 2},
}
TILES = {
    "Red jobs": 2,
    "Dump older than 3 hours": 1,
    "Dump suspicious": 1,
    "Not proved for 8 days": 1,
    "Replica not seen for 26 hours": 1,
    "Media older than 26 hours": 1,
}


def _answers(tmp_path: Path, expected: list[dict[str, Any]], series: dict[str, float]) -> str:
    given = [{"series": f"stack_backup_{name}", "values": f"{value}x10"} for name, value in series.items()]
    test = {"interval": "1d", "input_series": given, "promql_expr_test": expected}
    done = _promtool(tmp_path, "test", {"evaluation_interval": "1d", "tests": [test]})
    return "" if done.returncode == 0 else done.stdout + done.stderr


def _expect(query: str, answer: dict[str, float]) -> dict[str, Any]:
    samples = [
        {"labels": f'{{namespace="{name}"}}' if name else "{}", "value": value}
        for name, value in answer.items()
    ]
    return {"expr": query, "eval_time": "10d", "exp_samples": samples}


def test_one_glance_tells_the_stack_that_is_well_from_the_one_that_is_not(tmp_path: Path) -> None:
    queries = dict(_queries())
    title = "Is every stack's newest restore point young, proved, and in both clusters?"
    rows = [_expect(queries[f"{title}, {ref}"], answer) for ref, answer in ONE_ROW_A_STACK.items()]
    tiles = [_expect(queries[f"{tile}, A"], {"": count}) for tile, count in TILES.items()]
    assert _answers(tmp_path, rows + tiles, SERIES) == ""
    assert _answers(tmp_path, tiles, {**SERIES, next(iter(SERIES)): NOW - 4 * HOUR}) != ""


def test_where_all_is_well_every_tile_is_at_zero(tmp_path: Path) -> None:
    queries = dict(_queries())
    well = {name: value for name, value in SERIES.items() if '"bad"' not in name}
    tiles = [_expect(queries[f"{tile}, A"], {"": 0}) for tile in TILES]
    assert _answers(tmp_path, tiles, well) == ""
