"""Production's render, and that of the chart's defaults, is what the operators rely on."""

from __future__ import annotations

import re
from typing import Any

import pytest

from stack_backup.render import CHART, Objects, render
from tests.render import contract
from tests.render.rules import quantity
from tests.render.stacks import STACKS


@pytest.fixture(params=["production", "defaults"])
def installed(request: pytest.FixtureRequest) -> Objects:
    values, _ = STACKS[request.param]
    return render(values, namespace=contract.NAMESPACE)


@pytest.fixture
def cronjob(installed: Objects) -> dict[str, Any]:
    return installed.get("CronJob", contract.HOURLY)


@pytest.fixture
def pod(cronjob: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return found


@pytest.fixture
def environment(pod: dict[str, Any]) -> dict[str, str]:
    (container,) = pod["containers"]
    return {variable["name"]: variable.get("value", "") for variable in container["env"]}


def _volume_at(pod: dict[str, Any], path: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The volume mounted at `path` of the one container, and the mount."""
    (container,) = pod["containers"]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == path]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    return volume, mount


def test_the_hourly_backup_runs_every_hour_at_51_utc(cronjob: dict[str, Any]) -> None:
    assert cronjob["spec"]["schedule"] == contract.SCHEDULE
    assert cronjob["spec"]["timeZone"] == contract.TIME_ZONE
    assert cronjob["spec"]["suspend"] is False


def test_a_late_run_ends_before_the_next_is_due(cronjob: dict[str, Any]) -> None:
    spec = cronjob["spec"]
    assert spec["startingDeadlineSeconds"] + spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 3600


def test_the_next_hour_is_the_retry(cronjob: dict[str, Any]) -> None:
    assert cronjob["spec"]["jobTemplate"]["spec"]["backoffLimit"] == 1


def test_no_object_leaves_the_namespace_of_the_release(installed: Objects) -> None:
    assert {item["metadata"].get("namespace", contract.NAMESPACE) for item in installed} == {
        contract.NAMESPACE
    }


def test_dumps_lie_in_the_hourly_folder_of_the_volume(
    pod: dict[str, Any], environment: dict[str, str]
) -> None:
    volume, mount = _volume_at(pod, contract.MOUNT)
    assert volume["persistentVolumeClaim"]["claimName"] == contract.CLAIM
    assert not mount.get("readOnly")
    assert "subPath" not in mount
    assert environment["BACKUP_VOLUME"] == contract.MOUNT
    assert environment["BACKUP_FOLDER"] == contract.FOLDER


def test_the_last_24_are_kept_and_fit_on_the_volume(installed: Objects, environment: dict[str, str]) -> None:
    assert environment["KEEP"] == str(contract.KEEP)
    claim = installed.get("PersistentVolumeClaim", contract.CLAIM)
    size = quantity(claim["spec"]["resources"]["requests"]["storage"])
    # The newest is written before the oldest goes, and no run starts with less than 1.3 dumps free.
    assert size >= (contract.KEEP + 1.3) * contract.DUMP_GIB * 2**30


def test_the_database_is_reached_as_ever(environment: dict[str, str]) -> None:
    assert environment["PGHOST"] == contract.SERVICE
    assert environment["PGPORT"] == str(contract.PORT)
    assert environment["DATABASE_SUPERUSER"] == contract.SUPERUSER
    assert environment["DATABASE_NAME"] == contract.DATABASE


def test_the_password_is_a_file_of_the_secret(pod: dict[str, Any], environment: dict[str, str]) -> None:
    folder, _, name = environment["PASSWORD_FILE"].rpartition("/")
    volume, _ = _volume_at(pod, folder)
    secret = volume["secret"]
    assert secret["secretName"] == contract.SECRET
    assert [(item["key"], item["path"]) for item in secret["items"]] == [
        (contract.SECRET_KEYS["superuser"], name)
    ]
    # Without it a missing key would leave the pod waiting until its deadline instead of ending red at once.
    assert secret["optional"] is True


def test_the_program_dumps_with_the_agreed_command_into_the_agreed_name() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in sorted((CHART / "files").iterdir()))
    command, user, password = contract.COMMAND
    assert command in text
    assert password in text
    # The superuser is a value; its default is the contract's (see above).
    assert user.replace(contract.SUPERUSER, "") in text
    assert "-dumpall.sql" in text


def test_the_recovery_tool_in_use_takes_no_helper_file_for_a_dump(environment: dict[str, str]) -> None:
    assert environment["COMPRESSOR"] == "gzip", "it picks a .zst file as the latest, and fails on it"


def test_the_pattern_of_file_names_is_that_of_the_example() -> None:
    assert contract.FILE_NAME.fullmatch(contract.FILE_NAME_EXAMPLE)
    assert not contract.FILE_NAME.fullmatch(contract.FILE_NAME_EXAMPLE + ".partial")


def test_the_job_runs_its_own_program_from_the_chart(installed: Objects, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    shell, program = container["command"]
    assert shell == "/bin/bash"
    folder, _, name = program.rpartition("/")
    volume, _ = _volume_at(pod, folder)
    assert name == f"{contract.HOURLY}.sh"
    assert name in installed.get("ConfigMap", volume["configMap"]["name"])["data"]


def test_the_job_is_given_what_its_program_asks_for_and_nothing_else(environment: dict[str, str]) -> None:
    programs = "".join(path.read_text(encoding="utf-8") for path in (CHART / "files").glob("*.sh"))
    required = {
        name for line in re.findall(r"^ *require (.*)$", programs, re.MULTILINE) for name in line.split()
    }
    assert len(required) > 5
    assert required <= set(environment)
    # libpq, bash and mktemp read these by themselves.
    by_others = {"PGPORT", "PGHOST", "HOME", "TMPDIR", "LC_ALL"}
    unread = {name for name in environment if not re.search(rf"\b{name}\b", programs)}
    assert unread <= by_others


def test_the_job_knows_its_name_and_writes_its_verdict_where_kubernetes_reads_it(
    pod: dict[str, Any], environment: dict[str, str]
) -> None:
    (container,) = pod["containers"]
    assert environment["JOB"] == contract.HOURLY
    assert environment["TERMINATION_LOG"] == container.get("terminationMessagePath", "/dev/termination-log")
    downward = {
        variable["name"]: variable["valueFrom"]["fieldRef"]["fieldPath"]
        for variable in container["env"]
        if "valueFrom" in variable
    }
    assert downward == {"NAMESPACE": "metadata.namespace", "POD_NAME": "metadata.name"}


def test_what_the_program_writes_outside_the_volume_stays_in_memory(
    pod: dict[str, Any], environment: dict[str, str]
) -> None:
    volume, _ = _volume_at(pod, "/tmp")
    assert volume["emptyDir"]["medium"] == "Memory"
    assert environment["HOME"] == environment["TMPDIR"] == "/tmp"
