"""What a person sees: tables, verdicts, the progress of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from stack_backup.evidence import Evidence, Proof, Proofs
from stack_backup.evidence import text as text_of
from stack_backup.fetch import Fetched
from stack_backup.logs import RunLog
from stack_backup.overview import COLUMNS, ClusterStatus, answer
from stack_backup.points import History, Media, Place, where_is
from stack_backup.refresh import Plan
from stack_backup.runs import JobResult
from stack_backup.status import JobStatus, StackStatus
from stack_backup.waiting import Blocker
from stack_backup_jobs.formats import FAILED, OK, SKIPPED, WARNING, Exit, Finding

_POINT = {"verified": "green", "suspicious": "yellow", "unverified": "yellow", "future": "red"}
_RESULT = {OK: "green", WARNING: "yellow", FAILED: "bold red", SKIPPED: "dim"}
WIDE = 110
"""Columns of a terminal from which on a restore point has its rows, and a column for its drill."""
SHOWN = 5
"""Red runs of a report, on a terminal."""
_NOT_FIGURES = ("job", "exit", "outcome", "message")


def status(console: Console, stack: StackStatus) -> None:
    """Fits a terminal of 80 columns, as long as schedules are short."""
    table = Table(
        title=f"Jobs of {stack.namespace}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    table.add_column("Job", no_wrap=True)
    for name in ("Schedule", "Last success", "Next run", "State"):
        table.add_column(name)
    for job in stack.jobs:
        table.add_row(job.job, _schedule(job), _success(job), _next_run(job), _state(job))
    console.print(table)
    for job in stack.jobs:
        if job.red:
            console.print(_red(job))
        for one in job.blockers:
            blocker(console, one, soft_wrap=False)
    for one in stack.missing:
        blocker(console, one, soft_wrap=False)
    console.print(_summary(stack))


def _red(job: JobStatus) -> Text:
    return Text.assemble((job.job, "bold red"), f": {job.red}. ", _why(job))


def blocker(console: Console, one: Blocker, *, soft_wrap: bool = True) -> None:
    """What is waited for, the cluster's own words, and the way out."""
    console.print(
        Text.assemble(
            (f"{one.object} ({one.reason})", "bold yellow"), f": {one.message} ", (one.remedy, "bold")
        ),
        soft_wrap=soft_wrap,
    )


