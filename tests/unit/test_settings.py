"""A job's settings: what makes sense is taken, all else is named before anything is done."""

from __future__ import annotations

import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack_backup_jobs.errors import VALUES, JobError
from stack_backup_jobs.settings import load, number, one_of, optional, rate


def declared() -> type[Any]:
    """Made anew each time, so that what declares a setting is tested, too."""

    @dataclass(frozen=True)
    class Settings:
        name: str
        note: str = optional()
        keep_days: int = number(1)
        share: int = number(default=0)
        jobs: int = number(1, 50)
        port: int
        rest: int = number()
        suspend: bool
        volume: Path
        folders: list[str]
        compressor: str = one_of("gzip", "zstd")
        extra: list[str] = optional()  # noqa: RUF009
        mode: str = one_of("slow", "fast", default="fast")
        place: Path = optional("/work")  # noqa: RUF009
        speed: float = rate()

    return Settings


GIVEN = {
    "NAME": "production",
    "KEEP_DAYS": "7",
    "SUSPEND": "false",
    "VOLUME": "/backup",
    "FOLDERS": "hourly  daily",
    "PORT": "0",
    "REST": "0",
    "COMPRESSOR": "zstd",
}


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Any:
    for name in (*GIVEN, "SHARE", "JOBS", "NOTE", "EXTRA", "MODE", "PLACE", "SPEED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (GIVEN | changes).items():
        monkeypatch.setenv(name, value)
    return load(declared())


def test_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("production", "", 7, 0, 50, 0, 0, False, Path("/backup"), ["hourly", "daily"], "zstd", [])
    assert astuple(loaded(monkeypatch)) == (*expected, "fast", Path("/work"), 0.0)
    assert loaded(monkeypatch, MODE="slow", PLACE="/").place == Path("/")
    changed = loaded(monkeypatch, SHARE="7", JOBS="1", SUSPEND="true", NOTE="a b", EXTRA="x y")
    assert (changed.share, changed.jobs, changed.suspend, changed.note) == (7, 1, True, "a b")
    assert changed.extra == ["x", "y"]


def test_a_rate_is_in_bytes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {"": 0, "0": 0, "500": 500, "50M": 50 << 20, "1.5k": 1536, "2G": 2 << 30, "0.001K": 1.024}
    assert {text: loaded(monkeypatch, SPEED=text).speed for text in wanted} == wanted


def test_a_number_has_up_to_fifteen_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(monkeypatch, SHARE="9" * 15).share == 10**15 - 1
    with pytest.raises(JobError):
        loaded(monkeypatch, SHARE="1" * 16)


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(JobError) as failure:
        loaded(monkeypatch, **{name: ""})
    assert (failure.value.code, failure.value.what) == (64, f"The variable {name} is not set.")
    assert failure.value.advice == VALUES


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KEEP_DAYS", "0", "a whole number from 1 on"),
        ("KEEP_DAYS", "-1", "a whole number from 1 on"),
        ("KEEP_DAYS", "1.0", "a whole number from 1 on"),
        ("KEEP_DAYS", " 1", "a whole number from 1 on"),
        ("KEEP_DAYS", "\u0661", "a whole number from 1 on"),
        ("KEEP_DAYS", "9" * 400, "a whole number from 1 on"),
        ("REST", "-1", "a whole number from 0 on"),
        ("JOBS", "0", "a whole number from 1 on"),
        ("SHARE", "-1", "a whole number from 0 on"),
        ("PORT", "x", "a whole number from 0 on"),
        ("MODE", "quick", "slow or fast"),
        ("SUSPEND", "yes", "true or false"),
        ("SUSPEND", "True", "true or false"),
        ("COMPRESSOR", "xz", "gzip or zstd"),
        ("SPEED", "fast", "a number of bytes a second, such as 50M"),
        ("SPEED", "-1", "a number of bytes a second, such as 50M"),
        ("SPEED", "50 M", "a number of bytes a second, such as 50M"),
        ("SPEED", "50M --delete-before", "a number of bytes a second, such as 50M"),
        ("SPEED", "nan", "a number of bytes a second, such as 50M"),
        ("SPEED", "1.M", "a number of bytes a second, such as 50M"),
    ],
)
def test_what_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    with pytest.raises(JobError) as failure:
        loaded(monkeypatch, **{name: value})
    assert failure.value.code == 64
    assert failure.value.what == f'The variable {name} is "{value}"; it must be {words}.'
    assert failure.value.advice == VALUES


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.from_regex(r"[0-9]{1,17}", fullmatch=True)
)
def test_no_text_breaks_a_number(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if re.fullmatch(r"0*[1-9][0-9]{0,14}", text) and len(text) < 16:
            assert loaded(patch, KEEP_DAYS=text).keep_days == int(text)
        else:
            with pytest.raises(JobError):
                loaded(patch, KEEP_DAYS=text)
