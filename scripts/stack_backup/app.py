"""The commands of `stack-backup`, their arguments and their ends."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperCommand

from stack_backup import CliError, Exit
from stack_backup_jobs.formats import FAILED, NAME, seconds_of, stamp, time_of

if TYPE_CHECKING:
    from stack_backup.release import Release

# What needs the `kubernetes` client is imported where it is used: so help and wrong arguments answer at once.

app = typer.Typer(
    name="stack-backup",
    help="Back up and recover the data of a Fragalysis stack, on any cluster that your kubeconfig reaches.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Format(StrEnum):
    text = "text"
    json = "json"


class Kind(StrEnum):
    database = "database"
    media = "media"


class Unfinished(StrEnum):
    """As media-recovery's own setting."""

    refuse = "refuse"
    last_complete = "last-complete"
    as_it_is = "as-it-is"


@dataclass(frozen=True)
class Common:
    """The options that every command has, and what was said by them."""

    kubeconfig: Annotated[
        str | None,
        typer.Option(envvar="KUBECONFIG", help="The kubeconfig file.", show_default="~/.kube/config"),
    ] = None
    context: Annotated[
        str | None, typer.Option(help="Context of the kubeconfig.", show_default="its current one")
    ] = None
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="The stack's namespace.", show_default="the context's own"),
    ] = None
    output: Annotated[
        Format,
        typer.Option(
            "--output", "-o", help="`json`: one document on standard output; the log goes to standard error."
        ),
    ] = Format.text

    @property
    def json(self) -> bool:
        return self.output is Format.json

    @property
    def console(self) -> Console:
        """With JSON, standard output has the document alone."""
        return Console(stderr=self.json, highlight=False)

    def connect(self) -> Release:
        from stack_backup.release import connect

        return connect(self.kubeconfig, self.context, self.namespace)


def _common() -> list[Any]:
    alone = typer.Typer(add_completion=False)
    alone.command()(Common)
    return typer.main.get_command(alone).params


class Command(TyperCommand):
    """A command with the common options after its own, which win. They are no arguments of its function, but
    its context's `obj`.
    """

    def __init__(self, name: str | None, *, params: list[Any], **others: Any) -> None:
        own = {one.name for one in params}
        self._shared = [one for one in _common() if one.name not in own]
        super().__init__(name, params=[*params, *self._shared], **others)

    def invoke(self, ctx: Any) -> Any:
        ctx.obj = Common(**{one.name: ctx.params.pop(one.name) for one in self._shared})
        return super().invoke(ctx)


_command = partial(app.command, cls=Command)

Dump = Annotated[
    str | None,
    typer.Option(
        help="`latest`, or the time in a dump's name, such as 2022-11-28T08:51:08Z.",
        show_default="the release's value",
    ),
]

AsOf = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="The newest verified dump of that time or before: ISO 8601, such as 2022-11-28T08:51:08Z or "
        "2022-11-28; UTC where no zone is said.",
    ),
]
Confirm = Annotated[
    str | None,
    typer.Option(metavar="NAMESPACE", help="Confirm by naming the namespace whose data is replaced."),
]

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _write(path: Path, content: str) -> None:
    try:
        path.write_text(content, encoding="utf-8", errors="replace")
    except OSError as error:
        raise CliError(Exit.USAGE, f"{path} could not be written: {error.strerror}.") from error


def _version(asked: bool) -> None:
    if asked:
        print(f"stack-backup {version('stack-backup')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of every command."""


@_command()
def status(
    ctx: typer.Context,
    everywhere: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Every stack of the cluster, a line each.")
    ] = False,
    context: Annotated[
        list[str] | None,
        typer.Option(
            help="Context of the kubeconfig; repeat it for several clusters, a line a stack.",
            show_default="its current one",
        ),
    ] = None,
) -> int:
    """Show every job: schedule, last success, next run, state. Exit code 1 if anything is red."""
    from stack_backup import overview, show
    from stack_backup import status as jobs_status

    common: Common = ctx.obj
    if everywhere and common.namespace is not None:
        raise CliError(Exit.USAGE, "Give either --namespace or --all-namespaces.")
    if everywhere or len(context or ()) > 1:
        clusters = overview.of_clusters(
            common.kubeconfig, context or [None], common.namespace, everywhere=everywhere
        )
        red = any(cluster.red for cluster in clusters)
        if common.json:
            _print_json({"red": red, "clusters": [cluster.as_dict() for cluster in clusters]})
        else:
            show.overview(_console(), clusters)
        return Exit.RED if red else 0
    stack = jobs_status.of_stack(replace(common, context=context[0] if context else None).connect())
    if common.json:
        _print_json(stack.as_dict())
    else:
        show.status(_console(), stack)
    return Exit.RED if stack.red else 0


