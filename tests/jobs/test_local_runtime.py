"""The local runtime itself: a pod sees what the kubelet would show it, and nothing outlives a stack."""

from __future__ import annotations

import contextlib
import copy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack_backup_lab.render import Objects
from stack_backup_lab.runtime import memory
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.runtime.pod import Faults, expand, size
from stack_backup_lab.runtime.postgres import LocalServerError
from stack_backup_lab.runtime.sandbox import Namespaces, SandboxError, resolve

IMAGE = "postgres:15"


def cron_job(script: str, **changes: Any) -> Objects:
    """A CronJob `probe` that runs a bash script in a pod shaped like the chart's, its claim and its
    ConfigMap.
    """
    container = {
        "name": "probe",
        "image": IMAGE,
        "command": ["/bin/bash", "-c", script],
        "env": [
            {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            {"name": "GREETING", "value": "I am $(POD), not $(NOBODY) or $$(POD)"},
        ],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "backup", "mountPath": "/backup"},
            {"name": "backup", "mountPath": "/source", "readOnly": True},
            {"name": "programs", "mountPath": "/programs", "readOnly": True},
            {"name": "secret", "mountPath": "/secrets/database", "readOnly": True},
            {"name": "scratch", "mountPath": "/tmp"},
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 999,
            "runAsGroup": 999,
            "fsGroup": 999,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "backup", "persistentVolumeClaim": {"claimName": "database-backup"}},
            {"name": "programs", "configMap": {"name": "programs"}},
            {
                "name": "secret",
                "secret": {
                    "secretName": "database",
                    "items": [{"key": "root_password", "path": "password"}],
                    "optional": True,
                    "defaultMode": 0o444,
                },
            },
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }
    spec = {"template": {"metadata": {"labels": {"app": "probe"}}, "spec": pod}, **changes}
    return Objects(
        [
            {"kind": "CronJob", "metadata": {"name": "probe"}, "spec": {"jobTemplate": {"spec": spec}}},
            {"kind": "PersistentVolumeClaim", "metadata": {"name": "database-backup"}},
            {"kind": "ConfigMap", "metadata": {"name": "programs"}, "data": {"a.sh": "echo a program\n"}},
        ]
    )


def pod_of(objects: Objects) -> dict[str, Any]:
    spec: dict[str, Any] = objects.get("CronJob", "probe")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def stack(runtime: LocalRuntime) -> Iterator[LocalStack]:
    with runtime.stack("probe-stack", IMAGE) as stack:
        yield stack


def say(stack: LocalStack, script: str, faults: Faults | None = None, **changes: Any) -> list[str]:
    """The lines that a script prints in a pod; it must succeed."""
    stack.apply(cron_job(script, **changes))
    result = stack.run("probe", faults=faults)
    assert result.succeeded, result.log
    return result.log.splitlines()


def test_a_pod_is_nobody_special(stack: LocalStack) -> None:
    identity, first, name, *capabilities = say(
        stack, "id -u; echo $$$$; hostname; grep -E 'Cap(Eff|Bnd|Prm)' /proc/self/status"
    )
    assert identity == "999"
    assert first == "1"
    assert name.startswith("probe-")
    assert [line.split()[1] for line in capabilities] == ["0" * 16] * 3


def test_a_pod_writes_only_where_it_may(stack: LocalStack) -> None:
    script = (
        "for d in / /etc /programs /secrets/database /source /usr/bin; do touch $d/x && echo wrote $d; done; "
        "touch /backup/x /tmp/x && stat -c '%a %u:%g' /backup/x; rm /backup/x"
    )
    *refusals, written = say(stack, script)
    assert written == "644 999:999"
    assert len(refusals) == 6
    assert all("Read-only file system" in line for line in refusals), refusals


def test_a_pod_sees_its_secrets_programs_and_variables(stack: LocalStack) -> None:
    lines = say(
        stack,
        "bash /programs/a.sh; ls /programs /secrets/database; stat -Lc %a /secrets/database/password; "
        'cat /secrets/database/password; echo; echo "$GREETING"; echo "$NAMESPACE"; echo "$PATH"',
    )
    pod = lines[8].split()[2].rstrip(",")
    assert lines == [
        "a program",
        "/programs:",
        "a.sh",
        "",
        "/secrets/database:",
        "password",
        "444",
        stack.database.passwords["admin"],
        f"I am {pod}, not $(NOBODY) or $(POD)",
        "probe-stack",
        lines[-1],
    ]
    assert lines[-1].endswith("/bin:/usr/lib/postgresql/15/bin")


