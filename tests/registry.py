"""A registry of images and charts on this machine."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stack_backup_lab.bed import system


@contextmanager
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's registry on a loopback port; yields host:port."""
    system.ensure_packages("docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        host = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": host},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(settings))
    with (tmp_path / "registry.log").open("w") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", tmp_path / "registry.yml"], stdout=log, stderr=log
        )
    try:
        while not answers(f"http://{host}/v2/"):
            assert server.poll() is None, (tmp_path / "registry.log").read_text()
            time.sleep(0.1)
        yield host
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url).close()
    except OSError:
        return False
    return True
