"""The doctor: could the jobs of this release do their work here? Server, store and volumes are asked one by
one, as the jobs would use them. Nothing is changed, and nothing written but a file of its own.

Exit codes: docs/jobs/doctor.md
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from stack_backup_jobs.errors import VALUES, JobError, status
from stack_backup_jobs.examination import DoubtError, Examination, NotAskedError, Question
from stack_backup_jobs.formats import FAILED, OK, SKIPPED, WARNING, Exit, Finding
from stack_backup_jobs.job import Job, Outcome, write
from stack_backup_jobs.process import Forked
from stack_backup_jobs.rclone import Rclone
from stack_backup_jobs.server import OfServer, Server, check_client, client_version, password_in
from stack_backup_jobs.session import literal
from stack_backup_jobs.settings import load, number, optional
from stack_backup_jobs.store import OfStore, configured
from stack_backup_jobs.volume import Place, compared, examine

DATABASE, OFFSITE = "database", "offsite"
"""Subjects beside the volumes."""
PATIENCE = 30
"""Seconds in which every volume must have answered."""
CLEANING = 1.0
"""Seconds in which an examination that is given up must have taken its file away."""
CONNECTING = 10
"""Seconds for a connection to the database server."""
SHARED = ("/usr/share/postgresql/*", "/usr/local/share/postgresql", "/usr/share/postgresql*")
"""Where images without pg_config have the files of extensions."""


@dataclass(frozen=True, kw_only=True)
class Settings(OfServer):
    subjects: list[str]
    """What is examined: `database`, `offsite`, and names of volumes."""
    volumes: list[str]
    """`NAME:MODE:PATH:FOLDER:KEEP`, see `volume.Place`."""
    database_owner: str
    owner_password_file: str = optional()
    """Nothing where no job needs the owner's password."""
    dump_size: int = number()
    """Bytes that a dump is expected to have."""
    remote: str = optional()
    configuration_file: str = optional()


def program(job: Job) -> Outcome:
    job.leaves("Nothing was changed.")
    settings = load(Settings)
    places = places_of(settings)
    findings: list[Finding] = []
    codes: list[int] = []
    # Servers first: a volume may take its time.
    for examination in examinations(job, settings, places):
        for finding in examination.findings:
            write(finding.text())
        findings += examination.findings
        codes += examination.codes
    return judged(job, findings, codes)


def places_of(settings: Settings) -> list[Place]:
    """The volumes that are asked for. Raises JobError."""
    try:
        known = [Place.parse(word) for word in settings.volumes]
    except ValueError as error:
        what = f"The variable VOLUMES has a word that is not NAME:MODE:PATH:FOLDER:KEEP: {error}."
        raise JobError(Exit.USAGE, what, VALUES) from None
    unknown = sorted({*settings.subjects} - {DATABASE, OFFSITE, *(place.name for place in known)})
    if unknown:
        what = f"The variable SUBJECTS names what VOLUMES does not: {', '.join(unknown)}."
        raise JobError(Exit.USAGE, what, VALUES)
    return [place for place in known if place.name in settings.subjects]


def examinations(job: Job, settings: Settings, places: list[Place]) -> Iterator[Examination]:
    begun = time.monotonic()
    asked = [(place, Forked(examine(job, place, settings.dump_size))) for place in places]
    try:
        if DATABASE in settings.subjects:
            yield Database(job, settings).examined()
        if OFFSITE in settings.subjects:
            yield of_store(job, settings)
        for place, forked in asked:
            yield answered(place, forked, begun + PATIENCE - time.monotonic())
    finally:
        for _, forked in asked:  # of a run that is told to stop: each takes its file away
            forked.ask()
        until = time.monotonic() + CLEANING
        for _, forked in asked:
            forked.kill(until - time.monotonic())


def answered(place: Place, forked: Forked[Examination], seconds: float) -> Examination:
    """What was found of a volume, or that it does not answer."""
    what = f"The volume does not answer: a call on it has hung for {PATIENCE} s."
    try:
        if forked.ready(max(0.0, seconds)):
            return forked.result()
    except EOFError:
        what = "The process that examined the volume was killed."
    examination = Examination(place.name)
    advice = "Check its file server and the way there: jobs that mount it would hang until their deadline."
    examination.fail("answer", JobError(Exit.VOLUME, what, advice))
    return examination


