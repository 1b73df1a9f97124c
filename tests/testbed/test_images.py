"""Images are made or pulled, whole or not at all, and a stand-in is no richer than what it stands for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stack_backup_lab.bed import BedError, commands, images, podman, progress
from tests.registry import registry

DATABASE = images.IMAGES["stack-database:15"]
PUBLIC = images.IMAGES["postgres:15"]


@pytest.fixture(autouse=True)
def ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STACK_BACKUP_REGISTRY", raising=False)
    images.registry_answers.cache_clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, but for the package files."""
    for module in (images, commands):
        monkeypatch.setattr(module, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(progress, "DURATIONS", tmp_path / "durations.json")
    return tmp_path / "cache"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """podman with a store of its own."""
    assert podman.engine()
    monkeypatch.setattr(podman, "engine", lambda: "podman")
    (tmp_path / "storage.conf").write_text(
        f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/store"\nrunroot = "{tmp_path}/run"\n'
    )
    monkeypatch.setenv("CONTAINERS_STORAGE_CONF", str(tmp_path / "storage.conf"))
    yield
    shutil.rmtree(tmp_path / "store", ignore_errors=True)


def redirect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Let podman ask `host` where it is told to ask the public registry."""
    (tmp_path / "registries.conf").write_text(
        f'[[registry]]\nprefix = "docker.io"\nlocation = "{host}"\ninsecure = true\n'
    )
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(tmp_path / "registries.conf"))


def tree(folder: Path) -> Path:
    """The least root file system with an owner, a mode and a link to keep."""
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "secret").write_text("kept")
    (folder / "etc" / "secret").chmod(0o640)
    os.chown(folder / "etc" / "secret", 999, 999)
    (folder / "lib").symlink_to("usr/lib")
    return folder


@pytest.mark.usefixtures("store")
def test_a_closed_port_is_no_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    redirect(tmp_path, monkeypatch, "127.0.0.1:1")
    assert images.registry_answers() is False


@pytest.mark.usefixtures("store")
def test_a_registry_that_stays_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "REGISTRY_PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes the connection, and says nothing
        redirect(tmp_path, monkeypatch, f"127.0.0.1:{silent.getsockname()[1]}")
        assert images.registry_answers() is False


@pytest.mark.usefixtures("store")
def test_an_image_is_pulled_where_a_registry_answers(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images._pack(PUBLIC, tree(tmp_path / "tree"), tmp_path / "public.tar")
    podman.run("load", "--input", tmp_path / "public.tar")
    with registry(tmp_path) as host:
        podman.run("push", "--tls-verify=false", PUBLIC.public, f"{host}/library/postgres:15")
        podman.run("rmi", PUBLIC.public)
        redirect(tmp_path, monkeypatch, host)
        assert images.registry_answers() is True
        pulled = images.rootfs(PUBLIC.name)
    assert pulled.parent == cache / "rootfs"
    assert "pulled" in pulled.name
    assert (pulled / "etc" / "secret").read_text() == "kept"
    assert (pulled / "lib").readlink() == Path("usr/lib")
    status = (pulled / "etc" / "secret").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (999, 999, 0o640)
    assert podman.run("ps", "--all", "--quiet") == podman.run("volume", "ls", "--quiet") == ""

    images.registry_answers.cache_clear()  # gone by now: what was pulled is used all the same
    assert images.rootfs(PUBLIC.name) == pulled


def test_what_the_user_decides_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(podman, "engine", lambda: pytest.fail("asked"))
    monkeypatch.setenv("STACK_BACKUP_REGISTRY", "never")
    assert images.registry_answers() is False
    images.registry_answers.cache_clear()
    monkeypatch.setenv("STACK_BACKUP_REGISTRY", "always")
    assert images.registry_answers() is True
    images.registry_answers.cache_clear()
    monkeypatch.setenv("STACK_BACKUP_REGISTRY", "maybe")
    with pytest.raises(BedError, match="STACK_BACKUP_REGISTRY is 'maybe', and can only be always or never"):
        images.registry_answers()


def test_a_failed_image_leaves_nothing_under_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STACK_BACKUP_REGISTRY", "never")
    broken = replace(PUBLIC, hooks=("--setup-hook=echo this hook fails; exit 7",))
    monkeypatch.setitem(images.IMAGES, broken.name, broken)
    with pytest.raises(BedError, match="this hook fails"):
        images.rootfs(broken.name)
    assert list((cache / "rootfs").iterdir()) == []
    assert "stack-backup" not in Path("/proc/mounts").read_text()


def test_another_description_is_another_image() -> None:
    place = images._place(DATABASE, pulled=False)
    assert images._place(replace(DATABASE, packages=(*DATABASE.packages, "less")), pulled=False) != place
    assert images._place(replace(DATABASE, repair="true"), pulled=False) != place
    assert images._place(DATABASE, pulled=True) != place


def test_the_database_image_has_the_public_images_tools_and_no_more() -> None:
    root = images.rootfs(DATABASE.name)
    folders = [root / folder.lstrip("/") for folder in DATABASE.environment["PATH"].split(":")]

    def has(name: str) -> bool:
        return any((folder / name).is_file() for folder in folders)

    shell = ("bash", "mawk", "perl", "sha256sum", "timeout", "mktemp", "stat", "sync", "flock", "setpriv")
    wanted = (*shell, "gzip", "zstd", "xz", "openssl", "pg_dumpall", "psql", "postgres")
    assert [name for name in wanted if not has(name)] == []
    absent = ("pigz", "rsync", "jq", "curl", "wget", "lz4", "python3", "ps")
    assert [name for name in absent if has(name)] == []
    assert "postgres:x:999:999:" in (root / "etc" / "passwd").read_text()
    assert "postgres:x:999:" in (root / "etc" / "group").read_text()
    assert (root / "usr/share/postgresql/15/extension/rdkit.control").exists()


def chrooted(root: Path, command: str, *, interpreter: Path | None = None) -> str:
    """What a shell command prints in a root file system, with an interpreter at /mnt where one is given.

    Read-only: root would leave its bytecode in what every other run is given.
    """
    bind = f'mount --bind -o ro {interpreter} "$1/mnt";' if interpreter else ""
    script = (
        'mount --bind "$1" "$1"; mount -o remount,bind,ro "$1";'
        f'mount -t proc proc "$1/proc"; mount -t tmpfs shm "$1/dev/shm"; {bind} exec chroot "$1" sh -c "$2"'
    )
    words = ["unshare", "--mount", "sh", "-euc", script, "sh", root, command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("name", ["postgres:15", "postgres:17", "rdkit-database:15"])
def test_python_runs_wherever_it_is_copied_to(name: str) -> None:
    interpreter = images.rootfs(images.PYTHON) / "usr/local"
    import_all = (
        "import sys, bz2, ctypes, hashlib, json, lzma, multiprocessing, signal, socket, subprocess, zlib; "
        "multiprocessing.Semaphore(1); print(sys.version_info[:2], sys.prefix)"
    )
    root = images.rootfs(name)
    assert (
        chrooted(root, f"/mnt/bin/python3 -IBc '{import_all}'", interpreter=interpreter) == "(3, 13) /mnt\n"
    )


def test_the_python_image_is_as_bare_as_the_public_one() -> None:
    root = images.rootfs(images.PYTHON)
    assert list((root / "usr/local").rglob("*.pyc")) == []
    assert not any((root / "usr/bin" / name).exists() for name in ("gcc", "make", "curl", "zstd"))
    assert chrooted(root, "python3 -c 'import ssl, sqlite3, uuid; print(ssl.HAS_TLSv1_3)'") == "True\n"


def test_the_old_image_cannot_run_that_python() -> None:
    interpreter = images.rootfs(images.PYTHON) / "usr/local"
    said = chrooted(
        images.rootfs("old-database:13"), "/mnt/bin/python3 -V 2>&1 || echo no", interpreter=interpreter
    )
    assert "GLIBC_2.3" in said
    assert said.endswith("no\n")


def test_the_rdkit_image_lacks_what_the_official_one_brings() -> None:
    root = images.rootfs("rdkit-database:15")
    python = "python3 -c 'import sys; print(sys.version_info[:2])'"
    look = f"command -v zstd; ls /usr/lib/*/libnss_wrapper.so; {python}; id -u postgres"
    version, uid = chrooted(root, f"{{ {look}; }} 2>&1 | grep -v 'cannot access'").splitlines()
    assert version == "(3, 11)"
    assert uid != "999"


def test_an_archive_holds_the_tree_and_how_to_start_it(tmp_path: Path) -> None:
    target = tmp_path / "image.tar"
    images._pack(DATABASE, tree(tmp_path / "tree"), target)
    with tarfile.open(target) as archive:
        content = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        (manifest,) = json.load(content["manifest.json"])
        config = json.load(content["config.json"])
        layer = content["layer.tar"].read()
    assert manifest["RepoTags"] == ["localhost/stack-database:15"]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(layer).hexdigest()}"]
    assert config["config"]["Entrypoint"] == ["docker-entrypoint.sh"]
    assert "PGDATA=/var/lib/postgresql/data" in config["config"]["Env"]
    assert [path.name for path in tmp_path.glob("image.*")] == ["image.tar"]


def test_an_unknown_image_is_named() -> None:
    with pytest.raises(
        BedError, match=r"no image named mysql:8; nothing was made\. The images are: postgres:15"
    ):
        images.rootfs("mysql:8")
