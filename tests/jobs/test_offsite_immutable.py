"""Off-site with Object Lock, on a store that has it: the job's own keys are proved unable to destroy."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from stack_backup_lab.runtime.local import LocalStack
from tests.jobs.hourly import FOLDER, Hourly
from tests.jobs.store import Store, serving
from tests.jobs.test_offsite import OffSite

PORT = 9200


@pytest.fixture(scope="module")
def store(production: LocalStack) -> Iterator[Store]:
    with serving(production.namespaces, PORT, "minio") as store:
        yield store


class Locked(OffSite):
    """The off-site job with a bucket that has versions; what it puts there is locked in `mode`, or not."""

    def __init__(self, hourly: Hourly, store: Store, bucket: str, mode: str = "", crypt: str = "") -> None:
        self.mode = mode
        store.rclone(store.configuration(), ["mkdir", "--s3-bucket-object-lock-enabled", f"s3:{bucket}"])
        super().__init__(hourly, store, bucket)
        lock = f"object_lock_mode = {mode}\nobject_lock_retain_until_date = 1d\n" if mode else ""
        plain, configuration = store.configuration(), store.configuration(crypt=crypt)
        over = configuration.removeprefix(plain)
        self.stack.secrets["offsite"] = {"rclone.conf": plain + lock.encode() + over}
        remote = {"remote": "secret:"} if crypt else {}
        self.install({"immutable": True, "folders": [FOLDER], "keep": 1, **remote})

    def versions(self, folder: str) -> list[str]:
        place = f"s3:{self.bucket}/production/{folder}"
        found = self.store.rclone(self.store.configuration(), ["copy", "--s3-versions", place, "/to"])
        return sorted(str(path.relative_to(found)) for path in found.rglob("*") if path.is_file())


def test_a_locked_bucket_is_proved_and_nothing_is_removed_there(hourly: Hourly, store: Store) -> None:
    offsite = Locked(hourly, store, "compliance", "COMPLIANCE")
    first = hourly.plant(timedelta(hours=9))
    verdict = offsite.run().verdict
    assert (verdict["immutable"], verdict["sent"], verdict["removed"]) == ("versions are locked", 1, 0)
    second = hourly.plant(timedelta(hours=8))
    verdict = offsite.run().verdict
    assert (verdict["sent"], verdict["removed"], verdict["kept"]) == (1, 0, 1)
    assert [name for name in offsite.versions(FOLDER) if "/" not in name] == [first, second]
    assert len([name for name in offsite.versions(".immutable") if "-v" in name]) == 2


def test_a_locked_bucket_under_encryption_is_proved(hourly: Hourly, store: Store) -> None:
    offsite = Locked(hourly, store, "encrypted", "COMPLIANCE", crypt="encrypted/production")
    hourly.plant(timedelta(hours=9))
    assert offsite.run().verdict["immutable"] == "versions are locked"


@pytest.mark.parametrize("mode", ["GOVERNANCE", ""])
def test_keys_that_can_destroy_are_red_and_all_is_sent(hourly: Hourly, store: Store, mode: str) -> None:
    offsite = Locked(hourly, store, f"open-{mode.lower() or 'none'}", mode)
    name = hourly.plant(timedelta(hours=9))
    result = offsite.run(78, "can destroy what is off-site", "COMPLIANCE")
    assert "immutable" not in result.verdict
    assert result.verdict["sent"] == 1
    assert name in offsite.versions(FOLDER)


READ = ("s3:ListBucket", "s3:ListBucketVersions", "s3:GetObject", "s3:GetObjectVersion", "s3:PutObject")
VERSIONING = "s3:GetBucketVersioning"


def test_keys_that_may_not_delete_are_proved_without_any_lock(hourly: Hourly, store: Store) -> None:
    offsite = Locked(hourly, store, "undeletable")
    offsite.stack.secrets["offsite"] = {"rclone.conf": store.keys(*READ, VERSIONING)}
    name = hourly.plant(timedelta(hours=9))
    verdict = offsite.run().verdict
    assert (verdict["immutable"], verdict["sent"]) == ("keys may not delete", 1)
    assert name in offsite.versions(FOLDER)


@pytest.mark.parametrize("more", [("s3:DeleteObject",), ()], ids=["may hide", "may not delete"])
def test_what_keys_could_not_try_is_no_proof(hourly: Hourly, store: Store, more: tuple[str, ...]) -> None:
    """Whether they may delete versions nobody knows whose keys do not show that there are any."""
    offsite = Locked(hourly, store, f"untried-{len(more)}", "COMPLIANCE")
    lock = b"object_lock_mode = COMPLIANCE\nobject_lock_retain_until_date = 1d\n"
    retention = ("s3:PutObjectRetention", "s3:GetObjectRetention")
    offsite.stack.secrets["offsite"] = {"rclone.conf": store.keys(*READ, *retention, *more) + lock}
    hourly.plant(timedelta(hours=9))
    result = offsite.run(78, "Nothing shows", "s3:GetBucketVersioning")
    assert "immutable" not in result.verdict
    assert result.verdict["sent"] == 1
