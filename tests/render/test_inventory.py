"""What a release is made of: exactly these objects, and for production exactly this text.

After a change that is meant to show, `pytest tests/render --update-golden` writes the text anew; the diff
then belongs into the commit.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stack_backup.render import CHART, Objects, load_values, render
from tests.render import contract
from tests.render.rules import CRONJOB_NAME, LABEL_VALUE
from tests.render.stacks import STACKS, to_yaml

GOLDEN = Path(__file__).parent / "golden" / "production.yaml"
PROGRAMS = "stack-backup-programs"

BACKUP = [
    "ConfigMap/stack-backup-programs",
    "CronJob/postgres-backup-hourly",
    "NetworkPolicy/stack-backup",
    "PersistentVolumeClaim/database-backup",
    "ServiceAccount/stack-backup",
]
INVENTORY: dict[str, list[str]] = {
    "production": BACKUP,
    "defaults": BACKUP,
    "ci/default": BACKUP,
    "ci/everything": BACKUP,
}


def test_a_stack_holds_exactly_these_objects(stack: str, objects: Objects) -> None:
    assert stack in INVENTORY, f"write down in INVENTORY what {stack} holds: {objects.names()}"
    assert sorted(objects.names()) == sorted(INVENTORY[stack])


def test_the_inventory_knows_no_stack_that_is_gone() -> None:
    assert set(INVENTORY) == set(STACKS)
    assert "production" in STACKS


def test_every_stack_is_rendered_for_a_namespace_that_the_operators_have() -> None:
    for name, (_, namespace) in STACKS.items():
        assert contract.NAMESPACES.fullmatch(namespace), name


def test_production_renders_as_recorded(production: Objects, request: pytest.FixtureRequest) -> None:
    """Without the text of the programs, which have tests of their own, and the chart's version."""
    programs = production.get("ConfigMap", PROGRAMS)["data"]
    for name in programs:
        programs[name] = f"<files/{name}>\n"
    version = load_values(CHART / "Chart.yaml")["version"]
    text = "---\n" + "---\n".join(to_yaml(item) for item in sorted(production, key=lambda item: item["kind"]))
    text = text.replace(f"stack-backup-{version}", "stack-backup-<version>").replace(
        f" {version}\n", " <version>\n"
    )
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(text, encoding="utf-8")
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_the_programs_are_the_files_of_the_chart(objects: Objects) -> None:
    files = {path.name: path.read_text(encoding="utf-8") for path in (CHART / "files").iterdir()}
    programs = objects.get("ConfigMap", PROGRAMS)["data"]
    assert programs == files
    assert sum(len(text.encode()) for text in files.values()) < 2**20, "a ConfigMap holds one MiB"


def test_a_program_of_the_chart_that_changes_is_rendered_changed(chart: Path) -> None:
    (chart / "files" / "another.sh").write_text("#!/bin/bash\nexit 78\n", encoding="utf-8")
    programs = render(chart=chart).get("ConfigMap", PROGRAMS)["data"]
    assert programs["another.sh"] == "#!/bin/bash\nexit 78\n"


LONGEST_RELEASE = "r" + 52 * "x"
LONGEST_NAMESPACE = "n" + 62 * "x"


def test_the_names_of_the_contract_do_not_depend_on_the_release() -> None:
    values, namespace = STACKS["production"]
    objects = render(values, namespace=namespace, release=LONGEST_RELEASE)
    assert objects.get("CronJob", contract.HOURLY)
    assert objects.get("PersistentVolumeClaim", contract.CLAIM)


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
