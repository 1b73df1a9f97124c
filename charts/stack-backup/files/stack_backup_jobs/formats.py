"""What lies on the volumes and what a run says: names, manifests, states, verdicts. See docs/formats.md."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import IntEnum
from functools import cached_property
from typing import Any

MIB = 1 << 20


class Exit(IntEnum):
    """Exit codes; docs/exit-codes.md says what to do."""

    DONE = 0
    USAGE = 64
    DATA = 65
    SOURCE = 66
    UNAVAILABLE = 69
    NO_ROOM = 73
    VOLUME = 74
    TRANSIENT = 75
    BUDGET = 76
    PERMISSION = 77
    SETUP = 78
    TIMEOUT = 124
    KILLED = 137
    STOPPED = 143


NOT_TRIED_AGAIN = (Exit.USAGE, Exit.SOURCE, Exit.NO_ROOM, Exit.BUDGET, Exit.PERMISSION, Exit.SETUP)
"""A second try would meet the same: the Job's podFailurePolicy."""


# ---- times -------------------------------------------------------------------------------------------------


def stamp(seconds: float | None = None) -> str:
    """A time (seconds since the epoch; now) as names and manifests have it: UTC, to the second."""
    return datetime.fromtimestamp(time.time() if seconds is None else seconds, UTC).strftime(
        "%Y-%m-%dT%H:%M:%SZ"
    )


STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


def seconds_of(text: str) -> float:
    """Seconds since the epoch of such a time. Raises ValueError for anything else."""
    if STAMP.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a time such as 2022-11-28T08:51:08Z")
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


# ---- dumps -------------------------------------------------------------------------------------------------

NAME = re.compile(r"backup-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)-dumpall\.sql\.(gz|zst)", re.ASCII)
MANIFESTS = ".manifest"
"""The folder of manifests, beside the dumps: older tools take everything named `backup…` for a dump."""
TEMPORARY = ".tmp."
"""How the names of unfinished files begin, in either folder."""
AHEAD = 600
"""Seconds by which a dump's time may be ahead of the clock; one further ahead would always be the newest."""


def dump_name(time: str, suffix: str) -> str:
    return f"backup-{time}-dumpall.sql.{suffix}"


def manifest_name(name: str) -> str:
    """Of a dump's manifest, in the folder MANIFESTS."""
    return f"{name}.tsv"


def time_of(name: str) -> str:
    """The time in a dump's name. Raises ValueError for another name."""
    if (found := NAME.fullmatch(name)) is None:
        raise ValueError(f"{name!r} is not the name of a dump")
    return found[1]


