"""Trees as sorted records: the comparison against sets and dictionaries, and memory that does not grow with a
tree.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack_backup_jobs import trees
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.trees import (
    Difference,
    Entry,
    Listing,
    Tree,
    differences,
    entry_of,
    listings,
    of_source,
    unexplained,
)
from stack_backup_lab.paths import PROJECT

NAMES = st.binary(min_size=1, max_size=4).map(
    lambda raw: raw.replace(b"\0", b"\n").replace(b"/", b"\\")
) | st.sampled_from([b"a", b"a-b", b"a b", b"\\n", b"\n", b"\x01"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
FILES = st.builds(
    lambda size, seconds: ("f", size, seconds, b""), st.integers(0, 3), st.integers(-(1 << 34), 1 << 34)
)
OTHERS = st.sampled_from([("d", 0, 0, b""), ("s", 0, 0, b"")]) | st.builds(
    lambda target: ("l", 0, 0, target), st.binary(min_size=1).map(lambda raw: raw.replace(b"\0", b"\n"))
)
TREES = st.dictionaries(PATHS, FILES | OTHERS, max_size=12)
Shape = dict[bytes, tuple[str, int, int, bytes]]


def entries(tree: Shape) -> list[Entry]:
    return [Entry(path, *rest) for path, rest in tree.items()]


def records(tree: Shape) -> list[bytes]:
    return sorted(entry.record for entry in entries(tree))


@given(TREES)
def test_a_record_is_a_line_that_gives_its_entry_back(tree: Shape) -> None:
    for entry in entries(tree):
        assert b"\n" not in entry.record
        assert entry_of(entry.record) == entry
        assert entry_of(entry._replace(root=3).record).root == (3 if entry.kind == "f" else 0)


@given(TREES)
def test_a_folder_comes_before_what_it_holds(tree: Shape) -> None:
    order = [entry_of(record).path for record in records(tree)]
    for place, path in enumerate(order):
        assert not [other for other in order[place:] if path.startswith(other + b"/")]


def found_record(found: Difference) -> bytes:
    entry = found.source or found.target
    assert entry is not None
    return entry.record


@given(TREES, TREES, st.integers(-1, 1))
def test_differences_are_those_of_two_dictionaries(one: Shape, other: Shape, late: int) -> None:
    shifted = {
        path: (kind, size, seconds + late * (kind == "f"), target)
        for path, (kind, size, seconds, target) in one.items()
    }
    other = {**other, **{path: shifted[path] for number, path in enumerate(sorted(one)) if number % 2}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "MANY", 3)
        found = list(differences(records(one), records(other)))
    assert [difference.path for difference in found] == [
        entry_of(record).path for record in sorted(found_record(difference) for difference in found)
    ]
    expected = set()
    for path in one.keys() | other.keys():
        a, b = (Entry(path, *tree[path]) if path in tree else None for tree in (one, other))
        alike = a and b and a._replace(seconds=0) == b._replace(seconds=0) and abs(a.seconds - b.seconds) <= 1
        if not alike:
            expected.add(Difference(a, b))
    assert set(found) == expected
    assert len(found) == len(expected)


@given(TREES, TREES, TREES)
def test_what_the_source_changed_meanwhile_is_no_difference(before: Shape, now: Shape, copy: Shape) -> None:
    def entry(tree: Shape, path: bytes) -> Entry | None:
        return Entry(path, *tree[path]) if path in tree else None

    found = list(differences(records(before), records(copy)))
    left = {one.path for one in unexplained(found, lambda path: entry(now, path))}
    for path, source, there in ((one.path, one.source, entry(now, one.path)) for one in found):
        came_or_went = (source is None) != (there is None)
        changed = source is not None and there is not None and not trees.same(source, there)
        assert (path not in left) == (came_or_went or changed)


@settings(max_examples=30)
@given(st.lists(PATHS, unique=True, max_size=60))
def test_a_listing_is_in_order_however_many_runs_it_has(
    tmp_path_factory: pytest.TempPathFactory, paths: list[bytes]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trees, "RUN", 7)
        patch.setattr(trees, "BLOCK", 5)
        listing = Listing(tmp_path_factory.getbasetemp())
        for start in range(0, len(paths), 3):
            listing.add([Entry(path, "f", 1, 2) for path in paths[start : start + 3]])
        for _ in range(2):
            assert list(listing) == sorted(Entry(path, "f", 1, 2).record for path in paths)
        assert (listing.files, listing.bytes) == (len(paths), len(paths))
        listing.close()


@pytest.mark.parametrize("slow", [0.0, trees.SLOW])
def test_a_tree_is_what_find_finds(tmp_path: Path, slow: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By as many threads as may be, and by one."""
    monkeypatch.setattr(trees, "SLOW", slow)
    tree = tmp_path / "tree"
    for folder in ("a", "a-b", "a/deep/deeper", "x.snapshot", ".snapshot/inside", "empty"):
        (tree / folder).mkdir(parents=True)
    for number in range(200):
        (tree / "a" / f"{number}.mol").write_bytes(bytes(number))
    (tree / ".stack-backup").mkdir()
    (tree / "a" / ".stack-backup").touch()
    (tree / "a" / "x.0123abcd.stack.partial").touch()
    (tree / "link.0123abcd.stack.partial").symlink_to("a")  # a link is made under such a name, too
    (tree / ".nfs0001").touch()
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "pipe")
    [source, target] = listings(
        tmp_path, 4, (".snapshot", ".nfs*"), Tree(tree, "S"), Tree(tree, "T", source=False)
    )
    found = subprocess.run(  # noqa: S602 (a command of ours)
        r"find . -mindepth 1 \( -path ./.stack-backup -o -name .snapshot \) -prune "
        r"-o ! -name '.nfs*' -printf '%P\0'",
        shell=True,
        cwd=tree,
        check=True,
        capture_output=True,
    ).stdout.split(b"\0")[:-1]
    assert [entry_of(record).path for record in target] == sorted(found)
    odd = {b"pipe": "s", b"a/x.0123abcd.stack.partial": "p", b"link.0123abcd.stack.partial": "p"}
    kinds = {entry_of(record).path: entry_of(record).kind for record in target}
    assert {path: kind for path, kind in kinds.items() if kind in "sp"} == odd
    assert [entry_of(record).path for record in source] == [path for path in sorted(found) if path not in odd]
    assert source.special == [b"pipe"]
    assert (source.files, source.bytes, source.links) == (201, sum(range(200)), 1)
    [names] = listings(tmp_path, 4, (".snapshot", ".nfs*"), Tree(tree, "S", names=True))
    assert names.files == source.files


