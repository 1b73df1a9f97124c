"""What mirror and recovery of the media share: the state, the plan, and one tree made like another."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack_backup_jobs import media
from stack_backup_jobs.copier import Odd
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import MediaState
from stack_backup_jobs.job import Job
from stack_backup_jobs.media import Apply, Common, Plan, plan_of
from stack_backup_jobs.space import Space
from stack_backup_jobs.trees import Difference, Entry, Tree, differences, entry_of, listings


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("POD_NAME", "pod-1")
    job = Job()
    yield job
    job.end()


def refused(failed: pytest.ExceptionInfo[JobError]) -> tuple[int, str, str]:
    return failed.value.code, failed.value.what, failed.value.advice


# ---- the state ---------------------------------------------------------------------------------------------


def test_the_state_is_read_as_it_was_written(job: Job, tmp_path: Path) -> None:
    assert media.read_state(tmp_path) is None
    state = MediaState("complete", "2022-11-28T02:04:00Z", "2022-11-28T02:05:00Z", 3, 4, "ns")
    path = tmp_path / ".stack-backup" / "state"
    path.parent.mkdir()
    for _ in range(2):
        media.replace(path, state.text().encode(), job)
        assert media.read_state(tmp_path) == state
    assert [each.name for each in path.parent.iterdir()] == ["state"]


@pytest.mark.parametrize(
    ("text", "code", "what", "advice"),
    [
        (
            b"format\t2\n",
            78,
            'The state of the replica is of the format "2", and this program knows 1.',
            "Upgrade the release.",
        ),
        (
            b"format\t1\nstatus\t\xff\n",
            65,
            "The state of the replica is damaged.",
            "Check the export. Without the file .stack-backup/state, media-replicator takes over what lies "
            "there.",
        ),
    ],
)
def test_what_is_no_state_is_told(tmp_path: Path, text: bytes, code: int, what: str, advice: str) -> None:
    (tmp_path / ".stack-backup").mkdir()
    (tmp_path / ".stack-backup" / "state").write_bytes(text)
    with pytest.raises(JobError) as failed:
        media.read_state(tmp_path)
    assert refused(failed) == (code, what, advice)


def test_what_was_not_replaced_leaves_nothing(job: Job, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(IsADirectoryError):
        media.replace(tmp_path / "state", b"text", job)
    [left] = [path for path in tmp_path.iterdir() if path.name != "state"]
    assert left.name == f".tmp.state.pod-1.{os.getpid()}"
    job.end()
    assert not left.exists()


def test_a_folder_is_tried(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    media.probe(tmp_path, job)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(NotADirectoryError):
        media.probe(Path("/dev/null"), job)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(OSError(30, "Read-only")))
        with pytest.raises(OSError, match="Read-only"):
            media.probe(tmp_path, job)
    [left] = tmp_path.iterdir()
    assert left.name.startswith(".tmp.probe.pod-1.")
    assert left.read_bytes() == b"probe\n"


def test_room_is_asked_for(tmp_path: Path) -> None:
    media.require_room(tmp_path, 1, "The volume", "Make room.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(media, "space", lambda _: Space(1 << 30, (5 << 20) + 7, None))
        media.require_room(tmp_path, (5 << 20) + 7, "The volume", "Make room.")
        with pytest.raises(JobError) as failed:
            media.require_room(tmp_path, (6 << 20) + 7, "The volume", "Make room.")
    assert refused(failed) == (73, "The volume has 5 MiB left, and 6 MiB are to be copied.", "Make room.")


def test_what_the_target_says_is_told() -> None:
    with pytest.raises(JobError) as failed, media.on_target():
        raise OSError(28, "No space left on device", "/replica/a")
    advice = "Make room on the volume; the next run goes on from here."
    assert refused(failed) == (73, "The volume refused: /replica/a: No space left on device.", advice)


# ---- the plan ----------------------------------------------------------------------------------------------

NAMES = st.sampled_from([b"a", b"a-b", b"b", b"\n", b"\xff"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
LEAVES = st.sampled_from([("f", b""), ("f", b"x"), ("f", b"yy"), ("l", b"a"), ("l", b"nowhere"), ("d", b"")])
SHAPES = st.dictionaries(PATHS, LEAVES, max_size=8)
Shape = dict[bytes, tuple[str, bytes]]


def made(shape: Shape, root: Path) -> None:
    """What lies under a file or a link is left out."""
    root.mkdir()
    for path, (kind, content) in sorted(shape.items()):
        name = root / os.fsdecode(path)
        with contextlib.suppress(OSError):
            name.parent.mkdir(parents=True, exist_ok=True)
            if kind == "d":
                name.mkdir()
            elif kind == "l":
                name.symlink_to(os.fsdecode(content))
            else:
                name.write_bytes(content)
                os.utime(name, (1, 1))


def listed(root: Path) -> dict[bytes, Entry]:
    [listing] = listings(root.parent, 2, (), Tree(root, "It", source=False))
    return {entry.path: entry for entry in map(entry_of, listing)}


def compared(one: Path, other: Path) -> list[Difference]:
    source, target = (
        listings(one.parent, 2, (), Tree(root, "It", source=root == one))[0] for root in (one, other)
    )
    return list(differences(source, target))


def copied(
    job: Job, one: Path, other: Path, trash: Path | None, delete: bool, found: Iterable[Difference]
) -> Apply:
    there = list(found)
    wanted = Common("ns", "pod-1", one, other, one.parent, 2, 2, "")
    apply = Apply(job, wanted, other, trash, Odd())
    apply.run(lambda: there, plan_of(there, lambda _: None), lambda _: os.fsencode(one), delete)
    return apply


@settings(max_examples=80, deadline=None)
@given(SHAPES, SHAPES, st.booleans(), st.booleans())
def test_a_target_becomes_what_the_source_is(
    tmp_path_factory: pytest.TempPathFactory, source: Shape, target: Shape, keeps: bool, delete: bool
) -> None:
    top = tmp_path_factory.mktemp("trees")
    one, other, trash = top / "source", top / "target", top / "trash"
    made(source, one)
    made(target, other)
    before, wanted = listed(other), listed(one)
    there = compared(one, other)
    conflicts: list[Entry] = []
    plan = plan_of(there, conflicts.append)
    assert plan.empty == (there == [])
    assert plan.lost == sum(
        found.source is None and found.target.kind != "d" for found in there if found.target
    )
    both = [found for found in there if found.source and found.target]
    odd = [found.target for found in both if found.source and found.target.kind != found.source.kind]
    assert (plan.conflicts, conflicts) == (len(odd), odd)
    assert plan.need_bytes == sum(found.source.size for found in there if found.source)
    assert plan.to_copy == sum(
        found.source.kind != "d" or found.target is not None for found in there if found.source
    )

    job = Job()
    apply = copied(job, one, other, trash if keeps else None, delete, there)
    job.end()
    now = listed(other)
    assert {path: entry for path, entry in now.items() if path in wanted} == wanted
    gone = [path for path in before if path not in wanted]
    if delete:
        assert now == wanted
    else:
        # What lay in a folder that is a file now has gone with it.
        folders = {path for path, entry in wanted.items() if entry.kind != "d"}
        stays = [path for path in gone if not media._inside(path, folders)]
        assert [path for path in gone if path in now] == stays
    assert apply.copier.copied == sum(found.source.kind != "d" for found in there if found.source)
    assert apply.copier.bytes == sum(found.source.size for found in there if found.source)
    if keeps and delete:
        for path, entry in before.items():
            if now.get(path) != entry and entry.kind != "d":
                assert os.path.lexists(os.fsencode(trash) + b"/" + path)


def entry(path: str, kind: str, size: int = 0) -> Entry:
    return Entry(path.encode(), kind, size)


@pytest.mark.parametrize(
    ("source", "target", "cost"),
    [
        (entry("a", "f", 5), None, (1, 5, 0, 0)),
        (entry("a", "f", 5), entry("a", "f", 4), (1, 5, 0, 0)),
        (entry("a", "f", 5), entry("a", "d"), (1, 5, 0, 1)),
        (entry("a", "l"), None, (1, 0, 0, 0)),
        (entry("a", "d"), None, (0, 0, 0, 0)),
        (entry("a", "d"), entry("a", "f", 5), (1, 0, 0, 1)),
        (None, entry("a", "f", 5), (0, 0, 1, 0)),
        (None, entry("a", "d"), (0, 0, 0, 0)),
        (None, entry("a", "p"), (0, 0, 0, 0)),
    ],
)
def test_what_a_difference_costs(source: Entry | None, target: Entry | None, cost: tuple[int, ...]) -> None:
    plan = plan_of([Difference(source, target)], lambda _: None)
    assert (plan.to_copy, plan.need_bytes, plan.lost, plan.conflicts, plan.empty) == (*cost, False)
    assert plan_of([], lambda _: None) == Plan()


def test_the_first_conflicts_are_named() -> None:
    found = [Difference(entry(str(number), "f"), entry(str(number), "d")) for number in range(30)]
    named: list[Entry] = []
    assert plan_of(found, named.append).conflicts == 30
    assert named == [difference.target for difference in found[:20]]


def test_what_a_killed_run_has_left_goes(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    one, other = tmp_path / "source", tmp_path / "target"
    made({b"b": ("f", b"x")}, one)
    left = "a.0123abcd.stack.partial"
    made({left.encode(): ("f", b"half"), b"b": ("f", b"x")}, other)
    copied(job, one, other, tmp_path / "trash", False, compared(one, other))
    assert [path.name for path in other.iterdir()] == ["b"]
    assert not (tmp_path / "trash").exists()
    assert capfd.readouterr().out[21:] == f"Removing {left}, left by a run that was killed.\n"
    shutil.copytree(other, tmp_path / "again")
    there = [Difference(None, entry(left, "p"))]  # it went meanwhile
    copied(job, one, tmp_path / "again", None, True, there)


def test_a_name_is_in_the_log_as_one_line(job: Job, capfd: pytest.CaptureFixture[str]) -> None:
    media.named(job, b"a\nb\xff", "Missing")
    assert capfd.readouterr().out[21:] == "Missing: a\\nb\\udcff\n"
