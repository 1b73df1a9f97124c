"""The cluster runtime: a release and its jobs on a real Kubernetes cluster, under the `restricted` level."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyhelm3
from psycopg.conninfo import make_conninfo

from stack_backup.runs import (
    JobResult,
    containers,
    finished,
    manual_job,
    pods_of,
    result,
    statuses,
    with_environment,
)
from stack_backup_lab.bed.kind_cluster import EXPORT
from stack_backup_lab.paths import BIN
from stack_backup_lab.render import CHART, RELEASE, merge_values, sentence
from stack_backup_lab.runtime import StackError, claim_of
from stack_backup_lab.runtime.kube import Kube, KubeError, Object, PortForward
from stack_backup_lab.runtime.local import AWKWARD, DATABASE, IMAGE, USER
from stack_backup_lab.runtime.manifests import (
    OURS,
    PORT,
    UID,
    claim_object,
    database_objects,
    export_objects,
    files_pod,
    namespace_object,
    server_pod,
)
from stack_backup_lab.runtime.postgres import SUPERUSER

KEEP = os.environ.get("STACK_BACKUP_KEEP") == "1"
WRITERS = {"databaseReplica": "postgresReplicatorBackup", "mediaReplica": "mediaReplicator"}
"""The job, as its section of the values, that writes an export."""
START = 180.0
"""Seconds that a pod of the test bed may take to become ready; its image is on the node already."""


class Cluster(Protocol):
    """What the test bed (or an operator) brings: a cluster that is up."""

    @property
    def kubeconfig(self) -> Path: ...

    @property
    def export(self) -> Path:
        """The folder of this machine that the nodes have at `testbed.cluster.EXPORT`."""


class ClusterVolume:
    """The files of a claim, through a pod that mounts it from the first use until `close`."""

    def __init__(self, kube: Kube, namespace: str, claim: str, image: str) -> None:
        self._kube, self._namespace, self._claim, self._image = kube, namespace, claim, image
        self._pod: str | None = None

    def _run(self, script: str, *arguments: str, **streams: Any) -> bytes:
        if self._pod is None:
            self._pod = f"files-{self._claim}-{secrets.token_hex(3)}"
            self._kube.create(files_pod(self._pod, self._claim, self._image), self._namespace)
            _await_ready(self._kube, self._namespace, self._pod)
        script = f"set -Eeuo pipefail; umask 027; cd /files; {script}"
        command = ("bash", "-c", script, "bash", *arguments)
        return self._kube.execute(self._namespace, self._pod, *command, **streams)

    def list(self, folder: str = "") -> list[str]:
        script = '[[ -d $1 ]] || exit 0; find "$1" -mindepth 1 -maxdepth 1 -printf "%f\\0"'
        return sorted(self._run(script, f"./{folder}").decode().split("\0")[:-1])

    def read(self, path: str) -> bytes:
        return self._run('cat "$1"', f"./{path}")

    def write(self, path: str, data: bytes) -> None:
        self._run('mkdir -p "${1%/*}"; cat >"$1"', f"./{path}", stdin=data)

    def remove(self, path: str) -> None:
        self._run('rm -r "$1"', f"./{path}")

    def fetch(self, path: str, to: Path) -> Path:
        target = to / Path(path).name
        with target.open("wb") as file:
            self._run('cat "$1"', f"./{path}", stdout=file)
        return target

    def put_tree(self, folder: Path) -> None:
        with tempfile.TemporaryFile() as packed:
            # What lies in the folder, not the folder: the volume's own root is not the pod's to change.
            names = b"\0".join(b"./" + name for name in os.listdir(os.fsencode(folder)))  # noqa: PTH208
            pack: list[str | Path] = ["tar", "-C", folder, "--sparse", "--create", "--null", "--files-from=-"]
            subprocess.run(pack, input=names, stdout=packed, check=True)
            packed.seek(0)
            self._run("tar --extract --no-same-owner --preserve-permissions", stdin=packed)

    def get_tree(self, folder: Path) -> None:
        with tempfile.TemporaryFile() as packed:
            self._run("tar --sparse --create .", stdout=packed)
            packed.seek(0)
            unpack: list[str | Path] = ["tar", "-C", folder, "--extract", "--preserve-permissions"]
            subprocess.run(unpack, stdin=packed, check=True)

    def close(self) -> None:
        if self._pod is not None:
            self._kube.delete("Pod", self._pod, self._namespace, grace=0)
            self._pod = None


class ClusterServer:
    """A PostgreSQL server in a pod; its port is forwarded to this machine while it is used."""

    def __init__(self, kube: Kube, namespace: str, pod: str, passwords: Mapping[str, str]) -> None:
        self._kube, self._namespace, self._pod = kube, namespace, pod
        self.passwords = passwords
        self._forward = PortForward(kube, namespace, pod, PORT)
        self.version = 0
        """Major version; known once the server is ready."""

    def await_ready(self) -> None:
        _await_ready(self._kube, self._namespace, self._pod)
        script = 'psql --no-psqlrc --username="$1" --dbname=postgres -Atc "SHOW server_version_num"'
        self.version = int(self._run(script, SUPERUSER)) // 10000

    def dsn(self, database: str, user: str = SUPERUSER, password: str | None = None) -> str:
        return make_conninfo(
            host="127.0.0.1",
            port=self._forward.port(),
            dbname=database,
            user=user,
            password=self.passwords[user] if password is None else password,
            sslmode="disable",
            gssencmode="disable",
        )

    def execute(self, script: str, database: str = "postgres") -> None:
        self._psql("cat", database, stdin=script.encode())

    def load(self, dump: Path) -> None:
        """Load a whole compressed pg_dumpall file, stopping at the first error. Raises KubeError.

        Only one line is left out, and only in the part before the first database: the creation of the
        superuser, which every server has.
        """
        unpack = "zstd -dc" if dump.suffix == ".zst" else "gzip -dc"
        with dump.open("rb") as file:
            self._psql(
                f"{unpack} | LC_ALL=C sed -e '1,/^.connect /{{/^CREATE ROLE {SUPERUSER};$/d}}'",
                "postgres",
                stdin=file,
            )

    def _psql(self, source: str, database: str, **streams: Any) -> None:
        psql = (
            'psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --username="$1" --dbname="$2" --output=/dev/null'
        )
        self._run(f"{source} | {psql}", SUPERUSER, database, **streams)

    def _run(self, script: str, *arguments: str, **streams: Any) -> bytes:
        command = ("bash", "-c", f"set -Eeuo pipefail; {script}", "bash", *arguments)
        return self._kube.execute(self._namespace, self._pod, *command, **streams)

    def close(self) -> None:
        self._forward.close()


class ClusterStack:
    """One namespace with its database; see `runtime.Stack`."""

    def __init__(
        self, kube: Kube, namespace: str, image: str, chart: Path, helm: Path, exports: Path
    ) -> None:
        self.kube, self.namespace = kube, namespace
        self._exports = exports
        self.passwords = {user: f"{secrets.token_hex(8)}{AWKWARD}" for user in (SUPERUSER, USER)}
        self.failed = False
        """Set where a test failed in it: with STACK_BACKUP_KEEP=1 it is then kept, to be looked at."""
        self._image, self.chart = image, chart
        self.helm = helm
        """The Helm that installs, upgrades and uninstalls."""
        self._volumes: dict[str, ClusterVolume] = {}
        self.database = ClusterServer(kube, namespace, "database-0", self.passwords)

    # The release

    def install(self, values: Mapping[str, Any], release: str = RELEASE) -> None:
        """See `runtime.Stack.install`.

        The nodes cannot mount NFS: a claim over a folder that they share takes the place of each export.
        """
        client = self._client
        values = merge_values(values, self.stand_in_for_nfs(values))

        async def install() -> None:
            chart = await client.get_chart(self.chart)
            # Not `wait`: a claim of a class that binds late is ready only after the first run has mounted it.
            await client.install_or_upgrade_release(
                release, chart, dict(values), namespace=self.namespace, create_namespace=False, timeout="2m"
            )

        try:
            asyncio.run(install())
        except pyhelm3.errors.Error as error:
            raise StackError(sentence(str(error))) from error

    def stand_in_for_nfs(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Claims for the exports that `values` name, and the values that let the chart use them."""
        found: dict[str, Any] = {}
        for name, volume in values.get("volumes", {}).items():
            nfs = volume.get("nfs", {}) if isinstance(volume, Mapping) else {}
            if not nfs.get("server") or volume.get("existingClaim"):
                continue
            folder = f"{nfs['server']}{nfs['path'].replace('/', '_')}"
            claim = f"export-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"
            if self.kube.get("PersistentVolumeClaim", claim, self.namespace) is None:
                writer = values.get(WRITERS.get(name, ""), {})
                self._make_export(self._exports / folder, anew=writer.get("enabled", False))
                for body in export_objects(self.namespace, claim, f"{EXPORT}/{folder}"):
                    namespace = None if body["kind"] == "PersistentVolume" else self.namespace
                    self.kube.create(body, namespace)
            found[name] = {"existingClaim": claim}
        return {"volumes": found} if found else {}

    def _make_export(self, folder: Path, *, anew: bool) -> None:
        """A folder of the pods' user. The stack that writes it makes it anew: a run that was killed may
        have left one.
        """
        if anew and folder.exists():
            shutil.rmtree(folder)
        if not folder.exists():
            folder.mkdir()
            shutil.chown(folder, UID, UID)

    def uninstall(self, release: str = RELEASE) -> None:
        asyncio.run(
            self._client.uninstall_release(release, namespace=self.namespace, timeout="2m", wait=True)
        )

    def revision(self, release: str = RELEASE) -> int:
        """The number of the release's current revision."""
        current = asyncio.run(self._client.get_current_revision(release, namespace=self.namespace))
        return int(current.revision)

    def releases(self) -> list[str]:
        """Names of the namespace's releases, whatever state they are in."""
        found = asyncio.run(
            self._client.list_releases(include_failed=True, include_pending=True, namespace=self.namespace)
        )
        return [release.name for release in found]

    @property
    def _client(self) -> Any:
        return pyhelm3.Client(executable=str(self.helm), kubeconfig=self.kube.kubeconfig)

    # Its jobs

    def add_claim(self, name: str) -> None:
        """See `runtime.Stack.add_claim`."""
        self.kube.create(claim_object(name), self.namespace)

    def run(
        self, job: str, *, timeout: float = 600, environment: Mapping[str, str] | None = None
    ) -> JobResult:
        """Make a Job from the CronJob as `kubectl create job --from=cronjob/...` does, and wait for its end.

        Raises `KubeError` with events, descriptions and logs when it has not ended within `timeout` seconds.
        """

        def change(spec: Object) -> None:
            spec["template"] = with_environment(spec["template"], environment or {})

        return self.ended(job, self.begin(job, change), timeout)

    def begin(self, job: str, change: Callable[[Object], None] | None = None) -> str:
        """Make a Job from the CronJob and return its name; `ended` waits for it.

        `change` may alter the Job's specification: for a run that is to go wrong, or to look around.
        """
        made = self.kube.create(manual_job(self._cronjob(job), change), self.namespace)
        return str(made["metadata"]["name"])

    def await_scheduled(self, job: str, *, timeout: float = 600) -> JobResult:
        """Wait for the controller's own next Job of this CronJob, then for its end; `timeout` for each."""
        owner = self._cronjob(job)["metadata"]["uid"]

        def scheduled(jobs: list[Object]) -> list[str]:
            stamp = "batch.kubernetes.io/cronjob-scheduled-timestamp"
            return [
                item["metadata"]["name"]
                for item in jobs
                if any(reference["uid"] == owner for reference in item["metadata"].get("ownerReferences", ()))
                and stamp in item["metadata"].get("annotations", {})
            ]

        before = set(scheduled(self.kube.find("Job", self.namespace)))
        new = self.kube.wait(
            "Job",
            lambda jobs: [name for name in scheduled(jobs) if name not in before],
            what=f"a scheduled run of {job} in {self.namespace}",
            timeout=timeout,
            namespace=self.namespace,
        )
        return self.ended(job, new[0], timeout)

    def claim_of(self, job: str, volume: str) -> str:
        return claim_of(self._cronjob(job), volume)

    def _cronjob(self, job: str) -> Object:
        cronjob = self.kube.get("CronJob", job, self.namespace)
        if cronjob is None:
            raise StackError(
                f"There is no CronJob {job} in {self.namespace}; nothing was run: install the release first."
            )
        return cronjob

    def ended(self, job: str, name: str, timeout: float = 600) -> JobResult:
        """Wait for the end of a CronJob's Job and return it; see `run`."""

        def over(jobs: list[Object]) -> Object | None:
            if not jobs:
                raise KubeError(
                    "it is gone, and how it ended with it: somebody deleted it, or its history limit did"
                )
            return jobs[0] if finished(jobs[0]) else None

        ended = self.kube.wait(
            "Job",
            over,
            what=f"the end of Job {name} in {self.namespace}",
            timeout=timeout,
            namespace=self.namespace,
            name=name,
        )
        pods = pods_of(self.kube.find("Pod", self.namespace), name)
        log = "".join(
            self.kube.log(self.namespace, pod["metadata"]["name"], status["name"])
            for pod in pods
            for status in containers(pod)
        )
        return result(job, ended, pods, log)

    # Its files and servers

    def volume(self, claim: str) -> ClusterVolume:
        if claim not in self._volumes:
            if self.kube.get("PersistentVolumeClaim", claim, self.namespace) is None:
                raise StackError(f"There is no claim {claim} in {self.namespace}.")
            self._volumes[claim] = ClusterVolume(self.kube, self.namespace, claim, self._image)
        return self._volumes[claim]

    @contextmanager
    def scratch_server(self, version: int | None = None) -> Iterator[ClusterServer]:
        """See `runtime.Stack.scratch_server`; only the image's own major version can be had."""
        name = f"scratch-{secrets.token_hex(3)}"
        server = ClusterServer(self.kube, self.namespace, name, self.passwords)
        try:
            self.kube.create(server_pod(name, self._image), self.namespace)
            server.await_ready()
            if version not in (None, server.version):
                raise ValueError(f"{self._image} is PostgreSQL {server.version}, not {version}")
            yield server
        finally:
            server.close()
            self.kube.delete("Pod", name, self.namespace, grace=0)

    # Its beginning and end

    def create(self) -> None:
        """Namespace, Secret, Service and a database server with the application's user and database."""
        self.kube.create(namespace_object(self.namespace))
        self.kube.wait(
            "ServiceAccount",
            bool,
            what=f"the default ServiceAccount of {self.namespace}",
            timeout=START,
            namespace=self.namespace,
            name="default",
        )
        keys = {"root_password": self.passwords[SUPERUSER], "user_password": self.passwords[USER]}
        for body in database_objects(self._image, keys):
            self.kube.create(body, self.namespace)
        self.database.await_ready()
        password = self.passwords[USER].replace("'", "''")
        self.database.execute(
            f"CREATE ROLE {USER} LOGIN PASSWORD '{password}'; CREATE DATABASE {DATABASE} OWNER {USER};"
        )

    def close(self) -> None:
        """End what this machine runs for the stack, and the pods that read its volumes."""
        self.database.close()
        for volume in self._volumes.values():
            volume.close()

    def remove(self) -> None:
        """Delete the namespace and its volumes, if they are there; `await_end` waits for their end."""
        found = self.kube.get("Namespace", self.namespace)
        if found and "deletionTimestamp" not in found["metadata"]:
            self.kube.delete("Namespace", self.namespace)
        for volume in self._own(self.kube.find("PersistentVolume")):
            if volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain":
                self.kube.delete("PersistentVolume", volume["metadata"]["name"])

    def await_end(self) -> None:
        """Wait until the namespace and its volumes are gone."""
        what = f"the end of namespace {self.namespace}"
        self.kube.wait("Namespace", _gone, what=what, timeout=START, name=self.namespace)
        what = f"the end of the volumes of {self.namespace}"
        self.kube.wait(
            "PersistentVolume", lambda volumes: _gone(self._own(volumes)), what=what, timeout=START
        )

    def _own(self, volumes: list[Object]) -> list[Object]:
        return [v for v in volumes if v["spec"].get("claimRef", {}).get("namespace") == self.namespace]


