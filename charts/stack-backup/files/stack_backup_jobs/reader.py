"""The one reader of dumps: what the text of pg_dumpall holds, counted while its bytes pass by, and found
again.

A dump is its roles and tablespaces, and then one part a database, after a `\\connect`. A part is what must
be there before the rows, the rows of tables (blocks) with sequences and large objects between them, and
what comes after the rows. What is remembered of it is places in the text: `Part.statements` reads them
again.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stack_backup_jobs.formats import MIB
from stack_backup_jobs.job import Job
from stack_backup_jobs.scanner import HEAD, Scanner
from stack_backup_jobs.session import codec

TRAILER = b"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
UNREADABLE = {"SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"}
"""Encodings of clients, not of servers: a byte that reads as a quote or a backslash may be half a letter."""

_NAME = rb'(?:"(?:[^"]|"")*"|[^\s";,.()]+)'
_COPY = re.compile(rb"COPY (" + _NAME + rb"(?:\." + _NAME + rb")?)")
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('(.*)', (-?[0-9]+), (true|false)\);", re.DOTALL)
_SETTING = re.compile(rb"(?:SET|RESET) (SESSION AUTHORIZATION|\w+)|SELECT pg_catalog\.set_config\('(\w+)'")
_ENTRY = re.compile(rb"-- (?:Data for )?Name: (.*); Type: (.*?); Schema: (.*?); Owner: ", re.DOTALL)
_CONNECT = re.compile(
    rb'\\connect (?:-reuse-previous=on "dbname=((?:[^"]|"")*)"|("(?:[^"]|"")*"|[A-Za-z0-9_.]+))'
)
_DBNAME = re.compile(rb"([A-Za-z0-9_.]+)|'((?:[^'\\]|\\.)*)'", re.DOTALL)
_ITSELF = re.compile(
    rb"(?:(CREATE|ALTER|COMMENT ON) DATABASE|(?:GRANT|REVOKE) [A-Z, ]+ ON DATABASE"
    rb"|ALTER ROLE NAME IN DATABASE|SECURITY LABEL (?:FOR NAME )?ON DATABASE) (NAME) ?(.*)".replace(
        b"NAME", _NAME
    ),
    re.DOTALL,
)
_OWNER = re.compile(rb"OWNER (?:TO|=) (" + _NAME + rb")")
_LIMIT = re.compile(rb"CONNECTION LIMIT =? ?(-?\d+)")
_TEMPLATE = re.compile(rb"IS_TEMPLATE =? ?(true|false)")
_TABLESPACE = re.compile(rb"(?:default_tablespace|TABLESPACE) = (?!')(" + _NAME + rb")")
_GLOBAL = re.compile(
    rb"(?:(?:CREATE|ALTER|DROP|COMMENT ON) (?:ROLE|USER|GROUP|TABLESPACE)"
    rb"|SECURITY LABEL|GRANT|REVOKE|UPDATE) "
)
_DATA = (b"SELECT pg_catalog.setval(", b"SELECT pg_catalog.lo", b"INSERT INTO ", b"BEGIN;", b"COMMIT;")
_MAKES_OBJECT = b"SELECT pg_catalog.lo_create('"
_MANY = (b"INSERT INTO ", b"SELECT pg_catalog.lowrite(")
_LOOSE = re.compile(
    rb"SELECT pg_catalog\.(?:setval|lo)|BEGIN;|COMMIT;|ALTER LARGE OBJECT|[A-Z, ]+ ON LARGE OBJECT \d"
)

Settings = tuple[tuple[bytes, bytes], ...]
"""What is set in a session: the parameter, and the statement that sets it."""


class NotWholeError(Exception):
    """The text is not a whole dump."""


def unquoted(name: bytes) -> bytes:
    return name[1:-1].replace(b'""', b'"') if name[:1] == b'"' else name


def connected(line: bytes) -> bytes | None:
    r"""The database of `\connect name`, `"Name"` or `-reuse-previous=on "dbname='na me'"`; else None."""
    found = _CONNECT.fullmatch(line)
    if found is None or found[2]:
        return found and unquoted(found[2])
    value = _DBNAME.fullmatch(found[1].replace(b'""', b'"'))
    return value and (value[1] or re.sub(rb"\\(.)", rb"\1", value[2], flags=re.DOTALL))


def with_setting(settings: Settings, sql: bytes) -> Settings | None:
    """The settings after a statement; None when it sets nothing."""
    if sql[:1] not in b"SR" or (found := _SETTING.match(sql)) is None:
        return None
    key = (found[1] or found[2]).lower()
    return (*((name, text) for name, text in settings if name != key), (key, sql))


def about_itself(sql: bytes) -> re.Match[bytes] | None:
    """Is it a statement about a database?"""
    return _ITSELF.match(sql) if b"DATABASE" in sql else None


def settle(have: Settings, want: Settings) -> list[bytes]:
    """The statements that bring a session from what it has set to what a statement wants to be set."""
    names = {name for name, _ in want}
    reset = [b"RESET " + name + b";" for name, _ in have if name not in names]
    return reset + [text for name, text in want if (name, text) not in have]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a dump with its semicolon. A `name` such as `INDEX public.site_where` is for
    messages and values: it comes from a comment of the dump, and another table may be called so.
    """

    sql: bytes
    start: int
    type: str
    name: str
    settings: Settings


