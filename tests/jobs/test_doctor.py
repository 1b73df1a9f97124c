"""The doctor: what it examines is broken in each way, for real, and it says so."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import FAILED, OK, SKIPPED, WARNING, Finding, verdict_of
from stack_backup_lab.bed import images
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART, merge_values, render
from stack_backup_lab.runtime.local import USER, LocalRuntime, LocalStack
from stack_backup_lab.runtime.nfs import Ended, Machine, Nfs
from stack_backup_lab.runtime.pod import Faults
from tests.jobs.dumps import DumpFolder, Sample
from tests.jobs.faults import fail_python, hold_python, kill_python, patch_python
from tests.jobs.store import SECRET, Store, serving
from tests.outcomes import green, red
from tests.render import contract

JOB = "doctor"
NAMESPACE = "doctor-stack"
SERVER = "stack-database:15"
"""With extensions that the image of the pods, the stock one, lacks."""
NFS = {"nfs": {"server": "doctor.example.org"}}
VALUES: dict[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"dumpSize": "5Mi", "keep": 3},
    "postgresReplicatorBackup": {"enabled": True},
    "databaseRecovery": {"enabled": True, "source": "backup", "scratch": {"size": "64Mi"}},
    "mediaReplicator": {"enabled": True},
    "offsite": {"enabled": True, "remote": "s3:bucket/place", "folders": ["hourly"]},
    "volumes": {"databaseReplica": NFS, "mediaReplica": NFS},
}
NO_DUMPS = ("history", "media-replica")
"""Volumes that are written, and where no link is asked for."""
Findings = Mapping[tuple[str, str], Finding]


class Doctor:
    """The doctor of one stack, beside which there is an off-site store."""

    def __init__(self, stack: LocalStack, store: Store) -> None:
        self.stack, self.store = stack, store

    def run(
        self, values: Mapping[str, Any] | None = None, *, python: str = "", **environment: str
    ) -> JobResult:
        self.stack.install(merge_values(VALUES, values or {}))
        return self.stack.run(JOB, environment=environment, faults=Faults(python=python))

    def fails(
        self,
        code: int,
        subject: str,
        check: str,
        *words: str,
        values: Mapping[str, Any] | None = None,
        python: str = "",
    ) -> JobResult:
        """One check alone has failed, what needs it was skipped, and the verdict says all of it."""
        result = red(
            self.run(values, python=python), code, f"{subject}, {check}: ", *words, "Nothing was changed."
        )
        found = findings(result)
        assert [key for key, one in found.items() if one.result == FAILED] == [(subject, check)], result.log
        finding = found[subject, check]
        for text in (finding.message, finding.advice):
            assert text in result.verdict["message"]
        assert all(one.advice for one in found.values() if one.result in (FAILED, WARNING))
        assert {one.subject for one in found.values() if one.result == SKIPPED} <= {subject, *NO_DUMPS}
        return result

    def warns(
        self, subject: str, check: str, *words: str, values: Mapping[str, Any] | None = None, python: str = ""
    ) -> None:
        result = green(self.run(values, python=python), "sound")
        found = findings(result)
        assert [key for key, one in found.items() if one.result == WARNING] == [(subject, check)], result.log
        for word in words:
            assert word in found[subject, check].message, found[subject, check]
        assert found[subject, check].advice in result.verdict["message"]


def findings(result: JobResult) -> Findings:
    found = [one for line in result.log.splitlines() if (one := Finding.parse(line))]
    assert found, result.log
    return {(one.subject, one.check): one for one in found}


@pytest.fixture(scope="module")
def store(stack: LocalStack) -> Iterator[Store]:
    with serving(stack.namespaces) as store:
        (store.bucket("bucket") / "place").mkdir()
        yield store


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, SERVER) as stack:
        stack.add_claim("media")
        yield stack


@pytest.fixture
def doctor(stack: LocalStack, store: Store) -> Iterator[Doctor]:
    """Of a stack in which all is well."""
    before = {name: dict(data) for name, data in stack.secrets.items()}
    stack.secrets["offsite"] = {"rclone.conf": store.configuration()}
    stack.install(VALUES)
    yield Doctor(stack, store)
    stack.secrets.clear()
    stack.secrets.update(before)
    for claim in stack.claims:
        stack.volume(claim).clear()


def names(stack: LocalStack) -> list[str]:
    """On all volumes, but for the history, where each run leaves its verdict."""
    claims = [claim for claim in stack.claims if claim != contract.HISTORY]
    return [str(path) for claim in claims for path in stack.volume(claim).path.rglob("*")]


def test_all_is_well(doctor: Doctor) -> None:
    for claim in ("database-backup/hourly", "media/molecules"):
        name, _, folder = claim.partition("/")
        doctor.stack.volume(name).write(f"{folder}/notes", b"somebody's")
    before = names(doctor.stack)
    result = green(doctor.run(), "sound")
    found = findings(result)
    assert {one.subject for one in found.values()} == {
        *("database", "offsite", "database-backup", "database-replica", "history", "media", "media-replica")
    }
    assert {one.result for one in found.values()} == {OK, SKIPPED}
    assert [key for key, one in found.items() if one.result == SKIPPED] == [
        (name, "link") for name in NO_DUMPS
    ]
    assert result.verdict["checks"] == len(found)
    assert (result.verdict["warnings"], result.verdict["failed"], result.verdict["skipped"]) == (0, 0, 2)
    assert names(doctor.stack) == before, "it leaves nothing"
    assert found["media", "mode"].message == "Mounted read-only."
    assert ("media", "write") not in found, "what no job writes, it does not write"


def test_the_page_has_every_check_and_no_other(doctor: Doctor) -> None:
    page = (PROJECT / "docs" / "jobs" / "doctor.md").read_text()
    rows = re.findall(r"(?m)^\| (\w+) \| `([a-z-]+)` \|", page)
    volumes = {"database-backup", "database-replica", "history", "media", "media-replica"}
    found = {
        ("volume" if subject in volumes else subject, check) for subject, check in findings(doctor.run())
    }
    assert set(rows) == found | {("volume", "answer"), ("any", "start")}
    assert len(rows) == len(set(rows))


# ---- the database server -----------------------------------------------------------------------------------


def test_a_secret_that_is_missing(doctor: Doctor) -> None:
    del doctor.stack.secrets["database"]
    doctor.fails(78, "database", "secret", "no password in superuser-password")


def test_a_secret_without_the_owner_s_password(doctor: Doctor) -> None:
    del doctor.stack.secrets["database"]["user_password"]
    doctor.fails(78, "database", "secret", "no password in owner-password")


def test_a_wrong_password(doctor: Doctor) -> None:
    doctor.stack.secrets["database"]["root_password"] = b"another"
    result = doctor.fails(77, "database", "login", "28P01")
    assert findings(result)["database", "extensions"].result == SKIPPED


@pytest.mark.parametrize(
    ("database", "words"),
    [({"host": "no-such-name"}, "cannot be resolved"), ({"port": 5433}, "Connection refused")],
)
def test_a_server_that_is_not_there(doctor: Doctor, database: dict[str, Any], words: str) -> None:
    doctor.fails(69, "database", "reach", words, values={"database": database})


DEAF = """
import socket, time
server = socket.create_server(("127.0.0.1", 5434), backlog=0)
clients = [socket.socket() for _ in range(4)]
for client in clients:
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", 5434))
print("deaf", flush=True)
time.sleep(600)
"""
"""What comes to it is dropped, as by a policy: nobody takes a connection from its full queue."""


def test_a_network_that_drops_what_is_sent(doctor: Doctor, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("wb") as output:
        process = doctor.stack.namespaces.popen(["python3", "-c", DEAF], output=output)
    try:
        end = time.monotonic() + 30
        while "deaf" not in said.read_text():
            assert time.monotonic() < end, said.read_text()
            time.sleep(0.02)
        values = {"database": {"host": "127.0.0.1", "port": 5434}}
        doctor.fails(69, "database", "reach", "Nothing has answered", "NetworkPolicy", values=values)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_user_who_is_no_superuser(doctor: Doctor) -> None:
    values = {"database": {"superuser": USER, "secret": {"superuserKey": "user_password"}}}
    doctor.fails(77, "database", "superuser", f"{USER} is no superuser", values=values)


def test_an_image_of_another_version(doctor: Doctor) -> None:
    values = {"database": {"image": {"tag": "17"}}}
    doctor.fails(78, "database", "version", "newer than the server's", values=values)


def test_a_database_that_is_not_there(doctor: Doctor) -> None:
    doctor.fails(66, "database", "database", "no database frog", values={"database": {"name": "frog"}})


def test_an_owner_who_is_not_there(doctor: Doctor) -> None:
    doctor.fails(78, "database", "owner", "no role nobody", values={"database": {"owner": "nobody"}})


def test_a_database_of_somebody_else(doctor: Doctor) -> None:
    doctor.warns(
        "database", "owner", "belongs to fragalysis, not to admin", values={"database": {"owner": "admin"}}
    )


def test_an_extension_that_the_image_lacks(doctor: Doctor) -> None:
    doctor.stack.database.execute("CREATE EXTENSION rdkit", "frag")
    try:
        doctor.fails(78, "database", "extensions", "lacks extensions", "frag has: rdkit")
    finally:
        doctor.stack.database.execute("DROP EXTENSION rdkit", "frag")


def test_an_extension_of_another_version(doctor: Doctor) -> None:
    doctor.stack.database.execute("CREATE EXTENSION pg_stat_statements VERSION '1.9'", "frag")
    try:
        doctor.warns("database", "extensions", "pg_stat_statements 1.9 (image: 1.10)")
    finally:
        doctor.stack.database.execute("DROP EXTENSION pg_stat_statements", "frag")


def clock(module: str, seconds: int) -> str:
    """The pod's clock as this module reads it: no process here has a clock of its own."""
    return patch_python(
        f"stack_backup_jobs.{module}",
        "import time as real, types\n"
        f"time = types.SimpleNamespace(time=lambda: real.time() - {seconds}, monotonic=real.monotonic)\n",
    )


