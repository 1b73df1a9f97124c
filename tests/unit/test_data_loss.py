"""What a lost server could have cost, as the dumps of a folder tell it to the drill."""

from __future__ import annotations

import time

import pytest

from stack_backup_jobs.drill import data_loss
from stack_backup_jobs.formats import Dump, Manifest, dump_name, stamp

HOUR = 3600


def dump(hours: float, *records: tuple[str, ...], verified: bool = True) -> Dump:
    """Begun so many hours ago, and finished a minute later unless its manifest says otherwise."""
    begun = time.time() - hours * HOUR
    manifest = Manifest(records or (("finished", stamp(begun + 60)),)) if verified else None
    return Dump(dump_name(stamp(begun), "gz"), 1000, manifest)


def test_no_good_dump_says_nothing() -> None:
    assert data_loss([]) is None
    assert data_loss([dump(1, verified=False), dump(2, ("suspicious", "yes"))]) is None


def test_it_is_the_age_of_the_newest_where_no_gap_was_longer() -> None:
    assert data_loss([dump(5), dump(6), dump(7)]) == pytest.approx(5 * HOUR, abs=5)


def test_it_is_the_longest_gap_until_the_next_was_finished_in_whatever_order() -> None:
    dumps = [dump(1), dump(9), dump(10), dump(4)]
    assert data_loss(dumps) == pytest.approx(5 * HOUR + 60, abs=5)


@pytest.mark.parametrize(
    "between", [dump(6, verified=False), dump(6, ("suspicious", "yes"))], ids=["unverified", "suspicious"]
)
def test_a_dump_that_cannot_be_the_latest_closes_no_gap(between: Dump) -> None:
    assert data_loss([dump(1), between, dump(9)]) == pytest.approx(8 * HOUR + 60, abs=5)


def test_a_manifest_that_does_not_say_when_it_was_finished_counts_from_its_beginning() -> None:
    old = dump(1, ("format", "1"))
    assert data_loss([old, dump(4)]) == pytest.approx(3 * HOUR, abs=5)
