"""What the hourly backup removes: dumps beyond the newest 24 verified ones, once it has published."""

from __future__ import annotations

from datetime import timedelta

import pytest

from tests.jobs import faults
from tests.jobs.hourly import FOLDER, KEEP, Hourly
from tests.outcomes import green

HOUR = timedelta(hours=1)


def test_twenty_four_verified_dumps_are_kept(hourly: Hourly) -> None:
    planted = hourly.plant_verified(KEEP + 6)
    result = hourly.run()
    green(result)
    kept = hourly.dumps()
    assert kept[:-1] == planted[-(KEEP - 1) :]
    assert kept == hourly.verified()
    assert (result.verdict["removed"], result.verdict["verified"]) == (7, KEEP)
    assert hourly.others() == [], "the manifests go with their dumps"


def test_exactly_enough_removes_nothing(hourly: Hourly) -> None:
    hourly.plant_verified(KEEP - 1)
    with hourly.unharmed(published=1):
        assert hourly.run().verdict["removed"] == 0


def test_unverified_files_neither_count_nor_push_out_a_good_dump(hourly: Hourly) -> None:
    good = hourly.plant_verified(KEEP - 1)
    between = [hourly.plant(HOUR * n + HOUR / 2, verified=False, dump=b"junk") for n in range(10)]
    wrong_size = hourly.plant(HOUR / 4, bytes=7)
    foreign = hourly.plant(HOUR / 5, name="backup-2020-01-01T00:00:00Z-dumpall.sql.gz")
    older = [hourly.plant(HOUR * (100 + n), verified=False, dump=b"junk") for n in range(3)]
    older.append(hourly.plant(HOUR * 200))
    result = hourly.run()
    green(result)
    left = hourly.dumps()
    assert {*good, *between, wrong_size, foreign} <= set(left), "all that is newer than the 24th verified one"
    assert not {*older} & set(left)
    assert result.verdict["removed"] == len(older)
    assert result.verdict["verified"] == KEEP


def test_what_is_no_dump_is_left_alone(hourly: Hourly) -> None:
    hourly.plant_verified(KEEP + 1)
    strange = [
        "README",
        "backup.sql.gz",
        "backup-2001-01-01-dumpall.sql.gz",
        "backup-2001-01-01T00:00:00Z-dumpall.sql.gz.bak",
        "xbackup-2001-01-01T00:00:00Z-dumpall.sql.gz",
        "backup-2001-01-01T00:00:00Z-dumpall.sql.xz",
        "-rf",
        "two\nlines",
    ]
    for name in strange:
        hourly.volume.write(f"{FOLDER}/{name}", b"mine")
    (hourly.volume.path / FOLDER / "backup-2001-01-01T00:00:01Z-dumpall.sql.gz").mkdir()
    assert hourly.run().verdict["removed"] == 2
    assert set(strange) <= set(hourly.volume.list(FOLDER))
    assert "backup-2001-01-01T00:00:01Z-dumpall.sql.gz" in hourly.volume.list(FOLDER)


def test_the_number_kept_is_a_value(hourly: Hourly) -> None:
    planted = hourly.plant_verified(5)
    hourly.install({"postgresBackupHourly": {"keep": 2}})
    name = hourly.backup()
    assert hourly.dumps() == [planted[-1], name]


def test_a_run_that_publishes_nothing_removes_nothing(hourly: Hourly) -> None:
    hourly.plant_verified(KEEP + 6)
    with hourly.unharmed():
        failing = faults.fail_python("os.link", "EIO", "'/hourly/backup-' in target")
        assert hourly.run(python=failing).exit_code == 74
    with hourly.unharmed():
        hourly.stack.secrets["database"]["root_password"] = b"wrong"
        assert hourly.run().exit_code == 77


@pytest.mark.parametrize("key", ["sql_bytes", "table"])
def test_a_dump_that_shrank_is_published_and_removes_nothing(hourly: Hourly, key: str) -> None:
    hourly.plant_verified(KEEP + 3)
    if key == "sql_bytes":
        hourly.plant(HOUR / 2, sql_bytes=10**9)
    else:
        newest = hourly.plant(HOUR / 2)
        manifest = hourly.volume.read(hourly.manifest_path(newest))
        more = "".join(f"table\tfrag\tpublic.lost_{n}\t1\n" for n in range(100))
        hourly.volume.write(hourly.manifest_path(newest), manifest + more.encode())
    before = hourly.dumps()
    result = hourly.run()
    assert result.exit_code == 65, result.log
    assert result.verdict["outcome"] == "suspicious"
    assert "shrank" in result.verdict["message"]
    [new] = set(hourly.dumps()) - set(before)
    assert set(before) < set(hourly.dumps())
    assert hourly.manifest(new)["suspicious"] == [["yes"]]

    # A suspicious dump is no measure for the next one, which is as small as it, and counts for no good one.
    again = hourly.run()
    assert again.exit_code == 65, again.log
    assert len(hourly.dumps()) == len(before) + 2

    # Told that the loss is meant, the next run is measured no more, and keeps 24 that are not suspicious.
    hourly.install({"postgresBackupHourly": {"minimumShare": 0}})
    assert hourly.run().succeeded
    good = [name for name in hourly.verified() if "suspicious" not in hourly.manifest(name)]
    assert len(good) == KEEP


def test_half_is_not_less_than_half(hourly: Hourly) -> None:
    size = int(hourly.manifest(hourly.plant(HOUR))["sql_bytes"][0][0])
    hourly.plant(HOUR / 2, sql_bytes=2 * size - 10_000)
    assert hourly.run().succeeded


def test_a_dump_from_the_future_is_neither_newest_nor_removed(hourly: Hourly) -> None:
    future = hourly.plant(-timedelta(days=365 * 70), sql_bytes=10**12)
    planted = hourly.plant_verified(KEEP)
    result = hourly.run()
    green(result)
    assert future in hourly.dumps()
    assert f"{future}: its time is in the future" in result.log
    assert planted[0] not in hourly.dumps()
    assert result.verdict["removed"] == 1


def test_an_old_dump_that_cannot_be_removed_is_told_but_the_new_one_is_safe(hourly: Hourly) -> None:
    hourly.plant_verified(KEEP + 1)
    stuck = faults.fail_python("os.remove", "EIO", "'/backup-' in path and '.tmp.' not in path")
    result = hourly.run(python=stuck)
    assert result.exit_code == 75, result.log
    assert "published" in result.verdict["message"]
    assert len(hourly.verified()) == KEEP + 2


def test_what_killed_runs_left_is_swept_when_it_is_old_enough(hourly: Hourly) -> None:
    [good] = hourly.plant_verified(1)
    leftovers = [".tmp.backup-2001-01-01T00:00:00Z-dumpall.sql.gz.pod.1.2", ".tmp.probe.pod.1.2"]
    for name in leftovers:
        hourly.volume.write(f"{FOLDER}/{name}", b"half")
    hourly.volume.write(f"{FOLDER}/.manifest/.tmp.{good}.tsv", b"half")
    hourly.volume.write(f"{FOLDER}/.hidden", b"mine")
    # The deadline of 2700 s and 300 s more: until then it may be another run's.
    hourly.make_old(timedelta(seconds=2700 + 300 - 60))
    hourly.backup()
    assert set(leftovers) <= set(hourly.others())
    hourly.make_old(timedelta(seconds=2700 + 300 + 60))
    hourly.backup()
    assert hourly.others() == [".hidden"]
    assert good in hourly.dumps()
