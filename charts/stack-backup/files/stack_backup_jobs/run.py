"""Runs a program to its verdict. The supervisor answers signals and the deadline and gives the verdict, and
never touches a volume: a call on a file server that hangs cannot be interrupted. The worker, a process of its
own, does the work and says how far it is; where it does not answer any more, the supervisor ends without it.
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
from pathlib import Path
from typing import Any

from stack_backup_jobs import history, notify
from stack_backup_jobs.errors import VALUES, JobError, Stopped, of_volume
from stack_backup_jobs.formats import MESSAGE_LIMIT, Exit, Figure, Verdict, stamp
from stack_backup_jobs.job import Job, Outcome, say, write
from stack_backup_jobs.process import aside, family
from stack_backup_jobs.server import of_server
from stack_backup_jobs.session import ServerError

JOBS: dict[str, str] = {
    "list": "listing",
    "fetch": "offering",
    "postgres-backup-hourly": "hourly",
    "postgres-backup-tier": "tier",
    "postgres-replicator-backup": "replicator",
    "database-recovery": "recovery",
    "database-drill": "drill",
    "media-replicator": "media_replicator",
    "media-recovery": "media_recovery",
    "offsite": "offsite",
    "replica-check": "replica_check",
    "doctor": "doctor",
}
"""Programs, and the modules that hold them as `program`."""
OF_NO_JOB = {"list", "fetch"}
"""Those that the command line runs, in the pod of a job that lends it: nobody is told of them, and no history
kept.
"""

RESERVE = 120
"""Seconds between the inner deadline and Kubernetes' own, which would take the pod and its log away."""
AGAIN = 0.5
"""Seconds until a worker is told again: a signal may come right before a call that then waits."""
WITHIN = 9.5
"""Seconds in which a run that is told to stop must have ended: a pod must be gone within 10. What comes after
the worker (sweep, history, notification) shares what the worker has left.
"""
PATIENCE = 6.0
"""Seconds of these in which the worker must end."""
SWEEP = 0.5
"""Seconds that killed processes have to be gone."""
CLEANING = 28.0
"""Seconds in which a worker that has done its work, or failed, must have taken away what it began."""
TICK = 30.0
"""Seconds between two lines that say how far the run is."""
TOLD = "The job was told to stop."
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
MESSAGE = 1 << 18
"""Bytes of a message of the worker, at most."""


def main(arguments: list[str]) -> int:
    """The exit code. Without an argument every program is loaded, and nothing else done: an init container
    does that, so that the interpreter keeps what it compiled.
    """
    if not arguments:
        for module in JOBS.values():
            importlib.import_module(f"stack_backup_jobs.{module}")
        return 0
    os.umask(0o027)
    os.environ.update(LC_ALL="C", TZ="UTC", PGCONNECT_TIMEOUT="20")
    time.tzset()
    os.dup2(1, 2)
    if arguments[0] in OF_NO_JOB:
        os.environ.update(NOTIFY_PING="", NOTIFY_WEBHOOK="", HISTORY="")
    program = importlib.import_module(f"stack_backup_jobs.{JOBS[arguments[0]]}").program
    return Supervisor(program).run()


def deadline() -> int:
    text = os.environ.get("DEADLINE_SECONDS", "")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) > RESERVE):
        what = f'The variable DEADLINE_SECONDS is "{text}"; it must be a whole number from {RESERVE + 1} on.'
        raise JobError(Exit.USAGE, what, VALUES)
    return int(text) - RESERVE


