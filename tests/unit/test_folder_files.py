"""What a folder of dumps does to its files, and what it says of them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stack_backup_jobs import folder as module
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder, TakenError, deadline_of_the_job, need_room, source
from stack_backup_jobs.formats import Dump, Manifest, dump_name, stamp
from stack_backup_jobs.job import Job

NOW = float(int(time.time()))
TEXT = b"a dump\n" * 100_000
ABC = hashlib.sha256(b"abc").hexdigest()
SHA256 = hashlib.sha256(TEXT).hexdigest()
MIB = 1 << 20
ADVICE = "It was changed or damaged: use another dump, and check the volume and its file server."
EARLIER = "Every earlier dump is as it was."


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("DEADLINE_SECONDS", "2700")
    monkeypatch.setenv("POD_NAME", "pod-1")
    monkeypatch.setattr(time, "time", lambda: NOW)  # however long the tests take
    job = Job()
    job.leaves(EARLIER)
    yield job
    job.end()


@pytest.fixture
def folder(job: Job, tmp_path: Path) -> Folder:
    found = Folder(job, tmp_path / "hourly")
    found.open()
    return found


@pytest.fixture
def daily(job: Job, tmp_path: Path) -> Folder:
    found = Folder(job, tmp_path / "daily")
    found.open()
    return found


def name_of(age: float) -> str:
    return dump_name(stamp(NOW - age), "gz")


def put(folder: Folder, age: float, content: bytes = b"abc", marks: str = "") -> str:
    name = name_of(age)
    folder.file(name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    folder.manifest_file(name).write_text(f"name\t{name}\nbytes\t{len(content)}\nsha256\t{digest}\n{marks}")
    return name


def names(folder: Folder) -> list[str]:
    return [dump.name for dump in folder.dumps()]


def left(folder: Folder) -> list[str]:
    """All that lies there."""
    found = [path for path in folder.path.rglob("*") if path != folder.path / ".manifest"]
    return sorted(str(path.relative_to(folder.path)) for path in found)


def said(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line[21:] for line in capfd.readouterr().out.splitlines()]


def refused(call: Callable[[], object]) -> tuple[int, str, str]:
    with pytest.raises(JobError) as failed:
        call()
    return failed.value.code, failed.value.what, failed.value.advice


def failing(code: int) -> Callable[..., Any]:
    def fails(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code), "/volume")

    return fails


# ---- what is there -----------------------------------------------------------------------------------------


def test_what_counts_as_a_dump(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    good, short, bare = put(folder, 30), put(folder, 20), put(folder, 10)
    os.utime(folder.manifest_file(good), (5, 5))
    folder.file(short).write_bytes(b"ab")
    folder.manifest_file(bare).unlink()
    folder.file(name_of(5)).mkdir()
    folder.file(name_of(4)).symlink_to(good)
    folder.file("backup.sql").touch()
    ahead = put(folder, -900)
    never = dump_name("2024-13-01T00:00:00Z", "gz")
    folder.file(never).touch()
    soon = put(folder, -300)
    found = folder.dumps()
    assert [(dump.name, dump.size, dump.manifest is not None, dump.listed) for dump in found] == [
        (good, 3, True, True),
        (short, 2, False, True),
        (bare, 3, False, False),
        (soon, 3, True, True),
    ]
    assert (found[0].since, found[2].since) == (5, 0)
    assert folder.verified() == 2
    assert sorted(said(capfd)) == [
        f"Ignoring {never}: there is no such time.",
        f"Ignoring {ahead}: its time is in the future.",
    ]
    assert [dump.name for dump in folder.dumps(ahead=1000)] == [good, short, bare, soon, ahead]
    assert [dump.name for dump in folder.dumps(ahead=300)] == [good, short, bare, soon]
    assert [dump.name for dump in folder.dumps(ahead=299)] == [good, short, bare]


def test_a_manifest_may_hold_any_bytes(folder: Folder) -> None:
    name = put(folder, 10)
    with folder.manifest_file(name).open("ab") as file:
        file.write(b"database\t\xff\r\ntable\ta\tb\t1\n")
    [dump] = folder.dumps()
    assert dump.manifest is not None
    assert dump.manifest.databases == ["\udcff\r"]
    path = folder.write_manifest(dump.manifest, name)
    assert path.name.startswith(f".tmp.{name}.")
    assert path.read_bytes() == folder.manifest_file(name).read_bytes()


def test_a_name_for_what_is_unfinished(job: Job, folder: Folder) -> None:
    one, other = folder.temporary("a"), folder.temporary("a", ".manifest")
    assert one != folder.temporary("a")
    assert (one.parent, other.parent) == (folder.path, folder.path / ".manifest")
    assert one.name.startswith(f".tmp.a.pod-1.{os.getpid()}.")
    one.touch()
    assert folder.write_manifest(Manifest(()), "b").parent == other.parent
    job.end()
    assert left(folder) == []


def test_what_killed_runs_left_is_swept(job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = Folder(job, tmp_path / "new" / "hourly")
    folder.open()
    assert left(folder) == []
    for name, age in ((".tmp.a", 3100), (".tmp.b", 2900), ("other", 9999), (".manifest/.tmp.c", 3100)):
        (folder.path / name).touch()
        os.utime(folder.path / name, (NOW - age, NOW - age))
    (folder.path / ".tmp.d").mkdir()
    os.utime(folder.path / ".tmp.d", (1, 1))
    (folder.path / ".tmp.e").touch()
    os.utime(folder.path / ".tmp.e", (NOW - 3000, NOW - 3000))
    (folder.path / ".tmp.f").symlink_to("other")
    os.utime(folder.path / ".tmp.f", (1, 1), follow_symlinks=False)
    folder.open()
    assert left(folder) == [".tmp.b", ".tmp.d", ".tmp.e", ".tmp.f", "other"]
    there = [folder.path / ".tmp.a", folder.path / ".manifest" / ".tmp.c"]
    assert said(capfd) == [f"Removing {path}, left by a run that was killed." for path in there]


def test_without_a_deadline_all_that_is_older_than_minutes_is_swept(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, age in ((".tmp.a", 301), (".tmp.b", 299)):
        (folder.path / name).touch()
        os.utime(folder.path / name, (NOW - age, NOW - age))
    monkeypatch.delenv("DEADLINE_SECONDS")
    folder.open()
    assert left(folder) == [".tmp.b"]


def test_a_folder_that_gives_no_second_name_is_refused(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    with pytest.raises(PermissionError):
        folder.open()


def test_a_folder_that_is_only_read(job: Job, tmp_path: Path) -> None:
    there = source(job, tmp_path, "Look.")
    there.file(dump_name("2024-13-01T00:00:00Z", "gz")).touch()
    assert (there.path, there.dumps()) == (tmp_path, [])
    with pytest.raises(OSError, match="too long"):
        source(job, tmp_path / ("x" * 300), "Look.")
    file = tmp_path / "file"
    file.touch()
    for path in (file, tmp_path / "nowhere"):
        assert refused(lambda path=path: source(job, path, "Look.")) == (  # type: ignore[misc]
            66,
            f"There is no folder {path}.",
            "Look.",
        )


def test_room_for_a_dump(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    there = os.statvfs(folder.path)
    assert abs(folder.room() - there.f_bavail * there.f_frsize) < 1 << 30
    monkeypatch.setattr(Folder, "room", lambda _: 7 * MIB + 5)
    need_room(folder, 6 * MIB + 5)
    assert refused(lambda: need_room(folder, 7 * MIB)) == (
        73,
        f"{folder.path} has 7 MiB left, and the dump needs 8 MiB.",
        "Make room there or keep fewer dumps; no dump is ever deleted to make room.",
    )


# ---- publishing and retention ------------------------------------------------------------------------------


def unfinished(folder: Folder, name: str) -> tuple[Path, Path]:
    dump = folder.temporary(name)
    dump.write_bytes(b"abc")
    return dump, folder.write_manifest(Manifest((("name", name), ("bytes", "3"))), name)


def test_a_dump_is_published(job: Job, folder: Folder) -> None:
    name = name_of(0)
    folder.publish(*unfinished(folder, name), name)
    assert job.untouched == f"The new dump {name} is published and whole."
    job.end()
    assert left(folder) == [f".manifest/{name}.tsv", name]
    assert folder.verified() == 1


def test_at_any_instant_it_is_known_what_a_failure_leaves(
    job: Job, folder: Folder, daily: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[object] = []
    asked: list[str] = []
    real = module.link

    def link(path: Path, to: Path) -> None:
        asked.append(job.untouched)
        real(path, to)
        asked.append(job.untouched)

    job.tell = lambda **message: told.append(message.get("untouched"))  # type: ignore[method-assign]
    monkeypatch.setattr(module, "link", link)
    name = name_of(0)
    safe = f"The new dump {name} is published and whole."
    folder.publish(*unfinished(folder, name), name)
    assert asked == [EARLIER, EARLIER, EARLIER, safe]
    if_there = f"If there is a dump {name}, it is whole, and every earlier dump is as it was."
    assert told == [if_there, safe]
    asked.clear()
    told.clear()
    folder.manifest_file(name).write_text(f"name\t{name}\nbytes\t3\nsha256\t{ABC}\n")
    job.leaves(EARLIER)
    daily.take_over(folder, folder.dumps()[0], linked=True)
    assert asked == [EARLIER, safe]
    there = f"If there is a dump {name} in {daily.path}, it is whole; every earlier dump is as it was."
    assert [text for text in told if text] == [EARLIER, there]


@pytest.mark.parametrize("taken", ["the dump", "the manifest"])
def test_a_name_that_is_taken_is_never_given(job: Job, folder: Folder, taken: str) -> None:
    name = put(folder, 0, b"another")
    if taken == "the manifest":
        folder.file(name).unlink()
    else:
        folder.manifest_file(name).unlink()
    there = left(folder)
    call = unfinished(folder, name)
    says = f"The name {name if taken == 'the dump' else f'{name}.tsv'} is taken already."
    advice = "Two runs began in the same second: the next one will find its own name."
    assert refused(lambda: folder.publish(*call, name)) == (75, says, advice)
    assert job.untouched == EARLIER
    job.end()
    assert set(there) <= set(left(folder))
    assert taken == "the dump" or left(folder) == there


def test_a_link_whose_answer_is_lost_is_a_link(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def lost(path: Path, name: Path) -> None:
        real(path, name)
        raise OSError(errno.EEXIST, "File exists")

    name = name_of(0)
    call = unfinished(folder, name)
    monkeypatch.setattr(os, "link", lost)
    folder.publish(*call, name)
    assert folder.verified() == 1


def test_a_dump_that_gets_no_name_leaves_no_manifest(
    job: Job, folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link
    name = name_of(0)
    call = unfinished(folder, name)

    def fails(path: Path, to: Path) -> None:
        if to == folder.file(name):
            assert job.untouched == EARLIER
            failing(errno.EIO)()
        real(path, to)

    monkeypatch.setattr(os, "link", fails)
    with pytest.raises(OSError, match="Input/output"):
        folder.publish(*call, name)
    assert job.untouched == EARLIER
    job.end()
    assert left(folder) == []


def test_old_dumps_go(folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    dumps = [put(folder, age) for age in (50, 40, 30, 20, 10)]
    assert (folder.prune(9), said(capfd)) == (0, [])
    assert folder.prune(3) == 2
    assert said(capfd) == [f"Removing {name}: 3 newer dumps are verified." for name in dumps[:2]]
    assert names(folder) == dumps[2:]
    assert folder.prune(2, grace=3600) == 0
    assert said(capfd) == ["Leaving 1 superseded dumps for a while: somebody may be reading them."]
    for name in dumps:
        if folder.manifest_file(name).exists():
            os.utime(folder.manifest_file(name), (NOW - 4000, NOW - 4000))
    assert folder.prune(2, grace=3600) == 1
    assert left(folder) == [*(f".manifest/{name}.tsv" for name in dumps[3:]), *dumps[3:]]


def test_a_dump_that_is_not_whole_counts_for_nothing(folder: Folder) -> None:
    dumps = [put(folder, age) for age in (50, 40, 30, 20, 10)]
    suspicious = put(folder, 5, marks="suspicious\tyes\n")
    asked: list[str] = []

    def whole(dump: Dump) -> bool:
        asked.append(dump.name)
        return dump.name != dumps[4]

    assert folder.prune(2, whole=whole) == 2
    assert asked == [dumps[4], dumps[3], dumps[2]]
    assert names(folder) == [*dumps[2:], suspicious]
    asked.clear()
    assert (folder.prune(4, whole=whole), asked) == (0, [])
    assert (folder.prune(3, whole=whole), asked) == (0, [dumps[4], dumps[3], dumps[2]])


def test_what_another_run_has_removed_is_gone(folder: Folder) -> None:
    old, new = put(folder, 20), put(folder, 10)
    there = folder.dumps()
    folder.dumps = lambda: there  # type: ignore[method-assign]
    folder.file(old).unlink()
    folder.manifest_file(old).unlink()
    assert folder.prune(1) == 1
    assert left(folder) == [f".manifest/{new}.tsv", new]


def test_an_old_dump_that_cannot_be_removed(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    put(folder, 20)
    put(folder, 10)
    monkeypatch.setattr(Path, "unlink", failing(errno.EROFS))
    advice = "Check the volume: without retention it fills up."
    says = "An old dump could not be removed: Read-only file system."
    assert refused(lambda: folder.prune(1)) == (75, says, advice)
    assert refused(lambda: folder.prune(1, kind="One"))[1].startswith("One could not be removed: ")
    monkeypatch.undo()


# ---- what comes from another folder ------------------------------------------------------------------------


@pytest.mark.parametrize("linked", [True, False])
def test_a_dump_is_taken_over(
    job: Job, folder: Folder, daily: Folder, linked: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    name = put(folder, 10, TEXT)
    [dump] = folder.dumps()
    daily.manifest_file(name).write_text("half of one")
    assert daily.take_over(folder, dump, linked=linked)
    assert not linked or left(daily) == [f".manifest/{name}.tsv", name]
    assert daily.file(name).read_bytes() == TEXT
    assert daily.manifest_file(name).read_bytes() == folder.manifest_file(name).read_bytes()
    assert module.same(daily.file(name), folder.file(name)) == linked
    assert job.untouched == f"The new dump {name} is published and whole."
    daily.manifest_file(name).unlink()
    assert not daily.take_over(folder, dump, linked=linked)
    assert daily.verified() == 1
    job.end()
    assert left(daily) == [f".manifest/{name}.tsv", name]
    assert said(capfd) == []


@pytest.mark.parametrize("linked", [True, False])
def test_a_damaged_dump_is_not_taken_over(job: Job, folder: Folder, daily: Folder, linked: bool) -> None:
    name = put(folder, 10, TEXT)
    [dump] = folder.dumps()
    folder.file(name).write_bytes(TEXT[:-1] + b"X")
    says = f"The source {name} is not what its manifest says: its sha256 differs."
    assert refused(lambda: daily.take_over(folder, dump, linked=linked)) == (65, says, ADVICE)
    assert job.untouched == EARLIER
    job.end()
    assert left(daily) == []


def test_another_dump_of_the_same_name_is_told(folder: Folder, daily: Folder) -> None:
    put(folder, 10, TEXT)
    name = put(daily, 10, TEXT[::-1])
    [dump] = folder.dumps()
    assert refused(lambda: daily.take_over(folder, dump, linked=True)) == (
        65,
        f"{daily.file(name)} is there already, but it is not what the manifest of the source says: "
        "its sha256 differs.",
        "It was changed or damaged there: move it away, check the volume and its file server, and run this "
        "job again.",
    )


def test_a_volume_that_gives_back_something_else(
    folder: Folder, daily: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(folder, 10, TEXT)
    [dump] = folder.dumps()
    monkeypatch.setattr(module, "read_afresh", lambda *_: "another")
    assert refused(lambda: daily.take_over(folder, dump, linked=False)) == (
        74,
        f"The copy of {name} reads back differently from its source.",
        "Check the volume and its file server: it does not keep what it is given.",
    )


def test_where_no_link_can_be_made(
    folder: Folder, daily: Folder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    name = put(folder, 10, TEXT)
    [dump] = folder.dumps()
    real, code = os.link, errno.EMLINK

    def link(path: Path, to: Path) -> None:
        if path.parent != to.parent:
            failing(code)()
        real(path, to)

    monkeypatch.setattr(os, "link", link)
    assert daily.take_over(folder, dump, linked=True)
    assert said(capfd) == [f"No link can be made, so {name} is copied: Too many links."]
    assert not module.same(daily.file(name), folder.file(name))
    daily.file(name).unlink()
    code = errno.EIO
    with pytest.raises(OSError, match="Input/output"):
        daily.take_over(folder, dump, linked=True)


def test_a_dump_that_comes_meanwhile_is_the_one(
    job: Job, folder: Folder, daily: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = put(folder, 10, TEXT)
    [dump] = folder.dumps()
    real = module.link

    def late(path: Path, to: Path) -> None:
        daily.file(name).write_bytes(TEXT)
        real(path, to)

    monkeypatch.setattr(module, "link", late)
    assert not daily.take_over(folder, dump, linked=False)
    assert job.untouched == EARLIER
    assert daily.verified() == 1


def test_a_rename_whose_answer_is_lost_is_a_rename(
    folder: Folder, daily: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(folder, 10)
    [dump] = folder.dumps()
    real = Path.replace

    def lost(path: Path, to: Path) -> Path:
        real(path, to)
        raise OSError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(Path, "replace", lost)
    assert daily.take_over(folder, dump, linked=True)
    monkeypatch.setattr(Path, "replace", failing(errno.EIO))
    daily.manifest_file(dump.name).unlink()
    with pytest.raises(OSError, match="Input/output"):
        daily.take_over(folder, dump, linked=True)


# ---- files -------------------------------------------------------------------------------------------------


def test_what_tells_a_file_from_others(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert module.number(one) is None
    assert not module.same(one, other)
    one.touch()
    other.hardlink_to(one)
    assert module.number(one) == (one.stat().st_dev, one.stat().st_ino)
    assert module.same(one, other)
    other.unlink()
    assert not module.same(one, other)
    other.symlink_to(one)
    assert not module.same(one, other)


def test_files_are_read_and_copied_to_the_last_byte(job: Job, tmp_path: Path) -> None:
    text = os.urandom(3 * MIB + 5)
    (tmp_path / "a").write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    told: list[str] = []
    job.progress = told.append  # type: ignore[method-assign]
    assert module.copy(job, tmp_path / "a", tmp_path / "b") == digest
    assert (tmp_path / "b").read_bytes() == text
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o640 & ~_umask()
    assert module.read_afresh(job, tmp_path / "b") == digest
    assert module.read_afresh(job, tmp_path / "b", "it") == digest
    parts = (1, 2, 3, 3)
    expected = [f"{part} MiB {how}" for how in ("written", "read", "read of it") for part in parts]
    assert told == expected
    with pytest.raises(FileExistsError):
        module.copy(job, tmp_path / "a", tmp_path / "b")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_what_cannot_be_written_is_told(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    (tmp_path / "a").write_bytes(bytes(20 * MIB))
    real = getattr(os, call)

    def fails(fd: int, *rest: Any) -> Any:
        if fd > 2 and Path(f"/proc/self/fd/{fd}").readlink().name == "b":
            failing(errno.ENOSPC)()
        return real(fd, *rest)

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="No space left") as failed:
        module.copy(job, tmp_path / "a", tmp_path / "b")
    assert failed.value.filename == str(tmp_path / "b")


def test_what_cannot_be_synced_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(OSError, match="Input/output") as failed:
        module.sync(tmp_path)
    assert failed.value.filename == str(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_link_that_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "b").touch()
    module.link(tmp_path / "a", tmp_path / "c")
    module.link(tmp_path / "a", tmp_path / "c")  # it is the same file
    assert module.same(tmp_path / "a", tmp_path / "c")
    with pytest.raises(TakenError, match="The name b is taken already"):
        module.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        module.link(tmp_path / "a", tmp_path / "none" / "b")


def test_a_digest_that_the_manifest_does_not_say(job: Job, folder: Folder) -> None:
    name = put(folder, 10, TEXT)
    [dump] = folder.dumps()
    told: list[str] = []
    job.progress = told.append  # type: ignore[method-assign]
    module.expect_digest(job, folder.file(name), dump, "It")
    assert told == [f"0 MiB read of {name}"]
    assert module.sha256_of(dump) == SHA256
    bare = Dump(name, 3, None)
    assert module.sha256_of(bare) == ""
    says = "It is not what its manifest says: its sha256 differs."
    assert refused(lambda: module.expect_digest(job, folder.file(name), bare, "It")) == (65, says, ADVICE)


def test_a_pod_that_is_started_again_has_the_rest_of_the_jobs_time(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[dict[str, Any]] = []
    job.tell = lambda **message: told.append(message)  # type: ignore[method-assign]
    monkeypatch.delenv("JOB_NAME", raising=False)
    with deadline_of_the_job(job, tmp_path):
        assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("JOB_NAME", "daily-" + "x" * 90)
    path = tmp_path / f".tmp.run.{('daily-' + 'x' * 90)[:63]}"
    with contextlib.suppress(ZeroDivisionError), deadline_of_the_job(job, tmp_path):
        begun = path.read_text()
        assert begun == f"{begun.strip()}\n"
        raise ZeroDivisionError
    assert (told, said(capfd)) == ([], [])
    path.write_text(f"{stamp(NOW - 600)}\n")
    with deadline_of_the_job(job, tmp_path):
        pass
    left = 2700 - module.RESERVE - 600
    [message] = told
    assert left - 1 < message["allowed"] <= left  # a stamp has no fractions
    assert said(capfd) == [
        f"The Job began at {stamp(NOW - 600)}: {int(message['allowed'])} s are left of its deadline."
    ]
    assert not path.exists()
    path.write_text(stamp(NOW - 6000))
    with deadline_of_the_job(job, tmp_path):
        pass
    assert told[1] == {"allowed": 0.0}
    path.write_bytes(b"\xff\n")
    with deadline_of_the_job(job, tmp_path):
        assert stamp(NOW)[:14] in path.read_text()
