"""Every job, told to stop and killed at each of its points: what was there before is there after, nothing is
published that is not whole, and the next run does the work.

Points, worlds and what is special to a job are in its own file; here is what must hold of all.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import pytest

from stack_backup_jobs import run
from tests.jobs import (
    faults,
    test_doctor,
    test_drill,
    test_hourly_failures,
    test_media_recovery,
    test_media_replicator,
    test_offsite,
    test_recovery,
    test_replica_check,
    test_replicator,
    test_tiers,
)
from tests.jobs.hourly import Hourly
from tests.outcomes import green, red

# The worlds' fixtures, which pytest finds by their names.
drill, daily, replica = test_drill.drill, test_tiers.daily, test_replicator.replica
staging, check = test_replica_check.staging, test_replica_check.check
world, old = test_recovery.world, test_recovery.old

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
Kept = Callable[[Any, bool], AbstractContextManager[None]]


@contextmanager
def of_hourly(hourly: Hourly, told: bool) -> Iterator[None]:
    hourly.plant_verified(3)
    before, dumps = hourly.files(), hourly.dumps()
    yield
    after = hourly.files()
    assert {name: after.get(name) for name in before} == before
    assert hourly.dumps() == dumps
    assert not told or len(after) == len(before)


@contextmanager
def of_copies(copies: test_replicator.Replica | test_tiers.Tier, told: bool) -> Iterator[None]:
    """A manifest that has its final name stays: another run may count on it."""
    new = copies.hourly.plant(test_tiers.HOUR)
    old = copies.folder.plant_at(test_tiers.NOON)
    before = copies.folder.files()
    with copies.hourly.unharmed():
        yield
    after = copies.folder.files()
    assert {name: after.get(name) for name in before} == before
    assert copies.folder.dumps() == [old]
    if told:
        assert set(copies.folder.others()) <= {f"{new}.tsv"}
    else:
        green(copies.run())
        assert copies.folder.verified() == [old, new]


@contextmanager
def of_check(check: test_replica_check.Check, told: bool) -> Iterator[None]:
    with check.dumps.unharmed():
        yield
    if told:
        assert [name for name in check.state.list() if name.startswith(".tmp.")] == []
    else:
        check.sound()


@contextmanager
def of_recovery(old: test_recovery.World, told: bool) -> Iterator[None]:
    before = test_recovery._state(old.staging)
    yield
    if told:
        assert test_recovery._state(old.staging) == before
        return
    assert test_recovery._state(old.staging)[1] == before[1]
    former = test_recovery.recovered(old).verdict["former"]
    assert old.differences(old.staging) == []
    left = [name for name in test_recovery._databases(old.staging) if name.startswith("frag")]
    assert sorted(left) == ["frag", former]


@contextmanager
def of_drill(drill: test_drill.Drill, told: bool) -> Iterator[None]:  # noqa: ARG001 (all is in the pod)
    drill.plant()
    with drill.hourly.unharmed():
        yield


class Job(NamedTuple):
    """Of one job: its world's fixture, where it can be held, what no end may change, and what the verdict
    of a run that is told to stop says.
    """

    fixture: str
    points: Mapping[str, Mapping[str, Any]]
    kept: Kept
    untouched: str
    threads: bool = False
    """Whether a thread may be held: it is let go on when the run has heard."""
    log: str = ""


def python(points: Mapping[str, str], more: str = "") -> dict[str, dict[str, str]]:
    return {name: {"python": text + more} for name, text in points.items()}


LEFT = faults.patch_python(
    "stack_backup_jobs.run",
    """
real = Supervisor._verdict
def looking(self, *arguments):
    import pathlib
    left = [path.name for path in pathlib.Path("/scratch").iterdir()]
    there = [path.read_text().strip() for path in pathlib.Path("/proc").glob("[0-9]*/comm")]
    say(f"LEFT {len(left)} and {there.count('postgres') + there.count('initdb')}")
    return real(self, *arguments)
Supervisor._verdict = looking
""",
)
"""The last that the supervisor does says what is left in the pod."""

JOBS: dict[str, Job] = {
    "postgres-backup-hourly": Job(
        "hourly", test_hourly_failures.POINTS, of_hourly, test_hourly_failures.UNTOUCHED
    ),
    "postgres-backup-tier": Job("daily", python(test_tiers.POINTS), of_copies, test_tiers.UNTOUCHED),
    "postgres-replicator-backup": Job(
        "replica", python(test_replicator.POINTS), of_copies, test_replicator.UNTOUCHED
    ),
    "replica-check": Job("check", python(test_replica_check.POINTS), of_check, ""),
    "database-recovery": Job(
        "old", python(test_recovery.POINTS), of_recovery, "The live database is as it was", threads=True
    ),
    "database-drill": Job(
        "drill",
        python(test_drill.POINTS, LEFT),
        of_drill,
        test_drill.UNTOUCHED,
        threads=True,
        log="LEFT 0 and 0\n",
    ),
}
ELSEWHERE: dict[str, Callable[..., None]] = {
    "media-replicator": (
        test_media_replicator.test_a_run_that_is_killed_leaves_nothing_partial_and_the_next_goes_on
    ),
    "media-recovery": test_media_recovery.test_a_run_that_is_killed_goes_on,
    "offsite": test_offsite.test_told_to_stop_amid_an_upload,
    "doctor": test_doctor.test_told_to_stop_while_it_writes,
}
"""Jobs without a table of points: they are ended amid a file or a transfer, in their own file."""


def table() -> Iterator[Any]:
    """At each point, KILL and one of the signals that tell a run to stop, in turn."""
    for job, case in JOBS.items():
        for number, point in enumerate(case.points):
            for ended in (STOPS[number % len(STOPS)], signal.SIGKILL):
                yield pytest.param(job, point, ended, id=f"{job}, {point}, {ended.name}")


def test_no_job_is_left_out() -> None:
    assert sorted([*JOBS, *ELSEWHERE]) == sorted(run.JOBS.keys() - run.OF_NO_JOB)


@pytest.mark.parametrize(("job", "point", "number"), list(table()))
def test_ended_from_outside(
    request: pytest.FixtureRequest, job: str, point: str, number: signal.Signals
) -> None:
    case, told = JOBS[job], number != signal.SIGKILL
    world, held = request.getfixturevalue(case.fixture), dict(case.points[point])
    if case.threads and told:
        held["python"] += faults.HEARD
    with case.kept(world, told):
        with world.start(**held) as running:
            running.reached("reached")
            running.signal(number)
            if case.threads and told:
                running.reached("heard")
                running.release("go")
            result = running.wait()
        assert result.exit_code == (143 if told else 137), result.log
        if told:
            red(result, 143, "told to stop", case.untouched)
            assert case.log in result.log
