"""Sessions of PostgreSQL: a small client of its protocol (3.0), and what quotes SQL.

Every error has its SQLSTATE, we stream COPY's data ourselves, and no dump can run a program as psql would.
"""

from __future__ import annotations

import base64
import codecs
import contextlib
import errno
import hashlib
import hmac
import os
import re
import secrets
import select
import socket
import stringprep
import struct
import time
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

Row = tuple[str | None, ...]

SETTINGS = {
    **dict.fromkeys(("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"), "0"),
    **dict.fromkeys(("default_transaction_read_only", "default_transaction_deferrable"), "off"),
    **dict.fromkeys(("escape_string_warning", "quote_all_identifiers", "row_security"), "off"),
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "local",  # on the server's own disk; no standby is waited for
    "exit_on_error": "off",
    "array_nulls": "on",  # else a NULL in an array is loaded as a word
    "standard_conforming_strings": "on",
    "search_path": "pg_catalog",
    "role": "none",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "client_min_messages": "warning",
}
"""What we depend on, whatever server, database and role say."""
EXTRA = {
    # These are a superuser's.
    "event_triggers": "off",  # 17: an application's trigger at login may do, and refuse, anything
    "session_replication_role": "origin",
    # These have come in 14 and 17.
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "client_connection_check_interval": "10s",  # what a killed pod has begun ends, too
}
"""The same, where the server knows it and the role may set it."""
TLS_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")
NOT_TRUSTED = "08TLS"
"""An SQLSTATE of our own: server and client do not agree on TLS, or one does not trust the other."""
_NOT_EVERYWHERE = {"42704", "42501"}
_REFUSING: set[tuple[Address, str]] = set()
"""Servers and users that have refused EXTRA at the start: a session that is refused is in their log."""

_ROOM = 1 << 16
_PIECE = 1 << 20
_PATIENCE = 2.0
"""Seconds for a request to cancel."""
_TABLES = ("a1", "c21_c22", "c3", "c4", "c5", "c6", "c7", "c8", "c9")
_PROHIBITED = [getattr(stringprep, f"in_table_{name}") for name in _TABLES]
_CODECS = {"UTF8": "utf-8", "SQL_ASCII": "utf-8", "SJIS": "cp932", "KOI8R": "koi8-r", "KOI8U": "koi8-u"}


class ServerError(Exception):
    """What a server said: message and SQLSTATE. The rest is not kept, for it may hold what is in a row."""

    def __init__(self, message: str, sqlstate: str) -> None:
        super().__init__(message, sqlstate)
        self.message, self.sqlstate = message, sqlstate

    def __str__(self) -> str:
        return f"{self.message} ({self.sqlstate})"

    @classmethod
    def read(cls, body: bytes, codec: str) -> ServerError:
        said = {field[:1]: field[1:].decode(codec, "backslashreplace") for field in body.split(b"\0")}
        return cls(said.get(b"M", ""), said.get(b"C", "XX000"))


class UnreachableError(ServerError):
    """No connection, or it was lost; `errno` is None where the server itself has closed it."""

    errno: int | None = None


@dataclass(frozen=True)
class Tls:
    """How a connection is protected: libpq's sslmode, and files, of the CA and of a client's certificate."""

    mode: str = "prefer"
    ca: str = ""
    certificate: str = ""
    key: str = ""


@dataclass(frozen=True)
class Address:
    """A host, or the folder of a socket, which has no TLS."""

    host: str
    port: int = 5432
    tls: Tls = Tls()


def codec(encoding: str) -> str:
    """Python's codec for an encoding of PostgreSQL; with surrogateescape, so that any bytes can be read."""
    name = _CODECS.get(encoding) or (f"cp{encoding[3:]}" if encoding.startswith("WIN") else encoding)
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "ascii"  # MULE_INTERNAL, EUC_TW


def identifier(name: str) -> str:
    return '"' + _whole(name).replace('"', '""') + '"'


def literal(text: str) -> str:
    """Whatever standard_conforming_strings says."""
    quoted = "'" + _whole(text).replace("'", "''") + "'"
    return " E" + quoted.replace("\\", "\\\\") if "\\" in text else quoted


def _whole(text: str) -> str:
    if "\0" in text:
        raise ServerError("PostgreSQL takes no text with a NUL in it", "22021")
    return text


