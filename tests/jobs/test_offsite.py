"""The off-site copy against a real S3 server: verified there, kept there, nothing lost there."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import OWNER, LocalStack, LocalVolume, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.hourly import FOLDER, VALUES, Hourly
from tests.jobs.mirror import fill_up
from tests.jobs.store import SECRET, Store, objects, serving

JOB = "offsite"
PLACE = "production"
"""The path in the bucket that the release is given."""

OFFSITE: dict[str, Any] = {"enabled": True, "media": False, "folders": [FOLDER, "daily"], "keep": 2}


class OffSite:
    """The off-site job of the production stack, with a bucket of its own."""

    def __init__(self, hourly: Hourly, store: Store, bucket: str) -> None:
        self.hourly = hourly
        self.stack: LocalStack = hourly.stack
        self.store = store
        self.bucket = bucket
        self.folder = store.bucket(bucket)
        self.stack.secrets["offsite"] = {"rclone.conf": store.configuration()}
        self.install({})

    def install(self, values: Mapping[str, Any]) -> None:
        offsite = {**OFFSITE, "remote": f"s3:{self.bucket}/{PLACE}", **values}
        self.stack.install(
            merge_values(VALUES, {"postgresBackupTiers": {"enabled": True}, "offsite": offsite})
        )

    def run(self, code: int = 0, *words: str, **environment: str) -> JobResult:
        """A run that must end with `code`, and when it is red with a sentence that holds `words`."""
        return self.ended(self.stack.run(JOB, environment=environment), code, *words)

    def ended(self, result: JobResult, code: int, *words: str) -> JobResult:
        assert result.exit_code == code, result.log
        assert (result.verdict["job"], result.verdict["exit"]) == (JOB, code)
        assert (result.verdict["outcome"] == "failed") == (code != 0)
        for word in words:
            assert word.lower() in result.verdict["message"].lower(), result.verdict["message"]
        assert SECRET not in result.log
        return result

    def start(self, **environment: str) -> RunningJob:
        return self.stack.start(JOB, environment=environment)

    def objects(self, folder: str = "") -> Mapping[str, bytes]:
        place = self.folder / PLACE / folder
        return objects(place) if place.is_dir() else {}

    def dumps(self, folder: str = FOLDER) -> list[str]:
        return sorted(name for name in self.objects(folder) if re.fullmatch(r"backup-[^/]*", name))

    def object(self, name: str, folder: str = FOLDER) -> Path:
        return self.folder / PLACE / folder / name

    def assert_same(self, *names: str) -> None:
        """These dumps and no others are off-site, each with its manifest, as on the volume."""
        assert self.dumps() == sorted(names)
        for name in names:
            assert self.object(name).read_bytes() == self.hourly.read(name)
            manifest = self.object(f".manifest/{name}.tsv").read_bytes()
            assert manifest == self.hourly.volume.read(self.hourly.manifest_path(name))


@pytest.fixture(scope="module")
def store(production: LocalStack) -> Iterator[Store]:
    with serving(production.namespaces) as store:
        yield store


@pytest.fixture
def offsite(hourly: Hourly, store: Store, request: pytest.FixtureRequest) -> OffSite:
    digest = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    return OffSite(hourly, store, f"bucket-{digest}")


# ---- dumps ----


def test_verified_dumps_are_sent_once(offsite: OffSite) -> None:
    _, *newest = offsite.hourly.plant_verified(3)
    offsite.hourly.plant(timedelta(minutes=5), verified=False)
    result = offsite.run()
    assert result.verdict["outcome"] == "published"
    assert (result.verdict["sent"], result.verdict["kept"], result.verdict["removed"]) == (2, 2, 0)
    offsite.assert_same(*newest)
    before = {path: offsite.object(path).stat().st_ino for path in offsite.objects(FOLDER)}

    again = offsite.run()
    assert (again.verdict["outcome"], again.verdict["sent"], again.verdict["kept"]) == ("present", 0, 2)
    assert {path: offsite.object(path).stat().st_ino for path in offsite.objects(FOLDER)} == before


def test_every_folder_has_its_own_retention(offsite: OffSite) -> None:
    [old] = offsite.hourly.plant_verified(1)
    for path in (f"{FOLDER}/{old}", offsite.hourly.manifest_path(old)):
        offsite.hourly.volume.write(path.replace(FOLDER, "daily"), offsite.hourly.volume.read(path))
    assert offsite.run().verdict["kept"] == 2
    assert offsite.dumps() == offsite.dumps("daily") == [old]


def test_only_what_is_older_than_enough_verified_dumps_is_removed(offsite: OffSite) -> None:
    first = offsite.hourly.plant(timedelta(hours=9))
    second = offsite.hourly.plant(timedelta(hours=8))
    offsite.run()
    strangers = {
        "backup-notes.txt": b"mine",
        "backup-2020-01-01T00:00:00Z-dumpall.sql.bak": b"mine",
        ".manifest/notes": b"mine",
    }
    for name, content in strangers.items():
        offsite.object(name).write_bytes(content)
    # A dump without a manifest is not counted; it goes only when enough verified ones are newer.
    uncounted = "backup-2020-01-01T00:00:00Z-dumpall.sql.gz"
    shutil.copy(offsite.object(first), offsite.object(uncounted))
    offsite.store.restart()
    offsite.run(KEEP="3")
    assert offsite.dumps() == sorted([uncounted, first, second, "backup-notes.txt", *_bak(strangers)])

    for path in (first, f".manifest/{first}.tsv"):
        assert offsite.object(path).exists()
    third = offsite.hourly.plant(timedelta(hours=7))
    result = offsite.run()
    assert result.verdict["removed"] == 2
    left = offsite.objects(FOLDER)
    assert {name: left.get(name) for name in strangers} == strangers
    assert {second, third} <= left.keys()
    assert not [name for name in left if first in name or uncounted in name]


def _bak(strangers: Mapping[str, bytes]) -> list[str]:
    return [name for name in strangers if name.endswith(".bak")]


def test_dumps_that_the_volume_has_no_more_are_kept(offsite: OffSite) -> None:
    first, second = offsite.hourly.plant_verified(2)
    offsite.run()
    for path in (f"{FOLDER}/{first}", offsite.hourly.manifest_path(first)):
        offsite.hourly.volume.remove(path)
    assert offsite.run().verdict["kept"] == 2
    assert offsite.dumps() == [first, second]


def test_suspicious_dumps_are_sent_and_push_none_out(offsite: OffSite) -> None:
    good = offsite.hourly.plant_verified(2)
    offsite.run()
    bad = offsite.hourly.plant(timedelta(minutes=5), suspicious="yes")
    offsite.run()
    offsite.assert_same(*good, bad)


@pytest.mark.parametrize("same_size", [True, False], ids=["one byte", "cut off"])
def test_object_that_was_changed_is_repaired(offsite: OffSite, same_size: bool) -> None:
    name, other = offsite.hourly.plant_verified(2)
    offsite.run()
    path = offsite.object(name)
    content = bytearray(path.read_bytes())
    times = (path.stat().st_atime, path.stat().st_mtime)
    content[1000] ^= 1
    path.write_bytes(content if same_size else content[:2000])
    os.utime(path, times)
    offsite.store.restart()
    result = offsite.run()
    assert (result.verdict["repaired"], result.verdict["sent"]) == (1, 1)
    offsite.assert_same(name, other)


def test_object_that_was_deleted_is_sent_again(offsite: OffSite) -> None:
    name, other = offsite.hourly.plant_verified(2)
    offsite.run()
    offsite.object(name).unlink()
    offsite.store.restart()
    assert offsite.run().verdict["sent"] == 1
    offsite.assert_same(name, other)


def test_changed_object_that_cannot_be_repaired_is_red_and_pushes_none_out(offsite: OffSite) -> None:
    first, second = offsite.hourly.plant_verified(2)
    offsite.run()
    for path in (f"{FOLDER}/{second}", offsite.hourly.manifest_path(second)):
        offsite.hourly.volume.remove(path)
    offsite.object(second).write_bytes(b"ransom")
    offsite.store.restart()
    third = offsite.hourly.plant(timedelta(minutes=1))
    offsite.run(65, second, "was changed off-site")
    assert offsite.dumps() == sorted([first, second, third])


def test_source_that_is_damaged_is_never_sent(offsite: OffSite) -> None:
    good, bad = offsite.hourly.plant_verified(2)
    content = bytearray(offsite.hourly.read(bad))
    content[1000] ^= 1
    offsite.hourly.volume.write(f"{FOLDER}/{bad}", bytes(content))
    offsite.run(65, bad, "sha256 differs")
    offsite.assert_same(good)


def test_source_without_a_verified_dump(offsite: OffSite) -> None:
    names = offsite.hourly.plant_verified(2)
    offsite.run()
    before = offsite.objects()
    offsite.hourly.volume.clear()
    offsite.hourly.plant(timedelta(hours=1), verified=False)
    offsite.run(66, "no verified dump", "nothing was removed")
    assert offsite.objects() == before
    assert offsite.dumps() == names


def test_folder_that_became_empty_is_red_and_keeps_its_copies(offsite: OffSite) -> None:
    names = offsite.hourly.plant_verified(2)
    offsite.run()
    offsite.hourly.volume.clear()
    daily = "backup-2020-01-01T00:00:00Z-dumpall.sql.gz"
    text = re.sub(rb"(?m)^name\t.*$", b"name\t" + daily.encode(), _manifest(offsite, names[0]))
    offsite.hourly.volume.write(f"daily/{daily}", offsite.object(names[0]).read_bytes())
    offsite.hourly.volume.write(f"daily/.manifest/{daily}.tsv", text)
    offsite.run(66, FOLDER, "any more")
    assert offsite.dumps() == names
    assert offsite.dumps("daily") == [daily]


def _manifest(offsite: OffSite, name: str) -> bytes:
    return offsite.object(f".manifest/{name}.tsv").read_bytes()


def test_killed_amid_an_upload_it_goes_on(offsite: OffSite) -> None:
    first, second = offsite.hourly.plant_verified(2)
    with offsite.start(BANDWIDTH_LIMIT="100k") as job:
        folder = offsite.object("")
        end = time.monotonic() + 60
        while not [path for path in folder.glob(".rclone_temp_put_*") if path.stat().st_size > 0]:
            assert job.pod.running, job.pod.log
            assert time.monotonic() < end, job.pod.log
            time.sleep(0.01)
        job.signal(signal.SIGKILL)
        assert job.wait().exit_code == 137
    assert offsite.dumps() == []
    offsite.run()
    offsite.assert_same(first, second)


def test_told_to_stop_amid_an_upload(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    with offsite.start(BANDWIDTH_LIMIT="20k") as job:
        while "Sending" not in job.pod.log:
            assert job.pod.running, job.pod.log
            time.sleep(0.01)
        begun = time.monotonic()
        job.signal(signal.SIGTERM)
        offsite.ended(job.wait(), 143, "nothing was removed")
        assert time.monotonic() - begun < 5
    assert offsite.dumps() == []


def test_encrypted_round_trip(offsite: OffSite) -> None:
    first, second = offsite.hourly.plant_verified(2)
    configuration = offsite.store.configuration(crypt=f"{offsite.bucket}/hidden")
    offsite.stack.secrets["offsite"]["rclone.conf"] = configuration
    offsite.install({"remote": "secret:"})
    assert offsite.run().verdict["sent"] == 2
    stored = objects(offsite.folder)
    assert not [name for name in stored if "backup" in name or "dumpall" in name]
    assert offsite.hourly.read(first) not in stored.values()

    back = offsite.store.rclone(configuration, ["copy", f"secret:{FOLDER}", "/to"])
    for name in (first, second):
        manifest = (back / ".manifest" / f"{name}.tsv").read_text()
        digest = hashlib.sha256((back / name).read_bytes()).hexdigest()
        assert f"sha256\t{digest}\n" in manifest
    assert offsite.run().verdict["outcome"] == "present"


def test_altered_object_of_an_encrypted_remote_is_repaired(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    offsite.stack.secrets["offsite"]["rclone.conf"] = offsite.store.configuration(crypt=f"{offsite.bucket}/x")
    offsite.install({"remote": "secret:"})
    offsite.run()
    largest = max(offsite.folder.rglob("*"), key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"x")
    offsite.store.restart()
    assert offsite.run().verdict["repaired"] == 1


# ---- what the store and the Secret may say ----


def test_wrong_key(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    offsite.stack.secrets["offsite"]["rclone.conf"] = offsite.store.configuration(secret="wrong")
    offsite.run(77, "SignatureDoesNotMatch", "Secret")


def test_store_that_is_down(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    offsite.stack.secrets["offsite"]["rclone.conf"] = offsite.store.configuration(port=9)
    offsite.run(69, "connection refused", "NetworkPolicy")


def test_store_that_goes_away_amid_an_upload(offsite: OffSite, production: LocalStack) -> None:
    offsite.hourly.plant_verified(1)
    with serving(production.namespaces, 9001) as other:
        other.bucket("other")
        offsite.stack.secrets["offsite"]["rclone.conf"] = other.configuration()
        offsite.install({"remote": "s3:other/place"})
        with offsite.start(BANDWIDTH_LIMIT="100k", RCLONE_RETRIES="1", RCLONE_LOW_LEVEL_RETRIES="2") as job:
            while "Sending" not in job.pod.log:
                assert job.pod.running, job.pod.log
                time.sleep(0.01)
            other.stop()
            offsite.ended(job.wait(), 69, "nothing was removed")


@pytest.fixture
def disk(production: LocalStack) -> Iterator[LocalVolume]:
    """The disk of a store, with an empty bucket `b`."""
    if "media" not in production._claims:
        production.add_claim("media")
    volume = production.volume("media")
    volume.clear()
    os.chown(volume.path, OWNER, OWNER)
    (volume.path / "b").mkdir()
    os.chown(volume.path / "b", OWNER, OWNER)
    yield volume
    volume.clear()


@contextmanager
def small_store(offsite: OffSite, disk: LocalVolume, protocol: str) -> Iterator[Store]:
    """One that says no more than 500 or "failure", whatever is amiss."""
    with serving(offsite.stack.namespaces, 9002, protocol, disk._folder) as store:
        configuration = store.configuration() if protocol == "s3" else store.sftp_configuration()
        offsite.stack.secrets["offsite"]["rclone.conf"] = configuration
        offsite.install({"remote": f"{protocol}:b", "keep": 1})
        yield store


IMPATIENT = {"RCLONE_RETRIES": "1", "RCLONE_LOW_LEVEL_RETRIES": "2"}
FULL = {"s3": "takes no object of 12 MiB", "sftp": "and 12 are needed"}


@pytest.mark.parametrize("protocol", FULL)
def test_store_without_room_for_a_dump(offsite: OffSite, disk: LocalVolume, protocol: str) -> None:
    content = random.Random(3).randbytes(12 << 20)
    offsite.hourly.plant(timedelta(hours=1), dump=content, sha256=hashlib.sha256(content).hexdigest())
    with disk.limited(4 << 20), small_store(offsite, disk, protocol):
        offsite.run(73, "nothing was removed", FULL[protocol], "make room in the store", **IMPATIENT)
        offsite.hourly.volume.clear()
        offsite.hourly.plant(timedelta(hours=3))
        assert offsite.run().verdict["kept"] == 1
        assert ".probe" not in str(list(disk.path.rglob("*")))


def test_store_without_any_room(offsite: OffSite, disk: LocalVolume) -> None:
    offsite.hourly.plant_verified(1)
    with disk.limited(4 << 20), small_store(offsite, disk, "s3"):
        fill_up(disk, 0)
        offsite.run(73, "takes no object of 1 MiB", "make room in the store", **IMPATIENT)


@pytest.mark.parametrize("protocol", FULL)
def test_store_that_is_read_only(offsite: OffSite, disk: LocalVolume, protocol: str) -> None:
    offsite.hourly.plant_verified(1)
    with disk.read_only(), small_store(offsite, disk, protocol):
        offsite.run(77, "takes no object of 0 bytes", "read-only", "keys", **IMPATIENT)


@pytest.mark.parametrize("protocol", FULL)
def test_place_that_may_not_be_written(offsite: OffSite, disk: LocalVolume, protocol: str) -> None:
    offsite.hourly.plant_verified(1)
    os.chown(disk.path / "b", 0, 0)
    (disk.path / "b").chmod(0o755)
    with small_store(offsite, disk, protocol):
        offsite.run(77, "takes no object of 0 bytes", "keys", **IMPATIENT)


def test_bucket_that_does_not_exist_is_not_made(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    offsite.install({"remote": "s3:no-such-bucket/production"})
    offsite.run(66, "not found", "Make the bucket")
    assert not (offsite.store.folder / "no-such-bucket").exists()


@pytest.mark.parametrize("configuration", [None, b""], ids=["no Secret", "empty"])
def test_missing_configuration(offsite: OffSite, configuration: bytes | None) -> None:
    offsite.hourly.plant_verified(1)
    offsite.stack.secrets["offsite"] = {} if configuration is None else {"rclone.conf": configuration}
    offsite.run(78, "no configuration of rclone", "Secret")


def test_remote_that_the_configuration_lacks(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    offsite.run(78, "no remote named other", REMOTE="other:backups")


def test_configuration_that_is_none(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    offsite.stack.secrets["offsite"]["rclone.conf"] = b"not a configuration\n"
    offsite.run(78, "Secret")


def test_credentials_in_the_values_are_refused_and_not_shown(offsite: OffSite) -> None:
    offsite.hourly.plant_verified(1)
    result = offsite.run(78, "not the name of a remote", REMOTE=":s3,secret_access_key=hunter2:bucket")
    assert "hunter2" not in result.log


def test_place_of_another_stack_is_left_alone(offsite: OffSite) -> None:
    names = offsite.hourly.plant_verified(2)
    offsite.run()
    for name in names:
        path = offsite.object(f".manifest/{name}.tsv")
        path.write_text(re.sub(r"(?m)^namespace\t.*$", "namespace\tstack-bob", path.read_text()))
    offsite.store.restart()
    offsite.hourly.plant(timedelta(minutes=1))
    before = offsite.objects()
    offsite.run(77, "another stack", "stack-bob")
    assert offsite.objects() == before


# ---- media ----


@pytest.fixture
def media(offsite: OffSite) -> Iterator[OffSite]:
    """The job with the media: five files on the claim, one verified dump."""
    if "media" not in offsite.stack._claims:
        offsite.stack.add_claim("media")
    volume = offsite.stack.volume("media")
    volume.clear()
    os.chown(volume.path, OWNER, OWNER)
    volume.path.chmod(0o2770)
    for number in range(5):
        volume.write(f"targets/{number}.sdf", f"molecule {number}".encode())
    offsite.hourly.plant_verified(1)
    offsite.install({"media": True})
    yield offsite
    volume.clear()


def _copy(offsite: OffSite) -> Path:
    """The media as somebody gets them back who follows the documentation."""
    arguments = ["copy", "--links", "--create-empty-src-dirs", "--local-encoding=Raw"]
    arguments += ["--no-unicode-normalization", "--s3-directory-markers"]
    arguments += [f"s3:{offsite.bucket}/{PLACE}/media", "/to"]
    return offsite.store.rclone(offsite.store.configuration(), arguments)


def _assert_same_tree(one: Path, other: Path) -> None:
    found = subprocess.run(
        ["diff", "--recursive", "--no-dereference", one, other], check=False, capture_output=True
    )
    assert found.returncode == 0, found.stdout.decode(errors="replace")


def test_media_come_back_as_they_were_whatever_their_names(media: OffSite) -> None:
    volume = media.stack.volume("media").path
    (volume / "empty/inner").mkdir(parents=True)
    names = [
        "café".encode(),
        "cafe\u0301".encode(),
        b"new\nline",
        b"-dash",
        b"a" * 255,
        b"bad\xff\xfe",
        b" lead",
    ]
    names += [b"trail ", b"a:b", b"q?*'\"\\", b"100%41", b"tab\t", b"\x01", "\uff05\u2024".encode(), b"dot."]
    for name in names:
        Path(os.fsdecode(os.fsencode(volume) + b"/" + name)).write_bytes(b"of " + name)
    for link, target in (("relative", "targets/1.sdf"), ("dangling", "nowhere"), ("out", "/etc/passwd")):
        (volume / link).symlink_to(target)
    os.utime(volume / "targets/1.sdf", (1, 1))
    result = media.run()
    assert result.verdict["media_files"] == result.verdict["media_added"] == 5 + len(names) + 3
    back = _copy(media)
    _assert_same_tree(volume, back)
    assert (back / "targets/1.sdf").stat().st_mtime == 1
    # This server, made to look at its disk again, would show another name for a newline: it is not.
    again = media.ended(media.stack.run(JOB), 0)
    assert again.verdict["outcome"] == "present", again.log


def test_changed_and_deleted_media_are_kept_for_a_while(media: OffSite) -> None:
    media.run()
    volume = media.stack.volume("media")
    volume.write("targets/1.sdf", b"another molecule")
    volume.remove("targets/2.sdf")
    old = media.folder / PLACE / "trash/media/2020-01-01T000000Z/targets/9.sdf"
    mine = media.folder / PLACE / "trash/media/mine/9.sdf"
    for path in (old, mine):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"old")
    subprocess.run(["chown", "--recursive", f"{OWNER}", media.folder / PLACE / "trash"], check=True)
    media.store.restart()
    result = media.run()
    assert (result.verdict["media_replaced"], result.verdict["media_deleted"]) == (1, 1)
    assert result.verdict["trash_emptied"] == 1
    _assert_same_tree(volume.path, _copy(media))
    trash = media.objects("trash/media")
    stamp = {name.split("/")[0] for name in trash} - {"mine"}
    assert len(stamp) == 1
    [time_] = stamp
    assert datetime.strptime(time_, "%Y-%m-%dT%H%M%SZ").replace(tzinfo=UTC) > datetime.now(UTC) - timedelta(
        minutes=5
    )
    assert trash == {
        f"{time_}/targets/1.sdf": b"molecule 1",
        f"{time_}/targets/2.sdf": b"molecule 2",
        "mine/9.sdf": b"old",
    }


def test_empty_media_volume_empties_nothing(media: OffSite) -> None:
    media.run()
    before = media.objects()
    media.stack.volume("media").clear()
    media.run(66, "holds no file", "as they were")
    assert media.objects() == before


@pytest.mark.parametrize("state", [True, False], ids=["with its state", "without its state"])
def test_media_that_shrank_are_refused_until_somebody_says_so(media: OffSite, state: bool) -> None:
    media.run()
    if not state:
        (media.folder / PLACE / "media.state").unlink()
        media.store.restart()
    before = media.objects()
    for number in range(3):
        media.stack.volume("media").remove(f"targets/{number}.sdf")
    media.run(65, "less than 50 %", "MINIMUM_SHARE=0")
    assert media.objects() == before
    assert media.run(MINIMUM_SHARE="0").verdict["media_deleted"] == 3
    assert media.run().verdict["outcome"] == "present"


def test_unreadable_media_are_red_and_nothing_is_deleted(media: OffSite) -> None:
    media.run()
    volume = media.stack.volume("media")
    volume.remove("targets/0.sdf")
    volume.write("targets/secret.sdf", b"x")
    os.chown(volume.path / "targets/secret.sdf", 0, 0)
    (volume.path / "targets/secret.sdf").chmod(0o600)
    media.run(77, "permission denied", "The dumps are off-site")
    assert "targets/0.sdf" in media.objects("media")


def test_what_no_store_can_hold_is_red(media: OffSite) -> None:
    os.mkfifo(media.stack.volume("media").path / "pipe")
    media.run(65, "1 pipes, sockets or devices", "all else is off-site")
    assert len(media.objects("media")) == 5


def test_name_that_is_too_long_for_the_store_is_red(media: OffSite) -> None:
    # A link's name is stored with a suffix, and the folder behind this store takes 255 bytes.
    (media.stack.volume("media").path / ("l" * 250)).symlink_to("targets/1.sdf")
    media.run(75, "l" * 250, "The dumps are off-site")
    assert not [name for name in media.objects() if "probe" in name], "what was tried is taken away"


def test_file_that_is_always_being_written_costs_no_other(media: OffSite) -> None:
    volume = media.stack.volume("media")
    log = volume.path / "targets/log"
    log.write_bytes(b"line\n" * 100_000)
    os.chown(log, OWNER, OWNER)
    over = threading.Event()

    def write() -> None:
        while not over.wait(0.05):
            with log.open("ab") as file:
                file.write(b"line\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        result = media.run(BANDWIDTH_LIMIT="300k", RCLONE_RETRIES="1", MINIMUM_SHARE="0")
    finally:
        over.set()
        writer.join()
    assert result.verdict["media_exceptions"] == 1
    assert result.verdict["media_added"] == 6
    there = media.objects("media")
    assert len(there) == 6
    content = there["targets/log"]
    assert len(content) >= 500_000
    assert content == b"line\n" * (len(content) // 5)
    volume.remove("targets/0.sdf")
    assert media.run().verdict["media_deleted"] == 1


def test_what_belongs_to_the_file_server_is_left_out(media: OffSite) -> None:
    volume = media.stack.volume("media")
    for name in ("lost+found/x", "targets/.nfs0001", ".stack-backup/state", "targets/{a}"):
        volume.write(name, b"1")
    os.chown(volume.path / "lost+found", 0, 0)
    (volume.path / "lost+found").chmod(0o700)
    assert media.run().verdict["media_files"] == 6
    kept = {f"targets/{number}.sdf" for number in range(5)} | {"targets/{a}"}
    assert media.objects("media").keys() == kept
    # Names that are left out may hold what only a pattern of rclone's would mean.
    assert media.run(EXCLUDE="lost+found .nfs* {a}").verdict["media_deleted"] == 0


def test_old_trash_goes_before_its_room_is_needed(media: OffSite) -> None:
    media.run()
    old = media.folder / PLACE / "trash/media/2020-01-01T000000Z/targets/9.sdf"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"old")
    subprocess.run(["chown", "--recursive", f"{OWNER}", media.folder / PLACE / "trash"], check=True)
    media.store.restart()
    media.hourly.plant(timedelta(minutes=1))
    python = faults.fail_python("stack_backup_jobs.offsite:Run._send", "EIO")
    with media.stack.start(JOB, Faults(python=python)) as job:
        result = media.ended(job.wait(), 74, "nothing but old trash was removed")
    assert result.verdict["trash_emptied"] == 1
    assert not media.objects("trash/media")


@pytest.mark.timeout(240)
def test_large_files_are_sent_in_parts_that_fit_into_memory(media: OffSite) -> None:
    """As many files as are sent at once, each of so many parts that they could wait for each other."""
    volume = media.stack.volume("media")
    for number in range(8):
        with (volume.path / f"targets/{number}.large").open("wb") as file:
            file.truncate(64 << 20)
    result = media.run(RCLONE_S3_UPLOAD_CUTOFF="5Mi")
    assert result.verdict["media_added"] == 13
    assert (result.peak_memory or 0) < 128 << 20
