"""A dump brought here from its volume, or from off-site, over the API server.

Only a pod sees the volume, or has the keys of the store: a Job is made that mounts one of them, read-only,
chooses and reads the dump (`stack_backup_jobs.offering`), and is deleted. The bytes come by exec, in pieces:
such a stream may end early without a word, so each piece goes on where the last byte came, and the whole has
to have the sha256 that the manifest and the pod say.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stack_backup import CliError, Exit
from stack_backup.follow import Run, exit_code, message
from stack_backup.points import reaches_store, reading_job, source_of_dumps
from stack_backup.release import Release
from stack_backup.runs import finished, variables
from stack_backup.waiting import Blocker
from stack_backup_jobs.formats import MANIFESTS, MIB, TEMPORARY, Manifest, manifest_name
from stack_backup_jobs.listing import DUMP
from stack_backup_jobs.offering import DIGEST, OFFER, Offer

DEADLINE = 6 * 3600
PIECE = 64 * MIB
"""Bytes of one request: a stream that nobody cuts is not held for hours, and what is cut costs a moment."""
PATIENCE = 60.0
"""Seconds for which not a byte may come."""
PAUSE = 1.0
AWAY = "The off-site store may have it: add --offsite."
Shown = Callable[[int, int], None]


@dataclass(frozen=True)
class Fetched:
    """What has come, and from which claim or remote. `verified`: by its manifest; where there is none, only
    the pod has said what it is. `cuts` are connections that ended early, `resumed` the bytes that were here
    from an earlier try.
    """

    dump: str
    source: str
    path: str
    manifest: str | None
    bytes: int
    sha256: str
    verified: bool
    resumed: int
    cuts: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class _Told(Exception):
    """What was waited for in the log."""

    def __init__(self, members: dict[str, Any]) -> None:
        self.members = members


def fetch(
    release: Release,
    dump: str,
    folder: Path,
    off_site: bool,
    shown: Shown,
    state: Callable[[str], None],
    blocked: Callable[[Blocker], None],
) -> Fetched:
    """Bring a dump (`latest`, or a stamp) into a folder, whole or under a temporary name. Raises CliError."""
    begun = time.monotonic()
    what, cronjob, volume, source = source_of_dumps(release, off_site=off_site)
    asked = {"DUMP": dump, "WHAT": what}
    # The rule of the stack, whichever of its jobs lends the pod.
    if recovery := release.cronjobs().get("database-recovery"):
        rules = variables(recovery["spec"]["jobTemplate"]["spec"])
        asked["SANITISED_ONLY"] = rules.get("SANITISED_ONLY", "")
    body = reading_job(cronjob, volume, "fetch", asked, DEADLINE)
    run = Run(release, "fetch", body["metadata"]["name"])
    release.create(body)
    try:
        try:
            offer = Offer(**_told(run, OFFER, state, blocked))
        except CliError as problem:
            if problem.code == Exit.NO_RELEASE and what == DUMP and reaches_store(release):
                raise CliError(problem.code, f"{problem} {AWAY}") from problem
            raise
        coming = Coming(release, run, offer, folder)
        try:
            coming.bring(shown)
            state("comparing")
            said = str(_told(run, DIGEST, state, blocked)["sha256"])
        except CliError as problem:
            if problem.code == Exit.DATA:  # the dump itself is damaged
                coming.discard()
            raise
        return coming.finish(said, source, time.monotonic() - begun)
    finally:
        release.delete("Job", run.name)


def _told(
    run: Run, word: str | None, state: Callable[[str], None], blocked: Callable[[Blocker], None]
) -> dict[str, Any]:
    """What the pod says of itself (None: only its end is wanted). Raises CliError where it ends instead."""
    before: list[str] = []

    def line(text: str) -> None:
        first, _, members = text.partition("\t")
        if first == word:
            raise _Told(json.loads(members))
        before.append(text)

    try:
        end = run.follow(line, state, blocked)
    except _Told as told:
        return told.members
    said = message(end, run.pods, run.blockers)
    raise CliError(exit_code(end) or Exit.RED, f"{said} No dump was put here.")


class Coming:
    """One dump on its way into a folder."""

    def __init__(self, release: Release, run: Run, offer: Offer, folder: Path) -> None:
        self._release, self._offer, self._folder = release, offer, folder
        self._run = run
        pod = run.pods[-1]
        self._pod = str(pod["metadata"]["name"])
        self._container = str(pod["spec"]["containers"][0]["name"])
        self.path = folder / offer.name
        self._part = folder / f"{TEMPORARY}{offer.name}"
        self._digest = hashlib.sha256()
        self._have = self._resumed = self._cuts = 0

    def bring(self, shown: Shown) -> None:
        """Raises CliError."""
        self._prepare()
        descriptor = os.open(self._part, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "ab") as file:

            def take(chunk: bytes) -> None:
                file.write(chunk)
                self._digest.update(chunk)
                self._have += len(chunk)
                shown(self._have, self._offer.bytes)

            shown(self._have, self._offer.bytes)
            self._pieces(self._offer.dump, self._have, self._offer.bytes, take)
            file.flush()
            os.fsync(file.fileno())

    def _prepare(self) -> None:
        """Room, no other file of that name, and what is here from an earlier try."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if self.path.exists():
                raise CliError(Exit.USAGE, f"{self.path} is there already, and was left as it is.")
            if self._part.exists():
                with self._part.open("rb") as file:
                    while chunk := file.read(MIB):
                        self._digest.update(chunk)
                        self._have += len(chunk)
            if self._have > self._offer.bytes:
                self._part.unlink()
                self._digest, self._have = hashlib.sha256(), 0
            self._resumed = self._have
            free, need = shutil.disk_usage(self._folder).free, self._offer.bytes - self._have
        except OSError as error:
            raise CliError(Exit.USAGE, f"{self._folder} cannot be written: {error.strerror}.") from error
        if free < need:
            raise CliError(
                Exit.NO_ROOM,
                f"{self._folder} has {free // MIB} MiB free, and {need // MIB} MiB are to come. "
                "Nothing was fetched.",
            )

    def _pieces(self, words: list[str], start: int, end: int, take: Callable[[bytes], None]) -> None:
        """The bytes that a command of the pod prints, each once. Raises CliError when none comes any more."""
        last, cut = time.monotonic(), ""
        while start < end:
            want = min(PIECE, end - start)
            got = 0
            try:
                for chunk in self._ask(words, start, want):
                    take(chunk[: want - got])
                    got = min(want, got + len(chunk))
            except CliError as problem:
                self._check_pod()
                if problem.code != Exit.UNREACHABLE:
                    raise CliError(problem.code, f"{problem}{self._kept}") from problem
                cut = str(problem)
            except OSError as error:
                raise CliError(
                    Exit.NO_ROOM, f"{self._part} cannot be written: {error.strerror}.{self._kept}"
                ) from error
            start += got
            if got:
                last = time.monotonic()
            if got < want:
                self._check_pod()
                self._cuts += 1
                if time.monotonic() - last > PATIENCE:
                    raise CliError(
                        Exit.UNREACHABLE,
                        f"Not a byte has come for {PATIENCE:.0f} s. {cut or 'The stream ends at once.'}"
                        f"{self._kept}",
                    )
                time.sleep(PAUSE)

    def _check_pod(self) -> None:
        """Raises CliError, with its own sentence, where it has ended: it may have read all, and found it
        damaged, before all has come.
        """
        try:
            job = self._release.get("Job", self._run.name)
        except CliError:  # a cluster that does not answer tells nothing of it
            return
        if job is None or finished(job):
            _told(self._run, None, lambda _: None, lambda _: None)

    def _ask(self, words: list[str], start: int, count: int) -> Any:
        return self._release.execute(self._pod, self._container, [*words, str(start), str(count)])

    def discard(self) -> None:
        self._part.unlink(missing_ok=True)

    @property
    def _kept(self) -> str:
        return f" What has come is kept as {self._part}; the same command goes on from there."

    def finish(self, said: str, source: str, seconds: float) -> Fetched:
        """The final name, if the digest is what the pod and the manifest say. Raises CliError."""
        digest, manifest = self._digest.hexdigest(), b""
        if digest == said and self._offer.manifest:
            chunks: list[bytes] = []
            self._pieces(self._offer.manifest, 0, self._offer.manifest_bytes, chunks.append)
            manifest = b"".join(chunks)
            said = Manifest.parse(manifest.decode("utf-8", "surrogateescape")).get("sha256")
        if digest != said:
            self.discard()
            raise CliError(
                Exit.DATA,
                f"What has come of {self._offer.name} is not what lies there: its sha256 is {digest}, and "
                f"there it is {said}. It was thrown away: run the command again.",
            )
        kept = self._folder / MANIFESTS / manifest_name(self._offer.name)
        if manifest:
            kept.parent.mkdir(exist_ok=True)
            kept.write_bytes(manifest)
        self._part.rename(self.path)
        return Fetched(
            dump=self._offer.name,
            source=source,
            path=str(self.path),
            manifest=str(kept) if manifest else None,
            bytes=self._offer.bytes,
            sha256=digest,
            verified=bool(manifest),
            resumed=self._resumed,
            cuts=self._cuts,
            seconds=round(seconds, 1),
        )
