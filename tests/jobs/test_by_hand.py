"""A dump in other hands: the commands of docs/formats.md as they stand there, and the contract's own."""

from __future__ import annotations

import gzip
import hashlib
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from stack_backup_jobs.formats import Manifest, dump_name, time_of
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.runtime.local import LocalStack
from stack_backup_lab.runtime.postgres import LocalServer
from tests.cluster.documents import commands
from tests.jobs import faults
from tests.jobs.hourly import FOLDER, Hourly
from tests.render import contract

CHECK, CONTENTS, LOAD = commands(PROJECT / "docs" / "formats.md", "Check a dump by hand")


def _bash(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, check=False
    )


def _manifest(hourly: Hourly, name: str) -> Manifest:
    return Manifest.parse(hourly.volume.read(hourly.manifest_path(name)).decode())


def test_a_good_dump_passes_and_its_contents_are_those_of_the_manifest(hourly: Hourly) -> None:
    name = hourly.backup()
    end = _bash(hourly.volume.path / FOLDER, CHECK + CONTENTS)
    assert end.returncode == 0, end
    manifest = _manifest(hourly, name)
    found = {line.split()[0]: line.split()[1:] for line in end.stdout.splitlines()[2:]}
    tables = manifest.all("table")
    assert found == {
        database: [str(len(rows)), str(sum(map(int, rows)))]
        for database in {table[0] for table in tables}
        for rows in [[table[2] for table in tables if table[0] == database]]
    }


def _cut(text: bytes) -> bytes:
    return text[: text.rindex(b"-- PostgreSQL database cluster dump complete")]


def _altered(hourly: Hourly, name: str) -> None:
    hourly.damage(name)


def _renamed(hourly: Hourly, name: str) -> None:
    """With its manifest, which still names the old one."""
    another = dump_name("3" + time_of(name)[1:], "gz")
    for of in (lambda one: f"{FOLDER}/{one}", hourly.manifest_path):
        (hourly.volume.path / of(name)).rename(hourly.volume.path / of(another))


def _grown(hourly: Hourly, name: str) -> None:
    with (hourly.volume.path / FOLDER / name).open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("harm", [_altered, _renamed, _grown])
def test_a_dump_that_was_harmed_does_not_pass(hourly: Hourly, harm: Callable[[Hourly, str], None]) -> None:
    [name] = hourly.plant_verified(1)
    folder = hourly.volume.path / FOLDER
    assert _bash(folder, CHECK).returncode == 0
    harm(hourly, name)
    assert _bash(folder, CHECK).returncode != 0


@pytest.mark.parametrize("lost", ["its end", "a line"])
def test_a_dump_that_is_not_whole_though_its_digest_is_right_does_not_pass(hourly: Hourly, lost: str) -> None:
    assert hourly.sample is not None
    text = gzip.decompress(hourly.sample.dump)
    harmed = _cut(text) if lost == "its end" else text.replace(b"\n", b"", 1)
    packed = gzip.compress(harmed)
    hourly.plant(timedelta(hours=1), dump=packed, sha256=hashlib.sha256(packed).hexdigest())
    end = _bash(hourly.volume.path / FOLDER, CHECK)
    assert "OK" in end.stdout
    assert end.returncode != 0


def test_a_dump_that_shrank_does_not_pass(hourly: Hourly) -> None:
    hourly.plant(timedelta(hours=1), suspicious="yes")
    assert _bash(hourly.volume.path / FOLDER, CHECK).returncode != 0


def test_an_empty_server_gets_every_row_by_the_documented_command(
    hourly: Hourly, production: LocalStack
) -> None:
    name = hourly.backup()
    with production.scratch_server() as server:
        assert isinstance(server, LocalServer)
        exchange = server._folder / "exchange"
        (exchange / name).write_bytes(hourly.read(name))
        (exchange / name).chmod(0o644)
        server._client(["bash", "-euo", "pipefail", "-c", f"cd /exchange; DUMP={name}; {LOAD}"], "")
        for database, table, rows in _manifest(hourly, name).all("table"):
            with psycopg.connect(server.dsn(database)) as connection:
                found = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
            assert found == (int(rows),), (database, table)


def test_the_program_dumps_with_the_contract_s_command(hourly: Hourly) -> None:
    calls = {"pg_dumpall": f'printf "%s\\n" "pg_dumpall $*" >>/backup/calls; {faults.real("pg_dumpall")}'}
    hourly.backup(shims=calls)
    called = [line.split() for line in hourly.volume.read("calls").decode().splitlines()]
    (dumping,) = [call for call in called if "--version" not in call]
    assert set(contract.COMMAND) <= set(dumping)
