"""The faults that tests put in the way of a Python program happen where they were asked for."""

from __future__ import annotations

import copy
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stack_backup_lab.bed import images
from stack_backup_lab.render import Objects
from stack_backup_lab.runtime import pod
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs.faults import fail, fail_python, hold, hold_python, kill_python, patch_python
from tests.jobs.test_local_runtime import IMAGE, cron_job, pod_of

PACKAGE = """
class Store:
    @classmethod
    def opened(cls, name):
        return cls()

    def put(self, name, *, times=1):
        for _ in range(times):
            self._one(name)
        return name

    def _one(self, name):
        print("put", name, flush=True)
"""


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack("faults-stack", IMAGE) as stack:
        yield stack


@pytest.fixture(autouse=True)
def _empty(stack: LocalStack) -> Iterator[None]:
    yield
    stack.volume("database-backup").clear()


def program(text: str, image: str = IMAGE) -> Objects:
    """A CronJob `probe` that runs this text in a pod shaped like the chart's, with a Python of its own."""
    objects = cron_job("")
    pod = pod_of(objects)
    (main,) = pod["containers"]
    main["image"] = image
    lent = image == IMAGE
    main["command"] = ["/tools/python/bin/python3" if lent else "python3", "-I", "/programs"]
    tools = {"name": "tools", "mountPath": "/tools"}
    main["volumeMounts"].append(tools | {"readOnly": True})
    pod["volumes"].append({"name": "tools", "emptyDir": {"sizeLimit": "256Mi"}})
    pod["volumes"][1]["configMap"]["items"] = [
        {"key": "main", "path": "__main__.py"},
        {"key": "store", "path": "shop/store.py"},
    ]
    if lent:
        init: dict[str, Any] = copy.deepcopy(main) | {"name": "python", "image": images.PYTHON}
        init["command"] = ["/bin/sh", "-c", "mkdir /tools/python && cp -a /usr/local/. /tools/python"]
        init["volumeMounts"] = [tools]
        pod["initContainers"] = [init]
    (programs,) = objects.of_kind("ConfigMap")
    programs["data"] = {"main": text, "store": PACKAGE}
    return objects


def start(stack: LocalStack, text: str, faults: Faults, image: str = IMAGE) -> RunningJob:
    stack.apply(program(text, image))
    return stack.start("probe", faults)


def lines(stack: LocalStack, text: str, python: str, image: str = IMAGE) -> list[str]:
    with start(stack, text, Faults(python=python), image) as job:
        result = job.wait(60)
    assert result.succeeded, result.log
    return result.log.splitlines()


def test_without_faults_the_programs_python_is_the_images_own(stack: LocalStack) -> None:
    seen = "sys.version_info[:2], sys.prefix, os.path.exists('/faults'), 'sitecustomize' in sys.modules"
    stack.apply(program(f"import os, sys; print({seen})"))
    assert stack.run("probe").log == "(3, 13) /tools/python False False\n"


RUN = """import os
number = 1
if number > 1:
    print("never")
if not os.fork():
    number = 2
    os._exit(0)
os.wait()
os.kill(os.getpid(), 9)
"""


def test_the_lines_that_ran_are_known_however_a_process_ends(
    stack: LocalStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod, "RECORDED", str(tmp_path))
    with start(stack, RUN, Faults()) as job:
        job.wait(60)
    lines = {line for file in tmp_path.iterdir() for line in file.read_text().splitlines()}
    assert lines == {f"/programs/__main__.py:{number}" for number in (1, 2, 3, 5, 6, 7, 8, 9)}


LINK = """
import os
def linked(name):
    try:
        os.link("/backup/a", f"/backup/{name}")
    except OSError as error:
        print(type(error).__name__, error.filename, error.filename2)
    else:
        print("linked", name)
open("/backup/a", "w").close()
for name in "bcd":
    linked(name)
    if os.path.exists(f"/backup/{name}"):
        os.remove(f"/backup/{name}")
"""


@pytest.mark.parametrize("image", [IMAGE, "rdkit-database:15"])
def test_an_operation_fails_where_it_shall(stack: LocalStack, image: str) -> None:
    only = fail_python("os.link", "EEXIST", "target == '/backup/c'")
    assert lines(stack, LINK, only, image) == ["linked b", "FileExistsError /backup/a /backup/c", "linked d"]
    twice = fail_python("os.link", "EACCES", times=2)
    failed = [f"PermissionError /backup/a /backup/{name}" for name in "bc"]
    assert lines(stack, LINK, twice, image) == [*failed, "linked d"]
    assert lines(stack, LINK, fail_python("os.link", "EIO", "no_such_name"), image)[0] == "linked b"


