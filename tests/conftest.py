"""What holds for every layer: which tests run, in which order, and that none of them tests nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import pytest

from stack_backup.testbed import tools

LAYERS = ("render", "jobs", "cluster")
NOT_RUN = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stack-backup")
    group.addoption("--cluster", action="store_true", help="also run the tests on a kind cluster (last)")
    group.addoption("--update-golden", action="store_true", help="write the golden renders anew")


def _layer(item: pytest.Item) -> str:
    """The folder of `tests/` that holds the test; the cluster's tests also by their marker."""
    if item.get_closest_marker("cluster"):
        return "cluster"
    return next((part for part in item.path.parts if part in LAYERS), "other")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Cluster tests come last, and only when asked for: what is cheap fails first."""
    live = [item for item in items if _layer(item) == "cluster"]
    rest = [item for item in items if _layer(item) != "cluster"]
    if config.getoption("--cluster"):
        items[:] = rest + live
    else:
        items[:] = rest
        config.hook.pytest_deselected(items=live)
        config.stash[NOT_RUN] = len(live)


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    count = config.stash.get(NOT_RUN, 0)
    return [f"{count} cluster tests are NOT run: ask for them with --cluster"] if count else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Testing nothing is a failure: a skipped test, or --cluster without one cluster test that ran."""
    if exitstatus == pytest.ExitCode.OK and _tested_nothing(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in _tested_nothing(config):
        terminalreporter.write_line(line, red=True, bold=True)
    passed: dict[str, list[float]] = defaultdict(list)
    for report in _reports(config, "passed"):
        layer = next((name for name in LAYERS if f"tests/{name}/" in report.nodeid), "other")
        passed[layer] += 1
        seconds[layer] += report.duration  # type: ignore[assignment]  # typeshed's Counter counts whole numbers
    for layer, count in passed.items():
        terminalreporter.write_line(
            f"{layer}: {count} passed, {seconds[layer]:.0f} s in the tests themselves"
        )


def _reports(config: pytest.Config, outcome: str) -> Iterator[pytest.TestReport]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        yield from reporter.stats.get(outcome, [])


def _tested_nothing(config: pytest.Config) -> list[str]:
    if config.option.collectonly:
        return []
    complaints = [
        f"{report.nodeid} was skipped: testing nothing is a failure" for report in _reports(config, "skipped")
    ]
    ran = {report.nodeid for outcome in ("passed", "failed", "error") for report in _reports(config, outcome)}
    if config.getoption("--cluster") and not any("tests/cluster/" in nodeid for nodeid in ran):
        complaints.append("--cluster was given, but no cluster test ran")
    return complaints


@pytest.fixture(scope="session", autouse=True)
def helm() -> None:
    """Every layer renders the chart."""
    tools.ensure("helm")