def test_clocks_that_differ(doctor: Doctor) -> None:
    doctor.fails(78, "database", "clock", "database server is 900 s ahead", python=clock("doctor", 900))
    doctor.warns("database", "clock", "database server is 100 s behind", python=clock("doctor", -100))


# ---- a volume ----------------------------------------------------------------------------------------------

BACKUP = "database-backup"


def test_a_volume_that_is_read_only(doctor: Doctor) -> None:
    with doctor.stack.volume(BACKUP).read_only():
        doctor.fails(77, BACKUP, "mode", "mounted read-only", "access modes")


def test_a_volume_that_could_be_written_and_must_not(doctor: Doctor) -> None:
    words = [f"{BACKUP}:read:/volumes/{BACKUP}:hourly:3"]
    result = red(
        doctor.run(SUBJECTS=BACKUP, VOLUMES=" ".join(words)), 78, f"{BACKUP}, mode: ", "can be written"
    )
    assert names(doctor.stack) == []
    assert [one.check for one in findings(result).values()] == ["list", "mode"]


def test_a_volume_of_another_user(doctor: Doctor) -> None:
    volume = doctor.stack.volume(BACKUP)
    volume.write("hourly/notes", b"somebody's")
    folder = volume.path / "hourly"
    os.chown(folder, 0, 0)
    folder.chmod(0o755)
    doctor.fails(77, BACKUP, "write", "Permission denied", "pod's user 999:999")


