"""The node image for machines without a registry: Debian, Kubernetes, and the images that a node runs.

It is what kind's own build makes of kind's base image, put together from package registries: the files of
that base image come from kind's Go module, the programs from `tools`, all else from Debian.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stack_backup_lab.bed import BedError, commands, debian, podman, progress, system, tools
from stack_backup_lab.paths import BIN, CACHE

NAME = "localhost/stack-backup-node"
LABEL = "stack-backup=node"
SUITE = "bookworm"
"""Its systemd still runs on cgroup v1; that of the next Debian does not."""

PACKAGES = [
    *(
        "ca-certificates",
        "conntrack",
        "containernetworking-plugins",
        "dbus",
        "e2fsprogs",
        "ethtool",
        "iproute2",
    ),
    *("iptables", "jq", "kmod", "mount", "nfs-common", "nftables", "procps", "runc", "socat", "systemd"),
    "util-linux",
]
SMALL_PACKAGES = ["busybox-static", "catatonit", "netbase", "nftables"]
"""For the images in the node: the helper's shell, the pause program, and what kube-proxy calls.

netbase holds /etc/protocols: without it nft answers `6` where kube-proxy wrote `tcp`, and kube-proxy, which
reads its rules back once an hour, then takes all of them for leftovers and removes them: no Service works.
"""

CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
PROGRAMS = {
    "usr/bin": ("kubeadm", "kubectl", "kubelet"),
    "usr/local/bin": ("containerd", "containerd-shim-runc-v2", "ctr"),
}
BUILT = (
    *CONTROL_PLANE,
    "kube-proxy",
    "etcd",
    "coredns",
    "local-path-provisioner",
    *sum(PROGRAMS.values(), ()),
)

_DATA = Path(__file__).parent / "node_image"
_GO = Path(__file__).parent / "go"

Fill = Callable[[tarfile.TarFile], None]


def image() -> str:
    """The name of the node image in the engine's store, made first if it is not there."""
    name = f"{NAME}:{_key()}"
    with commands.lock("node-image"):
        if not podman.has_image(name):
            archive = _archive()
            with progress.step("node-import", "node image: giving it to the container engine", 20):
                podman.import_image(
                    archive,
                    name,
                    'ENTRYPOINT ["/usr/local/bin/entrypoint","/sbin/init"]',
                    "STOPSIGNAL SIGRTMIN+3",  # systemd's signal for halting
                    "ENV container=podman",
                    f"LABEL {LABEL}",
                )
            # Former ones, a gigabyte each; not one that another clone may be about to use.
            podman.run(
                "image", "prune", "--all", "--force", "--filter", f"label={LABEL}", "--filter", "until=24h"
            )
    return name


def _key() -> str:
    """Of all that the image is made from: a change of any gives another image."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    modules = ("containerd", "coredns", "etcd", "kind", "kubernetes", "local-path-provisioner")
    for path in sorted([*_DATA.iterdir(), *(path for name in modules for path in (_GO / name).iterdir())]):
        digest.update(f"{path.name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _archive() -> Path:
    """The image's root file system as a tar in the cache."""
    target = CACHE / "images" / f"node-{_key()}.tar"
    if target.exists():
        return target
    if os.geteuid() != 0:
        raise BedError("Making a node image where no registry answers needs root: run this again as root.")
    with _folder(target.parent) as work:
        root, small = work / "root", work / "small"
        debian.bootstrap("node", SUITE, PACKAGES, root, seconds=80)
        debian.bootstrap("node-small", SUITE, SMALL_PACKAGES, small, seconds=10, variant="extract")
        tools.ensure(*BUILT)
        for tree in (root, small):
            shutil.rmtree(tree / "var/cache/apt")  # what apt wrote for itself: 75 MB each
        with progress.step("node", "node image: putting it together", 15):
            _install_base_files(root)
            _install_programs(root)
            _install_images(root / "kind" / "images", small)
            _enable_services(root)
            commands.run(["tar", "-C", root, "-cf", work / target.name, "."])
        (work / target.name).rename(target)
    for other in target.parent.glob("node-*.tar"):
        if other != target:
            other.unlink()
    return target


