"""A real NFS server, and a real NFS client to run things on: nfs-ganesha, and Linux in user mode.

Both run in namespaces of their own (see `runtime.sandbox`): nothing of them is seen on this machine's network
or among its mounts, and all of it ends with this process, however it ends. A machine whose kernel has no NFS
client cannot mount an export; a kernel in user mode brings its own.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stack_backup_lab.bed import BedError, system
from stack_backup_lab.runtime.sandbox import Namespaces

MODULES = Path("/usr/lib/uml/modules")
PORT = 2049
EXPORT = "/export"
"""What the export is called by the server."""
OVER, MARK = "@over", "@ended"
"""What a machine prints when its command has ended, and when it has ended itself."""

_CONFIGURATION = """
NFS_CORE_PARAM {{
  NFS_Protocols = 4; Protocols = 4; NFS_Port = {port}; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSV4 {{ Graceless = {graceless}; Grace_Period = 15; Lease_Lifetime = 60; RecoveryRoot = {folder}/recovery; }}
EXPORT {{
  Export_Id = 1; Path = {export}; Pseudo = {pseudo}; Protocols = 4; SecType = sys; Squash = {squash};
  Access_Type = {access}; FSAL {{ Name = VFS; }}
}}
"""

# PID 1 of the machine. Its disk is this machine's own, read-only: what is written lies in memory or on the
# export.
_INIT = """#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
finish() {{
  echo "{mark} $1"
  echo o >/proc/sysrq-trigger
  sleep 60
}}
mount -t proc proc /proc
ip link set lo up && ip address add 10.0.2.15/24 dev eth0 && ip link set eth0 up &&
  ip route add default via 10.0.2.2 && modprobe --dirname {folder} nfsv4 &&
  mount -t tmpfs tmpfs /mnt && mkdir /mnt/root || finish 250
cd /mnt/root || finish 250
for path in {rootfs}/*; do
  name=${{path##*/}}
  if [[ -L $path ]]; then cp -P "$path" "$name"; elif [[ -d $path && $name != @(proc|dev|tmp|mnt) ]]; then
    mkdir "$name" && mount --bind "$path" "$name" && mount -o remount,bind,ro "$name" || finish 250
  fi
