"""The release of one namespace, as far as the operator's rights go; every refusal is a sentence."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api
from kubernetes.config.config_exception import ConfigException
from kubernetes.config.kube_config import KUBE_CONFIG_DEFAULT_LOCATION
from kubernetes.stream import stream
from websocket import ABNF, WebSocketBadStatusException, WebSocketException
from yaml import YAMLError

from stack_backup import CliError, Exit
from stack_backup.api import Api
from stack_backup.runs import Object
from stack_backup.waiting import View

RELEASE_LABEL = "app.kubernetes.io/name=stack-backup"
TIMEOUTS = (10, 90)
"""Seconds to connect, and between two pieces of an answer; programs print a line every 30 s."""
STDOUT = b"\1"
"""The first byte of what a command has printed."""
_RESOURCES = {
    "CronJob": "cronjobs.batch",
    "Event": "events",
    "Job": "jobs.batch",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
}


class _Client(ApiClient):
    """A client that gives up on a cluster that does not answer."""

    def call_api(self, *arguments: Any, **options: Any) -> Any:
        return super().call_api(*arguments, **options | {"_request_timeout": TIMEOUTS})


def connect(kubeconfig: str | None, context: str | None, namespace: str | None) -> Release:
    """The release of a namespace: where none is named, that of the kubeconfig's context. Raises CliError."""
    file = kubeconfig or os.environ.get("KUBECONFIG") or KUBE_CONFIG_DEFAULT_LOCATION
    settings = Configuration()
    try:
        contexts, active = config.list_kube_config_contexts(file)  # type: ignore[no-untyped-call]
        if context is not None:
            known = {one["name"]: one for one in contexts}
            if context not in known:
                raise CliError(Exit.USAGE, f"There is no context {context}; there are: {_listed(known)}.")
            active = known[context]
        config.load_kube_config(file, active["name"], settings)  # type: ignore[no-untyped-call]
    except (ConfigException, YAMLError, OSError, TypeError, KeyError) as error:
        raise CliError(
            Exit.UNREACHABLE,
            f"No cluster can be reached: the kubeconfig {file} is missing or unusable "
            f"({_first_line(error)}). Name one with --kubeconfig or in KUBECONFIG.",
        ) from error
    settings.retries = False
    place = namespace or active.get("context", {}).get("namespace") or "default"
    return Release(_Client(settings), place, str(settings.host), str(active["name"]))


