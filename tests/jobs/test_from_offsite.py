"""The cluster is gone: database, media and drill from off-site, with nothing but the bucket and its keys."""

from __future__ import annotations

import copy
import json
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stack_backup import fetch, follow, points, release
from stack_backup.app import main
from stack_backup.runs import JobResult
from stack_backup_jobs.formats import MANIFESTS, manifest_name
from stack_backup_jobs.listing import STORE
from stack_backup_lab.data import comparison, dataset, media_files
from stack_backup_lab.render import Objects, merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack, RunningJob
from tests.jobs.mirror import FILES, SLOWLY
from tests.jobs.release import StackRelease
from tests.jobs.store import SECRET, Store, serving
from tests.outcomes import green, red
from tests.render import contract

DATABASE, DRILL, MEDIA = "database-recovery", "database-drill", "media-recovery"
NAMESPACE = contract.NAMESPACE
PLACE = "backups/production"
PORT = 9100
COMMON: dict[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"dumpSize": "5Mi"},
}
SENDING = merge_values(
    COMMON, {"offsite": {"enabled": True, "remote": f"s3:{PLACE}", "folders": ["hourly"], "keep": 2}}
)
NOTHING_LEFT = merge_values(
    COMMON,
    {
        "postgresBackupHourly": {"enabled": False},
        "offsite": {"remote": f"s3:{PLACE}"},
        "databaseRecovery": {"enabled": True, "source": "offsite", "allowSourceServer": True},
        "databaseDrill": {"enabled": True, "source": "offsite"},
        "mediaRecovery": {"enabled": True, "source": "offsite"},
    },
)
"""No backup, no replica, no claim of ours: the values of an empty cluster that only recovers."""
DELETE = {"DELETE": "true"}
OLDER_TIME = "2020-02-29T08:51:08Z"
OLDER = f"backup-{OLDER_TIME}-dumpall.sql.gz"


