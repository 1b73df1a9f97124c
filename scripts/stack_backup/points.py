"""Restore points: the dumps, and the media replicas, on the volumes that the release's jobs mount.

Only a pod sees a volume: so a Job is made that mounts it read-only, lists it (`stack_backup_jobs.listing`)
and is deleted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from stack_backup import CliError, Exit
from stack_backup.evidence import Proofs
from stack_backup.follow import Run, exit_code
from stack_backup.release import Release
from stack_backup.runs import Object, variables, with_environment
from stack_backup.waiting import Blocker
from stack_backup_jobs.formats import MediaState, Record
from stack_backup_jobs.listing import DUMP, HISTORY, MEDIA, STORE, Point, unpacked

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
STORES = ("offsite", "database-recovery", "database-drill", "media-recovery")
SECRET = "offsite-secret"
"""The volume of the jobs that talk to the off-site store."""
DEADLINE = 300
GIVE_UP = 30.0
"""Seconds after which a volume is not waited for that cannot be mounted; its Job is deleted then."""
PLACE = "/dumps"
LENT = ("programs", "tmp", "tools")
"""Volumes of the job's own pod that the listing needs, too: the programs and their interpreter."""


@dataclass(frozen=True)
class Place:
    """A volume of dumps, a job of the release that mounts it, and why it could not be listed (else empty)."""

    claim: str
    """Or, off-site, the remote, such as `s3:backups/production`."""
    job: str
    points: list[Point]
    problem: str = ""

    def as_dict(self, proofs: Proofs) -> dict[str, Any]:
        points = [asdict(point) | asdict(proofs.of(point)) for point in self.points]
        return asdict(self) | {"points": points}


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


@dataclass(frozen=True)
class History:
    """The records that the runs of a release have left, oldest first; and why there are not all of them."""

    records: list[Record]
    problem: str = ""


@dataclass(frozen=True)
class Found:
    """What lies on the volumes of a release: dumps, newest first, media, and the history of the runs."""

    places: list[Place]
    media: list[Media]
    history: History

    @cached_property
    def proofs(self) -> Proofs:
        return Proofs(self.history.records)

    @property
    def problems(self) -> list[str]:
        """What could not be read."""
        found = [(one.claim, one.problem) for one in self.places]
        found += [(one.claim, one.problem) for one in self.media]
        found += [("history", self.history.problem)]
        return [f"{where_is(claim, capital=True)}: {problem}" for claim, problem in found if problem]


def where_is(claim: str, *, capital: bool = False) -> str:
    """A claim, or the off-site store, whose name has a colon."""
    return claim if ":" in claim else f"{'C' if capital else 'c'}laim {claim}"


def source_of_dumps(release: Release, *, off_site: bool = False) -> tuple[str, Object, Object, str]:
    """What recoveries read, else the first volume of dumps, else the off-site store, which may be asked for:
    DUMP or STORE, the CronJob, its volume, and the claim or remote. Raises CliError.
    """
    cronjobs = release.cronjobs()
    claims = [(DUMP, *one) for one in _claims(cronjobs, MOUNTS)]
    stores = [(STORE, *one) for one in _stores(cronjobs)]
    recovery = [
        (STORE, *one) for one in _stores({key: cronjobs[key] for key in {MOUNTS[0][0]} & cronjobs.keys()})
    ]
    if off_site and not stores:
        raise CliError(
            Exit.NO_RELEASE,
            f"No job of the release in {release.namespace} reaches an off-site store (values "
            "offsite.enabled, databaseRecovery.source). Bring the dump with rclone and the configuration of "
            "the store: docs/recovery-runbook.md.",
        )
    found = stores if off_site else [*recovery, *claims, *stores]
    if not found:
        raise CliError(
            Exit.NO_RELEASE,
            f"No job of the release in {release.namespace} mounts a volume of dumps or reaches an off-site "
            "store.",
        )
    return found[0]


