"""Our own sessions with real servers: settings, logins, failures, text, and COPY at size."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from stack_backup_jobs import session as module
from stack_backup_jobs.session import (
    EXTRA,
    SETTINGS,
    Address,
    ServerError,
    Session,
    UnreachableError,
    codec,
    identifier,
    literal,
    scram_verifier,
)
from stack_backup_lab.runtime.local import DATABASE, USER, LocalRuntime, LocalStack
from stack_backup_lab.runtime.postgres import SUPERUSER, LocalServer

PROGRAMS = Path(module.__file__).parent.parent
PASSWORDS = [
    "simple",
    ' p:w\\n\'q"" $HOME `id` %s #ü \\',
    "no\u00a0break\u3000space\u00ad",
    "u\u0308ﬁ\u2168",
    "ü\u0007 is not allowed",
    "\u06271",
]


@pytest.fixture(scope="module", params=[15, 17])
def stack(request: pytest.FixtureRequest, runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack("session", f"postgres:{request.param}") as stack:
        yield stack


@pytest.fixture
def server(stack: LocalStack) -> LocalServer:
    return stack.database


def folder(server: LocalServer) -> str:
    """Of its socket."""
    return str(conninfo_to_dict(server.dsn("postgres"))["host"])


def connect(
    server: LocalServer, database: str = "postgres", user: str = SUPERUSER, password: str | None = None
) -> Session:
    password = server.passwords[user] if password is None else password
    return Session(Address(folder(server)), database, user=user, password=password, timeout=10)


@pytest.fixture
def session(server: LocalServer) -> Iterator[Session]:
    with connect(server) as session:
        yield session


def refused(what: Callable[[], object]) -> ServerError:
    with pytest.raises(ServerError) as caught:
        what()
    return caught.value


def one(session: Session, sql: str) -> str | None:
    [[value]] = session.query(sql)
    return value


def await_(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


# What a session depends on.

HOSTILE = {
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), "1"),
    **dict.fromkeys(("default_transaction_read_only", "default_transaction_deferrable"), "on"),
    **dict.fromkeys(("escape_string_warning", "quote_all_identifiers", "exit_on_error"), "on"),
    **dict.fromkeys(("synchronous_commit", "array_nulls"), "off"),
    "default_transaction_isolation": "serializable",
    "standard_conforming_strings": "off",
    "search_path": "nowhere",
    "DateStyle": "German",
    "IntervalStyle": "iso_8601",
    "client_min_messages": "debug5",
    "session_replication_role": "replica",
    "idle_session_timeout": "300",
    "row_security": "on",
}
NEWER = {"transaction_timeout": "300"}  # less would end every start of a session


def shown(server: LocalServer, name: str) -> str | None:
    with connect(server) as session:
        return one(session, f"SHOW {name}")


@contextlib.contextmanager
def hostile(server: LocalServer, where: str, role: str) -> Iterator[None]:
    """All that a server, a database or a role may say."""
    wishes = HOSTILE | (NEWER if server.version >= 17 else {})
    if where.startswith("ALTER ROLE"):
        wishes |= {"role": "quiet"}
    with connect(server) as own:
        own.execute("CREATE ROLE quiet")
        own.execute(f"GRANT quiet TO {identifier(role)}")
        for name, value in wishes.items():
            own.execute(f"{where} SET {name} = {literal(value)}")
        own.execute("ALTER SYSTEM SET geqo_seed = 0.25")
        own.query("SELECT pg_reload_conf()")
    await_(lambda: shown(server, "geqo_seed") == "0.25")
    try:
        yield
    finally:
        with connect(server) as own:
            own.execute(f"{where} RESET ALL")
            own.execute("ALTER SYSTEM RESET ALL")
            own.query("SELECT pg_reload_conf()")
            own.execute("DROP ROLE quiet")


@pytest.mark.parametrize("role", [SUPERUSER, USER])
@pytest.mark.parametrize(
    "where", ["ALTER SYSTEM", "ALTER DATABASE {}", "ALTER ROLE {}", "ALTER ROLE {} IN DATABASE {}"]
)
def test_settings_hold_whatever_is_said_elsewhere(server: LocalServer, where: str, role: str) -> None:
    names = (role, DATABASE) if "ROLE" in where else (DATABASE,)
    with hostile(server, where.format(*map(identifier, names)), role):
        with pytest.raises(psycopg.Error), psycopg.connect(server.dsn(DATABASE, role)) as other:
            other.execute("CREATE TABLE nothing (); SELECT pg_sleep(0.1)")
        with connect(server, DATABASE, role) as session:
            time.sleep(0.4)
            session.execute("BEGIN; CREATE TABLE public.made (); SELECT pg_sleep(0.4)")
            time.sleep(0.1)
            session.execute("ROLLBACK")
            wishes = HOSTILE | (NEWER if server.version >= 17 else {})
            for name in wishes.keys() - ({"session_replication_role"} if role == USER else set()):
                assert one(session, f"SHOW {name}") == {**SETTINGS, **EXTRA}[name], name
            assert one(session, "SELECT current_user") == role
            assert list(session.notices) == []


def test_a_trigger_at_login_is_not_run(server: LocalServer) -> None:
    if server.version < 17:
        with connect(server) as session:
            assert one(session, "SHOW idle_session_timeout") == "0"
        return
    with connect(server, DATABASE) as session:
        session.execute(
            "CREATE FUNCTION public.no() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'no'; END$$;"
            "CREATE EVENT TRIGGER no ON login EXECUTE FUNCTION public.no()"
        )
    try:
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.dsn(DATABASE))
        with connect(server, DATABASE) as session:
            assert one(session, "SELECT 1") == "1"
    finally:
        with connect(server, DATABASE) as session:
            session.execute("DROP EVENT TRIGGER no; DROP FUNCTION public.no()")


def test_what_an_old_server_refuses_is_asked_for_once(server: LocalServer) -> None:
    connect(server).close()
    before = server.log.read_text().count("FATAL")
    connect(server).close()
    assert server.log.read_text().count("FATAL") == before


def test_settings_of_the_caller(server: LocalServer) -> None:
    with Session(
        Address(folder(server)),
        "postgres",
        user=SUPERUSER,
        password=server.passwords[SUPERUSER],
        application="a test",
        settings={"synchronous_commit": "off", "idle_session_timeout": "1h", "statement_timeout": "2min"},
    ) as session:
        shown = [one(session, f"SHOW {name}") for name in ("synchronous_commit", "idle_session_timeout")]
        assert [*shown, one(session, "SHOW statement_timeout")] == ["off", "1h", "2min"]
        assert one(session, "SHOW application_name") == "a test"
        assert session.version == server.version


# Logging in.


@pytest.fixture(scope="module")
def methods(stack: LocalStack) -> Iterator[LocalServer]:
    """Roles m_md5, m_password, m_trust and m_scram, each let in by its own method."""
    server = stack.database
    rules = Path(folder(server)).parent / "data" / "pg_hba.conf"
    before = rules.read_text()
    kinds = {"md5": "md5", "password": "password", "trust": "trust", "scram": "scram-sha-256"}
    lines = [f"local all m_{name} {method}\n" for name, method in kinds.items()]
    rules.write_text("".join(lines) + "hostssl all all all scram-sha-256\n" + before)
    with connect(server) as session:
        session.query("SELECT pg_reload_conf()")
        for name in kinds:
            session.execute(f"CREATE ROLE m_{name} LOGIN")
    yield server
    rules.write_text(before)
    with connect(server) as session:
        session.query("SELECT pg_reload_conf()")


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("method", ["md5", "password", "scram"])
def test_every_password_logs_in(methods: LocalServer, method: str, password: str) -> None:
    role = f"m_{method}"
    with connect(methods) as own:
        own.execute(f"SET password_encryption = {literal('md5' if method == 'md5' else 'scram-sha-256')}")
        own.execute(f"ALTER ROLE {role} PASSWORD {literal(password)}")
    with connect(methods, user=role, password=password) as session:
        assert one(session, "SELECT current_user") == role
    wrong = refused(lambda: connect(methods, user=role, password=password + "x"))
    assert (wrong.sqlstate, type(wrong)) == ("28P01", ServerError)
    assert password not in str(wrong)


@pytest.mark.parametrize("password", PASSWORDS)
def test_our_verifier_is_the_servers(methods: LocalServer, password: str) -> None:
    with connect(methods) as own:
        own.execute(f"ALTER ROLE m_scram PASSWORD {literal(scram_verifier(password))}")
    connect(methods, user="m_scram", password=password).close()
    psycopg.connect(methods.dsn("postgres", "m_scram", password)).close()


def test_trust_needs_no_password_and_the_others_say_that_there_is_none(methods: LocalServer) -> None:
    def without(user: str) -> Session:
        return Session(Address(folder(methods)), "postgres", user=user)

    without("m_trust").close()
    for method in ("md5", "password", "scram"):
        assert refused(lambda method=method: without(f"m_{method}")).sqlstate == "28P01"  # type: ignore[misc]


OVER_TCP = """
import json, sys
from stack_backup_jobs.session import Address, ServerError, Session, Tls
host, port, mode, password = json.loads(sys.stdin.read())
try:
    address = Address(host, port, Tls(mode))
    with Session(address, "postgres", user="admin", password=password, timeout=2) as session:
        [[ssl]] = session.query("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        session.execute("CREATE TEMP TABLE t (a text)")
        count = session.copy_in("COPY t FROM STDIN", [b"x" * 99 + b"\\n"] * 50000)
        size = sum(len(text) + 1 for (text,) in session.rows("SELECT a FROM t"))
        print(json.dumps([ssl, count, size]))
except ServerError as error:
    print(json.dumps([type(error).__name__, error.sqlstate, getattr(error, "errno", None)]))
"""


def over_tcp(stack: LocalStack, host: str, port: int = 5432, *, tls: str = "prefer") -> list[object]:
    """From inside the stack's network, where the server listens."""
    question = stack.namespaces.folder / "question"
    question.write_text(json.dumps([host, port, tls, stack.database.passwords[SUPERUSER]]))
    command = ["bash", "-c", 'exec "$0" -c "$1" <"$2"', sys.executable, OVER_TCP, str(question)]
    return list(json.loads(stack.namespaces.run(["env", f"PYTHONPATH={PROGRAMS}", *command]).stdout))


def test_over_tcp_in_clear_and_with_tls(stack: LocalStack, methods: LocalServer) -> None:
    assert over_tcp(stack, "127.0.0.1") == ["f", 50_000, 5_000_000]
    assert over_tcp(stack, "127.0.0.1", 5433) == ["UnreachableError", "08001", errno.ECONNREFUSED]
    assert over_tcp(stack, "nowhere.invalid") == ["UnreachableError", "08001", None]
    with connect(methods) as session:
        session.execute(
            "COPY (SELECT) TO PROGRAM 'openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x"
            " -keyout server.key -out server.crt 2>&1 && chmod 600 server.key'"
        )
        session.execute("ALTER SYSTEM SET ssl = on")
        session.query("SELECT pg_reload_conf()")
    await_(lambda: over_tcp(stack, "127.0.0.1")[0] == "t")
    # `localhost` is two addresses, and the server listens on one of them.
    assert over_tcp(stack, "localhost") == ["t", 50_000, 5_000_000]
    assert over_tcp(stack, "127.0.0.1", tls="disable") == ["f", 50_000, 5_000_000]


# Failures.


def test_failures_of_the_start_are_told_apart(server: LocalServer) -> None:
    assert refused(lambda: connect(server, "absent")).sqlstate == "3D000"
    assert refused(lambda: connect(server, user="nobody", password="x")).sqlstate == "28P01"
    assert refused(lambda: connect(server, "a\0b")).sqlstate == "22021"
    with server.stopped():
        error = refused(lambda: connect(server))
        assert isinstance(error, UnreachableError)
        assert (error.sqlstate, error.errno) == ("08001", errno.ENOENT)


def test_a_server_that_hangs_is_waited_for_no_longer_than_told(server: LocalServer) -> None:
    with server.hanging():
        begun = time.monotonic()
        error = refused(
            lambda: Session(Address(folder(server)), "postgres", user=SUPERUSER, password="x", timeout=0.5)
        )
        assert time.monotonic() - begun < 5
    assert isinstance(error, UnreachableError)
    assert error.errno == errno.ETIMEDOUT


@pytest.mark.parametrize(
    ("answer", "sqlstate"),
    [
        (b"HTTP/1.1 400", "08P01"),
        (b"NHTTP/1.1 400", "08P01"),
        (b"N\0\0\0\0\0", "08P01"),
        (b"S", "08001"),
        (b"", "08001"),
    ],
)
def test_what_is_no_server_of_postgresql(answer: bytes, sqlstate: str) -> None:
    def serve() -> None:
        taken, _ = listener.accept()
        with taken, contextlib.suppress(ConnectionError):
            taken.recv(100)
            taken.sendall(answer)
            while len(answer) > 1 and taken.recv(100):
                pass  # open until the client has had enough

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        address = Address("127.0.0.1", listener.getsockname()[1])
        error = refused(lambda: Session(address, "postgres", user="x", timeout=5))
        thread.join()
    assert (type(error), error.sqlstate) == (UnreachableError, sqlstate)


def test_a_server_that_does_not_know_the_password_is_refused() -> None:
    def told(connection: socket.socket, step: int, text: bytes) -> bytes:
        connection.sendall(struct.pack("!cii", b"R", len(text) + 8, step) + text)
        return connection.recv(4096)

    def serve() -> None:
        taken, _ = listener.accept()
        with taken:
            taken.recv(4096)  # for TLS
            taken.sendall(b"N")
            taken.recv(4096)
            nonce = told(taken, 10, b"SCRAM-SHA-256\0\0").partition(b"r=")[2]
            told(taken, 11, b"r=" + nonce + b"more,s=c2FsdA==,i=4096")
            taken.sendall(struct.pack("!cii", b"R", 8 + 46, 12) + b"v=" + b"A" * 43 + b"=")
            taken.sendall(struct.pack("!cii", b"R", 8, 0) + struct.pack("!cic", b"Z", 5, b"I"))
            taken.recv(4096)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        address = Address("127.0.0.1", listener.getsockname()[1])
        error = refused(lambda: Session(address, "postgres", user="x", password="secret", timeout=5))
        thread.join()
    assert error.sqlstate == "28000"


def test_an_error_leaves_the_session_usable_and_shows_no_statement(session: Session) -> None:
    error = refused(lambda: session.execute("SELECT 'secret', 1/0"))
    assert str(error) == "division by zero (22012)"
    assert "secret" not in repr(vars(error))
    session.execute("CREATE TEMP TABLE t (a int CONSTRAINT positive CHECK (a > 0))")
    error = refused(lambda: session.execute("INSERT INTO t VALUES (-77)"))
    assert error.sqlstate == "23514"
    assert "77" not in repr(vars(error))
    assert session.query("SELECT 1; SELECT NULL, 'ü'") == [(None, "ü")]
    assert not session.broken


def test_meta_commands_are_only_a_syntax_error(session: Session, server: LocalServer) -> None:
    assert refused(lambda: session.execute(b"\\! touch /exchange/run\nSELECT 1")).sqlstate == "42601"
    assert not (Path(folder(server)).parent / "exchange" / "run").exists()


def test_a_nul_is_never_sent(session: Session) -> None:
    for what in (lambda: session.execute(b"SELECT '\0'"), lambda: session.query("SELECT '\0'")):
        assert refused(what).sqlstate == "22021"
    assert one(session, "SELECT 1") == "1"


def test_a_copy_that_nobody_feeds_is_an_error(session: Session) -> None:
    session.execute("CREATE TEMP TABLE t (a int)")
    assert refused(lambda: session.execute("COPY t FROM STDIN")).sqlstate == "57014"
    assert refused(lambda: session.copy_in("SELECT 1", [])).sqlstate == "08P01"
    assert session.copy_in("COPY t FROM STDIN", []) == 0
    assert session.execute("COPY t TO STDOUT") == "COPY 0"


def test_cancelled_from_another_thread(session: Session) -> None:
    timer = threading.Timer(0.3, session.cancel)
    timer.start()
    assert refused(lambda: session.query("SELECT pg_sleep(60)")).sqlstate == "57014"
    timer.join()
    assert one(session, "SELECT 1") == "1"


def test_a_session_is_ended_from_another_thread_at_any_instant(server: LocalServer) -> None:
    """Its thread hears of it wherever it is: between two statements, before it waits, while it does."""
    rest: list[Session] = []
    for n in range(300):
        session = connect(server)
        seen: list[BaseException] = []

        def work(session: Session = session, seen: list[BaseException] = seen) -> None:
            seen.append(refused(lambda: [session.query("SELECT 1") for _ in itertools.count()]))

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        time.sleep(random.Random(n).random() / 500)
        session.abort()
        rest.append(connect(server))  # may be given the descriptor that the other had
        thread.join(5)
        assert not thread.is_alive(), n
        assert [type(error) for error in seen] == [UnreachableError] or seen[0].sqlstate == "57014"
        session.close()
        if len(rest) > 20:
            rest.pop(0).close()
    for one_more in rest:
        one_more.close()


def backend(session: Session) -> str:
    return str(one(session, "SELECT pg_backend_pid()"))


@pytest.mark.parametrize("asked", [True, False])
def test_a_session_that_the_server_ends_says_why(session: Session, server: LocalServer, asked: bool) -> None:
    pid = backend(session)

    def end() -> None:
        with connect(server) as other:
            other.query(f"SELECT pg_terminate_backend({pid})")
            await_(lambda: one(other, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == "0")

    timer = threading.Timer(0.3, end)
    timer.start()
    if not asked:
        timer.join()
    error = refused(lambda: session.query("SELECT pg_sleep(60)"))
    timer.join()
    assert isinstance(error, UnreachableError)
    assert error.sqlstate == "57P01"
    assert isinstance(refused(lambda: session.query("SELECT 1")), UnreachableError)


def test_a_signal_in_mid_answer_breaks_the_session_and_its_end_cancels(
    session: Session, server: LocalServer
) -> None:
    class Told(BaseException):
        pass

    def told(*_: object) -> None:
        raise Told

    pid = backend(session)
    before = signal.signal(signal.SIGALRM, told)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Told):
            session.query("SELECT pg_sleep(60)")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert session.broken
    assert refused(lambda: session.query("SELECT 1")).sqlstate == "08003"
    session.close()
    with connect(server) as other:  # before the server looks whether we are still there (10 s)
        await_(lambda: one(other, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == "0", 5)


# Text.


def test_a_large_statement_and_a_large_value(session: Session) -> None:
    text = "x'ü" * 1_700_000
    assert one(session, f"SELECT {literal(text)}") == text
    assert session.execute(b"SELECT '" + b"x" * 20_000_000 + b"'") == "SELECT 1"


@pytest.mark.parametrize("conforming", ["on", "off"])
def test_quoted_text_reads_back(session: Session, conforming: str) -> None:
    session.execute(f"SET standard_conforming_strings = {conforming}")
    for text in [*PASSWORDS, "\\", "\\'", "'", "''\\", "a\nb", 'q"']:
        assert one(session, f"SELECT{literal(text)}") == text
        assert one(session, f"SELECT 1 AS {identifier(text)} UNION SELECT 1") == "1"
        session.execute(f"CREATE TEMP TABLE {identifier(text)} ()")
        [[name]] = session.query(f"SELECT relname FROM pg_class WHERE relname = {literal(text)}")
        assert name == text
        session.execute(f"DROP TABLE {identifier(text)}")


def test_a_session_in_latin1(server: LocalServer) -> None:
    with Session(
        Address(folder(server)),
        "postgres",
        user=SUPERUSER,
        password=server.passwords[SUPERUSER],
        encoding="LATIN1",
    ) as session:
        assert one(session, "SELECT 'Größe' || convert_from('\\xc39f', 'UTF8')") == "Größeß"
        session.execute(b'CREATE TEMP TABLE "Gr\xf6\xdfe" (a text)')
        session.copy_in(b'COPY "Gr\xf6\xdfe" FROM STDIN', [b"\xfc", b"\n"])
        assert session.query('SELECT * FROM "Größe"') == [("ü",)]
        assert refused(lambda: session.query("SELECT '€'")).sqlstate == "22P05"
        session.execute("SET client_encoding = 'UTF8'")
        assert session.query('SELECT * FROM "Größe"') == [("ü",)]


def test_bytes_that_are_no_text_come_back_as_they_were(server: LocalServer) -> None:
    with connect(server) as own:
        own.execute("CREATE DATABASE ascii ENCODING 'SQL_ASCII' TEMPLATE template0 LOCALE 'C'")
    try:
        with Session(
            Address(folder(server)),
            "ascii",
            user=SUPERUSER,
            password=server.passwords[SUPERUSER],
            encoding="SQL_ASCII",
        ) as session:
            session.execute(b"CREATE TABLE public.\"t\xff\xfc\" AS SELECT 'x\xfe' AS a")
            [[name]] = session.query(
                "SELECT relname FROM pg_class WHERE relname LIKE 't_%' AND relkind = 'r'"
            )
            assert name is not None
            assert session.query(f"SELECT * FROM public.{identifier(name)}") == [("x\udcfe",)]
    finally:
        with connect(server) as own:
            own.execute("DROP DATABASE ascii")


ENCODINGS = (
    "LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8 LATIN9 LATIN10 WIN866 WIN874 WIN1250 WIN1251"
)
ENCODINGS += (
    " WIN1252 WIN1253 WIN1254 WIN1255 WIN1256 WIN1257 WIN1258 KOI8R KOI8U ISO_8859_5 ISO_8859_6 ISO_8859_7"
)
ENCODINGS += (
    " ISO_8859_8 EUC_JP EUC_CN EUC_KR EUC_JIS_2004 SJIS SHIFT_JIS_2004 BIG5 GBK UHC GB18030 JOHAB UTF8"
)


def test_encodings_are_the_servers(session: Session) -> None:
    """Letters that the server can write in an encoding are read by Python's codec as the same."""
    letters = "aéäßşěĀřŵΩωЖЯґשלسفกขü日本語あア中国体字한국어"
    for encoding in ENCODINGS.split():
        read = 0
        for letter in letters:
            try:
                value = one(session, f"SELECT encode(convert_to('{letter}', '{encoding}'), 'hex')")
            except ServerError as error:
                assert error.sqlstate == "22P05"  # noqa: PT017 (many are refused, each as it must)
                continue
            assert bytes.fromhex(str(value)).decode(codec(encoding)) == letter, (encoding, letter)
            read += 1
        assert read > 2, encoding


# COPY.


def test_copy_there_and_back(session: Session) -> None:
    session.execute("CREATE TEMP TABLE t (a text)")
    data = b"".join(b"%d %s\n" % (n, b"x" * (n % 300)) for n in range(20_000)) + b"y" * 3_000_000 + b"\n"
    pieces = [data[at : at + 70_001] for at in range(0, len(data), 70_001)]
    assert session.copy_in("COPY t FROM STDIN", pieces) == 20_001
    assert session.copy_in("COPY t FROM STDIN", [data]) == 20_001
    back = [str(text).encode() for (text,) in session.rows("SELECT a FROM t")]
    assert sorted(back) == sorted((data * 2).splitlines())
    assert session.execute("COPY t TO STDOUT") == "COPY 40002"


def test_an_error_in_mid_copy_is_noticed_at_once(session: Session) -> None:
    session.execute("CREATE TEMP TABLE t (a int)")
    sent = 0

    def source() -> Iterator[bytes]:
        nonlocal sent
        yield b"1\nnothing\n"
        for _ in range(10_000):
            sent += 1
            yield b"2\n" * 30_000

    error = refused(lambda: session.copy_in("COPY t FROM STDIN", source()))
    assert (error.sqlstate, sent < 1_000) == ("22P02", True)
    assert one(session, "SELECT count(*) FROM t") == "0"


def test_a_server_that_talks_while_it_is_fed_is_listened_to(session: Session) -> None:
    session.execute(
        "CREATE TABLE public.talk (a text); CREATE FUNCTION public.talk() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN RAISE WARNING '%', repeat('x', 10000); RETURN new; END$$;"
        "CREATE TRIGGER talk BEFORE INSERT ON public.talk FOR EACH ROW EXECUTE FUNCTION public.talk()"
    )
    try:
        assert session.copy_in("COPY public.talk FROM STDIN", [(b"x" * 9_999 + b"\n") * 100] * 30) == 3_000
        assert len(session.notices) == 100
        assert session.notices[0].sqlstate == "01000"
    finally:
        session.execute("DROP TABLE public.talk; DROP FUNCTION public.talk()")


def test_what_the_source_raises_ends_the_copy_and_nothing_is_kept(session: Session) -> None:
    session.execute("CREATE TEMP TABLE t (a int)")

    def source(error: BaseException) -> Iterator[bytes]:
        yield b"1\n"
        raise error

    with pytest.raises(OSError, match="gone"):
        session.copy_in("COPY t FROM STDIN", source(OSError("gone")))
    assert one(session, "SELECT count(*) FROM t") == "0"
    with pytest.raises(KeyboardInterrupt):
        session.copy_in("COPY t FROM STDIN", source(KeyboardInterrupt()))
    assert session.broken


def test_a_server_that_crashes_in_mid_copy(server: LocalServer) -> None:
    with connect(server) as session:
        session.execute("CREATE TEMP TABLE t (a int)")

        def source() -> Iterator[bytes]:
            yield b"1\n" * 1_000_000
            server.stop(immediate=True)
            while True:
                yield b"2\n" * 30_000

        error = refused(lambda: session.copy_in("COPY t FROM STDIN", source()))
        server.start()
    assert isinstance(error, UnreachableError)
    assert error.sqlstate in ("57P01", "57P02", "08006")


def test_answers_that_are_left_break_the_session(server: LocalServer) -> None:
    with connect(server) as session:
        for _ in session.rows("SELECT * FROM generate_series(1, 100000000)"):
            break
        assert session.broken
        assert refused(lambda: session.query("SELECT 1")).sqlstate == "08003"
    with connect(server) as other:
        await_(
            lambda: (
                one(other, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%generate_series(1%'")
                == "1"
            )
        )


FLAT = """
import resource, sys
from stack_backup_jobs.session import Address, Session
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
with Session(Address(sys.argv[1]), "postgres", user="admin", password=sys.stdin.read()) as session:
    session.execute("CREATE TEMP TABLE t (a text)")
    chunk = (b"x" * 99 + b"\\n") * 655
    begun = peak()
    assert session.copy_in("COPY t FROM STDIN", (chunk for _ in range(4600))) == 4600 * 655
    assert sum(1 for _ in session.rows("SELECT * FROM t LIMIT 1000000")) == 1000000
    session.execute("TRUNCATE t")
    session.copy_in("COPY t FROM STDIN", [b"x" * 65536] * 3200 + [b"\\n"])
    assert session.query("SELECT octet_length(a) FROM t") == [(str(3200 * 65536),)]
    print(peak() - begun)
"""


def test_memory_does_not_grow_with_the_data(server: LocalServer) -> None:
    """300 MB of rows there and back, and a row of 200 MB: in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", FLAT, folder(server)],
        input=server.passwords[SUPERUSER],
        env={**os.environ, "PYTHONPATH": str(PROGRAMS)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 12
