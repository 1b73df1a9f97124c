"""Tells others how a run goes: a dead man's switch is pinged at its start and end, and a webhook is told of
a failure, and of the first good run after it.

The supervisor does so, each time in a process of its own that has a few seconds: whatever becomes of it,
a run and its verdict are what they are. The addresses are secrets, so no message has any part of one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from stack_backup_jobs import history
from stack_backup_jobs.errors import status
from stack_backup_jobs.formats import Verdict
from stack_backup_jobs.job import say
from stack_backup_jobs.process import Forked

PATIENCE = 9.0
"""Seconds in which all answers must have come, at most: a run may be told to stop while it waits for them."""
START_PATIENCE = 2.0
"""Seconds of these for the answer to the start, if that has not come yet."""
START, FAILED = "start", "fail"
"""What follows the address of a ping; nothing does after a good run."""


class NotToldError(Exception):
    """Why, without a word of the address."""


class Notifier:
    """Of one run. Which of the two it does, the variables NOTIFY_PING and NOTIFY_WEBHOOK say: files with the
    addresses.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._of = environment
        self._start: Forked[None] | None = None

    def begin(self) -> None:
        """Nobody waits for it: a run begins at once."""
        if path := self._of.get("NOTIFY_PING"):
            file = Path(path)
            self._start = Forked(lambda: ping(file, START, self._of))

    def end(self, verdict: Verdict, seconds: float) -> None:
        """The start, if it is still being told, is given up first: it must not arrive after the end."""
        until = time.monotonic() + seconds
        if self._start is not None:
            _said("start of this run", self._start, time.monotonic() + min(seconds / 2, START_PATIENCE))
        told: dict[str, Forked[None]] = {}
        if path := self._of.get("NOTIFY_PING"):
            file, word = Path(path), FAILED if verdict.exit else ""
            told["end of this run"] = Forked(lambda: ping(file, word, self._of))
        if path := self._of.get("NOTIFY_WEBHOOK"):
            hook = Path(path)
            told["webhook"] = Forked(lambda: webhook(hook, verdict, self._of))
        for what, forked in told.items():
            _said(what, forked, until)


def _said(what: str, forked: Forked[None], until: float) -> None:
    """Waits for it, and says if it has failed."""
    try:
        if not forked.ready(max(0.0, until - time.monotonic())):
            raise NotToldError("no answer came in time")
        forked.result()
    except EOFError:
        say(f"Not told ({what}): the process that did it was killed.")
    except Exception as error:
        say(f"Not told ({what}): {error}.")
    finally:
        forked.kill()


def ping(path: Path, word: str, of: Mapping[str, str]) -> None:
    """Raises NotToldError."""
    parts = urlsplit(address(path))
    if word:
        parts = parts._replace(path=f"{parts.path.rstrip('/')}/{word}")
    ask(urlunsplit(parts), None, of)


def webhook(path: Path, verdict: Verdict, of: Mapping[str, str]) -> None:
    """Tells of a failure, and of a good run after one, if the history knows of that. Raises NotToldError."""
    name = f"{verdict.job} of {of.get('NAMESPACE', '')}"
    if verdict.exit:
        text = f"{name} failed ({verdict.exit}): {verdict.message}"
    elif recovered(verdict.job, of):
        text = f"{name} is well again: {verdict.message}"
    else:
        return
    ask(address(path), json.dumps({"text": text}).encode(), of)


def recovered(job: str, of: Mapping[str, str]) -> bool:
    """Did the run before this one fail? The history may have this one's record already, or not."""
    if not (folder := of.get("HISTORY")):
        return False
    try:
        records = list(history.read(Path(folder) / job, newest=2))
    except OSError:
        return False
    before = [record for record in records if record.pod != of.get("POD_NAME", "")[:63]]
    return bool(before) and bool(before[-1].verdict["exit"])


def address(path: Path) -> str:
    if status(path) is None:
        raise NotToldError("the Secret or its key is missing (value notify)")
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        parts = urlsplit(text)
        well = (
            parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and text.isascii()
            and text.isprintable()
        )
    except ValueError:
        well = False
    if not well or " " in text:
        raise NotToldError("what the Secret holds is no address that begins with https:// or http://")
    return text


def ask(url: str, data: bytes | None, of: Mapping[str, str]) -> None:
    """One request, which must be answered with success. Raises NotToldError."""
    import ssl  # these cost time and memory that most runs need not spend
    from http.client import HTTPException
    from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

    class Straight(HTTPRedirectHandler):
        """No redirect is followed: it would bring a secret to somebody else."""

        def redirect_request(self, *_: Any) -> None:
            return None

    headers = {"User-Agent": "stack-backup"} | ({"Content-Type": "application/json"} if data else {})
    try:
        context = ssl.create_default_context()
        if (authorities := of.get("NOTIFY_CA")) and status(Path(authorities)):
            context.load_verify_locations(authorities)
        opener = build_opener(Straight, HTTPSHandler(context=context))
        with opener.open(Request(url, data, headers), timeout=PATIENCE) as answer:
            answer.read(1)
    except (OSError, ValueError, HTTPException) as error:
        raise NotToldError(why(error)) from None


def why(error: Exception) -> str:
    """An error without the address, which the words of some hold."""
    from ssl import SSLCertVerificationError
    from urllib.error import HTTPError, URLError

    if isinstance(error, HTTPError):
        return f"the answer was {error.code}" + (", a redirect" if 300 <= error.code < 400 else "")
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, SSLCertVerificationError):
        return f"its certificate is not trusted: {error.verify_message.partition(',')[0]}"
    if isinstance(error, TimeoutError):
        return "no answer came in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
