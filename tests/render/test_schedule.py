"""The longest gap of a schedule, which alerts wait for: never less than cron's own, and hardly more."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stack_backup_lab.render import CHART
from tests.render.stacks import template

HOUR, DAY = 3600, 86400
SECOND = timedelta(seconds=1)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"]
Gaps = Callable[..., list[int]]

TEMPLATE = """gaps:
{{- range .Values.schedules }}
  - {{ include "stack-backup.longestGap" (dict "schedule" . "timeZone" $.Values.timeZone) }}
{{- end }}
"""


@pytest.fixture(scope="module")
def gaps(tmp_path_factory: pytest.TempPathFactory) -> Gaps:
    """What the chart's template makes of schedules, many in one render."""
    chart = tmp_path_factory.mktemp("chart")
    (chart / "templates").mkdir()
    (chart / "Chart.yaml").write_text("{apiVersion: v2, name: gaps, version: 0.1.0}\n")
    shutil.copy(CHART / "templates" / "_schedule.tpl", chart / "templates")
    (chart / "templates" / "gaps.yaml").write_text(TEMPLATE)

    def ask(*schedules: str, zone: str = "Etc/UTC") -> list[int]:
        text = template({"schedules": list(schedules), "timeZone": zone}, "any", chart=Path(chart))
        return [int(line[4:]) for line in text.splitlines() if line.startswith("  - ")]

    return ask


def _times(schedule: str, begin: datetime, end: datetime) -> Iterator[datetime]:
    for moment in CronSim(schedule, begin):
        if moment > end:
            return
        yield moment


def _longest(schedule: str) -> int:
    """Of what cron does: its times of a day, on its days of a year and more, around a leap day."""
    minute, hour, *days = schedule.split()
    begin = datetime(2027, 12, 31, tzinfo=UTC)
    times = [
        at - begin
        for at in _times(f"{minute} {hour} * * *", begin - SECOND, begin + timedelta(days=1) - SECOND)
    ]
    for years in (1.2, 14):
        found = list(_times(f"0 0 {' '.join(days)}", begin, begin + timedelta(days=366 * years)))
        if len(found) > 50:
            break
    gaps = [after - before for before, after in pairwise(times)]
    gaps += [after + times[0] - before - times[-1] for before, after in pairwise(found)]
    return int(max(gaps).total_seconds())


def _field(low: int, high: int, names: list[str] | None = None) -> st.SearchStrategy[str]:
    """Numbers and ranges, some with steps. In the last field cronsim has a 7, up to which a number steps."""

    def said(number: int) -> str:
        return names[number - low] if names and number % 2 else str(number)

    def ranged(ends: tuple[int, int, int]) -> str:
        first, last, step = min(ends[:2]), max(ends[:2]), ends[2]
        return f"{said(first)}-{said(last)}" + (f"/{step}" if step > 1 else "")

    number = st.integers(low, high)
    parts = number.map(said) | st.tuples(number, number, st.integers(1, 9)).map(ranged)
    if high != 6:
        parts |= st.tuples(number, st.integers(2, 9)).map(lambda two: f"{two[0]}/{two[1]}")
    return st.lists(parts, min_size=1, max_size=3).map(",".join)


STEPS = st.sampled_from(["*/2", "*/5", "*/7"])
MINUTES = st.just("*") | STEPS | _field(0, 59)
HOURS = st.just("*") | STEPS | _field(0, 23)
MONTH = st.just("*") | st.just("*") | _field(1, 12, MONTHS)
# Where a day must fit both, a star with a step means another thing to cronsim than to Kubernetes.
DAYS = (
    st.tuples(st.just("*"), MONTH, st.just("*"))
    | st.tuples(STEPS | _field(1, 28), MONTH, st.just("*"))
    | st.tuples(st.just("*"), MONTH, STEPS | _field(0, 6, WEEKDAYS))
    | st.tuples(_field(1, 28), MONTH, _field(0, 6, WEEKDAYS))
)
SCHEDULES = st.tuples(MINUTES, HOURS, DAYS).map(lambda parts: " ".join([parts[0], parts[1], *parts[2]]))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(schedules=st.lists(SCHEDULES, min_size=15, max_size=15))
def test_it_is_never_less_than_a_gap_of_cron(gaps: Gaps, schedules: list[str]) -> None:
    for schedule, told in zip(schedules, gaps(*schedules), strict=True):
        assert told >= _longest(schedule), schedule


EXACT = {
    "* * * * *": 60,
    "*/15 * * * *": 900,
    "51 * * * *": HOUR,
    "H * * * *": HOUR,
    "5,50 * * * *": 2700,
    "4 2 * * *": DAY,
    "H 3 * * *": DAY,
    "0 8-18/2 * * *": 14 * HOUR,
    "30 6,18 * * *": 12 * HOUR,
    "08 08,20 * * *": 12 * HOUR,
    "11 3 * * 6": 7 * DAY,
    "0 0 * * mon-fri": 3 * DAY,
    "0 12 * * MON,THU": 4 * DAY,
    "41 0 8 * *": 31 * DAY,
    "0 0 1,15 * *": 17 * DAY,
    "0 0 29 * *": 59 * DAY,
    "0 0 31 * *": 61 * DAY,
    "0 0 1 jan *": 366 * DAY,
    "0 0 29 2 *": 2922 * DAY,
    "@hourly": HOUR,
    "@daily": DAY,
    "@midnight": DAY,
    "@weekly": 7 * DAY,
    "@monthly": 31 * DAY,
    "@yearly": 366 * DAY,
    "@annually": 366 * DAY,
}


def test_it_is_no_more_where_the_calendar_is_plain(gaps: Gaps) -> None:
    assert dict(zip(EXACT, gaps(*EXACT), strict=True)) == EXACT


def test_a_day_that_fits_either_restriction_has_a_run(gaps: Gaps) -> None:
    assert gaps("0 0 1 * 3", "0 0 */2 * 3") == [7 * DAY, 2 * DAY]


def _local(schedule: str, zone: str, year: int = 2026) -> int:
    """The longest gap in a time zone, of every minute that there is: a time that is skipped has no run."""
    moments = []
    for naive in _times(schedule, datetime(year, 1, 1), datetime(year + 1, 1, 1)):
        for fold in (0, 1):
            moment = naive.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)
            if moment.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == naive:
                moments.append(moment)
    moments = sorted(set(moments))
    return int(max((after - before).total_seconds() for before, after in pairwise(moments)))


@pytest.mark.parametrize("zone", ["Europe/London", "America/Santiago", "Asia/Beirut", "Australia/Lord_Howe"])
def test_a_clock_that_is_changed_costs_a_run(gaps: Gaps, zone: str) -> None:
    """A daily run in the hour that is skipped is two days after the one before."""
    schedules = [
        "30 1 * * *",
        "30 0 * * *",
        "4 2 * * *",
        "0 12 * * *",
        "51 * * * *",
        "30 2 * * 0",
        "10 2,14 * * *",
    ]
    for schedule, told in zip(schedules, gaps(*schedules, zone=zone), strict=True):
        longest = _local(schedule, zone)
        assert longest <= told <= 2 * longest + HOUR, schedule
