"""What lies off-site, for whoever only reads there: dumps as restore points, of `offsite` or of other tools.

REMOTE/FOLDER/backup-…-dumpall.sql.gz   a dump; verified where FOLDER/.manifest has its manifest
REMOTE/WEEKDAY/FOLDER/backup-…          tools that copy a whole volume of dumps have a folder a weekday
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stack_backup_jobs.choice import Source, folders_in
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import no_time, read_afresh
from stack_backup_jobs.formats import AHEAD, MANIFESTS, NAME, Dump, Exit, Manifest, manifest_name
from stack_backup_jobs.job import Job
from stack_backup_jobs.rclone import ADVICE, Rclone
from stack_backup_jobs.settings import load

REMOTE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*:[^:]*")
OFFSITE = "offsite"
"""The word for the store, where a recovery names its source."""
MEDIA, TRASH, STATE = "media", "trash", "media.state"
"""The folders of the media, which have too many names to be looked through for dumps, and what the last
complete copy of them held.
"""
PLACES = ("/", "/*/", "/*/{hourly,daily,weekly,monthly}/")
"""Where dumps are looked for."""
COPIED = "manifests"
"""The folder of a run's own that the manifests are copied to."""
MARKERS = {"RCLONE_S3_DIRECTORY_MARKERS": "true"}
"""Keeps an empty folder as an object whose name ends in a slash."""


@dataclass(frozen=True)
class OfStore:
    """How the store is reached."""

    remote: str
    configuration_file: Path


def configured(
    job: Job, settings: OfStore, *, transfers: int = 4, bandwidth: float = 0, writes: bool = False
) -> Rclone:
    """rclone with the configuration of the Secret; `bandwidth` in bytes a second, 0 for any. Raises JobError
    where that has no such remote.
    """
    try:
        configuration = settings.configuration_file.read_bytes()
    except FileNotFoundError:
        configuration = b""
    if not configuration:
        raise JobError(
            Exit.SETUP,
            f"There is no configuration of rclone in {settings.configuration_file} (the Secret or its key is "
            "missing or empty).",
            "Create the Secret with the key that the values name (offsite.secret).",
        )
    # A remote that is written out in the values would bring its credentials into values and logs.
    if REMOTE.fullmatch(settings.remote) is None:
        raise JobError(
            Exit.SETUP,
            "The value offsite.remote is not the name of a remote with a path, such as "
            "s3:backups/production.",
            "Put the remote and its credentials into the configuration of the Secret; name it in the value.",
        )
    limits = {"RCLONE_TRANSFERS": str(transfers), "RCLONE_CHECKERS": "16"}
    # With a unit: a number alone would be KiB to rclone.
    limits |= {"RCLONE_BWLIMIT": f"{bandwidth:.0f}B" if bandwidth else "off"}
    rclone = Rclone(job, settings.remote.rstrip("/"), configuration, writes=writes, **limits)
    output = bytearray()
    if (ran := rclone.run("listremotes", take=output.extend)).code:
        what = f"The configuration of rclone cannot be read: {ran.reason}."
        raise JobError(Exit.SETUP, what, ADVICE[Exit.SETUP])
    name = settings.remote.partition(":")[0]
    if f"{name}:" not in output.decode(errors="replace").split("\n"):
        raise JobError(
            Exit.SETUP,
            f"The configuration of rclone has no remote named {name}.",
            "Correct the Secret, or the value offsite.remote.",
        )
    return rclone


