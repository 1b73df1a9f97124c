"""Runs a program to its verdict. The supervisor answers signals and the deadline and gives the verdict, and never
touches a volume: a call on a file server that hangs cannot be interrupted. The worker, a process of its own, does the
work and says how far it is; where it does not answer any more, the supervisor ends without it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from stack_backup_jobs.errors import Failure, Stopped, of_volume
from stack_backup_jobs.formats import Exit, Figure, Verdict
from stack_backup_jobs.job import Job, Outcome, say
from stack_backup_jobs.server import of_server
from stack_backup_jobs.session import ServerError

JOBS: dict[str, str] = {}
"""Programs, and the modules that hold them as `program`."""

RESERVE = 120
"""Seconds between the inner deadline and Kubernetes' own, which would take the pod and its log away."""
PATIENCE = 7.0
"""Seconds in which a worker that is told to stop must end; a pod must be gone within 10."""
TICK = 30.0
"""Seconds between two lines that say how far the run is."""
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main(arguments: list[str]) -> int:
    """The exit code. Without an argument every program is loaded, and nothing else done: an init container does that, so
    that the interpreter keeps what it compiled.
    """
    if not arguments:
        for module in JOBS.values():
            importlib.import_module(f"stack_backup_jobs.{module}")
        return 0
    os.umask(0o027)
    os.environ.update(LC_ALL="C", TZ="UTC", PGCONNECT_TIMEOUT="20")
    time.tzset()
    os.dup2(1, 2)
    module = importlib.import_module(f"stack_backup_jobs.{JOBS[arguments[0]]}")
    return Supervisor(module.program).run()


def deadline() -> int:
    text = os.environ.get("DEADLINE_SECONDS", "")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > RESERVE):
        raise Failure(
            Exit.USAGE,
            f'The variable DEADLINE_SECONDS is "{text}"; it must be a whole number from {RESERVE + 1} on.',
            "Correct the values of the release.",
        )
    return int(text) - RESERVE


