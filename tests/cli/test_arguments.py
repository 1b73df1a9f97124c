"""What the command line says without a cluster: wrong arguments, no kubeconfig, nobody there."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from stack_backup import CliError, Exit, release
from stack_backup.app import Unfinished, app, main
from stack_backup_jobs.media_recovery import Settings
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import render

KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
    "users": [{"name": "u", "user": {}}],
    "contexts": [
        {"name": "production", "context": {"cluster": "c", "user": "u", "namespace": "production-stack"}}
    ],
    "current-context": "production",
}


VOLUMES = {"media": {"existingClaim": "media"}, "mediaReplica": {"existingClaim": "media-replica"}}


class End(NamedTuple):
    """How the command line ended."""

    code: int
    stdout: str
    stderr: str


Command = Callable[..., End]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """The command line with no terminal, in a home of its own; `kubeconfig` is for the environment."""

    def run(*arguments: str, kubeconfig: Path | None = None) -> End:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr("sys.stdin", io.StringIO())
        monkeypatch.setattr(release, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / ".kube" / "config"))
        if kubeconfig is None:
            monkeypatch.delenv("KUBECONFIG", raising=False)
        else:
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        code = main(arguments)
        said = capfd.readouterr()
        return End(code, said.out, said.err)

    return run


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """A kubeconfig of a cluster where nobody listens."""
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(KUBECONFIG))
    return path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["run"], "Missing argument"),
        (["recover", "everything"], "'everything' is not one of 'database', 'media'"),
        (["run", "postgres-backup-hourly", "--set", "KEEP"], "'KEEP' is not of the form NAME=VALUE"),
        (["run", "postgres-backup-hourly", "--set", "1=2"], "'1=2' is not of the form NAME=VALUE"),
        (["recover", "media", "--dump", "latest"], "--dump is only for the database"),
        (["recover", "database", "--delete"], "--delete is only for media"),
        (["recover", "database", "--unfinished", "as-it-is"], "--unfinished is only for media"),
        (
            ["recover", "media", "--unfinished", "so"],
            "'so' is not one of 'refuse', 'last-complete', 'as-it-is'",
        ),
        (["recover", "database", "--dump", "yesterday"], "'yesterday' is not a dump"),
        (["drill", "--dump", "2022-11-28"], "'2022-11-28' is not a dump"),
        (["report", "--days", "0"], "'--days': '0' should be greater than or equal to 1"),
        (["report", "--days", "x"], "'--days': 'x' should be a valid integer\n"),
        (["recover"], "Missing argument 'what'. Choose from: database, media"),
        (["report", "--html", "/nowhere/report.html"], "There is no folder /nowhere. Nothing was read."),
        (["status", "--output", "xml"], "'--output' / '-o': 'xml' is not one of 'text', 'json'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_arguments_end_with_64_and_a_sentence(
    command: Command, kubeconfig: Path, arguments: list[str], says: str
) -> None:
    end = command(*arguments, kubeconfig=kubeconfig)
    assert end.code == 64, end
    assert says in end.stderr
    assert len(end.stderr.splitlines()) == 1
    assert end.stdout == ""


class Release:
    """What the chart installs, with a cluster that takes no Job."""

    namespace = "production-stack"

    def __init__(self) -> None:
        self.objects = render({"mediaRecovery": {"enabled": True, "delete": True}, "volumes": VOLUMES})
        self.told: dict[str, str] = {}

    def cronjob(self, name: str) -> dict[str, Any]:
        cronjob: dict[str, Any] = self.objects.get("CronJob", name)
        cronjob["metadata"]["uid"] = "1"
        return cronjob

    def find(self, kind: str, labels: str) -> list[Any]:  # noqa: ARG002
        return []

    def create(self, job: dict[str, Any]) -> None:
        [container] = job["spec"]["template"]["spec"]["containers"]
        self.told = {one["name"]: one.get("value", "") for one in container["env"]}
        raise CliError(Exit.RED, "No Job is taken here.")


def test_the_version_is_the_project_s_own(command: Command) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    ended = command("--version")
    assert (ended.code, ended.stdout) == (0, f"stack-backup {project['version']}\n")


def test_the_shell_completes_commands_and_options() -> None:
    program = Path(sys.executable).with_name("stack-backup")
    for words, wanted in (("stack-backup dr", "drill"), ("stack-backup status --out", "--output")):
        asked = {"_STACK_BACKUP_COMPLETE": "complete_bash", "COMP_WORDS": words}
        asked["COMP_CWORD"] = str(words.count(" "))
        ended = subprocess.run([program], env=os.environ | asked, capture_output=True, text=True)
        assert ended.stdout.split() == [wanted], ended


@pytest.mark.parametrize(
    ("options", "delete", "unfinished"),
    [
        ([], "true", "refuse"),
        (["--no-delete"], "false", "refuse"),
        (["--unfinished", "as-it-is", "--delete"], "true", "as-it-is"),
    ],
    ids=["the release's values", "no delete", "both"],
)
def test_what_a_recovery_of_the_media_hands_on(
    command: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], delete: str, unfinished: str
) -> None:
    made = Release()
    monkeypatch.setattr(release, "connect", lambda *_: made)
    assert command("recover", "media", "--confirm", made.namespace, *options).code == Exit.RED
    told = {name: made.told[name] for name in ("CONFIRM", "DELETE", "UNFINISHED")}
    assert told == {"CONFIRM": made.namespace, "DELETE": delete, "UNFINISHED": unfinished}


def test_what_may_become_of_an_unfinished_replica_is_what_the_program_knows() -> None:
    [words] = [field.metadata["words"] for field in fields(Settings) if field.name == "unfinished"]
    assert tuple(Unfinished) == words


def test_without_a_command_the_help_lists_them_all(command: Command) -> None:
    end = command()
    for name in ("status", "list", "run", "recover", "drill"):
        assert name in end.stdout + end.stderr


@pytest.mark.parametrize("option", [[], ["--kubeconfig", "/nowhere/config"]], ids=["default", "named"])
def test_no_kubeconfig_ends_with_69(command: Command, option: list[str]) -> None:
    end = command("status", *option)
    assert end.code == 69, end
    assert "the kubeconfig" in end.stderr
    assert "--kubeconfig" in end.stderr


@pytest.mark.parametrize("text", ["", "- a list\n", "clusters: {\n", "apiVersion: v1\nkind: Config\n"])
def test_a_kubeconfig_of_no_use_ends_with_69(command: Command, tmp_path: Path, text: str) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    end = command("status", "--kubeconfig", str(path))
    assert end.code == 69, end
    assert str(path) in end.stderr
    assert "Traceback" not in end.stderr


def test_an_unknown_context_ends_with_64_and_names_those_there_are(
    command: Command, kubeconfig: Path
) -> None:
    end = command("status", "--context", "staging", kubeconfig=kubeconfig)
    assert end.code == 64, end
    assert "There is no context staging; there are: production." in end.stderr


@pytest.mark.parametrize("arguments", [["status"], ["list"], ["run", "x"], ["drill"], ["recover", "media"]])
def test_a_cluster_where_nobody_listens_ends_with_69(
    command: Command, kubeconfig: Path, arguments: list[str]
) -> None:
    end = command(*arguments, kubeconfig=kubeconfig)
    assert end.code == 69, end
    assert "The cluster at http://127.0.0.1:1 does not answer" in end.stderr
    assert "Traceback" not in end.stderr


@pytest.fixture
def plain() -> Iterator[int]:
    """A port that answers in plain text, where TLS is spoken elsewhere."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_cluster_that_speaks_no_tls_ends_with_69(command: Command, tmp_path: Path, plain: int) -> None:
    path = tmp_path / "config"
    clusters = [{"name": "c", "cluster": {"server": f"https://127.0.0.1:{plain}"}}]
    path.write_text(yaml.safe_dump(KUBECONFIG | {"clusters": clusters}))
    end = command("status", kubeconfig=path)
    assert end.code == 69, end
    assert f"The cluster at https://127.0.0.1:{plain} does not answer" in end.stderr
    assert len(end.stderr.splitlines()) == 1


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        yield server.getsockname()[1]