class Supervisor:
    """Of one worker. What is known of it: its figures, what a failure leaves, and its end."""

    def __init__(self, program: Callable[[Job], Outcome]) -> None:
        self._program = program
        self._begun = time.monotonic()
        self._notifier = notify.Notifier()
        self._figures: dict[str, Figure] = {}
        self._untouched = ""
        self._progress = ""
        self._spoken = 0.0
        self._end: dict[str, Any] | None = None
        self._stop: tuple[int, str, str] | None = None
        """Why the worker is told to stop: code, what, advice."""
        self._again = float("inf")
        """When it is told again, in monotonic seconds."""
        self._given_up: float | None = None
        """When it is left alone, in monotonic seconds."""
        self._until = float("inf")
        """When all must be done, in monotonic seconds."""

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._begun

    @property
    def _left(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def run(self) -> int:
        try:
            self._allowed = float(deadline())
        except JobError as failure:
            return self._verdict(failure.code, "failed", f"{failure.what} {failure.advice}")
        self._notifier.begin()
        # Messages are kept apart, and none is ever sent in part.
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        wakeup, woken = socket.socketpair()
        for end in (ours, wakeup, woken):
            end.setblocking(False)
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)  # until each side has its own handlers
        state("begun")
        self._worker = os.fork()
        if not self._worker:
            for end in (ours, wakeup, woken):
                end.close()
            work(self._program, theirs)
        theirs.close()
        signal.set_wakeup_fd(woken.fileno())
        for number in STOPPING:
            signal.signal(number, lambda *_: self._tell_to_stop(Exit.STOPPED, TOLD, ""))
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only wakes
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        code = self._watch(ours, wakeup)
        signal.set_wakeup_fd(-1)  # nobody reads it any more, and it is closed before the last child has ended
        for number in STOPPING:
            signal.signal(number, lambda *_: self._hurry())
        self._sweep()
        judged = self._judge(code)
        # An interpreter that ends has no handlers any more: a signal would give another code than was told.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
        return judged

    def _watch(self, channel: socket.socket, wakeup: socket.socket) -> int | None:
        """Until the worker has ended: its exit code (negative: the signal), or None: not in time."""
        told = [wakeup, channel]
        while True:
            ended, status = os.waitpid(self._worker, os.WNOHANG)
            if channel in told and not self._listen(channel):
                told.remove(channel)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if self._seconds >= self._allowed:
                what = f"The job did not end within {int(self._allowed)} s."
                advice = "Find out what holds it up: a lock in the database, a slow server, or a slow volume."
                self._tell_to_stop(Exit.TIMEOUT, what, advice)
            if self._given_up is not None and time.monotonic() >= self._given_up:
                return None
            if time.monotonic() >= self._again:
                self._again = time.monotonic() + AGAIN
                os.kill(self._worker, signal.SIGTERM)  # it is there: nobody else waits for it
            if self._seconds - self._spoken >= TICK:
                self._spoken = self._seconds
                say(f"{int(self._spoken)} s{self._progress and ', '}{self._progress}")
            select.select(told, [], [], self._patience())
            with contextlib.suppress(BlockingIOError):
                wakeup.recv(4096)

    def _patience(self) -> float:
        """Seconds until something is due."""
        due = [self._spoken + TICK - self._seconds, self._again - time.monotonic()]
        if self._stop is None:
            due.append(self._allowed - self._seconds)
        if self._given_up is not None:
            due.append(self._given_up - time.monotonic())
        return max(0.0, min(due))

    def _listen(self, channel: socket.socket) -> bool:
        """Hears all that the worker has said: whether it may say more."""
        while True:
            try:
                data = channel.recv(MESSAGE)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if not data:
                return False
            self._hear(json.loads(data))

    def _hear(self, message: dict[str, Any]) -> None:
        self._untouched = message.get("untouched", self._untouched)
        self._progress = message.get("progress", self._progress)
        self._figures.update(message.get("figures", {}))
        if "allowed" in message:
            self._allowed = min(self._allowed, self._seconds + message["allowed"])
        if "end" in message:
            self._end, self._again = message["end"], float("inf")
            # What it has begun must be taken away, too, and that may hang like everything else.
            self._give_up_in(CLEANING)

    def _give_up_in(self, seconds: float) -> None:
        self._given_up = min(self._given_up or float("inf"), time.monotonic() + seconds)

    def _tell_to_stop(self, code: int, what: str, advice: str) -> None:
        if self._stop is None:
            self._stop = (code, what, advice)
            self._hurry()
            self._give_up_in(PATIENCE)
            self._again = time.monotonic()

    def _hurry(self) -> None:
        """A signal after the worker's end changes no verdict, but it must not be waited for any longer."""
        self._until = min(self._until, time.monotonic() + WITHIN)

    def _sweep(self) -> None:
        """Kills what is left of the worker and of all that it has started; what hangs in the kernel stays."""
        end = time.monotonic() + SWEEP
        while (left := family(self._worker)) and time.monotonic() < end:
            for process in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.04)

    def _judge(self, code: int | None) -> int:
        """The verdict, of what the worker said last and how it ended."""
        end = self._end
        left = self._untouched if end is None else end.get("untouched", self._untouched)
        if code is None and (end is None or "untouched" not in end):
            left = f"It did not answer: a file server or the database server hangs. {left}"
        elif code is None:
            say("What this run has begun could not be taken back in time; the next run does it.")
        if self._stop is not None and (end is None or end["stopped"]):
            why, what, advice = self._stop
            return self._verdict(why, "failed", f"{what} {left} {advice}")
        if end is not None:
            return self._verdict(end["code"], end["outcome"], f"{end['what']} {left} {end['advice']}")
        if code == -signal.SIGKILL:
            advice = "Most likely it ran out of memory: raise the memory limit of this job (value resources)."
            return self._verdict(Exit.KILLED, "failed", f"The program was killed. {left} {advice}")
        how = f"was terminated by signal {-code}" if code and code < 0 else f"exited with code {code}"
        return self._verdict(Exit.TRANSIENT, "failed", f"The program {how}. {left} Report this.")

    def _verdict(self, code: int, outcome: str, message: str) -> int:
        job, said = os.environ.get("JOB", ""), " ".join(message.split())
        verdict = Verdict(job, int(code), outcome, said, self._figures, int(self._seconds))
        refused = terminate(verdict)
        state("judged")
        say(verdict.message)
        if kept := self._keep(verdict):
            verdict = verdict.with_figures(kept)
            refused = terminate(verdict)
        self._notifier.end(verdict, min(notify.PATIENCE, self._left))
        if refused:
            say(refused)
        write(verdict.line())
        return int(code)

    def _keep(self, verdict: Verdict) -> dict[str, int]:
        """The history's own figures. Whatever becomes of it, the verdict stands."""
        folder, most = os.environ.get("HISTORY"), os.environ.get("HISTORY_KEEP", "")
        if not folder or not most.isdigit():
            return {}
        ended = time.time()
        about = {"begun": stamp(ended - self._seconds), "ended": stamp(ended)}
        about["pod"] = os.environ.get("POD_NAME", "")[:63]
        patience = min(history.KEEPING, self._left / 2)  # the notification has the other half
        try:
            return aside(lambda: history.figures_after(Path(folder), int(most), verdict, about), patience)
        except Exception as error:
            say(f"This verdict is missing in the history: {error}.")
            return {}