def escaped(value: str) -> str:
    """A value as it stands in a line of fields that tabs separate."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


def plain(value: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "t": "\t"}.get(found[1], found[1]), value)


_ONE = """format name sha256 bytes sql_bytes started finished job namespace client_version server_version
system_identifier compressor suspicious sanitised"""
RECORDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(_ONE.split(), ("VALUE",)),
    "database": ("NAME",),
    "size": ("DATABASE", "BYTES"),
    "extension": ("DATABASE", "NAME", "VERSION"),
    "table": ("DATABASE", "NAME", "ROWS"),
    "sequence": ("DATABASE", "NAME", "VALUE", "CALLED"),
    "largeobject": ("DATABASE", "COUNT"),
}
"""The keys of a manifest, and the values of each; docs/formats.md says what they mean."""


@dataclass(frozen=True)
class Manifest:
    """The records of a manifest in their order: a key and its values (RECORDS)."""

    records: tuple[tuple[str, ...], ...]

    @classmethod
    def parse(cls, text: str) -> Manifest:
        """Of any text; whether it is a manifest of a dump, `agrees` says."""
        return cls(tuple(tuple(map(plain, line.split("\t"))) for line in text.split("\n") if line))

    def format(self) -> str:
        return "".join("\t".join(map(escaped, record)) + "\n" for record in self.records)

    @cached_property
    def _by_key(self) -> dict[str, list[tuple[str, ...]]]:
        found: dict[str, list[tuple[str, ...]]] = {}
        for record in self.records:
            found.setdefault(record[0], []).append(record[1:])
        return found

    def all(self, key: str) -> list[tuple[str, ...]]:
        """The values of every record of that key."""
        return self._by_key.get(key, [])

    def get(self, key: str) -> str:
        """The first value of a key, or nothing."""
        return next((values[0] for values in self.all(key) if values), "")

    def number(self, key: str) -> int:
        """The same as a whole number; 0 where there is none."""
        value = self.get(key)
        return int(value) if value.isascii() and value.isdigit() else 0

    @property
    def suspicious(self) -> bool:
        return self.get("suspicious") == "yes"

    @property
    def sanitised(self) -> bool:
        """Was it dumped from a copy that SQL of the values had changed?"""
        return self.get("sanitised") == "yes"

    @property
    def databases(self) -> list[str]:
        return [values[0] for values in self.all("database")]

    def rows(self) -> int:
        """Of all tables."""
        counts = (values[2] for values in self.all("table") if len(values) == 3)
        return sum(int(count) for count in counts if count.isascii() and count.isdigit())

    def agrees(self, name: str, size: int) -> bool:
        """Is it the manifest of the file of that name and size?"""
        return self.get("name") == name and self.get("bytes") == str(size)


@dataclass(frozen=True)
class Dump:
    """A dump as it lies in a folder: verified where there is a `manifest`, one that agrees with the file."""

    name: str
    size: int
    manifest: Manifest | None
    since: float = 0
    """When the manifest came into the folder, in seconds since the epoch."""
    listed: bool = False
    """Whether there is a manifest at all, agreeing or not."""

    @property
    def time(self) -> str:
        return time_of(self.name)

    @property
    def age(self) -> int:
        """Seconds since its time, which may be a little ahead of the clock."""
        return max(0, int(time.time() - seconds_of(self.time)))

    @property
    def rows(self) -> int:
        """Of all tables, as the manifest has them."""
        return self.manifest.rows() if self.manifest else 0

    @property
    def good(self) -> bool:
        """Verified, and not suspicious."""
        return self.manifest is not None and not self.manifest.suspicious


def newest(dumps: Iterable[Dump]) -> Dump | None:
    """The latest: verified, and not suspicious."""
    return max((dump for dump in dumps if dump.good), key=lambda dump: dump.time, default=None)


def superseded(dumps: Iterable[Dump], keep: int, now: float = 0, grace: float = 0) -> list[Dump]:
    """What is older than the `keep`-th newest good dump, oldest first; nothing while that one came into the
    folder less than `grace` seconds before `now`: what it took the place of may still be read.
    """
    ordered = sorted(dumps, key=lambda dump: (dump.time, dump.name))
    good = [place for place, dump in enumerate(ordered) if dump.good]
    if len(good) < keep or (grace and now - ordered[good[-keep]].since < grace):
        return []
    return ordered[: good[-keep]]


# ---- media -------------------------------------------------------------------------------------------------

OWN = ".stack-backup"
"""The folder of ours in a replica of the media, and what lies there."""
STATE, SAMPLE, TRASH, ADDED, LOCK = "state", "sample.tsv", "trash", "added", "lock"


class OtherFormatError(ValueError):
    """Of another version than ours; its text is the format."""


@dataclass(frozen=True)
class MediaState:
    """REPLICA/.stack-backup/state: since when a mirror is in progress, or what the last complete one left."""

    status: str
    """`in-progress` or `complete`."""
    since: str
    """When the run that wrote this began."""
    completed: str = ""
    """When the last complete mirror ended; nothing where there was none."""
    files: int = 0
    bytes: int = 0
    """Of the last complete mirror."""
    namespace: str = ""
    exceptions: int = 0
    """Files of the source that the last complete mirror had to leave out or as they were."""
    exclude: tuple[str, ...] = ()
    """Patterns of names, at any depth, that are no part of the tree; of the run that wrote this."""
    format: str = "1"

    @classmethod
    def parse(cls, text: str) -> MediaState:
        """Raises OtherFormatError, and ValueError for what is no state at all."""
        found = dict(line.split("\t", 1) for line in text.split("\n") if "\t" in line)
        if found.get("format") != "1":
            raise OtherFormatError(found.get("format", ""))
        if found.get("status") not in ("in-progress", "complete"):
            raise ValueError(f"a state of the status {found.get('status', '')!r}")
        for key in ("since", "completed"):
            if found.get(key):
                seconds_of(found[key])
        numbers = [found.get(key, "0") for key in ("files", "bytes", "exceptions")]
        if not all(value.isascii() and value.isdigit() and len(value) < 19 for value in numbers):
            raise ValueError(f"a state with the numbers {numbers}")
        files, size, exceptions = map(int, numbers)
        namespace = plain(found.get("namespace", ""))
        since, completed = found.get("since", ""), found.get("completed", "")
        exclude = tuple(map(plain, found["exclude"].split("\t"))) if found.get("exclude") else ()
        return cls(found["status"], since, completed, files, size, namespace, exceptions, exclude)

    def text(self) -> str:
        lines = [("format", self.format), ("status", self.status), ("since", self.since)]
        if self.completed:
            lines += [("completed", self.completed), ("files", str(self.files)), ("bytes", str(self.bytes))]
            lines += [("exceptions", str(self.exceptions))] if self.exceptions else []
        lines += [("namespace", escaped(self.namespace))]
        lines += [("exclude", "\t".join(map(escaped, self.exclude)))] if self.exclude else []
        return "".join(f"{key}\t{value}\n" for key, value in lines)


# ---- findings ----------------------------------------------------------------------------------------------

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"
"""Results of a check of the doctor's."""


