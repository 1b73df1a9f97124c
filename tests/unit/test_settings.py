"""A job's settings: what makes sense is taken, all else is named before anything is done."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack_backup_jobs.errors import Failure
from stack_backup_jobs.settings import load, number, one_of, optional


@dataclass(frozen=True)
class Settings:
    name: str
    note: str = optional()
    keep_days: int = number(1)
    share: int = number(default=50)
    suspend: bool
    volume: Path
    folders: list[str]
    compressor: str = one_of("gzip", "zstd")
    limit: int = optional("")
    extra: list[str] = optional("")  # noqa: RUF009


GIVEN = {
    "NAME": "production",
    "KEEP_DAYS": "7",
    "SUSPEND": "false",
    "VOLUME": "/backup",
    "FOLDERS": "hourly  daily",
    "COMPRESSOR": "zstd",
}


def loaded(monkeypatch: pytest.MonkeyPatch, **changes: str) -> Settings:
    for name in (*GIVEN, "SHARE", "NOTE", "LIMIT", "EXTRA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (GIVEN | changes).items():
        monkeypatch.setenv(name, value)
    return load(Settings)


def test_all_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ("production", "", 7, 50, False, Path("/backup"), ["hourly", "daily"], "zstd", 0, [])
    assert loaded(monkeypatch) == Settings(*expected)
    changed = loaded(monkeypatch, SHARE="0", SUSPEND="true", NOTE="a b", LIMIT="12", EXTRA="x y")
    assert (changed.share, changed.suspend, changed.note, changed.limit) == (0, True, "a b", 12)
    assert changed.extra == ["x", "y"]


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_not_set_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    with pytest.raises(Failure) as failure:
        loaded(monkeypatch, **{name: ""})
    assert (failure.value.code, failure.value.what) == (64, f"The variable {name} is not set.")
    assert failure.value.advice


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("KEEP_DAYS", "0", "a whole number from 1 on"),
        ("KEEP_DAYS", "-1", "a whole number"),
        ("KEEP_DAYS", "1.0", "a whole number"),
        ("KEEP_DAYS", " 1", "a whole number"),
        ("KEEP_DAYS", "\u0661", "a whole number"),
        ("KEEP_DAYS", "9" * 400, "a whole number"),
        ("SUSPEND", "yes", "true or false"),
        ("SUSPEND", "True", "true or false"),
        ("COMPRESSOR", "xz", "gzip or zstd"),
    ],
)
def test_what_makes_no_sense_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    with pytest.raises(Failure) as failure:
        loaded(monkeypatch, **{name: value})
    assert failure.value.code == 64
    assert f'The variable {name} is "{value}"' in failure.value.what
    assert words in failure.value.what


@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
    | st.from_regex(r"[0-9]{1,17}", fullmatch=True)
)
def test_no_text_breaks_a_number(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if re.fullmatch(r"0*[1-9][0-9]{0,14}", text) and len(text) < 16:
            assert loaded(patch, KEEP_DAYS=text).keep_days == int(text)
        else:
            with pytest.raises(Failure):
                loaded(patch, KEEP_DAYS=text)
