"""The start of a program in the roots of real database images: with the interpreter that the pod brings, with
the image's own, and where none can run.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.runtime.pod import Faults
from tests.jobs.hourly import IMAGE, JOB, VALUES

NAMESPACE = "start-stack"
PROBE = """
# Takes the place of the hourly backup: says where it runs.
import bz2, ctypes, getpass, gzip, hashlib, json, lzma, os, pwd, sqlite3, ssl, subprocess, sys, time, zlib
from stack_backup_jobs.job import Job, Outcome, say

def program(job: Job) -> Outcome:
    job.leaves("All is as it was.")
    (job.work / "file").write_text("kilobytes")
    assert zlib.decompress(zlib.compress(b"text")) == b"text"
    assert ssl.create_default_context() and hashlib.sha256(b"text").hexdigest()
    compiled = sys.modules["stack_backup_jobs.job"].__spec__.cached
    job.figure(prefix=sys.base_prefix, version=sys.version_info[1], uid=os.getuid(), path=sys.path)
    job.figure(compiled=os.path.exists(compiled) and compiled)
    done = job.processes.run(["/bin/sh", "-c", "echo $0"])
    assert done.out.strip() == b"/bin/sh", done
    if os.environ.get("WAIT"):
        say("Waiting.")
        time.sleep(60)
    return Outcome(0, "done", "All was done.")
"""


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack(NAMESPACE, IMAGE) as stack:
        yield stack


def install(stack: LocalStack, image: str, *, python: str = "python", user: int = 999) -> None:
    """The chart as it is, the hourly backup's own module but for the probe."""
    repository, _, tag = image.partition(":")
    values: dict[str, Any] = {
        "database": {"image": {"repository": repository, "tag": tag}},
        "python": {"image": {"repository": python}},
        "pod": {"runAsUser": user, "runAsGroup": user},
    }
    objects: Objects = render(merge_values(VALUES, values), namespace=NAMESPACE)
    [programs] = [item for item in objects.of_kind("ConfigMap") if "start.sh" in item["data"]]
    programs["data"]["stack_backup_jobs.hourly.py"] += PROBE  # other programs import what stands there
    stack.apply(objects)


def done(result: JobResult) -> dict[str, Any]:
    assert result.exit_code == 0, result.log
    assert result.log.splitlines()[-1].startswith('{"job":"postgres-backup-hourly","exit":0,"outcome":"done"')
    return dict(result.verdict)


@pytest.mark.parametrize("user", [999, 12345])
@pytest.mark.parametrize("image", ["postgres:15", "postgres:17", "rdkit-database:15"])
def test_the_interpreter_that_is_brought_runs(stack: LocalStack, image: str, user: int) -> None:
    """Also where the user has no name, and where the image sets a PYTHONPATH of its own."""
    install(stack, image, user=user)
    verdict = done(stack.run(JOB))
    assert (verdict["prefix"], verdict["version"], verdict["uid"]) == ("/tools/python", 13, user)
    assert all(path == "/programs" or path.startswith("/tools/python/") for path in verdict["path"])
    assert str(verdict["compiled"]).startswith("/tools/python/compiled/programs/"), "by the init container"


@pytest.mark.parametrize("user", [999, 12345])
def test_the_images_own_interpreter_runs(stack: LocalStack, user: int) -> None:
    install(stack, "rdkit-database:15", python="", user=user)
    verdict = done(stack.run(JOB))
    assert (verdict["prefix"], verdict["version"], verdict["uid"]) == ("/usr", 11, user)
    assert "/rdkit" not in verdict["path"]


BROUGHT = "The Python of python.image does not run in the database image"
LEFT = "All is as it was."
OWN = "The database image has no Python 3.11 or newer itself"


@pytest.mark.parametrize(
    ("image", "python", "sentence"),
    [
        ("old-database:13", "python", BROUGHT),
        ("rclone/rclone:1.76.0", "python", BROUGHT),
        ("postgres:15", "", OWN),
        ("rclone/rclone:1.76.0", "", OWN),
    ],
    ids=["an older C library", "no C library", "no Python", "neither"],
)
def test_no_interpreter_runs(stack: LocalStack, image: str, python: str, sentence: str) -> None:
    install(stack, image, python=python)
    refused(stack.run(JOB), sentence)


def test_the_images_own_interpreter_is_too_old(stack: LocalStack) -> None:
    install(stack, "rdkit-database:15", python="")
    refused(stack.run(JOB, faults=Faults(shims={"python3": '[[ $* != *"(3, 11)"* ]]'})), OWN)


def refused(result: JobResult, sentence: str) -> None:
    assert (result.exit_code, result.verdict["exit"], result.verdict["outcome"]) == (78, 78, "failed"), (
        result.log
    )
    assert result.verdict["job"] == JOB
    assert sentence in result.verdict["message"]
    assert "python.image.repository" in result.verdict["message"]
    assert "Nothing was done." in result.verdict["message"]
    assert result.log.splitlines()[-1].startswith('{"job":"postgres-backup-hourly","exit":78')


@pytest.mark.parametrize("delay", [0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.14, 0.2, 0.5])
def test_told_to_stop_at_the_start(stack: LocalStack, delay: float) -> None:
    """As the first process of its namespace, for which a signal without a handler is lost."""
    install(stack, "postgres:15")
    with stack.start(JOB, environment={"WAIT": "yes"}) as job:
        time.sleep(delay)
        begun = time.monotonic()
        while job.pod.running and time.monotonic() < begun + 20:
            job.signal(signal.SIGTERM)  # again, for nothing hears the first while it is executed
            time.sleep(0.02)
        result = job.wait(20)
        assert time.monotonic() - begun < 5
    assert (result.exit_code, result.verdict["exit"]) == (143, 143), result.log
    told, _, left = result.verdict["message"].partition("stop.")
    assert told == "The job was told to "
    assert left.strip() in ("", "Nothing was done.", LEFT)
