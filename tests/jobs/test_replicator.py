"""The replica of the dumps: whole, under the same name, and never less than it was."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.render import merge_values, render
from stack_backup_lab.runtime.local import LocalStack, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.dumps import DumpFolder, Sample
from tests.jobs.hourly import NAMESPACE, VALUES, Hourly
from tests.jobs.mutants import mutant
from tests.outcomes import green, red

JOB = "postgres-replicator-backup"
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
REPLICA = {
    "postgresReplicatorBackup": {"enabled": True},
    "volumes": {"databaseReplica": {"nfs": {"server": "nfs.example.org", "path": "/replicator"}}},
}
UNTOUCHED = "every earlier dump of the replica is as it was"
COPYING = "'/replica/hourly/.tmp.backup-' in path"
"""What is done to the unfinished copy."""
READING_BACK = f"{COPYING} and args[1] in ('r', 'rb')"
PUBLISHING = "'/replica/hourly/backup-' in target"
REPLACING = "'/replica/hourly/.manifest/' in target"
"""The manifest gets its final name."""


@dataclasses.dataclass(frozen=True)
class Replica:
    """The replica of the production stack's dumps, and the hourly folder that it is fed from."""

    stack: LocalStack
    hourly: Hourly
    folder: DumpFolder

    def start(self, **changes: Any) -> RunningJob:
        return self.stack.start(JOB, Faults(**changes))

    def run(self, **changes: Any) -> JobResult:
        with self.start(**changes) as job:
            return job.wait()

    def plant_nights(self, count: int) -> list[str]:
        """Dumps of the last nights, oldest first, which came into the replica long ago."""
        names = [self.folder.plant(n * DAY) for n in range(count, 0, -1)]
        self.folder.make_old(DAY)
        return names


@pytest.fixture
def replica(hourly: Hourly, sample: Sample) -> Replica:
    hourly.install(REPLICA)
    objects = render(merge_values(VALUES, REPLICA), namespace=NAMESPACE)
    claims = [claim["metadata"]["name"] for claim in objects.of_kind("PersistentVolumeClaim")]
    [claim] = [name for name in claims if name.startswith("database-replica")]
    volume = hourly.stack.volume(claim)
    volume.clear()
    return Replica(hourly.stack, hourly, DumpFolder(volume, "hourly", sample))


def refused(replica: Replica, code: int, *words: str, **changes: Any) -> JobResult:
    """A run that must fail and leave source and replica as they were."""
    with replica.hourly.unharmed(), replica.folder.unharmed():
        result = replica.run(**changes)
    red(result, code, UNTOUCHED, *words)
    return result


# ---- what is copied ----


def test_the_newest_dump_comes_into_the_replica_with_its_manifest(replica: Replica) -> None:
    replica.hourly.plant(2 * HOUR)
    name = replica.hourly.backup()
    with replica.hourly.unharmed(), replica.folder.unharmed(published=1):
        result = replica.run()
    green(result)
    verdict = result.verdict
    assert (verdict["outcome"], verdict["dump"], verdict["verified"]) == ("published", name, 1)
    assert verdict["bytes"] == len(replica.hourly.read(name))
    assert verdict["rows"] == replica.hourly.rows(name) > 0
    assert 0 <= verdict["age_seconds"] < 60
    assert replica.folder.dumps() == [name]
    assert replica.folder.read(name) == replica.hourly.read(name)
    assert replica.folder.volume.read(replica.folder.manifest_path(name)) == replica.hourly.volume.read(
        replica.hourly.manifest_path(name)
    )
    assert replica.folder.others() == []
    status = (replica.folder.volume.path / "hourly" / name).stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 999, 999)


def test_what_is_there_already_is_success(replica: Replica) -> None:
    [name] = replica.hourly.plant_verified(1)
    assert replica.run().succeeded
    with replica.folder.unharmed():
        result = replica.run()
    green(result)
    assert (result.verdict["outcome"], result.verdict["dump"]) == ("present", name)


def test_two_are_kept(replica: Replica) -> None:
    old = replica.plant_nights(3)
    [new] = replica.hourly.plant_verified(1)
    result = replica.run()
    green(result)
    assert replica.folder.dumps() == replica.folder.verified() == [old[-1], new]
    assert (result.verdict["removed"], result.verdict["verified"]) == (2, 2)
    assert replica.folder.others() == []


