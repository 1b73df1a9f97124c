"""Tools as their projects release them: downloaded where their hosts answer, taken by their digest alone."""

from __future__ import annotations

import hashlib
import http.client
import os
import platform
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from stack_backup_lab.bed import BedError, progress, system

ARCHITECTURE = system.ARCHITECTURES.get(platform.machine(), "") if sys.platform == "linux" else ""
DECIDES = "STACK_BACKUP_RELEASES"
PATIENCE = 5.0
"""Seconds in which the host must answer."""
STALLED = 30.0
"""Seconds without a byte after which a download is given up."""


class UnreachableError(BedError):
    """The host did not give the file. What it gave, and is not what was wanted, is another error."""


@dataclass(frozen=True)
class Release:
    """One version of a tool. `files` has the file's name and its sha256 by architecture.

    An architecture that is not there has no digest that could be vouched for. `member` is the program's path
    in the file where that is a tar (`{arch}` stands for the architecture).
    """

    version: str
    folder: str
    files: Mapping[str, tuple[str, str]]
    member: str = ""

    @property
    def here(self) -> tuple[str, str] | None:
        """The file's address and digest for this machine, if there is one."""
        if (found := self.files.get(ARCHITECTURE)) is None:
            return None
        name, digest = found
        return f"{self.folder}/{name}", digest


def _github(project: str, version: str, files: Mapping[str, tuple[str, str]], member: str = "") -> Release:
    return Release(version, f"https://github.com/{project}/releases/download/v{version}", files, member)


RELEASES = {
    "helm3": Release(
        "3.22.0",
        "https://get.helm.sh",
        {
            "amd64": (
                "helm-v3.22.0-linux-amd64.tar.gz",
                "1e4ab49e429626cf6c6958d914248b78c9730803c2751b87627e171dc800e7bb",
            ),
            "arm64": (
                "helm-v3.22.0-linux-arm64.tar.gz",
                "f14e804dfee240f55525b667488fe9adca349e63e00c9af634c0beb1421ac310",
            ),
        },
        "linux-{arch}/helm",
    ),
    "kind": _github(
        "kubernetes-sigs/kind",
        "0.33.0",
        {
            "amd64": ("kind-linux-amd64", "aee6151561422756b764a4ae28e7f44cda5af5a9eead3cc9985112b1de8d8e0d"),
            "arm64": ("kind-linux-arm64", "20022bee6cfcd5086cb7234d218e3454e6090022f2a8f55d1fa7fcf42c3867a2"),
        },
    ),
    "kubectl": Release(
        "1.36.3",
        "https://dl.k8s.io/release/v1.36.3/bin/linux",
        {"amd64": ("amd64/kubectl", "ebbd080e7c2e275093b55915722043257eb24004363e20acb3c4d71919f88336")},
    ),
    "ct": _github(
        "helm/chart-testing",
        "3.14.0",
        {
            "amd64": (
                "chart-testing_3.14.0_linux_amd64.tar.gz",
                "d16f0583616885423826241164ce1f6589c6fe5332fa74f374ebd2bd3cb3fe1f",
            )
        },
        "ct",
    ),
    "kubeconform": _github(
        "yannh/kubeconform",
        "0.8.0",
        {
            "amd64": (
                "kubeconform-linux-amd64.tar.gz",
                "9bc2bffbf71f261128533edaf912153948b7ff238f9a531ae6d34466ec287883",
            ),
            "arm64": (
                "kubeconform-linux-arm64.tar.gz",
                "1f53fc8e81258197a35e8603054162a5af1de8c5af13746c71ab680d9534ed87",
            ),
        },
        "kubeconform",
    ),
    "helm-docs": _github(
        "norwoodj/helm-docs",
        "1.14.2",
        {
            "amd64": (
                "helm-docs_1.14.2_Linux_x86_64.tar.gz",
                "a8cf72ada34fad93285ba2a452b38bdc5bd52cc9a571236244ec31022928d6cc",
            ),
            "arm64": (
                "helm-docs_1.14.2_Linux_arm64.tar.gz",
                "c3787212332386dcd122debef7848feb165aa701467ae3e3442df7638f3ac4e4",
            ),
        },
        "helm-docs",
    ),
    "actionlint": _github(
        "rhysd/actionlint",
        "1.7.12",
        {
            "amd64": (
                "actionlint_1.7.12_linux_amd64.tar.gz",
                "8aca8db96f1b94770f1b0d72b6dddcb1ebb8123cb3712530b08cc387b349a3d8",
            )
        },
        "actionlint",
    ),
    "shfmt": _github(
        "mvdan/sh",
        "3.12.0",
        {
            "amd64": (
                "shfmt_v3.12.0_linux_amd64",
                "d9fbb2a9c33d13f47e7618cf362a914d029d02a6df124064fff04fd688a745ea",
            ),
            "arm64": (
                "shfmt_v3.12.0_linux_arm64",
                "5f3fe3fa6a9f766e6a182ba79a94bef8afedafc57db0b1ad32b0f67fae971ba4",
            ),
        },
    ),
}
"""By tool. Helm 4 and kube-score are built: nobody could be found who names the digests of these versions."""


def decided() -> bool | None:
    """What the user says about downloading, if anything."""
    said = os.environ.get(DECIDES, "")
    if said not in ("", "always", "never"):
        raise BedError(f"{DECIDES} is {said!r}, and can only be always or never; nothing was done.")
    return {"always": True, "never": False}.get(said)


def available(name: str, version: str) -> Release | None:
    """The release of a tool at just this version, where it can be had on this machine."""
    release = RELEASES.get(name)
    if release is None or release.version != version or release.here is None:
        return None
    return release if answers() else None


@cache
def answers() -> bool:
    """Whether released files can be had here: asked once, of one host."""
    if (said := decided()) is not None:
        return said
    place = next(release.here for release in RELEASES.values() if release.here)
    try:
        _open(place[0], PATIENCE, method="HEAD").close()
    except UnreachableError:
        progress.say("The hosts of released tools do not answer: the tools are built instead.")
        return False
    return True


def install(name: str, release: Release, binary: Path) -> None:
    """Download the tool to `binary`. Raises UnreachableError, or BedError where it is not what was pinned."""
    assert release.here is not None
    url, expected = release.here
    download = binary.with_name(f"{name}.download")
    with progress.step(f"download {name}", f"Downloading {name} {release.version}", 5):
        with _open(url, STALLED) as response, download.open("wb") as file:
            try:
                shutil.copyfileobj(response, file)
            except OSError as error:
                raise UnreachableError(f"{url} broke off: {error}") from error
        with download.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise BedError(
                f"{url} is not what is pinned for {name} {release.version}: its sha256 is {found}, not "
                f"{expected}. It was not put to use. {DECIDES}=never builds the tool instead."
            )
        if release.member:
            with tarfile.open(download) as archive:
                member = archive.extractfile(release.member.format(arch=ARCHITECTURE))
                assert member is not None
                with member, binary.open("wb") as file:
                    shutil.copyfileobj(member, file)
            download.unlink()
        else:
            download.rename(binary)
    binary.chmod(0o755)


def _open(url: str, timeout: float, method: str = "GET") -> http.client.HTTPResponse:
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, method=method), timeout=timeout
        )
        return response
    except OSError as error:  # among them those of HTTP
        raise UnreachableError(f"{url} could not be had: {error}") from error
