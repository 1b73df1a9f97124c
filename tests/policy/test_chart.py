"""What tools that many people trust say about the rendered chart.

checkov and kube-score judge every set of values that the project ships. Each finding is answered by the
chart, or by an exception with its reason in `exceptions.yaml`. Broken renders prove that the tools are asked,
and heard.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from stack_backup_lab.bed import policy, tools
from stack_backup_lab.kubeconform import OLDEST
from stack_backup_lab.paths import BIN
from stack_backup_lab.render import Objects, render
from tests.render.stacks import STACKS

EXCEPTIONS: dict[str, dict[str, str]] = yaml.safe_load(
    (Path(__file__).parent / "exceptions.yaml").read_text(encoding="utf-8")
)
Pod = dict[str, Any]


class Finding(NamedTuple):
    tool: str
    check: str
    where: str
    says: str

    @property
    def answers(self) -> set[str]:
        """By what an exception may name it: the check, for all kinds of objects or, of checkov's, for one."""
        return {self.check, f"{self.check} {self.where.partition('.')[0]}"}

    @property
    def excepted(self) -> bool:
        return bool(self.answers & EXCEPTIONS[self.tool].keys())


def _container(**settings: Any) -> Callable[[Pod], None]:
    """Change the job's own container."""
    return lambda pod: pod["containers"][0].update(settings)


def _security(**settings: Any) -> Callable[[Pod], None]:
    return lambda pod: pod["containers"][0]["securityContext"].update(settings)


def _pod(**settings: Any) -> Callable[[Pod], None]:
    return lambda pod: pod.update(settings)


def _mount(source: dict[str, Any]) -> Callable[[Pod], None]:
    return lambda pod: pod["volumes"].append({"name": "more", **source})


def _borrower(pod: Pod) -> None:
    del pod["initContainers"][0]["resources"]["limits"]


BROKEN: dict[str, tuple[Callable[[Pod], None], set[str]]] = {
    "privileged": (
        _security(privileged=True, allowPrivilegeEscalation=True),
        {"CKV_K8S_16", "CKV_K8S_20", "container-security-context-privileged"},
    ),
    "a root that can be written": (
        _security(readOnlyRootFilesystem=False),
        {"CKV_K8S_22", "container-security-context-readonlyrootfilesystem"},
    ),
    "a capability": (
        _security(capabilities={"add": ["SYS_ADMIN"]}),
        {"CKV_K8S_25", "CKV_K8S_28", "CKV_K8S_37", "CKV_K8S_39"},
    ),
    "the latest image": (_container(image="postgres:latest"), {"CKV_K8S_14", "container-image-tag"}),
    "no limits": (_container(resources={}), {"CKV_K8S_11", "CKV_K8S_13", "container-resources"}),
    "no limits of an init container": (_borrower, {"CKV_K8S_11", "CKV_K8S_13", "container-resources"}),
    "the node's network": (_pod(hostNetwork=True), {"CKV_K8S_19"}),
    "the node's processes": (_pod(hostPID=True), {"CKV_K8S_17"}),
    "a token": (_pod(automountServiceAccountToken=True), {"CKV_K8S_38"}),
    "the runtime's socket": (_mount({"hostPath": {"path": "/var/run/docker.sock"}}), {"CKV_K8S_27"}),
    "a password in the environment": (
        _container(env=[{"name": "P", "valueFrom": {"secretKeyRef": {"name": "database", "key": "p"}}}]),
        {"CKV_K8S_35"},
    ),
}
"""Ways to break a pod, and the checks that must say so."""


def _broken(change: Callable[[Pod], None]) -> Objects:
    values, namespace = STACKS["developer"]
    objects = copy.deepcopy(render(values, namespace=namespace))
    change(next(pod for _, pod in objects.pods()))
    return objects


def _without_policies() -> Objects:
    values, namespace = STACKS["developer"]
    return render({**values, "networkPolicy": {"enabled": False}}, namespace=namespace)


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[Finding]]:
    """What the tools find in each render, sound or broken; one run of checkov, as its start takes long."""
    folder = tmp_path_factory.mktemp("renders")
    renders = {name: render(values, namespace=namespace) for name, (values, namespace) in STACKS.items()}
    renders |= {name: _broken(change) for name, (change, _) in BROKEN.items()}
    renders["no network policies"] = _without_policies()
    files = {}
    for number, (name, objects) in enumerate(renders.items()):
        file = folder / f"{number}.yaml"
        file.write_text(yaml.safe_dump_all(objects))
        files[name] = file
    found = _checkov(folder)
    return {name: found[file.name] | _kube_score(file) for name, file in files.items()}


def _checkov(folder: Path) -> dict[str, set[Finding]]:
    """By the name of a file."""
    # Nothing is asked of its vendor's service, and no configuration is taken from elsewhere.
    command = [policy.ensure() / "checkov", "--framework", "kubernetes", "--directory", folder, "--quiet"]
    command += ["--compact", "--skip-download", "--output", "json"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0, done.stdout
    assert report["summary"]["passed"] > 1000, report["summary"]
    found = defaultdict(set)
    for one in report["results"]["failed_checks"]:
        finding = Finding("checkov", one["check_id"], one["resource"], one["check_name"])
        found[Path(one["file_path"]).name].add(finding)
    return found


def _kube_score(file: Path) -> set[Finding]:
    tools.ensure("kube-score")
    command = [BIN / "kube-score", "score", "--output-format", "json", "--exit-one-on-warning", file]
    command += ["--kubernetes-version", f"v1.{OLDEST}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    report = json.loads(done.stdout)
    jobs = [one for one in report if one["type_meta"]["kind"] == "CronJob"]
    assert len(jobs) == file.read_text().count("kind: CronJob\n"), [one["object_name"] for one in report]
    return {
        Finding(
            "kube-score", check["check"]["id"], f"{one['object_name']} {comment['path']}", comment["summary"]
        )
        for one in report
        for check in one["checks"]
        if not check["skipped"] and check["grade"] < 10
        for comment in check["comments"]
    }


@pytest.mark.parametrize("stack", STACKS)
def test_each_finding_is_answered(stack: str, findings: dict[str, set[Finding]]) -> None:
    left = sorted(one for one in findings[stack] if not one.excepted)
    assert not left, "Change the chart, or say in exceptions.yaml why it stays:\n" + "\n".join(map(str, left))


@pytest.mark.parametrize("way", BROKEN)
def test_what_breaks_a_pod_is_found(way: str, findings: dict[str, set[Finding]]) -> None:
    assert _new(findings, way) == BROKEN[way][1]


def test_pods_that_no_network_policy_selects_are_found(findings: dict[str, set[Finding]]) -> None:
    assert _new(findings, "no network policies") == {"pod-networkpolicy"}


def _new(findings: dict[str, set[Finding]], way: str) -> set[str]:
    """The checks that find what the sound render does not have."""
    return {one.check for one in findings[way]} - {one.check for one in findings["developer"]}


def test_each_exception_is_needed_and_has_its_reason(findings: dict[str, set[Finding]]) -> None:
    needed = {(one.tool, name) for stack in STACKS for one in findings[stack] for name in one.answers}
    assert {(tool, check) for tool, checks in EXCEPTIONS.items() for check in checks} <= needed
    assert all(reason.endswith(".") for checks in EXCEPTIONS.values() for reason in checks.values())
