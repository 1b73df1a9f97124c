"""Every command of the recovery runbook, run as it stands there, and what it brought back."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from stack_backup_lab.bed import images
from stack_backup_lab.data import dataset
from stack_backup_lab.paths import BIN, PROJECT
from stack_backup_lab.render import load_values, merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.story.stacks import CONSUMER_VALUES, JOB, MEDIA, STAGING, TEST_MACHINE, VALUES
from tests.cluster.conftest import AWAY
from tests.cluster.documents import commands
from tests.outcomes import green
from tests.render import contract

RUNBOOK = PROJECT / "docs" / "recovery-runbook.md"
NOTES = (
    "SELECT string_agg(DISTINCT text, ',' ORDER BY text) FROM public.viewer_note WHERE text LIKE 'written%'"
)


@dataclass
class Lost:
    """Production and staging, with two backups of production and what was written before each."""

    production: ClusterStack
    staging: ClusterStack
    dumps: list[str]
    folder: Path
    values: Mapping[str, Any]

    def follow(self, heading: str) -> str:
        """Run the commands under a heading of the runbook; what they printed."""
        own = self.folder / "own.yaml"
        own.write_text(yaml.safe_dump(self.values))
        printed = ""
        for command in commands(RUNBOOK, heading):
            printed += self.run(
                *("bash", "-euo", "pipefail", "-c", command.replace("YOUR-VALUES.yaml", str(own))),
                cwd=self.folder if "charts/" not in command else PROJECT,
            )
        return printed

    def run(self, *command: str, input: str = "", cwd: Path | None = None) -> str:
        """A command of an operator's; what it printed."""
        environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "KUBECONFIG": str(self.production.kube.kubeconfig),
        }
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=environment,
            input=input,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        return done.stdout


def notes(stack: ClusterStack) -> str:
    """Which of the marked rows are there."""
    with psycopg.connect(stack.database.dsn(dataset.DATABASE)) as connection:
        row = connection.execute(NOTES.encode()).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture(scope="module")
def lost(runtime: ClusterRuntime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lost]:
    with runtime.stack(contract.NAMESPACE) as production, runtime.stack(STAGING) as staging:
        for stack, values in ((production, VALUES), (staging, CONSUMER_VALUES)):
            stack.add_claim(MEDIA)
            stack.install(merge_values(values, TEST_MACHINE, AWAY))
        production.volume(MEDIA).write("targets/one.mol", b"a molecule")
        dataset.fill(production.database, molecules=0)
        dumps = []
        for number in (1, 2):
            dataset.add_rows_after(production.database, f"written before {number}")
            dumps.append(green(production.run(JOB)).verdict["dump"])
        green(production.run("postgres-replicator-backup"))
        green(production.run("media-replicator"))
        dataset.add_rows_after(production.database, "written too late")
        values = merge_values(TEST_MACHINE, AWAY, production.stand_in_for_nfs(load_values(VALUES)))
        yield Lost(production, staging, dumps, tmp_path_factory.mktemp("runbook"), values)


BOTH = "written before 1,written before 2"

pytestmark = pytest.mark.timeout(1200)


def test_what_is_there(lost: Lost) -> None:
    printed = lost.follow("What is there?")
    for dump in lost.dumps:
        assert f"hourly/{dump}" in printed


def test_the_database_was_dropped(lost: Lost) -> None:
    lost.production.database.execute(f"DROP DATABASE {dataset.DATABASE} WITH (FORCE)")
    assert '"outcome":"recovered"' in lost.follow("The database was dropped or damaged")
    assert notes(lost.production) == BOTH


def test_the_media_were_lost(lost: Lost) -> None:
    lost.production.volume(MEDIA).remove("targets")
    assert '"exit":0' in lost.follow("The media are lost or damaged")
    assert lost.production.volume(MEDIA).read("targets/one.mol") == b"a molecule"


def test_go_back_to_an_earlier_dump_and_take_it_back(lost: Lost) -> None:
    assert lost.dumps[0] in lost.follow("Go back to an earlier dump")
    assert notes(lost.production) == "written before 1"
    lost.follow("Undo a recovery")
    assert notes(lost.production) == BOTH


def test_staging_anew_and_one_table_back_from_it(lost: Lost) -> None:
    lost.follow("Refresh staging or a developer's stack from production")
    assert notes(lost.staging) == BOTH
    assert lost.staging.volume(MEDIA).read("targets/one.mol") == b"a molecule"

    lost.production.database.execute("DELETE FROM public.viewer_note", dataset.DATABASE)
    lost.follow("Restore one table")
    assert notes(lost.production) == BOTH


def test_the_production_cluster_is_lost(lost: Lost) -> None:
    lost.follow("The production cluster is lost")
    assert lost.production.claim_of("database-recovery", "source") == lost.staging.claim_of(
        "database-recovery", "source"
    )
    environment = {"CONFIRM": contract.NAMESPACE}
    green(lost.production.run("database-recovery", environment=environment))
    green(lost.production.run("media-recovery", environment=environment))
    assert notes(lost.production) == BOTH


STORE = """
apiVersion: v1
kind: Pod
metadata: {name: store, labels: {app: store}}
spec:
  containers:
    - name: store
      image: IMAGE
      command: [rclone, serve, s3, "--config=/dev/null", "--addr=:9000", "--auth-key=key,secret", /store]
      volumeMounts: [{name: store, mountPath: /store}]
      securityContext:
        {runAsNonRoot: true, runAsUser: 999, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  securityContext: {fsGroup: 999, seccompProfile: {type: RuntimeDefault}}
  volumes: [{name: store, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: store}, ports: [{port: 9000}]}
"""
CONFIGURATION = """
[s3]
type = s3
provider = Rclone
endpoint = http://store:9000
access_key_id = key
secret_access_key = secret
"""
OFFSITE = {
    "offsite": {"remote": "s3:backups/production", "folders": ["hourly"]},
    "networkPolicy": {"offsitePorts": [9000]},
}


def test_the_cluster_is_gone(lost: Lost) -> None:
    kubectl = ("kubectl", "--namespace", contract.NAMESPACE)
    lost.run(
        *kubectl,
        "apply",
        "--filename=-",
        input=STORE.replace("IMAGE", images.IMAGES[images.RCLONE].reference),
    )
    lost.run(*kubectl, "wait", "pod/store", "--for=condition=Ready", "--timeout=120s")
    lost.run(*kubectl, "exec", "store", "--", "mkdir", "/store/backups")
    (lost.folder / "rclone.conf").write_text(CONFIGURATION)
    lost.run(*kubectl, "create", "secret", "generic", "offsite", "--from-file=rclone.conf")
    lost.production.install(merge_values(lost.values, OFFSITE, {"offsite": {"enabled": True}}))
    green(lost.production.run("offsite"), "published")
    lost.production.database.execute(f"DROP DATABASE {dataset.DATABASE} WITH (FORCE)")
    lost.production.volume(MEDIA).remove("targets")
    lost.values = merge_values(TEST_MACHINE, AWAY, OFFSITE)
    printed = lost.follow("The cluster is gone")
    assert printed.count('"exit":0') == 2
    assert notes(lost.production) == BOTH
    assert lost.production.volume(MEDIA).read("targets/one.mol") == b"a molecule"


def test_every_heading_with_a_command_is_followed_here() -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    followed = Path(__file__).read_text(encoding="utf-8")
    headings = [part.partition("\n")[0] for part in text.split("\n## ")[1:] if "```bash" in part]
    assert len(headings) > 5
    for heading in headings:
        assert f'follow("{heading}")' in followed
