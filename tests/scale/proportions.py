"""Production's sizes and limits, divided by one factor: what a stack holds, and what its pods may use."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import psycopg

from stack_backup_lab.render import Objects
from stack_backup_lab.runtime import Server
from stack_backup_lab.runtime.pod import size

SCALE = int(os.environ.get("STACK_BACKUP_SCALE", "50"))
"""How many times as large production is: from 1 to 50, for what an empty server takes does not shrink."""
MIB, GIB = 2**20, 2**30
MEDIA_ENTRIES = 135_000
"""All that production has, whatever the factor: what a tree costs are its entries and not their bytes."""

PEAK = 128 * MIB
"""What a pod may use beside the processes of PostgreSQL. No limit of a container is made smaller."""
OWN_SERVER = 512 * MIB
"""What the drill's own server takes whatever it holds, half of it shared buffers."""
TMP = 2 * MIB
"""Kilobytes may lie in /tmp; what a data set fills stays out of it."""

PACKED = 68 * MIB * 50 // SCALE
TEXT = 1_000_000_000 * 50 // SCALE
LONGEST = 400 * MIB // SCALE

# Blocks of text that pack about 17:1, a long table of short rows, documents, large objects; the row of pose 0
# is as long as production's longest.
SQL = f"""
SET ROLE fragalysis;
CREATE TABLE pose (id bigint PRIMARY KEY, title text NOT NULL, block text COMPRESSION lz4);
INSERT INTO pose
    SELECT n, 'pose ' || n,
        (SELECT string_agg(encode(sha512((n || '.' || part)::bytea), 'hex')
            || repeat(E'    0.0000   -1.2500    3.7500 C   0  0  0  0  0  0  0  0  0  0\\n', 23), '')
        FROM generate_series(1, 5) part)
    FROM generate_series(1, {5_250_000 // SCALE}) n;
INSERT INTO pose VALUES (0, 'the longest', repeat(md5('long') || E'\\n', {LONGEST // 33}));
CREATE TABLE tag (id bigserial PRIMARY KEY, pose bigint NOT NULL, category text, score float8);
INSERT INTO tag (pose, category, score)
    SELECT n % {5_250_000 // SCALE}, (ARRAY['CanonSites', 'Crystalforms'])[1 + n % 2], hashint8(n) / 1e6
    FROM generate_series(1, {40_000_000 // SCALE}) n;
CREATE INDEX tag_by_score ON tag (category, score);
ALTER TABLE tag ADD FOREIGN KEY (pose) REFERENCES pose;
CREATE TABLE observation (id bigint PRIMARY KEY, metadata jsonb, seen timestamptz);
INSERT INTO observation
    SELECT n, jsonb_build_object('code', 'Mpro-x' || n, 'chain', n % 4, 'path', md5(n::text) || '.pdb'),
        timestamptz '2026-01-01Z' + n * interval '1 second'
    FROM generate_series(1, {10_000_000 // SCALE}) n;
CREATE INDEX observation_by_chain ON observation ((metadata ->> 'chain')) WHERE id % 7 = 0;
SELECT lo_from_bytea(0, decode(repeat(md5(n::text), 8192), 'hex')) FROM generate_series(1, {1000 // SCALE}) n;
"""

CATALOGUE = """
SELECT 'index ' || indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT 'constraint ' || conname, pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
UNION ALL SELECT 'sequence ' || sequencename, last_value::text FROM pg_sequences
UNION ALL SELECT 'large object ' || oid, md5(lo_get(oid)) FROM pg_largeobject_metadata
"""


def fill(server: Server) -> None:
    """Fill the empty database `frag` with about `TEXT` bytes of SQL."""
    server.execute(SQL, "frag")
    server.execute("VACUUM ANALYZE; CHECKPOINT", "frag")


def content(server: Server) -> dict[str, object]:
    """What the database `frag` holds: rows and a sum over all of every table, large objects, definitions."""
    with psycopg.connect(server.dsn("frag")) as connection:
        tables = connection.execute(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        ).fetchall()
        held: dict[str, object] = dict(connection.execute(CATALOGUE.encode()).fetchall())
        for (name,) in tables:
            query = f"SELECT count(*), sum(hashtextextended(t::text, 0)::numeric) FROM ONLY {name} t"
            held[f"rows of {name}"] = connection.execute(query.encode()).fetchone()
    return held


def in_proportion(objects: Objects) -> Objects:
    """The same objects, what their pods may use divided by the factor (init containers hold no data)."""
    for item in objects.of_kind("CronJob"):
        job, pod = item["metadata"]["name"], item["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        [container] = pod["containers"]
        limits = container["resources"]["limits"]
        least = PEAK + (OWN_SERVER if job == "database-drill" else 0)
        limits["memory"] = max(size(limits["memory"]) // SCALE, least)
        for volume in pod["volumes"]:
            _shrink(job, volume)
    return objects


def _shrink(job: str, volume: dict[str, Any]) -> None:
    folder = volume.get("emptyDir", {})
    if volume["name"] == "tmp":
        folder["sizeLimit"] = max(size(folder["sizeLimit"]) // SCALE, TMP)
    elif volume["name"] == "scratch" and job.startswith("database-"):
        folder["sizeLimit"] = size(folder["sizeLimit"]) // SCALE


def require_disk() -> None:
    """Three servers, three copies of the dump and three trees of small files. Raises AssertionError."""
    need = 2 * GIB + 120 * GIB // SCALE
    place = tempfile.gettempdir()
    free = shutil.disk_usage(place).free
    assert free > need, (
        f"{place} has {free // GIB} GiB free, and 1/{SCALE} of production needs {need // GIB}: "
        "set TMPDIR, or a larger STACK_BACKUP_SCALE (at most 50)"
    )
