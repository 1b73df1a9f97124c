"""The story of the hourly backup, told on either runtime: what the demo shows and the tests hold.

A stack is installed with production's values and filled with real input. Its hourly job runs, the application
goes on writing, and the dump is restored into a second server, which must hold all that the first one held
when the dump was taken, and nothing of what came after. Then all of it once more, with an earlier dump there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stack_backup import compare, dataset
from stack_backup.render import merge_values
from stack_backup.runtime import JobResult, Server, Stack
from stack_backup.testbed.paths import PROJECT
from stack_backup_jobs.formats import MANIFESTS, NAME, TEMPORARY, Manifest, manifest_name

NAMESPACE = "production-stack"
VALUES = PROJECT / "values" / "production.yaml"
JOB = "postgres-backup-hourly"
CLAIM = "database-backup"
FOLDER = "hourly"

_LITTLE = {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}
_SCRATCH = {"scratch": {"size": "1Gi"}}
TEST_MACHINE: Mapping[str, Any] = {
    "database": {"image": {"repository": "localhost/stack-database", "tag": "15"}},
    "backup": {"dumpSize": "15Mi", **_LITTLE},
    **dict.fromkeys(("tiers", "databaseReplica", "mediaReplica", "replicaCheck", "offsite"), _LITTLE),
    **dict.fromkeys(("databaseRecovery", "drill"), _LITTLE | _SCRATCH),
    "mediaRecovery": _LITTLE,
    "volumes": {
        "databaseBackup": {"size": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "databaseReplica": {"size": "1Gi"},
        "mediaReplica": {"size": "1Gi"},
    },
}
"""Values laid over a stack's for a cluster on one machine: its own image, little data, small volumes."""

_OFF = {"enabled": False}
BACKUP_ALONE: Mapping[str, Any] = dict.fromkeys(
    ("tiers", "databaseReplica", "mediaReplica", "databaseRecovery", "mediaRecovery", "drill"), _OFF
)
"""Laid over production's values where only the hourly backup is of interest."""

EVERY_MINUTE: Mapping[str, Any] = {"backup": {"schedule": "* * * * *"}}


class ScenarioError(AssertionError):
    """Something did not come out as it must; the message says what, in one sentence."""


@dataclass(frozen=True)
class Step:
    """One thing that is done; `run` returns what was seen, or raises."""

    title: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Evidence:
    """How one step ended."""

    title: str
    seen: str
    seconds: float
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


@dataclass
class Round:
    """One backup and its restore, as they came out. What the story has not come to is None."""

    job: JobResult
    manifest: Manifest | None = None
    restore_seconds: float | None = None
    rows_compared: int | None = None
    properties_compared: int | None = None
    differences: int | None = None
    rows_written_afterwards: int | None = None
    rows_restored_of_those: int | None = None

    @property
    def dump(self) -> str:
        return str(self.job.verdict["dump"])


