"""Daily, weekly and monthly dumps: the newest verified one, at most one a period."""

from __future__ import annotations

import dataclasses
import hashlib
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalStack, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.dumps import DumpFolder, Sample
from tests.jobs.hourly import Hourly
from tests.outcomes import green, red

HOUR = timedelta(hours=1)
TIERS = {"postgresBackupTiers": {"enabled": True}, "volumes": {"databaseBackup": {"size": "210Gi"}}}
# A Wednesday, long ago: where the day matters, the age may not.
NOON = datetime(2024, 5, 15, 12, 0, 0, tzinfo=UTC)
ANY_AGE = {"environment": {"MAXIMUM_AGE_SECONDS": "999999999"}}
UNTOUCHED = "every earlier dump is as it was"
LINKING = "'/hourly/backup-' in path"
"""A link that gives the hourly dump another name."""
PUBLISHING = "'/daily/backup-' in target"
REPLACING = "'/daily/.manifest/' in target"
"""The manifest gets its final name."""


@dataclasses.dataclass(frozen=True)
class Tier:
    """One tier of a stack, with the hourly folder that it is fed from."""

    stack: LocalStack
    hourly: Hourly
    folder: DumpFolder
    job: str

    def start(self, **changes: Any) -> RunningJob:
        return self.stack.start(self.job, Faults(**changes))

    def run(self, **changes: Any) -> JobResult:
        with self.start(**changes) as job:
            return job.wait()

    def inode(self, name: str) -> int:
        return (self.folder.volume.path / self.folder.folder / name).stat().st_ino


def _tier(hourly: Hourly, sample: Sample, name: str) -> Tier:
    hourly.install(TIERS)
    return Tier(hourly.stack, hourly, DumpFolder(hourly.volume, name, sample), f"postgres-backup-{name}")


@pytest.fixture
def daily(hourly: Hourly, sample: Sample) -> Tier:
    return _tier(hourly, sample, "daily")


@pytest.fixture
def weekly(hourly: Hourly, sample: Sample) -> Tier:
    return _tier(hourly, sample, "weekly")


@pytest.fixture
def monthly(hourly: Hourly, sample: Sample) -> Tier:
    return _tier(hourly, sample, "monthly")


def refused(tier: Tier, code: int, *words: str, **changes: Any) -> JobResult:
    """A run that must fail and leave both folders as they were."""
    with tier.hourly.unharmed(), tier.folder.unharmed():
        result = tier.run(**changes)
    red(result, code, UNTOUCHED, *words)
    return result


# ---- what is taken ----


def test_the_newest_verified_dump_is_linked_and_takes_no_space(daily: Tier) -> None:
    daily.hourly.plant_verified(3)
    newest = daily.hourly.dumps()[-1]
    with daily.hourly.unharmed(), daily.folder.unharmed(published=1):
        result = daily.run()
    green(result)
    assert (result.verdict["outcome"], result.verdict["dump"]) == ("published", newest)
    assert result.verdict["rows"] == daily.folder.rows(newest) > 0
    assert daily.folder.dumps() == [newest]
    assert daily.inode(newest) == (daily.hourly.volume.path / f"hourly/{newest}").stat().st_ino
    assert daily.folder.manifest(newest) == daily.hourly.manifest(newest)
    assert daily.folder.others() == []


def test_the_tier_keeps_its_dump_when_the_hourly_one_is_gone(daily: Tier, sample: Sample) -> None:
    [name] = daily.hourly.plant_verified(1)
    assert daily.run().succeeded
    daily.hourly.volume.remove(f"hourly/{name}")
    daily.hourly.volume.remove(daily.hourly.manifest_path(name))
    assert daily.folder.read(name) == sample.dump
    assert daily.folder.verified() == [name]


