"""The release as Helm and the API server see it: contract, validation, upgrades, uninstall, ownership."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stack_backup_lab.paths import BIN
from stack_backup_lab.render import CHART, RELEASE, merge_values, render
from stack_backup_lab.runtime import StackError
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.runtime.kube import KubeError, Object
from stack_backup_lab.runtime.manifests import namespace_object
from tests.cluster.conftest import VALUES, await_success, dumps, release_objects
from tests.render import contract
from tests.render.stacks import STACKS


def _identity(stack: ClusterStack) -> dict[str, tuple[str, str, int | None]]:
    """What tells whether an object was written to: uid, resource version, generation."""
    return {
        name: (
            item["metadata"]["uid"],
            item["metadata"]["resourceVersion"],
            item["metadata"].get("generation"),
        )
        for name, item in release_objects(stack).items()
    }


def _cronjob(stack: ClusterStack) -> Object:
    found = stack.kube.get("CronJob", contract.HOURLY, stack.namespace)
    assert found is not None
    return found


def test_the_live_cronjob_is_what_the_operators_rely_on(stack: ClusterStack) -> None:
    stack.install(merge_values(VALUES, {"postgresBackupHourly": {"schedule": contract.SCHEDULE}}))
    spec = _cronjob(stack)["spec"]
    stack.install(VALUES)
    assert (spec["schedule"], spec["timeZone"]) == (contract.SCHEDULE, contract.TIME_ZONE)
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["suspend"] is False
    job = spec["jobTemplate"]["spec"]
    assert job["activeDeadlineSeconds"] > 0
    assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["Ignore", "FailJob"]
    (container,) = job["template"]["spec"]["containers"]
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    assert (environment["PGHOST"], environment["PGPORT"]) == (contract.SERVICE, str(contract.PORT))
    assert (environment["DATABASE_SUPERUSER"], environment["DATABASE_NAME"]) == (
        contract.SUPERUSER,
        contract.DATABASE,
    )


# The hourly job's own program, with every call of pg_dumpall written down.
_WATCHED = r"""
real=$(command -v pg_dumpall)
mkdir /tmp/bin
printf '#!/bin/sh\necho "pg_dumpall $*" >>/tmp/called\nexec %s "$@"\n' "$real" >/tmp/bin/pg_dumpall
chmod +x /tmp/bin/pg_dumpall
PATH=/tmp/bin:$PATH sh /programs/start.sh postgres-backup-hourly
code=$?
cat /tmp/called
exit $code
"""


def _watch(spec: Object) -> None:
    (container,) = spec["template"]["spec"]["containers"]
    container["command"] = ["/bin/sh", "-c", _WATCHED]


def test_a_live_run_dumps_with_the_contract_s_command(stack: ClusterStack) -> None:
    end = stack.ended(contract.HOURLY, stack.begin(contract.HOURLY, _watch))
    assert end.succeeded, end.log
    calls = [line.split() for line in end.log.splitlines() if line.startswith(f"{contract.COMMAND[0]} ")]
    (dumping,) = [call for call in calls if "--version" not in call]
    assert set(contract.COMMAND) <= set(dumping)


def test_the_release_is_all_that_was_rendered(stack: ClusterStack) -> None:
    """But for the pods of `helm test`, which are made when it is called."""
    rendered = render(VALUES, namespace=stack.namespace).names()
    assert sorted(release_objects(stack)) == sorted(name for name in rendered if not name.startswith("Pod/"))


@pytest.fixture(scope="module")
def empty(runtime: ClusterRuntime) -> Iterator[str]:
    """A namespace where nothing exists that a dry run could meet, but for the account that pods must have."""
    name = "stack-test-empty"
    if not runtime.kube.get("Namespace", name):
        runtime.kube.create(namespace_object(name))
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": RELEASE, "namespace": name}}
    if not runtime.kube.get("ServiceAccount", RELEASE, name):
        runtime.kube.create(account)
    yield name
    runtime.kube.delete("Namespace", name)


def _dry_run(runtime: ClusterRuntime, namespace: str, objects: list[Object]) -> list[str]:
    """Names of what the API server would have made; unknown fields and warnings are errors."""
    body = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}).encode()
    options = ("--dry-run=server", "--validate=strict", "--warnings-as-errors", "--output=name")
    return (
        runtime.kube.run("create", *options, "--filename=-", namespace=namespace, stdin=body).decode().split()
    )


@pytest.mark.parametrize("name", STACKS)
def test_the_api_server_takes_every_object_of_every_stack(
    runtime: ClusterRuntime, empty: str, name: str
) -> None:
    """What no schema tells: enums, cron strings, time zones, names, rules across fields, Pod Security."""
    objects = [
        copy.deepcopy(item)
        for item in render(STACKS[name][0], namespace=empty)
        if item["kind"] != "ServiceAccount"
    ]
    for item in objects:
        if item["kind"] == "Pod":
            item["spec"].pop("priorityClassName", None)  # which a pod cannot be made without
    assert len(_dry_run(runtime, empty, objects)) == len(objects) > 0


def _bad_zone(cronjob: Object) -> None:
    cronjob["spec"]["timeZone"] = "Etc/Nowhere"


def _unknown_field(cronjob: Object) -> None:
    cronjob["spec"]["retries"] = 1


def _root(cronjob: Object) -> None:
    cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False


@pytest.mark.parametrize(
    ("spoil", "says"),
    [(_bad_zone, "Etc/Nowhere"), (_unknown_field, "unknown field"), (_root, "would violate PodSecurity")],
)
def test_a_dry_run_finds_what_is_wrong(
    runtime: ClusterRuntime, empty: str, spoil: Callable[[Object], None], says: str
) -> None:
    cronjob = render(VALUES, namespace=empty).get("CronJob", contract.HOURLY)
    spoil(cronjob)
    with pytest.raises(KubeError, match=says):
        _dry_run(runtime, empty, [cronjob])


@pytest.fixture(params=["helm", "helm3"])
def upgraded(request: pytest.FixtureRequest, stack: ClusterStack) -> Iterator[ClusterStack]:
    """The stack with a release that this Helm made, on the volume that the other Helm's release has left."""
    if request.param == "helm":
        yield stack
        return
    stack.uninstall()
    stack.helm = BIN / request.param
    stack.install(VALUES)
    yield stack
    stack.uninstall()
    stack.helm = BIN / "helm"
    stack.install(VALUES)


