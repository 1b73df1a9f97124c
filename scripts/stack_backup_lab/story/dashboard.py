"""`python -m stack_backup_lab.story.dashboard`: the picture of the dashboard, from a run of the demo.

The demo's story is told on this machine. Beside it run the chart's exporter for each stack, and a Prometheus
that scrapes them every second. In the end each query of the dashboard's JSON is asked there, and Chromium
draws the answers: plainly, and only the kinds of panels that the dashboard has. It is no Grafana.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from html import escape
from pathlib import Path
from typing import Any

import yaml

from stack_backup_lab import LabError
from stack_backup_lab.bed import prometheus, system, tools
from stack_backup_lab.data import dataset
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART, merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.story.engine import tell
from stack_backup_lab.story.stacks import CONSUMER_VALUES, DEVELOPER, NAMESPACE, STAGING, VALUES
from stack_backup_lab.story.whole_story import WholeStory

BOARD = CHART / "dashboards" / "stack-backup.json"
PICTURE = PROJECT / "docs" / "pictures" / "dashboard.png"
PAGE = PROJECT / "build" / "dashboard" / "dashboard.html"
LARGEST = 150_000
"""Bytes of the picture: each clone has it."""
STACKS = {
    NAMESPACE: (VALUES, "production"),
    STAGING: (CONSUMER_VALUES, "production"),
    DEVELOPER: (CONSUMER_VALUES, "development"),
}
"""The values of each stack, and the cluster that it stands for."""
WIDTH, ROW = 1280, 37
Series = tuple[dict[str, str], list[tuple[float, float]]]


def main() -> int:
    try:
        system.ensure_packages("chromium", "pngquant")
        tools.ensure_any_helm()
        dataset.provide()
        with ExitStack() as ends:
            folder = Path(ends.enter_context(tempfile.TemporaryDirectory()))
            PAGE.parent.mkdir(parents=True, exist_ok=True)
            PAGE.write_text(_told(folder, ends), encoding="utf-8")
        _draw(PAGE)
    except LabError as error:
        print(f"The picture of the dashboard could not be made. {error}", file=sys.stderr)
        return 1
    return 0


def _told(folder: Path, ends: ExitStack) -> str:
    """The page, at the end of the story."""
    runtime = LocalRuntime()
    stacks = {name: ends.enter_context(runtime.stack(name)) for name in STACKS}
    begun, server = time.time(), None
    story = WholeStory(stacks[NAMESPACE], stacks[STAGING], stacks[DEVELOPER], folder)
    for evidence in tell(story.steps(), lambda _: None):
        print(f"{'ok' if evidence.ok else 'FAILED'}  {evidence.title}", flush=True)
        if not evidence.ok:
            raise LabError(f"{evidence.title}: {evidence.seen}")
        if server is None:  # the release is installed, and so the claims of the histories are there
            server = _scraped({name: _exporter(stack, ends) for name, stack in stacks.items()}, folder, ends)
    time.sleep(20)  # the exporters read once more
    assert server is not None
    return html(json.loads(BOARD.read_text(encoding="utf-8")), Asked(server, begun, time.time()))


def _started(command: list[str | Path], ends: ExitStack, **options: Any) -> None:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **options)
    ends.callback(process.wait)
    ends.callback(process.kill)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _exporter(stack: LocalStack, ends: ExitStack) -> int:
    """The port of an exporter of this stack's history, for the jobs that the chart gives it."""
    values = merge_values(STACKS[stack.namespace][0], {"monitoring": {"exporter": {"enabled": True}}})
    deployment = render(values, namespace=stack.namespace).get("Deployment", "stack-backup-exporter")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    port = free_port()
    environment |= {"HISTORY_VOLUME": str(stack.volume("history").path), "PORT": str(port)}
    environment |= {"PATH": os.environ["PATH"], "PAUSE_SECONDS": "1"}
    command: list[str | Path] = [sys.executable, "-B", "-m", "stack_backup_jobs.exporter"]
    _started(command, ends, cwd=CHART / "files", env=environment)
    return port


