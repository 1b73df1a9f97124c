"""A database as a Fragalysis stack has it, of any size: poses, observations and tags."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from stack_backup_lab.runtime import Stack

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


KEYS = (
    "ALTER TABLE pose ADD PRIMARY KEY (id)",
    "ALTER TABLE observation ADD PRIMARY KEY (id)",
    "ALTER TABLE tag ADD PRIMARY KEY (id)",
    "CREATE INDEX ON tag (observation_id)",
    "CREATE INDEX ON tag (tag_id)",
    "ALTER TABLE tag ADD FOREIGN KEY (observation_id) REFERENCES observation DEFERRABLE INITIALLY DEFERRED",
)
"""As Django makes them: a key of every table, an index of every column that refers to another."""


def fill(stack: Stack, size: int) -> int:
    """Fill the stack's database with about `size` bytes of SQL; returns what it comes to.

    Three tables of a Fragalysis stack, with their keys and indexes: poses (mol blocks of rdkit-data, moved
    and shaken), observations (JSON) and tags (short rows).
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
        for again in range(1, round(size / made)):
            poses_before, tags_before = again * len(poses), again * len(tags)
            for name, columns in (
                ("pose", f"id + {poses_before}, title, mol_block"),
                ("observation", f"id + {poses_before}, metadata, vector"),
                ("tag", f"id + {tags_before}, observation_id + {poses_before}, tag_id, category, score"),
            ):
                connection.execute(f"INSERT INTO {name} SELECT {columns} FROM first_{name}".encode())
        connection.execute("DROP TABLE first_pose, first_observation, first_tag")
        for statement in KEYS:
            connection.execute(statement.encode())
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
