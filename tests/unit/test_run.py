"""The frame of every program: start script, supervisor, worker; each run is a real one, to its verdict."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stack_backup_lab.render import CHART

FILES = CHART / "files"
HEAD = """
import contextlib, ctypes, errno, os, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from stack_backup_jobs import run
from stack_backup_jobs.errors import JobError, Stopped
from stack_backup_jobs.job import Job, Outcome, say
HERE = Path(__file__).parent
DONE = Outcome(0, "done", "All was done.")
def reached(): (HERE / "reached").touch()
"""


@dataclass(frozen=True)
class Ended:
    code: int
    log: str
    message: str
    seconds: float

    @property
    def verdict(self) -> dict[str, Any]:
        """The last line, which is the termination message, too."""
        lines = self.log.splitlines()
        assert [line for line in lines if line.startswith('{"job":')] == lines[-1:], self.log
        if self.message:
            assert self.message == lines[-1] + "\n"
        return dict(json.loads(lines[-1]))


def _as_a_background_job() -> None:
    """QUIT is ignored, as a shell has it; HUP is not, even if the tests run under `nohup`."""
    signal.signal(signal.SIGQUIT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class Running:
    """A program that runs as in a pod, but for the first process's number; `end` finds nothing left of it."""

    def __init__(self, folder: Path, source: str, **environment: str) -> None:
        self.folder = folder
        self._token = f"test-{uuid.uuid4()}"
        self._log = folder / "termination-log"
        (folder / "probe.py").write_text(HEAD + textwrap.dedent(source))
        begin = "from stack_backup_jobs.run import main"
        known = (
            "import probe; sys.modules['stack_backup_jobs.probe'] = probe; probe.run.JOBS['probe'] = 'probe'"
        )
        start = (FILES / "__main__.py").read_text()
        assert begin in start
        (folder / "__main__.py").write_text(start.replace(begin, f"{begin}\n{known}"))
        script = (FILES / "start.sh").read_text().replace("/programs", str(folder))
        (folder / "start.sh").write_text(script)
        self._begun = time.monotonic()
        self.process = subprocess.Popen(
            ["/bin/sh", folder / "start.sh", "probe"],
            env={
                "PATH": os.environ["PATH"],
                "PYTHON": sys.executable,
                "JOB": "the-job",
                "TOKEN": self._token,
                "TMPDIR": str(folder),
                "DEADLINE_SECONDS": "180",
                "TERMINATION_LOG": str(self._log),
                **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")},
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            preexec_fn=_as_a_background_job,
        )

    def reached(self) -> None:
        end = time.monotonic() + 30
        while not (self.folder / "reached").exists():
            assert time.monotonic() < end, "the point was not reached"
            time.sleep(0.01)

    def listens(self) -> None:
        """Wait until the start script has its handlers: no process hears anything as it is executed."""
        caught = 0
        while not caught >> (signal.SIGTERM - 1) & 1:
            assert self.process.poll() is None
            [line] = re.findall(r"SigCgt:\s*(\w+)", Path(f"/proc/{self.process.pid}/status").read_text())
            caught = int(line, 16)

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._begun = time.monotonic()
        self.process.send_signal(number)

    def children(self) -> list[int]:
        """The processes of the run in the order in which they began: start script, supervisor, worker, …"""
        return sorted(self._left())

    def _left(self) -> Iterator[int]:
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if self._token.encode() in (folder / "environ").read_bytes():
                    yield int(folder.name)
            except OSError:
                continue

    def end(self, timeout: float = 30) -> Ended:
        out, _ = self.process.communicate(timeout=timeout)
        seconds = time.monotonic() - self._begun
        end = time.monotonic() + 2  # what is killed last may still be dying
        while (left := list(self._left())) and time.monotonic() < end:
            time.sleep(0.02)
        assert left == []
        message = self._log.read_text() if self._log.is_file() else ""
        return Ended(self.process.returncode, out.decode(), message, seconds)


Run = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Run]:
    """Starts a program of this source, each in a folder of its own."""
    started: list[Running] = []

    def begin(source: str, **environment: str) -> Running:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Running(folder, source, **environment))
        return started[-1]

    yield begin
    for running in started:
        for process in running.children():
            os.kill(process, signal.SIGKILL)
        running.process.wait()
        assert running.process.stdout is not None
        running.process.stdout.close()