@_command("list")
def list_points(ctx: typer.Context) -> int:
    """List the restore points: every dump with its proof, and the media replica. Temporary Jobs read them."""
    from stack_backup import points, show

    common: Common = ctx.obj
    release = common.connect()
    if common.json:
        errors = Console(stderr=True, highlight=False)
        found = points.of_release(release, lambda blocker: show.blocker(errors, blocker))
        _print_json(
            {
                "namespace": release.namespace,
                "places": [place.as_dict(found.proofs) for place in found.places],
                "media": [one.as_dict() for one in found.media],
                "history": {"records": len(found.history.records), "problem": found.history.problem},
            }
        )
    else:
        console = _console()
        with console.status("Listing the volumes ..."):
            found = points.of_release(release, lambda blocker: show.blocker(console, blocker))
        show.points(console, release.namespace, found.places, found.proofs)
        show.media(console, release.namespace, found.media)
        show.history(console, found.history)
    return Exit.RED if found.problems else 0


@_command()
def report(
    ctx: typer.Context,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the page there: one file that needs no other.")
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write JUnit's XML there: a test case for each run.")
    ] = None,
    json_: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the JSON document there.")
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3660, help="The length of the period, until now.")] = 30,
) -> int:
    """Show what the runs of a period prove, for yourself or an auditor. Temporary Jobs read the volumes."""
    from stack_backup import report as reports
    from stack_backup import show

    common: Common = ctx.obj
    for folder in {path.absolute().parent for path in (html, junit, json_) if path is not None}:
        if not folder.is_dir():
            raise CliError(Exit.USAGE, f"There is no folder {folder}. Nothing was read.")
    release = common.connect()
    console = common.console
    with console.status("Reading the history ..."):
        made = reports.of_release(release, days, lambda blocker: show.blocker(console, blocker))
    contents = {html: reports.html, junit: reports.junit, json_: reports.document}
    for path, content in contents.items():
        if path is not None:
            _write(path, content(made))
    if common.json:
        print(reports.document(made), end="")
    else:
        show.report(console, made.evidence, made.sentences())
        for path in filter(None, contents):
            console.print(f"Written: {path}", soft_wrap=True)
    return Exit.RED if made.evidence.problems else 0


@_command()
def doctor(ctx: typer.Context) -> int:
    """Examine what the jobs need: database, volumes, off-site store. Exit code 1 if a check failed."""
    from stack_backup import examine, show

    common: Common = ctx.obj
    release = common.connect()
    console = common.console
    with console.status("Examining ..."):
        findings = examine.of_release(release, lambda blocker: show.blocker(console, blocker))
    red = any(one.result == FAILED for one in findings)
    if common.json:
        document = {"namespace": release.namespace, "red": red}
        _print_json(document | {"findings": [asdict(one) for one in findings]})
    else:
        show.findings(console, release.namespace, findings)
    return Exit.RED if red else 0


@_command()
def run(
    ctx: typer.Context,
    job: Annotated[
        str, typer.Argument(help="Name of a job, such as postgres-backup-hourly; `status` lists them all.")
    ],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=VALUE", help="Set a variable of the program for this run only; repeatable."
        ),
    ] = None,
) -> int:
    """Run a job now, follow its log, and exit with the job's own exit code."""
    common: Common = ctx.obj
    environment = dict(_variable(one) for one in set_ or [])
    return _run(common, common.connect(), job, environment)


