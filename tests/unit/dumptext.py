"""Text like that of pg_dumpall, made from what it is to say: so a test knows what a reader must find."""

from __future__ import annotations

from dataclasses import dataclass, field

SETS = "SET statement_timeout = 0;\nSET client_encoding = 'UTF8';\nSET standard_conforming_strings = {};\n"
TOKEN = "aToken0123456789"
TRAILER = b"--\n-- PostgreSQL database cluster dump complete\n--\n\n"


@dataclass
class Database:
    """Its statements before and after the rows, its tables with their rows, sequences, large objects."""

    name: bytes
    before: list[bytes] = field(default_factory=list)
    tables: list[tuple[bytes, list[bytes]]] = field(default_factory=list)
    sequences: list[tuple[bytes, int]] = field(default_factory=list)
    objects: int = 0
    after: list[bytes] = field(default_factory=list)
    standard_strings: bool = True

    def text(self) -> bytes:
        between = [b"SELECT pg_catalog.setval(%s, %d, true);" % (literal(n), v) for n, v in self.sequences]
        made = [b"SELECT pg_catalog.lo_create('%d');" % number for number in range(self.objects)]
        if self.objects:
            between += [b"BEGIN;", b"SELECT pg_catalog.lowrite(0, '\\x61');", b"COMMIT;"]
        copies = [b"COPY %s (a) FROM stdin;\n%s\\.\n" % (name, b"".join(rows)) for name, rows in self.tables]
        standard = "on" if self.standard_strings else "off"
        body = map(entry, [*self.before, *made, *copies, *between, *self.after])
        return b"".join((
            b"--\n-- Database dump\n--\n\n\\connect %s\n\n" % connect(self.name),
            b"--\n-- PostgreSQL database dump\n--\n\n\\restrict %s\n\n" % TOKEN.encode(),
            b"-- Dumped from database version 15.18 (Debian)\n\n",
            SETS.format(standard).encode(),
            *body,
            b"--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict %s\n\n" % TOKEN.encode(),
        ))  # fmt: skip


def entry(sql: bytes) -> bytes:
    return b"\n--\n-- Name: x; Type: TABLE; Schema: public; Owner: o\n--\n\n%s\n" % sql


def dump(databases: list[Database], roles: list[bytes] = []) -> bytes:  # noqa: B006
    head = b"--\n-- PostgreSQL database cluster dump\n--\n\n\\restrict %s\n\n" % TOKEN.encode()
    head += SETS.format("on").encode() + b"".join(b"%s\n" % role for role in roles)
    head += b"\n\\unrestrict %s\n\n" % TOKEN.encode()
    return head + b"".join(database.text() for database in databases) + TRAILER


def connect(name: bytes) -> bytes:
    """A database as pg_dumpall names it after `\\connect`."""
    if name.replace(b"_", b"").isalnum() and name.isascii():
        return name if name.islower() else identifier(name)
    value = b"'%s'" % name.replace(b"\\", b"\\\\").replace(b"'", b"\\'")
    return b"-reuse-previous=on " + identifier(b"dbname=" + value)


def identifier(name: bytes) -> bytes:
    return b'"%s"' % name.replace(b'"', b'""')


def literal(text: bytes) -> bytes:
    return b"'%s'" % text.replace(b"'", b"''")
