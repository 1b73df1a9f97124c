"""What `renovate.json` looks for is there: a pattern that matches nothing would keep a pin old, unseen."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from stack_backup_lab.bed.commands import run
from stack_backup_lab.paths import PROJECT

CONFIG: dict[str, Any] = json.loads((PROJECT / "renovate.json").read_text(encoding="utf-8"))
FILES = run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=PROJECT).splitlines()
PATTERNS = [
    (manager, pattern) for manager in CONFIG["customManagers"] for pattern in manager["managerFilePatterns"]
]


def _matching(pattern: str) -> list[str]:
    """Files by Renovate's notation of a regular expression, `/…/`."""
    assert pattern[0] == pattern[-1] == "/", pattern
    return [name for name in FILES if re.search(pattern[1:-1], name) and (PROJECT / name).exists()]


@pytest.mark.parametrize(("manager", "pattern"), PATTERNS, ids=[pattern for _, pattern in PATTERNS])
def test_each_pattern_of_files_has_a_pin(manager: dict[str, Any], pattern: str) -> None:
    texts = [(PROJECT / name).read_text(encoding="utf-8") for name in _matching(pattern)]
    assert any(re.search(_python(one), text) for one in manager["matchStrings"] for text in texts)


@pytest.mark.parametrize("string", [one for each in CONFIG["customManagers"] for one in each["matchStrings"]])
def test_each_expression_finds_a_pin(string: str) -> None:
    (manager,) = (each for each in CONFIG["customManagers"] if string in each["matchStrings"])
    texts = [
        (PROJECT / name).read_text(encoding="utf-8")
        for pattern in manager["managerFilePatterns"]
        for name in _matching(pattern)
    ]
    assert any(re.search(_python(string), text) for text in texts)


def _python(expression: str) -> str:
    return expression.replace("(?<", "(?P<")


def test_locks_are_found_with_what_they_are_made_of() -> None:
    (pattern,) = CONFIG["pip_requirements"]["managerFilePatterns"]
    locks = {name for name in FILES if name.endswith(".lock")}
    assert locks == {name for name in _matching(pattern) if name.endswith(".lock")}


def test_each_rule_for_files_has_files() -> None:
    for rule in CONFIG["packageRules"]:
        for pattern in rule.get("matchFileNames", []):
            assert any(fnmatchcase(name, pattern.replace("**", "*")) for name in FILES), pattern