def reaches_store(release: Release) -> bool:
    return any(_stores(release.cronjobs()))


def of_release(
    release: Release,
    blocked: Callable[[Blocker], None] = lambda _: None,
    jobs: dict[str, Object] | None = None,
    *,
    history: bool = True,
) -> Found:
    """What lies on every volume that the release's jobs mount, or these `jobs` alone.

    `blocked` is told what keeps a listing from starting, meanwhile.
    """
    cronjobs = release.cronjobs() if jobs is None else jobs
    wanted = [(DUMP, *one) for one in _claims(cronjobs, MOUNTS)]
    wanted += [(MEDIA, *one) for one in _claims(cronjobs, MEDIA_MOUNTS)]
    wanted += [(STORE, *one) for one in _stores(cronjobs)]
    if not wanted:
        raise CliError(
            Exit.NO_RELEASE,
            f"No job of the release in {release.namespace} mounts a volume of dumps or of media.",
        )
    if history:
        wanted += [(HISTORY, *one) for one in _claims(cronjobs, [(job, "history") for job in cronjobs])]
    places: list[Place] = []
    media: list[Media] = []
    kept = History([])
    runs: list[tuple[str, str, str, Run]] = []
    try:
        for what, cronjob, volume, claim in wanted:
            body = listing_job(cronjob, volume, what)
            run = Run(release, "list", body["metadata"]["name"], give_up=GIVE_UP)
            runs.append((what, claim, cronjob["metadata"]["name"], run))
            release.create(body)
        for what, claim, job, run in runs:
            found, problem = _read(run, blocked)
            if what == HISTORY:
                kept = History(sorted(unpacked(found), key=lambda record: record.ended), problem)
                continue
            dumps = [one for one in found if "dump" in one]
            states = [one for one in found if "dump" not in one]
            if what != MEDIA:
                places.append(Place(claim, job, _points(dumps), problem))
            if what == MEDIA or states:
                media.append(_media(claim, job, states, problem))
    finally:
        for *_, run in runs:
            release.delete("Job", run.name)
    return Found(places, media, kept)


def chosen(places: list[Place], environment: Mapping[str, str], as_of: str | None = None) -> Point:
    """The newest verified dump that database-recovery may load; with `as_of` (a stamp), that or one before.
    `environment` is the job's. Raises CliError.
    """
    if not places:
        raise CliError(
            Exit.NO_RELEASE,
            "database-recovery mounts no volume of dumps (value databaseRecovery.source), so none can be "
            "chosen here: name one with recover database --dump. Nothing was started.",
        )
    place = places[0]
    if place.problem:
        where = where_is(place.claim, capital=True)
        raise CliError(Exit.RED, f"{where}: {place.problem} Nothing was started.")
    folders = environment.get("SOURCE_FOLDERS", "").split()
    good = [one for one in place.points if one.state == "verified"]
    if folders:  # off-site any will do
        good = [one for one in good if one.folder in folders]
    if found := next((one for one in good if as_of is None or one.time <= as_of), None):
        if environment.get("SANITISED_ONLY") == "true" and not found.sanitised:
            raise CliError(
                Exit.REFUSED,
                f"The dump {found.time} is not sanitised, as far as its manifest says, and the value "
                "databaseRecovery.sanitisedOnly lets no other in. Nothing was started. Let production "
                "sanitise its replica (postgresReplicatorBackup.sanitise.enabled), or ask for another dump "
                "with --as-of.",
            )
        return found
    before = f" of {as_of} or before" if as_of else ""
    where = f"on claim {place.claim} ({' '.join(folders)})" if folders else f"in {place.claim}"
    there = f" The oldest is of {good[-1].time}, the newest of {good[0].time}." if good else ""
    raise CliError(
        Exit.NO_RELEASE,
        f"There is no verified dump{before} {where}.{there} Nothing was started.",
    )