def test_a_volume_that_may_not_be_read(doctor: Doctor) -> None:
    volume = doctor.stack.volume(BACKUP)
    volume.write("hourly/notes", b"somebody's")
    folder = volume.path / "hourly"
    os.chown(folder, 0, 0)
    folder.chmod(0o700)
    doctor.fails(77, BACKUP, "list", "Permission denied")


def test_a_volume_that_is_full(doctor: Doctor) -> None:
    """One without dumps: of those, the next one is asked for."""
    with doctor.stack.volume(contract.HISTORY).limited(1 << 20):
        (doctor.stack.volume(contract.HISTORY).path / "other").write_bytes(bytes(600 << 10))
        doctor.fails(73, contract.HISTORY, "room", "0 of ", "are free")


def planted(doctor: Doctor, size: int) -> None:
    volume = DumpFolder(doctor.stack.volume(BACKUP), "hourly", Sample(b"", b""))
    volume.plant(timedelta(hours=1), dump=os.urandom(size), sha256="0" * 64)


def test_a_volume_without_room_for_the_next_dump(doctor: Doctor) -> None:
    with doctor.stack.volume(BACKUP).limited(16 << 20):
        planted(doctor, 8 << 20)
        doctor.fails(73, BACKUP, "room", "the newest 8 MiB", "the next one does not fit")


