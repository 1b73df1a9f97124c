"""Who may import whom: the pods' programs, the product, the lab; and what each of them needs is declared."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import metadata
from itertools import groupby
from pathlib import Path

import pytest

from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART
from tests.cluster.conftest import NAMESPACE, SHARED
from tests.render import contract

ROOTS = {
    "stack_backup_jobs": CHART / "files" / "stack_backup_jobs",
    "stack_backup": PROJECT / "scripts" / "stack_backup",
    "stack_backup_lab": PROJECT / "scripts" / "stack_backup_lab",
    "tests": PROJECT / "tests",
}
MAY_IMPORT = {
    "stack_backup_jobs": set(),
    "stack_backup": {"stack_backup_jobs"},
    "stack_backup_lab": {"stack_backup_jobs", "stack_backup"},
}
LAB = ROOTS["stack_backup_lab"]


def modules(root: Path) -> list[Path]:
    found = sorted(path for path in root.rglob("*.py"))
    assert found
    return found


@cache
def imports(module: Path) -> frozenset[str]:
    """The dotted names that a module imports, wherever it does; of `from a import b`, `a.b`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def foreign(root: Path) -> set[str]:
    """The top-level packages that are imported from elsewhere."""
    tops = {name.partition(".")[0] for module in modules(root) for name in imports(module)}
    return tops - sys.stdlib_module_names - {"__future__", root.name}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    assert foreign(ROOTS[package]) & ROOTS.keys() <= MAY_IMPORT[package]


def test_the_parts_of_the_lab_stand_in_one_order() -> None:
    """So neither does a runtime know of the bed what the bed knows of it, nor a story what tells it."""
    graph: dict[str, set[str]] = {}
    for module in modules(LAB):
        inside = module.relative_to(LAB).with_suffix("").parts
        for name in imports(module):
            if name.startswith("stack_backup_lab."):
                top = name.split(".")[1]
                if top != inside[0] and top[0].islower():
                    graph.setdefault(inside[0], set()).add(top)
    assert {"bed", "runtime", "story"} <= graph.keys()
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"they import each other: {error.args[1]}")


def test_no_two_modules_have_one_name() -> None:
    shared = {"__init__", "__main__"}
    packages = [root for name, root in ROOTS.items() if name != "tests"]
    names = sorted(path.stem for root in packages for path in modules(root))
    assert [name for name, them in groupby(names) if len(list(them)) > 1 and name not in shared] == []
    assert [path for root in packages for path in modules(root) if path.with_suffix("").is_dir()] == []


def test_make_test_looks_for_cluster_tests_where_they_are() -> None:
    """It collects only the folders that have some."""
    (line,) = [line for line in (PROJECT / "Makefile").read_text().splitlines() if " -m cluster " in line]
    named = {word for word in line.split() if word.startswith("tests/")}
    marked = {
        f"tests/{module.relative_to(ROOTS['tests']).parts[0]}"
        for module in modules(ROOTS["tests"])
        for node in ast.walk(ast.parse(module.read_bytes()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "pytest.mark.cluster"
    }
    assert marked == named


def test_tests_that_share_a_namespace_of_the_cluster_go_to_one_worker() -> None:
    """Those with the session's stack, and those with the stacks of the demo."""
    shared: dict[str, set[str]] = {NAMESPACE: set(), contract.NAMESPACE: set()}
    for module in (ROOTS["tests"] / "cluster").glob("test_*.py"):
        text = module.read_text()
        functions = [node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
        asks = any(
            argument.arg == "stack"
            for function in functions
            if function.name.startswith("test_") or "pytest.fixture" in map(ast.unparse, _callees(function))
            for argument in function.args.args
        )
        if asks and not any(function.name == "stack" for function in functions):
            shared[NAMESPACE].add(module.stem)
        if "stack(contract.NAMESPACE)" in text or "on_clusters()" in text:
            shared[contract.NAMESPACE].add(module.stem)
    for namespace, files in shared.items():
        assert files, namespace
        assert files <= set(SHARED[namespace]), namespace


def _callees(function: ast.FunctionDef) -> list[ast.expr]:
    """Its decorators, without their arguments."""
    return [one.func if isinstance(one, ast.Call) else one for one in function.decorator_list]


def test_an_exception_is_called_an_error() -> None:
    """What is none (a wish to stop) derives from BaseException; names with an underscore are not asked."""
    bases: dict[str, list[str]] = {}
    for name, root in ROOTS.items():
        for module in modules(root) if name != "tests" else []:
            for node in ast.walk(ast.parse(module.read_bytes())):
                if isinstance(node, ast.ClassDef):
                    bases[node.name] = [ast.unparse(base).rpartition(".")[2] for base in node.bases]

    def is_exception(name: str) -> bool:
        return name == "Exception" or name.endswith("Error") or any(map(is_exception, bases.get(name, [])))

    exceptions = {name for name in bases if not name.startswith("_") and is_exception(name)}
    assert len(exceptions) > 10
    assert {name for name in exceptions if not name.endswith("Error")} == set()


@pytest.mark.parametrize(("package", "extra"), [("stack_backup", None), ("stack_backup_lab", "lab")])
def test_a_package_needs_what_it_imports(package: str, extra: str | None) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    wanted = list(project["dependencies"])
    if extra:
        wanted += project["optional-dependencies"][extra]
    needed = {requirement.partition("[")[0].split("=")[0].split(">")[0].lower() for requirement in wanted}
    provided = metadata.packages_distributions()
    imported = {provided[top][0].lower() for top in foreign(ROOTS[package]) - ROOTS.keys()}
    assert imported <= needed
    if not extra:
        assert needed == imported


def test_the_wheel_holds_the_command_line_and_nothing_of_the_lab(tmp_path: Path) -> None:
    source = tmp_path / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=PROJECT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in tracked:
        if name and (PROJECT / name).is_file() and not name.startswith("tests/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((PROJECT / name).read_bytes())
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--no-index", "--wheel-dir", tmp_path, source),
        ],
        check=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(name) for name in archive.namelist()}
        [entry_points] = (
            archive.read(str(name)).decode() for name in files if name.name == "entry_points.txt"
        )
    tops = {path.parts[0] for path in files}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"stack_backup", "stack_backup_jobs"}
    for name in ("stack_backup", "stack_backup_jobs"):
        packed = {path for path in files if path.parts[0] == name}
        templates = list(ROOTS[name].glob("*.html"))
        assert packed == {Path(name, path.name) for path in [*modules(ROOTS[name]), *templates]}
    assert "stack-backup = stack_backup.app:main" in entry_points
    assert "kubectl-stack_backup = stack_backup.app:main" in entry_points
