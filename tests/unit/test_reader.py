"""The reader of dumps: whatever their text, in whatever chunks, it finds what is there and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stack_backup_jobs import scanner
from stack_backup_jobs.job import Job
from stack_backup_jobs.reader import NotWholeError, Reader, connected, settle
from stack_backup_jobs.reader import read as of_dump
from stack_backup_jobs.scanner import Scanner
from tests.unit.dumptext import Database, connect, dump, identifier, literal

# Whatever may be taken for structure.
PIECES = [
    *(b"'", b'"', b"$", b"$$", b"$a$", b"$a", b"a$1", b"$1", b"\\", b"\\.", b"\n", b";", b"--", b"-", b"/*"),
    *(
        b"*/",
        b"/",
        b"*",
        b"(",
        b")",
        b"E'",
        b"e",
        b"E",
        b" ",
        b"a",
        b"1",
        b"\xc3\xb6",
        b"\xff",
        b"''",
        b"\\'",
    ),
    *(b"begin", b"BEGIN ATOMIC", b"case", b"End", b"create function f()", b"CREATE OR REPLACE PROCEDURE"),
    *(
        b"create table t",
        b"COPY t FROM stdin;\n",
        b"\n\\.\n",
        b"\\connect x\n",
        b"-- Name: x\n",
        b"\t",
        b"\r\n",
    ),
    *(b"--\n", b"select", b"SET standard_conforming_strings = off;", b"atomic"),
]
texts = st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=30).map(b"".join)
sizes = st.sampled_from([1, 2, 3, 7, 64, 1000])


class Recorder(Scanner):
    """All that a scanner tells."""

    def __init__(self) -> None:
        super().__init__(keep=None)
        self.heard: list[tuple[str, bytes, int]] = []
        self._part = b""

    def statement(self, sql: bytes, start: int, end: int) -> None:
        assert end == start + len(sql)
        self.standard_strings = self.standard_strings and not sql.startswith(b"SET standard_conforming")
        self.heard.append(("statement", sql, start))

    def comment(self, line: bytes, start: int) -> None:
        if line != b"--":  # left out where many follow one another
            self.heard.append(("comment", line, start))

    def command(self, line: bytes, start: int, _end: int) -> None:
        self.heard.append(("command", line, start))

    def rows(self, data: bytes, start: int, final: bool) -> None:
        self._part += data
        if final:
            self.heard.append(("rows", self._part, start + len(data) - len(self._part)))
            self._part = b""


def in_chunks(text: bytes, size: int) -> Iterator[bytes]:
    return (text[at : at + size] for at in range(0, len(text), size))


def scanned(text: bytes, size: int) -> Recorder:
    recorder = Recorder()
    for chunk in in_chunks(text, size):
        recorder.feed(chunk)
    recorder.finish()
    return recorder


class Reference:
    """The same, byte by byte, and in no hurry."""

    LETTER = re.compile(rb"[A-Za-z_\x80-\xff]")
    WORD = re.compile(rb"[A-Za-z_\x80-\xff][0-9$A-Za-z_\x80-\xff]*")
    TAG = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*)?\$")
    FUNCTION = re.compile(rb"create\s+(or\s+replace\s+)?(function|procedure)\b", re.IGNORECASE)

    def __init__(self, text: bytes) -> None:
        self.text, self.at, self.standard = text, 0, True
        self.heard: list[tuple[str, bytes, int]] = []
        try:
            while self.at < len(text):
                self._between()
        except IndexError:
            pass  # the text ends in the middle

    def _has(self, what: bytes) -> bool:
        return self.text.startswith(what, self.at)

    def _to(self, what: bytes) -> bytes:
        end = self.text.find(what, self.at)
        if end < 0:
            raise IndexError
        taken, self.at = self.text[self.at : end], end + len(what)
        return taken

    def _between(self) -> None:
        start = self.at
        if self.text[start : start + 1].isspace() or self._has(b";"):
            self.at += 1
        elif self._has(b"--") or self._has(b"\\"):
            kind = "command" if self._has(b"\\") else "comment"
            line = self._to(b"\n")
            if line != b"--":
                self.heard.append((kind, line, start))
        elif self._has(b"/*"):
            self._block()
        else:
            self._statement(start)

    def _statement(self, start: int) -> None:
        function = self.FUNCTION.match(self.text, start) is not None
        depth = blocks = 0
        while not (self._has(b";") and not depth and not blocks):
            if self._has(b"("):
                depth += 1
            elif self._has(b")"):
                depth = max(0, depth - 1)
            word = self._token(start)
            if function and not depth and word is not None:
                if word == b"begin":
                    blocks += re.match(rb"\s+atomic\b", self.text[self.at :], re.IGNORECASE) is not None
                elif blocks:
                    blocks += (word == b"case") - (word == b"end")
        self.at += 1
        sql = self.text[start : self.at]
        self.standard = self.standard and not sql.startswith(b"SET standard_conforming")
        self.heard.append(("statement", sql, start))
        if sql.startswith(b"COPY ") and sql.endswith(b" FROM stdin;"):
            self._to(b"\n")
            begin = self.at
            self.at -= 1
            self.heard.append(("rows", (self._to(b"\n\\.\n") + b"\n")[1:], begin))

    def _token(self, start: int) -> bytes | None:
        """Goes over one; gives a word."""
        text, at = self.text, self.at
        word, tag = self.WORD.match(text, at), self.TAG.match(text, at)
        if word is not None:
            self.at = word.end()
            if word[0] in (b"e", b"E") and self._has(b"'") and not (at > start and self._in_word(at - 1)):
                self.at += 1
                self._escaped()
                return None
            return word[0].lower()
        self.at += 1
        if text[at : at + 1] == b"'":
            self._to(b"'") if self.standard else self._escaped()
        elif text[at : at + 1] == b'"':
            self._to(b'"')
        elif tag is not None:
            self.at = tag.end()
            self._to(tag[0])
        elif text.startswith(b"--", at):
            self._to(b"\n")
        elif text.startswith(b"/*", at):
            self.at = at
            self._block()
        elif at >= len(text):
            raise IndexError
        return None

    def _in_word(self, at: int) -> bool:
        return re.match(rb"[0-9$A-Za-z_\x80-\xff]", self.text[at : at + 1]) is not None

    def _escaped(self) -> None:
        while True:
            byte = self.text[self.at]
            self.at += 1
            if byte == ord("'") and self.text[self.at] != ord("'"):
                return
            if byte in b"\\'":
                _ = self.text[self.at]
                self.at += 1

    def _block(self) -> None:
        depth = 0
        while True:
            if self._has(b"/*"):
                depth, self.at = depth + 1, self.at + 2
            elif self._has(b"*/"):
                depth, self.at = depth - 1, self.at + 2
                if not depth:
                    return
            else:
                _ = self.text[self.at]
                self.at += 1


@settings(max_examples=1500, deadline=None)
@given(texts, sizes)
@example(b"SELECT fooE'a\\';", 1)
@example(b"SELECT E'a\\'' ;';", 2)
@example(b"SELECT a$b$c;$b$;", 1)
@example(b"create function f() begin atomic select case when a then b end; end;select 1;", 3)
@example(b"SELECT E'a''\\'; select ';", 1)
@example(b"create function f() begin;select 1;", 1000)
@example(b"create function f() begin atomic case'a;' end; end'a;';select 1;", 1000)
@example(b"create function begin() as $$;$$;", 3)
@example(b"/* /* */ ; select 1; */ select /* /* */ ; */ 2;", 3)
def test_scanner_sees_what_a_slow_reading_sees(text: bytes, size: int) -> None:
    text += b" " * 70  # what stands at the very end may still be anything
    assert scanned(text, size).heard == Reference(text).heard


@settings(max_examples=500, deadline=None)
@given(texts, sizes)
def test_chunks_change_nothing(text: bytes, size: int) -> None:
    whole, cut = scanned(text, len(text) + 1), scanned(text, size)
    assert (cut.heard, cut.foreign, cut.idle, cut.offset) == (
        whole.heard,
        whole.foreign,
        whole.idle,
        whole.offset,
    )


def copied(value: bytes) -> bytes:
    """A row of one column as COPY writes it."""
    for byte, written in ((b"\\", b"\\\\"), (b"\n", b"\\n"), (b"\t", b"\\t"), (b"\r", b"\\r")):
        value = value.replace(byte, written)
    return value + b"\n"


names = st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8"), min_size=1, max_size=8).map(
    str.encode
)
tricky = st.lists(
    st.sampled_from([*PIECES, b"\n\\connect y\n", b"\n--\n-- Name: z; Type: Q; Schema: -; Owner: o\n"])
)
values = (tricky.map(b"".join) | st.binary(max_size=20)).map(lambda raw: raw.replace(b"\0", b""))


def in_dollars(body: bytes) -> bytes:
    """As pg_dump does it: with a tag that the text does not hold."""
    tag = b"$_"
    while tag in body + b"$":  # its last dollar may end a tag that begins in the text
        tag += b"X"
    return tag + b"$" + body + tag + b"$"


statements = st.one_of(
    st.builds(
        lambda name, text: b"COMMENT ON TABLE %s IS %s;" % (identifier(name), literal(text)), names, values
    ),
    st.builds(
        lambda body: b"CREATE FUNCTION f() RETURNS text LANGUAGE sql AS %s;" % in_dollars(body), values
    ),
    st.builds(
        lambda name, text: (
            b"CREATE FUNCTION %s() BEGIN ATOMIC\n SELECT CASE WHEN true THEN %s ELSE (';') END AS \"end\";\n"
            b" SELECT x.begin FROM x;\nEND;" % (identifier(name), literal(text))
        ),
        names,
        values,
    ),
    st.builds(
        lambda name: (
            b"CREATE RULE r AS\n    ON DELETE TO %s DO ( INSERT INTO x VALUES (1);\n DELETE FROM y;\n);"
            % identifier(name)
        ),
        names,
    ),
    st.sampled_from(
        [b"CREATE TABLE t (a int /* ; ' */, b text -- ;'\n);", b"ALTER TABLE t ADD CHECK (a <> E'\\';');"]
    ),
)
databases = st.lists(
    st.builds(
        Database,
        name=names,
        before=st.lists(statements, max_size=3),
        tables=st.lists(
            st.tuples(names.map(identifier), st.lists(values.map(copied), max_size=4)), max_size=3
        ),
        sequences=st.lists(st.tuples(names.map(identifier), st.integers(-(2**63), 2**63 - 1)), max_size=2),
        objects=st.integers(0, 2),
        after=st.lists(statements, max_size=2),
    ),
    unique_by=lambda database: database.name,
    min_size=1,
    max_size=3,
)


def read(text: bytes, size: int = 1 << 16) -> Reader:
    reader = Reader()
    for chunk in in_chunks(text, size):
        reader.feed(chunk)
    reader.close()
    return reader


def expected(database: Database) -> list[tuple[str, ...]]:
    name = database.name.decode()
    rows: dict[str, int] = {}
    for table, lines in database.tables:
        rows[table.decode()] = rows.get(table.decode(), 0) + len(lines)
    found: list[tuple[str, ...]] = [("database", name)]
    found += [("table", name, table, str(count)) for table, count in rows.items()]
    found += [
        ("sequence", name, sequence.decode(), str(value), "t") for sequence, value in database.sequences
    ]
    return found + ([("largeobject", name, str(database.objects))] if database.objects else [])


@settings(max_examples=300, deadline=None)
@given(databases, sizes)
def test_reader_finds_what_a_dump_holds(there: list[Database], size: int) -> None:
    text = dump(there)
    reader = read(text, size)
    assert reader.foreign == []
    assert reader.version == "15.18"
    assert reader.sql_bytes == len(text)
    assert reader.records == [record for database in there for record in expected(database)]
    for database in there:
        part = reader.parts[database.name.decode()]
        assert [
            (block.table.encode(), text[block.start : block.start + block.length]) for block in part.blocks
        ] == [(name, b"".join(rows)) for name, rows in database.tables]
        assert part.orderly
        found = [
            [statement.sql for statement in part.statements(in_chunks(text[span[0] :], size), *span)]
            for span in (part.before, *part.between, part.after)
        ]
        made = [b"SELECT pg_catalog.lo_create('%d');" % number for number in range(database.objects)]
        rest = len(database.sequences) + 3 * bool(database.objects)  # setval; BEGIN, lowrite, COMMIT
        if database.tables or rest:
            assert [found[0], found[-1]] == [database.before + made, database.after]
            assert [len(group) for group in found[1:-1]] == [rest] * bool(rest)
        else:
            assert found == [database.before + database.after, []]


@settings(max_examples=100, deadline=None)
@given(databases, st.data())
def test_a_cut_dump_is_never_whole(there: list[Database], data: st.DataObject) -> None:
    text = dump(there)
    cut = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(NotWholeError):
        read(text[:cut])


def test_text_of_a_row_or_a_comment_is_no_end() -> None:
    end = b"\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
    for text in (b"COPY t (a) FROM stdin;\nx" + end, b"COMMENT ON TABLE t IS '" + end, b"SELECT 1" + end):
        with pytest.raises(NotWholeError):
            read(dump([Database(b"a")])[: -len(end)] + b"\n" + text)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"\\! touch /tmp/x", r"\!"),
        (b"\\copy t from program 'id'", r"\copy"),
        (b"\\connect frag \\! id", r"\connect"),
        (b"\\connect -reuse-previous=on \"dbname='x' host=elsewhere\"", r"\connect"),
        (b"\\connect - admin", r"\connect"),
        (b"\\restrict", r"\restrict"),
        (b"\\unrestrict x", r"\unrestrict"),
        (b"\\encoding LATIN1", r"\encoding"),
        (b"SELECT 1 \\gexec ; ' this line is longer than what tells a word, for sure';", r"\gexec"),
        (b"COPY t (a) FROM stdin; \\! id\n\\.", r"\!"),
        (b"SET client_encoding = 'SJIS';", "SET"),
        (b"\\" + b"x" * 300_000, "\\" + "x" * 39),
        (b"\\" + b"y" * 60, "\\" + "y" * 39),
    ],
)
@pytest.mark.parametrize("size", [1, 1 << 16])
def test_what_no_dump_holds_is_found(line: bytes, word: str, size: int) -> None:
    if len(line) > 1000 and size == 1:
        size = 1000
    part = (
        Database(b"a")
        .text()
        .replace(b"\\restrict aToken0123456789\n", b"")
        .replace(b"\\unrestrict aToken0123456789\n", b"")
    )
    text = b"\\connect a\n" + line + b"\n" + part
    reader = Reader()
    for chunk in in_chunks(text + b" " * 100, size):
        reader.feed(chunk)
    reader.finish()
    first = reader.foreign[0]
    assert first.word == word
    assert text.startswith(word[:2].encode(), first.at) or text.startswith(b" \\!", first.at)


@pytest.mark.parametrize("rest", [b"", b" ", b"\\! id"])
def test_a_long_line_after_a_copy_is_found_wherever_a_chunk_ends(rest: bytes) -> None:
    reader = Reader()
    for chunk in (
        b"\\connect a\nCOPY t (a) FROM stdin;",
        b" \\! id" + b" " * 300_000,
        rest,
        b"\n1\n\\.\nSELECT 1;",
    ):
        reader.feed(chunk)
    reader.finish()
    assert [found.word for found in reader.foreign][:1] == ["\\!"]
    assert reader.foreign[0].at == len(b"\\connect a\nCOPY t (a) FROM stdin;")


def test_blanks_after_a_copy_are_found() -> None:
    reader = Reader()
    reader.feed(b"\\connect a\nCOPY t (a) FROM stdin; \t\n1\n\\.\n")
    assert [found.word for found in reader.foreign] == [""]


def test_of_what_no_dump_holds_the_first_twenty_are_kept() -> None:
    reader = Reader()
    reader.feed(b"".join(b"\\copy%d\n" % number for number in range(30)))
    reader.finish()
    assert [found.word for found in reader.foreign] == [f"\\copy{number}" for number in range(20)]


def test_between_its_tokens_a_dump_holds_no_command() -> None:
    text = dump([Database(b"a", before=[b"\\connect b"])])
    assert [(found.word, found.at) for found in read(text).foreign] == [
        (r"\connect", text.index(b"\\connect b"))
    ]
    assert list(read(text).parts) == ["a"]


def test_what_pg_dumpall_itself_says_to_psql_is_no_command() -> None:
    text = dump([Database(b"a")])
    assert read(text.replace(b"\\restrict", b"\\encoding SQL_ASCII\n\\restrict")).foreign == []


@given(names)
def test_names_of_databases(name: bytes) -> None:
    assert connected(b"\\connect " + connect(name)) == name


def test_a_database_comes_once() -> None:
    twice = dump([Database(b"a", tables=[(b"t", [b"1\n"])]), Database(b"b"), Database(b"a")])
    assert [found.word for found in read(twice).foreign] == [r"\connect"]


def test_backslashes_in_text_where_the_database_says_so() -> None:
    there = Database(
        b"a",
        [b"COMMENT ON TABLE t IS 'it''s \\';\\\\';"],
        [(b"t", [])],
        [(b'"x\\\\y"', 1)],
        standard_strings=False,
    )
    text = dump([there, Database(b"b", [b"COMMENT ON TABLE t IS '\\';"])])
    reader = read(text, 5)
    part = reader.parts["a"]
    assert [found.sql for found in part.statements([text[part.before[0] :]], *part.before)] == there.before
    assert [found.settings for found in part.statements([text[part.after[0] :]], *part.after)] == []
    assert reader.records[2] == ("sequence", "a", '"x\\y"', "1", "t")
    assert reader.records[-1] == ("database", "b")


def test_names_are_read_in_their_own_encoding() -> None:
    text = dump([Database("böse".encode(), tables=[('"Größe"'.encode("latin-1"), [b"1\n"])])])
    part_at = text.index(b"\\connect")
    text = text[:part_at] + text[part_at:].replace(b"= 'UTF8'", b"= 'LATIN1'")
    reader = read(text)
    assert reader.records == [("database", "böse"), ("table", "böse", '"Größe"', "1")]
    assert reader.parts["böse"].encoding == "LATIN1"


PROPERTIES = b"""
CREATE DATABASE "Fr;ag" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'C' TABLESPACE = "fast disk";
ALTER DATABASE "Fr;ag" OWNER TO "O'Neil";
\\connect -reuse-previous=on "dbname='Fr;ag'"
SET client_encoding = 'UTF8';
COMMENT ON DATABASE "Fr;ag" IS 'it''s
\\connect x';
ALTER DATABASE "Fr;ag" CONNECTION LIMIT = 7;
ALTER DATABASE "Fr;ag" IS_TEMPLATE = true;
ALTER ROLE "a b" IN DATABASE "Fr;ag" SET search_path TO 'x';
\\connect -reuse-previous=on "dbname='Fr;ag'"
SET default_tablespace = other;
CREATE TABLE t (a int);
COPY t (a) FROM stdin;
\\.
SET SESSION AUTHORIZATION bob;
GRANT CONNECT ON DATABASE "Fr;ag" TO alice;
GRANT SELECT ON TABLE t TO alice;
RESET SESSION AUTHORIZATION;
GRANT ALL ON TABLE t TO carol;
"""


def test_what_belongs_to_the_database_itself_is_told_from_its_content() -> None:
    part = read(PROPERTIES + b"\n" + b"--\n-- PostgreSQL database cluster dump complete\n--\n\n").parts[
        "Fr;ag"
    ]
    assert (
        part.create == "WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE = 'C' TABLESPACE = \"fast disk\""
    )
    assert (part.owner, part.connection_limit, part.is_template) == ("O'Neil", 7, True)
    assert part.tablespaces == {"fast disk", "other"}
    assert part.properties == [
        "COMMENT ON DATABASE \"Fr;ag\" IS 'it''s\n\\connect x';",
        'ALTER DATABASE "Fr;ag" CONNECTION LIMIT = 7;',
        'ALTER DATABASE "Fr;ag" IS_TEMPLATE = true;',
        'ALTER ROLE "a b" IN DATABASE "Fr;ag" SET search_path TO \'x\';',
        "SET SESSION AUTHORIZATION bob;",
        'GRANT CONNECT ON DATABASE "Fr;ag" TO alice;',
        "RESET SESSION AUTHORIZATION;",
    ]
    assert part.properties_encoding == "UTF8"
    assert list(part.statements([PROPERTIES[part.before[0] :]], *part.before)) != []
    after = list(part.statements([PROPERTIES[part.after[0] :], b" " * 99], *part.after))
    assert [found.sql[:9] for found in after] == [b"GRANT SEL", b"GRANT ALL"]
    (first, second), table = after, (b"default_tablespace", b"SET default_tablespace = other;")
    assert first.settings == (table, (b"session authorization", b"SET SESSION AUTHORIZATION bob;"))
    assert settle((), first.settings) == [
        b"SET default_tablespace = other;",
        b"SET SESSION AUTHORIZATION bob;",
    ]
    assert settle(first.settings, second.settings) == [b"RESET SESSION AUTHORIZATION;"]
    assert settle(second.settings, (table,)) == [b"RESET session authorization;"]


def test_a_part_ends_where_the_next_database_is_made() -> None:
    text = b"\\connect a\nCREATE TABLE t (a int);\nCREATE DATABASE b;\n\\connect b\nCREATE TABLE u (a int);\n"
    parts = read(text + b"--\n-- PostgreSQL database cluster dump complete\n--\n\n").parts
    assert text[slice(*parts["a"].before)] == b"CREATE TABLE t (a int);\n"
    assert text[slice(*parts["b"].before)] == b"CREATE TABLE u (a int);\n"
    assert parts["a"].after == (parts["a"].before[1],) * 2


def test_quotes_in_names_are_doubled() -> None:
    text = b'CREATE DATABASE "a""b" WITH TABLESPACE = "t""s";\nALTER DATABASE "a""b" OWNER TO "o""p";\n'
    [part] = read(text + dump([Database(b'a"b')])).parts.values()
    assert (part.name, part.owner, part.tablespaces) == ('a"b', 'o"p', {'t"s'})


def test_a_database_without_content_has_its_encoding() -> None:
    text = dump([Database(b"a"), Database(b"b")])
    start = text.index(b"\\connect b")
    parts = read(text[:start] + text[start:].replace(b"'UTF8'", b"'LATIN1'")).parts
    assert [parts[name].encoding for name in "ab"] == ["UTF8", "LATIN1"]
    bare = b"\\connect a\nCREATE TABLE t (a int);\n--\n-- PostgreSQL database cluster dump complete\n--\n\n"
    part = read(bare).parts["a"]
    assert part.encoding == "UTF8"
    [statement] = part.statements([bare[part.before[0] :]], *part.before)
    assert (statement.type, statement.name, statement.settings) == ("", "", ())


def test_rows_begin_at_the_entry_of_the_first_of_them() -> None:
    text = dump([Database(b"a", [b"CREATE TABLE t (a int);"], sequences=[(b"s", 1)])])
    part = read(text).parts["a"]
    assert text[part.before[1] :].startswith(b"-- Name: x; ")
    assert [text[slice(*span)][-9:] for span in part.between] == [b"1, true);"]


def test_a_name_may_be_of_any_bytes() -> None:
    reader = read(dump([Database(b"a", tables=[(b'"\xff"', [b"1\n"])])]))
    assert reader.records[1] == ("table", "a", '"\udcff"', "1")


def test_a_whole_dump_is_read() -> None:
    text, job = dump([Database(b"a", tables=[(b"t", [b"x" * (3 << 20) + b"\n"])])]), Job()
    told: list[str] = []
    job.progress = told.append  # type: ignore[method-assign]
    reader = of_dump(in_chunks(text, 1 << 20), job)
    assert (reader.whole, list(reader.parts)) == (True, ["a"])
    assert told == [f"{part} MiB of text read" for part in (1, 2, 3, 3)]
    assert not of_dump([text[:-1]], job).whole
    job.end()


def test_roles_stand_before_the_first_database() -> None:
    roles = [b"CREATE ROLE a;", b"ALTER ROLE a WITH LOGIN PASSWORD 'it''s;';", b"GRANT a TO b GRANTED BY c;"]
    assert read(dump([Database(b"a", [b"CREATE ROLE no;"])], roles)).roles == [
        role.decode() for role in roles
    ]


def test_roles_after_a_connection_as_old_tools_write_them() -> None:
    text = b"\\connect postgres\nSET client_encoding = 'UTF8';\nCREATE ROLE a;\n"
    text += b"CREATE DATABASE x WITH OWNER = a;\n"
    reader = read(text + dump([Database(b"x"), Database(b"postgres", tables=[(b"t", [b"1\n"])])]))
    assert (reader.foreign, reader.roles, reader.parts["x"].owner) == ([], ["CREATE ROLE a;"], "a")
    assert reader.records[-1] == ("table", "postgres", "t", "1")


def test_partitions_that_are_loaded_by_their_root_count_as_one() -> None:
    part = dump(
        [Database(b"a", tables=[(b"public.v", [b"1\n", b"2\n"]), (b"public.v", []), (b"public.v", [b"3\n"])])]
    )
    part = part.replace(b"COPY public.v", b"-- load via partition root public.v\nCOPY public.v")
    reader = read(part)
    assert reader.records == [("database", "a"), ("table", "a", "public.v", "3")]
    assert [block.via_root for block in reader.parts["a"].blocks] == [True] * 3
    assert (reader.parts["a"].rows, reader.parts["a"].tables) == (3, 1)


@pytest.mark.parametrize("count", [4, 5])
def test_insert_statements_are_counted_as_such(count: int) -> None:
    inserts = [b"INSERT INTO t VALUES (%d, 'a;b');" % number for number in range(count)]
    text = dump(
        [Database(b"a", before=[b"CREATE TABLE t (a int);", *inserts], after=[b"CREATE INDEX i ON t (a);"])]
    )
    part = read(text).parts["a"]
    assert (part.inserts, part.rows, part.orderly) == (count, 0, False)
    spans = [
        [found.sql for found in part.statements([text[span[0] :]], *span)]
        for span in (part.before, *part.between)
    ]
    assert spans == [[b"CREATE TABLE t (a int);"], inserts]


LABELS = b"""--
-- Name: t; Type: TABLE; Schema: app; Owner: o
--

