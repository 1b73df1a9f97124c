"""Commands that fail say why, and nothing goes on behind our back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stack_backup_lab.bed import BedError, commands, progress, system


def test_a_failed_command_is_named_with_its_last_lines() -> None:
    with pytest.raises(
        commands.CommandError, match=r"`bash -c .*` ended with status 3:\n(?s:.*)\| 40$"
    ) as failed:
        commands.run(["bash", "-c", "seq 40; exit 3"])
    assert failed.value.status == 3
    assert failed.value.output.splitlines()[0] == "1"
    assert "| 25\n" not in str(failed.value)


def test_both_streams_go_to_the_log_and_are_returned(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log"
    assert commands.run(["bash", "-c", "echo out; echo err >&2"], log=log) == "out\nerr\n" == log.read_text()


def test_input_and_environment_are_added() -> None:
    printed = commands.run(["bash", "-c", 'cat; echo "$WORD $HOME"'], input="in ", env={"WORD": "word"})
    assert printed == f"in word {os.environ['HOME']}\n"


def test_a_command_that_is_not_installed_is_named() -> None:
    with pytest.raises(commands.CommandError, match="no-such-command is not installed"):
        commands.run(["no-such-command", "--version"])


def test_a_command_that_takes_too_long_is_ended() -> None:
    with pytest.raises(commands.CommandError, match=r"did not end within 0\.2 s") as failed:
        commands.run(["sleep", "1000"], timeout=0.2)
    assert failed.value.status is None


def test_an_interrupt_ends_the_command_too(tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    # It reads first: by then `run` has got hold of it.
    command = ["bash", "-c", f"read; echo $$ >{mark}; exec sleep 1000"]
    script = f"from stack_backup_lab.bed.commands import run; run({command}, input='go\\n')"
    running = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    while not (mark.exists() and mark.read_text().endswith("\n")):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


def test_a_step_says_what_it_does_and_remembers_how_long_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "DURATIONS", tmp_path / "durations.json")
    with progress.step("slow", "Doing it", 200):
        pass
    assert capsys.readouterr().out.splitlines() == ["Doing it ... about 3 min 20 s", "Doing it: done in 1 s"]
    assert progress.estimate("slow", 200) < 200
    with pytest.raises(RuntimeError), progress.step("failing", "Doing that", 100):
        raise RuntimeError
    assert progress.estimate("failing", 100) == 100


def test_damaged_durations_cost_only_the_estimate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "DURATIONS", tmp_path / "durations.json")
    (tmp_path / "durations.json").write_text('{"slow": 1')
    assert progress.estimate("slow", 77) == 77


def test_who_is_not_root_and_has_no_sudo_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        BedError, match="Root is needed to dig a hole, and sudo is not installed: run this again as root"
    ):
        system.as_root("dig a hole")


def test_installed_packages_need_no_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    system.ensure_packages("bash", "coreutils")


def test_a_package_that_does_not_exist_is_missing() -> None:
    assert system._missing(("bash", "no-such-package-anywhere")) == ["no-such-package-anywhere"]


def test_another_system_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(BedError, match=r"needs Debian or a relative of it .* nothing was installed"):
        system.ensure_packages("bash")
