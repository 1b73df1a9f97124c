"""Which dump and which mirror make a pair, what is asked first, and how two runs end as one; no cluster."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from stack_backup import release
from stack_backup.app import main
from stack_backup_jobs.formats import MediaState, Record, Verdict, dump_name
from stack_backup_jobs.listing import DUMP, Point
from stack_backup_jobs.listing import MEDIA as MEDIA_OF
from stack_backup_lab.render import merge_values
from tests.cli.machine import NAMESPACE, Machine

OLD, FIT, LATE = "2026-11-20T01:51:02Z", "2026-11-25T01:51:02Z", "2026-11-25T11:51:08Z"
MIRROR = MediaState(
    "complete", "2026-11-25T02:04:03Z", "2026-11-25T02:31:40Z", 579, 6300412, "production-stack"
)
HELD = (("namespace", "production-stack"), ("table", "frag", "a", "25975"))
CONFIRMED = ("--confirm", NAMESPACE)
DATABASE, MEDIA = "database-recovery", "media-recovery"


class End(NamedTuple):
    code: int
    stdout: str
    stderr: str

    @property
    def said(self) -> str:
        return " ".join(self.stdout.replace("│", " ").split())


Command = Callable[..., End]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "volumes")
    made.plant(OLD, *HELD)
    made.plant(FIT, *HELD)
    made.plant("2026-11-24T01:51:02Z", *HELD, ("suspicious", "yes"))
    made.plant("2026-11-24T02:51:02Z")
    made.plant("2026-11-25T01:59:59Z", *HELD, folder="of-another-tool")
    made.mirror(MIRROR)
    return made


@pytest.fixture
def command(machine: Machine, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.setattr(release, "connect", lambda *_: machine)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> End:
        code = main(arguments)
        said = capfd.readouterr()
        return End(code, said.out, said.err)

    return run


def test_the_plan_says_what_comes_and_what_is_replaced(command: Command, machine: Machine) -> None:
    end = command("refresh", "--plan")
    assert end.code == 0, end
    assert f"frag becomes the dump {FIT} of production-stack" in end.said
    assert "25,975 rows in 1 table. The replaced one is kept for 24 h." in end.said
    assert "579 files, 6.0 MiB, as of 2026-11-25T02:04:03Z" in end.said
    assert f"Files that only {NAMESPACE} has stay." in end.said
    assert "First the media, then the database" in end.said
    assert "unknown: no earlier runs of both are known" in end.said
    assert "Note" not in end.said
    assert machine.started == []


def test_both_are_recovered_as_one_pair(command: Command, machine: Machine) -> None:
    end = command("refresh", *CONFIRMED, "-o", "json")
    assert end.code == 0, end
    (media, first), (database, second) = machine.started
    assert (media, database) == (MEDIA, DATABASE)
    assert {name: first[name] for name in ("CONFIRM", "DELETE", "UNFINISHED")} == {
        "CONFIRM": NAMESPACE,
        "DELETE": "false",
        "UNFINISHED": "refuse",
    }
    assert (second["CONFIRM"], second["DUMP"]) == (NAMESPACE, FIT)
    document = json.loads(end.stdout)
    assert (document["exit"], document["outcome"], document["seconds"]) == (0, "refreshed", 120)
    assert document["message"] == f"{NAMESPACE} has the database of {FIT} and the media as of {MIRROR.since}."
    assert [run["job"] for run in document["runs"]] == [MEDIA, DATABASE]
    assert (document["plan"]["dump"]["time"], document["plan"]["media_as_of"]) == (FIT, MIRROR.since)


def test_after_one_refresh_the_plan_knows_how_long_it_takes(command: Command) -> None:
    command("refresh", *CONFIRMED)
    assert "about 2 min, by earlier runs (media 1 min, database 1 min)" in command("refresh", "--plan").said


def _record(machine: Machine, job: str, outcome: str, seconds: int, number: int = 1, **figures: Any) -> None:
    verdict = {"job": job, "exit": 0, "outcome": outcome, "message": "", **figures, "seconds": seconds}
    ended = f"2026-11-2{number}T03:00:00Z"
    folder = machine.volumes / "history" / job
    folder.mkdir(parents=True, exist_ok=True)
    record = Record("2026-11-20T02:00:00Z", ended, "pod", verdict)
    (folder / f"{ended}.pod.json").write_text(record.text())


def test_where_no_job_is_kept_the_history_tells_how_long_it_takes(command: Command, machine: Machine) -> None:
    _record(machine, MEDIA, "copied", 120)
    _record(machine, DATABASE, "restored", 7)
    assert "unknown" in command("refresh", "--plan").said
    for number, seconds in enumerate((300, 600, 1200), start=2):
        _record(machine, DATABASE, "recovered", seconds, number)
    end = command("refresh", "--plan")
    assert "about 12 min, by earlier runs (media 2 min, database 10 min)" in end.said


def test_a_drill_tells_how_long_a_first_recovery_takes(command: Command, machine: Machine) -> None:
    _record(machine, MEDIA, "copied", 120)
    _record(machine, "database-drill", "proved", 900, dump=dump_name(FIT, "gz"), recovery_seconds=600)
    assert "(media 2 min, database 10 min)" in command("refresh", "--plan").said


def test_runs_for_some_tables_do_not_count_as_recoveries(command: Command) -> None:
    assert command("restore-table", "note").code == 0
    assert command("run", MEDIA).code == 0
    assert "unknown" in command("refresh", "--plan").said


def test_where_files_are_deleted_the_database_comes_first(command: Command, machine: Machine) -> None:
    end = command("refresh", "--delete", *CONFIRMED)
    assert [job for job, _ in machine.started] == [DATABASE, MEDIA], end
    assert machine.started[1][1]["DELETE"] == "true"
    assert f"Files that only {NAMESPACE} has are deleted." in end.said


@pytest.mark.parametrize(
    ("as_of", "taken"),
    [
        (FIT, FIT),
        ("2026-11-25T01:51:01Z", OLD),
        ("2026-11-25", OLD),
        ("2026-11-25T03:51:02+02:00", FIT),
        ("2026-11-25 01:51:02", FIT),
        ("2030-01-01", FIT),
    ],
)
@pytest.mark.parametrize("words", [["refresh"], ["recover", "database"]], ids=" ".join)
def test_as_of_takes_the_newest_verified_dump_of_that_time_or_before(
    command: Command, machine: Machine, words: list[str], as_of: str, taken: str
) -> None:
    end = command(*words, "--as-of", as_of, *CONFIRMED)
    assert end.code == 0, end
    assert dict(machine.started)[DATABASE]["DUMP"] == taken


@pytest.mark.parametrize(
    "words",
    [["refresh", *CONFIRMED], ["recover", "database", *CONFIRMED], ["restore-table", "note"]],
    ids=lambda words: words[0],
)
def test_without_a_dump_before_it_those_that_there_are_are_named(
    command: Command, machine: Machine, words: list[str]
) -> None:
    end = command(*words, "--as-of", "2026-11-19")
    assert end.code == 66, end
    assert "no verified dump of 2026-11-19T00:00:00Z or before" in end.stderr
    assert f"The oldest is of {OLD}, the newest of {FIT}. Nothing was started." in end.stderr
    assert machine.started == []


def test_a_mirror_older_than_the_dump_is_said(command: Command, machine: Machine) -> None:
    machine.plant(LATE, *HELD)
    assert (
        f"older than the dump ({LATE}): rows may name files that are not there"
        in command("refresh", "--plan").said
    )
    assert "newer than the dump" in command("refresh", "--plan", "--as-of", OLD).said
    assert "Note" not in command("refresh", "--plan", "--as-of", FIT).said


@pytest.mark.parametrize(
    ("state", "options", "code", "says"),
    [
        (
            MediaState("in-progress", LATE, MIRROR.completed, 3, 4, "production-stack"),
            (),
            75,
            "mixes two days",
        ),
        (None, (), 66, "holds no mirror of the media"),
        (
            MediaState("in-progress", LATE, MIRROR.completed, 3, 4, "production-stack"),
            ("--unfinished", "last-complete"),
            0,
            f"media as of {MIRROR.completed}",
        ),
    ],
    ids=["in progress", "no mirror", "in progress, as it was"],
)
def test_half_a_pair_starts_nothing(
    command: Command,
    machine: Machine,
    state: MediaState | None,
    options: tuple[str, ...],
    code: int,
    says: str,
) -> None:
    if state is None:
        (machine.volumes / "media-replica" / ".stack-backup" / "state").unlink()
    else:
        machine.mirror(state)
    end = command("refresh", *options, *CONFIRMED)
    assert end.code == code, end
    assert says in f"{end.stderr} {end.said}"
    assert bool(machine.started) == (code == 0)


@pytest.mark.parametrize(
    ("job", "options", "started", "says"),
    [
        (
            MEDIA,
            (),
            [MEDIA],
            "The first half failed, and nothing was started after it: the database of staging-stack was not "
            "touched. media-recovery: It broke.",
        ),
        (DATABASE, ("--delete",), [DATABASE], f"the media of {NAMESPACE} were not touched"),
        (
            DATABASE,
            (),
            [MEDIA, DATABASE],
            f"go on with stack-backup recover database --dump {FIT} --confirm {NAMESPACE}",
        ),
        (
            MEDIA,
            ("--delete",),
            [DATABASE, MEDIA],
            f"go on with stack-backup recover media --confirm {NAMESPACE}",
        ),
    ],
    ids=["media", "database first", "database", "media last"],
)
def test_a_half_that_fails_ends_it_and_says_how_to_go_on(
    command: Command, machine: Machine, job: str, options: tuple[str, ...], started: list[str], says: str
) -> None:
    machine.ends[job] = (74, "It broke.")
    end = command("refresh", *options, *CONFIRMED)
    assert end.code == 74, end
    assert [name for name, _ in machine.started] == started
    assert says in end.said


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (
            ["refresh"],
            64,
            "This replaces the database and the media of staging-stack. Confirm it with --confirm ",
        ),
        (["refresh", "--confirm", "production-stack"], 77, "The confirmation is 'production-stack'"),
        (["refresh", "--as-of", "yesterday"], 64, "'yesterday' is not a time"),
        (["recover", "media", "--as-of", FIT, *CONFIRMED], 64, "--as-of is only for the database"),
        (["recover", "database", "--as-of", FIT, "--dump", FIT, *CONFIRMED], 64, "not both"),
        (["restore-table"], 64, "Missing argument"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_starts_nothing(
    command: Command, machine: Machine, words: list[str], code: int, says: str
) -> None:
    end = command(*words)
    assert end.code == code, end
    assert says in end.stderr
    assert machine.started == []


def test_tables_and_their_dump_are_handed_on(command: Command, machine: Machine) -> None:
    assert command("restore-table", "note", 'public."Odd, name"', "--dump", OLD).code == 0
    ((job, environment),) = machine.started
    assert job == DATABASE
    assert (environment["TABLES"], environment["DUMP"]) == ('note\npublic."Odd, name"', OLD)
    assert environment["CONFIRM"] == ""


def test_a_stack_that_takes_sanitised_dumps_alone_is_refreshed_with_no_other(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path / "strict", {"databaseRecovery": {"sanitisedOnly": True}})
    machine.plant(OLD, *HELD, ("sanitised", "yes"))
    machine.plant(FIT, *HELD)
    machine.mirror(MIRROR)
    monkeypatch.setattr(release, "connect", lambda *_: machine)
    end = command("refresh", *CONFIRMED)
    assert end.code == 77, end
    assert f"The dump {FIT} is not sanitised" in end.stderr
    assert "databaseRecovery.sanitisedOnly lets no other in. Nothing was started." in end.stderr
    assert machine.started == []
    end = command("refresh", "--as-of", OLD, *CONFIRMED)
    assert end.code == 0, end
    assert dict(machine.started)[DATABASE]["DUMP"] == OLD
    assert dict(machine.started)[DATABASE]["SANITISED_ONLY"] == "true"


# ---- from the off-site store ----

REMOTE = "s3:backups/production"
OFF_SITE: dict[str, Any] = {
    "offsite": {"remote": REMOTE},
    "databaseRecovery": {"source": "offsite"},
    "mediaRecovery": {"source": "offsite"},
}
"""Nothing of a stack's own: both come from the store."""


