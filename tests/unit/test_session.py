"""The parts of a session that need no server: quoting, passwords, encodings, and how an error reads."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack_backup_jobs.session import (
    ServerError,
    codec,
    identifier,
    literal,
    saslprep,
    scram_proof,
    scram_verifier,
)

TEXT = st.text("a'\"\\ $\n\t;-/*EeUu&ü\u00a0\u3000\U0001f600\udcff")


@given(TEXT)
def test_a_literal_is_one_literal_and_reads_back(text: str) -> None:
    quoted = literal(text)
    if "\\" in text:
        assert re.fullmatch(r" E'(?:[^'\\]|''|\\\\)*'", quoted)
        read = quoted[3:-1].replace("\\\\", "\\")
    else:
        assert re.fullmatch("'(?:[^']|'')*'", quoted)
        read = quoted[1:-1]
    assert read.replace("''", "'") == text


@given(TEXT)
def test_an_identifier_is_one_identifier_and_reads_back(text: str) -> None:
    quoted = identifier(text)
    assert re.fullmatch('"(?:[^"]|"")*"', quoted)
    assert quoted[1:-1].replace('""', '"') == text


@pytest.mark.parametrize("quote", [literal, identifier])
def test_a_nul_is_refused_as_the_server_would(quote: Callable[[str], str]) -> None:
    with pytest.raises(ServerError) as refused:
        quote("a\0b")
    assert refused.value.sqlstate == "22021"


@pytest.mark.parametrize(
    ("password", "prepared"),
    [
        ("user", "user"),
        ("USER", "USER"),
        ("I\u00adX", "IX"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b\u3000c", "a b c"),
        ("\u00ad", "\u00ad"),  # nothing would be left
        ("\u0007", "\u0007"),  # ASCII stays as it is
        ("ü\u0007", "ü\u0007"),  # not allowed: stays
        ("\u06271", "\u06271"),  # not allowed: the directions are mixed
        ("\u0627\u0661\u0628", "\u0627\u0661\u0628"),
        ("u\u0308", "ü"),
        ("ﬁ \\'\"", "fi \\'\""),
        ("\U000e0001ü", "\U000e0001ü"),
        ("\u0221", "\u0221"),  # not assigned when the standard was written
    ],
)
def test_passwords_are_prepared(password: str, prepared: str) -> None:
    assert saslprep(password) == prepared.encode()


def test_a_password_that_is_no_utf8_stays_as_it_is() -> None:
    raw = b"\xfc\xa0pass"
    assert saslprep(raw.decode("utf-8", "surrogateescape")) == raw


def test_scram_as_in_its_standard() -> None:
    first = b"n=user,r=rOprNGfwEbeRWgbNEkqO"
    server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    final, expected = scram_proof("pencil", first, server)
    assert final.endswith(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert expected == b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@pytest.mark.parametrize(
    "server",
    [
        b"r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        b"r=abcd,s=W22ZaJ0SNY7soEsUEjb6gQ==",
        b"r=abcd,s=W,i=1",
        b"e=no",
    ],
)
def test_a_server_that_speaks_another_scram_is_refused(server: bytes) -> None:
    with pytest.raises(ServerError) as refused:
        scram_proof("secret", b"n=,r=abc", server)
    assert refused.value.sqlstate == "08P01"


@pytest.mark.parametrize("password", ["pencil", " ü \u00a0'\\ "])
def test_the_verifier_holds_what_the_standard_says(password: str) -> None:
    salt = bytes(range(16))
    salted = hashlib.pbkdf2_hmac("sha256", saslprep(password), salt, 4096)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    assert scram_verifier(password, salt) == "SCRAM-SHA-256$4096:{}${}:{}".format(*encoded)


def test_every_verifier_has_its_own_salt() -> None:
    assert scram_verifier("x") != scram_verifier("x")


def test_an_error_is_message_and_state_and_nothing_of_a_row() -> None:
    body = b"SFEHLER\0VERROR\0C23505\0Mno \xfc\0DKey (a)=(secret)\0Wline 1: secret"
    body += b"\0sapp\0tt\0nt_a_key\0qINNER\0\0"
    error = ServerError.read(body, "utf-8")
    assert str(error) == "no \\xfc (23505)"
    assert "secret" not in repr(vars(error))


def test_an_encoding_that_python_lacks_keeps_its_bytes() -> None:
    name = b"\xa4\xa1\x81".decode(codec("EUC_TW"), "surrogateescape")
    assert name.encode(codec("EUC_TW"), "surrogateescape") == b"\xa4\xa1\x81"
