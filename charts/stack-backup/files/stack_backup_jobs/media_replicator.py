"""The replica of the media: the stack's files, mirrored to a volume that another cluster reads.

Exit codes: docs/jobs/media-replicator.md
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import random
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from stack_backup_jobs import media
from stack_backup_jobs.copier import Crew, Odd, out_of_range, times_held_in
from stack_backup_jobs.errors import JobError, is_folder, of_volume, status
from stack_backup_jobs.folder import deadline_of_the_job
from stack_backup_jobs.formats import (
    ADDED,
    LOCK,
    MIB,
    OWN,
    SAMPLE,
    STAMP,
    STATE,
    TEMPORARY,
    TRASH,
    Exit,
    MediaState,
    escaped,
    seconds_of,
    stamp,
)
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.settings import load, number, optional
from stack_backup_jobs.space import capacity
from stack_backup_jobs.trees import (
    SHOWN,
    Entry,
    Listing,
    Tree,
    differences,
    entry_of,
    listings,
    of_source,
    unexplained,
)
from stack_backup_jobs.trees import escaped as escaped_path

SAMPLE_BYTES = 1 << 30
"""Read once more every night, and never more than that."""
ODD_SHARE = 100
"""More than one file in so many, and more than ten, are not odd ones any more."""
CLAIM = "Check the claim of the media (value volumes.media.existingClaim)."


@dataclass(frozen=True)
class Settings(media.Common):
    minimum_share: int = number()
    trash_days: int = number()
    sample_files: int = number()
    sentinel: str = optional()
    exclude: str = optional()
    """Patterns of names, at any depth, in words."""
    lock_patience: int = number(1, 90)
    """Seconds for which the lock of a run that is alive may stand still."""


def program(job: Job) -> Outcome:
    os.umask(0o022)  # whoever serves the files may be another user than the one who copies them
    job.leaves("Nothing was deleted from the replica, nor changed in it.")
    mirror = Mirror(job, load(Settings))
    mirror.check_source()
    with media.on_target():
        mirror.open_replica()
        mirror.lock()
        with deadline_of_the_job(job, mirror.own):
            return mirror.run()


class Mirror:
    def __init__(self, job: Job, settings: Settings) -> None:
        self.job, self.settings = job, settings
        self.since = stamp()
        self.source, self.replica = settings.media_volume, settings.media_replica_volume
        self.own = self.replica / OWN
        self.trash, self.added = self.own / TRASH / self.since, self.own / ADDED / self.since
        self.odd = Odd()
        self.state: MediaState | None = None
        self._held = times_held_in(os.fsencode(self.own))

    def run(self) -> Outcome:
        before, there = self._list()
        self.job.figure(files=before.files, bytes=before.bytes)
        self._check_share(before.files, before.bytes, there)
        plan = media.plan_of(differences(before, there, self._held), lambda _: None)
        self._check_lost(plan, there)
        self._empty_trash()
        media.require_room(
            self.replica,
            plan.need_bytes,
            "The replica",
            "Make room on the export, or let the trash be emptied earlier (value mediaReplicator.trashDays).",
        )
        if not plan.empty:
            self._begin(before, there)
            self._apply(before, there, plan)
            there.close()
            now, there = self._list(again=True)
            self._check_share(now.files, there.bytes, None)
            self._verify(before, there)
        self._name_times(before)
        self._take_sample(before)
        self._complete(there)
        self._judge(before)
        copied = self._copied if not plan.empty else 0
        room = capacity(self.replica, lambda free: before.bytes + free)
        self.job.figure(copied=copied, removed=plan.lost, **room)
        return Outcome(
            Exit.DONE,
            "copied",
            f"The replica holds all {there.files} files of the media: {copied} copied, {plan.lost} moved to "
            "its trash."
            + (f" {len(self.odd)} files were skipped: {self.odd.sentence}." if self.odd.why else ""),
        )

    # ---- before anything is touched ----

    def check_source(self) -> None:
        """The right volume?"""
        source = self.source
        if not (is_folder(source) and os.access(source, os.X_OK)):
            raise JobError(Exit.SOURCE, f"The source {source} is not there.", CLAIM)
        sentinel = self.settings.sentinel
        if sentinel and not status(source / sentinel, follow=False):
            raise JobError(
                Exit.SOURCE,
                f"The source has no {sentinel}, which proves that it is the right volume.",
                "Check what is mounted there (value volumes.media.existingClaim); if it is right, make that "
                "file.",
            )
        if status(source / OWN, follow=False):
            raise JobError(
                Exit.DATA,
                f"The source itself holds a folder {OWN}: it is a replica, or a copy of one.",
                "Check what is mounted there (value volumes.media.existingClaim); if it is right, move that "
                "folder "
                "away.",
            )

    def open_replica(self) -> None:
        """May we write there, and is it ours?"""
        self.state = media.read_state(self.replica)
        owner = self.state.namespace if self.state else ""
        if owner not in ("", self.settings.namespace):
            raise JobError(
                Exit.PERMISSION,
                f"The replica belongs to {owner}, and this is {self.settings.namespace}.",
                "Check the export (value volumes.mediaReplica): each stack needs one of its own.",
            )
        for folder in (TRASH, ADDED):
            (self.own / folder).mkdir(parents=True, exist_ok=True)
        media.probe(self.own, self.job)

    def lock(self) -> None:
        """Two mirrors at once would undo each other's work. The one at work touches its lock again and again;
        a lock that stands still is one of a run that was killed. No clocks are compared: the file server may
        have another time.
        """
        lock, first, waited = self.own / LOCK, None, 0
        while True:
            try:
                lock.mkdir()
                break
            except FileExistsError:
                pass
            owner, now = _seen(lock)
            first = first or now
            if now != first:
                raise JobError(Exit.TRANSIENT, f"Another run is at work: {owner}.", "Wait for its end.")
            if waited >= self.settings.lock_patience:
                self.job.say(f"Taking over from a run that was killed: {owner}.")
                shutil.rmtree(lock, ignore_errors=True)
            else:
                waited += 1
                time.sleep(1)
        self.job.ends.callback(shutil.rmtree, lock, ignore_errors=True)
        (lock / "owner").write_text(f"{self.settings.pod_name} since {self.since}\n")
        threading.Thread(target=self._beat, args=(lock / "owner",), daemon=True).start()
        ours = f"{TEMPORARY}run.{os.environ.get('JOB_NAME', '')[:63]}"
        for path in self.own.glob(f"{TEMPORARY}*"):
            if path.name != ours:
                path.unlink(missing_ok=True)  # of a run that was killed

    def _beat(self, owner: Path) -> None:
        with contextlib.suppress(OSError):
            while True:
                time.sleep((self.settings.lock_patience + 3) // 4)
                os.utime(owner)

    def _list(self, again: bool = False) -> list[Listing]:
        """Of a source that has been listed only the files are counted again."""
        source = Tree(self.source, "The source", names=again)
        replica = Tree(self.replica, "The replica", source=False)
        settings = self.settings
        return listings(settings.scratch, settings.checkers, settings.exclude.split(), source, replica)

    def _check_share(self, files: int, size: int, there: Listing | None) -> None:
        """May the source be taken for the truth? A replica made by another tool has no state: what lies in it
        is the measure. When the run ends, `size` is what the replica has of it.
        """
        if not files:
            raise JobError(
                Exit.SOURCE,
                "The source holds no file at all.",
                "Check what is mounted there (value volumes.media.existingClaim).",
            )
        state, share = self.state, self.settings.minimum_share
        had, had_bytes = (there.files, there.bytes) if there else (0, 0)
        if state and state.completed:
            had, had_bytes = state.files, state.bytes
        if files * 100 < had * share or size * 100 < had_bytes * share:
            raise JobError(
                Exit.DATA,
                f"The source shrank: {files} files and {size // MIB} MiB, after {had} and "
                f"{had_bytes // MIB} in the last good mirror.",
                "Find out what became of the files. If it is right, run once with "
                "mediaReplicator.minimumShare 0: that mirror is the new measure.",
            )

    def _check_lost(self, plan: media.Plan, there: Listing) -> None:
        share = self.settings.minimum_share
        paths = there.files + there.links
        allowed = paths * (100 - share) // 100
        if share > 0 and plan.lost > allowed:
            raise JobError(
                Exit.DATA,
                f"{plan.lost} of the replica's {paths} files are no longer in the source "
                f"(maximum in one run: {allowed}).",
                "Find out whether they were deleted or renamed on purpose. If it is right, run once with "
                "mediaReplicator.minimumShare 0.",
            )

    # ---- the mirror ----

    def _begin(self, source: Listing, there: Listing) -> None:
        """Marks the replica. What is to be added is written down first: tree, trash and that tell what the
        last complete mirror was.
        """
        temporary = self.own / f"{TEMPORARY}added.{self.job.pod}.{os.getpid()}"
        self.job.ends.callback(temporary.unlink, missing_ok=True)
        with temporary.open("wb") as file:
            for found in differences(source, there, self._held):
                if found.source and (found.target is None or found.target.kind == "p"):
                    file.write(escaped_path(found.path) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.added)
        media.sync_folder(self.added.parent)
        self.job.leaves(
            f"The replica is marked as in progress; what it lost is in its trash {self.since}, and the next "
            "run goes on "
            "from here."
        )
        state = self.state or MediaState("", "")
        self._write(replace(state, status="in-progress", since=self.since))

    def _write(self, state: MediaState) -> None:
        settings = self.settings
        state = replace(state, namespace=settings.namespace, exclude=tuple(settings.exclude.split()))
        media.replace(self.own / STATE, state.text().encode(errors="surrogateescape"), self.job)

    def _apply(self, source: Listing, there: Listing, plan: media.Plan) -> None:
        self.job.say(
            f"Mirroring {source.files} files, {source.bytes // MIB} MiB: {plan.to_copy} to copy, "
            f"{plan.lost} to move to "
            "the trash."
        )
        apply = media.Apply(self.job, self.settings, self.replica, self.trash, self.odd)
        root = os.fsencode(self.source)
        found = functools.partial(differences, source, there, self._held)
        apply.run(found, plan, lambda _: root, delete=True)
        self._copied = apply.copier.copied
        percent = 100 * self._copied // max(1, plan.to_copy)
        self.job.say(f"{self._copied} of {plan.to_copy} copied, {apply.copier.bytes // MIB} MiB, {percent}%")

    def _verify(self, source: Listing, there: Listing) -> None:
        """Is all that stood still in the source in the replica, and nothing else?"""
        missing = extra = 0
        now = functools.partial(of_source, os.fsencode(self.source))
        for found in unexplained(differences(source, there, self._held), now):
            if found.path in self.odd.why:
                continue
            missing, extra = missing + (found.source is not None), extra + (found.source is None)
            if missing + extra <= SHOWN:
                media.named(
                    self.job, found.path, "Not as in the source" if found.source else "Only in the copy"
                )
        if missing + extra:
            raise JobError(
                Exit.DATA,
                f"The replica is not what the source is: {missing} files are missing or differ, {extra} are "
                "only there.",
                "The lines above name some. If the next run finds the same, check both volumes and their "
                "file servers.",
            )

    def _name_times(self, source: Listing) -> None:
        """What the replica has with another time than the source, for it cannot hold that one."""
        for entry in source.dated:
            if (held := self._held(entry.seconds)) != entry.seconds:
                self.odd.add(entry.path, out_of_range(entry.seconds, held))

    def _complete(self, there: Listing) -> None:
        done = self.job.processes.run(["sync", "-f", str(self.own)])
        if done.code:
            what = f"The replica's volume refused to keep what was written: {done.err.strip()}"
            raise JobError(Exit.VOLUME, what, "Check the volume and its file server.")
        completed, odd = stamp(), len(self.odd)
        self._write(MediaState("complete", self.since, completed, there.files, there.bytes, exceptions=odd))
        self.job.figure(completed=completed, **({"exceptions": odd} if odd else {}))
        self.job.leaves("The mirror itself is complete.")
        for path in (self.own / ADDED).iterdir():
            path.unlink()
        for failure in self._empty_trash():
            raise failure

    def _judge(self, source: Listing) -> None:
        if len(self.odd) > max(10, source.files // ODD_SHARE):
            raise self.odd.failure(f"{len(self.odd)} of {source.files} files of the source were skipped")

    def _empty_trash(self) -> list[JobError]:
        """By the time in a folder's name. What runs that did not come to their end have moved there is of
        the last complete mirror, and stays until there is a new one. Gives what could not be emptied.
        """
        failed, days = [], self.settings.trash_days
        needed = {path.name for path in (self.own / ADDED).iterdir()}
        for path in sorted((self.own / TRASH).iterdir()):
            if not STAMP.fullmatch(path.name) or path.name in needed:
                continue
            with contextlib.suppress(ValueError):
                if time.time() - seconds_of(path.name) > days * 86400 or not days:
                    self.job.say(f"Emptying the trash of {path.name}.")
                    try:
                        shutil.rmtree(path)
                    except OSError as error:
                        failed.append(of_volume(error, f"The trash {path.name} could not be emptied"))
        return failed

    # ---- the sample ----

    def _take_sample(self, source: Listing) -> None:
        """The sha256 of some files, of the source, so that the other cluster can tell whether it reads the
        same.
        """
        lines: list[bytes] = []

        def work(entry: Entry) -> None:
            if (digest := self._digest(entry)) is not None:
                path = escaped(os.fsdecode(entry.path))
                lines.append(os.fsencode(f"{digest}\t{entry.size}\t{path}\n"))

        with Crew(self.settings.checkers, work) as crew:
            for entry in _chosen(source, self.settings.sample_files):
                crew.give(entry)
        self.job.figure(sample=len(lines))
        media.replace(self.own / SAMPLE, b"".join(lines), self.job)

    def _digest(self, entry: Entry) -> str | None:
        """Only of what stands still, and what the replica has as it is now; a file may go while it is "
        "read."""
        path = os.fsdecode(entry.path)
        try:
            with (self.source / path).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                now = os.fstat(file.fileno())
            copy = (self.replica / path).lstat()
        except OSError:
            return None  # it has no place in the sample; whether it may be so, the comparison has told
        seconds = now.st_mtime_ns // 1_000_000_000
        same = (
            stat.S_ISREG(copy.st_mode)
            and now.st_size == copy.st_size == entry.size
            and seconds == entry.seconds
        )
        return digest if same and abs(copy.st_mtime - seconds) <= 2 else None


def _chosen(source: Listing, number: int) -> Iterator[Entry]:
    """Some files, in any order, of at most SAMPLE_BYTES together."""
    places = iter(sorted(random.sample(range(source.files), min(number, source.files))))
    wanted, place, chosen = next(places, None), 0, []
    for record in source:
        if wanted is None:
            break
        if b"\0f" in record:
            if place == wanted:
                chosen.append(entry_of(record))
                wanted = next(places, None)
            place += 1
    random.shuffle(chosen)
    left = SAMPLE_BYTES
    for entry in chosen:
        if entry.size <= left:
            left -= entry.size
            yield entry


def _seen(lock: Path) -> tuple[str, list[int]]:
    """Who holds a lock, and what changes while that one is at work."""
    owner, seen = "somebody", []
    with contextlib.suppress(FileNotFoundError):
        seen += [lock.stat().st_ino, lock.stat().st_mtime_ns]
        seen.append((lock / "owner").stat().st_mtime_ns)
        owner = (lock / "owner").read_text(errors="replace").strip() or owner
    return owner, seen
