"""What a release is made of: exactly these objects, and for each stack that is shipped exactly this text.

After a change that is meant to show, `pytest tests/render --update-golden` writes the text anew; the diff
then belongs into the commit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART, Objects, load_values, merge_values, render
from tests.render import contract
from tests.render.rules import CRONJOB_NAME, LABEL_VALUE
from tests.render.stacks import SHIPPED, STACKS, to_yaml

GOLDEN = Path(__file__).parent / "golden"
# In the name of a replica's volume: another export, size or right to write is another volume. In that of a
# ConfigMap that pods mount: other programs are another one, so that no running pod gets some of them.
DIGEST = re.compile(r"(?:(?<=-replica-)|(?<=-programs-))[0-9a-f]{8}$")
# One stack of each file of values: another one differs in its namespace alone.
RECORDED = ["production", "staging"]
PROGRAMS = re.compile(r"stack-backup-programs-[0-9a-f]{8}")

ALWAYS = [
    "ConfigMap/stack-backup-programs--",
    "NetworkPolicy/stack-backup",
    "PersistentVolumeClaim/history",
    "Pod/doctor-history",
    "ServiceAccount/stack-backup",
]
BACKUP = [
    *ALWAYS,
    "CronJob/doctor",
    "Pod/doctor-database",
    "Pod/doctor-database-backup",
    "CronJob/postgres-backup-hourly",
    "NetworkPolicy/stack-backup-database",
    "PersistentVolumeClaim/database-backup",
]
# With - for the digest, and NAMESPACE for the stack's own.
REPLICAS = [
    "PersistentVolume/NAMESPACE-database-replica--",
    "PersistentVolume/NAMESPACE-media-replica--",
    "PersistentVolumeClaim/database-replica--",
    "PersistentVolumeClaim/media-replica--",
    "Pod/doctor-database-replica",
    "Pod/doctor-media",
    "Pod/doctor-media-replica",
]
PRODUCTION = [
    *BACKUP,
    *REPLICAS,
    "ConfigMap/stack-backup-sql",
    "CronJob/database-drill",
    "CronJob/database-recovery",
    "CronJob/media-recovery",
    "CronJob/media-replicator",
    "CronJob/postgres-backup-daily",
    "CronJob/postgres-backup-monthly",
    "CronJob/postgres-backup-weekly",
    "CronJob/postgres-replicator-backup",
]
CONSUMER = [
    *ALWAYS,
    *REPLICAS,
    "ConfigMap/stack-backup-sql",
    "CronJob/database-recovery",
    "CronJob/doctor",
    "CronJob/media-recovery",
    "CronJob/replica-check",
    "NetworkPolicy/stack-backup-database",
    "PersistentVolumeClaim/replica-check",
    "Pod/doctor-database",
    "Pod/doctor-replica-check",
]
INVENTORY: dict[str, list[str]] = {
    "production": PRODUCTION,
    "staging": CONSUMER,
    "developer": CONSUMER,
    "defaults": BACKUP,
    "ci/default": BACKUP,
    "ci/everything": [
        *PRODUCTION,
        "ConfigMap/stack-backup-dashboard",
        "CronJob/offsite",
        "CronJob/replica-check",
        "Deployment/stack-backup-exporter",
        "NetworkPolicy/stack-backup-exporter",
        "NetworkPolicy/stack-backup-notify",
        "NetworkPolicy/stack-backup-offsite",
        "PrometheusRule/stack-backup",
        "PersistentVolumeClaim/replica-check",
        "Pod/doctor-offsite",
        "Pod/doctor-replica-check",
        "PodMonitor/stack-backup",
    ],
}


def test_a_stack_holds_exactly_these_objects(stack: str, objects: Objects) -> None:
    assert stack in INVENTORY, f"write down in INVENTORY what {stack} holds: {objects.names()}"
    _, namespace = STACKS[stack]
    names = [DIGEST.sub("-", name).replace(f"/{namespace}-", "/NAMESPACE-") for name in objects.names()]
    assert sorted(names) == sorted(INVENTORY[stack])


def test_the_inventory_knows_no_stack_that_is_gone() -> None:
    assert set(INVENTORY) == set(STACKS)
    assert {"production", *contract.CONSUMERS} <= set(STACKS)


def test_every_stack_is_rendered_for_a_namespace_that_the_operators_have() -> None:
    for name, (_, namespace) in STACKS.items():
        assert contract.NAMESPACES.fullmatch(namespace), name


def test_every_stack_is_linted_in_its_own_namespace() -> None:
    """A recovery's confirmation and the names of volumes depend on it."""
    makefile, ct = ((PROJECT / name).read_text(encoding="utf-8") for name in ("Makefile", "ct.yaml"))
    assert {path.stem for path in (PROJECT / "values").iterdir()} == {file for file, _ in SHIPPED.values()}
    for file, namespace in SHIPPED.values():
        assert f"{namespace}=values/{file}.yaml" in makefile
        assert f"--namespace {namespace} --values values/{file}.yaml\n" in ct


