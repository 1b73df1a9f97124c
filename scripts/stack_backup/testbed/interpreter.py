"""Python for the stand-in of its public image: upstream's source, built in a throw-away Debian."""

from __future__ import annotations

import shutil
from pathlib import Path

from stack_backup.testbed import debian, progress, system
from stack_backup.testbed.paths import CACHE, LOGS
from stack_backup.testbed.process import run

VERSION = "3.13.5"
SHA256 = "93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640"
"""Of upstream's own archive, which Debian's next suite carries as it is."""
_ARCHIVE = f"pool/main/p/python3.13/python3.13_{VERSION}.orig.tar.xz"

LIBRARIES = ("libbz2-1.0", "libffi8", "libgdbm6", "liblzma5", "libncursesw6", "libreadline8")
LIBRARIES += ("libsqlite3-0", "libssl3", "libuuid1", "zlib1g")
"""Packages with what its modules are linked to: the public image has these, and a database image some."""
_BUILD = ("gcc", "libc6-dev", "make", "xz-utils", "libbz2-dev", "libffi-dev", "libgdbm-dev", "liblzma-dev")
_BUILD += ("libncurses-dev", "libreadline-dev", "libsqlite3-dev", "libssl-dev", "uuid-dev", "zlib1g-dev")
_SCRIPT = Path(__file__).parent / "image" / "python.sh"

MADE_OF = (VERSION, SHA256, _BUILD, _SCRIPT.read_text())
"""All that decides what `install` brings."""


def install(suite: str, root: Path) -> None:
    """Build Python in a Debian of `suite` and put its /usr/local into the root file system `root`."""
    source = _source()
    build = root.with_name(f"{root.name}.build")
    system.remove(build)
    try:
        debian.bootstrap("python-build", suite, _BUILD, build, seconds=60)
        shutil.copy(source, build / "source.tar.xz")
        shutil.copy(_SCRIPT, build / "python.sh")
        # Configuring asks the machine what it has: without these mounts Python would have no semaphores.
        mounts = 'mount -t proc proc "$1/proc" && mkdir -p "$1/dev/shm" && mount -t tmpfs shm "$1/dev/shm"'
        alone = [*system.as_root("build Python"), "unshare", "--mount", "sh", "-euc"]
        with progress.step("build python", f"Building Python {VERSION}", 200):
            run(
                [*alone, f'{mounts}; exec chroot "$1" /python.sh', "sh", build],
                log=LOGS / "build-python.log",
            )
        copy = [*system.as_root("install Python"), "cp", "--archive", "--no-target-directory"]
        run([*copy, build / "usr/local", root / "usr/local"])
        run([*system.as_root("install Python"), "chroot", root, "ldconfig"])
    finally:
        system.remove(build)


def _source() -> Path:
    """The archive of the source in the cache, fetched as apt fetches: through its proxies, and checked."""
    target = CACHE / "sources" / Path(_ARCHIVE).name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.unlink(missing_ok=True)
        fetch = ["/usr/lib/apt/apt-helper", "download-file", f"{debian.mirror()}/{_ARCHIVE}", partial]
        run([*fetch, f"SHA256:{SHA256}"])
        partial.rename(target)
    return target
