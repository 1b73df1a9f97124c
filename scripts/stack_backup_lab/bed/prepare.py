"""All that a command of make needs, made before it begins: side by side, as a compiler and a download seldom
wait for the same thing.

Runs without the project's Python environment too: that is one of the things which are made.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from stack_backup_lab.bed import (
    BedError,
    ansible,
    commands,
    debian,
    images,
    node,
    podman,
    policy,
    progress,
    prometheus,
    system,
    tools,
)
from stack_backup_lab.paths import LOGS, PROJECT

Start = Callable[..., None]

STACK = "stack-database:15"
"""The image of the stories' databases."""
LOADED = (STACK, images.RCLONE, images.PYTHON)
"""What a cluster is given."""
MOLECULES = ("rdkit-data",)
REGISTRY = ("docker-registry",)
POLICY = ("kube-score", "actionlint")
STORE = "minio"
"""The S3 server with versions and object locks."""
METRICS = "kube-state-metrics"
"""What tells Prometheus of a cluster's jobs."""
LINT = ("helm", "helm3", "ct", "kubeconform", "helm-docs", "shfmt", "shellcheck", "actionlint")


def demo(start: Start) -> None:
    """The story on this machine."""
    start(_environment)
    start(tools.ensure_any_helm)
    _packages(*system.sandbox(), *MOLECULES)
    # What is compiled in it takes longest.
    for name in (images.PYTHON, STACK):
        start(images.rootfs, name)


def demo_cluster(start: Start) -> None:
    """The story on two clusters."""
    start(_environment)
    _packages(*system.sandbox(), *MOLECULES)
    _cluster(start)
    start(tools.ensure, "helm")


def jobs(start: Start) -> None:
    """Each program for real on this machine."""
    start(prometheus.ensure)
    start(tools.ensure, "helm", STORE)
    _packages(*system.sandbox(), *system.NFS, *system.CURL)
    for name in images.IMAGES:
        start(images.rootfs, name)


def scale(start: Start) -> None:
    """The whole story with production's proportions, on this machine."""
    start(tools.ensure, "helm")
    _packages(*system.sandbox())
    for name in (images.PYTHON, "postgres:15"):
        start(images.rootfs, name)


def judges(start: Start) -> None:
    """What judges the rendered chart and the workflows."""
    start(tools.ensure, "helm", *POLICY)
    start(policy.ensure)
    start(_release)


def test(start: Start) -> None:
    """Every test."""
    machine = (*system.sandbox(), *system.NFS, *system.CURL)
    _packages(*machine, *MOLECULES, *REGISTRY, *tools.PACKAGED.values())
    start(tools.ensure, *LINT, *POLICY, STORE, METRICS)
    start(prometheus.definitions)
    for name in images.IMAGES:
        start(images.rootfs, name)
    _cluster(start)
    for environment in (ansible, policy, prometheus):
        start(environment.ensure)
    start(_release)


PURPOSES: dict[str, Callable[[Start], None]] = {
    "demo": demo,
    "demo-cluster": demo_cluster,
    "jobs": jobs,
    "policy": judges,
    "scale": scale,
    "test": test,
}


def prepare(purpose: str) -> None:
    """Make all that `purpose` needs. What fails keeps nothing else from being made. Raises BedError."""
    begun: list[Future[Any]] = []
    with ThreadPoolExecutor(max_workers=32) as pool:

        def start(call: Callable[..., Any], *arguments: Any) -> None:
            begun.append(pool.submit(call, *arguments))

        start(PURPOSES[purpose], start)
        try:
            while under_way := [one for one in begun if not one.done()]:
                wait(under_way)
        except BaseException:
            commands.stop()
            raise
    errors = [error for one in begun if (error := one.exception()) is not None]
    for error in errors:
        if not isinstance(error, BedError):
            raise error
    if errors:
        raise BedError("\n".join(dict.fromkeys(map(str, errors))))


def _packages(*names: str) -> None:
    """Debian packages of this machine in one go, with those that images are made with."""
    engine = podman.PACKAGES if podman.installed() is None else ()
    system.ensure_packages(*names, *debian.PACKAGES, *engine)
    images.registry_answers()  # asked, and said, once


def _cluster(start: Start) -> None:
    """A cluster with its images. The node's programs are built while Debian is unpacked."""
    start(tools.ensure, "kind", "kubectl")
    if not images.registry_answers():
        start(tools.ensure, *node.BUILT)
        start(node.image)
    for name in LOADED:
        start(images.archive, name)


def _environment() -> None:
    """The project's Python packages, where the lock has changed since they were installed."""
    with progress.step("python environment", "Installing Python packages", 40):
        commands.run(["make", "--no-print-directory", ".venv/.installed"], cwd=PROJECT, log=LOGS / "venv.log")


def _release() -> None:
    """What sets a version and lists what is in a release."""
    with progress.step("release tools", "Installing the tools of a release", 20):
        target = ".cache/release/.installed"
        commands.run(["make", "--no-print-directory", target], cwd=PROJECT, log=LOGS / "release.log")