@dataclass(frozen=True)
class Finding:
    """What a check of the doctor's has found: one line of its log, the fields separated by tabs."""

    result: str
    subject: str
    """`database`, `offsite`, or a volume by its name in the pod."""
    check: str
    message: str
    advice: str = ""
    """What to do; nothing where nothing is to be done."""

    @classmethod
    def parse(cls, line: str) -> Finding | None:
        """None: another line of a log."""
        fields = list(map(plain, line.split("\t")))
        known = len(fields) == 5 and fields[0] in (OK, WARNING, FAILED, SKIPPED)
        return cls(*fields) if known else None

    def text(self) -> str:
        return "\t".join(map(escaped, (self.result, self.subject, self.check, self.message, self.advice)))


# ---- verdict -----------------------------------------------------------------------------------------------

MESSAGE_LIMIT, VERDICT_LIMIT = 1500, 4096
"""Characters of a message; bytes that Kubernetes keeps of a termination message."""

Figure = str | int | list[str]


@dataclass(frozen=True)
class Verdict:
    """The last line of a run, one JSON object, and the pod's termination message."""

    job: str
    exit: int
    outcome: str
    message: str
    figures: Mapping[str, Figure]
    seconds: int

    def members(self) -> dict[str, Any]:
        """As one JSON object has them."""
        head = {"job": self.job, "exit": self.exit, "outcome": self.outcome, "message": self.message}
        return head | dict(self.figures) | {"seconds": self.seconds}

    def with_figures(self, more: Mapping[str, Figure]) -> Verdict:
        return replace(self, figures={**self.figures, **more})

    def line(self) -> str:
        """Of at most VERDICT_LIMIT bytes: figures are left out from the last before the message is cut."""
        figures = dict(self.figures)
        message = " ".join(self.message.split())[:MESSAGE_LIMIT]
        while True:
            members = replace(self, message=message, figures=figures).members()
            text = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
            text = text.encode(errors="replace").decode()
            if len(text.encode()) < VERDICT_LIMIT:
                return text
            if figures:
                figures.popitem()
            else:
                message = message[: len(message) * 3 // 4]


def verdict_of(text: str) -> dict[str, Any]:
    """The members of the verdict with which a text ends; none where it ends otherwise."""
    try:
        found = json.loads(text.strip().rpartition("\n")[2])
    except ValueError:
        return {}
    return found if isinstance(found, dict) and "exit" in found else {}


# ---- history -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """HISTORY/JOB/ENDED.POD.json: one run, as its verdict told it."""

    begun: str
    ended: str
    pod: str
    verdict: Mapping[str, Any]
    """The members of its verdict."""
    format: int = 1

    @property
    def job(self) -> str:
        return str(self.verdict["job"])

    @classmethod
    def parse(cls, text: str) -> Record:
        """Raises ValueError for anything else."""
        found = json.loads(text)
        if not isinstance(found, dict) or found.get("format") != 1:
            raise ValueError("a record of another format")
        begun, ended, pod, verdict = (found.get(key) for key in ("begun", "ended", "pod", "verdict"))
        if not (isinstance(verdict, dict) and isinstance(verdict.get("exit"), int)):
            raise ValueError("a record without a verdict")
        for moment in (begun, ended):
            seconds_of(str(moment))
        verdict = {"job": "", "outcome": "", "message": "", "seconds": 0} | verdict
        return cls(str(begun), str(ended), str(pod), verdict)

    def text(self) -> str:
        members = {"format": self.format, "begun": self.begun, "ended": self.ended, "pod": self.pod}
        text = json.dumps(members | {"verdict": dict(self.verdict)}, ensure_ascii=False)
        return text.encode(errors="replace").decode() + "\n"
