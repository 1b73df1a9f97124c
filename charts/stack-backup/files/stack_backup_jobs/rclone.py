"""rclone and a store: what it is told, what it answers, and what it means when it refuses.

Its exit code, the members of its JSON log and the codes of protocols (S3, HTTP) tell that. Where none
does, we ask ourselves: the files that it could not read, the store that it could not reach.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import selectors
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import MIB, OWN, Exit
from stack_backup_jobs.job import Job

BINARY = "/tools/rclone"
NOT_THERE = (3, 4)
"""How rclone ends where there is no folder or file of that name."""

ADVICE = {
    Exit.DATA: "The store cannot hold a name of that length or kind: rename the file.",
    Exit.SOURCE: "Make the bucket (or folder), or correct the value offsite.remote: it is never made by this "
    "job.",
    Exit.UNAVAILABLE: "Check that the store runs, and that the NetworkPolicy (values "
    "networkPolicy.offsitePeers and offsitePorts) lets this pod reach it.",
    Exit.NO_ROOM: "Make room in the store or keep fewer dumps there; no dump is ever deleted to make room.",
    Exit.TRANSIENT: "Read the lines above; the next run tries again.",
    Exit.PERMISSION: "Check the keys in the Secret, and what the store lets them do there.",
    Exit.SETUP: "Correct the configuration of rclone in the Secret, or the value offsite.remote.",
}
_TOLD = {
    Exit.PERMISSION: "AccessDenied AccountProblem AllAccessDisabled ExpiredToken InvalidAccessKeyId "
    "InvalidToken NotSignedUp RequestTimeTooSkewed SignatureDoesNotMatch UnauthorizedAccess",
    Exit.SOURCE: "NoSuchBucket",
    Exit.DATA: "KeyTooLong KeyTooLongError InvalidObjectName XMinioInvalidObjectName",
    Exit.NO_ROOM: "QuotaExceeded InsufficientStorage XMinioStorageFull XMinioAdminBucketQuotaExceeded",
    Exit.SETUP: "AuthorizationHeaderMalformed IllegalLocationConstraintException InvalidBucketName "
    "PermanentRedirect",
    Exit.TRANSIENT: "RequestTimeout ServiceUnavailable SlowDown",
}
S3 = {code: meaning for meaning, codes in _TOLD.items() for code in codes.split()}
"""The error codes of the S3 protocol, and of stores that speak it, which say more than an HTTP status."""
HTTP = {
    0: Exit.UNAVAILABLE,
    **dict.fromkeys((401, 403), Exit.PERMISSION),
    **dict.fromkeys((429, 502, 503, 504), Exit.TRANSIENT),
    507: Exit.NO_ROOM,
}
"""0: there was no answer."""
REJECTED = ("400", "401", "403", "405", "409")
_S3_CODE = re.compile(r"\bapi error (\w+):")
_HTTP_STATUS = re.compile(r"\bStatusCode: (\d+)")

LEAST_ROOM = MIB
"""Free bytes of a store that is not full for anything."""
PROBE_SECONDS = 10
ONCE = {"RCLONE_RETRIES": "1", "RCLONE_LOW_LEVEL_RETRIES": "2"}
PORTS = {"http": 80, "https": 443, "sftp": 22, "ftp": 21}
TAKES = "The store can be listed, but it takes no object of"
NOTHING = (
    "0 bytes either: it is read-only, these keys may not write or delete there, or it has no room at all"
)
Take = Callable[[bytes], object]
_KEPT = 100
"""Complaints of one command that are looked into."""


@dataclass(frozen=True)
class Complaint:
    """A line of rclone's log of the level `error` or higher (`fatal`), and the file that it is about."""

    text: str
    object: str = ""
    fatal: bool = False


@dataclass
class Ran:
    """How a command ended, and the first things that it complained of."""

    begun: float
    code: int = 0
    complaints: list[Complaint] = field(default_factory=list)
    last: str = ""

    @property
    def reason(self) -> str:
        return (self.complaints[0].text if self.complaints else self.last)[:600]

    @property
    def rejected(self) -> bool:
        """Did the store itself say no, as one does whose keys may not, or whose object is locked?"""
        text = " ".join(complaint.text for complaint in self.complaints) or self.last
        return bool(self.code) and any(status in REJECTED for status in _HTTP_STATUS.findall(text))

    def told(self) -> Exit | None:
        """What the codes of S3 and HTTP in it say."""
        texts = [complaint.text for complaint in self.complaints] or [self.last]
        for text in texts:
            for code in _S3_CODE.findall(text):
                if code in S3:
                    return S3[code]
            for status in _HTTP_STATUS.findall(text):
                if int(status) in HTTP:
                    return HTTP[int(status)]
        return None


