"""The local runtime: a stack on this machine, its jobs under bubblewrap, in milliseconds and with faults.

A stack is a set of namespaces (see `sandbox`) with a real PostgreSQL server in it. A job is run as its
CronJob declares it (see `pod`), once: retries are the Job controller's work. What a cluster adds beyond
that (schedule, limits of processors, network policies, system call filters) is not imitated here.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from stack_backup.runs import JobResult, with_environment
from stack_backup_jobs.formats import verdict_of
from stack_backup_lab.bed import images, system
from stack_backup_lab.render import CHART, Objects, RenderError, render
from stack_backup_lab.runtime import StackError, claim_of
from stack_backup_lab.runtime.folders import own_folder
from stack_backup_lab.runtime.lent import Lent
from stack_backup_lab.runtime.pod import Faults, Image, NotStartedError, Pod, Surroundings
from stack_backup_lab.runtime.postgres import SUPERUSER, LocalServer
from stack_backup_lab.runtime.sandbox import Namespaces

IMAGE = "stack-database:15"
USER, DATABASE = "fragalysis", "frag"
OWNER = 999
"""User and group of the chart's pods, who own what lies on claims and exports."""
AWKWARD = ' p:w\\n\'q"" $HOME `id` %s #ü \\'
"""What passwords end in here: all that a program may fail to quote."""


def unpacked(name: str) -> Image:
    """An image of the test bed, made or pulled first where it is not there; registries are left aside."""
    name = name.removeprefix("docker.io/").removeprefix("library/").removeprefix("localhost/")
    rootfs = images.rootfs(name)
    return Image(rootfs, images.IMAGES[name].environment)


