"""A release whose Jobs are real pods of a stack on this machine: as a cluster's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stack_backup import CliError, Exit
from stack_backup.runs import JobResult, Object
from stack_backup.waiting import View
from stack_backup_jobs.formats import stamp
from stack_backup_lab.render import Objects, render
from stack_backup_lab.runtime.local import LocalStack, RunningJob


class StackRelease:
    """Stands for `release.Release`."""

    def __init__(self, stack: LocalStack, values: Mapping[str, Any]) -> None:
        self.namespace = stack.namespace
        self._stack = stack
        self._objects = list(render(values, namespace=stack.namespace))
        self._bodies: dict[str, Object] = {}
        self._running: dict[str, RunningJob] = {}
        self._ended: dict[str, JobResult] = {}
        self.started: list[str] = []
        """The jobs whose CronJobs' runs were started; readings are none."""

    def cronjobs(self) -> dict[str, Object]:
        found = {one["metadata"]["name"]: one for one in self._objects if one["kind"] == "CronJob"}
        for one in found.values():
            one["metadata"]["uid"] = "1"
        return found

    def cronjob(self, name: str) -> Object:
        if name not in self.cronjobs():
            raise CliError(Exit.USAGE, f"There is no job {name}; nothing was started.")
        return self.cronjobs()[name]

    def create(self, body: Object) -> Object:
        name, owners = body["metadata"]["name"], body["metadata"].get("ownerReferences", ())
        self.started += [owner["name"] for owner in owners]
        own = {"kind": "CronJob", "metadata": {"name": name}, "spec": {"jobTemplate": {"spec": body["spec"]}}}
        self._stack.apply(Objects([*self._objects, own]))
        self._bodies[name] = body | {"metadata": body["metadata"] | {"creationTimestamp": stamp()}}
        self._running[name] = self._stack.start(name)
        return body

    def get(self, kind: str, name: str) -> Object | None:
        assert kind == "Job"
        if name not in self._bodies:
            return None
        return self._bodies[name] | {"status": self._status(name)}

    def _status(self, name: str) -> Object:
        began = self._bodies[name]["metadata"]["creationTimestamp"]
        if (end := self._end(name)) is None:
            return {"startTime": began}
        over = {"type": "Failed", "reason": "PodFailurePolicy"} if end.exit_code else {"type": "Complete"}
        status = {"conditions": [{**over, "status": "True", "lastTransitionTime": stamp()}]}
        return status | {"startTime": began} | ({} if end.exit_code else {"completionTime": stamp()})

    def _end(self, name: str) -> JobResult | None:
        if name not in self._ended and not self._running[name].pod.running:
            self._ended[name] = self._running[name].wait()
        return self._ended.get(name)

    def find(self, kind: str, labels: str | None = None) -> list[Object]:
        key, _, wanted = (labels or "").partition("=")
        if kind == "Job":
            own = [name for name, one in self._bodies.items() if one["metadata"]["labels"].get(key) == wanted]
            return [found for name in own if (found := self.get("Job", name))]
        return [self._pod(wanted, key)] if wanted in self._bodies else []

    def _pod(self, name: str, label: str) -> Object:
        state: Object = {"running": {}}
        if (end := self._end(name)) is not None:
            last = end.log.splitlines()[-1] if end.verdict else ""
            state = {"terminated": {"exitCode": end.exit_code, "message": last}}
        (container,) = self._bodies[name]["spec"]["template"]["spec"]["containers"]
        status = {"name": container["name"], "containerID": "i", "state": state}
        return {
            "metadata": {"name": name, "labels": {label: name}, "creationTimestamp": "2026-11-25T12:00:00Z"},
            "spec": {"containers": [{"name": container["name"]}]},
            "status": {"containerStatuses": [status]},
        }

    def log(self, pod: str, container: str, *, follow: bool = False) -> Iterator[str]:  # noqa: ARG002
        text = self._ended[pod].log if pod in self._ended else self._running[pod].pod.log
        yield from text[: text.rfind("\n") + 1].splitlines()

    def execute(self, pod: str, container: str, command: list[str]) -> Iterator[bytes]:  # noqa: ARG002
        said = self._running[pod].pod.execute(command)
        yield from (said[at : at + 65536] for at in range(0, len(said), 65536))

    def view(self) -> View:
        return View(None, None)

    def delete(self, kind: str, name: str) -> None:
        assert kind == "Job"
        if name not in self._ended:
            self._running[name].pod.close()
        del self._bodies[name]

    @property
    def left(self) -> list[str]:
        """Jobs of the command line's own that are still there."""
        return [name for name in self._bodies if name.startswith(("list-", "fetch-"))]
