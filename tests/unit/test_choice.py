"""Which dump is meant, and what is said where none is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack_backup_jobs.choice import choose, doubt, newest_in, shrunk
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder
from stack_backup_jobs.formats import Dump, Manifest, dump_name
from stack_backup_jobs.job import Job

TIMES = [f"2023-11-{day:02}T22:13:20Z" for day in range(1, 9)]
NAMES = [dump_name(time, "gz") for time in TIMES]
GOOD, SUSPICIOUS, UNVERIFIED, CUT = "good", "suspicious", "unverified", "cut off"


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.end()


def dump(day: int, kind: str) -> Dump:
    marks = (("suspicious", "yes"),) if kind == SUSPICIOUS else ()
    manifest = None if kind in (UNVERIFIED, CUT) else Manifest((("name", NAMES[day]), *marks))
    return Dump(NAMES[day], 3, manifest, listed=kind != UNVERIFIED)


def folder(job: Job, name: str, *kinds: str) -> Folder:
    """One dump a day, each of its kind."""
    found = Folder(job, Path("/backup") / name)
    there = [dump(day, kind) for day, kind in enumerate(kinds)]
    found.dumps = lambda: there  # type: ignore[method-assign]
    return found


def refused(call: Callable[[], object]) -> tuple[int, str, str]:
    with pytest.raises(JobError) as failed:
        call()
    assert str(failed.value) == failed.value.what
    return failed.value.code, failed.value.what, failed.value.advice


PASSED = "is marked as suspicious, and was skipped."
REFUSED = {
    "no time": (
        "newest",
        [[GOOD], []],
        64,
        'DUMP is "newest"; it must be latest or the time in a dump\'s name, such as 2022-11-28T08:51:08Z.',
        "Correct the value, or what the run was started with.",
    ),
    "no dump": (
        "latest",
        [[], []],
        66,
        "There is no verified dump in the folders daily hourly of the source: there is no dump at all.",
        "Check that the right volume is mounted, and that the backup or the replicator runs.",
    ),
    "none verified": (
        "latest",
        [[UNVERIFIED] * 7, [UNVERIFIED]],
        66,
        "There is no verified dump in the source, so none is the latest.",
        f"Name one with DUMP: {' '.join(TIMES[6:0:-1])}.",
    ),
    "a suspicious one alone": (
        "latest",
        [[UNVERIFIED, SUSPICIOUS, UNVERIFIED], []],
        66,
        f"There is no verified dump in the source, so none is the latest. {NAMES[1]} {PASSED}",
        f"Name one with DUMP: {' '.join(TIMES[2::-1])}.",
    ),
    "none of that time": (
        TIMES[7],
        [[GOOD], [GOOD, GOOD]],
        66,
        f"There is no dump of {TIMES[7]}.",
        f"There are: {TIMES[1]} {TIMES[0]}.",
    ),
    "one that was cut off": (
        TIMES[0],
        [[CUT], []],
        65,
        f"{NAMES[0]} is not of the size that its manifest says.",
        "It was cut off or changed: use another dump.",
    ),
}


@pytest.mark.parametrize(("meant", "folders", "code", "what", "advice"), REFUSED.values(), ids=REFUSED)
def test_what_is_said_where_no_dump_is_meant(
    job: Job, meant: str, folders: list[list[str]], code: int, what: str, advice: str
) -> None:
    there = [folder(job, name, *kinds) for name, kinds in zip(("daily", "hourly"), folders, strict=True)]
    assert refused(lambda: choose(job, there, meant)) == (code, what, advice)


CHOSEN = {
    "the newest good one of all": ("latest", [[GOOD, GOOD], [GOOD]], "daily", 1, ""),
    "of the other folder": ("latest", [[GOOD], [GOOD, GOOD]], "hourly", 1, ""),
    "not a suspicious one": ("latest", [[GOOD, SUSPICIOUS], []], "daily", 0, f"{NAMES[1]} {PASSED}"),
    "one that is older counts no doubt": ("latest", [[SUSPICIOUS, GOOD], []], "daily", 1, ""),
    "not an unverified one": ("latest", [[GOOD, UNVERIFIED], []], "daily", 0, ""),
    "a suspicious one that is named": (TIMES[1], [[GOOD, SUSPICIOUS], []], "daily", 1, ""),
    "an unverified one that is named": (TIMES[1], [[GOOD, UNVERIFIED], [GOOD]], "daily", 1, ""),
    "a verified one before another": (TIMES[0], [[UNVERIFIED], [GOOD]], "hourly", 0, ""),
    "a verified one before one cut off": (TIMES[0], [[SUSPICIOUS], [CUT]], "daily", 0, ""),
}


@pytest.mark.parametrize(("meant", "folders", "name", "day", "said"), CHOSEN.values(), ids=CHOSEN)
def test_the_dump_that_is_meant(
    job: Job,
    capfd: pytest.CaptureFixture[str],
    meant: str,
    folders: list[list[str]],
    name: str,
    day: int,
    said: str,
) -> None:
    there = [folder(job, each, *kinds) for each, kinds in zip(("daily", "hourly"), folders, strict=True)]
    found, chosen = choose(job, there, meant)
    assert (found.path.name, chosen.name) == (name, NAMES[day])
    assert chosen in found.dumps()
    assert job.figures == {"dump": NAMES[day]}
    assert capfd.readouterr().out[21:].rstrip("\n") == said


def test_the_newest_of_one_folder(job: Job) -> None:
    good = folder(job, "hourly", GOOD, GOOD, SUSPICIOUS, UNVERIFIED)
    assert newest_in(good) == (good.dumps()[1], f"{NAMES[2]} {PASSED}")
    assert newest_in(folder(job, "hourly", GOOD, GOOD))[1] == ""
    advice = "Find out why the hourly backup publishes none."
    nothing = "There is no verified dump in /backup/hourly."
    assert refused(lambda: newest_in(folder(job, "hourly", UNVERIFIED))) == (66, nothing, advice)
    none_good = (66, f"{nothing} {NAMES[0]} {PASSED}", advice)
    assert refused(lambda: newest_in(folder(job, "hourly", SUSPICIOUS))) == none_good


def test_the_doubt_is_about_the_newest_whatever_the_order() -> None:
    assert doubt([dump(2, SUSPICIOUS), dump(1, GOOD)]) == f"{NAMES[2]} {PASSED}"
    assert doubt([dump(2, GOOD), dump(1, SUSPICIOUS)]) == ""
    assert doubt([]) == ""


def held(size: int, tables: int, server: str = "1") -> Manifest:
    records = [("table", "d", f"t{number}", "1") for number in range(tables)]
    return Manifest((("sql_bytes", str(size)), ("system_identifier", server), *records))


SHRUNK = "It holds {} bytes of SQL in {} tables, less than 50 % of the 1000 bytes in 10 tables before{}"
OTHER = ", and is of another server (system identifier 2, before 1)"


@pytest.mark.parametrize(
    ("new", "why"),
    [
        (held(500, 5), ""),
        (held(499, 10), SHRUNK.format(499, 10, "")),
        (held(1000, 4), SHRUNK.format(1000, 4, "")),
        (held(1000, 5, "2"), ""),
        (held(0, 0, "2"), SHRUNK.format(0, 0, OTHER)),
        (None, ""),
    ],
)
def test_what_tells_that_a_dump_shrank(new: Manifest | None, why: str) -> None:
    before = Dump(NAMES[0], 3, held(1000, 10))
    assert shrunk(new, before, 50) == why
    assert shrunk(held(1000, 100), Dump(NAMES[0], 3, held(1000, 101)), 100)
    assert shrunk(new, None, 50) == ""
    assert shrunk(new, Dump(NAMES[0], 3, None), 50) == ""
