"""The recovery of the media from off-site: rclone copies what the store holds to the stack's own volume. The
rules are those of the recovery from a replica: what differs is overwritten, and what the store lacks is
deleted only when told.

Exit codes: docs/jobs/media-recovery.md
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs import media
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import MIB, OWN, Exit, Manifest
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.measure import measure
from stack_backup_jobs.rclone import Changes, Ran, Rclone, excluded
from stack_backup_jobs.settings import check_confirmed, load, number, one_of, optional, rate
from stack_backup_jobs.store import MARKERS, MEDIA, OfStore, configured, media_state

PARTIAL = OWN
"""How the name of an unfinished file of ours ends."""
UNFINISHED = f"*.????????{PARTIAL}"
CLEANING = 2.0
"""Seconds to take away unfinished files in: a pod that is told to stop has few."""
SHOWN = 100
PLACE = "Check the values offsite.remote and mediaRecovery.folder."


@dataclass(frozen=True)
class Settings(OfStore):
    namespace: str
    media_volume: Path
    delete: bool = one_of("true", "false")
    transfers: int = number(1)
    bandwidth_limit: float = rate()
    confirm: str = optional()
    folder: str = optional(MEDIA)
    exclude: str = optional()


def program(job: Job) -> Outcome:
    settings = load(Settings)
    check_confirmed(settings.confirm, settings.namespace, "the media")
    rclone = configured(job, settings, transfers=settings.transfers, bandwidth=settings.bandwidth_limit)
    rclone.environment |= {**MARKERS, "RCLONE_PARTIAL_SUFFIX": PARTIAL}
    with media.on_target():
        media.check_target(settings.media_volume, job)
        return Recovery(job, settings, rclone).run()


class Recovery:
    def __init__(self, job: Job, settings: Settings, rclone: Rclone) -> None:
        self._job, self._settings, self._rclone = job, settings, rclone
        self._place, self._target = rclone.at(settings.folder), settings.media_volume
        self._filters = excluded(settings.exclude.split())
        self._copying = False

    def run(self) -> Outcome:
        job, settings = self._job, self._settings
        self._rclone.reach()
        files, held = self._counted()
        state = media_state(self._rclone) if settings.folder == MEDIA else None
        as_of = state.get("finished") if state else ""
        job.figure(mirrored=as_of, files=files, bytes=held)
        whole = state is not None and (files, held) == (state.number("files"), state.number("bytes"))
        self._check(files, held, state, whole)
        job.leaves(
            "Some files of the stack may be recovered already, each of them whole; the next run goes on "
            "from here."
        )
        job.say(f"Recovering {files} files, {held // MIB} MiB, from {self._place}.")
        changes, ran = self._copy()
        copied = changes.kinds[b"+"] + changes.kinds[b"*"]
        # rclone reports what only the volume has, deleted or not.
        removed = changes.kinds[b"-"] if settings.delete else 0
        job.figure(copied=copied, removed=removed)
        if different := self._different():
            job.figure(exceptions=different)
            raise self._incomplete(different, files, ran)
        if ran.code:
            raise self._rclone.refused("rclone failed", ran)
        if state is not None and not whole:
            raise JobError(
                Exit.DATA,
                f"All {files} files off-site were copied, but the last complete copy left "
                f"{state.number('files')} there.",
                "Find out what the store lost, or whether a run of the offsite job was at work.",
            )
        since = f" as of {as_of}" if as_of else ""
        return Outcome(
            Exit.DONE,
            "copied",
            f"All {files} files of {self._place}{since} are in the stack's media: {copied} copied, "
            f"{removed} deleted.",
        )

    # ---- before anything is touched ----

    def _counted(self) -> tuple[int, int]:
        """Files off-site and their bytes."""
        what = f"{self._place} cannot be listed"
        answer = json.loads(self._rclone.answer("size", "--json", *self._filters, self._place, what=what))
        return int(answer["count"]), int(answer["bytes"])

    def _check(self, files: int, held: int, state: Manifest | None, whole: bool) -> None:
        if not files:
            raise JobError(Exit.SOURCE, f"{self._place} holds no file.", PLACE)
        if self._settings.delete and not whole:
            what = "No complete copy of the media is recorded off-site"
            if state is not None:
                what = (
                    f"Off-site there are {files} files, and the last complete copy left "
                    f"{state.number('files')}, or other sizes"
                )
            raise JobError(
                Exit.DATA, f"{what}.", "Nothing is deleted by such a copy: recover with DELETE=false."
            )
        # Left by a run that was killed, or had more of them than it could take away in time.
        self._rclone.must("delete", f"--include={UNFINISHED}", self._target)
        there = measure(self._target, self._settings.exclude.split())
        need = held - sum(there.sizes.values())
        media.require_room(self._target, need, "The stack's media volume", "Make the volume larger.")

    # ---- the copy ----

    def _copy(self) -> tuple[Changes, Ran]:
        changes = Changes()
        self._copying = True
        self._job.ends.callback(self._take_away)
        ran = self._rclone.run(
            *("sync" if self._settings.delete else "copy", "--links", "--create-empty-src-dirs"),
            *("--combined=-", *self._filters, self._place, str(self._target)),
            take=changes.take,
        )
        self._copying = bool(ran.code)
        if ran.code and ran.told() not in (None, Exit.UNAVAILABLE):
            raise self._rclone.refused("rclone failed", ran)
        if ran.code:
            self._check_room(ran)
        return changes, ran

    def _take_away(self) -> None:
        """The unfinished files, after a copy that did not end well. rclone removes them when it is told to
        stop, but its transfers go on meanwhile and make new ones.
        """
        end = time.monotonic() + CLEANING
        for folder, _, names in os.walk(self._target) if self._copying else ():
            for name in fnmatch.filter(names, UNFINISHED):
                with contextlib.suppress(FileNotFoundError):
                    Path(folder, name).unlink()
            if time.monotonic() > end:
                return

    def _check_room(self, ran: Ran) -> None:
        """Is one of the files that failed larger than what is left?"""
        for complaint in ran.complaints[:SHOWN]:
            if not complaint.object:
                continue
            said = self._rclone.answer(
                "lsf", "--format=s", f"{self._place}/{complaint.object}", absent=True
            ).strip()
            need = int(said) if said.isdigit() else 0
            media.require_room(self._target, need, "The stack's media volume", "Make the volume larger.")

    def _different(self) -> int:
        """Files off-site that the volume lacks, or has in another size; rclone has compared the content of
        each that it copied.
        """
        seen = Changes()
        self._rclone.run(
            *("check", "--one-way", "--size-only", "--links", "--combined=-"),
            *(*self._filters, self._place, str(self._target)),
            take=seen.take,
        )
        return sum(number for sign, number in seen.kinds.items() if sign and sign != b"=")

    def _incomplete(self, different: int, files: int, ran: Ran) -> JobError:
        if ran.code and (refusal := self._rclone.refused("rclone failed", ran)).code != Exit.TRANSIENT:
            return refusal
        why = f" ({ran.reason})" if ran.code else ""
        return JobError(
            Exit.TRANSIENT,
            f"{different} of {files} files are not as they are off-site{why}; all others are.",
            "The lines above name them. If the stack wrote to them meanwhile, stop what writes there, and "
            "run again.",
        )