# ---- how a program ends by itself ----


@pytest.mark.parametrize(
    ("keeps", "said"),
    [
        ("time.sleep(60)", "not done within"),
        ("os._exit(3)", "killed"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("1 / 0", "division by zero"),
        ("open('/no/such/folder/x')", "No such file"),
    ],
)
def test_a_history_that_hangs_or_fails_changes_no_verdict(
    start: Run, tmp_path: Path, keeps: str, said: str
) -> None:
    ended = start(
        f"""
        def figures_after(*_):
            {keeps}
        run.history.figures_after = figures_after
        def program(job):
            return DONE
        """,
        HISTORY=str(tmp_path),
        HISTORY_KEEP="5",
    ).end()
    assert (ended.code, ended.verdict["outcome"]) == (0, "done")
    (line,) = [line for line in ended.log.splitlines() if "missing in the history" in line]
    assert said in line
    assert ended.seconds < 12


@pytest.mark.parametrize("lent", [False, True], ids=["a job", "lent by a job"])
def test_what_the_command_line_runs_in_a_job_s_pod_is_no_run_of_it(
    start: Run, tmp_path: Path, lent: bool
) -> None:
    history = tmp_path / "history"
    history.mkdir()
    source = "run.OF_NO_JOB.add('probe')" if lent else ""
    ended = start(
        f"{source}\ndef program(job): return DONE",
        HISTORY=str(history),
        HISTORY_KEEP="5",
        NOTIFY_PING=str(tmp_path / "no address"),
    ).end()
    assert ended.verdict["exit"] == 0
    assert bool(list(history.iterdir())) is not lent
    assert ("Not told" in ended.log) is not lent
    assert "missing in the history" not in ended.log


def test_outcome(start: Run) -> None:
    ended = start("""
        def program(job):
            job.figure(dump="backup", rows=3)
            say("Working.")
            assert job.work.is_dir()
            return DONE
    """).end()
    verdict = ended.verdict
    assert verdict.pop("seconds") < 5
    expected = {"job": "the-job", "exit": 0, "outcome": "done", "message": "All was done."}
    assert verdict == {**expected, "dump": "backup", "rows": 3}
    assert (ended.code, ended.message != "") == (0, True)
    assert "Z Working.\n" in ended.log


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ('JobError(66, "No dump.", "Look.")', 66, "No dump. All is as it was. Look."),
        (
            'OSError(errno.ENOSPC, "full", "/backup/x")',
            73,
            "/backup/x: full. All is as it was. Make",
        ),
        ('OSError("no number")', 74, "no number. All is as it was."),
        ('run.ServerError("gone", "57P01")', 69, "gone"),
        ('ValueError("odd")', 75, "stopped unexpectedly: ValueError: odd. All is as it was."),
        ("SystemExit(0)", 75, "stopped unexpectedly: SystemExit"),
        ("KeyboardInterrupt()", 75, "stopped unexpectedly: KeyboardInterrupt"),
        ("MemoryError()", 75, "stopped unexpectedly: MemoryError"),
        ('UnicodeDecodeError("utf-8", b"\\xff", 0, 1, "odd")', 75, "UnicodeDecodeError"),
        ("ExceptionGroup('several', [OSError(1, 'x')])", 75, "ExceptionGroup"),
    ],
)
def test_whatever_is_raised(start: Run, what: str, code: int, words: str) -> None:
    ended = start(f"""
        def program(job):
            job.leaves("All is as it was.")
            raise {what}
    """).end()
    assert (ended.code, ended.verdict["exit"], ended.verdict["outcome"]) == (code, code, "failed")
    assert words in ended.verdict["message"]


def test_recursion_without_end(start: Run) -> None:
    ended = start("def program(job): return program(job)").end()
    assert ended.verdict["exit"] == 75
    assert "RecursionError" in ended.verdict["message"]


def test_what_is_left_is_asked(start: Run) -> None:
    ended = start("""
        def program(job):
            job.leaves("Perhaps.", lambda: "The server says so.")
            raise JobError(65, "Wrong.", "Look.")
    """).end()
    assert ended.verdict["message"] == "Wrong. The server says so. Look."


