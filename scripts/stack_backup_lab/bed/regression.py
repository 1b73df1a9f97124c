"""PostgreSQL's own regression tests, for an image that has the server: upstream's files out of Debian's
source package, beside upstream's program pg_regress, which Debian ships.
"""

from __future__ import annotations

from pathlib import Path

from stack_backup_lab.bed import debian, system
from stack_backup_lab.bed.commands import run

_BUILD = ("bzip2", "gcc", "libc6-dev", "xz-utils")
_SCRIPT = Path(__file__).parent / "image_scripts" / "regression.sh"

MADE_OF = (_BUILD, _SCRIPT.read_text())
"""All that decides what `install` brings."""


def install(major: int, suite: str, root: Path) -> None:
    """Build the tests' library in a Debian of `suite`, and put it and the tests into the root file system
    `root`, for the server of that major version.
    """
    build = root.with_name(f"{root.name}.build")
    system.remove(build)
    try:
        hook = f'--customize-hook=sh "{_SCRIPT}" "$1" {major}'
        debian.bootstrap("regression-build", suite, _BUILD, build, seconds=40, hooks=[hook])
        as_root = system.as_root("copy the regression tests")
        run([*as_root, "cp", "--archive", "--no-target-directory", build / "regression/usr", root / "usr"])
    finally:
        system.remove(build)
