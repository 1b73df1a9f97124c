"""The operators' command line, on a real cluster and with no right but those that its documentation names."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from stack_backup.runs import finished
from stack_backup_jobs import formats
from stack_backup_jobs.formats import MediaState, dump_name, time_of
from stack_backup_lab.paths import BIN
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.cluster import ClusterRuntime, ClusterStack
from stack_backup_lab.runtime.manifests import namespace_object
from tests.cluster.conftest import SCHEDULE, dumps
from tests.cluster.operators import RECOVERABLE, RECOVERY, access, another_program, documented_role, tables
from tests.render import contract

NAMESPACE = "stack-test-cli"
MEDIA = {
    "mediaRecovery": {"enabled": True},
    # An export of its own: those of the production stack are shared with other tests.
    "volumes": {"mediaReplica": {"nfs": {"path": "/test-cli-media"}}},
}
STATE = MediaState("complete", "2026-11-25T02:04:00Z", "2026-11-25T02:09:00Z", 3, 4096, "production-stack")
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def stack(runtime: ClusterRuntime) -> Iterator[ClusterStack]:
    """A release with an hourly backup and a recovery."""
    with runtime.stack(NAMESPACE) as stack:
        stack.add_claim("media")
        stack.install(merge_values(RECOVERABLE, MEDIA))
        stack.database.execute("CREATE TABLE note AS SELECT generate_series(1, 7) AS number")
        yield stack


@pytest.fixture(scope="module")
def operator(stack: ClusterStack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kubeconfig of somebody with just the documented Role."""
    return access(stack, "operator", documented_role(), tmp_path_factory.mktemp("operator"))


def _words(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "stack_backup", *arguments]