def saslprep(password: str) -> bytes:
    """As libpq and the server do it: what is not allowed, or no UTF-8, stays as it is."""
    raw = password.encode("utf-8", "surrogateescape")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw
    if text.isascii():
        return raw
    text = "".join(
        " " if stringprep.in_table_c12(c) else "" if stringprep.in_table_b1(c) else c for c in text
    )
    if not text or any(table(c) for c in text for table in _PROHIBITED):
        return raw
    if any(map(stringprep.in_table_d1, text)) and not (
        stringprep.in_table_d1(text[0])
        and stringprep.in_table_d1(text[-1])
        and not any(map(stringprep.in_table_d2, text))
    ):
        return raw
    return unicodedata.normalize("NFKC", text).encode()


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _salted(password: str, salt: bytes, iterations: int) -> bytes:
    # hashlib.pbkdf2_hmac is there only where OpenSSL is.
    key = saslprep(password)
    last = _mac(key, salt + b"\0\0\0\1")
    salted = int.from_bytes(last)
    for _ in range(iterations - 1):
        last = _mac(key, last)
        salted ^= int.from_bytes(last)
    return salted.to_bytes(32)


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = 4096) -> str:
    """What the server keeps of a password: in SQL in its place, so that the password is in no statement."""
    salt = salt or secrets.token_bytes(16)
    salted = _salted(password, salt, iterations)
    stored, server = hashlib.sha256(_mac(salted, b"Client Key")).digest(), _mac(salted, b"Server Key")
    text = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${iterations}:{text[0]}${text[1]}:{text[2]}"


def scram_proof(password: str, first: bytes, server_first: bytes) -> tuple[bytes, bytes]:
    """The client's last message, and what the server's must be. `first`: the client's, without `n,,`."""
    said = dict(part.split(b"=", 1) for part in server_first.split(b",") if b"=" in part)
    try:
        nonce, salted = said[b"r"], _salted(password, base64.b64decode(said[b"s"]), int(said[b"i"]))
    except (KeyError, ValueError):
        nonce, salted = b"", b""
    if not nonce.startswith(first.partition(b"r=")[2]):
        raise ServerError("the server does not speak SCRAM as it must", "08P01")
    final = b"c=biws,r=" + nonce
    text = b",".join((first, server_first, final))
    key = _mac(salted, b"Client Key")
    signature = _mac(hashlib.sha256(key).digest(), text)
    proof = bytes(a ^ b for a, b in zip(key, signature, strict=True))
    expected = b"v=" + base64.b64encode(_mac(_mac(salted, b"Server Key"), text))
    return final + b",p=" + base64.b64encode(proof), expected


