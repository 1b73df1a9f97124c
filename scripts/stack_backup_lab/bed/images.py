"""The workload images: pulled where a registry answers, else made from Debian packages.

A stand-in has the tools of the public image and no more: a program that needs another one fails here too.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from stack_backup_lab.bed import BedError, debian, interpreter, podman, progress, regression, system, tools
from stack_backup_lab.bed.commands import CommandError, lock, run
from stack_backup_lab.bed.tools import into_place
from stack_backup_lab.paths import BIN, CACHE, LOGS

REGISTRY_PATIENCE = 15.0
"""Seconds in which a registry must answer."""

SCRIPTS = Path(__file__).parent / "image_scripts"


@dataclass(frozen=True)
class Image:
    """One image: how it is pulled, and of what its stand-in is made."""

    name: str
    suite: str
    packages: tuple[str, ...]
    seconds: float
    """Time that the stand-in takes, downloads included, for the first estimate."""
    hooks: tuple[str, ...]
    """Options of mmdebstrap, run before and after the packages are installed."""
    environment: Mapping[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    public: str
    """The image that is pulled."""
    added: tuple[str, ...] = ()
    """Packages that the public image lacks and that are installed on top of it."""
    binaries: Mapping[str, str] = field(default_factory=dict)
    """Tools of this project by their path in the image."""
    variant: str = "minbase"
    """mmdebstrap's: how much of a Debian is there beside the packages."""
    python: bool = False
    """Whether Python is built into it, from source."""
    regression: int = 0
    """The server's major version, where PostgreSQL's own regression tests are in it, too."""
    repair: str = ""
    """A shell command for what is wrong in those packages; `$1` is the root of the file system."""

    @property
    def slug(self) -> str:
        """The name as a part of a file's name."""
        return self.name.replace("/", "-").replace(":", "-")

    @property
    def options(self) -> tuple[str, ...]:
        """All of mmdebstrap's options that are this image's own."""
        return (*self.hooks, f"--customize-hook={self.repair}") if self.repair else self.hooks

    @property
    def reference(self) -> str:
        """The image's full name in an engine and in a pod."""
        return f"localhost/{self.name}" if self.added or self.regression else self.public


# Since 15.20 PostgreSQL refuses a second operator with the commutator and negator that `=` has; Debian's
# RDKit declares one.
_RDKIT_REPAIR = (
    'sed -i "/^CREATE OPERATOR @= (/,/^);/{/COMMUTATOR/d;/NEGATOR/d}" '
    '"$1"/usr/share/postgresql/15/extension/rdkit--*.sql'
)


# A pod makes its own cluster; one made here would only be in the way.
_NO_CLUSTER = (
    '--essential-hook=mkdir -p "$1/etc/postgresql-common"',
    '--essential-hook=echo create_main_cluster=false >"$1/etc/postgresql-common/createcluster.conf"',
)


def _postgres(
    major: int, suite: str, name: str, added: Sequence[str] = (), repair: str = "", *, tested: bool = False
) -> Image:
    binaries = f"/usr/lib/postgresql/{major}/bin"
    sample = f"/usr/share/postgresql/{major}/postgresql.conf.sample"
    return Image(
        name=name,
        suite=suite,
        packages=(
            f"postgresql-{major}",
            *("gnupg", "less", "libnss-wrapper", "locales", "openssl", "xz-utils", "zstd"),
            *added,
        ),
        seconds=60,
        hooks=(
            # The public image's numbers: pods name them, and files on volumes carry them.
            '--essential-hook=echo "postgres:x:999:" >>"$1/etc/group"',
            '--essential-hook=echo "postgres:x:999:999::/var/lib/postgresql:/bin/bash" >>"$1/etc/passwd"',
            *_NO_CLUSTER,
            '--customize-hook=chroot "$1" localedef -i en_US -c -f UTF-8 en_US.UTF-8',
            f'--customize-hook=sed -i "s/^#listen_addresses = .*/listen_addresses = \'*\'/" "$1{sample}"',
            '--customize-hook=install -d -o 999 -g 999 -m 1777 "$1/var/lib/postgresql/data"',
            '--customize-hook=install -d -o 999 -g 999 -m 3777 "$1/var/run/postgresql"',
            f'--customize-hook=install -m 0755 "{SCRIPTS / "postgres-entrypoint.sh"}" '
            '"$1/usr/local/bin/docker-entrypoint.sh"',
        ),
        environment={
            "PATH": f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{binaries}",
            "LANG": "en_US.utf8",
            "PG_MAJOR": str(major),
            "PGDATA": "/var/lib/postgresql/data",
        },
        entrypoint=("docker-entrypoint.sh",),
        command=("postgres",),
        public=f"docker.io/library/postgres:{major}",
        added=tuple(added),
        repair=repair,
        regression=major if tested else 0,
    )


