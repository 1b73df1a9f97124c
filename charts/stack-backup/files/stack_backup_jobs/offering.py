"""One dump of a volume or of the off-site store, held ready for `stack-backup fetch`: which it is, how it is
read, what it is (a sha256 of its own reading), and a pod that lives as long as somebody reads. No dump is
written anywhere.

A line is a word, a tab and a JSON object.
"""

from __future__ import annotations

import json
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from stack_backup_jobs.choice import check_sanitised, choose
from stack_backup_jobs.errors import JobError, is_folder, status
from stack_backup_jobs.folder import Folder, read_afresh
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.listing import DUMP, STORE
from stack_backup_jobs.settings import load, one_of, optional
from stack_backup_jobs.store import off_site

OFFER, DIGEST = "offer", "sha256"
"""The words with which the lines begin."""
READING = "reading"
"""A file in TMPDIR that whoever reads touches."""
PULSE = 60.0
"""Seconds after which it is touched again while a piece is on its way."""
PATIENCE = 300.0
"""Seconds without a reader after which the pod ends."""


@dataclass(frozen=True)
class Settings:
    place: Path
    """Where the volume is mounted."""
    dump: str
    what: str = one_of(DUMP, STORE, default=DUMP)
    """What is to be chosen from: the dumps of the volume, or those off-site."""
    sanitised_only: bool = optional("false")


@dataclass(frozen=True)
class Offer:
    """`dump` and `manifest` (None where there is none) are commands of the pod that print a piece of each. To
    be appended: how many bytes are left out, and how many are wanted.
    """

    dump: list[str]
    name: str
    bytes: int
    manifest: list[str] | None
    manifest_bytes: int


def program(job: Job) -> Outcome:
    settings = load(Settings)
    read: Callable[[], str]
    if settings.what == STORE:
        store, dump = choose(job, off_site(job), settings.dump)
        printed, read, of = store.printed(dump), partial(store.digest, dump), store.manifest_file
    else:
        folder, dump = choose(job, folders(job, settings.place), settings.dump)
        path, of = folder.file(dump.name), folder.manifest_file
        printed, read = printed_file(path), partial(read_afresh, job, path, "read")
    check_sanitised(dump, settings.sanitised_only)
    manifest = of(dump.name) if dump.manifest else None
    size = manifest.stat().st_size if manifest else 0
    of_manifest = piece(printed_file(manifest)) if manifest else None
    tell(OFFER, asdict(Offer(piece(printed), dump.name, dump.size, of_manifest, size)))
    digest = read()
    if dump.manifest and digest != dump.manifest.get("sha256"):
        raise JobError(
            Exit.DATA,
            f"The dump {dump.name} is not what its manifest says: its sha256 differs.",
            "It was changed or damaged: use another dump, and check the place that it is from.",
        )
    tell(DIGEST, {"sha256": digest})
    begun, reading = time.time(), Path(os.environ.get("TMPDIR", "/tmp")) / READING
    while time.time() - max(begun, touched(reading)) < PATIENCE:
        time.sleep(1)
    return Outcome(Exit.DONE, "offered", f"Nobody reads {dump.name} any more.")


def folders(job: Job, volume: Path) -> list[Folder]:
    return [
        Folder(job, path)
        for path in sorted(volume.iterdir())
        if path.name != "lost+found" and is_folder(path, follow=False)
    ]


def printed_file(path: Path) -> str:
    """The command of a shell that prints $2 bytes of a file after the first $1."""
    return f'tail -c "+$(($1 + 1))" {shlex.quote(str(path))} | head -c "$2"'


def piece(command: str) -> list[str]:
    """The same, and this pod is told that somebody reads, for as long as that takes on a slow line."""
    reading = f'"${{TMPDIR:-/tmp}}/{READING}"'
    pulse = f"while kill -0 $$; do touch {reading}; sleep {PULSE:g}; done >/dev/null 2>&1 &"
    return ["/bin/sh", "-c", f"touch {reading}; {pulse} {command}", "sh"]


def touched(path: Path) -> float:
    found = status(path)
    return found.st_mtime if found else 0.0


def tell(word: str, members: dict[str, object]) -> None:
    os.write(1, f"{word}\t{json.dumps(members)}\n".encode())