def test_what_is_left_cannot_be_asked(start: Run) -> None:
    ended = start("""
        def program(job):
            job.leaves("Perhaps.", lambda: 1 / 0)
            raise JobError(65, "Wrong.", "Look.")
    """).end()
    assert ended.verdict["message"].startswith("Wrong. It is not known how far the run came")


def test_an_answer_that_does_not_come(start: Run) -> None:
    ended = start("""
        run.CLEANING = 0.5
        def program(job):
            job.leaves("Perhaps.", lambda: time.sleep(60))
            raise JobError(65, "Wrong.", "Look.")
    """).end()
    assert ended.verdict["message"].startswith("Wrong. It did not answer:")
    assert ended.verdict["message"].endswith("hangs. Perhaps. Look.")
    assert ended.seconds < 5


def test_a_clean_up_that_hangs_changes_no_outcome(start: Run) -> None:
    ended = start("""
        run.CLEANING = 0.5
        def program(job):
            job.ends.callback(time.sleep, 60)
            return DONE
    """).end()
    assert (ended.code, ended.verdict["outcome"]) == (0, "done")
    assert "could not be taken back in time" in ended.log
    assert ended.seconds < 5


def test_ends_are_done_last_first_and_one_that_fails_keeps_none(start: Run) -> None:
    ended = start("""
        def program(job):
            job.ends.callback(say, "first")
            job.ends.callback(os.unlink, "/nowhere/at-all")
            job.ends.callback(say, "last")
            return DONE
    """).end()
    assert ended.verdict["exit"] == 0
    assert ended.log.index("last") < ended.log.index("could not all be taken back") < ended.log.index("first")


def test_threads_do_not_keep_the_process(start: Run) -> None:
    ended = start("""
        def program(job):
            threading.Thread(target=time.sleep, args=(60,)).start()
            return DONE
    """).end()
    assert ended.verdict["exit"] == 0
    assert ended.seconds < 5


def test_all_that_was_said_is_heard(start: Run) -> None:
    """More than a socket holds, by several threads at once, right before the end."""
    ended = start("""
        def program(job):
            def flood(name):
                for number in range(2000):
                    job.figure(**{name: number, "padding": "x" * 200})
            threads = [threading.Thread(target=flood, args=(name,)) for name in "abcd"]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
            return DONE
    """).end()
    assert [ended.verdict[name] for name in "abcd"] == [1999] * 4


def test_a_verdict_fits_the_termination_message(start: Run) -> None:
    ended = start(r"""
        def program(job):
            job.figure(rows=3, names=["\ud83d\ude00" * 300] * 1000, odd="\udcff\n" * 50)
            return Outcome(0, "done", "\udcff\n\t\0 \u2028" + "ü" * 9000)
    """).end()
    assert ended.verdict["exit"] == 0
    assert ended.verdict["rows"] == 3
    assert len(ended.message.encode()) <= 4096
    assert ended.message.count("\n") == 1


def test_progress_is_in_the_log(start: Run) -> None:
    ended = start("""
        run.TICK = 0.2
        def program(job):
            job.progress("3 MiB written")
            time.sleep(1)
            return DONE
    """).end()
    assert ended.log.count(" s, 3 MiB written\n") >= 2


def test_the_deadline(start: Run) -> None:
    ended = start(
        """
        def program(job):
            job.leaves("All is as it was.")
            time.sleep(60)
        """,
        DEADLINE_SECONDS="122",
    ).end()
    assert (ended.code, ended.verdict["exit"]) == (124, 124)
    assert "did not end within 2 s. All is as it was. Find out what holds it up" in ended.verdict["message"]
    assert ended.seconds < 6


def test_less_time_than_the_deadline(start: Run) -> None:
    ended = start("""
        def program(job):
            job.tell(allowed=0.5)
            time.sleep(60)
    """).end()
    assert ended.verdict["exit"] == 124
    assert ended.seconds < 5