@_command()
def recover(
    ctx: typer.Context,
    what: Annotated[
        Kind, typer.Argument(help="The stack's database, or its media files.", show_default=False)
    ],
    dump: Dump = None,
    delete: Annotated[
        bool | None,
        typer.Option(
            "--delete/--no-delete",
            help="Media only: whether files that the replica does not have are deleted.",
            show_default="the release's value",
        ),
    ] = None,
    unfinished: Annotated[
        Unfinished | None,
        typer.Option(
            help="Media only: what to do with a replica whose last mirror did not finish: refuse it, recover "
            "the last complete mirror, or take it as it is.",
            show_default="the release's value",
        ),
    ] = None,
    as_of: AsOf = None,
    confirm: Confirm = None,
) -> int:
    """Replace the stack's database with a dump, or restore its media files from the replica."""
    common: Common = ctx.obj
    environment: dict[str, str] = {}
    if what is Kind.media:
        for option, text in (("--dump", dump), ("--as-of", as_of)):
            if text is not None:
                raise CliError(
                    Exit.USAGE,
                    f"{option} is only for the database: media have one replica. Nothing was started.",
                )
        if delete is not None:
            environment["DELETE"] = str(delete).lower()
        if unfinished is not None:
            environment["UNFINISHED"] = unfinished.value
    else:
        for option, given in (("--delete", delete), ("--unfinished", unfinished)):
            if given is not None:
                raise CliError(Exit.USAGE, f"{option} is only for media. Nothing was started.")
    named = None if what is Kind.media else _named(dump, as_of)
    release = common.connect()
    job = f"{what}-recovery"
    release.cronjob(job)
    if named is not None:
        dump = environment["DUMP"] = named(release)
    environment["CONFIRM"] = _confirmed(release.namespace, what, confirm, dump, ask=not common.json)
    return _run(common, release, job, environment)


@_command()
def refresh(
    ctx: typer.Context,
    as_of: AsOf = None,
    delete: Annotated[
        bool | None,
        typer.Option(
            "--delete/--no-delete",
            help="Whether media files that the replica does not have are deleted.",
            show_default="the release's value",
        ),
    ] = None,
    unfinished: Annotated[
        Unfinished | None,
        typer.Option(
            help="What to do with a replica of the media whose last mirror did not finish.",
            show_default="the release's value",
        ),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Show the plan and start nothing.")] = False,
    confirm: Confirm = None,
) -> int:
    """Bring database and media as one pair: a plan, one confirmation, both recoveries, one verdict."""
    from stack_backup import refresh as pair
    from stack_backup import show

    common: Common = ctx.obj
    moment = None if as_of is None else _moment(as_of)
    release = common.connect()
    console = common.console
    with console.status("Listing the volumes ..."):
        plan = pair.plan(
            release,
            moment,
            delete,
            unfinished and unfinished.value,
            lambda blocker: show.blocker(console, blocker),
        )
    if plan_only and common.json:
        _print_json({"namespace": release.namespace, "plan": plan.as_dict()})
        return 0
    show.plan(console, plan)
    if plan_only:
        return 0
    _confirmed(release.namespace, "database and the media", confirm, ask=not common.json)
    done = pair.carry_out(plan, lambda job, environment: _follow(release, job, environment, console))
    if common.json:
        _print_json(done.as_dict())
    else:
        show.ended(console, "refresh", done.exit, done.message)
    return done.exit


@_command()
def fetch(
    ctx: typer.Context,
    dump: Annotated[
        str, typer.Argument(help="`latest`, or the time in a dump's name, such as 2022-11-28T08:51:08Z.")
    ] = "latest",
    to: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of this machine.", show_default="this one")
    ] = Path(),
    offsite: Annotated[
        bool, typer.Option("--offsite", help="From the off-site store, also where recoveries read a volume.")
    ] = False,
) -> int:
    """Bring a dump and its manifest to this machine, and check it here. Goes on where a try has ended."""
    from stack_backup import fetch as transfer
    from stack_backup import show

    common: Common = ctx.obj
    named = _stamp(dump)
    release = common.connect()
    console = common.console
    try:
        with show.transfer(console, f"dump {named}") as (shown, state):
            done = transfer.fetch(
                release, named, to, offsite, shown, state, lambda blocker: show.blocker(console, blocker)
            )
    except KeyboardInterrupt:
        raise CliError(
            Exit.INTERRUPTED,
            f"What has come is kept in {to} under a temporary name; the same command goes on from there.",
        ) from None
    if common.json:
        _print_json({"namespace": release.namespace, "exit": 0, **done.as_dict()})
    else:
        show.fetched(console, done)
    return 0