def test_a_suspicious_dump_is_passed_over(replica: Replica) -> None:
    good = replica.hourly.plant(2 * HOUR)
    replica.hourly.plant(HOUR, suspicious="yes")
    assert replica.run().succeeded
    assert replica.folder.dumps() == [good]


# ---- the source ----


def test_a_source_that_stands_still_is_copied_but_red_and_removes_nothing(replica: Replica) -> None:
    old = replica.plant_nights(3)
    name = replica.hourly.plant(4 * HOUR)
    replica.hourly.plant(HOUR, suspicious="yes")
    with replica.folder.unharmed(published=1):
        result = replica.run()
    red(result, 65, name, "240 minutes old", "(maximum: 180)", "no dump was removed", "suspicious")
    assert replica.folder.dumps() == [*old, name]

    with replica.folder.unharmed():
        again = replica.run()
    red(again, 65, name, "no dump was removed")


def test_a_source_older_than_the_replica_is_not_copied_over_it(replica: Replica) -> None:
    replica.hourly.plant(2 * HOUR)
    newer = replica.folder.plant(HOUR)
    with replica.folder.unharmed():
        result = replica.run()
        green(result)
        assert (result.verdict["outcome"], result.verdict["dump"]) == ("present", newer)
        result = replica.run(environment={"MAXIMUM_AGE_SECONDS": "3600"})
        red(result, 65, f"newer {newer}", "120 minutes old")


def test_a_damaged_source_is_refused_and_no_other_takes_its_place(replica: Replica) -> None:
    replica.plant_nights(3)
    replica.hourly.plant(2 * HOUR)
    bad = replica.hourly.plant(HOUR)
    replica.hourly.damage(bad)
    refused(replica, 65, f"The source {bad}", "sha256 differs")


def test_a_source_that_is_short_counts_for_nothing(replica: Replica, sample: Sample) -> None:
    good = replica.hourly.plant(2 * HOUR)
    short = replica.hourly.plant(HOUR)
    replica.hourly.volume.write(f"hourly/{short}", sample.dump[:-1])
    assert replica.run().succeeded
    assert replica.folder.dumps() == [good]


def test_no_verified_dump(replica: Replica) -> None:
    replica.plant_nights(2)
    replica.hourly.plant(HOUR, verified=False)
    refused(replica, 66, "no verified dump", "hourly backup")


def test_no_folder_of_dumps(replica: Replica) -> None:
    replica.plant_nights(2)
    refused(replica, 66, "There is no folder /backup/hourly")


def test_a_source_that_cannot_be_read(replica: Replica) -> None:
    replica.plant_nights(2)
    [name] = replica.hourly.plant_verified(1)
    failing = faults.fail_python("open", "EIO", "path.startswith('/backup/hourly/backup-')")
    refused(replica, 74, "Input/output error", python=failing)
    (replica.hourly.volume.path / "hourly" / name).chmod(0)
    refused(replica, 77, "Permission denied")


def test_a_dump_that_is_being_written_is_none(replica: Replica) -> None:
    """Neither its unfinished file nor a manifest that came first is taken for a dump."""
    good = replica.hourly.plant(HOUR)
    with replica.hourly.start(python=faults.hold_python("os.link", "'/hourly/backup-' in target")) as dump:
        dump.reached("reached")
        assert replica.run().succeeded
        dump.release("go")
        assert dump.wait().succeeded
    assert replica.folder.dumps() == [good]


def test_a_stack_that_began_anew_pushes_out_no_good_dump(replica: Replica) -> None:
    """Volume and database were lost together; deployed anew, its hourly dumps have no measure."""
    old = [replica.folder.plant(n * DAY, sql_bytes=10**9, system_identifier=7) for n in range(3, 0, -1)]
    replica.folder.make_old(DAY)
    name = replica.hourly.backup()
    result = refused(
        replica, 65, name, old[-1], "shrank", "another server", "postgresReplicatorBackup.minimumShare 0"
    )
    assert "no dump was removed" in result.verdict["message"]

    # Told that the loss is meant, it takes it.
    replica.hourly.install(merge_values(REPLICA, {"postgresReplicatorBackup": {"minimumShare": 0}}))
    assert replica.run().verdict["outcome"] == "published"


