"""The check of the replicas, in the cluster that will need them: is the newest dump young and whole, and are
the media what the mirror recorded? Whatever is wrong with one, the other is looked at, too.

Exit codes: docs/jobs/replica-check.md
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.choice import doubt
from stack_backup_jobs.errors import VALUES, JobError, of_volume
from stack_backup_jobs.folder import Folder, read_afresh
from stack_backup_jobs.formats import (
    MIB,
    OWN,
    SAMPLE,
    STATE,
    Dump,
    Exit,
    Manifest,
    MediaState,
    OtherFormatError,
    newest,
    plain,
    seconds_of,
    stamp,
)
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.measure import measure
from stack_backup_jobs.pack import Unpacker, cores
from stack_backup_jobs.reader import Reader, read
from stack_backup_jobs.settings import load, number, optional

SAMPLE_FILES, SAMPLE_BYTES = 20, 256 * MIB
"""Of one run: in some days of hourly runs, all of the sample."""
LINE = re.compile(r"([0-9a-f]{64})\t(0|[1-9][0-9]{0,14})\t(.+)")
MIRROR = "Run media-replicator in the stack that is backed up, and check the export."
REPLICATOR = "Find out why postgres-replicator-backup of the stack that is backed up brings"


@dataclass(frozen=True)
class Settings:
    state_volume: Path
    maximum_age_seconds: int = number(1)
    media_maximum_age_seconds: int = number(1)
    reread_seconds: int = number(0)
    replica_volume: str = optional()
    """Both replicas are mounted read-only; an empty one is not checked."""
    replica_folder: str = optional()
    media_replica_volume: str = optional()


@dataclass(frozen=True)
class Finding:
    code: int
    what: str
    advice: str


def program(job: Job) -> Outcome:
    settings = load(Settings)
    if not settings.replica_volume + settings.media_replica_volume:
        raise JobError(Exit.USAGE, "Neither REPLICA_VOLUME nor MEDIA_REPLICA_VOLUME is set.", VALUES)
    if settings.replica_volume and not settings.replica_folder:
        raise JobError(Exit.USAGE, "The variable REPLICA_FOLDER is not set.", VALUES)
    check = Check(job, settings)
    if settings.replica_volume:
        check.dumps(Folder(job, Path(settings.replica_volume, settings.replica_folder)))
    if settings.media_replica_volume:
        check.media(Path(settings.media_replica_volume))
    if check.findings:
        text = " ".join(f"{finding.what} {finding.advice}" for finding in check.findings)
        raise JobError(check.findings[0].code, text)
    return Outcome(Exit.DONE, "sound", " ".join(check.sound))


class Check:
    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings
        self.findings: list[Finding] = []
        self.sound: list[str] = []

    def _find(self, code: int, what: str, advice: str) -> None:
        """What is wrong makes the job red, with the code of the first finding."""
        self._job.say(what)
        self.findings.append(Finding(code, what, advice))

    @contextlib.contextmanager
    def _looking(self, what: str) -> Iterator[None]:
        """What a file system says against it is a finding."""
        try:
            yield
        except OSError as error:
            failure = of_volume(error, what)
            self._find(failure.code, failure.what, failure.advice)

    # ---- the dumps ----

    def dumps(self, folder: Folder) -> None:
        with self._looking("The replica of the dumps cannot be read"):
            try:
                there = folder.dumps()
            except (FileNotFoundError, NotADirectoryError):
                self._find(
                    Exit.SOURCE,
                    f"The replica of the dumps has no folder {folder.path}.",
                    "Check whether postgres-replicator-backup runs in the stack that is backed up, and "
                    "whether this is its export.",
                )
                return
            self._listed(folder, there)

    def _listed(self, folder: Folder, there: list[Dump]) -> None:
        wrong = ", ".join(dump.name for dump in there if dump.listed and dump.manifest is None)
        if wrong:
            self._find(
                Exit.DATA,
                f"These dumps of the replica differ in name or size from what their manifests say: {wrong}.",
                "They were cut off or altered: move them away, and check the export.",
            )
        self._job.figure(verified=sum(dump.manifest is not None for dump in there))
        passed, latest = doubt(there), newest(there)
        if latest is None or latest.manifest is None:
            what = f"There is no verified dump in {folder.path}. {passed}".strip()
            self._find(Exit.SOURCE, what, f"{REPLICATOR} none.")
            return
        self._job.figure(dump=latest.name, bytes=latest.size, rows=latest.rows, age_seconds=latest.age)
        self._job.figure(stack=latest.manifest.get("namespace"))
        if latest.age > self._settings.maximum_age_seconds:
            self._find(
                Exit.DATA,
                f"The newest verified dump of the replica, {latest.name}, is {latest.age // 60} minutes old "
                f"(maximum: {self._settings.maximum_age_seconds // 60}). {passed}".strip(),
                f"{REPLICATOR} no newer one.",
            )
        with self._looking("The newest dump of the replica cannot be read"):
            self._newest(folder.file(latest.name), latest)
        self.sound.append(f"The dump {latest.name} is whole and {latest.age // 60} minutes old.")

    def _newest(self, path: Path, dump: Dump) -> None:
        """Reads it once, and again when the file is another one or `reread_seconds` have passed."""
        assert dump.manifest is not None
        there, sha256 = path.stat(), dump.manifest.get("sha256")
        times = " ".join(f"{ns // 10**9}.{ns % 10**9:09d}" for ns in (there.st_mtime_ns, there.st_ctime_ns))
        key = f"{path} {there.st_size} {times} {there.st_ino} {sha256}"
        now, when = int(time.time()), 0
        with self._looking("What was read before cannot be told"):
            when = self._remembered(key)
        if now - self._settings.reread_seconds < when <= now:
            self._job.figure(read_at=stamp(when))
            return
        self._job.say(f"Reading {dump.name}.")
        named = f"The newest dump of the replica, {dump.name},"
        if read_afresh(self._job, path, dump.name) != sha256:
            self._find(
                Exit.DATA,
                f"{named} was altered: its sha256 is not what its manifest says.",
                "Do not recover from it. Move it away, check the export, and run postgres-replicator-backup "
                "again.",
            )
        elif self._whole(path, dump, named):
            self._job.figure(read_at=stamp(now))
            with self._looking("What was read cannot be remembered"):
                self._remember(f"{now}\n{key}\n")

    def _whole(self, path: Path, dump: Dump, named: str) -> bool:
        """Reads it from its first to its last line."""
        assert dump.manifest is not None
        broke = f"{named} has the right sha256, but reading it broke off"
        try:
            reader = read(Unpacker(self._job, path).chunks(threads=cores()), self._job)
        except OSError as error:
            failure = of_volume(error, broke)
            self._find(failure.code, failure.what, failure.advice)
            return False
        except JobError as failure:
            if failure.code != Exit.DATA:
                self._find(failure.code, f"{broke}: {failure.what}", failure.advice)
                return False
            why = failure.what
        else:
            why = self._wrong(reader, dump.manifest)
        if why:
            self._find(
                Exit.DATA,
                f"{named} is as it was published, but it does not unpack to a whole dump: {why}",
                "Do not recover from it. Run postgres-backup-hourly and postgres-replicator-backup again.",
            )
        return not why

    def _wrong(self, reader: Reader, manifest: Manifest) -> str:
        """Why nobody could recover from it, or nothing."""
        if not reader.whole:
            return "its text ends before its last line."
        if reader.sql_bytes != manifest.number("sql_bytes"):
            return f"it holds {reader.sql_bytes} bytes of SQL, and {manifest.get('sql_bytes')} were counted."
        if reader.foreign:
            return f"it holds a command that no dump has, {reader.foreign[0].word}."
        return ""

    @property
    def _memory(self) -> Path:
        return self._settings.state_volume / "dump"

    def _remembered(self, key: str) -> int:
        """When that file was found whole, in seconds since the epoch; 0 for another or none."""
        try:
            when, what, *_ = self._memory.read_text(errors="replace").split("\n")
        except (FileNotFoundError, ValueError):
            return 0
        return int(when) if what == key and re.fullmatch("[1-9][0-9]{0,11}", when, re.ASCII) else 0

    def _remember(self, text: str) -> None:
        temporary = self._memory.with_name(f".tmp.dump.{self._job.pod}.{os.getpid()}")
        self._job.ends.callback(temporary.unlink, missing_ok=True)
        temporary.write_text(text)
        temporary.replace(self._memory)

    # ---- the media ----

    def media(self, volume: Path) -> None:
        own = volume / OWN
        with self._looking("The state of the media replica cannot be read"):
            try:
                # The mirror exchanges the file, so it is read at once.
                text = (own / STATE).read_bytes()
            except FileNotFoundError:
                self._find(
                    Exit.SOURCE,
                    "The replica of the media has no state: no mirror has ever begun there.",
                    "Check whether media-replicator runs in the stack that is backed up, and whether this "
                    "is its export.",
                )
                return
            try:
                state = MediaState.parse(text.decode(errors="replace"))
            except OtherFormatError as error:
                what = f'The state of the media replica has the format "{error}", which is not known here.'
                self._find(Exit.SETUP, what, "Bring the releases of both stacks to the same version.")
                return
            except ValueError:
                self._find(Exit.DATA, "The state of the media replica is damaged.", MIRROR)
                return
            if self._young(state):
                self._files(volume, state, text)

    def _young(self, state: MediaState) -> bool:
        """Is there a complete mirror that can be compared?"""
        if not state.completed:
            self._find(
                Exit.SOURCE,
                f"The mirror of the media has never been complete; one is in progress since {state.since}.",
                "Wait for its end; then look at media-replicator in the stack that is backed up.",
            )
            return False
        age, most = int(time.time() - seconds_of(state.completed)), self._settings.media_maximum_age_seconds
        self._job.figure(media_completed=state.completed, media_age_seconds=max(0, age))
        self._job.figure(media_stack=state.namespace)
        if state.exceptions:
            self._job.figure(media_exceptions=state.exceptions)
        if age > most:
            self._find(
                Exit.DATA,
                f"The last complete mirror of the media ended {age // 60} minutes ago, at {state.completed} "
                f"(maximum: {most // 60}).",
                "Find out why media-replicator of the stack that is backed up does not come to its end.",
            )
        if age < -600:
            what = f"The last complete mirror of the media ended in the future, at {state.completed}."
            self._find(Exit.DATA, what, "Check the clocks of both clusters.")
        if state.status == "complete":
            return True
        self._job.say(f"A mirror is in progress since {state.since}: the files are not compared.")
        self.sound.append(
            f"The media are being mirrored; the last complete mirror ended {age // 60} minutes ago."
        )
        return False

    def _files(self, volume: Path, state: MediaState, text: bytes) -> None:
        before = list(self.findings)
        self._tree(volume, state)
        with self._looking("The sample of the media cannot be read"):
            self._sample(volume)
        if (volume / OWN / STATE).read_bytes() != text:
            self._job.say("A mirror has begun meanwhile: what was seen of the files does not count.")
            self.findings = before
        age = int(time.time() - seconds_of(state.completed))
        sound = f"The media are what the mirror recorded {age // 60} minutes ago."
        if state.exceptions:
            sound += f" It skipped {state.exceptions} files of the source."
        self.sound.append(sound)

    def _tree(self, volume: Path, state: MediaState) -> None:
        """Are there as many files and bytes as the mirror counted?"""
        with self._looking("The replica of the media cannot be read as a whole"):
            found = measure(volume, state.exclude)
            files, size = found.kinds["f"], found.sizes["f"]
            self._job.figure(media_files=files, media_bytes=size)
            if (files, size) != (state.files, state.bytes):
                self._find(
                    Exit.DATA,
                    f"The replica of the media holds {files} files of {size} bytes, and the last "
                    f"complete mirror counted {state.files} of {state.bytes}.",
                    "Somebody else has written there, or files were lost: check the export, and run "
                    "media-replicator in the stack that is backed up.",
                )

    def _sample(self, volume: Path) -> None:
        """Are some files, other ones every time, what they were in the source?"""
        left, sampled, altered = SAMPLE_BYTES, 0, []
        try:
            chosen = some(volume / OWN / SAMPLE)
        except FileNotFoundError:
            what = "The replica of the media has no sample of its files."
            self._find(Exit.SOURCE, what, "Run media-replicator in the stack that is backed up.")
            return
        for line in chosen:
            if (found := LINE.fullmatch(line)) is None:
                self._find(Exit.DATA, "The sample that the mirror recorded is damaged.", MIRROR)
                return
            # One file at least, however large: else the largest would never be read.
            if sampled and int(found[2]) > left:
                continue
            left, sampled = left - int(found[2]), sampled + 1
            if not self._same(volume / plain(found[3]), int(found[2]), found[1]):
                altered.append(f'"{os.fsencode(found[3]).decode(errors="replace")}"')
        self._job.figure(media_sampled=sampled)
        if altered:
            self._find(
                Exit.DATA,
                f"These files of the media replica are missing or altered: {', '.join(altered)}.",
                "Do not recover from them: check the export, move them away, and run media-replicator in the "
                "stack that is backed up.",
            )

    def _same(self, path: Path, size: int, sha256: str) -> bool:
        """What cannot be read is a finding of its own."""
        with self._looking("A file of the media replica cannot be read"):
            try:
                there = path.lstat()
                if not stat.S_ISREG(there.st_mode) or there.st_size != size:
                    return False
                return read_afresh(self._job, path) == sha256
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True


def some(path: Path) -> list[str]:
    """A few lines of a file of any length, in any order."""
    chosen: list[bytes] = []
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if number < SAMPLE_FILES:
                chosen.append(line)
            elif (place := random.randrange(number + 1)) < SAMPLE_FILES:
                chosen[place] = line
    random.shuffle(chosen)
    return [os.fsdecode(line.rstrip(b"\n")) for line in chosen]
