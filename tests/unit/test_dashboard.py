"""The dashboard's picture: its units, its colours, its size."""

from __future__ import annotations

import json

import pytest

from stack_backup_lab.paths import PROJECT
from stack_backup_lab.story.dashboard import BOARD, LARGEST, NAMED, PICTURE, colour, shown


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (59, "s", "59 s"),
        (90, "s", "1.5 min"),
        (5400, "s", "1.5 hours"),
        (2 * 86400, "s", "2.0 days"),
        (3.3 * 2**30, "bytes", "3.3 GiB"),
        (1536, "bytes", "1.5 KiB"),
        (0.834, "percentunit", "83 %"),
        (25975, "short", "25,975"),
    ],
)
def test_a_value_is_shown_in_its_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_a_cell_has_the_colour_of_the_highest_threshold_that_it_reached() -> None:
    panels = json.loads(BOARD.read_text(encoding="utf-8"))["panels"]
    (table,) = [panel for panel in panels if panel["title"].startswith("Is every stack")]
    (own,) = [one for one in table["fieldConfig"]["overrides"] if one["matcher"]["options"] == "Newest dump"]
    (thresholds,) = [one["value"] for one in own["properties"] if one["id"] == "thresholds"]
    for hours, wanted in ((1.9, "green"), (2, "orange"), (3, "red"), (90, "red")):
        assert colour(hours * 3600, thresholds) == NAMED[wanted]


def test_the_picture_is_small_and_shown() -> None:
    assert PICTURE.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert PICTURE.stat().st_size <= LARGEST
    assert f"pictures/{PICTURE.name}" in (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
