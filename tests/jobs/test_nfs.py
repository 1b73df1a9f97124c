"""The replicators on a true NFS mount: a real client, a real server, and what a server may do."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import verdict_of
from stack_backup_lab.bed import images
from stack_backup_lab.render import CHART, render
from stack_backup_lab.runtime.nfs import Machine, Nfs
from tests.jobs.hourly import FOLDER, NAMESPACE, VALUES, Hourly
from tests.outcomes import green

BIG = 64 << 20
"""Bytes of a dump that takes long enough to be interrupted."""

RELEASE: dict[str, Any] = {
    **VALUES,
    "postgresReplicatorBackup": {"enabled": True},
    "mediaReplicator": {"enabled": True},
    "volumes": {
        "databaseReplica": {"nfs": {"server": "10.0.2.2"}},
        "mediaReplica": {"nfs": {"server": "10.0.2.2"}},
    },
}


class OnNfs:
    """A job as its CronJob declares it, in the stack's image on a machine of its own, its replica on NFS."""

    def __init__(self, nfs: Nfs, job: str, image: Path, *, replica: str, binds: Mapping[str, Path]) -> None:
        self.nfs = nfs
        self._image = image
        self._replica = replica
        self._binds = binds
        template = render(RELEASE, namespace=NAMESPACE).get("CronJob", job)["spec"]["jobTemplate"]["spec"]
        [container] = template["template"]["spec"]["containers"]
        self._command = container["command"]
        self._environment = {
            **{variable["name"]: variable.get("value", "") for variable in container["env"]},
            **{"NAMESPACE": NAMESPACE, "POD_NAME": f"{job}-abcde", "TERMINATION_LOG": ""},
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/lib/postgresql/15/bin",
        }

    def set(self, **variables: str) -> None:
        self._environment |= variables

    def machine(self) -> AbstractContextManager[Machine]:
        return self.nfs.machine(
            self._command,
            rootfs=self._image,
            target=self._replica,
            binds={
                "/programs": CHART / "files",
                "/tools/python": images.rootfs(images.PYTHON) / "usr/local",
                **self._binds,
            },
            environment=self._environment,
        )

    def run(self) -> JobResult:
        with self.machine() as machine:
            return ended(machine)

    def names(self) -> list[str]:
        """What lies in the replica's folder on the server's side, unfinished files included."""
        folder = self.nfs.path / FOLDER
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def ended(machine: Machine, timeout: float = 240) -> JobResult:
    end = machine.wait(timeout)
    assert end.code is not None, end.output
    lines = [line for line in end.output.splitlines() if line.startswith('{"job":')]
    verdict = verdict_of(lines[-1]) if lines else {}
    return JobResult(verdict.get("job", ""), end.code, verdict, end.output, end.seconds)


@pytest.fixture
def source(hourly: Hourly) -> str:
    return hourly.plant_verified(2)[-1]


