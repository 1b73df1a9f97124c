"""What a report says of the runs of a period, and that nothing in it can be more than text."""

from __future__ import annotations

import io
import json
import re
import time
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from stack_backup import report, show
from stack_backup.evidence import DAY, Proofs, Source, gathered
from stack_backup.points import Media, Place
from stack_backup.report import Report
from stack_backup_jobs.formats import Record, dump_name, seconds_of, stamp
from stack_backup_jobs.listing import Point
from stack_backup_lab.render import merge_values, render
from tests.render.stacks import STACKS

NOW = int(time.time())
HOUR = 3600
JOB = "postgres-backup-hourly"
SOURCE = Source(
    cluster="https://cluster.test:6443",
    namespace="production-stack",
    chart="stack-backup-0.1.0",
    tool="stack-backup 0.1.0",
    generated=stamp(NOW),
    since=stamp(NOW - 10 * DAY),
)
BY_HAND = {
    "database-drill": False,
    "database-recovery": True,
    "media-replicator": False,
    "postgres-backup-hourly": False,
}


def record(job: str, when: float, code: int = 0, outcome: str = "published", **figures: Any) -> Record:
    """Of a run that ended then."""
    seconds = figures.pop("seconds", 60)
    message = figures.pop("message", f"This is what {job} says.")
    verdict = {"job": job, "exit": code, "outcome": outcome, "message": message, **figures}
    return Record(stamp(when - seconds), stamp(when), f"{job}-1", verdict | {"seconds": seconds})


def backup(when: float, **figures: Any) -> Record:
    dump = dump_name(stamp(when - 60), "gz")
    return record("postgres-backup-hourly", when, **{"dump": dump, "bytes": 1000, "rows": 50} | figures)


def point(dump: str, state: str = "verified", size: int = 1000) -> Point:
    return Point(dump[7:27], "hourly", dump, size, state, 50, 4, "15.14", "production-stack")


def history() -> list[Record]:
    """A backup every hour for 12 days, one of them failed; drills three times, the last over budget."""
    runs = [backup(NOW - hours * HOUR) for hours in range(12 * 24, 0, -1) if hours not in (30, 31)]
    runs.append(
        record("postgres-backup-hourly", NOW - 30 * HOUR, 73, "failed", message="The volume is full.")
    )
    good = str(backup(NOW - 49 * HOUR).verdict["dump"])
    other = str(backup(NOW - 200 * HOUR).verdict["dump"])
    runs += [
        record("database-drill", NOW - 11 * DAY, 0, "proved", dump=other, bytes=500, recovery_seconds=30),
        record("database-drill", NOW - 199 * HOUR, 65, "failed", dump=other, bytes=1000),
        record("database-drill", NOW - 48 * HOUR, 76, "proved", dump=good, bytes=1000, recovery_seconds=100),
    ]
    return sorted(runs, key=lambda one: one.ended)


def made(
    records: list[Record],
    problems: tuple[str, ...] = (),
    points: list[Point] | None = None,
    **limits: int | None,
) -> Report:
    known = {"recoverySeconds": None, "dataLossSeconds": None, **limits}
    listed = [
        point(str(backup(NOW - 49 * HOUR).verdict["dump"])),
        point(str(backup(NOW - HOUR).verdict["dump"])),
    ]
    places = [Place("database-backup", "postgres-backup-hourly", listed if points is None else points)]
    media = [Media("media-replica", "media-replicator", "complete", "x", stamp(NOW), 3, 4096, "p")]
    return Report(gathered(SOURCE, records, BY_HAND, known, problems), places, media, Proofs(records))


FULL = made(history(), ("Claim history: gone.",), dataLossSeconds=HOUR, recoverySeconds=60)
"""A report that has all that a report can have."""


# ---- what is said of a restore point ----


def test_a_drilled_dump_has_its_own_proof_and_the_others_an_estimate() -> None:
    proofs = Proofs(history())
    drilled, young = made(history()).places[0].points
    proof = proofs.of(drilled)
    assert proof.drill is not None
    assert (proof.drill.outcome, proof.drill.exit, proof.proved) == ("proved", 76, proof.drill.ended)
    assert proof.recovery is not None
    assert (proof.recovery.seconds, proof.recovery.basis) == (100, "drill")
    assert 49 * HOUR <= proof.data_loss_seconds < 50 * HOUR
    twice = Point(**{**vars(young), "bytes": 2001})
    estimate = proofs.of(twice).recovery
    assert estimate is not None
    assert (estimate.seconds, estimate.basis) == (201, "estimate")
    assert proofs.of(young).drill is None


