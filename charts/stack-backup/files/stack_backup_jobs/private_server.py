"""A PostgreSQL server of the program's own: in a folder of the pod, reached by nobody else, and gone with the
program. It takes nothing from the stack's server and cannot reach it.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import MIB, Dump, Exit
from stack_backup_jobs.job import Job, say
from stack_backup_jobs.server import Server, of_server
from stack_backup_jobs.session import Address, ServerError
from stack_backup_jobs.space import space

# As fast as it can be: nothing of it need outlive the program. What would lie in /dev/shm (64 MiB in a pod)
# lies in files.
CONFIGURATION = """
listen_addresses = ''
port = 5432
unix_socket_directories = '{socket}'
unix_socket_permissions = 0700
max_connections = 30
fsync = off
full_page_writes = off
synchronous_commit = off
wal_level = minimal
max_wal_senders = 0
max_wal_size = 1GB
checkpoint_warning = 0
checkpoint_timeout = 1h
autovacuum = off
jit = off
shared_buffers = 256MB
dynamic_shared_memory_type = mmap
log_destination = stderr
logging_collector = off
"""
EMPTY = 256 << 20
"""Bytes that a server without data takes, its log of changes included."""


def check_room(scratch: Path, dump: Dump, advice: str, fetched: bool = False) -> None:
    """Is there room for a server that holds that dump, and for the dump where it is `fetched`? Raises
    JobError.
    """
    need, free = (8 + fetched) * dump.size + EMPTY, space(scratch).free
    if free < need:
        raise JobError(
            Exit.NO_ROOM,
            f"The scratch space has {free // MIB} MiB left, and to restore {dump.name} may take"
            f" {need // MIB} MiB.",
            advice,
        )


class PrivateServer:
    """In the new folder `folder`, with a superuser of that name, as the dump has it: what a role has granted
    can only be loaded if the role is there. `server` reaches it.
    """

    def __init__(self, job: Job, folder: Path, superuser: str) -> None:
        self._job, self.folder = job, folder
        for name in [name for name in os.environ if name.startswith("PG")]:
            del os.environ[name]  # nothing leads a command of the image to another server
        self._data, self._log = folder / "data", folder / "log"
        socket = folder / "socket"
        job.ends.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.mkdir(0o700)
        socket.mkdir(0o700)
        self.server = Server(Address(str(socket), 5432), superuser, None)
        self._initialise(superuser)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(CONFIGURATION.format(socket=socket))
        (self._data / "pg_hba.conf").write_text("local all all trust\n")
        with self._log.open("wb") as log:
            self._process = job.processes.start(
                [self._command("postgres"), "-D", str(self._data)],
                stdout=log,
                stderr=log,
                ending=signal.SIGQUIT,
            )
        job.ends.callback(self.stop)
        self._await()

    @staticmethod
    def _command(name: str) -> str:
        """Debian's packages have the server's own commands elsewhere than in PATH."""
        if (path := shutil.which(name)) is None:
            places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
            if not places:
                raise JobError(
                    Exit.SETUP,
                    f"The image has no {name}.",
                    "Use the image that the stack's own server runs (value database.image).",
                )
            path = str(places[-1])
        return path

    def _initialise(self, superuser: str) -> None:
        done = self._job.processes.run(
            [
                self._command("initdb"),
                f"--pgdata={self._data}",
                f"--username={superuser}",
                "--auth=trust",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ],
            stderr=subprocess.STDOUT,
        )
        if done.code:
            raise self._failure(done.code, done.out.decode(errors="replace"), "could not be made")

    def _await(self) -> None:
        while True:
            if (code := self._process.poll()) is not None:
                raise self._failure(code, self._log.read_text(errors="replace"), "did not start")
            try:
                self.server.session().close()
                return
            except ServerError:
                time.sleep(0.05)

    def _failure(self, code: int, said: str, what: str) -> JobError:
        lines = said.strip().splitlines()
        for line in lines[-20:]:
            say(line)
        if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
            advice = "Most likely it lacks memory: raise the memory limit of this job."
            return JobError(Exit.KILLED, f"The server in the pod {what}: it was killed.", advice)
        if self._is_full():
            advice = "Make the scratch space of this job larger."
            return JobError(Exit.NO_ROOM, f"The server in the pod {what}: the scratch space is full.", advice)
        advice = "Use the image that the stack's own server runs (value database.image)."
        return JobError(
            Exit.SETUP, f"The server in the pod {what}: {lines[-1] if lines else 'it said nothing'}.", advice
        )

    def explained(self, error: ServerError | JobError, no_room: str) -> JobError:
        """What has happened to it, where an error is only what came of that."""
        failure = error if isinstance(error, JobError) else of_server(error, "Asking the server in the pod")
        if failure.code == Exit.NO_ROOM or (failure.code == Exit.UNAVAILABLE and self._is_full()):
            return JobError(Exit.NO_ROOM, failure.what, no_room)
        if failure.code == Exit.UNAVAILABLE:
            advice = "Most likely it lacks memory: raise the memory limit of this job (value resources)."
            return JobError(Exit.KILLED, f"The server in the pod went away: {failure.what}", advice)
        return failure

    def _is_full(self) -> bool:
        return space(self.folder).free < 16 << 20

    def stop(self) -> None:
        self._job.processes.stop(self._process)
