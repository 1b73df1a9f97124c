"""The mirror of the media: exact, whatever the names; and nothing is lost, whatever goes wrong."""

from __future__ import annotations

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

from stack_backup import media
from stack_backup.render import CHART, render
from stack_backup.runtime import JobResult
from stack_backup.runtime.local import LocalRuntime, LocalStack
from tests.jobs import faults
from tests.jobs.mirror import (
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
    assert_failed,
    make_fifo,
    partial,
)
from tests.jobs.mutants import mutant

AMID = faults.hold("rclone", "[[ $1 == sync ]]")
"""Stops when the replica is marked and nothing is copied yet."""


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
    media.fill(tree.source, files=FILES)
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
    assert_failed(result, code, "Nothing was deleted from the replica, nor changed in it.", *words)
    return result


# ---- what a mirror is ----


def test_all_that_a_tree_may_hold_is_mirrored(tree: Media) -> None:
    before = media.snapshot(tree.source)
    begun = datetime.now(UTC).replace(microsecond=0)
    result = tree.mirror()
    assert media.differences(before, media.snapshot(tree.source)) == [], "the source is never written"
    files = [entry for entry in before.values() if entry.kind == "file"]
    state = tree.state()
    assert list(state) == ["format", "status", "since", "completed", "files", "bytes", "namespace"]
    assert (state["format"], state["namespace"]) == ("1", NAMESPACE)
    assert int(state["files"]) == result.verdict["files"] == len(files)
    assert int(state["bytes"]) == result.verdict["bytes"] == sum(entry.size for entry in files)
    times = [datetime.fromisoformat(state[key]) for key in ("since", "completed")]
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
    media.give(trash, 999)
    with mirrored.untouched(mirrored.source):
        assert_failed(mirrored.run(environment={"SENTINEL": ".stack"}), 66)
        assert len(mirrored.trash()) == 5, "a red run empties nothing"
        mirrored.mirror()
    assert sorted(path.name for path in trash.iterdir()) == [*names[2:], "something-else"]
    mirrored.mirror(TRASH_DAYS="0")
    assert [path.name for path in trash.iterdir()] == ["something-else"]


def test_a_mirror_of_another_tool_is_taken_over(tree: Media) -> None:
    shutil.copytree(tree.source, tree.replica, symlinks=True, dirs_exist_ok=True)
    media.give(tree.replica, 999)
    assert tree.mirror().verdict["copied"] == 0


def test_what_rclone_cannot_copy_is_named_and_left_out(mirrored: Media) -> None:
    make_fifo(mirrored.source / "pipe")
    result = mirrored.run()
    assert result.succeeded, result.log
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
    media.give(tree.replica, 999)
    shutil.rmtree(tree.source / "folders")
    shutil.rmtree(tree.source / "names")
    refused(tree, 65, "shrank")


@pytest.mark.parametrize("path", ["names/case", "names"])
def test_what_cannot_be_read(mirrored: Media, path: str) -> None:
    (mirrored.source / path).chmod(0)
    result = refused(mirrored, 77, "read")
    assert path in result.log


def test_name_that_rclone_takes_for_a_link(mirrored: Media) -> None:
    mirrored.set("names/data.rclonelink", "/etc/passwd")
    assert "names/data.rclonelink" in refused(mirrored, 65, ".rclonelink").log


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
    before = media.snapshot(mirrored.replica)
    plenty = {"df": "echo 1B-blocks; echo 99999999999"}
    with mirrored.volume(REPLICA).limited(12 << 20):
        assert_failed(mirrored.run(shims=plenty), 73, "space")
        assert "names/CASE" in media.snapshot(mirrored.replica), "nothing is deleted after an error"
        after = media.snapshot(mirrored.replica)
        assert [path for path in before if path != "names/case" and before[path] != after.get(path)] == []
        assert "names/case" not in after or after["names/case"] == before["names/case"]
        assert "names/case" in after or (mirrored.trash()[0] / "names" / "case").exists()
        assert mirrored.state()["status"] == "in-progress"


# ---- amid a run ----


def test_readers_are_told_that_a_run_is_in_progress(mirrored: Media) -> None:
    last = mirrored.state()
    mirrored.set("new", "one more file")
    with mirrored.start(shims=AMID) as job:
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
    with mirrored.start(shims={"rclone": f'{faults.REAL}; rclone "$@" && {faults.PAUSE}'}) as job:
        job.reached("reached")  # all is copied; now the stack goes on
        mirrored.set("new/file", "one more")
        mirrored.set("names/case", "edited")
        (mirrored.source / "names" / "CASE").unlink()
        job.release("go")
        result = job.wait()
    assert result.succeeded, result.log
    mirrored.mirror()


