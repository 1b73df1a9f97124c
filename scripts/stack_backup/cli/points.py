"""Restore points: the dumps, and the media replicas, on the volumes that the release's jobs mount.

Only a pod sees a volume: so a Job is made that mounts it read-only, prints what lies there, and is deleted.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stack_backup.cli import Exit, Problem
from stack_backup.cli.cluster import Release
from stack_backup.cli.follow import Run, exit_code
from stack_backup.runtime.runs import Object

# Where jobs mount volumes of dumps; of several jobs with one claim, the first lends its pod.
MOUNTS = (
    ("database-recovery", "source"),
    ("postgres-backup-hourly", "database-backup"),
    ("postgres-replicator-backup", "database-replica"),
    ("replica-check", "database-replica"),
)
MEDIA_MOUNTS = (
    ("media-recovery", "media-replica"),
    ("replica-check", "media-replica"),
    ("media-replicator", "media-replica"),
)
DEADLINE = 300
PLACE = "/dumps"
# One line a dump: folder, name, bytes, whether its manifest agrees with it as the programs require, and from
# the manifest suspicious, rows, tables, server's version, namespace.
LIST = r"""
set -Eeuo pipefail
cd "$1"
for path in */backup-*-dumpall.sql.*; do
  [[ -f $path && ! -L $path ]] || continue
  folder=${path%/*} name=${path##*/} bytes=$(stat -c %s -- "$path")
  manifest=$folder/.manifest/$name.tsv
  [[ -f $manifest ]] || manifest=/dev/null
  awk -F '\t' -v OFS='\t' -v folder="$folder" -v file="$name" -v size="$bytes" '
    $1 == "table" { tables++; rows += $4; next }
    !($1 in first) { first[$1] = $2 }
    END {
      agrees = first["name"] == file && first["bytes"] == size ? "yes" : "no"
      suspicious = first["suspicious"] == "yes" ? "yes" : "no"
      printf "dump\t%s\t%s\t%s\t%s\t%s\t%.0f\t%d\t%s\t%s\n", folder, file, size, agrees, suspicious, rows,
        tables, first["server_version"], first["namespace"]
    }' "$manifest"
done
printf 'end\n'
"""
# The state that the mirror keeps: key and value.
STATE = r"""
set -Eeuo pipefail
if [[ -f $1/.stack-backup/state ]]; then cat -- "$1/.stack-backup/state"; fi
printf 'end\n'
"""
_NAME = re.compile(r"backup-(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)-dumpall\.sql\.(?:gz|zst)")


@dataclass(frozen=True)
class Point:
    """One dump. `state` is `verified` (its manifest agrees with it), `suspicious` (that, but it shrank),
    `unverified` (no manifest agrees: recovered only when named) or `future` (the jobs ignore it).
    """

    time: str
    folder: str
    dump: str
    bytes: int
    state: str
    rows: int | None
    tables: int | None
    server_version: str | None
    namespace: str | None


@dataclass(frozen=True)
class Place:
    """A volume of dumps, a job of the release that mounts it, and why it could not be listed (else empty)."""

    claim: str
    job: str
    points: list[Point]
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Media:
    """A replica of media. `status` is `complete`, `in-progress` (since `since`), or empty where no mirror has
    left its state; the rest is of the last complete mirror. `problem`: why it could not be looked at.
    """

    claim: str
    job: str
    status: str = ""
    since: str | None = None
    completed: str | None = None
    files: int | None = None
    bytes: int | None = None
    namespace: str | None = None
    problem: str = ""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def of_release(release: Release, now: datetime | None = None) -> tuple[list[Place], list[Media]]:
    """The dumps, newest first, and the media, on every volume that the release's jobs mount."""
    now = now or datetime.now(UTC)
    cronjobs = release.cronjobs()
    wanted = [(LIST, *one) for one in _claims(cronjobs, MOUNTS)]
    wanted += [(STATE, *one) for one in _claims(cronjobs, MEDIA_MOUNTS)]
    if not wanted:
        raise Problem(
            Exit.NO_RELEASE,
            f"No job of the release in {release.namespace} mounts a volume of dumps or of media.",
        )
    places: list[Place] = []
    media: list[Media] = []
    runs: list[tuple[str, str, str, Run]] = []
    try:
        for script, cronjob, volume, claim in wanted:
            body = listing_job(cronjob, volume, script)
            run = Run(release, "list", body["metadata"]["name"])
            runs.append((script, claim, cronjob["metadata"]["name"], run))
            release.create(body)
        for script, claim, job, run in runs:
            lines, problem = _read(run)
            if script is LIST:
                places.append(Place(claim, job, _points(lines, now), problem))
            else:
                media.append(_media(claim, job, lines, problem))
    finally:
        for *_, run in runs:
            release.delete("Job", run.name)
    return places, media


