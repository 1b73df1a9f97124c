"""`python -m stack_backup.bench`: what the hourly job costs beside `pg_dumpall`, and beside a plain pipe.

All runs of one round have the same server, image, pod and volume, one after the other, each job next to a
`pg_dumpall >/dev/null` of its own: so the ratios hold even where the machine is busy. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import copy
import os
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import psycopg
from psycopg.types.json import Jsonb
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from stack_backup import dataset
from stack_backup.render import Objects, merge_values, render
from stack_backup.runtime.local import LocalRuntime, LocalStack
from stack_backup.runtime.postgres import ServerError
from stack_backup.runtime.sandbox import SandboxError
from stack_backup.scenario import CLAIM, JOB, NAMESPACE, VALUES
from stack_backup.testbed import Failure, tools

MIB = 2**20
SHARE = 140 * MIB
"""Bytes of SQL that are made row by row; more is these rows again, too far apart for a compressor to see."""

RDKIT = Path("/usr/share/RDKit")
MOLECULES = (
    "Contrib/PBF/testData/egfr.sdf",
    "Projects/DbCLI/testData/pubchem.200.sdf",
    "Projects/DbCLI/testData/bzr.sdf",
    "Contrib/Fastcluster/testdata/cdk2.sdf",
    "Data/NCI/first_200.props.sdf",
)

DUMP = (
    'export PGPASSWORD="$(</secrets/database/superuser-password)"; set -euo pipefail; '
    'pg_dumpall --username="$DATABASE_SUPERUSER" --no-password'
)
BASE = f"{DUMP} >/dev/null"
TODAY = f"{DUMP} | gzip >/backup/dump.gz; cp /backup/dump.gz /backup/copy.gz"

# Each second the memory (KiB) of every process of the pod but pg_dump; shared pages count in each of them.
SAMPLED = """
while sleep 1; do
  awk '/^Name:/ { mine = $2 !~ /^(pg_dump|pg_dumpall|sleep)$/ } /^VmRSS:/ && mine { sum += $2 }
    END { print sum }' /proc/[0-9]*/status
done >/backup/memory 2>/backup/memory.errors &
exec /bin/sh /programs/start.sh postgres-backup-hourly
"""


@dataclass(frozen=True)
class Measured:
    """One timed run: seconds, bytes that it left on the volume, peak memory in KiB (0: not sampled)."""

    seconds: float
    size: int = 0
    memory: int = 0


class Bench:
    """A stack on this machine, and the ways to dump it."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._jobs = {
            compressor: render(
                merge_values(VALUES, {"backup": {"compressor": compressor}}), namespace=NAMESPACE
            )
            for compressor in ("gzip", "zstd")
        }

    def base(self) -> float:
        return self._run(_with_command(self._jobs["gzip"], BASE)).seconds

    def today(self) -> Measured:
        return self._run(_with_command(self._jobs["gzip"], TODAY), "copy.gz")

    def job(self, compressor: str) -> Measured:
        return self._run(_with_command(self._jobs[compressor], SAMPLED))

    def _run(self, objects: Objects, file: str = "") -> Measured:
        self._stack.apply(objects)
        volume = self._stack.volume(CLAIM)
        volume.clear()
        # What earlier runs have left to be written is not this one's to wait for.
        os.sync()
        result = self._stack.run(JOB, timeout=3600)
        if not result.succeeded:
            raise ServerError(f"a run ended with exit code {result.exit_code}: {result.log}")
        size = len(volume.read(file)) if file else result.verdict.get("bytes", 0)
        memory = 0
        if "memory" in volume.list():
            memory = max(map(int, volume.read("memory").split()), default=0)
        volume.clear()
        return Measured(result.seconds, size, memory)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stack_backup.bench", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000, help="of SQL (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="default: %(default)s")
    options = parser.parse_args()
    console = Console(highlight=False)
    try:
        dataset.provide()
        tools.ensure("helm")
        with LocalRuntime().stack(NAMESPACE) as stack:
            bench = Bench(stack)
            with console.status("Filling the database"):
                size = fill(stack, options.megabytes * MIB)
            console.print(f"{size / MIB:,.0f} MiB of SQL, {os.cpu_count()} cores")
            table, best = Table(), Best()
            for heading in ("", "Seconds", "Size", "Ratio", "Memory", "Load"):
                table.add_column(heading, justify="right" if heading else "left")
            for number in range(1, options.rounds + 1):
                _round(console, table, bench, best, f"Round {number}")
            console.print(table)
            best.show(console)
    except (Failure, SandboxError, ServerError) as failure:
        console.print(f"[bold red]Nothing was measured.[/] {escape(str(failure))}")
        return 1
    return 0


class Best:
    """The best ratio of each kind over all rounds: what is left when the machine was quietest."""

    def __init__(self) -> None:
        self.gzip = self.zstd = float("inf")
        self.today = 0.0
        self.memory = 0

    def show(self, console: Console) -> None:
        for text, met in (
            (f".sql.gz: {self.gzip:.2f} x pg_dumpall >/dev/null (at most 2.6)", self.gzip <= 2.6),
            (f".sql.zst: {self.zstd:.2f} x (at most 1.7)", self.zstd <= 1.7),
            (
                f"{self.today:.2f} x faster than pg_dumpall | gzip and a copy (at least 2.4)",
                self.today >= 2.4,
            ),
            (f"{self.memory / 1024:.0f} MiB beside pg_dump (at most 64)", self.memory <= 64 * 1024),
        ):
            console.print(f"{'[green]met[/]    ' if met else '[yellow]not met[/]'} {text}")


