"""The off-site copy: verified dumps, and the media where they are mounted, to a remote of the user's own
configuration of rclone.

REMOTE/FOLDER/backup-…-dumpall.sql.gz      as on the backup volume
REMOTE/FOLDER/.manifest/NAME.tsv           its manifest, there before the dump is
REMOTE/FOLDER/.manifest/NAME.stored        what the store said of the dump when it was read back and right
REMOTE/media, REMOTE/media.state           the media, and what the last complete copy of them held
REMOTE/trash/media/TIME                    media files that were deleted or replaced

Exit codes: docs/jobs/offsite.md
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from stack_backup_jobs import immutable
from stack_backup_jobs.choice import folders_in
from stack_backup_jobs.errors import JobError, of_volume, user
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.formats import (
    AHEAD,
    MANIFESTS,
    MIB,
    NAME,
    Dump,
    Exit,
    Manifest,
    manifest_name,
    newest,
    seconds_of,
    stamp,
    time_of,
)
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.measure import Measure, measure, unreadable
from stack_backup_jobs.rclone import LEAST_ROOM, Changes, Rclone, changed, complained, excluded
from stack_backup_jobs.settings import load, number, optional, rate
from stack_backup_jobs.store import MARKERS, STATE, OfStore, configured, media_state

TRASH = re.compile(r"(\d{4}-\d\d-\d\dT\d\d)(\d\d)(\d\dZ)/", re.ASCII)
"""The time in a folder's name, which has no colons."""
OWN_PLACE = "Give every stack a place of its own (value offsite.remote)."


@dataclass(frozen=True)
class Settings(OfStore):
    namespace: str
    backup_volume: Path
    folders: list[str]
    keep: int = number(1)
    trash_days: int = number(1)
    transfers: int = number(1)
    minimum_share: int = number(0)
    """Percent of the files and bytes off-site that the media volume must hold, so that it is copied."""
    bandwidth_limit: float = rate()
    media_volume: str = optional()
    """Nothing where the media are not copied."""
    immutable: bool = optional("false")
    """Whether the store keeps what it has, whatever these keys try; then nothing is removed there."""
    exclude: str = optional()
    """Patterns of names that are no part of the media; blanks are between them."""


def program(job: Job) -> Outcome:
    job.leaves("Nothing was removed off-site.")
    settings = load(Settings)
    rclone = configured(
        job, settings, transfers=settings.transfers, bandwidth=settings.bandwidth_limit, writes=True
    )
    folders = {one.path.name: one for one in folders_in(job, settings.backup_volume, settings.folders)}
    if newest(dump for folder in folders.values() for dump in folder.dumps()) is None:
        raise JobError(
            Exit.SOURCE,
            f"There is no verified dump in {settings.backup_volume} ({' '.join(settings.folders)}).",
            "Find out why the hourly backup and its tiers publish none.",
        )
    rclone.deletes = not settings.immutable
    return Run(job, settings, rclone, folders).all()


@dataclass(frozen=True)
class Copy:
    """A verified dump off-site."""

    manifest: str
    """The sha256 of its manifest."""
    suspicious: bool


@dataclass
class Survey:
    """What a folder holds off-site."""

    there: list[str] = field(default_factory=list)
    good: dict[str, Copy] = field(default_factory=dict)
    altered: list[str] = field(default_factory=list)
    """Dumps that once were verified."""
    records: list[str] = field(default_factory=list)
    """What lies beside the manifests, and they."""

    def wanted(self, verified: dict[str, Dump], keep: int) -> tuple[list[str], str]:
        """The verified dumps, here or there, from the newest to the `keep`-th that is not suspicious, and
        that one; nothing, where there are fewer.
        """
        found, good = [], 0
        for name in sorted({*verified, *self.good}, reverse=True):
            found.append(name)
            good += verified[name].good if name in verified else not self.good[name].suspicious
            if good == keep:
                return found, name
        return found, ""


