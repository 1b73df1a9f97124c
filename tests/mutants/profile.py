"""How the unit tests run where mutants are tried: what is quick first, and nothing longer than it needs to.

Hypothesis tries the same examples each time, not as many as else, and the first that fails is enough.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

EXAMPLES = 400
PATIENCE = 4.0
"""Seconds for a test, and so many times what it took: a mutant that never ends is seen soon."""

settings.register_profile(
    "mutants",
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutants")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    stats = Path("mutmut-stats.json")
    took = json.loads(stats.read_text())["duration_by_test"] if stats.exists() else {}
    for item in items:
        item.add_marker(pytest.mark.timeout(PATIENCE * (1 + took.get(item.nodeid, 99))))
        wanted = getattr(item.obj, "_hypothesis_internal_use_settings", None)  # type: ignore[attr-defined]
        if wanted is not None and wanted.max_examples > EXAMPLES:
            item.obj._hypothesis_internal_use_settings = settings(wanted, max_examples=EXAMPLES)  # type: ignore[attr-defined]
    items.sort(key=lambda item: took.get(item.nodeid, 0))
