"""The command line tools and cluster binaries, at the version that their go.mod pins.

`ensure("helm", "kind")` puts them into BIN. A tool that is already installed on this machine at just the
pinned version is used as it is; any other is downloaded (`releases`) or built from Go modules, once, into
CACHE, and linked from every clone. Whatever ends up in BIN has itself said that it is the pinned version.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stack_backup_lab.bed import BedError, progress, releases, system
from stack_backup_lab.bed.commands import CommandError, lock, run
from stack_backup_lab.paths import BIN, CACHE, LOGS

MODULES = Path(__file__).parent / "go"
OLDEST_GO = (1, 26)
OLDEST_HELM, NO_HELM_YET = (3, 16), (5, 0)
"""The versions that the chart supports: from one, below the other."""


@dataclass(frozen=True)
class Tool:
    """One binary. `{v}` in `variables` and `says` stands for the version in go.mod without its leading v."""

    name: str
    module: str
    """The folder under go/ whose go.mod and go.sum pin everything that is built in."""
    package: str
    pinned: str
    """The Go module whose version in that go.mod is the tool's version."""
    asks: tuple[str, ...]
    """Arguments that make the binary print its version."""
    says: str
    """What is then among the words that it prints."""
    seconds: float
    """Build time on two cores with an empty Go cache, for the first estimate."""
    variables: tuple[str, ...] = ()
    """Link-time variables: what Go alone does not know about the version of a dependency."""

    @property
    def folder(self) -> Path:
        return MODULES / self.module

    @property
    def version(self) -> str:
        """The pinned version without its leading v."""
        return self.version_of(self.pinned)

    def version_of(self, module: str) -> str:
        """The version, without its leading v, at which this tool's go.mod pins a Go module."""
        go_mod = self.folder / "go.mod"
        found = re.search(rf"^\s*(?:require )?{re.escape(module)} v(\S+)", go_mod.read_text(), re.MULTILINE)
        if not found:
            raise BedError(f"{go_mod} pins no version of {module}; nothing was built.")
        return found[1]

    @property
    def linker_flags(self) -> str:
        filled = [variable.format(v=self.version) for variable in self.variables]
        if self.module == "helm3":
            # Else Helm 3 takes every cluster that it does not ask for v1.20, too old for any chart of today.
            minor = self.version_of("k8s.io/client-go").split(".")[1]
            for package in ("chartutil", "lint/rules"):
                place = f"helm.sh/helm/v3/pkg/{package}.k8sVersion"
                filled += [f"{place}Major=1", f"{place}Minor={minor}"]
        return " ".join(["-s", "-w", *(f"-X {variable}" for variable in filled)])


def _kubernetes(name: str, asks: tuple[str, ...], says: str, seconds: float) -> Tool:
    # kubeadm and the API server compare these with each other: without them every component is v0.0.0-master.
    base = "k8s.io/component-base/version."
    return Tool(
        name,
        "kubernetes",
        f"k8s.io/kubernetes/cmd/{name}",
        "k8s.io/kubernetes",
        asks,
        says,
        seconds,
        (f"{base}gitVersion=v{{v}}", f"{base}gitTreeState=clean"),
    )


def _containerd(name: str, asks: str, says: str, seconds: float) -> Tool:
    module = "github.com/containerd/containerd/v2"
    version = f"{module}/version.Version=v{{v}}"
    return Tool(name, "containerd", f"{module}/cmd/{name}", module, (asks,), says, seconds, (version,))


def _helm(name: str, module: str) -> Tool:
    # Built without flags, Helm says `v4.3`, which pyhelm3 refuses as no semantic version.
    version = f"{module}/internal/version.version=v{{v}}"
    asks = ("version", "--template", "{{.Version}}")
    return Tool(name, name, f"{module}/cmd/helm", module, asks, "v{v}", 105, (version,))