@pytest.mark.parametrize("shipped", RECORDED)
def test_a_stack_renders_as_recorded(shipped: str, request: pytest.FixtureRequest) -> None:
    """Without the programs, which have tests of their own, and the chart's version."""
    values, namespace = STACKS[shipped]
    objects = render(values, namespace=namespace)
    _programs(objects)["data"] = "<files/**>"
    for _, pod in objects.pods():
        (volume,) = [one for one in pod["volumes"] if one["name"] == "programs"]
        volume["configMap"]["items"] = "<files/**>"
    version = load_values(CHART / "Chart.yaml")["version"]
    text = "---\n" + "---\n".join(to_yaml(item) for item in sorted(objects, key=lambda item: item["kind"]))
    text = text.replace(f"stack-backup-{version}", "stack-backup-<version>")
    text = PROGRAMS.sub("stack-backup-programs-<digest>", text)
    text = re.sub(rf"(app.kubernetes.io/version: ){re.escape(version)}\b", r"\1<version>", text)
    golden = GOLDEN / f"{SHIPPED[shipped][0]}.yaml"
    if request.config.getoption("--update-golden"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def test_no_golden_render_is_left_over() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {SHIPPED[stack][0] for stack in RECORDED}


def _programs(objects: Objects) -> dict[str, Any]:
    (found,) = [one for one in objects.of_kind("ConfigMap") if PROGRAMS.fullmatch(one["metadata"]["name"])]
    return found


def _files(chart: Path) -> dict[str, str]:
    """The programs by their paths; what Python has compiled is none."""
    root = chart / "files"
    found = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "__pycache__"]
    return {str(path.relative_to(root)): path.read_text(encoding="utf-8") for path in found}


def test_the_programs_are_the_files_of_the_chart(objects: Objects) -> None:
    programs, files = _programs(objects), _files(CHART)
    for _, pod in objects.pods():
        (volume,) = [one["configMap"] for one in pod["volumes"] if one["name"] == "programs"]
        assert volume["name"] == programs["metadata"]["name"]
        assert {one["path"]: programs["data"][one["key"]] for one in volume["items"]} == files
        assert len(volume["items"]) == len(programs["data"])
    assert sum(len(text.encode()) for text in files.values()) < 2**20, "a ConfigMap holds one MiB"


def test_programs_that_change_are_another_object(chart: Path) -> None:
    """A pod that runs goes on with what it has; files of another version never come beside its own."""
    before = _programs(render(chart=chart))["metadata"]["name"]
    (chart / "files" / "stack_backup_jobs" / "another.py").write_text("ANOTHER = 1\n", encoding="utf-8")
    programs = _programs(render(chart=chart))
    assert programs["data"]["stack_backup_jobs.another.py"] == "ANOTHER = 1\n"
    assert programs["metadata"]["name"] != before