class Release:
    """The release in `namespace`. Its methods raise CliError, whatever goes wrong."""

    def __init__(self, client: ApiClient, namespace: str, host: str, context: str) -> None:
        self.namespace, self.cluster, self.context = namespace, host, context
        self._forbidden: set[str] = set()
        self._logs = CoreV1Api(client)
        with self._asking("use", "the API"):
            self._api = Api(client)

    def cronjobs(self) -> dict[str, Object]:
        """The release's CronJobs by name: its jobs."""
        with self._asking("list", "cronjobs.batch"):
            found = self._api.find("CronJob", self.namespace, labels=RELEASE_LABEL)
        if not found:
            raise CliError(
                Exit.NO_RELEASE,
                f"There is no release of stack-backup with any job in namespace {self.namespace}."
                f"{self._elsewhere()}",
            )
        return {one["metadata"]["name"]: one for one in found}

    def at(self, namespace: str) -> Release:
        """The release of another namespace of the same cluster."""
        other = copy.copy(self)
        other.namespace, other._forbidden = namespace, set()
        return other

    def namespaces(self) -> list[str]:
        """Every namespace of the cluster that has a release."""
        with self._asking("list", "cronjobs.batch", "all namespaces"):
            found = self._api.find("CronJob", labels=RELEASE_LABEL)
        if not found:
            raise CliError(
                Exit.NO_RELEASE,
                f"No namespace of the cluster at {self.cluster} has a release of stack-backup with any job.",
            )
        return sorted({one["metadata"]["namespace"] for one in found})

    def cronjob(self, name: str) -> Object:
        jobs = self.cronjobs()
        if name not in jobs:
            raise CliError(
                Exit.USAGE,
                f"There is no job {name} in namespace {self.namespace}; nothing was started. There are: "
                f"{_listed(jobs)}.",
            )
        return jobs[name]

    def find(self, kind: str, labels: str | None = None) -> list[Object]:
        with self._asking("list", _RESOURCES[kind]):
            return self._api.find(kind, self.namespace, labels=labels)

    def view(self) -> View:
        """What explains why something does not start, as far as this user may see it."""
        return View(self._find_if_allowed("Event"), self._find_if_allowed("PersistentVolumeClaim"))

    def _find_if_allowed(self, kind: str) -> list[Object] | None:
        if kind in self._forbidden:
            return None
        try:
            return self.find(kind)
        except CliError as problem:
            if problem.code != Exit.REFUSED:
                raise
            self._forbidden.add(kind)
            return None

    def exists(self, kind: str, name: str) -> bool | None:
        """Whether there is one, without its content; None for somebody who may not know."""
        if kind in self._forbidden:
            return None
        try:
            with self._asking("get", f"{kind.lower()}s"):
                return self._api.metadata(kind, name, self.namespace) is not None
        except CliError as problem:
            if problem.code != Exit.REFUSED:
                raise
            self._forbidden.add(kind)
            return None

    def get(self, kind: str, name: str) -> Object | None:
        with self._asking("get", _RESOURCES[kind]):
            return self._api.get(kind, name, self.namespace)

    def create(self, body: Object) -> Object:
        with self._asking("create", _RESOURCES[body["kind"]]):
            return self._api.create(body, self.namespace)

    def delete(self, kind: str, name: str) -> None:
        with self._asking("delete", _RESOURCES[kind]):
            self._api.delete(kind, name, self.namespace)

    def log(self, pod: str, container: str, *, follow: bool = False) -> Iterator[str]:
        """The lines that a container has printed and, with `follow`, prints until it ends."""
        with self._asking("get", "pods/log"):
            answer: Any = self._logs.read_namespaced_pod_log(
                pod, self.namespace, container=container, follow=follow, _preload_content=False
            )
            try:
                for line in answer:
                    yield line.decode(errors="replace").rstrip("\n")
            finally:
                answer.close()

    def execute(self, pod: str, container: str, command: list[str]) -> Iterator[bytes]:
        """What a command in a running container prints, as it comes.

        It may end early without a word: an API server cuts such streams. Who asks must know what is to come.
        """
        with self._asking("create", "pods/exec"):
            try:
                answer: Any = stream(
                    self._logs.connect_get_namespaced_pod_exec,
                    pod,
                    self.namespace,
                    container=container,
                    command=command,
                    stdout=True,
                    stderr=False,
                    _preload_content=False,
                    binary=True,
                )
            except ApiException as error:
                raise _refused_handshake(error) from error
            # Its own reading keeps all that has come in memory.
            connection = answer.sock
            connection.settimeout(TIMEOUTS[1])
            try:
                while True:
                    kind, frame = connection.recv_data_frame(True)
                    if kind == ABNF.OPCODE_CLOSE:
                        return
                    if kind == ABNF.OPCODE_BINARY and frame.data[:1] == STDOUT:
                        yield frame.data[1:]
            except WebSocketException as error:
                raise OSError(str(error) or type(error).__name__) from error
            finally:
                connection.shutdown()

    def _elsewhere(self) -> str:
        """Where there is one, if this user may know."""
        try:
            everywhere = self._api.find("CronJob", labels=RELEASE_LABEL)
        except (ApiException, urllib3.exceptions.HTTPError):
            return " Name another one with --namespace."
        places = sorted({one["metadata"]["namespace"] for one in everywhere})
        return f" These namespaces have one: {_listed(places)}." if places else " No namespace has one."

    @contextmanager
    def _asking(self, verb: str, resource: str, where: str = "") -> Iterator[None]:
        try:
            yield
        except ApiException as error:
            raise self._refusal(error, verb, resource, where or f"namespace {self.namespace}") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise CliError(
                Exit.UNREACHABLE, f"The cluster at {self.cluster} does not answer: {_first_line(error)}."
            ) from error

    def _refusal(self, error: ApiException, verb: str, resource: str, where: str) -> CliError:
        said = _message(error)
        if not error.status:
            return CliError(Exit.UNREACHABLE, f"The cluster at {self.cluster} does not answer: {said}.")
        if error.status == 401:
            return CliError(
                Exit.REFUSED,
                f"The cluster at {self.cluster} does not know you: log in again and retry.",
            )
        if error.status == 403 and "cannot " in said:
            return CliError(
                Exit.REFUSED,
                f"You may not {verb} {resource} in {where}. Ask for that right: the Role "
                "that this command needs is in docs/command-line.md.",
            )
        return CliError(Exit.RED, f"The cluster refused to {verb} {resource} in {where}: {said}.")


def _refused_handshake(error: ApiException) -> ApiException:
    """The API server's own refusal, which the client has made a text without a status of."""
    refusal = error.__context__
    if not isinstance(refusal, WebSocketBadStatusException):
        return error
    told = ApiException(status=refusal.status_code, reason=refusal.status_message)
    told.body = (refusal.resp_body or b"").decode(errors="replace")
    return told


def _message(error: ApiException) -> str:
    """The API server's own sentence."""
    try:
        return str(json.loads(error.body or "")["message"]).rstrip(".")
    except (TypeError, ValueError, KeyError):
        return _first_line(error.reason)


def _first_line(error: object) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _listed(names: object) -> str:
    return ", ".join(sorted(names))  # type: ignore[call-overload]
