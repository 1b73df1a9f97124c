"""One dump of a volume, held ready for `stack-backup fetch`: which it is, what it is (a sha256 of its own
reading), and a pod that lives as long as somebody reads. Nothing is written.

A line is a word, a tab and a JSON object.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from stack_backup_jobs.choice import choose
from stack_backup_jobs.errors import JobError, is_folder, status
from stack_backup_jobs.folder import Folder, read_afresh
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.settings import load

OFFER, DIGEST = "offer", "sha256"
"""The words with which the lines begin."""
READING = "reading"
"""A file in TMPDIR that whoever reads touches."""
PATIENCE = 300.0
"""Seconds without a reader after which the pod ends."""


@dataclass(frozen=True)
class Settings:
    place: Path
    """Where the volume is mounted."""
    dump: str


@dataclass(frozen=True)
class Offer:
    """Paths are those of the pod; `manifest` is None where there is none."""

    dump: str
    name: str
    bytes: int
    manifest: str | None
    manifest_bytes: int


def program(job: Job) -> Outcome:
    settings = load(Settings)
    folders = [
        Folder(job, path)
        for path in sorted(settings.place.iterdir())
        if path.name != "lost+found" and is_folder(path, follow=False)
    ]
    folder, dump = choose(job, folders, settings.dump)
    path = folder.file(dump.name)
    manifest = folder.manifest_file(dump.name) if dump.manifest else None
    size = manifest.stat().st_size if manifest else 0
    tell(OFFER, asdict(Offer(str(path), dump.name, dump.size, str(manifest) if manifest else None, size)))
    digest = read_afresh(job, path, "read")
    if dump.manifest and digest != dump.manifest.get("sha256"):
        raise JobError(
            Exit.DATA,
            f"The dump {dump.name} is not what its manifest says: its sha256 differs.",
            "It was changed or damaged: use another dump, and check the volume and its file server.",
        )
    tell(DIGEST, {"sha256": digest})
    begun, reading = time.time(), Path(os.environ.get("TMPDIR", "/tmp")) / READING
    while time.time() - max(begun, touched(reading)) < PATIENCE:
        time.sleep(1)
    return Outcome(Exit.DONE, "offered", f"Nobody reads {dump.name} any more.")


def touched(path: Path) -> float:
    found = status(path)
    return found.st_mtime if found else 0.0


def tell(word: str, members: dict[str, object]) -> None:
    os.write(1, f"{word}\t{json.dumps(members)}\n".encode())
