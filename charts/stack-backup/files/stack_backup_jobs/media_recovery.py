"""The recovery of the media: what the replica holds, copied to the stack's own volume. It overwrites what
differs, and deletes what the replica lacks only when told.

Exit codes: docs/jobs/media-recovery.md
"""

from __future__ import annotations

import functools
import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path

from stack_backup_jobs import media, media_offsite
from stack_backup_jobs.copier import Odd, times_held_in
from stack_backup_jobs.errors import JobError, is_folder, status
from stack_backup_jobs.formats import ADDED, MIB, OWN, TRASH, Exit, MediaState
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.settings import check_confirmed, load, one_of, optional
from stack_backup_jobs.store import OFFSITE
from stack_backup_jobs.trees import RUN, SHOWN, Listing, Tree, differences, entry_of, listings

EXPORT = "Check the export (value volumes.mediaReplica)"


@dataclass(frozen=True)
class Origin:
    source: str = one_of("replica", OFFSITE, default="replica")


@dataclass(frozen=True)
class Settings(Origin, media.Common):
    delete: bool = one_of("true", "false")
    confirm: str = optional()
    unfinished: str = one_of("refuse", "last-complete", "as-it-is", default="refuse")


def program(job: Job) -> Outcome:
    os.umask(0o022)
    job.leaves("No file of the stack was touched.")
    if load(Origin).source == OFFSITE:
        return media_offsite.program(job)
    settings = load(Settings)
    check_confirmed(settings.confirm, settings.namespace, "the media")
    recovery = Recovery(job, settings)
    with media.on_target():
        media.check_target(settings.media_volume, job)
        return recovery.run()


