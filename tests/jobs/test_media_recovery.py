"""The recovery of the media: all that the replica holds, and of what the stack has only what must go."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack_backup import media
from stack_backup.render import CHART, merge_values, render
from stack_backup.runtime import JobResult
from stack_backup.runtime.local import LocalRuntime, LocalStack
from tests.jobs import faults
from tests.jobs.mirror import (
    FILES,
    IMAGE,
    NAMESPACE,
    RECOVERY,
    REPLICA,
    SLOWLY,
    SOURCE,
    TARGET,
    TO_STAGING,
    VALUES,
    Media,
    assert_failed,
    partial,
)

DELETE = {"DELETE": "true"}
AMID = faults.hold("rclone")
"""Stops when all is checked and nothing is copied yet."""


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, IMAGE) as stack:
        for claim in (SOURCE, REPLICA, TARGET):
            stack.add_claim(claim)
        yield stack


@pytest.fixture
def tree(stack: LocalStack) -> Media:
    """A complete mirror, and a stack that is to have it: its own volume is empty."""
    tree = Media(stack)
    tree.clear()
    media.fill(tree.source, files=FILES)
    tree.mirror()
    tree.install(TO_STAGING)
    return tree


def differences(tree: Media) -> list[str]:
    return media.differences(media.snapshot(tree.replica), media.snapshot(tree.target))


def refused(tree: Media, code: int, *words: str, **changes: Any) -> JobResult:
    """A run that must fail before it touches anything."""
    with tree.untouched(tree.replica), tree.untouched(tree.target):
        result = tree.run(RECOVERY, **changes)
    assert_failed(result, code, "No file of the stack was touched.", *words)
    return result


# ---- what a recovery is ----


def test_all_that_the_replica_holds_is_recovered(tree: Media) -> None:
    with tree.untouched(tree.replica):
        verdict = tree.recover().verdict
    source = media.snapshot(tree.source)
    assert media.differences(source, media.snapshot(tree.target)) == []
    assert verdict["mirrored"] == tree.state()["since"]
    assert str(verdict["files"]) == tree.state()["files"]
    assert verdict["copied"] == len([entry for entry in source.values() if entry.kind != "folder"])
    assert not (tree.target / ".stack-backup").exists()


def test_a_second_run_touches_no_file(tree: Media) -> None:
    tree.recover()
    with tree.untouched(tree.target):
        verdict = tree.recover().verdict
    assert (verdict["copied"], verdict["removed"]) == (0, 0)


def test_what_the_replica_lacks_stays_unless_told(tree: Media) -> None:
    tree.recover()
    tree.set("local/upload", "only here", tree.target)
    tree.set("names/case", "edited here", tree.target)
    (tree.target / "names" / "CASE").unlink()
    verdict = tree.recover().verdict
    assert (verdict["copied"], verdict["removed"]) == (2, 0)
    assert [line.split(":")[0] for line in differences(tree)] == ["'local'", "'local/upload'"]
    verdict = tree.recover(**DELETE).verdict
    assert (verdict["copied"], verdict["removed"]) == (0, 1)
    assert differences(tree) == []


def test_a_file_in_the_place_of_a_folder(tree: Media) -> None:
    tree.recover()
    shutil.rmtree(tree.target / "folders")
    tree.set("folders", "a file", tree.target)
    (tree.target / "names" / "case").unlink()
    tree.set("names/case/inside", "a folder", tree.target)
    assert "folders" in refused(tree, 65, "2 names", "DELETE=true").log
    tree.recover(**DELETE)
    assert differences(tree) == []


def test_no_link_of_the_stack_is_followed(tree: Media) -> None:
    elsewhere = tree.source / "elsewhere"
    elsewhere.mkdir()
    media.give(tree.source, 999)
    (tree.target / "folders").symlink_to("/media-replica/folders")
    with tree.untouched(tree.replica):
        refused(tree, 65, "1 names")
        tree.recover(**DELETE)
    assert differences(tree) == []


def test_a_run_that_is_killed_goes_on(tree: Media) -> None:
    tree.install({})
    tree.set("names/case", os.urandom(4 << 20))
    tree.mirror()
    tree.install(TO_STAGING)
    tree.set("names/case", "the stack's own", tree.target)
    for number, code in ((signal.SIGTERM, 143), (signal.SIGKILL, 137)):
        with tree.start(RECOVERY, environment=SLOWLY) as job:
            deadline = time.monotonic() + 60
            while not any("/names/case." in path for path in partial(tree.target)):
                assert time.monotonic() < deadline, job.pod.log
                time.sleep(0.05)
            job.signal(number)
            assert job.wait().exit_code == code
        assert (tree.target / "names" / "case").read_text() == "the stack's own", "old or new, never a part"
    assert partial(tree.target)
    tree.recover()
    assert differences(tree) == [], "what was unfinished is gone, too"


# ---- what is refused ----


def test_nothing_confirms_it(tree: Media) -> None:
    refused(tree, 64, f"CONFIRM={NAMESPACE}", environment={"CONFIRM": ""})


def test_another_namespace_is_confirmed(tree: Media) -> None:
    refused(tree, 77, "production-stack", NAMESPACE, environment={"CONFIRM": "production-stack"})


@pytest.mark.parametrize(
    ("name", "value"), [("DELETE", "yes"), ("DELETE", ""), ("TRANSFERS", "many"), ("BANDWIDTH_LIMIT", "-1")]
)
def test_variable_that_makes_no_sense(tree: Media, name: str, value: str) -> None:
    refused(tree, 64, name, environment={name: value})


def test_replica_in_progress(tree: Media) -> None:
    completed = tree.state()["completed"]
    with tree.start(shims=faults.hold("rclone")) as _:
        pass  # killed at once, whether or not it came so far
    state = tree.replica / ".stack-backup" / "state"
    state.write_text(state.read_text().replace("complete\n", "in-progress\n"))
    refused(tree, 75, "being written since", completed, environment=DELETE)


def test_replica_whose_first_mirror_is_in_progress(tree: Media) -> None:
    state = tree.replica / ".stack-backup" / "state"
    state.write_text("format\t1\nstatus\tin-progress\nsince\t2026-01-01T02:04:00Z\nnamespace\tx\n")
    refused(tree, 75, "2026-01-01T02:04:00Z", "no time")


def test_replica_that_is_empty(tree: Media) -> None:
    for path in tree.replica.iterdir():
        shutil.rmtree(path)
    refused(tree, 66, "no mirror", environment=DELETE)


def test_replica_whose_files_are_gone(tree: Media) -> None:
    for path in tree.replica.iterdir():
        if path.name != ".stack-backup":
            shutil.rmtree(path)
    refused(tree, 66, "no file at all")


def test_replica_of_a_later_format(tree: Media) -> None:
    state = tree.replica / ".stack-backup" / "state"
    state.write_text(state.read_text().replace("format\t1", "format\t2"))
    refused(tree, 78, '"2"')


def test_replica_that_lost_a_file_deletes_nothing(tree: Media) -> None:
    tree.set("names/case", "the stack's own", tree.target)
    (tree.replica / "names" / "case").unlink()
    refused(tree, 65, "Nothing is deleted by such a replica", environment=DELETE)
    result = tree.run(RECOVERY)
    assert_failed(result, 65, "were copied", tree.state()["files"])
    assert [line.split(":")[0] for line in differences(tree)] == ["'names/case'"]


def test_replica_that_cannot_be_read(tree: Media) -> None:
    (tree.replica / "names" / "case").chmod(0)
    assert "names/case" in refused(tree, 77, "1 files of the replica").log


def test_volume_that_is_a_replica(tree: Media) -> None:
    tree.volume(TARGET).write(".stack-backup/state", b"format\t1\n")
    try:
        with tree.untouched(tree.replica):
            assert_failed(tree.run(RECOVERY), 77, "is a replica itself")
    finally:
        tree.volume(TARGET).remove(".stack-backup")


def test_volume_that_is_read_only(tree: Media) -> None:
    with tree.volume(TARGET).read_only():
        refused(tree, 77, "Read-only file system")


def test_volume_that_is_too_small(tree: Media) -> None:
    with tree.volume(TARGET).limited(4 << 20):
        refused(tree, 73, "5 MiB are to be copied")


def test_volume_that_fills_up_amid_a_copy(tree: Media) -> None:
    tree.set("names/case", "the stack's own", tree.target)
    with tree.volume(TARGET).limited(4 << 20):
        result = tree.run(RECOVERY, shims={"df": "echo 1B-blocks; echo 99999999999"})
        assert_failed(result, 73, "space", "each of them whole")
        recovered, source = media.snapshot(tree.target), media.snapshot(tree.source)
        files = {path: entry for path, entry in recovered.items() if entry.kind == "file"}
        files.pop("names/case")
        assert all(source[path] == entry for path, entry in files.items() if path not in partial(tree.target))


# ---- amid a run ----


def test_a_mirror_that_begins_meanwhile(tree: Media) -> None:
    with tree.start(RECOVERY, shims=AMID) as job:
        job.reached("reached")
        state = tree.replica / ".stack-backup" / "state"
        state.write_text(state.read_text().replace("complete\n", "in-progress\n"))
        job.release("go")
        assert_failed(job.wait(), 75, "A mirror began meanwhile")


def test_a_stack_that_writes_meanwhile(tree: Media) -> None:
    writer = f'{faults.REAL}; rclone "$@" && echo x >/media/names/case'
    result = tree.run(RECOVERY, shims={"rclone": writer})
    assert_failed(result, 75, "1 files are not as in the replica", "stop what writes there")
    assert "names/case" in result.log
    tree.recover()


def test_twenty_thousand_files_and_one_of_three_gigabytes(stack: LocalStack) -> None:
    tree = Media(stack)
    tree.clear()
    media.fill(tree.source, files=20_000, large=3 << 30)
    source = media.snapshot(tree.source)
    result = tree.run()
    assert result.succeeded, result.log
    assert result.verdict["files"] > 20_000
    assert result.verdict["bytes"] > 3 << 30
    assert media.differences(source, media.snapshot(tree.replica)) == []
    shutil.rmtree(tree.source / "targets")  # production goes on, and is not looked at any more
    tree.recover()
    assert media.differences(source, media.snapshot(tree.target)) == []
    tree.clear()


# ---- safeguards taken out: the tests must see it ----

MUTANTS: dict[str, tuple[str, str, Callable[[Media], None]]] = {
    "nobody confirms": ('[[ $CONFIRM == "$NAMESPACE" ]]', "true", test_another_namespace_is_confirmed),
    "any state will do": ("[[ $(state status) == complete ]]", "true", test_replica_in_progress),
    "a poor replica deletes, too": (
        "[[ $DELETE == false ]] || fail 65",
        "true || fail 65",
        test_replica_that_lost_a_file_deletes_nothing,
    ),
    "nothing is verified": ("\n  verify\n", "\n", test_a_stack_that_writes_meanwhile),
    "deletes without being told": (
        "copy_tree copy ",
        "copy_tree sync ",
        test_what_the_replica_lacks_stays_unless_told,
    ),
    "conflicts are left to rclone": ("|| make_way\n", "|| :\n", test_a_file_in_the_place_of_a_folder),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(tree: Media, tmp_path: Path, name: str) -> None:
    safeguard, instead, test = MUTANTS[name]
    chart = shutil.copytree(CHART, tmp_path / "chart")
    program = chart / "files" / "media-recovery.sh"
    text = program.read_text()
    assert text.count(safeguard) == 1, f"no such safeguard any more: {safeguard!r}"
    program.write_text(text.replace(safeguard, instead))
    values = merge_values(VALUES, TO_STAGING)
    broken = render(values, namespace=NAMESPACE, chart=chart)
    tree.stack.apply(broken)
    tree.install = lambda _: tree.stack.apply(broken)  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        test(tree)
