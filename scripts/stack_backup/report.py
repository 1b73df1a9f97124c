"""What an auditor gets: the evidence of a period as a page, as JUnit's XML, and as JSON."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from importlib.metadata import version
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from stack_backup import plots, points, show
from stack_backup.evidence import (
    BACKUP,
    CHECK,
    DAY,
    DRILL,
    Evidence,
    JobSummary,
    Proof,
    Proofs,
    Source,
    code,
    gathered,
    number,
    text,
)
from stack_backup.plots import BYTES, COUNT, SECONDS, Plot, Unit, Value
from stack_backup.points import Media, Place, where_is
from stack_backup.release import Release
from stack_backup.runs import Object, variables
from stack_backup.status import BY_HAND
from stack_backup.waiting import Blocker
from stack_backup_jobs.formats import Exit, Record, seconds_of, stamp
from stack_backup_jobs.listing import Point

VARIABLES = {
    "recoverySeconds": "BUDGET_RECOVERY_SECONDS",
    "dataLossSeconds": "BUDGET_DATA_LOSS_SECONDS",
}
"""The variables of the drill that have its budgets, the values `databaseDrill.budget`."""
BUDGETS = {"recoverySeconds": "Recovery time", "dataLossSeconds": "Data loss"}
Sentence = tuple[bool | None, str]
"""What is said, and whether it is good; None: it is to be known."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML document may hold, escaped or not."""


@dataclass(frozen=True)
class Report:
    """The evidence, beside the restore points as they are now."""

    evidence: Evidence
    places: Sequence[Place]
    media: Sequence[Media]
    proofs: Proofs

    def points(self, place: Place) -> list[tuple[Point, Proof]]:
        return [(point, self.proofs.of(point)) for point in place.points]

    def sentences(self) -> list[Sentence]:
        """What matters most."""
        found: list[Sentence] = [self._newest(), self._drilled(), *self._budgets(), self._runs()]
        idle = [one.job for one in self.evidence.jobs if not one.runs and not one.by_hand]
        if idle:
            found.append((False, f"No run in this period: {', '.join(idle)}."))
        short = [f"{one.job} since {one.oldest}" for one in self.evidence.jobs if self._short(one)]
        if short:
            found.append((None, f"The history does not reach back to the beginning: {', '.join(short)}."))
        return found

    def _short(self, job: JobSummary) -> bool:
        """Whether the runs of a job begin later than its usual pace explains."""
        begin = seconds_of(self.evidence.source.since)
        ended = [_ended(one) for one in self.evidence.of_job(job.job)]
        if job.by_hand or job.oldest is None or seconds_of(job.oldest) < begin or not ended:
            return False
        pace = (ended[-1] - ended[0]) / max(len(ended) - 1, 1)
        return ended[0] - begin > 1.5 * pace

    def _newest(self) -> Sentence:
        verified = {
            point.dump: point for place in self.places for point in place.points if point.state == "verified"
        }
        if not verified:
            return False, "There is no verified dump."
        newest = verified[max(verified)]
        proof = self.proofs.of(newest)
        counted = f"{len(verified)} verified dump{'s' if len(verified) > 1 else ''}"
        age = show.duration(proof.data_loss_seconds)
        takes = ""
        if proof.recovery is not None:
            about = "about " if proof.recovery.basis == "estimate" else ""
            takes = f"; recovering it takes {about}{show.duration(proof.recovery.seconds)}"
        return True, f"{counted}. The newest is of {newest.time}, {age} old{takes}."

    def _drilled(self) -> Sentence:
        drills = self.evidence.of_job(DRILL)
        if not drills:
            return False, "No drill ran in this period."
        proved = [one for one in drills if text(one, "outcome") == "proved"]
        if not proved:
            return False, f"{len(drills)} drills ran in this period, and none proved a dump."
        last = proved[-1]
        took = number(last, "recovery_seconds")
        restored = "" if took is None else f" Its recovery took {show.duration(took)}."
        failed = len(drills) - len(proved)
        others = f" {failed} of {len(drills)} drills failed." if failed else ""
        return not failed, f"The drill of {last.ended} proved {text(last, 'dump')}.{restored}{others}"

    def _budgets(self) -> list[Sentence]:
        return [
            (
                one.met,
                f"{BUDGETS[one.value]}: {_exactly(one.measured)}, "
                f"{'within' if one.met else 'over'} the budget of {one.limit:,} s.",
            )
            for one in self.evidence.budgets
            if one.met is not None and one.measured is not None and one.limit is not None
        ]

    def _runs(self) -> Sentence:
        runs, red = len(self.evidence.records), len(self.evidence.red)
        if not runs:
            return False, "No run is recorded in this period."
        return not red, f"{runs - red} of {runs} runs succeeded."


def of_release(release: Release, days: int, blocked: Callable[[Blocker], None]) -> Report:
    """Of the last `days`, by what lies on the volumes now. Raises CliError."""
    cronjobs = release.cronjobs()
    found = points.of_release(release, blocked)
    now = time.time()
    chart = next(iter(cronjobs.values()))["metadata"].get("labels", {}).get("helm.sh/chart", "")
    source = Source(
        cluster=f"{release.context} ({release.cluster})",
        namespace=release.namespace,
        chart=chart,
        tool=f"stack-backup {version('stack-backup')}",
        generated=stamp(now),
        since=stamp(now - days * DAY),
    )
    by_hand = {name: cronjob["spec"]["schedule"] == BY_HAND for name, cronjob in cronjobs.items()}
    evidence = gathered(source, found.history.records, by_hand, budgets_of(cronjobs), found.problems)
    return Report(evidence, found.places, found.media, found.proofs)


