"""Runs that tell others how they go: real ones, to a real server on this machine that answers as it likes."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.unit.test_run import Ended, Running

SECRET = "0b5fbd18-7b5c-4a2f-8d51-secret"
GOOD = "def program(job): return DONE\n"
BAD = 'def program(job): raise JobError(65, "The dump is damaged.", "Use another one.")\n'


@dataclass
class Server:
    """Remembers what it was asked; answers with `code`, after `delay` seconds."""

    code: int = 200
    delay: float = 0
    headers: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, str, bytes]] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{SECRET}"

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.asked]


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    running: list[ThreadingHTTPServer] = []

    def begin(context: ssl.SSLContext | None = None, **answers: object) -> Server:
        server = Server(**answers)  # type: ignore[arg-type]

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
                server.asked.append((self.command, self.path, body))
                time.sleep(server.delay)
                self.send_response(server.code)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        http.daemon_threads = True
        http.handle_error = lambda *_: None  # type: ignore[method-assign]
        if context is not None:
            http.socket = context.wrap_socket(http.socket, server_side=True)
        server.port = http.server_address[1]
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        running.append(http)
        return server

    yield begin
    for http in running:
        http.shutdown()
        http.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ended]:
    """A program of this source, run to its end; `ping` and `webhook` are what the Secret holds."""

    def run(source: str, ping: str | None = None, webhook: str | None = None, **environment: str) -> Ended:
        folder = tmp_path / f"run-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        for name, text in (("PING", ping), ("WEBHOOK", webhook)):
            if text is not None:
                (folder / name).write_text(text)
                environment[f"NOTIFY_{name}"] = str(folder / name)
        ended = Running(folder, source, NAMESPACE="a-stack", **environment).end(timeout=60)
        assert SECRET not in ended.log
        assert SECRET not in ended.message
        return ended

    return run


def not_told(ended: Ended) -> list[str]:
    return [line.partition("Not told ")[2] for line in ended.log.splitlines() if "Not told " in line]


# ---- what is told ----


def test_a_good_run_pings_its_start_and_its_end(
    serve: Callable[..., Server], run: Callable[..., Ended]
) -> None:
    server = serve()
    ended = run(GOOD, ping=f"{server.url}\n")
    assert (ended.code, ended.verdict["outcome"]) == (0, "done")
    assert server.asked == [("GET", f"/{SECRET}/start", b""), ("GET", f"/{SECRET}", b"")]
    assert not_told(ended) == []


def test_a_failed_run_pings_its_failure_and_tells_the_webhook_why(
    serve: Callable[..., Server], run: Callable[..., Ended]
) -> None:
    server, hook = serve(), serve()
    ended = run(BAD, ping=f"{server.url}?rid=7", webhook=hook.url)
    assert ended.code == 65
    assert server.paths == [f"/{SECRET}/start?rid=7", f"/{SECRET}/fail?rid=7"]
    [(method, path, body)] = hook.asked
    assert (method, path) == ("POST", f"/{SECRET}")
    text = json.loads(body)["text"]
    assert text.startswith("the-job of a-stack failed (65): The dump is damaged.")
    assert "Use another one." in text


def test_a_start_is_told_while_the_run_is_at_work(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve()
    (tmp_path / "PING").write_text(server.url)
    source = """
def program(job):
    reached()
    while not (HERE / "go").exists():
        time.sleep(0.02)
    return DONE
