"""Where a rendered release runs: one interface, two runtimes.

`local` runs a job's containers under bubblewrap on this machine; `cluster` runs the same release on kind. A
story is written once against the protocols below and never asks which of the two it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from stack_backup.runs import JobResult
from stack_backup_lab import LabError


class StackError(LabError):
    """A runtime could not do what it was asked. How a job of the release ended is never one."""


def claim_of(cronjob: Mapping[str, Any], volume: str) -> str:
    """The name of the claim behind a volume of a CronJob's pod. Raises StackError where there is none."""
    for one in cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]:
        if one["name"] == volume and "persistentVolumeClaim" in one:
            return str(one["persistentVolumeClaim"]["claimName"])
    raise StackError(f"{cronjob['metadata']['name']} mounts no claim as {volume}.")


class Volume(Protocol):
    """The files of one claim. Paths are relative to the volume's root and separated by `/`."""

    def list(self, folder: str = "") -> list[str]:
        """Names in `folder`, sorted, dot-files included; an absent folder is an empty list."""

    def read(self, path: str) -> bytes: ...

    def write(self, path: str, data: bytes) -> None: ...

    def remove(self, path: str) -> None: ...

    def fetch(self, path: str, to: Path) -> Path:
        """Copy one file to the folder `to` on this machine and return where it lies now."""

    def put_tree(self, folder: Path) -> None:
        """Copy all that lies in a folder of this machine into the volume, over what is there.

        Modes, links, times and names are kept, whatever bytes they are of; all belongs to the pods' user.
        """

    def get_tree(self, folder: Path) -> None:
        """Copy all that lies in the volume into a folder of this machine."""


class Server(Protocol):
    """A PostgreSQL server of a stack, reached from this machine."""

    @property
    def version(self) -> int:
        """Major version."""

    def dsn(self, database: str, user: str = "admin", password: str | None = None) -> str:
        """A libpq connection string; the superuser's password is filled in where none is given."""

    def execute(self, script: str, database: str = "postgres") -> None:
        """Run an SQL script with the server's own psql, stopping at the first error."""

    def load(self, dump: Path) -> None:
        """Load a whole compressed pg_dumpall file, stopping at the first error."""


class Stack(Protocol):
    """One namespace with a database, its Secret, and a release of the chart.

    What is not there (a CronJob, a claim) and what Helm refuses is a StackError that names it.
    """

    @property
    def namespace(self) -> str: ...

    @property
    def database(self) -> Server: ...

    def install(self, values: Mapping[str, Any]) -> None:
        """Install the release, or upgrade it, with these values (merged by Helm's rules beforehand)."""

    def add_claim(self, name: str) -> None:
        """Make a claim that the stack itself brings and the chart does not, such as that of its media."""

    def run(
        self, job: str, *, timeout: float = 600, environment: Mapping[str, str] | None = None
    ) -> JobResult:
        """Make a Job from the CronJob `job`, wait for its end, and return it.

        `environment` is laid over the container's own, as `kubectl set env` would do it: so a run by hand
        brings its confirmation, or names a dump.
        """

    def claim_of(self, job: str, volume: str) -> str:
        """The name of the claim that the CronJob `job` mounts as its volume `volume`."""

    def volume(self, claim: str) -> Volume: ...

    def scratch_server(self, version: int | None = None) -> AbstractContextManager[Server]:
        """A second, empty server of the stack's own image, gone when the context ends."""


@runtime_checkable
class ScheduledStack(Stack, Protocol):
    """A stack whose CronJobs have a controller."""

    def await_scheduled(self, job: str, *, timeout: float = 600) -> JobResult:
        """Wait for the controller's next own run of the CronJob `job` and for its end."""


class Runtime(Protocol):
    name: str

    def stack(self, namespace: str) -> AbstractContextManager[Stack]:
        """An empty stack: namespace, running database server, Secret `database`. Nothing is left of it."""
