"""Python for the stand-in of its public image: upstream's source, built in a throw-away Debian."""

from __future__ import annotations

from pathlib import Path

from stack_backup_lab.bed import debian, progress, system
from stack_backup_lab.bed.commands import run
from stack_backup_lab.paths import CACHE, LOGS

VERSION = "3.13.5"
SHA256 = "93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640"
"""Of upstream's own archive, which Debian's next suite carries as it is."""
_ARCHIVE = f"pool/main/p/python3.13/python3.13_{VERSION}.orig.tar.xz"

LIBRARIES = (
    *("libbz2-1.0", "libffi8", "libgdbm6", "liblzma5", "libncursesw6", "libreadline8", "libsqlite3-0"),
    *("libssl3", "libuuid1", "zlib1g"),
)
"""Packages with what its modules are linked to: the public image has these, and a database image some."""
_BUILD = (
    *("gcc", "libc6-dev", "make", "xz-utils"),
    *("libbz2-dev", "libffi-dev", "libgdbm-dev", "liblzma-dev", "libncurses-dev", "libreadline-dev"),
    *("libsqlite3-dev", "libssl-dev", "uuid-dev", "zlib1g-dev"),
)
_SCRIPT = Path(__file__).parent / "image_scripts" / "python.sh"

# Configuring asks the machine what it has: without these mounts Python would have no semaphores.
_COMMANDS = """
cp "$1" "$3/source.tar.xz"
cp "$2" "$3/python.sh"
mount -t proc proc "$3/proc"
mkdir -p "$3/dev/shm"
mount -t tmpfs shm "$3/dev/shm"
exec chroot "$3" /python.sh
"""

MADE_OF = (VERSION, SHA256, _BUILD, _SCRIPT.read_text())
"""All that decides what `install` brings."""


def install(suite: str, root: Path) -> None:
    """Build Python in a Debian of `suite` and put its /usr/local into the root file system `root`."""
    source = _source()
    as_root = system.as_root("build Python")
    build = root.with_name(f"{root.name}.build")
    system.remove(build)
    try:
        debian.bootstrap("python-build", suite, _BUILD, build, seconds=60)
        with progress.step("build python", f"Building Python {VERSION}", 200):
            run(
                [*as_root, "unshare", "--mount", "sh", "-euc", _COMMANDS, "sh", source, _SCRIPT, build],
                log=LOGS / "build-python.log",
            )
        run([*as_root, "cp", "--archive", "--no-target-directory", build / "usr/local", root / "usr/local"])
        run([*as_root, "chroot", root, "ldconfig"])
    finally:
        system.remove(build)


def _source() -> Path:
    """The archive of the source in the cache, fetched as apt fetches: through its proxies, and checked."""
    target = CACHE / "sources" / Path(_ARCHIVE).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        fetch: list[str | Path] = [
            "/usr/lib/apt/apt-helper",
            "download-file",
            f"{debian.mirror()}/{_ARCHIVE}",
            partial,
        ]
        run([*fetch, f"SHA256:{SHA256}"])
        partial.rename(target)
    return target
