"""Proves that the off-site job's own keys cannot destroy what they have put into the store: it puts an object
there, tries all that there is to be rid of it, and looks whether its first content can still be read.
"""

from __future__ import annotations

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import Exit, stamp
from stack_backup_jobs.job import Job
from stack_backup_jobs.rclone import Rclone, below

PLACE = ".immutable"
"""Where the probes are. What the store holds fast, its own life cycle removes."""
NAME = "probe"
FIRST, SECOND = "first\n", "second\n"
ADVICE = (
    "Give the bucket Object Lock with a default retention in COMPLIANCE mode (or keys without the right to "
    "delete), or set offsite.immutable to false."
)


def prove(job: Job, rclone: Rclone) -> str:
    """How the store protects the probe. Raises JobError where it does not, or where that cannot be told."""
    # Where the keys are used: a remote over that, such as crypt, knows nothing of versions.
    folder = below(rclone.base(), PLACE, f"{stamp().replace(':', '')}.{job.pod}")
    file, place = job.work / NAME, f"{folder}/{NAME}"
    file.write_text(FIRST)
    rclone.must("copyto", "--ignore-times", file, place, what="No object can be put into the store")
    file.write_text(SECOND)
    rclone.run("copyto", "--ignore-times", file, place, once=True)
    deleted = rclone.run("deletefile", place, once=True)
    # A delete hides an object with versions; this deletes the versions that are hidden. Who may set a lock
    # aside has keys that can destroy.
    bypass = "--s3-bypass-governance-retention"
    cleaned = rclone.run("backend", "cleanup-hidden", bypass, folder, once=True)
    if FIRST not in _contents(rclone, folder):
        raise JobError(
            Exit.SETUP,
            "The keys of this job can destroy what is off-site: a probe that it put there is gone, with all "
            "its versions.",
            ADVICE,
        )
    # An older version is there, so this was really tried: rclone passes over versions that it may not see.
    if cleaned.rejected:
        # A lock refuses nobody to hide an object.
        return "keys may not delete" if deleted.rejected else "versions are locked"
    raise JobError(
        Exit.SETUP,
        "Nothing shows that the keys of this job cannot destroy what is off-site: the store did not refuse "
        f"to delete an older version of a probe ({cleaned.reason or deleted.reason or 'it said nothing'}).",
        f"{ADVICE} Keys need the right to ask for the versioning of the bucket (s3:GetBucketVersioning).",
    )


def _contents(rclone: Rclone, folder: str) -> list[str]:
    """Of every version that can still be read."""
    found = []
    output = bytearray()
    if rclone.run("lsf", "--files-only", "--s3-versions", folder, take=output.extend).code:
        return []
    for name in output.decode(errors="replace").split("\n")[:-1]:
        content = bytearray()
        if not rclone.run("cat", "--s3-versions", f"{folder}/{name}", take=content.extend, once=True).code:
            found.append(content.decode(errors="replace"))
    return found