# Only a shell's few commands and one static binary, as in the public image, which is an Alpine.
RCLONE = "rclone/rclone:1.76.0"
_RCLONE = Image(
    name=RCLONE,
    suite="bookworm",
    packages=("busybox-static",),
    seconds=5,
    hooks=(
        '--extract-hook=for applet in sh cp mv rm mkdir ls cat; do ln -s busybox "$1/bin/$applet"; done',
        # What `extract` leaves out and a pod needs to stand on.
        '--extract-hook=mkdir -p "$1/etc" "$1/proc" "$1/dev" "$1/tmp" "$1/usr/local/bin"',
        '--extract-hook=echo "root:x:0:0:root:/root:/bin/sh" >"$1/etc/passwd"',
    ),
    environment={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    entrypoint=("rclone",),
    command=(),
    public=f"docker.io/{RCLONE}",
    binaries={"usr/local/bin/rclone": "rclone"},
    variant="extract",
)

# Built for bookworm: what is copied out of it runs with glibc 2.35 and newer.
PYTHON = "python:3.13-slim-bookworm"
_PYTHON = Image(
    name=PYTHON,
    suite="bookworm",
    packages=("ca-certificates", "netbase", "tzdata", *interpreter.LIBRARIES),
    seconds=40,
    hooks=(),
    environment={"PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
    entrypoint=(),
    command=("python3",),
    public=f"docker.io/library/{PYTHON}",
    python=True,
)

# Database images that are not made from the official one. Those of RDKit have Python, but neither zstd nor
# libnss-wrapper, let PYTHONPATH point to what is theirs, and give the server another uid.
_RDKIT_PACKAGES = ("postgresql-15", "postgresql-15-rdkit", "python3")
_RDKIT = Image(
    name="rdkit-database:15",
    suite="bookworm",
    packages=_RDKIT_PACKAGES,
    seconds=60,
    hooks=_NO_CLUSTER,
    environment={
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin",
        "PYTHONPATH": "/rdkit",
    },
    entrypoint=("docker-entrypoint.sh",),
    command=("postgres",),
    public="docker.io/library/debian:bookworm-slim",
    added=_RDKIT_PACKAGES,
    repair=_RDKIT_REPAIR,
)
# A C library too old for the interpreter of PYTHON.
_OLD = Image(
    name="old-database:13",
    suite="bullseye",
    packages=("postgresql-client-13",),
    seconds=40,
    hooks=(),
    environment={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    entrypoint=("docker-entrypoint.sh",),
    command=("postgres",),
    public="docker.io/library/postgres:13-bullseye",
)

_IMAGES = (
    _postgres(15, "bookworm", "postgres:15"),
    _postgres(17, "trixie", "postgres:17"),
    # Stands for the stack's own database image: the same server with the extension that its dumps need.
    _postgres(15, "bookworm", "stack-database:15", ["postgresql-15-rdkit"], _RDKIT_REPAIR),
    # An extension with tables of its own, whose rows are dumped in part.
    _postgres(15, "bookworm", "postgis-database:15", ["postgresql-15-postgis-3"]),
    # The server that its own makers test: with the functions that the database of their tests calls.
    _postgres(15, "bookworm", "postgres-regress:15", tested=True),
    _RCLONE,
    _PYTHON,
    _RDKIT,
    _OLD,
)
IMAGES = {image.name: image for image in _IMAGES}


def rootfs(name: str) -> Path:
    """The image's unpacked root file system, to be used read-only; made or pulled where it is not there."""
    image = _image(name)
    if (found := _existing(image)) is not None:
        return found
    pull = registry_answers()
    target = _place(image, pulled=pull)
    with lock(f"image-{target.name}"):
        if not target.exists():
            into_place(target, lambda partial: _fill(image, partial, pull=pull))
    return target


def archive(name: str) -> Path:
    """The image as a docker-archive tar, as `podman load` and `kind load image-archive` take it."""
    image = _image(name)
    tree = rootfs(name)
    target = CACHE / "images" / f"{tree.name}.tar"
    with lock(f"archive-{target.name}"):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_suffix(".partial")
            with progress.step(f"archive {name}", f"{name}: packing the image", 15):
                _pack(image, tree, partial)
            partial.rename(target)
    return target


@cache
def registry_answers() -> bool:
    """Whether images can be pulled here: asked once, and decided within REGISTRY_PATIENCE seconds.

    STACK_BACKUP_REGISTRY=always or =never decides without asking.
    """
    if (decided := _decided()) is not None:
        return decided
    question = [podman.engine(), "manifest", "inspect", _IMAGES[0].public]
    try:
        run(question, env=podman.environment(), timeout=REGISTRY_PATIENCE)
    except CommandError:
        progress.say("No container registry answers: images are made from Debian packages instead.")
        return False
    return True


def _image(name: str) -> Image:
    try:
        return IMAGES[name]
    except KeyError:
        known = ", ".join(IMAGES)
        raise BedError(
            f"There is no image named {name}; nothing was made. The images are: {known}."
        ) from None


def _decided() -> bool | None:
    """What the user says about pulling, if anything."""
    said = os.environ.get("STACK_BACKUP_REGISTRY", "")
    if said not in ("", "always", "never"):
        raise BedError(
            f"STACK_BACKUP_REGISTRY is {said!r}, and can only be always or never; nothing was done."
        )
    return {"always": True, "never": False}.get(said)


def _place(image: Image, *, pulled: bool) -> Path:
    """Where the root file system lies: another description of it is another place."""
    if pulled:
        made_of: list[object] = [image.public, image.added, image.repair]
    else:
        made_of = [image.suite, image.packages, image.options, debian.OPTIONS]
        if image.python:
            made_of += interpreter.MADE_OF
        if image.binaries:
            made_of += [image.variant, [tools.TOOLS[name].version for name in image.binaries.values()]]
    if image.regression:
        made_of += [image.suite, image.regression, *regression.MADE_OF]
    told = json.dumps(made_of)
    digest = hashlib.sha256(told.replace(str(SCRIPTS), "").encode())
    for script in sorted(SCRIPTS.iterdir()):
        if str(script) in told:
            digest.update(script.read_bytes())
    source = "pulled" if pulled else "made"
    return CACHE / "rootfs" / f"{image.slug}-{source}-{digest.hexdigest()[:12]}"


def _existing(image: Image) -> Path | None:
    """What an earlier run has pulled, else made: then no registry need be asked."""
    for pulled in (True, False):
        place = _place(image, pulled=pulled)
        if _decided() in (None, pulled) and place.exists():
            return place
    return None


def _fill(image: Image, folder: Path, *, pull: bool) -> None:
    (_pull if pull else _make)(image, folder)
    if image.regression:
        regression.install(image.regression, image.suite, folder)


def _make(image: Image, folder: Path) -> None:
    debian.bootstrap(
        image.slug,
        image.suite,
        image.packages,
        folder,
        seconds=image.seconds,
        variant=image.variant,
        hooks=image.options,
    )
    if image.python:
        interpreter.install(image.suite, folder)
    tools.ensure(*image.binaries.values())
    for path, tool in image.binaries.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(BIN / tool, folder / path)


def _pull(image: Image, folder: Path) -> None:
    exported = folder.with_name(f"{folder.name}.tar")
    with progress.step(f"pull {image.name}", f"{image.name}: pulling {image.public}", 60):
        container = podman.run("create", _pulled(image), "true").strip()
        try:
            podman.run("export", "--output", exported, container)
        finally:
            podman.run("rm", "--volumes", container)
        tar = [*system.as_root(f"unpack {image.name}"), "tar", "--numeric-owner", "--preserve-permissions"]
        run([*tar, "--extract", "--file", exported, "--directory", folder])
        exported.unlink()


def _pulled(image: Image) -> str:
    """The engine's name for the image, pulled, with the added packages on top."""
    podman.run("pull", "--quiet", image.public)
    if not image.added:
        return image.public
    containerfile = (
        f"FROM {image.public}\n"
        "RUN apt-get update"
        f" && apt-get install --yes --no-install-recommends {' '.join(image.added)}"
        f" && rm -rf /var/lib/apt/lists/* && set -- '' && {image.repair or 'true'}\n"
    )
    run(
        [podman.engine(), "build", "--tag", image.reference, "--network", "host", "-"],
        input=containerfile,
        env=podman.environment(),
        log=LOGS / f"build-{image.slug}.log",
    )
    return image.reference


def _pack(image: Image, tree: Path, target: Path) -> None:
    """Write a docker-archive of one layer: `tree`, with the image's own configuration."""
    layer = target.with_suffix(".layer")
    # The engine brings its own /dev. Sorted: the same tree gives the same layer.
    tar = [
        *system.as_root(f"pack {image.name}"),
        "tar",
        "--sort=name",
        "--numeric-owner",
        "--exclude=./dev/*",
    ]
    run([*tar, "--create", "--file", layer, "--directory", tree, "."])
    with layer.open("rb") as packed:
        digest = hashlib.file_digest(packed, "sha256").hexdigest()
    config = {
        "architecture": system.require_debian(),
        "os": "linux",
        "config": {
            "Env": [f"{key}={value}" for key, value in image.environment.items()],
            "Entrypoint": list(image.entrypoint),
            "Cmd": list(image.command),
            "StopSignal": "SIGINT",  # PostgreSQL's fast shutdown: TERM waits for every client to go
            "Volumes": {image.environment["PGDATA"]: {}} if "PGDATA" in image.environment else {},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [image.reference], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as archive:
        for name, content in (("manifest.json", manifest), ("config.json", config)):
            data = json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        archive.add(layer, "layer.tar")
    layer.unlink()