@_command("restore-table")
def restore_table(
    ctx: typer.Context,
    tables: Annotated[
        list[str],
        typer.Argument(
            metavar="TABLE...", help="Tables of the dump, such as viewer_note or public.viewer_note."
        ),
    ],
    dump: Dump = None,
    as_of: AsOf = None,
) -> int:
    """Bring tables of a dump back beside the live ones, into a schema of their own. Nothing is replaced."""
    common: Common = ctx.obj
    environment = {"TABLES": "\n".join(tables)}
    named = _named(dump, as_of)
    release = common.connect()
    if named is not None:
        environment["DUMP"] = named(release)
    return _run(common, release, "database-recovery", environment)


@_command()
def drill(
    ctx: typer.Context,
    dump: Dump = None,
) -> int:
    """Restore a dump into a temporary server and count it: proof that it can be restored, and how fast."""
    common: Common = ctx.obj
    environment = {} if dump is None else {"DUMP": _stamp(dump)}
    return _run(common, common.connect(), "database-drill", environment)


@_command()
def logs(
    ctx: typer.Context,
    job: Annotated[
        str, typer.Argument(help="Name of a job, such as postgres-backup-hourly; `status` lists them all.")
    ],
    previous: Annotated[bool, typer.Option("--previous", help="The run before the newest.")] = False,
    every: Annotated[bool, typer.Option("--all", help="Every run that is kept, oldest first.")] = False,
) -> int:
    """Show the log of a job's newest run, or what keeps that from starting."""
    from stack_backup import logs as job_logs
    from stack_backup import show

    common: Common = ctx.obj
    if previous and every:
        raise CliError(Exit.USAGE, "Give either --previous or --all.")
    release = common.connect()
    runs = job_logs.of_job(release, job, previous=previous, every=every)
    if common.json:
        _print_json({"namespace": release.namespace, "job": job, "runs": [run.as_dict() for run in runs]})
    else:
        for run in runs:
            show.log(_console(), run)
    return 0


def _run(common: Common, release: Release, job: str, environment: Mapping[str, str]) -> int:
    document = _follow(release, job, environment, common.console)
    if common.json:
        _print_json(document)
    return int(document["exit"])


def _follow(release: Release, job: str, environment: Mapping[str, str], console: Console) -> dict[str, Any]:
    """Run a job and show its log; the document of its end. Its verdict is shown where text is wanted."""
    from stack_backup import follow, show

    started = follow.start(release, job, environment)
    try:
        console.print(f"Job {started.name} in {release.namespace}", soft_wrap=True)
        with show.progress(console, job, started.usual) as state:
            end = started.follow(
                lambda line: console.print(Text(line), soft_wrap=True),
                state,
                lambda blocker: show.blocker(console, blocker),
            )
    except KeyboardInterrupt:
        raise CliError(
            Exit.INTERRUPTED, f"Job {started.name} in {release.namespace} keeps running without this command."
        ) from None
    except CliError as problem:
        raise CliError(
            problem.code, f"{problem} It was Job {started.name} in {release.namespace}."
        ) from problem
    code, sentence = follow.exit_code(end), follow.message(end, started.pods, started.blockers)
    if not console.stderr:
        show.verdict(console, release.namespace, started.name, end, code, sentence)
    return {
        "namespace": release.namespace,
        "job": job,
        "name": started.name,
        "exit": code,
        "reason": end.reason,
        "message": sentence,
        "seconds": end.seconds,
        "verdict": end.verdict,
        "blockers": [one.as_dict() for one in started.blockers],
    }