class LocalVolume:
    """The files of one claim; a folder that also shows what a fault has mounted there."""

    def __init__(self, namespaces: Namespaces, folder: Path) -> None:
        self._namespaces = namespaces
        self._folder = folder
        self.path = namespaces.seen(folder)
        """The volume's root as this process reaches it."""

    def list(self, folder: str = "") -> list[str]:
        path = self.path / folder
        return sorted(os.listdir(path)) if path.is_dir() else []  # noqa: PTH208 (names, not paths)

    def read(self, path: str) -> bytes:
        return (self.path / path).read_bytes()

    def write(self, path: str, data: bytes) -> None:
        """Write a file as the owner of its folder; folders that are missing are made like the one they lie
        in.
        """
        target = self.path / path
        missing = [folder for folder in target.parents if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir()
            _like(folder.parent, folder)
            folder.chmod(folder.parent.stat().st_mode & 0o7777)
        target.write_bytes(data)
        _like(target.parent, target)

    def remove(self, path: str) -> None:
        target = self.path / path
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink()

    def fetch(self, path: str, to: Path) -> Path:
        return Path(shutil.copy2(self.path / path, to))

    def put_tree(self, folder: Path) -> None:
        copy_tree(folder, self.path)
        subprocess.run(
            ["chown", "--recursive", "--no-dereference", f"{OWNER}:{OWNER}", self.path], check=True
        )

    def get_tree(self, folder: Path) -> None:
        copy_tree(self.path, folder)

    def clear(self) -> None:
        """Remove every file."""
        for name in self.list():
            self.remove(name)

    @contextlib.contextmanager
    def limited(self, size: int) -> Iterator[None]:
        """For the length of a `with` block the volume is a file system of `size` bytes, holding what it held.

        What is written meanwhile is gone afterwards.
        """
        content = self._folder.with_name(f"{self._folder.name}.content")
        self._namespaces.run(["mkdir", "--parents", str(content)])
        self._namespaces.run(["mount", "--bind", str(self._folder), str(content)])
        status = self.path.stat()
        disk = self._folder.with_name(f"{self._folder.name}.disk")
        self._namespaces.mount_disk(disk, self._folder, size)
        try:
            os.chown(self.path, status.st_uid, status.st_gid)
            self.path.chmod(status.st_mode & 0o7777)
            self._namespaces.run(["cp", "--archive", f"{content}/.", str(self._folder)])
            yield
        finally:
            self._namespaces.unmount(self._folder)
            disk.unlink()
            self._namespaces.unmount(content)

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """For the length of a `with` block the volume's file system is read-only."""
        self._namespaces.run(["mount", "--bind", str(self._folder), str(self._folder)])
        self._namespaces.run(["mount", "-o", "remount,bind,ro", str(self._folder)])
        try:
            yield
        finally:
            self._namespaces.unmount(self._folder)


class RunningJob:
    """A job that was started. A context manager: what still runs at its end is killed."""

    def __init__(self, job: str, pod: Pod, seconds: float | None) -> None:
        self.job = job
        self.pod = pod
        self._begun = time.monotonic()
        self._deadline = None if seconds is None else self._begun + seconds
        self._result: JobResult | None = None
        pod.start(self._deadline)

    def __enter__(self) -> RunningJob:
        return self

    def __exit__(self, *_: object) -> None:
        if self._result is None:
            self.pod.close()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to PID 1 of the pod's containers: TERM as the kubelet does, KILL as a lost node
        does.
        """
        self.pod.signal(number)

    def reached(self, point: str, timeout: float = 120) -> None:
        """Wait until a shim has made the file `point` in /faults. Raises AssertionError if the job ends
        before.
        """
        end = time.monotonic() + timeout
        while True:
            running = self.pod.running  # asked first: the last thing that a job does may be to come there
            if (self.pod.faults / point).exists():
                return
            if not running or time.monotonic() > end:
                raise AssertionError(f"{self.job} never came to {point}:\n{self.pod.log}")
            time.sleep(0.01)

    def release(self, point: str) -> None:
        """Make the file `point` in /faults, for a shim that waits for it."""
        (self.pod.faults / point).touch()

    def wait(self, timeout: float = 600) -> JobResult:
        """The result, when the job has ended by itself or by its `activeDeadlineSeconds`.

        Raises TimeoutError after `timeout` seconds; the job is killed then.
        """
        if self._result is not None:
            return self._result
        reason = ""
        limit = time.monotonic() + timeout
        if self.pod.wait(limit if self._deadline is None else min(limit, self._deadline)) is None:
            if self._deadline is None or time.monotonic() < self._deadline:
                self.pod.close()
                raise TimeoutError(f"{self.job} still ran after {timeout:g} s:\n{self.pod.log}")
            reason = "DeadlineExceeded"
            self.pod.terminate()
        self._result = JobResult(
            job=self.job,
            exit_code=self.pod.exit_code,
            verdict=verdict_of(self.pod.termination_message),
            log=self.pod.log,
            seconds=time.monotonic() - self._begun,
            reason=reason or ("OOMKilled" if self.pod.out_of_memory else ""),
            peak_memory=self.pod.peak_memory,
        )
        self.pod.close()
        return self._result


class LocalStack:
    """One namespace on this machine: server, Secret, claims, and a release of the chart.

    `secrets` (data by name and key) may be changed by tests, as an operator would; a job that starts later
    sees it.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        namespace: str,
        server: Path,
        image: Callable[[str], Image],
        chart: Path,
        export: Callable[[Mapping[str, str]], Path],
        lent: Lent,
    ) -> None:
        self.namespace = namespace
        self._export = export
        self._lent = lent
        self._namespaces = namespaces
        self._server = server
        self._image = image
        self._chart = chart
        self._claims: dict[str, Path] = {}
        self._objects = Objects([])
        self._servers = itertools.count(1)
        passwords = {SUPERUSER: f"{secrets.token_hex(8)}{AWKWARD}"}
        self.database = LocalServer(namespaces, server, "database", passwords)
        self.database.start()
        self.database.add_user(USER, f"{secrets.token_hex(8)}{AWKWARD}", DATABASE)
        self.secrets: dict[str, dict[str, bytes]] = {
            "database": {
                "root_password": passwords[SUPERUSER].encode(),
                "user_password": passwords[USER].encode(),
            }
        }

    @property
    def namespaces(self) -> Namespaces:
        """Where all of the stack runs: for what a test puts beside it, such as an off-site store."""
        return self._namespaces

    @property
    def claims(self) -> list[str]:
        return sorted(self._claims)

    def add_claim(self, name: str) -> None:
        """Make a claim that the stack brings, such as that of its media. See `runtime.Stack.add_claim`."""
        folder = self._namespaces.folder / "claims" / name
        folder.mkdir(parents=True)
        _give(folder, -1, 0o2770)
        self._claims[name] = folder

    def install(self, values: Mapping[str, Any]) -> None:
        """Render the chart with `values`; claims that are new are made, existing ones keep their files."""
        try:
            objects = render(values, namespace=self.namespace, chart=self._chart)
        except RenderError as error:
            raise StackError(str(error)) from error
        self.apply(objects)

    def apply(self, objects: Objects) -> None:
        """Put these objects in the place of the release's."""
        self._objects = objects
        exports = {
            volume["metadata"]["name"]: volume["spec"]["nfs"]
            for volume in self._objects.of_kind("PersistentVolume")
        }
        for claim in self._objects.of_kind("PersistentVolumeClaim"):
            name, volume = claim["metadata"]["name"], claim.get("spec", {}).get("volumeName")
            if volume is not None:
                self._claims[name] = self._export(exports[volume])
            elif name not in self._claims:
                self.add_claim(name)

    def start(
        self, job: str, faults: Faults | None = None, environment: Mapping[str, str] | None = None
    ) -> RunningJob:
        """Make a Job from the CronJob `job` and return while it runs; `environment` as in `run`.

        Raises NotStartedError when its pod would wait for something for ever, SandboxError when the pod asks
        for something that cannot be had here.
        """
        template = self._cronjob(job)["spec"]["jobTemplate"]
        name = f"{job}-{secrets.token_hex(3)}"
        pod = Pod(
            self._namespaces,
            self._around(),
            with_environment(template["spec"]["template"], environment or {}),
            name=f"{name}-{secrets.token_hex(3)[:5]}",
            labels={"batch.kubernetes.io/job-name": name},
            faults=faults or Faults(),
        )
        return RunningJob(job, pod, template["spec"].get("activeDeadlineSeconds"))

    @contextlib.contextmanager
    def serving(self, deployment: str) -> Iterator[Pod]:
        """For the length of a `with` block the one pod of a Deployment runs. Nobody asks its probes."""
        template = self._objects.get("Deployment", deployment)["spec"]["template"]
        name = f"{deployment}-{secrets.token_hex(3)}"
        pod = Pod(self._namespaces, self._around(), template, name=name, labels={}, faults=Faults())
        try:
            pod.start(None)
            yield pod
        finally:
            pod.close()

    def _around(self) -> Surroundings:
        return Surroundings(
            namespace=self.namespace,
            secrets=self.secrets,
            config_maps={
                item["metadata"]["name"]: {key: text.encode() for key, text in item.get("data", {}).items()}
                for item in self._objects.of_kind("ConfigMap")
            },
            claims=self._claims,
            services=["database"],
            image=self._image,
            lent=self._lent,
        )

    def run(
        self,
        job: str,
        *,
        timeout: float = 600,
        environment: Mapping[str, str] | None = None,
        faults: Faults | None = None,
    ) -> JobResult:
        """Make a Job from the CronJob `job` and wait for its end: one pod, no retry.

        A pod that would wait for ever gives its reason and exit code None, at once instead of at the
        deadline.
        """
        try:
            running = self.start(job, faults, environment)
        except NotStartedError as error:
            return JobResult(job, None, {}, str(error), 0.0, error.reason)
        with running:
            return running.wait(timeout)

    def claim_of(self, job: str, volume: str) -> str:
        return claim_of(self._cronjob(job), volume)

    def _cronjob(self, job: str) -> dict[str, Any]:
        try:
            return self._objects.get("CronJob", job)
        except KeyError:
            raise StackError(f"There is no CronJob {job} in {self.namespace}.") from None

    def volume(self, claim: str) -> LocalVolume:
        if claim not in self._claims:
            raise StackError(f"There is no claim {claim} in {self.namespace}.")
        return LocalVolume(self._namespaces, self._claims[claim])

    @contextlib.contextmanager
    def scratch_server(self, version: int | None = None) -> Iterator[LocalServer]:
        """A second, empty server whose superuser has the same password; it is reached by its socket alone.

        `version` is the major version of a stock image; the stack's own image where None.
        """
        server = LocalServer(
            self._namespaces,
            self._server if version is None else self._image(f"postgres:{version}").rootfs,
            f"scratch-{next(self._servers)}",
            {SUPERUSER: self.database.passwords[SUPERUSER]},
            listen=False,
        )
        try:
            server.start()
            yield server
        finally:
            server.stop()
            server.remove()


