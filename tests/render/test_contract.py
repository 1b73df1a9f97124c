"""Each stack's render, and that of the chart's defaults, is what the operators rely on."""

from __future__ import annotations

import dataclasses
import importlib
import re
from typing import Any

import pytest
import yaml

from stack_backup_jobs import formats, media_offsite, run, sanitise, settings
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART, Objects, merge_values, render
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
    """A PersistentVolume has none."""
    assert {item["metadata"].get("namespace", contract.NAMESPACE) for item in installed} == {
        contract.NAMESPACE
    }
    assert {item["kind"] for item in installed if "namespace" not in item["metadata"]} <= {"PersistentVolume"}


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


def test_the_program_dumps_with_the_agreed_command() -> None:
    """By its source; that it does so, the tests of the job and of the cluster see."""
    text = (CHART / "files" / "stack_backup_jobs" / "hourly.py").read_text(encoding="utf-8")
    command, user, password = contract.COMMAND
    assert command in text
    assert password in text
    # The superuser is a value; its default is the contract's (see above).
    assert user.replace(contract.SUPERUSER, "") in text


def test_the_recovery_tool_in_use_takes_no_helper_file_for_a_dump(environment: dict[str, str]) -> None:
    assert environment["COMPRESSOR"] == "gzip", "it picks a .zst file as the latest, and fails on it"


def test_the_programs_give_the_agreed_name() -> None:
    assert formats.dump_name(contract.FILE_NAME_TIME, "gz") == contract.FILE_NAME_EXAMPLE
    assert formats.time_of(contract.FILE_NAME_EXAMPLE) == contract.FILE_NAME_TIME
    assert not formats.NAME.fullmatch(contract.FILE_NAME_EXAMPLE + ".partial")
    for name in (formats.MANIFESTS, formats.TEMPORARY):
        assert not name.startswith("backup"), "the recovery tool in use would take it for a dump"