class Supervisor:
    """Of one worker. What is known of it: its figures, what a failure leaves, the groups of processes it has started, and
    its end.
    """

    def __init__(self, program: Callable[[Job], Outcome]) -> None:
        self._program = program
        self._begun = time.monotonic()
        self._figures: dict[str, Figure] = {}
        self._untouched = ""
        self._progress = ""
        self._groups: set[int] = set()
        self._end: dict[str, Any] | None = None
        self._stop: tuple[int, str, str] | None = None
        """Why the worker is told to stop: code, what, advice."""
        self._given_up: float | None = None

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    def run(self) -> int:
        try:
            self._allowed = float(deadline())
        except Failure as failure:
            return self._verdict(failure.code, "failed", f"{failure.what} {failure.advice}")
        ours, theirs = socket.socketpair()
        wakeup, woken = socket.socketpair()
        woken.setblocking(False)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # until each side has its own handlers
        self._worker = os.fork()
        if not self._worker:
            for end in (ours, wakeup, woken):
                end.close()
            try:
                work(self._program, theirs)
            finally:
                os._exit(0)
        theirs.close()
        signal.set_wakeup_fd(woken.fileno())
        for number in STOPPING:
            signal.signal(number, lambda *_: self._tell_to_stop(Exit.STOPPED, "The job was told to stop.", ""))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        return self._judge(self._watch(ours, wakeup))

    def _watch(self, channel: socket.socket, wakeup: socket.socket) -> int | None:
        """Until the worker has ended: its wait status, or None where it did not end though it was killed."""
        rest, spoken = b"", 0.0
        told: list[socket.socket] = [channel, wakeup]
        while True:
            ready, _, _ = select.select(told, [], [], self._patience(spoken))
            if wakeup in ready:
                wakeup.recv(4096)
            if channel in ready:
                data = channel.recv(1 << 16)
                if not data:
                    told.remove(channel)  # it is about to end
                *messages, rest = (rest + data).split(b"\n")
                for message in messages:
                    self._hear(json.loads(message))
            ended, status = os.waitpid(self._worker, os.WNOHANG)
            if ended:
                return status
            if channel not in told:
                time.sleep(0.01)
            if self._seconds >= self._allowed:
                what = f"The job did not end within {int(self._allowed)} s."
                self._tell_to_stop(
                    Exit.TIMEOUT, what, "Look for what holds it up: a lock in the database, a slow server, or a slow volume."
                )
            if self._given_up is not None and time.monotonic() >= self._given_up:
                self._kill()
                return None
            if self._seconds - spoken >= TICK:
                spoken = self._seconds
                say(f"{int(spoken)} s{self._progress and ', '}{self._progress}")

    def _patience(self, spoken: float) -> float:
        """Seconds until something is due."""
        due = [spoken + TICK - self._seconds]
        if self._stop is None:
            due.append(self._allowed - self._seconds)
        if self._given_up is not None:
            due.append(self._given_up - time.monotonic())
        return max(0.0, min(due))

    def _hear(self, message: dict[str, Any]) -> None:
        self._untouched = message.get("untouched", self._untouched)
        self._progress = message.get("progress", self._progress)
        self._figures.update(message.get("figures", {}))
        if "allowed" in message:
            self._allowed = min(self._allowed, self._seconds + message["allowed"])
        if (group := message.get("group", 0)) > 0:
            self._groups.add(group)
        else:
            self._groups.discard(-group)
        if "end" in message:
            self._end = message["end"]
            # What it begun must be taken away, too, and that may hang like everything else.
            self._given_up = self._given_up or time.monotonic() + 4 * PATIENCE

    def _tell_to_stop(self, code: int, what: str, advice: str) -> None:
        if self._stop is None:
            self._stop = (code, what, advice)
            self._given_up = time.monotonic() + PATIENCE
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._worker, signal.SIGTERM)

    def _kill(self) -> None:
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        os.kill(self._worker, signal.SIGKILL)

    def _judge(self, status: int | None) -> int:
        """The verdict, of what the worker said last and how it ended."""
        for number in STOPPING:
            signal.signal(number, signal.SIG_IGN)
        self._kill_left()
        end = self._end
        if end is None:
            if self._stop is not None:
                code, what, advice = self._stop
                hung = "" if status is not None else "It did not answer: a file server or the database server hangs."
                return self._verdict(code, "failed", f"{what} {hung} {self._untouched} {advice}")
            killed = status is not None and os.WIFSIGNALED(status)
            how = f"was killed by signal {os.WTERMSIG(status)}" if killed and status else f"ended with status {status}"
            advice = "Most likely it lacked memory: raise the memory limit of this job (value resources)."
            return self._verdict(Exit.KILLED, "failed", f"The program {how}. {self._untouched} {advice}")
        if end["stopped"] and self._stop is not None:
            code, what, advice = self._stop
            return self._verdict(code, "failed", f"{what} {end['untouched']} {advice}")
        return self._verdict(end["code"], end["outcome"], f"{end['what']} {end['untouched']} {end['advice']}")

    def _kill_left(self) -> None:
        for group in self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _verdict(self, code: int, outcome: str, message: str) -> int:
        verdict = Verdict(
            os.environ.get("JOB", ""), int(code), outcome, " ".join(message.split()), self._figures, int(self._seconds)
        )
        say(verdict.message)
        line = verdict.line()
        if path := os.environ.get("TERMINATION_LOG"):
            try:
                with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 (a device of the kubelet, no volume)
                    file.write(line + "\n")
            except OSError as error:
                say(f"The termination message could not be written to {path}: {error.strerror}.")
        with contextlib.suppress(BrokenPipeError):
            os.write(1, line.encode() + b"\n")
        return int(code)


def work(program: Callable[[Job], Outcome], channel: socket.socket) -> None:
    """The worker: the program, told apart how it ended, and what it leaves taken away."""
    job = Job(channel)
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)  # a terminal's reach the supervisor, which tells us
    signal.signal(signal.SIGTERM, lambda *_: job.stop())
    end: dict[str, object]
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        outcome = program(job)
        end = {"code": outcome.code, "outcome": outcome.word, "what": outcome.message, "advice": "", "untouched": ""}
    except Stopped:
        end = failed(job, Failure(Exit.STOPPED, "The job was told to stop."))
        end["stopped"] = True
    except Exception as error:
        end = failed(job, of_any(error))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job.tell(end={"stopped": False, **end})
    job.end()


def failed(job: Job, failure: Failure) -> dict[str, object]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    job.processes.end()
    try:
        untouched = job.untouched
    except Exception as error:
        say(f"It could not be found out what this run leaves: {of_any(error).what}")
        untouched = "It is not known how far the run came: look before anything else is done."
    return {
        "code": int(failure.code),
        "outcome": "failed",
        "what": failure.what,
        "advice": failure.advice,
        "untouched": untouched,
    }


def of_any(error: Exception) -> Failure:
    """Every exception as a failure."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, OSError):
        say("".join(traceback.format_exception(error)[-2:]).strip())
        return of_volume(error)
    if isinstance(error, ServerError):
        return of_server(error)
    for line in traceback.format_exception(error):
        say(line.rstrip())
    return Failure(Exit.PASSING, f"The program stopped unexpectedly: {type(error).__name__}: {error}.", "Report this.")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
