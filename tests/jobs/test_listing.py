"""The restore points of a volume, listed in a pod of the job that mounts it."""

from __future__ import annotations

import copy
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from stack_backup import points
from stack_backup.runs import JobResult
from stack_backup_jobs.formats import Record, verdict_of
from stack_backup_jobs.listing import DUMP, HISTORY, Point, unpacked
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime.local import LocalStack
from tests.jobs.hourly import CLAIM, JOB, NAMESPACE, VALUES, Hourly


class Run:
    """Of a listing Job: what `points` asks of one on a cluster."""

    def __init__(self, result: JobResult) -> None:
        self.result = result

    def follow(self, line: Any, *_: Any) -> JobResult:
        for text in self.result.log.splitlines():
            if not verdict_of(text):
                line(text)
        return self.result


def _listed(stack: LocalStack, **values: Any) -> tuple[list[Point], str]:
    found, problem = _found(stack, DUMP, CLAIM, **values)
    return points._points(found), problem


def _remembered(stack: LocalStack) -> list[Record]:
    found, problem = _found(stack, HISTORY, "history")
    assert problem == ""
    return list(unpacked(found))


def _found(stack: LocalStack, what: str, claim: str, **values: Any) -> tuple[list[Any], str]:
    objects = Objects(copy.deepcopy(list(render(merge_values(VALUES, values), namespace=NAMESPACE))))
    cronjob = objects.get("CronJob", JOB)
    ((_, volume, found_claim),) = points._claims({JOB: cronjob}, [(JOB, claim)])
    assert found_claim == claim
    cronjob["spec"]["jobTemplate"]["spec"] = points.listing_job(cronjob, volume, what)["spec"]
    stack.apply(objects)
    result = stack.run(JOB)
    # What the Job's controller would say.
    result = dataclasses.replace(result, reason="PodFailurePolicy" if result.exit_code else "")
    return points._read(Run(result), lambda _: None)  # type: ignore[arg-type]


def test_the_pod_of_a_job_lists_its_volume_and_changes_nothing(hourly: Hourly, history: list[str]) -> None:
    odd = hourly.plant(timedelta(hours=9), verified=False)
    with hourly.unharmed():
        found, problem = _listed(hourly.stack)
    assert problem == ""
    assert [(one.dump, one.state) for one in found] == [
        *((name, "verified") for name in reversed(history)),
        (odd, "unverified"),
    ]
    rows = hourly.manifest(history[0])["table"]
    assert found[0].rows == sum(int(row) for *_, row in rows)
    assert found[0].tables == len(rows)


@pytest.mark.usefixtures("history")
def test_a_pod_without_an_interpreter_says_which_value_names_one(hourly: Hourly) -> None:
    found, problem = _listed(hourly.stack, python={"image": {"repository": ""}})
    assert found == []
    assert "It could not be listed" in problem
    assert "python.image.repository" in problem


def test_the_history_is_every_run_s_own_verdict_and_the_listing_leaves_none(hourly: Hourly) -> None:
    volume = hourly.stack.volume("history")
    volume.clear()
    verdicts = [dict(hourly.run().verdict), dict(hourly.run(environment={"COMPRESSOR": "none"}).verdict)]
    hourly.run()  # and a file that is none
    volume.write(f"{JOB}/2026-11-25T11:51:40Z.pod.json", b'{"format": 1, "verdict"')
    before = volume.list(JOB)
    records = _remembered(hourly.stack)
    assert [dict(record.verdict) for record in records[:2]] == verdicts
    assert [record.verdict["exit"] for record in records] == [0, 64, 0]
    assert volume.list(JOB) == before
    assert volume.list() == [JOB]
