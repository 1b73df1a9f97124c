"""`stack-backup`: what operators do with a release on any cluster, through their own kubeconfig."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of the command line itself; a job that ran brings its program's own."""

    RED = 1
    USAGE = 64
    NO_RELEASE = 66
    UNREACHABLE = 69
    REFUSED = 77
    INTERRUPTED = 130


class Problem(Exception):
    """Why a command stopped, as one or two sentences for the person at the keyboard, and its exit code."""

    def __init__(self, code: int, sentence: str) -> None:
        super().__init__(sentence)
        self.code = int(code)