class Session:
    """One session; of one thread, but for `cancel` and `abort`.

    All raise ServerError and UnreachableError. Where an answer is not taken to its end (a signal, a generator
    that was left), it is `broken`: it can only be closed then, which cancels what runs.
    """

    _key: bytes | None
    _error: ServerError | None
    _deadline: float | None

    def __init__(
        self,
        address: Address,
        database: str,
        *,
        user: str,
        password: str | None = None,
        encoding: str = "UTF8",
        application: str = "stack-backup",
        settings: Mapping[str, str] | None = None,
        timeout: float = 20,
    ) -> None:
        """`timeout` in seconds is for the start alone."""
        self.address, self.user, self._password = address, user, password
        self.parameters: dict[str, str] = {}
        self.notices: deque[ServerError] = deque(maxlen=100)
        own = {"client_encoding": encoding, "application_name": application, **(settings or {})}
        common = {"user": user, "database": database, **SETTINGS, **own}
        if (address, user) not in _REFUSING:
            try:
                self._start({**EXTRA, **common}, timeout)
                return
            except ServerError as error:
                if error.sqlstate not in _NOT_EVERYWHERE:
                    raise
        self._start({key: value for key, value in common.items() if key not in EXTRA}, timeout)
        _REFUSING.add((address, user))
        extra = ", ".join(f"({literal(key)}, {literal(own.get(key, value))})" for key, value in EXTRA.items())
        try:
            self.query(
                "SELECT set_config(name, wish, false) FROM pg_settings"
                f" JOIN (VALUES {extra}) AS extra (known, wish) ON name = known"
                " WHERE context = 'user' OR context = 'superuser' AND current_setting('is_superuser') = 'on'"
            )
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def broken(self) -> bool:
        return self._busy

    @property
    def version(self) -> int:
        """The server's major version."""
        return int(re.split(r"\D", self.parameters["server_version"])[0])

    def query(self, sql: str) -> list[Row]:
        """The rows of the last statement, in memory."""
        self._ask(sql)
        rows: list[Row] = []
        for kind, body in self._rest():
            if kind == b"T":
                rows = []
            elif kind == b"D":
                rows.append(self._row(body))
        return rows

    def rows(self, sql: str) -> Iterator[Row]:
        """The same as they come, for what may be many."""
        self._ask(sql)
        for kind, body in self._rest():
            if kind == b"D":
                yield self._row(body)

    def execute(self, sql: str | bytes) -> str:
        """The last statement's tag, such as `CREATE TABLE`; bytes are in the session's encoding already."""
        self._ask(sql)
        return self._end()

    def copy_in(self, sql: str | bytes, chunks: Iterable[bytes]) -> int:
        """`COPY … FROM STDIN` with this data: the number of rows. What the source raises ends it, too."""
        self._ask(sql)
        while (kind := self._next(copying=True)[0]) != b"G":
            if kind == b"Z":
                raise ServerError("this is no COPY FROM STDIN", "08P01")
        source = iter(chunks)
        while self._error is None:
            try:
                chunk = next(source, None)
            except Exception:
                with contextlib.suppress(ServerError):
                    self._put(b"f", b"the source has failed\0")
                    self._end()
                raise
            if chunk is None:
                self._put(b"c", b"")
                break
            for at in range(0, len(chunk), _PIECE):
                self._put(b"d", chunk[at : at + _PIECE])
            self._heed()
        return int(self._end().rpartition(" ")[2])

    def copy_out(self, sql: str) -> Iterator[bytes]:
        """`COPY … TO STDOUT`: its rows as they come, many in a chunk."""
        self._ask(sql)
        held = bytearray()
        for kind, body in self._rest():
            if kind == b"d":
                held += body
                if len(held) >= _ROOM:
                    yield bytes(held)
                    held.clear()
        if held:
            yield bytes(held)

    def cancel(self) -> None:
        """Asks the server to end what runs, from any thread; the session itself hears of it (57014)."""
        if self._key is None:
            return
        with socket.socket(self._family) as other:
            other.settimeout(_PATIENCE)
            try:
                other.connect(self._peer)
                other.sendall(struct.pack("!ii", 16, 80877102) + self._key)
                other.recv(1)  # the server closes it when the request was passed on
            except OSError as error:
                raise _unreachable(error, "08001") from error

    def abort(self) -> None:
        """Ends what runs, from any thread: the session's own hears of it wherever it is.

        It is to be closed all the same, when that thread has ended: till then it may wait for the descriptor,
        which would be another connection's.
        """
        with contextlib.suppress(ServerError, OSError):
            if self._busy:
                self.cancel()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """By its own thread, or after it."""
        if self._socket.fileno() < 0:
            return
        if self._busy:
            self.abort()
        else:
            with contextlib.suppress(OSError):
                self._socket.send(b"X\0\0\0\4")
        self._socket.close()

    # The start.

    def _start(self, parameters: Mapping[str, str], timeout: float) -> None:
        """Connects, and goes on until the server waits for a statement."""
        self._buffer, self._at = b"", 0
        self._busy, self._error, self._key = True, None, None
        self._again: tuple[type[OSError], ...] = (BlockingIOError,)
        self._codec = "utf-8"
        self._deadline = time.monotonic() + timeout
        pairs = b"".join(_text(text) + b"\0" for pair in parameters.items() for text in pair)
        try:
            self._socket = _connect(self.address, timeout)
        except OSError as error:
            raise _unreachable(error, "08001") from error
        self._family, self._peer = (
            self._socket.family,
            _socket_file(self.address) or self._socket.getpeername(),
        )
        try:
            if self.address.tls.mode != "disable" and self._family != socket.AF_UNIX:
                self._encrypt()
            self._socket.setblocking(False)
            self._send(struct.pack("!ii", len(pairs) + 9, 196608) + pairs + b"\0")
            while (message := self._next())[0] != b"Z":
                if self._error is not None:
                    raise self._error
                if message[0] == b"R":
                    self._authenticate(message[1])
                elif message[0] == b"K":
                    self._key = message[1]
        except OSError as error:
            self._socket.close()
            raise _unreachable(error, "08001") from error
        except BaseException:
            self._socket.close()
            raise
        self._deadline = None

    def _encrypt(self) -> None:
        self._socket.sendall(struct.pack("!ii", 8, 80877103))
        answer = self._socket.recv(1)  # not a byte more: what follows belongs to TLS
        if answer == b"S":
            self._socket, self._again = _with_tls(self._socket, self.address)
        elif answer != b"N":
            raise UnreachableError("no PostgreSQL server answers there", "08P01") if answer else self._lost()
        elif self.address.tls.mode != "prefer":
            raise UnreachableError("the server does not offer TLS", NOT_TRUSTED)

    def _authenticate(self, body: bytes) -> None:
        """Trust, a clear password, md5 or SCRAM-SHA-256."""
        (method,) = struct.unpack_from("!i", body)
        if method == 0:
            return
        if self._password is None:
            raise ServerError("the server asks for a password, and there is none", "28P01")
        raw = _text(self._password)
        if method == 3:
            self._put(b"p", raw + b"\0")
        elif method == 5:
            inner = hashlib.md5(raw + _text(self.user), usedforsecurity=False).hexdigest()
            outer = hashlib.md5(inner.encode() + body[4:8], usedforsecurity=False).hexdigest()
            self._put(b"p", b"md5" + outer.encode() + b"\0")
        elif method == 10 and b"SCRAM-SHA-256" in body[4:].split(b"\0"):
            first = b"n=,r=" + base64.b64encode(secrets.token_bytes(18))
            self._put(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first) + 3) + b"n,," + first)
            final, expected = scram_proof(self._password, first, self._scram(11))
            self._put(b"p", final)
            if not hmac.compare_digest(self._scram(12), expected):
                raise ServerError("the server does not know the password itself", "28000")
        else:
            raise ServerError(f"the server asks for an authentication of another kind ({method})", "28000")

    def _scram(self, step: int) -> bytes:
        kind, body = self._next()
        if self._error is not None:
            raise self._error
        if kind != b"R" or struct.unpack_from("!i", body) != (step,):
            raise ServerError("the server does not speak SCRAM as it must", "08P01")
        return body[4:]

    # Statements.

    def _ask(self, sql: str | bytes) -> None:
        if self._busy:
            raise UnreachableError("the session was left in the middle of an answer", "08003")
        data = sql if isinstance(sql, bytes) else _text(sql, self._codec)
        if b"\0" in data:
            raise ServerError("PostgreSQL takes no text with a NUL in it", "22021")
        self._busy = True
        self._put(b"Q", data, b"\0")

    def _next(self, *, copying: bool = False) -> tuple[bytes, bytes]:
        """The next message that is part of an answer. With the last one (Z) the error in it is raised."""
        while True:
            kind, body = self._message()
            if kind == b"G" and not copying:
                self._put(b"f", b"there is no data\0")
            elif kind == b"Z":
                self._busy = False
                error, self._error = self._error, None
                if error is not None:
                    raise error
                return kind, body
            elif kind == b"E" and self._deadline is not None:
                return kind, body  # at the start nothing follows it
            elif kind not in b"NSAEv":
                return kind, body

    def _rest(self) -> Iterator[tuple[bytes, bytes]]:
        """The messages of an answer, to its end."""
        while (message := self._next())[0] != b"Z":
            yield message

    def _end(self) -> str:
        """The last statement's tag."""
        tags = [body for kind, body in self._rest() if kind == b"C"]
        return tags[-1].rstrip(b"\0").decode() if tags else ""

    def _row(self, body: bytes) -> Row:
        (count,) = struct.unpack_from("!H", body)
        row: list[str | None] = []
        at = 2
        for _ in range(count):
            (length,) = struct.unpack_from("!i", body, at)
            at += 4
            row.append(None if length < 0 else body[at : at + length].decode(self._codec, "surrogateescape"))
            at += max(length, 0)
        return tuple(row)

    # Messages.

    def _message(self) -> tuple[bytes, bytes]:
        """The next message."""
        self._fill(5)
        kind, length = struct.unpack_from("!ci", self._buffer, self._at)
        if length < 4 or (self._deadline is not None and length > _ROOM):
            raise UnreachableError("no PostgreSQL server answers there", "08P01")
        self._fill(length + 1)
        body = self._buffer[self._at + 5 : self._at + length + 1]
        self._at += length + 1
        self._told(kind, body)
        return kind, body

    def _told(self, kind: bytes, body: bytes) -> None:
        """What may come at any time."""
        if kind == b"N":
            self.notices.append(ServerError.read(body, self._codec))
        elif kind == b"E":
            self._error = self._error or ServerError.read(body, self._codec)
        elif kind == b"S":
            name, value = (part.decode("utf-8", "backslashreplace") for part in body.split(b"\0")[:2])
            self.parameters[name] = value
            if name == "client_encoding":
                self._codec = codec(value)

    def _put(self, kind: bytes, *parts: bytes) -> None:
        parts = (struct.pack("!ci", kind, sum(map(len, parts)) + 4), *parts)
        for data in [b"".join(parts)] if len(parts[1]) <= _PIECE else parts:  # what is large is not copied
            self._send(data)

    # Bytes. The socket never blocks, so that the server is heard while it is being written to.

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except self._again:
                    if self._wait(select.POLLIN | select.POLLOUT) & select.POLLIN:
                        self._hear()
        except OSError as error:
            with contextlib.suppress(UnreachableError):
                while self._deadline is None:
                    self._message()  # why it has closed the connection may have come before
            raise self._lost(error) from error

    def _heed(self) -> None:
        """Whatever the server has said until now."""
        self._hear()
        while self._error is None and (have := len(self._buffer) - self._at) >= 5:
            if have <= int.from_bytes(self._buffer[self._at + 1 : self._at + 5]):
                break
            self._message()

    def _hear(self) -> None:
        try:
            data = self._socket.recv(_ROOM)
        except self._again:
            return
        except OSError as error:
            raise self._lost(error) from error
        if not data:
            raise self._lost()
        self._buffer, self._at = self._buffer[self._at :] + data, 0

    def _fill(self, need: int) -> None:
        """Waits until so many bytes are there."""
        have = len(self._buffer) - self._at
        if have >= need:
            return
        parts = [self._buffer[self._at :]]
        while have < need:
            try:
                data = self._socket.recv(min(max(need - have, _ROOM), _PIECE))
            except self._again:
                self._wait(select.POLLIN)
                continue
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                raise self._lost()
            parts.append(data)
            have += len(data)
        self._buffer, self._at = b"".join(parts), 0

    def _wait(self, events: int) -> int:
        poll = select.poll()
        poll.register(self._socket, events)
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic()) * 1000
        ready = poll.poll(left)
        if not ready:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return ready[0][1]

    def _lost(self, error: OSError | None = None) -> UnreachableError:
        """The connection is gone; the server may have said why."""
        self._key, self._busy = None, True
        last = self.notices[-1] if self.notices else None
        said = self._error or (last if last is not None and last.sqlstate.startswith("57P") else None)
        lost = _unreachable(error, "08006" if self._deadline is None else "08001")
        if said is not None:
            lost.__dict__.update(said.__dict__)
        return lost