def budgets_of(cronjobs: Mapping[str, Object]) -> dict[str, int | None]:
    """The budgets as the drill of the release has them; none where there is no drill."""
    if DRILL not in cronjobs:
        return {}
    own = variables(cronjobs[DRILL]["spec"]["jobTemplate"]["spec"])
    return {value: int(own.get(name) or 0) or None for value, name in VARIABLES.items()}


def document(report: Report) -> str:
    """As JSON."""
    whole = {
        **report.evidence.as_dict(),
        "summary": [{"good": good, "sentence": sentence} for good, sentence in report.sentences()],
        "places": [place.as_dict(report.proofs) for place in report.places],
        "media": [one.as_dict() for one in report.media],
    }
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    return text.encode(errors="replace").decode()


# ---- the page ----------------------------------------------------------------------------------------------


@cache
def _template() -> Template:
    """All that it is given is text to it: autoescape."""
    environment = Environment(
        loader=PackageLoader("stack_backup", ""), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"duration": show.duration, "size": show.size, "where": where_is}
    return environment.get_template("report.html")


def html(report: Report) -> str:
    """One file that needs no other: no script, no font, no picture from elsewhere."""
    sentences = report.sentences()
    page = _template().render(
        report=report,
        evidence=report.evidence,
        source=report.evidence.source,
        sentences=sentences,
        good=all(good is not False for good, _ in sentences) and not report.evidence.problems,
        budgets=BUDGETS,
        media=[(one, show.media_state(one)) for one in report.media],
        plots=drawn(report.evidence),
        frame=plots,
        text=text,
        number=number,
        code=code,
        over_budget=Exit.BUDGET,
    )
    return page.encode(errors="replace").decode()


def drawn(evidence: Evidence) -> list[Plot]:
    """The plots of which there is anything to draw."""
    begin, end = seconds_of(evidence.source.since), seconds_of(evidence.source.generated)
    limits = {one.value: one.limit for one in evidence.budgets}
    backups = evidence.of_job(BACKUP) or evidence.of_job(CHECK)
    drills = evidence.of_job(DRILL)
    draw = partial(plots.plot, period=(begin, end))

    def line(title: str, unit: Unit, records: list[Record], key: str, **options: Any) -> Plot | None:
        failed = [_ended(one) for one in records if code(one)]
        return draw(title, unit, _values(records, key), marks=failed, **options)

    failed = [_ended(one) for one in backups if code(one)]
    found = [
        draw(
            "Age of the newest verified dump",
            SECONDS,
            evidence.ages,
            marks=failed,
            limit=limits.get("dataLossSeconds"),
        ),
        line("Size of a dump", BYTES, backups, "bytes"),
        line("Rows in a dump", COUNT, backups, "rows"),
        line("How long a backup takes", SECONDS, evidence.of_job(BACKUP), "seconds"),
        line(
            "How long a recovery takes (drills)",
            SECONDS,
            drills,
            "recovery_seconds",
            limit=limits.get("recoverySeconds"),
        ),
    ]
    return [one for one in found if one is not None]


def _values(records: Sequence[Record], key: str) -> list[Value]:
    """Of the runs that did their work: how long a failed one took tells nothing."""
    worked = [one for one in records if text(one, "outcome") != "failed"]
    return [(_ended(one), value) for one in worked if (value := number(one, key)) is not None]


def _exactly(seconds: int) -> str:
    """`5,000 s (1 h 23 min)`."""
    return f"{seconds:,} s" + (f" ({show.duration(seconds)})" if seconds >= 60 else "")


def _ended(record: Record) -> float:
    return seconds_of(record.ended)


# ---- JUnit -------------------------------------------------------------------------------------------------


def junit(report: Report) -> str:
    """A suite for each job, a test case for each run. What could not be read is an error: the evidence is
    incomplete then.
    """
    evidence = report.evidence
    root = ElementTree.Element("testsuites", name=f"stack-backup {evidence.source.namespace}")
    for job in evidence.jobs:
        runs = evidence.of_job(job.job)
        suite = _suite(root, job.job, len(runs), failures=sum(code(one) != 0 for one in runs))
        for one in runs:
            _case(suite, job.job, one)
    if evidence.problems:
        suite = _suite(root, "evidence", len(evidence.problems), errors=len(evidence.problems))
        for problem in evidence.problems:
            case = ElementTree.SubElement(suite, "testcase", classname="evidence", name="read", time="0")
            ElementTree.SubElement(case, "error", message=_xml(problem))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _suite(
    root: ElementTree.Element, name: str, tests: int, failures: int = 0, errors: int = 0
) -> ElementTree.Element:
    counts = {"tests": str(tests), "failures": str(failures), "errors": str(errors)}
    return ElementTree.SubElement(root, "testsuite", {"name": _xml(name), **counts})


def _case(suite: ElementTree.Element, job: str, record: Record) -> None:
    dump = text(record, "dump")
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=_xml(job),
        name=_xml(f"{record.ended} {dump}".rstrip()),
        time=str(number(record, "seconds") or 0),
        timestamp=datetime.fromisoformat(record.ended).strftime("%Y-%m-%dT%H:%M:%S"),
    )
    if code(record):
        failure = ElementTree.SubElement(
            case, "failure", type=f"exit {code(record)}", message=_xml(text(record, "message"))
        )
        failure.text = _xml(text(record, "message"))


def _xml(value: str) -> str:
    return _NOT_XML.sub("\ufffd", value)