class StoreFolder:
    """A folder of dumps off-site, only read: what `choose` and a recovery ask of a `Source`."""

    def __init__(self, job: Job, rclone: Rclone, path: PurePosixPath, found: Sequence[Dump]) -> None:
        self.path = path
        self._job, self._rclone, self._found = job, rclone, found

    def dumps(self, ahead: float = AHEAD) -> list[Dump]:
        """Oldest first, without those whose time is more than `ahead` seconds in the future."""
        return [dump for dump in self._found if not no_time(dump.name, ahead)]

    def bring(self, dump: Dump, target: Path) -> str:
        place = self._rclone.at(str(self.path / dump.name))
        self._job.say(f"Fetching {place}.")
        # In place: a copy under another name would be left where the pod is killed and its scratch is kept.
        self._rclone.must("copyto", "--inplace", place, target, what=f"{place} cannot be fetched")
        return read_afresh(self._job, target, "what was fetched")

    def manifest_file(self, name: str) -> Path:
        """Of this machine: what was read of the manifest as the folder was listed."""
        return _manifest(self._job, self.path / name)

    def digest(self, dump: Dump) -> str:
        """The sha256 of what the store gives back."""
        digest, place = hashlib.sha256(), self._rclone.at(str(self.path / dump.name))
        self._rclone.must("cat", place, take=digest.update, what=f"{place} cannot be read")
        return digest.hexdigest()

    def printed(self, dump: Dump) -> str:
        """The command of a shell beside this run that prints $2 bytes of a dump after the first $1."""
        cat = self._rclone.command("cat", self._rclone.at(str(self.path / dump.name)))
        return f'{shlex.join(cat)} --offset "$1" --count "$2"'


def sources(job: Job, source: str, volume: str, names: str) -> Sequence[Source]:
    """The folders of dumps that a recovery chooses from: of a volume, or off-site."""
    return off_site(job) if source == OFFSITE else folders_in(job, Path(volume), names.split())


def off_site(job: Job) -> list[StoreFolder]:
    """Raises JobError where there is no dump, too."""
    rclone = configured(job, load(OfStore))
    if not (found := folders(job, rclone)):
        raise JobError(
            Exit.SOURCE,
            f"There is no dump in {rclone.remote}.",
            "Check the value offsite.remote: dumps are looked for in its folders, such as daily.",
        )
    return found


def folders(job: Job, rclone: Rclone) -> list[StoreFolder]:
    """Every folder off-site that holds dumps. Raises JobError where the store cannot be listed."""
    rclone.reach()
    what = f"{rclone.remote} cannot be listed"
    listing = rclone.answer(
        *("lsf", "--recursive", "--files-only", "--format=sp", "--separator=|"),
        *filters("backup-*-dumpall.sql.{gz,zst}"),
        rclone.remote,
        what=what,
    )
    # In memory, as all of `work`; a manifest has a line for each table.
    rclone.must(
        *("copy", *filters(f"{MANIFESTS}/backup-*.tsv"), rclone.remote),
        job.work / COPIED,
        what=f"The manifests in {rclone.remote} cannot be read",
    )
    found: dict[PurePosixPath, list[Dump]] = defaultdict(list)
    for line in listing.split("\n")[:-1]:
        size, _, name = line.partition("|")
        path = PurePosixPath(name)
        if NAME.fullmatch(path.name):
            found[path.parent].append(_dump(path.name, int(size), _manifest(job, path)))
    return [
        StoreFolder(job, rclone, path, sorted(dumps, key=lambda dump: dump.name))
        for path, dumps in sorted(found.items())
    ]


def media_state(rclone: Rclone) -> Manifest | None:
    """What the last complete copy of the media held; None where there was none."""
    text = rclone.answer("cat", rclone.at(STATE), absent=True)
    return Manifest.parse(text) if text else None


def filters(names: str) -> list[str]:
    """Of what is off-site, only these names, and only where dumps may lie."""
    return [
        *(f"--filter=- /{folder}/**" for folder in (MEDIA, TRASH)),
        *(f"--filter=+ {place}{names}" for place in PLACES),
        "--filter=- *",
    ]


def _manifest(job: Job, dump: PurePosixPath) -> Path:
    return job.work / COPIED / dump.parent / MANIFESTS / manifest_name(dump.name)


def _dump(name: str, size: int, path: Path) -> Dump:
    try:
        manifest = Manifest.parse(path.read_text("utf-8", errors="surrogateescape"))
    except FileNotFoundError:
        return Dump(name, size, None)
    return Dump(name, size, manifest if manifest.agrees(name, size) else None, listed=True)