@dataclass(frozen=True, slots=True)
class CopyBlock:
    """Rows of a table, or of a partition that is loaded by its root: `length` bytes of text from `start`
    on.
    """

    statement: bytes
    table: str
    start: int
    length: int
    rows: int
    name: str
    via_root: bool
    settings: Settings


@dataclass
class Part:
    """One database. Spans are places in the text: first byte, byte after the last."""

    name: str
    encoding: str = "UTF8"
    create: str = ""
    """Options of its CREATE DATABASE (encoding, locale, tablespace); nothing where the server's own must
    do.
    """
    owner: str = ""
    connection_limit: int = -1
    is_template: bool = False
    properties: list[str] = field(default_factory=list)
    """Statements that name the database itself, in their order; of the encoding `properties_encoding`."""
    properties_encoding: str = "UTF8"
    settings: Settings = ()
    """What its first statement wants to be set."""
    before: tuple[int, int] = (0, 0)
    blocks: list[CopyBlock] = field(default_factory=list)
    between: list[tuple[int, int]] = field(default_factory=list)
    after: tuple[int, int] = (0, 0)
    orderly: bool = True
    """Whether what stands between the blocks does not depend on their rows."""
    inserts: int = 0
    """INSERT statements: how many rows they bring, nobody has counted."""
    tablespaces: set[str] = field(default_factory=set)
    places: dict[int, Settings] = field(default_factory=dict)
    """What is set where spans begin."""

    @property
    def rows(self) -> int:
        return sum(block.rows for block in self.blocks)

    @property
    def tables(self) -> int:
        return len({block.table for block in self.blocks})

    @property
    def size(self) -> int:
        return self.after[1] - self.before[0]

    def statements(self, chunks: Iterable[bytes], start: int, end: int) -> Iterator[Statement]:
        """Those of a span, from chunks of the text from `start` on: without what sets something, which is
        in their `settings`, and without `properties`. Raises NotWholeError.
        """
        walker = _Walker(start, self.places.get(start, ()))
        for chunk in chunks if start < end else ():
            walker.feed(chunk[: end - walker.offset])
            yield from walker.taken()
            if walker.offset >= end:
                break
        walker.finish()
        yield from walker.taken()
        if walker.offset < end or not walker.idle:
            raise NotWholeError


class _Labelled(Scanner):
    """Follows settings, encoding, and the entry of pg_dump that a statement belongs to."""

    def __init__(self, start: int = 0, keep: int | None = HEAD, settings: Settings = ()) -> None:
        super().__init__(start, keep)
        self.settings: Settings = ()
        self.encoding = "UTF8"
        self.codec = "utf-8"
        self.type = self.name = ""
        for _, sql in settings:
            self.setting(sql)

    def setting(self, sql: bytes) -> bool:
        """Does it set something, and nothing else?"""
        settings = with_setting(self.settings, sql)
        if settings is None:
            return False
        self.settings = settings
        if sql.startswith(b"SET standard_conforming_strings = "):
            self.standard_strings = sql[34:37] != b"off"
        elif sql.startswith(b"SET client_encoding = '"):
            self.encoding = sql[23:].split(b"'")[0].decode("ascii", "replace")
            self.codec = codec(self.encoding)
        return True

    def text(self, raw: bytes) -> str:
        return raw.decode(self.codec, "surrogateescape")

    def known(self, raw: bytes) -> str:
        """The name of a role or database, which is the server's: a database of another encoding has it in
        UTF-8.
        """
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return self.text(raw)

    def comment(self, line: bytes, _start: int) -> None:
        found = _ENTRY.match(line)
        if found is not None:
            name, kind, schema = map(self.text, found.groups())
            self.type, self.name = kind, f"{kind} {name}" if schema == "-" else f"{kind} {schema}.{name}"


class _Walker(_Labelled):
    def __init__(self, start: int, settings: Settings) -> None:
        super().__init__(start, None, settings)
        self._found: list[Statement] = []

    def statement(self, sql: bytes, start: int, _end: int) -> None:
        if not self.setting(sql) and about_itself(sql) is None:
            self._found.append(Statement(sql, start, self.type, self.name, self.settings))

    def command(self, line: bytes, _start: int, _end: int) -> None:
        if line.startswith(b"\\connect"):
            self.settings, self.type, self.name = (), "", ""

    def taken(self) -> list[Statement]:
        found, self._found = self._found, []
        return found


