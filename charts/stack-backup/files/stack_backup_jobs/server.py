"""The stack's own server: how it is reached, what it says when it refuses, and the databases that recoveries
leave.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs.errors import JobError, status
from stack_backup_jobs.formats import Exit
from stack_backup_jobs.job import Job, say
from stack_backup_jobs.session import (
    NOT_TRUSTED,
    TLS_MODES,
    Address,
    ServerError,
    Session,
    Tls,
    UnreachableError,
    identifier,
    literal,
)
from stack_backup_jobs.settings import one_of, optional

MAINTENANCE = "postgres"
"""The database for what concerns the server as a whole."""

DROP_PATIENCE = "30s"
"""For the lock of a database that is to be dropped: a transaction that somebody has left open may hold it for
ever.
"""

FORMER = """datname ~ '_former_[0-9]{14}$' AND EXISTS (
  SELECT FROM pg_db_role_setting, unnest(setconfig) setting
  WHERE setdatabase = pg_database.oid AND setrole = 0 AND setting LIKE 'stack_backup.drop_after=%')"""
"""Which rows of pg_database are databases that a recovery has replaced: name and setting must both say so,
for one that was taken back has the setting, too.
"""

_CONNECTION = {
    "28": (
        Exit.PERMISSION,
        "Check the superuser and its password in the Secret: a changed Secret does not change the role in "
        "the server.",
    ),
    "08": (
        Exit.UNAVAILABLE,
        "Check that the server runs and that its Service and NetworkPolicy let this pod reach it.",
    ),
    "3D": (
        Exit.SOURCE,
        "Check that this is the right server, and that the database exists and takes connections (values "
        "database.host and "
        "database.name).",
    ),
}
_CLASSES = {
    **_CONNECTION,
    NOT_TRUSTED: (
        Exit.SETUP,
        "Check what the value database.tls names (mode, CA, client certificate), and the server's own "
        "certificate.",
    ),
    "57P": _CONNECTION["08"],
    "533": _CONNECTION["08"],
    "55000": _CONNECTION["3D"],
    "42501": _CONNECTION["28"],
    "531": (Exit.NO_ROOM, "Make the volume of the database larger."),
    "57014": (Exit.TRANSIENT, "Somebody has cancelled it in the server: run the job again."),
    "40": (Exit.TRANSIENT, "Run the job again."),
    "55P03": (Exit.TRANSIENT, "Another session holds a lock: run the job again."),
    "58": (Exit.VOLUME, "Check the server's own volume, and its log."),
    "XX": (Exit.DATA, "Read the log of the server."),
}
"""By the beginning of an SQLSTATE, the longest first: exit code and advice."""


def of_server(error: ServerError, doing: str = "Asking the server") -> JobError:
    """What a server said while that was done."""
    for length in (5, 3, 2):
        if (known := _CLASSES.get(error.sqlstate[:length])) is not None:
            return JobError(known[0], f"{doing} failed: {error}.", known[1])
    return JobError(Exit.DATA, f"{doing} failed: {error}.", "Read the lines above and the log of the server.")


def password_in(path: Path) -> str:
    """The password in a file of the Secret, without the newline that editors put at the end."""
    try:
        password = path.read_text(encoding="utf-8", errors="surrogateescape").rstrip("\n")
    except FileNotFoundError:
        password = ""
    if not password:
        raise JobError(
            Exit.SETUP,
            f"There is no password in {path.name} (the Secret or its key is missing or empty).",
            "Create the Secret with the key that the values name (database.secret).",
        )
    if "\n" in password or "\0" in password:
        raise JobError(Exit.SETUP, f"The password in {path.name} has several lines.", "Correct the Secret.")
    return password


class Server:
    """A server and its superuser. Sessions are the caller's to close."""

    def __init__(self, address: Address, superuser: str, password: str | None) -> None:
        self.address, self.superuser, self._password = address, superuser, password

    def __str__(self) -> str:
        return f"{self.address.host}:{self.address.port}"

    def session(self, database: str = MAINTENANCE, *, encoding: str = "UTF8", **settings: str) -> Session:
        """Raises ServerError, UnreachableError."""
        return Session(
            self.address,
            database,
            user=self.superuser,
            password=self._password,
            encoding=encoding,
            application=f"stack-backup {os.environ.get('JOB', '')}"[:63],
            settings=settings,
        )

    def query(self, sql: str, database: str = MAINTENANCE) -> list[tuple[str | None, ...]]:
        """One question in a session of its own. Raises JobError."""
        try:
            with self.session(database) as session:
                return session.query(sql)
        except ServerError as error:
            raise of_server(error, f"Asking the server {self}") from error

    def libpq(self, job: Job) -> dict[str, str]:
        """The environment of the image's clients: libpq takes no private key that others may read."""
        tls = self.address.tls
        found = {
            "PGHOST": self.address.host,
            "PGPORT": str(self.address.port),
            "PGPASSFILE": str(self._pgpass(job)),
            "PGSSLMODE": tls.mode,
            "PGSSLROOTCERT": tls.ca,
            "PGSSLCERT": tls.certificate,
        }
        if tls.key:
            key = job.work / "client.key"
            key.touch(0o600)
            key.write_bytes(Path(tls.key).read_bytes())
            found["PGSSLKEY"] = str(key)
        return found

    def _pgpass(self, job: Job) -> Path:
        """The password in a file in memory, as libpq reads it: `:` and `\\` escaped."""
        path = job.work / "pgpass"
        path.touch(0o600)
        password = (self._password or "").replace("\\", "\\\\").replace(":", "\\:")
        path.write_text(f"*:*:*:*:{password}\n", encoding="utf-8", errors="surrogateescape")
        return path

    def former(self, *, over: bool = False) -> list[str]:
        """The databases that recoveries have replaced; with `over`, those whose time is over."""
        overdue = """AND (SELECT min(split_part(setting, '=', 2)::timestamptz)
          FROM pg_db_role_setting, unnest(setconfig) setting WHERE setdatabase = pg_database.oid
          AND setrole = 0 AND setting LIKE 'stack_backup.drop_after=%') <= now()"""
        names = self.query(
            f"SELECT datname FROM pg_database WHERE {FORMER} {overdue if over else ''} ORDER BY datname"
        )
        return [str(name) for (name,) in names]

    def drop_former(self) -> list[str]:
        """Drops those whose time is over. One that cannot be dropped is named and returned, and stops
        nothing.
        """
        left = []
        for name in self.former(over=True):
            say(f"Dropping {name}: a recovery has replaced it, and its time is over.")
            try:
                self.drop(name)
            except UnreachableError:
                raise
            except ServerError as error:
                say(f"{name} cannot be dropped: {error}.")
                left.append(name)
        return left

    def drop(self, database: str) -> None:
        """Also one that is marked as a template, with all sessions that are in it and its subscriptions; what
        is theirs at the other side stays. Raises ServerError.
        """
        this = f"datname = {literal(database)}"
        with self.session(lock_timeout=DROP_PATIENCE) as session:
            if session.query(f"SELECT FROM pg_database WHERE datistemplate AND {this}"):
                session.execute(f"ALTER DATABASE {identifier(database)} IS_TEMPLATE false")
            subscriptions = session.query(
                f"SELECT subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE {this}"
            )
            if subscriptions:
                session.execute(f"ALTER DATABASE {identifier(database)} ALLOW_CONNECTIONS true")
                with self.session(database) as inside:
                    for (name,) in subscriptions:
                        subscription = f"SUBSCRIPTION {identifier(str(name))}"
                        inside.execute(f"ALTER {subscription} DISABLE")
                        inside.execute(f"ALTER {subscription} SET (slot_name = NONE)")
                        inside.execute(f"DROP {subscription}")
            session.execute(f"DROP DATABASE {identifier(database)} WITH (FORCE)")


