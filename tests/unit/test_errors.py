"""What a file system says, as code, sentence and advice: by errno alone."""

from __future__ import annotations

import errno
import os

import pytest

from stack_backup_jobs.errors import NO_ROOM, JobError, of_volume, user
from stack_backup_jobs.formats import Exit

PERMISSION = (
    f"The pod's user {os.getuid()}:{os.getgid()} must have the right to: check the volume's owner, "
    "and that it is not read-only where it is written."
)
TRANSIENT = "The next run tries again; if it comes back, check the file server."
VOLUME = "Check the volume and its file server."
CODES = {
    **dict.fromkeys(["ENOSPC", "EDQUOT", "EFBIG"], (Exit.NO_ROOM, NO_ROOM)),
    **dict.fromkeys(["EROFS", "EACCES", "EPERM", "ENOTDIR"], (Exit.PERMISSION, PERMISSION)),
    **dict.fromkeys(["ESTALE", "EAGAIN"], (Exit.TRANSIENT, TRANSIENT)),
    **dict.fromkeys(["EIO", "ENOENT", "ENAMETOOLONG"], (Exit.VOLUME, VOLUME)),
}


@pytest.mark.parametrize("name", CODES)
def test_the_number_decides_whatever_the_words(name: str) -> None:
    failure = of_volume(OSError(getattr(errno, name), "No space left: permission denied", "/backup/a"))
    what = "The volume refused: /backup/a: No space left: permission denied."
    assert (failure.code, failure.advice, failure.what) == (*CODES[name], what)
    assert str(failure) == what


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(5, "Broken", "/a"), "Off: /a: Broken."),
        (OSError(5, "Broken", "/a", None, "/b"), "Off: /b: Broken."),
        (OSError(5, "Broken", b"/a\xff"), "Off: /a\udcff: Broken."),
        (OSError(5, "Broken", 7), "Off: Broken."),
        (OSError(5, "Broken"), "Off: Broken."),
        (OSError("odd"), "Off: odd."),
    ],
)
def test_the_file_is_named_where_it_is_known(error: OSError, says: str) -> None:
    failure = of_volume(error, "Off", "Make room.")
    assert (failure.what, failure.code) == (says, Exit.VOLUME)


def test_whose_room_it_is_the_caller_says() -> None:
    assert of_volume(OSError(errno.ENOSPC, "Full"), no_room="Make room.").advice == "Make room."


def test_a_failure_needs_no_advice() -> None:
    failure = JobError(65, "It is odd.")
    assert (failure.code, failure.what, failure.advice) == (65, "It is odd.", "")
    assert user() == f"{os.getuid()}:{os.getgid()}"