def test_a_memory_volume_is_limited_and_the_deadline_holds(stack: LocalStack) -> None:
    assert say(stack, "head -c 2M /dev/zero >/tmp/x 2>/tmp/why || stat -c %s /tmp/x") == [str(2**20)]
    script = "trap 'echo asked; sleep 60 & wait; exit 9' TERM; sleep 60 & wait"
    stack.apply(cron_job(script, activeDeadlineSeconds=1))
    result = stack.run("probe")
    assert (result.reason, result.exit_code) == ("DeadlineExceeded", 137)
    assert result.log == "asked\n"


def limited(script: str, memory: str = "48Mi") -> Objects:
    """A pod with a memory limit, 256 MiB of volume in memory at /tmp, and 200 MiB on disk at /scratch."""
    objects = cron_job(script)
    pod = pod_of(objects)
    pod["containers"][0]["resources"] = {"requests": {"cpu": "50m"}, "limits": {"memory": memory}}
    pod["containers"][0]["volumeMounts"].append({"name": "disk", "mountPath": "/scratch"})
    pod["volumes"][3]["emptyDir"]["sizeLimit"] = "256Mi"
    pod["volumes"].append({"name": "disk", "emptyDir": {"sizeLimit": "200Mi"}})
    return objects


def private(megabytes: int) -> str:
    """A command that has so much memory for half a second."""
    return f"perl -e '$x = q(x); $x x= {megabytes} << 20; select(undef, undef, undef, 0.5)'"


def test_a_container_has_its_memory_and_no_more(stack: LocalStack) -> None:
    stack.apply(limited(private(20)))
    result = stack.run("probe")
    assert (result.exit_code, result.reason) == (0, "")
    assert result.peak_memory is not None
    assert 20 << 20 < result.peak_memory < 48 << 20

    stack.apply(limited(f"{private(100)}; echo its end was $?; exit 3"))
    result = stack.run("probe")
    assert (result.exit_code, result.reason) == (3, "OOMKilled")
    assert result.log.endswith("its end was 137\n")
    stack.apply(limited(f"exec {private(100)}"))
    result = stack.run("probe")
    assert (result.exit_code, result.reason) == (137, "OOMKilled")
    stack.apply(limited(private(100), "256Mi"))
    assert stack.run("probe").succeeded


def test_a_volume_in_memory_counts_and_one_on_disk_does_not(stack: LocalStack) -> None:
    stack.apply(limited("head -c 20M /dev/zero >/tmp/x; sleep 0.5; head -c 100M /dev/zero >/tmp/x; exit $?"))
    result = stack.run("probe")
    assert (result.exit_code, result.reason) == (137, "OOMKilled")
    assert result.peak_memory is not None
    assert result.peak_memory > 20 << 20

    # More than the limit is written and read again: the cache of its pages makes way.
    write = "head -c 190M /dev/zero >/scratch/x && cksum </scratch/x >/scratch/sum && cat /scratch/x | wc -c"
    stack.apply(limited(write))
    result = stack.run("probe")
    assert (result.exit_code, result.reason, result.log) == (0, "", f"{190 << 20}\n")
    assert result.peak_memory is not None
    assert result.peak_memory < 16 << 20


def test_a_volume_on_disk_has_its_size(stack: LocalStack) -> None:
    fill = "head -c 300M /dev/zero 2>/tmp/why >/scratch/x; cat /tmp/why; stat -c %s /scratch/x"
    stack.apply(limited(f"ls -A /scratch; {fill}"))
    why, size = stack.run("probe").log.splitlines()
    assert why.endswith("No space left on device")
    assert 200 << 20 <= int(size) < 210 << 20
    assert list((stack.namespaces.folder / "disks").iterdir()) == []