@dataclass(frozen=True, kw_only=True)
class OfServer:
    """Settings of a job of the stack's own server: the variables of these names."""

    namespace: str
    pghost: str
    pgport: int
    database_superuser: str
    database_name: str
    password_file: Path
    pgsslmode: str = one_of(*TLS_MODES, default="prefer")
    pgsslrootcert: str = optional()
    pgsslcert: str = optional()
    pgsslkey: str = optional()

    def server(self) -> Server:
        """Raises JobError."""
        password = password_in(self.password_file)
        files = (self.pgsslrootcert, self.pgsslcert, self.pgsslkey)
        for file in filter(None, files):
            if status(Path(file)) is None:
                raise JobError(
                    Exit.SETUP,
                    f"There is no {Path(file).name} (the Secret or its key is missing).",
                    "Create the Secret with the keys that the values name (database.tls.secret).",
                )
        address = Address(self.pghost, self.pgport, Tls(self.pgsslmode, *files))
        return Server(address, self.database_superuser, password)


def client_version(job: Job) -> str:
    """Of the image's PostgreSQL, such as `15.14`."""
    said = job.processes.run(["pg_dumpall", "--version"]).out.decode()
    return said.partition("PostgreSQL) ")[2].strip()


def check_client(client: str, version: str, major: int) -> None:
    """An image of another major version is not the server's own: what it does, the server's would not do.
    Raises JobError.
    """
    found = re.match(r"\d+", client)
    if (own := int(found[0]) if found else 0) != major:
        raise JobError(
            Exit.SETUP,
            f"The image's PostgreSQL is version {client}, {'older' if own < major else 'newer'} than the"
            f" server's {version}.",
            "Use the image of the server's own major version (value database.image.tag).",
        )
