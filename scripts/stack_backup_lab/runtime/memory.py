"""The memory that a container may have, kept to by the kernel's control groups, and what a pod used of it.

A stack has one group, its pods have one below it, and their containers one each. As on a node, a
container's memory holds what it writes to volumes in memory, and the cache of the files that it reads and
writes, which the kernel takes back when the limit is reached.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from stack_backup_lab.runtime.folders import FOLDER, own_folder

ROOT = Path("/sys/fs/cgroup")
"""Where control groups are on every machine; their memory controller may be a folder below."""
SAMPLES = 0.1
"""Seconds between two looks at what a pod uses."""
POSTGRESQL = ("postgres", "pg_dumpall", "pg_dump")
"""Processes of PostgreSQL itself, which hold whole rows, have a budget of their own and are not counted."""


class Groups:
    """A folder of control groups, of which each may have a limit. Raises OSError where none can be made."""

    def __init__(self, name: str) -> None:
        root, self._unified = _hierarchy()
        parent = root / FOLDER
        self._delegate(root)
        parent.mkdir(exist_ok=True)
        self._delegate(parent)
        self.folder, self._lock = own_folder(name, parent, remove)
        self._delegate(self.folder)

    def _delegate(self, folder: Path) -> None:
        """Version 2 wants to be told for every folder whose groups shall have limits."""
        if self._unified:
            (folder / "cgroup.subtree_control").write_text("+memory")

    def make(self, pod: str, container: str, limit: int | None) -> Path:
        """The group of a container, with its limit in bytes."""
        parent = self.folder / pod
        if not parent.exists():
            parent.mkdir()
            self._delegate(parent)
        group = parent / container
        group.mkdir()
        if limit is not None and self._unified:
            (group / "memory.max").write_text(str(limit))
            (group / "memory.swap.max").write_text("0")
            (group / "memory.oom.group").write_text("1")  # as the kubelet does: all of the container ends
        elif limit is not None:
            (group / "memory.limit_in_bytes").write_text(str(limit))
            with_swap = group / "memory.memsw.limit_in_bytes"
            if with_swap.exists():
                with_swap.write_text(str(limit))
        return group

    def close(self) -> None:
        remove(self.folder)
        os.close(self._lock)


class Meter(threading.Thread):
    """Watches what the processes of some groups use, until `stop`.

    `peak` is the greatest sum seen, in bytes, of their private memory and of what `volumes` (in memory) hold.
    """

    def __init__(self, pod: Path, volumes: Sequence[Path]) -> None:
        super().__init__(daemon=True)
        self._pod, self._volumes = pod, volumes
        self._ended = threading.Event()
        self.peak = 0
        self.start()

    def run(self) -> None:
        while not self._ended.wait(SAMPLES):
            with contextlib.suppress(OSError):  # a group or volume that is just being taken away
                self.peak = max(self.peak, self._now())

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def _now(self) -> int:
        used = 0
        for processes in self._pod.glob("*/cgroup.procs"):
            for number in processes.read_text().split():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    used += _private(Path(f"/proc/{number}/status").read_text())
        for volume in self._volumes:
            status = os.statvfs(volume)
            used += (status.f_blocks - status.f_bfree) * status.f_frsize
        return used


def killed(pod: Path) -> bool:
    """Whether the kernel has ended a process of the pod for want of memory."""
    for name in ("memory.oom_control", "memory.events"):
        for file in pod.glob(f"*/{name}"):
            counts = dict(line.split() for line in file.read_text().splitlines())
            if counts["oom_kill"] != "0":
                return True
    return False


def remove(folder: Path) -> None:
    """Remove a group and all below it; one that still has processes stays, for the next run to remove."""
    for path in [*sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True), folder]:
        _remove(path)


def _remove(group: Path) -> None:
    # The last process of a group is counted for a moment after it has ended.
    for _ in range(100):
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.01)
        else:
            return


def _private(status: str) -> int:
    """Bytes of a process's private memory, from /proc/PID/status; none of PostgreSQL's own."""
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if fields["Name"].strip() in POSTGRESQL or "RssAnon" not in fields:  # a zombie has no memory
        return 0
    return int(fields["RssAnon"].split()[0]) * 1024


def _hierarchy() -> tuple[Path, bool]:
    """Where the groups of the memory controller are, and whether it is version 2. Raises OSError."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mounted, _, what = line.partition(" - ")
        root = Path(mounted.split()[4])
        kind, _, options = what.split(maxsplit=2)
        if kind == "cgroup" and "memory" in options.split(","):
            return root, False
        if kind == "cgroup2" and "memory" in (root / "cgroup.controllers").read_text().split():
            return root, True
    raise FileNotFoundError("no mounted control groups count memory")