@contextmanager
def _folder(beside: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `beside`: what is made in it gets its place in one step."""
    beside.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".node-", dir=beside) as work:
        yield Path(work)


def _install_base_files(root: Path) -> None:
    """What kind's base image adds to Debian: its own files, and the changes that its Dockerfile makes."""
    downloaded = json.loads(
        commands.run(["go", "mod", "download", "-json", "sigs.k8s.io/kind"], cwd=_GO / "kind")
    )
    files = Path(downloaded["Dir"]) / "images" / "base" / "files"
    for source in files.rglob("*"):
        if source.is_file():
            target = root / source.relative_to(files)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(0o755 if target.parent.name == "bin" else 0o644)
    (root / "sbin" / "init").symlink_to("/usr/lib/systemd/systemd")
    (root / "etc" / "machine-id").write_text("")
    (root / "etc" / "kubernetes" / "manifests").mkdir(parents=True)
    with (root / "etc" / "systemd" / "journald.conf").open("a") as settings:
        settings.write("ReadKMsg=no\n")

    containerd = root / "etc" / "containerd" / "config.toml"
    text = containerd.read_text()
    text = _replaced(text, r'registry.k8s.io/pause:3.10"', f'{_names()["pause"]}"')
    # The kernel may not let us lower a process's out-of-memory score.
    text = _replaced(text, "restrict_oom_score_adj = false", "restrict_oom_score_adj = true")
    # The snapshotter for rootless engines is not in this image.
    start, end = text.index("[proxy_plugins]"), text.index("[plugins.")
    containerd.write_text(text[:start] + text[end:])


def _replaced(text: str, old: str, new: str) -> str:
    if text.count(old) != 1:
        raise BedError(
            f"kind's containerd settings hold {old!r} {text.count(old)} times, not once: kind has changed."
        )
    return text.replace(old, new)


def _install_programs(root: Path) -> None:
    for folder, names in PROGRAMS.items():
        for name in names:
            shutil.copy2(BIN / name, root / folder / name)
    (root / "kind" / "version").write_text(_version())

    spec = json.loads(commands.run([BIN / "ctr", "oci", "spec"]))
    spec.setdefault("hooks", {}).setdefault("createContainer", []).append(
        {"path": "/kind/bin/mount-product-files.sh"}
    )
    spec["process"].pop("rlimits", None)
    (root / "etc" / "containerd" / "cri-base.json").write_text(json.dumps(spec))

    (root / "opt" / "cni").mkdir(parents=True)
    (root / "opt" / "cni" / "bin").symlink_to("/usr/lib/cni")
    for folder, data in {
        "etc/cni/net.d": ["10-bridge.conflist"],
        "kind/manifests": ["default-cni.yaml", "default-storage.yaml"],
    }.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in data:
            shutil.copy(_DATA / name, root / folder)


def _enable_services(root: Path) -> None:
    units = root / "etc" / "systemd" / "system"
    shutil.copy(_DATA / "load-images.service", units)
    shutil.copy(_DATA / "kubelet-after-images.conf", units / "kubelet.service.d" / "20-images.conf")
    # What Debian starts on a machine and a node must not: the same wants that kind's Dockerfile removes.
    for pattern in (
        "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
        "lib/systemd/system/multi-user.target.wants/*",
        "etc/systemd/system/*.wants/*",
        "lib/systemd/system/local-fs.target.wants/*",
        "lib/systemd/system/sockets.target.wants/*udev*",
        "lib/systemd/system/sockets.target.wants/*initctl*",
        "lib/systemd/system/basic.target.wants/*",
    ):
        for want in root.glob(pattern):
            want.unlink()
    commands.run(["chroot", root, "systemctl", "mask", "systemd-binfmt"])
    commands.run(
        ["chroot", root, "systemctl", "enable", "containerd", "kubelet", "load-images", "undo-mount-hacks"]
    )


def _version() -> str:
    return commands.run([BIN / "kubeadm", "version", "--output", "short"]).strip()


def _names() -> dict[str, str]:
    """The images that kubeadm wants in a node: {"pause": "registry.k8s.io/pause:3.10.2", ...}."""
    listed = commands.run(
        [BIN / "kubeadm", "config", "images", "list", "--kubernetes-version", _version()]
    ).split()
    return {name.rpartition("/")[2].partition(":")[0]: name for name in listed}


def _install_images(folder: Path, small: Path) -> None:
    """Archives of the images that a node runs, each of one static program where it can be."""
    names = _names()
    folder.mkdir()

    def program(name: str, at: str) -> Fill:
        return lambda layer: layer.add((BIN / name).resolve(), at)

    def kube_proxy(layer: tarfile.TarFile) -> None:
        layer.add(small, ".")
        layer.add((BIN / "kube-proxy").resolve(), "usr/local/bin/kube-proxy")

    def helper(layer: tarfile.TarFile) -> None:
        layer.add(small / "bin" / "busybox", "bin/busybox")
        for applet in ("sh", "mkdir", "rm"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            layer.addfile(link)

    for name in CONTROL_PLANE:
        _write_image(folder, names[name], program(name, f"usr/local/bin/{name}"))
    _write_image(folder, names["etcd"], program("etcd", "usr/local/bin/etcd"))
    _write_image(folder, names["coredns"], program("coredns", "coredns"), "/coredns")
    _write_image(folder, names["kube-proxy"], kube_proxy)
    _write_image(
        folder, names["pause"], lambda layer: layer.add(small / "usr/bin/catatonit", "pause"), "/pause", "-P"
    )
    provisioner = program("local-path-provisioner", "local-path-provisioner")
    _write_image(folder, "localhost/local-path-provisioner:node", provisioner)
    _write_image(folder, "localhost/local-path-helper:node", helper, "/bin/sh")


def _write_image(folder: Path, name: str, fill: Fill, *entrypoint: str) -> None:
    """A docker-archive of one layer."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        fill(layer)
    config = {
        "architecture": system.require_debian(),
        "os": "linux",
        "config": {
            "Entrypoint": list(entrypoint),
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        },
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(content.getvalue()).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    files = {"config.json": json.dumps(config).encode(), "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(folder / f"{name.rpartition('/')[2].replace(':', '-')}.tar", "w") as archive:
        for path, data in (files | {"layer.tar": content.getvalue()}).items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