done
mkdir proc dev tmp scratch && mount -t proc proc proc && mount -t devtmpfs dev dev &&
  mount -t tmpfs -o size=64m,mode=1777 tmp tmp &&
  mount -t tmpfs -o size=64m,mode=1777 scratch scratch && ln -s /proc/self/fd dev/fd || finish 250
{binds}
mkdir -p .{target} && mount -t nfs -o {options},port={port},proto=tcp 10.0.2.2:{pseudo} .{target} &&
  grep " /mnt/root{target} nfs4 .*vers=4" /proc/mounts || finish 251
{command} &
program=$!
(until [[ -e {told} ]]; do sleep 0.1; done && kill -TERM "$program") &
wait "$program"
status=$?
echo "{over} $status"
cd /
umount /mnt/root{target} || echo "the export could not be unmounted"
finish "$status"
"""


@dataclass(frozen=True)
class Ended:
    """How a command on the machine ended: exit code (None: it had to be killed), and all that was printed."""

    code: int | None
    output: str
    seconds: float


class Machine:
    """A machine that runs one command on an NFS mount, and then ends."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, told: Path) -> None:
        self._process = process
        self._log = log
        self._told = told
        self._begun = time.monotonic()

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace").replace("\r", "")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def tell(self) -> None:
        """Send TERM to the command, as the kubelet does."""
        self._told.touch()

    def command_ended(self, timeout: float) -> Ended | None:
        """How the command ended, where the machine may not end yet; None after `timeout` seconds."""
        end = time.monotonic() + timeout
        while time.monotonic() < end and self.running:
            output, found, rest = self.output.partition(f"{OVER} ")
            if found and "\n" in rest:
                return Ended(int(rest.split()[0]), output, time.monotonic() - self._begun)
            time.sleep(0.02)
        return None

    def wait(self, timeout: float) -> Ended:
        """The end, or after `timeout` seconds that of a machine whose power fails."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        output = self.output
        _, found, rest = output.rpartition(f"{MARK} ")
        code = int(rest.split()[0]) if found else None
        return Ended(code, output, time.monotonic() - self._begun)

    def kill(self) -> None:
        """Take its power away."""
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


class Nfs:
    """An export of a real NFS server. A context manager: nothing is left of it.

    `path` is the export's folder on the server's side; with `size` (bytes) it is a file system of that size.
    """

    def __init__(self, *, size: int | None = None, owner: int = 999) -> None:
        system.ensure_packages(*system.NFS)
        self._namespaces = Namespaces("nfs")
        self.folder = self._namespaces.folder
        self._server: subprocess.Popen[bytes] | None = None
        self._count = 0
        export = self.folder / "export"
        for name in ("export", "recovery", "lib/modules"):
            (self.folder / name).mkdir(parents=True)
        if size is not None:
            self._namespaces.mount("tmpfs", export, f"size={size}")
        self.path = self._namespaces.seen(export)
        os.chown(self.path, owner, owner)
        [modules] = MODULES.iterdir()
        (self.folder / "lib/modules" / modules.name).symlink_to(modules)

    def __enter__(self) -> Nfs:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._namespaces.close()
        if self._server is not None:
            self._server.wait()

    @property
    def namespaces(self) -> Namespaces:
        """The server's. What listens on 127.0.0.1 there, machines reach at 10.0.2.2."""
        return self._namespaces

    def start(self, *, read_only: bool = False, squash: str = "Root_Squash") -> None:
        """Start the server, and wait until it listens. Raises BedError with what it printed.

        After a restart, clients may first take back what they had open; a new one waits for that.
        """
        configuration, log = self.folder / "ganesha.conf", self.folder / "ganesha.log"
        configuration.write_text(
            _CONFIGURATION.format(
                folder=self.folder,
                port=PORT,
                export=self.folder / "export",
                pseudo=EXPORT,
                squash=squash,
                access="RO" if read_only else "RW",
                graceless="true" if self._server is None or read_only else "false",
            )
        )
        command = ["ganesha.nfsd", "-F", "-L", str(log), "-f", str(configuration)]
        self._server = self._namespaces.popen([*command, "-p", str(self.folder / "ganesha.pid")])
        end = time.monotonic() + 30
        while self._namespaces.run(
            ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"], check=False
        ).returncode:
            if self._server.poll() is not None or time.monotonic() > end:
                raise BedError(f"nfs-ganesha does not listen:\n{log.read_text()[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Take the server away in the middle of whatever it does, as when its machine fails."""
        assert self._server is not None
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        while self._processes():  # one that is in a call of the kernel dies later
            time.sleep(0.01)

    def freeze(self) -> None:
        """Let the server answer nothing more, as when its machine hangs; `thaw` lets it go on."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)

    def _processes(self) -> list[int]:
        """The server's own, not those that started it: stopped they would stay so."""
        configuration, found = os.fsencode(self.folder / "ganesha.conf"), []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                called = (folder / "cmdline").read_bytes().split(b"\0")
                if called[0] == b"ganesha.nfsd" and configuration in called:
                    found.append(int(folder.name))
        return found

    @contextmanager
    def machine(
        self,
        command: Sequence[str],
        *,
        rootfs: Path,
        target: str,
        binds: Mapping[str, Path],
        environment: Mapping[str, str],
        user: int = 999,
        options: str = "vers=4.1,hard,timeo=600",
    ) -> Iterator[Machine]:
        """Start a machine whose root is `rootfs`, with the export mounted at `target`.

        `binds`: folders of this machine by the place where they are shown, read-only.
        """
        self._count += 1
        init, log = self.folder / f"init-{self._count}", self.folder / f"machine-{self._count}.log"
        told = self.folder / f"told-{self._count}"
        shown = [
            f"mkdir -p .{place} && mount --bind {shlex.quote(str(folder))} .{place}"
            f" && mount -o remount,bind,ro .{place} || finish 250"
            for place, folder in binds.items()
        ]
        variables = [f"{name}={value}" for name, value in environment.items()]
        called = ["chroot", f"--userspec={user}:{user}", "--groups=", "/mnt/root", "/usr/bin/env", "-i"]
        init.write_text(
            _INIT.format(
                mark=MARK,
                over=OVER,
                told=shlex.quote(str(told)),
                folder=shlex.quote(str(self.folder)),
                rootfs=shlex.quote(str(rootfs)),
                binds="\n".join(shown),
                target=target,
                options=options,
                port=PORT,
                pseudo=EXPORT,
                command=shlex.join([*called, *variables, *command]),
            )
        )
        init.chmod(0o755)
        with log.open("wb") as output:
            process = self._namespaces.popen(
                [
                    *("linux.uml", "mem=512M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
                    *("quiet", f"init={init}", f"eth0=slirp,,{shutil.which('slirp-fullbolt')}"),
                    *("con0=fd:0,fd:1", "con=null"),
                ],
                output=output,
            )
        machine = Machine(process, log, told)
        try:
            yield machine
        finally:
            machine.kill()