def test_programs_that_a_run_has_still_to_mount_are_kept(chart: Path) -> None:
    """The templates' questions to the API server, answered by files: Helm asks it only when it installs."""

    def job(number: int, condition: str = "", status: str = "True") -> dict[str, Any]:
        volumes = [{"name": "tmp", "emptyDir": {}}]
        volumes += [{"name": "programs", "configMap": {"name": f"stack-backup-programs-0000000{number}"}}]
        conditions = [{"type": condition, "status": status}] if condition else None
        spec = {"template": {"spec": {"volumes": volumes}}}
        return {"spec": spec, "status": {"conditions": conditions} if conditions else {}}

    states = [("",), ("Failed",), ("Complete",), ("Suspended",), ("Failed", "False"), ("",), ("",)]
    jobs = [job(number, *state) for number, state in enumerate(states)]
    del jobs[5]["spec"]["template"]["spec"]["volumes"]
    (chart / "jobs").write_text(json.dumps({"items": jobs}))
    for number in range(6):  # one has none
        data = {"start.sh": f"echo {number}\n"}
        (chart / f"stack-backup-programs-0000000{number}").write_text(json.dumps({"data": data}))
    template = chart / "templates" / "programs.yaml"
    text = template.read_text().replace(
        'lookup "batch/v1" "Job" .Release.Namespace ""', '.Files.Get "jobs" | fromYaml'
    )
    asked = 'lookup "v1" "ConfigMap" $.Release.Namespace $name'
    assert asked in text
    template.write_text(text.replace(asked, "$.Files.Get $name | fromYaml"))
    objects = render(chart=chart)
    found = {one["metadata"]["name"]: one for one in objects.of_kind("ConfigMap")}
    kept = {name: one["data"] for name, one in found.items() if "-programs-0000000" in name}
    assert kept == {
        f"stack-backup-programs-0000000{number}": {"start.sh": f"echo {number}\n"} for number in (0, 3, 4)
    }
    assert len(found) == len(kept) + 1


LONGEST_RELEASE = "r" + 52 * "x"
LONGEST_NAMESPACE = "n" + 62 * "x"


def test_the_names_of_the_contract_do_not_depend_on_the_release() -> None:
    values, namespace = STACKS["production"]
    objects = render(values, namespace=namespace, release=LONGEST_RELEASE)
    assert objects.get("CronJob", contract.HOURLY)
    assert objects.get("PersistentVolumeClaim", contract.CLAIM)
    assert objects.names() == render(values, namespace=namespace).names()


def _replicas(**nfs: Any) -> set[str]:
    values, namespace = STACKS["staging"]
    changed = merge_values(values, {"volumes": {"databaseReplica": nfs}})
    return _volumes(render(changed, namespace=namespace))


def _volumes(objects: Objects) -> set[str]:
    """Volume and claim of the replica of the dumps."""
    return {name for name in objects.names() if re.match("Persistent.*database-replica", name)}


@pytest.mark.parametrize(
    "change",
    [
        {"nfs": {"server": "192.0.2.7"}},
        {"nfs": {"path": "/elsewhere"}},
        {"nfs": {"mountOptions": ["nfsvers=4.2"]}},
        {"size": "30Gi"},
    ],
    ids=str,
)
def test_another_export_is_another_volume_as_neither_can_be_changed(change: dict[str, Any]) -> None:
    """Neither a volume's source nor anything of a bound claim: the upgrade would fail."""
    assert len(_replicas()) == 2
    assert not _replicas() & _replicas(**change)


def test_a_consumer_that_becomes_the_producer_gets_a_volume_that_can_be_written() -> None:
    values, namespace = STACKS["staging"]
    producer = merge_values(
        values, {"postgresBackupHourly": {"enabled": True}, "postgresReplicatorBackup": {"enabled": True}}
    )
    assert not _volumes(render(producer, namespace=namespace)) & _replicas()


def test_the_longest_names_fit(stack: str) -> None:
    values, _ = STACKS[stack]
    objects = render(values, namespace=LONGEST_NAMESPACE, release=LONGEST_RELEASE)
    for name, item in zip(objects.names(), objects, strict=True):
        limit = CRONJOB_NAME if item["kind"] == "CronJob" else 253
        assert len(item["metadata"]["name"]) <= limit, name
        for key, value in item["metadata"]["labels"].items():
            assert len(value) <= LABEL_VALUE, f"{name}: label {key}"


CLUSTER_SCOPED = {"PersistentVolume", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PriorityClass"}


def test_two_stacks_share_no_object_of_the_whole_cluster(stack: str) -> None:
    """Objects outside namespaces carry the namespace in their name, even if only its end tells them apart."""
    values, _ = STACKS[stack]
    one, other = (render(values, namespace=LONGEST_NAMESPACE[:-1] + end) for end in "ab")
    shared = set(one.names()) & set(other.names())
    assert not {name for name in shared if name.partition("/")[0] in CLUSTER_SCOPED}