@dataclass
class World:
    """An empty stack, a store, and what the stack that is gone held when its copy was made."""

    stack: LocalStack
    store: Store
    dump: str
    held: comparison.Snapshot
    media: media_files.Snapshot

    def run(self, job: str, **environment: str) -> JobResult:
        environment = {"CONFIRM": NAMESPACE} | environment
        result = self.stack.run(job, environment=environment)
        assert SECRET not in result.log
        return result

    @property
    def stamp(self) -> str:
        return re.sub(r"backup-(.*)-dumpall.*", r"\1", self.dump)

    @property
    def target(self) -> Path:
        return self.stack.volume("media").path

    def differences(self) -> list[str]:
        """Of the database, but for what belongs to servers."""
        now = comparison.snapshot(self.stack.database, [dataset.DATABASE])
        found = comparison.differences(self.held, now)
        return [str(one) for one in found if one.database == dataset.DATABASE]

    def rclone(self, *arguments: str) -> Path:
        return self.store.rclone(self.store.configuration(), arguments)

    def put(self, place: str, data: bytes) -> None:
        """An object, as somebody else puts it there."""
        self.store.put(self.store.configuration(), data, f"s3:{place}")

    def get(self, place: str) -> bytes:
        return (self.rclone("copyto", f"s3:{place}", "/to/object") / "object").read_bytes()

    def databases(self) -> list[str]:
        with psycopg.connect(self.stack.database.dsn("postgres")) as connection:
            return [name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()]


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """Where the store has its data: it outlives the stack, and its server is not root."""
    with tempfile.TemporaryDirectory(prefix="store-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.fixture(scope="module")
def world(runtime: LocalRuntime, kept: Path) -> Iterator[World]:
    with runtime.stack(NAMESPACE, "postgres:15") as lost:
        lost.add_claim("media")
        dataset.fill(lost.database, molecules=0)
        media_files.fill(lost.volume("media").path, files=FILES)
        # MinIO keeps a folder under a longer name than its own.
        shutil.rmtree(lost.volume("media").path / "folders" / ("n" * 255))
        with serving(lost.namespaces, PORT, "minio", kept) as store:
            store.rclone(store.configuration(), ["mkdir", "s3:backups"])
            lost.secrets["offsite"] = {"rclone.conf": store.configuration()}
            lost.install(SENDING)
            held = comparison.snapshot(lost.database, [dataset.DATABASE])
            dump = str(green(lost.run(contract.HOURLY)).verdict["dump"])
            green(lost.run("offsite"), "published")
            media = media_files.snapshot(lost.volume("media").path)
    with runtime.stack(NAMESPACE, "postgres:15") as stack:
        stack.add_claim("media")
        with serving(stack.namespaces, PORT, "minio", kept) as store:
            stack.secrets["offsite"] = {"rclone.conf": store.configuration()}
            yield World(stack, store, dump, held, media)


@pytest.fixture
def empty(world: World) -> World:
    """An empty cluster again: a server without the database, a claim without files."""
    server = world.stack.database
    for name in world.databases():
        if name.startswith("frag"):
            server.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
    world.stack.volume("media").clear()
    world.stack.install(NOTHING_LEFT)
    world.stack.secrets["offsite"] = {"rclone.conf": world.store.configuration()}
    return world


def test_a_cluster_comes_back_from_the_bucket_alone(empty: World) -> None:
    assert set(empty.stack.claims) == {"media", contract.HISTORY}
    recovered = green(empty.run(DATABASE), "recovered").verdict
    assert recovered["dump"] == empty.dump
    assert empty.differences() == []
    copied = green(empty.run(MEDIA), "copied").verdict
    assert media_files.differences(empty.media, media_files.snapshot(empty.target)) == []
    assert copied["copied"] == copied["files"]
    assert green(empty.run(DRILL), "proved").verdict["dump"] == empty.dump


# ---- what is there already ----


def test_media_that_are_there_are_copied_once_and_others_go_only_when_told(empty: World) -> None:
    green(empty.run(MEDIA))
    again = green(empty.run(MEDIA), "copied").verdict
    assert (again["copied"], again["removed"]) == (0, 0)
    empty.stack.volume("media").write("only/here", b"mine")
    empty.stack.volume("media").write("one.12345678.stack-backup", b"of a run that was killed")
    (empty.target / "names" / "case").write_text("edited")
    kept = green(empty.run(MEDIA)).verdict
    assert (kept["copied"], kept["removed"]) == (1, 0)
    now = media_files.differences(empty.media, media_files.snapshot(empty.target))
    assert [line.split(":")[0] for line in now] == ["'only'", "'only/here'"]
    assert green(empty.run(MEDIA, **DELETE)).verdict["removed"] == 1
    assert media_files.differences(empty.media, media_files.snapshot(empty.target)) == []


@pytest.fixture
def older(empty: World) -> Iterator[World]:
    """A bucket of older tools: dumps without manifests, and a copy of the media a weekday."""
    empty.rclone("mkdir", "s3:older")
    dump = f"{PLACE}/hourly/{empty.dump}"
    for place in (f"hourly/{OLDER}", f"Tuesday/hourly/{OLDER}", "Tuesday/README"):
        empty.rclone("copyto", f"s3:{dump}", f"s3:older/{place}")
    for day in ("1-Monday", "First-Of-Month"):
        empty.rclone("copy", f"s3:{PLACE}/media/names", f"s3:older/{day}/names")
    yield empty
    empty.rclone("purge", "s3:older")


def test_what_older_tools_left_is_recovered_when_it_is_named(older: World) -> None:
    where = {"REMOTE": "s3:older"}
    red(older.run(DATABASE, **where), 66, "There is no verified dump", "Name one with DUMP: 2020-02-29")
    verdict = green(older.run(DATABASE, DUMP=OLDER_TIME, **where), "recovered").verdict
    assert (verdict["dump"], verdict["started"]) == (OLDER, "")
    assert older.differences() == []
    refused(older, MEDIA, 66, "older/media", **where)
    day = where | {"FOLDER": "1-Monday"}
    red(
        older.run(MEDIA, **day, **DELETE),
        65,
        "No complete copy",
        "DELETE=false",
        "No file of the stack was touched",
    )
    assert green(older.run(MEDIA, **day), "copied").verdict["mirrored"] == ""
    assert sorted(path.name for path in older.target.iterdir()) == ["names"]


# ---- what goes wrong ----


def refused(world: World, job: str, code: int, *words: str, **environment: str) -> JobResult:
    """A run that ends red and has changed nothing, of which it says so."""
    before = (world.databases(), media_files.snapshot(world.target))
    left = {DATABASE: "The live database is as it was", MEDIA: "No file of the stack was touched"}
    result = world.run(job, **environment)
    red(result, code, *words, left.get(job, "The drill changes nothing"))
    assert (world.databases(), media_files.snapshot(world.target)) == before
    return result


JOBS = pytest.mark.parametrize("job", [DATABASE, MEDIA])
"""The drill reaches the store as the recovery does."""


@JOBS
def test_a_store_that_is_down(empty: World, job: str) -> None:
    empty.store.stop()
    try:
        refused(empty, job, 69, "Check that the store runs")
    finally:
        empty.store.start()


@JOBS
def test_wrong_keys(empty: World, job: str) -> None:
    empty.stack.secrets["offsite"] = {"rclone.conf": empty.store.configuration(secret="another")}
    refused(empty, job, 77, "SignatureDoesNotMatch", "Check the keys in the Secret")


@JOBS
def test_a_bucket_that_does_not_exist(empty: World, job: str) -> None:
    refused(empty, job, 66, "offsite.remote", REMOTE="s3:mistyped/production")


def test_a_place_without_a_dump(empty: World) -> None:
    refused(
        empty, DATABASE, 66, "There is no dump in s3:backups/production/media", REMOTE=f"s3:{PLACE}/media"
    )


@pytest.mark.parametrize("job", [DATABASE, DRILL])
@pytest.mark.parametrize("whole", [True, False], ids=["altered", "cut off"])
def test_a_dump_that_was_altered_on_the_store(empty: World, job: str, whole: bool) -> None:
    place = f"{PLACE}/hourly/{empty.dump}"
    content = empty.get(place)
    altered = bytearray(content)
    altered[len(altered) // 2] ^= 1
    empty.put(place, bytes(altered) if whole else content[:-100])
    try:
        if whole:
            refused(empty, job, 65, "its sha256 differs")
        else:
            refused(empty, job, 66, "There is no verified dump")
            refused(empty, job, 65, "not of the size", DUMP=empty.stamp)
    finally:
        empty.put(place, content)


def test_scratch_without_room_for_the_dump(empty: World) -> None:
    scratch = {"databaseRecovery": {"scratch": {"size": "5Mi"}}}
    empty.stack.install(merge_values(NOTHING_LEFT, {"postgresBackupHourly": {"dumpSize": "1Mi"}}, scratch))
    place = f"{PLACE}/hourly/backup-{OLDER_TIME}-dumpall.sql.gz"
    empty.put(place, bytes(6 << 20))
    try:
        refused(empty, DATABASE, 73, "databaseRecovery.scratch.size", DUMP=OLDER_TIME)
    finally:
        empty.rclone("deletefile", f"s3:{place}")


def test_a_media_volume_without_room(empty: World) -> None:
    with empty.stack.volume("media").limited(2 << 20):
        refused(empty, MEDIA, 73, "The stack's media volume has", "Make the volume larger")


def test_media_off_site_that_are_fewer_than_were_sent(empty: World) -> None:
    lost, aside = f"s3:{PLACE}/media/names/case", "s3:backups/aside"
    empty.rclone("moveto", lost, aside)
    try:
        refused(empty, MEDIA, 65, "the last complete copy left", "DELETE=false", **DELETE)
        red(empty.run(MEDIA), 65, "were copied, but the last complete copy left")
        assert len(list(empty.target.rglob("*"))) > FILES
    finally:
        empty.rclone("moveto", aside, lost)


@pytest.mark.parametrize("number", [signal.SIGTERM] * 3 + [signal.SIGKILL])
def test_a_run_that_ends_in_the_middle(empty: World, number: signal.Signals) -> None:
    """Whole files only under their names; the next run goes on, and takes away what is unfinished."""
    with empty.stack.start(MEDIA, environment={"CONFIRM": NAMESPACE, **SLOWLY}) as running:
        wait_for(lambda: bool(unfinished(empty)), running)
        running.signal(number)
        result = running.wait()
    assert result.exit_code == (143 if number == signal.SIGTERM else 137)
    if number == signal.SIGTERM:
        assert unfinished(empty) == []
    for path, entry in media_files.snapshot(empty.target).items():
        assert path in unfinished(empty) or entry.kind == "folder" or entry == empty.media[path]
    green(empty.run(MEDIA), "copied")
    assert media_files.differences(empty.media, media_files.snapshot(empty.target)) == []


def unfinished(world: World) -> list[str]:
    return [str(path.relative_to(world.target)) for path in world.target.rglob("*.????????.stack-backup")]


def wait_for(condition: Callable[[], bool], running: RunningJob) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert running.pod.running, running.pod.log
        assert time.monotonic() < end
        time.sleep(0.02)


# ---- the list of restore points ----


def test_the_restore_points_of_the_store_are_listed(older: World) -> None:
    for remote, names in (
        (f"s3:{PLACE}", [("hourly", older.dump, "verified")]),
        ("s3:older", [("Tuesday/hourly", OLDER, "unverified"), ("hourly", OLDER, "unverified")]),
    ):
        values = merge_values(NOTHING_LEFT, {"offsite": {"remote": remote}})
        objects = Objects(copy.deepcopy(list(render(values, namespace=NAMESPACE))))
        jobs = {job["metadata"]["name"]: job for job in objects.of_kind("CronJob")}
        ((cronjob, volume, where),) = points._stores(jobs)
        assert where == remote
        job = cronjob["metadata"]["name"]
        cronjob["spec"]["jobTemplate"]["spec"] = points.listing_job(cronjob, volume, STORE)["spec"]
        older.stack.apply(objects)
        lines = [line.partition("\t") for line in older.stack.run(job).log.splitlines()]
        found = [json.loads(text) for word, _, text in lines if word == "dump"]
        assert sorted((one["folder"], one["dump"], one["state"]) for one in found) == names
        states = [json.loads(text) for word, _, text in lines if word == "media"]
        assert [one["status"] for one in states] == ["complete"] * (remote != "s3:older")


# ---- as an operator calls it ----


class Operator:
    """The command line, of a release whose Jobs are pods of this stack."""

    def __init__(self, world: World, values: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
        self.release = StackRelease(world.stack, values)
        self._capfd = capfd

    def done(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        """The document of a command that ends so."""
        self._capfd.readouterr()
        ended = main([*arguments, "-o", "json"])
        said = self._capfd.readouterr()
        assert ended == code, said
        assert SECRET not in said.out + said.err
        assert self.release.left == []
        document: dict[str, Any] = json.loads(said.out)
        return document


@pytest.fixture
def operator(
    empty: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Operator]:
    monkeypatch.setattr(follow, "POLL", 0.05)

    def made(**values: Any) -> Operator:
        operator = Operator(empty, merge_values(NOTHING_LEFT, values), capfd)
        monkeypatch.setattr(release, "connect", lambda *_: operator.release)
        return operator

    return made


def test_a_refresh_brings_database_and_media_of_one_store(
    empty: World, operator: Callable[..., Operator]
) -> None:
    made = operator()
    document = made.done("refresh", "--confirm", NAMESPACE)
    assert made.release.started == [MEDIA, DATABASE]
    plan = document["plan"]
    assert (plan["dump"]["dump"], plan["dump"]["folder"]) == (empty.dump, "hourly")
    held = [one for one in empty.media.values() if one.kind != "folder"]
    assert (plan["media"]["files"], plan["media"]["claim"]) == (len(held), f"s3:{PLACE}")
    # The copy was begun after the dump was, as the two are a pair.
    assert plan["warnings"] == []
    assert empty.stamp <= plan["media_as_of"] <= plan["media"]["completed"]
    as_of = plan["media_as_of"]
    assert (
        document["message"] == f"{NAMESPACE} has the database of {empty.stamp} and the media as of {as_of}."
    )
    assert empty.differences() == []
    assert media_files.differences(empty.media, media_files.snapshot(empty.target)) == []


def test_a_dump_comes_from_the_store_to_this_machine(
    empty: World, operator: Callable[..., Operator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{PLACE}/hourly/{empty.dump}"
    content = empty.get(place)
    monkeypatch.setattr(fetch, "PIECE", len(content) // 2 + 1)
    made = operator()
    came = made.done("fetch", "--to", str(tmp_path / "here"))
    assert (came["dump"], came["source"], came["verified"]) == (empty.dump, f"s3:{PLACE}", True)
    assert (came["bytes"], came["cuts"]) == (len(content), 0)
    assert (tmp_path / "here" / empty.dump).read_bytes() == content
    own = f"{MANIFESTS}/{manifest_name(empty.dump)}"
    assert (tmp_path / "here" / own).read_bytes() == empty.get(f"{PLACE}/hourly/{own}")
    empty.put(place, bytes([content[0] ^ 1]) + content[1:])
    try:
        end = made.done("fetch", empty.stamp, "--offsite", "--to", str(tmp_path / "there"), code=65)
    finally:
        empty.put(place, content)
    assert "its sha256 differs" in end["error"]
    assert list((tmp_path / "there").iterdir()) == []
    assert made.release.started == []


def test_tables_come_back_from_the_store_beside_the_live_ones(
    empty: World, operator: Callable[..., Operator]
) -> None:
    made = operator()
    made.done("recover", "database", "--confirm", NAMESPACE)
    empty.stack.database.execute("DELETE FROM viewer_text", "frag")
    document = made.done("restore-table", "public.viewer_text")
    assert made.release.started == [DATABASE, DATABASE]
    verdict = document["verdict"]
    rows = len(empty.held.tables["frag", "public.viewer_text"].rows)
    assert (verdict["dump"], verdict["rows"], verdict["outcome"]) == (empty.dump, rows, "restored")
    with psycopg.connect(empty.stack.database.dsn("frag")) as connection:
        counts = "SELECT (SELECT count(*) FROM public.viewer_text), (SELECT count(*) FROM {}.viewer_text)"
        assert connection.execute(counts.format(verdict["schema"]).encode()).fetchone() == (0, rows)
