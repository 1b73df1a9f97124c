"""A file server that hangs: what runs on its volume cannot be interrupted, and yet a run ends, in time and
with a verdict that is true. On a true NFS mount, with the server stopped in the middle of a call.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stack_backup_jobs.formats import MANIFESTS, Manifest, verdict_of
from stack_backup_lab.bed import images
from stack_backup_lab.render import CHART, render
from stack_backup_lab.runtime.local import DATABASE, USER
from stack_backup_lab.runtime.nfs import Machine, Nfs
from stack_backup_lab.runtime.postgres import SUPERUSER, LocalServer
from tests.jobs.hourly import VALUES
from tests.render import contract

SECONDS = 10.0
"""In which a run that is told to stop must have ended."""

BEGIN = """
import os, time
from pathlib import Path
from stack_backup_jobs.job import Job, Outcome, say

REPLICA = Path("/replica")

def program(job: Job) -> Outcome:
    job.leaves("If it is there, it is whole.", lambda: f"There are {len(os.listdir(REPLICA))} names.")
    job.processes.start(["/bin/bash", "-c", "trap '' TERM; while :; do sleep 60; done"])
    job.figure(rows=3)
    say("The calls begin.")
    for number in range(1_000_000):
        call(job, number)
        say(f"Call {number} has ended.")
    return Outcome(0, "done", "All was done.")
"""
CALLS = {
    "link": """
def call(job, number):
    (REPLICA / f"{number}.temporary").write_text("text")
    with job.held():
        os.link(REPLICA / f"{number}.temporary", REPLICA / str(number))
""",
    "fsync": """
def call(job, number):
    with open(REPLICA / str(number), "wb") as file:
        file.write(os.urandom(1 << 20))
        file.flush()
        os.fsync(file.fileno())
""",
    "read": """
