"""Released tools are taken by their digest alone; where their hosts are silent, tools are built."""

from __future__ import annotations

import hashlib
import socket
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPResponse
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from stack_backup_lab.bed import BedError, commands, progress, releases, tools
from stack_backup_lab.bed.releases import ARCHITECTURE, Release

TOOL = tools.TOOLS["shfmt"]


class Host(NamedTuple):
    """A host of released files: what lies in `folder` is had at `url`, and `asked` is what was asked for."""

    folder: Path
    url: str
    asked: list[str]


@pytest.fixture(scope="module")
def binary() -> Path:
    """The tool itself, as it is built."""
    tools.ensure(TOOL.name)
    return (tools.BIN / TOOL.name).resolve()


@pytest.fixture
def host(tmp_path: Path, binary: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that has the tool; an empty cache; and a machine where nothing can be built."""
    folder = tmp_path / "host"
    folder.mkdir()
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(format % args)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for module, name in ((tools, "CACHE"), (commands, "CACHE"), (tools, "LOGS")):
        monkeypatch.setattr(module, name, tmp_path / "cache")
    monkeypatch.setattr(progress, "DURATIONS", tmp_path / "cache" / "durations.json")
    monkeypatch.setattr(tools, "BIN", tmp_path / "bin")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.delenv(releases.DECIDES, raising=False)
    for found in (tools._ready, releases.answers):
        found.cache_clear()
    with tarfile.open(folder / "tool.tar.gz", "w:gz") as archive:
        archive.add(binary, f"linux-{ARCHITECTURE}/shfmt")
    yield Host(folder, f"http://127.0.0.1:{server.server_port}", asked)
    server.shutdown()
    server.server_close()
    for found in (tools._ready, releases.answers):
        found.cache_clear()


def offer(
    monkeypatch: pytest.MonkeyPatch,
    host: Host,
    *,
    digest: str = "",
    url: str = "",
    version: str = TOOL.version,
) -> None:
    """Let the host's tar be the only release that there is."""
    digest = digest or hashlib.sha256((host.folder / "tool.tar.gz").read_bytes()).hexdigest()
    files = {ARCHITECTURE: ("tool.tar.gz", digest)}
    release = Release(version, url or host.url, files, "linux-{arch}/shfmt")
    monkeypatch.setattr(releases, "RELEASES", {TOOL.name: release})


def _answers_a_question(really: Callable[..., HTTPResponse]) -> Callable[..., HTTPResponse]:
    def asked(url: str, timeout: float, method: str = "GET") -> HTTPResponse:
        place = url.replace("/nowhere", "") if method == "HEAD" else url
        return really(place, timeout, method)

    return asked


@contextmanager
def silence() -> Iterator[str]:
    """The address of a host that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_each_release_is_that_of_the_pinned_version() -> None:
    """A tool whose pin has moved is built until its digests have moved with it."""
    for name, release in releases.RELEASES.items():
        assert release.version == tools.TOOLS[name].version, name
        assert release.version in release.folder + "".join(file for file, _ in release.files.values()), name
        for _, digest in release.files.values():
            assert len(bytes.fromhex(digest)) == 32, name


def test_a_released_tool_is_downloaded_once_and_used(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, host)
    tools.ensure(TOOL.name)
    tools.check(TOOL, tools.BIN / TOOL.name)
    assert "-released-" in str((tools.BIN / TOOL.name).resolve())
    asked = len(host.asked)
    assert asked == 2  # whether it answers, and the file
    tools._ready.cache_clear()
    tools.ensure(TOOL.name)
    (tools.BIN / TOOL.name).unlink()
    tools._ready.cache_clear()
    tools.ensure(TOOL.name)
    assert len(host.asked) == asked
    [home] = (tools.CACHE / "bin").iterdir()
    assert [path.name for path in home.iterdir()] == [TOOL.name]


def test_what_has_another_digest_is_refused(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, host, digest="ab" * 32)
    with pytest.raises(
        BedError, match=rf"is not what is pinned for shfmt {TOOL.version}: its sha256 is \w+, not abab"
    ):
        tools.ensure(TOOL.name)
    assert not tools.BIN.exists()
    assert not list((tools.CACHE / "bin").iterdir())


@pytest.mark.parametrize("why", ["silent", "refused", "no such file"])
def test_where_the_host_gives_nothing_the_tool_is_built(
    why: str, host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(releases, "PATIENCE", 0.5)
    with silence() as silent:
        refused = silent if why == "silent" else f"{host.url}/nowhere" if why == "no such file" else ""
        offer(monkeypatch, host, url=refused or "http://127.0.0.1:9")
        with pytest.raises(BedError, match="cannot be built because Go is missing"):
            tools.ensure(TOOL.name)
    assert "do not answer: the tools are built instead" in capsys.readouterr().out


def test_a_download_that_breaks_off_is_built_or_told(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The host answers when it is asked, and gives nothing later."""
    offer(monkeypatch, host, url=f"{host.url}/nowhere")
    monkeypatch.setattr(releases, "_open", _answers_a_question(releases._open))
    with pytest.raises(BedError, match="cannot be built because Go is missing"):
        tools.ensure(TOOL.name)
    assert "shfmt is built instead" in capsys.readouterr().out
    monkeypatch.setenv(releases.DECIDES, "always")
    with pytest.raises(releases.UnreachableError, match=r"nowhere/tool\.tar\.gz could not be had"):
        tools.ensure(TOOL.name)


def test_never_asks_nobody(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, host)
    monkeypatch.setenv(releases.DECIDES, "never")
    with pytest.raises(BedError, match="cannot be built because Go is missing"):
        tools.ensure(TOOL.name)
    assert host.asked == []


def test_another_version_is_built(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(monkeypatch, host, version="0.0.1")
    with pytest.raises(BedError, match="cannot be built because Go is missing"):
        tools.ensure(TOOL.name)
    assert host.asked == []


def test_what_was_built_is_used_and_nobody_asked(
    host: Host, binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, host)
    built = tools._home(TOOL) / TOOL.name
    built.parent.mkdir(parents=True)
    built.write_bytes(binary.read_bytes())
    built.chmod(0o755)
    tools.ensure(TOOL.name)
    assert (tools.BIN / TOOL.name).resolve() == built
    assert host.asked == []


def test_only_two_words_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(releases.DECIDES, "perhaps")
    with pytest.raises(BedError, match="STACK_BACKUP_RELEASES is 'perhaps', and can only be always or never"):
        releases.decided()
