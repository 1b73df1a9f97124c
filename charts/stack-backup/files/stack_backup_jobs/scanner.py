"""Where the statements, comments, meta-commands and rows of a dump's text begin and end.

Rows, comments and function bodies may hold any text, SQL-looking text included. Two facts make the reading
exact: inside a COPY block no row reads `\\.`, because COPY doubles every backslash; outside of one, text
stands between quotes, which are followed by the rules of psql's own lexer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

_Step = Callable[[bytes, int], int]
END_OF_ROWS = b"\n\\.\n"
HEAD = 1 << 18
"""Bytes of a statement that are kept to tell what it is: COPY with 1,600 columns of the longest names fits
in.
"""

_LETTER = r"A-Za-z_\x80-\xff"
_WORD = r"0-9$" + _LETTER
"""What an identifier begins and goes on with. Bytes above 0x7f are letters, whatever the encoding."""
_AWAY = r"(?!\Z)"
"""What touches the end of the data at hand may go on in the next chunk."""
_ESCAPED = rb"(?:[^'\\]++|\\[\s\S]|'')*+"


def _run(backslashes: bool, keywords: bool) -> str:
    """As much of a statement as needs no look: it stops at a semicolon, a bracket that is not closed at
    once, a dollar, a backslash, text that does not end in the data at hand, and, where asked, at one of the
    keywords of a function's body.
    """
    escaped = rf"'{_ESCAPED.decode()}'{_AWAY}"
    text = escaped if backslashes else rf"(?<![eE])'[^']*+'|(?<=[^{_WORD}][eE]){escaped}"
    rest = rf"""{text}|"[^"]*+"|-(?!-|\Z)|--[^\n]*+\n|/(?!\*|\Z)"""
    code = rf"[^'\"$\\/()\-;]++|{rest}"
    brackets = rf"\((?:{code})*+\)"  # no keyword counts in them, as in psql
    if keywords:
        word = rf"(?!(?i:begin|case|end)(?![{_WORD}]))[{_LETTER}][{_WORD}]*+"
        code = rf"[^{_LETTER}'\"$\\/()\-;]++|{word}|{rest}"
    return rf"(?:{code}|{brackets})*+"


def _pattern(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode("latin-1"))


_BLANKS = r"(?:[\s;]++|--\n)*+"
_BLANK = _pattern(_BLANKS)
_RUNS = {(off, body): _pattern(_run(off, body)) for off in (False, True) for body in (False, True)}
_MAKES = r"(?i:create\s++(?:or\s++replace\s++)?(?:function|procedure)\b)"
_SIMPLE = {off: _pattern(rf"{_BLANKS}((?![\\/\-]|{_MAKES}){_run(off, False)};)") for off in (False, True)}
"""The whole of a statement at once, where it is in the data and makes no function."""
_E = _pattern(rf"(?:^|[^{_WORD}])[eE]\Z")
_QUOTED = re.compile(_ESCAPED)
_IDENTIFIER = _pattern(rf"[{_LETTER}][{_WORD}]*\Z")
_WORD_BYTES = b"".join(_pattern(rf"[{_WORD}]").findall(bytes(range(256))))
_TAG = _pattern(rf"\$(?:[{_LETTER}][0-9{_LETTER}]*+)?+(\$?)")
_NESTED = re.compile(rb"(?:[^*/]++|\*(?!/|\Z)|/(?!\*|\Z))*+")
_KEYWORD = re.compile(rb"(begin)\s++atomic\b|(case)|(end)", re.IGNORECASE)
_FUNCTION = _pattern(_MAKES)
_COPY = re.compile(rb"COPY .* FROM stdin;", re.DOTALL)
_NEAR = 64
"""Bytes that tell whether a statement makes a function, or a BEGIN is one of a function's body."""


@dataclass(frozen=True)
class Foreign:
    """What no dump holds, such as a meta-command of psql that runs a program. `at` is its offset in the
    text.
    """

    at: int
    word: str


