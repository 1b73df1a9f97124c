"""`python -m stack_backup_lab.bed`: the tools, images and clusters that demo and tests need."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys

from stack_backup_lab.bed import BedError, images, node, prepare, tools
from stack_backup_lab.paths import CACHE, PROJECT

LEFT_BY_MAKE = (".cache", ".venv", ".pytest_cache", ".mypy_cache", ".ruff_cache", "build")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m stack_backup_lab.bed", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for command, help in (
        ("tools", "build or link the tools into .cache/bin"),
        ("images", "make or pull the root file systems of the workload images"),
    ):
        commands.add_parser(command, help=help).add_argument(
            "--names", type=lambda text: text.split(","), help="some of them only, separated by commas"
        )
    commands.add_parser("prepare", help="make all that a command of make needs").add_argument(
        "purpose", choices=prepare.PURPOSES
    )
    commands.add_parser("cluster", help="make a kind cluster, or find it", add_help=False)
    commands.add_parser("clean", help="remove what make wrote into this folder, and the test cluster")
    options, rest = parser.parse_known_args(arguments)
    if options.command == "cluster":
        from stack_backup_lab.bed import kind_cluster

        return kind_cluster.main(rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if options.command == "tools":
        tools.ensure(*(options.names or _useful()))
    elif options.command == "prepare":
        prepare.prepare(options.purpose)
    elif options.command == "images":
        for name in options.names or images.IMAGES:
            print(f"{name}: {images.rootfs(name)}")
    else:
        clean()
    return 0


def _useful() -> list[str]:
    """Every tool, but for what is only in a node image of our own where such an image can be pulled."""
    every = [*tools.TOOLS, *tools.PACKAGED]
    if not images.registry_answers():
        return every
    return [name for name in every if name not in node.BUILT or name == "kubectl"]


def clean() -> None:
    """Remove this clone's clusters, and all in its folder that git ignores and make writes."""
    from stack_backup_lab.bed import kind_cluster

    for kubeconfig in sorted((PROJECT / ".cache").glob("*.kubeconfig")):
        kind_cluster.delete(kubeconfig.stem)
    for name in LEFT_BY_MAKE:
        shutil.rmtree(PROJECT / name, ignore_errors=True)
    as_root = "" if os.geteuid() == 0 else "sudo "  # root file systems have files of root
    print(f"What took long to make is kept for the next time; to remove that too: {as_root}rm -rf {CACHE}")


if __name__ == "__main__":
    # A shell's background jobs ignore interrupts; and who ends a run of CI ends what it builds, too.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        sys.exit(main(sys.argv[1:]))
    except BedError as failure:
        sys.exit(f"stack-backup: {failure}")
    except KeyboardInterrupt:
        sys.exit("stack-backup: interrupted; run the same command again to go on where it stopped.")
