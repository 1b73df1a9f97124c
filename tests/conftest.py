"""What holds for every layer: which tests run, in which order, and that none of them tests nothing."""

from __future__ import annotations

import signal
from collections import defaultdict
from collections.abc import Iterator

import pytest

from stack_backup_lab.bed import tools

pytest.register_assert_rewrite("tests.conformance")

# In the order in which they run: what is cheap fails first.
LAYERS = ("unit", "render", "cli", "awx", "jobs", "scale", "cluster")
LAYER_OF = pytest.StashKey[dict[str, str]]()
NOT_RUN = pytest.StashKey[int]()


def pytest_configure() -> None:
    """A shell's background jobs ignore interrupts, and so would all that the tests start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("stack-backup")
    group.addoption("--cluster", action="store_true", help="also run the tests on a kind cluster (last)")
    group.addoption("--update-golden", action="store_true", help="write the golden renders anew")


def _layer(item: pytest.Item) -> str:
    """The folder of `tests/` that holds the test; whatever carries the marker needs the cluster."""
    if item.get_closest_marker("cluster"):
        return "cluster"
    return next((part for part in _parts(item) if part in LAYERS), "other")


def _parts(item: pytest.Item) -> tuple[str, ...]:
    """Below the project's own folder, which may be called anything."""
    return item.path.relative_to(item.config.rootpath).parts


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by layer, and leave the cluster's tests out unless they were asked for."""
    layer = {item.nodeid: _layer(item) for item in items}
    items.sort(key=lambda item: ("other", *LAYERS).index(layer[item.nodeid]))
    if not config.getoption("--cluster"):
        left_out = [item for item in items if layer[item.nodeid] == "cluster"]
        items[:] = [item for item in items if layer[item.nodeid] != "cluster"]
        config.hook.pytest_deselected(items=left_out)
        config.stash[NOT_RUN] = len(left_out)
    config.stash[LAYER_OF] = layer


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    count = config.stash.get(NOT_RUN, 0)
    return [f"{count} cluster tests are NOT run: ask for them with --cluster"] if count else []


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if exitstatus == pytest.ExitCode.OK and _tested_nothing(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    layer = config.stash.get(LAYER_OF, {})
    passed: dict[str, list[float]] = defaultdict(list)
    for report in _reports(config, "passed"):
        passed[layer.get(report.nodeid, "other")].append(report.duration)
    for name, seconds in passed.items():
        terminalreporter.write_line(f"{name}: {len(seconds)} passed, {sum(seconds):.0f} s in the tests alone")
    for line in _tested_nothing(config):
        terminalreporter.write_line(line, red=True, bold=True)


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
    layer = config.stash.get(LAYER_OF, {})
    if config.getoption("--cluster") and not any(
        layer.get(report.nodeid) == "cluster"
        for outcome in ("passed", "failed", "error")
        for report in _reports(config, outcome)
    ):
        found.append("--cluster was given, but no cluster test ran")
    return found


@pytest.fixture(scope="session", autouse=True)
def helm() -> None:
    """Every layer renders the chart."""
    tools.ensure("helm")
