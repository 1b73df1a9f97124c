"""A run that is followed over a bad connection, without a cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from stack_backup import CliError, Exit, follow
from stack_backup.follow import Run
from stack_backup.runs import Object
from stack_backup.waiting import Blocker, View

LINES = ["one", "two", "three", '{"job":"j","exit":0,"outcome":"published","message":"It is done."}']
AWAY = CliError(Exit.UNREACHABLE, "The cluster does not answer.")


class Release:
    """A Job of one pod that prints LINES; what it is asked at the `away` numbered turns gets no answer."""

    namespace = "production-stack"

    def __init__(self, away: set[int], *, cut: int = len(LINES), code: int = 0) -> None:
        self._away, self._cut, self._code = away, cut, code
        self._asked = 0

    def _answer(self) -> None:
        self._asked += 1
        if self._asked in self._away:
            raise AWAY

    @property
    def _over(self) -> bool:
        return self._asked > 8

    def get(self, kind: str, name: str) -> Object | None:
        self._answer()
        kind = "Failed" if self._code else "Complete"
        condition = {
            "type": kind,
            "status": "True",
            "lastTransitionTime": "2026-11-25T12:00:09Z",
            "reason": "R",
        }
        status = {"startTime": "2026-11-25T12:00:00Z", "conditions": [condition] if self._over else []}
        return {"metadata": {"name": name, "creationTimestamp": "2026-11-25T12:00:00Z"}, "status": status}

    def find(self, kind: str, labels: str | None = None) -> list[Object]:  # noqa: ARG002
        self._answer()
        ended = {"terminated": {"exitCode": self._code, "message": LINES[-1] if not self._code else ""}}
        container = {"name": "c", "containerID": "i", "state": ended if self._over else {"running": {}}}
        labels_of = {"batch.kubernetes.io/job-name": "j-1"}
        metadata = {"name": "p", "creationTimestamp": "2026-11-25T12:00:00Z", "labels": labels_of}
        status = {"phase": "Running", "containerStatuses": [container]}
        return [{"metadata": metadata, "status": status}]

    def view(self) -> View:
        self._answer()
        return View(None, None)

    def log(self, pod: str, container: str, *, follow: bool = False) -> Iterator[str]:  # noqa: ARG002
        self._answer()
        yield from LINES if not follow else LINES[: self._cut]
        if follow:
            raise AWAY


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "POLL", 0)


def _follow(release: Release) -> tuple[list[str], list[str], int, str]:
    """Lines and states that were shown, exit code and sentence."""
    lines: list[str] = []
    states: list[str] = []
    run = Run(release, "j", "j-1")  # type: ignore[arg-type]
    end = run.follow(lines.append, states.append)
    return lines, states, follow.exit_code(end), follow.message(end, run.pods)


@pytest.mark.parametrize("cut", range(4))
def test_a_log_that_breaks_off_is_taken_up_where_it_was(cut: int) -> None:
    lines, _, code, sentence = _follow(Release(set(), cut=cut))
    assert lines == LINES[:-1]
    assert (code, sentence) == (0, json.loads(LINES[-1])["message"])


@pytest.mark.parametrize("turn", range(1, 9))
def test_a_cluster_that_is_away_for_a_moment_is_asked_again(turn: int) -> None:
    lines, states, code, _ = _follow(Release({turn}))
    assert (lines, code) == (LINES[:-1], 0)
    assert "the cluster does not answer; trying again" in states


def test_a_cluster_that_stays_away_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE", 0)
    with pytest.raises(CliError) as caught:
        _follow(Release(set(range(2, 99))))
    assert caught.value.code == Exit.UNREACHABLE


def test_a_log_that_is_quiet_for_long_is_no_cluster_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PATIENCE", -1)
    with pytest.raises(CliError):
        _follow(Release({2}))
    monkeypatch.setattr(follow, "PATIENCE", 0)
    assert _follow(Release(set(), cut=1))[0] == LINES[:-1]


def test_a_job_that_failed_without_a_verdict_ends_with_its_program_s_code() -> None:
    _, _, code, sentence = _follow(Release(set(), code=137))
    assert code == 137
    assert sentence == "The Job failed: its program ended with 137 and left no verdict. Read its log."


class Unserved(Release):
    """Its Job has a pod that finds no node."""

    def get(self, kind: str, name: str) -> Object | None:
        job = super().get(kind, name)
        return job and job | {"status": {}, "spec": {}}

    def find(self, kind: str, labels: str | None = None) -> list[Object]:
        (pod,) = super().find(kind, labels)
        said = {"reason": "Unschedulable", "message": "0/1 nodes are available: 1 Insufficient cpu."}
        conditions = [{"type": "PodScheduled", "status": "False"} | said]
        return [pod | {"spec": {}, "status": {"phase": "Pending", "conditions": conditions}}]


def test_what_keeps_a_run_from_starting_is_told_once_and_waited_for_as_long_as_is_wished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(follow, "GRACE", 0)
    run = Run(Unserved(set()), "j", "j-1", give_up=0.05)  # type: ignore[arg-type]
    states: list[str] = []
    told: list[Blocker] = []
    end = run.follow(lambda _: None, states.append, told.append)
    assert [one.message for one in told] == ["0/1 nodes are available: 1 Insufficient cpu."]
    assert states[-1] == "waits for Pod p (Unschedulable)"
    sentence = follow.message(end, run.pods, run.blockers)
    assert sentence.startswith("The Job failed (NotStarted): it could not start. Pod p (Unschedulable): 0/1")


class Served(Unserved):
    """The same for a moment, until it runs and ends."""

    def get(self, kind: str, name: str) -> Object | None:
        return Release.get(self, kind, name) if self._over else super().get(kind, name)

    def find(self, kind: str, labels: str | None = None) -> list[Object]:
        return Release.find(self, kind, labels) if self._over else super().find(kind, labels)


@pytest.mark.parametrize(("grace", "times"), [(0, 1), (100, 0)])
def test_what_comes_by_itself_is_not_worth_a_word_at_once(
    monkeypatch: pytest.MonkeyPatch, grace: float, times: int
) -> None:
    monkeypatch.setattr(follow, "GRACE", grace)
    told: list[Blocker] = []
    run = Run(Served(set()), "j", "j-1")  # type: ignore[arg-type]
    end = run.follow(lambda _: None, lambda _: None, told.append)
    assert (len(told), follow.exit_code(end), run.blockers) == (times, 0, [])


@pytest.mark.parametrize("passing", [True, False])
def test_what_passes_by_itself_is_waited_for_to_the_deadline(passing: bool) -> None:
    blocker = Blocker("Pod p", "Pulling", "Pulling image.", "A node pulls an image once.", passing=passing)
    run = Run(Release(set()), "j", "j-1", give_up=0, blockers=[blocker])  # type: ignore[arg-type]
    run._since[(blocker.object, blocker.remedy)] = 0
    assert run._stuck() is not passing