class Recovery:
    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self.replica, self.target = settings.media_replica_volume, settings.media_volume
        self.odd = Odd()
        self.state = self._check_replica()
        self.whole = True
        """Is what is recovered what the last complete mirror left?"""
        self._held = times_held_in(os.fsencode(self.target))
        self._roots = [self.replica]

    @property
    def as_of(self) -> str:
        last = self.state.status != "complete" and self.settings.unfinished == "last-complete"
        return self.state.completed if last else self.state.since

    def run(self) -> Outcome:
        source, there = self._list()
        plan = self._survey(source, there)
        self.job.leaves(
            "Some files of the stack may be recovered already, each of them whole; the next run goes on "
            "from here."
        )
        self.job.say(
            f"Recovering {source.files} files, {source.bytes // MIB} MiB, as of {self.as_of}: "
            f"{plan.to_copy} to copy."
        )
        removed, copied = plan.lost if self.settings.delete else 0, 0
        if not plan.empty:
            apply = media.Apply(self.job, self.settings, self.target, None, self.odd)
            roots = [os.fsencode(root) for root in self._roots]
            found = functools.partial(differences, source, there, self._held)
            apply.run(found, plan, lambda entry: roots[entry.root], self.settings.delete)
            copied = apply.copier.copied
        self.job.figure(copied=copied, removed=removed)
        self._verify(source, changed=not plan.empty)
        if self.odd.why:
            self.job.figure(exceptions=len(self.odd))
            raise self.odd.failure(
                f"{len(self.odd)} files of the replica could not be copied as they are, and all others were"
            )
        if not self.whole:
            raise JobError(
                Exit.DATA,
                f"All {source.files} files of the replica were copied, but its last mirror left "
                f"{self.state.files}.",
                "Find out what the replica lost; run media-replicator again.",
            )
        return Outcome(
            Exit.DONE,
            "copied",
            f"All {source.files} files of the replica as of {self.as_of} are in the stack's media: {copied} "
            "copied, "
            f"{removed} deleted.",
        )

    # ---- before anything is touched ----

    def _check_replica(self) -> MediaState:
        """Is there a whole mirror?"""
        state = media.read_state(self.replica)
        if state is None:
            raise JobError(
                Exit.SOURCE,
                "The replica holds no mirror, or one that media-replicator did not make.",
                f"{EXPORT} and that media-replicator has run.",
            )
        if state.status == "complete":
            return state
        what = (
            f"The replica is being written since {state.since} and mixes two days; the last complete mirror "
            "ended at "
            f"{state.completed or 'no time'}."
        )
        told = self.settings.unfinished
        if told == "refuse":
            raise JobError(
                Exit.TRANSIENT,
                what,
                "Wait for the end of media-replicator; if it failed, let it run again. If it never will, "
                "start this job "
                "with UNFINISHED=last-complete (value mediaRecovery.unfinished): it recovers what the last "
                "complete "
                "mirror was; with as-it-is, what lies there.",
            )
        if told == "last-complete" and not (
            state.completed and status(self.replica / OWN / ADDED / state.since)
        ):
            raise JobError(
                Exit.TRANSIENT,
                f"{what} What it was cannot be told from tree and trash.",
                "Start the job with UNFINISHED=as-it-is (value mediaRecovery.unfinished) for what lies "
                "there.",
            )
        if told == "as-it-is" and self.settings.delete:
            raise JobError(
                Exit.DATA, what, "Nothing is deleted by such a replica: recover with DELETE=false."
            )
        return state

    def _list(self) -> tuple[Listing, Listing]:
        settings = self.settings
        source, there = listings(
            settings.scratch,
            settings.checkers,
            self.state.exclude,
            Tree(self.replica, "The replica"),
            Tree(self.target, "The stack's media", source=False),
        )
        if self.state.status != "complete" and settings.unfinished == "last-complete":
            source = self._last_complete(source)
        return source, there

    def _again(self) -> Listing:
        tree = Tree(self.target, "The stack's media", source=False)
        [there] = listings(self.settings.scratch, self.settings.checkers, self.state.exclude, tree)
        return there

    def _last_complete(self, tree: Listing) -> Listing:
        """What the tree was before the runs that did not come to their end: of the first of them that added,
        replaced or removed a path, it is what that run found there.
        """
        streams: list[Iterator[tuple[bytes, int, bytes]]] = []
        for run in sorted((self.replica / OWN / ADDED).iterdir()):
            trash = self.replica / OWN / TRASH / run.name
            if is_folder(trash):
                [removed] = listings(
                    self.settings.scratch,
                    self.settings.checkers,
                    self.state.exclude,
                    Tree(trash, "The trash"),
                )
                self._roots.append(trash)
                streams.append(_tagged(removed, len(streams), len(self._roots) - 1))
            streams.append(_added(run, len(streams)))
        streams.append(_tagged(tree, len(streams), 0))
        found = Listing(self.settings.scratch)
        firsts = (next(some) for _, some in groupby(heapq.merge(*streams), lambda event: event[0]))
        entries = (entry_of(record) for _, _, record in firsts if record)
        while some := list(islice(entries, RUN)):
            found.add(some)
        tree.close()
        return found

    def _survey(self, source: Listing, there: Listing) -> media.Plan:
        """What is to be done, and may it be?"""
        state, delete = self.state, self.settings.delete
        self.job.figure(mirrored=self.as_of, files=source.files, bytes=source.bytes)
        if not source.files:
            raise JobError(Exit.SOURCE, "The replica holds no file at all.", f"{EXPORT} and its server.")
        as_it_is = state.status != "complete" and self.settings.unfinished == "as-it-is"
        if (source.files, source.bytes) != (state.files, state.bytes) and not as_it_is:
            self.whole = False
            self.job.say(
                f"The replica holds {source.files} files and {source.bytes} bytes; the last mirror left "
                f"{state.files} and "
                f"{state.bytes}."
            )
            if delete:
                raise JobError(
                    Exit.DATA,
                    f"The replica is not what its last mirror left: {source.files} files instead of "
                    f"{state.files}, or "
                    "other sizes.",
                    "Nothing is deleted by such a replica: run media-replicator again, or recover with "
                    "DELETE=false.",
                )
        plan = media.plan_of(
            differences(source, there, self._held),
            lambda target: media.named(self.job, target.path, "Of another kind in the replica"),
        )
        if plan.conflicts and not delete:
            raise JobError(
                Exit.DATA,
                f"{plan.conflicts} names of the stack are a file on one side and a folder or a link on the "
                "other.",
                "Move what the lines above name away, or recover with DELETE=true.",
            )
        media.require_room(
            self.target, plan.need_bytes, "The stack's media volume", "Make the volume larger."
        )
        return plan

    # ---- afterwards ----

    def _verify(self, source: Listing, changed: bool) -> None:
        """Is every file of the replica in the stack's media, with its size and time?"""
        if media.read_state(self.replica) != self.state:
            raise JobError(
                Exit.TRANSIENT,
                "A mirror began meanwhile: what was copied may mix two days.",
                "Run again after its end.",
            )
        if not changed:
            return
        different = 0
        for found in differences(source, self._again(), self._held):
            if found.source and found.path not in self.odd.why:
                different += 1
                if different <= SHOWN:
                    media.named(self.job, found.path, "Not as in the replica")
        if different:
            raise JobError(
                Exit.TRANSIENT,
                f"{different} files are not as in the replica.",
                "The stack wrote to them meanwhile: stop what writes there, and run again.",
            )


def _tagged(listing: Listing, rank: int, root: int) -> Iterator[tuple[bytes, int, bytes]]:
    for record in listing:
        path = record.partition(b"\0")[0]
        yield path, rank, entry_of(record)._replace(root=root).record if root else record


def _added(journal: Path, rank: int) -> Iterator[tuple[bytes, int, bytes]]:
    with journal.open("rb") as lines:
        for line in lines:
            yield line.rstrip(b"\n"), rank, b""
