"""A pod that tells others how its run goes, with what the Secret holds, to a server beside the stack."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stack_backup_lab.bed import images
from stack_backup_lab.runtime.local import OWNER
from stack_backup_lab.runtime.sandbox import Bind, Container
from tests.jobs.hourly import JOB, Hourly
from tests.outcomes import green, red

PORT = 8099
ADDRESS = f"http://127.0.0.1:{PORT}/0b5fbd18"
SERVER = f"""
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        print(json.dumps([self.command, self.path, body]), flush=True)
        self.send_response(200)
        self.end_headers()
    do_POST = do_GET
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""
NOTIFY = {"notify": {"ping": [JOB], "webhook": "hook"}}


@contextmanager
def listening(hourly: Hourly) -> Iterator[Path]:
    """What it was asked comes into this file, one request a line."""
    namespaces = hourly.stack.namespaces
    asked = namespaces.folder / "asked"
    script = namespaces.folder / "server.py"
    script.write_text(SERVER)
    asked.touch()
    with asked.open("ab") as output:
        process = namespaces.start(
            Container(
                name="server",
                rootfs=images.rootfs("python:3.13-slim-bookworm"),
                command=["/usr/local/bin/python3", "/server.py"],
                uid=OWNER,
                gid=OWNER,
                environment={},
                binds=[Bind(script, "/server.py")],
            ),
            output,
        )
    try:
        end = time.monotonic() + 30
        check = ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"]
        while namespaces.run(check, check=False).returncode != 0:
            assert time.monotonic() < end, asked.read_text()
            time.sleep(0.05)
        yield asked
    finally:
        process.kill()


@pytest.fixture
def asked(hourly: Hourly) -> Iterator[Path]:
    hourly.stack.volume("history").clear()
    hourly.install(NOTIFY)
    hourly.stack.secrets["notify"] = {JOB: f"{ADDRESS}/ping\n".encode(), "hook": f"{ADDRESS}/hook".encode()}
    with listening(hourly) as asked:
        yield asked


def requests(asked: Path) -> list[tuple[str, str, str]]:
    found = [tuple(json.loads(line)) for line in asked.read_text().splitlines()]
    asked.write_bytes(b"")
    return found  # type: ignore[return-value]


def test_good_bad_and_good_again(hourly: Hourly, asked: Path) -> None:
    green(hourly.run())
    pings = [("GET", "/0b5fbd18/ping/start", ""), ("GET", "/0b5fbd18/ping", "")]
    assert requests(asked) == pings

    result = red(hourly.run(environment={"COMPRESSOR": "none"}), 64)
    first, *others = requests(asked)
    assert first == pings[0]
    hooks = [json.loads(body)["text"] for method, _, body in others if method == "POST"]
    assert hooks == [f"{JOB} of {hourly.stack.namespace} failed (64): {result.verdict['message']}"]
    assert ("GET", "/0b5fbd18/ping/fail", "") in others
    assert "0b5fbd18" not in result.log

    green(hourly.run())
    hooks = [body for method, _, body in requests(asked) if method == "POST"]
    assert len(hooks) == 1
    assert "is well again" in hooks[0]


def test_without_the_secret_the_run_is_as_good(hourly: Hourly) -> None:
    hourly.install(NOTIFY)
    hourly.stack.secrets.pop("notify", None)
    result = green(hourly.run(), "published")
    assert "Not told (end of this run): the Secret or its key is missing (value notify)." in result.log
