"""Debian packages of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

from stack_backup_lab.bed import BedError, progress
from stack_backup_lab.bed.commands import CommandError, lock, run
from stack_backup_lab.paths import LOGS

SANDBOX = {
    "bwrap": "bubblewrap",
    "ip": "iproute2",
    "mkfs.ext4": "e2fsprogs",
    "tune2fs": "e2fsprogs",
    "mount": "mount",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "unshare": "util-linux",
}
"""Commands that the local runtime stands on, with the Debian package that brings each."""
NFS = ("nfs-ganesha", "nfs-ganesha-vfs", "user-mode-linux", "slirp", "kmod", "iproute2")
"""Packages of a real NFS server and client."""
CURL = ("curl",)
"""Signs requests to the S3 server that rclone has no command for."""

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def ensure_packages(*names: str) -> None:
    """Install those of these Debian packages that are missing. Raises BedError with a sentence."""
    if not names:
        return
    require_debian()
    if not (missing := _missing(names)):
        return
    with lock("system-packages"):
        if not (missing := _missing(names)):
            return  # another process has just installed them
        listed = " ".join(missing)
        apt = [*as_root(f"install {listed}"), "apt-get", "--quiet", "--option=DPkg::Lock::Timeout=300"]
        environment = {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        with progress.step(f"install {listed}", f"Installing Debian packages: {listed}", 30):
            try:
                run([*apt, "update"], log=LOGS / "apt-update.log", env=environment)
            except CommandError as error:
                # One dead third-party source is no reason to stop: the installation decides.
                print(f"The package lists were not all renewed (see {LOGS / 'apt-update.log'}).", flush=True)
                updated: CommandError | None = error
            else:
                updated = None
            command = [*apt, "install", "--yes", "--no-install-recommends", *missing]
            try:
                run(command, log=LOGS / "apt-install.log", env=environment)
            except CommandError as error:
                raise BedError(f"{listed} could not be installed: {error}") from (updated or error)


def sandbox() -> set[str]:
    """What to install for `SANDBOX`. A command that is there needs no package: so any Linux will do."""
    return {package for command, package in SANDBOX.items() if shutil.which(command) is None}


def require_debian() -> str:
    """Debian's name of this machine's architecture, or a BedError that says what is supported."""
    machine = platform.machine()
    if not sys.platform.startswith("linux") or machine not in ARCHITECTURES or not shutil.which("apt-get"):
        raise BedError(
            "Setting up this machine needs Debian or a relative of it (apt-get) on x86_64 or arm64, and this "
            f"is {platform.system()} on {machine}; nothing was installed."
        )
    return ARCHITECTURES[machine]


def as_root(purpose: str) -> list[str]:
    """The words to put before a command that needs root: none, or sudo. A BedError where neither is there."""
    if os.geteuid() == 0:
        return []
    if not shutil.which("sudo"):
        raise BedError(f"Root is needed to {purpose}, and sudo is not installed: run this again as root.")
    if sys.stdin.isatty():
        return ["sudo"]
    try:
        run(["sudo", "--non-interactive", "true"])
    except CommandError as error:
        raise BedError(
            f"Root is needed to {purpose}, and sudo wants a password but there is no terminal to ask for it: "
            "run this again in a terminal, or as root."
        ) from error
    return ["sudo", "--non-interactive"]


def remove(folder: Path) -> None:
    """Remove a folder, if it is there, also where root has written into it."""
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        return
    except PermissionError:
        run([*as_root(f"remove {folder}"), "rm", "-rf", "--one-file-system", folder])


def _missing(names: tuple[str, ...]) -> list[str]:
    try:
        printed = run(["dpkg-query", "--show", "--showformat", "${Package} ${db:Status-Status}\n", *names])
    except CommandError as error:
        printed = error.output  # names that dpkg has never heard of make it end with status 1
    installed = {line.split()[0] for line in printed.splitlines() if line.endswith(" installed")}
    return [name for name in dict.fromkeys(names) if name not in installed]