def _claims(
    cronjobs: dict[str, Object], mounts: Iterable[tuple[str, str]]
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


def _stores(cronjobs: dict[str, Object]) -> Iterator[tuple[Object, Object, str]]:
    """The off-site store, which all jobs share: a CronJob that reaches it, the volume of its keys, and the
    remote.
    """
    for job in (cronjobs[name] for name in STORES if name in cronjobs):
        spec = job["spec"]["jobTemplate"]["spec"]
        for volume in (one for one in spec["template"]["spec"]["volumes"] if one["name"] == SECRET):
            yield job, volume, variables(spec)["REMOTE"]
            return


def listing_job(cronjob: Object, volume: Object, what: str = DUMP) -> Object:
    return reading_job(cronjob, volume, "list", {"WHAT": what}, DEADLINE)


def reading_job(
    cronjob: Object, volume: Object, program: str, environment: Mapping[str, str], deadline: int
) -> Object:
    """A Job with the pod of a CronJob, stripped to its interpreter, its limits and one volume, read-only.
    That of the store's keys stays where it is, and rclone with it.

    It has no owner, as it is no run of that job and must not count as one. Nobody has to delete it.
    """
    name = cronjob["metadata"]["name"]
    template = cronjob["spec"]["jobTemplate"]["spec"]["template"]
    asked = {"JOB": program, "DEADLINE_SECONDS": str(deadline), "PLACE": PLACE, **environment}
    pod = with_environment(template, asked)["spec"]
    pod["volumes"] = [one for one in pod["volumes"] if one["name"] in LENT] + [volume]
    lenders = ("python", "rclone") if volume["name"] == SECRET else ("python",)
    pod["initContainers"] = [one for one in pod.get("initContainers", ()) if one["name"] in lenders]
    (container,) = pod["containers"]
    mounts = [one for one in container["volumeMounts"] if one["name"] in LENT]
    place = PLACE
    if volume["name"] == SECRET:
        place = next(one["mountPath"] for one in container["volumeMounts"] if one["name"] == SECRET)
    container |= {
        "resources": container["resources"] | {"requests": {"cpu": "20m", "memory": "64Mi"}},
        "command": ["/bin/sh", "/programs/start.sh", program],
        "volumeMounts": [*mounts, {"name": volume["name"], "mountPath": place, "readOnly": True}],
    }
    labels = {"app.kubernetes.io/name": f"stack-backup-{program}"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"{program}-dumps-{secrets.token_hex(3)}", "labels": labels},
        "spec": {
            "activeDeadlineSeconds": deadline,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": DEADLINE,
            "template": {"metadata": {"labels": labels | {"app.kubernetes.io/component": name}}, "spec": pod},
        },
    }


def _read(run: Run, blocked: Callable[[Blocker], None]) -> tuple[list[Any], str]:
    """What a listing Job has found, and why that is not all."""
    lines: list[str] = []
    end = run.follow(lines.append, lambda _: None, blocked)
    if exit_code(end) == 0 and end.verdict:
        parts = (line.partition("\t") for line in lines)
        return [json.loads(found) for word, _, found in parts if word in (DUMP, MEDIA, HISTORY)], ""
    said = end.verdict.get("message") or " ".join(map(str, run.blockers)) or (lines[-1] if lines else "")
    return [], f"It could not be listed ({end.reason or 'cut off'}). {said}".rstrip()


def _media(claim: str, job: str, found: list[Any], problem: str) -> Media:
    if not found:
        return Media(claim, job, problem=problem)
    (members,) = found
    state = MediaState(**members)
    ever = bool(state.completed)
    return Media(
        claim=claim,
        job=job,
        status=state.status,
        since=state.since,
        completed=state.completed or None,
        files=state.files if ever else None,
        bytes=state.bytes if ever else None,
        namespace=state.namespace,
    )


def _points(found: list[Any]) -> list[Point]:
    points = [Point(**members) for members in found]
    return sorted(points, key=lambda point: (point.time, point.folder), reverse=True)