def overview(console: Console, clusters: list[ClusterStatus]) -> None:
    """A line a stack, and a group of lines a cluster: how long ago each thing last succeeded."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("Stack")
    for name in COLUMNS:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("State", no_wrap=True)
    for cluster in clusters:
        table.add_section()
        table.add_row(Text(cluster.context, "bold red" if cluster.problem else "bold"))
        for stack in cluster.stacks:
            cells = [_answer(answer(stack, name)) for name in COLUMNS]
            table.add_row(f"  {stack.namespace}", *cells, _stack_state(stack))
    console.print(table)
    for cluster in clusters:
        if cluster.problem:
            console.print(Text.assemble((cluster.context, "bold red"), f": {cluster.problem}"))
        for stack in cluster.stacks:
            for job in stack.jobs:
                if job.red:
                    waits = " ".join(f"{one.object} ({one.reason})." for one in job.blockers)
                    console.print(Text.assemble((stack.namespace, "bold"), " ", _red(job), waits))
            for one in stack.missing:
                console.print(Text.assemble((stack.namespace, "bold"), f" {one.object} ({one.reason})"))


def _answer(job: JobStatus | None) -> Text:
    if job is None:
        return Text("-", "dim")
    if job.last_success_age is None:
        return Text("never", "bold red" if job.red else "yellow" if job.never else "dim")
    return Text(rough(job.last_success_age), "bold red" if job.red else "")


def log(console: Console, run: RunLog) -> None:
    """All that a run has printed, under a heading for each container."""
    for one in run.logs:
        console.print(Text(f"{run.name}, pod {one.pod}, container {one.container}", "bold"), soft_wrap=True)
        for line in one.lines:
            console.print(Text(line), soft_wrap=True)
    if not run.logs:
        console.print(Text(f"{run.name} has printed nothing.", "bold"))
        for waits in run.blockers:
            blocker(console, waits)


def _summary(stack: StackStatus) -> Text:
    """What has never succeeded protects nothing yet: it is not well, but not red before its time either."""
    count = len(stack.jobs)
    red, never, suspended = _counts(stack)
    parts = []
    if red:
        parts.append(f"{red} of {count} jobs {'is' if red == 1 else 'are'} red")
    if stack.missing:
        parts.append(f"{len(stack.missing)} missing")
    if never:
        parts.append(f"{never} of {count} jobs {'has' if never == 1 else 'have'} never succeeded")
    if suspended:
        parts.append(f"{suspended} suspended")
    if not parts:
        return Text("All is well.", "bold green")
    return Text(f"{', '.join(parts)}.", "bold red" if stack.red else "bold yellow")


def _counts(stack: StackStatus) -> tuple[int, int, int]:
    """Jobs that are red; else have never succeeded; else are suspended."""
    rest = [job for job in stack.jobs if not job.red]
    never = [job for job in rest if job.never]
    return len(stack.jobs) - len(rest), len(never), sum(job.suspended and not job.never for job in rest)


def _stack_state(stack: StackStatus) -> Text:
    red, never, suspended = _counts(stack)
    if stack.red:
        return Text(f"{red} red" if red else f"{len(stack.missing)} missing", "bold red")
    if never:
        return Text(f"{never} not yet run", "yellow")
    return Text(f"{suspended} suspended", "yellow") if suspended else Text("ok", "green")


def _schedule(job: JobStatus) -> str:
    if not job.schedule:
        return "manual"
    zone = "" if job.time_zone in ("Etc/UTC", "UTC") else f" {job.time_zone}"
    return f"{job.schedule}{zone}"


def _success(job: JobStatus) -> Text:
    if job.last_success_age is None:
        return Text("never", "yellow" if job.never else "")
    return Text(f"{rough(job.last_success_age)} ago")


def _next_run(job: JobStatus) -> str:
    if job.suspended:
        return "suspended"
    return "-" if job.next_run is None else f"in {rough(-_age(job.next_run))}"


def _state(job: JobStatus) -> Text:
    """The job now, or how its last run ended. What is red says so without its colour, too."""
    if job.blockers:
        passing = all(one.passing for one in job.blockers)
        return Text("starting", "cyan") if passing else Text("cannot start", "bold red")
    if job.running:
        return Text("running", "cyan")
    if job.red and job.last_run is not None and job.last_run.exit_code:
        return Text(f"failed ({job.last_run.exit_code})", "bold red")
    if job.red:
        return Text("late", "bold red")
    if job.last_success is None:
        return Text("not yet run", "yellow" if job.never else "dim")
    outcome = job.last_run.verdict.get("outcome", "complete") if job.last_run else "complete"
    return Text(str(outcome), "green")


def _why(job: JobStatus) -> str:
    return job.last_run.message if job.last_run is not None and job.last_run.exit_code else ""


def points(console: Console, namespace: str, places: list[Place], proofs: Proofs) -> None:
    """Each dump, its proof, and what a recovery of it takes (RTO) and loses (RPO)."""
    for place in places:
        if place.problem:
            console.print(Text(f"{where_is(place.claim, capital=True)}: ", "bold red"), end="")
            console.print(Text(place.problem))
            continue
        if not place.points:
            where = where_is(place.claim, capital=True)
            console.print(f"{where} of {namespace} (job {place.job}) holds no dump.")
            continue
        table = Table(
            title=f"Dumps on {where_is(place.claim)} of {namespace} (job {place.job})",
            title_justify="left",
            title_style="bold",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        wide = console.width >= WIDE
        table.add_column("Time (UTC)", no_wrap=True)
        table.add_column("Folder")
        for name in ("Size", *(["Rows"] if wide else [])):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("State", *(["Drill"] if wide else [])):
            table.add_column(name)
        for name in ("RTO", "RPO"):
            table.add_column(name, justify="right", no_wrap=True)
        for point in place.points:
            proof = proofs.of(point)
            rows = "-" if point.rows is None else f"{point.rows:,}"
            state, drilled = Text(point.state, _POINT[point.state]), _drill(proof)
            table.add_row(
                point.time,
                point.folder,
                size(point.bytes),
                *([rows, state, drilled or Text("-")] if wide else [drilled or state]),
                _takes(proof),
                duration(proof.data_loss_seconds),
            )
        console.print(table)
        console.print(_now(place, proofs))


def _drill(proof: Proof) -> Text:
    if proof.drill is None:
        return Text()
    said = f"{proof.drill.outcome} {duration(_age(proof.drill.ended))} ago"
    if proof.drill.exit == Exit.BUDGET:
        return Text(f"{said}, over budget", "yellow")
    return Text(said, "red" if proof.drill.exit else "green")


def _takes(proof: Proof) -> str:
    if proof.recovery is None:
        return "-"
    about = "~" if proof.recovery.basis == "estimate" else ""
    return f"{about}{duration(proof.recovery.seconds)}"


def _now(place: Place, proofs: Proofs) -> str:
    """What a recovery takes and loses at this moment."""
    verified = [point for point in place.points if point.state == "verified"]
    if not verified:
        return "No dump is verified: a recovery has to name one."
    proof = proofs.of(max(verified, key=lambda point: point.time))
    loses = f"loses the last {duration(proof.data_loss_seconds)} (RPO)"
    if proof.recovery is None:
        return f"A recovery of the newest {loses}. How long it takes, no drill has measured yet (RTO)."
    basis = {
        "drill": "as its drill did",
        "recovery": "as its recovery did",
        "estimate": "estimated by size from the newest drill",
    }[proof.recovery.basis]
    return f"A recovery of the newest takes {duration(proof.recovery.seconds)}, {basis} (RTO), and {loses}."


def history(console: Console, one: History) -> None:
    """Only where it says less than it should."""
    if one.problem:
        console.print(Text.assemble(("History of the runs: ", "bold red"), one.problem))
    elif not one.records:
        console.print("No run has left a record yet: drills and recovery times are not known.")


def media(console: Console, namespace: str, replicas: list[Media]) -> None:
    for one in replicas:
        name = f"Media on {where_is(one.claim)} of {namespace} (job {one.job}): "
        if one.problem:
            console.print(Text.assemble((name, "bold red"), one.problem))
        else:
            console.print(Text.assemble((name, "bold"), media_state(one), "."))


def media_state(one: Media) -> str:
    if one.problem:
        return one.problem
    if not one.status:
        return "no mirror has been recorded there"
    last = "never complete"
    if one.completed and one.files is not None and one.bytes is not None:
        ago = duration(_age(one.completed))
        last = f"complete at {one.completed} ({ago} ago), {one.files:,} files, {size(one.bytes)}"
    return last if one.status == "complete" else f"{last}; a mirror has been in progress since {one.since}"


def findings(console: Console, namespace: str, found: list[Finding]) -> None:
    """What the doctor has found: what needs a look with its reason and the way out, all else in a line."""
    table = Table(
        title=f"What the jobs of {namespace} need",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Subject")
    table.add_column("Result", no_wrap=True)
    table.add_column("Finding")
    for subject in dict.fromkeys(one.subject for one in found):
        own = [one for one in found if one.subject == subject]
        rows = [(one.result, _finding(one)) for one in own if one.result in (FAILED, WARNING)]
        for result in (OK, SKIPPED):
            if checks := ", ".join(one.check for one in own if one.result == result):
                rows.append((result, Text(checks, "dim")))
        for number, (result, text) in enumerate(rows):
            table.add_row("" if number else subject, Text(result, _RESULT[result]), text)
    console.print(table)
    failed, doubts = (sum(one.result == word for one in found) for word in (FAILED, WARNING))
    warned = f" {doubts} {'warning' if doubts == 1 else 'warnings'}." * bool(doubts)
    if failed:
        console.print(Text(f"{failed} of {len(found)} checks failed.{warned}", "bold red"))
    else:
        console.print(
            Text(f"{len(found)} checks, none failed.{warned}", "bold yellow" if doubts else "bold green")
        )


def _finding(one: Finding) -> Text:
    return Text.assemble((one.check, "bold"), f": {one.message} ", (one.advice, "bold"))


def _age(stamp: str) -> float:
    return time.time() - datetime.fromisoformat(stamp).timestamp()


def verdict(console: Console, namespace: str, name: str, end: JobResult, code: int, sentence: str) -> None:
    """How a run ended, as a person wants to read it."""
    figures = Table.grid(padding=(0, 2))
    for key, value in end.verdict.items():
        if key not in _NOT_FIGURES:
            figures.add_row(Text(key.replace("_", " "), "dim"), _figure(key, value))
    outcome = end.verdict.get("outcome", end.reason or "complete")
    colour = "red" if code else "green"
    title = f"{end.job}: {outcome}" + (f", exit code {code}" if code else "")
    parts: list[RenderableType] = [Text(sentence)]
    if figures.row_count:
        parts += [Text(), figures]
    console.print(Panel(Group(*parts), title=f"[bold]{title}[/]", title_align="left", border_style=colour))
    if code:
        console.print(
            f"The log stays with Job {name}: kubectl --namespace {namespace} logs job/{name}", soft_wrap=True
        )


def ended(console: Console, title: str, code: int, sentence: str) -> None:
    """The verdict over several runs."""
    colour = "red" if code else "green"
    title += f": failed, exit code {code}" if code else ": done"
    console.print(Panel(Text(sentence), title=f"[bold]{title}[/]", title_align="left", border_style=colour))


def plan(console: Console, plan: Plan) -> None:
    """What a refresh brings, and what it replaces."""
    dump, media = plan.dump, plan.media
    rows = (
        ""
        if dump.rows is None
        else f", {dump.rows:,} rows in {dump.tables} {'table' if dump.tables == 1 else 'tables'}"
    )
    origin = f" of {dump.namespace}" if dump.namespace else ""
    age, media_age = duration(_age(dump.time)), duration(_age(plan.as_of))
    held = "" if media.files is None else f"{media.files:,} files, {size(media.bytes or 0)}, "
    others = "are deleted" if plan.delete else "stay"
    first, second = (job.partition("-")[0] for job in plan.order)
    took = "unknown: no earlier runs of both are known"
    if plan.usual is not None:
        parts = ", ".join(f"{job.partition('-')[0]} {duration(plan.seconds[job] or 0)}" for job in plan.order)
        took = f"about {duration(plan.usual)}, by earlier runs ({parts})"
    grid = Table.grid(padding=(0, 2))
    former = f"The replaced one is kept for {duration(plan.keep_former_seconds)}."
    for name, text in (
        (
            "Database",
            f"{plan.database} becomes the dump {dump.time}{origin}: {age} old, {size(dump.bytes)}{rows}. "
            f"{former}",
        ),
        (
            "Media",
            f"{held}as of {plan.as_of}: {media_age} old. Files that only {plan.namespace} has {others}.",
        ),
        ("Order", f"First the {first}, then the {second}; if the first fails, nothing else is started."),
        ("Time", took),
    ):
        grid.add_row(Text(name, "bold"), Text(text))
    for warning in plan.warnings:
        grid.add_row(Text("Note", "bold yellow"), Text(warning, "yellow"))
    console.print(Text(f"Refresh of {plan.namespace}", "bold"))
    console.print(grid)


def report(console: Console, evidence: Evidence, sentences: Sequence[tuple[bool | None, str]]) -> None:
    """The period in a few sentences, its jobs, and the newest runs that were red."""
    source = evidence.source
    table = Table(
        title=f"Runs of {source.namespace} since {source.since}",
        title_justify="left",
        title_style="bold",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("Job", no_wrap=True)
    for name in ("Runs", "Succeeded", "Usual"):
        table.add_column(name, justify="right")
    table.add_column("Last success")
    for job in evidence.jobs:
        rate = "-" if job.rate is None else f"{job.succeeded} ({int(job.rate * 1000) / 10:g} %)"
        last = "never" if job.last_success is None else f"{duration(_age(job.last_success))} ago"
        usual = "-" if job.median_seconds is None else duration(job.median_seconds)
        colour = "red" if job.succeeded < job.runs else ""
        table.add_row(job.job, f"{job.runs:,}", Text(rate, colour), usual, last)
    console.print(table)
    for record in evidence.red[:SHOWN]:
        head = f"{record.ended} {text_of(record, 'job')}"
        console.print(Text.assemble((head, "bold red"), f": {text_of(record, 'message')}"))
    if len(evidence.red) > SHOWN:
        console.print(f"... and {len(evidence.red) - SHOWN} more red runs; --html and --json have all.")
    for good, sentence in sentences:
        console.print(Text(sentence, {True: "green", False: "bold red", None: "yellow"}[good]))
    for problem in evidence.problems:
        console.print(Text(f"Incomplete: {problem}", "bold red"))


def _figure(key: str, value: object) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        if key.endswith("bytes"):
            return size(value)
        return duration(value) if key.endswith("seconds") else f"{value:,}"
    return str(value)


class _Bar(ProgressColumn):
    """As long as the job usually takes, and never full before it is over; a pulse where nobody knows."""

    max_refresh = None

    def render(self, task: Task) -> ProgressBar:
        took = task.elapsed or 0.0
        done = 0.0 if task.total is None else min(took, task.total * 0.98)
        return ProgressBar(total=task.total, completed=done, width=24, pulse=task.total is None)


class _Time(ProgressColumn):
    """`40 s, about 3 min left`."""

    def render(self, task: Task) -> Text:
        took = task.elapsed or 0.0
        left = (
            "" if task.total is None or took >= task.total else f", about {duration(task.total - took)} left"
        )
        return Text(f"{duration(took)}{left}")


@contextmanager
def progress(console: Console, title: str, usual: float | None) -> Iterator[Callable[[str], None]]:
    """A bar while a run goes on, on a terminal; gives what shows the state. `usual` is in seconds."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), _Bar(), _Time())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=usual)
        yield lambda state: bar.update(task, description=f"{title}: {state}")


