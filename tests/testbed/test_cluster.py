"""The test cluster: used again while it lives, made anew when it was killed, never somebody else's."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_backup_lab.bed import BedError, kind_cluster, podman

pytestmark = pytest.mark.cluster

NAME = "stack-backup-test"
NODE = f"{NAME}-control-plane"


@pytest.fixture
def name() -> Iterator[str]:
    """A name that no cluster has, before and after."""
    kind_cluster.delete(NAME)
    yield NAME
    kind_cluster.delete(NAME)


def _identity() -> str:
    return podman.run("inspect", "--format", "{{.Id}}", NODE).strip()


def _cgroups(identity: str) -> list[Path]:
    # os.walk does not mind that other clusters' groups come and go.
    return [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if identity in folder]


def _freeze(identity: str) -> None:
    """As a runtime does with what it starts, for a moment; what is frozen (cgroup v1) cannot be killed."""
    for group in _cgroups(identity):
        if group.name == "kubelet.slice" and (group / "freezer.state").exists():
            (group / "freezer.state").write_text("FROZEN")


def _image(folder: Path) -> Path:
    """A docker-archive of the least possible image."""
    archive = folder / "least.tar"
    with tarfile.open(archive, "w") as tar:
        files = {
            "manifest.json": [{"Config": "config.json", "RepoTags": ["localhost/least:1"], "Layers": []}],
            "config.json": {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": []},
            },
        }
        for path, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(path)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return archive


def _has_image() -> bool:
    return "localhost/least:1" in podman.run("exec", NODE, "ctr", "--namespace=k8s.io", "images", "ls", "-q")


def _kill() -> None:
    """End the node as a machine's end does: the engine is not asked, and goes on listing it as running."""
    state = json.loads(podman.run("inspect", "--type", "container", NODE))[0]["State"]
    for process in ("ConmonPid", "Pid"):
        if state.get(process):
            os.kill(state[process], signal.SIGKILL)


def test_a_cluster_is_used_again_and_a_killed_one_made_anew(name: str, tmp_path: Path) -> None:
    (tmp_path / "shared").write_text("seen by every cluster that mounts this folder")
    first = kind_cluster.ensure(name, export=tmp_path)
    assert first.kubeconfig.stat().st_mode & 0o077 == 0, "a kubeconfig is a credential"
    assert "seen by every cluster" in podman.run("exec", NODE, "cat", f"{kind_cluster.EXPORT}/shared")
    first.load(_image(tmp_path))
    assert _has_image()

    made = _identity()
    assert _cgroups(made)
    with kind_cluster.used(name) as found:
        assert found == first
    assert _identity() == made, "made before its user came"
    with pytest.raises(BedError, match="left as it is"):
        kind_cluster.ensure(name, export=tmp_path.parent)
    assert _identity() == made

    _kill()
    with kind_cluster.used(name) as again:
        anew = _identity()
        assert anew != made
        assert "Ready" in again.kubectl("get", "nodes")
        again.load(_image(tmp_path))  # what the dead one had is not taken for loaded
        assert _has_image()
        with kind_cluster.used(name) as beside:
            assert beside == again
        assert _identity() == anew, "the first of its users is still there"
        _freeze(anew)
    assert not podman.nodes(name), "gone with the last"
    assert not podman.run("volume", "ls", "--quiet", "--filter", f"label={NODE}")
    assert not _cgroups(made)
    assert not _cgroups(anew)
    assert not again.kubeconfig.exists()


def test_a_cluster_that_somebody_else_made_is_left_alone(name: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty.tar"
    tarfile.open(empty, "w").close()
    image = "localhost/stack-backup-empty:1"
    podman.import_image(empty, image)
    label = f"io.x-k8s.kind.cluster={name}"
    podman.run("create", "--name", NODE, "--label", label, image, "none")
    try:
        for use in (kind_cluster.ensure, kind_cluster.delete):
            with pytest.raises(BedError, match="did not make"):
                use(name)
        assert [node.name for node in podman.nodes(name)] == [NODE]
    finally:
        podman.run("rm", NODE)
        podman.run("rmi", image)
