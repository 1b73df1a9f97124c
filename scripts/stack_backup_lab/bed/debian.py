"""Debian root file systems out of packages, with every package file downloaded once."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from stack_backup_lab.bed import BedError, progress, system
from stack_backup_lab.bed.commands import lock, run
from stack_backup_lab.paths import CACHE, LOGS

PACKAGES = ("mmdebstrap", "debian-archive-keyring")
"""Of this machine, to make root file systems with."""

OPTIONS = [
    "--mode=root",
    # The package files and lists are the cache itself, and /run has what packages need when they start.
    "--skip=essential/unlink,cleanup/apt,cleanup/run",
    *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")),
]
"""Of mmdebstrap, the same for every root file system."""


def bootstrap(
    name: str,
    suite: str,
    packages: Sequence[str],
    target: Path,
    *,
    seconds: float,
    variant: str = "minbase",
    hooks: Sequence[str] = (),
) -> None:
    """Install `packages` of a Debian suite into the new folder `target`.

    `hooks` are mmdebstrap's own options (`--customize-hook=...`), `seconds` a first estimate of the time it
    takes. An interrupted run leaves the downloaded package files for the next one.
    """
    system.ensure_packages(*PACKAGES)
    archives, lists = CACHE / "apt" / suite / "archives", CACHE / "apt" / suite / "lists"
    for folder in (archives, lists):
        (folder / "partial").mkdir(parents=True, exist_ok=True)
    # Mounts of a namespace of their own: they end with the command, however it ends.
    command = [*system.as_root(f"install packages into {target}"), "unshare", "--mount", "mmdebstrap"]
    command += [*OPTIONS, f"--variant={variant}", f"--include={','.join(packages)}"]
    command += [
        '--setup-hook=mkdir -p "$1/var/cache/apt/archives" "$1/var/lib/apt/lists"',
        f'--setup-hook=mount --bind "{archives}" "$1/var/cache/apt/archives"',
        f'--setup-hook=mount --bind "{lists}" "$1/var/lib/apt/lists"',
        '--customize-hook=umount "$1/var/cache/apt/archives" "$1/var/lib/apt/lists"',
        *hooks,
    ]
    with (
        lock(f"debian-{suite}"),  # apt wants its folders for itself
        progress.step(f"bootstrap {name}", f"{name}: installing Debian {suite} packages", seconds),
    ):
        run([*command, suite, target, *_sources(suite)], log=LOGS / f"bootstrap-{name.replace(':', '-')}.log")


def mirror() -> str:
    """The mirror of Debian's main archive that this machine uses. Raises BedError where it uses none."""
    if (place := _mirrors().get("")) is None:
        raise BedError(
            "This machine uses no mirror of Debian, from which Python's source would come; nothing was made. "
            "Where a container registry answers, set STACK_BACKUP_REGISTRY=always."
        )
    return place.rstrip("/")


def _sources(suite: str) -> list[str]:
    """Lines for sources.list: another suite from the mirrors that this machine itself uses.

    None on a machine that is no Debian, or names no suite: mmdebstrap knows Debian's public mirror.
    """
    return [f"deb {place} {suite}{part} main" for part, place in _mirrors().items()]


def _mirrors() -> dict[str, str]:
    """This machine's mirrors by the part of the archive: "" (the main one), "-updates", "-security"."""
    release = platform.freedesktop_os_release()
    host = release.get("VERSION_CODENAME", "")
    listed = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(REPO_URI)", "Identifier: Packages"])
    mirrors = dict(line.split(maxsplit=1) for line in listed.splitlines())
    if release["ID"] != "debian" or host not in mirrors:
        return {}
    return {part: mirrors[host + part] for part in ("", "-updates", "-security") if host + part in mirrors}