class Run:
    def __init__(self, job: Job, settings: Settings, rclone: Rclone, folders: dict[str, Folder]) -> None:
        self._job, self._settings, self._rclone, self._folders = job, settings, rclone, folders
        self._at = rclone.at
        self._md5 = False
        """Does the store know the MD5 of what it holds?"""
        self._counts = dict.fromkeys(("sent", "sent_bytes", "repaired", "kept", "removed"), 0)
        self._problem: JobError | None = None

    def all(self) -> Outcome:
        rclone, job, media = self._rclone, self._job, self._settings.media_volume
        rclone.reach()
        self._md5 = "md5" in json.loads(rclone.answer("backend", "features", rclone.remote)).get("Hashes", [])
        if self._settings.immutable:
            self._prove()
        elif media and self._state() is not None:
            self._empty_trash()
        for name in self._settings.folders:
            self._folder(name)
        job.figure(**self._counts)
        well = "The dumps are off-site, verified."
        job.leaves("What else there is of verified dumps is off-site." if self._problem else well)
        media_changed = self._media(Path(media)) if media else 0
        if self._problem is not None:
            raise self._problem
        both = f"{self._counts['kept']} dumps{' and the media' if media else ''} are off-site"
        if self._counts["sent"] + media_changed == 0:
            return Outcome(Exit.DONE, "present", f"All {both} already.")
        return Outcome(Exit.DONE, "published", f"{both}, verified.")

    def _prove(self) -> None:
        """Red when the keys can destroy what is there, and all is sent all the same."""
        try:
            how = immutable.prove(self._job, self._rclone)
        except JobError as error:
            self._note(Exit(error.code), error.what, error.advice)
            return
        self._job.say(f"These keys cannot destroy what is off-site: {how}.")
        self._job.figure(immutable=how)

    def _note(self, code: Exit, what: str, advice: str) -> None:
        """Ends the job red, but only when all else is done. The first one is told in the verdict."""
        self._job.say(what)
        self._problem = self._problem or JobError(code, what, advice)

    # ---- dumps ----

    def _folder(self, name: str) -> None:
        """Sends every verified dump of the newest `keep`, then keeps the retention."""
        folder, found = self._folders.get(name), self._survey(name)
        verified = {
            dump.name: dump for dump in (folder.dumps() if folder else ()) if dump.manifest is not None
        }
        if folder is None or not verified:
            if found.good:
                self._note(
                    Exit.SOURCE,
                    f"There is no verified dump in {name} any more, while off-site there are "
                    f"{len(found.good)}; they are kept.",
                    "Find out why that tier publishes none, or take it out of the value offsite.folders.",
                )
            self._counts["kept"] += len(found.good)
            return
        sent = []
        for wanted in found.wanted(verified, self._settings.keep)[0]:
            dump = verified.get(wanted)
            if dump and not self._is_there(folder, dump, found) and self._send(folder, dump):
                sent.append(dump)
        self._counts["sent"] += len(sent)
        self._counts["sent_bytes"] += sum(dump.size for dump in sent)
        self._counts["repaired"] += sum(dump.name in found.altered for dump in sent)
        if sent:
            found = self._survey(name)
        for altered in found.altered:
            what = f"{name}/{altered} was changed off-site, and is not there to be sent again."
            self._note(Exit.DATA, what, "Find out who did it; move the object away.")
        if not self._settings.immutable:
            self._remove_old(name, verified, found)
        oldest = found.wanted(verified, self._settings.keep)[1]
        self._counts["kept"] += sum(good >= oldest for good in found.good)

    def _is_there(self, folder: Folder, dump: Dump, found: Survey) -> bool:
        """The dump, with the manifest that it has here?"""
        copy, manifest = found.good.get(dump.name), folder.manifest_file(dump.name)
        return copy is not None and copy.manifest == hashlib.sha256(manifest.read_bytes()).hexdigest()

    def _survey(self, name: str) -> Survey:
        place, found = self._at(name), Survey()
        found.records = self._rclone.answer(
            *("lsf", "--files-only", "--include=/backup-*", f"{place}/{MANIFESTS}"),
            what=f"{name}/{MANIFESTS} cannot be listed",
            absent=True,
        ).split("\n")[:-1]
        stored = self._stored(f"{place}/{MANIFESTS}") if found.records else {}
        form = f"--format=pst{'h' * self._md5}"
        listing = self._rclone.answer(
            *("lsf", "--files-only", "--include=/backup-*-dumpall.sql.{gz,zst}", form, "--hash=MD5"),
            *("--separator=|", place),
            what=f"{name} cannot be listed",
            absent=True,
        )
        for line in listing.split("\n")[:-1]:
            dump, _, now = line.partition("|")
            if not is_dump(dump):
                continue
            found.there.append(dump)
            if dump not in stored or manifest_name(dump) not in found.records:
                continue
            text = self._rclone.answer("cat", f"{place}/{MANIFESTS}/{manifest_name(dump)}", absent=True)
            if not text:
                continue
            manifest = Manifest.parse(text)
            self._own_place(manifest.get("namespace"), f"{place} holds the dumps of another stack")
            if stored[dump] == now and manifest.agrees(dump, int(now.partition("|")[0])):
                digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
                found.good[dump] = Copy(digest, manifest.suspicious)
            else:
                found.altered.append(dump)
                self._job.say(f"{name}/{dump} is not what was stored: {now} instead of {stored[dump]}.")
        return found

    def _stored(self, place: str) -> dict[str, str]:
        """What the store said of each dump when it was found right."""
        target = self._job.work / "stored"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        self._rclone.answer("copy", "--include=/backup-*.stored", place, target, absent=True)
        return {path.stem: path.read_text(errors="replace").rstrip("\n") for path in target.iterdir()}

    def _own_place(self, namespace: str, what: str) -> None:
        if namespace != self._settings.namespace:
            raise JobError(Exit.PERMISSION, f"{what} ({namespace}).", OWN_PLACE)

    def _send(self, folder: Folder, dump: Dump) -> bool:
        """A dump and its manifest, read back; only then it counts as being there."""
        assert dump.manifest is not None
        name, path, there = dump.name, folder.file(dump.name), self._at(folder.path.name)
        self._job.say(f"Sending {folder.path.name}/{name}, {dump.size // MIB} MiB.")
        sha256, md5 = self._hashes(path)
        if sha256 != dump.manifest.get("sha256"):
            self._note(
                Exit.DATA,
                f"{folder.path.name}/{name} on the backup volume is not what its manifest says: its sha256 "
                "differs; it was not sent.",
                "It was changed or damaged: check the volume and its file server, and move it away.",
            )
            return False
        put = ("copyto", "--ignore-times")
        self._rclone.must(*put, folder.manifest_file(name), f"{there}/{MANIFESTS}/{manifest_name(name)}")
        self._rclone.must(*put, path, f"{there}/{name}", need=dump.size)
        said = self._rclone.answer(
            *("lsf", f"--format=st{'h' * self._md5}", "--hash=MD5", "--separator=|", f"{there}/{name}")
        ).strip()
        same = said.rpartition("|")[2] == md5 if self._md5 else self._given_back(f"{there}/{name}") == sha256
        if said.partition("|")[0] != dump.manifest.get("bytes") or not same:
            raise JobError(
                Exit.VOLUME,
                f"{folder.path.name}/{name} reads back differently from the store ({said}).",
                "Check the store: it does not keep what it is given. The next run sends it again.",
            )
        stored = self._job.work / "sent"
        stored.write_text(f"{said}\n")
        self._rclone.must(*put, stored, f"{there}/{MANIFESTS}/{name}.stored")
        return True

    def _hashes(self, path: Path) -> tuple[str, str]:
        """The sha256 and the MD5 of a file, read once."""
        sha256, md5, total, buffer = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0, bytearray(MIB)
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                sha256.update(memoryview(buffer)[:count])
                md5.update(memoryview(buffer)[:count])
                total += count
                self._job.progress(f"{total // MIB} MiB read")
        return sha256.hexdigest(), md5.hexdigest()

    def _given_back(self, place: str) -> str:
        """The sha256 of what a store gives back that knows no hash."""
        digest = hashlib.sha256()
        self._rclone.must("cat", place, take=digest.update, what=f"{place} cannot be read back")
        return digest.hexdigest()

    def _remove_old(self, name: str, verified: dict[str, Dump], found: Survey) -> None:
        """Dumps older than the `keep`-th newest good one, and what is left of the manifests of such."""
        wanted, oldest = found.wanted(verified, self._settings.keep)
        if not oldest or any(dump not in found.good for dump in wanted):
            return  # one that should be there is not: nothing goes
        old = [dump for dump in found.there if dump < oldest]
        records = [
            record for record in found.records if is_dump(dump := record.rpartition(".")[0]) and dump < oldest
        ]
        if old:
            self._job.leaves("Off-site only dumps were removed of which enough newer ones are verified.")
        for dump in old:
            self._job.say(f"Removing {name}/{dump} off-site: {self._settings.keep} newer dumps are verified.")
        # The dumps first: a manifest alone is nothing to a reader.
        self._delete(old, self._at(name))
        self._counts["removed"] += len(old)
        self._delete(records, self._at(name, MANIFESTS))

    def _delete(self, names: list[str], place: str) -> None:
        if names:
            file = self._job.work / "old"
            file.write_text("".join(f"{name}\n" for name in names))
            self._rclone.must("delete", f"--files-from-raw={file}", place)

    # ---- media ----

    @property
    def _filters(self) -> list[str]:
        return excluded(self._settings.exclude.split())

    def _media(self, volume: Path) -> int:
        """How many files off-site have changed."""
        self._rclone.environment |= MARKERS
        begun = stamp()
        before = measure(volume, self._settings.exclude.split())
        if count(before) == 0:
            raise JobError(
                Exit.SOURCE,
                "The media volume holds no file; the media off-site are as they were.",
                "Check that the claim is the right one and is mounted.",
            )
        self._check_share(before)
        self._job.say(f"Copying the media: {count(before)} files, {size(before) // MIB} MiB.")
        changes = self._sync(volume)
        added, replaced, deleted = (changes.kinds[sign] for sign in (b"+", b"*", b"-"))
        if self._settings.immutable:
            deleted = 0  # these are names that the volume does not have any more, and the store keeps
        self._job.figure(media_added=added, media_replaced=replaced, media_deleted=deleted)
        after = measure(volume, self._settings.exclude.split())
        self._record(begun, before, after)
        if after.kinds["s"]:
            self._note(
                Exit.DATA,
                f"The media volume holds {after.kinds['s']} pipes, sockets or devices, which no store can "
                "hold; all else is off-site.",
                "Remove them from the volume.",
            )
        return added + replaced + deleted

    def _sync(self, volume: Path) -> Changes:
        changes = Changes()
        trash = f"--backup-dir={self._at('trash/media', stamp().replace(':', ''))}"
        how = ("copy",) if self._settings.immutable else ("sync", trash)
        command = (*how, "--links", "--create-empty-src-dirs", "--combined=-", *self._filters)
        command = (*command, str(volume), self._at("media"))
        ran = self._rclone.run(*command, take=changes.take)
        if ran.code and (odd := changed(volume, ran)):
            self._job.say("These files change while they are copied, and are taken as they begin.")
            self._job.figure(media_exceptions=len(odd))
            ran = self._rclone.run(*command, take=changes.take, RCLONE_LOCAL_NO_CHECK_UPDATED="true")
        if not ran.code:
            return changes
        unclear = ran.told() in (None, Exit.UNAVAILABLE)
        error = unreadable(volume, self._settings.exclude.split()) if unclear else None
        if error is None:
            largest = max((status.st_size for status in complained(volume, ran).values()), default=0)
            raise self._rclone.refused("rclone sync failed", ran, max(largest, LEAST_ROOM))
        failure = of_volume(error)
        advice = f"The pod's user {user()} must be able to read every file that is copied."
        raise JobError(
            failure.code,
            f"rclone sync failed: {ran.reason}.",
            advice if failure.code == Exit.PERMISSION else failure.advice,
        )

    def _record(self, begun: str, before: Measure, after: Measure) -> None:
        """A name that was left out would be missed here; what came and went meanwhile is no error."""
        files, held = self._counted()
        self._job.figure(media_files=files, media_bytes=held)
        least, most = sorted((count(before), count(after)))
        if files < least or (files > most and not self._settings.immutable):
            raise JobError(
                Exit.DATA,
                f"Off-site there are {files} media files, and the volume holds {count(after)}.",
                "Read the lines above for names that the store cannot hold.",
            )
        state = self._job.work / STATE
        records = (
            *(("format", "1"), ("namespace", self._settings.namespace)),
            *(("started", begun), ("finished", stamp())),
            *(("files", str(files)), ("bytes", str(held))),
        )
        state.write_text(Manifest(records).format())
        self._rclone.must("copyto", "--ignore-times", state, self._at(STATE))

    def _counted(self) -> tuple[int, int]:
        """Media files off-site and their bytes."""
        what = "The media off-site cannot be counted"
        answer = json.loads(
            self._rclone.answer(
                *("size", "--json", *self._filters, self._at("media")), what=what, absent=True
            )
            or "{}"
        )
        return int(answer.get("count", 0)), int(answer.get("bytes", 0))

    def _state(self) -> Manifest | None:
        """What the last complete copy held. Raises JobError where it was another stack's."""
        if (state := media_state(self._rclone)) is not None:
            self._own_place(state.get("namespace"), f"{self._rclone.remote} holds the media of another stack")
        return state

    def _check_share(self, here: Measure) -> None:
        """A source that shrank would sweep the copy into the trash, and from there out of the world."""
        state, share = self._state(), self._settings.minimum_share
        files, held = (state.number("files"), state.number("bytes")) if state is not None else self._counted()
        if count(here) * 100 < files * share or size(here) * 100 < held * share:
            raise JobError(
                Exit.DATA,
                f"The media volume holds {count(here)} files of {size(here) // MIB} MiB, less than {share} % "
                f"of the {files} files of {held // MIB} MiB off-site; the media off-site are as they were.",
                "Check the volume. If that many files were meant to go, run the job once by hand with "
                "MINIMUM_SHARE=0.",
            )

    def _empty_trash(self) -> None:
        """By the time in a folder's name, and before anything needs its room."""
        purged, place = 0, self._at("trash/media")
        limit, what = time.time() - self._settings.trash_days * 86400, "The trash cannot be listed"
        self._rclone.environment |= MARKERS
        for name in self._rclone.answer("lsf", "--dirs-only", place, what=what, absent=True).split("\n"):
            found = TRASH.fullmatch(name)
            if found is not None and seconds_of(":".join(found.groups())) < limit:
                self._job.say(f"Emptying trash/media/{name}: older than {self._settings.trash_days} days.")
                self._job.leaves("Nothing but old trash was removed off-site.")
                self._rclone.must("purge", f"{place}/{name.rstrip('/')}")
                purged += 1
        self._rclone.environment.pop(*MARKERS)
        self._job.figure(trash_emptied=purged)


HELD = "flp"
"""Kinds of entries that are held off-site: files, links, and unfinished files of a recovery of the media."""


def is_dump(name: str) -> bool:
    """Of a time that the jobs believe."""
    try:
        return NAME.fullmatch(name) is not None and seconds_of(time_of(name)) <= time.time() + AHEAD
    except ValueError:
        return False


def count(found: Measure) -> int:
    """Links are kept off-site as files."""
    return sum(found.kinds[kind] for kind in HELD)


def size(found: Measure) -> int:
    return sum(found.sizes[kind] for kind in HELD)
