"""`stack-backup`: what operators do with a release on any cluster, through their own kubeconfig."""

from __future__ import annotations

from enum import IntEnum

from stack_backup_jobs import formats


class Exit(IntEnum):
    """Exit codes of the command line itself; a job that ran brings its program's own."""

    RED = 1
    USAGE = formats.Exit.USAGE
    NO_RELEASE = formats.Exit.SOURCE
    DATA = formats.Exit.DATA
    NO_ROOM = formats.Exit.NO_ROOM
    UNREACHABLE = formats.Exit.UNAVAILABLE
    TRANSIENT = formats.Exit.TRANSIENT
    REFUSED = formats.Exit.PERMISSION
    INTERRUPTED = 130


class CliError(Exception):
    """Why a command stopped, as one or two sentences for the person at the keyboard, and its exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = int(code)
