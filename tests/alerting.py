"""A real Prometheus that evaluates the chart's rules, and what its alerts are seen to do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from stack_backup_lab.bed import prometheus

PENDING = "4s"
"""In the place of the rules' own minutes, so that a test sees an alert wait and then fire."""
MONITORING = {
    "exporter": {"enabled": True},
    "alerts": {"enabled": True, "runbookUrl": "https://docs.example.org/%s"},
}
Answer = Callable[[str], Any]
"""What Prometheus answers to a request below `/api/v1/`: its `data`, or None while it does not."""


def server(folder: Path, port: int, groups: list[Any], scraped: Iterable[dict[str, Any]]) -> list[str]:
    """The command that runs Prometheus on loopback, with these groups of rules and scrape configurations."""
    for group in groups:
        for rule in group["rules"]:
            rule["for"] = PENDING
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": list(scraped),
    }
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    return [
        str(prometheus.ensure() / "prometheus"),
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]


class Watch:
    """What Prometheus knows of one CronJob."""

    def __init__(self, answer: Answer, job: str, logs: list[Path]) -> None:
        self._answer, self._job, self._logs = answer, job, logs

    def alerts(self) -> dict[str, str]:
        """The alerts that are not quiet, with their states."""
        found = (self._answer("alerts") or {"alerts": []})["alerts"]
        return {
            one["labels"]["alertname"].removeprefix("StackBackup"): one["state"]
            for one in found
            if one["labels"].get("cronjob") == self._job
        }

    def value(self, series: str) -> float | None:
        found = self._ask(f'{series}{{cronjob="{self._job}"}}')
        return float(found[0]["value"][1]) if found else None

    def knows(self, selector: str) -> bool:
        """Whether any series is selected."""
        return bool(self._ask(selector))

    def _ask(self, query: str) -> list[Any]:
        found = self._answer(f"query?query={quote(query)}")
        return list(found["result"]) if found else []

    def until(self, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + 60
        while not holds():
            logs = "\n".join(log.read_text(errors="replace") for log in self._logs)
            assert time.monotonic() < end, f"{self.alerts()}\n{logs}"
            time.sleep(0.3)

    def goes_off(self, alert: str) -> None:
        """It is seen to wait before it fires."""
        states: list[str] = []

        def fires() -> bool:
            states.append(self.alerts().get(alert, "inactive"))
            return states[-1] == "firing"

        self.until(fires)
        assert list(dict.fromkeys(states))[-2:] == ["pending", "firing"]

    def is_quiet(self, alert: str) -> bool:
        return alert not in self.alerts()