@pytest.mark.parametrize("name", ["daily", "weekly", "monthly"])
def test_a_run_that_is_repeated_changes_nothing(hourly: Hourly, sample: Sample, name: str) -> None:
    tier = _tier(hourly, sample, name)
    tier.hourly.plant_at(NOON)
    assert tier.run(**ANY_AGE).verdict["outcome"] == "published"
    tier.hourly.plant_at(NOON + HOUR)
    with tier.folder.unharmed():
        result = tier.run(**ANY_AGE)
    green(result)
    assert (result.verdict["outcome"], result.verdict["removed"]) == ("present", 0)
    assert result.verdict["dump"] == tier.folder.dumps()[0]


@pytest.mark.parametrize(
    ("name", "same", "next_one"),
    [
        ("daily", NOON + 11 * HOUR, NOON + 12 * HOUR),
        ("weekly", datetime(2024, 5, 19, 23, 51, tzinfo=UTC), datetime(2024, 5, 20, 0, 51, tzinfo=UTC)),
        ("monthly", datetime(2024, 5, 31, 23, 51, tzinfo=UTC), datetime(2024, 6, 1, 0, 51, tzinfo=UTC)),
    ],
)
def test_a_period_is_that_of_the_dump(
    hourly: Hourly, sample: Sample, name: str, same: datetime, next_one: datetime
) -> None:
    tier = _tier(hourly, sample, name)
    first = tier.hourly.plant_at(NOON)
    assert tier.run(**ANY_AGE).verdict["outcome"] == "published"
    tier.hourly.plant_at(same)
    assert tier.run(**ANY_AGE).verdict["outcome"] == "present"
    second = tier.hourly.plant_at(next_one)
    assert tier.run(**ANY_AGE).verdict["outcome"] == "published"
    assert tier.folder.dumps() == [first, second]


def test_the_week_that_begins_a_year_is_one_week(weekly: Tier) -> None:
    """Sunday, 29 December 2024, and Monday lie in two ISO weeks; Monday and New Year in one."""
    for day, outcome in [(29, "published"), (30, "published"), (32, "present")]:
        weekly.hourly.plant_at(datetime(2024, 12, 1, 12, tzinfo=UTC) + timedelta(days=day - 1))
        assert weekly.run(**ANY_AGE).verdict["outcome"] == outcome, day


def test_a_tier_neither_waits_for_the_tier_before_nor_cares_for_it(monthly: Tier) -> None:
    [name] = monthly.hourly.plant_verified(1)
    assert monthly.run().succeeded
    assert monthly.folder.dumps() == [name]
    assert monthly.hourly.volume.list("daily") == monthly.hourly.volume.list("weekly") == []


def test_what_is_no_verified_dump_of_the_period_does_not_count(daily: Tier) -> None:
    daily.hourly.plant_at(NOON)
    daily.folder.plant_at(NOON - HOUR, verified=False)
    daily.folder.plant_at(NOON - 2 * HOUR, bytes=7)
    daily.folder.plant_at(NOON - 3 * HOUR, suspicious="yes")
    with daily.folder.unharmed(published=1):
        assert daily.run(**ANY_AGE).verdict["outcome"] == "published"


@pytest.mark.parametrize(("name", "keep"), [("daily", 7), ("weekly", 4), ("monthly", 12)])
def test_so_many_are_kept(hourly: Hourly, sample: Sample, name: str, keep: int) -> None:
    tier = _tier(hourly, sample, name)
    old = [tier.folder.plant_at(NOON - timedelta(days=32 * n)) for n in range(keep + 2, 0, -1)]
    new = tier.hourly.plant_at(NOON)
    result = tier.run(**ANY_AGE)
    green(result)
    assert tier.folder.dumps() == [*old[3:], new]
    assert (result.verdict["removed"], result.verdict["verified"]) == (3, keep)
    assert tier.folder.others() == []
    assert tier.hourly.dumps() == [new], "the hourly ones are the hourly backup's own"


# ---- the source ----


def test_an_old_dump_is_never_taken_in_silence(daily: Tier) -> None:
    name = daily.hourly.plant(timedelta(seconds=10800 + 60))
    for n in range(1, 10):
        daily.folder.plant_at(NOON - timedelta(days=n))
    refused(daily, 65, name, "181 minutes old", "(maximum: 180)", "hourly backup")


