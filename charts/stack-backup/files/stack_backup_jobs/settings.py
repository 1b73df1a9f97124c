"""A job's settings: its environment, as one dataclass."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import Any, TypeVar

from stack_backup_jobs.errors import VALUES, JobError
from stack_backup_jobs.formats import Exit

T = TypeVar("T")

RATE = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([KMGkmg]?)", re.ASCII)
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def number(least: int = 0, default: int | None = None) -> Any:
    """A whole number from `least` on."""
    text = None if default is None else str(default)
    return dataclasses.field(metadata={"least": least, "default": text})


def optional(default: str = "") -> Any:
    """May be unset or empty."""
    return dataclasses.field(metadata={"default": default})


def one_of(*words: str, default: str | None = None) -> Any:
    return dataclasses.field(metadata={"words": words, "default": default})


def rate() -> Any:
    """Bytes a second, such as `50M`; unset or empty: 0, for any."""
    return dataclasses.field(metadata={"default": "0"})


def load(kind: type[T]) -> T:
    """An instance of a dataclass whose field `keep_days` is the variable KEEP_DAYS. Types: str, int, bool,
    float (a rate), Path, list[str] (words). Raises JobError for what is missing or makes no sense.
    """
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    return kind(**{field.name: _value(field) for field in fields})


def check_confirmed(confirm: str, namespace: str, what: str) -> None:
    """Whoever replaces data names the stack. Raises JobError."""
    if not confirm:
        raise JobError(
            Exit.USAGE,
            f"Nothing confirms that {what} of {namespace} may be replaced.",
            f"Start the run with CONFIRM={namespace}.",
        )
    if confirm != namespace:
        raise JobError(
            Exit.PERMISSION,
            f"The run is confirmed for {confirm}, and this is {namespace}.",
            "Check in which namespace you are.",
        )


def _value(field: dataclasses.Field[Any]) -> Any:
    name, kind = field.name.upper(), str(field.type)
    text = os.environ.get(name) or field.metadata.get("default")
    if text is None:
        raise JobError(Exit.USAGE, f"The variable {name} is not set.", VALUES)
    if kind == "int":
        least = field.metadata.get("least", 0)
        if not (text.isascii() and text.isdigit() and len(text) < 16 and int(text) >= least):
            raise _odd(name, text, f"a whole number from {least} on")
        return int(text)
    if kind == "float":
        if (found := RATE.fullmatch(text)) is None:
            raise _odd(name, text, "a number of bytes a second, such as 50M")
        return float(found[1]) * UNITS[found[2].lower()]
    words = ("true", "false") if kind == "bool" else field.metadata.get("words")
    if words and text not in words:
        raise _odd(name, text, " or ".join(words))
    if kind == "bool":
        return text == "true"
    if kind == "list[str]":
        return text.split()
    return Path(text) if kind == "Path" else text


def _odd(name: str, text: str, wanted: str) -> JobError:
    return JobError(Exit.USAGE, f'The variable {name} is "{text}"; it must be {wanted}.', VALUES)
