"""A kind cluster for the tests and the demo, brought up where a registry answers and where none does.

The cluster is known by its name. One that lives is used again, one that was killed from outside is cleared
and made anew, and one that somebody else made is never touched.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from stack_backup_lab.bed import BedError, commands, images, node, podman, progress, tools
from stack_backup_lab.bed.commands import CommandError
from stack_backup_lab.paths import BIN, CACHE, LOGS, PROJECT

NAME = "stack-backup"
EXPORT = "/export"
"""Where a node has the folder that stands for an NFS export shared between clusters."""
CREATE = 300.0
"""Seconds that kind may take until the node is ready; 25 were measured on two idle cores."""
READY = 180.0
"""Seconds that name service and storage may take after that."""

_CONFIG = Path(__file__).parent / "node_image" / "kind.yaml"


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up. `kubeconfig` is its own: the user's is neither read nor written.

    `export` is the folder of this machine that stands for the exports of an NFS server: the nodes have it at
    `EXPORT`, and so have those of every other cluster that was made with it. `made`: it was not there before
    it was asked for.
    """

    name: str
    kubeconfig: Path
    export: Path
    made: bool = field(default=False, compare=False)

    def load(self, archive: Path) -> None:
        """Put a docker-archive's image on every node; one that is there already costs nothing."""
        stat = archive.stat()
        mark = _folder(self.name) / "loaded" / f"{archive.name}-{stat.st_size}-{stat.st_mtime_ns}"
        with commands.lock(f"cluster-{self.name}"):
            if not mark.exists():
                with progress.step(
                    f"load-{archive.name}", f"cluster {self.name}: loading {archive.name}", 10
                ):
                    _kind(self.name, "load", "image-archive", archive)
                mark.parent.mkdir(exist_ok=True)
                mark.touch()

    def delete(self) -> None:
        delete(self.name)

    def kubectl(self, *arguments: str) -> str:
        return commands.run([BIN / "kubectl", "--kubeconfig", self.kubeconfig, *arguments])


def ensure(name: str = NAME, export: Path | None = None, stock: str | None = None) -> Cluster:
    """The cluster of this name, ready to use, made if it does not live.

    `export` is a folder of this machine that the nodes see as `EXPORT` (None: the one that a cluster found
    running has, else one that all clusters of this machine share). `stock` is the node image to pull
    where a registry answers (None: the one that kind itself names). Raises BedError.
    """
    tools.ensure("kind", "kubectl")
    kubeconfig = PROJECT / ".cache" / f"{name}.kubeconfig"
    with commands.lock(f"cluster-{name}"):
        found = _own_nodes(name)
        cluster = Cluster(name, kubeconfig, _export(found, export))
        if found and all(one.alive for one in found) and _answers(cluster):
            _check_export(found, cluster)
            return cluster
        if found:
            print(f"cluster {name}: its node does not answer any more; clearing it", flush=True)
        podman.remove(name)
        image = stock if images.registry_answers() else node.image()
        with progress.step("cluster", f"cluster {name}: starting", 40):
            _create(cluster, image)
    return replace(cluster, made=True)


@contextmanager
def used(name: str = NAME, *, keep: bool = False) -> Iterator[Cluster]:
    """The cluster of this name while it is used, by several processes at once if they ask for it.

    One that was made for its users goes with the last of them; with `keep` it stays.
    """
    path = CACHE / "locks" / f"cluster-{name}-users"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as users:
        fcntl.flock(users, fcntl.LOCK_SH)
        cluster = ensure(name)
        if cluster.made:
            _lent(name).touch()
        try:
            yield cluster
        finally:
            if keep:
                _lent(name).unlink(missing_ok=True)
            elif commands.taken(users) and _lent(name).exists():
                delete(name)  # who comes now waits until `users` is closed


def _lent(name: str) -> Path:
    """Is there where the cluster was made for its users, and nobody has asked for it to stay."""
    return _folder(name) / "lent"


def delete(name: str = NAME) -> None:
    """Remove the cluster, dead or alive, and its kubeconfig. One that is not ours is a BedError."""
    with commands.lock(f"cluster-{name}"):
        if podman.installed() is not None and _own_nodes(name):
            podman.remove(name)
        (PROJECT / ".cache" / f"{name}.kubeconfig").unlink(missing_ok=True)
        shutil.rmtree(_folder(name))


def _folder(name: str) -> Path:
    """What is known of a cluster outside it. Mounted in its node, it also marks the node as ours."""
    folder = CACHE / "clusters" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _own_nodes(name: str) -> list[podman.Node]:
    found = podman.nodes(name)
    if any(not one.ours for one in found):
        raise BedError(
            f"A kind cluster named {name} is there that this project did not make; it was left as it is. "
            f"Remove it (kind delete cluster --name {name}), or choose another name."
        )
    return found


def _export(nodes: list[podman.Node], wanted: Path | None) -> Path:
    """The folder for `EXPORT`: the one that is wanted, or that the nodes have, or the one of all clusters."""
    if wanted is not None:
        return wanted.resolve(strict=True)
    for one in nodes:
        if EXPORT in one.mounts:
            return Path(one.mounts[EXPORT])
    shared = CACHE / "exports"
    shared.mkdir(parents=True, exist_ok=True)
    return shared.resolve()


def _check_export(nodes: list[podman.Node], cluster: Cluster) -> None:
    if {one.mounts.get(EXPORT) for one in nodes} != {str(cluster.export)}:
        name = cluster.name
        raise BedError(
            f"The cluster {name} runs without {cluster.export} as its export; it was left as it is. "
            f"Remove it (python -m stack_backup_lab.bed cluster --name {name} --delete) and ask again."
        )


