"""Failures, and what a system or server says turned into one: by errno and SQLSTATE, never by words."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from stack_backup_jobs.formats import Exit

NO_ROOM = "Make the volume larger or keep fewer dumps; no dump is ever deleted to make room."
VALUES = "Correct the values of the release."


class JobError(Exception):
    """Ends the program: an exit code, what happened, and what to do."""

    def __init__(self, code: int, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.code, self.what, self.advice = code, what, advice

    def __reduce__(self) -> tuple[type[JobError], tuple[int, str, str]]:
        """Another process may raise it."""
        return JobError, (self.code, self.what, self.advice)


class Stopped(BaseException):
    """A signal has come. No `except Exception` holds it up."""


_VOLUME = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), Exit.NO_ROOM),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR), Exit.PERMISSION),
    **dict.fromkeys((errno.ESTALE, errno.EAGAIN), Exit.TRANSIENT),
}


def status(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """Of what has that name; None only where nothing has it (or can: it is too long). Raises OSError where
    that cannot be told, which the questions of `pathlib` and `os.path` answer with no.
    """
    try:
        return path.stat(follow_symlinks=follow)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise


def is_folder(path: Path, *, follow: bool = True) -> bool:
    """As `status`."""
    return (found := status(path, follow=follow)) is not None and stat.S_ISDIR(found.st_mode)


def user() -> str:
    """The pod's user, as advice names it."""
    return f"{os.getuid()}:{os.getgid()}"


def of_volume(error: OSError, what: str = "The volume refused", no_room: str = NO_ROOM) -> JobError:
    """What a file system said."""
    code = _VOLUME.get(error.errno or 0, Exit.VOLUME)
    advice = {
        Exit.NO_ROOM: no_room,
        Exit.PERMISSION: f"The pod's user {user()} must have the right to: check the volume's owner, "
        "and that it is not read-only where it is written.",
        Exit.TRANSIENT: "The next run tries again; if it comes back, check the file server.",
        Exit.VOLUME: "Check the volume and its file server.",
    }[code]
    name = error.filename2 or error.filename
    named = f" {os.fsdecode(name)}:" if isinstance(name, str | bytes) else ""
    return JobError(code, f"{what}:{named} {error.strerror or error}.", advice)
