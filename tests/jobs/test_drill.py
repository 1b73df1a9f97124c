"""The drill: it restores the newest verified dump, counts it, and is red when anything of it is not as it should be."""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup import dataset
from stack_backup.render import CHART, merge_values, render
from stack_backup.runtime import JobResult
from stack_backup.runtime.local import LocalRuntime, LocalStack, LocalVolume
from stack_backup.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.hourly import FOLDER, NAMESPACE, VALUES, Hourly, Sample
from tests.render import contract

JOB = "database-drill"
REPLICA = "media-copy"
UNTOUCHED = "the dumps and the live database are as they were"
DRILL: dict[str, Any] = {"drill": {"enabled": True, "scratch": {"size": "1Gi"}}}
# A folder of the stack stands for the mounted replica.
REFERENCING: dict[str, Any] = {"volumes": {"mediaReplica": {"existingClaim": REPLICA}}}

Lines = list[list[str]]


class Drill:
    """The drill of a stack, and the dumps that it may take."""

    def __init__(self, hourly: Hourly) -> None:
        self.hourly = hourly
        self.stack = hourly.stack
        self.install()

    def install(self, values: dict[str, Any] | None = None, **drill: Any) -> None:
        """Upgrade the release: `drill` are values of the drill, `values` any others."""
        self.hourly.install(merge_values(merge_values(DRILL, {"drill": drill}), values or {}))

    def run(self, environment: dict[str, str] | None = None, **injected: Any) -> JobResult:
        return self.stack.run(JOB, environment=environment, faults=Faults(**injected))

    def plant(
        self,
        change: Callable[[Lines], Lines] | None = None,
        sql: Callable[[str], str] | None = None,
        age: timedelta = timedelta(minutes=9),
    ) -> str:
        """A copy of the sample under a name of its own age, with another manifest or another content.

        `change` gets and gives the manifest's lines as fields; `sql` the dump's text. The manifest's sha256 and
        size are those of the dump that is planted: only what it says of the content may be wrong.
        """
        sample = self.hourly._sample
        assert sample is not None
        dump = sample.dump
        if sql is not None:
            text = gzip.decompress(dump).decode()
            changed = sql(text)
            assert changed != text
            dump = gzip.compress(changed.encode(), 1)
        name = self.hourly.plant(age, dump=dump, sha256=hashlib.sha256(dump).hexdigest())
        if change is not None:
            path = self.hourly.manifest_path(name)
            lines = [line.split("\t") for line in self.hourly.volume.read(path).decode().splitlines()]
            text = "".join("\t".join(line) + "\n" for line in change(lines))
            self.hourly.volume.write(path, text.encode())
        return name


@pytest.fixture
def drill(hourly: Hourly) -> Drill:
    return Drill(hourly)


@pytest.fixture
def planted(drill: Drill) -> str:
    """A good dump of a few minutes ago."""
    return drill.plant()


def red(result: JobResult, code: int, *words: str) -> None:
    """Red with this exit code, nothing left, and one sentence that holds `words`."""
    assert result.exit_code == code, result.log
    verdict = result.verdict
    assert (verdict["job"], verdict["exit"], verdict["outcome"]) == (JOB, code, "failed"), verdict
    for word in (*words, UNTOUCHED):
        assert word.lower() in verdict["message"].lower(), verdict["message"]


def proved(result: JobResult) -> JobResult:
    assert result.succeeded, result.log
    assert result.verdict["outcome"] == "proved"
    return result


# ---- all is well ----


def test_a_good_dump_is_proved(drill: Drill, planted: str) -> None:
    result = proved(drill.run())
    manifest = drill.hourly.manifest(planted)
    verdict = dict(result.verdict)
    assert planted in verdict.pop("message")
    for key in ("seconds", "seconds_read", "seconds_restore", "seconds_compare"):
        assert 0 <= verdict.pop(key) <= result.seconds + 1
    assert 500 < verdict.pop("age_seconds") < 700
    assert verdict == {
        "job": JOB,
        "exit": 0,
        "outcome": "proved",
        "dump": planted,
        "bytes": len(drill.hourly.read(planted)),
        "databases": 3,
        "tables": len(manifest["table"]),
        "rows": sum(int(count) for *_, count in manifest["table"]),
        "assertions": 0,
    }


def test_the_manifest_has_every_sequence_as_the_server_has_it(drill: Drill, planted: str) -> None:
    sequences = {name: rest for _, name, *rest in drill.hourly.manifest(planted)["sequence"]}
    assert sequences["public.never_used"] == ["42", "f"]
    assert sequences["public.auth_user_id_seq"][1] == "t"
    assert int(sequences["public.run_number"][0]) <= 5
