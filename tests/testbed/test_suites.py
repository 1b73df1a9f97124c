"""`python -m tests.suites`: whatever fails, the rest runs, and the end says what failed."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from stack_backup_lab.paths import PROJECT


def _suites(*suites: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.suites", *suites],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.fixture
def mixed() -> str:
    """A suite of one test that passes and one that fails, which the project's own conftest counts."""
    return (
        f"{sys.executable} -m pytest -p no:cacheprovider -q tests/testbed/test_suites.py"
        " -k 'test_of_the_mixed_suite'"
    )


@pytest.mark.parametrize("passes", [True, False])
def test_of_the_mixed_suite(passes: bool) -> None:
    assert passes or "MIXED" not in os.environ


def test_what_failed_stops_nothing_and_is_named(mixed: str) -> None:
    code, said = _suites("lint=exit 3", f"units=MIXED=1 {mixed}", f"others={mixed}", "last=true")
    assert code == 1
    table = said[said.index("==== All suites") :]
    assert [line.split()[:2] for line in table.splitlines()[1:-1]] == [
        ["lint", "FAILED"],
        ["units", "FAILED"],
        ["others", "passed"],
        ["last", "passed"],
    ]
    assert re.search(r"^units .*1 failed, 1 passed, \d+ deselected$", table, re.MULTILINE)
    assert re.search(r"^==== 1 failed, 3 passed, \d+ deselected in [\d.]+s ====$", table.splitlines()[-1])


def test_all_is_green_only_where_each_is(mixed: str) -> None:
    code, said = _suites(f"units={mixed}")
    assert code == 0
    assert said.splitlines()[-1].startswith("==== 0 failed, 2 passed")


def test_an_interrupt_ends_the_suites_and_is_no_success() -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "tests.suites", "one=true", "long=echo begun; sleep 60", "never=echo never"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    while running.stdout.readline() != "begun\n":
        assert running.poll() is None
    began = time.monotonic()
    os.killpg(running.pid, signal.SIGINT)
    said = running.communicate()[0]
    assert time.monotonic() - began < 10
    assert running.returncode == 130
    assert "one          passed" in said
    assert "never" not in said


def test_the_makefile_s_suites_hold_every_test() -> None:
    """What one suite leaves out, another runs."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "test"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    collected: set[str] = set()
    for command in re.findall(r'"\w+=(\S+ -m pytest [^"]*)"', recipe):
        listed = subprocess.run(
            [*shlex.split(command), "--collect-only", "-q", "--numprocesses", "0"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        collected |= {line for line in listed.splitlines() if "::" in line}
    every = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "--cluster"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert {line for line in every.splitlines() if "::" in line} == collected
