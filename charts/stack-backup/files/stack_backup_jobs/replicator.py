"""The replica of the dumps: the newest good dump, copied to a volume that another cluster reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs import sanitise
from stack_backup_jobs.choice import newest_in, shrunk
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder, deadline_of_the_job, read_afresh, sha256_of, source
from stack_backup_jobs.formats import Dump, Exit, newest
from stack_backup_jobs.job import Job, Outcome, say
from stack_backup_jobs.settings import load, number, optional


@dataclass(frozen=True)
class Settings:
    backup_volume: Path
    backup_folder: str
    replica_volume: Path
    replica_folder: str
    keep: int = number(1)
    grace_seconds: int = number(0)
    maximum_age_seconds: int = number(1)
    minimum_share: int = number(0)
    sanitise: bool = optional("false")


def program(job: Job) -> Outcome:
    job.leaves("Nothing was published, and every earlier dump of the replica is as it was.")
    settings = load(Settings)
    advice = "Check whether the hourly backup has run, and whether this is its volume."
    origin = source(job, settings.backup_volume / settings.backup_folder, advice)
    dump, passed = newest_in(origin)
    folder = Folder(job, settings.replica_volume / settings.replica_folder)
    folder.open()
    with deadline_of_the_job(job, folder.path):
        there = folder.dumps()
        check_target(folder, dump, newest(there))
        marked = sanitise.sanitised(there)
        before = newest(marked if settings.sanitise else there)
        if settings.sanitise and (others := len(there) - len(marked)):
            job.leaves(
                "Nothing was published, and every earlier dump of the replica is as it was, "
                f"{others} of them not sanitised."
            )
        word, message, read = "present", f"{dump.name} is in the replica already, whole.", dump.name
        if before and before.time > dump.time:
            # A dump that went back in time would only push out a newer one.
            read = ""
            job.figure(dump=before.name, bytes=before.size, rows=before.rows)
            job.leaves(f"The replica holds the newer {before.name}.")
            message = (
                f"The replica holds {before.name} already, which is newer than {dump.name}, the newest of "
            )
            message += "the source."
        elif settings.sanitise:
            if sanitise.bring(job, folder, origin, dump, settings.minimum_share):
                word, message = "published", f"{dump.name} is in the replica, sanitised and verified."
            job.figure(dump=dump.name, bytes=folder.file(dump.name).stat().st_size)
            job.leaves(f"The replica holds {dump.name}, sanitised and whole.")
        elif any(dump.name == found.name for found in marked):
            message = f"{dump.name} is in the replica already, sanitised: only a newer one replaces it."
            job.figure(dump=dump.name)
        else:
            check_share(dump, before, settings.minimum_share)
            say(f"Copying {dump.name} to {folder.path}.")
            if folder.take_over(origin, dump, linked=False):
                word, message = "published", f"{dump.name} is in the replica, verified."
            job.figure(dump=dump.name, bytes=dump.size, rows=dump.rows)
            job.leaves(f"The replica holds {dump.name}, whole.")
        if settings.sanitise:
            sanitise.remove_others(job, folder)
        job.figure(age_seconds=dump.age)
        check_age(dump, settings.maximum_age_seconds, passed)
        retain(job, folder, settings, read)
        job.figure(**folder.capacity(settings.keep))
    return Outcome(Exit.DONE, word, message)


def check_target(folder: Folder, dump: Dump, before: Dump | None) -> None:
    """Two stacks that write to one folder would remove each other's dumps."""
    ours, theirs = (
        found.manifest.get("namespace") if found and found.manifest else "" for found in (dump, before)
    )
    if before and ours != theirs:
        raise JobError(
            Exit.PERMISSION,
            f'The folder {folder.path} holds dumps of namespace "{theirs}", and this is one of "{ours}".',
            "Let each stack write to a folder of its own (value postgresReplicatorBackup.folder), or move "
            "the others away.",
        )


def check_share(dump: Dump, before: Dump | None, share: int) -> None:
    """What the volume of the dumps and the database were lost together, only the replica can tell."""
    if before and (why := shrunk(dump.manifest, before, share)):
        raise JobError(
            Exit.DATA,
            f"{dump.name}, the newest verified dump of the source, shrank since {before.name}, the newest of "
            f"the replica. {why}; it was not copied, and no dump was removed.",
            "Find out what became of the data; if all is well, run once with "
            "postgresReplicatorBackup.minimumShare 0.",
        )


def check_age(dump: Dump, maximum: int, passed: str) -> None:
    """A source that stands still must not push out what may be the last good dumps."""
    if dump.age > maximum:
        raise JobError(
            Exit.DATA,
            f"The newest verified dump of the source, {dump.name}, is {dump.age // 60} minutes old "
            f"(maximum: {maximum // 60}); no dump was removed. {passed}",
            "Find out why the hourly backup publishes no newer one.",
        )


def retain(job: Job, folder: Folder, settings: Settings, read: str) -> None:
    """The retention; nothing good is removed on the strength of a damaged dump. `read` was just read."""
    damaged: list[str] = []

    def whole(dump: Dump) -> bool:
        if dump.name == read or read_afresh(job, folder.file(dump.name), dump.name) == sha256_of(dump):
            return True
        damaged.append(dump.name)
        return False

    removed = folder.prune(settings.keep, settings.grace_seconds, whole, "An old dump of the replica")
    job.figure(verified=folder.verified(), removed=removed)
    if damaged:
        raise JobError(
            Exit.DATA,
            "These dumps of the replica are not what their manifests say, and count for nothing: "
            f"{', '.join(damaged)}.",
            "They were changed or damaged there: move them away, and check the volume and its file server.",
        )