def test_a_tree_that_is_not_there_is_not_empty(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="The source cannot be read as a whole"):
        listings(tmp_path, 2, (), Tree(tmp_path / "nowhere", "The source"))


def test_a_process_that_is_killed_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees.Walk, "end", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(JobError, match="was killed") as failure:
        listings(tmp_path, 2, (), Tree(tmp_path, "The source"))
    assert failure.value.code == Exit.KILLED


@pytest.mark.parametrize("error", [MemoryError("none left"), JobError(73, "It is full.", "Make room.")])
def test_what_a_thread_meets_is_raised_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """And keeps nobody waiting."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").touch()

    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(Listing, "add_records", fails)
    with pytest.raises(type(error)) as raised:
        listings(tmp_path, 2, (), Tree(tmp_path / "tree", "The source"))
    assert (vars(raised.value), str(raised.value)) == (vars(error), str(error))


def test_what_a_source_has_now_is_what_its_listing_says(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "folder").mkdir(parents=True)
    (tree / "folder" / "file").write_text("text")
    (tree / "link").symlink_to("folder")
    [source] = listings(tmp_path, 2, (), Tree(tree, "The source"))
    for entry in map(entry_of, source):
        assert of_source(os.fsencode(tree), entry.path) == entry
    os.mkfifo(tree / "pipe")
    for path in (b"pipe", b"nothing", b"folder/file/inside"):
        assert of_source(os.fsencode(tree), path) is None


MEMORY = """
import json, re, resource, sys
from pathlib import Path
from stack_backup_jobs import trees
from stack_backup_jobs.trees import Tree, differences, listings
Path("/proc/self/clear_refs").write_text("5")  # the peak is that of the parent until then
trees.SLOW = float(sys.argv[4])
found = listings(Path(sys.argv[1]), 8, (), *(Tree(Path(path), path) for path in sys.argv[2:4]))
count = sum(1 for _ in differences(*found))
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
walked = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([count, found[0].files, max(int(peak), walked) // 1024]))
"""


@pytest.mark.slow
def test_three_hundred_thousand_files_take_no_more_memory_than_a_third_of_them() -> None:
    """One folder with 150,000 of them, and the others in folders of 1000; of names with 40 bytes."""
    memory = Path("/dev/shm")  # where it is, files are made in seconds
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        peaks = [peak_of(Path(folder), files) for files in (100_000, 300_000)]
    assert max(peaks) < 50, peaks
    assert peaks[1] < peaks[0] + 8, peaks


def peak_of(top: Path, files: int) -> int:
    """MiB of the largest process of a program that compares a tree of so many files with an empty one."""
    tree, empty = top / str(files), top / f"empty-{files}"
    empty.mkdir()
    for number in range(files):
        if number % 1000 == 0:
            folder = tree / ("one" if number < files // 2 else f"set-{number // 1000:03}")
            folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(folder / f"fragment-{number:031}", os.O_CREAT | os.O_WRONLY))
    peaks = []
    for slow in ("0", str(trees.SLOW)):  # by many threads, and by one
        done = subprocess.run(
            [sys.executable, "-c", MEMORY, top, tree, empty, slow],
            env={"PYTHONPATH": str(PROJECT / "charts/stack-backup/files")},
            check=True,
            capture_output=True,
        )
        count, seen, peak = json.loads(done.stdout)
        assert seen == files
        assert count > files
        peaks.append(int(peak))
    return max(peaks)
