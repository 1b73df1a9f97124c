"""What rclone's refusals mean, and how its report is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stack_backup_jobs.formats import Exit
from stack_backup_jobs.job import Job
from stack_backup_jobs.offsite import Changes
from stack_backup_jobs.rclone import Complaint, Ran, Rclone, changed

ANSWER = "operation error S3: PutObject, https response error StatusCode: {}, RequestID: 7F, {}"
S3 = "[s3]\ntype = s3\nendpoint = {}\n"
CRYPT = "[secret]\ntype = crypt\nremote = s3:bucket/path\n"


def ran(*texts: str) -> Ran:
    return Ran(0, 1, [Complaint(text) for text in texts])


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (403, "api error AccessDenied: Access Denied.", Exit.PERMISSION),
        (403, "api error QuotaExceeded: quota exceeded", Exit.NO_ROOM),
        (507, "api error XMinioStorageFull: full", Exit.NO_ROOM),
        (404, "api error NoSuchBucket: The specified bucket does not exist", Exit.SOURCE),
        (400, "api error KeyTooLongError: Your key is too long", Exit.DATA),
        (301, "api error PermanentRedirect: elsewhere", Exit.SETUP),
        (403, "api error Forbidden: Forbidden", Exit.PERMISSION),
        (401, "", Exit.PERMISSION),
        (0, "request send failed", Exit.UNAVAILABLE),
        (500, "api error InternalError: AccessDenied is a word here", None),
        (503, "api error SlowDown: Please reduce your request rate.", Exit.TRANSIENT),
    ],
)
def test_codes_of_protocols(status: int, code: str, expected: Exit | None) -> None:
    assert ran(ANSWER.format(status, code)).told() == expected


def test_words_are_no_codes() -> None:
    assert ran("permission denied: AccessDenied, no such host, connection refused").told() is None


def test_the_first_code_counts_and_messages_only_where_nothing_complains() -> None:
    denied, away = ANSWER.format(403, "api error AccessDenied: x"), ANSWER.format(0, "x")
    assert ran("x", away, denied).told() == Exit.UNAVAILABLE
    said = Ran(0, 1, last=denied)
    assert (said.told(), said.reason) == (Exit.PERMISSION, denied)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    job = Job()
    yield job
    job.end()


@pytest.mark.parametrize(
    ("remote", "configuration", "expected"),
    [
        ("s3:x", S3.format("http://127.0.0.1:9000"), ("127.0.0.1", 9000)),
        ("s3:x", S3.format("https://store.example.org/path"), ("store.example.org", 443)),
        ("s3:x", S3.format("store.example.org:8443"), ("store.example.org", 8443)),
        ("s3:x", S3.format("http://store.example.org"), ("store.example.org", 80)),
        ("secret:", CRYPT + S3.format("http://[::1]:9000"), ("::1", 9000)),
        ("sftp:x", "[sftp]\ntype = sftp\nhost = nas\nport = 2222\n", ("nas", 2222)),
        ("sftp:x", "[sftp]\ntype = sftp\nhost = nas\n", ("nas", 22)),
        ("s3:x", "[s3]\ntype = s3\nprovider = AWS\n", None),
        ("loop:x", "[loop]\nremote = loop:y\n", None),
        ("s3:x", S3.format("http://store:port"), None),
        ("s3:x", "no configuration", None),
    ],
)
def test_where_a_store_is(
    job: Job, remote: str, configuration: str, expected: tuple[str, int] | None
) -> None:
    assert Rclone(job, remote, configuration.encode()).address() == expected


@pytest.mark.parametrize(
    ("remote", "place"),
    [
        ("s3:b/p", "s3:b/p/daily/.manifest"),
        ("s3:", "s3:daily/.manifest"),
        ("sftp:/b/", "sftp:/b/daily/.manifest"),
    ],
)
def test_a_place_of_a_remote(job: Job, remote: str, place: str) -> None:
    assert Rclone(job, remote, b"").at("daily", ".manifest") == place


def test_the_report_is_counted_however_it_is_cut_and_once_a_file() -> None:
    report = b"+ a\n* b\n- c\n= d\n+ e\n! e\n! b\n+ e\n* b\n"
    for size in (1, 2, 3, len(report)):
        changes = Changes()
        for place in range(0, len(report), size):
            changes.take(report[place : place + size])
        assert [changes.kinds[sign] for sign in (b"+", b"*", b"-")] == [2, 1, 1]


def test_files_that_changed_since(tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    begun = (tmp_path / "new").stat().st_ctime
    names = ["new", "gone", "", "new", "nul\0", "/etc/hostname"]
    assert changed(tmp_path, Ran(begun, 1, [Complaint("x", name) for name in names])) == ["new"]
    assert changed(tmp_path, Ran(begun + 1, 1, [Complaint("x", "new")])) == []