class Reader(_Labelled):
    """What a dump holds, found while its text passes by, in chunks of any size: `feed`, and `close` at its
    end.

    `roles` are the statements before the first part, about roles and tablespaces; `version` is that of the
    server that it is from; `foreign` is what no dump holds.
    """

    def __init__(self) -> None:
        super().__init__()
        self.roles: list[str] = []
        self.parts: dict[str, Part] = {}
        self.version = ""
        self._records: list[tuple[str, ...]] = []
        self._counted: dict[tuple[str, ...], int] = {}
        self._known: dict[bytes, Part] = {}
        self._part: Part | None = None
        self._globals = True
        self._token: bytes | None = None
        self._tail = b""
        self._label: int | None = None  # where the entry of the next statement begins
        self._via_root = False
        self._data = False  # the part has come to its rows
        self._gap = self._in_gap = 0  # where its data began or the last block ended, and the statements since
        self._last = 0  # the end of the last of them that belongs to the data
        self._last_settings: Settings = ()
        self._strict = False  # one of them may depend on rows
        self._objects = 0
        self._copying: tuple[bytes, int, int, int] = (b"", 0, 0, 0)  # statement, start, length, rows

    @property
    def sql_bytes(self) -> int:
        return self.offset

    @property
    def records(self) -> list[tuple[str, ...]]:
        """As in a manifest: database, table, sequence, largeobject; in the dump's order."""
        counted = self._counted
        return [(*record, str(counted[record])) if record in counted else record for record in self._records]

    @property
    def whole(self) -> bool:
        """Anything that stands between quotes or in a row cannot end a text outside of everything."""
        return self.idle and self._tail == TRAILER

    def feed(self, chunk: bytes) -> None:
        self._tail = (self._tail + chunk[-len(TRAILER) :])[-len(TRAILER) :]
        super().feed(chunk)

    def close(self) -> None:
        """Raises NotWholeError."""
        self.finish()
        self._leave(self.offset)
        if not self.whole:
            raise NotWholeError

    # ---- parts ----

    def comment(self, line: bytes, start: int) -> None:
        super().comment(line, start)
        if line.startswith((b"-- Name: ", b"-- Data for Name: ")):
            self._label, self._via_root = start, False
        elif line.startswith(b"-- load via partition root "):
            self._via_root = True
        elif line.startswith(b"-- Dumped from database version "):
            self.version = self.version or line.split()[5].decode("ascii", "replace")
        elif line == b"-- PostgreSQL database dump":
            self._globals = False
        elif line == b"-- PostgreSQL database dump complete":
            self._leave(start)

    def command(self, line: bytes, start: int, end: int) -> None:
        word, _, rest = line.partition(b" ")
        name = connected(line)
        if self._token is not None:
            if word == b"\\unrestrict" and rest == self._token:
                self._token = None
            else:
                self.refuse(start, line)
        elif word == b"\\restrict" and re.fullmatch(rb"[A-Za-z0-9]+", rest):
            self._token = rest
        elif name is not None:
            self._connect(self._of(name), start, end)
        elif line != b"\\encoding SQL_ASCII":
            self.refuse(start, line)

    def _of(self, name: bytes) -> Part:
        if name not in self._known:
            self._known[name] = Part(self.known(name))
        return self._known[name]

    def _connect(self, part: Part, start: int, end: int) -> None:
        self.settings, self._label = (), None
        if part is self._part:
            return
        self._leave(start)
        if part.after[1]:
            self.refuse(start, b"\\connect")  # it had its part already
        self._part, part.before = part, (end, end)
        self._data, self._in_gap, self._last, self._strict = False, 0, 0, False
        part.places[end] = ()
        if part.name not in self.parts:
            self.parts[part.name] = part
            self._records.append(("database", part.name))

    def _leave(self, end: int) -> None:
        part, self._part = self._part, None
        if part is None or self._globals:
            return
        if not part.settings:
            part.encoding = self.encoding
        if not self._data:
            part.before, part.after = (part.before[0], end), (end, end)
        else:
            if self._last:
                part.between.append((self._gap, self._last))
                part.places[self._last] = self._last_settings
            part.after = (self._last or self._gap, end)
        if self._objects:
            self._records.append(("largeobject", part.name, str(self._objects)))
        self._objects = 0

    # ---- statements ----

    def setting(self, sql: bytes) -> bool:
        if not super().setting(sql):
            return False
        if self._part is not None and (space := _TABLESPACE.search(sql)):
            self._part.tablespaces.add(self.known(unquoted(space[1])))
        return True

    def statement(self, sql: bytes, start: int, end: int) -> None:
        if self._last and self._part is not None and sql.startswith(_MANY):
            self._more(self._part, sql, end)
        elif self.setting(sql):
            if self.encoding in UNREADABLE:
                self.refuse(start, sql)
        elif (itself := about_itself(sql)) is not None:
            self._itself(itself, sql, start)
        elif self._globals and _GLOBAL.match(sql):
            self.roles.append(self.text(sql))
        elif self._part is not None:
            self._globals = False
            self._body(self._part, sql, start, end)
        self._label = None

    def _itself(self, found: re.Match[bytes], sql: bytes, start: int) -> None:
        """A statement about a database."""
        part, rest = self._of(unquoted(found[2])), found[3]
        owner = _OWNER.search(rest) if found[1] == b"CREATE" else _OWNER.match(rest)
        if owner is not None:
            part.owner = self.known(unquoted(owner[1]))
        if found[1] == b"ALTER" and (limit := _LIMIT.match(rest)):
            part.connection_limit = int(limit[1])
        if found[1] == b"ALTER" and (template := _TEMPLATE.match(rest)):
            part.is_template = template[1] == b"true"
        if found[1] == b"CREATE":
            self._leave(start)
            if space := _TABLESPACE.search(rest):
                part.tablespaces.add(self.known(unquoted(space[1])))
            part.create = self.text(_OWNER.sub(b"", rest).rstrip(b";").strip())
        elif owner is None:
            part.properties_encoding = self.encoding
            role = dict(self.settings).get(b"session authorization", b"RESET")
            around = [self.text(role), "RESET SESSION AUTHORIZATION;"] if role.startswith(b"SET") else []
            part.properties += [*around[:1], self.text(sql), *around[1:]]

    def _body(self, part: Part, sql: bytes, start: int, end: int) -> None:
        at = start if self._label is None else self._label
        copy = sql.startswith(b"COPY ") and _COPY.match(sql) is not None
        # A large object may be made before the rows, or among them.
        data = copy or (sql.startswith(_DATA) and (self._data or not sql.startswith(_MAKES_OBJECT)))
        if not part.settings:
            part.settings, part.encoding = self.settings, self.encoding
        if data and not self._data:
            self._data, part.before = True, (part.before[0], at)
            self._gap_at(part, at)
        self._strict = self._strict or (self._data and not copy and not _LOOSE.match(sql))
        if data and self._strict:
            part.orderly = False
        if copy:
            if self._in_gap:
                part.between.append((self._gap, at))
            self._copying = (sql, 0, 0, 0)
            return
        self._in_gap += 1
        if data:
            self._last, self._last_settings = end, self.settings
        self._count(part, sql)

    def _more(self, part: Part, sql: bytes, end: int) -> None:
        """The same as in `_body`, where they come by the million."""
        self._last, self._last_settings, self._label = end, self.settings, None
        if sql[0] == 0x49:  # I
            part.inserts += 1
            part.orderly = False

    def _gap_at(self, part: Part, at: int) -> None:
        self._gap, self._in_gap, self._last, self._strict = at, 0, 0, False
        part.places[at] = self.settings

    def _count(self, part: Part, sql: bytes) -> None:
        if sql.startswith(_MAKES_OBJECT):
            self._objects += 1
        elif sql.startswith(b"INSERT INTO "):
            part.inserts += 1
        elif sql.startswith(b"SELECT pg_catalog.setval(") and (found := _SETVAL.fullmatch(sql)):
            name = found[1].replace(b"''", b"'")
            name = name if self.standard_strings else name.replace(b"\\\\", b"\\")
            used = found[3][:1].decode()
            self._records.append(("sequence", part.name, self.text(name), found[2].decode(), used))

    def rows(self, data: bytes, start: int, final: bool) -> None:
        sql, begin, length, rows = self._copying
        self._copying = block = (sql, begin or start, length + len(data), rows + data.count(b"\n"))
        part = self._part
        if not final or part is None or (found := _COPY.match(sql)) is None:
            return
        key = ("table", part.name, self.text(found[1]))
        part.blocks.append(CopyBlock(sql, key[2], *block[1:], self.name, self._via_root, self.settings))
        if key not in self._counted:
            self._records.append(key)
        self._counted[key] = self._counted.get(key, 0) + block[3]
        self._gap_at(part, start + len(data) + 3)  # after `\.`


def read(chunks: Iterable[bytes], job: Job) -> Reader:
    """Of the whole text of a dump; whether it is `whole`, and `foreign`, the caller looks at."""
    reader = Reader()
    for chunk in chunks:
        reader.feed(chunk)
        job.progress(f"{reader.offset // MIB} MiB of text read")
    with contextlib.suppress(NotWholeError):
        reader.close()
    return reader