class Scanner:
    """Takes a dump's text in chunks of any size. A subclass hears of what is in it, in order, with offsets
    in it.

    Time is linear in the bytes, whatever they are. In memory are of a statement its first `keep` bytes
    (None: all of it), of rows nothing, a single word or tag of a dollar quote, a line of a comment up to
    HEAD.
    """

    def __init__(self, start: int = 0, keep: int | None = HEAD) -> None:
        self.foreign: list[Foreign] = []
        self.standard_strings = (
            True  # for a subclass to change: false gives every backslash in text a meaning
        )
        self._keep = keep
        self._data_at = start  # the offset of the data at hand
        self._waiting: list[bytes] = []
        self._waits = 0
        self._enough = 0
        self._step: _Step = self._between
        self._back: _Step = self._between  # where a comment stands
        self._close = b""  # what ends the text or the comment
        self._nested = 0
        self._open = False  # a statement has begun
        self._begin = 0  # its offset
        self._from = 0  # where in the data at hand it goes on
        self._kept: list[bytes] = []
        self._room = 0
        self._function = False
        self._depth = self._blocks = 0

    # ---- what a subclass hears ----

    def statement(self, sql: bytes, start: int, end: int, /) -> None:
        """Its first `keep` bytes, with the semicolon if it is not longer."""

    def comment(self, line: bytes, start: int, /) -> None:
        """`-- …` outside of statements, without its newline. One that is longer than HEAD is left out."""

    def command(self, line: bytes, start: int, end: int, /) -> None:
        r"""`\…` outside of statements, without its newline."""

    def rows(self, data: bytes, start: int, final: bool, /) -> None:
        """Rows of the block that the last statement has begun, in pieces that end anywhere."""

    def refuse(self, at: int, line: bytes) -> None:
        if len(self.foreign) < 20:
            word = (line.split() or [b""])[0][:40]
            self.foreign.append(Foreign(at, word.decode(errors="backslashreplace")))

    # ---- the text ----

    @property
    def offset(self) -> int:
        """How much of the text was taken."""
        return self._data_at + self._waits

    @property
    def idle(self) -> bool:
        """Outside of everything."""
        return self._step == self._between and not self._waits

    def feed(self, chunk: bytes) -> None:
        if self._waits:
            # What needs more to be told is looked at again when it has doubled: so the time stays linear.
            self._waiting.append(chunk)
            self._waits += len(chunk)
            if self._waits < self._enough:
                return
            chunk = b"".join(self._waiting)
        self._scan(chunk)

    def finish(self) -> None:
        """The text ends here. What still waits then is no whole piece of a dump."""
        self._scan(b"".join(self._waiting))

    def _scan(self, chunk: bytes) -> None:
        at, size = 0, len(chunk)
        while at < size:
            # A step goes as far as it can, and gives ~place if it must see more of what stands there.
            at = self._step(chunk, at)
            if at < 0:
                at = ~at
                break
        if self._open:
            if self._keep is None or self._room > 0:
                self._kept.append(chunk[self._from : at])
                self._room -= at - self._from
            self._from = 0
        self._data_at += at
        self._waits = size - at
        self._waiting = [chunk[at:]] if self._waits else []
        self._enough = 2 * self._waits

    # Every step takes the data and the place where it is to go on, and gives the place where the next one is.

    def _between(self, data: bytes, at: int) -> int:
        simple = _SIMPLE[not self.standard_strings]
        while found := simple.match(data, at):
            at = found.end()
            self._done(found[1], self._data_at + found.start(1), self._data_at + at)
            if self._step != self._between:
                return at
            simple = _SIMPLE[not self.standard_strings]
        at = _end(_BLANK, data, at)
        first = data[at : at + 2]
        if first[:1] == b"\\" or first in (b"--", b"-"):
            return self._line(data, at)
        if first in (b"/*", b"/"):
            return self._block(data, at, self._between)
        if not first or _too_near(data, at):
            return ~at
        self._open, self._begin, self._from, self._room = True, self._data_at + at, at, self._keep or 0
        self._function = _FUNCTION.match(data, at) is not None
        self._depth = self._blocks = 0
        self._step = self._code
        return at

    def _line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        command = data[at] == 0x5C
        if (len(data) if end < 0 else end) - at > HEAD:
            if command:
                self.refuse(self._data_at + at, data[at : at + 40])
            return self._text(b"\n", at, self._between)
        if end < 0:
            return ~at
        if command:
            self.command(data[at:end], self._data_at + at, self._data_at + end + 1)
        else:
            self.comment(data[at:end], self._data_at + at)
        return end + 1

    def _code(self, data: bytes, at: int) -> int:
        size, off = len(data), not self.standard_strings
        while True:
            run = _RUNS[off, self._function and not self._depth]
            start, at = at, _end(run, data, at)
            if at == size:
                # A word here may go on, and decides about a quote or a dollar after it.
                last = max(start, len(data.rstrip(_WORD_BYTES)))
                return size if last == size else ~last
            first = data[at]
            if first == 0x3B:  # ;
                if not self._depth and not self._blocks:
                    return self._ended(data, at + 1)
            elif first == 0x28:  # (
                self._depth += 1
            elif first == 0x29:  # )
                self._depth -= self._depth > 0
            else:
                return self._stop(data, at, data[at : at + 1])
            at += 1

    def _stop(self, data: bytes, at: int, first: bytes) -> int:
        """What else a run of code has stopped at."""
        if first == b"'" and (not self.standard_strings or _is_e(data[max(0, at - 2) : at])):
            self._step = self._escaped
            return at + 1
        if first in b"'\"":
            return self._text(first, at + 1, self._code)
        if first == b"$":
            tag = _TAG.match(data, at)
            assert tag is not None
            if _IDENTIFIER.search(data[max(0, at - _NEAR) : at]):
                return at + 1
            if tag[1]:
                return self._text(tag[0], tag.end(), self._code)
            return ~at if tag.end() == len(data) else at + 1
        if first == b"/":
            return self._block(data, at, self._code)
        if first == b"-":
            return self._text(b"\n", at + 2, self._code) if at + 1 < len(data) else ~at
        if first == b"\\":
            if len(data) - at < _NEAR:
                return ~at
            self.refuse(self._data_at + at, data[at : at + _NEAR])
            return at + 1
        return self._keyword(data, at)

    def _keyword(self, data: bytes, at: int) -> int:
        if _too_near(data, at):
            return ~at
        found = _KEYWORD.match(data, at)
        # CASE … END counts inside of a body alone, as in psql. A BEGIN without ATOMIC is somebody's name.
        if found is not None and (found[1] or self._blocks):
            self._blocks += -1 if found[3] else 1
        return at + 1  # what is left of it is no keyword, and no E

    def _text(self, close: bytes, at: int, back: _Step) -> int:
        self._close, self._back = close, back
        self._step = self._until
        return at

    def _until(self, data: bytes, at: int) -> int:
        end = data.find(self._close, at)
        if end < 0:
            edge = max(at, len(data) - len(self._close) + 1)
            return edge if edge == len(data) else ~edge
        self._step = self._back
        return end + len(self._close)

    def _escaped(self, data: bytes, at: int) -> int:
        """Text with backslashes, after its first quote."""
        end = _end(_QUOTED, data, at)
        if end == len(data):
            return end
        if end + 1 == len(data):
            return ~end  # the quote may be doubled, the backslash stand before anything
        self._step = self._code
        return end + 1

    def _block(self, data: bytes, at: int, back: _Step) -> int:
        """At a slash: a comment in brackets, which may hold others."""
        if at + 1 == len(data):
            return ~at
        self._back, self._nested = back, 1
        self._step = self._in_block
        return at + 2

    def _in_block(self, data: bytes, at: int) -> int:
        while self._nested:
            at = _end(_NESTED, data, at)
            if at + 1 >= len(data):
                return at if at == len(data) else ~at
            self._nested += 1 if data[at] == 0x2F else -1
            at += 2
        self._step = self._back
        return at

    def _ended(self, data: bytes, at: int) -> int:
        sql = data[self._from : at]
        if self._kept:
            sql, self._kept = b"".join((*self._kept, sql)), []
        self._open, self._step = False, self._between
        self._done(sql, self._begin, self._data_at + at)
        return at

    def _done(self, sql: bytes, start: int, end: int, /) -> None:
        if self._keep is not None and len(sql) > self._keep:
            sql = sql[: self._keep]
        self.statement(sql, start, end)
        if sql[0] == 0x43 and _COPY.fullmatch(sql):
            self._step = self._rest_of_line

    def _rest_of_line(self, data: bytes, at: int) -> int:
        end = data.find(b"\n", at)
        if end < 0 and len(data) - at < HEAD:
            return ~at
        if end != at:
            self.refuse(self._data_at + at, data[at : end if end > 0 else None])
        if end < 0:
            return len(data)
        self._step = self._rows
        return end  # the newline may be the one before `\.`

    def _rows(self, data: bytes, at: int) -> int:
        """`at` is the byte before the rows that nobody has heard of yet."""
        # From its end on, data of rows alone is searched in half the time; and most of it is that.
        end = data.find(END_OF_ROWS, at) if data.rfind(END_OF_ROWS, at) >= 0 else -1
        if end >= 0:
            self._step = self._between
            self.rows(data[at + 1 : end + 1], self._data_at + at + 1, True)
            return end + len(END_OF_ROWS)
        end = max(at, len(data) - len(END_OF_ROWS) + 1)
        if end > at:
            self.rows(data[at + 1 : end + 1], self._data_at + at + 1, False)
        return ~end


def _end(pattern: re.Pattern[bytes], data: bytes, at: int) -> int:
    """Of what a pattern matches at this place: nothing, it may be."""
    found = pattern.match(data, at)
    return at if found is None else found.end()


def _is_e(before: bytes) -> bool:
    """Is it the E of a text with backslashes, and not the end of a word? (A word is never cut.)"""
    return _E.search(before) is not None


def _too_near(data: bytes, at: int) -> bool:
    """Is the end of the data too near to tell what stands at this place?"""
    return len(data) - at < _NEAR and b";" not in data[at:]
