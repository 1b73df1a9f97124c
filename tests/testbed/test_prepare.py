"""What a command needs is made side by side; a failure keeps nothing else from it, an interrupt ends all."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stack_backup_lab.bed import BedError, commands, prepare, progress
from stack_backup_lab.paths import PROJECT

LANES = """
import sys
from stack_backup_lab.bed import commands, prepare
def lane(name):
    with commands.lock("shared") if name == "c" else commands.lock(name):
        commands.run(["bash", "-c", f"read; echo $$ >{sys.argv[1]}/{name}; exec sleep 1000"], input="go\\n")
        commands.run(["touch", f"{sys.argv[1]}/{name}-went-on"])
def purpose(start):
    for name in "ab":
        start(lane, name)
    start(commands.run, ["flock", "--version"])
    start(lane, "c")
prepare.PURPOSES["lanes"] = purpose
try:
    prepare.prepare("lanes")
except KeyboardInterrupt:
    sys.exit(130)
"""


def _purpose(monkeypatch: pytest.MonkeyPatch, purpose: Callable[[prepare.Start], None]) -> None:
    monkeypatch.setitem(prepare.PURPOSES, "this", purpose)


def test_things_are_made_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two waits for the other: one after the other, they would never end."""
    both = threading.Barrier(2, timeout=20)

    def purpose(start: prepare.Start) -> None:
        start(both.wait)
        start(both.wait)

    _purpose(monkeypatch, purpose)
    prepare.prepare("this")


def test_what_fails_keeps_nothing_else_from_being_made(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(what: str) -> None:
        raise BedError(f"No {what} today.")

    def late() -> None:
        time.sleep(0.3)
        (tmp_path / "made").touch()

    def purpose(start: prepare.Start) -> None:
        start(late)
        start(fail, "helm")
        fail("packages")

    _purpose(monkeypatch, purpose)
    with pytest.raises(BedError, match=r"^No packages today\.\nNo helm today\.$"):
        prepare.prepare("this")
    assert (tmp_path / "made").exists()


def test_an_interrupt_ends_every_command_and_waits_for_no_lock(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (cache / "locks").mkdir(parents=True)
    with (cache / "locks" / "shared").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        running = subprocess.Popen(
            [sys.executable, "-c", LANES, tmp_path],
            cwd=PROJECT,
            env={**os.environ, "STACK_BACKUP_CACHE": str(cache)},
            stdout=subprocess.PIPE,
            text=True,
        )
        marks = [tmp_path / name for name in "ab"]
        try:
            while not all(mark.exists() and mark.read_text().endswith("\n") for mark in marks):
                assert running.poll() is None
                time.sleep(0.05)
            running.send_signal(signal.SIGINT)
            said, _ = running.communicate(timeout=20)
        finally:
            running.kill()
    assert running.returncode == 130
    assert "another process is at it" in said
    for mark in marks:
        with pytest.raises(ProcessLookupError):
            os.kill(int(mark.read_text()), 0)
    assert not list(tmp_path.glob("*-went-on"))


def test_threads_take_turns_at_a_lock_without_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(commands, "CACHE", tmp_path)
    inside: list[str] = []

    def lane(name: str) -> None:
        with commands.lock("turn"):
            inside.append(f"{name} in")
            time.sleep(0.2)
            inside.append(f"{name} out")

    def purpose(start: prepare.Start) -> None:
        start(lane, "one")
        start(lane, "two")

    _purpose(monkeypatch, purpose)
    prepare.prepare("this")
    assert inside in (["one in", "one out", "two in", "two out"], ["two in", "two out", "one in", "one out"])
    assert capsys.readouterr().out == ""


def test_steps_that_go_on_at_once_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "DURATIONS", tmp_path / "durations.json")
    monkeypatch.setattr(progress, "PLAIN_INTERVAL", 0.6)
    with progress.step("long", "Doing this", 100), progress.step("short", "Doing that", 0.1):
        time.sleep(0.8)
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == ["Doing this ... about 1 min 40 s", "Doing that ... about 1 s"]
    assert set(said[2:4]) == {
        "Doing this ... about 1 min 39 s left",
        "Doing that ... longer than usual, at it for 1 s",
    }
    assert said[4:] == ["Doing that: done in 1 s", "Doing this: done in 1 s"]
    assert progress.estimate("long", 100) < 100
    assert progress.estimate("short", 100) < 100


@pytest.mark.parametrize(
    ("printed", "used"),
    [
        ("v3.16.0", True),
        ("v3.22.0+gabc", True),
        ("v4.9.1", True),
        ("v3.15.4", False),
        ("v5.0.0", False),
        ("", False),
    ],
)
def test_who_only_renders_takes_a_helm_that_the_chart_supports(
    printed: str, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stack_backup_lab.bed import tools

    installed = tmp_path / "installed" / "helm"
    installed.parent.mkdir()
    installed.write_text(f"#!/bin/sh\necho {printed}\n")
    installed.chmod(0o755)
    asked: list[str] = []
    monkeypatch.setattr(tools, "BIN", tmp_path / "bin")
    monkeypatch.setattr(tools, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(tools, "ensure", lambda *names: asked.extend(names))
    monkeypatch.setenv("PATH", f"{installed.parent}:/usr/bin:/bin")
    tools._ready.cache_clear()
    tools.ensure_any_helm()
    if used:
        assert (tmp_path / "bin" / "helm").resolve() == installed
        assert asked == []
    else:
        assert asked == ["helm"]
        assert not (tmp_path / "bin" / "helm").exists()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_whoever_ends_the_command_ends_what_it_builds(end: signal.Signals, tmp_path: Path) -> None:
    """Also where a shell started it in the background, with interrupts ignored."""
    go = tmp_path / "bin" / "go"
    go.parent.mkdir()
    go.write_text(
        f'#!/bin/bash\n[ "$1" != env ] || exec {shutil.which("go")} "$@"\n'
        f"echo $$ >{tmp_path}/new; mv {tmp_path}/new {tmp_path}/begun; exec sleep 1000\n"
    )
    go.chmod(0o755)
    running = subprocess.Popen(
        [sys.executable, "-m", "stack_backup_lab.bed", "tools", "--names", "etcd"],
        env={
            **os.environ,
            "PATH": f"{go.parent}:{os.environ['PATH']}",
            "STACK_BACKUP_CACHE": str(tmp_path / "cache"),
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        while not (tmp_path / "begun").exists():
            assert running.poll() is None, running.communicate()
            time.sleep(0.05)
        running.send_signal(end)
        _, said = running.communicate(timeout=20)
    finally:
        running.kill()
    assert said.startswith("stack-backup: interrupted; run the same command again")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "begun").read_text()), 0)