def test_a_dump_just_young_enough_is_taken(daily: Tier) -> None:
    daily.hourly.plant(timedelta(seconds=10800 - 60))
    assert daily.run().succeeded


def test_an_old_dump_is_refused_though_the_period_has_its_own(daily: Tier) -> None:
    """Else nobody would hear of a source that stands still."""
    name = daily.hourly.plant_at(NOON)
    daily.folder.plant_at(NOON)
    refused(daily, 65, name, "minutes old")


def test_a_suspicious_dump_is_passed_over_for_the_good_one_before_it(daily: Tier) -> None:
    good = daily.hourly.plant(2 * HOUR)
    daily.hourly.plant(HOUR, suspicious="yes")
    result = daily.run()
    green(result)
    assert daily.folder.dumps() == [good]


def test_nothing_but_suspicious_dumps_since_too_long(daily: Tier) -> None:
    good = daily.hourly.plant(5 * HOUR)
    bad = daily.hourly.plant(HOUR, suspicious="yes")
    refused(daily, 65, good, "minutes old", f"{bad} is marked as suspicious")


def test_nothing_but_a_suspicious_dump(daily: Tier) -> None:
    bad = daily.hourly.plant(HOUR, suspicious="yes")
    refused(daily, 66, "no verified dump", f"{bad} is marked as suspicious")


def test_no_dump_at_all(daily: Tier) -> None:
    daily.hourly.plant(HOUR, verified=False)
    daily.hourly.plant(HOUR / 2, bytes=7)
    refused(daily, 66, "no verified dump")


def test_no_hourly_folder(daily: Tier) -> None:
    refused(daily, 66, "There is no folder /backup/hourly")


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(daily: Tier) -> None:
    daily.hourly.plant_verified(1)
    failing = faults.fail_python("os.scandir", "EIO", "path == '/backup/hourly'")
    refused(daily, 74, "Input/output error", python=failing)


def test_a_damaged_dump_is_not_kept_for_months(daily: Tier) -> None:
    daily.hourly.plant(2 * HOUR)
    bad = daily.hourly.plant(HOUR)
    daily.hourly.damage(bad)
    refused(daily, 65, bad, "sha256 differs")


def test_a_dump_from_the_future_is_not_the_newest(daily: Tier) -> None:
    good = daily.hourly.plant(HOUR)
    future = daily.hourly.plant(-HOUR)
    result = daily.run()
    green(result)
    assert daily.folder.dumps() == [good]
    assert f"{future}: its time is in the future" in result.log


# ---- the measure, and what was missed ----


@pytest.mark.parametrize("key", ["sql_bytes", "table"])
def test_a_shrunken_dump_pushes_out_no_good_one(daily: Tier, key: str) -> None:
    """The hourly folder was lost with the database, and began anew: the tier's own newest is the measure."""
    daily.hourly.plant(HOUR)
    for n in range(9, 0, -1):
        daily.folder.plant_at(NOON - timedelta(days=n), sql_bytes=10**9, system_identifier=7)
    if key == "table":
        newest = daily.folder.dumps()[-1]
        manifest = daily.folder.volume.read(daily.folder.manifest_path(newest))
        manifest += b"".join(b"table\tfrag\tpublic.lost_%d\t1\n" % n for n in range(100))
        daily.folder.volume.write(
            daily.folder.manifest_path(newest), manifest.replace(b"sql_bytes\t1000000000", b"sql_bytes\t9")
        )
    result = refused(
        daily, 65, "shrank", "another server (system identifier", "postgresBackupTiers.minimumShare 0"
    )
    assert "no dump was removed" in result.verdict["message"]

    daily.hourly.install(merge_values(TIERS, {"postgresBackupTiers": {"minimumShare": 0}}))
    assert daily.run().verdict["removed"] == 3