_TOOLS = [
    _helm("helm", "helm.sh/helm/v4"),
    _helm("helm3", "helm.sh/helm/v3"),
    Tool("kind", "kind", "sigs.k8s.io/kind", "sigs.k8s.io/kind", ("version",), "v{v}", 35),
    _kubernetes("kubectl", ("version", "--client"), "v{v}", 60),
    _kubernetes("kube-apiserver", ("--version",), "v{v}", 300),
    _kubernetes("kube-controller-manager", ("--version",), "v{v}", 60),
    _kubernetes("kube-scheduler", ("--version",), "v{v}", 30),
    _kubernetes("kube-proxy", ("--version",), "v{v}", 20),
    _kubernetes("kubeadm", ("version", "--output", "short"), "v{v}", 20),
    _kubernetes("kubelet", ("--version",), "v{v}", 60),
    _containerd("containerd", "--version", "v{v}", 90),
    _containerd("ctr", "--version", "v{v}", 20),
    _containerd("containerd-shim-runc-v2", "-v", "v{v}", 10),
    Tool(
        "etcd",
        "etcd",
        "go.etcd.io/etcd/server/v3",
        "go.etcd.io/etcd/server/v3",
        ("--version",),
        "{v}",
        60,
    ),
    Tool("coredns", "coredns", ".", "github.com/coredns/coredns", ("-version",), "CoreDNS-{v}", 90),
    Tool(
        "local-path-provisioner",
        "local-path-provisioner",
        "github.com/rancher/local-path-provisioner",
        "github.com/rancher/local-path-provisioner",
        ("--version",),
        "v{v}",
        40,
        ("main.VERSION=v{v}",),
    ),
    Tool(
        "rclone",
        "rclone",
        "github.com/rclone/rclone",
        "github.com/rclone/rclone",
        ("version",),
        "v{v}",
        120,
        ("github.com/rclone/rclone/fs.Version=v{v}",),
    ),
    Tool(
        "minio",
        "minio",
        "github.com/minio/minio",
        "github.com/minio/minio",
        ("--version",),
        "{v}",
        120,
        ("github.com/minio/minio/cmd.ReleaseTag={v}",),
    ),
    Tool(
        "kube-state-metrics",
        "kube-state-metrics",
        "k8s.io/kube-state-metrics/v2",
        "k8s.io/kube-state-metrics/v2",
        ("version",),
        "v{v}",
        90,
        ("github.com/prometheus/common/version.Version=v{v}",),
    ),
    Tool(
        "ct",
        "chart-testing",
        "github.com/helm/chart-testing/v3/ct",
        "github.com/helm/chart-testing/v3",
        ("version",),
        "v{v}",
        30,
        ("github.com/helm/chart-testing/v3/ct/cmd.Version=v{v}",),
    ),
    Tool(
        "kubeconform",
        "kubeconform",
        "github.com/yannh/kubeconform/cmd/kubeconform",
        "github.com/yannh/kubeconform",
        ("-v",),
        "v{v}",
        15,
        ("main.version=v{v}",),
    ),
    Tool(
        "helm-docs",
        "helm-docs",
        "github.com/norwoodj/helm-docs/cmd/helm-docs",
        "github.com/norwoodj/helm-docs",
        ("--version",),
        "{v}",
        10,
        ("main.version={v}",),
    ),
    Tool(
        "kube-score",
        "kube-score",
        "github.com/zegl/kube-score/cmd/kube-score",
        "github.com/zegl/kube-score",
        ("version",),
        "{v}",
        40,
        ("main.version={v}",),
    ),
    # It knows its version from its module.
    Tool(
        "actionlint",
        "actionlint",
        "github.com/rhysd/actionlint/cmd/actionlint",
        "github.com/rhysd/actionlint",
        ("-version",),
        "v{v}",
        10,
    ),
    Tool(
        "shfmt",
        "shfmt",
        "mvdan.cc/sh/v3/cmd/shfmt",
        "mvdan.cc/sh/v3",
        ("--version",),
        "v{v}",
        3,
        ("main.version=v{v}",),
    ),
]

