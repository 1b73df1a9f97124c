"""Tools come from their pins alone, whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stack_backup_lab.bed import BedError, commands, progress, prometheus, releases, tools

SMALL = tools.TOOLS["shfmt"]
ENSURE = """
import sys
from pathlib import Path
from stack_backup_lab.bed import tools
tools.BIN = Path(sys.argv[1])
tools.ensure("shfmt")
"""


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, an empty BIN, and a machine without the tool."""
    for module, name in ((tools, "CACHE"), (commands, "CACHE"), (tools, "LOGS")):
        monkeypatch.setattr(module, name, tmp_path / "cache")
    monkeypatch.setattr(progress, "DURATIONS", tmp_path / "cache" / "durations.json")
    monkeypatch.setattr(tools, "BIN", tmp_path / "bin")
    # make puts the real tools on PATH: found there, they would be linked, and a test that spoils its binary
    # would spoil them for everybody.
    folders = os.environ["PATH"].split(os.pathsep)
    without = [folder for folder in folders if not (Path(folder) / SMALL.name).exists()]
    monkeypatch.setenv("PATH", os.pathsep.join(without))
    monkeypatch.setenv(releases.DECIDES, "never")
    tools._ready.cache_clear()
    releases.answers.cache_clear()


def command(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


def ensure_in_a_process(tmp_path: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENSURE, tmp_path / "bin"],
        env={**os.environ, "STACK_BACKUP_CACHE": str(tmp_path / "cache"), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_every_tool_is_pinned_and_every_module_is_a_tool() -> None:
    modules = {tool.module for tool in tools.TOOLS.values()}
    assert modules | {prometheus.MODULE.name} == {folder.name for folder in tools.MODULES.iterdir()}
    for tool in tools.TOOLS.values():
        assert tool.version[0].isdigit(), tool


def test_a_tool_is_built_and_says_its_pin(tmp_path: Path) -> None:
    tools.ensure("shfmt")
    printed = subprocess.run(
        [tmp_path / "bin" / "shfmt", "--version"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == f"v{SMALL.version}"


def test_a_binary_of_another_version_is_refused(tmp_path: Path) -> None:
    tools.ensure("shfmt")
    built = (tmp_path / "bin" / "shfmt").resolve()
    assert built.is_relative_to(tmp_path)
    command(built, "echo v0.0.1")
    tools._ready.cache_clear()
    with pytest.raises(
        BedError, match=rf"is not shfmt v{SMALL.version}, .*'v0\.0\.1'.*Remove {built.parent}"
    ):
        tools.ensure("shfmt")


def test_a_binary_that_does_not_run_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "shfmt"
    broken.write_bytes(b"half a binary")
    broken.chmod(0o755)
    with pytest.raises(BedError, match="cannot tell its version"):
        tools.check(SMALL, broken)


def test_an_installed_tool_of_the_pinned_version_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = command(tmp_path / "installed" / "shfmt", f"echo v{SMALL.version}")
    monkeypatch.setenv("PATH", f"{installed.parent}:/bin")  # no Go there: nothing can be built
    tools.ensure("shfmt")
    assert (tmp_path / "bin" / "shfmt").resolve() == installed


def test_an_installed_tool_of_another_version_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = command(tmp_path / "installed" / "shfmt", "echo v0.0.1")
    monkeypatch.setenv("PATH", f"{installed.parent}:{os.environ['PATH']}")
    tools.ensure("shfmt")
    assert (tmp_path / "bin" / "shfmt").resolve() != installed


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_build_leaves_no_tool_and_the_next_one_builds_it(
    tmp_path: Path, end: signal.Signals
) -> None:
    real, started = shutil.which("go"), tmp_path / "started"
    command(
        tmp_path / "slow" / "go",
        f'if [ "$1" = env ]; then exec {real} "$@"; fi',
        'while [ "$1" != -o ]; do shift; done',
        'printf half >"$2"',
        f'echo $$ >"{started}.new" && mv "{started}.new" "{started}"',
        "exec sleep 60",
    )
    building = ensure_in_a_process(tmp_path, PATH=f"{tmp_path / 'slow'}:{os.environ['PATH']}")
    while not started.exists():
        assert building.poll() is None, building.communicate()
        time.sleep(0.05)
    building.send_signal(end)
    building.wait()
    if end == signal.SIGKILL:
        os.kill(int(started.read_text()), signal.SIGKILL)  # nobody else could end it
    building.communicate()
    assert not (tmp_path / "bin").exists()
    assert not list((tmp_path / "cache" / "bin").glob(f"shfmt-{SMALL.version}-*[!l]"))  # but *.partial

    tools.ensure("shfmt")
    assert [path.name for path in (tmp_path / "bin").iterdir()] == ["shfmt"]
    assert not list((tmp_path / "cache" / "bin").glob("*.partial"))


def test_two_processes_build_a_tool_once(tmp_path: Path) -> None:
    both = [ensure_in_a_process(tmp_path) for _ in range(2)]
    printed = "".join(one.communicate()[0] for one in both)
    assert [one.returncode for one in both] == [0, 0], printed
    assert printed.count("done in") == 1, printed


def test_without_go_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        BedError, match=rf"shfmt {SMALL.version} cannot be built because Go is missing\. Install Go"
    ):
        tools.ensure("shfmt")


def test_an_old_go_is_refused_before_it_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command(tmp_path / "old" / "go", "echo go1.21.6")
    monkeypatch.setenv("PATH", f"{tmp_path / 'old'}:/bin")
    with pytest.raises(BedError, match=r"because go1\.21\.6 is too old\. Install Go 1\.26 or newer"):
        tools.ensure("shfmt")


def test_a_failed_build_shows_the_compilers_last_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("go")
    command(
        tmp_path / "broken" / "go",
        f'if [ "$1" = env ]; then exec {real} "$@"; fi',
        "echo undefined: x; exit 1",
    )
    monkeypatch.setenv("PATH", f"{tmp_path / 'broken'}:/bin")
    with pytest.raises(BedError, match=r"ended with status 1:\n  \| undefined: x\nAll of its output: "):
        tools.ensure("shfmt")
    assert not (tmp_path / "bin").exists()


def test_an_unknown_tool_is_named_before_any_is_built(tmp_path: Path) -> None:
    with pytest.raises(
        BedError, match=r"no tool named helmet; nothing was built\. The tools are: .*helm, helm-docs"
    ):
        tools.ensure("shfmt", "helmet")
    assert not (tmp_path / "bin").exists()