@pytest.mark.parametrize("value", ["", "120", "1e3", "-5", "²"])
def test_a_deadline_that_makes_no_sense(start: Run, value: str) -> None:
    ended = start("def program(job): return DONE", DEADLINE_SECONDS=value).end()
    assert ended.verdict["exit"] == 64
    assert "DEADLINE_SECONDS" in ended.verdict["message"]


# ---- ends from outside ----

WAITS = """
def program(job):
    job.leaves("All is as it was.")
    job.figure(rows=3)
    reached()
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_told_to_stop(start: Run, number: signal.Signals) -> None:
    running = start(WAITS)
    running.reached()
    running.tell(number)
    ended = running.end()
    assert ended.code == 143
    assert ended.verdict["message"] == "The job was told to stop. All is as it was."
    assert ended.verdict["rows"] == 3
    assert ended.seconds < 2


@pytest.mark.slow
def test_told_to_stop_at_any_instant(start: Run) -> None:
    """Before Python runs, before it has handlers, before and after the fork, amid the work."""
    said = set()
    for number in range(40):
        running = start("""
            run.AGAIN = 60
            def program(job):
                job.leaves("All is as it was.")
                job.ends.callback(say, "taken away")
                subprocess.Popen(["sleep", "100"])
                job.processes.start(["sleep", "100"])
                reached()
                time.sleep(60)
        """)
        running.listens()
        time.sleep(number * 0.005)
        if number == 39:
            running.reached()
        running.tell()
        ended = running.end()
        assert ended.seconds < 5.5
        assert (ended.code, ended.verdict["exit"]) == (143, 143)
        said.add(ended.verdict["message"])
    begin = "The job was told to stop."
    assert said & {begin, f"{begin} Nothing was done."}
    assert f"{begin} All is as it was." in said


@pytest.mark.slow
def test_told_to_stop_amid_the_end(start: Run) -> None:
    codes = set()
    for number in range(20):
        running = start("""
            run.AGAIN = 60
            def program(job):
                job.ends.callback(say, "taken away")
                job.processes.start(["sleep", "100"])
                reached()
                return DONE
        """)
        running.reached()
        time.sleep(number * 0.001)
        running.tell()
        ended = running.end()
        assert ended.code == ended.verdict["exit"]
        assert "taken away" in ended.log
        codes.add((ended.code, ended.verdict["outcome"]))
    assert (0, "done") in codes
    assert codes <= {(0, "done"), (143, "failed")}


def test_told_twice(start: Run) -> None:
    """The second finds the clean-up at work, and must not end it."""
    running = start("""
        def program(job):
            job.ends.callback(say, "taken away")
            job.ends.callback(time.sleep, 1)
            try:
                time.sleep(0.2)
                reached()
                time.sleep(60)
            finally:
                time.sleep(0.5)
                say("unwound")
    """)
    running.reached()
    for _ in range(4):
        for process in running.children():
            with contextlib.suppress(ProcessLookupError):  # one that has ended meanwhile
                os.kill(process, signal.SIGTERM)
        time.sleep(0.1)
    ended = running.end()
    assert ended.verdict["exit"] == 143
    assert ended.log.index("unwound") < ended.log.index("taken away")


def test_what_is_held_is_not_interrupted(start: Run) -> None:
    running = start("""
        def program(job):
            with contextlib.suppress(OSError), job.held():
                reached()
                time.sleep(1)
                job.leaves("It is published.")
                raise OSError(5, "nobody hears of it")
            say("too late")
            time.sleep(60)
    """)
    running.reached()
    running.tell()
    ended = running.end()
    assert ended.verdict["message"] == "The job was told to stop. It is published."
    assert "too late" not in ended.log


DEAF = """["bash", "-c", "trap '' TERM; while :; do sleep 60; done"]"""
SWALLOWED = {
    "another error on the way out": """
        try:
            time.sleep(60)
        finally:
            raise OSError(5, "of a clean-up")
    """,
    "an exit stack": """
        with contextlib.ExitStack() as stack:
            stack.callback(os.unlink, "/nowhere/at-all")
            time.sleep(60)
    """,
    "a finaliser": """
        class Thing:
            def __del__(self):
                end = time.monotonic() + 1.5
                while time.monotonic() < end: pass
        Thing()
        time.sleep(60)
    """,
    "a thread's lock": """
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    """,
    "a command that is waited for": 'job.processes.run(["sleep", "60"])',
    "a shell and its children": 'job.processes.run(["sh", "-c", "sleep 60 | sleep 60"])',
    "one that ignores it": f"job.processes.run({DEAF})",
}


@pytest.mark.parametrize("where", SWALLOWED)
def test_no_place_swallows_a_signal(start: Run, where: str) -> None:
    source = textwrap.indent(textwrap.dedent(SWALLOWED[where]), "    ")
    running = start(f"def program(job):\n    job.leaves('All is as it was.')\n    reached()\n{source}")
    running.reached()
    time.sleep(0.3)
    running.tell()
    ended = running.end()
    assert ended.verdict["exit"] == 143, ended.log
    assert ended.verdict["message"] == "The job was told to stop. All is as it was."
    assert ended.seconds < 6


def test_a_command_ends_by_the_signal_that_it_wants(start: Run) -> None:
    """Also where the run is a shell's background job: that one ignores QUIT, and would hand it on."""
    running = start("""
        def program(job):
            job.processes.start(["sh", "-c", "sleep 60"], ending=signal.SIGQUIT)
            deaf = ["bash", "-c", "trap '' QUIT; while :; do sleep 60; done"]
            one = job.processes.start(deaf, ending=signal.SIGQUIT)
            time.sleep(0.2)
            began = time.monotonic()
            job.processes.stop(one)  # lost, as where it has no handler yet: it ends all the same
            assert one.returncode == -9 and 2 < time.monotonic() - began < 5
            reached()
            time.sleep(60)
    """)
    running.reached()
    running.tell()
    ended = running.end()
    assert ended.verdict["exit"] == 143
    assert ended.seconds < 2