@pytest.fixture(scope="module")
def command(operator: Path) -> Command:
    """The command line as that person, with no terminal."""

    def run(*arguments: str, kubeconfig: Path = operator) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            _words(*arguments),
            env=os.environ | {"KUBECONFIG": str(kubeconfig), "COLUMNS": "160"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def _json(end: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The one document on standard output."""
    document: dict[str, Any] = json.loads(end.stdout)
    return document


@pytest.mark.usefixtures("stack")
def test_it_is_a_plugin_of_kubectl(operator: Path) -> None:
    """By the path of an environment in which it is installed."""
    place = Path(sys.executable).parent
    end = subprocess.run(
        [BIN / "kubectl", "stack-backup", "status", "--namespace", NAMESPACE, "--output", "json"],
        env=os.environ | {"KUBECONFIG": str(operator), "PATH": f"{place}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert _json(end)["namespace"] == NAMESPACE, end


def _jobs(stack: ClusterStack) -> set[str]:
    return {job["metadata"]["name"] for job in stack.kube.find("Job", stack.namespace)}


@pytest.fixture
def refusing(stack: ClusterStack) -> Iterator[None]:
    """While a recovery would refuse, and say what it was given."""
    with another_program(stack):
        yield


@pytest.fixture(scope="module")
def backup(command: Command) -> subprocess.CompletedProcess[str]:
    """A backup by hand, as text."""
    return command("run", contract.HOURLY)


def test_a_run_shows_its_log_and_its_verdict(backup: subprocess.CompletedProcess[str]) -> None:
    assert backup.returncode == 0, backup
    assert "Dumping the server database:5432" in backup.stdout
    assert f"{contract.HOURLY}: published" in backup.stdout
    assert "is published and verified" in backup.stdout
    assert '{"job":' not in backup.stdout
    assert backup.stderr == ""


@pytest.mark.usefixtures("backup")
def test_after_it_all_is_well_and_the_next_run_is_known(command: Command) -> None:
    end = command("status", "--output", "json")
    document = _json(end)
    assert (end.returncode, end.stderr, document["red"]) == (0, "", False), end
    jobs = {job["job"]: job for job in document["jobs"]}
    assert sorted(jobs) == [RECOVERY, contract.DOCTOR, "media-recovery", contract.HOURLY]
    hourly = jobs[contract.HOURLY]
    assert hourly["schedule"] == SCHEDULE
    assert hourly["next_run"].endswith(f":{SCHEDULE.split()[0]:0>2}:00Z")
    assert 0 <= hourly["last_success_age"] < 3600
    assert hourly["last_run"]["verdict"]["outcome"] == "published"
    assert jobs[RECOVERY]["last_success"] is None
    assert jobs[RECOVERY]["schedule"] == ""
    assert "All is well." in command("status").stdout


@pytest.mark.usefixtures("backup")
def test_the_list_shows_every_dump_and_leaves_nothing_behind(command: Command, stack: ClusterStack) -> None:
    volume = stack.volume(contract.CLAIM)
    (good,) = dumps(stack)
    old, future = (dump_name(year + time_of(good)[4:], "gz") for year in ("2022", "2222"))
    for name in (old, future):
        volume.write(f"{contract.FOLDER}/{name}", b"x" * 2000)
    volume.write(f"daily/{old}", b"x" * 2000)
    replica = stack.volume(stack.claim_of("media-recovery", "media-replica"))
    replica.write(f"{formats.OWN}/{formats.STATE}", STATE.text().encode())
    before, jobs = volume.list(contract.FOLDER), _jobs(stack)
    try:
        end = command("list", "-o", "json")
        assert (end.returncode, end.stderr) == (0, ""), end
        (place,), (media,) = _json(end)["places"], _json(end)["media"]
        assert (media["status"], media["files"], media["bytes"]) == ("complete", 3, 4096)
        assert (place["claim"], place["problem"]) == (contract.CLAIM, "")
        seen = [(point["dump"], point["folder"], point["state"]) for point in place["points"]]
        assert seen == [
            (future, "hourly", "future"),
            (good, "hourly", "verified"),
            (old, "hourly", "unverified"),
            (old, "daily", "unverified"),
        ]
        point = place["points"][1]
        assert point["rows"] == 7
        assert point["namespace"] == NAMESPACE
        assert point["time"] in good
        assert point["bytes"] == len(volume.read(f"{contract.FOLDER}/{good}"))
        table = command("list").stdout
        assert point["time"] in table
        assert "unverified" in table
        assert "complete at 2026-11-25T02:09:00Z" in table
        assert "3 files, 4.0 KiB" in table
        assert volume.list(contract.FOLDER) == before
        assert _jobs(stack) == jobs
    finally:
        for path in (f"{contract.FOLDER}/{old}", f"{contract.FOLDER}/{future}", "daily"):
            volume.remove(path)


@pytest.mark.usefixtures("backup")
def test_a_failed_run_ends_with_its_program_s_code_and_sentence_until_a_good_one(command: Command) -> None:
    end = command("run", contract.HOURLY, "--set", "KEEP=none", "-o", "json")
    document = _json(end)
    assert end.returncode == 64, end
    assert document["exit"] == document["verdict"]["exit"] == 64
    assert 'KEEP is "none"' in document["message"]
    status = command("status")
    assert status.returncode == 1, status
    assert "failed (64)" in status.stdout
    assert "every earlier dump is as it was" in " ".join(status.stdout.split())
    again = _json(command("run", contract.HOURLY, "-o", "json"))
    assert (again["exit"], again["verdict"]["outcome"]) == (0, "published")
    assert command("status").returncode == 0


@pytest.mark.usefixtures("backup")
def test_the_logs_of_a_job_s_runs_are_shown(command: Command, stack: ClusterStack) -> None:
    assert command("run", contract.HOURLY, "--set", "KEEP=none").returncode == 64
    newest, before = command("logs", contract.HOURLY), command("logs", contract.HOURLY, "--previous")
    assert (newest.returncode, before.returncode) == (0, 0), (newest, before)
    assert "KEEP" in newest.stdout
    assert "Dumping the server" not in newest.stdout
    assert "Dumping the server database:5432" in before.stdout
    runs = _json(command("logs", contract.HOURLY, "--all", "-o", "json"))["runs"]
    assert [run["began"] for run in runs] == sorted(run["began"] for run in runs)
    assert {run["name"] for run in runs} <= _jobs(stack)
    assert "KEEP" in "".join(runs[-1]["logs"][-1]["lines"])
    never = command("logs", "media-recovery")
    assert (never.returncode, "keeps no run of media-recovery" in never.stderr) == (66, True), never
    assert command("run", contract.HOURLY).returncode == 0


@pytest.mark.usefixtures("backup")
def test_every_stack_of_a_cluster_has_its_line(command: Command, stack: ClusterStack) -> None:
    """Seen with the right to look everywhere; the stack's own operator lacks it."""
    (context,) = yaml.safe_load(stack.kube.kubeconfig.read_text())["contexts"]
    everywhere = ("status", "--all-namespaces", "--context", context["name"])
    end = command(*everywhere, "-o", "json", kubeconfig=stack.kube.kubeconfig)
    (cluster,) = _json(end)["clusters"]
    (own,) = [one for one in cluster["stacks"] if one["namespace"] == NAMESPACE]
    alone = _json(command("status", "-o", "json"))
    facts = [
        [(one["job"], one["last_success"], one["red"]) for one in stack["jobs"]] for stack in (own, alone)
    ]
    assert facts[0] == facts[1]
    shown = command(*everywhere, kubeconfig=stack.kube.kubeconfig).stdout
    assert f"  {NAMESPACE} " in shown
    refused = command("status", "-A")
    assert refused.returncode == 77, refused
    assert "You may not list cronjobs.batch in all namespaces." in refused.stderr
    other = command("status", "--context", context["name"], "--context", "nowhere")
    assert other.returncode == 1, other
    assert f"  {NAMESPACE} " in other.stdout
    assert "nowhere: There is no context nowhere" in other.stdout


@pytest.mark.usefixtures("backup")
def test_a_recovery_brings_the_named_dump_back(command: Command, stack: ClusterStack, tmp_path: Path) -> None:
    stack.database.execute("CREATE TABLE kept AS SELECT 1 AS number", "frag")
    dump = _json(command("run", contract.HOURLY, "-o", "json"))["verdict"]["dump"]
    stack.database.execute("DROP TABLE kept; CREATE TABLE lost AS SELECT 1 AS number", "frag")
    assert command("run", contract.HOURLY).returncode == 0
    end = command("recover", "database", "--dump", dump, "--confirm", NAMESPACE, "-o", "json")
    document = _json(end)
    assert (end.returncode, document["verdict"]["outcome"]) == (0, "recovered"), end
    assert document["verdict"]["dump"] == dump
    assert tables(stack) == ["kept"]
    # Whoever asks for evidence finds that very run, and how long a recovery of that dump takes.
    page = tmp_path / "report.html"
    report = _json(command("report", "--days", "1", "--html", str(page), "-o", "json"))
    assert report["problems"] == []
    assert report["runs"][-1]["verdict"] == document["verdict"]
    assert [run["verdict"]["outcome"] for run in report["runs"]].count("published") >= 3
    (point,) = [one for one in report["places"][0]["points"] if one["dump"] == dump]
    assert point["recovery"] == {"seconds": document["verdict"]["seconds"], "basis": "recovery"}
    assert time_of(dump) in page.read_text()


@pytest.mark.usefixtures("refusing")
def test_a_recovery_hands_on_its_confirmation_and_dump(command: Command) -> None:
    name = dump_name("2026-11-25T01:51:00Z", "gz")
    end = command("recover", "database", "--dump", name, "--confirm", NAMESPACE)
    assert end.returncode == 77, end
    assert f'The confirmation is "{NAMESPACE}" and the dump "2026-11-25T01:51:00Z".' in " ".join(
        end.stdout.replace("│", " ").split()
    )
    assert "The database is as it was." in end.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["recover", "database"], 64, f"Confirm it with --confirm {NAMESPACE}"),
        (
            ["recover", "database", "--confirm", "production-stack"],
            77,
            "'production-stack', but the namespace",
        ),
        (["drill"], 64, "There is no job database-drill"),
        (["run", "bogus"], 64, f"There are: {RECOVERY}, {contract.DOCTOR}, media-recovery,"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_refused_starts_nothing(
    command: Command, stack: ClusterStack, arguments: list[str], code: int, says: str
) -> None:
    before = _jobs(stack)
    end = command(*arguments)
    assert end.returncode == code, end
    assert says in end.stderr
    assert _jobs(stack) == before


class Terminal:
    """The command line on a terminal of its own."""

    def __init__(self, kubeconfig: Path, *arguments: str) -> None:
        self._here, there = pty.openpty()
        self.process = subprocess.Popen(
            _words(*arguments),
            env=os.environ | {"KUBECONFIG": str(kubeconfig), "COLUMNS": "160", "TERM": "xterm"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        self.seen = ""

    def until(self, text: str | None, seconds: float = 120) -> None:
        """Read until `text` has come, or (None) all has."""
        deadline = time.monotonic() + seconds
        while text is None or text not in self.seen:
            assert time.monotonic() < deadline, self.seen
            if not select.select([self._here], [], [], 1)[0]:
                continue
            try:
                part = os.read(self._here, 4096)
            except OSError:  # the other end is closed
                part = b""
            if not part:
                assert text is None, self.seen
                break
            self.seen += part.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._here, text.encode())

    def end(self) -> int:
        """Read all that comes, and return the exit code."""
        self.until(None)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._here)


@pytest.mark.parametrize(
    ("typed", "says"), [(NAMESPACE, "Look again."), ("production-stack", "Nothing was started")]
)
@pytest.mark.usefixtures("refusing")
def test_on_a_terminal_the_namespace_has_to_be_typed(
    operator: Path, stack: ClusterStack, typed: str, says: str
) -> None:
    before = _jobs(stack)
    with Terminal(operator, "recover", "database") as terminal:
        terminal.until("Type the namespace")
        assert _jobs(stack) == before
        terminal.type(f"{typed}\n")
        assert terminal.end() == 77, terminal.seen
        assert says in terminal.seen


@pytest.mark.usefixtures("refusing")
def test_an_interrupt_leaves_the_job_running_and_says_its_name(operator: Path, stack: ClusterStack) -> None:
    before = _jobs(stack)
    with Terminal(operator, "run", RECOVERY, "--set", "SLEEP=300") as terminal:
        terminal.until("I was told to sleep 300 s.")
        terminal.until(f"{RECOVERY}: running")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end() == 130, terminal.seen
        seen = " ".join(terminal.seen.split())
    (name,) = _jobs(stack) - before
    assert f"Job {name} in {NAMESPACE} keeps running without this command." in seen
    job = stack.kube.get("Job", name, NAMESPACE)
    assert job is not None
    assert finished(job) is None
    stack.kube.delete("Job", name, NAMESPACE)


def _without(verb: str, resource: str) -> dict[str, Any]:
    role = documented_role()
    rules = [
        rule | {"verbs": [one for one in rule["verbs"] if one != verb or rule["resources"] != [resource]]}
        for rule in role["rules"]
    ]
    return role | {"rules": [rule for rule in rules if rule["verbs"]]}


@pytest.mark.parametrize(
    ("arguments", "verb", "resource", "says"),
    [
        (["status"], "list", "cronjobs", "list cronjobs.batch"),
        (["status"], "list", "pods", "list pods"),
        (["run", contract.HOURLY], "create", "jobs", "create jobs.batch"),
    ],
    ids=["cronjobs", "pods", "jobs"],
)
def test_a_right_that_lacks_is_named(
    command: Command,
    stack: ClusterStack,
    tmp_path: Path,
    arguments: list[str],
    verb: str,
    resource: str,
    says: str,
) -> None:
    kubeconfig = access(stack, f"no-{verb}-{resource}", _without(verb, resource), tmp_path)
    before = _jobs(stack)
    end = command(*arguments, kubeconfig=kubeconfig)
    assert end.returncode == 77, end
    assert f"You may not {says} in namespace {NAMESPACE}." in end.stderr
    assert len(end.stderr.splitlines()) == 1
    assert _jobs(stack) == before


def test_a_stranger_is_told_to_log_in(command: Command, operator: Path, tmp_path: Path) -> None:
    stranger = tmp_path / "kubeconfig"
    stranger.write_text(operator.read_text().replace("token: ", "token: x"))
    end = command("status", kubeconfig=stranger)
    assert end.returncode == 77, end
    assert "does not know you: log in again" in end.stderr


@pytest.fixture
def empty(runtime: ClusterRuntime) -> Iterator[str]:
    name = "stack-test-nothing"
    if not runtime.kube.get("Namespace", name):
        runtime.kube.create(namespace_object(name))
    yield name
    runtime.kube.delete("Namespace", name)


def test_a_namespace_without_a_release_names_those_that_have_one(
    command: Command, stack: ClusterStack, empty: str
) -> None:
    end = command("status", "-n", empty, kubeconfig=stack.kube.kubeconfig)
    assert end.returncode == 66, end
    assert f"no release of stack-backup with any job in namespace {empty}." in end.stderr
    assert NAMESPACE in end.stderr.split("These namespaces have one:")[1]


def test_who_may_not_look_into_a_namespace_learns_nothing_of_others(command: Command, empty: str) -> None:
    end = command("status", "-n", empty)
    assert end.returncode == 77, end
    assert f"You may not list cronjobs.batch in namespace {empty}." in end.stderr
    assert f"namespace {NAMESPACE}" not in end.stderr