def _store(dump: str, state: MediaState | None) -> list[str]:
    point = Point(dump, "daily", dump_name(dump, "gz"), 1, "verified", 25975, 1, "15.14", "production-stack")
    found = [(DUMP, asdict(point))] + ([(MEDIA_OF, asdict(state))] if state else [])
    return [f"{word}\t{json.dumps(members)}" for word, members in found]


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command) -> Callable[..., Machine]:
    """A release that recovers from the store, which the `command` is then for."""
    assert command

    def made(*lines: str, **values: Any) -> Machine:
        machine = Machine(tmp_path / "away", merge_values(OFF_SITE, values))
        machine.store = list(lines)
        monkeypatch.setattr(release, "connect", lambda *_: machine)
        return machine

    return made


def test_both_come_from_one_store(command: Command, away: Callable[..., Machine]) -> None:
    machine = away(*_store(FIT, MIRROR))
    end = command("refresh", *CONFIRMED, "-o", "json")
    assert end.code == 0, end
    assert [(job, one["SOURCE"], one["REMOTE"]) for job, one in machine.started] == [
        (MEDIA, "offsite", REMOTE),
        (DATABASE, "offsite", REMOTE),
    ]
    plan = json.loads(end.stdout)["plan"]
    assert (plan["dump"]["time"], plan["media"]["claim"], plan["media_as_of"]) == (FIT, REMOTE, MIRROR.since)