def test_a_volume_without_room_for_all_that_is_kept(doctor: Doctor) -> None:
    with doctor.stack.volume(BACKUP).limited(20 << 20):
        planted(doctor, 6 << 20)
        doctor.warns(
            BACKUP, "room", "1 dumps take 6 MiB", "3 as large as that, and one being written, do not fit"
        )


OURS = "'.tmp.doctor.' in path and 'database-backup' in path"


@pytest.mark.parametrize(
    ("check", "code", "event", "error", "words"),
    [
        ("fsync", 74, "os.fsync", "EIO", "fsync"),
        ("rename", 77, "os.rename", "EACCES", "Renaming"),
        ("link", 77, "os.link", "EPERM", "hard link"),
        ("times", 77, "os.utime", "EPERM", "mode and time"),
        ("remove", 77, "os.remove", "EACCES", "Removing"),
    ],
)
def test_a_volume_that_refuses(
    doctor: Doctor, check: str, code: int, event: str, error: str, words: str
) -> None:
    when = OURS + (" and not path.endswith('hourly')" if check == "fsync" else "")
    doctor.fails(code, BACKUP, check, words, python=fail_python(event, error, when))


def test_a_volume_that_does_not_keep_what_it_is_given(doctor: Doctor) -> None:
    corrupt = """
real = Volume._sync
def _sync(self):
    self._path(0).write_bytes(b"other")
    return real(self)
Volume._sync = _sync
"""
    result = red(doctor.run(SUBJECTS=BACKUP, python=patch_python("stack_backup_jobs.volume", corrupt)), 74)
    assert findings(result)[BACKUP, "read-back"].result == FAILED


def test_a_process_that_is_killed_while_it_examines(doctor: Doctor) -> None:
    result = doctor.run(python=kill_python("os.rename", OURS))
    red(result, 74, f"{BACKUP}, answer: ", "was killed")
    assert findings(result)["media-replica", "remove"].result == OK


def test_told_to_stop_while_it_writes(doctor: Doctor) -> None:
    before = names(doctor.stack)
    with doctor.stack.start(JOB, Faults(python=hold_python("os.rename", OURS))) as running:
        running.reached("reached")
        assert names(doctor.stack) != before
        running.signal(signal.SIGTERM)
        result = running.wait()
    red(result, 143, "told to stop", "Nothing was changed")
    assert names(doctor.stack) == before


def test_the_clock_of_a_file_server_that_differs(doctor: Doctor) -> None:
    ahead = red(doctor.run(SUBJECTS=BACKUP, python=clock("volume", 900)), 78, "file server is 900 s ahead")
    assert findings(ahead)[BACKUP, "clock"].result == FAILED
    behind = green(doctor.run(SUBJECTS=BACKUP, python=clock("volume", -100)), "sound")
    assert findings(behind)[BACKUP, "clock"].result == WARNING


# ---- a volume on NFS ---------------------------------------------------------------------------------------


REPLICA = "database-replica"


@contextmanager
def on_nfs(nfs: Nfs, folder: Path, hold: str = "") -> Iterator[Machine]:
    """The doctor on a machine with an export as the replica of the dumps, and a volume of this machine."""
    cronjob = render(VALUES, namespace=NAMESPACE).get("CronJob", JOB)
    [container] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {
        **{one["name"]: one.get("value", "") for one in container["env"]},
        **{"NAMESPACE": NAMESPACE, "POD_NAME": "doctor-abcde", "TERMINATION_LOG": ""},
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/lib/postgresql/15/bin",
        "SUBJECTS": f"{REPLICA} media",
        "VOLUMES": f"media:read:/volumes/media::0 {REPLICA}:written:/volumes/{REPLICA}:hourly:2",
    }
    programs = folder / "programs"
    shutil.copytree(CHART / "files", programs, ignore=shutil.ignore_patterns("__pycache__"))
    with (programs / "stack_backup_jobs/volume.py").open("a") as module:
        module.write(hold)
    (folder / "media").mkdir()
    with nfs.machine(
        container["command"],
        rootfs=images.rootfs("postgres:15"),
        target=f"/volumes/{REPLICA}",
        binds={
            "/programs": programs,
            "/tools/python": images.rootfs(images.PYTHON) / "usr/local",
            "/volumes/media": folder / "media",
        },
        environment=environment,
    ) as machine:
        yield machine


