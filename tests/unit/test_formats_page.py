"""The pages for people say what the one definition says: every key and code, and none that is not there."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest

from stack_backup_jobs import formats, pack
from stack_backup_jobs.formats import Dump, Exit, Manifest, MediaState, Verdict
from stack_backup_lab.paths import PROJECT

FORMATS = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
CODES = (PROJECT / "docs" / "exit-codes.md").read_text(encoding="utf-8")
JOBS = sorted((PROJECT / "docs" / "jobs").glob("*.md"))


def rows(text: str, heading: str, column: str) -> list[list[str]]:
    """The cells of the table under a heading whose first column is `column`, without code marks."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = section.splitlines()
    (first,) = [number for number, line in enumerate(lines) if line.startswith(f"| {column} |")]
    found = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line.strip("|"))
        found.append([cell.strip().replace("`", "") for cell in cells])
    return found


def test_the_page_has_every_key_of_a_manifest_with_its_values() -> None:
    found = {key: tuple(values.split()) for key, values, _ in rows(FORMATS, "The manifest", "Key")}
    assert found == formats.RECORDS


def test_the_page_has_every_key_of_the_media_s_state() -> None:
    found = [key for key, _ in rows(FORMATS, "A replica of the media", "Key of `state`")]
    assert sorted(found) == sorted(field.name for field in dataclasses.fields(MediaState))
    times = ("2022-11-28T02:04:00Z", "2022-11-28T02:40:00Z")
    whole = MediaState("complete", *times, 3, 4096, "a stack", 2, ("lost+found",))
    assert [line.partition("\t")[0] for line in whole.text().splitlines()] == found


def test_the_page_has_every_name_of_ours_in_a_replica_of_the_media() -> None:
    assert f"`{formats.OWN}/`" in FORMATS
    found = {
        re.split("/", name)[0]
        for name, _ in rows(FORMATS, "A replica of the media", "Name in `.stack-backup/`")
    }
    assert found == {formats.STATE, formats.SAMPLE, formats.TRASH, formats.ADDED, formats.LOCK}


def test_the_page_has_every_member_of_a_verdict() -> None:
    found = [member for member, _ in rows(FORMATS, "Verdicts", "Member")]
    members = [field.name for field in dataclasses.fields(Verdict)]
    assert found == members
    assert f"less than {formats.VERDICT_LIMIT} bytes" in FORMATS


def test_the_page_s_names_are_those_of_the_programs() -> None:
    example = "2022-11-28T08:51:08Z"
    assert f"| `{formats.dump_name(example, 'gz')}` |" in FORMATS
    name = formats.dump_name(example, "gz")
    assert formats.manifest_name(name) == f"{name}.tsv"
    for prefix in (f"`{formats.MANIFESTS}/`", f"`{formats.TEMPORARY}…`"):
        assert prefix in FORMATS
    assert formats.AHEAD == 10 * 60
    assert pack.MEMBER == formats.MIB
    assert "gzip members, one after the other, of one MiB of text each" in FORMATS
    assert "more than ten minutes ahead" in FORMATS


def test_a_dump_is_verified_and_the_latest_as_the_page_says() -> None:
    def dump(hour: int, *records: tuple[str, ...], size: int = 7) -> Dump:
        name = formats.dump_name(f"2022-11-28T{hour:02}:51:08Z", "gz")
        manifest = Manifest((("name", name), ("bytes", "7"), *records))
        return Dump(name, size, manifest if manifest.agrees(name, size) else None)

    verified, shrunk, cut = dump(8), dump(9, ("suspicious", "yes")), dump(10, size=6)
    assert formats.newest([cut, shrunk, verified]) is verified
    assert (shrunk.good, cut.manifest) == (False, None)


def test_the_page_of_exit_codes_has_every_code_and_no_other() -> None:
    assert [int(line[0]) for line in _table(CODES, "Code | Meaning |")] == sorted(Exit)


def test_the_page_of_exit_codes_says_what_is_not_tried_again() -> None:
    *some, last = sorted(formats.NOT_TRIED_AGAIN)
    assert f"\n{', '.join(map(str, some))} and {int(last)} are not retried" in CODES
    retried = {int(line[0]): line[-1] for line in _table(CODES, "Code | Meaning |")}
    for code in set(Exit) - {Exit.DONE}:
        assert retried[code] == ("no" if code in formats.NOT_TRIED_AGAIN else "yes"), code


@pytest.mark.parametrize("page", JOBS, ids=lambda page: page.stem)
def test_a_job_s_page_knows_no_other_code(page: object) -> None:
    text = page.read_text(encoding="utf-8")  # type: ignore[attr-defined]
    for line in _table(text, "Code | "):
        for code in re.findall(r"\d+", line[0]):
            Exit(int(code))


def _table(text: str, head: str) -> list[list[str]]:
    """The cells of every table that begins so."""
    found = []
    for part in text.split(f"\n| {head}")[1:]:
        for line in part.splitlines()[2:]:
            if not line.startswith("|"):
                break
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def test_the_page_of_exit_codes_has_every_outcome() -> None:
    words = {word for line in _table(CODES, "Outcome | Of |") for word in re.findall(r"`(\w+)`", line[0])}
    package = Path(formats.__file__).parent
    calls = [
        node
        for path in package.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Outcome"
    ]
    given = {node.args[1].value for node in calls if isinstance(node.args[1], ast.Constant)}
    assert len(calls) > 8
    assert given <= words
    text = "".join(path.read_text(encoding="utf-8") for path in package.glob("*.py"))
    assert {word for word in words if f'"{word}"' not in text} == set()