class HourlyBackup:
    """The story on one empty stack. `rounds` fills as it goes.

    `scheduled`: the first run is made by the CronJob's controller and not by hand. `values` are laid over
    production's and `TEST_MACHINE`. Dumps are fetched to `folder`.
    """

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        *,
        molecules: int = 5000,
        scheduled: bool = False,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self.rounds: list[Round] = []
        self._stack = stack
        self._folder = folder
        self._molecules = molecules
        self._scheduled = scheduled
        self._values = merge_values(VALUES, TEST_MACHINE, BACKUP_ALONE, values or {})
        self._earlier: dict[str, str] = {}
        self._held: compare.Snapshot
        self.restored: Server

    def steps(self) -> Generator[Step, None, None]:
        yield Step(f"Install the release in {self._stack.namespace}", self._install)
        yield Step("Fill the database with real input", self._fill)
        for number in (1, 2):
            note = f"written after backup {number}"
            if self._scheduled and number == 1:
                yield Step("Wait for the scheduled backup", self._await_backup)
            else:
                yield Step("Run the hourly backup" if number == 1 else "Run it again", self._backup)
            yield Step("Check the dump and its manifest", self._check_volume)
            yield Step("Go on writing to the database", partial(self._go_on, note))
            with ExitStack() as servers:
                yield Step("Restore the dump into an empty server", partial(self._restore, servers))
                yield Step("Compare every row", self._compare)
                yield Step("Look for what came after the backup", partial(self._look, note))

    @property
    def _round(self) -> Round:
        return self.rounds[-1]

    def _install(self) -> str:
        self._stack.install(self._values)
        return f"{VALUES.relative_to(PROJECT)}; CronJob {JOB}, claim {CLAIM}"

    def _fill(self) -> str:
        summary = dataset.fill(self._stack.database, molecules=self._molecules)
        return (
            f"{summary.molecules:,} molecules of RDKit among {summary.rows:,} rows of {summary.tables} tables"
            f", {summary.large_objects} large objects"
        )

    def _await_backup(self) -> str:
        self._held = compare.snapshot(self._stack.database)
        self._stack.install(merge_values(self._values, EVERY_MINUTE))
        try:
            return self._published(self._stack.await_scheduled(JOB, timeout=240))
        finally:
            self._stack.install(self._values)

    def _backup(self) -> str:
        self._held = compare.snapshot(self._stack.database)
        return self._published(self._stack.run(JOB))

    def _published(self, result: JobResult) -> str:
        if not result.succeeded or result.verdict.get("outcome") != "published":
            said = result.verdict.get("message") or result.reason or result.log
            raise ScenarioError(f"{JOB} ended with exit code {result.exit_code}: {said}")
        self.rounds.append(Round(result))
        verdict = result.verdict
        return (
            f"exit code 0, {verdict['dump']}: {megabytes(verdict['bytes'])}, {verdict['databases']} databases"
            f", {verdict['tables']} tables, {verdict['rows']:,} rows"
        )

    def _check_volume(self) -> str:
        volume, name = self._stack.volume(CLAIM), self._round.dump
        names = [one for one in volume.list(FOLDER) if one != MANIFESTS]
        if self._scheduled:  # the controller may have begun one more run before its schedule was taken back
            names = [one for one in names if not one.startswith(TEMPORARY)]
        strange = [one for one in names if not NAME.fullmatch(one)]
        _same("names in the folder that are no dump's", strange, [])
        _same("its manifest", manifest_name(name) in volume.list(f"{FOLDER}/{MANIFESTS}"), True)
        manifest = Manifest.parse(volume.read(f"{FOLDER}/{MANIFESTS}/{manifest_name(name)}").decode())
        digests = {
            one: _digest(volume.fetch(f"{FOLDER}/{one}", self._folder)) for one in {*self._earlier, name}
        }
        _same("earlier dumps", {one: digests[one] for one in self._earlier}, self._earlier)
        size = (self._folder / name).stat().st_size
        _same("name and bytes in the manifest", manifest.agrees(name, size), True)
        _same("sha256", digests[name], manifest.get("sha256"))
        _same("databases", sorted(manifest.databases), sorted(self._held.databases))
        counted = {(database, table): int(rows) for database, table, rows in manifest.all("table")}
        figures = {
            "bytes": size,
            "databases": len(manifest.databases),
            "tables": len(counted),
            "rows": manifest.rows(),
        }
        _same("figures of the verdict", {key: self._round.job.verdict[key] for key in figures}, figures)
        _same(
            "rows per table", counted, {key: len(t.rows) for key, t in self._held.tables.items() if t.dumped}
        )
        self._earlier, self._round.manifest = digests, manifest
        return (
            f"sha256 {digests[name][:16]}..., and the rows of all {len(counted)} tables, as the manifest says"
        )

    def _go_on(self, note: str) -> str:
        self._round.rows_written_afterwards = dataset.add_rows_after(self._stack.database, note)
        return f"{self._round.rows_written_afterwards} new rows, others changed and deleted, a new table"

    def _restore(self, servers: ExitStack) -> str:
        self.restored = servers.enter_context(self._stack.scratch_server())
        started = monotonic()
        self.restored.load(self._folder / self._round.dump)
        self._round.restore_seconds = monotonic() - started
        users = {
            dataset.OWNER: str(conninfo_to_dict(self._stack.database.dsn("frag", dataset.OWNER))["password"]),
            dataset.READER: dataset.READER_PASSWORD,
        }
        for user, password in users.items():
            psycopg.connect(self.restored.dsn(dataset.DATABASE, user, password)).close()
        return f"loaded without an error; {' and '.join(users)} log in with their own passwords"

    def _compare(self) -> str:
        restored = compare.snapshot(self.restored)
        found = compare.differences(self._held, restored)
        self._round.rows_compared, self._round.properties_compared = restored.rows, len(restored.objects)
        self._round.differences = len(found)
        if found:
            raise ScenarioError(f"{len(found)} differences; the first: {found[0]}")
        return (
            f"{restored.rows:,} rows of {len(restored.tables)} tables, {len(restored.objects):,} properties"
            f" of schema, roles and settings in {len(restored.databases)} databases: 0 differences"
        )

    def _look(self, note: str) -> str:
        self._round.rows_restored_of_those = dataset.count_rows_after(self.restored, note)
        _same("later rows in the restored server", self._round.rows_restored_of_those, 0)
        # A comparison that sees nothing would have found no difference either.
        now = compare.differences(self._held, compare.snapshot(self._stack.database))
        if not now:
            raise ScenarioError("the live database was written to, and the comparison sees no difference")
        written = self._round.rows_written_afterwards
        return f"none of the {written} later rows is there; the live database has {len(now)} differences"


def tell(steps: Generator[Step, None, None], begin: Callable[[str], object] = str) -> Iterator[Evidence]:
    """Run the steps one after the other and yield what was seen; the first that fails is the last.

    `begin` is told the title of each step as it starts.
    """
    with closing(steps):  # what a step has begun, such as a second server, ends here
        for step in steps:
            begin(step.title)
            started = monotonic()
            try:
                seen = step.run()
            except Exception as error:
                yield Evidence(step.title, _sentence(error), monotonic() - started, error)
                return
            yield Evidence(step.title, seen, monotonic() - started)


def megabytes(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _same(what: str, seen: object, expected: object) -> None:
    if seen != expected:
        if isinstance(seen, dict) and isinstance(expected, dict):
            differ = {key for key in seen.keys() | expected.keys() if seen.get(key) != expected.get(key)}
            seen, expected = ({key: side.get(key) for key in differ} for side in (seen, expected))
        raise ScenarioError(f"{what}: {seen}, and it should be {expected}")


def _sentence(error: Exception) -> str:
    text = str(error).strip() or repr(error)
    return text if isinstance(error, ScenarioError) else f"{type(error).__name__}: {text}"
