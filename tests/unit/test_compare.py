"""The comparison of what a dump holds with what a database does: one sentence for each difference."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stack_backup_jobs.compare import Held, Name, differences, expected, folded, names, shared
from stack_backup_jobs.formats import Manifest
from stack_backup_jobs.session import Session

NAMES = st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"))
HELD = st.builds(
    Held,
    tables=st.dictionaries(NAMES, st.integers(0, 3)),
    sequences=st.dictionaries(NAMES, st.tuples(st.sampled_from("12"), st.sampled_from("tf"))),
    extensions=st.dictionaries(st.sampled_from("pq"), st.just("1.0")),
    objects=st.integers(0, 2),
)


@given(HELD, HELD)
def test_there_is_a_sentence_for_each_difference_and_for_nothing_else(said: Held, there: Held) -> None:
    assert differences("d", said, said) == []
    tables = {name for name, _ in said.tables.items() ^ there.tables.items()}
    sequences = [name for name, value in said.sequences.items() if there.sequences.get(name) != value]
    count = len(tables) + len(sequences) + len(said.extensions.keys() - there.extensions.keys())
    found = differences("d", said, there)
    assert len(found) == len(set(found)) == count + (said.objects != there.objects)


T: Name = ("app", "t")
BOTH = Held({T: 3}, {T: ("7", "t")}, {"rdkit": "4.5"}, 2)
SENTENCES: dict[str, tuple[Held, list[str]]] = {
    "fewer rows": (replace(BOTH, tables={T: 0}), ["the table app.t of d: 0 rows instead of 3 rows"]),
    "no table": (replace(BOTH, tables={}), ["the table app.t of d: missing"]),
    "one more": (
        replace(BOTH, tables={T: 3, ("app", "u"): 4}),
        ["the table app.u of d: not in the manifest, but restored (4 rows)"],
    ),
    "another value": (
        replace(BOTH, sequences={T: ("8", "t")}),
        ["the sequence app.t of d: 8 instead of 7"],
    ),
    "a value that was not given out": (
        replace(BOTH, sequences={T: ("7", "f")}),
        ["the sequence app.t of d: 7 (not given out yet) instead of 7"],
    ),
    "no sequence": (replace(BOTH, sequences={}), ["the sequence app.t of d: missing"]),
    "one sequence more": (replace(BOTH, sequences={T: ("7", "t"), ("app", "u"): ("1", "t")}), []),
    "no extension": (replace(BOTH, extensions={}), ["the extension rdkit of d: missing"]),
    "a newer extension": (replace(BOTH, extensions={"rdkit": "4.6"}), []),
    "large objects": (replace(BOTH, objects=1), ["the large objects of d: 1 instead of 2"]),
    "a partition of its root": (replace(BOTH, tables={("app", "all"): 3}, members={T: ("app", "all")}), []),
}


@pytest.mark.parametrize(("there", "says"), SENTENCES.values(), ids=SENTENCES)
def test_what_is_said_of_a_difference(there: Held, says: list[str]) -> None:
    assert differences("d", BOTH, there) == says


def test_large_objects_that_nobody_has_counted() -> None:
    assert differences("d", Held(), Held(objects=2)) == [
        "the large objects of d: not in the manifest, but restored (2)"
    ]


def test_rows_of_partitions_are_those_of_their_root() -> None:
    said = Held({("a", "x"): 1, ("a", "y"): 2, ("a", "z"): 4})
    assert folded(said, {("a", "x"): ("a", "r"), ("a", "y"): ("a", "r")}) == {("a", "r"): 3, ("a", "z"): 4}
    assert said.rows == 7


quoted = st.text(min_size=1).map(lambda name: (name, '"' + name.replace('"', '""') + '"'))
bare = st.from_regex(r"[a-z_][a-z0-9_$]*", fullmatch=True).map(lambda name: (name, name))


@given(st.lists(quoted | bare, min_size=1, max_size=3))
def test_the_parts_of_a_name(parts: list[tuple[str, str]]) -> None:
    assert names(".".join(text for _, text in parts)) == tuple(name for name, _ in parts)


def test_what_a_manifest_says_of_one_database() -> None:
    manifest = Manifest((
        *(("database", name) for name in "ab"),
        *(("table", name, 'app."T.x"', "3") for name in "aab"),
        ("table", "a", "app.u", "5"),
        *(("sequence", name, "app.s", "9", "f") for name in "ab"),
        *(("extension", name, f"rdkit_{name}", "4.5") for name in "ab"),
        *(("largeobject", name, "2") for name in "aab"),
    ))  # fmt: skip
    assert expected(manifest, "a") == Held(
        {("app", "T.x"): 6, ("app", "u"): 5}, {("app", "s"): ("9", "f")}, {"rdkit_a": "4.5"}, 4
    )
    assert expected(manifest, "c") == Held()


# ---- several sessions --------------------------------------------------------------------------------------


class Opened:
    """What `shared` needs of a session: that it is ended while it works, and closed when it does no more."""

    def __init__(self) -> None:
        self.aborted, self.closed = threading.Event(), False

    def abort(self) -> None:
        self.aborted.set()

    def close(self) -> None:
        self.closed = True


def opening(sessions: list[Opened], most: int = 99) -> Callable[[], Session]:
    def opened() -> Session:
        if len(sessions) == most:
            raise ConnectionError("no more")
        sessions.append(Opened())
        return cast(Session, sessions[-1])

    return opened


@given(st.lists(st.integers()), st.integers(1, 4))
def test_each_item_is_done_once_by_one_of_the_sessions(items: list[int], jobs: int) -> None:
    sessions: list[Opened] = []
    done = shared(opening(sessions), items, jobs, lambda session, item: (cast(Opened, session), item))
    assert sorted(item for _, item in done) == sorted(items)
    assert all(session in sessions for session, _ in done)
    assert len(sessions) == jobs
    assert all(session.closed for session in sessions)


def test_all_sessions_work_at_once() -> None:
    together = threading.Barrier(40, timeout=60)
    assert len(shared(opening([]), range(40), 40, lambda _, __: together.wait())) == 40


def test_a_session_that_fails_ends_the_others() -> None:
    sessions: list[Opened] = []

    def work(session: Session, item: int) -> None:
        if session is sessions[1]:
            raise ValueError(f"the first at {item}")
        assert cast(Opened, session).aborted.wait(20)
        assert not cast(Opened, session).closed
        raise ValueError("ended")

    begun = time.monotonic()
    with pytest.raises(ValueError, match="the first"):
        shared(opening(sessions), range(9), 2, work)
    assert time.monotonic() - begun < 10
    assert all(session.closed for session in sessions)


def test_sessions_are_closed_when_one_cannot_be_opened() -> None:
    sessions: list[Opened] = []
    with pytest.raises(ConnectionError):
        shared(opening(sessions, 2), range(9), 3, lambda _, item: item)
    assert [session.closed for session in sessions] == [True, True]