def test_a_manifest_that_cannot_be_read_makes_no_older_dump_the_newest(replica: Replica) -> None:
    replica.hourly.plant(2 * HOUR)
    new = replica.hourly.plant(HOUR)
    (replica.hourly.volume.path / replica.hourly.manifest_path(new)).chmod(0)
    refused(replica, 77, new, "Permission denied")


# ---- the replica ----


def test_a_damaged_copy_of_the_same_name_is_noticed(replica: Replica) -> None:
    replica.plant_nights(2)
    [name] = replica.hourly.plant_verified(1)
    assert replica.run().succeeded
    replica.folder.damage(name)
    refused(replica, 65, f"/replica/hourly/{name}", "sha256 differs", "move it away")

    # What the sentence says helps.
    replica.folder.volume.remove(f"hourly/{name}")
    assert replica.run().verdict["outcome"] == "published"
    assert replica.folder.read(name) == replica.hourly.read(name)


def test_a_short_copy_of_the_same_name_is_noticed(replica: Replica) -> None:
    [name] = replica.hourly.plant_verified(1)
    assert replica.run().succeeded
    replica.folder.volume.write(f"hourly/{name}", b"short")
    refused(replica, 65, name, "move it away")


@pytest.mark.parametrize("manifest", [None, b"format\t1\nname\t"], ids=["without", "with half of"])
def test_a_copy_is_given_the_manifest_that_it_lacks(replica: Replica, manifest: bytes | None) -> None:
    [name] = replica.hourly.plant_verified(1)
    assert replica.run().succeeded
    replica.folder.volume.remove(replica.folder.manifest_path(name))
    if manifest is not None:
        replica.folder.volume.write(replica.folder.manifest_path(name), manifest)
    assert replica.run().verdict["outcome"] == "present"
    assert replica.folder.verified() == [name]


def test_no_good_dump_is_removed_on_the_strength_of_a_damaged_one(replica: Replica) -> None:
    old = replica.plant_nights(3)
    replica.folder.damage(old[-1])
    replica.folder.make_old(DAY)
    [new] = replica.hourly.plant_verified(1)
    result = replica.run()
    red(result, 65, f"The replica holds {new}, whole", old[-1], "count for nothing")
    assert replica.folder.dumps() == [old[1], old[2], new], "two good ones, and the damaged one between them"

    # The night after, two good ones are newer than the damaged one.
    replica.folder.make_old(DAY)
    newest = replica.hourly.plant(HOUR / 2)
    result = replica.run()
    green(result)
    assert replica.folder.dumps() == [new, newest]


def test_a_reader_never_loses_the_file_that_it_reads(replica: Replica) -> None:
    """Who began with the newest dump has hours to read it, however many newer ones come meanwhile."""
    replica.folder.plant(30 * DAY)
    replica.folder.make_old(30 * DAY)
    names = []
    for minutes in (50, 40, 30, 20):
        names.append(replica.hourly.plant(timedelta(minutes=minutes)))
        assert replica.run().succeeded
        if minutes == 50:
            reader = (replica.folder.volume.path / "hourly" / names[0]).open("rb")
            inode = (replica.folder.volume.path / "hourly" / names[0]).stat().st_ino
    with reader:
        assert reader.read() == replica.hourly.read(names[0])
    assert set(names) <= set(replica.folder.dumps())
    assert (replica.folder.volume.path / "hourly" / names[0]).stat().st_ino == inode

    replica.folder.make_old(timedelta(seconds=21600 - 60))
    assert replica.run().verdict["removed"] == 0
    replica.folder.make_old(timedelta(seconds=21600 + 60))
    assert replica.run().verdict["removed"] == 3
    assert replica.folder.dumps() == names[-2:]


def test_a_folder_of_another_stack_is_refused(replica: Replica) -> None:
    replica.hourly.plant_verified(1)
    replica.folder.plant(DAY, namespace="other-stack")
    refused(replica, 77, 'namespace "other-stack"', f'"{NAMESPACE}"')


def test_a_replica_without_room(replica: Replica) -> None:
    replica.plant_nights(2)
    replica.hourly.plant_verified(1)
    with replica.folder.volume.limited(2_900_000):
        result = refused(replica, 73, "/replica/hourly has", "the dump needs")
    assert "No space left" not in result.log, "it is known before anything is written"


def test_a_replica_that_fills_up_amid_the_copy(replica: Replica) -> None:
    replica.plant_nights(2)
    replica.hourly.plant_verified(1)
    plenty = faults.patch_python("stack_backup_jobs.folder", "Folder.room = lambda self: 10**12")
    with replica.folder.volume.limited(2_500_000):
        refused(replica, 73, "No space left", python=plenty)


