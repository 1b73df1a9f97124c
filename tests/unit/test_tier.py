"""Which dump a tier takes: one a period, the newest good one, and what it makes up for."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.formats import Dump, dump_name, seconds_of, stamp
from stack_backup_jobs.job import Job, Outcome
from stack_backup_jobs.tier import DAY, Settings, Tier, make_up, period_of, program

NOW = seconds_of(stamp())
HOUR = 3600
SET = {
    "SOURCE_FOLDER": "hourly",
    "TIER": "daily",
    "KEEP": "2",
    "MAXIMUM_AGE_SECONDS": "86400",
    "MINIMUM_SHARE": "50",
    "DEADLINE_SECONDS": "600",
}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    for name, value in {**SET, "BACKUP_VOLUME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "time", lambda: NOW)  # however long the tests take
    for name in ("JOB_NAME", "MAKE_UP"):
        monkeypatch.delenv(name, raising=False)
    job = Job()
    yield job
    job.end()


def put(job: Job, volume: Path, name: str, seconds: float, size: int = 1000, marks: str = "") -> str:
    """A dump of that time, with its manifest."""
    folder = Folder(job, volume / name)
    folder.manifest_file("").parent.mkdir(parents=True, exist_ok=True)
    dump = dump_name(stamp(seconds), "gz")
    folder.file(dump).write_bytes(text := dump.encode())
    records = f"name\t{dump}\nbytes\t{len(text)}\nsha256\t{hashlib.sha256(text).hexdigest()}\n"
    folder.manifest_file(dump).write_text(f"{records}sql_bytes\t{size}\n{marks}")
    return dump


def names(volume: Path, tier: str) -> list[str]:
    return sorted(path.name for path in (volume / tier).glob("backup-*"))


@pytest.mark.parametrize(
    ("moment", "day", "week", "month"),
    [
        ("2024-05-15T00:00:00Z", "2024-05-15", "2024-W20", "2024-05"),
        ("2024-05-15T23:59:59Z", "2024-05-15", "2024-W20", "2024-05"),
        ("2024-12-30T10:00:00Z", "2024-12-30", "2025-W01", "2024-12"),
        ("2021-01-03T10:00:00Z", "2021-01-03", "2020-W53", "2021-01"),
    ],
)
@pytest.mark.parametrize("zone", ["UTC", "XYZ-13", "XYZ+11"])
def test_the_period_of_a_dump(
    monkeypatch: pytest.MonkeyPatch, zone: str, moment: str, day: str, week: str, month: str
) -> None:
    dump = Dump(dump_name(moment, "gz"), 1, None)
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        assert [period_of(dump, tier) for tier in ("daily", "weekly", "monthly")] == [day, week, month]
    time.tzset()


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["daily", "weekly", "monthly"]),
    st.lists(st.integers(0, 2000), min_size=1, max_size=8, unique=True).map(sorted),
)
def test_one_dump_a_period_the_first_that_a_run_finds(
    tmp_path_factory: pytest.TempPathFactory, name: str, hours: list[int]
) -> None:
    volume, job = tmp_path_factory.mktemp("volume"), Job()
    tier = Tier(job, Settings(volume, "hourly", name, 9, 1, 0, ""), name)
    tier.folder.manifest_file("").parent.mkdir(parents=True)
    hourly, taken = Folder(job, volume / "hourly"), {}
    for hour in hours:
        dump = put(job, volume, "hourly", NOW - 3000 * HOUR + hour * HOUR)
        found = {each.name: each for each in hourly.dumps()}[dump]
        existing, published = tier.bring(hourly, found)
        period = period_of(found, name)
        assert published == (period not in taken)
        assert existing.name == taken.setdefault(period, dump)
        newest = tier.newest()
        assert newest is not None
        assert newest.name == max(taken.values())
    assert names(volume, name) == sorted(taken.values())
    assert names(volume, "hourly") != []
    job.end()


def test_what_a_run_does_and_says(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    put(job, tmp_path, "hourly", NOW - 2 * HOUR)
    dump = put(job, tmp_path, "hourly", NOW - HOUR)
    old = [put(job, tmp_path, "daily", NOW - days * DAY) for days in (9, 8, 7)]
    never = dump_name("2024-13-01T00:00:00Z", "gz")
    (tmp_path / "hourly" / never).touch()
    monkeypatch.setenv("JOB_NAME", "daily-1")
    (tmp_path / "daily" / ".tmp.run.daily-1").write_text(stamp(NOW - 9))
    day = stamp(NOW - HOUR)[:10]
    published = Outcome(0, "published", f"{dump} is the daily dump of {day}.")
    assert program(job) == published
    assert job.untouched == f"The daily dump {dump} is safe."
    size = len(dump)
    assert job.figures == {"dump": dump, "bytes": size, "rows": 0, "verified": 2, "removed": 2}
    assert names(tmp_path, "daily") == [old[2], dump]
    assert (tmp_path / "daily" / dump).samefile(tmp_path / "hourly" / dump)
    log = [line[21:] for line in capfd.readouterr().out.splitlines()]
    assert log[0] == f"Ignoring {never}: there is no such time."
    assert log[1].startswith(f"The Job began at {stamp(NOW - 9)}: ")
    (tmp_path / "hourly" / never).unlink()
    assert program(job) == Outcome(0, "present", f"The daily dump of {day} is there already: {dump}.")
    assert (job.figures["removed"], capfd.readouterr().out) == (0, "")


def refused(job: Job) -> tuple[int, str, str, str]:
    with pytest.raises(JobError) as failed:
        program(job)
    return failed.value.code, failed.value.what, failed.value.advice, job.untouched


UNTOUCHED = "Nothing was published, and every earlier dump is as it was."


def test_a_dump_that_is_too_old(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    advice = "Check whether the hourly backup has run, and whether this is its volume."
    assert refused(job) == (66, f"There is no folder {tmp_path}/hourly.", advice, UNTOUCHED)
    dump = put(job, tmp_path, "hourly", NOW - 100 * HOUR)
    late = put(job, tmp_path, "hourly", NOW - HOUR, marks="suspicious\tyes\n")
    monkeypatch.setenv("MAXIMUM_AGE_SECONDS", str(90 * HOUR + 59))
    code, what, advice, untouched = refused(job)
    assert (code, untouched) == (65, UNTOUCHED)
    assert advice == "Find out why the hourly backup publishes no newer one; then run this job again."
    passed = f"{late} is marked as suspicious, and was skipped."
    assert what == f"The newest verified dump {dump} is 6000 minutes old (maximum: 5400). {passed}"
    assert not (tmp_path / "daily").exists()
    monkeypatch.setenv("MAXIMUM_AGE_SECONDS", str(100 * HOUR + 60))
    assert program(job).word == "published"


def test_a_dump_that_shrank_is_not_taken(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = put(job, tmp_path, "daily", NOW - 2 * DAY, 1001)
    dump = put(job, tmp_path, "hourly", NOW, 500)
    held = "It holds 500 bytes of SQL in 0 tables, less than 50 % of the 1001 bytes in 0 tables before"
    assert refused(job) == (
        65,
        f"{dump}, the newest verified dump, shrank since {before}, the newest daily one. {held}; it was not "
        "taken, and no dump was removed.",
        "Find out what became of the data; if all is well, run once with postgresBackupTiers.minimumShare 0.",
        UNTOUCHED,
    )
    assert names(tmp_path, "daily") == [before]
    monkeypatch.setenv("MINIMUM_SHARE", "0")
    assert program(job).word == "published"


def test_a_dump_of_just_the_age_is_taken(job: Job, tmp_path: Path) -> None:
    put(job, tmp_path, "hourly", NOW - 86400)
    assert program(job).word == "published"


@pytest.mark.parametrize(
    ("weeks", "months", "notes"),
    [
        (7.5 * DAY + 1, 31.5 * DAY + 1, ["weekly", "monthly"]),
        (7.5 * DAY, 31.5 * DAY, []),
        (8 * DAY, 0, ["weekly"]),
        (0, 40 * DAY, ["monthly"]),
    ],
)
def test_what_was_missed_is_made_up_for(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weeks: float, months: float, notes: list[str]
) -> None:
    monkeypatch.setenv("MAKE_UP", "weekly 1 monthly 2")
    last = {"weekly": weeks, "monthly": months}
    old = {name: put(job, tmp_path, name, NOW - ago) for name, ago in last.items()}
    dump = put(job, tmp_path, "hourly", NOW - 30)
    said = "".join(f" The {name} dump was missed: {dump} makes up for it." for name in notes)
    day = stamp(NOW - 30)[:10]
    assert program(job).message == f"{dump} is the daily dump of {day}.{said}"
    assert (
        job.untouched == f"The {[*notes, 'daily'][-1 if not notes else len(notes) - 1]} dump {dump} is safe."
    )
    kept = {"weekly": [], "monthly": [old["monthly"]]}
    for name, there in old.items():
        assert names(tmp_path, name) == ([*kept[name], dump] if name in notes else [there])


def test_a_tier_without_a_dump_waits_for_its_own_time(job: Job, tmp_path: Path) -> None:
    put(job, tmp_path, "hourly", NOW)
    hourly = Folder(job, tmp_path / "hourly")
    (tmp_path / "monthly").mkdir()
    wanted = Settings(tmp_path, "hourly", "daily", 1, 1, 0, "weekly 4 monthly 12")
    assert make_up(job, wanted, hourly, hourly.dumps()[0]) == []
    with pytest.raises(ValueError, match="zip"):
        make_up(job, replace(wanted, make_up="weekly 4 monthly"), hourly, hourly.dumps()[0])
    assert not (tmp_path / "weekly").exists()
    assert Tier(job, wanted, "weekly").newest() is None
    (tmp_path / "weekly").write_text("no folder")
    with pytest.raises(NotADirectoryError):
        make_up(job, wanted, hourly, hourly.dumps()[0])


def test_a_dump_that_cannot_be_removed_is_named_as_the_tiers(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for days in (3, 2, 1):
        put(job, tmp_path, "weekly", NOW - days * DAY)
    tier = Tier(job, Settings(tmp_path, "hourly", "weekly", 1, 1, 0, ""), "weekly")
    assert tier.prune(2) == 1

    def unlink(path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path), missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        with pytest.raises(
            JobError, match=r"^An old weekly dump could not be removed: Read-only file system\.$"
        ):
            tier.prune(1)
    assert len(names(tmp_path, "weekly")) == 2
