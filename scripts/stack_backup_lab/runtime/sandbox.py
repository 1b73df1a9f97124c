"""Namespaces of one stack, and containers in them: what the local runtime stands on.

Everything a stack starts or mounts lives in namespaces that a holder process keeps open, and the holder
ends when its standard input closes. So however this process ends, by an exception or by `kill -9`, the
kernel ends every process of the stack with it and takes back its mounts and its network. Only the stack's
folder can remain: it is recognised by its place and by a lock that nobody holds, and removed when the next
stack is made.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO

from stack_backup_lab.bed.system import SANDBOX
from stack_backup_lab.runtime import StackError
from stack_backup_lab.runtime.folders import FOLDER, own_folder
from stack_backup_lab.runtime.memory import ROOT, Groups

UNLIMITED = "STACK_BACKUP_MEMORY"
"""Variable that, set to `unlimited`, lets pods run without memory limits."""


class SandboxError(StackError):
    """The machine cannot hold a stack, or a container was asked for something that cannot be honoured."""


def tool(name: str) -> str:
    """The absolute path of one of `SANDBOX`: where they are called, PATH is the container's."""
    path = shutil.which(name)
    if path is None:
        raise SandboxError(f"{name} is missing on this machine: install the package {SANDBOX[name]}.")
    return path


@dataclass(frozen=True)
class Bind:
    """A file or folder of the stack (as its mount namespace sees it), shown in a container at `target`."""

    source: Path
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Container:
    """What runs, as whom, and all that it sees.

    `command` is executed without a shell, `groups` are the supplementary groups. `rootfs` is never written:
    changes go to a layer in memory that ends with the container, or are refused (`read_only_root`). The
    commands named in `without` are missing from the image's /usr/bin. `group` is the control group that it
    runs in.
    """

    name: str
    rootfs: Path
    command: Sequence[str]
    uid: int
    gid: int
    environment: Mapping[str, str]
    groups: Sequence[int] = ()
    binds: Sequence[Bind] = ()
    read_only_root: bool = True
    hostname: str = "localhost"
    workdir: str = "/"
    without: Collection[str] = ()
    group: Path | None = None