class LocalRuntime:
    """Stacks on this machine. `image` finds an image by its name, `chart` is the chart's folder."""

    name = "local"

    def __init__(
        self, *, image: Callable[[str], Image] = unpacked, chart: Path = CHART, exports: Path | None = None
    ) -> None:
        # A command that is there needs no package: so a machine without apt-get will do too.
        system.ensure_packages(*system.sandbox())
        self._image = image
        self._chart = chart
        self._exports = exports
        self._lent = Lent()

    def _export(self, nfs: Mapping[str, str]) -> Path:
        """The folder that stands for an export of an NFS server, shared by all stacks of this runtime.

        Whoever may write there is the pods' own user, as the owner of a real export would have it.
        """
        if self._exports is None:
            self._exports, lock = own_folder("exports")
            weakref.finalize(self, _remove, self._exports, lock)
        folder = self._exports / f"{nfs['server']}{nfs['path'].replace('/', '_')}"
        if not folder.exists():
            folder.mkdir(parents=True)
            _give(folder, OWNER, 0o2775)  # an export is read by others, too
        return folder

    @contextlib.contextmanager
    def stack(self, namespace: str, image: str = IMAGE) -> Iterator[LocalStack]:
        """An empty stack whose server runs out of `image`. Nothing is left of it afterwards."""
        server = self._image(image).rootfs
        with Namespaces(namespace) as namespaces:
            stack = LocalStack(
                namespaces, namespace, server, self._image, self._chart, self._export, self._lent
            )
            try:
                yield stack
            finally:
                stack.database.stop(immediate=True)


def _give(folder: Path, user: int, mode: int) -> None:
    """Make a new volume what its first pod would make it by its fsGroup: then no pod changes what is in it
    later, whatever the root of the volume was when that pod came (see `LocalVolume.limited`).
    """
    os.chown(folder, user, OWNER)
    folder.chmod(mode)


def _remove(folder: Path, lock: int) -> None:
    """Remove a folder that was our own."""
    shutil.rmtree(folder, ignore_errors=True)
    os.close(lock)


def copy_tree(source: Path, target: Path) -> None:
    """Copy what lies in one folder into another, all that a file has included."""
    subprocess.run(["cp", "--archive", "--no-target-directory", source, target], check=True)


def _like(model: Path, path: Path) -> None:
    """Give `path` the owner and group of `model`."""
    status = model.stat()
    os.chown(path, status.st_uid, status.st_gid)
