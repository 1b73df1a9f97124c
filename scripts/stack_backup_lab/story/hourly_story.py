"""The story of the hourly backup, told on either runtime.

A stack is installed with production's values and filled with real input. Its hourly job runs, the application
goes on writing, and the dump is restored into a second server, which must hold all that the first one held
when the dump was taken, and nothing of what came after. Then all of it once more, with an earlier dump there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import MANIFESTS, NAME, TEMPORARY, Manifest, manifest_name
from stack_backup_lab.data import comparison, dataset
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime import ScheduledStack, Server, Stack
from stack_backup_lab.story.engine import Step, StoryError, megabytes, same
from stack_backup_lab.story.stacks import BACKUP_ALONE, CLAIM, EVERY_MINUTE, FOLDER, JOB, TEST_MACHINE, VALUES


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


class HourlyStory:
    """The story on one empty stack. `rounds` fills as it goes.

    Where the CronJob has a controller, the first run is left to it. `values` are laid over
    production's and `TEST_MACHINE`. Dumps are fetched to `folder`.
    """

    def __init__(
        self,
        stack: Stack,
        folder: Path,
        *,
        molecules: int = 5000,
        values: Mapping[str, Any] | None = None,
    ) -> None:
        self.rounds: list[Round] = []
        self._stack = stack
        self._folder = folder
        self._molecules = molecules
        self._values = merge_values(VALUES, TEST_MACHINE, BACKUP_ALONE, values or {})
        self._earlier: dict[str, str] = {}
        self._held: comparison.Snapshot
        self.restored: Server

    def steps(self) -> Generator[Step, None, None]:
        yield Step(f"Install the release in {self._stack.namespace}", self._install)
        yield Step("Fill the database with real input", self._fill)
        for number in (1, 2):
            note = f"written after backup {number}"
            if number == 1 and isinstance(self._stack, ScheduledStack):
                yield Step("Wait for the scheduled backup", partial(self._await_backup, self._stack))
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

    def _await_backup(self, stack: ScheduledStack) -> str:
        self._held = comparison.snapshot(self._stack.database)
        self._stack.install(merge_values(self._values, EVERY_MINUTE))
        try:
            return self._published(stack.await_scheduled(JOB, timeout=240))
        finally:
            self._stack.install(self._values)

    def _backup(self) -> str:
        self._held = comparison.snapshot(self._stack.database)
        return self._published(self._stack.run(JOB))

    def _published(self, result: JobResult) -> str:
        if not result.succeeded or result.verdict.get("outcome") != "published":
            said = result.verdict.get("message") or result.reason or result.log
            raise StoryError(f"{JOB} ended with exit code {result.exit_code}: {said}")
        self.rounds.append(Round(result))
        verdict = result.verdict
        return (
            f"exit code 0, {verdict['dump']}: {megabytes(verdict['bytes'])}, {verdict['databases']} databases"
            f", {verdict['tables']} tables, {verdict['rows']:,} rows"
        )

    def _check_volume(self) -> str:
        volume, name = self._stack.volume(CLAIM), self._round.dump
        names = [one for one in volume.list(FOLDER) if one != MANIFESTS]
        if isinstance(
            self._stack, ScheduledStack
        ):  # the controller may have begun one more run before its schedule was taken back
            names = [one for one in names if not one.startswith(TEMPORARY)]
        strange = [one for one in names if not NAME.fullmatch(one)]
        same("names in the folder that are no dump's", strange, [])
        same("its manifest", manifest_name(name) in volume.list(f"{FOLDER}/{MANIFESTS}"), True)
        manifest = Manifest.parse(volume.read(f"{FOLDER}/{MANIFESTS}/{manifest_name(name)}").decode())
        digests = {
            one: _digest(volume.fetch(f"{FOLDER}/{one}", self._folder)) for one in {*self._earlier, name}
        }
        same("earlier dumps", {one: digests[one] for one in self._earlier}, self._earlier)
        size = (self._folder / name).stat().st_size
        same("name and bytes in the manifest", manifest.agrees(name, size), True)
        same("sha256", digests[name], manifest.get("sha256"))
        same("databases", sorted(manifest.databases), sorted(self._held.databases))
        counted = {(database, table): int(rows) for database, table, rows in manifest.all("table")}
        figures = {
            "bytes": size,
            "databases": len(manifest.databases),
            "tables": len(counted),
            "rows": manifest.rows(),
        }
        same("figures of the verdict", {key: self._round.job.verdict[key] for key in figures}, figures)
        same(
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
        restored = comparison.snapshot(self.restored)
        found = comparison.differences(self._held, restored)
        self._round.rows_compared, self._round.properties_compared = restored.rows, len(restored.objects)
        self._round.differences = len(found)
        if found:
            raise StoryError(f"{len(found)} differences; the first: {found[0]}")
        return (
            f"{restored.rows:,} rows of {len(restored.tables)} tables, {len(restored.objects):,} properties"
            f" of schema, roles and settings in {len(restored.databases)} databases: 0 differences"
        )

    def _look(self, note: str) -> str:
        self._round.rows_restored_of_those = dataset.count_rows_after(self.restored, note)
        same("later rows in the restored server", self._round.rows_restored_of_those, 0)
        # A comparison that sees nothing would have found no difference either.
        now = comparison.differences(self._held, comparison.snapshot(self._stack.database))
        if not now:
            raise StoryError("the live database was written to, and the comparison sees no difference")
        written = self._round.rows_written_afterwards
        return f"none of the {written} later rows is there; the live database has {len(now)} differences"


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