class Rclone:
    """rclone with one configuration, and one place in it: `remote`, such as `s3:backups/production`; a source
    of a recovery, where nothing `writes`.
    """

    def __init__(
        self, job: Job, remote: str, configuration: bytes, *, writes: bool = True, **environment: str
    ) -> None:
        self.remote = remote
        self._writes = writes
        self.deletes = True
        """Whether the keys are meant to delete."""
        self._job = job
        # rclone may write to its configuration, and the Secret is read-only.
        self._file = job.work / "rclone.conf"
        self._file.touch(0o600)
        self._file.write_bytes(configuration)
        self.environment = {
            **{"RCLONE_CONFIG": str(self._file), "RCLONE_CACHE_DIR": str(job.work / "cache")},
            **{"RCLONE_ASK_PASSWORD": "false", "RCLONE_CONTIMEOUT": "20s", "RCLONE_USE_JSON_LOG": "true"},
            **{"RCLONE_STATS": "5s", "RCLONE_STATS_LOG_LEVEL": "NOTICE", "RCLONE_STATS_ONE_LINE": "true"},
            # One part of a large file is in memory; with a limit of all buffers, parts wait for each other.
            **{"GOMEMLIMIT": "64MiB", "RCLONE_BUFFER_SIZE": "0", "RCLONE_S3_UPLOAD_CONCURRENCY": "1"},
            # A mistyped bucket is an error, and never made.
            "RCLONE_S3_NO_CHECK_BUCKET": "true",
            # Names as they are, byte by byte: else of two that look the same one is left out.
            **{"RCLONE_LOCAL_ENCODING": "Raw", "RCLONE_NO_UNICODE_NORMALIZATION": "true"},
            **environment,
        }

    def at(self, *names: str) -> str:
        return below(self.remote, *names)

    # ---- commands ----

    def command(self, *arguments: str) -> list[str]:
        """One for whoever runs it beside this run: until that ends its configuration is there."""
        return ["env", *(f"{name}={value}" for name, value in self.environment.items()), BINARY, *arguments]

    def must(
        self, *arguments: str | Path, take: Take = bytes, what: str = "", need: int = LEAST_ROOM
    ) -> None:
        """A command that must succeed. `take` has its output, piece by piece; `need`: bytes in the store."""
        if (ran := self.run(*arguments, take=take)).code:
            raise self.refused(what or f"rclone {arguments[0]} failed", ran, need)

    def answer(self, *arguments: str | Path, what: str = "", absent: bool = False) -> str:
        """What a command says that says little; with `absent`, nothing where nothing is there."""
        output = bytearray()
        ran = self.run(*arguments, take=output.extend)
        if ran.code and not (absent and ran.code in NOT_THERE):
            raise self.refused(what or f"rclone {arguments[0]} failed", ran)
        return "" if ran.code else output.decode("utf-8", "surrogateescape")

    def run(self, *arguments: str | Path, take: Take = bytes, once: bool = False, **environment: str) -> Ran:
        """Any command, or one try of it. Its messages go to our log as they come, its figures to the
        run's progress.
        """
        ran, rest = Ran(time.time()), bytearray()

        def hear(data: bytes) -> None:
            rest.extend(data)
            *lines, left = bytes(rest).split(b"\n")
            rest[:] = left
            for line in lines:
                self._hear(ran, line)

        process = self._job.processes.start(
            [BINARY, *map(str, arguments)],
            env={**self.environment, **(ONCE if once else {}), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._job.work,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        with process.stdout, process.stderr, selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, take)
            selector.register(process.stderr, selectors.EVENT_READ, hear)
            while selector.get_map():
                for key, _ in selector.select():
                    if data := os.read(key.fd, 1 << 16):
                        key.data(data)
                    else:
                        selector.unregister(key.fileobj)
        if rest:
            hear(b"\n")
        ran.code = self._job.processes.ended(process)
        return ran

    def look(self) -> Ran:
        """Does the store answer?"""
        return self.run("lsf", "--max-depth=1", self.remote, once=True)

    def reach(self) -> None:
        """Raises JobError where the store does not answer: at once, where other commands try for minutes."""
        if (ran := self.look()).code:
            raise self.refused(f"{self.remote} cannot be listed", ran)

    def _hear(self, ran: Ran, line: bytes) -> None:
        text = line.decode(errors="replace")
        try:
            said = json.loads(text)
            said["msg"]
        except (ValueError, KeyError, TypeError):  # before its log is set up
            said = {"msg": text, "level": "notice"}
        if "stats" in said:
            self._job.progress(f"{said['stats'].get('bytes', 0) // MIB} MiB copied")
            return
        place, text = str(said.get("object", "")), str(said["msg"]).strip()
        text = f"{place}: {text}" if place else text
        self._job.say(f"rclone: {text}")
        if said.get("level") in ("error", "critical", "alert", "emergency"):
            if len(ran.complaints) < _KEPT:
                ran.complaints.append(Complaint(text, place, said["level"] != "error"))
        else:
            ran.last = text

    # ---- what a refusal means ----

    def refused(self, what: str, ran: Ran, need: int = LEAST_ROOM) -> JobError:
        """Why a command failed whose own source, if it had one, is not to blame; `need`: bytes of the largest
        object that it wrote.
        """
        code, found = Exit.SOURCE if ran.code in NOT_THERE else ran.told(), ""
        if code in (None, Exit.UNAVAILABLE):  # no answer may be because of what was sent
            code, found = self._ask(any(complaint.fatal for complaint in ran.complaints), need)
        return JobError(code, f"{what}: {ran.reason}. {found}".rstrip(), ADVICE[code])

    def _ask(self, fatal: bool, need: int) -> tuple[Exit, str]:
        """The store itself, after a command that told no code; `fatal`: it did not come so far as to try.
        Also what was found.
        """
        if self._away():
            return Exit.UNAVAILABLE, ""
        if fatal:
            return Exit.SETUP, ""
        if not self._writes:
            return Exit.TRANSIENT, ""
        room = bytearray()
        if not self.run("about", "--json", self.remote, take=room.extend, once=True).code:
            free = json.loads(room or b"{}").get("free")
            if free is not None and free < need:
                return Exit.NO_ROOM, f"It has {free // MIB} MiB left, and {need // MIB} are needed."
        if (there := self.look()).code:
            return Exit.SOURCE if there.code in NOT_THERE else there.told() or Exit.TRANSIENT, ""
        # Who says no more than "failure" to what is written is full, or read-only: what it takes tells that.
        for size, code, found in ((0, Exit.PERMISSION, NOTHING), (need, Exit.NO_ROOM, f"{need // MIB} MiB")):
            if (tried := self._try(size)).code:
                if (told := tried.told()) not in (None, Exit.UNAVAILABLE):
                    return told, ""
                return (Exit.UNAVAILABLE, "") if self._away() else (code, f"{TAKES} {found}.")
        return Exit.TRANSIENT, ""

    def _away(self) -> bool:
        """Does nobody answer where the configuration says that the store is?"""
        if (address := self.address()) is None:
            return False
        try:
            socket.create_connection(address, PROBE_SECONDS).close()
        except OSError:
            return True
        return False

    def _try(self, size: int) -> Ran:
        """An object of that size, which is put there and taken away: the first thing that failed."""
        probe, place = self._job.work / "probe", self.at(f".probe.{self._job.pod}")
        with probe.open("wb") as file:
            file.truncate(size)  # a hole: it takes no room here
        put = self.run("copyto", "--ignore-times", probe, place, once=True)
        taken = self.run("deletefile", place, once=True)
        return put if put.code or not self.deletes else taken

    def base(self) -> str:
        """The place that it comes to: of a remote over another one, as crypt is, the last."""
        return next(reversed([place for place, _ in self._remotes()]), self.remote)

    def address(self) -> tuple[str, int] | None:
        """Where the configuration says that the store is; None where it does not (a provider's own place)."""
        for _, section in self._remotes():
            for place in filter(None, map(section.get, ("endpoint", "url", "host"))):
                scheme = {"sftp": "sftp", "ftp": "ftp"}.get(section.get("type", ""), "https")
                try:
                    parts = urlsplit(place if "//" in place else f"//{place}", scheme)
                    port = parts.port or int(section.get("port", PORTS.get(parts.scheme, 0)))
                except ValueError:
                    return None
                return (parts.hostname, port) if parts.hostname and port else None
        return None

    def _remotes(self) -> Iterator[tuple[str, configparser.SectionProxy]]:
        """The remote, and those that it is over, each with its section of the configuration."""
        configuration = configparser.RawConfigParser(strict=False)
        try:
            configuration.read_string(self._file.read_text(encoding="utf-8", errors="replace"))
        except configparser.Error:
            return
        place, seen = self.remote, set[str]()
        while (name := place.partition(":")[0]) in configuration and name not in seen:
            seen.add(name)
            yield place, configuration[name]
            place = configuration[name].get("remote", "")


MOST_FAILED = 10_000


class Changes:
    """Counts the lines of rclone's report by their first character: + added, * replaced, - deleted. One that
    failed (!) comes again when rclone tries again.
    """

    def __init__(self) -> None:
        self.kinds: Counter[bytes] = Counter()
        self._failed: set[bytes] = set()
        self._rest = b""

    def take(self, data: bytes) -> None:
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            sign, name = line[:1], line[2:]
            if sign == b"!" and len(self._failed) < MOST_FAILED:
                self._failed.add(name)
            self.kinds[sign] += name not in self._failed


def below(remote: str, *names: str) -> str:
    """A place below another one. No slash follows the colon: to some stores that is another place."""
    return remote.removesuffix("/") + "/" * (remote[-1] != ":") + "/".join(names)


def excluded(patterns: Iterable[str]) -> list[str]:
    """Filters for what `measure` leaves out. To rclone `{` means more than to us."""
    names = [re.sub(r"([{}])", r"\\\1", name) for name in patterns]
    return [f"--exclude={pattern}" for name in (*names, f"/{OWN}") for pattern in (name, f"{name}/**")]


def complained(source: Path, ran: Ran) -> dict[str, os.stat_result]:
    """The files that a command complained of, those that are there."""
    found = {}
    for name in dict.fromkeys(complaint.object for complaint in ran.complaints if complaint.object):
        with contextlib.suppress(OSError, ValueError):
            found[name] = (source / name).stat(follow_symlinks=False)
    return found


def changed(source: Path, ran: Ran) -> list[str]:
    """Those of them that have changed since it began."""
    return [name for name, status in complained(source, ran).items() if status.st_ctime >= ran.begun]
