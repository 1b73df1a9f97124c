"""The container engine under kind: Docker where its daemon answers, else podman.

Both take the commands used here. Nothing is stopped or removed but the nodes that `nodes()` names for a
cluster, their volumes, and the network that this project's clusters share.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stack_backup_lab.bed import BedError, system
from stack_backup_lab.bed.commands import CommandError

PACKAGES = ("podman", "runc", "containernetworking-plugins", "iptables")
NETWORK = "stack-backup"
MARK = "/stack-backup"
"""Where a node of ours has the folder that marks it: a mount can be read from dead nodes, too."""

_SETTINGS = Path(__file__).parent / "node_image" / "containers.conf"


@dataclass(frozen=True)
class Node:
    """One node's container, running or not. `mounts` maps its paths to the folders of this machine."""

    id: str
    name: str
    mounts: dict[str, str]

    @property
    def ours(self) -> bool:
        return MARK in self.mounts

    @property
    def alive(self) -> bool:
        """Asked by running something in it: an engine whose processes were killed lists its nodes as up."""
        return succeeds("exec", self.name, "true")


def installed() -> str | None:
    """The engine that this machine has, if any: `docker` where its daemon answers, else `podman`."""
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True).returncode == 0:
        return "docker"
    return "podman" if shutil.which("podman") else None


@cache
def engine() -> str:
    """`docker` or `podman`; podman is installed where neither is."""
    found = installed()
    # Where the settings are ours they name runc, which a podman that was there need not have brought.
    if found is None or (found == "podman" and not _has_systemd()):
        system.ensure_packages(*PACKAGES)
    return found or "podman"


def _has_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def environment() -> dict[str, str]:
    """What the engine and kind need in their environment, beside what is there."""
    if engine() == "docker":
        return {"KIND_EXPERIMENTAL_PROVIDER": "docker"}
    # kind's usual network may hold other people's clusters; one of our own can go with our last cluster.
    chosen = {"KIND_EXPERIMENTAL_PROVIDER": "podman", "KIND_EXPERIMENTAL_PODMAN_NETWORK": NETWORK}
    if not _has_systemd():
        chosen["CONTAINERS_CONF"] = os.environ.get("CONTAINERS_CONF", str(_SETTINGS))
    return chosen


def run(*arguments: str | Path) -> str:
    """One command of the engine; what it wrote to standard output (its warnings go elsewhere)."""
    command = [engine(), *map(str, arguments)]
    ended = subprocess.run(command, env=os.environ | environment(), capture_output=True, text=True)
    if ended.returncode != 0:
        said = ended.stderr.strip()
        raise CommandError(f"`{' '.join(command)}` failed: {said}", ended.returncode, ended.stdout + said)
    return ended.stdout


def succeeds(*arguments: str | Path) -> bool:
    try:
        run(*arguments)
    except CommandError:
        return False
    return True


def nodes(cluster: str) -> list[Node]:
    """The nodes that kind made for a cluster of this name, whoever asked for it."""
    listed = run("ps", "--all", "--quiet", "--filter", f"label=io.x-k8s.kind.cluster={cluster}").split()
    if not listed:
        return []
    return [
        Node(
            container["Id"],
            container["Name"].lstrip("/"),
            {one["Destination"]: one["Source"] for one in container["Mounts"]},
        )
        for container in json.loads(run("inspect", "--type", "container", *listed))
    ]


def remove(cluster: str) -> None:
    """Remove a cluster's nodes and volumes, dead or alive, and the network once no cluster is in it."""
    for node in nodes(cluster):
        _end(node)
        run("rm", "--force", "--volumes", node.name)
        if engine() == "podman":
            # Of a node that was killed from outside, podman leaves record and cgroups behind.
            runtime = run("info", "--format", "{{.Host.OCIRuntime.Name}}").strip()
            subprocess.run([runtime, "delete", "--force", node.id], capture_output=True, check=False)
    # kind labels a node's volume with the node's name; a run killed early leaves one without a node.
    volumes = run("volume", "ls", "--quiet", "--filter", f"label={cluster}-control-plane").split()
    if volumes:
        run("volume", "rm", *volumes)
    if engine() == "podman":
        succeeds("network", "rm", NETWORK)  # refused while a node of another cluster is in it


def _end(node: Node) -> None:
    """Kill what runs of a node, and see it end: an engine that removes it earlier leaves things behind."""
    # Not asked to shut down, which takes ten seconds for nothing. A node that is dead already refuses.
    succeeds("kill", node.name)
    deadline = time.monotonic() + 60
    while _runs(node):
        _thaw(node)
        if time.monotonic() > deadline:
            raise BedError(
                f"The node {node.name} did not end within a minute of being killed; nothing was removed. "
                "Run the same command again when the machine is less busy."
            )
        time.sleep(0.2)


def _thaw(node: Node) -> None:
    """What is killed while its container starts may be frozen (cgroup v1), and then cannot end."""
    for folder, _, files in os.walk("/sys/fs/cgroup/freezer"):
        if node.id in folder and "freezer.state" in files:
            with suppress(OSError):  # other parts of the node vanish meanwhile
                Path(folder, "freezer.state").write_text("THAWED")


def _runs(node: Node) -> bool:
    """Whether the node's first process is there: the engine itself may have missed its end."""
    pid = run("inspect", "--format", "{{.State.Pid}}", node.name).strip()
    try:
        return (
            node.id in Path(f"/proc/{pid}/cgroup").read_text()
        )  # the number may be another process's by now
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_image(name: str) -> bool:
    return succeeds("image", "inspect", name)


def import_image(archive: Path, name: str, *changes: str) -> None:
    """Make an image of a root file system's tar. `changes` are lines of a Dockerfile."""
    run("import", *(word for change in changes for word in ("--change", change)), archive, name)
