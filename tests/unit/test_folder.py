"""Folders of dumps: what is kept, what is chosen, and what is packed, for any history."""

from __future__ import annotations

import gzip
import os
import random
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack_backup_jobs import pack
from stack_backup_jobs.choice import choose, folders_in, shrunk
from stack_backup_jobs.errors import JobError, is_folder, status
from stack_backup_jobs.folder import Folder, source
from stack_backup_jobs.formats import Dump, Manifest, dump_name, newest, seconds_of, stamp, superseded
from stack_backup_jobs.job import Job

NOW = 1_700_000_000
GOOD, SUSPICIOUS, UNVERIFIED = "good", "suspicious", "unverified"


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("DEADLINE_SECONDS", "2700")
    monkeypatch.setenv("POD_NAME", "pod-1")
    job = Job()
    yield job
    job.end()


def dump(seconds: float, kind: str, since: float = 0) -> Dump:
    name = dump_name(stamp(seconds), "gz")
    marks = (("suspicious", "yes"),) if kind == SUSPICIOUS else ()
    manifest = Manifest((("name", name), ("bytes", "3"), *marks))
    return Dump(name, 3, None if kind == UNVERIFIED else manifest, since, kind != UNVERIFIED)


HISTORIES = st.lists(
    st.tuples(
        st.integers(0, 10**6), st.sampled_from([GOOD, GOOD, SUSPICIOUS, UNVERIFIED]), st.integers(0, 10**6)
    ),
    max_size=40,
    unique_by=lambda item: item[0],
).map(lambda items: [dump(NOW - age, kind, NOW - since) for age, kind, since in items])


@given(HISTORIES, st.integers(1, 8), st.integers(0, 10**6))
def test_a_good_dump_goes_only_when_enough_newer_ones_are_there(
    history: list[Dump], keep: int, grace: int
) -> None:
    gone = superseded(history, keep, NOW, grace)
    left = [each for each in history if each not in gone]
    good = [each for each in left if each.good]
    assert len(good) >= min(keep, sum(each.good for each in history))
    for each in gone:
        assert sum(other.time > each.time for other in good) >= keep
    if gone:
        assert NOW - sorted(good, key=lambda each: each.time)[-keep].since >= grace
    assert newest(left) == newest(history)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from([GOOD, GOOD, SUSPICIOUS, UNVERIFIED, "short"]), max_size=12), st.integers(1, 4)
)
def test_the_same_of_files(tmp_path_factory: pytest.TempPathFactory, kinds: list[str], keep: int) -> None:
    os.environ["DEADLINE_SECONDS"] = "2700"
    job = Job()
    folder = Folder(job, tmp_path_factory.mktemp("volume") / "hourly")
    folder.open()
    names = [dump_name(stamp(time.time() - 3600 * (len(kinds) - n)), "gz") for n in range(len(kinds))]
    for name, kind in zip(names, kinds, strict=True):
        folder.file(name).write_bytes(b"ab" if kind == "short" else b"abc")
        if kind != UNVERIFIED:
            mark = "suspicious\tyes\n" if kind == SUSPICIOUS else ""
            folder.manifest_file(name).write_text(f"name\t{name}\nbytes\t3\n{mark}")
    good = [name for name, kind in zip(names, kinds, strict=True) if kind == GOOD]
    removed = folder.prune(keep)
    left = [each.name for each in folder.dumps()]
    assert len(left) == len(names) - removed
    assert left == (names[names.index(good[-keep]) :] if len(good) >= keep else names)
    assert {path.name for path in (folder.path / ".manifest").iterdir()} <= {f"{name}.tsv" for name in left}
    job.end()


@given(HISTORIES, HISTORIES)
@settings(deadline=None)
def test_the_latest_is_the_newest_good_one_of_all_folders(one: list[Dump], other: list[Dump]) -> None:
    job = Job()
    folders = [Folder(job, Path("/one")), Folder(job, Path("/other"))]
    for folder, dumps in zip(folders, (one, other), strict=True):
        folder.dumps = lambda dumps=dumps: dumps  # type: ignore[method-assign, misc]
    best = newest([*one, *other])
    if best is None:
        with pytest.raises(JobError) as failed:
            choose(job, folders, "latest")
        assert failed.value.code == 66
    else:
        assert choose(job, folders, "latest")[1].time == best.time
    for each in one[:3]:
        assert choose(job, folders, each.time)[1].time == each.time
    job.end()


@pytest.mark.parametrize("dump", ["", "newest", "2023-11-14T22:13:20", "2023-11-14T22:13:20Z; rm"])
def test_a_choice_that_names_nothing(job: Job, dump: str) -> None:
    with pytest.raises(JobError) as failed:
        choose(job, [], dump)
    assert failed.value.code == 64


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 100))
def test_a_dump_shrank_when_it_has_less_than_the_share(size: int, was: int, share: int) -> None:
    new = Manifest((("sql_bytes", str(size)), ("system_identifier", "1")))
    name = dump_name(stamp(NOW), "gz")
    before = Dump(name, 3, Manifest((("sql_bytes", str(was)), ("system_identifier", "2"))))
    why = shrunk(new, before, share)
    assert bool(why) == (size * 100 < was * share)
    assert not why or "another server" in why
    assert shrunk(new, None, share) == ""


def test_what_cannot_be_read_is_not_absent(job: Job, tmp_path: Path) -> None:
    with pytest.raises(JobError) as failed:
        source(job, tmp_path / "nowhere", "Look.")
    assert failed.value.code == 66
    folder = Folder(job, tmp_path)
    folder.open()
    name = dump_name(stamp(), "gz")
    folder.file(name).write_bytes(b"abc")
    folder.manifest_file(name).mkdir()
    with pytest.raises(IsADirectoryError):
        folder.dumps()