CREATE TABLE app.t (a int);

--
-- Name: EXTENSION x; Type: COMMENT; Schema: -; Owner: o
--

COMMENT ON EXTENSION x IS 'x';

--
-- Data for Name: t; Type: TABLE DATA; Schema: app; Owner: o
--

COPY app.t (a) FROM stdin;
1
2
\\.

--
-- Name: t_a; Type: INDEX; Schema: app; Owner: o
--

SET default_table_access_method = heap;
CREATE INDEX t_a ON app.t (a);
"""


def test_a_statement_is_called_as_its_entry_is() -> None:
    text = dump([Database(b"a")]).replace(b"-- Dumped from", LABELS + b"-- Dumped from")
    part = read(text).parts["a"]
    [block] = part.blocks
    assert (block.name, block.table, block.rows, block.length) == ("TABLE DATA app.t", "app.t", 2, 4)
    assert block.statement == b"COPY app.t (a) FROM stdin;"
    assert not block.via_root
    assert text[block.start :].startswith(b"1\n2\n\\.")
    assert text[part.before[1] :].startswith(b"-- Data for Name: t; ")
    assert text[: part.after[0]].endswith(b"2\n\\.\n")
    assert text[part.after[1] :].startswith(b"-- PostgreSQL database dump complete")
    assert (part.size, part.rows, part.tables) == (part.after[1] - part.before[0], 2, 1)
    found = [
        (found.type, found.name, found.sql[:12], found.start)
        for span in (part.before, part.after)
        for found in part.statements([text[span[0] :]], *span)
    ]
    assert found == [
        (kind, name, sql, text.index(sql))
        for kind, name, sql in [
            ("TABLE", "TABLE app.t", b"CREATE TABLE"),
            ("COMMENT", "COMMENT EXTENSION x", b"COMMENT ON E"),
            ("INDEX", "INDEX app.t_a", b"CREATE INDEX"),
        ]
    ]


def test_a_span_that_is_cut_off_is_not_whole() -> None:
    text = dump([Database(b"a", [b"SELECT 1;", b"SELECT ';';"])])
    part = read(text).parts["a"]
    start, end = part.before
    assert len(list(part.statements([text[start:]], start, end))) == 2
    assert list(part.statements([], end, end)) == []
    for cut in (start, (start + end) // 2, end - 1):
        with pytest.raises(NotWholeError):
            list(part.statements([text[start:cut]], start, end))
    with pytest.raises(NotWholeError):
        list(part.statements([text[start:]], start, text.index(b"';';") + 2))


DEPENDS = {
    "nothing": (b"", True),
    "a sequence": (b"SELECT pg_catalog.setval('s', 1, true);", True),
    "a large object": (b"SELECT pg_catalog.lo_open('1', 131072);", True),
    "an owner of one": (b"ALTER LARGE OBJECT 1 OWNER TO o;", True),
    "privileges on one": (b"GRANT ALL ON LARGE OBJECT 1 TO o;", True),
    "a block": (b"BEGIN;\nCOMMIT;", True),
    "a view that is filled": (b"REFRESH MATERIALIZED VIEW v;", False),
    "a row": (b"INSERT INTO t VALUES (1);", False),
}


@pytest.mark.parametrize(("sql", "orderly"), DEPENDS.values(), ids=DEPENDS)
def test_what_stands_between_rows_may_depend_on_them(sql: bytes, orderly: bool) -> None:
    def text(*tables: bytes) -> bytes:
        copies = [b"COPY %s (a) FROM stdin;\n1\n\\.\n" % table for table in tables]
        return dump([Database(b"a", after=[copies[0], sql, *copies[1:]])])

    assert read(text(b"t", b"u")).parts["a"].orderly == orderly
    # After the last rows, it is what comes after them.
    part = read(text(b"t")).parts["a"]
    assert part.orderly == (not sql.startswith(b"INSERT"))


@pytest.mark.parametrize("encoding", ["SJIS", "SHIFT_JIS_2004", "BIG5", "GBK", "UHC", "GB18030", "JOHAB"])
def test_an_encoding_of_clients_alone_is_refused(encoding: str) -> None:
    text = dump([Database(b"a")]).replace(b"'UTF8'", b"'%s'" % encoding.encode())
    reader = read(text)
    assert {found.word for found in reader.foreign} == {"SET"}
    assert text[reader.foreign[0].at :].startswith(b"SET client_encoding")


def test_a_name_of_the_server_in_a_database_of_another_encoding() -> None:
    part = dump([Database(b"a")]).replace(
        b"-- Dumped from",
        "SET client_encoding = 'LATIN1';\nALTER DATABASE a OWNER TO \"böse\";\n".encode()
        + 'ALTER DATABASE b OWNER TO "Größe";\n'.encode("latin-1")
        + b"-- Dumped from",
    )
    reader = Reader()
    reader.feed(part)
    reader.close()
    assert reader.parts["a"].owner == "böse"
    assert reader._of(b"b").owner == "Größe"


HOSTILE = {
    "quotes": b"'" * 1000,
    "pairs": b"'';",
    "dollars": b"$a",
    "tag": b"a$",
    "a tag": b"a",
    "brackets": b"(",
    "comments": b"/*",
    "minus": b"-",
    "backslashes": b"\\",
    "bodies": b"create function f() begin atomic ",
    "newlines": b"\n",
    "end of rows": b"\n\\",
}


class Watched(Reader):
    """Counts what it looks at, again and again."""

    seen = 0

    def _scan(self, chunk: bytes) -> None:
        self.seen += len(chunk)
        super()._scan(chunk)


@pytest.mark.parametrize("piece", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize(
    "before",
    [b"", b"SELECT ", b"SELECT '", b"SELECT E'", b"SELECT $", b"/* ", b"-- ", b"COPY t (a) FROM stdin;\n"],
)
def test_no_text_is_looked_at_over_and_over(before: bytes, piece: bytes) -> None:
    text = before + piece * (60_000 // len(piece))
    reader = Watched()
    for chunk in in_chunks(text, 300):
        reader.feed(chunk)
    assert reader.seen <= 4 * len(text)


@pytest.mark.parametrize(
    "text", [b"SELECT '" + b"x" * 5_000_000, b"COPY t (a) FROM stdin;\n" + b"x" * 5_000_000]
)
def test_of_a_long_statement_or_row_little_is_kept(text: bytes) -> None:
    reader = Reader()
    for chunk in in_chunks(text, 1 << 16):
        reader.feed(chunk)
    assert sum(map(len, reader._kept)) + reader._waits <= scanner.HEAD + (1 << 16)
