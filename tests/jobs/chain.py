"""From production's database to staging's: the hourly backup, the drill, the recovery, and both compared."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import psycopg

from stack_backup.runs import JobResult
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import DATABASE, USER, LocalStack, LocalVolume
from stack_backup_lab.runtime.pod import Faults
from stack_backup_lab.runtime.postgres import SUPERUSER
from tests.jobs.dumps import await_a_free_second
from tests.outcomes import green
from tests.render import contract

RECOVERY, DRILL = "database-recovery", "database-drill"
STAGING_NAMESPACE = "staging-stack"
NFS = {"nfs": {"server": "chain.example.org"}}
BOTH: dict[str, Any] = {
    "postgresBackupHourly": {"dumpSize": "100Mi"},
    "volumes": {"databaseReplica": NFS, "mediaReplica": NFS},
    "postgresReplicatorBackup": {"enabled": True},
    "databaseRecovery": {"enabled": True, "scratch": {"size": "1Gi"}},
    "databaseDrill": {"enabled": True, "scratch": {"size": "2Gi"}},
}
PRODUCTION = merge_values(BOTH, {"databaseRecovery": {"source": "backup", "allowSourceServer": True}})
STAGING: dict[str, Any] = merge_values(
    BOTH,
    {
        "postgresBackupHourly": {"enabled": False},
        "postgresReplicatorBackup": {"enabled": False},
        "databaseDrill": {"enabled": False},
    },
)
KEPT_ROLES = {SUPERUSER, USER}


class Chain:
    """Two stacks with servers of their own, each with an empty database of the application at first."""

    def __init__(self, production: LocalStack, staging: LocalStack) -> None:
        self.production, self.staging = production, staging
        self.dump = ""
        self.values: Mapping[str, Any] = {}
        for stack in (production, staging):
            anew(stack)
        self.install()
        self.volume.clear()
        for name in self.replica.list():
            self.replica.remove(name)

    @property
    def volume(self) -> LocalVolume:
        return self.production.volume(contract.CLAIM)

    @property
    def replica(self) -> LocalVolume:
        return self.staging.volume(self.staging.claim_of(RECOVERY, "source"))

    @property
    def stamp(self) -> str:
        return re.sub(r"backup-(.*)-dumpall.*", r"\1", self.dump)

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """Both releases, with these values on top."""
        for stack, own in ((self.production, PRODUCTION), (self.staging, STAGING)):
            tag = str(stack.database.version)
            # The folder of an image's files is named after it.
            repository = stack.database.rootfs.name.split(f"-{tag}-")[0]
            image = {"database": {"image": {"repository": repository, "tag": tag}}}
            stack.install(merge_values(merge_values(own, image), values or {}))

    def backup(self, **faults: Any) -> JobResult:
        """Of production, with a copy in the replica."""
        await_a_free_second([self.dump])
        result = self.production.run(contract.HOURLY, faults=Faults(**faults))
        if result.succeeded:
            self.dump = result.verdict["dump"]
            for path in (self.dump, f".manifest/{self.dump}.tsv"):
                self.replica.write(f"hourly/{path}", self.volume.read(f"hourly/{path}"))
        return result

    def drill(self, **environment: str) -> JobResult:
        return self.production.run(DRILL, environment=environment)

    def recover(self, stack: LocalStack | None = None, python: str = "", **environment: str) -> JobResult:
        """Of staging, or of another stack."""
        stack = stack or self.staging
        environment = {"CONFIRM": stack.namespace} | {key.upper(): text for key, text in environment.items()}
        return stack.run(RECOVERY, environment=environment, faults=Faults(python=python))

    def there_and_back(self, values: Mapping[str, Any] | None = None) -> JobResult:
        """All of it, green, and the same on both sides; the result of the recovery."""
        if values is not None:
            self.install(values)
        green(self.backup())
        green(self.drill())
        result = green(self.recover())
        found = differences(self.production, self.staging)
        assert not found, "\n".join(found[:40])
        return result


def written(stack: LocalStack, database: str = DATABASE) -> list[str]:
    """The database as pg_dump writes it, in lines."""
    text = stack.database.output("pg_dump", "--create", conninfo(database)).decode(errors="backslashreplace")
    return [line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict"))]


def conninfo(database: str) -> str:
    """A name as the clients take any."""
    return "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"


def differences(one: LocalStack, other: LocalStack, database: str = DATABASE) -> list[str]:
    """Between the same database of both, in lines of pg_dump."""
    return list(difflib.unified_diff(written(one, database), written(other, database), lineterm="", n=1))


def names(stack: LocalStack) -> list[str]:
    return [str(name) for (name,) in ask(stack, "SELECT datname FROM pg_database ORDER BY 1", "postgres")]


def ask(stack: LocalStack, query: str, database: str = DATABASE, user: str = SUPERUSER) -> list[Any]:
    with psycopg.connect(stack.database.dsn(database, user)) as connection:
        return connection.execute(query.encode()).fetchall()


def value(stack: LocalStack, query: str, database: str = DATABASE, user: str = SUPERUSER) -> Any:
    [(one,)] = ask(stack, query, database, user)
    return one


def anew(stack: LocalStack) -> None:
    """Only the application's database is there, empty, and no role but those that a stack begins with."""
    with psycopg.connect(stack.database.dsn("postgres"), autocommit=True) as connection:
        connection.execute("SET statement_timeout = 0")
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("SELECT pg_reload_conf()")
        query = "SELECT datname, subname FROM pg_subscription JOIN pg_database d ON d.oid = subdbid"
        for name, subscription in connection.execute(query.encode()).fetchall():
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true'.encode())
            with psycopg.connect(stack.database.dsn(name), autocommit=True) as inside:
                inside.execute(f"ALTER SUBSCRIPTION {subscription} SET (slot_name = NONE)".encode())
                inside.execute(f"DROP SUBSCRIPTION {subscription}".encode())
        query = "SELECT format('%I', datname), datname IN ('postgres', 'template1') FROM pg_database WHERE "
        for name, kept in connection.execute(query.encode() + b"datname <> 'template0'").fetchall():
            if not kept:
                connection.execute(f"ALTER DATABASE {name} IS_TEMPLATE false".encode())
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        connection.execute("DROP TABLE IF EXISTS public.server_content")
        query = "SELECT format('%I', spcname) FROM pg_tablespace WHERE spcname !~ '^pg_'"
        for (name,) in connection.execute(query.encode()).fetchall():
            connection.execute(f"DROP TABLESPACE {name}".encode())
        query = "SELECT rolname, format('%I', rolname) FROM pg_roles WHERE rolname !~ '^pg_'"
        for role, name in connection.execute(query.encode()).fetchall():
            if role not in KEPT_ROLES:
                connection.execute(f"DROP OWNED BY {name}".encode())
                connection.execute(f"DROP ROLE {name}".encode())
        connection.execute(f"ALTER ROLE {SUPERUSER} RESET ALL".encode())
        connection.execute(f"CREATE DATABASE {DATABASE} OWNER {USER}".encode())