@pytest.fixture
def replicator(
    hourly: Hourly, source: str, postgres15: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[OnNfs]:
    del source  # planted before it is copied
    folder = tmp_path / "backup"
    hourly.volume.get_tree(folder)
    with Nfs(size=getattr(request, "param", None)) as nfs:
        yield OnNfs(
            nfs, "postgres-replicator-backup", postgres15, replica="/replica", binds={"/backup": folder}
        )


def assert_whole(replicator: OnNfs, hourly: Hourly, name: str) -> None:
    """The dump and its manifest are on the server as on the backup volume, and nothing unfinished."""
    folder = replicator.nfs.path / FOLDER
    assert (folder / name).read_bytes() == hourly.read(name)
    assert (folder / ".manifest" / f"{name}.tsv").read_bytes() == hourly.volume.read(
        hourly.manifest_path(name)
    )
    assert not [path for path in folder.rglob("*") if path.name.startswith(".tmp")]


def test_replica_over_nfs(replicator: OnNfs, hourly: Hourly, source: str) -> None:
    result = replicator.run()
    green(result, "published")
    assert result.verdict["dump"] == source
    assert_whole(replicator, hourly, source)
    status = (replicator.nfs.path / FOLDER / source).stat()
    assert (status.st_uid, status.st_gid) == (999, 999)


@pytest.mark.parametrize("replicator", [1 << 20], indirect=True)
def test_export_that_is_full(replicator: OnNfs) -> None:
    (replicator.nfs.path / "other").write_bytes(b"x" * (600 << 10))
    result = replicator.run()
    assert result.exit_code == 73, result.log
    assert "every earlier dump of the replica is as it was" in result.verdict["message"]
    assert replicator.names() in ([], [".manifest"])


def test_export_that_is_read_only(replicator: OnNfs) -> None:
    replicator.nfs.stop()
    replicator.nfs.start(read_only=True)
    result = replicator.run()
    assert result.exit_code == 77, result.log
    assert "read-only" in result.verdict["message"].lower()
    assert replicator.names() == []


def test_export_of_another_user(replicator: OnNfs) -> None:
    replicator.nfs.path.chmod(0o755)
    os.chown(replicator.nfs.path, 0, 0)
    result = replicator.run()
    assert result.exit_code == 77, result.log
    assert "permission denied" in result.verdict["message"].lower()


@pytest.fixture
def source_of_some_size(hourly: Hourly) -> str:
    """A dump that takes long enough to be interrupted."""
    content = random.Random(7).randbytes(BIG)
    return hourly.plant(timedelta(minutes=30), dump=content, sha256=hashlib.sha256(content).hexdigest())


def _await_copy(machine: Machine, replicator: OnNfs) -> None:
    """Wait until a part of the unfinished copy has come to the server."""
    end = time.monotonic() + 120
    while True:
        copies = list((replicator.nfs.path / FOLDER).glob(".tmp.backup-*"))
        if any(0 < path.stat().st_size < BIG for path in copies):
            return
        assert machine.running, machine.output
        assert time.monotonic() < end, machine.output
        time.sleep(0.005)


def test_server_that_restarts_amid_a_copy(
    source_of_some_size: str, replicator: OnNfs, hourly: Hourly
) -> None:
    with replicator.machine() as machine:
        _await_copy(machine, replicator)
        replicator.nfs.stop()
        time.sleep(2)  # nothing can happen meanwhile, and that it does not end the job is the point
        assert machine.running, machine.output
        replicator.nfs.start()
        result = ended(machine)
    assert (result.exit_code, result.verdict["outcome"]) == (0, "published"), result.log
    assert_whole(replicator, hourly, source_of_some_size)


def test_server_that_stays_away_publishes_nothing(
    source_of_some_size: str, replicator: OnNfs, hourly: Hourly
) -> None:
    with replicator.machine() as machine:
        _await_copy(machine, replicator)
        replicator.nfs.stop()
        machine.kill()  # as its node is taken away, for a process on a hard mount cannot be ended
    assert [name for name in replicator.names() if not name.startswith(".")] == []

    replicator.nfs.start()
    result = replicator.run()
    green(result)
    folder = replicator.nfs.path / FOLDER
    assert (folder / source_of_some_size).read_bytes() == hourly.read(source_of_some_size)
    # What the dead run left stays until no run can be at it any more, and is nothing to a reader.
    assert [name for name in replicator.names() if name.startswith("backup-")] == [source_of_some_size]


def test_server_that_hangs_amid_a_copy(source_of_some_size: str, replicator: OnNfs, hourly: Hourly) -> None:
    """Told to stop, the run ends all the same, in time and with the truth; a later one does its work. The
    history hangs, too.
    """
    replicator.set(HISTORY="/replica")
    with replicator.machine() as machine:
        _await_copy(machine, replicator)
        replicator.nfs.freeze()
        time.sleep(1)
        begun = time.monotonic()
        machine.tell()
        end = machine.command_ended(30)
        assert end is not None, machine.output
        assert time.monotonic() - begun < 10
        replicator.nfs.thaw()
        result = ended(machine)
    assert (result.exit_code, result.verdict["exit"]) == (143, 143), result.log
    assert "is as it was" in result.verdict["message"]
    assert "missing in the history: not done within 1." in result.log
    assert not [name for name in replicator.names() if name.startswith("backup-")]

    result = replicator.run()
    green(result)
    assert (replicator.nfs.path / FOLDER / source_of_some_size).read_bytes() == hourly.read(
        source_of_some_size
    )


def test_media_mirrored_over_nfs(postgres15: Path, tmp_path: Path) -> None:
    media = tmp_path / "media"
    (media / "targets/empty").mkdir(parents=True)
    for number in range(8):
        (media / f"targets/{number}.sdf").write_text(f"molecule {number}")
    names = ["café".encode(), "cafe\u0301".encode(), b"new\nline", b"-dash", b"a" * 255, b"bad\xff", b" a:b "]
    for name in names:
        Path(os.fsdecode(os.fsencode(media) + b"/" + name)).write_bytes(b"of " + name)
    (media / "dangling").symlink_to("nowhere")
    with Nfs() as nfs:
        mirror = OnNfs(
            nfs,
            "media-replicator",
            postgres15,
            replica="/media-replica",
            binds={"/media": media},
        )
        result = mirror.run()
        green(result)
        found = subprocess.run(
            ["diff", "--recursive", "--no-dereference", "--exclude=.stack-backup", media, nfs.path],
            check=False,
            capture_output=True,
        )
        assert found.returncode == 0, found.stdout
        assert (nfs.path / "targets/7.sdf").stat().st_mtime == pytest.approx(
            (media / "targets/7.sdf").stat().st_mtime, abs=1
        )

        (media / "targets/7.sdf").unlink()
        result = mirror.run()
        green(result)
        [kept] = (nfs.path / ".stack-backup/trash").rglob("7.sdf")
        assert kept.read_text() == "molecule 7"
        assert not (nfs.path / "targets/7.sdf").exists()