class Process:
    """A running container. Its first process is PID 1 of a PID namespace of its own, as in a pod."""

    def __init__(
        self,
        namespaces: Namespaces,
        container: Container,
        popen: subprocess.Popen[bytes],
        status: IO[str],
        layer: Path,
    ) -> None:
        self._namespaces = namespaces
        self._container = container
        self._popen = popen
        # bubblewrap writes here once more at the end, and would die of a closed pipe.
        self._status = status
        first = status.readline()
        if not first:
            raise SandboxError(
                f"bubblewrap could not start a container: exit {popen.wait()}; see its output."
            )
        self._pid = int(json.loads(first)["child-pid"])
        self._layer: Path | None = layer

    @property
    def stdin(self) -> IO[bytes]:
        """The container's standard input, where it was started with a pipe."""
        assert self._popen.stdin is not None
        return self._popen.stdin

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to PID 1, as the kubelet does; one that is not caught there is lost, except KILL."""
        if self.running:
            self._namespaces.run(["bash", "-c", f"kill -{int(number)} {self._pid}"], check=False)

    def execute(self, command: Sequence[str]) -> bytes:
        """What a command prints that runs in the container beside its first process: `kubectl exec`."""
        user = (f"--setuid={self._container.uid}", f"--setgid={self._container.gid}")
        target = (f"--target={self._pid}", "--mount", "--pid", "--ipc", "--uts")
        return subprocess.run(
            [*self._namespaces.enter(), tool("nsenter"), *target, *user, "--", *command],
            env=dict(self._container.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            check=False,
        ).stdout

    def wait(self, timeout: float | None = None) -> int:
        """The exit code (128 + signal for a killed one). Raises subprocess.TimeoutExpired."""
        if timeout is not None:  # `Popen.wait` would look only now and then
            self._until(timeout)
        code = self._popen.wait(None if timeout is None else 0)
        if self._layer is not None:
            self._status.close()
            self._namespaces.unmount(self._layer)
            self._layer = None
        # Where memory groups are of version 2, bubblewrap itself is killed with all else of its group.
        return 128 - code if code < 0 else code

    def _until(self, timeout: float) -> None:
        """Wait for the end, at most `timeout` seconds."""
        if self.running:
            ended = os.pidfd_open(self._popen.pid)
            select.select([ended], [], [], timeout)
            os.close(ended)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()


class Namespaces:
    """A network (loopback only), a PID and a mount namespace, and a folder: all that a stack has.

    A context manager. Mounts made inside are seen from outside below `seen()`, and nowhere else.
    """

    def __init__(self, name: str) -> None:
        if os.geteuid() != 0:
            raise SandboxError("The local runtime makes namespaces and mounts: run it as root (sudo).")
        for command in SANDBOX:
            tool(command)
        self._layers = itertools.count(1)
        self.folder, self._lock = own_folder(name)
        self._holder = subprocess.Popen(
            [
                *(
                    tool("unshare"),
                    "--net",
                    "--mount",
                    "--pid",
                    "--fork",
                    "--mount-proc",
                    "--kill-child=KILL",
                ),
                *("bash", "-c", "ip link set lo up && echo ready && read -r _", f"{FOLDER}:{name}"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            self.close()
            raise SandboxError("No namespaces can be made on this machine: see the message of unshare above.")

    @cached_property
    def groups(self) -> Groups:
        """The control groups of the stack, made when the first is needed."""
        try:
            return Groups(self.folder.name.rpartition("-")[0])
        except OSError as error:
            raise SandboxError(
                f"No control groups can be made on this machine ({error}), so no memory limit of a pod would "
                f"hold. Let root write to {ROOT}, or set {UNLIMITED}=unlimited to do without limits."
            ) from error

    def __enter__(self) -> Namespaces:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the stack, and remove its folder."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.wait()
        self._holder.stdout.close()
        if "groups" in vars(self):
            self.groups.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)

    def seen(self, path: Path) -> Path:
        """`path` of the stack's mount namespace, as this process reaches it (mounts made inside included)."""
        return Path(f"/proc/{self._holder.pid}/root{path}")

    def run(self, command: Sequence[str], *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine as root inside; its failure is a SandboxError with its message."""
        done = subprocess.run([*self.enter(), *command], check=False, capture_output=True, text=True)
        if check and done.returncode != 0:
            raise SandboxError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
        return done

    def popen(
        self, command: Sequence[str], output: IO[bytes] | int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start a command of this machine as root inside, the first of a process group of its own.

        It has a PID namespace: whatever it starts, in whichever group, ends when the group is killed.
        """
        alone = [tool("unshare"), "--mount-proc", "--pid", "--fork", "--kill-child=KILL"]
        return subprocess.Popen(
            [*self.enter(), *alone, "bash", "-c", '"$@"; exit', "bash", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def mount(self, kind: str, target: Path, options: str) -> None:
        """Mount a file system that needs no source."""
        self.run(["mount", "-t", kind, "-o", options, kind, str(target)])

    def lay_over(self, lower: Path, layer: Path, target: Path) -> None:
        """Show `lower` at `target`: never written, for changes go to `layer`, a folder in memory."""
        for name in ("upper", "work"):
            (self.seen(layer) / name).mkdir()
        # Named through a link, for a colon in its own path would separate layers.
        (self.seen(layer) / "lower").symlink_to(lower)
        self.mount("overlay", target, f"lowerdir={layer}/lower,upperdir={layer}/upper,workdir={layer}/work")

    def mount_disk(self, image: Path, target: Path, size: int) -> None:
        """Mount a file system on disk with room for `size` bytes, whose content lies in the new file `image`.

        Memory would be charged to the container that writes, as no disk is.
        """
        inodes = max(size // 16384, 1024)
        # What the file system takes for itself, and never less: the rest is set aside once it is known.
        whole = size + inodes * 256 + 2**17 + size // 4096 + min(size // 49, 2**24)
        self.run(["truncate", f"--size={whole}", str(image)])
        # Empty and gone in a moment: without a journal, and without writing the tables of inodes in advance.
        features = ["-b", "4096", "-I", "256", "-N", str(inodes), "-O", "^has_journal,^resize_inode"]
        lazy = ["-E", "lazy_itable_init=1,nodiscard", "-m", "0"]
        self.run(["mkfs.ext4", "-q", "-F", *features, *lazy, str(image)])
        mount = ["mount", "-t", "ext4", "-o", "loop,noatime,barrier=0,noinit_itable", str(image), str(target)]
        self.run(mount)
        status = os.statvfs(self.seen(target))
        self.unmount(target)
        aside = status.f_bavail - -(-size // status.f_bsize)
        self.run(["tune2fs", "-r", str(aside), str(image)])
        self.run(mount)
        (self.seen(target) / "lost+found").rmdir()

    def unmount(self, target: Path) -> None:
        """Unmount `target` and all below it; lazily, for a process that was just killed may still hold it."""
        self.run(["umount", "--recursive", "--lazy", str(target)])

    def start(
        self, container: Container, output: IO[bytes] | int, *, stdin: int = subprocess.DEVNULL
    ) -> Process:
        """Start a container; both its output streams go to `output`. Raises SandboxError if it cannot
        start.
        """
        layer = self.folder / "layers" / str(next(self._layers))
        root = self._root(container, layer)
        reader, writer = os.pipe()
        try:
            popen = subprocess.Popen(
                [
                    *_inside(container.group),
                    *self.enter(),
                    *(tool("setpriv"), f"--reuid={container.uid}", f"--regid={container.gid}"),
                    f"--groups={','.join(map(str, sorted({container.gid, *container.groups})))}",
                    *_bubblewrap(container, root, writer),
                ],
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(container.environment),
                pass_fds=[writer],
            )
        finally:
            os.close(writer)
        return Process(self, container, popen, os.fdopen(reader), layer)

    def _root(self, container: Container, layer: Path) -> Path:
        """The image under a layer in memory, which holds the mount points that the image lacks."""
        self.seen(layer).mkdir(parents=True)
        self.mount("tmpfs", layer, "mode=755")
        root = layer / "root"
        self.seen(root).mkdir()
        self.lay_over(container.rootfs, layer, root)
        for name in container.without:
            (self.seen(root) / "usr/bin" / name).unlink()
        for bind in container.binds:
            point = self.seen(root) / resolve(self.seen(root), bind.target).lstrip("/")
            if self.seen(bind.source).is_dir():
                point.mkdir(parents=True, exist_ok=True)
            elif not point.exists():
                point.parent.mkdir(parents=True, exist_ok=True)
                point.touch()
        return root

    def enter(self) -> list[str]:
        """The words before a command that is to run inside, as root."""
        holder = f"/proc/{self._holder.pid}/ns"
        # The holder's child, not the holder, is PID 1 of the PID namespace.
        return [
            tool("nsenter"),
            *(f"--net={holder}/net", f"--mount={holder}/mnt", f"--pid={holder}/pid_for_children", "--"),
        ]


def _inside(group: Path | None) -> list[str]:
    """The words before a command that is to run in a control group."""
    if group is None:
        return []
    return ["/bin/sh", "-c", 'echo $$ >"$0/cgroup.procs" && exec "$@"', str(group)]


def resolve(root: Path, path: str) -> str:
    """`path` without symbolic links, as a process with the root `root` would resolve it (/var/run is one)."""
    resolved, rest = Path("/"), [part for part in path.split("/") if part]
    for _ in range(200):
        if not rest:
            return str(resolved)
        part = rest.pop(0)
        here = root / str(resolved / part).lstrip("/")
        if part == "..":
            resolved = resolved.parent
        elif here.is_symlink():
            link = str(here.readlink())
            resolved = Path("/") if link.startswith("/") else resolved
            rest = [step for step in link.split("/") if step] + rest
        elif part != ".":
            resolved /= part
    raise SandboxError(f"{path} has too many symbolic links in the image at {root}.")


def _bubblewrap(container: Container, root: Path, status: int) -> Iterator[str]:
    yield from (tool("bwrap"), "--unshare-user", "--uid", str(container.uid), "--gid", str(container.gid))
    yield from (
        "--unshare-pid",
        "--as-pid-1",
        "--unshare-ipc",
        "--unshare-uts",
        "--hostname",
        container.hostname,
    )
    yield from ("--die-with-parent", "--new-session", "--json-status-fd", str(status))
    yield from ("--ro-bind" if container.read_only_root else "--bind", str(root), "/")
    yield from ("--proc", "/proc", "--dev", "/dev")
    for bind in container.binds:
        target = resolve(container.rootfs, bind.target)
        yield from ("--ro-bind" if bind.read_only else "--bind", str(bind.source), target)
    yield from ("--chdir", container.workdir, "--", *container.command)
