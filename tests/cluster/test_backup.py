"""Production's hourly backup on a cluster, started by its controller and by hand, restored and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import MANIFESTS, NAME, dump_name, manifest_name, time_of
from stack_backup_lab.runtime.cluster import ClusterStack
from stack_backup_lab.story.engine import Evidence, tell
from stack_backup_lab.story.hourly_story import HourlyStory
from tests.cluster.conftest import AWAY, await_success, dumps
from tests.render import contract


class Story(HourlyStory):
    """The shared story, and how each of its steps ended."""

    evidence: list[Evidence]


@pytest.fixture(scope="module")
def story(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Story:
    story = Story(stack, tmp_path_factory.mktemp("dumps"), molecules=1000, values=AWAY)
    story.evidence = list(tell(story.steps()))
    return story


@pytest.fixture(params=[0, 1], ids=["scheduled", "manual"])
def run(request: pytest.FixtureRequest, story: Story) -> JobResult:
    number: int = request.param
    return story.rounds[number].job


def test_the_story_comes_out(story: Story) -> None:
    for step in story.evidence:
        assert step.ok, f"{step.title}: {step.seen}"
    assert len(story.rounds) == 2
    for one in story.rounds:
        assert one.differences == 0
        assert one.rows_compared >= one.job.verdict["rows"] > 1000


def test_the_run_is_green_and_says_what_it_did(run: JobResult) -> None:
    assert run.succeeded, run.log
    assert run.reason == ""
    assert run.verdict["outcome"] == "published"
    assert run.verdict["job"] == contract.HOURLY
    assert run.verdict["dump"] == dump_name(time_of(run.verdict["dump"]), "gz")
    assert run.verdict["removed"] == 0


def test_the_verdict_is_the_last_line_of_the_log(run: JobResult) -> None:
    assert json.loads(run.log.splitlines()[-1]) == run.verdict


def test_a_manual_run_counts_as_its_cronjob_s_success(stack: ClusterStack, story: Story) -> None:
    assert story.rounds[1].job.succeeded
    cronjob = stack.kube.get("CronJob", contract.HOURLY, stack.namespace)
    assert cronjob is not None
    manual = [job for job in stack.kube.find("Job", stack.namespace) if _is_manual(job)]
    owners = {owner["uid"] for job in manual for owner in job["metadata"]["ownerReferences"]}
    assert owners == {cronjob["metadata"]["uid"]}
    await_success(stack)


def _is_manual(job: Mapping[str, Any]) -> bool:
    annotations: Mapping[str, str] = job["metadata"].get("annotations", {})
    return annotations.get("cronjob.kubernetes.io/instantiate") == "manual"


def test_the_volume_holds_whole_dumps_and_their_manifests_alone(stack: ClusterStack, story: Story) -> None:
    volume, names = stack.volume(contract.CLAIM), dumps(stack)
    assert [name for name in volume.list() if name != "lost+found"] == [contract.FOLDER]
    assert all(NAME.fullmatch(name) for name in names), names
    assert {one.dump for one in story.rounds} <= set(names)
    assert volume.list(f"{contract.FOLDER}/{MANIFESTS}") == list(map(manifest_name, names))
    assert story.rounds[1].job.verdict["verified"] == len(names)


def test_the_manifest_says_which_stack_the_dump_is_of(stack: ClusterStack, story: Story) -> None:
    for one in story.rounds:
        assert one.manifest is not None
        assert one.manifest.get("namespace") == stack.namespace
        assert one.manifest.get("job") == contract.HOURLY
        assert one.manifest.get("started") == time_of(one.dump)


def test_the_job_s_pods_mount_the_contract_s_claim_and_the_history(stack: ClusterStack, story: Story) -> None:
    assert story.rounds
    pods = stack.kube.find("Pod", stack.namespace, labels="batch.kubernetes.io/job-name")
    assert len(pods) >= len(story.rounds)
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod["spec"]["volumes"]
            if "persistentVolumeClaim" in volume
        }
        assert claims == {mounts[contract.MOUNT]: contract.CLAIM, mounts["/history"]: contract.HISTORY}
