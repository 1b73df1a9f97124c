"""The terminal's pictures in the documents: small, and with nothing that a browser would fetch."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from stack_backup_lab.paths import PROJECT
from stack_backup_lab.story.pictures import COMMANDS, LARGEST, PICTURES, picture

DRAWN = sorted(PICTURES.glob("*.svg"))


def _text(drawn: str) -> str:
    words = "".join(ElementTree.fromstring(drawn).itertext())
    return words.replace("\xa0", " ")


def test_a_picture_shows_what_was_printed_and_names_nothing_elsewhere() -> None:
    drawn = picture("$ stack-backup status\n\x1b[1;31mlate\x1b[0m <all> & more")
    assert "$ stack-backup status" in _text(drawn)
    assert "<all> & more" in _text(drawn)
    assert re.findall(r"https?://(?!www\.w3\.org/|www\.textualize\.io)\S+|@font-face", drawn) == []


def test_every_picture_is_there() -> None:
    assert {path.stem for path in DRAWN} == {"waiting", *COMMANDS}


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: path.stem)
def test_a_picture_is_small_and_shown(path: Path) -> None:
    drawn = path.read_text(encoding="utf-8")
    assert len(drawn.encode()) <= LARGEST
    assert "@font-face" not in drawn
    pages = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
    assert any(f"pictures/{path.name}" in page.read_text(encoding="utf-8") for page in pages)