def _scraped(exporters: Mapping[str, int], folder: Path, ends: ExitStack) -> str:
    """The address of a Prometheus that scrapes them."""
    targets = [
        {"targets": [f"127.0.0.1:{port}"], "labels": {"namespace": name, "cluster": STACKS[name][1]}}
        for name, port in exporters.items()
    ]
    scraped = {"job_name": "stack-backup", "scrape_interval": "1s", "scrape_timeout": "1s"}
    config = folder / "prometheus.yaml"
    config.write_text(yaml.safe_dump({"scrape_configs": [{**scraped, "static_configs": targets}]}))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    program = prometheus.ensure() / "prometheus"
    _started([program, *options, f"--web.listen-address={address}"], ends, stdout=subprocess.DEVNULL)
    return f"http://{address}/api/v1"


class Asked:
    """Prometheus, from the beginning to the end of the story."""

    def __init__(self, server: str, begun: float, ended: float) -> None:
        self._server, self.begun, self.ended = server, begun, ended

    def _ask(self, what: str, expression: str, **about: float) -> list[dict[str, Any]]:
        asked = urllib.parse.urlencode({"query": expression.replace("$namespace", ".+"), **about})
        with urllib.request.urlopen(f"{self._server}/{what}?{asked}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def now(self, expression: str) -> list[tuple[dict[str, str], float]]:
        found = self._ask("query", expression, time=self.ended)
        return [(one["metric"], float(one["value"][1])) for one in found]

    def since(self, expression: str) -> list[Series]:
        found = self._ask("query_range", expression, start=self.begun, end=self.ended, step=1)
        return [(one["metric"], [(float(at), float(y)) for at, y in one["values"]]) for one in found]


# ---- the page ----------------------------------------------------------------------------------------------

STYLE = """body{margin:0;background:#111217;color:#ccccdc;font:12px/1.4 "DejaVu Sans",sans-serif}
h1{font-size:15px;margin:8px 10px}
.board{display:grid;grid-template-columns:repeat(24,1fr);gap:6px;padding:0 8px}
.panel{background:#181b1f;border:1px solid #25282d;border-radius:3px;padding:5px 8px;overflow:hidden}
h2{font-size:12px;margin:0 0 4px;font-weight:600}.stat{font-size:34px;text-align:center;border-radius:3px;
padding:14px 0;color:#111217}table{width:100%;border-collapse:collapse}th{text-align:left;color:#6e9fff;
font-weight:400}td,th{padding:3px 6px;border-bottom:1px solid #25282d}svg{width:100%;display:block}"""
COLOURS = ["#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#b877d9", "#37872d", "#5794f2", "#e0b400"]
NAMED = {"green": "#73bf69", "orange": "#ff9830", "red": "#f2495c"}


def html(board: Mapping[str, Any], asked: Asked) -> str:
    drawers: dict[str, Callable[[Mapping[str, Any], Asked], str]]
    drawers = {"stat": _stat, "table": _table, "timeseries": _plot}
    panels = []
    for panel in board["panels"]:
        place, drawn = panel["gridPos"], drawers[panel["type"]](panel, asked)
        area = f"grid-column:{place['x'] + 1}/span {place['w']};height:{place['h'] * ROW - 18}px"
        panels.append(f'<div class="panel" style="{area}"><h2>{escape(panel["title"])}</h2>{drawn}</div>')
    head = f'<!doctype html><meta charset="utf-8"><style>{STYLE}</style>'
    head += f"<h1>{escape(board['title'])}: {escape(board['description'])}</h1>"
    return f'{head}<div class="board">{"".join(panels)}</div>'


def shown(value: float, unit: str) -> str:
    """As Grafana shows that unit."""
    if unit == "s":
        for seconds, name in ((86400, "days"), (3600, "hours"), (60, "min")):
            if value >= seconds:
                return f"{value / seconds:.1f} {name}"
        return f"{value:.0f} s"
    if unit == "bytes":
        for size, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if value >= size:
                return f"{value / size:.1f} {name}"
    if unit == "percentunit":
        return f"{value * 100:.0f} %"
    return f"{value:,.0f}"


def colour(value: float, thresholds: Mapping[str, Any]) -> str:
    reached = [step for step in thresholds["steps"] if step["value"] is None or value >= step["value"]]
    return NAMED[reached[-1]["color"]]


def _stat(panel: Mapping[str, Any], asked: Asked) -> str:
    ((_, value),) = asked.now(panel["targets"][0]["expr"])
    reached = colour(value, panel["fieldConfig"]["defaults"]["thresholds"])
    return f'<div class="stat" style="background:{reached}">{value:.0f}</div>'


def _table(panel: Mapping[str, Any], asked: Asked) -> str:
    (names,) = [one["options"]["renameByName"] for one in panel["transformations"] if one["id"] == "organize"]
    keys = [label for label in ("namespace", "cronjob") if label in names]
    about = {one["matcher"]["options"]: one["properties"] for one in panel["fieldConfig"]["overrides"]}
    rows: dict[tuple[str, ...], dict[str, str]] = {}
    columns = [names[f"Value #{target['refId']}"] for target in panel["targets"]]
    for column, target in zip(columns, panel["targets"], strict=True):
        set_to = {one["id"]: one["value"] for one in about[column]}
        for labels, value in asked.now(target["expr"]):
            thresholds = set_to.get("thresholds")
            style = f"background:{colour(value, thresholds)};color:#111217" if thresholds else ""
            cell = f'<td style="{style}">{shown(value, set_to["unit"])}</td>'
            rows.setdefault(tuple(labels[key] for key in keys), {})[column] = cell
    head = "".join(f"<th>{escape(name)}</th>" for name in [*(names[key] for key in keys), *columns])
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(part)}</td>' for part in key)}"
        f"{''.join(rows[key].get(column, '<td></td>') for column in columns)}</tr>"
        for key in sorted(rows)
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _plot(panel: Mapping[str, Any], asked: Asked) -> str:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    found = [
        (target["legendFormat"], labels, points)
        for target in panel["targets"]
        for labels, points in asked.since(target["expr"])
    ]
    highest = max((y for *_, points in found for _, y in points), default=0) or 1.0
    span, width, height, left = asked.ended - asked.begun, 400, 190, 58
    parts = []
    for share in (0, 0.5, 1):
        y = 8 + (1 - share) * height
        parts.append(f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}" stroke="#2c3035"/>')
        parts.append(
            f'<text x="{left - 5}" y="{y + 4}" text-anchor="end">{shown(highest * share, unit)}</text>'
        )
    for number, (_, _, points) in enumerate(found):
        line = " ".join(
            f"{left + (at - asked.begun) / span * width:.1f},{8 + (1 - y / highest) * height:.1f}"
            for at, y in points
        )
        stroke = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{line}" fill="none" stroke="{stroke}" stroke-width="1.5"/>')
    legend = _legend([_named(name, labels) for name, labels, _ in found])
    size = f'viewBox="0 0 {left + width + 8} {height + 16}" style="font-size:10px" fill="#9fa7b3"'
    return f"<svg {size}>{''.join(parts)}</svg>{legend}"