def test_a_folder_that_cannot_be_looked_at_is_not_left_out(
    job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A name too long stands for all that a file server may say: root may read everything."""
    (tmp_path / "hourly").mkdir()
    [hourly] = folders_in(job, tmp_path, ["hourly", "daily"])
    name = dump_name("2024-13-01T00:00:00Z", "gz")
    hourly.file(name).touch()
    assert (hourly.path.name, hourly.dumps()) == ("hourly", [])
    assert name in capfd.readouterr().out
    with pytest.raises(OSError, match="too long"):
        folders_in(job, tmp_path, ["hourly", "x" * 300])


def test_a_time_that_is_none_is_ignored(job: Job, tmp_path: Path) -> None:
    folder = Folder(job, tmp_path)
    for name in ("2024-13-01T00:00:00Z", "2024-02-30T00:00:00Z", "2999-01-01T00:00:00Z"):
        folder.file(dump_name(name, "gz")).write_bytes(b"abc")
    assert folder.dumps() == []
    assert seconds_of("2024-02-29T00:00:00Z")


# ---- packing -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 200_000),
    st.integers(1, 70_000),
    st.sampled_from(["members", "one", "both", "zstd"]),
    st.lists(st.integers(0, 630_000), max_size=6),
    st.integers(1, 3),
)
def test_what_is_packed_comes_back_from_any_place_on(
    tmp_path_factory: pytest.TempPathFactory,
    size: int,
    chunk: int,
    form: str,
    starts: list[int],
    threads: int,
) -> None:
    text = random.Random(size).randbytes(size // 2 + 1) + b"a row of a table\n" * (size // 40)
    job, folder = Job(), tmp_path_factory.mktemp("pack")
    path = folder / ("dump.sql.zst" if form == "zstd" else "dump.sql.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pack, "MEMBER", 20_000)
        patch.setattr(pack, "SPACING", 15_000)
        patch.setattr(pack, "PLACES", 5)
        patch.setattr(pack, "MEMBERS", 5)
        if form == "one":
            path.write_bytes(gzip.compress(text))
        else:
            packer = pack.Packer(job, path, "zstd" if form == "zstd" else "gzip")
            for at in range(0, len(text), chunk):
                packer.write(text[at : at + chunk])
            assert packer.close().size == path.stat().st_size
        if form == "both":
            path.write_bytes(path.read_bytes() + gzip.compress(text) + path.read_bytes())
            text *= 3
        if form in ("members", "both"):
            assert gzip.decompress(path.read_bytes()) == text
        unpacker = pack.Unpacker(job, path)
        assert b"".join(unpacker.chunks(threads=threads)) == text
        for start in starts:
            assert b"".join(unpacker.chunks(start)) == text[start:]
    job.end()


@pytest.mark.parametrize("form", ["gz", "zst"])
def test_a_damaged_file_is_told(job: Job, tmp_path: Path, form: str) -> None:
    text = random.Random(1).randbytes(300_000)
    path = tmp_path / f"dump.sql.{form}"
    packer = pack.Packer(job, path, "gzip" if form == "gz" else "zstd")
    packer.write(text)
    packer.close()
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for content in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"more", bytes(damaged)):
        path.write_bytes(content)
        with pytest.raises(JobError) as failed:
            for _ in pack.Unpacker(job, path).chunks():
                pass
        assert failed.value.code == 65, len(content)


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_whoever_reads_on_makes_nobody_unpack_what_is_behind(
    job: Job, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands of tables are thousands of places: each is found without the text before it."""
    text = b"".join(b"%09d\n" % number for number in range(800_000))
    path = tmp_path / f"dump.sql.{pack.SUFFIX[form]}"
    packer = pack.Packer(job, path, form)
    packer.write(text)
    packer.close()
    unpacker = pack.Unpacker(job, path)
    assert sum(map(len, unpacker.chunks(threads=2))) == len(text)
    unpacked = 0
    read, inflate = os.read, pack._unpacked

    def counted_read(fd: int, size: int) -> bytes:
        nonlocal unpacked
        data = read(fd, size)
        unpacked += len(data)
        return data

    def counted_inflate(member: bytes) -> list[bytes]:
        nonlocal unpacked
        pieces = inflate(member)
        unpacked += sum(map(len, pieces))
        return pieces

    monkeypatch.setattr(os, "read", counted_read)
    monkeypatch.setattr(pack, "_unpacked", counted_inflate)
    places = range(0, len(text), len(text) // 50)
    for place in places:
        assert next(iter(unpacker.chunks(place)))[:10] == text[place : place + 10]
    assert unpacked <= (2 * len(text) if form == "zstd" else pack.MEMBER * len(places))


def test_a_small_file_of_much_text_takes_no_memory(job: Job, tmp_path: Path) -> None:
    path = tmp_path / "dump.sql.gz"
    path.write_bytes(zlib.compress(bytes(50_000_000), 9, pack.GZIP))
    assert max(map(len, pack.Unpacker(job, path).chunks())) <= 4 * pack.CHUNK


def test_absent_is_only_what_no_file_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").symlink_to(".")
    for name in ("none", "file/below", "x" * 300):
        assert status(tmp_path / name) is None
        assert not is_folder(tmp_path / name)
    assert status(tmp_path / "loop", follow=False)
    for ask in (status, is_folder):
        with pytest.raises(OSError, match="symbolic links"):
            ask(tmp_path / "loop")
    folder = tmp_path / "folder"
    assert (is_folder(folder), is_folder(folder, follow=False), is_folder(tmp_path / "file")) == (
        True,
        False,
        False,
    )