def _claims(
    cronjobs: dict[str, Object], mounts: tuple[tuple[str, str], ...]
) -> Iterator[tuple[Object, Object, str]]:
    seen = set()
    for job, name in mounts:
        if job not in cronjobs:
            continue
        for volume in cronjobs[job]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if volume["name"] == name and claim is not None and claim not in seen:
                seen.add(claim)
                yield cronjobs[job], volume, claim


def listing_job(cronjob: Object, volume: Object, script: str = LIST) -> Object:
    """A Job with the pod of a CronJob, stripped to its image, its limits and one volume, mounted read-only.

    It has no owner, as it is no run of that job and must not count as one. Nobody has to delete it.
    """
    name = cronjob["metadata"]["name"]
    pod = dict(cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"])
    pod.pop("initContainers", None)
    (container,) = pod["containers"]
    kept = ("name", "image", "imagePullPolicy", "securityContext")
    pod["containers"] = [
        {key: container[key] for key in kept if key in container}
        | {
            "resources": container["resources"] | {"requests": {"cpu": "20m", "memory": "64Mi"}},
            "command": ["/bin/bash", "-c", script, "list", PLACE],
            "volumeMounts": [{"name": volume["name"], "mountPath": PLACE, "readOnly": True}],
        }
    ]
    pod["volumes"] = [volume]
    labels = {"app.kubernetes.io/name": "stack-backup-list"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"list-dumps-{secrets.token_hex(3)}", "labels": labels},
        "spec": {
            "activeDeadlineSeconds": DEADLINE,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": DEADLINE,
            "template": {"metadata": {"labels": labels | {"app.kubernetes.io/component": name}}, "spec": pod},
        },
    }


def _read(run: Run) -> tuple[list[str], str]:
    """What a listing Job printed, and why that is not all."""
    lines: list[str] = []
    states: list[str] = []
    end = run.follow(lines.append, states.append)
    if exit_code(end) == 0 and lines and lines[-1] == "end":
        return lines[:-1], ""
    waits = (state for state in reversed(states) if "waits" in state or "no node" in state)
    said = lines[-1] if lines else next(waits, "")
    return [], f"It could not be listed ({end.reason or 'cut off'}). {said}".rstrip()


def _media(claim: str, job: str, lines: list[str], problem: str) -> Media:
    state = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return Media(
        claim=claim,
        job=job,
        status=state.get("status", ""),
        since=state.get("since"),
        completed=state.get("completed"),
        files=int(state["files"]) if "files" in state else None,
        bytes=int(state["bytes"]) if "bytes" in state else None,
        namespace=state.get("namespace"),
        problem=problem,
    )


def _points(lines: list[str], now: datetime) -> list[Point]:
    limit = (now + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")
    found = [point for line in lines if (point := _point(line, limit)) is not None]
    return sorted(found, key=lambda point: (point.time, point.folder), reverse=True)


def _point(line: str, limit: str) -> Point | None:
    kind, _, rest = line.partition("\t")
    if kind != "dump":
        return None
    folder, name, size, agrees, suspicious, rows, tables, version, namespace = rest.split("\t")
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    known = agrees == "yes"
    state = "unverified" if not known else "suspicious" if suspicious == "yes" else "verified"
    return Point(
        time=match[1],
        folder=folder,
        dump=name,
        bytes=int(size),
        state="future" if match[1] >= limit else state,
        rows=int(rows) if known else None,
        tables=int(tables) if known else None,
        server_version=version if known else None,
        namespace=namespace if known else None,
    )
