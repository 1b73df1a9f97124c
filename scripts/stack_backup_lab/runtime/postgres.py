"""Real PostgreSQL servers of the local runtime, run out of an image's root file system as its user
`postgres`.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from stack_backup_lab.runtime import StackError
from stack_backup_lab.runtime.sandbox import Bind, Container, Namespaces, Process

SUPERUSER = "admin"
DATA = "/var/lib/postgresql/data"
SOCKETS = "/var/run/postgresql"

SETTINGS = {
    # The data of a test server need not outlive the machine. (Commits stay synchronous: a server that a test
    # crashes keeps what it has confirmed.)
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "4GB",
    "shared_buffers": "128MB",
    "jit": "off",
}


class LocalServerError(StackError):
    """The server or its client failed; the message ends with what it said."""


class LocalServer:
    """One server in a stack's namespaces: on 127.0.0.1:5432 there (unless `listen` is false), by its socket
    here.

    Every connection needs its password (scram-sha-256 on the socket too), so that a wrong one is refused as
    it would be in a cluster. `passwords` holds the superuser's under `admin`, and those of users that are
    made later, for `dsn`.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        rootfs: Path,
        name: str,
        passwords: dict[str, str],
        *,
        listen: bool = True,
    ) -> None:
        self.name = name
        self.rootfs = rootfs
        self.passwords = passwords
        self.version = _major(rootfs)
        self.binds: list[Bind] = []
        """What else the server sees from its next start on."""
        self._namespaces = namespaces
        self._listen = "127.0.0.1" if listen else ""
        self._folder = namespaces.folder / name
        self._uid, self._gid = _postgres_user(rootfs)
        self._clients = itertools.count(1)
        self._process: Process | None = None
        for folder in ("data", "sockets", "exchange"):
            (self._folder / folder).mkdir(parents=True)
            os.chown(self._folder / folder, self._uid, self._gid)
        (self._folder / "data").chmod(0o700)
        self._initialise()

    def dsn(self, database: str, user: str = SUPERUSER, password: str | None = None) -> str:
        """A libpq connection string; the password is that of `passwords` where none is given."""
        return make_conninfo(
            host=str(self._folder / "sockets"),
            port=5432,
            dbname=database,
            user=user,
            password=self.passwords[user] if password is None else password,
        )

    def execute(self, script: str, database: str = "postgres") -> None:
        """Run an SQL script with the server's own psql, to the first error. Raises LocalServerError."""
        self._client(
            ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--output=/dev/null", database],
            script,
        )

    def load(self, dump: Path) -> None:
        """Load a whole compressed pg_dumpall file, stopping at the first error. Raises LocalServerError.

        Only one line is left out, and only in the part before the first database: the creation of the
        superuser, which every server has.
        """
        pipe = (
            "set -o pipefail; case $1 in *.zst) unpack=zstd ;; *) unpack=gzip ;; esac; "
            '"$unpack" -dc -- "$1" | LC_ALL=C sed -e "1,/^.connect /{/^CREATE ROLE $2;\\$/d}" | '
            "psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --output=/dev/null postgres"
        )
        # A copy, because the server's user may not reach the folder that the dump lies in.
        copy = Path(shutil.copyfile(dump, self._folder / "exchange" / dump.name))
        os.chown(copy, self._uid, self._gid)
        try:
            self._client(["bash", "-c", pipe, "load", f"/exchange/{copy.name}", SUPERUSER], "")
        finally:
            copy.unlink()

    def output(self, *command: str) -> bytes:
        """What a program of the image, such as pg_dumpall, says of the server. Raises LocalServerError."""
        self._client(["bash", "-c", 'exec "$@" >/exchange/output', "bash", *command], "")
        path = self._folder / "exchange" / "output"
        try:
            return path.read_bytes()
        finally:
            path.unlink()

    def add_user(self, name: str, password: str, database: str) -> None:
        """A login role and a database that it owns, as the stack's own installation makes them."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                    sql.Identifier(name), sql.Literal(password)
                )
            )
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(name))
            )
        self.passwords[name] = password

    def start(self) -> None:
        """Start the server and wait until it takes connections. Raises LocalServerError with its log."""
        settings = {**SETTINGS, "listen_addresses": self._listen, "unix_socket_directories": SOCKETS}
        command = ["postgres", "-D", DATA]
        for key, value in settings.items():
            command += ["-c", f"{key}={value}"]
        with self.log.open("ab") as log:
            self._process = self._namespaces.start(self._container(command), log)
        deadline = time.monotonic() + 120
        while True:
            try:
                psycopg.connect(self.dsn("postgres")).close()
                return
            except psycopg.OperationalError as error:
                if not self._process.running or time.monotonic() > deadline:
                    raise LocalServerError(
                        f"{self.name} did not start: {error}\n{self.log.read_text()}"
                    ) from error
                time.sleep(0.02)

    def stop(self, *, immediate: bool = False) -> None:
        """Stop the server: connections are ended, or (`immediate`) cut off as in a crash."""
        if self._process is not None:
            self._process.signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process.wait(120)
            self._process = None

    def remove(self) -> None:
        """Remove the files of a server that is stopped."""
        shutil.rmtree(self._folder)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stopped for the length of a `with` block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    @contextlib.contextmanager
    def hanging(self) -> Iterator[None]:
        """For the length of a `with` block new connections are taken and never answered."""
        assert self._process is not None
        self._process.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.signal(signal.SIGCONT)

    @property
    def log(self) -> Path:
        return self._folder / "server.log"

    def _initialise(self) -> None:
        secret = self._folder / "exchange" / "password"
        secret.touch(mode=0o600)
        secret.write_text(self.passwords[SUPERUSER], encoding="utf-8")
        os.chown(secret, self._uid, self._gid)
        self._client(
            [
                *("initdb", f"--pgdata={DATA}", f"--username={SUPERUSER}", "--pwfile=/exchange/password"),
                *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"),
            ],
            "",
        )
        secret.unlink()

    def _client(self, command: Sequence[str], text: str, *binds: Bind) -> None:
        """Run one of the image's programs beside the server, as the superuser, with `text` on standard
        input.
        """
        output = self._folder / f"client-{next(self._clients)}.log"
        with output.open("wb") as stream:
            process = self._namespaces.start(self._container(command, *binds), stream, stdin=subprocess.PIPE)
            with contextlib.suppress(BrokenPipeError), process.stdin:
                process.stdin.write(text.encode())
            code = process.wait()
        said = output.read_text(errors="replace").strip()
        output.unlink()
        if code != 0:
            raise LocalServerError(f"{command[0]} on {self.name} ended with exit code {code}: {said}")

    def _container(self, command: Sequence[str], *binds: Bind) -> Container:
        return Container(
            name=f"{self.name}: {command[0]}",
            rootfs=self.rootfs,
            command=command,
            uid=self._uid,
            gid=self._gid,
            environment={
                "PATH": f"/usr/bin:/bin:/usr/lib/postgresql/{self.version}/bin",
                "PGHOST": SOCKETS,
                "PGUSER": SUPERUSER,
                "PGPASSWORD": self.passwords[SUPERUSER],
                "LC_ALL": "C.UTF-8",
            },
            binds=[
                Bind(self._folder / "data", DATA),
                Bind(self._folder / "sockets", SOCKETS),
                Bind(self._folder / "exchange", "/exchange"),
                *self.binds,
                *binds,
            ],
        )


def _major(rootfs: Path) -> int:
    folders = list((rootfs / "usr/lib/postgresql").glob("*/bin/postgres"))
    if len(folders) != 1:
        raise LocalServerError(f"The image at {rootfs} holds {len(folders)} PostgreSQL servers, not one.")
    return int(folders[0].parts[-3])


def _postgres_user(rootfs: Path) -> tuple[int, int]:
    for line in (rootfs / "etc/passwd").read_text().splitlines():
        name, _, uid, gid, *_ = line.split(":")
        if name == "postgres":
            return int(uid), int(gid)
    raise LocalServerError(f"The image at {rootfs} has no user postgres.")
