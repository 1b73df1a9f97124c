"""Serves the metrics of the history (metrics.py): `python3 -m stack_backup_jobs.exporter`.

A volume that hangs hangs whoever reads it. So one thread reads, at its own pace, and every scrape is answered
with what it found last, and when that was.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer

from stack_backup_jobs.formats import Record
from stack_backup_jobs.history import names
from stack_backup_jobs.job import say
from stack_backup_jobs.metrics import READ, Sample, exposition, samples_of
from stack_backup_jobs.settings import load, number

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
REQUEST = 10.0
"""Seconds for which a client may keep a connection without a word."""


@dataclass(frozen=True)
class Settings:
    history_volume: Path
    jobs: list[str]
    port: int = number(1)
    pause_seconds: int = number(1, 15)
    """Between two readings of the history."""


class History:
    """The records of each job. A file is read once: one that has its name is never changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: dict[str, dict[str, Record | None]] = {}

    def records(self, job: str) -> list[Record]:
        """Oldest first. Raises OSError where the volume does not answer as it should."""
        kept = self._kept.setdefault(job, {})
        self._folder.stat()
        there = set(names(self._folder / job))
        for name in kept.keys() - there:
            del kept[name]
        for name in there - kept.keys():
            kept[name] = self._read(self._folder / job / name)
        return [record for _, record in sorted(kept.items()) if record]

    def _read(self, path: Path) -> Record | None:
        """None of a damaged one, and of one that its job has just removed."""
        try:
            return Record.parse(path.read_text("utf-8", errors="replace"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            say(f"{path.parent.name}/{path.name} is no record of a run: {error}.")
            return None


class Facts:
    """What the history told last of the jobs that are named."""

    def __init__(self, history: History, jobs: list[str]) -> None:
        self._history, self._jobs = history, jobs
        self._samples: list[Sample] = []
        self._read_at = 0.0
        self._refusal = ""

    def text(self) -> str:
        return exposition([*self._samples, Sample(READ, {}, int(self._read_at))])

    def read(self) -> None:
        begun = time.time()
        try:
            samples = [one for job in self._jobs for one in samples_of(job, self._history.records(job))]
        except Exception as error:  # the reading goes on, whatever it met: the age of the facts tells
            if str(error) != self._refusal:
                say(f"The history cannot be read: {error}. What it told before is served.")
            self._refusal = str(error)
        else:
            self._samples, self._read_at, self._refusal = samples, begun, ""


class Server(ThreadingHTTPServer):
    """Of IPv6 and IPv4, whichever the cluster has."""

    def __init__(self, port: int, facts: Facts) -> None:
        self.facts = facts
        both = socket.has_dualstack_ipv6()
        self.address_family = socket.AF_INET6 if both else socket.AF_INET
        super().__init__(("::" if both else "", port), Handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not HTTPServer's own: it asks the name service for this host's name, and no policy lets it.
        TCPServer.server_bind(self)

    def handle_error(self, *_: object) -> None:
        """A client that went away is none of our business."""


class Handler(BaseHTTPRequestHandler):
    timeout = REQUEST
    server: Server

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self._answer(HTTPStatus.OK, self.server.facts.text())
        elif self.path == "/healthz":
            self._answer(HTTPStatus.OK, "ok\n")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "There are /metrics and /healthz.\n")

    def _answer(self, status: HTTPStatus, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def version_string(self) -> str:
        return "stack-backup"

    def log_message(self, *_: object) -> None:
        """Scrapes and probes would be all of the log."""


def main() -> None:
    # The pod's first process has no default for it, and a volume that hangs would hold up an orderly end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    settings = load(Settings)
    facts = Facts(History(settings.history_volume), settings.jobs)

    def read() -> None:
        while True:
            facts.read()
            time.sleep(settings.pause_seconds)

    threading.Thread(target=read, daemon=True).start()
    Server(settings.port, facts).serve_forever()


if __name__ == "__main__":
    main()