def test_file_that_is_written_while_it_is_copied(mirrored: Media) -> None:
    mirrored.set("growing", os.urandom(4 << 20))
    (mirrored.source / "names" / "CASE").unlink()
    stop = threading.Event()

    def grow() -> None:
        with (mirrored.source / "growing").open("ab") as file:
            while not stop.wait(0.05):
                file.write(b"more")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        result = mirrored.run(environment=SLOWLY)
    finally:
        stop.set()
        writer.join()
    assert_failed(result, 75, "being updated")
    assert not (mirrored.replica / "growing").exists()
    assert (mirrored.replica / "names" / "CASE").exists(), "nothing is deleted after an error"
    assert mirrored.state()["status"] == "in-progress"
    mirrored.mirror()


def test_file_that_cannot_be_read_any_more(mirrored: Media) -> None:
    mirrored.set("new", "one more")
    (mirrored.source / "names" / "CASE").unlink()
    with mirrored.start(shims=AMID) as job:
        job.reached("reached")
        (mirrored.source / "new").chmod(0)
        job.release("go")
        result = job.wait()
    assert_failed(result, 77, "permission denied")
    assert (mirrored.replica / "names" / "CASE").exists(), "nothing is deleted after an error"


def test_source_that_is_emptied_amid_a_run(mirrored: Media) -> None:
    with mirrored.start(shims=AMID) as job:
        job.reached("reached")
        for path in mirrored.source.iterdir():
            shutil.rmtree(path)
        job.release("go")
        result = job.wait()
    assert_failed(result, 65, "max-delete", "in its trash")
    [trash] = mirrored.trash()
    there, gone = (
        {path.relative_to(root) for path in root.rglob("*") if path.is_file() or path.is_symlink()}
        for root in (mirrored.replica, trash)
    )
    assert len(gone) <= 0.1 * len(there)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_killed_leaves_nothing_partial_and_the_next_goes_on(
    mirrored: Media, number: signal.Signals
) -> None:
    last = mirrored.state()
    (mirrored.source / "names" / "CASE").unlink()
    mirrored.set("names/case", os.urandom(4 << 20))
    before = media.snapshot(mirrored.replica)
    with mirrored.start(environment=SLOWLY) as job:
        deadline = time.monotonic() + 30
        while not partial(mirrored.replica):
            assert time.monotonic() < deadline, job.pod.log
            time.sleep(0.05)
        job.signal(number)
        result = job.wait()
    if number == signal.SIGTERM:
        assert_failed(result, 143, "told to stop", "the next run goes on")
        assert not (mirrored.replica / ".stack-backup" / "lock").exists()
    else:
        assert result.exit_code == 137
    unfinished = {str(Path(path).relative_to(mirrored.replica)) for path in partial(mirrored.replica)}
    after = {
        path: entry for path, entry in media.snapshot(mirrored.replica).items() if path not in unfinished
    }
    # What is to be replaced is in the trash already; it has its name again when its new content is whole.
    [trash] = mirrored.trash()
    assert {path for path in before if after.get(path) != before[path]} == {"names/case"}
    assert "names/case" not in after
    assert (trash / "names" / "case").read_bytes() == b"content of case"
    state = mirrored.state()
    assert (state["status"], state["completed"]) == ("in-progress", last["completed"])
    log = mirrored.mirror(LOCK_PATIENCE="1").log
    assert ("Taking over from a run that was killed" in log) == (number == signal.SIGKILL)


def test_two_runs_at_once(mirrored: Media) -> None:
    patience = {"LOCK_PATIENCE": "3"}
    with mirrored.start(shims=AMID, environment=patience) as job:
        job.reached("reached")
        with mirrored.untouched(mirrored.source):
            state = mirrored.state()
            result = mirrored.run(environment=patience)
        assert_failed(result, 75, "Another run is at work", MIRROR)
        assert mirrored.state() == state
        job.release("go")
        assert job.wait().succeeded
    mirrored.mirror()


def test_the_inner_deadline(mirrored: Media) -> None:
    with mirrored.start(shims=AMID, environment={"DEADLINE_SECONDS": "123"}) as job:
        result = job.wait(timeout=60)
    assert_failed(result, 124, "3 s")
    mirrored.mirror()


def test_replica_that_loses_a_file_amid_a_run(mirrored: Media) -> None:
    thief = f'{faults.REAL}; rclone "$@" && rm /media-replica/names/case && echo x >/media-replica/names/CASE'
    result = mirrored.run(shims={"rclone": thief})
    assert_failed(result, 65, "2 files are missing or differ")
    assert "names/case" in result.log
    assert mirrored.state()["status"] == "in-progress"
    mirrored.mirror()