@pytest.fixture
def hangs(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a run whose ping is answered by nobody, and that has a history."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = tmp_path / "ping"
        address.write_text(f"http://127.0.0.1:{server.getsockname()[1]}/")
        yield {"NOTIFY_PING": str(address), "HISTORY": str(tmp_path), "HISTORY_KEEP": "5"}


NOT_TOLD = [f"Not told ({when} of this run): no answer came in time." for when in ("start", "end")]


@pytest.mark.slow
def test_a_worker_that_hangs_is_left_alone(start: Run, hangs: dict[str, str]) -> None:
    """As in a call that no signal interrupts. What it may have done is not claimed. History and ping hang,
    too: there is one end for all three.
    """
    running = start(
        """
        run.history.figures_after = lambda *_: time.sleep(60)
        def program(job):
            job.leaves("If it is there, it is whole.", lambda: "It is not there.")
            job.figure(rows=3)
            job.processes.start(["bash", "-c", "trap '' TERM; while :; do sleep 60; done"])
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            reached()
            time.sleep(60)
        """,
        **hangs,
    )
    running.reached()
    running.tell()
    ended = running.end()
    assert ended.verdict["exit"] == 143
    assert "It did not answer" in ended.verdict["message"]
    assert "If it is there, it is whole." in ended.verdict["message"]
    assert ended.verdict["rows"] == 3
    assert "missing in the history: not done within" in ended.log
    assert [line for line in NOT_TOLD if line in ended.log] == NOT_TOLD
    assert ended.seconds < 10


def test_told_to_stop_after_the_work(start: Run, hangs: dict[str, str]) -> None:
    """The outcome stands; history and ping, which hang, are not waited for any longer."""
    running = start(
        """
        run.WITHIN = 1.5
        def figures_after(*_):
            reached()
            time.sleep(60)
        run.history.KEEPING = 0.5
        run.history.figures_after = figures_after
        def program(job): return DONE
        """,
        **hangs,
    )
    running.reached()
    running.tell()
    ended = running.end()
    assert (ended.code, ended.verdict["outcome"]) == (0, "done")
    assert [line for line in NOT_TOLD if line in ended.log] == NOT_TOLD
    assert ended.seconds < 6


@pytest.mark.slow
def test_a_clean_up_that_hangs_when_told_to_stop(start: Run) -> None:
    running = start("""
        def program(job):
            job.ends.callback(time.sleep, 60)
            job.leaves("All is as it was.")
            reached()
            time.sleep(60)
    """)
    running.reached()
    running.tell()
    ended = running.end()
    assert ended.verdict["message"] == "The job was told to stop. All is as it was."
    assert ended.seconds < 10


KILLED = "Most likely it ran out of memory"


def test_a_worker_that_is_killed(start: Run) -> None:
    running = start(WAITS)
    running.reached()
    os.kill(running.children()[2], signal.SIGKILL)
    ended = running.end()
    assert (ended.code, ended.verdict["exit"]) == (137, 137)
    assert f"The program was killed. All is as it was. {KILLED}" in ended.verdict["message"]
    assert ended.verdict["rows"] == 3


def test_a_worker_that_is_killed_leaves_no_child(start: Run) -> None:
    running = start("""
        def program(job):
            job.processes.start(["bash", "-c", "sleep 60 & sleep 60"])
            job.processes.start(["setsid", "--wait", "sleep", "60"])
            subprocess.Popen(["sleep", "60"])
            time.sleep(0.5)
            os.kill(os.getpid(), 9)
    """)
    assert running.end().verdict["exit"] == 137


@pytest.mark.parametrize("way", ["os._exit(0)", "os._exit(3)", "os.kill(os.getpid(), signal.SIGSEGV)"])
def test_a_worker_that_ends_without_a_word(start: Run, way: str) -> None:
    ended = start(f"""
        def program(job):
            job.leaves("All is as it was.")
            {way}
    """).end()
    assert (ended.code, ended.verdict["exit"]) == (75, 75)
    assert "All is as it was. Report this." in ended.verdict["message"]


def test_a_supervisor_that_is_killed(start: Run) -> None:
    running = start(WAITS)
    running.reached()
    _, supervisor, worker = running.children()
    os.kill(supervisor, signal.SIGKILL)
    running.process.wait(10)
    os.kill(worker, signal.SIGKILL)  # in a pod it ends with the first process
    ended = running.end()
    assert (ended.code, ended.verdict["exit"]) == (137, 137)
    assert "How far it came is not known" in ended.verdict["message"]


def test_a_program_that_cannot_be_loaded(start: Run) -> None:
    ended = start("def program(job) return DONE").end()
    assert (ended.code, ended.verdict["exit"]) == (75, 75)
    assert "could not start" in ended.verdict["message"]
    assert "SyntaxError" in ended.log


def test_no_room_for_files_in_memory(start: Run, tmp_path: Path) -> None:
    """The folder of temporary files cannot be used: said, and no verdict of the start script after that."""
    ended = start("def program(job): return DONE", TMPDIR=str(tmp_path / "nowhere")).end()
    assert ended.verdict["exit"] in (0, 74, 75)


# ---- the log and the termination message ----


def test_a_log_that_nobody_reads_any_more(start: Run) -> None:
    running = start("""
        def program(job):
            reached()
            for _ in range(50):
                say("x" * 1000)
                time.sleep(0.01)
            raise JobError(65, "Wrong.")
    """)
    running.reached()
    assert running.process.stdout is not None
    running.process.stdout.close()
    assert running.process.wait(20) == 65
    assert json.loads((running.folder / "termination-log").read_text())["message"] == "Wrong."


@pytest.mark.slow
def test_a_log_that_is_full(start: Run) -> None:
    running = start("""
        def program(job):
            reached()
            while True:
                say("x" * 1000)
    """)
    running.reached()
    time.sleep(0.5)
    running.tell()
    # nobody reads: the pipe holds 64 KiB
    began = time.monotonic()
    end = began + 25
    log = running.folder / "termination-log"
    while not log.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert json.loads(log.read_text())["exit"] == 143
    assert time.monotonic() - began < 9
    assert running.process.wait(20) == 143


@pytest.mark.parametrize("path", ["", "/nowhere/at-all", "/"])
def test_a_termination_message_that_cannot_be_written(start: Run, path: str) -> None:
    ended = start("def program(job): return DONE", TERMINATION_LOG=path).end()
    assert (ended.code, ended.verdict["exit"]) == (0, 0)
    assert ("could not be written" in ended.log) == bool(path)