def test_a_dump_that_failed_its_newest_drill_says_so_and_when_it_was_proved() -> None:
    proof = Proofs(history()).of(point(str(backup(NOW - 200 * HOUR).verdict["dump"])))
    assert proof.drill is not None
    assert (proof.drill.outcome, proof.drill.exit) == ("failed", 65)
    assert proof.proved == stamp(NOW - 11 * DAY)


def test_a_recovery_measures_the_dump_that_it_recovered() -> None:
    dump = dump_name(stamp(NOW - HOUR), "gz")
    run = record("database-recovery", NOW, 0, "recovered", dump=dump, seconds=77)
    recovery = Proofs([*history(), run]).of(point(dump)).recovery
    assert recovery is not None
    assert (recovery.seconds, recovery.basis) == (77, "recovery")
    failed = record("database-recovery", NOW, 65, "failed", dump=dump, seconds=5)
    assert Proofs([failed]).of(point(dump)).recovery is None


def test_without_a_history_nothing_is_claimed() -> None:
    proof = Proofs([]).of(point(dump_name(stamp(NOW), "gz")))
    assert (proof.drill, proof.proved, proof.recovery) == (None, None, None)


# ---- a period ----


def test_only_the_runs_of_the_period_count_and_the_whole_history_says_how_far_it_reaches() -> None:
    jobs = {job.job: job for job in made(history()).evidence.jobs}
    hourly, drill = jobs["postgres-backup-hourly"], jobs["database-drill"]
    assert (hourly.runs, hourly.succeeded) == (240 - 1, 240 - 2)
    assert hourly.oldest == stamp(NOW - 12 * DAY)
    assert hourly.rate == pytest.approx(238 / 239)
    assert (drill.runs, drill.succeeded) == (2, 0)
    assert (jobs["media-replicator"].runs, jobs["media-replicator"].rate) == (0, None)


def test_the_age_grows_while_no_dump_is_published_and_meets_the_budget_or_not() -> None:
    evidence = made(history(), dataLossSeconds=2 * HOUR, recoverySeconds=120).evidence
    budgets = {one.value: one for one in evidence.budgets}
    # Two hours lack a dump: from the start of the one before to the next one's end.
    assert budgets["dataLossSeconds"].measured == 3 * HOUR + 60
    assert budgets["dataLossSeconds"].met is False
    assert budgets["dataLossSeconds"].source == stamp(NOW - 29 * HOUR)
    assert (budgets["recoverySeconds"].measured, budgets["recoverySeconds"].met) == (100, True)
    assert made(history()).evidence.budgets[0].met is None


def test_the_age_at_the_end_counts_although_nothing_was_published_since() -> None:
    runs = [backup(NOW - 20 * HOUR)]
    assert made(runs, dataLossSeconds=HOUR).evidence.budgets[1].measured == 20 * HOUR + 60


def test_what_matters_is_said_first_and_what_is_missing_is_red() -> None:
    sentences = made(history()).sentences()
    said = " ".join(sentence for _, sentence in sentences)
    assert "2 verified dumps. The newest is of" in said
    assert "recovering it takes about 1 min" in said  # 100 s
    assert "239 of 241 runs succeeded" not in said
    assert (False, "No run in this period: media-replicator.") in sentences
    assert not [sentence for _, sentence in sentences if "does not reach back" in sentence]
    young = made([backup(NOW - HOUR)]).sentences()
    short = f"The history does not reach back to the beginning: {JOB} since {stamp(NOW - HOUR)}."
    assert (None, short) in young
    nothing = made([], points=[]).sentences()
    assert [good for good, _ in nothing] == [False] * 4


def test_the_budgets_are_those_that_the_drill_was_given() -> None:
    """By the rendered chart, whose variables a report reads."""
    drill = {"enabled": True, "references": "", "budget": {"recoverySeconds": 3600, "dataLossSeconds": 0}}
    objects = render(merge_values(STACKS["production"][0], {"databaseDrill": drill}))
    cronjobs = {one["metadata"]["name"]: one for one in objects.of_kind("CronJob")}
    assert report.budgets_of(cronjobs) == {"recoverySeconds": 3600, "dataLossSeconds": None}
    assert report.budgets_of({}) == {}


