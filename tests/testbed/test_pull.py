"""Where a registry answers, images are pulled: tried with Debian's registry as Docker Hub's mirror.

The engine gets a store and a network of its own, so that it has nothing but what it pulls.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_backup_lab.bed import images, kind_cluster, node, podman, system

pytestmark = pytest.mark.cluster

NAME = "stack-backup-pulled"
NODE_IMAGE = "docker.io/kindest/node:v0.0.0-of-this-test"


@pytest.fixture
def folder() -> Iterator[Path]:
    """For gigabytes: pytest's own folders are kept for three runs."""
    with tempfile.TemporaryDirectory(prefix="stack-backup-pull-") as path:
        yield Path(path)


def _registry(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    system.ensure_packages("docker-registry")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    settings = {
        "version": "0.1",
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "registry")}},
        "http": {"addr": address},
    }
    (folder / "registry.yaml").write_text(json.dumps(settings))
    with (folder / "registry.log").open("wb") as log:
        server = subprocess.Popen(
            ["docker-registry", "serve", folder / "registry.yaml"], stdout=log, stderr=subprocess.STDOUT
        )
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"http://{address}/v2/", timeout=5):
                return server, address
        except OSError:
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"docker-registry does not answer: {(folder / 'registry.log').read_text()}")
            time.sleep(0.1)


def _push(image: str, address: str, public: str) -> None:
    """As public images are: an index that names one manifest for each kind of machine."""
    repository, tag = public.removeprefix("docker.io/").split(":")
    # zstd, because it packs a gigabyte in seconds.
    fast = ("--format", "oci", "--compression-format", "zstd", "--tls-verify=false")
    podman.run("push", *fast, image, f"{address}/{repository}:{tag}")

    place = f"http://{address}/v2/{repository}/manifests/{tag}"
    of_one = "application/vnd.oci.image.manifest.v1+json"
    with urllib.request.urlopen(urllib.request.Request(place, headers={"Accept": of_one})) as answer:
        manifest = answer.read()
    entry = {
        "mediaType": of_one,
        "digest": f"sha256:{hashlib.sha256(manifest).hexdigest()}",
        "size": len(manifest),
        "platform": {"os": "linux", "architecture": system.require_debian()},
    }
    of_all = "application/vnd.oci.image.index.v1+json"
    index = {"schemaVersion": 2, "mediaType": of_all, "manifests": [entry]}
    put = urllib.request.Request(
        place, json.dumps(index).encode(), headers={"Content-Type": of_all}, method="PUT"
    )
    urllib.request.urlopen(put).close()


@pytest.fixture
def mirror(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A mirror on loopback with the stand-ins under the public names, and an engine that knows it."""
    if podman.engine() != "podman":
        pytest.fail(
            "Only podman can be told of a mirror without changing the machine: remove Docker's daemon."
        )
    public = images.IMAGES["postgres:15"].public
    monkeypatch.setenv("STACK_BACKUP_REGISTRY", "never")
    podman.run("load", "--input", images.archive("postgres:15"))
    made = node.image()
    server, address = _registry(folder)
    try:
        _push(public, address, public)
        _push(made, address, NODE_IMAGE)
        podman.run("rmi", public)

        (folder / "registries.conf").write_text(
            f'[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'
            f'[[registry.mirror]]\nlocation = "{address}"\ninsecure = true\n'
        )
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/store"\nrunroot = "{folder}/run"\n'
        )
        settings = Path(podman.environment().get("CONTAINERS_CONF", os.devnull)).read_text()
        (folder / "containers.conf").write_text(
            f'{settings or "[engine]"}\nlock_type = "file"\ntmp_dir = "{folder}/run/libpod"\n'
        )
        for name in ("registries", "storage", "containers"):
            variable = {"registries": "CONTAINERS_REGISTRIES_CONF", "storage": "CONTAINERS_STORAGE_CONF"}
            monkeypatch.setenv(variable.get(name, "CONTAINERS_CONF"), str(folder / f"{name}.conf"))
        monkeypatch.setattr(podman, "NETWORK", NAME)
        monkeypatch.setattr(images, "CACHE", folder / "cache")
        monkeypatch.delenv("STACK_BACKUP_REGISTRY")
        images.registry_answers.cache_clear()
        yield
        kind_cluster.delete(NAME)
        podman.run("rmi", "--all", "--force")
    finally:
        images.registry_answers.cache_clear()
        server.terminate()
        server.wait()
        subprocess.run(["umount", "--quiet", folder / "store" / "overlay"], check=False)


@pytest.mark.usefixtures("mirror")
def test_images_and_cluster_come_from_a_registry_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert podman.run("images", "--quiet") == "", "the engine starts with no image"
    assert images.registry_answers()

    root = images.rootfs("postgres:15")
    assert "-pulled-" in root.name
    assert (root / "usr/lib/postgresql/15/bin/pg_dumpall").exists()

    monkeypatch.setattr(node, "_archive", lambda: pytest.fail("a node image was made, not pulled"))
    pulled = kind_cluster.ensure(NAME, stock=NODE_IMAGE)
    assert pulled.kubectl("get", "nodes", "--output", "name") == f"node/{NAME}-control-plane\n"
    names = podman.run("images", "--format", "{{.Repository}}:{{.Tag}}").split()
    assert sorted(names) == sorted([NODE_IMAGE, images.IMAGES["postgres:15"].public])
