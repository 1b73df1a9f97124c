"""The whole story at a share of production's size, every limit of its pods in the same proportion.

What grows with the data and must not (memory, /tmp, scratch) fails here before it fails on production.
`STACK_BACKUP_SCALE` is the factor; 1 is production itself (`make test-size`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import MANIFESTS, Manifest, manifest_name
from stack_backup_lab.data import media_files
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime.folders import own_folder
from stack_backup_lab.runtime.local import OWNER, LocalRuntime, LocalStack
from stack_backup_lab.runtime.pod import size
from stack_backup_lab.story.stacks import CLAIM, CONSUMER_VALUES, NAMESPACE, STAGING, STOCK, VALUES
from tests.scale import proportions
from tests.scale.proportions import GIB, MEDIA_ENTRIES, MIB, PACKED, PEAK, SCALE, TEXT

pytestmark = pytest.mark.timeout(900 * max(1, 50 // SCALE))

MEDIA = "media"
MEDIA_BYTES = 4 * GIB
"""Size of a volume of media files; an inode for every 16 KiB."""
FILES_OF_A_FOLDER = 200


@dataclass
class World:
    """Production with all that it holds, and staging, which is recovered from its replicas."""

    production: LocalStack
    staging: LocalStack

    def green(self, stack: LocalStack, job: str, outcome: str, **environment: str) -> JobResult:
        """Run a job, which must end well within a pod's limits."""
        result = stack.run(job, timeout=24 * 3600, environment=environment)
        peak = result.peak_memory or 0  # not measured where there are no limits
        print(f"{job}: {result.seconds:.0f} s, {peak // MIB} MiB: {result.verdict.get('message')}")
        assert result.succeeded, f"{result.reason}\n{result.log}"
        assert result.verdict["outcome"] == outcome
        assert peak < PEAK, f"{job} used {peak / MIB:.0f} MiB"
        return result


def objects(values: Path, namespace: str) -> Objects:
    """A stack's own release, its limits in proportion."""
    return proportions.in_proportion(render(merge_values(values, STOCK), namespace=namespace))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    proportions.require_disk()
    exports, lock = own_folder("exports")
    runtime = LocalRuntime(exports=exports)
    with ExitStack() as open_things:
        open_things.callback(os.close, lock)
        open_things.callback(shutil.rmtree, exports)
        production, staging = (
            open_things.enter_context(runtime.stack(name, "postgres:15")) for name in (NAMESPACE, STAGING)
        )
        for stack, values in ((production, VALUES), (staging, CONSUMER_VALUES)):
            stack.add_claim(MEDIA)
            stack.apply(objects(values, stack.namespace))
            open_things.enter_context(stack.volume(MEDIA).limited(MEDIA_BYTES))
        [replica] = exports.glob("*media-replica")
        open_things.enter_context(shared_disk([production, staging], replica))
        claim = render(merge_values(VALUES)).get("PersistentVolumeClaim", CLAIM)
        whole = size(claim["spec"]["resources"]["requests"]["storage"])
        open_things.enter_context(production.volume(CLAIM).limited(whole // SCALE))
        yield World(production, staging)


@contextmanager
def shared_disk(stacks: Sequence[LocalStack], folder: Path) -> Iterator[None]:
    """One file system for all stacks. It ends with its mounts: to remove so many files takes minutes."""
    image = folder.with_name(f"{folder.name}.disk")
    first, *others = (stack.namespaces for stack in stacks)
    first.mount_disk(image, folder, MEDIA_BYTES)
    for other in others:  # the same loop device, and so the same file system
        other.run(["mount", "-t", "ext4", "-o", "loop,noatime,barrier=0", str(image), str(folder)])
    os.chown(first.seen(folder), OWNER, OWNER)
    try:
        yield
    finally:
        for one in (first, *others):
            one.unmount(folder)
        image.unlink()


@pytest.fixture(scope="module")
def dump(world: World) -> JobResult:
    proportions.fill(world.production.database)
    return world.green(world.production, "postgres-backup-hourly", "published")


@pytest.fixture(scope="module")
def replica(world: World, dump: JobResult) -> JobResult:
    result = world.green(world.production, "postgres-replicator-backup", "published")
    assert result.verdict["dump"] == dump.verdict["dump"]
    return result


@pytest.fixture(scope="module")
def mirror(world: World) -> JobResult:
    source = world.production.volume(MEDIA).path
    for number in range(0, MEDIA_ENTRIES, FILES_OF_A_FOLDER + 1):  # a folder is an entry, too
        folder = source / f"targets-{number // 20_000}" / f"set-{number}"
        folder.mkdir(parents=True)
        for file in range(FILES_OF_A_FOLDER):
            write(f"{folder}/fragment-{file:03}.mol", b"%d %d\n" % (number, file))
    media_files.give(source, 999)
    return world.green(world.production, "media-replicator", "copied")


def write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    os.write(descriptor, data)
    os.close(descriptor)


def test_a_dump_of_productions_size_is_taken(world: World, dump: JobResult) -> None:
    verdict = dump.verdict
    text = (
        world.production.volume(CLAIM).read(f"hourly/{MANIFESTS}/{manifest_name(verdict['dump'])}").decode()
    )
    sql_bytes = Manifest.parse(text).number("sql_bytes")
    print(f"{verdict['bytes'] / MIB:.0f} MiB packed, {sql_bytes / 1e6:.0f} MB of SQL")
    assert 0.7 * PACKED < verdict["bytes"] < 1.3 * PACKED, "the data are no longer in proportion"
    assert 0.9 * TEXT < sql_bytes < 1.2 * TEXT, "the data are no longer in proportion"


def test_a_tier_takes_it(world: World, dump: JobResult) -> None:
    result = world.green(world.production, "postgres-backup-daily", "published")
    assert result.verdict["dump"] == dump.verdict["dump"]


def test_the_media_are_mirrored_and_a_second_run_has_nothing_to_do(world: World, mirror: JobResult) -> None:
    assert mirror.verdict["files"] > MEDIA_ENTRIES * 0.99
    assert mirror.verdict["copied"] == mirror.verdict["files"]
    again = world.green(world.production, "media-replicator", "copied")
    assert (again.verdict["copied"], again.verdict["removed"]) == (0, 0)


def test_the_replicas_are_sound(world: World, replica: JobResult, mirror: JobResult) -> None:
    result = world.green(world.staging, "replica-check", "sound")
    assert result.verdict["dump"] == replica.verdict["dump"]
    assert result.verdict["media_files"] == mirror.verdict["files"]


def test_the_drill_proves_the_dump(world: World, dump: JobResult) -> None:
    result = world.green(world.production, "database-drill", "proved")
    assert result.verdict["rows"] == dump.verdict["rows"]


def test_staging_becomes_what_production_is(world: World, replica: JobResult) -> None:
    result = world.green(world.staging, "database-recovery", "recovered", CONFIRM=STAGING)
    assert result.verdict["dump"] == replica.verdict["dump"]
    held = proportions.content(world.production.database)
    assert len(held) > 10
    assert proportions.content(world.staging.database) == held


def test_stagings_media_become_productions(world: World, mirror: JobResult) -> None:
    world.green(world.staging, "media-recovery", "copied", CONFIRM=STAGING)
    here, there = (
        media_files.snapshot(stack.volume(MEDIA).path) for stack in (world.production, world.staging)
    )
    assert sum(entry.kind == "file" for entry in here.values()) == mirror.verdict["files"]
    assert media_files.differences(here, there) == []
