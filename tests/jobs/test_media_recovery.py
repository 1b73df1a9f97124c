"""The recovery of the media: all that the replica holds, and of what the stack has only what must go."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import stamp
from stack_backup_lab.data import media_files
from stack_backup_lab.render import merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from tests.jobs import faults
from tests.jobs.mirror import (
    AFTER,
    AMID,
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
    fill_up,
    partial,
)
from tests.jobs.mutants import mutant
from tests.outcomes import green, red

DELETE = {"DELETE": "true"}
LAST = {"UNFINISHED": "last-complete"}


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
    media_files.fill(tree.source, files=FILES)
    tree.mirror()
    tree.install(TO_STAGING)
    return tree


def differences(tree: Media) -> list[str]:
    return media_files.differences(media_files.snapshot(tree.replica), media_files.snapshot(tree.target))


def refused(tree: Media, code: int, *words: str, **changes: Any) -> JobResult:
    """A run that must fail before it touches anything."""
    with tree.untouched(tree.replica), tree.untouched(tree.target):
        result = tree.run(RECOVERY, **changes)
    red(result, code, "No file of the stack was touched.", *words)
    return result


# ---- what a recovery is ----


def test_all_that_the_replica_holds_is_recovered(tree: Media) -> None:
    with tree.untouched(tree.replica):
        verdict = tree.recover().verdict
    source = media_files.snapshot(tree.source)
    assert media_files.differences(source, media_files.snapshot(tree.target)) == []
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
    media_files.give(tree.source, 999)
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


def in_progress(tree: Media) -> None:
    state = tree.replica / ".stack-backup" / "state"
    state.write_text(state.read_text().replace("complete\n", "in-progress\n"))


def test_replica_in_progress(tree: Media) -> None:
    completed = tree.state()["completed"]
    in_progress(tree)
    refused(tree, 75, "being written since", completed, "UNFINISHED=last-complete", environment=DELETE)


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
    red(result, 65, "were copied", tree.state()["files"])
    assert [line.split(":")[0] for line in differences(tree)] == ["'names/case'"]


def test_a_file_of_the_replica_that_cannot_be_read_costs_no_other(tree: Media) -> None:
    (tree.replica / "names" / "case").chmod(0)
    result = tree.run(RECOVERY)
    red(result, 77, "1 files of the replica", "names/case", "all others were", "999:999")
    (tree.replica / "names" / "case").chmod(0o644)
    assert [line.split(":")[0] for line in differences(tree)] == ["'names/case'"]


def test_a_folder_of_the_replica_that_cannot_be_read(tree: Media) -> None:
    (tree.replica / "names").chmod(0)
    assert "/media-replica/names" in refused(tree, 77, "cannot be read as a whole").log


def test_volume_that_is_a_replica(tree: Media) -> None:
    tree.volume(TARGET).write(".stack-backup/state", b"format\t1\n")
    try:
        with tree.untouched(tree.replica):
            red(tree.run(RECOVERY), 77, "is a replica itself")
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
    with tree.volume(TARGET).limited(24 << 20), tree.start(RECOVERY, python=AMID) as job:
        job.reached("reached")
        fill_up(tree.volume(TARGET), 3 << 20)
        job.release("go")
        red(job.wait(), 73, "space", "each of them whole")
        (tree.target / "filler").unlink()
        recovered, source = media_files.snapshot(tree.target), media_files.snapshot(tree.source)
        files = {path: entry for path, entry in recovered.items() if entry.kind == "file"}
        files.pop("names/case")
        assert all(source[path] == entry for path, entry in files.items() if path not in partial(tree.target))


# ---- amid a run ----


def test_a_mirror_that_begins_meanwhile(tree: Media) -> None:
    with tree.start(RECOVERY, python=AMID) as job:
        job.reached("reached")
        state = tree.replica / ".stack-backup" / "state"
        state.write_text(state.read_text().replace("complete\n", "in-progress\n"))
        job.release("go")
        red(job.wait(), 75, "A mirror began meanwhile")


def test_a_stack_that_writes_meanwhile(tree: Media) -> None:
    with tree.start(RECOVERY, python=AFTER) as job:
        job.reached("reached")
        tree.set("names/case", "x", tree.target)
        job.release("go")
        result = job.wait()
    red(result, 75, "1 files are not as in the replica", "stop what writes there")
    assert "names/case" in result.log
    tree.recover()


def test_twenty_thousand_files_and_one_of_three_gigabytes(stack: LocalStack) -> None:
    tree = Media(stack)
    tree.clear()
    media_files.fill(tree.source, files=20_000, large=3 << 30)
    source = media_files.snapshot(tree.source)
    result = tree.run()
    green(result)
    assert result.verdict["files"] > 20_000
    assert result.verdict["bytes"] > 3 << 30
    assert media_files.differences(source, media_files.snapshot(tree.replica)) == []
    shutil.rmtree(tree.source / "targets")  # production goes on, and is not looked at any more
    tree.recover()
    assert media_files.differences(source, media_files.snapshot(tree.target)) == []
    tree.clear()


# ---- a mirror that was cut off ----

CHANGES: dict[str, Callable[[Media], object]] = {
    "a file is replaced": lambda tree: tree.set("names/case", f"edited {time.monotonic_ns()}"),
    "a file is added": lambda tree: tree.set(f"added/{time.monotonic_ns()}", "one more"),
    "a file is deleted": lambda tree: next((tree.source / "targets").rglob("fragment-*")).unlink(),
    "a folder is deleted": lambda tree: shutil.rmtree(tree.source / "modes", ignore_errors=True),
    "a link is turned": lambda tree: turn(tree.source / "links" / "dangling"),
    "a file becomes a folder": lambda tree: swap(tree, tree.source / "names" / "tab\tstop"),
    "a folder becomes a file": lambda tree: swap(tree, tree.source / "folders" / "case"),
}


def turn(link: Path) -> None:
    link.unlink()
    link.symlink_to(f"elsewhere {time.monotonic_ns()}")


def swap(tree: Media, path: Path) -> None:
    """A folder with a file in it for a file, and the other way round."""
    name = str(path.relative_to(tree.source))
    if path.is_dir():
        shutil.rmtree(path)
        tree.set(name, f"a file {time.monotonic_ns()}")
    else:
        path.unlink()
        tree.set(f"{name}/inside", f"a folder {time.monotonic_ns()}")


BY_MANY = "".join(
    faults.patch_python(f"stack_backup_jobs.{module}", "SLOW = 0.0") for module in ("trees", "copier")
)
"""Calls in as many threads as there may be, as a file server does."""


def cut_off(tree: Media, random: Random) -> str:
    """Runs a mirror of some changes, and kills it somewhere. When it began."""
    for change in random.sample(list(CHANGES), random.randrange(3, len(CHANGES) + 1)):
        CHANGES[change](tree)
    while tree.state()["since"] == stamp():
        time.sleep(0.05)
    at = random.choice(["stack_backup_jobs.copier:_rename", "stack_backup_jobs.copier:Copier._to_trash"])
    step = random.randrange(4)
    count = f"os.__dict__.setdefault('steps', []).append(1) or len(os.steps) > {step}"
    fault = faults.kill_python(at, count, after=random.random() < 0.5)
    environment = {"LOCK_PATIENCE": "1", "MINIMUM_SHARE": "0", "TRANSFERS": str(random.choice([1, 4]))}
    fault += random.choice(["", BY_MANY])
    assert tree.run(environment=environment, python=fault).exit_code in (0, 137)
    return tree.state()["status"]


@pytest.mark.parametrize("seed", range(4))
def test_the_last_complete_mirror_is_recovered_out_of_tree_and_trash(tree: Media, seed: int) -> None:
    """Of several runs that were killed, each after other changes, at any step."""
    random = Random(seed)
    tree.install({})
    complete, completed = media_files.snapshot(tree.source), tree.state()["completed"]
    for _ in range(3):
        if cut_off(tree, random) == "complete":
            complete, completed = media_files.snapshot(tree.source), tree.state()["completed"]
    if tree.state()["status"] == "complete":
        tree.set("names/last", "one more")
        while tree.state()["since"] == stamp():
            time.sleep(0.05)
        tree.run(
            environment={"LOCK_PATIENCE": "1"}, python=faults.kill_python("stack_backup_jobs.copier:_rename")
        )
    tree.install(TO_STAGING)
    tree.set("the stack's own", "to be deleted", tree.target)
    with tree.untouched(tree.replica):
        refused(tree, 75, "being written since", completed)
        verdict = tree.recover(**LAST, **DELETE).verdict
    assert verdict["mirrored"] == completed
    assert media_files.differences(complete, media_files.snapshot(tree.target)) == []


def test_what_lies_there_is_recovered_when_told(tree: Media) -> None:
    in_progress(tree)
    tree.set("names/of another day", "one more", tree.replica)
    told = {"UNFINISHED": "as-it-is"}
    refused(tree, 65, "Nothing is deleted by such a replica", environment=told | DELETE)
    tree.recover(**told)
    assert differences(tree) == []


def test_a_replica_of_which_nothing_tells_the_last_complete_mirror(tree: Media) -> None:
    """One that an earlier release was writing."""
    in_progress(tree)
    refused(tree, 75, "cannot be told", "as-it-is", environment=LAST)


def test_trash_of_a_mirror_that_was_cut_off_is_kept_until_there_is_a_new_one(tree: Media) -> None:
    tree.install({})
    tree.set("names/case", "edited")
    while tree.state()["since"] == stamp():
        time.sleep(0.05)
    tree.run(python=faults.kill_python("stack_backup_jobs.copier:_rename"))
    [first] = tree.trash()
    tree.set("names/other", "one more")
    while tree.state()["since"] == stamp():
        time.sleep(0.05)
    told = {"LOCK_PATIENCE": "1", "TRASH_DAYS": "0"}
    tree.run(environment=told, python=faults.kill_python("stack_backup_jobs.copier:_rename"))
    assert first in tree.trash()
    tree.mirror(**told)
    assert tree.trash() == []


# ---- safeguards taken out: the tests must see it ----

PROGRAM = "stack_backup_jobs/media_recovery.py"
MUTANTS: dict[str, tuple[str, str, Callable[[Media], None]]] = {
    "nobody confirms": (
        'check_confirmed(settings.confirm, settings.namespace, "the media")',
        "pass",
        test_another_namespace_is_confirmed,
    ),
    "any state will do": ('if state.status == "complete":', "if True:", test_replica_in_progress),
    "a poor replica deletes, too": (
        "            if delete:\n",
        "            if False:\n",
        test_replica_that_lost_a_file_deletes_nothing,
    ),
    "nothing is verified": (
        "self._verify(source, changed=not plan.empty)",
        "pass",
        test_a_stack_that_writes_meanwhile,
    ),
    "deletes without being told": (
        "lambda entry: roots[entry.root], self.settings.delete)",
        "lambda entry: roots[entry.root], True)",
        test_what_the_replica_lacks_stays_unless_told,
    ),
    "conflicts are for the copier": (
        "if plan.conflicts and not delete:",
        "if False:",
        test_a_file_in_the_place_of_a_folder,
    ),
    "trash alone tells it": (
        "            streams.append(_added(run, len(streams)))\n",
        "",
        lambda tree: test_the_last_complete_mirror_is_recovered_out_of_tree_and_trash(tree, 0),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(tree: Media, tmp_path: Path, name: str) -> None:
    safeguard, instead, test = MUTANTS[name]
    chart = mutant(tmp_path, PROGRAM, safeguard, instead)
    values = merge_values(VALUES, TO_STAGING)
    to_staging = render(values, namespace=NAMESPACE, chart=chart)
    tree.stack.apply(to_staging)
    here = render(VALUES, namespace=NAMESPACE, chart=chart)
    tree.install = lambda values: tree.stack.apply(to_staging if values else here)  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        test(tree)
