"""A pod of the local runtime: a pod template run as declared, container by container, under bubblewrap.

What a template asks for is done as the kubelet does it, or refused: a field that is not known here is a
SandboxError, never ignored. Known and without effect on one machine are only `IGNORED`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from stack_backup_lab.runtime import StackError
from stack_backup_lab.runtime.lent import Beginning, Lent
from stack_backup_lab.runtime.memory import Meter, killed, remove
from stack_backup_lab.runtime.python_faults import LINES
from stack_backup_lab.runtime.sandbox import UNLIMITED, Bind, Container, Namespaces, Process, SandboxError

Json = Mapping[str, Any]

IGNORED = {
    # where a pod is placed, and what it may use there
    *("nodeSelector", "tolerations", "affinity", "topologySpreadConstraints", "priorityClassName"),
    *("schedulerName", "serviceAccountName", "imagePullSecrets", "imagePullPolicy"),
    # bubblewrap filters no system calls; the default profile forbids nothing that a program here may need
    "seccompProfile",
    # every volume of a pod is owned before its first container starts, whichever policy
    "fsGroupChangePolicy",
}

REQUIRED = {
    # Each of these has one value that is honoured here, and is what every pod of the chart must say.
    "restartPolicy": "Never",
    "automountServiceAccountToken": False,
    "enableServiceLinks": False,
    "allowPrivilegeEscalation": False,
    "runAsNonRoot": True,
    "terminationMessagePolicy": "File",
}

MADE = 1_700_000_000
"""When the files of ConfigMaps and Secrets were made: what was compiled of them in another pod fits them."""
DISK = "20Gi"
"""Size of a volume on disk that has no limit of its own."""

PLANTED = "sitecustomize.py"
"""What Python runs when it starts, whatever it runs then."""
RECORDED = os.environ.get("STACK_BACKUP_LINES", "")
"""Where it names a folder, that gets the lines which the programs have run (`tests/coverage.py`)."""
_PYTHON_FAULTS = Path(__file__).with_name("python_faults.py")

TERMINATION_MESSAGE_LIMIT = 4096
"""Bytes of a termination message that the kubelet keeps."""


class NotStartedError(StackError):
    """The pod would wait for ever: the reason as the kubelet names it, then what is missing."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason


@dataclass(frozen=True)
class Image:
    """An image unpacked: its root file system (never written), and the variables that it sets."""

    rootfs: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Surroundings:
    """What a pod finds in its namespace, and how an image is found by its name."""

    namespace: str
    secrets: Mapping[str, Mapping[str, bytes]]
    config_maps: Mapping[str, Mapping[str, bytes]]
    claims: Mapping[str, Path]
    services: Collection[str]
    image: Callable[[str], Image]
    lent: Lent


