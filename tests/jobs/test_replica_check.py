"""The check of the replicas: green only while both are young, whole and what was recorded of them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.render import merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack, LocalVolume, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.dumps import DumpFolder, Sample
from tests.jobs.hourly import IMAGE, VALUES
from tests.jobs.mutants import mutant
from tests.outcomes import green, red
from tests.render import contract

JOB = "replica-check"
NAMESPACE = "staging-stack"
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
EXPORTS = {
    "databaseReplica": {"nfs": {"server": "nfs.example.org", "path": "/check-db"}},
    "mediaReplica": {"nfs": {"server": "nfs.example.org", "path": "/check-media"}},
}
CHECK = merge_values(
    VALUES,
    {"postgresBackupHourly": {"enabled": False}, "replicaCheck": {"enabled": True}, "volumes": EXPORTS},
)
NO_MEDIA = {"environment": {"MEDIA_REPLICA_VOLUME": ""}}
NO_DUMPS = {"environment": {"REPLICA_VOLUME": ""}}
READ = "stack_backup_jobs.folder:read_afresh"
OF_DUMP, OF_MEDIA = "target.startswith('/replica/')", "target.startswith('/media-replica/')"
"""Which file is read."""
COUNT = "stack_backup_jobs.measure:measure"

FILES: Mapping[str, bytes] = {
    "targets/A71/aligned.pdb": b"ATOM\n" * 1000,
    "targets/A71/empty": b"",
    "targets/two\nlines\tand a tab": b"1",
    "targets/back\\slash\\n": b"22",
    "-rf": b"333",
    " blank ": b"4444",
    os.fsdecode(b"invalid \xff utf-8"): b"55555",
}


@dataclasses.dataclass(frozen=True)
class Check:
    """The check in a stack of the other cluster, and the two replicas that it reads."""

    stack: LocalStack
    dumps: DumpFolder
    media: LocalVolume
    state: LocalVolume

    def start(self, **changes: Any) -> RunningJob:
        return self.stack.start(JOB, Faults(**changes))

    def run(self, **changes: Any) -> JobResult:
        with self.start(**changes) as job:
            return job.wait()

    def sound(self, **changes: Any) -> Mapping[str, Any]:
        """A run that must be green; its verdict."""
        result = self.run(**changes)
        green(result, "sound")
        return result.verdict

    def mirror(self, files: Mapping[str, bytes] = FILES, age: timedelta = HOUR, **state: str) -> None:
        """The media replica as a mirror leaves it that ended `age` ago; `state` gives other values."""
        for path, data in files.items():
            self.media.write(path, data)
        (self.media.path / "link").symlink_to("targets")
        self.media.write(".stack-backup/trash/2024-01-01T00:00:00Z/old", b"not counted")
        lines = {
            "format": "1",
            "status": "complete",
            "since": stamp(age + MINUTE),
            "completed": stamp(age),
            "files": str(len(files)),
            "bytes": str(sum(map(len, files.values()))),
            "namespace": "production-stack",
            **state,
        }
        self.write_state(lines)
        sample = "".join(
            f"{hashlib.sha256(data).hexdigest()}\t{len(data)}\t{escaped(path)}\n"
            for path, data in files.items()
        )
        self.media.write(".stack-backup/sample.tsv", os.fsencode(sample))

    def mirror_again(self, **state: str) -> None:
        """Another state over the same files."""
        lines = dict(
            line.split("\t", 1) for line in self.media.read(".stack-backup/state").decode().splitlines()
        )
        self.write_state({**lines, **state})

    def write_state(self, lines: Mapping[str, str]) -> None:
        text = "".join(f"{key}\t{value}\n" for key, value in lines.items() if value)
        self.media.write(".stack-backup/state", text.encode())


def stamp(age: timedelta) -> str:
    return f"{datetime.now(UTC) - age:%Y-%m-%dT%H:%M:%SZ}"


def escaped(path: str) -> str:
    return path.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n")


@pytest.fixture(scope="module")
def staging(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, IMAGE) as stack:
        stack.add_claim("media")
        yield stack


@pytest.fixture
def check(staging: LocalStack, sample: Sample) -> Check:
    """Both replicas as they should be."""
    staging.install(CHECK)
    claims = [
        claim["metadata"]["name"]
        for claim in render(CHECK, namespace=NAMESPACE).of_kind("PersistentVolumeClaim")
    ]
    volumes = {}
    for kind in ("database-replica", "media-replica", "replica-check"):
        [claim] = [name for name in claims if name.startswith(kind)]
        volumes[kind] = staging.volume(claim)
        volumes[kind].clear()
    dumps = DumpFolder(volumes["database-replica"], "hourly", sample)
    found = Check(staging, dumps, volumes["media-replica"], volumes["replica-check"])
    dumps.plant(26 * HOUR)
    dumps.plant(2 * HOUR)
    found.mirror()
    return found


def alarm(check: Check, code: int, *words: str, **changes: Any) -> JobResult:
    result = check.run(**changes)
    red(result, code, *words)
    return result


# ---- all is well ----


def test_two_sound_replicas(check: Check) -> None:
    newest = check.dumps.dumps()[-1]
    verdict = dict(check.sound())
    assert (verdict["dump"], verdict["rows"]) == (newest, check.dumps.rows(newest))
    assert verdict["stack"] == verdict["media_stack"] == contract.NAMESPACE
    assert verdict["verified"] == 2
    assert abs(verdict["age_seconds"] - 7200) < 60
    assert abs(verdict["media_age_seconds"] - 3600) < 60
    assert verdict["media_files"] == len(FILES)
    assert verdict["media_bytes"] == sum(map(len, FILES.values()))
    assert verdict["media_sampled"] == len(FILES)
    assert newest in verdict["message"]


def test_the_check_writes_nothing_to_the_replicas(check: Check) -> None:
    with check.dumps.unharmed(), check.dumps.volume.read_only(), check.media.read_only():
        check.sound()
    assert check.state.list() == ["dump"]


def test_a_dump_that_the_replicator_brought(check: Check, production: LocalStack) -> None:
    """The real way, in two stacks: production writes the export, and staging reads it."""
    production.volume("database-backup").clear()
    check.dumps.volume.clear()
    volumes = {"databaseReplica": EXPORTS["databaseReplica"]}
    production.install(
        merge_values(VALUES, {"postgresReplicatorBackup": {"enabled": True}, "volumes": volumes})
    )
    assert production.run("postgres-backup-hourly").succeeded
    brought = production.run("postgres-replicator-backup")
    assert brought.succeeded, brought.log
    assert check.sound()["dump"] == brought.verdict["dump"]
    check.dumps.damage(brought.verdict["dump"])
    alarm(check, 65, brought.verdict["dump"], "altered")


def test_media_that_the_mirror_brought(check: Check) -> None:
    """The real mirror, its state and its sample."""
    check.media.clear()
    source = check.stack.volume("media")
    for path, data in FILES.items():
        source.write(path, data)
    check.stack.install(merge_values(CHECK, {"mediaReplicator": {"enabled": True}}))
    mirrored = check.stack.run("media-replicator")
    assert mirrored.succeeded, mirrored.log
    verdict = check.sound()
    assert verdict["media_files"] == verdict["media_sampled"] == len(FILES)
    check.media.write("targets/two\nlines\tand a tab", b"2")
    alarm(check, 65, "two\\nlines\\tand a tab", "altered")


# ---- the dumps ----


def test_a_dump_is_read_once(check: Check) -> None:
    first = check.sound()
    unread = faults.fail_python(READ, "EIO", OF_DUMP)
    assert check.sound(python=unread)["read_at"] == first["read_at"]
    again = alarm(check, 74, "read", python=unread, environment={"REREAD_SECONDS": "0"})
    assert "Reading" in again.log


@pytest.mark.parametrize("how", ["in place", "another file", "with its times"])
def test_a_dump_that_changed_after_it_was_found_whole(check: Check, how: str) -> None:
    check.sound()
    newest = check.dumps.dumps()[-1]
    path = check.dumps.volume.path / "hourly" / newest
    times = path.stat()
    if how == "another file":
        copy = path.with_name("copy")
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
        copy.replace(path)
        path.chmod(0o644)
    check.dumps.damage(newest)
    if how == "with its times":
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    alarm(check, 65, newest, "was altered", "Do not recover from it")


def test_a_damage_that_no_time_tells_is_found_when_it_is_read_again(check: Check) -> None:
    """As a disk does it: neither size nor times change."""
    newest = check.dumps.dumps()[-1]
    check.sound()
    memory = check.state.read("dump").decode().splitlines()
    check.dumps.damage(newest)
    sha256 = memory[1].rsplit(" ", 1)[1]
    stat = (check.dumps.volume.path / "hourly" / newest).stat()
    nanoseconds = [f"{ns // 10**9}.{ns % 10**9:09d}" for ns in (stat.st_mtime_ns, stat.st_ctime_ns)]
    key = f"/replica/hourly/{newest} {stat.st_size} {' '.join(nanoseconds)} {stat.st_ino} {sha256}"
    check.state.write("dump", f"{memory[0]}\n{key}\n".encode())
    check.sound()
    check.state.write("dump", f"{int(memory[0]) - 86400}\n{key}\n".encode())
    alarm(check, 65, newest, "was altered")


@pytest.mark.parametrize("memory", [b"", b"junk", b"99999999999\nx\n", b"\xff\x00\n\n\n"])
def test_a_memory_that_makes_no_sense_is_none(check: Check, memory: bytes) -> None:
    check.state.write("dump", memory)
    assert check.sound()["dump"] == check.dumps.dumps()[-1]
    assert check.dumps.dumps()[-1] in check.state.read("dump").decode()


def test_an_altered_dump_stays_red(check: Check) -> None:
    newest = check.dumps.dumps()[-1]
    check.dumps.damage(newest)
    for _ in range(2):
        alarm(check, 65, newest, "was altered")


def test_an_old_dump(check: Check) -> None:
    newest = check.dumps.dumps()[-1]
    alarm(check, 65, newest, "120 minutes old", "(maximum: 60)", environment={"MAXIMUM_AGE_SECONDS": "3600"})
    alarm(check, 65, newest, "120 minutes old", environment={"MAXIMUM_AGE_SECONDS": "3600"})


def test_a_short_dump_is_not_hidden_by_an_older_whole_one(check: Check) -> None:
    newest = check.dumps.dumps()[-1]
    check.dumps.volume.write(f"hourly/{newest}", check.dumps.read(newest)[:-1])
    alarm(check, 65, newest, "differ in name or size")


def test_a_short_dump_is_told_though_a_newer_one_is_whole(check: Check) -> None:
    oldest = check.dumps.dumps()[0]
    check.dumps.volume.write(f"hourly/{oldest}", b"short")
    alarm(check, 65, oldest, "differ in name or size")


def test_no_verified_dump(check: Check) -> None:
    check.dumps.volume.clear()
    check.dumps.plant(HOUR, verified=False)
    alarm(check, 66, "no verified dump")


def test_an_empty_replica(check: Check) -> None:
    check.dumps.volume.clear()
    alarm(check, 66, "no folder /replica/hourly", "postgres-replicator-backup")


def test_only_a_suspicious_dump(check: Check) -> None:
    check.dumps.volume.clear()
    name = check.dumps.plant(HOUR, suspicious="yes")
    alarm(check, 66, "no verified dump", f"{name} is marked as suspicious")


@pytest.mark.parametrize("cut", ["the end of the SQL", "the end of the stream", "bytes that are no gzip"])
def test_a_dump_that_was_published_broken(check: Check, sample: Sample, cut: str) -> None:
    """Its manifest agrees with it, and yet it cannot be recovered from."""
    text = gzip.decompress(sample.dump)
    short = text[: text.rindex(b"\n", 0, -100) + 1]
    dump = {
        "the end of the SQL": gzip.compress(short, 1),
        "the end of the stream": sample.dump[:-1000],
        "bytes that are no gzip": b"x" * 100_000,
    }[cut]
    agreeing: dict[str, Any] = {"sha256": hashlib.sha256(dump).hexdigest(), "sql_bytes": len(short)}
    name = check.dumps.plant(HOUR, dump=dump, **agreeing)
    alarm(check, 65, name, "does not unpack to a whole dump")


def test_a_dump_with_a_command_that_no_dump_has(check: Check, sample: Sample) -> None:
    text = gzip.decompress(sample.dump).replace(b"\nSET ", b"\n\\! true\nSET ", 1)
    dump = gzip.compress(text, 1)
    digest = hashlib.sha256(dump).hexdigest()
    name = check.dumps.plant(HOUR, dump=dump, sha256=digest, sql_bytes=len(text))
    alarm(check, 65, name, "command that no dump has")


def test_a_dump_that_holds_another_amount_than_its_manifest_says(check: Check) -> None:
    name = check.dumps.plant(HOUR, sql_bytes=12345)
    alarm(check, 65, name, "does not unpack to a whole dump")


REFUSALS = {
    "EIO": ("Input/output error", 74),
    "ESTALE": ("Stale file handle", 75),
    "EACCES": ("Permission denied", 77),
}
"""What a file system says, its message and the exit code."""


@pytest.mark.parametrize("error", REFUSALS)
def test_a_dump_that_cannot_be_read(check: Check, error: str) -> None:
    message, code = REFUSALS[error]
    alarm(check, code, message, "newest dump", python=faults.fail_python(READ, error, OF_DUMP))


@pytest.mark.parametrize("error", REFUSALS)
def test_a_manifest_that_cannot_be_read_is_not_an_older_dump(check: Check, error: str) -> None:
    message, code = REFUSALS[error]
    newest = check.dumps.dumps()[-1]
    fault = faults.fail_python("open", error, f"path.endswith('/.manifest/{newest}.tsv')")
    result = alarm(check, code, message, "dumps cannot be read", python=fault)
    assert "dump" not in result.verdict


def test_a_reader_that_fails_is_no_fault_of_the_dump(check: Check) -> None:
    broken = faults.fail_python("stack_backup_jobs.reader:Reader.feed", "EAGAIN")
    alarm(check, 75, "has the right sha256", "broke off", python=broken)


def test_a_folder_that_cannot_be_listed(check: Check) -> None:
    alarm(check, 74, "Input/output error", python=faults.fail_python("os.scandir", "EIO", OF_FOLDER))


OF_FOLDER = "path == '/replica/hourly'"


def test_a_dump_from_the_future_is_not_the_newest(check: Check) -> None:
    newest = check.dumps.dumps()[-1]
    check.dumps.plant_at(datetime(2099, 1, 1, tzinfo=UTC))
    assert check.sound()["dump"] == newest


# ---- the media ----


def test_no_state(check: Check) -> None:
    check.media.clear()
    alarm(check, 66, "no state", "media-replicator")


def test_a_first_mirror_in_progress(check: Check) -> None:
    check.mirror_again(status="in-progress", completed="", files="", bytes="")
    alarm(check, 66, "never been complete", "in progress since")


def test_an_old_mirror(check: Check) -> None:
    late = {"environment": {"MEDIA_MAXIMUM_AGE_SECONDS": "3500"}}
    alarm(check, 65, "ended 60 minutes ago", "(maximum: 58)", **late)
    check.mirror_again(status="in-progress")
    alarm(check, 65, "ended 60 minutes ago", **late)


def test_a_mirror_in_progress_is_fine_and_nothing_is_compared(check: Check) -> None:
    check.mirror_again(status="in-progress", files="99", bytes="99999999")
    check.media.write("targets/A71/aligned.pdb", b"half")
    verdict = check.sound()
    assert "being mirrored" in verdict["message"]
    assert "media_files" not in verdict


def test_a_mirror_that_begins_while_the_files_are_counted(check: Check) -> None:
    with check.start(python=faults.hold_python(COUNT)) as job:
        job.reached("reached")
        check.mirror_again(status="in-progress")
        check.media.remove("-rf")
        check.media.write("targets/A71/aligned.pdb", b"half")
        job.release("go")
        result = job.wait()
    green(result)
    assert "A mirror has begun meanwhile" in result.log


def test_what_the_mirror_left_out_or_passed_over(check: Check) -> None:
    for name in ("lost+found/1", "targets/.nfs0001"):
        check.media.write(name, b"the file server's")
    alarm(check, 65, f"holds {len(FILES) + 2} files")
    check.mirror_again(exclude="lost+found\t.nfs*", exceptions="3")
    verdict = check.sound()
    assert (verdict["media_files"], verdict["media_exceptions"]) == (len(FILES), 3)
    assert "skipped 3 files" in verdict["message"]


def test_a_file_too_few(check: Check) -> None:
    check.media.remove("targets/A71/empty")
    alarm(check, 65, f"holds {len(FILES) - 1} files", f"counted {len(FILES)}")


def test_a_file_too_many(check: Check) -> None:
    check.media.write("targets/more", b"")
    alarm(check, 65, f"holds {len(FILES) + 1} files", f"counted {len(FILES)}")


def test_a_byte_too_many(check: Check) -> None:
    check.media.write("-rf", b"3333")
    size = sum(map(len, FILES.values()))
    alarm(check, 65, f"of {size + 1} bytes", f"of {size}", '"-rf"')


@pytest.mark.parametrize("path", FILES)
def test_any_altered_file_of_the_sample_is_named(check: Check, path: str) -> None:
    if FILES[path]:
        check.media.write(path, bytes([FILES[path][0] ^ 1]) + FILES[path][1:])
    else:
        check.media.remove(path)
    shown = escaped(path).encode(errors="surrogateescape").decode(errors="replace")
    alarm(check, 65, f'missing or altered: "{shown}"')


def test_a_link_in_the_place_of_a_file(check: Check) -> None:
    path = check.media.path / "-rf"
    path.rename(check.media.path / "moved")
    path.symlink_to("moved")
    alarm(check, 65, '"-rf"', "missing or altered")


def test_a_sample_of_many_files_is_read_a_few_at_a_time_and_all_in_the_end(check: Check) -> None:
    check.media.clear()
    check.mirror({f"many/{n}": f"{n}".encode() for n in range(60)})
    assert check.sound()["media_sampled"] == 20
    check.media.write("many/7", b"8")
    codes = [check.run().exit_code for _ in range(20)]
    assert set(codes) == {0, 65}, "a third of the runs meets it"


def test_large_files_are_read_one_at_a_time(check: Check) -> None:
    check.media.clear()
    check.mirror({})
    lines = []
    for number in range(3):
        path = check.media.path / f"large-{number}"
        with path.open("wb") as file:
            file.truncate(200 << 20)
        lines.append(f"{ZEROS}\t{200 << 20}\tlarge-{number}\n")
    check.media.write(".stack-backup/sample.tsv", "".join(lines).encode())
    check.media.write(
        ".stack-backup/state",
        check.media.read(".stack-backup/state")
        .replace(b"files\t0", b"files\t3")
        .replace(b"bytes\t0", b"bytes\t%d" % (600 << 20)),
    )
    assert check.sound(**NO_DUMPS)["media_sampled"] == 1


ZEROS = hashlib.sha256(bytes(200 << 20)).hexdigest()


def test_no_sample(check: Check) -> None:
    check.media.remove(".stack-backup/sample.tsv")
    alarm(check, 66, "no sample")


@pytest.mark.parametrize("line", ["junk", f"{'a' * 64}\t12", f"{'a' * 64}\tx\tpath", f"{'A' * 64}\t1\tpath"])
def test_a_damaged_sample(check: Check, line: str) -> None:
    check.media.write(".stack-backup/sample.tsv", f"{line}\n".encode())
    alarm(check, 65, "sample", "damaged")


@pytest.mark.parametrize(
    "state",
    [
        {"status": "done"},
        {"files": "many"},
        {"bytes": "-1"},
        {"completed": "yesterday"},
        {"completed": "2024-13-41T00:00:00Z"},
    ],
    ids=str,
)
def test_a_damaged_state(check: Check, state: dict[str, str]) -> None:
    check.mirror_again(**state)
    alarm(check, 65, "state", "damaged")


@pytest.mark.parametrize("version", ["", "2"])
def test_a_state_of_another_format(check: Check, version: str) -> None:
    check.mirror_again(format=version)
    alarm(check, 78, "format", "same version")


def test_a_mirror_that_ended_in_the_future(check: Check) -> None:
    check.mirror_again(completed=stamp(-HOUR))
    alarm(check, 65, "in the future", "clocks")


@pytest.mark.parametrize("error", REFUSALS)
def test_media_that_cannot_be_read(check: Check, error: str) -> None:
    message, code = REFUSALS[error]
    folder = faults.fail_python("os.scandir", error, "path == '/media-replica/targets/A71'")
    alarm(check, code, message, "as a whole", python=folder)
    alarm(check, code, message, "file of the media", python=faults.fail_python(READ, error, OF_MEDIA))


# ---- both ----


def test_what_is_wrong_with_both_is_told_at_once(check: Check) -> None:
    newest = check.dumps.dumps()[-1]
    check.dumps.damage(newest)
    check.media.clear()
    result = alarm(check, 65, newest, "was altered", "no state")
    assert result.verdict["dump"] == newest


def test_one_replica_alone_can_be_checked(check: Check) -> None:
    check.media.clear()
    assert "media_age_seconds" not in check.sound(**NO_MEDIA)
    check.mirror()
    check.dumps.volume.clear()
    assert "dump" not in check.sound(**NO_DUMPS)
    alarm(check, 64, "Neither", environment={"REPLICA_VOLUME": "", "MEDIA_REPLICA_VOLUME": ""})


@pytest.mark.parametrize(("key", "claim"), [("database", "media-replica"), ("media", "database-replica")])
def test_a_stack_with_one_replica_mounts_no_other(check: Check, key: str, claim: str) -> None:
    values = merge_values(CHECK, {"replicaCheck": {key: False}})
    claims = [
        item["metadata"]["name"]
        for item in render(values, namespace=NAMESPACE).of_kind("PersistentVolumeClaim")
    ]
    assert [name.rpartition("-")[0] for name in claims if name not in ("history", "replica-check")] == [claim]
    check.stack.install(values)
    verdict = check.sound()
    assert ("dump" in verdict, "media_age_seconds" in verdict) == (key == "media", key == "database")


def test_what_was_read_must_be_remembered(check: Check) -> None:
    with check.state.read_only():
        alarm(check, 77, "cannot be remembered", "Read-only file system")


POINTS = {
    "the first look": faults.hold_python("os.scandir", OF_FOLDER),
    "the sha256": faults.hold_python(READ, OF_DUMP),
    "unpacking": faults.hold_python("stack_backup_jobs.reader:Reader.feed"),
    "remembering": faults.hold_python("os.rename", "target == '/state/dump'"),
    "counting": faults.hold_python(COUNT),
    "amid counting": faults.hold_python("os.scandir", "path == '/media-replica/targets/A71'"),
    "the sample": faults.hold_python(READ, OF_MEDIA),
}


# ---- with one safeguard taken out ----

PROGRAM = "stack_backup_jobs/replica_check.py"
MUTANTS: dict[str, tuple[str, str, Callable[[Check], None]]] = {
    "any age will do": ("if latest.age > self._settings.maximum_age_seconds:", "if False:", test_an_old_dump),
    "an old mirror will do": ("if age > most:", "if False:", test_an_old_mirror),
    "short dumps are passed over": (
        "        if wrong:\n",
        "        if False:\n",
        test_a_short_dump_is_not_hidden_by_an_older_whole_one,
    ),
    "the sha256 is not compared": (
        "if read_afresh(self._job, path, dump.name) != sha256:",
        "if False:",
        test_an_altered_dump_stays_red,
    ),
    "a dump is not read to its end": (
        "if not reader.whole:",
        "if False:",
        lambda check: test_a_dump_that_was_published_broken(check, sample_of(check), "the end of the SQL"),
    ),
    "a dump is not counted": (
        'if reader.sql_bytes != manifest.number("sql_bytes"):',
        "if False:",
        test_a_dump_that_holds_another_amount_than_its_manifest_says,
    ),
    "times of change are not looked at": (
        "(there.st_mtime_ns, there.st_ctime_ns)",
        "(there.st_mtime_ns, there.st_mtime_ns)",
        lambda check: test_a_dump_that_changed_after_it_was_found_whole(check, "with its times"),
    ),
    "a dump is read once and never again": (
        "if now - self._settings.reread_seconds < when <= now:",
        "if 0 < when <= now:",
        test_a_damage_that_no_time_tells_is_found_when_it_is_read_again,
    ),
    "files are not counted": ("        self._tree(volume, state)\n", "", test_a_file_too_many),
    "no file is read": (
        "return read_afresh(self._job, path) == sha256",
        "return True",
        lambda check: test_any_altered_file_of_the_sample_is_named(check, "-rf"),
    ),
    "a mirror that begins meanwhile is a fault": (
        "if (volume / OWN / STATE).read_bytes() != text:",
        "if False:",
        test_a_mirror_that_begins_while_the_files_are_counted,
    ),
}


def sample_of(check: Check) -> Sample:
    assert check.dumps.sample is not None
    return check.dumps.sample


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(check: Check, tmp_path: Path, name: str) -> None:
    safeguard, instead, test = MUTANTS[name]
    chart = mutant(tmp_path, PROGRAM, safeguard, instead)
    check.stack.apply(render(CHECK, namespace=NAMESPACE, chart=chart))
    with pytest.raises(AssertionError):
        test(check)