def judged(job: Job, findings: list[Finding], codes: list[int]) -> Outcome:
    """The verdict. Raises JobError: where several checks have failed, it has the first one's code."""
    of = {word: [one for one in findings if one.result == word] for word in (OK, WARNING, FAILED, SKIPPED)}
    job.figure(
        checks=len(findings), warnings=len(of[WARNING]), failed=len(of[FAILED]), skipped=len(of[SKIPPED])
    )
    if failed := of[FAILED]:
        said = " ".join(f"{one.subject}, {one.check}: {one.message}" for one in failed)
        raise JobError(codes[0], f"{len(failed)} of {len(findings)} checks failed. {said}", failed[0].advice)
    doubts = " ".join(f"{one.subject}, {one.check}: {one.message} {one.advice}" for one in of[WARNING])
    return Outcome(Exit.DONE, "sound", f"{len(findings)} checks, none failed. {doubts}".rstrip())


# ---- the database server -----------------------------------------------------------------------------------


class Database:
    def __init__(self, job: Job, settings: Settings) -> None:
        self._job, self._settings = job, settings

    @cached_property
    def _server(self) -> Server:
        return self._settings.server()

    @property
    def _where(self) -> str:
        return f"{self._settings.pghost}:{self._settings.pgport}"

    def examined(self) -> Examination:
        examination = Examination(DATABASE)
        examination.in_turn(self._questions())
        return examination

    def _questions(self) -> Iterator[tuple[str, Question]]:
        yield "secret", self._secret
        yield "reach", self._reach
        yield "login", self._login
        yield "superuser", self._superuser
        yield "version", self._version
        yield "clock", self._clock
        yield "database", self._database
        yield "owner", self._owner
        yield "extensions", self._extensions

    def _secret(self) -> str:
        _ = self._server
        if not self._settings.owner_password_file:
            return "The Secret has the superuser's password."
        password_in(Path(self._settings.owner_password_file))
        return "The Secret has the passwords of superuser and owner."

    def _reach(self) -> str:
        """By TCP alone: who refuses a connection is another one than who refuses a password."""
        host, port = self._settings.pghost, self._settings.pgport
        try:
            socket.create_connection((host, port), CONNECTING).close()
        except socket.gaierror as error:
            raise JobError(
                Exit.UNAVAILABLE,
                f"The name {host} cannot be resolved: {error.strerror}.",
                "Check the value database.host, whether that Service is there, and whether pods may ask the "
                "name service (port 53).",
            ) from error
        except TimeoutError as error:
            raise JobError(
                Exit.UNAVAILABLE,
                f"Nothing has answered at {self._where} for {CONNECTING} s.",
                "Most likely a NetworkPolicy or a firewall drops what this pod sends: see the values "
                "networkPolicy.databasePeers and database.port, and policies of the database's own pods.",
            ) from error
        except OSError as error:
            raise JobError(
                Exit.UNAVAILABLE,
                f"No connection to {self._where}: {error.strerror}.",
                "Check that the server runs, and the values database.host and database.port.",
            ) from error
        return f"{self._where} takes connections."

    def _login(self) -> str:
        ((version,),) = self._server.query("SELECT current_setting('server_version')")
        return f"{self._settings.database_superuser} is let in by its password. PostgreSQL {version}."

    def _superuser(self) -> str:
        name = self._settings.database_superuser
        if self._server.query("SELECT rolsuper FROM pg_roles WHERE rolname = current_user") != [("t",)]:
            raise JobError(
                Exit.PERMISSION,
                f"{name} is no superuser of the server.",
                "Name one (value database.superuser): only a superuser can dump all that a server has.",
            )
        return f"{name} is a superuser."

    def _version(self) -> str:
        ((version, number),) = self._server.query(
            "SELECT current_setting('server_version'), current_setting('server_version_num')"
        )
        client = client_version(self._job)
        check_client(client, str(version), int(str(number)) // 10000)
        return f"The image has PostgreSQL {client}, and the server {version}."

    def _clock(self) -> str:
        begun = time.time()
        ((now,),) = self._server.query("SELECT extract(epoch FROM clock_timestamp())")
        return compared(float(str(now)) - (begun + time.time()) / 2, "the database server")

    def _database(self) -> str:
        name = self._settings.database_name
        rows = self._server.query(f"SELECT datallowconn FROM pg_database WHERE datname = {literal(name)}")
        if rows != [("t",)]:
            raise JobError(
                Exit.SOURCE,
                f"The server has no database {name}." if not rows else f"{name} takes no connections.",
                "Check that this is the right server (value database.host), and the value database.name.",
            )
        return f"The database {name} is there."

    def _owner(self) -> str:
        name, owner = self._settings.database_name, self._settings.database_owner
        roles = self._server.query(f"SELECT rolsuper FROM pg_roles WHERE rolname = {literal(owner)}")
        if not roles:
            raise JobError(
                Exit.SETUP,
                f"The server has no role {owner}.",
                "Correct the value database.owner, or make the role: a recovered database must belong to it.",
            )
        ((found,),) = self._server.query(
            f"SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = {literal(name)}"
        )
        if found != owner:
            raise DoubtError(
                f"The database {name} belongs to {found}, not to {owner}.",
                "Name that role (value database.owner): after a recovery, the database would belong to "
                f"{owner}.",
            )
        return f"The database {name} belongs to {owner}."

    def _extensions(self) -> str:
        """Those of the live database must be in the image: the drill's server has no others."""
        name = self._settings.database_name
        used = {
            str(extension): str(version)
            for extension, version in self._server.query("SELECT extname, extversion FROM pg_extension", name)
        }
        brought = self._brought()
        if not brought:
            raise NotAskedError("The image has no PostgreSQL server, so no drill could run in it.")
        if missing := sorted(used.keys() - brought.keys()):
            raise JobError(
                Exit.SETUP,
                f"The image lacks extensions that the database {name} has: {', '.join(missing)}.",
                "Use the image that the stack's own server runs (value database.image): no drill could "
                "load a dump without them.",
            )
        other = [
            f"{key} {used[key]} (image: {brought[key]})" for key in sorted(used) if brought[key] != used[key]
        ]
        if other:
            raise DoubtError(
                f"The database {name} has extensions of other versions than the image: {', '.join(other)}.",
                "Use the image that the stack's own server runs (value database.image), or update them there "
                "(ALTER EXTENSION … UPDATE).",
            )
        return f"The image has all extensions of {name}: {', '.join(sorted(used))}."

    def _brought(self) -> dict[str, str]:
        """The extensions of the image, with their versions."""
        return {
            path.stem: found[1]
            for folder in self._shared()
            for path in (folder / "extension").glob("*.control")
            if (
                found := re.search(
                    r"(?m)^\s*default_version\s*=\s*'([^']*)'", path.read_text("utf-8", "replace")
                )
            )
        }

    def _shared(self) -> list[Path]:
        try:
            said = self._job.processes.run(["pg_config", "--sharedir"]).out.decode().strip()
        except FileNotFoundError:
            said = ""
        if said and status(Path(said, "extension")) is not None:
            return [Path(said)]
        return [path for pattern in SHARED for path in Path("/").glob(pattern.lstrip("/"))]


# ---- the off-site store ------------------------------------------------------------------------------------


def of_store(job: Job, settings: Settings) -> Examination:
    examination = Examination(OFFSITE)

    def questions() -> Iterator[tuple[str, Question]]:
        found: list[Rclone] = []

        def secret() -> str:
            found.append(configured(job, OfStore(settings.remote, Path(settings.configuration_file))))
            return f"The Secret has rclone's configuration, and that has the remote of {settings.remote}."

        def listed() -> str:
            if (ran := found[0].look()).code:
                raise found[0].refused(f"The store does not list {settings.remote}", ran)
            return f"The store lists {settings.remote}."

        yield "secret", secret
        yield "list", listed

    examination.in_turn(questions())
    return examination
