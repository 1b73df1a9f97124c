"""The history of real runs: every end is kept, and nothing that becomes of the history changes an end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest

from stack_backup_jobs.formats import Record, Verdict, stamp
from stack_backup_lab.runtime.local import LocalVolume
from tests.jobs.hourly import JOB, Hourly
from tests.outcomes import green, red

DAY = 86400


@pytest.fixture
def volume(hourly: Hourly) -> Iterator[LocalVolume]:
    """The claim of the history, empty."""
    volume = hourly.stack.volume("history")
    volume.clear()
    yield volume
    volume.clear()


def records(volume: LocalVolume) -> list[Record]:
    names = sorted(volume.list(JOB)) if JOB in volume.list() else []
    return [Record.parse(volume.read(f"{JOB}/{name}").decode()) for name in names]


def test_every_run_is_kept_as_its_verdict_told_it(hourly: Hourly, volume: LocalVolume) -> None:
    begun = stamp()
    good = green(hourly.run(), "published")
    bad = red(hourly.run(environment={"COMPRESSOR": "none"}), 64)
    first, second = records(volume)
    assert first.verdict == good.verdict
    assert second.verdict == bad.verdict
    assert begun <= first.begun <= first.ended <= second.ended <= stamp()
    assert first.pod.startswith(JOB)


def test_only_so_many_are_kept(hourly: Hourly, volume: LocalVolume) -> None:
    hourly.install({"history": {"keep": 2}})
    for _ in range(3):
        green(hourly.run())
    assert len(records(volume)) == 2


def test_none_is_kept_where_none_is_wanted(hourly: Hourly, volume: LocalVolume) -> None:
    hourly.install({"history": {"enabled": False}})
    result = green(hourly.run())
    assert "history" not in result.log
    assert volume.list() == []


@pytest.mark.parametrize("what", ["full", "read-only"])
def test_a_history_that_cannot_be_written_changes_no_verdict(
    hourly: Hourly, volume: LocalVolume, what: str
) -> None:
    with volume.read_only() if what == "read-only" else volume.limited(300_000):
        if what == "full":
            with contextlib.suppress(OSError), (volume.path / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(512))
        result = green(hourly.run(), "published")
    assert "This verdict is missing in the history: " in result.log


def test_the_day_on_which_the_volume_is_full_is_known(hourly: Hourly, volume: LocalVolume) -> None:
    first = green(hourly.run()).verdict
    size, fits = int(first["bytes"]), int(first["fits_bytes"])
    assert first["volume_bytes"] > first["free_bytes"] > 0
    assert "days_to_full" not in first
    now = time.time()
    for days in (2, 4, 8):  # a dump grows by a hundredth of what has room, each day
        said = Verdict(JOB, 0, "published", "", {"bytes": size - days * (fits - size) // 100}, 1)
        record = Record(stamp(now - days * DAY), stamp(now - days * DAY), f"pod-{days}", said.members())
        volume.write(f"{JOB}/{record.ended}.{record.pod}.json", record.text().encode())
    verdict = green(hourly.run()).verdict
    assert verdict["days_to_full"] == pytest.approx(100, abs=3)
    assert records(volume)[-1].verdict == verdict