def test_what_the_weekly_and_the_monthly_run_missed_the_daily_run_makes_up_for(
    daily: Tier, sample: Sample
) -> None:
    weekly, monthly = (DumpFolder(daily.hourly.volume, name, sample) for name in ("weekly", "monthly"))
    weeks = [weekly.plant(timedelta(days=8 + 7 * n)) for n in range(5, -1, -1)]
    month = monthly.plant(timedelta(days=31))
    new = daily.hourly.plant(HOUR)
    with monthly.unharmed():
        result = daily.run()
    green(result)
    assert f"The weekly dump was missed: {new} makes up for it" in result.verdict["message"]
    assert result.verdict["dump"] == new
    assert weekly.dumps() == weekly.verified() == [*weeks[-3:], new], "its own number of dumps is kept"
    with weekly.unharmed(), monthly.unharmed():
        assert "missed" not in daily.run().verdict["message"]

    monthly.volume.remove(f"monthly/{month}")
    monthly.plant(timedelta(days=32))
    assert "The monthly dump was missed" in daily.run().verdict["message"]
    assert new in monthly.verified()


def test_a_tier_that_has_no_dump_yet_waits_for_its_own_time(daily: Tier) -> None:
    daily.hourly.plant(HOUR)
    assert daily.run().succeeded
    assert daily.hourly.volume.list("weekly") == daily.hourly.volume.list("monthly") == []


def test_a_manifest_that_cannot_be_read_makes_no_older_dump_the_newest(daily: Tier) -> None:
    daily.hourly.plant(2 * HOUR)
    new = daily.hourly.plant(HOUR)
    manifest = daily.hourly.volume.path / daily.hourly.manifest_path(new)
    manifest.chmod(0)
    refused(daily, 77, new, "Permission denied")
    manifest.chmod(0o640)
    failing = faults.fail_python("open", "EIO", f"{new!r} in path and '.tsv' in path")
    refused(daily, 74, new, "Input/output error", python=failing)


# ---- the volume ----


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("EPERM", "Operation not permitted"),
        ("EMLINK", "Too many links"),
        ("EOPNOTSUPP", "Operation not supported"),
        ("EXDEV", "Invalid cross-device link"),
    ],
)
def test_where_no_link_can_be_made_the_dump_is_copied(
    daily: Tier, code: str, message: str, sample: Sample
) -> None:
    [name] = daily.hourly.plant_verified(1)
    failing = faults.fail_python("os.link", code, LINKING)
    with daily.hourly.unharmed(), daily.folder.unharmed(published=1):
        result = daily.run(python=failing)
    green(result)
    assert message in result.log
    assert daily.folder.read(name) == sample.dump
    assert daily.inode(name) != (daily.hourly.volume.path / f"hourly/{name}").stat().st_ino
    again = daily.run()
    assert again.verdict["outcome"] == "present", again.log


def test_any_other_refusal_of_a_link_is_a_failure(daily: Tier) -> None:
    daily.hourly.plant_verified(1)
    refused(daily, 74, "Input/output error", python=faults.fail_python("os.link", "EIO", LINKING))


def test_a_copy_needs_room(daily: Tier) -> None:
    daily.hourly.plant_verified(1)
    with daily.hourly.volume.limited(2_000_000):
        refused(daily, 73, "the dump needs", python=faults.fail_python("os.link", "EPERM", LINKING))


def test_a_volume_that_is_read_only(daily: Tier) -> None:
    daily.hourly.plant_verified(1)
    daily.folder.plant_at(NOON)
    with daily.hourly.volume.read_only():
        refused(daily, 77, "Read-only file system")


def test_another_dump_of_the_same_name_is_told(daily: Tier) -> None:
    [name] = daily.hourly.plant_verified(1)
    daily.folder.plant_at(datetime.strptime(name[7:27], "%Y-%m-%dT%H:%M:%S%z"), dump=b"other", bytes=7)
    refused(daily, 65, name, "move it away")


@pytest.mark.parametrize("manifest", [None, b"format\t1\nname\t"], ids=["without", "with half of"])
def test_a_dump_is_given_the_manifest_that_it_lacks(daily: Tier, manifest: bytes | None) -> None:
    [name] = daily.hourly.plant_verified(1)
    assert daily.run().succeeded
    daily.hourly.volume.remove(daily.folder.manifest_path(name))
    if manifest is not None:
        daily.hourly.volume.write(daily.folder.manifest_path(name), manifest)
    result = daily.run()
    green(result)
    assert daily.folder.verified() == [name]


