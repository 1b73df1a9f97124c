"""A proxy before the API server that cuts what is long, without a word, as some do."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import yaml


class Cutting:
    """Passes on so many bytes of each connection's answers, then closes it; `cuts` counts those."""

    def __init__(self, host: str, port: int, after: int) -> None:
        self._peer, self._after = (host, port), after
        self._server = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.port: int = self._server.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                here = self._server.accept()[0]
                there = socket.create_connection(self._peer)
                self._open += [here, there]
                for pair in ((here, there, None), (there, here, self._after)):
                    threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data if left is None else data[:left])
                if left is not None and (left := left - len(data)) <= 0:
                    self.cuts += 1
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        for end in (self._server, *self._open):
            end.close()


@contextmanager
def cutting(kubeconfig: Path, folder: Path, after: int) -> Iterator[tuple[Path, Cutting]]:
    """A kubeconfig whose cluster is reached through such a proxy."""
    config = yaml.safe_load(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    where = urlsplit(cluster["server"])
    proxy = Cutting(str(where.hostname), where.port or 443, after)
    cluster |= {"server": f"https://127.0.0.1:{proxy.port}", "tls-server-name": str(where.hostname)}
    path = folder / "through-the-proxy.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    try:
        yield path, proxy
    finally:
        proxy.close()
