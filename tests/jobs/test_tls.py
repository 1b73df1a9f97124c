"""TLS to the database: what `database.tls` asks for holds for our sessions and for pg_dumpall.

A server that takes nobody in clear, and nobody without a certificate of its CA.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import Exit
from stack_backup_lab.data import dataset
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalRuntime, LocalServer, LocalStack
from tests.jobs.hourly import IMAGE, VALUES, Hourly

NAMESPACE = "stack-with-tls"
AUTHORITIES = """
set -e
for ca in own another; do
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=$ca \
    -keyout $ca.key -out $ca.crt
done
for name in database admin; do
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=$name \
    -keyout $name.key -out $name.csr
  printf "subjectAltName=DNS:$name" >$name.ext
  openssl x509 -req -in $name.csr -CA own.crt -CAkey own.key -CAcreateserial -days 2 \
    -extfile $name.ext -out $name.crt
done
chmod 600 *.key
"""
WITH_TLS: dict[str, Any] = {
    "database": {
        "tls": {"mode": "verify-full", "secret": {"name": "database-tls", "certificateKey": "tls.crt"}}
    },
    "databaseRecovery": {
        "enabled": True,
        "source": "backup",
        "allowSourceServer": True,
        "scratch": {"size": "1Gi"},
    },
}


def _data(server: LocalServer) -> Path:
    return Path(str(conninfo_to_dict(server.dsn("postgres"))["host"])).parent / "data"


def _set(server: LocalServer, **settings: str) -> None:
    with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
        for name, value in settings.items():
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        connection.execute("SELECT pg_reload_conf()")


@pytest.fixture(scope="module")
def certificates(runtime: LocalRuntime) -> Iterator[tuple[LocalStack, dict[str, bytes]]]:
    """The stack, and the Secret's data as it should be, with another CA's certificate."""
    with runtime.stack(NAMESPACE, IMAGE) as stack:
        dataset.fill(stack.database, molecules=0)
        data = _data(stack.database)
        (data / "authorities.sh").write_text(AUTHORITIES)
        (data / "authorities.sh").chmod(0o644)
        stack.database.execute("COPY (SELECT) TO PROGRAM 'bash authorities.sh >authorities.log 2>&1'")
        names = {
            "ca.crt": "own.crt",
            "tls.crt": "admin.crt",
            "tls.key": "admin.key",
            "another": "another.crt",
        }
        (data / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all all all scram-sha-256 clientcert=verify-ca\n"
        )
        _set(
            stack.database,
            ssl="on",
            ssl_cert_file="database.crt",
            ssl_key_file="database.key",
            ssl_ca_file="own.crt",
        )
        yield stack, {key: (data / name).read_bytes() for key, name in names.items()}


@pytest.fixture
def stack(certificates: tuple[LocalStack, dict[str, bytes]]) -> LocalStack:
    stack, data = certificates
    stack.secrets["database-tls"] = dict(data)
    return stack


def _run(stack: LocalStack, **tls: Any) -> JobResult:
    return _backup(stack, {"database": {"tls": tls}})


def _backup(stack: LocalStack, values: dict[str, Any]) -> JobResult:
    stack.install(merge_values(VALUES, WITH_TLS, values))
    return Hourly(stack, None).run()


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_a_backup_with_a_client_certificate(stack: LocalStack, mode: str) -> None:
    result = _run(stack, mode=mode)
    assert result.verdict["outcome"] == "published", result.log


def test_a_recovery_with_a_client_certificate(stack: LocalStack) -> None:
    assert _run(stack).exit_code == 0
    result = stack.run("database-recovery", environment={"CONFIRM": NAMESPACE})
    assert result.verdict["outcome"] == "recovered", result.verdict


def test_a_client_without_a_certificate_is_refused_by_the_server(stack: LocalStack) -> None:
    result = _run(stack, secret={"certificateKey": ""})
    assert result.exit_code == Exit.PERMISSION
    assert "requires a valid client certificate" in result.verdict["message"]


def test_in_clear_the_server_takes_nobody(stack: LocalStack) -> None:
    assert _run(stack, mode="disable").exit_code == Exit.PERMISSION


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_server_of_another_authority_is_not_trusted(stack: LocalStack, mode: str) -> None:
    stack.secrets["database-tls"]["ca.crt"] = stack.secrets["database-tls"]["another"]
    result = _run(stack, mode=mode)
    assert result.exit_code == Exit.SETUP
    assert "certificate verify failed" in result.verdict["message"]
    assert "value database.tls" in result.verdict["message"]


def test_only_the_full_check_is_of_the_servers_name(stack: LocalStack) -> None:
    for mode, code in (("verify-ca", 0), ("verify-full", Exit.SETUP)):
        result = _backup(stack, {"database": {"host": "127.0.0.1", "tls": {"mode": mode}}})
        assert result.exit_code == code, result.log


@pytest.mark.parametrize("key", ["ca.crt", "tls.crt", "tls.key"])
def test_what_the_secret_lacks_is_named(stack: LocalStack, key: str) -> None:
    del stack.secrets["database-tls"][key]
    result = _run(stack)
    assert result.exit_code == Exit.SETUP
    assert f"There is no {key} (the Secret or its key is missing)." in result.verdict["message"]


def test_a_certificate_that_is_none(stack: LocalStack) -> None:
    stack.secrets["database-tls"]["ca.crt"] = b"nothing"
    assert _run(stack).exit_code == Exit.SETUP


def test_a_server_without_tls(stack: LocalStack) -> None:
    rules = _data(stack.database) / "pg_hba.conf"
    before = rules.read_text()
    rules.write_text(f"{before}host all all all scram-sha-256\n")
    _set(stack.database, ssl="off")
    try:
        asked, preferred = _run(stack, mode="require"), _run(stack, mode="prefer")
    finally:
        rules.write_text(before)
        _set(stack.database, ssl="on")
    assert asked.exit_code == Exit.SETUP
    assert "the server does not offer TLS" in asked.verdict["message"]
    assert preferred.exit_code == 0