SYNC = """
import os, subprocess, sys
with open("/backup/a", "w") as file:
    file.write("text")
    file.flush()
    try:
        os.fsync(file.fileno())
    except OSError as error:
        print(error.errno, os.path.getsize("/backup/a"), flush=True)
again = "import os; os.fsync(os.open('/backup/a', os.O_RDONLY)); print('not reached')"
subprocess.run([sys.executable, "-I", "-c", again])
subprocess.run(["date"])
"""


def test_what_has_no_event_fails_too_and_in_other_processes_and_beside_shims(stack: LocalStack) -> None:
    python = fail_python("os.fsync", "EIO", "path == '/backup/a'")
    with start(stack, SYNC, Faults(python=python, shims=fail("date", 1, "no date"))) as job:
        log = job.wait(60).log.splitlines()
    assert log[0] == "5 4"
    assert "not reached" not in log
    assert log[-2:] == ["OSError: [Errno 5] Input/output error", "no date"]


HELD = """
import signal, sys, threading, os
from shop.store import Store
signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
def work():
    Store.opened("x").put("y", times=3)
    os.mkdir("/backup/made")
    os.rmdir("/backup/made")
thread = threading.Thread(target=work)
thread.start()
while thread.is_alive():
    thread.join(0.05)
print("done")
"""


def test_a_program_is_held_in_the_middle_and_hears_signals_there(stack: LocalStack) -> None:
    with start(stack, HELD, Faults(python=hold_python("os.mkdir", "path == '/backup/made'"))) as job:
        job.reached("reached")
        assert stack.volume("database-backup").list() == []
        assert job.pod.running
        job.signal(signal.SIGTERM)
        while "told" not in job.pod.log:
            assert job.pod.running
        job.release("go")
        result = job.wait(60)
    assert (result.exit_code, result.log.splitlines()) == (0, ["put y"] * 3 + ["told", "done"])


def test_functions_of_the_program_are_points(stack: LocalStack) -> None:
    python = hold_python(
        "shop.store:Store.put", "kwargs['times'] == 3 and path == 'y'", point="before", go="on"
    )
    python += hold_python("shop.store:Store._one", "path == 'y'", point="one", after=True, go="go")
    with start(stack, HELD, Faults(python=python)) as job:
        job.reached("before")
        assert job.pod.log == ""
        job.release("on")
        job.reached("one")
        assert job.pod.log == "put y\n"
        job.release("go")
        assert job.wait(60).log.splitlines() == ["put y"] * 3 + ["done"]
    assert "ConnectionResetError" in "".join(
        lines(stack, HELD, fail_python("shop.store:Store.opened", "ECONNRESET", "path == 'x'"))
    )


def test_names_of_the_program_are_replaced(stack: LocalStack) -> None:
    """And what has been replaced is a point all the same."""
    python = patch_python("shop.store", "Store._one = lambda self, name: print('patched', name, flush=True)")
    assert lines(stack, HELD, python)[0] == "patched y"
    python += fail_python("shop.store:Store._one", "EIO", "path == 'y'")
    assert "patched y" not in lines(stack, HELD, python)


KILLED = """
import os, sys
if os.fork() == 0:
    os.rename("/backup/none", "/backup/other")
    os._exit(3)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
os.scandir("/backup")
print("not reached")
"""


def test_processes_are_killed_there(stack: LocalStack) -> None:
    with start(
        stack,
        KILLED,
        Faults(python=kill_python("os.rename") + kill_python("os.scandir", "path == '/backup'")),
    ) as job:
        result = job.wait(60)
    assert (result.exit_code, result.log, result.reason) == (137, "-9\n", "")


COMMANDS = """
import subprocess, socket, sys
for words in (["true"], ["echo", "one"]):
    try:
        subprocess.run(words, check=True)
    except OSError as error:
        print(error.strerror, flush=True)
try:
    socket.create_connection(("database", 5432))
except OSError as error:
    print(type(error).__name__)
"""


def test_commands_and_connections_are_points(stack: LocalStack) -> None:
    python = fail_python("subprocess.Popen", "ENOMEM", "args[1][0] == 'echo'")
    python += fail_python("socket.connect", "EHOSTUNREACH", "args[1][1] == 5432")
    shims = hold("true")
    with start(stack, COMMANDS, Faults(python=python, shims=shims)) as job:
        job.reached("reached")
        job.release("go")
        assert job.wait(60).log.splitlines() == ["Cannot allocate memory", "OSError"]


def test_the_lines_of_a_test_are_told_apart_from_the_programs(stack: LocalStack) -> None:
    """A point that cannot be is an error of the test, and it is seen."""
    with start(stack, "print(1)", Faults(python=fail_python("os.link", "EIO", after=True))) as job:
        assert "os.link is seen before it happens alone" in job.wait(60).log
