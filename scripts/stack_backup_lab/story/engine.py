"""A story is told step by step: what is done, what was seen, how long it took.

The first step that fails is the last.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from time import monotonic


class StoryError(AssertionError):
    """Something did not come out as it must; the message says what, in one sentence."""


@dataclass(frozen=True)
class Step:
    """One thing that is done; `run` returns what was seen, or raises."""

    title: str
    run: Callable[[], str]


@dataclass(frozen=True)
class Evidence:
    """How one step ended."""

    title: str
    seen: str
    seconds: float
    error: Exception | None = None

    @property
    def ok(self) -> bool:
        return self.error is None


def tell(steps: Generator[Step, None, None], begin: Callable[[str], object] = str) -> Iterator[Evidence]:
    """Run the steps one after the other and yield what was seen; the first that fails is the last.

    `begin` is told the title of each step as it starts.
    """
    with closing(steps):  # what a step has begun, such as a second server, ends here
        for step in steps:
            begin(step.title)
            started = monotonic()
            try:
                seen = step.run()
            except Exception as error:
                yield Evidence(step.title, _sentence(error), monotonic() - started, error)
                return
            yield Evidence(step.title, seen, monotonic() - started)


def megabytes(size: int) -> str:
    return f"{size / 1_000_000:.1f} MB"


def same(what: str, seen: object, expected: object) -> None:
    if seen != expected:
        if isinstance(seen, dict) and isinstance(expected, dict):
            differ = {key for key in seen.keys() | expected.keys() if seen.get(key) != expected.get(key)}
            seen, expected = ({key: side.get(key) for key in differ} for side in (seen, expected))
        raise StoryError(f"{what}: {seen}, and it should be {expected}")


def _sentence(error: Exception) -> str:
    text = str(error).strip() or repr(error)
    return text if isinstance(error, StoryError) else f"{type(error).__name__}: {text}"
