"""What holds for every layer: which tests run, in which order, and that none of them tests nothing."""

from __future__ import annotations

import os
import signal
from collections import defaultdict
from collections.abc import Container, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from stack_backup_lab.bed import tools

pytest.register_assert_rewrite("tests.conformance")

QUICK_EXAMPLES = 25
# In the order in which they run: what is cheap fails first.
LAYERS = ("unit", "render", "cli", "policy", "awx", "jobs", "scale", "cluster")
NOT_RUN = pytest.StashKey[dict[str, int]]()
SUMMARY = pytest.StashKey[str | None]()


def pytest_configure(config: pytest.Config) -> None:
    # A shell's background jobs ignore interrupts, and under nohup hangups: so would all that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    # Helm and the like live for less than a second: a quarter of it goes if they collect no garbage at first.
    os.environ.setdefault("GOGC", "400")
    # Neither the workers nor what the tests run are asked for it.
    config.stash[SUMMARY] = os.environ.pop("STACK_BACKUP_SUMMARY", None)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stack-backup")
    group.addoption("--cluster", action="store_true", help="also run the tests on a kind cluster (last)")
    group.addoption(
        "--quick", action="store_true", help="few examples of each property, and none of the slow tests"
    )
    group.addoption("--update-golden", action="store_true", help="write the golden renders anew")


def _layer(nodeid: str, keywords: Container[str]) -> str:
    """The folder of `tests/` that holds the test; whatever carries the marker needs the cluster."""
    if "cluster" in keywords:
        return "cluster"
    return next((part for part in nodeid.split("::")[0].split("/") if part in LAYERS), "other")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by layer, and leave out what was not asked for."""
    layer = {item.nodeid: _layer(item.nodeid, item.keywords) for item in items}
    items.sort(key=lambda item: ("other", *LAYERS).index(layer[item.nodeid]))
    config.stash[NOT_RUN] = {}
    if not config.getoption("--cluster"):
        _leave_out(config, items, "cluster tests are NOT run: ask for them with --cluster", "cluster")
    if config.getoption("--quick"):
        _leave_out(config, items, "slow tests are NOT run: --quick leaves them out", "slow")
        for item in items:
            _try_few(item)


def _leave_out(config: pytest.Config, items: list[pytest.Item], why: str, marker: str) -> None:
    left_out = [item for item in items if item.get_closest_marker(marker)]
    items[:] = [item for item in items if not item.get_closest_marker(marker)]
    config.hook.pytest_deselected(items=left_out)
    config.stash[NOT_RUN][why] = len(left_out)


def _try_few(item: pytest.Item) -> None:
    """Fewer examples of a property than its own settings want."""
    place = "_hypothesis_internal_use_settings"
    test = getattr(item, "obj", None)
    if (wanted := getattr(test, place, None)) and wanted.max_examples > QUICK_EXAMPLES:
        setattr(test, place, settings(wanted, max_examples=QUICK_EXAMPLES))


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    return [f"{count} {why}" for why, count in config.stash.get(NOT_RUN, {}).items() if count]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _tested_nothing(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    passed: dict[str, list[float]] = defaultdict(list)
    for report in _reports(config, "passed"):
        passed[_layer(report.nodeid, report.keywords)].append(report.duration)
    for name, seconds in passed.items():
        terminalreporter.write_line(f"{name}: {len(seconds)} passed, {sum(seconds):.0f} s in the tests alone")
    for line in _tested_nothing(config):
        terminalreporter.write_line(line, red=True, bold=True)
    if (summary := config.stash[SUMMARY]) is not None:
        parts, _ = terminalreporter.build_summary_stats_line()
        Path(summary).write_text(", ".join(text for text, _ in parts))


def _reports(config: pytest.Config, outcome: str) -> Iterator[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        yield from reporter.stats.get(outcome, [])


def _tested_nothing(config: pytest.Config) -> list[str]:
    """Testing nothing is a failure: a sentence for each skipped test, and for a cluster that saw none."""
    if config.option.collectonly:
        return []
    found = [
        f"{report.nodeid} was skipped, and a test that does not run is a failure"
        for report in _reports(config, "skipped")
    ]
    if config.getoption("--cluster") and not any(
        _layer(report.nodeid, report.keywords) == "cluster"
        for outcome in ("passed", "failed", "error")
        for report in _reports(config, outcome)
    ):
        found.append("--cluster was given, but no cluster test ran")
    return found


@pytest.fixture(scope="session", autouse=True)
def helm(request: pytest.FixtureRequest) -> None:
    """Every layer but the first renders the chart."""
    if any(_layer(item.nodeid, item.keywords) != "unit" for item in request.session.items):
        tools.ensure("helm")
