"""What holds for a stack of any runtime: the tests of the interface `stack_backup_lab.runtime.Stack`.

A layer takes them all by importing them beside a fixture `any_stack`: a stack with the release of the hourly
backup and a table to dump.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from stack_backup_jobs.formats import Exit
from stack_backup_lab.data import media_files
from stack_backup_lab.runtime import Stack, StackError, Volume
from stack_backup_lab.story.stacks import CLAIM, FOLDER, JOB
from tests.jobs.dumps import await_a_free_second

__all__ = [
    "folder",
    "test_a_claim_that_is_not_there_is_named",
    "test_a_job_ends_with_its_program_s_code_and_verdict",
    "test_a_job_that_is_not_there_is_named",
    "test_a_run_s_own_variables_are_laid_over_the_release_s",
    "test_a_second_server_is_empty_and_of_the_same_version",
    "test_a_tree_comes_back_as_it_was",
    "test_a_volume_s_files_are_written_listed_read_fetched_and_removed",
    "test_the_claim_of_a_job_is_found",
    "test_the_server_takes_scripts_and_connections",
    "test_values_that_helm_refuses_are_refused_with_its_sentence",
]


@pytest.fixture
def folder(any_stack: Stack) -> Iterator[str]:
    """A folder of its own in the volume of the dumps, gone afterwards."""
    name = f"conformance-{secrets.token_hex(3)}"
    yield name
    if name in any_stack.volume(CLAIM).list():
        any_stack.volume(CLAIM).remove(name)


def test_a_job_ends_with_its_program_s_code_and_verdict(any_stack: Stack) -> None:
    result = any_stack.run(JOB)
    assert (result.job, result.exit_code, result.succeeded, result.reason) == (JOB, 0, True, "")
    assert (result.verdict["job"], result.verdict["outcome"]) == (JOB, "published")
    assert result.verdict["dump"] in any_stack.volume(CLAIM).list(FOLDER)
    assert result.verdict["message"] in result.log
    assert 0 < result.seconds < 600


def test_a_run_s_own_variables_are_laid_over_the_release_s(any_stack: Stack) -> None:
    before = any_stack.volume(CLAIM).list(FOLDER)
    given = "$(HOME) $$(HOME) $$ $"  # which a kubelet would take for other things
    result = any_stack.run(JOB, environment={"COMPRESSOR": given})
    assert (result.exit_code, result.succeeded) == (Exit.USAGE, False)
    assert f'"{given}"' in result.verdict["message"]
    assert any_stack.volume(CLAIM).list(FOLDER) == before
    await_a_free_second(before)
    assert any_stack.run(JOB).succeeded


def test_a_job_that_is_not_there_is_named(any_stack: Stack) -> None:
    with pytest.raises(StackError, match="CronJob no-such-job"):
        any_stack.run("no-such-job")
    with pytest.raises(StackError, match="CronJob no-such-job"):
        any_stack.claim_of("no-such-job", "backup")


def test_a_claim_that_is_not_there_is_named(any_stack: Stack) -> None:
    with pytest.raises(StackError, match="no-such-claim"):
        any_stack.volume("no-such-claim").list()


def test_the_claim_of_a_job_is_found(any_stack: Stack) -> None:
    assert any_stack.claim_of(JOB, "database-backup") == CLAIM
    with pytest.raises(StackError, match="no-such-volume"):
        any_stack.claim_of(JOB, "no-such-volume")


def test_values_that_helm_refuses_are_refused_with_its_sentence(any_stack: Stack) -> None:
    with pytest.raises(StackError, match="/postgresBackupHourly/keep"):
        any_stack.install({"postgresBackupHourly": {"keep": "many"}})


def test_a_volume_s_files_are_written_listed_read_fetched_and_removed(
    any_stack: Stack, folder: str, tmp_path: Path
) -> None:
    volume: Volume = any_stack.volume(CLAIM)
    data = bytes(range(256)) * 300
    assert volume.list(folder) == []
    volume.write(f"{folder}/a file", data)
    volume.write(f"{folder}/.in/größer", b"")
    assert volume.list(folder) == [".in", "a file"]
    assert volume.list(f"{folder}/.in") == ["größer"]
    assert volume.read(f"{folder}/a file") == data
    fetched = volume.fetch(f"{folder}/a file", tmp_path)
    assert (fetched.name, fetched.read_bytes()) == ("a file", data)
    volume.remove(f"{folder}/a file")
    volume.remove(f"{folder}/.in")
    assert volume.list(folder) == []


def test_a_tree_comes_back_as_it_was(any_stack: Stack, folder: str, tmp_path: Path) -> None:
    """Bytes that are no text in a name, a time, a mode, a link, a hole."""
    tree = tmp_path / "there" / folder
    tree.mkdir(parents=True)
    tree.chmod(0o750)
    odd = Path(os.fsdecode(os.fsencode(tree) + b"/\xff\n' name"))
    odd.write_bytes(b"odd")
    odd.chmod(0o640)
    os.utime(odd, (1_000_000_000, 1_000_000_000))
    (tree / "link").symlink_to("nowhere")
    with (tree / "hole").open("wb") as hole:
        hole.truncate(10_000_000)
    any_stack.volume(CLAIM).put_tree(tmp_path / "there")
    (tmp_path / "back").mkdir()
    any_stack.volume(CLAIM).get_tree(tmp_path / "back")
    before, after = (media_files.snapshot(tmp_path / side / folder) for side in ("there", "back"))
    assert len(before) >= 3
    assert media_files.differences(before, after) == []


def test_the_server_takes_scripts_and_connections(any_stack: Stack) -> None:
    server = any_stack.database
    server.execute("CREATE TABLE conformance AS SELECT 7 AS number", "frag")
    try:
        with psycopg.connect(server.dsn("frag")) as connection:
            assert connection.execute("SELECT number FROM conformance").fetchall() == [(7,)]
            assert connection.info.server_version // 10000 == server.version
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.dsn("frag", password="another"))
        with pytest.raises(StackError, match="no_such_function"):
            server.execute("SELECT no_such_function()", "frag")
    finally:
        server.execute("DROP TABLE conformance", "frag")


def test_a_second_server_is_empty_and_of_the_same_version(any_stack: Stack) -> None:
    with any_stack.scratch_server() as server:
        assert server.version == any_stack.database.version
        with psycopg.connect(server.dsn("postgres")) as connection:
            found = connection.execute("SELECT datname FROM pg_database WHERE NOT datistemplate")
            assert found.fetchall() == [("postgres",)]