def test_limits_that_cannot_hold_are_not_passed_over(
    stack: LocalStack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stack.apply(limited(private(100)))
    monkeypatch.setenv("STACK_BACKUP_MEMORY", "unlimited")
    result = stack.run("probe")
    assert (result.exit_code, result.peak_memory) == (0, None)
    monkeypatch.delenv("STACK_BACKUP_MEMORY")
    monkeypatch.setattr(memory, "_hierarchy", lambda: (tmp_path / "none", False))
    with (
        Namespaces("probe") as namespaces,
        pytest.raises(SandboxError, match="STACK_BACKUP_MEMORY=unlimited"),
    ):
        print(namespaces.groups)


def test_a_pod_reaches_its_database_and_nothing_else(stack: LocalStack) -> None:
    for host in ("database", "database.probe-stack.svc.cluster.local"):
        password = "export PGPASSWORD=$(cat /secrets/database/password)"
        assert say(stack, f"{password}; psql -XAt -h {host} -U admin -c 'SELECT 42' frag") == ["42"]
    script = "PGPASSWORD=wrong psql -h database -U admin frag 2>&1 | tail -1; wc -l </proc/net/dev"
    refused, interfaces = say(stack, script)
    assert refused.endswith('port 5432 failed: FATAL:  password authentication failed for user "admin"')
    assert interfaces == "3", "two lines of title, and the loopback interface"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stack.database.dsn("frag", password="wrong"))


def test_init_containers_run_first_and_their_failure_is_the_pods(stack: LocalStack) -> None:
    objects = cron_job("cat /tmp/order")
    init = copy.deepcopy(pod_of(objects)["containers"][0])
    init |= {"name": "init", "command": ["bash", "-c", "echo first >/tmp/order"]}
    pod_of(objects)["initContainers"] = [init]
    stack.apply(objects)
    assert stack.run("probe").log == "first\n"
    init["command"] = ["bash", "-c", "exit 3"]
    stack.apply(objects)
    assert (stack.run("probe").exit_code, stack.run("probe").log) == (3, "")


def lending(script: str) -> Objects:
    """A pod whose init container runs this. The pod prints what is in /lent/file then, and changes it."""
    objects = cron_job("cat /lent/file && echo changed >/lent/file")
    pod = pod_of(objects)
    pod["volumes"].append({"name": "lent", "emptyDir": {"sizeLimit": "16Mi"}})
    lent = {"name": "lent", "mountPath": "/lent"}
    lender = copy.deepcopy(pod["containers"][0])
    lender |= {"name": "lender", "command": ["bash", "-c", script]}
    lender["volumeMounts"] = [lent, {"name": "programs", "mountPath": "/programs", "readOnly": True}]
    pod["containers"][0]["volumeMounts"].append(lent)
    del lender["env"]
    pod["initContainers"] = [lender]
    return objects


def test_what_init_containers_leave_is_kept_for_the_pods_that_begin_alike(stack: LocalStack) -> None:
    objects = lending("cat /programs/a.sh /proc/sys/kernel/random/uuid >/lent/file")
    stack.apply(objects)
    first, kept, later = (stack.run("probe").log for _ in range(3))
    assert first.startswith("echo a program\n")
    assert first != kept, "the second pod's is kept"
    assert later == kept, "and no pod sees what another has changed"
    faults = Faults(shims={"cat": 'exec /usr/bin/cat "$@"'})
    assert stack.run("probe", faults=faults).log != first, (
        "the init container calls what the test has changed"
    )
    objects.of_kind("ConfigMap")[0]["data"]["a.sh"] = "echo another\n"
    stack.apply(objects)
    assert stack.run("probe").log.startswith("echo another\n")


def test_init_containers_that_print_something_run_in_every_pod(stack: LocalStack) -> None:
    stack.apply(lending("tee /lent/file </proc/sys/kernel/random/uuid"))
    assert len({stack.run("probe").log for _ in range(3)}) == 3


def test_the_termination_message_is_the_verdict(stack: LocalStack) -> None:
    stack.apply(cron_job("""echo '{"exit": 65}' >/dev/termination-log; echo said; exit 65"""))
    result = stack.run("probe")
    assert (result.exit_code, result.verdict, result.log) == (65, {"exit": 65}, "said\n")


