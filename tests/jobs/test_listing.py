"""The restore points of a volume, listed in a pod of the job that mounts it."""

from __future__ import annotations

import copy
import dataclasses
from datetime import timedelta
from typing import Any

import pytest

from stack_backup import points
from stack_backup.runs import JobResult
from stack_backup_jobs.formats import verdict_of
from stack_backup_jobs.listing import Point
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime.local import LocalStack
from tests.jobs.hourly import CLAIM, JOB, NAMESPACE, VALUES, Hourly


class Run:
    """Of a listing Job: what `points` asks of one on a cluster."""

    def __init__(self, result: JobResult) -> None:
        self.result = result

    def follow(self, line: Any, _: Any) -> JobResult:
        for text in self.result.log.splitlines():
            if not verdict_of(text):
                line(text)
        return self.result


def _listed(stack: LocalStack, **values: Any) -> tuple[list[Point], str]:
    objects = Objects(copy.deepcopy(list(render(merge_values(VALUES, values), namespace=NAMESPACE))))
    cronjob = objects.get("CronJob", JOB)
    ((_, volume, claim),) = points._claims({JOB: cronjob}, points.MOUNTS)
    assert claim == CLAIM
    cronjob["spec"]["jobTemplate"]["spec"] = points.listing_job(cronjob, volume)["spec"]
    stack.apply(objects)
    result = stack.run(JOB)
    # What the Job's controller would say.
    result = dataclasses.replace(result, reason="PodFailurePolicy" if result.exit_code else "")
    found, problem = points._read(Run(result))  # type: ignore[arg-type]
    return points._points(found), problem


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
