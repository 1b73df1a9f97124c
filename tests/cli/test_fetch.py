"""A dump on its way to this machine: cut, resumed, altered. The pod's program and commands run for real."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stack_backup import CliError, Exit, fetch, follow, release
from stack_backup.app import main
from stack_backup_jobs.formats import MANIFESTS, TEMPORARY, manifest_name
from tests.cli.machine import Machine, Offering
from tests.cli.test_refresh import End

OLD, NEW = "2026-11-20T01:51:02Z", "2026-11-25T01:51:02Z"
DATA = os.urandom(300_000)
PIECE = 65536


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Laptop:
    """A folder, and the command that fills it."""

    def __init__(self, machine: Machine, folder: Path, dump: Path, run: Callable[..., End]) -> None:
        self.machine, self.folder, self.dump, self._run = machine, folder, dump, run
        self.cut: list[int] = []
        self.spoil: Callable[[bytes], bytes] = bytes

    def fetch(self, *arguments: str) -> End:
        return self._run("fetch", *arguments, "--to", str(self.folder))

    def fetched(self, *arguments: str) -> dict[str, Any]:
        end = self.fetch(*arguments, "-o", "json")
        assert end.code == 0, end
        document: dict[str, Any] = json.loads(end.stdout)
        self.is_whole()
        return document

    @property
    def part(self) -> Path:
        return self.folder / f"{TEMPORARY}{self.dump.name}"

    def is_whole(self) -> None:
        own = MANIFESTS, manifest_name(self.dump.name)
        assert (self.folder / self.dump.name).read_bytes() == DATA
        assert self.folder.joinpath(*own).read_bytes() == self.dump.parent.joinpath(*own).read_bytes()
        assert not self.part.exists()
        assert self.machine.left == []

    def has_nothing(self) -> None:
        assert [path for path in self.folder.glob("*") if path.name != self.part.name] == []
        assert self.machine.left == []


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Laptop:
    machine = Machine(tmp_path / "volumes")
    machine.plant(OLD, ("sha256", _sha(b"old")), data=b"old")
    dump = machine.plant(NEW, ("sha256", _sha(DATA)), data=DATA)
    monkeypatch.setattr(release, "connect", lambda *_: machine)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    for module, name, value in (
        (fetch, "PIECE", PIECE),
        (fetch, "PAUSE", 0),
        (fetch, "PATIENCE", 0.5),
        (follow, "POLL", 0.05),
    ):
        monkeypatch.setattr(module, name, value)

    def run(*arguments: str) -> End:
        code = main(arguments)
        said = capfd.readouterr()
        return End(code, said.out, said.err)

    made = Laptop(machine, tmp_path / "laptop", dump, run)
    own = Offering.__init__

    def begin(offering: Offering, volume: Path, name: str, **environment: str) -> None:
        own(offering, volume, name, **environment)
        offering.cut, offering.spoil = made.cut, made.spoil

    monkeypatch.setattr(Offering, "__init__", begin)
    return made


def test_the_latest_comes_whole_with_its_manifest(laptop: Laptop) -> None:
    document = laptop.fetched()
    assert (document["dump"], document["bytes"], document["sha256"]) == (
        laptop.dump.name,
        len(DATA),
        _sha(DATA),
    )
    assert (document["verified"], document["resumed"], document["cuts"]) == (True, 0, 0)
    assert (laptop.folder / laptop.dump.name).stat().st_mode & 0o777 == 0o600
    # five pieces, and the manifest
    assert laptop.machine.offering.asked == 6


def test_as_text_it_says_where_it_is(laptop: Laptop) -> None:
    end = laptop.fetch(laptop.dump.name)
    assert end.code == 0, end
    assert f"{laptop.folder / laptop.dump.name} is here: 293.0 KiB" in end.said
    assert "Its sha256 is as its manifest says." in end.said


@pytest.mark.parametrize("cut", [[0], [1, 0, 5], [PIECE - 1, 4096], [PIECE, PIECE, PIECE, PIECE, 0, 17]])
def test_a_stream_that_ends_early_is_taken_up_where_it_was(laptop: Laptop, cut: list[int]) -> None:
    laptop.cut = list(cut)
    assert laptop.fetched()["cuts"] == len([one for one in cut if one != PIECE])


def test_one_that_brings_nothing_is_given_up_and_goes_on_later(laptop: Laptop) -> None:
    laptop.cut = [PIECE, 4096] + [0] * 100_000
    end = laptop.fetch()
    assert end.code == 69, end
    assert "Not a byte has come" in end.stderr
    assert f"kept as {laptop.part}" in end.stderr
    laptop.has_nothing()
    assert laptop.part.stat().st_size == PIECE + 4096
    laptop.cut = []
    assert laptop.fetched()["resumed"] == PIECE + 4096


def test_a_cluster_that_is_away_for_a_moment_is_asked_again(
    laptop: Laptop, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, away = Offering.execute, [True, False, True]

    def execute(offering: Offering, command: list[str]) -> Any:
        if away and away.pop():
            raise CliError(Exit.UNREACHABLE, "The cluster does not answer.")
        return own(offering, command)

    monkeypatch.setattr(Offering, "execute", execute)
    assert laptop.fetched()["cuts"] == 2


def test_a_right_that_lacks_ends_it_at_once(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    def execute(*_: object) -> Any:
        raise CliError(Exit.REFUSED, "You may not create pods/exec.")

    monkeypatch.setattr(Offering, "execute", execute)
    end = laptop.fetch()
    assert end.code == 77, end
    assert "You may not create pods/exec." in end.stderr
    laptop.has_nothing()


def test_a_byte_that_changed_on_the_way_is_noticed(laptop: Laptop) -> None:
    spoilt = iter([True])
    laptop.spoil = lambda chunk: b"X" + chunk[1:] if next(spoilt, False) else chunk
    end = laptop.fetch()
    assert end.code == 65, end
    assert "is not what lies there" in end.stderr
    laptop.has_nothing()
    assert not laptop.part.exists()
    laptop.spoil = bytes
    laptop.fetched()


def test_what_is_here_of_another_dump_is_noticed(laptop: Laptop) -> None:
    laptop.folder.mkdir()
    laptop.part.write_bytes(b"another")
    assert laptop.fetch().code == 65
    assert not laptop.part.exists()
    laptop.part.write_bytes(DATA + b"longer")
    assert laptop.fetched()["resumed"] == 0


def test_a_dump_that_is_damaged_on_the_volume_is_refused(laptop: Laptop) -> None:
    laptop.dump.write_bytes(b"X" + DATA[1:])
    end = laptop.fetch()
    assert end.code == 65, end
    assert "is not what its manifest says: its sha256 differs" in end.stderr
    laptop.has_nothing()
    assert not laptop.part.exists()


def test_a_pod_that_ended_meanwhile_is_heard(laptop: Laptop) -> None:
    """It has read the dump to its end, while the bytes come slowly here."""
    laptop.dump.write_bytes(b"X" + DATA[1:])

    def after_its_end(chunk: bytes) -> bytes:
        laptop.machine.offering.process.wait()
        return chunk

    laptop.spoil, laptop.cut = after_its_end, [PIECE, 4096, 0]
    end = laptop.fetch()
    assert end.code == 65, end
    assert "is not what its manifest says: its sha256 differs" in end.stderr
    assert laptop.machine.offering.asked == 2
    laptop.has_nothing()
    assert not laptop.part.exists()


def test_a_dump_without_a_manifest_comes_as_the_pod_has_read_it(laptop: Laptop) -> None:
    shutil.rmtree(laptop.dump.parent / MANIFESTS)
    end = laptop.fetch(NEW, "-o", "json")
    document = json.loads(end.stdout)
    assert (document["verified"], document["manifest"], document["sha256"]) == (False, None, _sha(DATA))
    assert (laptop.folder / laptop.dump.name).read_bytes() == DATA


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["2026-11-21T01:51:02Z"], 66, f"There are: {NEW} {OLD}"),
        (["yesterday"], 64, "'yesterday' is not a dump"),
    ],
)
def test_a_dump_that_is_not_there(laptop: Laptop, arguments: list[str], code: int, says: str) -> None:
    end = laptop.fetch(*arguments)
    assert end.code == code, end
    assert says in end.stderr
    laptop.has_nothing()


def test_where_a_volume_lacks_a_dump_the_store_is_named(
    laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    end = laptop.fetch("--offsite")
    assert end.code == 66, end
    assert "reaches an off-site store" in end.stderr
    assert laptop.machine.left == []
    away = {"offsite": {"remote": "s3:backups/production"}, "mediaRecovery": {"source": "offsite"}}
    other = Machine(tmp_path / "other", away)
    other.plant(OLD, data=b"old")
    monkeypatch.setattr(release, "connect", lambda *_: other)
    end = laptop.fetch(NEW)
    assert end.code == 66, end
    assert f"There are: {OLD}. " in end.stderr
    assert end.stderr.endswith("The off-site store may have it: add --offsite.\n")
    assert other.left == []


def test_a_stack_that_takes_sanitised_dumps_alone_is_brought_no_other(
    laptop: Laptop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Machine(tmp_path / "other", {"databaseRecovery": {"sanitisedOnly": True}})
    other.plant(OLD, ("sha256", _sha(DATA)), ("sanitised", "yes"), data=DATA)
    other.plant(NEW, ("sha256", _sha(DATA)), data=DATA)
    monkeypatch.setattr(release, "connect", lambda *_: other)
    end = laptop.fetch()
    assert end.code == 77, end
    assert "databaseRecovery.sanitisedOnly lets no other in" in end.stderr
    assert other.left == []
    assert list(laptop.folder.glob("*")) == []
    end = laptop.fetch(OLD)
    assert end.code == 0, end
    assert len(list(laptop.folder.glob("backup-*"))) == 1


def test_a_file_that_is_there_stays(laptop: Laptop) -> None:
    laptop.folder.mkdir()
    (laptop.folder / laptop.dump.name).write_bytes(b"mine")
    end = laptop.fetch()
    assert end.code == 64, end
    assert "is there already, and was left as it is" in end.stderr
    assert (laptop.folder / laptop.dump.name).read_bytes() == b"mine"
    assert laptop.machine.left == []


def test_a_full_disk_is_said_before_anything_comes(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 4096

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    end = laptop.fetch()
    assert end.code == 73, end
    assert laptop.machine.offering.asked == 0


def test_a_piece_that_comes_slowly_keeps_the_pod_alive_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stack_backup_jobs import offering

    monkeypatch.setattr(offering, "PULSE", 0.05)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    reading = tmp_path / offering.READING
    words = [*offering.piece("sleep 2; echo $1 $2"), "3", "4"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        for _ in range(2):
            while not reading.exists():
                assert process.poll() is None
            reading.unlink()
        assert process.communicate()[0] == b"3 4\n"
    time.sleep(0.2)
    reading.unlink(missing_ok=True)
    time.sleep(0.2)
    assert not reading.exists()


def test_a_pod_that_nobody_reads_from_ends(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    from stack_backup_jobs import offering
    from stack_backup_jobs.job import Job

    monkeypatch.setattr(offering, "PATIENCE", 0.2)
    monkeypatch.setenv("PLACE", str(laptop.machine.volumes / "dumps"))
    monkeypatch.setenv("DUMP", "latest")
    monkeypatch.setenv("TMPDIR", str(laptop.machine.volumes))
    job = Job()
    assert offering.program(job).word == "offered"
    job.end()
