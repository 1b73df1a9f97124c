"""`python -m tests.mutants MODULE…`: small changes in the package's pure parts, each of which the unit tests
must see. Ends with 1 where one is not seen that `equivalent.toml` does not explain.

mutmut (pyproject.toml says how) works in .cache/mutants. What it passes over stands there in another form:
a property as a function that is made one afterwards.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant

from stack_backup_lab.paths import PROJECT

FILES = PROJECT / "charts/stack-backup/files/stack_backup_jobs"
WORK = PROJECT / ".cache" / "mutants"
EQUIVALENT = Path(__file__).with_name("equivalent.toml")
MUTMUT = str(Path(sys.executable).with_name("mutmut"))


def main() -> int:
    pure = [Path(path).stem for path in _configured()]
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help=f"of {' '.join(pure)} (all)")
    parser.add_argument("--left", action="store_true", help="try only what was not seen the last time")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(pure):
        parser.error(f"not configured in pyproject.toml: {' '.join(sorted(unknown))}")
    provide()
    os.chdir(WORK)  # mutmut's functions look there for its files
    seen = True
    for module in options.modules or pure:
        names = [f"stack_backup_jobs.{module}.*"]
        if options.left:
            names = [name for name, how in results(module).items() if how != "killed"]
        if names:
            tried(names)
        seen = report(module) and seen
    return 0 if seen else 1


def _configured() -> list[str]:
    found: list[str] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["mutmut"][
        "only_mutate"
    ]
    return found


def provide() -> None:
    """What mutmut needs around it; a file that is as it was keeps its time, and so its results."""
    package = WORK / "src" / FILES.name
    package.mkdir(parents=True, exist_ok=True)
    for name in ("tests", "pyproject.toml"):
        if not (WORK / name).is_symlink():
            (WORK / name).symlink_to(PROJECT / name)
    stats = WORK / "mutants" / "mutmut-stats.json"  # which test comes where
    tests = [path.stat().st_mtime for path in (PROJECT / "tests" / "unit").glob("*.py")]
    if stats.exists() and max(tests) > stats.stat().st_mtime:
        stats.unlink()
    for source in FILES.glob("*.py"):
        text, copy = without_decorators(source.read_text()), package / source.name
        if not copy.exists() or copy.read_text() != text:
            copy.write_text(text)
    for copy in package.glob("*.py"):
        if not (FILES / copy.name).exists():
            copy.unlink()


def without_decorators(text: str) -> str:
    """`@property` before a method as `name = property(name)` after it, and so `@cached_property`."""
    lines = text.splitlines()
    found = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    for node in sorted(found, key=lambda node: node.lineno, reverse=True):
        made = [one.id for one in node.decorator_list if isinstance(one, ast.Name)]
        if made in (["property"], ["cached_property"]):
            lines.insert(node.end_lineno or 0, f"{' ' * node.col_offset}{node.name} = {made[0]}({node.name})")
            del lines[node.lineno - 2]
    return "\n".join(lines) + "\n"


def tried(names: list[str]) -> None:
    log = WORK / "log"
    with log.open("w") as file:
        done = subprocess.run([MUTMUT, "run", *names], check=False, stdout=file, stderr=file)
    if done.returncode:
        sys.exit(f"{log.read_text()[-1500:]}\nmutmut could not try them.")


def results(module: str) -> dict[str, str]:
    """What became of each mutant."""
    done = subprocess.run([MUTMUT, "results", "--all", "true"], check=True, capture_output=True, text=True)
    found = re.findall(rf"^ *(stack_backup_jobs\.{module}\.\S+): (.+)$", done.stdout, re.MULTILINE)
    return dict(found)


def function(name: str) -> str:
    """`Part.rows()` of a mutant's name `stack_backup_jobs.reader.xǁPartǁrows__mutmut_1`."""
    found = name.rpartition(".")[2].partition("__mutmut_")[0]
    return f"{found[2:].replace('ǁ', '.')}()"


def report(module: str) -> bool:
    """Says what is left. Is all of it explained?"""
    found = results(module)
    explained = tomllib.loads(EQUIVALENT.read_text()).get(module, {})
    count = Counter(found.values())
    for name, how in found.items():
        if how in ("killed", "timeout"):
            continue
        shown = get_diff_for_mutant(name)
        change = [line for line in shown.splitlines() if re.match(r"[-+](?![-+]{2} )", line)]
        lines = {line[1:].strip() for line in change if line[0] == "+"}
        if (lines | {function(name)}) & explained.keys():
            count["equivalent"] += 1
            count[how] -= 1
        else:
            print(f"{name}: {how}", *change, sep="\n", flush=True)
    print(f"{module}:", ", ".join(f"{number} {how}" for how, number in count.items() if number), flush=True)
    return not set(+count) - {"killed", "timeout", "equivalent"}


if __name__ == "__main__":
    sys.exit(main())