def test_an_old_dump_that_cannot_be_removed_is_told_but_the_new_one_is_safe(daily: Tier) -> None:
    for n in range(1, 9):
        daily.folder.plant_at(NOON - timedelta(days=n))
    [new] = daily.hourly.plant_verified(1)
    stuck = faults.fail_python("os.remove", "EIO", "'/daily/backup-' in path")
    result = daily.run(python=stuck)
    red(result, 75, f"{new} is safe", "could not be removed")
    assert len(daily.folder.verified()) == 9


# ---- two runs, and ends from outside ----


@pytest.mark.parametrize("copied", [False, True], ids=["linked", "copied"])
@pytest.mark.parametrize("point", ["manifest", "dump"])
def test_two_runs_at_once_make_one_dump(daily: Tier, point: str, copied: bool) -> None:
    [name] = daily.hourly.plant_verified(1)
    refusing = faults.fail_python("os.link", "EPERM", LINKING) if copied else ""
    held = {
        "manifest": faults.hold_python("os.rename", REPLACING),
        "dump": faults.hold_python("os.link", PUBLISHING),
    }[point]
    with (
        daily.hourly.unharmed(),
        daily.folder.unharmed(published=1),
        daily.start(python=held + refusing) as first,
    ):
        first.reached("reached")
        second = daily.run(python=refusing)
        first.release("go")
        results = [first.wait(), second]
    assert [result.exit_code for result in results] == [0, 0], [result.log for result in results]
    assert daily.folder.dumps() == daily.folder.verified() == [name]


def test_a_run_is_not_swept_away_by_another_though_its_dump_is_old(daily: Tier) -> None:
    """A link is as old as the dump; what is older than a run may live is another's leftover."""
    daily.hourly.plant(2.5 * HOUR)
    daily.hourly.make_old(2.5 * HOUR)
    with daily.folder.unharmed(published=1), daily.start(python=POINTS["publishing the manifest"]) as first:
        first.reached("reached")
        assert daily.run().succeeded
        first.release("go")
        assert first.wait().succeeded, first.wait().log


POINTS: dict[str, str] = {
    "the first look": faults.hold_python("os.scandir"),
    "the write probe": faults.hold_python("os.link", "'probe' in target"),
    "the sha256": faults.hold_python("open", "'/hourly/backup-' in path"),
    "the link": faults.hold_python("os.link", LINKING),
    "the manifest": faults.hold_python("open", "'/daily/.manifest/.tmp.' in path"),
    "publishing the manifest": faults.hold_python("os.rename", REPLACING),
    "publishing the dump": faults.hold_python("os.link", PUBLISHING),
}


def test_a_run_that_is_killed_leaves_no_link_that_takes_space(daily: Tier) -> None:
    """A forgotten link would keep the space of a dump that everybody thinks is removed."""
    [name] = daily.hourly.plant_verified(1)
    with daily.start(python=POINTS["publishing the dump"]) as job:
        job.reached("reached")
        job.signal(signal.SIGKILL)
        job.wait()
    assert (daily.hourly.volume.path / f"hourly/{name}").stat().st_nlink == 1


def test_leftovers_of_killed_runs_are_swept(daily: Tier) -> None:
    daily.hourly.plant_verified(1)
    daily.hourly.volume.write("daily/.tmp.backup-2001-01-01T00:00:00Z-dumpall.sql.gz.pod.1.2", b"half")
    daily.hourly.volume.write("daily/.manifest/.tmp.x", b"half")
    daily.folder.make_old(timedelta(seconds=1800 + 300 + 60))
    assert daily.run().succeeded
    assert daily.folder.others() == []


def test_a_monthly_dump_can_be_read_back(monthly: Tier) -> None:
    """The hourly backup's real dump, through the tier, byte by byte."""
    name = monthly.hourly.backup()
    assert monthly.run().succeeded
    digest = hashlib.sha256(monthly.folder.read(name)).hexdigest()
    assert monthly.folder.manifest(name)["sha256"] == [[digest]]