def test_upgrading_three_times_changes_nothing(upgraded: ClusterStack) -> None:
    end = upgraded.run(contract.HOURLY)
    assert end.succeeded, end.log
    await_success(upgraded)
    objects, files = _identity(upgraded), dumps(upgraded)
    revision = upgraded.revision()
    for number in range(1, 4):
        upgraded.install(VALUES)
        assert upgraded.revision() == revision + number
        assert _identity(upgraded) == objects
    assert dumps(upgraded) == files != []


def _programs(stack: ClusterStack) -> set[str]:
    return {name for name in release_objects(stack) if name.startswith("ConfigMap/stack-backup-programs-")}


def _later(spec: Object) -> None:
    """As a run that waits to be tried again: its pod is still to come."""
    spec["suspend"] = True


def test_a_run_that_waits_keeps_the_programs_that_it_began_with(stack: ClusterStack, tmp_path: Path) -> None:
    """Upgrades leave them until it has ended."""
    chart, own = shutil.copytree(CHART, tmp_path / CHART.name), stack.chart
    (before,) = _programs(stack)
    name = stack.begin(contract.HOURLY, _later)
    stack.chart = chart
    try:
        for number in (1, 2):
            with (chart / "files/stack_backup_jobs/formats.py").open("a") as module:
                module.write(f"# changed {number}\n")
            stack.install(VALUES)
            assert before in _programs(stack)
            assert len(_programs(stack)) == 2
        stack.kube.patch("Job", name, stack.namespace, {"spec": {"suspend": False}})
        end = stack.ended(contract.HOURLY, name)
        assert end.succeeded, end.log
        stack.install(VALUES)
        assert len(_programs(stack)) == 1
    finally:
        stack.chart = own
        stack.install(VALUES)
    assert _programs(stack) == {before}


def test_a_second_release_in_the_namespace_is_refused(stack: ClusterStack) -> None:
    before = _identity(stack)
    with pytest.raises(StackError, match="invalid ownership metadata"):
        stack.install(VALUES, release="another")
    assert _identity(stack) == before
    assert RELEASE in stack.releases()
    assert "another" not in stack.releases()


def test_uninstall_keeps_the_claim_and_its_files_and_a_new_release_adopts_them(stack: ClusterStack) -> None:
    assert stack.run(contract.HOURLY).succeeded
    claim = stack.kube.get("PersistentVolumeClaim", contract.CLAIM, stack.namespace)
    files = dumps(stack)
    assert claim is not None
    assert files
    stack.uninstall()
    kept = {f"PersistentVolumeClaim/{name}" for name in (contract.CLAIM, contract.HISTORY)}
    assert release_objects(stack).keys() == kept
    assert dumps(stack) == files
    stack.install(VALUES)
    adopted = stack.kube.get("PersistentVolumeClaim", contract.CLAIM, stack.namespace)
    assert adopted is not None
    assert adopted["metadata"]["uid"] == claim["metadata"]["uid"]
    end = stack.run(contract.HOURLY)
    assert end.succeeded, end.log
    assert end.verdict["verified"] == len(files) + 1