def test_a_dump_younger_than_the_copy_of_the_media_is_said(
    command: Command, away: Callable[..., Machine]
) -> None:
    away(*_store(LATE, MIRROR))
    assert f"older than the dump ({LATE})" in command("refresh", "--plan").said


@pytest.mark.parametrize(
    ("store", "values", "says"),
    [
        (_store(FIT, None), {}, "No complete copy of the media is recorded off-site"),
        (_store(FIT, MIRROR), {"mediaRecovery": {"folder": "1-Monday"}}, "mediaRecovery.folder is 1-Monday"),
        ([], {}, f"There is no verified dump in {REMOTE}."),
    ],
    ids=["no media", "of an older tool", "no dump"],
)
def test_half_a_pair_in_the_store_starts_nothing(
    command: Command, away: Callable[..., Machine], store: list[str], values: dict[str, Any], says: str
) -> None:
    machine = away(*store, **values)
    end = command("refresh", *CONFIRMED)
    assert end.code == 66, end
    assert says in end.stderr
    assert "Nothing was started." in end.stderr
    assert machine.started == []


def test_a_store_that_cannot_be_listed_starts_nothing(
    command: Command, away: Callable[..., Machine], machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the dump comes from a volume."""
    other = away(databaseRecovery={"source": "replica"})
    shutil.rmtree(other.volumes / "dumps")
    (machine.volumes / "dumps").rename(other.volumes / "dumps")
    down = (69, [Verdict("list", 69, "failed", "The store is down.", {}, 1).line()])
    own = Machine._listing
    monkeypatch.setattr(
        Machine,
        "_listing",
        lambda self, body, environment: (
            down if environment["WHAT"] == "store" else own(self, body, environment)
        ),
    )
    end = command("refresh", *CONFIRMED)
    assert end.code == 1, end
    assert f"{REMOTE}: It could not be listed" in end.stderr
    assert "The store is down. Nothing was started." in end.stderr
    assert other.started == []