@dataclass(frozen=True)
class Faults:
    """What a test changes about a pod.

    `shims`: bash scripts by the name of the command whose place they take (first in PATH; a shim finds its
    real command at /usr/bin, and may use the folder /faults). `without`: commands missing from the image's
    /usr/bin. `environment`: variables that are added, or have another value. `python`: lines for the Python
    that runs in the pod's containers, which call the functions of `python_faults`.
    """

    shims: Mapping[str, str] = field(default_factory=dict)
    without: Collection[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = ""


class Pod:
    """One run of a pod template. The volumes are made at once; `start` runs the init containers to their
    end and starts the others; `wait` ends with all of them; `close` removes what it had (the claims stay).

    Raises SandboxError for what cannot be honoured, NotStartedError for what is missing in the namespace.
    """

    def __init__(
        self,
        namespaces: Namespaces,
        around: Surroundings,
        template: Json,
        name: str,
        labels: Mapping[str, str],
        faults: Faults,
    ) -> None:
        self.name = name
        self._namespaces = namespaces
        self._around = around
        self._metadata = {
            "name": name,
            "namespace": around.namespace,
            "uid": str(uuid.uuid4()),
            "labels": {**template.get("metadata", {}).get("labels", {}), **labels},
            "annotations": template.get("metadata", {}).get("annotations", {}),
        }
        self._spec: Json = template["spec"]
        self._faults = _recorded(faults)
        known(
            "the pod",
            self._spec,
            *("containers", "initContainers", "volumes", "securityContext", "terminationGracePeriodSeconds"),
        )
        self._security: Json = self._spec.get("securityContext", {})
        known(
            "the pod's securityContext",
            self._security,
            *("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"),
        )
        self.grace: float = self._spec.get("terminationGracePeriodSeconds", 30)
        self._running: list[Process] = []
        self._codes: list[int] = []
        self._folder = namespaces.folder / "pods" / name
        self._log = namespaces.folder / "logs" / f"{name}.log"
        self._log.parent.mkdir(exist_ok=True)
        self._log.touch()
        namespaces.seen(self._folder).mkdir(parents=True)
        # In memory and in the stack's namespace alone, for the Secrets' sake.
        namespaces.mount("tmpfs", self._folder, "mode=755")
        self._seen = namespaces.seen(self._folder)
        self._faulty = self._make_faults()
        self._hosts = self._make_hosts()
        self._in_memory: list[Path] = []
        self._disks: list[Path] = []
        self._meter: Meter | None = None
        self._beginning = self._how_it_begins()
        self._lent: Collection[str] = ()
        if self._beginning and self._beginning.kept:
            self._lent = self._beginning.volumes
        self._volumes = {
            volume["name"]: self._make_volume(volume) for volume in self._spec.get("volumes", [])
        }

    def start(self, deadline: float | None) -> None:
        """Run every init container (until `deadline`, monotonic seconds), then start the containers.

        What they leave is there already where a pod before has begun in the same way (see `lent`).
        """
        if self._limited:
            self._meter = Meter(self._groups, self._in_memory)
        if not self._lent and not self._run_init_containers(deadline):
            return
        self._plant_in_volumes()
        for container in self._spec["containers"]:
            self._start(container)

    def _run_init_containers(self, deadline: float | None) -> bool:
        """Whether the other containers may start."""
        for container in self._spec.get("initContainers", []):
            self._start(container)
            if self.wait(deadline) is not None and self.exit_code != 0:
                return False
        if self._beginning and not self._running and not self.log:
            folders = {name: folder for name, (folder, _) in self._volumes.items()}
            self._beginning.keep(
                {name: self._namespaces.seen(folders[name]) for name in self._beginning.volumes}
            )
        return True

    def wait(self, deadline: float | None = None) -> int | None:
        """The exit code when all has ended (the first that is not 0), or None at `deadline` (monotonic
        seconds).
        """
        while self._running:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                self._codes.append(self._running[0].wait(left))
            except subprocess.TimeoutExpired:
                return None
            self._running.pop(0)
        return self.exit_code

    @property
    def exit_code(self) -> int:
        return next((code for code in self._codes if code != 0), 0)

    @property
    def running(self) -> bool:
        return any(process.running for process in self._running)

    @property
    def log(self) -> str:
        """All that the containers have printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def termination_message(self) -> str:
        """What the containers wrote to their termination messages, cut off where the kubelet does."""
        messages = sorted(self._seen.glob("termination-*"))
        texts = [path.read_bytes()[:TERMINATION_MESSAGE_LIMIT].decode(errors="replace") for path in messages]
        return "".join(texts)

    @property
    def faults(self) -> Path:
        """The folder that shims know as /faults, seen from outside."""
        return self._seen / "faults"

    @property
    def peak_memory(self) -> int | None:
        """See `JobResult.peak_memory`."""
        return None if self._meter is None else self._meter.peak

    @property
    def out_of_memory(self) -> bool:
        """Whether a process was ended because a container had reached its limit."""
        return self._limited and killed(self._groups)

    def execute(self, command: Sequence[str]) -> bytes:
        """What a command prints in the container that was started last, as `kubectl exec` runs it there."""
        return self._running[-1].execute(command)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to PID 1 of every running container."""
        for process in self._running:
            process.signal(number)

    def terminate(self) -> None:
        """End the pod as the kubelet does: TERM, the grace period, KILL."""
        self.signal(signal.SIGTERM)
        if self.wait(time.monotonic() + self.grace) is None:
            self.signal(signal.SIGKILL)
            self.wait()

    def close(self) -> None:
        """Kill what still runs, and take the pod's own volumes away."""
        self.signal(signal.SIGKILL)
        self.wait()
        if self._meter is not None:
            self._meter.stop()
            remove(self._groups)
        if RECORDED:
            for lines in self.faults.glob(f"{LINES}*"):
                shutil.copy(lines, Path(RECORDED, f"{self._metadata['uid']}-{lines.name}"))
        self._namespaces.unmount(self._folder)
        for image in self._disks:
            image.unlink()

    # ---- containers ----

    def _start(self, container: Json) -> None:
        name = container["name"]
        known(
            f"container {name}",
            container,
            *("name", "image", "command", "args", "env", "volumeMounts", "securityContext", "workingDir"),
            *("terminationMessagePath", "resources", "ports", "readinessProbe", "livenessProbe"),
        )
        own: Json = container.get("securityContext", {})
        known(
            f"the securityContext of container {name}",
            own,
            *("runAsUser", "runAsGroup", "readOnlyRootFilesystem", "capabilities"),
        )
        if own.get("capabilities") != {"drop": ["ALL"]}:
            raise SandboxError(f"Container {name} keeps capabilities; here it can have none: drop ALL.")
        if "command" not in container:
            raise SandboxError(
                f"Container {name} names no command; the entry point of an image is not known here."
            )
        user = own.get("runAsUser", self._security.get("runAsUser"))
        group = own.get("runAsGroup", self._security.get("runAsGroup"))
        if not user or group is None:
            raise SandboxError(
                f"Container {name} says not as whom it runs: runAsUser {user}, runAsGroup {group}."
            )
        image = self._around.image(container["image"])
        environment = self._environment(container, image)
        message = self._seen / f"termination-{len(list(self._seen.glob('termination-*')))}"
        message.touch()
        message.chmod(0o666)
        groups = [*self._security.get("supplementalGroups", [])]
        if "fsGroup" in self._security:
            groups.append(self._security["fsGroup"])
        with self._log.open("ab") as log:
            process = self._namespaces.start(
                Container(
                    name=f"{self.name}: {name}",
                    rootfs=image.rootfs,
                    command=[
                        expand(word, environment)
                        for word in (*container["command"], *container.get("args", ()))
                    ],
                    uid=user,
                    gid=group,
                    groups=groups,
                    environment=environment,
                    binds=[
                        Bind(self._hosts, "/etc/hosts"),
                        *self._mounts(container),
                        Bind(
                            self._folder / message.name,
                            container.get("terminationMessagePath", "/dev/termination-log"),
                        ),
                        *([Bind(self._folder / "faults", "/faults")] if self._faulty else []),
                        *self._plant_in_image(image.rootfs),
                    ],
                    read_only_root=own.get("readOnlyRootFilesystem", False),
                    hostname=self.name[:63],
                    workdir=container.get("workingDir", "/"),
                    without=self._faults.without if container in self._spec["containers"] else (),
                    group=self._group(container),
                ),
                log,
            )
        self._running.append(process)

    @property
    def _limited(self) -> bool:
        return os.environ.get(UNLIMITED) != "unlimited"

    @property
    def _groups(self) -> Path:
        """The control group of the pod, below which its containers have theirs."""
        return self._namespaces.groups.folder / self.name

    def _group(self, container: Json) -> Path | None:
        """A control group with the container's memory limit; its other limits have no effect here."""
        if not self._limited:
            return None
        limit = container.get("resources", {}).get("limits", {}).get("memory")
        return self._namespaces.groups.make(
            self.name, container["name"], None if limit is None else size(limit)
        )

    def _mounts(self, container: Json) -> Iterator[Bind]:
        for mount in container.get("volumeMounts", []):
            known(f"volumeMount {mount['name']}", mount, "name", "mountPath", "readOnly", "subPath")
            source, read_only = self._volumes[mount["name"]]
            source /= mount.get("subPath", "")
            yield Bind(source, mount["mountPath"], read_only or mount.get("readOnly", False))

    def _environment(self, container: Json, image: Image) -> dict[str, str]:
        """The image's variables, then the container's, in order, as the kubelet resolves them."""
        environment = {**image.environment, "HOSTNAME": self.name, "HOME": "/"}
        for variable in container.get("env", []):
            known(f"variable {variable['name']}", variable, "name", "value", "valueFrom")
            value = self._value(variable)
            if value is not None:
                environment[variable["name"]] = expand(value, environment)
        environment |= self._faults.environment
        if self._faulty:
            environment["PATH"] = f"/faults/bin:{environment['PATH']}"
        return environment

    def _value(self, variable: Json) -> str | None:
        if "valueFrom" not in variable:
            return str(variable.get("value", ""))
        (kind, reference), *_ = variable["valueFrom"].items()
        if kind == "fieldRef":
            return self._field(reference["fieldPath"])
        if kind not in ("secretKeyRef", "configMapKeyRef"):
            raise SandboxError(f"Variable {variable['name']} comes from a {kind}, which is not known here.")
        known(f"variable {variable['name']}", reference, "name", "key", "optional")
        data = self._around.secrets if kind == "secretKeyRef" else self._around.config_maps
        value = data.get(reference["name"], {}).get(reference["key"])
        if value is None and not reference.get("optional", False):
            raise NotStartedError(
                "CreateContainerConfigError", f"{reference['name']} has no {reference['key']} ({kind})"
            )
        return None if value is None else value.decode()

    def _field(self, path: str) -> str:
        fields = {
            **{f"metadata.{key}": self._metadata[key] for key in ("name", "namespace", "uid")},
            **{
                f"metadata.{kind}['{key}']": value
                for kind in ("labels", "annotations")
                for key, value in self._metadata[kind].items()
            },
            "spec.serviceAccountName": self._spec.get("serviceAccountName", "default"),
            "status.podIP": "127.0.0.1",
        }
        if path not in fields:
            raise SandboxError(f"The field {path} of a pod is not known here.")
        return str(fields[path])

    # ---- volumes ----

    def _how_it_begins(self) -> Beginning | None:
        containers = self._spec.get("initContainers", [])
        words = " ".join(word for one in containers for word in one.get("command", ()))
        called = {
            name: shim
            for name, shim in self._faults.shims.items()
            if re.search(rf"(?<![\w./-]){name}\b", words)
        }
        return self._around.lent.beginning(
            self._spec,
            self._around.config_maps,
            {one["image"]: self._around.image(one["image"]).rootfs for one in containers},
            {"shims": called, "environment": self._faults.environment},
        )

    def _make_volume(self, volume: Json) -> tuple[Path, bool]:
        """The volume's folder, and whether it is read-only as a whole."""
        name = volume["name"]
        (kind, source), *more = [item for item in volume.items() if item[0] != "name"]
        folder = self._folder / "volumes" / name
        if more:
            raise SandboxError(f"Volume {name} is of {1 + len(more)} kinds.")
        if kind == "persistentVolumeClaim":
            known(f"volume {name}", source, "claimName", "readOnly")
            read_only = source.get("readOnly", False)
            return self._claim(source["claimName"], read_only), read_only
        self._namespaces.seen(folder).mkdir(parents=True)
        if kind == "emptyDir":
            known(f"volume {name}", source, "medium", "sizeLimit")
            if name in self._lent:
                self._lent_folder(name, folder)
            else:
                self._empty_folder(name, folder, source)
            return folder, False
        if kind == "ephemeral":
            claim = source["volumeClaimTemplate"]["spec"]
            size_limit = claim["resources"]["requests"]["storage"]
            self._empty_folder(name, folder, {"sizeLimit": size_limit}, disk_of_its_own=True)
            return folder, False
        if kind == "configMap":
            known(f"volume {name}", source, "name", "items", "optional", "defaultMode")
            self._files(name, folder, source, source["name"], self._around.config_maps)
            return folder, True
        if kind == "secret":
            known(f"volume {name}", source, "secretName", "items", "optional", "defaultMode")
            self._files(name, folder, source, source["secretName"], self._around.secrets)
            return folder, True
        raise SandboxError(f"Volume {name} is of the kind {kind}, which is not known here.")

    def _claim(self, name: str, read_only: bool) -> Path:
        if name not in self._around.claims:
            raise NotStartedError("FailedScheduling", f'persistentvolumeclaim "{name}" not found')
        folder = self._around.claims[name]
        if "fsGroup" in self._security and not read_only:
            self._own(self._namespaces.seen(folder), self._security["fsGroup"])
        return folder

    def _own(self, root: Path, group: int) -> None:
        """Give a claim to the pod's fsGroup, unless its root is so already (OnRootMismatch)."""
        if root.stat().st_gid == group and root.stat().st_mode & 0o2770 == 0o2770:
            return
        for path in (root, *root.rglob("*")):
            os.chown(path, -1, group, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o2770 if path.is_dir() else 0o660))

    def _empty_folder(self, name: str, folder: Path, source: Json, *, disk_of_its_own: bool = False) -> None:
        """A volume in memory or on disk. One on disk has a file system of its own: so its size holds."""
        seen = self._namespaces.seen(folder)
        if source.get("medium", "") not in ("", "Memory"):
            raise SandboxError(f"Volume {name} is of the medium {source['medium']}, which is not known here.")
        if source.get("medium") == "Memory":
            limit = f",size={size(source['sizeLimit'])}" if "sizeLimit" in source else ""
            self._namespaces.mount("tmpfs", folder, f"mode=0777{limit}")
            self._in_memory.append(seen)
        else:
            image = self._namespaces.folder / "disks" / f"{self.name}-{name}"
            image.parent.mkdir(exist_ok=True)
            self._disks.append(image)
            self._namespaces.mount_disk(image, folder, size(source.get("sizeLimit", DISK)))
            if disk_of_its_own:
                (seen / "lost+found").mkdir(0o700)
        self._open(seen)

    def _open(self, seen: Path) -> None:
        """Let the pod's user write in a new volume."""
        seen.chmod(0o777)
        if "fsGroup" in self._security:
            os.chown(seen, -1, self._security["fsGroup"])
            seen.chmod(0o2777)

    def _lent_folder(self, name: str, folder: Path) -> None:
        """What the init containers of a pod before have left in this volume."""
        assert self._beginning is not None
        layer = self._folder / "layers" / name
        self._namespaces.seen(layer).mkdir(parents=True)
        self._namespaces.lay_over(self._beginning.place / name, layer, folder)
        self._open(self._namespaces.seen(folder))

    def _files(
        self, name: str, folder: Path, source: Json, called: str, there: Mapping[str, Mapping[str, bytes]]
    ) -> None:
        """Files of a Secret or a ConfigMap, behind the links by which the kubelet exchanges all at once."""
        optional = source.get("optional", False)
        if called not in there and not optional:
            raise NotStartedError("FailedMount", f'"{called}" not found (volume {name})')
        data = there.get(called, {})
        items = source.get("items", [{"key": key, "path": key} for key in data])
        group = self._security.get("fsGroup")
        current = self._namespaces.seen(folder) / "..current"
        current.mkdir()
        (self._namespaces.seen(folder) / "..data").symlink_to("..current")
        for item in items:
            known(f"an item of volume {name}", item, "key", "path", "mode")
            if item["key"] not in data:
                if optional:
                    continue
                raise NotStartedError("FailedMount", f"{called} has no key {item['key']} (volume {name})")
            path = current / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data[item["key"]])
            os.utime(path, (MADE, MADE))
            mode = item.get("mode", source.get("defaultMode", 0o644))
            if group is not None:
                os.chown(path, -1, group)
                mode |= 0o440
            path.chmod(mode)
            first = item["path"].split("/")[0]
            link = self._namespaces.seen(folder) / first
            if not link.is_symlink():
                link.symlink_to(f"..data/{first}")

    # ---- what the kubelet and a test add ----

    def _make_hosts(self) -> Path:
        namespace = self._around.namespace
        lines = ["127.0.0.1 localhost", f"127.0.0.1 {self.name}"]
        for service in self._around.services:
            full = f"{service}.{namespace}"
            lines.append(f"127.0.0.1 {service} {full} {full}.svc {full}.svc.cluster.local")
        (self._seen / "hosts").write_text("\n".join(lines) + "\n")
        return self._folder / "hosts"

    def _make_faults(self) -> bool:
        if not self._faults.shims and not self._faults.python:
            return False
        commands = self.faults / "bin"
        commands.mkdir(parents=True)
        self.faults.chmod(0o777)
        for name, script in self._faults.shims.items():
            (commands / name).write_text(f"#!/bin/bash\n{script}\n")
            (commands / name).chmod(0o755)
        if self._faults.python:
            (self._seen / PLANTED).write_text(f"{_PYTHON_FAULTS.read_text()}\n{self._faults.python}\n")
        return True

    def _plant_in_volumes(self) -> None:
        """Give the test's lines to every Python that an init container has put into a volume."""
        if self._faults.python:
            own = [folder for folder, _ in self._volumes.values() if folder.is_relative_to(self._folder)]
            for folder in own:
                for library in self._namespaces.seen(folder).glob("**/lib/python3.*/site-packages"):
                    shutil.copy(self._seen / PLANTED, library)

    def _plant_in_image(self, rootfs: Path) -> Iterator[Bind]:
        """Give them to the image's own Python, where it has one."""
        if self._faults.python:
            for library in rootfs.glob("usr/lib/python3.*"):
                yield Bind(
                    self._folder / PLANTED, f"/{library.relative_to(rootfs)}/{PLANTED}", read_only=True
                )