class ClusterRuntime:
    """Stacks on one cluster. `helm` is the Helm that installs, `image` what every database server runs."""

    name = "cluster"

    def __init__(
        self, cluster: Cluster, *, image: str = IMAGE, chart: Path = CHART, helm: Path = BIN / "helm"
    ) -> None:
        self.kube = Kube(cluster.kubeconfig, BIN / "kubectl")
        self._image, self._chart, self._helm = image, chart, helm
        self._exports = cluster.export

    @contextmanager
    def stack(self, namespace: str) -> Iterator[ClusterStack]:
        """See `runtime.Runtime.stack`. With STACK_BACKUP_KEEP=1 a failure leaves all, to be looked at."""
        stack = ClusterStack(self.kube, namespace, self._image, self._chart, self._helm, self._exports)
        found = self.kube.get("Namespace", namespace)
        if found and not OURS.items() <= found["metadata"].get("labels", {}).items():
            raise KubeError(
                f"namespace {namespace} was not made here and was left as it is: choose another name"
            )
        stack.remove()  # what a run before this one left, which was cut off or is just over
        stack.await_end()
        try:
            stack.create()
            yield stack
        except BaseException:
            stack.failed = True
            raise
        finally:
            stack.close()
            if not (stack.failed and KEEP):
                stack.remove()


def _gone(objects: list[Object]) -> bool:
    return not objects


def _await_ready(kube: Kube, namespace: str, pod: str) -> None:
    def ready(pods: list[Object]) -> bool:
        restarts = sum(
            status["restartCount"] for item in pods for status in statuses(item, "containerStatuses")
        )
        if restarts > 2:
            raise KubeError(f"it ended {restarts} times")
        return any(
            condition["type"] == "Ready" and condition["status"] == "True"
            for item in pods
            for condition in item.get("status", {}).get("conditions", ())
        )

    kube.wait("Pod", ready, what=f"Pod {pod} ready", timeout=START, namespace=namespace, name=pod)