def test_a_cluster_that_never_answers_is_given_up(
    tmp_path: Path, silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    clusters = [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{silent}"}}]
    path.write_text(yaml.safe_dump(KUBECONFIG | {"clusters": clusters}))
    monkeypatch.setattr(release, "TIMEOUTS", (1, 1))
    began = time.monotonic()
    with pytest.raises(CliError, match="does not answer") as caught:
        release.connect(str(path), None, None)
    assert caught.value.code == Exit.UNREACHABLE
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["status", "-o", "json"], 69),
        (["recover", "all", "--output=json"], 64),
        (["--output", "json", "nix"], 64),
    ],
)
def test_an_error_is_one_json_document_where_json_was_asked_for(
    command: Command, kubeconfig: Path, arguments: list[str], code: int
) -> None:
    end = command(*arguments, kubeconfig=kubeconfig)
    assert end.code == code
    document = json.loads(end.stdout)
    assert document["exit"] == code
    assert document["error"] in end.stderr


def test_every_command_has_the_common_options() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    wanted = {"--kubeconfig", "--context", "--namespace", "-n", "--output", "-o"}
    for name, found in commands.items():
        assert wanted <= {option for one in found.params for option in one.opts}, name


def test_help_does_not_load_the_cluster_s_client() -> None:
    code = "import sys, stack_backup.app; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