def test_replica_in_which_somebody_writes_amid_a_run(mirrored: Media) -> None:
    writer = f'{faults.REAL}; rclone "$@" && echo x >/media-replica/theirs'
    result = mirrored.run(shims={"rclone": writer})
    assert_failed(result, 65, "1 are only there")


@pytest.mark.parametrize(
    ("code", "said", "expected"),
    [
        (1, "ERROR : x: Failed to copy: write /media-replica/x: input/output error", 74),
        (1, "ERROR : x: Failed to copy: stale NFS file handle", 75),
        (1, "ERROR : x: something that nobody has seen", 75),
        (3, "ERROR : directory not found", 66),
        (2, "Error: unknown flag: --local-fatal-if-no-space", 64),
    ],
)
def test_rclone_that_fails(mirrored: Media, code: int, said: str, expected: int) -> None:
    before = media.snapshot(mirrored.replica)
    result = mirrored.run(shims=faults.fail("rclone", code, said))
    assert_failed(result, expected, f"its exit code is {code}")
    assert media.differences(before, media.snapshot(mirrored.replica)) == []


# ---- configuration ----


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MINIMUM_SHARE", "most"),
        ("TRASH_DAYS", ""),
        ("TRANSFERS", "0"),
        ("CHECKERS", "-1"),
        ("SAMPLE_FILES", "1e3"),
        ("BANDWIDTH_LIMIT", "50M --delete-before"),
        ("MEDIA_REPLICA_VOLUME", ""),
    ],
)
def test_variable_that_makes_no_sense(mirrored: Media, name: str, value: str) -> None:
    refused(mirrored, 64, name, environment={name: value})


def test_no_rclone(mirrored: Media, tmp_path: Path) -> None:
    chart = shutil.copytree(CHART, tmp_path / "chart")
    library = chart / "files" / "media.sh"
    library.write_text(library.read_text().replace("PATH+=:/tools", "PATH+=:/nowhere"))
    mirrored.stack.apply(render(VALUES, namespace=NAMESPACE, chart=chart))
    refused(mirrored, 78, "no rclone in /tools")


# ---- safeguards taken out: the tests must see it ----

MUTANTS: dict[str, tuple[str, str, str, Callable[[Media], None]]] = {
    "Unicode forms are one": (
        "media.sh",
        "--no-unicode-normalization ",
        "",
        test_all_that_a_tree_may_hold_is_mirrored,
    ),
    "links are skipped": ("media.sh", " --links ", " ", test_all_that_a_tree_may_hold_is_mirrored),
    "empty folders are skipped": (
        "media.sh",
        " --create-empty-src-dirs",
        "",
        test_all_that_a_tree_may_hold_is_mirrored,
    ),
    "an empty source is as good as any": ("media-replicator.sh", "((files > 0))", "true", test_empty_source),
    "a source may shrink": (
        "media-replicator.sh",
        "((files * 100 >=",
        "((1 || files * 100 >=",
        test_source_with_fewer_bytes,
    ),
    "anything may be renamed": (
        "media-replicator.sh",
        "((lost <= allowed))",
        "true",
        test_every_folder_renamed,
    ),
    "deleted is deleted": (
        "media-replicator.sh",
        ' --backup-dir "$TRASH"',
        "",
        test_what_was_deleted_or_replaced_is_in_the_trash,
    ),
    "no limit of deletions": (
        "media-replicator.sh",
        'LIMIT=(--max-delete "$allowed")',
        "LIMIT=()",
        test_source_that_is_emptied_amid_a_run,
    ),
    "kinds are left to rclone": (
        "media-replicator.sh",
        "\n  set_aside\n",
        "\n",
        test_files_folders_and_links_take_each_others_place,
    ),
    "nothing is verified": (
        "media-replicator.sh",
        "\n  verify\n",
        "\n  figure copied 0\n",
        test_replica_that_loses_a_file_amid_a_run,
    ),
    "nobody looks at the lock": ("media-replicator.sh", "\n  lock\n", "\n", test_two_runs_at_once),
    "anybody's replica": (
        "media-replicator.sh",
        '[[ -z $owner || $owner == "$NAMESPACE" ]]',
        "true",
        test_replica_of_another_stack,
    ),
    "a link may be followed by its name": (
        "media-replicator.sh",
        "(($(tree rclonelink) == 0))",
        "true",
        test_name_that_rclone_takes_for_a_link,
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
