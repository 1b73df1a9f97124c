"""What the listing of a volume finds, and what the command line makes of it; without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stack_backup import CliError, Exit, points
from stack_backup.runs import JobResult
from stack_backup_jobs.formats import (
    MANIFESTS,
    OWN,
    STATE,
    Manifest,
    MediaState,
    Record,
    dump_name,
    manifest_name,
    stamp,
    verdict_of,
)
from stack_backup_jobs.listing import DUMP, HISTORY, MEDIA, PACK, STORE, unpacked
from stack_backup_lab.render import CHART, merge_values, render
from tests.render.stacks import STACKS

HOUR = 3600
SECRET = points.SECRET


class Cronjobs:
    """Of a release, which has no more."""

    namespace = "staging-stack"

    def __init__(self, found: list[Any]) -> None:
        self._found = found

    def cronjobs(self) -> dict[str, Any]:
        return {one["metadata"]["name"]: one for one in self._found}


class Listing:
    """Stands for a Job of the cluster: the program itself, on a folder of this machine."""

    blockers = ()

    def __init__(self, volume: Path, what: str) -> None:
        self._environment = {"JOB": "list", "PLACE": str(volume), "WHAT": what, "DEADLINE_SECONDS": "300"}

    def follow(self, line: Callable[[str], None], *_: object) -> JobResult:
        done = subprocess.run(
            [sys.executable, "-I", CHART / "files", "list"],
            env={"TMPDIR": os.environ.get("TMPDIR", "/tmp")} | self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        verdict = verdict_of(done.stdout)
        for text in done.stdout.splitlines():
            if not verdict_of(text):
                line(text)
        reason = "PodFailurePolicy" if done.returncode else ""
        return JobResult("list", done.returncode, verdict, done.stdout, 0.0, reason)


def _read(volume: Path, what: str) -> tuple[list[Any], str]:
    return points._read(Listing(volume, what), lambda _: None)  # type: ignore[arg-type]


def _plant(folder: Path, when: float, *records: tuple[str, ...], size: int = 1024) -> str:
    """A file with the name of a dump, and a manifest of these records."""
    name = dump_name(stamp(when), "gz")
    (folder / MANIFESTS).mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"x" * size)
    if records:
        manifest = Manifest((("name", name), ("bytes", str(size)), *records))
        (folder / MANIFESTS / manifest_name(name)).write_text(manifest.format())
    return name


TABLES = (("namespace", "production-stack"), ("table", "frag", "a", "3"), ("table", "frag", "b", "4"))


def test_a_dump_is_what_its_manifest_makes_of_it(tmp_path: Path) -> None:
    now = time.time()
    hourly = tmp_path / "hourly"
    good = _plant(hourly, now - 4 * HOUR, *TABLES)
    shrunk = _plant(hourly, now - 3 * HOUR, *TABLES, ("suspicious", "yes"))
    cut = _plant(hourly, now - 2 * HOUR, *TABLES)
    with (hourly / cut).open("ab") as file:
        file.write(b"x")
    future = _plant(hourly, now + HOUR, *TABLES)
    older = _plant(tmp_path / "daily", now - 5 * HOUR)
    (hourly / "backup-of-the-old-server-dumpall.sql.gz").write_bytes(b"x")
    (hourly / dump_name("2022-13-01T00:00:00Z", "gz")).write_bytes(b"x")
    (hourly / dump_name("2022-11-28T08:51:08Z", "zst")).symlink_to(good)
    (tmp_path / "notes.txt").write_text("beside the folders")
    (tmp_path / "lost+found").mkdir(mode=0)

    found, problem = _read(tmp_path, DUMP)
    assert problem == ""
    listed = points._points(found)
    assert [(one.dump, one.folder, one.state) for one in listed] == [
        (future, "hourly", "future"),
        (cut, "hourly", "unverified"),
        (shrunk, "hourly", "suspicious"),
        (good, "hourly", "verified"),
        (older, "daily", "unverified"),
    ]
    assert (listed[3].rows, listed[3].tables, listed[3].bytes) == (7, 2, 1024)
    assert listed[3].namespace == "production-stack"
    assert listed[1].rows is listed[4].tables is None


def test_names_in_any_encoding_are_listed(tmp_path: Path) -> None:
    name = _plant(tmp_path / "hourly", time.time() - HOUR, ("table", "frag", "a", "1"))
    path = tmp_path / "hourly" / MANIFESTS / manifest_name(name)
    path.write_bytes(path.read_bytes().replace(b"frag", b"fr\xffag") + b"namespace\t\xc3\xa9\xff\n")
    found, problem = _read(tmp_path, DUMP)
    assert problem == ""
    (one,) = points._points(found)
    assert (one.state, one.namespace) == ("verified", "\xe9\udcff")


@pytest.mark.parametrize(
    ("state", "status", "files"),
    [
        (MediaState("complete", "2026-11-25T02:04:00Z", "2026-11-25T02:09:00Z", 3, 4096, "p"), "complete", 3),
        (MediaState("in-progress", "2026-11-25T02:04:00Z", namespace="p"), "in-progress", None),
        (None, "", None),
    ],
    ids=["complete", "never complete", "no mirror"],
)
def test_a_media_replica_is_what_its_state_says(
    tmp_path: Path, state: MediaState | None, status: str, files: int | None
) -> None:
    if state is not None:
        (tmp_path / OWN).mkdir()
        (tmp_path / OWN / STATE).write_text(state.text())
    one = points._media("media-replica", "media-recovery", *_read(tmp_path, MEDIA))
    assert (one.problem, one.status, one.files) == ("", status, files)
    assert one.since == (state and state.since)


def test_a_state_of_another_format_is_a_problem_and_no_replica_without_one(tmp_path: Path) -> None:
    (tmp_path / OWN).mkdir()
    (tmp_path / OWN / STATE).write_text("format\t2\nstatus\tcomplete\n")
    one = points._media("media-replica", "media-recovery", *_read(tmp_path, MEDIA))
    assert one.status == ""
    assert "The state of the replica of the media is damaged, or of another version" in one.problem


def test_a_history_comes_whole_and_without_what_is_damaged(tmp_path: Path) -> None:
    """More records than fit in one line of the log, with texts that no terminal would show."""
    for job in ("database-drill", "postgres-backup-hourly"):
        (tmp_path / job).mkdir()
    written = []
    for number in range(PACK + 3):
        said = f"row {number} of \u2028 <b>\t\N{SNOWMAN}"
        verdict = {"job": "database-drill", "exit": 0, "outcome": "proved", "message": said, "seconds": 1}
        record = Record(stamp(number), stamp(number + 1), f"pod-{number}", verdict)
        (tmp_path / record.job / f"{record.ended}.{record.pod}.json").write_text(record.text())
        written.append(record)
    (tmp_path / "database-drill" / f"{stamp(2000)}.pod.json").write_text('{"format": 1, "verd')
    (tmp_path / "notes.txt").write_text("beside the jobs")
    found, problem = _read(tmp_path, HISTORY)
    assert problem == ""
    assert len(found) == 2
    assert list(unpacked(found)) == written


def test_a_volume_that_is_not_there_is_a_problem_and_not_an_empty_one(tmp_path: Path) -> None:
    found, problem = _read(tmp_path / "away", DUMP)
    assert found == []
    assert "It could not be listed" in problem
    assert str(tmp_path / "away") in problem


@pytest.mark.parametrize("python", ["python", ""], ids=["interpreter of its own", "the image's interpreter"])
@pytest.mark.parametrize("name", ["production", "staging", "ci/everything"])
def test_the_listing_s_pod_has_programs_interpreter_and_one_volume_to_read(name: str, python: str) -> None:
    objects = render(merge_values(STACKS[name][0], {"python": {"image": {"repository": python}}}))
    cronjobs = {item["metadata"]["name"]: item for item in objects.of_kind("CronJob")}
    history = [(job, "history") for job in cronjobs]
    found = [
        list(points._claims(cronjobs, mounts)) for mounts in (points.MOUNTS, points.MEDIA_MOUNTS, history)
    ]
    assert len(found[-1]) == 1
    wanted = [one for part in found for one in part]
    for cronjob, volume, claim in wanted:
        pod = points.listing_job(cronjob, volume)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        claims = [one for one in pod["volumes"] if "persistentVolumeClaim" in one]
        assert [one["persistentVolumeClaim"]["claimName"] for one in claims] == [claim]
        assert not [one for one in pod["volumes"] if "secret" in one]
        mounts = {one["name"]: one.get("readOnly", False) for one in container["volumeMounts"]}
        assert mounts.keys() == {one["name"] for one in pod["volumes"]}
        assert [key for key, only in mounts.items() if not only] == ["tmp"]
        lenders = [one["name"] for one in pod["initContainers"]]
        assert lenders == (["python"] if python else [])
        for lender in pod["initContainers"]:
            assert {one["name"] for one in lender["volumeMounts"]} <= mounts.keys()
        environment = {one["name"]: one.get("value") for one in container["env"]}
        assert (environment["WHAT"], environment["PLACE"]) == (DUMP, points.PLACE)
        assert environment["PYTHON"] == ("/tools/python/bin/python3" if python else "python3")


def test_the_store_is_listed_by_whichever_job_has_its_keys() -> None:
    away = {"offsite": {"remote": "s3:backups/production"}, "databaseRecovery": {"source": "offsite"}}
    for name, values, lends in (
        ("production", {}, None),
        ("ci/everything", {}, "offsite"),
        ("staging", away, "database-recovery"),
    ):
        objects = render(merge_values(STACKS[name][0], values))
        cronjobs = {item["metadata"]["name"]: item for item in objects.of_kind("CronJob")}
        found = list(points._stores(cronjobs))
        assert [one["metadata"]["name"] for one, *_ in found] == ([lends] if lends else [])
        for cronjob, volume, remote in found:
            assert remote == "s3:backups/production"
            pod = points.listing_job(cronjob, volume, STORE)["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            assert not [one for one in pod["volumes"] if "persistentVolumeClaim" in one]
            assert [one["name"] for one in pod["volumes"] if "secret" in one] == [points.SECRET]
            assert [one["name"] for one in pod["initContainers"]] == ["python", "rclone"]
            (keys,) = [one for one in container["volumeMounts"] if one["name"] == points.SECRET]
            environment = {one["name"]: one.get("value") for one in container["env"]}
            assert environment["CONFIGURATION_FILE"] == f"{keys['mountPath']}/rclone.conf"
            assert keys["readOnly"] is True


@pytest.mark.parametrize(
    ("name", "values", "volume", "store"),
    [
        ("production", {}, "source", ""),
        ("ci/everything", {}, "source", "offsite"),
        ("staging", {"source": "offsite"}, SECRET, "database-recovery"),
        ("staging", {}, "source", ""),
    ],
)
def test_a_dump_is_fetched_from_where_recoveries_read_or_from_the_store_when_told(
    name: str, values: dict[str, str], volume: str, store: str
) -> None:
    away = {"offsite": {"remote": "s3:backups/production"}, "databaseRecovery": values} if values else {}
    machine = Cronjobs(render(merge_values(STACKS[name][0], away)).of_kind("CronJob"))
    what, lender, found, _ = points.source_of_dumps(machine)  # type: ignore[arg-type]
    assert (what, found["name"]) == (STORE if volume == SECRET else DUMP, volume)
    assert lender["metadata"]["name"] == "database-recovery"
    if not store:
        with pytest.raises(CliError, match="reaches an off-site store") as refused:
            points.source_of_dumps(machine, off_site=True)  # type: ignore[arg-type]
        assert refused.value.code == Exit.NO_RELEASE
        return
    what, lender, found, remote = points.source_of_dumps(machine, off_site=True)  # type: ignore[arg-type]
    assert (what, found["name"], remote) == (STORE, SECRET, "s3:backups/production")
    assert lender["metadata"]["name"] == store