TOOLS = {tool.name: tool for tool in _TOOLS}

PACKAGED = {"shellcheck": "shellcheck"}
"""Tools that are no Go programs, and the Debian packages that have them."""


def ensure(*names: str) -> None:
    """Make sure that BIN has each of these tools at its pinned version. Raises BedError with a sentence."""
    unknown = sorted(set(names) - TOOLS.keys() - PACKAGED.keys())
    if unknown:
        known = ", ".join(sorted([*TOOLS, *PACKAGED]))
        raise BedError(
            f"There is no tool named {', '.join(unknown)}; nothing was built. The tools are: {known}."
        )
    system.ensure_packages(*(PACKAGED[name] for name in names if name in PACKAGED))
    wanted = [TOOLS[name] for name in dict.fromkeys(names) if name in TOOLS]
    missing = [tool for tool in wanted if not _ready(tool)]
    new = [tool for tool in missing if not (_home(tool) / tool.name).exists()]
    to_build = [tool for tool in new if releases.available(tool.name, tool.version) is None]
    if len(to_build) > 1:
        total = sum(progress.estimate(f"build {tool.name}", tool.seconds) for tool in to_build)
        listed = ", ".join(tool.name for tool in to_build)
        progress.say(f"{len(to_build)} tools to build: {listed}: about {progress.human(total)} in all.")
    for tool in missing:
        _place(tool, _fetched(tool) or _built(tool))
        _ready.cache_clear()


def ensure_any_helm() -> None:
    """Make sure that BIN has a Helm that the chart supports: one of this machine, if it has any, else ours.

    For who only renders. `ensure("helm")` puts the pinned one into its place again.
    """
    helm = TOOLS["helm"]
    found = shutil.which(helm.name, path=_path_without_bin())
    if not _ready(helm) and found and _is_supported_helm(found):
        _place(helm, Path(found))
    else:
        ensure(helm.name)


def _is_supported_helm(binary: str) -> bool:
    try:
        printed = run([binary, *TOOLS["helm"].asks], timeout=60)
    except (CommandError, OSError):
        return False
    said = re.match(r"v(\d+)\.(\d+)", printed)
    return said is not None and OLDEST_HELM <= (int(said[1]), int(said[2])) < NO_HELM_YET


def check(tool: Tool, binary: Path) -> None:
    """Raise BedError unless `binary` says that it is the pinned version of `tool`."""
    try:
        printed = run([binary, *tool.asks], timeout=60)
    except (CommandError, OSError) as error:
        raise BedError(f"{binary} cannot tell its version, so it was not put to use: {error}") from error
    expected = tool.says.format(v=tool.version)
    # Some say another thing of what is built from a module than of what is released.
    if expected.removeprefix("v") not in [word.removeprefix("v") for word in re.split(r"[\s,]+", printed)]:
        raise BedError(
            f"{binary} is not {tool.name} {expected}, which {tool.folder / 'go.mod'} pins, so it was not put "
            f"to use; it says {printed.strip()!r}. Remove {binary.resolve().parent} and run this again."
        )


@cache
def _ready(tool: Tool) -> bool:
    """Whether BIN has the tool, linked from where it was put or installed, at the pinned version."""
    place = BIN / tool.name
    if place.exists() and place.resolve().parent in _homes(tool):
        check(tool, place)  # put there by us from these very pins: anything else is damage, and an error
        return True
    installed = shutil.which(tool.name, path=_path_without_bin())
    if installed and _is_pinned(tool, Path(installed)):
        _place(tool, Path(installed))
        return True
    return False


def _is_pinned(tool: Tool, binary: Path) -> bool:
    try:
        check(tool, binary)
    except BedError:
        return False
    return True


def _path_without_bin() -> str:
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(folder for folder in folders if folder and Path(folder).resolve() != BIN.resolve())