def _named(name: str, labels: Mapping[str, str]) -> str:
    for label, value in labels.items():
        name = name.replace(f"{{{{{label}}}}}", value)
    return name


def _legend(names: Iterable[str]) -> str:
    marks = [
        f'<span style="color:{COLOURS[number % len(COLOURS)]}">■</span> {escape(name)}'
        for number, name in enumerate(names)
    ]
    return f'<div style="font-size:9px;line-height:1.25">{" &nbsp;".join(marks)}</div>'


def _draw(page: Path) -> None:
    board = json.loads(BOARD.read_text(encoding="utf-8"))
    height = 40 + ROW * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    PICTURE.parent.mkdir(exist_ok=True)
    drawn = page.with_suffix(".png")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={drawn}"]
    command = [
        "chromium",
        *options,
        f"--window-size={WIDTH},{height}",
        f"--screenshot={drawn}",
        page.as_uri(),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    subprocess.run(["pngquant", "--force", "--output", drawn, "64", drawn], check=True)
    if (size := drawn.stat().st_size) > LARGEST:
        raise LabError(f"It has {size} bytes; {LARGEST} is the limit.")
    shutil.copy(drawn, PICTURE)
    print(f"{PICTURE.name}: {size} bytes")


if __name__ == "__main__":
    sys.exit(main())