def _recorded(faults: Faults) -> Faults:
    """With what records lines, where they are wanted: before the test's own, which may end the program."""
    return replace(faults, python=f'record("/programs/")\n{faults.python}') if RECORDED else faults


def known(what: str, there: Iterable[str], *fields: str) -> None:
    """Raise SandboxError for a field that is neither among `fields` nor among those of this module's
    tables.
    """
    for name in there:
        if name in fields or name in IGNORED:
            continue
        value = there[name] if isinstance(there, Mapping) else None
        if name not in REQUIRED:
            raise SandboxError(f"{name} of {what} is not known here, so it cannot be honoured.")
        if value != REQUIRED[name]:
            raise SandboxError(f"{name} of {what} is {value!r}; here it can only be {REQUIRED[name]!r}.")


def expand(text: str, environment: Mapping[str, str]) -> str:
    """`$(NAME)` as the kubelet expands it: an unknown name stays as it is, and `$$` is `$` wherever it is."""

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else environment.get(name, match.group(0))

    return re.sub(r"\$(?:\$|\(([^)]*)\))", value, text)


def size(quantity: str | int) -> int:
    """Bytes of a Kubernetes quantity, such as `64Mi`. Raises SandboxError."""
    match = re.fullmatch(r"(\d+)([KMGT]i|[kMGT])?", str(quantity))
    if match is None:
        raise SandboxError(f"{quantity!r} is no size in bytes.")
    factors = {"k": 1000, "M": 1000**2, "G": 1000**3, "T": 1000**4}
    factors |= {"Ki": 1024, "Mi": 1024**2, "Gi": 1024**3, "Ti": 1024**4}
    return int(match.group(1)) * factors.get(match.group(2), 1)