def _answers(cluster: Cluster) -> bool:
    """Whether a cluster found running is ready, or becomes so: another run may just have started it."""
    fresh = cluster.kubeconfig.with_suffix(".fresh")
    try:
        _kind(cluster.name, "export", "kubeconfig", "--kubeconfig", fresh)
        fresh.replace(cluster.kubeconfig)  # at once: others may be reading it
        _wait_until_ready(cluster, 60.0)
    except BedError:
        return False
    return True


def _create(cluster: Cluster, image: str | None) -> None:
    folder = _folder(cluster.name)
    shutil.rmtree(folder / "loaded", ignore_errors=True)
    _lent(cluster.name).unlink(missing_ok=True)
    mounts = [
        {"hostPath": str(folder), "containerPath": podman.MARK, "readOnly": True},
        {"hostPath": str(cluster.export), "containerPath": EXPORT},
    ]
    config: dict[str, Any] = yaml.safe_load(_CONFIG.read_text())
    config["nodes"][0]["extraMounts"] = mounts
    # kind mounts it into the node, and a machine without kernel modules has none.
    Path("/lib/modules").mkdir(parents=True, exist_ok=True)
    command = ["create", "cluster", "--config", "-", "--retain", "--wait", "120s"]
    command += ["--image", image] if image else []
    try:
        _kind(
            cluster.name,
            *command,
            "--kubeconfig",
            cluster.kubeconfig,
            input=json.dumps(config),
            timeout=CREATE,
        )
        _wait_until_ready(cluster, READY)
    except CommandError as error:
        shown = _evidence(cluster)
        podman.remove(cluster.name)
        raise BedError(
            f"The cluster {cluster.name} did not become ready and was removed again; what it showed:\n"
            f"{error}\n{shown}"
        ) from error


def _kind(
    cluster: str, *arguments: str | Path, input: str | None = None, timeout: float | None = None
) -> None:
    command = [BIN / "kind", *arguments, "--name", cluster]
    log = LOGS / f"kind-{cluster}-{arguments[0]}.log"
    commands.run(command, env=podman.environment(), log=log, input=input, timeout=timeout)


def _wait_until_ready(cluster: Cluster, seconds: float) -> None:
    """Until pods can be made, find each other by name, and get volumes; CommandError if not in time."""
    deadline = time.monotonic() + seconds
    for wait in (
        "wait --for=condition=Ready node --all",
        "wait --for=create serviceaccount/default --namespace default",
        "rollout status deployment/coredns --namespace kube-system",
        "wait --for=create storageclass/standard",
        "rollout status deployment/local-path-provisioner --namespace local-path-storage",
    ):
        cluster.kubectl(*wait.split(), f"--timeout={max(deadline - time.monotonic(), 1):.0f}s")


def _evidence(cluster: Cluster) -> str:
    """The node's conditions and the pods; the logs behind them go to a file, which is named."""
    shown = []
    log = LOGS / f"cluster-{cluster.name}-failed.log"
    with log.open("w") as file:
        for one in podman.nodes(cluster.name):
            inside = ("exec", one.name)
            kubectl = (*inside, "kubectl", "--kubeconfig=/etc/kubernetes/admin.conf", "--request-timeout=10s")
            conditions = "{range .items[*].status.conditions[*]}{.type}={.status} {.message}{'\\n'}{end}"
            shown = [
                _output(*kubectl, "get", "nodes", "--output", f"jsonpath={conditions}"),
                _output(*kubectl, "get", "pods", "--all-namespaces", "--output", "wide"),
            ]
            file.writelines(shown)
            file.write(_output(*kubectl, "get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"))
            file.write(_output(*inside, "sh", "-c", "tail --lines=30 /var/log/pods/*/*/*.log"))
            file.write(_output(*inside, "journalctl", "--no-pager", "--lines=200"))
            file.write(_output("logs", one.name))
    return "\n".join([*shown, f"The logs behind this: {log}"])


def _output(*words: str) -> str:
    """Of a command on a node that may be broken: why it says nothing is evidence, too."""
    try:
        said = podman.run(*words)
    except CommandError as error:
        said = error.output.rstrip().rpartition("\n")[2]
    return f"$ {' '.join(words)}\n{said}\n"


def main(arguments: list[str]) -> int:
    """`python -m stack_backup_lab.bed cluster`."""
    parser = argparse.ArgumentParser(
        prog="python -m stack_backup_lab.bed cluster",
        description="Bring up a kind cluster, or find the one that is up, and say where its kubeconfig is.",
    )
    parser.add_argument("--name", default=NAME, help="the cluster's name (%(default)s)")
    parser.add_argument(
        "--export", type=Path, metavar="FOLDER", help=f"a folder that its nodes see as {EXPORT}"
    )
    parser.add_argument("--node", metavar="IMAGE", help="the node image to pull where a registry answers")
    parser.add_argument("--delete", action="store_true", help="remove it instead")
    options = parser.parse_args(arguments)
    if options.delete:
        delete(options.name)
        print(f"The cluster {options.name} is gone.")
    else:
        cluster = ensure(options.name, options.export, options.node)
        _lent(options.name).unlink(missing_ok=True)
        print(f"The cluster {cluster.name} is ready: export KUBECONFIG={cluster.kubeconfig}")
    return 0
