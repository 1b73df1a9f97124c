"""The whole story of production's data, told on either runtime: what the demo shows and the tests hold.

Production backs up its database and mirrors it, with its media. Staging and a developer's stack,
which may be in another cluster, recover both from there. The replica is altered, and whoever would need it
alarms. Then production's database is lost and recovered from its own volume. All of it twice.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import Exit
from stack_backup_lab.data import comparison, dataset, media_files
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime import ScheduledStack, Stack
from stack_backup_lab.story.engine import Step, StoryError, megabytes
from stack_backup_lab.story.stacks import (
    CLAIM,
    CONSUMER_VALUES,
    DEVELOPER,
    EVERY_MINUTE,
    FOLDER,
    JOB,
    MEDIA,
    STAGING,
    SUSPENDED,
    TEST_MACHINE,
    VALUES,
)

WITH_PAIR: Mapping[str, Any] = {
    "databaseDrill": {
        "references": "SELECT path FROM public.viewer_media",
        "assertions": {"users-are-there": "SELECT count(*) > 0 FROM public.auth_user"},
    }
}
"""Laid over production's values: the drill looks up the media files that the database names."""


@dataclass
class Recovery:
    """How one stack came back."""

    stack: str
    rows: int
    differences: int
    later_rows: int
    seconds: float


@dataclass
class Round:
    """One turn of the story, as it came out. What the story has not come to is missing."""

    backup: JobResult
    held: comparison.Snapshot
    databases: list[Recovery] = field(default_factory=list)
    media_files: int = 0
    media_bytes: int = 0
    media_differences: dict[str, int] = field(default_factory=dict)
    later_files: dict[str, int] = field(default_factory=dict)
    drill: JobResult | None = None
    alarm: JobResult | None = None

    @property
    def dump(self) -> str:
        return str(self.backup.verdict["dump"])


