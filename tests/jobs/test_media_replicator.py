"""The mirror of the media: exact, whatever the names; and nothing is lost, whatever goes wrong."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.data import media_files
from stack_backup_lab.render import render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from tests.jobs import faults
from tests.jobs.mirror import (
    AFTER,
    AMID,
    FILES,
    IMAGE,
    MIRROR,
    NAMESPACE,
    REPLICA,
    SLOWLY,
    SOURCE,
    TARGET,
    VALUES,
    Media,
    fill_up,
    make_fifo,
    partial,
)
from tests.jobs.mutants import mutant
from tests.outcomes import green, red


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, IMAGE) as stack:
        for claim in (SOURCE, REPLICA, TARGET):
            stack.add_claim(claim)
        yield stack


@pytest.fixture
def tree(stack: LocalStack) -> Media:
    """The media of a stack, and an empty replica."""
    tree = Media(stack)
    tree.clear()
    media_files.fill(tree.source, files=FILES)
    return tree


@pytest.fixture
def mirrored(tree: Media) -> Media:
    """The media of a stack, and their complete mirror."""
    tree.mirror()
    return tree


def refused(tree: Media, code: int, *words: str, **changes: Any) -> JobResult:
    """A run that must fail before it touches anything."""
    with tree.untouched(tree.replica), tree.untouched(tree.source):
        result = tree.run(**changes)
    red(result, code, "Nothing was deleted from the replica, nor changed in it.", *words)
    return result


# ---- what a mirror is ----


def test_all_that_a_tree_may_hold_is_mirrored(tree: Media) -> None:
    before = media_files.snapshot(tree.source)
    begun = datetime.now(UTC).replace(microsecond=0)
    result = tree.mirror()
    assert media_files.differences(before, media_files.snapshot(tree.source)) == [], (
        "the source is never written"
    )
    files = [entry for entry in before.values() if entry.kind == "file"]
    state = tree.state()
    keys = ["format", "status", "since", "completed", "files", "bytes", "namespace", "exclude"]
    assert list(state) == keys
    assert state["exclude"].split("\t") == ["lost+found", ".snapshot", ".nfs*"]
    assert (state["format"], state["namespace"]) == ("1", NAMESPACE)
    assert int(state["files"]) == result.verdict["files"] == len(files)
    assert int(state["bytes"]) == result.verdict["bytes"] == sum(entry.size for entry in files)
    times = [datetime.fromisoformat(state[key]) for key in ("since", "completed")]
    assert result.verdict["completed"] == state["completed"]
    assert begun <= times[0] <= times[1] <= datetime.now(UTC)
    assert result.verdict["copied"] == len([entry for entry in before.values() if entry.kind != "folder"])
    assert "100%" in result.log, "progress"


def test_the_sample_has_the_digests_of_the_source(mirrored: Media) -> None:
    unescape = {b"\\\\": b"\\", b"\\t": b"\t", b"\\n": b"\n"}
    for _ in range(3):  # chosen anew every time; a small tree is in it as a whole
        mirrored.mirror(SAMPLE_FILES="1000")
        seen = []
        for line in (mirrored.replica / ".stack-backup" / "sample.tsv").read_bytes().splitlines():
            digest, size, path = line.split(b"\t")
            parts = [path[i : i + 2] for i in range(len(path) - 1)]
            name = b""
            while path:
                take = path[:2] if path[:2] in unescape else path[:1]
                name, path = name + unescape.get(take, take), path[len(take) :]
            content = (mirrored.source / os.fsdecode(name)).read_bytes()
            assert (hashlib.sha256(content).hexdigest(), len(content)) == (digest.decode(), int(size)), parts
            seen.append(name)
        assert len(seen) == len(set(seen)) == int(mirrored.state()["files"])


def test_the_sample_is_as_large_as_told(mirrored: Media) -> None:
    for size in (7, 0):
        assert mirrored.mirror(SAMPLE_FILES=str(size)).verdict["sample"] == size
        assert (mirrored.replica / ".stack-backup" / "sample.tsv").read_bytes().count(b"\n") == size


def test_a_second_run_touches_no_file(mirrored: Media) -> None:
    shutil.rmtree(mirrored.replica / ".stack-backup" / "trash")
    for name in ("state", "sample.tsv"):
        (mirrored.replica / ".stack-backup" / name).rename(mirrored.target / name)
    with mirrored.untouched(mirrored.replica):
        os.rename(mirrored.target / "state", mirrored.replica / ".stack-backup" / "state")  # noqa: PTH104
        result = mirrored.mirror()
        (mirrored.replica / ".stack-backup" / "state").unlink()
        (mirrored.replica / ".stack-backup" / "sample.tsv").unlink()
    assert (result.verdict["copied"], result.verdict["removed"]) == (0, 0)


def test_what_was_deleted_or_replaced_is_in_the_trash(mirrored: Media) -> None:
    fragment = "targets/set-000/fragment-00003.mol"
    old = (mirrored.source / fragment).read_bytes()
    mirrored.set(fragment, old[::-1])
    (mirrored.source / "names" / "case").unlink()
    (mirrored.source / "names" / "tab\tstop").rename(mirrored.source / "renamed")
    (mirrored.source / "links" / "dangling").unlink()
    shutil.rmtree(mirrored.source / "empty")
    result = mirrored.mirror()
    assert (result.verdict["copied"], result.verdict["removed"]) == (2, 3)
    assert [trash.name for trash in mirrored.trash()] == [mirrored.state()["since"]]
    [trash] = mirrored.trash()
    kept = {str(path.relative_to(trash)) for path in trash.rglob("*") if path.is_symlink() or path.is_file()}
    assert kept == {fragment, "names/case", "names/tab\tstop", "links/dangling"}
    assert (trash / fragment).read_bytes() == old


def test_every_file_may_be_edited_at_once(mirrored: Media) -> None:
    files = [path for path in mirrored.source.rglob("*") if path.is_file() and not path.is_symlink()]
    for path in files:
        path.write_bytes(path.read_bytes() + b"!")
    assert mirrored.mirror().verdict["copied"] == len(files)
    [trash] = mirrored.trash()
    assert len([path for path in trash.rglob("*") if path.is_file()]) == len(files)


def test_a_second_change_on_the_same_day_takes_nothing_from_the_trash(mirrored: Media) -> None:
    for content in ("second", "third", "fourth"):
        mirrored.set("names/case", content)
        while mirrored.state()["since"] == f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}":
            time.sleep(0.05)
        mirrored.mirror()
    kept = [(trash / "names" / "case").read_bytes() for trash in mirrored.trash()]
    assert kept == [b"content of case", b"second", b"third"]


def test_files_folders_and_links_take_each_others_place(mirrored: Media) -> None:
    outside = mirrored.target / "outside"
    outside.mkdir()
    source = mirrored.source
    shutil.rmtree(source / "modes")
    mirrored.set("modes", "a file now")
    (source / "names" / "case").unlink()
    mirrored.set("names/case/inside", "a folder now")
    (source / "names" / "CASE").unlink()
    (source / "names" / "CASE").symlink_to("case")
    (source / "links" / "out-to-a-folder").unlink()
    mirrored.set("links/out-to-a-folder/passwd", "not the one of the system")
    (source / "links" / "relative").unlink()
    mirrored.set("links/relative", "a file now")
    mirrored.mirror(MINIMUM_SHARE="50")
    [trash] = mirrored.trash()
    assert (trash / "modes" / "0600").is_file()
    assert (trash / "names" / "case").read_bytes() == b"content of case"
    assert (trash / "links" / "out-to-a-folder").readlink() == Path("/etc")


def test_the_trash_is_emptied_by_age(mirrored: Media) -> None:
    trash = mirrored.replica / ".stack-backup" / "trash"
    now = datetime.now(UTC)
    names = [f"{now - timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}" for days in (9, 8, 6, 0)]
    for name in (*names, "something-else"):
        mirrored.set(f".stack-backup/trash/{name}/file", "old", mirrored.replica)
    (trash / names[0] / "out").symlink_to(mirrored.source)
    media_files.give(trash, 999)
    with mirrored.untouched(mirrored.source):
        red(mirrored.run(environment={"SENTINEL": ".stack"}), 66)
        assert len(mirrored.trash()) == 5, "a red run empties nothing"
        mirrored.mirror()
    assert sorted(path.name for path in trash.iterdir()) == [*names[2:], "something-else"]
    mirrored.mirror(TRASH_DAYS="0")
    assert [path.name for path in trash.iterdir()] == ["something-else"]


def test_a_mirror_of_another_tool_is_taken_over(tree: Media) -> None:
    shutil.copytree(tree.source, tree.replica, symlinks=True, dirs_exist_ok=True)
    media_files.give(tree.replica, 999)
    assert tree.mirror().verdict["copied"] == 0


def test_what_is_no_file_is_named_and_left_out(mirrored: Media) -> None:
    make_fifo(mirrored.source / "pipe")
    result = mirrored.run()
    green(result)
    assert "Special: pipe" in result.log
    assert not (mirrored.replica / "pipe").exists()


def test_a_sentinel_that_is_there(tree: Media) -> None:
    tree.set(".stack", NAMESPACE)
    tree.mirror(SENTINEL=".stack")


# ---- a source that is not what it should be ----


def test_empty_source(mirrored: Media) -> None:
    for path in mirrored.source.iterdir():
        shutil.rmtree(path)
    refused(mirrored, 66, "no file at all")


def test_source_of_nothing_but_folders(mirrored: Media) -> None:
    for path in mirrored.source.iterdir():
        shutil.rmtree(path)
    (mirrored.source / "folder").mkdir()
    refused(mirrored, 66, "no file at all")


def test_source_that_is_missing(mirrored: Media) -> None:
    refused(mirrored, 66, "/nowhere", "not there", environment={"MEDIA_VOLUME": "/nowhere"})


def test_source_without_its_sentinel(mirrored: Media) -> None:
    refused(mirrored, 66, "no .stack,", environment={"SENTINEL": ".stack"})


def test_source_that_is_a_replica(mirrored: Media) -> None:
    (mirrored.source / ".stack-backup").mkdir()
    refused(mirrored, 65, "a folder .stack-backup")


def test_source_with_fewer_files(mirrored: Media) -> None:
    for path in [path for path in mirrored.source.rglob("*") if path.is_file()][:12]:
        path.unlink()
    refused(mirrored, 65, "shrank", "minimumShare 0")
    mirrored.mirror(MINIMUM_SHARE="0")


def test_source_with_fewer_bytes(mirrored: Media) -> None:
    mirrored.set("sizes/sparse", "")
    refused(mirrored, 65, "shrank")


def test_share_is_a_share_of_the_last_good_mirror(mirrored: Media) -> None:
    files = [path for path in mirrored.source.rglob("fragment-*") if path.is_file()]
    for path in files[:4]:
        path.unlink()
    mirrored.mirror()  # 4 of more than 80
    for path in files[4:8]:
        path.unlink()
    mirrored.mirror()  # and 4 more: the measure goes along


def test_every_folder_renamed(mirrored: Media) -> None:
    for path in list(mirrored.source.iterdir()):
        path.rename(path.with_name(f"{path.name} of another stack"))
    refused(mirrored, 65, "no longer in the source")


def test_wrong_source_for_a_mirror_of_another_tool(tree: Media) -> None:
    shutil.copytree(tree.source, tree.replica, symlinks=True, dirs_exist_ok=True)
    media_files.give(tree.replica, 999)
    shutil.rmtree(tree.source / "folders")
    shutil.rmtree(tree.source / "names")
    refused(tree, 65, "shrank")


def test_folder_that_cannot_be_read(mirrored: Media) -> None:
    (mirrored.source / "names").chmod(0)
    result = refused(mirrored, 77, "read", "names", "mediaReplicator.exclude")
    assert "Cannot be read: /media/names" in result.log


def test_a_name_like_those_of_rclone_s_links_is_a_name(mirrored: Media) -> None:
    mirrored.set("names/data.rclonelink", "/etc/passwd")
    mirrored.mirror()


# ---- a replica that is not ours, or not well ----


def test_replica_of_another_stack(mirrored: Media) -> None:
    state = mirrored.replica / ".stack-backup" / "state"
    state.write_text(state.read_text().replace(NAMESPACE, "another-stack"))
    refused(mirrored, 77, "belongs to another-stack")


def test_replica_that_is_read_only(mirrored: Media) -> None:
    with mirrored.volume(REPLICA).read_only():
        refused(mirrored, 77, "Read-only file system")


def test_replica_of_another_owner(mirrored: Media) -> None:
    (mirrored.replica / ".stack-backup").chmod(0o555)
    refused(mirrored, 77, "Permission denied", "999:999")


def test_replica_that_is_full(mirrored: Media) -> None:
    mirrored.set("new", os.urandom(8 << 20))
    with mirrored.volume(REPLICA).limited(12 << 20):
        refused(mirrored, 73, "8 MiB are to be copied", "trashDays")
    mirrored.mirror()


def test_replica_that_fills_up_amid_a_copy(mirrored: Media) -> None:
    mirrored.set("names/case", os.urandom(8 << 20))
    (mirrored.source / "names" / "CASE").unlink()
    before = media_files.snapshot(mirrored.replica)
    with mirrored.volume(REPLICA).limited(24 << 20), mirrored.start(python=AMID) as job:
        job.reached("reached")
        fill_up(mirrored.volume(REPLICA), 4 << 20)
        job.release("go")
        red(job.wait(), 73, "space", "the next run goes on")
        (mirrored.replica / "filler").unlink()
        assert media_files.differences(before, media_files.snapshot(mirrored.replica)) == [], (
            "nor is anything deleted"
        )
        assert mirrored.state()["status"] == "in-progress"


# ---- amid a run ----


def test_readers_are_told_that_a_run_is_in_progress(mirrored: Media) -> None:
    last = mirrored.state()
    mirrored.set("new", "one more file")
    with mirrored.start(python=AMID) as job:
        job.reached("reached")
        state = mirrored.state()
        assert state["status"] == "in-progress"
        assert state["since"] >= last["completed"]
        assert {key: state[key] for key in ("completed", "files", "bytes", "namespace")} == {
            key: last[key] for key in ("completed", "files", "bytes", "namespace")
        }
        job.release("go")
        assert job.wait().succeeded
    assert mirrored.state()["completed"] >= state["since"]
    assert int(mirrored.state()["files"]) == int(last["files"]) + 1


def test_a_stack_that_is_used_meanwhile(mirrored: Media) -> None:
    mirrored.set("new/first", "one more")
    with mirrored.start(python=AFTER) as job:
        job.reached("reached")  # all is copied; now the stack goes on
        mirrored.set("new/file", "one more")
        mirrored.set("names/case", "edited")
        (mirrored.source / "names" / "CASE").unlink()
        job.release("go")
        result = job.wait()
    green(result)
    mirrored.mirror()


@contextlib.contextmanager
def always_written(file: Path) -> Iterator[None]:
    stop = threading.Event()

    def grow() -> None:
        with file.open("ab") as writing:
            while not stop.wait(0.02):
                writing.write(b"more")
                writing.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        yield
    finally:
        stop.set()
        writer.join()


def passed_over(tree: Media, *names: str, **changes: Any) -> JobResult:
    """A mirror that is complete but for these files, which it names."""
    result = tree.run(**changes)
    green(result)
    counted = [result.verdict.get("exceptions", 0), int(tree.state().get("exceptions", 0))]
    assert counted == [len(names), len(names)]
    assert tree.state()["status"] == "complete"
    assert f"{len(names)} files were skipped" in result.verdict["message"]
    for name in names:
        assert f"Skipped: {name}" in result.log
        assert name in result.verdict["message"]
    left = {line.split(":")[0] for line in differences(tree)}
    assert left <= {repr(name) for name in names}
    return result


def differences(tree: Media) -> list[str]:
    return media_files.differences(media_files.snapshot(tree.source), media_files.snapshot(tree.replica))


def test_a_file_that_is_always_being_written_costs_no_other(mirrored: Media) -> None:
    mirrored.set("growing", os.urandom(2 << 20))
    mirrored.set("names/case", "edited")
    (mirrored.source / "names" / "CASE").unlink()
    with always_written(mirrored.source / "growing"):
        passed_over(mirrored, "growing", environment={"BANDWIDTH_LIMIT": "8M"})
    assert not (mirrored.replica / "growing").exists(), "never a part"
    mirrored.mirror()
    assert "exceptions" not in mirrored.state()
    good = (mirrored.source / "growing").read_bytes()
    with always_written(mirrored.source / "growing"):
        passed_over(mirrored, "growing", environment={"BANDWIDTH_LIMIT": "8M"})
    assert (mirrored.replica / "growing").read_bytes() == good, "the last good copy"


def test_a_file_that_cannot_be_read_costs_no_other(mirrored: Media) -> None:
    mirrored.set("new", "one more")
    mirrored.set("names/case", "edited")
    mirrored.set("names/tab\tstop", "edited, too")
    (mirrored.source / "names" / "tab\tstop").chmod(0)
    (mirrored.source / "names" / "CASE").unlink()
    (mirrored.source / "names" / "co:lon").chmod(0)  # as it was mirrored: there is nothing to read
    with mirrored.start(python=AMID) as job:
        job.reached("reached")
        (mirrored.source / "new").chmod(0)
        job.release("go")
        result = job.wait()
    green(result)
    assert result.verdict["exceptions"] == 2
    assert "Skipped: new: Permission denied" in result.log
    assert (mirrored.replica / "names" / "tab\tstop").read_bytes() == b"content of tab\tstop"
    assert (mirrored.replica / "names" / "case").read_text() == "edited"
    assert not (mirrored.replica / "names" / "CASE").exists()


@pytest.mark.parametrize("year", [1901, 2300, 2600])
def test_a_file_of_another_century_costs_no_other(mirrored: Media, year: int) -> None:
    mirrored.set("dated", "one more")
    seconds = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    os.utime(mirrored.source / "dated", (seconds, seconds))
    mirrored.set("names/case", "edited")
    for copied in (2, 0):
        result = mirrored.run()
        green(result)
        assert result.verdict["copied"] == copied, "it is not copied again every night"
        assert mirrored.state()["status"] == "complete"
        assert (mirrored.replica / "dated").read_text() == "one more"
        assert differences(mirrored) == []


def test_a_time_that_the_replica_cannot_hold_is_named(mirrored: Media) -> None:
    """As a file system with 32 bits for it does, which takes the nearest one."""
    mirrored.set("dated", "one more")
    os.utime(mirrored.source / "dated", (1 << 33, 1 << 33))
    clamped = faults.patch_python(
        "stack_backup_jobs.copier",
        "real, last = os.utime, ((1 << 31) - 1) * 10**9\n"
        "def clamped(file, times=None, *, ns=None):\n"
        "    real(file, ns=ns and tuple(min(time, last) for time in ns))\n"
        "os.utime = clamped\n",
    )
    for copied in (1, 0):
        result = passed_over(mirrored, "dated", python=clamped)
        assert "cannot hold" in result.verdict["message"]
        assert result.verdict["copied"] == copied


@pytest.mark.parametrize("code", ["ENAMETOOLONG", "EILSEQ"])
def test_a_name_that_the_replica_cannot_hold_costs_no_other(mirrored: Media, code: str) -> None:
    mirrored.set("new", "one more")
    mirrored.set("other", "one more")
    named = "'/media-replica/new' in path and 'partial' in path"
    passed_over(mirrored, "new", python=faults.fail_python("open", code, named))
    assert (mirrored.replica / "other").exists()


def test_a_disk_that_lost_a_file_costs_no_other(mirrored: Media) -> None:
    good = (mirrored.replica / "names/case").read_bytes()
    mirrored.set("names/case", "edited")
    mirrored.set("other", "one more")
    broken = faults.fail_python("os.read", "EIO", "'names/case' in path")
    passed_over(mirrored, "names/case", python=broken)
    assert (mirrored.replica / "names/case").read_bytes() == good
    assert (mirrored.replica / "other").exists()


def test_many_odd_files_are_no_odd_files(mirrored: Media) -> None:
    for number in range(11):
        mirrored.set(f"new/{number}", "one more")
        (mirrored.source / "new" / str(number)).chmod(0)
    mirrored.set("other", "one more")
    result = mirrored.run()
    red(result, 77, "11 of", "skipped", "The mirror itself is complete", "999:999")
    assert (mirrored.state()["status"], mirrored.state()["exceptions"]) == ("complete", "11")
    assert (mirrored.replica / "other").exists()


def test_what_belongs_to_the_file_server_is_left_out(mirrored: Media) -> None:
    for name in ("lost+found/a", "names/.snapshot/hourly/b", "names/.nfs0000001", "kept/.nfs"):
        mirrored.set(name, "one more")
    (mirrored.source / "lost+found").chmod(0)
    mirrored.set("lost+found/theirs", "of the export", mirrored.replica)
    result = mirrored.run()
    green(result)
    assert result.verdict["copied"] == 0
    assert (mirrored.replica / "lost+found" / "theirs").exists()
    assert not (mirrored.replica / "names/.snapshot").exists()
    mirrored.install({"mediaReplicator": {"exclude": ["*+found"]}})
    assert mirrored.run().verdict["copied"] == 3
    assert mirrored.state()["exclude"] == "*+found"


def test_source_that_is_emptied_amid_a_run(mirrored: Media) -> None:
    mirrored.set("new", "one more")
    (mirrored.source / "names" / "CASE").unlink()
    before = media_files.snapshot(mirrored.replica)
    with mirrored.start(python=AMID) as job:
        job.reached("reached")
        for path in mirrored.source.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        job.release("go")
        result = job.wait()
    red(result, 66, "no file at all", "in its trash")
    [line] = media_files.differences(before, media_files.snapshot(mirrored.replica))
    assert line.startswith("'names/CASE'"), "only what was to go before"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_nothing_partial_and_the_next_goes_on(
    mirrored: Media, number: signal.Signals
) -> None:
    last = mirrored.state()
    (mirrored.source / "names" / "CASE").unlink()
    mirrored.set("names/case", os.urandom(4 << 20))
    before = media_files.snapshot(mirrored.replica)
    with mirrored.start(environment=SLOWLY) as job:
        deadline = time.monotonic() + 30
        while not partial(mirrored.replica):
            assert time.monotonic() < deadline, job.pod.log
            time.sleep(0.05)
        job.signal(number)
        result = job.wait()
    if number == signal.SIGTERM:
        red(result, 143, "told to stop", "the next run goes on")
        assert not (mirrored.replica / ".stack-backup" / "lock").exists()
    else:
        assert result.exit_code == 137
    unfinished = {str(Path(path).relative_to(mirrored.replica)) for path in partial(mirrored.replica)}
    after = {
        path: entry
        for path, entry in media_files.snapshot(mirrored.replica).items()
        if path not in unfinished
    }
    assert after == before, "what is to be replaced or deleted is there until all is copied"
    state = mirrored.state()
    assert (state["status"], state["completed"]) == ("in-progress", last["completed"])
    log = mirrored.mirror(LOCK_PATIENCE="1").log
    assert ("Taking over from a run that was killed" in log) == (number == signal.SIGKILL)


def test_two_runs_at_once(mirrored: Media) -> None:
    patience = {"LOCK_PATIENCE": "3"}
    mirrored.set("new", "one more")
    with mirrored.start(python=AMID, environment=patience) as job:
        job.reached("reached")
        with mirrored.untouched(mirrored.source):
            state = mirrored.state()
            result = mirrored.run(environment=patience)
        red(result, 75, "Another run is at work", MIRROR)
        assert mirrored.state() == state
        job.release("go")
        assert job.wait().succeeded
    mirrored.mirror()


def test_the_inner_deadline(mirrored: Media) -> None:
    mirrored.set("new", "one more")
    with mirrored.start(python=AMID, environment={"DEADLINE_SECONDS": "123"}) as job:
        result = job.wait(timeout=60)
    red(result, 124, "3 s")
    mirrored.mirror()


def test_replica_that_loses_a_file_amid_a_run(mirrored: Media) -> None:
    mirrored.set("new", "one more")
    with mirrored.start(python=AFTER) as job:
        job.reached("reached")
        (mirrored.replica / "names/case").unlink()
        (mirrored.replica / "names/CASE").write_text("x\n")
        job.release("go")
        result = job.wait()
    red(result, 65, "2 files are missing or differ")
    assert "names/case" in result.log
    assert mirrored.state()["status"] == "in-progress"
    mirrored.mirror()


def test_replica_in_which_somebody_writes_amid_a_run(mirrored: Media) -> None:
    mirrored.set("new", "one more")
    with mirrored.start(python=AFTER) as job:
        job.reached("reached")
        (mirrored.replica / "theirs").write_text("x\n")
        job.release("go")
        result = job.wait()
    red(result, 65, "1 are only there")


@pytest.mark.parametrize(
    ("code", "expected"),
    [("EIO", 74), ("ESTALE", 75), ("ENOSPC", 73), ("EDQUOT", 73), ("EROFS", 77), ("EACCES", 77)],
)
@pytest.mark.parametrize("event", ["open", "os.rename"])
def test_replica_that_refuses_amid_a_run(mirrored: Media, event: str, code: str, expected: int) -> None:
    mirrored.set("names/case", "edited")
    (mirrored.source / "names" / "CASE").unlink()
    before = media_files.snapshot(mirrored.replica)
    result = mirrored.run(python=faults.fail_python(event, code, "'.stack.partial' in path"))
    red(result, expected, os.strerror(getattr(errno, code)), "the next run goes on")
    assert media_files.differences(before, media_files.snapshot(mirrored.replica)) == [], (
        "nothing is deleted after an error"
    )
    mirrored.mirror()


def test_replica_that_gives_no_second_names(mirrored: Media) -> None:
    """What is replaced is then moved to the trash, and the new file takes its name."""
    mirrored.set("names/case", "edited")
    result = mirrored.run(python=faults.fail_python("os.link", "EOPNOTSUPP"))
    green(result)
    [trash] = mirrored.trash()
    assert (trash / "names/case").read_bytes() == b"content of case"
    assert differences(mirrored) == []


@pytest.mark.parametrize("at", ["stack_backup_jobs.copier:_rename", "stack_backup_jobs.copier:Copier.remove"])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_killed_at_any_step(mirrored: Media, at: str, after: bool) -> None:
    mirrored.set("names/case", "edited")
    mirrored.set("added/new", "one more")
    (mirrored.source / "names" / "CASE").unlink()
    shutil.rmtree(mirrored.source / "modes")
    killed = mirrored.run(python=faults.kill_python(at, after=after))
    assert killed.exit_code == 137
    assert mirrored.state()["status"] == "in-progress"
    mirrored.mirror(LOCK_PATIENCE="1")
    kept = {
        str(path.relative_to(trash)): path.read_bytes()
        for trash in mirrored.trash()
        for path in trash.rglob("*")
        if path.is_file() and path.name in ("case", "CASE", "0600")
    }
    assert kept == {
        "names/case": b"content of case",
        "names/CASE": b"content of CASE",
        "modes/0600": b"600",
    }


def test_trash_that_cannot_be_emptied_costs_no_mirror(mirrored: Media) -> None:
    mirrored.set(".stack-backup/trash/2026-01-01T00:00:00Z/file", "theirs", mirrored.replica)
    (mirrored.replica / ".stack-backup/trash/2026-01-01T00:00:00Z").chmod(0o755)
    mirrored.set("new", "one more")
    result = mirrored.run()
    red(result, 77, "The trash 2026-01-01T00:00:00Z could not be emptied", "The mirror itself is complete")
    assert mirrored.state()["status"] == "complete"
    assert differences(mirrored) == []


def test_trash_that_fills_the_replica_goes_before_room_is_judged(mirrored: Media) -> None:
    old = f"{datetime.now(UTC) - timedelta(days=9):%Y-%m-%dT%H:%M:%SZ}"
    mirrored.set(f".stack-backup/trash/{old}/file", bytes(12 << 20), mirrored.replica)
    media_files.give(mirrored.replica / ".stack-backup", 999)
    mirrored.set("new", os.urandom(12 << 20))
    with mirrored.volume(REPLICA).limited(28 << 20):
        free = os.statvfs(mirrored.replica)
        assert free.f_bavail * free.f_frsize < 12 << 20, "the test's own measure"
        mirrored.mirror()


# ---- safeguards taken out: the tests must see it ----

MIRROR_PY, COPIER, TREES, SHARED = (
    f"stack_backup_jobs/{name}.py" for name in ("media_replicator", "copier", "trees", "media")
)
MUTANTS: dict[str, tuple[str, str, str, Callable[[Media], None]]] = {
    "links are skipped": (
        TREES,
        "elif stat.S_ISLNK(mode) and",
        "elif False and",
        test_all_that_a_tree_may_hold_is_mirrored,
    ),
    "empty folders are skipped": (
        SHARED,
        "self.copier.folder(source.path, target)",
        "pass",
        test_all_that_a_tree_may_hold_is_mirrored,
    ),
    "times are not kept": (
        COPIER,
        "os.utime(file, ns=(time_ns, time_ns))",
        "pass",
        test_all_that_a_tree_may_hold_is_mirrored,
    ),
    "an empty source is as good as any": (MIRROR_PY, "if not files:", "if False:", test_empty_source),
    "a source may shrink": (
        MIRROR_PY,
        "if files * 100 <",
        "if False and files * 100 <",
        test_source_with_fewer_files,
    ),
    "anything may be renamed": (
        MIRROR_PY,
        "if share > 0 and plan.lost > allowed:",
        "if False:",
        test_every_folder_renamed,
    ),
    "replaced is gone": (
        COPIER,
        'if self.trash is None and there.kind != "d":',
        'if there.kind != "d":',
        test_what_was_deleted_or_replaced_is_in_the_trash,
    ),
    "what changes is a copy": (
        COPIER,
        "if (done, before.st_size, before.st_mtime_ns) != (after",
        "if False and (done, before.st_size, before.st_mtime_ns) != (after",
        test_a_file_that_is_always_being_written_costs_no_other,
    ),
    "a second look at an emptied source is not worth it": (
        MIRROR_PY,
        "            self._check_share(now.files, there.bytes, None)\n",
        "",
        test_source_that_is_emptied_amid_a_run,
    ),
    "nothing is verified": (
        MIRROR_PY,
        "self._verify(before, there)",
        "pass",
        test_replica_that_loses_a_file_amid_a_run,
    ),
    "nobody looks at the lock": (MIRROR_PY, "        mirror.lock()\n", "", test_two_runs_at_once),
    "anybody's replica": (
        MIRROR_PY,
        'if owner not in ("", self.settings.namespace):',
        "if False:",
        test_replica_of_another_stack,
    ),
    "trash is emptied late": (
        MIRROR_PY,
        "        self._empty_trash()\n        media.require_room(",
        "        media.require_room(",
        test_trash_that_fills_the_replica_goes_before_room_is_judged,
    ),
    "any number is odd": (
        MIRROR_PY,
        "if len(self.odd) > max(",
        "if False and len(self.odd) > max(",
        test_many_odd_files_are_no_odd_files,
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(tree: Media, tmp_path: Path, name: str) -> None:
    file, safeguard, instead, test = MUTANTS[name]
    tree.mirror()
    chart = mutant(tmp_path, file, safeguard, instead)
    tree.stack.apply(render(VALUES, namespace=NAMESPACE, chart=chart))
    if test is test_all_that_a_tree_may_hold_is_mirrored:  # from an empty replica
        for path in tree.replica.iterdir():
            shutil.rmtree(path)
    with pytest.raises(AssertionError):
        test(tree)