"""
    running = Running(tmp_path, source, NOTIFY_PING=str(tmp_path / "PING"))
    running.reached()
    deadline = time.monotonic() + 10
    while not server.asked and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.paths == [f"/{SECRET}/start"]
    (tmp_path / "go").touch()
    assert running.end().code == 0


def test_the_first_good_run_after_a_failure_is_told_to_the_webhook(
    serve: Callable[..., Server], run: Callable[..., Ended], tmp_path: Path
) -> None:
    hook, history = serve(), tmp_path / "history"
    history.mkdir()
    told = []
    for pod, source in zip("abcde", (GOOD, BAD, BAD, GOOD, GOOD), strict=True):
        hook.asked.clear()
        run(source, webhook=hook.url, POD_NAME=pod, HISTORY=str(history), HISTORY_KEEP="9")
        told += [json.loads(body)["text"].partition(":")[0] for _, _, body in hook.asked] or [""]
    failed = "the-job of a-stack failed (65)"
    assert told == ["", failed, failed, "the-job of a-stack is well again", ""]


def test_nobody_is_told_where_nobody_wants_to_know(
    serve: Callable[..., Server], run: Callable[..., Ended]
) -> None:
    hook = serve()
    assert not_told(run(GOOD)) == []
    run(GOOD, webhook=hook.url)
    assert hook.asked == []


# ---- what changes no run ----


@pytest.mark.parametrize(("source", "code"), [(GOOD, 0), (BAD, 65)], ids=["good", "bad"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [({"code": 500}, "the answer was 500"), ({"code": 404}, "the answer was 404")],
    ids=["500", "404"],
)
def test_a_refusal_is_a_line_of_the_log(
    serve: Callable[..., Server],
    run: Callable[..., Ended],
    source: str,
    code: int,
    answer: dict[str, int],
    said: str,
) -> None:
    ended = run(source, ping=serve(**answer).url)
    assert ended.code == ended.verdict["exit"] == code
    assert not_told(ended) == [f"(start of this run): {said}.", f"(end of this run): {said}."]


def test_a_redirect_is_not_followed(serve: Callable[..., Server], run: Callable[..., Ended]) -> None:
    other = serve()
    server = serve(code=302, headers={"Location": other.url})
    ended = run(BAD, ping=server.url, webhook=server.url)
    assert ended.code == 65
    assert other.asked == []
    assert "(webhook): the answer was 302, a redirect." in not_told(ended)


def test_nobody_listens(run: Callable[..., Ended]) -> None:
    ended = run(GOOD, ping=f"http://127.0.0.1:1/{SECRET}")
    assert ended.code == 0
    assert not_told(ended)[-1] == "(end of this run): Connection refused."


def test_a_server_that_hangs_costs_seconds_and_no_more(
    serve: Callable[..., Server], run: Callable[..., Ended]
) -> None:
    server = serve(delay=60)
    ended = run(GOOD, ping=server.url, webhook=server.url)
    assert (ended.code, ended.verdict["outcome"]) == (0, "done")
    assert ended.verdict["seconds"] < 2, "the run itself did not wait"
    assert 9 < ended.seconds < 20
    assert not_told(ended) == [
        "(start of this run): no answer came in time.",
        "(end of this run): no answer came in time.",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not an address",
        f"ftp://example.org/{SECRET}",
        f"file:///etc/{SECRET}",
        f"http://[{SECRET}",
        "http://a b/",
    ],
)
def test_what_is_no_address_is_not_asked(run: Callable[..., Ended], text: str) -> None:
    ended = run(GOOD, ping=text)
    assert ended.code == 0
    assert "what the Secret holds is no address" in not_told(ended)[-1]


def test_a_secret_that_is_missing(run: Callable[..., Ended], tmp_path: Path) -> None:
    ended = run(GOOD, NOTIFY_PING=str(tmp_path / "none"))
    assert ended.code == 0
    assert "the Secret or its key is missing (value notify)" in not_told(ended)[-1]


def test_only_a_server_of_a_known_authority_is_told(
    serve: Callable[..., Server], run: Callable[..., Ended], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"),
            *("-out", certificate, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = serve(context)
    url = f"https://localhost:{server.port}/{SECRET}"
    ended = run(GOOD, ping=url)
    assert ended.code == 0
    assert (
        not_told(ended)[-1] == "(end of this run): its certificate is not trusted: self-signed certificate."
    )
    assert server.asked == []
    assert not_told(run(GOOD, ping=url, NOTIFY_CA=str(certificate))) == []
    assert server.paths == [f"/{SECRET}/start", f"/{SECRET}"]
    ended = run(GOOD, ping=url.replace("localhost", "127.0.0.1"), NOTIFY_CA=str(certificate))
    assert "its certificate is not trusted: " in not_told(ended)[-1]
    assert len(server.asked) == 2
