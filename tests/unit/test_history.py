"""The history of runs: what is kept, what is passed over, and when a volume is full."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path

import pytest

from stack_backup_jobs import history
from stack_backup_jobs.formats import Record, Verdict, stamp

NOW = 1_764_000_000
DAY = 86400


def verdict(size: int | None = None, fits: int | None = None, code: int = 0) -> Verdict:
    given = {"bytes": size, "fits_bytes": fits}
    figures = {name: value for name, value in given.items() if value is not None}
    return Verdict("the-job", code, "published", "Done.", figures, 3)


def record(ended: float, said: Verdict | None = None, pod: str = "the-job-abcde") -> Record:
    return Record(stamp(ended - 3), stamp(ended), pod, (said or verdict()).members())


def grown(folder: Path, sizes: dict[float, int]) -> Path:
    """A history of runs so many days ago, of dumps of these sizes: what `keep` would have made of them."""
    job = folder / "the-job"
    job.mkdir(exist_ok=True)
    for days, size in sizes.items():
        one = record(NOW - days * DAY, verdict(size))
        (job / f"{one.ended}.{one.pod}.json").write_text(one.text(), encoding="utf-8")
    return job


def test_a_record_is_what_was_kept(tmp_path: Path) -> None:
    kept = record(
        NOW, Verdict("the-job", 65, "failed", 'A "\u00e9\u2028\udcff.', {"dump": "x", "list": ["a"]}, 7)
    )
    history.keep(tmp_path, kept, 3)
    (path,) = (tmp_path / "the-job").iterdir()
    assert path.name == f"{stamp(NOW)}.the-job-abcde.json"
    assert path.read_text("utf-8").count("\n") == 1
    (found,) = history.read(tmp_path / "the-job")
    assert (found.begun, found.ended, found.pod) == (kept.begun, kept.ended, kept.pod)
    assert found.verdict["message"] == 'A "\u00e9\u2028?.'
    assert {**found.verdict, "message": ""} == {**kept.verdict, "message": ""}


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(7):
        history.keep(tmp_path, record(NOW + number), 3)
    found = [one.ended for one in history.read(tmp_path / "the-job")]
    assert found == [stamp(NOW + number) for number in (4, 5, 6)]
    assert [one.ended for one in history.read(tmp_path / "the-job", newest=2)] == found[1:]


def test_two_pods_that_end_in_one_second_are_two_runs(tmp_path: Path) -> None:
    for pod in ("a", "b"):
        history.keep(tmp_path, record(NOW, pod=pod), 9)
    assert [one.pod for one in history.read(tmp_path / "the-job")] == ["a", "b"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[1]",
        '{"format":2}',
        '{"format":1,"begun":"x","ended":"y","pod":"p","verdict":{"exit":0}}',
        json.dumps({"format": 1, "begun": stamp(0), "ended": stamp(0), "pod": "p", "verdict": {"exit": "0"}}),
        "\x00" * 100,
        record(NOW).text()[:-30],
    ],
)
def test_what_is_damaged_is_passed_over(tmp_path: Path, text: str) -> None:
    history.keep(tmp_path, record(NOW), 9)
    (tmp_path / "the-job" / f"{stamp(NOW - 5)}.pod.json").write_text(text)
    assert [one.ended for one in history.read(tmp_path / "the-job")] == [stamp(NOW)]
    assert history.days_to_full(tmp_path / "the-job", verdict(1, 2), stamp(NOW)) is None


def test_what_a_killed_pod_left_goes_and_what_another_is_writing_stays(tmp_path: Path) -> None:
    folder = tmp_path / "the-job"
    folder.mkdir()
    for name, age in (("old", 4000), ("young", 100)):
        (folder / f".tmp.{name}").touch()
        os.utime(folder / f".tmp.{name}", (NOW - age, NOW - age))
    history.keep(tmp_path, record(NOW), 9)
    assert sorted(path.name for path in folder.iterdir() if path.name.startswith(".")) == [".tmp.young"]


def test_nothing_was_kept_yet(tmp_path: Path) -> None:
    assert list(history.read(tmp_path / "the-job")) == []
    assert history.jobs(tmp_path) == []
    assert history.days_to_full(tmp_path / "the-job", verdict(1, 2), stamp(NOW)) is None


@pytest.mark.parametrize("seed", range(20))
def test_the_day_on_which_a_volume_is_full_is_the_day_on_which_it_is(tmp_path: Path, seed: int) -> None:
    """Of any steady growth, seen at any times, with a few runs that were quite different."""
    chance = random.Random(seed)
    growth, size = chance.randint(1 << 10, 1 << 30), chance.randint(1 << 30, 1 << 40)
    days = sorted((chance.uniform(0.01, 29.9) for _ in range(chance.randint(12, 200))), reverse=True)
    sizes = {day: int(size - growth * day) for day in days}
    for day in chance.sample(days[1:-1], len(days) // 10):
        sizes[day] = chance.choice([1, size * 3])
    folder = grown(tmp_path, sizes)
    until = chance.randint(1, 300)
    found = history.days_to_full(folder, verdict(size, size + growth * until + 7), stamp(NOW))
    assert found == pytest.approx(until, rel=0.05, abs=1)


@pytest.mark.parametrize(
    ("sizes", "size", "fits", "days"),
    [
        ({10: 900, 5: 950}, 1000, 2000, 100),
        ({10: 900, 5: 950}, 1000, 1000, 0),
        ({10: 900, 5: 950}, 1000, 500, 0),  # full already
        ({10: 1000, 5: 1000}, 1000, 2000, None),  # nothing grows
        ({10: 1100, 5: 1050}, 1000, 2000, None),  # it shrinks
        ({1.9: 900}, 1000, 2000, None),  # too short a time
        ({60: 1, 40: 500}, 1000, 2000, None),  # too long ago
        ({10: 999, 5: 999}, 1000, 10**15, None),  # never, for all we know
    ],
)
def test_days_to_full(
    tmp_path: Path, sizes: dict[float, int], size: int, fits: int, days: int | None
) -> None:
    assert history.days_to_full(grown(tmp_path, sizes), verdict(size, fits), stamp(NOW)) == days


def test_a_run_that_failed_says_nothing_about_growth(tmp_path: Path) -> None:
    history.keep(tmp_path, record(NOW - 10 * DAY, verdict(1, code=65)), 9)
    folder = grown(tmp_path, {9: 910, 5: 950})
    assert history.days_to_full(folder, verdict(1000, 2000), stamp(NOW)) == 100
    assert history.days_to_full(folder, verdict(1000, 2000, code=65), stamp(NOW)) is None


def test_of_a_long_history_only_some_records_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = grown(tmp_path, {number / 24: 10_000 - number for number in range(1, 700)})
    read: list[str] = []
    parse = Record.parse
    monkeypatch.setattr(Record, "parse", lambda text: (read.append(text), parse(text))[1])
    assert history.days_to_full(folder, verdict(10_000, 10_000 + 24 * 50), stamp(NOW)) == 50
    assert len(read) <= history.LOOKED_AT