def test_a_pod_that_lacks_something_says_what(stack: LocalStack) -> None:
    objects = cron_job("true")
    secret = pod_of(objects)["volumes"][2]["secret"]
    secret["items"] = [{"key": "other", "path": "password"}]
    stack.apply(objects)
    assert stack.run("probe").succeeded, "an optional key may be missing"
    secret["optional"] = False
    stack.apply(objects)
    result = stack.run("probe")
    assert (result.exit_code, result.reason) == (None, "FailedMount")
    assert "database has no key other" in result.log


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pod: pod.update(hostNetwork=True),
        lambda pod: pod.update(automountServiceAccountToken=True),
        lambda pod: pod["volumes"].append({"name": "n", "nfs": {"server": "s", "path": "/"}}),
        lambda pod: pod["containers"][0].update(lifecycle={}),
        lambda pod: pod["containers"][0]["securityContext"].update(capabilities={"drop": []}),
        lambda pod: pod["containers"][0]["volumeMounts"][0].update(subPathExpr="$(POD)"),
        lambda pod: pod["securityContext"].update(runAsUser=0),
        lambda pod: pod["volumes"][3]["emptyDir"].update(medium="HugePages"),
    ],
)
def test_what_cannot_be_honoured_is_refused(stack: LocalStack, spoil: Any) -> None:
    objects = cron_job("true")
    spoil(pod_of(objects))
    stack.apply(objects)
    with pytest.raises(SandboxError):
        stack.run("probe")


def test_faults_are_what_they_say(stack: LocalStack) -> None:
    shim = Faults(shims={"date": "echo noon"}, without=["xz"], environment={"GREETING": "none"})
    script = 'date; command -v xz || echo no xz; echo "$GREETING"'
    assert say(stack, script, shim) == ["noon", "no xz", "none"]


def test_a_volume_can_be_full_or_read_only_for_a_while(stack: LocalStack) -> None:
    volume = stack.volume("database-backup")
    volume.write("old/file", b"old")
    with volume.limited(1 << 20):
        script = "cat /backup/old/file; echo; head -c 2M /dev/zero 2>&1 >/backup/new | grep -o 'No space.*'"
        assert say(stack, script) == ["old", "No space left on device"]
        assert volume.list() == ["new", "old"]
    with volume.read_only():
        assert "Read-only file system" in say(stack, "touch /backup/new 2>&1 || true")[0]
    assert volume.list() == ["old"]
    volume.clear()


@pytest.mark.parametrize("limited_first", [False, True])
def test_what_a_volume_holds_keeps_its_owner_whatever_came_first(
    stack: LocalStack, limited_first: bool
) -> None:
    objects, name = cron_job("touch /backup/x && rm /backup/x"), f"new-{limited_first}"
    stack.add_claim(name)
    pod_of(objects)["volumes"][0]["persistentVolumeClaim"]["claimName"] = name
    stack.apply(objects)
    volume = stack.volume(name)
    with volume.limited(1 << 20) if limited_first else contextlib.nullcontext():
        assert stack.run("probe").succeeded
    volume.write("folder/file", b"of somebody else")
    (volume.path / "folder").chmod(0o555)
    (volume.path / "folder" / "file").chmod(0o600)
    pod_of(objects)["containers"][0]["command"][-1] = (
        "touch /backup/folder/x; cat /backup/folder/file; exit 0"
    )
    stack.apply(objects)
    first, second = stack.run("probe").log.splitlines()
    assert first.endswith("Permission denied")
    assert second.endswith("Permission denied")


def test_signals_reach_the_first_process_alone(stack: LocalStack) -> None:
    stack.apply(cron_job("trap 'echo asked; exit 4' TERM; touch /faults/ready; while :; do sleep 0.1; done"))
    with stack.start("probe", Faults(shims={"unused": ""})) as job:
        job.reached("ready")
        job.signal(signal.SIGTERM)
        assert (job.wait().exit_code, job.wait().log) == (4, "asked\n")
    # PID 1 without a handler does not hear TERM, as in a real pod.
    stack.apply(cron_job("touch /faults/ready; until [ -e /faults/go ]; do sleep 0.05; done"))
    with stack.start("probe", Faults(shims={"unused": ""})) as job:
        job.reached("ready")
        job.signal(signal.SIGTERM)
        job.release("go")
        assert job.wait().succeeded
    with stack.start("probe", Faults(shims={"unused": ""})) as job:
        job.reached("ready")
        job.signal(signal.SIGKILL)
        assert job.wait().exit_code == 137


