"""Names, manifests, states and verdicts: what is written is read again, whatever it holds."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from stack_backup_jobs import formats
from stack_backup_jobs.formats import Dump, Manifest, MediaState, OtherFormat, Verdict, verdict_of

values = some.text(some.characters(codec=None, exclude_categories=()), max_size=20)
moments = some.integers(0, 253_402_300_799)
"""Seconds since the epoch, as far as four digits of a year reach."""


@given(moments)
def test_a_time_is_read_as_it_was_written(seconds: int) -> None:
    assert formats.seconds_of(formats.stamp(seconds)) == seconds
    for suffix in ("gz", "zst"):
        assert formats.time_of(formats.dump_name(formats.stamp(seconds), suffix)) == formats.stamp(seconds)


@given(moments, moments)
def test_names_sort_by_time(one: int, other: int) -> None:
    names = [formats.dump_name(formats.stamp(seconds), "gz") for seconds in (one, other)]
    assert sorted(names) == [
        formats.dump_name(formats.stamp(seconds), "gz") for seconds in sorted((one, other))
    ]


@pytest.mark.parametrize(
    "name",
    [
        "backup-2022-11-28T08:51:08Z-dumpall.sql.gz\n",
        "backup-2022-11-28T08:51:08Z-dumpall.sql.xz",
        "backup-2022-11-28T08:51:08Z-dumpall.sql.gz.partial",
        "backup-٢٠٢٢-11-28T08:51:08Z-dumpall.sql.gz",  # digits, but not those of the format
        ".tmp.backup-2022-11-28T08:51:08Z-dumpall.sql.gz",
        "backup-2022-11-28 08:51:08-dumpall.sql.gz",
    ],
)
def test_what_is_no_name_of_a_dump_is_none(name: str) -> None:
    with pytest.raises(ValueError, match="is no name of a dump"):
        formats.time_of(name)


@given(some.lists(some.lists(values, min_size=1, max_size=4).filter(lambda record: record != [""])))
def test_a_manifest_is_read_as_it_was_written_whatever_it_holds(records: list[list[str]]) -> None:
    manifest = Manifest(tuple(map(tuple, records)))
    assert Manifest.parse(manifest.format()) == manifest


@given(values)
def test_a_value_is_one_field_of_one_line(value: str) -> None:
    text = formats.escaped(value)
    assert "\t" not in text
    assert "\n" not in text
    assert formats.plain(text) == value


@pytest.mark.parametrize(
    ("value", "number"), [("12", 12), ("", 0), ("-1", 0), ("1e3", 0), ("٣", 0), (" 1", 0)]
)
def test_a_number_in_a_manifest_is_a_whole_one_or_0(value: str, number: int) -> None:
    assert Manifest((("bytes", value),)).number("bytes") == number


counts = some.integers(0, 10**17)


@given(moments, moments, some.tuples(counts, counts, counts), values, some.lists(some.text(min_size=1)))
def test_a_state_is_read_as_it_was_written(
    since: int, completed: int, numbers: tuple[int, int, int], namespace: str, exclude: list[str]
) -> None:
    ended = formats.stamp(completed)
    files, size, exceptions = numbers
    times = (formats.stamp(since), ended)
    state = MediaState("complete", *times, files, size, namespace, exceptions, tuple(exclude))
    assert MediaState.parse(state.text()) == state


def test_a_state_of_an_earlier_release_is_read() -> None:
    text = "format\t1\nstatus\tin-progress\nsince\t2022-11-28T02:04:00Z\nnamespace\tproduction-stack\n"
    state = MediaState.parse(text)
    assert (state.status, state.completed, state.files, state.exceptions) == ("in-progress", "", 0, 0)
    assert state.text() == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "format\t2\nstatus\tcomplete\n",
        "format\t1\nstatus\tdone\n",
        "format\t1\nstatus\tcomplete\nsince\tyesterday\n",
        "format\t1\nstatus\tcomplete\nfiles\t-1\n",
        "format\t1\nstatus\tcomplete\nbytes\t1e9\n",
    ],
)
def test_what_is_no_state_is_an_error_and_no_empty_one(text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (each says what it met)
        MediaState.parse(text)
    assert isinstance(caught.value, OtherFormat) is ("format\t1" not in text)


figures = some.dictionaries(
    some.text("abc_", min_size=1, max_size=9), some.integers() | values | some.lists(values)
)


@given(values, figures)
def test_a_verdict_is_one_line_that_kubernetes_keeps_and_we_read(
    message: str, held: dict[str, object]
) -> None:
    verdict = Verdict("job", 65, "failed", message * 400, held, 3)  # type: ignore[arg-type]
    line = verdict.line()
    assert "\n" not in line
    assert len(line.encode()) < formats.VERDICT_LIMIT
    assert len(json.loads(line)["message"]) <= formats.MESSAGE_LIMIT
    found = verdict_of(f"a line of the log\n{line}\n")
    assert (found["job"], found["exit"], found["outcome"], found["seconds"]) == ("job", 65, "failed", 3)


@pytest.mark.parametrize("text", ["", "text", "[1]", '{"a": 1}', "{", '"exit"', "12", '{"exit": 0}\ntext'])
def test_what_is_no_verdict_is_none(text: str) -> None:
    assert verdict_of(text) == {}


def test_a_verdict_keeps_its_message_and_leaves_out_figures_from_the_last() -> None:
    held = {f"figure_{number:03}": "x" * 100 for number in range(60)}
    found = json.loads(Verdict("job", 0, "published", "A sentence.", held, 1).line())
    kept = [key for key in found if key.startswith("figure_")]
    assert found["message"] == "A sentence."
    assert kept == sorted(held)[: len(kept)]
    assert 20 < len(kept) < 60


histories = some.lists(
    some.tuples(
        some.integers(0, 50), some.sampled_from(["good", "suspicious", "unverified"]), some.integers(0, 99)
    ),
    unique_by=lambda one: one[0],
    max_size=20,
)


def _history(states: Iterable[tuple[int, str, int]]) -> list[Dump]:
    found = []
    for hour, state, since in states:
        name = formats.dump_name(formats.stamp(hour * 3600), "gz")
        records = (("suspicious", "yes"),) if state == "suspicious" else ()
        found.append(Dump(name, 7, None if state == "unverified" else Manifest(records), since))
    return found


@given(histories, some.integers(1, 6), some.integers(0, 99), some.integers(0, 99))
@example([(1, "good", 50), (2, "good", 50)], 1, 0, 0)
@example([(1, "good", 50), (2, "good", 50)], 1, 59, 10)
@example([(1, "good", 50), (2, "good", 50)], 1, 60, 10)
def test_enough_good_dumps_are_always_left_and_nothing_newer_goes(
    states: list[tuple[int, str, int]], keep: int, now: int, grace: int
) -> None:
    dumps = _history(states)
    good = sorted((dump for dump in dumps if dump.good), key=lambda dump: dump.time)
    old = formats.superseded(dumps, keep, now, grace)
    left = [dump for dump in dumps if dump not in old]
    assert sorted(dump.name for dump in left if dump.good)[-keep:] == [dump.name for dump in good][-keep:]
    assert all(one.time < other.time for one in old for other in left)
    if len(good) >= keep and (not grace or now - good[-keep].since >= grace):
        assert {dump.name for dump in left} == {dump.name for dump in dumps if dump.time >= good[-keep].time}
    else:
        assert old == []


@given(histories)
def test_the_latest_is_the_newest_of_the_good(states: list[tuple[int, str, int]]) -> None:
    dumps = _history(states)
    hours = [hour for hour, state, _ in states if state == "good"]
    latest = formats.newest(dumps)
    assert (latest and latest.time) == (formats.stamp(max(hours) * 3600) if hours else None)