@contextmanager
def transfer(
    console: Console, title: str
) -> Iterator[tuple[Callable[[int, int], None], Callable[[str], None]]]:
    """A bar while bytes come, on a terminal; gives what shows how many of how many, and a state."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(title, total=None)

        def shown(have: int, total: int) -> None:
            bar.update(task, completed=have, total=total, description=title)

        yield shown, lambda state: bar.update(task, description=f"{title}: {state}")


def fetched(console: Console, done: Fetched) -> None:
    rate = f", {size(round((done.bytes - done.resumed) / done.seconds))}/s" if done.seconds else ""
    how = "as its manifest says" if done.verified else "as the pod has read it; it has no manifest"
    cuts = f" The connection was cut {done.cuts} times." if done.cuts else ""
    earlier = f" {size(done.resumed)} were here already." if done.resumed else ""
    text = (
        f"{done.path} is here: {size(done.bytes)} in {duration(done.seconds)}{rate}. Its sha256 is {how}."
        f"{cuts}{earlier}"
    )
    console.print(Text(text), soft_wrap=True)


def size(count: int) -> str:
    """`3.3 GiB`, `812 B`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float) -> str:
    """`40 s`, `3 min`, `5 h 12 min`, `12 days`."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 2 * 86400:
        hours, minutes = whole // 3600, whole % 3600 // 60
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{whole // 86400} days"


def rough(seconds: float) -> str:
    """`40 s`, `3 min`, `5 h`, `12 days`: as much as a narrow table needs."""
    whole = max(round(seconds), 0)
    return f"{whole // 3600} h" if 3600 <= whole < 2 * 86400 else duration(whole)
