"""Media for tests and the demo: a tree with all that a copier may stumble over, and its comparison.

Some names are no UTF-8; here they are text with surrogates, as Python reads them. On a folder of this machine
use `fill` and `snapshot`; where the files lie in a pod, `pack` gives a tar stream for `tar -xpf -`, and
`snapshot_of` reads one of `tar -cf - .`.
"""

from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from stack_backup_jobs.formats import OWN

EPOCH = 1_700_000_000
"""Every file was last changed a while ago, each at a time of its own."""

NAMES = (
    "é-composed".encode(),
    "é-decomposed".encode(),
    b"twin-\xc3\xa9",  # one name in two Unicode forms
    b"twin-e\xcc\x81",
    b"new\nline",
    b"tab\tstop",
    b"-leading-dash",
    b"--delete",
    b"n" * 255,
    b"no-utf-8-\xff\xfe\x80",
    b"no-utf-8-twin-\xff",
    b"no-utf-8-twin-\xfe",
    b" spaces around ",
    b"back\\slash",
    b"co:lon",
    b"remote:path",
    b"st*ar?",
    b"[bracket]{brace}",
    b"per%cent%2F",
    b"trailing-dot.",
    b"trailing-space ",
    b"...",
    b"~tilde",
    b"quote'\"`$HOME`",
    "full-width\uff1a\uff0f".encode(),
    "ünïcödé-名前".encode(),
    b"half.partial",
    b"CASE",
    b"case",
    b"control-\x01\x7f",
    b"#hash;semicolon&",
    b".hidden",
)

LINKS = {
    b"relative": b"../targets/readme.txt",
    b"to-a-folder": b"../targets",
    b"dangling": b"nowhere/at/all",
    b"out-of-the-tree": b"/etc/passwd",
    b"out-to-a-folder": b"/etc",
    b"out-by-dots": b"../../../../../../etc/hostname",
    b"link-\xff": b"no-utf-8-\xfe",
    b"link\nline": b"a\nb",
}

MODES = (0o600, 0o640, 0o644, 0o664, 0o755, 0o444, 0o400)


@dataclass(frozen=True)
class Entry:
    """What lies under one name. `kind` is file, folder, link or other, `content` the sha256 of a file or the
    target of a link, `changed` the time of a file's last change in whole seconds.
    """

    kind: str
    content: str = ""
    size: int = 0
    changed: int = 0


Snapshot = Mapping[str, Entry]
"""What a tree holds, by path below its root."""


