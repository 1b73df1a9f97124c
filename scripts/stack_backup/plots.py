"""Plots of a report as SVG: where lines, marks and ticks lie. The page's template draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from stack_backup.show import duration, size

WIDTH, HEIGHT = 640, 190
LEFT, RIGHT, TOP, BOTTOM = 70, 12, 10, 24
"""The margins of the plotted area, in the SVG's own units."""
TICKS = 4
"""At most, on the axis of values."""

Value = tuple[float, float]
"""When, in seconds since the epoch, and what."""
_ONES = [factor * 10**power for power in range(16) for factor in (1, 2, 5)]
_BYTES = [factor * 1024**power for power in range(6) for factor in (1, 2, 5, 10, 20, 50, 100, 200, 500)]
_SECONDS = [
    *(1, 2, 5, 10, 15, 60, 120, 300, 600, 900, 1800, 3600, 7200, 4 * 3600, 6 * 3600, 12 * 3600),
    *(days * 86400 for days in _ONES),
]


@dataclass(frozen=True)
class Unit:
    """How values of a kind are written, and the steps of their axis."""

    show: Callable[[float], str]
    steps: Sequence[int]


COUNT = Unit(lambda value: f"{value:,.0f}", _ONES)
BYTES = Unit(lambda value: size(round(value)), _BYTES)
SECONDS = Unit(duration, _SECONDS)


@dataclass(frozen=True)
class Tick:
    at: float
    label: str


@dataclass(frozen=True)
class Plot:
    """One line over time. `summary` says in words what it shows, for whoever cannot see it."""

    title: str
    summary: str
    line: str
    """The points of the polyline."""
    dots: list[tuple[float, float]]
    """The values themselves, where they are few enough to be seen one by one."""
    marks: list[float]
    """Where runs failed."""
    values: list[Tick]
    dates: list[Tick]
    limit: Tick | None


def plot(
    title: str,
    unit: Unit,
    values: Sequence[Value],
    period: tuple[float, float],
    *,
    marks: Iterable[float] = (),
    limit: int | None = None,
) -> Plot | None:
    """Of the values, oldest first; None where there is none. `limit`: a budget, drawn across."""
    if not values:
        return None
    begin, end = period
    top = max([value for _, value in values] + ([limit] if limit else [])) or 1
    step = next((one for one in unit.steps if top / one <= TICKS), math.ceil(top / TICKS))
    across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(when: float) -> float:
        return round(LEFT + across * (min(max(when, begin), end) - begin) / max(end - begin, 1), 1)

    def y(value: float) -> float:
        return round(TOP + down * (1 - value / (top * 1.06)), 1)

    places = [(x(when), y(value)) for when, value in values]
    low, high = min(value for _, value in values), max(value for _, value in values)
    said = f"{title}: from {unit.show(low)} to {unit.show(high)}, at last {unit.show(values[-1][1])}"
    return Plot(
        title=title,
        summary=said + (f"; budget {unit.show(limit)}" if limit else ""),
        line=" ".join(f"{across_},{down_}" for across_, down_ in places),
        dots=places if len(places) <= 60 else [],
        marks=[x(when) for when in marks],
        values=[Tick(y(n * step), unit.show(n * step)) for n in range(int(top // step) + 1)],
        dates=_dates(begin, end, x),
        limit=Tick(y(limit), f"budget {unit.show(limit)}") if limit else None,
    )


def _dates(begin: float, end: float, x: Callable[[float], float]) -> list[Tick]:
    """Five points of time; days where the period is long, else hours."""
    form = "%-d %b" if end - begin > 3 * 86400 else "%-d %b %H:%M"
    found = [begin + (end - begin) * part / 4 for part in range(5)]
    return [Tick(x(when), f"{datetime.fromtimestamp(when, UTC):{form}}") for when in found]
