"""What a command in a pod prints, over a WebSocket of this machine: long, cut, or refused."""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from kubernetes.client import ApiClient, Configuration, CoreV1Api

from stack_backup import CliError, Exit, release

MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
Answer = Callable[[BaseHTTPRequestHandler], None]


def _accept(handler: BaseHTTPRequestHandler) -> None:
    key = handler.headers["Sec-WebSocket-Key"].encode()
    handler.send_response(101, "Switching Protocols")
    for name, value in (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key + MAGIC).digest()).decode()),
        ("Sec-WebSocket-Protocol", "v4.channel.k8s.io"),
    ):
        handler.send_header(name, value)
    handler.end_headers()


def _frame(data: bytes, kind: int = 2) -> bytes:
    return struct.pack("!BBH", 0x80 | kind, 126, len(data)) + data


@contextmanager
def _api(answer: Answer) -> Iterator[release.Release]:
    """A release at an API server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            answer(self)

        def log_message(self, *_: object) -> None:
            """Not into the test's output."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            host = f"http://127.0.0.1:{server.server_port}"
            made = object.__new__(release.Release)
            made.namespace, made.cluster = "production-stack", host
            made._logs = CoreV1Api(ApiClient(Configuration(host=host)))
            yield made
        finally:
            server.shutdown()


def test_a_long_stream_is_never_held_in_memory() -> None:
    piece, count = b"\1" + b"x" * 32000, 2000

    def answer(handler: BaseHTTPRequestHandler) -> None:
        _accept(handler)
        for _ in range(count):
            handler.wfile.write(_frame(piece))
        handler.wfile.write(_frame(b'\3{"status":"Success"}'))
        handler.wfile.write(_frame(struct.pack("!H", 1000), 8))

    with _api(answer) as made:
        tracemalloc.start()
        try:
            came = sum(len(chunk) for chunk in made.execute("pod", "program", ["true"]))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert came == count * 32000
    assert peak < 2 << 20


def test_a_stream_that_is_cut_gives_what_has_come() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        _accept(handler)
        handler.wfile.write(_frame(b"\1half"))
        handler.wfile.write(_frame(b"\1 of it")[:6])

    came: list[bytes] = []
    with _api(answer) as made, pytest.raises(CliError) as caught:
        came.extend(made.execute("pod", "program", ["true"]))
    assert came == [b"half"]
    assert caught.value.code == Exit.UNREACHABLE


def test_what_the_api_server_refuses_is_named() -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        said = json.dumps({"kind": "Status", "message": 'User "u" cannot create resource "pods/exec"'})
        handler.send_response(403, "Forbidden")
        handler.send_header("Content-Length", str(len(said)))
        handler.end_headers()
        handler.wfile.write(said.encode())

    with _api(answer) as made, pytest.raises(CliError, match="You may not create pods/exec in") as caught:
        list(made.execute("pod", "program", ["true"]))
    assert caught.value.code == Exit.REFUSED