def result_of(end: Ended | None, output: str) -> JobResult:
    assert end is not None, output
    log, line, _ = re.split(r"(?m)^(\{\"job\":.*)$", end.output, maxsplit=1)
    return JobResult(JOB, end.code, verdict_of(line), log + line, end.seconds)


def run_on_nfs(nfs: Nfs, folder: Path) -> JobResult:
    with on_nfs(nfs, folder) as machine:
        return result_of(machine.wait(120), machine.output)


def test_an_export_is_examined(tmp_path: Path) -> None:
    with Nfs() as nfs:
        result = green(run_on_nfs(nfs, tmp_path), "sound")
        found = findings(result)
        assert [key for key, one in found.items() if one.result != OK] == []
        assert len(found) > 10
        assert list(nfs.path.iterdir()) == []


def test_an_export_that_squashes_users(tmp_path: Path) -> None:
    """As an export does whose anonuid is not the pods' own; its folder is everybody's."""
    with Nfs() as nfs:
        nfs.path.chmod(0o777)
        nfs.stop()
        nfs.start(squash="All_Squash")
        found = findings(run_on_nfs(nfs, tmp_path))
        finding = found[REPLICA, "owner"]
        assert finding.result == WARNING, found
        assert "squashes users" in finding.message
        assert "anonuid" in finding.advice
        assert list(nfs.path.iterdir()) == []


def test_an_export_that_is_read_only(tmp_path: Path) -> None:
    with Nfs() as nfs:
        nfs.stop()
        nfs.start(read_only=True)
        result = red(run_on_nfs(nfs, tmp_path), 77, f"{REPLICA}, write: ", "Read-only file system")
        assert findings(result)[REPLICA, "fsync"].result == SKIPPED


HELD = """
_real = Volume._list
def _held(self):
    print("The server may hang now.", flush=True)
    while not os.path.exists("/programs/go"):
        time.sleep(0.05)
    return _real(self)
Volume._list = _held
"""


def test_a_server_that_hangs_is_named_within_a_minute(tmp_path: Path) -> None:
    with Nfs() as nfs, on_nfs(nfs, tmp_path, HELD) as machine:
        end = time.monotonic() + 60
        while "may hang now" not in machine.output:
            assert machine.running, machine.output
            assert time.monotonic() < end, machine.output
            time.sleep(0.05)
        nfs.freeze()
        (tmp_path / "programs/go").touch()
        begun = time.monotonic()
        result = result_of(machine.command_ended(100), machine.output)
        seconds = time.monotonic() - begun
        nfs.thaw()
        red(result, 74, f"{REPLICA}, answer: The volume does not answer", "hung for 30 s")
        assert findings(result)["media", "list"].result == OK, "the others are examined"
        assert seconds < 60


# ---- the off-site store ------------------------------------------------------------------------------------


def test_a_store_without_its_secret(doctor: Doctor) -> None:
    del doctor.stack.secrets["offsite"]
    doctor.fails(78, "offsite", "secret", "no configuration of rclone")


def test_a_store_with_wrong_keys(doctor: Doctor) -> None:
    doctor.stack.secrets["offsite"] = {"rclone.conf": doctor.store.configuration(secret="another")}
    result = doctor.fails(77, "offsite", "list", "The store does not list s3:bucket/place")
    assert SECRET not in result.log


def test_a_store_that_is_not_there(doctor: Doctor) -> None:
    doctor.stack.secrets["offsite"] = {"rclone.conf": doctor.store.configuration(port=9999)}
    doctor.fails(69, "offsite", "list", "networkPolicy.offsitePeers")


def test_a_store_without_the_bucket(doctor: Doctor) -> None:
    doctor.fails(
        66, "offsite", "list", "offsite.remote", values={"offsite": {"remote": "s3:no-such-bucket/place"}}
    )
