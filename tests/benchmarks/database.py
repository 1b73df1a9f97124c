"""Dumps, their replica, drill and recovery, beside what a user without the chart would run."""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

import psycopg
from psycopg import sql

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import MANIFESTS, dump_name, manifest_name, stamp, time_of
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime import postgres
from stack_backup_lab.runtime.local import OWNER, LocalRuntime
from stack_backup_lab.story.stacks import CLAIM, CONSUMER_VALUES, JOB, NAMESPACE, STAGING, STOCK, VALUES
from tests.benchmarks.measure import MIB, Line, NotMeasuredError, green, settled, timed, with_command
from tests.benchmarks.molecules import fill

IMAGE = "postgres:15"
REPLICATOR = "postgres-replicator-backup"
LIVE = {
    "fsync": "on",
    "full_page_writes": "on",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_wal_size": "1GB",
}
"""What a live server has, where that of a test has what is fast."""
_OFF = {"enabled": False}
ALONE: Mapping[str, Any] = {
    **STOCK,
    "postgresBackupTiers": _OFF,
    "mediaReplicator": _OFF,
    "mediaRecovery": _OFF,
}

DUMP_ALL = (
    'export PGPASSWORD="$(</secrets/database/superuser-password)"; '
    'exec pg_dumpall --username="$DATABASE_SUPERUSER" --no-password >/dev/null'
)
LOAD = "gzip -dc /exchange/dump.gz | psql --no-psqlrc --quiet --output=/dev/null postgres"