def _unreachable(error: OSError | None, sqlstate: str) -> UnreachableError:
    if error is None:
        return UnreachableError("the server has closed the connection", sqlstate)
    lost = UnreachableError(error.strerror or str(error) or type(error).__name__, sqlstate)
    if isinstance(error, TimeoutError):
        lost.errno = errno.ETIMEDOUT
    elif not isinstance(error, socket.gaierror) and not hasattr(error, "library"):
        lost.errno = error.errno  # name resolution and TLS have numbers of their own
    return lost


def _with_tls(plain: socket.socket, address: Address) -> tuple[socket.socket, tuple[type[OSError], ...]]:
    """The same connection with TLS, and the errors that mean: once more, later."""
    import ssl  # costs time and memory that most sessions need not spend

    tls = address.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = tls.mode == "verify-full"
    context.verify_mode = ssl.CERT_REQUIRED if tls.mode.startswith("verify-") else ssl.CERT_NONE
    try:
        if context.verify_mode == ssl.CERT_REQUIRED:
            context.load_verify_locations(tls.ca)
        if tls.certificate:
            context.load_cert_chain(tls.certificate, tls.key)
    except OSError as error:
        raise _unreachable(error, NOT_TRUSTED) from error
    try:
        secured = context.wrap_socket(plain, server_hostname=address.host if context.check_hostname else None)
    except ssl.SSLCertVerificationError as error:
        raise _unreachable(error, NOT_TRUSTED) from error
    return secured, (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def _socket_file(address: Address) -> str:
    return f"{address.host}/.s.PGSQL.{address.port}" if address.host.startswith("/") else ""


def _connect(address: Address, timeout: float) -> socket.socket:
    if file := _socket_file(address):
        local = socket.socket(socket.AF_UNIX)
        local.settimeout(timeout)
        try:
            local.connect(file)
        except BaseException:
            local.close()
            raise
        return local
    remote = socket.create_connection((address.host, address.port), timeout)
    remote.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A server whose node is gone is noticed within a minute or two.
    remote.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = (socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6)
    for option, value in (*options, (socket.TCP_USER_TIMEOUT, 120_000)):
        remote.setsockopt(socket.IPPROTO_TCP, option, value)
    return remote


def _text(text: str, encoding: str = "utf-8") -> bytes:
    try:
        return _whole(text).encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        raise ServerError(f"{encoding} has no such character", "22P05") from None