class WholeStory:
    """The story on three empty stacks. `rounds` fills as it goes.

    Where a CronJob has a controller, the first backup is left to it. Trees of media files are
    made and compared in `folder`, on this machine.
    """

    def __init__(
        self,
        production: Stack,
        staging: Stack,
        developer: Stack,
        folder: Path,
        *,
        molecules: int = 5000,
        files: int = 500,
        rounds: int = 2,
    ) -> None:
        self.rounds: list[Round] = []
        self._production, self._readers = production, {STAGING: staging, DEVELOPER: developer}
        self._folder = folder
        self._tree = folder / "media"
        self._molecules, self._files = molecules, files
        self._number = rounds
        self._values = merge_values(VALUES, TEST_MACHINE, WITH_PAIR, SUSPENDED)
        self._mirrored: media_files.Snapshot = {}

    def steps(self) -> Generator[Step, None, None]:
        yield Step("Install a release in each of the three stacks", self._install)
        yield Step("Fill production's database and media with real input", self._fill)
        for number in range(1, self._number + 1):
            note = f"written after backup {number}"
            if number == 1 and isinstance(self._production, ScheduledStack):
                yield Step("Wait for the scheduled backup", partial(self._await_backup, self._production))
            else:
                yield Step("Back up production's database", self._backup)
            yield Step("Go on writing rows and files", partial(self._go_on, note))
            yield Step("Keep the dump as the daily one", self._tier)
            yield Step("Replicate database and media", self._replicate)
            yield Step("Go on writing files", partial(self._write_files, f"after mirror {number}"))
            for name in self._readers:
                yield Step(f"Recover the database of {name}", partial(self._recover_database, name, note))
                yield Step(f"Recover the media of {name}", partial(self._recover_media, name, number))
            yield Step("Restore the dump in a drill, with the media that it names", self._drill)
            yield Step("Check the replicas where they are needed", self._check)
            yield Step("Alter one byte of the replica", self._alter)
            yield Step("Lose production's database, and recover it", partial(self._lose, note))

    @property
    def _round(self) -> Round:
        return self.rounds[-1]

    def _install(self) -> str:
        for stack in (self._production, *self._readers.values()):
            stack.add_claim(MEDIA)
        self._production.install(self._values)
        for reader in self._readers.values():
            reader.install(merge_values(CONSUMER_VALUES, TEST_MACHINE))
        return ", ".join(stack.namespace for stack in (self._production, *self._readers.values()))

    def _fill(self) -> str:
        summary = dataset.fill(self._production.database, molecules=self._molecules)
        self._tree.mkdir()
        media_files.fill(self._tree, files=self._files)
        self._production.volume(MEDIA).put_tree(self._tree)
        files = _files(media_files.snapshot(self._tree))
        with psycopg.connect(self._production.database.dsn(dataset.DATABASE)) as connection:
            connection.execute(f"SET LOCAL ROLE {dataset.OWNER}".encode())
            connection.execute("CREATE TABLE public.viewer_media (path text PRIMARY KEY)")
            with connection.cursor() as cursor, cursor.copy("COPY viewer_media FROM STDIN") as copy:
                for path in _nameable(files):
                    copy.write_row((path,))
        return (
            f"{summary.rows:,} rows, {summary.molecules:,} molecules of RDKit among them; "
            f"{len(files):,} files, {megabytes(sum(files.values()))}"
        )

    # Production's jobs

    def _await_backup(self, stack: ScheduledStack) -> str:
        held = self._snapshot(self._production)
        self._production.install(merge_values(self._values, EVERY_MINUTE))
        try:
            return self._begin(stack.await_scheduled(JOB, timeout=240), held)
        finally:
            self._production.install(self._values)

    def _backup(self) -> str:
        held = self._snapshot(self._production)
        return self._begin(self._production.run(JOB), held)

    def _begin(self, result: JobResult, held: comparison.Snapshot) -> str:
        verdict = _green(result, "published")
        self.rounds.append(Round(result, held))
        return f"{verdict['dump']}: {megabytes(verdict['bytes'])}, {verdict['rows']:,} rows"

    def _go_on(self, note: str) -> str:
        rows = dataset.add_rows_after(self._production.database, note)
        return f"{rows} new rows, others changed and deleted, a new table; {self._write_files(note)}"

    def _write_files(self, note: str) -> str:
        """Files that nothing in the database names yet, one of them in the place of an earlier one."""
        folder = self._folder / f"new {note}"
        for name in (f"{note}/new.sdf", f"{note}/größer.pdb", "changed"):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{note}: {name}\n" * 100, encoding="utf-8")
        self._production.volume(MEDIA).put_tree(folder)
        shutil.copytree(folder, self._tree, dirs_exist_ok=True)
        return "2 new files, one changed"

    def _tier(self) -> str:
        verdict = _green(self._production.run("postgres-backup-daily"), "published", "present")
        if verdict["dump"] not in self._production.volume(CLAIM).list("daily"):
            raise StoryError(f"{verdict['dump']} is not in the folder daily")
        return f"{verdict['outcome']}: {verdict['dump']}"

    def _replicate(self) -> str:
        dump = _green(self._production.run("postgres-replicator-backup"), "published")
        if dump["dump"] != self._round.dump:
            raise StoryError(f"the replica holds {dump['dump']}, not {self._round.dump}")
        _green(self._production.run("media-replicator"), "copied")
        self._mirrored = media_files.snapshot(self._tree)
        files = _files(self._mirrored)
        self._round.media_files, self._round.media_bytes = len(files), sum(files.values())
        return f"{dump['dump']} and {len(files):,} files, {megabytes(self._round.media_bytes)}"

    def _drill(self) -> str:
        result = self._round.drill = self._production.run("database-drill")
        verdict = _green(result, "proved")
        return f"{verdict['rows']:,} rows restored and counted; {verdict['message']}"

    # The other stacks

    def _recover_database(self, name: str, note: str) -> str:
        stack = self._readers[name]
        result = stack.run("database-recovery", environment={"CONFIRM": stack.namespace})
        recovery = self._recovered(stack, result, note)
        own, theirs = (_password(one, dataset.OWNER) for one in (stack, self._production))
        psycopg.connect(stack.database.dsn(dataset.DATABASE, dataset.OWNER, own)).close()
        with suppress(psycopg.OperationalError):
            psycopg.connect(stack.database.dsn(dataset.DATABASE, dataset.OWNER, theirs)).close()
            raise StoryError(f"production's password opens the database of {stack.namespace}")
        return (
            f"{recovery.rows:,} rows compared, 0 differences, none of the later rows; "
            f"{dataset.OWNER} logs in with the stack's own password, and not with production's"
        )

    def _recovered(self, stack: Stack, result: JobResult, note: str) -> Recovery:
        """Compare a recovered database with what production's held when the dump was taken."""
        _green(result, "recovered")
        now = self._snapshot(stack)
        found = [
            one
            for one in comparison.differences(self._round.held, now)
            if one.database == dataset.DATABASE  # roles and settings of a server are its own
        ]
        later = dataset.count_rows_after(stack.database, note)
        recovery = Recovery(stack.namespace, now.rows, len(found), later, result.seconds)
        self._round.databases.append(recovery)
        if found:
            raise StoryError(f"{len(found)} differences in {stack.namespace}; the first: {found[0]}")
        if later:
            raise StoryError(f"{later} rows that were written after the backup are in {stack.namespace}")
        return recovery

    def _recover_media(self, name: str, number: int) -> str:
        stack = self._readers[name]
        environment = {"CONFIRM": stack.namespace, "DELETE": "true"}
        verdict = _green(stack.run("media-recovery", environment=environment), "copied")
        back = self._folder / f"back {name} {number}"
        back.mkdir()
        stack.volume(MEDIA).get_tree(back)
        now = media_files.snapshot(back)
        found = media_files.differences(self._mirrored, now)
        later = sum(f"after mirror {number}" in path for path in now)
        self._round.media_differences[stack.namespace] = len(found)
        self._round.later_files[stack.namespace] = later
        if found or later:
            raise StoryError(f"{len(found)} differences, {later} later files; {found[:1]}")
        shutil.rmtree(back)
        return f"{len(_files(now)):,} files compared byte by byte, 0 differences; {verdict['message']}"

    def _check(self) -> str:
        for stack in self._readers.values():
            _green(stack.run("replica-check"), "sound")
        return "sound, in both"

    def _alter(self) -> str:
        """One byte, as a disk or a hand may change it; it is changed back afterwards."""
        claim = self._production.claim_of("postgres-replicator-backup", "database-replica")
        volume = self._production.volume(claim)
        path = f"{FOLDER}/{self._round.dump}"
        good = volume.read(path)
        middle = len(good) // 2
        volume.write(path, good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :])
        try:
            result = self._readers[DEVELOPER].run("replica-check")
        finally:
            volume.write(path, good)
        self._round.alarm = result
        if result.exit_code != Exit.DATA:
            raise StoryError(f"a replica with an altered byte gave exit code {result.exit_code}")
        _green(self._readers[DEVELOPER].run("replica-check"), "sound")
        return f"exit code {result.exit_code} in {DEVELOPER}: {result.verdict['message']}"

    def _lose(self, note: str) -> str:
        server = self._production.database
        later = dataset.count_rows_after(server, note)
        server.execute(f"DROP DATABASE {dataset.DATABASE} WITH (FORCE)")
        environment = {"CONFIRM": self._production.namespace}
        result = self._production.run("database-recovery", environment=environment)
        recovery = self._recovered(self._production, result, note)
        own = _password(self._production, dataset.OWNER)
        psycopg.connect(server.dsn(dataset.DATABASE, dataset.OWNER, own)).close()
        return f"{recovery.rows:,} rows compared, 0 differences; the {later} rows after the backup are gone"

    def _snapshot(self, stack: Stack) -> comparison.Snapshot:
        return comparison.snapshot(stack.database, [dataset.DATABASE])


def _green(result: JobResult, *outcomes: str) -> Mapping[str, Any]:
    """The verdict of a job that must have ended well, with one of these outcomes."""
    if not result.succeeded or result.verdict.get("outcome") not in outcomes:
        said = result.verdict.get("message") or result.reason or result.log
        raise StoryError(f"{result.job} ended with exit code {result.exit_code}: {said}")
    return result.verdict


def _password(stack: Stack, user: str) -> str:
    return str(conninfo_to_dict(stack.database.dsn(dataset.DATABASE, user))["password"])


def _files(tree: media_files.Snapshot) -> dict[str, int]:
    """The sizes of a tree's regular files, by path."""
    return {path: entry.size for path, entry in tree.items() if entry.kind == "file"}


def _nameable(paths: Iterable[str]) -> list[str]:
    """Those paths that are UTF-8, which alone a database can hold."""
    return [path for path in paths if path.encode(errors="replace") == path.encode(errors="surrogateescape")]