def test_a_replica_that_is_read_only(replica: Replica) -> None:
    replica.plant_nights(2)
    replica.hourly.plant_verified(1)
    with replica.folder.volume.read_only():
        refused(replica, 77, "Read-only file system")


def test_a_replica_that_belongs_to_someone_else(replica: Replica) -> None:
    replica.plant_nights(2)
    replica.hourly.plant_verified(1)
    folder = replica.folder.volume.path / "hourly"
    folder.chmod(0o555)
    try:
        refused(replica, 77, "Permission denied", "999:999")
    finally:
        folder.chmod(0o2775)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        ("EIO", 74, "Input/output error"),
        ("ENOSPC", 73, "No space left on device"),
        ("ESTALE", 75, "Stale file handle"),
    ],
)
def test_a_file_server_that_cannot_keep_what_it_took(
    replica: Replica, error: str, code: int, words: str
) -> None:
    replica.plant_nights(2)
    replica.hourly.plant_verified(1)
    refused(replica, code, words, python=faults.fail_python("os.fsync", error, COPYING))


DAMAGED = faults.patch_python(
    "stack_backup_jobs.folder",
    """
real = read_afresh
def read_afresh(job, path, what=""):
    os.truncate(path, path.stat().st_size - 1)
    return real(job, path, what)
""",
)


def test_a_replica_that_gives_back_something_else(replica: Replica) -> None:
    replica.plant_nights(2)
    replica.hourly.plant_verified(1)
    refused(replica, 74, "reads back differently", python=DAMAGED)


LOST = {
    "link": """
def lost(path, name):
    real(path, name)
    if name.name.startswith("backup-"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
real, os.link = os.link, lost
""",
    "rename": """
def lost(path, name):
    real(path, name)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
real, os.rename = os.rename, lost
os.replace = lost
""",
}


@pytest.mark.parametrize("call", LOST)
def test_an_answer_lost_by_the_file_server_is_no_failure(replica: Replica, call: str) -> None:
    replica.hourly.plant_verified(1)
    with replica.folder.unharmed(published=1):
        result = replica.run(python=faults.patch_python("stack_backup_jobs.folder", LOST[call]))
    green(result)


def test_an_old_dump_that_cannot_be_removed_is_told(replica: Replica) -> None:
    replica.plant_nights(3)
    [new] = replica.hourly.plant_verified(1)
    stuck = faults.fail_python("os.remove", "EIO", "'/hourly/backup-' in path")
    result = replica.run(python=stuck)
    red(result, 75, f"The replica holds {new}, whole", "could not be removed")
    assert len(replica.folder.verified()) == 4


# ---- two runs, and ends from outside ----


@pytest.mark.parametrize("point", ["amid the copy", "publishing the manifest", "publishing the dump"])
def test_two_runs_at_once_make_one_copy(replica: Replica, point: str) -> None:
    [name] = replica.hourly.plant_verified(1)
    with replica.folder.unharmed(published=1), replica.start(python=POINTS[point]) as first:
        first.reached("reached")
        second = replica.run()
        first.release("go")
        results = [first.wait(), second]
    assert [result.verdict["outcome"] for result in results] == ["present", "published"], [
        result.log for result in results
    ]
    assert replica.folder.dumps() == replica.folder.verified() == [name]


def test_a_copy_that_never_ends_is_ended_at_the_inner_deadline(replica: Replica) -> None:
    replica.hourly.plant_verified(1)
    slow = {"DEADLINE_SECONDS": "124"}
    refused(replica, 124, "within 4 s", environment=slow, python=POINTS["amid the copy"])


def test_a_pod_that_is_started_again_has_the_rest_of_the_jobs_time(replica: Replica) -> None:
    """The Job began three minutes ago, as its first pod has noted."""
    replica.hourly.plant_verified(1)
    began = f"{datetime.now(UTC) - timedelta(seconds=180):%Y-%m-%dT%H:%M:%SZ}\n"
    environment = {"JOB_NAME": "night-1", "DEADLINE_SECONDS": "310"}
    note = replica.folder.volume.path / "hourly/.tmp.run.night-1"
    replica.folder.volume.write("hourly/.tmp.run.night-1", began.encode())
    result = refused(replica, 124, environment=environment, python=POINTS["amid the copy"])
    assert result.verdict["seconds"] <= 12, "not three minutes"
    assert f"The Job began at {began.strip()}" in result.log
    assert note.read_text() == began
    assert replica.run(environment={**environment, "DEADLINE_SECONDS": "900"}).succeeded
    assert not note.exists(), "nobody starts what is done"