def _round(console: Console, table: Table, bench: Bench, best: Best, title: str) -> None:
    def add(name: str, run: Measured, base: float | None = None) -> None:
        table.add_row(
            name,
            f"{run.seconds:.1f}",
            f"{run.size / MIB:,.0f} MiB" if run.size else "-",
            f"{run.seconds / base:.2f} x" if base else "-",
            f"{run.memory / 1024:.0f} MiB" if run.memory else "-",
            f"{os.getloadavg()[0]:.1f}",
        )

    with console.status(title):
        bases = [bench.base()]
        add(f"{title}: pg_dumpall", Measured(bases[0]))
        runs = {}
        for compressor in ("gzip", "zstd"):
            runs[compressor] = bench.job(compressor)
            bases.append(bench.base())
            add(f"the job, {compressor}", runs[compressor], mean(bases[-2:]))
            add("pg_dumpall", Measured(bases[-1]))
        today = bench.today()
        add("pg_dumpall | gzip, then cp", today, bases[-1])
    best.gzip = min(best.gzip, runs["gzip"].seconds / mean(bases[0:2]))
    best.zstd = min(best.zstd, runs["zstd"].seconds / mean(bases[1:3]))
    best.today = max(best.today, today.seconds / runs["gzip"].seconds)
    best.memory = max(best.memory, *(run.memory for run in runs.values()))


def _with_command(objects: Objects, script: str) -> Objects:
    """The same objects, the job's pod running a script in the place of its program."""
    changed = copy.deepcopy(list(objects))
    for item in changed:
        if item["kind"] == "CronJob":
            pod = item["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            pod["containers"][0]["command"] = ["/bin/bash", "-c", script]
    return Objects(changed)


def fill(stack: LocalStack, size: int) -> int:
    """Fill the stack's database with about `size` bytes of SQL; returns what it comes to.

    Three tables of a Fragalysis stack: poses (mol blocks of rdkit-data, moved and shaken), observations
    (JSON) and tags (short rows).
    """
    poses: list[tuple[Any, ...]] = []
    observations: list[tuple[Any, ...]] = []
    tags: list[tuple[Any, ...]] = []
    made = 0
    for number, (pose, observed, tag) in enumerate(_rows()):
        poses.append((number, *pose))
        observations.append((number, *observed))
        tags.extend((number * 4 + place, number, *values) for place, values in enumerate(tag))
        made += len(pose[1]) + len(str(observed)) + 160
        if made > min(SHARE, size):
            break
    with psycopg.connect(stack.database.dsn("frag"), autocommit=True) as connection:
        for name, columns, rows in (
            ("pose", "id bigint, title text, mol_block text", poses),
            ("observation", "id bigint, metadata jsonb, vector float8[]", observations),
            ("tag", "id bigint, observation_id bigint, tag_id integer, category text, score float8", tags),
        ):
            connection.execute(f"CREATE TABLE {name} ({columns})".encode())
            query = f"COPY {name} FROM STDIN".encode()
            with connection.cursor() as cursor, cursor.copy(query) as copied:
                for row in rows:
                    copied.write_row(row)
            connection.execute(f"CREATE TABLE first_{name} AS TABLE {name}".encode())
        for _ in range(round(size / made) - 1):
            for name in ("pose", "observation", "tag"):
                connection.execute(f"INSERT INTO {name} TABLE first_{name}".encode())
        connection.execute("DROP TABLE first_pose, first_observation, first_tag")
        connection.execute("CHECKPOINT")
    return made * max(1, round(size / made))


def _rows() -> Iterator[tuple[tuple[str, str], tuple[Any, list[float]], list[tuple[Any, ...]]]]:
    chance = random.Random(1)
    blocks = [
        (record.partition("\n")[0], record[: record.index("M  END") + 7])
        for name in MOLECULES
        for record in (RDKIT / name).read_text(errors="replace").split("$$$$\n")
        if "M  END" in record
    ]
    while True:
        title, block = chance.choice(blocks)
        observed = {
            "code": f"Mpro-x{chance.randrange(99999):05d}",
            "chain": chance.choice("ABCD"),
            "confidence": chance.choice(["low", "medium", "high"]),
            "centroid": [chance.uniform(-50, 50) for _ in range(12)],
            "path": f"target_loader_data/Mpro/upload_{chance.randrange(9)}/{chance.getrandbits(64):016x}.pdb",
        }
        tags = [
            (chance.randrange(5000), chance.choice(["CanonSites", "Crystalforms", "Other"]), chance.random())
            for _ in range(4)
        ]
        yield (title, _moved(block, chance)), (Jsonb(observed), [chance.random() for _ in range(8)]), tags


def _moved(block: str, chance: random.Random) -> str:
    """A mol block with all of its atoms moved together, and each a little by itself."""
    shift = [chance.uniform(-40, 40) for _ in range(3)]

    def atom(match: re.Match[str]) -> str:
        places = (float(match[axis]) + shift[axis - 1] + chance.gauss(0, 0.05) for axis in (1, 2, 3))
        return "".join(f"{place:10.4f}" for place in places) + match[4]

    return re.sub(r"^(.{10})(.{10})(.{10})( [A-Z])", atom, block, flags=re.MULTILINE)


if __name__ == "__main__":
    sys.exit(main())