def terminate(verdict: Verdict) -> str:
    """Leaves the pod's termination message; what was wrong with that, if anything."""
    if path := os.environ.get("TERMINATION_LOG"):
        try:
            with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 (the kubelet's, no volume)
                file.write(verdict.line() + "\n")
        except OSError as error:
            return f"The termination message could not be written to {path}: {error.strerror}."
    return ""


def state(word: str) -> None:
    """Tells the start script (STATE) how far this is, by names alone: those need no room."""
    if path := os.environ.get("STATE"):
        with contextlib.suppress(OSError):
            if word == "begun":
                os.rename(path, f"{path}.begun")  # noqa: PTH104
            else:
                for left in (path, f"{path}.begun"):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(left)  # noqa: PTH108


def work(program: Callable[[Job], Outcome], channel: socket.socket) -> None:
    """The worker: the program, how it ended, and what it leaves taken away. Never returns."""
    code = 1
    try:
        # All that it starts is of this session: so it is found, whatever becomes of the worker.
        os.setsid()
        attended(program, Job(channel))
        code = 0
    except BaseException as error:
        for line in traceback.format_exception(error):
            say(line.rstrip())
    finally:
        os._exit(code)


def attended(program: Callable[[Job], Outcome], job: Job) -> None:
    def not_raised(unraisable: Any) -> None:
        if unraisable.exc_type is Stopped:
            job.raise_again()
        else:
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = not_raised
    # TERM is not ignored for a moment: one that waits would be thrown away. The supervisor hears the others.
    signal.signal(signal.SIGTERM, lambda *_: job.stop())
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)  # a background job of a shell ignores it, and its children
    end: dict[str, Any] | None = None
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        end = end_of(program, job)
        job.deaf()
    except Stopped:  # wherever it came, in the handling of another exception, too
        job.deaf()
        end = end or told(JobError(Exit.STOPPED, TOLD))
    if job.stopped and end["outcome"] == "failed":
        end["stopped"] = True
    job.tell(end=end)  # at once: what follows may hang
    if end["outcome"] == "failed":
        job.processes.end()
        job.tell(end={**end, "untouched": untouched_by(job)})
    job.end()


def end_of(program: Callable[[Job], Outcome], job: Job) -> dict[str, Any]:
    try:
        outcome = program(job)
        return {**told(JobError(outcome.code, outcome.message)), "outcome": outcome.word, "untouched": ""}
    except Stopped:
        raise
    except BaseException as error:
        return told(of_any(error))


def told(failure: JobError) -> dict[str, Any]:
    """A failure as the supervisor is told of it; what says too much is cut."""
    return {
        "code": int(failure.code),
        "outcome": "failed",
        "what": failure.what[:MESSAGE_LIMIT],
        "advice": failure.advice[:MESSAGE_LIMIT],
        "stopped": False,
    }


def untouched_by(job: Job) -> str:
    try:
        return job.untouched[:MESSAGE_LIMIT]
    except Exception as error:
        say(f"It could not be found out what this run leaves: {of_any(error).what}")
        return "It is not known how far the run came: look before anything else is done."


def of_any(error: BaseException) -> JobError:
    """Every exception as a failure."""
    if isinstance(error, JobError):
        return error
    if isinstance(error, OSError):
        say("".join(traceback.format_exception(error)[-2:]).strip())
        return of_volume(error)
    if isinstance(error, ServerError):
        return of_server(error)
    for line in traceback.format_exception(error):
        say(line.rstrip())
    what = f"The program stopped unexpectedly: {type(error).__name__}: {error}."
    return JobError(Exit.TRANSIENT, what, "Report this.")
