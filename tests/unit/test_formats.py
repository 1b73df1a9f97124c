"""Names, manifests, states and verdicts: what is written is read again, whatever it holds."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as some

from stack_backup_jobs import formats
from stack_backup_jobs.formats import (
    Dump,
    Finding,
    Manifest,
    MediaState,
    OtherFormatError,
    Verdict,
    verdict_of,
)

values = some.text(some.characters(codec=None, exclude_categories=()), max_size=20)
moments = some.integers(0, 253_402_300_799)
"""Seconds since the epoch, as far as four digits of a year reach."""


@given(moments)
def test_a_time_is_read_as_it_was_written(seconds: int) -> None:
    assert formats.seconds_of(formats.stamp(seconds)) == seconds
    for suffix in ("gz", "zst"):
        assert formats.time_of(formats.dump_name(formats.stamp(seconds), suffix)) == formats.stamp(seconds)


def test_times_are_those_of_utc_wherever_a_pod_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "XYZ-5:45")
        time.tzset()
        assert formats.stamp(0) == "1970-01-01T00:00:00Z"
        assert formats.seconds_of("1970-01-01T00:00:00Z") == 0
        assert abs(formats.seconds_of(formats.stamp()) - time.time()) < 2
    time.tzset()
    with pytest.raises(ValueError, match="'today' is not a time such as 2022-11-28T08:51:08Z"):
        formats.seconds_of("today")


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
    with pytest.raises(ValueError, match="is not the name of a dump"):
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


def test_what_a_manifest_says() -> None:
    records = [("database", "a"), ("database", "b"), ("table", "a", "t", "3"), ("table", "b", "t", "4")]
    held = Manifest((("size",), *records, ("size", "x")))
    assert (held.databases, held.rows()) == (["a", "b"], 7)
    assert (held.get("size"), held.get("name"), held.all("name")) == ("x", "", [])


@given(some.integers(-500, 10**9))
def test_the_age_of_a_dump(age: int) -> None:
    name = formats.dump_name(formats.stamp(10**9 - age), "gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", lambda: 10**9)
        assert Dump(name, 1, None).age == max(0, age)


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
    assert MediaState.parse("format\t1\nstatus\tcomplete\n") == MediaState("complete", "")
    text = "format\t1\nstatus\tcomplete\nsince\t2022-11-28T02:04:00Z\ncompleted\t2022-11-28T02:05:00Z\n"
    text += f"files\t{10**17}\nbytes\t2\nnamespace\tproduction-stack\n"
    assert MediaState.parse(text).text() == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", ""),
        ("format\t2\nstatus\tcomplete\n", "2"),
        ("format\t1\n", "a state of the status ''"),
        ("format\t1\nstatus\tdone\n", "a state of the status 'done'"),
        ("format\t1\nstatus\tcomplete\nsince\tyesterday\n", "'yesterday' is not a time such as"),
        ("format\t1\nstatus\tcomplete\ncompleted\ttoday\n", "'today' is not a time such as"),
        ("format\t1\nstatus\tcomplete\nfiles\t-1\n", "a state with the numbers ['-1', '0', '0']"),
        ("format\t1\nstatus\tcomplete\nbytes\t1e9\n", "a state with the numbers ['0', '1e9', '0']"),
        (f"format\t1\nstatus\tcomplete\nexceptions\t{10**18}\n", "a state with the numbers ['0', '0', '1000"),
    ],
)
def test_what_is_no_state_is_an_error_and_no_empty_one(text: str, says: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (each says what it met)
        MediaState.parse(text)
    assert isinstance(caught.value, OtherFormatError) is ("format\t1" not in text)
    assert str(caught.value).startswith(says)
    assert bool(says) == bool(str(caught.value))


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
    found = verdict_of(f"a line of the log\nanother\n{line}\n")
    assert (found["job"], found["exit"], found["outcome"], found["seconds"]) == ("job", 65, "failed", 3)


@pytest.mark.parametrize("text", ["", "text", "[1]", '{"a": 1}', "{", '"exit"', "12", '{"exit": 0}\ntext'])
def test_what_is_no_verdict_is_none(text: str) -> None:
    assert verdict_of(text) == {}


def test_a_verdict_is_short_and_plain() -> None:
    line = Verdict("job", 0, "published", "Größe.", {"names": ["ä", "b"]}, 1).line()
    assert line == (
        '{"job":"job","exit":0,"outcome":"published","message":"Größe.","names":["ä","b"],"seconds":1}'
    )


@pytest.mark.parametrize("more", [0, 1])
def test_all_the_room_of_a_verdict_is_used(more: int) -> None:
    bare = len(Verdict("job", 0, "published", "A.", {"figure": ""}, 1).line())
    figure = "x" * (formats.VERDICT_LIMIT - 1 - bare + more)
    assert ("figure" in Verdict("job", 0, "published", "A.", {"figure": figure}, 1).line()) == (not more)


@given(some.integers(1000, 1500))
def test_a_long_message_is_not_cut_short(length: int) -> None:
    line = Verdict("job", 65, "failed", "\N{GRINNING FACE}" * length, {}, 1).line()
    assert formats.VERDICT_LIMIT * 0.7 < len(line.encode()) < formats.VERDICT_LIMIT


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
    assert formats.superseded(dumps, keep) == formats.superseded(dumps, keep, now, 0)
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


@given(some.sampled_from([formats.OK, formats.FAILED]), values, values, values)
def test_a_finding_is_one_line_of_a_log_and_read_as_it_was_written(
    result: str, subject: str, message: str, advice: str
) -> None:
    finding = Finding(result, subject, "check", message, advice)
    assert "\n" not in finding.text()
    assert Finding.parse(finding.text()) == finding


@pytest.mark.parametrize(
    "line", ["", "ok", "fine\ta\tb\tc\td", "2026-11-25T12:00:00Z Dumping.", '{"exit":0}']
)
def test_another_line_of_a_log_is_no_finding(line: str) -> None:
    assert Finding.parse(line) is None