def call(job, number):
    with open(REPLICA / "big", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(number % 8 << 20)
        file.read(1 << 20)
""",
    "a listing": """
def call(job, number):
    os.listdir(REPLICA / f"folders/{number}")
""",
    "a thread's listing": """
import threading
def call(job, number):
    thread = threading.Thread(target=os.listdir, args=(REPLICA / f"folders/{number}",))
    thread.start()
    thread.join()
""",
    "another process's listing": """
from stack_backup_jobs.process import Forked
def call(job, number):
    listing = Forked(lambda: os.listdir(REPLICA / f"folders/{number}"))
    try:
        listing.result()
    finally:
        listing.kill()
""",
    "a command's write": """
def call(job, number):
    job.processes.run(["/bin/cp", "/bin/bash", str(REPLICA / str(number))])
""",
}


@pytest.fixture(scope="module")
def nfs() -> Iterator[Nfs]:
    with Nfs() as nfs:
        (nfs.path / "big").write_bytes(bytes(8 << 20))
        for number in range(4000):
            (nfs.path / f"folders/{number}").mkdir(parents=True)
        yield nfs


@contextmanager
def machine(nfs: Nfs, programs: Path, call: str, **environment: str) -> Iterator[Machine]:
    """Runs the frame as it is, with a program that makes these calls on the mount one after the other."""
    shutil.copytree(CHART / "files", programs, ignore=shutil.ignore_patterns("__pycache__"))
    (programs / "stack_backup_jobs/hourly.py").write_text(CALLS[call] + BEGIN)
    with started(nfs, programs, "/replica", {}, environment) as made:
        yield made


@contextmanager
def started(
    nfs: Nfs, programs: Path, target: str, binds: Mapping[str, Path], environment: Mapping[str, str]
) -> Iterator[Machine]:
    """The hourly job with these programs, on a machine with the export at `target`."""
    variables = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/lib/postgresql/15/bin",
        "PYTHON": "/tools/python/bin/python3",
        "JOB": contract.HOURLY,
        "DEADLINE_SECONDS": "600",
        **environment,
    }
    python = images.rootfs(images.PYTHON) / "usr/local"
    with nfs.machine(
        ["/bin/sh", "/programs/start.sh", contract.HOURLY],
        rootfs=images.rootfs("postgres:15"),
        target=target,
        binds={"/programs": programs, "/tools/python": python, **binds},
        environment=variables,
    ) as made:
        try:
            yield made
        finally:
            nfs.thaw()


def says(made: Machine, words: str) -> None:
    """Wait until it does."""
    end = time.monotonic() + 60
    while words not in made.output:
        assert made.running, made.output
        assert time.monotonic() < end, made.output
        time.sleep(0.02)


def frozen_amid(made: Machine, nfs: Nfs) -> None:
    """Stop the server when calls have ended, and wait until none ends any more."""
    says(made, "Call 9 has ended")
    nfs.freeze()
    seen = ""
    while seen != (seen := made.output):
        time.sleep(0.5)


def verdict(output: str) -> dict[str, Any]:
    lines = output.strip().splitlines()
    assert [line for line in lines if line.startswith('{"job":')] == lines[-1:], output
    return verdict_of(lines[-1])


@pytest.mark.parametrize("call", CALLS)
def test_told_to_stop_while_the_server_hangs(nfs: Nfs, tmp_path: Path, call: str) -> None:
    with machine(nfs, tmp_path / "programs", call) as made:
        frozen_amid(made, nfs)
        begun = time.monotonic()
        made.tell()
        ended = made.command_ended(30)
        seconds = time.monotonic() - begun
        assert ended is not None, made.output
        said = verdict(ended.output)
        print(call, f"{seconds:.1f} s", said)
        assert (ended.code, said["exit"], said["rows"]) == (143, 143, 3)
        assert "It did not answer" in said["message"]
        assert "If it is there, it is whole." in said["message"]
        assert seconds < SECONDS
        nfs.thaw()
        assert made.wait(60).code == 143, made.output  # and nothing hangs for ever


def test_the_deadline_while_the_server_hangs(nfs: Nfs, tmp_path: Path) -> None:
    with machine(nfs, tmp_path / "programs", "fsync", DEADLINE_SECONDS="124") as made:
        frozen_amid(made, nfs)
        ended = made.command_ended(30)
        assert ended is not None, made.output
        said = verdict(ended.output)
        assert (ended.code, said["exit"]) == (124, 124)
        assert re.match(r"The job did not end within 4 s\. It did not answer", said["message"])
        assert said["seconds"] <= 4 + SECONDS


# ---- the hourly backup itself, as it publishes -------------------------------------------------------------

AT = """

def _held(real, point):
    def call(file, *args, **kwargs):
        name = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fspath(args[0])
        if point(name):
            print(f"The server may hang now, at {name}.", flush=True)
            while not os.path.exists("/programs/go"):
                time.sleep(0.05)
        return real(file, *args, **kwargs)
    return call

"""
PUBLISHING = {
    "fsync of the manifest": ("fsync", '"/.manifest/.tmp" in name', "Nothing was published"),
    "link of the manifest": ("link", 'name.endswith(".tsv")', "If there is a dump"),
    "link of the dump": ("link", 'name.endswith("-dumpall.sql.gz")', "If there is a dump"),
    "fsync of the folder": ("fsync", 'name == "/backup/hourly"', "is published and whole"),
}


@pytest.fixture(scope="module")
def database(nfs: Nfs) -> Iterator[LocalServer]:
    """Beside the file server, which has no say in it."""
    server = LocalServer(nfs.namespaces, images.rootfs("postgres:15"), "database", {SUPERUSER: "a word"})
    server.start()
    server.add_user(USER, "another", DATABASE)
    server.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) n", DATABASE)
    yield server
    server.stop(immediate=True)


@pytest.mark.parametrize("call", PUBLISHING)
def test_an_hourly_backup_whose_server_hangs_as_it_publishes(
    nfs: Nfs, database: LocalServer, tmp_path: Path, call: str
) -> None:
    function, point, untouched = PUBLISHING[call]
    programs, secrets = tmp_path / "programs", tmp_path / "secrets"
    shutil.copytree(CHART / "files", programs, ignore=shutil.ignore_patterns("__pycache__"))
    with (programs / "stack_backup_jobs/folder.py").open("a") as module:
        module.write(f"{AT}os.{function} = _held(os.{function}, lambda name: {point})\n")
    secrets.mkdir()
    (secrets / "superuser-password").write_text(database.passwords[SUPERUSER])
    spec = render(VALUES, namespace=contract.NAMESPACE).get("CronJob", contract.HOURLY)["spec"]
    [container] = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    environment = {one["name"]: one.get("value", "") for one in container["env"]} | {
        **{
            "NAMESPACE": contract.NAMESPACE,
            "POD_NAME": "hourly-abcde",
            "JOB_NAME": "",
            "TERMINATION_LOG": "",
        },
        **{"PGHOST": "10.0.2.2", "DEADLINE_SECONDS": "600"},
    }
    with started(nfs, programs, "/backup", {"/secrets/database": secrets}, environment) as made:
        says(made, "The server may hang now")
        nfs.freeze()
        (programs / "go").touch()
        time.sleep(1)
        begun = time.monotonic()
        made.tell()
        ended = made.command_ended(30)
        seconds = time.monotonic() - begun
        assert ended is not None, made.output
        said = verdict(ended.output)
        assert (ended.code, said["exit"]) == (143, 143)
        assert "It did not answer" in said["message"]
        assert untouched in said["message"]
        assert seconds < SECONDS
        nfs.thaw()
        assert made.wait(60).code == 143, made.output
    folder = nfs.path / "hourly"
    dumps = sorted(folder.glob("backup-*"))
    if "is published" in untouched:
        assert dumps[-1].name in said["message"]
    for path in dumps:
        manifest = Manifest.parse((folder / MANIFESTS / f"{path.name}.tsv").read_text())
        assert manifest.get("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