POINTS: dict[str, str] = {
    "the first look": faults.hold_python("os.scandir"),
    "the write probe": faults.hold_python("os.link", "'probe' in target"),
    "the room": faults.hold_python("stack_backup_jobs.folder:Folder.room"),
    "the source": faults.hold_python("open", "path.startswith('/backup/hourly/backup-')"),
    "amid the copy": faults.hold_python("os.write", COPYING),
    "the fsync": faults.hold_python("os.fsync", COPYING),
    "the read-back": faults.hold_python("open", READING_BACK),
    "the manifest": faults.hold_python("open", "'/replica/hourly/.manifest/.tmp.' in path"),
    "publishing the manifest": faults.hold_python("os.rename", REPLACING),
    "publishing the dump": faults.hold_python("os.link", PUBLISHING),
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_ended_amid_the_retention(replica: Replica, number: signal.Signals) -> None:
    replica.plant_nights(4)
    [new] = replica.hourly.plant_verified(1)
    with replica.start(python=faults.hold_python("os.remove", "'/hourly/backup-' in path")) as job:
        job.reached("reached")
        job.signal(number)
        job.release("go")
        result = job.wait()
    assert result.exit_code == 128 + number
    assert new in replica.folder.verified()
    if number == signal.SIGTERM:
        assert f"The replica holds {new}, whole" in result.verdict["message"]
    assert replica.run().verdict["outcome"] == "present"
    assert len(replica.folder.dumps()) == len(replica.folder.verified()) == 2


def test_leftovers_of_killed_runs_are_swept_when_they_are_old_enough(replica: Replica) -> None:
    replica.hourly.plant_verified(1)
    replica.folder.volume.write("hourly/.tmp.backup-2001-01-01T00:00:00Z-dumpall.sql.gz.pod.1.2", b"half")
    replica.folder.volume.write("hourly/.manifest/.tmp.x", b"half")
    replica.folder.make_old(timedelta(seconds=7200 + 300 - 60))
    assert replica.run().succeeded
    assert len(replica.folder.others()) == 2
    replica.folder.make_old(timedelta(seconds=7200 + 300 + 60))
    assert replica.run().succeeded
    assert replica.folder.others() == []


def test_a_dump_from_the_future_is_not_the_newest(replica: Replica) -> None:
    good = replica.hourly.plant(HOUR)
    replica.hourly.plant_at(datetime(2099, 1, 1, tzinfo=UTC))
    assert replica.run().succeeded
    assert replica.folder.dumps() == [good]


# ---- with one safeguard taken out ----

MUTANTS: dict[str, tuple[str, str, str, Callable[[Replica], None]]] = {
    "any age will do": (
        "replicator.py",
        "    if dump.age > maximum:",
        "    if False:",
        test_a_source_that_stands_still_is_copied_but_red_and_removes_nothing,
    ),
    "no grace for readers": (
        "replicator.py",
        "settings.keep, settings.grace_seconds,",
        "settings.keep, 0,",
        test_a_reader_never_loses_the_file_that_it_reads,
    ),
    "a damaged dump counts": (
        "replicator.py",
        " == sha256_of(dump)",
        " != ''",
        test_no_good_dump_is_removed_on_the_strength_of_a_damaged_one,
    ),
    "any folder is ours": (
        "replicator.py",
        "if before and ours != theirs:",
        "if False:",
        test_a_folder_of_another_stack_is_refused,
    ),
    "what shrank is as good as any": (
        "replicator.py",
        "if before and (why",
        "if not before and (why",
        test_a_stack_that_began_anew_pushes_out_no_good_dump,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(replica: Replica, tmp_path: Path, name: str) -> None:
    file, safeguard, instead, test = MUTANTS[name]
    chart = mutant(tmp_path, f"stack_backup_jobs/{file}", safeguard, instead)
    replica.stack.apply(render(merge_values(VALUES, REPLICA), namespace=NAMESPACE, chart=chart))
    with pytest.raises(AssertionError):
        test(replica)