def test_a_command_is_run_in_a_pod_that_runs(stack: LocalStack) -> None:
    """With its user, its files, its variables and its processes, and without a right that it lacks."""
    waits = "echo mine >/tmp/own; touch /faults/ready; until [ -e /faults/go ]; do sleep 0.05; done"
    stack.apply(cron_job(waits))
    script = (
        "id -u; cat /tmp/own; echo $JOB; tr '\\0' ' ' </proc/1/cmdline | cut -c 1-9;"
        "grep CapEff /proc/self/status; touch /etc/x || echo refused; printf 'a\\0b'"
    )
    with stack.start("probe", Faults(shims={"unused": ""}), {"JOB": "probe"}) as job:
        job.reached("ready")
        said = job.pod.execute(["/bin/sh", "-c", script])
        job.release("go")
        assert job.wait().succeeded
    shell = b"/bin/bash"
    assert said.splitlines()[:-2] == [b"999", b"mine", b"probe", shell, b"CapEff:\t" + b"0" * 16]
    assert said.splitlines()[-2:] == [b"refused", b"a\0b"]


def test_a_server_can_crash_hang_and_be_gone(stack: LocalStack) -> None:
    server = stack.database
    server.execute("CREATE TABLE kept AS SELECT 1 AS one;", "frag")
    server.stop(immediate=True)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(server.dsn("frag"))
    server.start()
    with psycopg.connect(server.dsn("frag")) as connection:
        assert connection.execute("TABLE kept").fetchall() == [(1,)]
    server.execute("DROP TABLE kept;", "frag")
    with pytest.raises(LocalServerError, match="does not exist"):
        server.execute("DROP TABLE kept;", "frag")
    with server.hanging(), pytest.raises(psycopg.OperationalError, match="timeout"):
        psycopg.connect(f"{server.dsn('frag')} connect_timeout=2")


def leftovers() -> list[str]:
    """Processes, mounts and folders of the probe's stacks on this machine."""
    found = [str(path) for path in Path("/tmp/stack-backup-local").glob("leftover-*")]
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = (process / "cmdline").read_bytes().decode(errors="replace")
            if "stack-backup-local" in words and "leftover" in words:
                found.append(words)
    root, _ = memory._hierarchy()
    found += [str(path) for path in root.glob("stack-backup-local/leftover-*")]
    mounts = Path("/proc/mounts").read_text().splitlines()
    return found + [line for line in mounts if "stack-backup-local" in line]


KILLED = """
import sys, time
from pathlib import Path
from stack_backup_lab.runtime.local import LocalRuntime
from stack_backup_lab.runtime.pod import Image
from tests.jobs.test_local_runtime import limited
with LocalRuntime(image=lambda name: Image(Path(sys.argv[1]), {"PATH": "/bin"})).stack("leftover") as stack:
    stack.apply(limited("sleep 600"))
    with stack.start("probe"):
        print("up", flush=True)
        time.sleep(600)
"""


def test_nothing_outlives_a_killed_run(runtime: LocalRuntime, postgres15: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(postgres15)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"up\n"
    assert len(leftovers()) > 3, "the check itself must see a running stack"
    child.kill()
    child.wait()
    end = time.monotonic() + 60
    while len(leftovers()) > 2 and time.monotonic() < end:
        time.sleep(0.05)
    left = leftovers()
    assert len(left) == 2, "only a folder and a control group may be left, for the next stack to remove"
    assert all(Path(folder).is_dir() for folder in left), left
    with runtime.stack("another", IMAGE) as another:
        another.apply(limited("true"))
        assert another.run("probe").succeeded
        assert leftovers() == []


def test_small_rules() -> None:
    assert expand("$(A)$(B)$$(A)$$ $$$(A)$x$", {"A": "1"}) == "1$(B)$(A)$ $1$x$"
    assert [size("64Mi"), size("1G"), size(7)] == [64 * 2**20, 10**9, 7]
    with pytest.raises(SandboxError):
        size("1.5Gi")


def test_links_of_an_image_stay_in_the_image(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "up").symlink_to("../../run")
    assert resolve(tmp_path, "/var/run/postgresql") == "/run/postgresql"
    assert resolve(tmp_path, "/up/x") == "/run/x"
    with pytest.raises(SandboxError, match="too many symbolic links"):
        resolve(tmp_path, "/loop")
