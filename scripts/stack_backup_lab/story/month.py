"""`python -m stack_backup_lab.story.month`: a report of a month, of jobs that ran for real within minutes.

The clock of each pod is moved, as far back as its run is to lie; the jobs, their dumps and their verdicts are
real. The report says that it is of a demo. Where Chromium is, its first page becomes the picture of the docs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psycopg

from stack_backup import report
from stack_backup.evidence import DAY, DRILL, Proofs, Source, gathered
from stack_backup.points import Place
from stack_backup.report import BUDGETS, Report
from stack_backup_jobs import history, listing
from stack_backup_jobs.formats import stamp
from stack_backup_jobs.job import Job
from stack_backup_lab.bed import tools
from stack_backup_lab.data import dataset
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalRuntime, LocalStack
from stack_backup_lab.runtime.pod import Faults
from stack_backup_lab.story.stacks import BACKUP_ALONE, CLAIM, JOB, NAMESPACE, STOCK, TEST_MACHINE, VALUES

FOLDER = PROJECT / "build" / "month"
PICTURE = PROJECT / "docs" / "pictures" / "report.png"
HOUR = 3600
DAYS, EVERY = 28, DAY
WEEK = 7
"""Backups from one drill to the next."""
FAILS = range(17, 19)
"""Backups that fail: their superuser is unknown to the server."""
GROWTH = 2000
"""Rows that the application writes from one backup to the next."""
RECOVERY, DATA_LOSS = 60, 36 * HOUR
_MORE: Mapping[str, Any] = {
    "databaseDrill": {
        "enabled": True,
        "budget": {"recoverySeconds": RECOVERY, "dataLossSeconds": DATA_LOSS},
    },
}


def main() -> int:
    tools.ensure_any_helm()
    page = make(FOLDER)
    print(f"The report lies in {FOLDER.relative_to(PROJECT)}.")
    if chromium := shutil.which("chromium"):
        _draw(chromium, page)
    return 0


def make(folder: Path) -> Path:
    """The report in its three forms: its page."""
    with LocalRuntime().stack(NAMESPACE, "postgres:15") as stack:
        dataset.fill(stack.database, molecules=0)
        stack.install(merge_values(VALUES, TEST_MACHINE, BACKUP_ALONE, STOCK, _MORE))
        _live(stack)
        made = _report(stack)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    page.write_text(report.html(made), encoding="utf-8")
    (folder / "report.xml").write_text(report.junit(made), encoding="utf-8")
    (folder / "report.json").write_text(report.document(made), encoding="utf-8")
    return page


def _live(stack: LocalStack) -> None:
    """A month of the stack: it grows, is backed up every day, and drilled once a week."""
    with psycopg.connect(stack.database.dsn(dataset.DATABASE), autocommit=True) as connection:
        connection.execute("CREATE TABLE visit (at timestamptz, page text)")
        for number in range(DAYS * DAY // EVERY):
            ago = DAYS * DAY - number * EVERY
            connection.execute(
                "INSERT INTO visit SELECT now(), md5(random()::text) FROM generate_series(1, %s)",
                [GROWTH + number * 100],
            )
            unknown = {"DATABASE_SUPERUSER": "nobody"} if number in FAILS else {}
            runs = [(JOB, ago, unknown)]
            if number % WEEK == WEEK - 1:
                runs.append((DRILL, ago - HOUR, {}))
            for job, before, environment in runs:
                ended = stack.run(job, environment=environment, faults=_clock(before))
                print(f"{stamp(time.time() - before)} {job}: {ended.verdict.get('outcome')}", flush=True)


def _clock(ago: int) -> Faults:
    """Lets a pod's Python believe that it is so many seconds ago."""
    moved = f"_now = time.time\ntime.time = lambda: _now() - {ago}"
    return Faults(python=f"patch('stack_backup_jobs.formats', {moved!r})\n")


def _report(stack: LocalStack) -> Report:
    now = time.time()
    folder = stack.volume("history").path
    records = [record for name in history.jobs(folder) for record in history.read(folder / name)]
    records.sort(key=lambda record: record.ended)
    job = Job()
    try:
        found = sorted(
            listing.points(job, stack.volume(CLAIM).path), key=lambda point: point.time, reverse=True
        )
    finally:
        job.end()
    source = Source(
        cluster="this machine: demo data, made by moving the clocks of the pods",
        namespace=NAMESPACE,
        chart=f"stack-backup-{version('stack-backup')}",
        tool="make demo-report",
        generated=stamp(now),
        since=stamp(now - DAYS * DAY),
    )
    limits = dict(zip(BUDGETS, (RECOVERY, DATA_LOSS), strict=True))
    evidence = gathered(source, records, {JOB: False, DRILL: False}, limits)
    return Report(evidence, [Place(CLAIM, JOB, found)], [], Proofs(records))


def _draw(chromium: str, page: Path) -> None:
    """The beginning of the page, as a browser shows it."""
    PICTURE.parent.mkdir(exist_ok=True)
    subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            *(
                "--window-size=1120,1150",
                "--force-device-scale-factor=0.8",
                f"--screenshot={PICTURE}",
                page.as_uri(),
            ),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    print(f"{PICTURE.name}: {PICTURE.stat().st_size} bytes")


if __name__ == "__main__":
    sys.exit(main())
