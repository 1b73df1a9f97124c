"""Prometheus and promtool of this machine's Debian, unpacked: installing the package would start a server.
They would build from Go modules, too, but in four minutes where this takes seconds.

And the custom resources that Prometheus Operator adds to a cluster, from its own Go module.
"""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path

from stack_backup_lab.bed import BedError, progress, system
from stack_backup_lab.bed.commands import CommandError, lock, run
from stack_backup_lab.bed.tools import MODULES, into_place, require_go
from stack_backup_lab.paths import CACHE, LOGS

PACKAGE = "prometheus"
OPERATOR = "github.com/prometheus-operator/prometheus-operator"
MODULE = MODULES / "prometheus-operator"
"""Where it is pinned."""
RESOURCES = ("podmonitors", "prometheusrules")
"""Those that the chart makes objects of."""


def ensure() -> Path:
    """The folder of `prometheus` and `promtool`, unpacked where it is not there. Raises BedError."""
    system.require_debian()
    suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "unnamed")
    home = CACHE / f"{PACKAGE}-{suite}-{platform.machine()}"
    with lock(PACKAGE):
        if not home.exists():
            with progress.step(PACKAGE, "Unpacking Prometheus (20 MB)", 5):
                into_place(home, _unpack)
    return home / "usr" / "bin"


def _unpack(folder: Path) -> None:
    try:
        _download(folder)
    except CommandError:
        # A machine that has never asked has no lists of packages.
        run(
            [*system.as_root("renew the package lists"), "apt-get", "--quiet", "update"],
            log=LOGS / "apt-update.log",
        )
        _download(folder)
    packages = list(folder.glob("*.deb"))
    if len(packages) != 1:
        raise BedError(
            f"apt-get downloaded {len(packages)} packages of {PACKAGE}, not one; none was unpacked."
        )
    run(["dpkg-deb", "--extract", packages[0], folder])
    packages[0].unlink()
    for needless in ("etc", "lib", "usr/share", "var"):
        shutil.rmtree(folder / needless, ignore_errors=True)


def _download(folder: Path) -> None:
    run(["apt-get", "--quiet", "download", PACKAGE], cwd=folder, log=LOGS / f"{PACKAGE}.log")


def definitions() -> list[Path]:
    """The CustomResourceDefinitions of RESOURCES, in the unpacked Go module. Raises BedError."""
    require_go("The module of Prometheus Operator", "fetched")
    command = ["go", "mod", "download", "-json", OPERATOR]
    environment = {"GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}
    with lock("prometheus-operator"):
        module = json.loads(run(command, cwd=MODULE, env=environment))
    folder = Path(module["Dir"]) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{name}.yaml" for name in RESOURCES]