class Database:
    """Production's stack, filled, and staging's, whose server is a live one."""

    def __init__(self, stacks: ExitStack, megabytes: int, replica_megabytes: int) -> None:
        runtime = LocalRuntime()
        self._folder = Path(stacks.enter_context(tempfile.TemporaryDirectory()))
        self._production = stacks.enter_context(runtime.stack(NAMESPACE, IMAGE))
        with _settings(LIVE):
            self._staging = stacks.enter_context(runtime.stack(STAGING, IMAGE))
        self._staging.install(merge_values(CONSUMER_VALUES, ALONE))
        self.bytes = fill(self._production, megabytes * MIB)
        self._replica_bytes = replica_megabytes * MIB
        limit = "pg_dumpall > /dev/null"
        self._gzip = Line("Hourly dump, .sql.gz", limit, 1.4)
        self._zstd = Line("Hourly dump, .sql.zst", limit, 1.2)
        self._replica = Line("Replica of a dump", "cp, sync, sha256sum", 1.3)
        self._drill = Line("Drill", "gunzip | psql, fsync off", 0.8)
        self._recovery = Line("Recovery to a live server", "gunzip | psql", 0.8)
        self.starts: list[float] = []
        self.away: list[float] = []
        """Seconds for which the live database took no connections."""

    @property
    def lines(self) -> list[Line]:
        return [self._gzip, self._zstd, self._replica, self._drill, self._recovery]

    def round(self) -> None:
        self.starts.append(self._seconds(JOB, "true", lent=True))
        start = min(self.starts)
        base = [self._dump_all()]
        zstd = self._backup("zstd")
        base.append(self._dump_all())
        gzip = self._backup("gzip")
        base.append(self._dump_all())
        self._zstd.add(zstd, start, mean(base[:2]))
        self._gzip.add(gzip, start, mean(base[1:]))
        dump = str(gzip.verdict["dump"])
        file = self._production.volume(CLAIM).fetch(f"hourly/{dump}", self._folder)
        theirs = self._load(file, {})
        with settled():
            self._drill.add(green(self._production.run("database-drill", timeout=7200)), start, theirs)
        green(self._production.run(REPLICATOR))
        theirs = self._load(file, LIVE)
        with settled(), self._watched():
            environment = {"CONFIRM": STAGING, "DUMP": time_of(dump)}
            result = self._staging.run("database-recovery", environment=environment, timeout=7200)
        self._recovery.add(green(result), start, theirs)
        self._drop_former()
        self._replicate(dump, start)

    def _dump_all(self) -> float:
        return self._bare(JOB, DUMP_ALL)

    def _backup(self, compressor: str) -> JobResult:
        self._production.apply(self._objects(compressor))
        self._production.volume(CLAIM).clear()
        with settled():
            return green(self._production.run(JOB, timeout=7200))

    def _objects(self, compressor: str = "gzip") -> Objects:
        values = merge_values(VALUES, ALONE, {"postgresBackupHourly": {"compressor": compressor}})
        return render(values, namespace=NAMESPACE)

    def _bare(self, job: str, script: str) -> float:
        """Seconds of a script in the job's own pod, which lends it nothing."""
        return self._seconds(job, script, lent=False) - self._seconds(job, "true", lent=False)

    def _seconds(self, job: str, script: str, *, lent: bool) -> float:
        self._production.apply(with_command(self._objects(), script, lent=lent))
        with settled():
            seconds = green(self._production.run(job, timeout=7200)).seconds
        self._production.apply(self._objects())
        return seconds

    def _load(self, dump: Path, settings: Mapping[str, str]) -> float:
        """Seconds of loading a dump into an empty server with these settings."""
        with _settings(settings), self._production.scratch_server() as server:
            shutil.copy(dump, server.log.parent / "exchange" / "dump.gz")
            (server.log.parent / "exchange" / "dump.gz").chmod(0o644)
            with settled():
                return timed(lambda: server.output("bash", "-c", LOAD))

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Connect to the live database all the time: the longest time between two connections counts."""
        ended, longest = threading.Event(), 0.0
        dsn = self._staging.database.dsn("frag")

        def watch() -> None:
            nonlocal longest
            seen = time.monotonic()
            while not ended.wait(0.02):
                with contextlib.suppress(psycopg.OperationalError):
                    psycopg.connect(dsn, connect_timeout=2).close()
                    longest, seen = max(longest, time.monotonic() - seen), time.monotonic()

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
        self.away.append(longest)

    def _drop_former(self) -> None:
        with psycopg.connect(self._staging.database.dsn("postgres"), autocommit=True) as connection:
            query = "SELECT datname FROM pg_database WHERE datname LIKE 'frag\\_%'"
            for (name,) in connection.execute(query.encode()).fetchall():
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _replicate(self, model: str, start: float) -> None:
        """Replicate a dump of a size of its own; what is in it does not matter there."""
        backup = self._production.volume(CLAIM)
        replica = self._production.volume(self._production.claim_of(REPLICATOR, "database-replica"))
        name = dump_name(stamp(), "gz")
        self._plant(backup.path / "hourly", model, name)
        copied = f"/replica/{name}.copied"
        theirs = self._bare(
            REPLICATOR, f"cp /backup/hourly/{name} {copied}; sync {copied}; sha256sum {copied}"
        )
        replica.remove(f"{name}.copied")
        with settled():
            self._replica.add(green(self._production.run(REPLICATOR, timeout=3600)), start, theirs)
        backup.clear()
        replica.clear()

    def _plant(self, folder: Path, model: str, name: str) -> None:
        """Bytes that no compressor shrinks, with the manifest of another dump that names them."""
        digest, size = hashlib.sha256(), 0
        with Path("/dev/urandom").open("rb") as source, (folder / name).open("wb") as file:
            while size < self._replica_bytes:
                data = source.read(MIB)
                digest.update(data)
                size += file.write(data)
        text = (folder / MANIFESTS / manifest_name(model)).read_text()
        for key, value in {"name": name, "bytes": size, "sha256": digest.hexdigest()}.items():
            text, found = re.subn(rf"^{key}\t.*$", f"{key}\t{value}", text, flags=re.MULTILINE)
            if not found:
                raise NotMeasuredError(f"the manifest of {model} has no {key}")
        (folder / MANIFESTS / manifest_name(name)).write_text(text)
        for path in (folder / name, folder / MANIFESTS / manifest_name(name)):
            shutil.chown(path, OWNER, OWNER)


@contextmanager
def _settings(settings: Mapping[str, str]) -> Iterator[None]:
    """Servers that are made meanwhile have these settings."""
    before = dict(postgres.SETTINGS)
    postgres.SETTINGS.update(settings)
    try:
        yield
    finally:
        postgres.SETTINGS.clear()
        postgres.SETTINGS.update(before)