# ---- its forms ----


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.said: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.said).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_page_needs_no_other_file_and_runs_nothing() -> None:
    page = report.html(made(history(), dataLossSeconds=HOUR, recoverySeconds=60))
    elements = Page(page).elements
    assert {name for name, _ in elements} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "a",
        "form",
    } == set()
    for _, attributes in elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_page_shows_what_an_auditor_asks_for() -> None:
    page = Page(report.html(made(history(), dataLossSeconds=HOUR, recoverySeconds=60)))
    for words in (
        *(SOURCE.cluster, SOURCE.namespace, SOURCE.chart, SOURCE.tool, SOURCE.generated, SOURCE.since),
        "The volume is full.",
        "proved, over budget",
        "database-drill",
        "Age of the newest verified dump",
        "How long a recovery takes (drills)",
        "Media on claim media-replica",
        "No run in this period: media-replicator.",
    ):
        assert words in page.text, words
    pictures = [attributes for name, attributes in page.elements if name == "svg"]
    assert len(pictures) == 5
    assert all(one["role"] == "img" and one["aria-label"] for one in pictures)


def test_an_empty_history_is_a_page_in_red_and_not_a_crash() -> None:
    page = report.html(made([], points=[], problems=("Claim history: It could not be listed.",)))
    assert 'class="box red"' in page
    assert "This report is incomplete: Claim history: It could not be listed." in Page(page).text
    assert "No drill ran in this period." in page


HOSTILE = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=a()>',
            "]]>&lt;",
            "{{ 7 * 7 }}",
            "\x00\x1b[2J",
            "\udcff",
        ]
    ),
)


@settings(deadline=None)
@given(
    said=HOSTILE,
    dump=HOSTILE | st.just("backup-2022-13-01T00:00:00Z-dumpall.sql.gz"),
    outcome=HOSTILE,
    job=HOSTILE | st.just("postgres-backup-hourly"),
    number=st.integers() | HOSTILE,
    code=st.sampled_from([0, 1]),
)
@example("<b>", "backup-2022-13-01T00:00:00Z-dumpall.sql.gz", "<i>", "postgres-backup-hourly", 10**400, 0)
@example("\x00\ud800", "\x1b", "]]>", "\x00", 1, 1)
def test_no_verdict_s_text_is_more_than_text(
    said: str, dump: str, outcome: str, job: str, number: Any, code: int
) -> None:
    """A table's name, or a tampered record, must not write the page."""
    text = {"message": said, "dump": dump, "bytes": number, "recovery_seconds": number}
    hostile = [record("database-drill", NOW, 65, outcome, **text), record(job, NOW, code, outcome, **text)]
    one = made(hostile)
    page = Page(report.html(one))
    assert {name for name, _ in page.elements} <= {name for name, _ in Page(report.html(FULL)).elements}
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]
    tree = ElementTree.fromstring(report.junit(one).encode(errors="replace"))
    assert len(tree.findall(".//testcase")) == (2 if job else 1)
    assert (
        json.loads(report.document(one))["runs"][0]["verdict"]["message"]
        == said.encode(errors="replace").decode()
    )


def test_junit_has_a_case_for_each_run_and_a_failure_for_each_red_one() -> None:
    tree = ElementTree.fromstring(report.junit(made(history(), problems=("Claim history: gone.",))))
    suites = {suite.get("name"): suite for suite in tree}
    hourly = suites["postgres-backup-hourly"]
    assert (hourly.get("tests"), hourly.get("failures")) == ("239", "1")
    assert len(hourly) == 239
    (failure,) = hourly.iter("failure")
    assert (failure.get("type"), failure.text) == ("exit 73", "The volume is full.")
    assert suites["evidence"].get("errors") == "1"


def test_the_json_has_every_run_of_the_period_and_every_point_with_its_proof() -> None:
    document = json.loads(report.document(made(history(), recoverySeconds=60)))
    assert len(document["runs"]) == 241
    assert document["budgets"][0] | {"source": ""} == {
        "value": "recoverySeconds",
        "limit": 60,
        "measured": 100,
        "source": "",
        "met": False,
    }
    assert {"good": False, "sentence": "No run in this period: media-replicator."} in document["summary"]
    assert document["places"][0]["points"][0]["recovery"] == {"seconds": 100, "basis": "drill"}


def test_a_terminal_shows_jobs_red_runs_and_sentences() -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    one = made(history())
    show.report(console, one.evidence, one.sentences())
    said = console.export_text()
    assert max(map(len, said.splitlines())) <= 80
    assert "The volume is full." in said
    assert re.search(r"postgres-backup-hourly +239 +238 \(99.5 %\)", said), said


def test_every_point_of_a_plot_lies_within_it() -> None:
    (age, *_) = report.drawn(made(history(), dataLossSeconds=9 * HOUR).evidence)
    places = [tuple(map(float, one.split(","))) for one in age.line.split()]
    assert all(70 <= x <= 628 and 10 <= y <= 166 for x, y in places)
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert age.limit is not None
    assert age.limit.at < min(y for _, y in places)
    assert seconds_of(SOURCE.since) < seconds_of(SOURCE.generated)
