"""A refresh, tables beside the live ones, a dump on one's own machine: with the documented rights alone."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack_backup_jobs import formats
from stack_backup_jobs.formats import MANIFESTS, MediaState, manifest_name, stamp
from stack_backup_jobs.tables import schema_of
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.story.stacks import MEDIA
from tests.cluster.operators import RECOVERABLE, access, documented_role, play, tables
from tests.cluster.proxy import cutting
from tests.outcomes import green
from tests.render import contract

NAMESPACE = "stack-test-way-out"
VALUES = merge_values(
    RECOVERABLE,
    {
        "mediaRecovery": {"enabled": True},
        "volumes": {"mediaReplica": {"nfs": {"path": "/test-way-out-media"}}},
    },
)
# Hex digits shrink to a half: a dump of some 8 MiB.
NOISE = """CREATE TABLE noise AS SELECT string_agg(md5(random()::text || n), '') AS text
FROM generate_series(1, 500000) n GROUP BY n % 500"""
CUT = 2 << 20


class Operator:
    """Somebody with these rights, and the command line."""

    def __init__(self, stack: ClusterStack, kubeconfig: Path) -> None:
        self.stack, self.kubeconfig = stack, kubeconfig

    def run(self, *arguments: str, kubeconfig: Path | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "stack_backup", *arguments],
            env=os.environ | {"KUBECONFIG": str(kubeconfig or self.kubeconfig), "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def done(self, *arguments: str, kubeconfig: Path | None = None) -> dict[str, Any]:
        end = self.run(*arguments, "--output", "json", kubeconfig=kubeconfig)
        assert end.returncode == 0, end
        document: dict[str, Any] = json.loads(end.stdout)
        return document

    @property
    def jobs(self) -> set[str]:
        return {job["metadata"]["name"] for job in self.stack.kube.find("Job", self.stack.namespace)}


@pytest.fixture(scope="module")
def operator(runtime: ClusterRuntime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    with runtime.stack(NAMESPACE) as stack:
        stack.add_claim(MEDIA)
        stack.install(VALUES)
        stack.database.execute("CREATE TABLE kept AS SELECT generate_series(1, 7) AS number", "frag")
        stack.database.execute(NOISE)
        yield Operator(stack, access(stack, "operator", documented_role(), tmp_path_factory.mktemp("o")))


@pytest.fixture(scope="module")
def dump(operator: Operator) -> str:
    return str(green(operator.stack.run(contract.HOURLY)).verdict["dump"])


def test_a_refresh_brings_database_and_media(operator: Operator, dump: str) -> None:
    stack = operator.stack
    replica = stack.volume(stack.claim_of("media-recovery", "media-replica"))
    replica.write("targets/one.mol", b"a molecule")
    state = MediaState("complete", stamp(), stamp(), 1, 10, "production-stack")
    replica.write(f"{formats.OWN}/{formats.STATE}", state.text().encode())
    stack.database.execute("DROP TABLE kept; CREATE TABLE lost AS SELECT 1 AS number", "frag")
    before = operator.jobs
    plan = operator.run("refresh", "--plan")
    assert plan.returncode == 0, plan
    assert formats.time_of(dump) in plan.stdout
    assert operator.jobs == before
    document = operator.done("refresh", "--confirm", NAMESPACE)
    assert document["outcome"] == "refreshed"
    assert [run["verdict"]["outcome"] for run in document["runs"]] == ["copied", "recovered"]
    assert tables(stack) == ["kept"]
    assert stack.volume(MEDIA).read("targets/one.mol") == b"a molecule"
    assert operator.jobs - before == {run["name"] for run in document["runs"]}
    assert "about" in operator.run("refresh", "--plan").stdout


def test_awx_shows_the_plan_and_refreshes(operator: Operator, dump: str, tmp_path: Path) -> None:
    stack, access = operator.stack, {"KUBECONFIG": str(operator.kubeconfig)}
    asked = {"stack_namespace": NAMESPACE, "confirm": NAMESPACE}
    stack.database.execute("CREATE TABLE lost AS SELECT 1 AS number", "frag")
    before = operator.jobs
    end = play("refresh", tmp_path, access, **asked, plan_only="true")
    assert end.returncode == 0, end.stdout
    assert f"becomes the dump {formats.time_of(dump)}" in end.stdout.split("TASK [The verdict]")[1]
    assert operator.jobs == before
    end = play("refresh", tmp_path, access, **asked)
    assert end.returncode == 0, end.stdout
    said = end.stdout.split("TASK [The verdict]")[1]
    assert f"{NAMESPACE} has the database of {formats.time_of(dump)} and the media as of" in said
    assert tables(stack) == ["kept"]


def test_a_table_comes_back_beside_the_live_one(operator: Operator, dump: str) -> None:
    operator.stack.database.execute("DELETE FROM kept", "frag")
    verdict = operator.done("restore-table", "kept", "--dump", dump)["verdict"]
    assert (verdict["outcome"], verdict["restored"]) == ("restored", ["public.kept: 7"])
    schema = schema_of(formats.time_of(dump))
    with psycopg.connect(operator.stack.database.dsn("frag")) as connection:
        found = [
            connection.execute(f"SELECT count(*) FROM {name}.kept".encode()).fetchone()
            for name in (schema, "public")
        ]
    assert found == [(7,), (0,)]


def test_a_dump_comes_whole_over_a_connection_that_is_cut(
    operator: Operator, dump: str, tmp_path: Path
) -> None:
    volume = operator.stack.volume(contract.CLAIM)
    held = volume.read(f"{contract.FOLDER}/{dump}")
    assert len(held) > 3 * CUT
    before = operator.jobs
    with cutting(operator.kubeconfig, tmp_path, CUT) as (kubeconfig, proxy):
        document = operator.done("fetch", "--to", str(tmp_path / "here"), kubeconfig=kubeconfig)
    assert proxy.cuts >= 3
    assert document["cuts"] >= 3
    assert document["sha256"] == hashlib.sha256(held).hexdigest()
    assert (tmp_path / "here" / dump).read_bytes() == held
    own = f"{MANIFESTS}/{manifest_name(dump)}"
    assert (tmp_path / "here" / own).read_bytes() == volume.read(f"{contract.FOLDER}/{own}")
    assert operator.jobs == before


@pytest.mark.usefixtures("dump")
def test_without_the_right_to_read_from_the_pod_nothing_comes(operator: Operator, tmp_path: Path) -> None:
    role = documented_role()
    role["rules"] = [rule for rule in role["rules"] if rule["resources"] != ["pods/exec"]]
    before = operator.jobs
    end = operator.run(
        "fetch", "--to", str(tmp_path / "here"), kubeconfig=access(operator.stack, "no-exec", role, tmp_path)
    )
    assert end.returncode == 77, end
    assert f"You may not create pods/exec in namespace {NAMESPACE}." in end.stderr
    assert operator.jobs == before
