"""A cluster's API as the cluster runtime and its tests need it.

Objects go as in `api`; what is a stream (exec, port-forward) or printed for a person (describe, events, logs)
goes through kubectl.
"""

from __future__ import annotations

import re
import subprocess
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

from kubernetes import config

from stack_backup.api import Api, Found, NotInTimeError
from stack_backup.runs import Object
from stack_backup_lab.runtime import StackError

__all__ = ["Kube", "KubeError", "Object", "PortForward"]


class KubeError(StackError):
    """The cluster refused something or was not done in time; the message says what, with evidence."""


class Kube(Api):
    """One cluster, reached by its kubeconfig and nothing else (no KUBECONFIG, no ~/.kube)."""

    def __init__(self, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl
        super().__init__(config.new_client_from_config(config_file=str(kubeconfig)))  # type: ignore[no-untyped-call]

    # Objects

    def wait(
        self,
        kind: str,
        until: Callable[[list[Object]], Found | None],
        *,
        what: str,
        timeout: float,
        namespace: str | None = None,
        name: str | None = None,
        labels: str | None = None,
    ) -> Found:
        """Watch the selected objects until `until`, given all of them, returns something true; return that.

        `timeout` in seconds. Raises `KubeError` with events, descriptions and logs when it has passed, or at
        once when `until` raises one because waiting has become pointless.
        """
        selection = {"namespace": namespace, "name": name, "labels": labels}
        try:
            return self.watch(kind, until, timeout=timeout, **selection)
        except (KubeError, NotInTimeError) as error:
            evidence = "" if namespace is None else "\n" + self.evidence(namespace)
            raise KubeError(f"{what}: {error}{evidence}") from error

    def log(self, namespace: str, pod: str, container: str) -> str:
        return self.run("logs", pod, "--container", container, namespace=namespace).decode(errors="replace")

    def evidence(self, namespace: str) -> str:
        """What a person would ask for first: what there is, events, and all about pods that are not well."""
        pods = self.find("Pod", namespace)
        unwell = [f"pod/{pod['metadata']['name']}" for pod in pods if not _well(pod)]
        commands: list[tuple[str, ...]] = [
            ("get", "pods,jobs,cronjobs,statefulsets,persistentvolumeclaims"),
            ("get", "events", "--sort-by=.lastTimestamp"),
            *(("describe", pod) for pod in unwell),
            *(("logs", pod, "--all-containers", "--prefix", "--tail=40") for pod in unwell),
        ]
        parts = []
        for command in commands:
            shown = f"$ kubectl --namespace {namespace} {' '.join(command)}\n"
            try:
                parts.append(shown + self.run(*command, namespace=namespace).decode(errors="replace"))
            except (KubeError, subprocess.TimeoutExpired) as error:  # a pod that never started has no log
                parts.append(f"{shown}{error}\n")
        return "\n".join(parts)

    # Streams

    def _command(self, *arguments: str, namespace: str | None) -> Sequence[str]:
        scope = () if namespace is None else ("--namespace", namespace)
        return (str(self._kubectl), "--kubeconfig", str(self.kubeconfig), *scope, *arguments)

    def run(
        self,
        *arguments: str,
        namespace: str | None = None,
        stdin: IO[bytes] | bytes | None = None,
        stdout: IO[bytes] | None = None,
        timeout: float = 600,
    ) -> bytes:
        """Run kubectl and return what it printed (nothing where `stdout` takes it). Raises `KubeError`."""
        source: dict[str, Any] = (
            {"input": stdin or b""} if isinstance(stdin, bytes | None) else {"stdin": stdin}
        )
        ended = subprocess.run(
            self._command(*arguments, namespace=namespace),
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
            **source,
        )
        if ended.returncode:
            # The subcommand alone names the call: arguments may hold a whole script.
            said = ended.stderr.decode(errors="replace").strip()
            raise KubeError(f"kubectl {arguments[0]} in {namespace} ended with {ended.returncode}: {said}")
        return ended.stdout or b""

    def execute(self, namespace: str, pod: str, *command: str, **streams: Any) -> bytes:
        """Run a command in a pod's first container; standard input reaches its end there. See `run`."""
        return self.run("exec", "--stdin", "--quiet", pod, "--", *command, namespace=namespace, **streams)


def _well(pod: Object) -> bool:
    ready = {one["status"] for one in pod["status"].get("conditions", ()) if one["type"] == "Ready"}
    return pod["status"]["phase"] == "Succeeded" or ready == {"True"}


class PortForward:
    """A pod's port at a free port of this machine's loopback, until closed; begun again if kubectl ends."""

    _FORWARDING = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ->")

    def __init__(self, kube: Kube, namespace: str, pod: str, port: int) -> None:
        arguments = ("port-forward", "--address=127.0.0.1", f"pod/{pod}", f":{port}")
        self._command = kube._command(*arguments, namespace=namespace)
        self._child: subprocess.Popen[bytes] | None = None
        self._reader: threading.Thread | None = None
        self._port = 0

    def port(self) -> int:
        """The local port; raises `KubeError` when kubectl ends instead of forwarding."""
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._start()
        return self._port

    def _start(self) -> None:
        self._child = child = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert child.stdout is not None
        said = b""
        for line in child.stdout:
            said += line
            if match := self._FORWARDING.match(line):
                self._port = int(match[1])
                # It prints a line a connection: unread, they would fill the pipe and stop it.
                self._reader = threading.Thread(target=deque, args=(child.stdout, 0), daemon=True)
                self._reader.start()
                return
        self.close()
        raise KubeError(f"kubectl port-forward ended: {said.decode(errors='replace').strip()}")

    def close(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.terminate()
        child.wait()
        if self._reader is not None:
            self._reader.join()
        assert child.stdout is not None
        child.stdout.close()
