"""A release whose listing Jobs run for real, on folders of this machine; other Jobs end as a test says."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stack_backup import CliError, Exit
from stack_backup.runs import Object, variables
from stack_backup.waiting import View
from stack_backup_jobs.formats import (
    MANIFESTS,
    OWN,
    STATE,
    Manifest,
    MediaState,
    Verdict,
    dump_name,
    manifest_name,
    verdict_of,
)
from stack_backup_jobs.listing import STORE
from stack_backup_lab.render import CHART, merge_values, render

NAMESPACE = "staging-stack"
PERSISTENT = "persistentVolumeClaim"
VALUES: dict[str, Any] = {
    "postgresBackupHourly": {"enabled": False},
    "databaseRecovery": {"enabled": True},
    "mediaRecovery": {"enabled": True},
    "volumes": {
        "databaseReplica": {"existingClaim": "dumps"},
        "mediaReplica": {"existingClaim": "media-replica"},
        "media": {"existingClaim": "media"},
    },
}


class Offering:
    """The pod of a fetch: its program for real, and what is run in it."""

    def __init__(self, volume: Path, dump: str, **environment: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="offering."))
        self._log = (self._folder / "log").open("w+b")
        self._environment = {"PATH": os.environ["PATH"], "TMPDIR": str(self._folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-I", CHART / "files", "fetch"],
            env=self._environment
            | {"JOB": "fetch", "PLACE": str(volume), "DUMP": dump, "DEADLINE_SECONDS": "300"}
            | environment,
            stdout=self._log,
        )
        self.cut: list[int] = []
        """After how many bytes each of the next streams ends, without a word."""
        self.spoil: Callable[[bytes], bytes] = bytes
        self.asked = 0

    def pod(self, job: str, label: str) -> Object:
        code = self.process.poll()
        state: Object = {"running": {}}
        if code is not None:
            state = {"terminated": {"exitCode": code, "message": list(self.lines())[-1]}}
        return {
            "metadata": {"name": job, "labels": {label: job}, "creationTimestamp": "2026-11-25T12:00:00Z"},
            "spec": {"containers": [{"name": "program"}]},
            "status": {"containerStatuses": [{"name": "program", "containerID": "i", "state": state}]},
        }

    def lines(self) -> Iterator[str]:
        text = (self._folder / "log").read_text()
        yield from text[: text.rfind("\n") + 1].splitlines()

    def execute(self, command: list[str]) -> Iterator[bytes]:
        self.asked += 1
        said = subprocess.run(command, env=self._environment, capture_output=True, check=True).stdout
        said = said[: self.cut.pop(0)] if self.cut else said
        yield from (self.spoil(said[at : at + 4096]) for at in range(0, len(said), 4096))

    def end(self) -> None:
        self.process.terminate()
        self.process.wait()
        self._log.close()
        shutil.rmtree(self._folder)


class Machine:
    """Stands for `release.Release`: `volumes` holds a folder for each claim."""

    namespace = NAMESPACE

    def __init__(self, volumes: Path, values: Mapping[str, Any] | None = None) -> None:
        self.volumes = volumes
        for claim in ("dumps", "media-replica", "history"):
            (volumes / claim).mkdir(parents=True)
        objects = render(merge_values(VALUES, values or {}), namespace=NAMESPACE)
        self._cronjobs = {item["metadata"]["name"]: item for item in objects.of_kind("CronJob")}
        for item in self._cronjobs.values():
            item["metadata"]["uid"] = "1"
        self.store: list[str] = []
        """What the listing of the off-site store says, which only a pod of `tests/jobs` reaches."""
        self.ends: dict[str, tuple[int, str]] = {}
        """Exit code and sentence of a job that is no listing; else it ends well."""
        self.started: list[tuple[str, dict[str, str]]] = []
        """Those that were, with what their programs were given."""
        self._jobs: dict[str, Object] = {}
        self._logs: dict[str, list[str]] = {}
        self.offering: Offering

    # ---- what lies there ----

    def plant(self, time: str, *records: tuple[str, ...], folder: str = "hourly", data: bytes = b"x") -> Path:
        """A dump, with a manifest where there are records."""
        path = self.volumes / "dumps" / folder / dump_name(time, "gz")
        (path.parent / MANIFESTS).mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        if records:
            manifest = Manifest((("name", path.name), ("bytes", str(len(data))), *records))
            (path.parent / MANIFESTS / manifest_name(path.name)).write_text(manifest.format())
        return path

    def mirror(self, state: MediaState) -> None:
        folder = self.volumes / "media-replica" / OWN
        folder.mkdir(exist_ok=True)
        (folder / STATE).write_text(state.text())

    # ---- as a release ----

    def cronjobs(self) -> dict[str, Object]:
        return dict(self._cronjobs)

    def cronjob(self, name: str) -> Object:
        if name not in self._cronjobs:
            raise CliError(Exit.USAGE, f"There is no job {name}; nothing was started.")
        return self._cronjobs[name]

    def create(self, body: Object) -> Object:
        name = body["metadata"]["name"]
        (container,) = body["spec"]["template"]["spec"]["containers"]
        environment = variables(body["spec"])
        if container["command"][-1] == "list":
            code, log = self._listing(body, environment)
        elif container["command"][-1] == "fetch":
            self._jobs[name] = body
            self.offering = Offering(
                self.volumes / "dumps", environment["DUMP"], SANITISED_ONLY=environment["SANITISED_ONLY"]
            )
            return body
        else:
            job = environment["JOB"]
            self.started.append((job, environment))
            code, said = self.ends.get(job, (0, "It is done."))
            log = [Verdict(job, code, "failed" if code else "recovered", said, {}, 3).line()]
        self._logs[name] = log
        self._jobs[name] = body | {
            "metadata": body["metadata"] | {"creationTimestamp": "2026-11-25T12:00:00Z"},
            "status": self._status(code),
        }
        return body

    def _listing(self, body: Object, environment: dict[str, str]) -> tuple[int, list[str]]:
        volumes = body["spec"]["template"]["spec"]["volumes"]
        claims = [one[PERSISTENT]["claimName"] for one in volumes if PERSISTENT in one]
        if environment["WHAT"] == STORE:
            assert not claims
            return 0, [*self.store, Verdict("list", 0, "listed", "", {}, 1).line()]
        (claim,) = claims
        place = {"PLACE": str(self.volumes / claim), "TMPDIR": os.environ.get("TMPDIR", "/tmp")}
        done = subprocess.run(
            [sys.executable, "-I", CHART / "files", "list"],
            env={key: environment[key] for key in ("JOB", "WHAT", "DEADLINE_SECONDS")} | place,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    @staticmethod
    def _status(code: int) -> Object:
        end = {
            "type": "Failed" if code else "Complete",
            "status": "True",
            "reason": "PodFailurePolicy" if code else "",
            "lastTransitionTime": "2026-11-25T12:01:00Z",
        }
        times = {"startTime": "2026-11-25T12:00:00Z"}
        times |= {} if code else {"completionTime": "2026-11-25T12:01:00Z"}
        return {"conditions": [end], **times}

    def get(self, kind: str, name: str) -> Object | None:
        assert kind == "Job"
        job = self._jobs.get(name)
        if job is None or "status" in job:
            return job
        code = self.offering.process.poll()
        times = {"creationTimestamp": "2026-11-25T12:00:00Z"}
        status = {} if code is None else self._status(code)
        return job | {"metadata": job["metadata"] | times, "status": status}

    def find(self, kind: str, labels: str | None = None) -> list[Object]:
        key, _, wanted = (labels or "").partition("=")
        if kind == "Job":
            return [job for job in self._jobs.values() if job["metadata"]["labels"].get(key) == wanted]
        if wanted not in self._jobs:
            return []
        if wanted not in self._logs:
            return [self.offering.pod(wanted, key)]
        last = self._logs[wanted][-1]
        ended = {"exitCode": verdict_of(last).get("exit", 1), "message": last}
        status = {"name": "program", "containerID": "i", "state": {"terminated": ended}}
        metadata = {"name": wanted, "labels": {key: wanted}, "creationTimestamp": "2026-11-25T12:00:00Z"}
        return [{"metadata": metadata, "status": {"containerStatuses": [status]}}]

    def log(self, pod: str, container: str, *, follow: bool = False) -> Iterator[str]:  # noqa: ARG002
        yield from self._logs[pod] if pod in self._logs else self.offering.lines()

    def execute(self, pod: str, container: str, command: list[str]) -> Iterator[bytes]:
        assert (pod in self._jobs, container) == (True, "program")
        yield from self.offering.execute(command)

    def view(self) -> View:
        return View(None, None)

    def delete(self, kind: str, name: str) -> None:
        assert kind == "Job"
        if name not in self._logs:
            self.offering.end()
        del self._jobs[name]

    @property
    def left(self) -> list[str]:
        """Jobs of the command line's own that are still there."""
        return [name for name in self._jobs if name.startswith(("list-", "fetch-"))]
