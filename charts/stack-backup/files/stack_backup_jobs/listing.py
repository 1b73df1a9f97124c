"""What lies on a volume, for the command line: a line for each dump, one of the state of a media replica, or
the history of the runs, many records to a line.

A line is a word, a tab and JSON. Nothing is written, and no dump is read.
"""

from __future__ import annotations

import base64
import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from stack_backup_jobs import store
from stack_backup_jobs.errors import JobError, is_folder
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.formats import AHEAD, OWN, STATE, Dump, Exit, Manifest, MediaState, Record, stamp
from stack_backup_jobs.history import jobs, read
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.settings import load, one_of
from stack_backup_jobs.store import OfStore, configured, media_state

DUMP, MEDIA, HISTORY, STORE = "dump", "media", "history", "store"
"""The words with which the lines begin; also what can be asked for. `store`: dumps and media off-site."""
PACK = 50
"""Records to a line of the history."""


@dataclass(frozen=True)
class Settings:
    place: Path
    """Where the volume is mounted."""
    what: str = one_of(DUMP, MEDIA, HISTORY, STORE)


@dataclass(frozen=True)
class Point:
    """One dump. `state` is `verified` (its manifest agrees with it), `suspicious` (that, but it shrank),
    `unverified` (no manifest agrees: recovered only when named) or `future` (the jobs ignore it).
    """

    time: str
    folder: str
    dump: str
    bytes: int
    state: str
    rows: int | None
    tables: int | None
    server_version: str | None
    namespace: str | None
    sanitised: bool = False


def program(job: Job) -> Outcome:
    settings = load(Settings)
    found: Iterator[Point | MediaState | str]
    if settings.what == DUMP:
        found = points(job, settings.place)
    elif settings.what == MEDIA:
        found = media(settings.place)
    elif settings.what == STORE:
        found = off_site(job)
    else:
        found = packed(chain.from_iterable(read(settings.place / name) for name in jobs(settings.place)))
    count = 0
    for one in found:
        word = HISTORY if isinstance(one, str) else DUMP if isinstance(one, Point) else MEDIA
        line = json.dumps(one if isinstance(one, str) else asdict(one))
        os.write(1, f"{word}\t{line}\n".encode())
        count += 1
    return Outcome(Exit.DONE, "listed", f"{count} found.")


def points(job: Job, volume: Path) -> Iterator[Point]:
    """Of every folder at the root of the volume."""
    for path in sorted(volume.iterdir()):
        if path.name != "lost+found" and is_folder(path, follow=False):
            for dump in Folder(job, path).dumps(ahead=math.inf):
                yield point(path.name, dump)


def off_site(job: Job) -> Iterator[Point | MediaState]:
    """What the store holds, of this release or of older tools, and the last complete copy of the media."""
    rclone = configured(job, load(OfStore))
    for folder in store.folders(job, rclone):
        for dump in folder.dumps(ahead=math.inf):
            yield point(str(folder.path), dump)
    if (state := media_state(rclone)) is not None:
        at = state.get("finished")
        files, held, namespace = state.number("files"), state.number("bytes"), state.get("namespace")
        # A copy of an earlier release does not say when it began.
        yield MediaState("complete", state.get("started") or at, at, files, held, namespace)


def point(folder: str, dump: Dump) -> Point:
    state = "verified" if dump.good else "suspicious" if dump.manifest else "unverified"
    held = dump.manifest or Manifest(())
    return Point(
        time=dump.time,
        folder=folder,
        dump=dump.name,
        bytes=dump.size,
        state="future" if dump.time >= stamp(time.time() + AHEAD) else state,
        rows=held.rows() if dump.manifest else None,
        tables=len(held.all("table")) if dump.manifest else None,
        server_version=held.get("server_version") or None,
        namespace=held.get("namespace") or None,
        sanitised=held.sanitised,
    )


def media(volume: Path) -> Iterator[MediaState]:
    """The state that the mirror keeps; nothing where none ever began. Raises JobError."""
    path = volume / OWN / STATE
    try:
        text = path.read_text("utf-8", errors="surrogateescape")
    except FileNotFoundError:
        return
    try:
        yield MediaState.parse(text)
    except ValueError as error:
        raise JobError(
            Exit.DATA,
            f"The state of the replica of the media is damaged, or of another version: {error}.",
            "Bring the releases of both stacks to the same version; else run media-replicator.",
        ) from error


def packed(records: Iterable[Record]) -> Iterator[str]:
    """Records, PACK at a time, deflated: a node keeps 10 MiB of a log, which 6000 long verdicts are more than
    (16 MB; packed 6.5).
    """
    left = (record.text() for record in records)
    while pack := list(islice(left, PACK)):
        yield base64.b64encode(zlib.compress(json.dumps(pack).encode())).decode()


def unpacked(packs: Iterable[str]) -> Iterator[Record]:
    for pack in packs:
        for text in json.loads(zlib.decompress(base64.b64decode(pack))):
            yield Record.parse(text)