def fill(folder: Path, *, files: int = 300, large: int = 0, owner: int | None = 999, seed: int = 1) -> None:
    """Make a tree below the existing `folder`: `files` small files in folders of 200, and one of each oddity.

    `large` is the size of one sparse file, `owner` the user and group of all (None leaves them).
    """
    source = random.Random(seed)
    for number in range(files):
        path = folder / "targets" / f"set-{number // 200:03}" / f"fragment-{number:05}.mol"
        write(path, source.randbytes(source.randrange(1, 4000)))
    write(folder / "targets" / "readme.txt", b"What the links point to.\n")
    for raw in NAMES:
        name = os.fsdecode(raw)
        write(folder / "names" / name, b"content of " + raw)
        write(folder / "folders" / name / "inside", raw)
    for name in ("empty/deep/deeper", "links/empty", ".hidden-folder"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for raw, target in LINKS.items():
        link = folder / "links" / os.fsdecode(raw)
        link.unlink(missing_ok=True)
        link.symlink_to(os.fsdecode(target))
    for mode in MODES:
        write(folder / "modes" / f"{mode:04o}", f"{mode:o}".encode())
        (folder / "modes" / f"{mode:04o}").chmod(mode)
    write(folder / "sizes" / "nothing", b"")
    write(folder / "sizes" / "one", b"1")
    write(folder / ".dot" / ".file", b"hidden")
    write_sparse(folder / "sizes" / "sparse", 5 << 20)
    if large:
        write_sparse(folder / "sizes" / "large", large)
    if owner is not None:
        give(folder, owner)


def write(path: Path, data: bytes) -> None:
    """Write a new file, with a time of change that depends on its name; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    _age(path)


def write_sparse(path: Path, size: int) -> None:
    """A file of holes with a few bytes at the start and in the middle."""
    write(path, b"begin")
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"amid")
        file.truncate(size)
    _age(path)


def give(folder: Path, owner: int) -> None:
    """Let everything, the folder included, belong to a user and the group of the same number."""
    os.chown(folder, owner, owner)
    for entry in _walk(folder):
        os.chown(entry.path, owner, owner, follow_symlinks=False)


def snapshot(folder: Path) -> Snapshot:
    """What lies below `folder`, read to the last byte; our own folder at the root is left out."""
    return {str(Path(entry.path).relative_to(folder)): _entry(entry) for entry in _walk(folder)}


def differences(here: Snapshot, there: Snapshot) -> list[str]:
    """How two trees differ, one sentence for each path, sorted by it."""
    return [
        f"{path!r}: {_said(here.get(path))} here, {_said(there.get(path))} there"
        for path in sorted(here.keys() | there.keys())
        if here.get(path) != there.get(path)
    ]


def pack(folder: Path) -> bytes:
    """The tree as a tar stream, for `tar -xpf -`. In memory: leave `large` out."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT, **_NAMES_IN_TAR) as archive:
        archive.add(folder, ".")
    return stream.getvalue()


def snapshot_of(archive: IO[bytes]) -> Snapshot:
    """As `snapshot`, of a tar stream of `tar -C FOLDER -cf - .`."""
    entries: dict[str, Entry] = {}
    with tarfile.open(fileobj=archive, mode="r|", **_NAMES_IN_TAR) as members:
        for member in members:
            path = str(Path(member.name))
            if path == "." or path.split("/")[0] == OWN:
                continue
            if member.islnk():
                entries[path] = entries[str(Path(member.linkname))]
            elif member.isreg():
                data = members.extractfile(member)
                assert data is not None
                entries[path] = Entry("file", _digest(data), member.size, int(member.mtime))
            elif member.issym():
                entries[path] = Entry("link", member.linkname)
            else:
                entries[path] = Entry("folder" if member.isdir() else "other")
    return entries


_NAMES_IN_TAR: Any = {"encoding": "utf-8", "errors": "surrogateescape"}


def _age(path: Path) -> None:
    """A time of change with a fraction, which a copier must not round."""
    digest = hashlib.sha256(os.fsencode(path.name)).digest()
    then = (EPOCH + int.from_bytes(digest[:4], "big") % 50_000_000) * 1_000_000_000 + 987_654_321
    os.utime(path, ns=(then, then))


def _walk(root: Path) -> Iterator[os.DirEntry[str]]:
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if folder == str(root) and entry.name == OWN:
                    continue
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)


def _entry(entry: os.DirEntry[str]) -> Entry:
    if entry.is_symlink():
        return Entry("link", str(Path(entry.path).readlink()))
    if entry.is_dir(follow_symlinks=False):
        return Entry("folder")
    if not entry.is_file(follow_symlinks=False):
        return Entry("other")
    status = entry.stat(follow_symlinks=False)
    with Path(entry.path).open("rb") as file:
        return Entry("file", _digest(file), status.st_size, status.st_mtime_ns // 1_000_000_000)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := file.read(1 << 20):
        digest.update(data)
    return digest.hexdigest()


def _said(entry: Entry | None) -> str:
    if entry is None:
        return "absent"
    if entry.kind == "file":
        return f"a file of {entry.size} bytes, sha256 {entry.content[:12]}, changed at {entry.changed}"
    return f"a {entry.kind}" + (f" to {entry.content!r}" if entry.kind == "link" else "")
