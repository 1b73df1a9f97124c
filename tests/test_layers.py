"""Runs of pytest that test nothing fail, and say so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stack_backup_lab.paths import PROJECT
from tests import conftest

TESTS = {
    "render/test_a.py": "def test_cheap(): pass\n",
    "jobs/test_b.py": "def test_job(): pass\n",
    "cluster/test_c.py": "import pytest\n@pytest.mark.cluster\ndef test_live(): pass\n",
}


def _pytest(folder: Path, files: dict[str, str], *arguments: str) -> tuple[int, str]:
    """A run of pytest with this project's conftest over a folder of little tests."""
    (folder / "tests").mkdir()
    (folder / "tests" / "conftest.py").write_text(
        (PROJECT / "tests" / "conftest.py").read_text(encoding="utf-8")
    )
    (folder / "pytest.ini").write_text(
        "[pytest]\ntestpaths = tests\nmarkers =\n    cluster: live\n    slow: dear\n"
    )
    for name, text in files.items():
        (folder / "tests" / name).parent.mkdir(exist_ok=True)
        (folder / "tests" / name).write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_cluster_tests_wait_to_be_asked_and_that_is_seen(tmp_path: Path) -> None:
    code, said = _pytest(tmp_path, TESTS)
    assert code == 0, said
    assert "1 cluster tests are NOT run: ask for them with --cluster" in said
    assert "test_live" not in said


def test_layers_run_from_cheap_to_dear(tmp_path: Path) -> None:
    code, said = _pytest(tmp_path, TESTS, "--cluster")
    assert code == 0, said
    assert said.index("test_cheap") < said.index("test_job") < said.index("test_live")
    assert "cluster: 1 passed" in said


def test_workers_count_by_layer_too(tmp_path: Path) -> None:
    _, said = _pytest(tmp_path, TESTS, "--numprocesses", "1", "-p", "xdist")
    assert "render: 1 passed" in said
    assert "jobs: 1 passed" in said


def test_quick_leaves_out_what_is_slow_and_tries_few_examples(tmp_path: Path) -> None:
    property = """
import pytest
from hypothesis import given, settings, strategies
tried = []
@settings(max_examples=90, database=None)
@given(strategies.integers())
def test_property(_): tried.append(_)
def test_how_many(): print(f"tried {len(tried)} of them")
@pytest.mark.slow
def test_slow(): pass
"""
    for arguments, count, left_out in (
        (["--quick"], conftest.QUICK_EXAMPLES, "1 slow tests are NOT run"),
        ([], 90, ""),
    ):
        folder = tmp_path / str(count)
        folder.mkdir()
        code, said = _pytest(folder, {"unit/test_a.py": property}, "--capture=no", *arguments)
        assert code == 0, said
        assert f"tried {count} of them" in said
        assert left_out in said


@pytest.mark.parametrize(
    ("files", "arguments", "sentence"),
    [
        ({}, [], "no tests ran"),
        ({name: TESTS[name] for name in TESTS if "cluster" in name}, [], "1 deselected"),
        ({"render/test_a.py": TESTS["render/test_a.py"]}, ["--cluster"], "no cluster test ran"),
        (
            TESTS | {"render/test_d.py": "import pytest\ndef test_d(): pytest.skip('no tool')\n"},
            [],
            "was skipped",
        ),
        (
            TESTS
            | {"render/test_d.py": "import pytest\n@pytest.mark.parametrize('x', [])\ndef test_d(x): pass\n"},
            [],
            "was skipped",
        ),
        (
            TESTS | {"render/test_d.py": "import pytest\npytest.importorskip('absent_module')\n"},
            [],
            "was skipped",
        ),
    ],
    ids=["no tests", "only cluster tests", "no cluster tests", "skip", "no parameters", "module skipped"],
)
def test_testing_nothing_fails(
    tmp_path: Path, files: dict[str, str], arguments: list[str], sentence: str
) -> None:
    code, said = _pytest(tmp_path, files, *arguments)
    assert code != 0, said
    assert sentence in said
