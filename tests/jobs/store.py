"""A real S3 server beside a stack, and what lies in it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stack_backup_lab.bed import images, system, tools
from stack_backup_lab.paths import BIN
from stack_backup_lab.runtime.local import OWNER
from stack_backup_lab.runtime.sandbox import Bind, Container, Namespaces, Process

KEY, SECRET = "AKIASTACKBACKUP", "a+secret/with=signs"
PORT = 9000
RCLONE = "/usr/local/bin/rclone"
ENVIRONMENT = {
    **{"PATH": "/usr/bin:/bin", "HOME": "/tmp", "MINIO_ROOT_USER": KEY, "MINIO_ROOT_PASSWORD": SECRET},
    **{"MINIO_BROWSER": "off", "MINIO_UPDATE": "off"},
}


@dataclass
class Store:
    """`rclone serve s3` on the loopback of a stack: a bucket is a folder of `folder`."""

    namespaces: Namespaces
    folder: Path
    output: Path
    port: int = PORT
    process: Process | None = None
    protocol: str = "s3"
    """Or `sftp`, of which the folder is the root, and which knows how much room there is; or `minio`, MinIO,
    which speaks S3 and has versions and object locks.
    """

    def start(self) -> None:
        """Start the server and wait until it listens."""
        command = [RCLONE, "serve", self.protocol, "--config=/dev/null", f"--addr=127.0.0.1:{self.port}"]
        binds = [Bind(self.folder, "/store")]
        if self.protocol == "minio":
            tools.ensure("minio")
            binary = self.namespaces.folder / "minio"  # where the server's user may read it
            shutil.copy(BIN / "minio", binary)
            binds.append(Bind(binary, "/usr/local/bin/minio"))
            command = [
                "/usr/local/bin/minio",
                "server",
                "--quiet",
                f"--address=127.0.0.1:{self.port}",
                "/store",
            ]
        elif self.protocol == "s3":
            command += [f"--auth-key={KEY},{SECRET}", "/store"]
        else:
            command += [f"--user={KEY}", f"--pass={SECRET}", "/store"]
        self.process = self._start(command, binds)
        end = time.monotonic() + 30
        while self.namespaces.run(self._asks(), check=False).returncode != 0:
            if not self.process.running or time.monotonic() > end:
                raise AssertionError(f"the store does not listen:\n{self.output.read_text()}")
            time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None

    def restart(self) -> None:
        """Let it see what was changed behind its back."""
        self.stop()
        self.start()

    def configuration(self, *, secret: str = SECRET, port: int | None = None, crypt: str = "") -> bytes:
        """rclone's configuration: the remote `s3`, and over the path `crypt` of it the remote `secret`."""
        text = (
            f"[s3]\ntype = s3\nprovider = {'Minio' if self.protocol == 'minio' else 'Rclone'}\n"
            f"endpoint = http://127.0.0.1:{port or self.port}\n"
            f"access_key_id = {KEY}\nsecret_access_key = {secret}\n"
        )
        if crypt:
            text += (
                f"[secret]\ntype = crypt\nremote = s3:{crypt}\npassword = {self._obscured('four words')}\n"
            )
        return text.encode()

    def sftp_configuration(self) -> bytes:
        """rclone's configuration of a store that speaks SFTP: the remote `sftp`."""
        text = f"[sftp]\ntype = sftp\nhost = 127.0.0.1\nport = {self.port}\nknown_hosts_file = none\n"
        return (text + f"user = {KEY}\npass = {self._obscured(SECRET)}\n").encode()

    def bucket(self, name: str) -> Path:
        """Make a bucket; its folder."""
        self.rclone(self.configuration(), ["mkdir", f"s3:{name}"])
        return self.folder / name

    def keys(self, *actions: str) -> bytes:
        """rclone's configuration with keys that may do no more than this (MinIO gives them for an hour)."""
        system.ensure_packages(*system.CURL)
        allowed = {"Effect": "Allow", "Action": actions, "Resource": ["arn:aws:s3:::*"]}
        asked = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "Policy": json.dumps({"Version": "2012-10-17", "Statement": [allowed]}),
        }
        form = [word for name, value in asked.items() for word in ("--data-urlencode", f"{name}={value}")]
        signed = ["curl", "--silent", "--show-error", "--fail", "--aws-sigv4", "aws:amz:us-east-1:sts"]
        place = f"http://127.0.0.1:{self.port}/"
        said = self.namespaces.run([*signed, "--user", f"{KEY}:{SECRET}", *form, place]).stdout
        key, secret, token = (
            re.findall(f"<{name}>(.*?)</{name}>", said)[0]
            for name in ("AccessKeyId", "SecretAccessKey", "SessionToken")
        )
        text = self.configuration(secret=secret).decode().replace(f"= {KEY}", f"= {key}")
        return f"{text}session_token = {token}\n".encode()

    def put(self, configuration: bytes, data: bytes, place: str) -> None:
        """An object, as somebody puts it there who has the configuration."""
        self.rclone(configuration, ["copyto", "--ignore-times", "/to/object", place], data)

    def rclone(self, configuration: bytes, arguments: Sequence[str], data: bytes = b"") -> Path:
        """Run an rclone of somebody who has the configuration; what it puts into its folder /to, where it
        finds `data` in the file `object`.
        """
        place = Path(tempfile.mkdtemp(prefix="fetched-", dir=self.namespaces.folder))
        (place / "to").mkdir()
        if data:
            (place / "to" / "object").write_bytes(data)
        (place / "rclone.conf").write_bytes(configuration)
        for path in (place, place / "to", place / "rclone.conf"):
            path.chmod(0o777)
        binds = [Bind(place / "to", "/to"), Bind(place / "rclone.conf", "/rclone.conf")]
        process = self._start([RCLONE, "--config=/rclone.conf", *arguments], binds)
        assert process.wait() == 0, self.output.read_text()
        return place / "to"

    def _obscured(self, password: str) -> str:
        rclone = images.rootfs("rclone/rclone:1.76.0") / RCLONE.lstrip("/")
        return subprocess.run(
            [rclone, "obscure", password], check=True, capture_output=True, text=True
        ).stdout.strip()

    def _asks(self) -> list[str]:
        return ["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self.port}"]

    def _start(self, command: Sequence[str], binds: Sequence[Bind]) -> Process:
        image = images.rootfs("rclone/rclone:1.76.0")
        with self.output.open("ab") as output:
            return self.namespaces.start(
                Container(
                    name="store",
                    rootfs=image,
                    command=command,
                    uid=OWNER,
                    gid=OWNER,
                    environment=ENVIRONMENT,
                    binds=binds,
                    read_only_root=False,
                ),
                output,
            )


@contextmanager
def serving(
    namespaces: Namespaces, port: int = PORT, protocol: str = "s3", folder: Path | None = None
) -> Iterator[Store]:
    """A store beside a stack, of a folder or empty; its files end with the stack."""
    data = namespaces.folder / f"store-{port}"
    if folder is None:
        data.mkdir()
        data.chmod(0o777)
    store = Store(namespaces, folder or data, data.with_suffix(".log"), port, protocol=protocol)
    store.start()
    try:
        yield store
    finally:
        store.stop()


def objects(folder: Path) -> Mapping[str, bytes]:
    """Every object below a bucket's folder, by its key."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".rclone_temp")
    }