def _confirmed(namespace: str, what: str, confirm: str | None, dump: str | None = None, *, ask: bool) -> str:
    """The namespace, typed by a person or given as --confirm. Raises CliError."""
    if confirm is None:
        if not (ask and sys.stdin.isatty()):
            raise CliError(
                Exit.USAGE,
                f"This replaces the {what} of {namespace}. Confirm it with --confirm {namespace}. "
                "Nothing was started.",
            )
        source = f" with the dump {dump}" if dump else ""
        _console().print(f"The [bold]{what}[/] of [bold]{namespace}[/] will be replaced{source}.")
        confirm = typer.prompt("Type the namespace to continue", default="", show_default=False)
    if confirm != namespace:
        raise CliError(
            Exit.REFUSED,
            f"The confirmation is {confirm!r}, but the namespace is {namespace!r}. Nothing was started.",
        )
    return confirm


def _named(dump: str | None, as_of: str | None) -> Callable[[Release], str] | None:
    """What finds the dump that --dump or --as-of names; None: the release's value does. Raises CliError."""
    if dump is not None and as_of is not None:
        raise CliError(Exit.USAGE, "Give --dump or --as-of, not both. Nothing was started.")
    if dump is not None:
        stamp_of = _stamp(dump)
        return lambda _: stamp_of
    if as_of is None:
        return None
    moment = _moment(as_of)

    def find(release: Release) -> str:
        from stack_backup import points, show
        from stack_backup.runs import variables

        cronjob = release.cronjob("database-recovery")
        console = Console(stderr=True, highlight=False)
        found = points.of_release(
            release,
            lambda blocker: show.blocker(console, blocker),
            jobs={"database-recovery": cronjob},
            history=False,
        )
        own = variables(cronjob["spec"]["jobTemplate"]["spec"])
        return points.chosen(found.places, own, moment).time

    return find


def _moment(text: str) -> str:
    """A time as dumps have it in their names."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise CliError(
            Exit.USAGE,
            f"{text!r} is not a time; give one such as 2022-11-28T08:51:08Z or 2022-11-28. "
            "Nothing was started.",
        ) from None
    return stamp((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())


def _stamp(dump: str) -> str:
    """`latest` or a time; the whole name of a dump is taken, too."""
    if dump == "latest":
        return dump
    name = dump.rpartition("/")[2]
    with suppress(ValueError):
        return time_of(name) if NAME.fullmatch(name) else stamp(seconds_of(name))
    raise CliError(
        Exit.USAGE,
        f"{dump!r} is not a dump; give `latest` or a time such as 2022-11-28T08:51:08Z. Nothing was started.",
    )


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise CliError(Exit.USAGE, f"--set {text!r} is not of the form NAME=VALUE. Nothing was started.")
    return name, value


def _console() -> Console:
    return Console(highlight=False)


def _print_json(document: Mapping[str, Any]) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(list(arguments), prog_name="stack-backup", standalone_mode=False)
    except CliError as problem:
        return _fail(arguments, problem.code, str(problem))
    except typer.Abort:
        return _fail(arguments, Exit.INTERRUPTED, "Interrupted; nothing was started.")
    except typer.TyperException as error:
        return _fail(arguments, Exit.USAGE, _usage(error))
    return int(code or 0)


def _usage(error: typer.TyperException) -> str:
    """In one line, with the words that were wrong, and without the words of who found it."""
    say = getattr(error, "format_message", None)
    text = str(say() if say else error).replace("Value error, ", "")
    if find := getattr(error.__cause__, "errors", None):
        given = repr(find()[0]["input"])
        text = text.partition(", unable to")[0].replace("Input should be", f"{given} should be")
    return " ".join(text.split())


def _fail(arguments: Sequence[str], code: int, sentence: str) -> int:
    if sentence:  # without any argument, the help has said it all
        print(f"stack-backup: {sentence}", file=sys.stderr)
    if _wants_json(arguments):
        _print_json({"exit": int(code), "error": sentence})
    return int(code)


def _wants_json(arguments: Sequence[str]) -> bool:
    """Also where the arguments are so wrong that they could not be taken apart."""
    joined = " ".join(arguments)
    return re.search(r"(?:^| )(?:--output|-o)[ =]?json(?: |$)", joined) is not None