def _home(tool: Tool) -> Path:
    """The folder of one build: another pin, source file or flag means another folder."""
    digest = hashlib.sha256(f"{tool.package} {tool.linker_flags} {platform.machine()}".encode())
    for source in sorted(path for path in tool.folder.iterdir() if path.suffix in {".go", ".mod", ".sum"}):
        digest.update(source.read_bytes())
    return CACHE / "bin" / f"{tool.name}-{tool.version}-{digest.hexdigest()[:12]}"


def _release_home(tool: Tool, release: releases.Release) -> Path:
    """The folder of one download."""
    _, digest = release.files[releases.ARCHITECTURE]
    return CACHE / "bin" / f"{tool.name}-{tool.version}-released-{digest[:12]}"


def _homes(tool: Tool) -> list[Path]:
    """Where the tool may lie that is used here."""
    release = releases.RELEASES.get(tool.name)
    pinned = release is not None and release.version == tool.version and release.here is not None
    if release is None or not pinned or releases.decided() is False:
        return [_home(tool)]
    return [_home(tool), _release_home(tool, release)]


def _fetched(tool: Tool) -> Path | None:
    """The tool as it is released, in CACHE; None where it has to be built, or was."""
    built = _home(tool) / tool.name
    release = None if built.exists() else releases.available(tool.name, tool.version)
    if release is None:
        return None
    home = _release_home(tool, release)
    binary = home / tool.name
    with lock(f"tool-{tool.name}"):
        if not binary.exists():
            try:
                into_place(home, lambda partial: releases.install(tool.name, release, partial / tool.name))
            except releases.UnreachableError as error:
                if releases.decided():
                    raise
                progress.say(f"{error}. {tool.name} is built instead.")
                return None
        check(tool, binary)
    return binary


def _built(tool: Tool) -> Path:
    """The tool's binary in CACHE, built if it is not there."""
    home = _home(tool)
    binary = home / tool.name
    with lock(f"tool-{tool.name}"):
        if not binary.exists():
            into_place(home, lambda partial: _build(tool, partial))
        check(tool, binary)
    return binary


def _build(tool: Tool, folder: Path) -> None:
    require_go(f"{tool.name} {tool.version}")
    binary = folder / tool.name
    # Another toolchain would be fetched by Go itself, and vendor folders or VCS stamps are none of ours.
    command = ["go", "build", "-trimpath", "-mod=readonly", "-buildvcs=false"]
    command += ["-ldflags", tool.linker_flags, "-o", str(binary), tool.package]
    environment = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "", "GOWORK": "off"}
    with progress.step(f"build {tool.name}", f"Building {tool.name} {tool.version}", tool.seconds):
        run(command, cwd=tool.folder, env=environment, log=LOGS / f"build-{tool.name}.log")
    check(tool, binary)


def into_place(final: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write into a fresh folder beside `final`, which gets its name only when `fill` has returned.

    What an interrupted run left is removed first. The caller holds a lock.
    """
    partial = final.with_name(f"{final.name}.partial")
    system.remove(partial)
    partial.mkdir(parents=True)
    try:
        fill(partial)
        partial.rename(final)
    except BaseException:
        system.remove(partial)
        raise


def _place(tool: Tool, binary: Path) -> None:
    BIN.mkdir(parents=True, exist_ok=True)
    partial = BIN / f".{tool.name}.{os.getpid()}"
    partial.unlink(missing_ok=True)
    partial.symlink_to(binary)
    partial.replace(BIN / tool.name)


def require_go(what: str, done: str = "built") -> None:
    """Raises BedError where Go is missing or too old: `what` cannot be `done` then."""
    wanted = ".".join(map(str, OLDEST_GO))
    advice = f"Install Go {wanted} or newer (go.dev/dl) and run this again."
    if not shutil.which("go"):
        raise BedError(f"{what} cannot be {done} because Go is missing. {advice}")
    version = run(["go", "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}).strip()
    found = re.match(r"go(\d+)\.(\d+)", version)
    if not found or (int(found[1]), int(found[2])) < OLDEST_GO:
        raise BedError(f"{what} cannot be {done} because {version} is too old. {advice}")