def test_what_a_second_try_cannot_change_is_not_tried_again(production: Objects) -> None:
    listed = 0
    for cronjob in production.of_kind("CronJob"):
        rules = cronjob["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        for rule in rules:
            codes = rule.get("onExitCodes", {"operator": "NotIn"})
            if codes["operator"] == "In":
                assert (rule["action"], codes["values"]) == ("FailJob", sorted(formats.NOT_TRIED_AGAIN))
                listed += 1
    assert listed > 5


def test_the_job_runs_its_own_program_from_the_chart(installed: Objects, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    shell, start, job = container["command"]
    assert (shell, job) == ("/bin/sh", contract.HOURLY)
    folder, _, name = start.rpartition("/")
    volume, _ = _volume_at(pod, folder)
    files = {item["path"]: item["key"] for item in volume["configMap"]["items"]}
    held = installed.get("ConfigMap", volume["configMap"]["name"])["data"]
    module = f"stack_backup_jobs/{run.JOBS[job]}.py"
    for path in (name, "__main__.py", module):
        assert held[files[path]] == (CHART / "files" / path).read_text(encoding="utf-8")
    assert sorted(held) == sorted(files.values())


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
    assert downward == {
        "NAMESPACE": "metadata.namespace",
        "POD_NAME": "metadata.name",
        "JOB_NAME": "metadata.labels['batch.kubernetes.io/job-name']",
    }


def test_what_the_program_writes_outside_the_volume_stays_in_memory(
    pod: dict[str, Any], environment: dict[str, str]
) -> None:
    volume, _ = _volume_at(pod, "/tmp")
    assert volume["emptyDir"]["medium"] == "Memory"
    assert environment["HOME"] == environment["TMPDIR"] == "/tmp"


# -- every job of a stack ------------------------------------------------------------------------------------


def _job(objects: Objects, name: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """The CronJob's spec, its pod and its environment."""
    spec = objects.get("CronJob", name)["spec"]
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    return spec, pod, {variable["name"]: variable.get("value", "") for variable in container["env"]}


def _claim_at(pod: dict[str, Any], path: str) -> tuple[str, bool]:
    """The claim mounted at `path`, and whether it is read-only there."""
    volume, mount = _volume_at(pod, path)
    return volume["persistentVolumeClaim"]["claimName"], mount.get("readOnly", False)


def _export(objects: Objects, claim: str) -> tuple[str, str, bool]:
    """Server, path and whether it is read-only, of the NFS export behind a claim."""
    volume = objects.get(
        "PersistentVolume", objects.get("PersistentVolumeClaim", claim)["spec"]["volumeName"]
    )
    nfs = volume["spec"]["nfs"]
    return nfs["server"], nfs["path"], nfs.get("readOnly", False)


def test_production_runs_at_the_agreed_times(production: Objects) -> None:
    running = {item["metadata"]["name"]: item["spec"] for item in production.of_kind("CronJob")}
    by_itself = {name: spec["schedule"] for name, spec in running.items() if not spec["suspend"]}
    assert by_itself == contract.SCHEDULES
    assert {running[name]["timeZone"] for name in by_itself} == {contract.TIME_ZONE}
    assert running.keys() - by_itself.keys() == {
        *(contract.DATABASE_RECOVERY, contract.MEDIA_RECOVERY, contract.DOCTOR)
    }


@pytest.mark.parametrize("tier", contract.TIERS)
def test_a_tier_is_kept_beside_the_hourly_dumps(production: Objects, tier: str) -> None:
    _, pod, environment = _job(production, tier)
    folder, keep = contract.TIERS[tier]
    assert _claim_at(pod, contract.MOUNT) == (contract.CLAIM, False)
    assert environment["BACKUP_VOLUME"] == contract.MOUNT
    assert environment["SOURCE_FOLDER"] == contract.FOLDER
    assert (environment["TIER"], environment["KEEP"]) == (folder, str(keep))


def test_everything_that_production_keeps_fits_on_its_volume(production: Objects) -> None:
    kept = contract.KEEP + sum(keep for _, keep in contract.TIERS.values())
    claim = production.get("PersistentVolumeClaim", contract.CLAIM)
    size = quantity(claim["spec"]["resources"]["requests"]["storage"])
    assert size >= 1.3 * kept * contract.DUMP_GIB * 2**30


def test_the_newest_dump_is_written_to_the_export_of_the_replica(production: Objects) -> None:
    _, pod, environment = _job(production, contract.DATABASE_REPLICATOR)
    assert _claim_at(pod, environment["BACKUP_VOLUME"]) == (contract.CLAIM, True)
    assert environment["BACKUP_FOLDER"] == contract.FOLDER
    claim, read_only = _claim_at(pod, environment["REPLICA_VOLUME"])
    assert not read_only
    assert _export(production, claim) == (contract.NFS_SERVER, contract.DATABASE_EXPORT, False)
    assert environment["REPLICA_FOLDER"] == contract.REPLICA_FOLDER
    assert environment["KEEP"] == str(contract.REPLICA_KEEP)


def test_the_media_are_written_to_the_export_of_their_replica(production: Objects) -> None:
    _, pod, environment = _job(production, contract.MEDIA_REPLICATOR)
    assert _claim_at(pod, environment["MEDIA_VOLUME"]) == (contract.MEDIA_CLAIM, True)
    claim, read_only = _claim_at(pod, environment["MEDIA_REPLICA_VOLUME"])
    assert not read_only
    assert _export(production, claim) == (contract.NFS_SERVER, contract.MEDIA_EXPORT, False)
    size = production.get("PersistentVolumeClaim", claim)["spec"]["resources"]["requests"]["storage"]
    assert quantity(size) > contract.MEDIA_GIB * 2**30


def test_a_dead_export_stops_no_dump(production: Objects) -> None:
    """A pod whose NFS server does not answer never starts: what dumps mounts no export."""
    exports = {item["spec"]["claimRef"]["name"] for item in production.of_kind("PersistentVolume")}
    for job in (contract.HOURLY, *contract.TIERS):
        _, pod, _ = _job(production, job)
        claims = {volume.get("persistentVolumeClaim", {}).get("claimName") for volume in pod["volumes"]}
        assert not claims & exports, job


def test_production_is_recovered_from_its_own_volume(production: Objects) -> None:
    spec, pod, environment = _job(production, contract.DATABASE_RECOVERY)
    assert spec["suspend"] is True
    assert environment["CONFIRM"] == ""
    assert environment["ALLOW_SOURCE_SERVER"] == "true"
    assert _claim_at(pod, environment["SOURCE_VOLUME"]) == (contract.CLAIM, True)
    folders = [contract.FOLDER, *(folder for folder, _ in contract.TIERS.values())]
    assert environment["SOURCE_FOLDERS"].split() == folders


@pytest.fixture(params=contract.CONSUMERS)
def consumer(request: pytest.FixtureRequest) -> Objects:
    return render(STACKS[request.param][0], namespace=contract.CONSUMERS[request.param])


def test_a_consumer_backs_up_nothing_and_checks_the_replicas_every_hour(consumer: Objects) -> None:
    names = {item["metadata"]["name"] for item in consumer.of_kind("CronJob")}
    assert names == {
        *(contract.DATABASE_RECOVERY, contract.MEDIA_RECOVERY, contract.REPLICA_CHECK, contract.DOCTOR)
    }
    spec, pod, environment = _job(consumer, contract.REPLICA_CHECK)
    assert re.fullmatch(r"\d+ \* \* \* \*", spec["schedule"])
    assert spec["suspend"] is False
    for name in ("REPLICA_VOLUME", "MEDIA_REPLICA_VOLUME"):
        assert _claim_at(pod, environment[name])[1] is True


def test_a_consumer_recovers_its_database_from_the_export_that_it_cannot_write(consumer: Objects) -> None:
    spec, pod, environment = _job(consumer, contract.DATABASE_RECOVERY)
    assert spec["suspend"] is True
    assert (environment["CONFIRM"], environment["ALLOW_SOURCE_SERVER"]) == ("", "false")
    claim, read_only = _claim_at(pod, environment["SOURCE_VOLUME"])
    assert read_only
    assert _export(consumer, claim) == (contract.NFS_SERVER, contract.DATABASE_EXPORT, True)
    assert environment["SOURCE_FOLDERS"] == contract.REPLICA_FOLDER


def test_a_consumer_recovers_its_media_from_the_export_that_it_cannot_write(consumer: Objects) -> None:
    spec, pod, environment = _job(consumer, contract.MEDIA_RECOVERY)
    assert spec["suspend"] is True
    assert (environment["CONFIRM"], environment["DELETE"]) == ("", "false")
    assert _claim_at(pod, environment["MEDIA_VOLUME"]) == (contract.MEDIA_CLAIM, False)
    claim, read_only = _claim_at(pod, environment["MEDIA_REPLICA_VOLUME"])
    assert read_only
    assert _export(consumer, claim) == (contract.NFS_SERVER, contract.MEDIA_EXPORT, True)


def test_a_developer_adds_five_lines_for_an_image_of_their_own_and_a_nightly_reload() -> None:
    own = """\
database:
  image: {repository: registry.example.org/database, tag: "17"}
databaseRecovery:
  schedule: 30 5 * * *
  confirm: stack-alice-default
"""
    assert len(own.splitlines()) <= 5
    values, namespace = STACKS["developer"]
    objects = render(merge_values(values, yaml.safe_load(own)), namespace=namespace)
    spec, pod, _ = _job(objects, contract.DATABASE_RECOVERY)
    assert (spec["schedule"], spec["suspend"]) == ("30 5 * * *", False)
    assert pod["containers"][0]["image"] == "registry.example.org/database:17"


def test_a_recovery_uses_the_passwords_of_its_own_stack(objects: Objects) -> None:
    for job in objects.of_kind("CronJob"):
        if job["metadata"]["name"] != contract.DATABASE_RECOVERY:
            continue
        _, pod, environment = _job(objects, contract.DATABASE_RECOVERY)
        for variable, key in (("PASSWORD_FILE", "superuser"), ("OWNER_PASSWORD_FILE", "owner")):
            folder, _, name = environment[variable].rpartition("/")
            volume, _ = _volume_at(pod, folder)
            assert volume["secret"]["secretName"] == contract.SECRET
            assert {"key": contract.SECRET_KEYS[key], "path": name} in volume["secret"]["items"]


# -- the environment, between a template and its program -----------------------------------------------------

GENERAL = {
    *("JOB", "NAMESPACE", "POD_NAME", "JOB_NAME", "DEADLINE_SECONDS", "TERMINATION_LOG", "PYTHON"),
    *("HOME", "TMPDIR", "HISTORY", "HISTORY_KEEP", "PGHOST", "PGPORT"),
    *("NOTIFY_PING", "NOTIFY_WEBHOOK", "NOTIFY_CA"),
}
"""What every pod is given, or the clients of PostgreSQL read by themselves."""
EVERY_JOB = [
    *contract.SCHEDULES,
    contract.DATABASE_RECOVERY,
    contract.MEDIA_RECOVERY,
    contract.REPLICA_CHECK,
    contract.OFFSITE,
    contract.DOCTOR,
]


@pytest.fixture
def everything() -> Objects:
    values, namespace = STACKS["ci/everything"]
    return render(values, namespace=namespace)


def test_every_job_is_known_here(everything: Objects) -> None:
    assert sorted(item["metadata"]["name"] for item in everything.of_kind("CronJob")) == sorted(EVERY_JOB)


def test_every_program_has_a_job_and_every_job_a_program(everything: Objects) -> None:
    called = {tuple(_job(everything, job)[1]["containers"][0]["command"]) for job in EVERY_JOB}
    assert {command[:2] for command in called} == {("/bin/sh", "/programs/start.sh")}
    assert {command[2] for command in called} == run.JOBS.keys() - run.OF_NO_JOB


def _drawn() -> dict[str, set[tuple[str, bool]]]:
    """What docs/architecture.md says each job mounts: paths of claims, and whether the job writes there. All
    of them mount the history.
    """
    text = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## Which CronJob mounts which volume")[2].partition("\n## ")[0]
    drawn = {}
    for row in re.findall(r"(?m)^\| (`.*) \|$", table):
        first, *cells = row.split(" | ")
        name, *others = re.findall(r"`([^`]+)`", first)
        mounts = {(path, way == "rw") for way, path in re.findall(r"(r[ow]) `([^`]+)`", " ".join(cells))}
        for job in (name, *(name.rpartition("-")[0] + other for other in others)):
            drawn[job] = mounts | {("/volumes/history" if job == "doctor" else "/history", True)}
    return drawn


def test_each_job_mounts_what_the_architecture_says(everything: Objects) -> None:
    mounted = {}
    for job in EVERY_JOB:
        _, pod, _ = _job(everything, job)
        claims = {one["name"] for one in pod["volumes"] if "persistentVolumeClaim" in one}
        mounts = pod["containers"][0]["volumeMounts"]
        mounted[job] = {
            (one["mountPath"], not one.get("readOnly", False)) for one in mounts if one["name"] in claims
        }
    assert mounted == _drawn()


@pytest.mark.parametrize("job", EVERY_JOB)
def test_a_job_is_given_what_its_program_asks_for_and_nothing_else(
    everything: Objects, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, pod, environment = _job(everything, job)
    program = importlib.import_module(f"stack_backup_jobs.{run.JOBS[pod['containers'][0]['command'][-1]]}")
    asked = {field.name.upper() for field in dataclasses.fields(program.Settings)}
    assert len(asked) > 5
    if job == contract.MEDIA_RECOVERY:  # from the store it is another program
        asked |= {field.name.upper() for field in dataclasses.fields(media_offsite.Settings)}
    if job == "postgres-replicator-backup":  # what is sanitised is another's work
        asked |= {field.name.upper() for field in dataclasses.fields(sanitise.Settings)}
    for name in asked:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, "given" if name in ("NAMESPACE", "POD_NAME", "JOB_NAME") else value)
    settings.load(program.Settings)
    further = {variable["name"] for variable in STACKS["ci/everything"][0]["jobDefaults"]["extraEnv"]}
    assert environment.keys() - asked - further <= GENERAL
