"""The drill: it restores the newest verified dump, and is red when anything is not as it should be."""

from __future__ import annotations

import gzip
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import Exit, stamp
from stack_backup_lab.data import dataset
from stack_backup_lab.render import merge_values, render
from stack_backup_lab.runtime.local import LocalRuntime, LocalVolume, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.hourly import FOLDER, NAMESPACE, VALUES, Hourly, Sample
from tests.jobs.mutants import mutant
from tests.outcomes import green, red

JOB = "database-drill"
REPLICA = "media-copy"
UNTOUCHED = "the dumps and the live database are as they were"
DRILL: dict[str, Any] = {"databaseDrill": {"enabled": True, "scratch": {"size": "1Gi"}}}
# A folder of the stack stands for the mounted replica.
REFERENCING: dict[str, Any] = {"volumes": {"mediaReplica": {"existingClaim": REPLICA}}}

Lines = list[list[str]]


class Drill:
    """The drill of a stack, and the dumps that it may take."""

    def __init__(self, hourly: Hourly, sample: Sample) -> None:
        self.hourly = hourly
        self.sample = sample
        self.stack = hourly.stack
        self.install()

    def install(self, values: dict[str, Any] | None = None, **drill: Any) -> None:
        """Upgrade the release: `drill` are values of the drill, `values` any others."""
        self.hourly.install(merge_values(merge_values(DRILL, {"databaseDrill": drill}), values or {}))

    def start(self, environment: dict[str, str] | None = None, **injected: Any) -> RunningJob:
        return self.stack.start(JOB, Faults(**injected), environment)

    def run(self, environment: dict[str, str] | None = None, **injected: Any) -> JobResult:
        return self.stack.run(JOB, environment=environment, faults=Faults(**injected))

    def plant(
        self,
        change: Callable[[Lines], Lines] | None = None,
        sql: Callable[[str], str] | None = None,
        age: timedelta = timedelta(minutes=9),
    ) -> str:
        """A copy of the sample under a name of its own age, with another manifest or another content.

        `change` gets and gives the manifest's lines as fields; `sql` the dump's text. The manifest's sha256
        and size are those of the dump that is planted: only what it says of the content may be wrong.
        """
        dump = self.sample.dump
        if sql is not None:
            text = gzip.decompress(dump).decode()
            changed = sql(text)
            assert changed != text
            dump = gzip.compress(changed.encode(), 1)
        name = self.hourly.plant(
            age,
            dump=dump,
            sha256=hashlib.sha256(dump).hexdigest(),
            finished=stamp(time.time() - age.total_seconds() + 2),
        )
        if change is not None:
            path = self.hourly.manifest_path(name)
            lines = [line.split("\t") for line in self.hourly.volume.read(path).decode().splitlines()]
            text = "".join("\t".join(line) + "\n" for line in change(lines))
            self.hourly.volume.write(path, text.encode())
        return name


@pytest.fixture
def drill(hourly: Hourly, sample: Sample) -> Drill:
    return Drill(hourly, sample)


@pytest.fixture
def planted(drill: Drill) -> str:
    """A good dump of a few minutes ago."""
    return drill.plant()


def refused(result: JobResult, code: int, *words: str) -> None:
    """Red, and nothing is left of it."""
    red(result, code, *words, UNTOUCHED)


def proved(result: JobResult) -> JobResult:
    return green(result, "proved")


# ---- all is well ----


def test_a_good_dump_is_proved(drill: Drill, planted: str) -> None:
    result = proved(drill.run())
    manifest = drill.hourly.manifest(planted)
    verdict = dict(result.verdict)
    assert planted in verdict.pop("message")
    for key in ("seconds", "read_seconds", "load_seconds", "compare_seconds"):
        assert 0 <= verdict.pop(key) <= result.seconds + 1
    assert 500 < verdict.pop("age_seconds") < 700
    assert 500 < verdict.pop("data_loss_seconds") < 700
    assert 0 < verdict.pop("recovery_seconds") <= result.seconds + 1
    assert verdict == {
        "job": JOB,
        "exit": 0,
        "outcome": "proved",
        "dump": planted,
        "bytes": len(drill.hourly.read(planted)),
        "databases": 3,
        "tables": len(manifest["table"]),
        "rows": sum(int(count) for *_, count in manifest["table"]),
        "assertions": 0,
    }


# ---- budgets ----

WITHIN = {"budget": {"recoverySeconds": 600, "dataLossSeconds": 3600}}


@pytest.mark.usefixtures("planted")
def test_a_drill_within_its_budgets_is_green(drill: Drill) -> None:
    drill.install(**WITHIN)
    assert "budget_exceeded" not in proved(drill.run()).verdict


def test_a_drill_over_its_budgets_is_red_and_the_dump_is_proved(drill: Drill, planted: str) -> None:
    """Nothing restores a cluster in a second. The hour that is allowed is passed between two old dumps."""
    drill.plant(age=timedelta(hours=9))
    drill.plant(age=timedelta(hours=6, minutes=30))
    drill.plant(age=timedelta(minutes=50))
    drill.install(budget={"recoverySeconds": 1, "dataLossSeconds": 3600})
    result = drill.run()
    verdict = result.verdict
    assert (result.exit_code, verdict["exit"], verdict["outcome"]) == (Exit.BUDGET, Exit.BUDGET, "proved")
    assert verdict["dump"] == planted
    assert verdict["budget_exceeded"] == ["recoverySeconds", "dataLossSeconds"]
    assert verdict["recovery_seconds"] > 1
    # From 6 h 30 min ago until 50 minutes ago: longer than from 9 h, though that is the oldest.
    assert 5 * 3600 < verdict["data_loss_seconds"] < 6 * 3600
    for words in ("can be restored", "databaseDrill.budget.recoverySeconds is 1", "up to 20", "is 3600"):
        assert words in verdict["message"]


def test_what_differs_is_worse_than_any_budget(drill: Drill) -> None:
    drill.plant(lambda lines: [[*line[:3], "7"] if line[0] == "table" else line for line in lines])
    drill.install(budget={"recoverySeconds": 1, "dataLossSeconds": 60})
    refused(drill.run(), Exit.DATA, "differs from the manifest")


def test_the_manifest_has_every_sequence_as_the_server_has_it(drill: Drill, planted: str) -> None:
    with psycopg.connect(drill.stack.database.dsn("frag")) as connection:
        names = connection.execute("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'S'").fetchall()
        there = [
            connection.execute(
                f"SELECT 'public.{name}', last_value::text, left(is_called::text, 1) FROM {name}".encode()
            ).fetchone()
            for (name,) in names
        ]
    listed = [tuple(rest) for _, *rest in drill.hourly.manifest(planted)["sequence"]]
    assert set(listed) == set(there)
    assert {used for *_, used in listed} == {"t", "f"}


def test_a_manifest_of_an_older_release_says_nothing_of_sequences(drill: Drill) -> None:
    drill.plant(lambda lines: [line for line in lines if line[0] != "sequence"])
    proved(drill.run())


@pytest.mark.usefixtures("planted")
def test_the_drill_needs_no_server_of_the_stack_and_listens_nowhere(drill: Drill) -> None:
    drill.install(
        assertions={
            "private": "SELECT current_setting('listen_addresses') = '' AND inet_server_addr() IS NULL"
            " AND current_setting('unix_socket_directories') LIKE '/scratch/%'"
        }
    )
    # What would lead a client to the stack's server, if anything in the pod took it from there.
    elsewhere = {"PGHOST": "database", "PGHOSTADDR": "127.0.0.1", "PGPORT": "5432", "PGSERVICE": "stack"}
    with drill.stack.database.stopped():
        result = proved(drill.run(environment=elsewhere))
    assert result.verdict["assertions"] == 1


def test_the_pod_is_not_told_where_the_stacks_server_is_nor_its_password() -> None:
    cronjob = render(merge_values(VALUES, DRILL), namespace=NAMESPACE).get("CronJob", JOB)
    spec = cronjob["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    [container] = spec["containers"]
    names = {variable["name"] for variable in container["env"]}
    assert names.isdisjoint({"PGHOST", "PGPORT", "PASSWORD_FILE", "OWNER_PASSWORD_FILE"})
    assert not [volume for volume in spec["volumes"] if "secret" in volume]
    writable = {mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert writable == {"tmp", "scratch", "history"}


def test_the_newest_verified_dump_of_all_tiers_is_taken(drill: Drill, planted: str) -> None:
    """Newer ones that are unverified or suspicious are passed over; so is an older one."""
    drill.hourly.plant(timedelta(minutes=3), verified=False)
    drill.hourly.plant(timedelta(minutes=2), suspicious="yes")
    volume = drill.hourly.volume
    for path in (planted, f".manifest/{planted}.tsv"):
        volume.write(f"daily/{path}", volume.read(f"{FOLDER}/{path}"))
        volume.remove(f"{FOLDER}/{path}")
    drill.plant(age=timedelta(hours=2))
    assert proved(drill.run()).verdict["dump"] == planted


@pytest.mark.usefixtures("planted")
def test_a_named_dump_is_drilled_whatever_its_age(drill: Drill) -> None:
    old = drill.plant(age=timedelta(days=200))
    stamp = old.removeprefix("backup-").removesuffix("-dumpall.sql.gz")
    assert proved(drill.run(environment={"DUMP": stamp})).verdict["dump"] == old


def test_a_zstd_dump_is_proved(drill: Drill) -> None:
    drill.install(values={"postgresBackupHourly": {"compressor": "zstd"}})
    name = drill.hourly.backup()
    assert name.endswith(".zst")
    assert proved(drill.run()).verdict["dump"] == name


def test_large_objects_odd_databases_and_names_come_back(drill: Drill) -> None:
    names = ["Front End", 'it\'s \\ "quoted"', "tab\there", "a=b"]
    with psycopg.connect(drill.stack.database.dsn("postgres"), autocommit=True) as connection:
        for name in names:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            for name in names:
                script = (
                    'CREATE TABLE "T \\ x\'y" AS SELECT 1 AS one; CREATE SEQUENCE "s\'s \\ ""1""" START 7;'
                )
                with psycopg.connect(drill.stack.database.dsn(name)) as inside:
                    inside.execute(f"{script} SELECT lo_from_bytea(0, 'x')".encode())
            taken = drill.hourly.backup()
        finally:
            for name in names:
                connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
    assert len(drill.hourly.manifest(taken)["largeobject"]) == 5
    assert proved(drill.run()).verdict["databases"] == 7


@pytest.mark.usefixtures("planted")
def test_a_user_without_a_name_can_drill(drill: Drill) -> None:
    drill.install(values={"pod": {"runAsUser": 12345}})
    proved(drill.run())


def test_real_molecules_are_proved_and_nowhere_but_in_their_own_image(runtime: LocalRuntime) -> None:
    with runtime.stack(NAMESPACE) as stack:
        dataset.fill(stack.database, molecules=300)
        stack.install(VALUES)
        hourly = Hourly(stack, None)
        own = {"database": {"image": {"repository": "stack-database", "tag": "15"}}}
        hourly.install(merge_values(DRILL, own))
        hourly.backup()
        result = proved(stack.run(JOB))
        assert result.verdict["rows"] > 3000
        hourly.install(DRILL)
        refused(stack.run(JOB), 78, "the image lacks the extension rdkit", "database.image")


def test_postgresql_17_takes_its_own_dump_and_an_older_one_and_15_takes_none_of_17(
    runtime: LocalRuntime, sample: Sample
) -> None:
    with runtime.stack("staging-stack", "postgres:17") as stack:
        dataset.fill(stack.database, molecules=0)
        stack.install(VALUES)
        hourly = Hourly(stack, sample)
        newer = merge_values(DRILL, {"database": {"image": {"repository": "postgres", "tag": "17"}}})
        hourly.install(newer)
        name = hourly.backup()
        assert proved(stack.run(JOB)).verdict["dump"] == name
        hourly.install(DRILL)
        refused(stack.run(JOB), 78, "the dump is from PostgreSQL 17.", "the server is 15.")
        hourly.volume.clear()
        old = hourly.plant(timedelta(minutes=9))
        hourly.install(newer)
        assert proved(stack.run(JOB)).verdict["dump"] == old


# ---- what differs from the manifest ----


def more(key: str, *fields: str) -> Callable[[Lines], Lines]:
    return lambda lines: [*lines, [key, *fields]]


def other(key: str, name: str, field: int, value: str) -> Callable[[Lines], Lines]:
    """Another value in the line of this key and name."""

    def change(lines: Lines) -> Lines:
        [line] = [line for line in lines if line[0] == key and name in line]
        line[field] = value
        return lines

    return change


def without(key: str, name: str) -> Callable[[Lines], Lines]:
    return lambda lines: [line for line in lines if line[0] != key or name not in line]


CLAIMS: dict[Callable[[Lines], Lines], str] = {
    other(
        "table", "public.auth_group", 3, "9"
    ): "the table public.auth_group of frag: 3 rows instead of 9 rows",
    more("table", "frag", "public.more", "0"): "the table public.more of frag: missing",
    without("table", "public.auth_user"): "the table public.auth_user of frag: not in the manifest",
    more("sequence", "frag", "public.more", "1", "t"): "the sequence public.more of frag: missing",
    other(
        "sequence", "public.never_used", 3, "43"
    ): "public.never_used of frag: 42 (not given out yet) instead of 43",
    other(
        "sequence", "public.auth_user_id_seq", 4, "t"
    ): "public.auth_user_id_seq of frag: 100000 (not given out yet)",
    more("extension", "frag", "hstore", "1.8"): "the extension hstore of frag: missing",
    more("database", "more"): "the database more: missing",
    without("database", "template1"): "the database template1: not in the manifest",
    other("largeobject", "frag", 2, "99"): "the large objects of frag: 4 instead of 99",
}
"""What a manifest may claim that the dump does not hold, and what the drill says of it."""


def test_all_that_a_manifest_says_otherwise_is_named(drill: Drill) -> None:
    def change(lines: Lines) -> Lines:
        for claim in CLAIMS:
            lines = claim(lines)
        return lines

    name = drill.plant(change)
    result = drill.run()
    refused(result, 65, name, f"in {len(CLAIMS)} places")
    for words in CLAIMS.values():
        assert words in result.log


def test_one_row_less_than_the_manifest_says_is_enough(drill: Drill) -> None:
    drill.plant(other("table", "public.auth_group", 3, "4"))
    refused(drill.run(), 65, "in 1 place", "public.auth_group of frag: 3 rows instead of 4 rows")


def test_large_objects_that_the_manifest_does_not_know(drill: Drill) -> None:
    drill.plant(without("largeobject", "frag"))
    refused(drill.run(), 65, "in 1 place", "the large objects of frag: not in the manifest")


def test_a_dump_that_lacks_a_table(drill: Drill) -> None:
    """And all else that is said of it: a table without its definition cannot be loaded."""

    def cut(text: str) -> str:
        parts = text.split("\n--\n-- ")
        return "\n--\n-- ".join(part for part in parts if "viewer_columnless" not in part.split("\n")[0])

    drill.plant(sql=cut)
    refused(drill.run(), 65, "in 1 place", "the table public.viewer_columnless of frag: missing")


def test_rows_that_got_lost(drill: Drill) -> None:
    drill.plant(sql=lambda text: re.sub(r"(COPY public.viewer_booking .*\n).*\n", r"\1", text))
    refused(drill.run(), 65, "the table public.viewer_booking of frag:", "rows instead of")


def test_a_dump_that_ends_early_though_its_manifest_agrees(drill: Drill) -> None:
    """Cut off within a table's rows it would load without an error."""

    def cut(text: str) -> str:
        return text[: text.index("\n", text.index("COPY public.viewer_text")) + 50_000]

    drill.plant(sql=cut)
    refused(drill.run(), 65, "is cut off: its text ends before its last line")


def before_the_tables(statement: str) -> Callable[[str], str]:
    """A dump that has this statement, too."""
    first = "\nCREATE TABLE public.auth_group ("
    return lambda text: text.replace(first, f"\n{statement}{first}", 1)


def test_a_statement_that_the_server_refuses_is_named(drill: Drill) -> None:
    drill.plant(sql=before_the_tables("CREATE SCHEMA oops; CREATE SCHEMA oops;"))
    refused(drill.run(), 65, "could not be loaded", 'schema "oops" already exists (42P06)')


def test_no_row_of_the_data_is_in_the_log_of_a_failed_load(drill: Drill) -> None:
    drill.plant(sql=lambda text: re.sub(r"(COPY public.auth_group .*\n)", r"\1secret\tsecret\n", text))
    result = drill.run()
    refused(result, 65, "could not be loaded: TABLE DATA public.auth_group", "invalid input syntax")
    assert "CONTEXT" not in result.log


@pytest.mark.usefixtures("planted")
def test_the_database_of_the_application_must_be_there(drill: Drill) -> None:
    refused(drill.run(environment={"DATABASE_NAME": "frog"}), 66, "holds no database frog")


# ---- which dump ----


def test_no_dump(drill: Drill) -> None:
    refused(drill.run(), 66, "no verified dump")


def test_suspicious_and_unverified_dumps_are_no_dumps(drill: Drill) -> None:
    drill.hourly.plant(timedelta(minutes=3), verified=False)
    drill.hourly.plant(timedelta(minutes=2), suspicious="yes")
    refused(drill.run(), 66, "no verified dump")


def test_a_stale_dump(drill: Drill) -> None:
    name = drill.plant(age=timedelta(hours=4))
    refused(drill.run(), 65, name, "240 minutes old", "(maximum: 180)")


@pytest.mark.parametrize(
    ("dump", "code", "words"),
    [
        ("2022-11-28T08:51:08Z", 66, "no dump of 2022-11-28T08:51:08Z"),
        ("yesterday", 64, "must be latest or the time"),
        ("../daily", 64, "must be latest or the time"),
    ],
)
@pytest.mark.usefixtures("planted")
def test_a_named_dump_that_is_not_there(drill: Drill, dump: str, code: int, words: str) -> None:
    refused(drill.run(environment={"DUMP": dump}), code, words)


@pytest.mark.usefixtures("planted")
def test_a_named_dump_without_a_manifest(drill: Drill) -> None:
    name = drill.hourly.plant(timedelta(hours=1), verified=False)
    stamp = name.removeprefix("backup-").removesuffix("-dumpall.sql.gz")
    refused(drill.run(environment={"DUMP": stamp}), 66, name, "no manifest")


def test_one_byte_is_another(drill: Drill, planted: str) -> None:
    data = bytearray(drill.hourly.read(planted))
    data[len(data) // 2] ^= 1
    drill.hourly.volume.write(f"{FOLDER}/{planted}", bytes(data))
    refused(drill.run(), 65, planted, "sha256 differs")


def test_a_dump_that_was_cut_off_is_no_verified_one(drill: Drill, planted: str) -> None:
    drill.hourly.volume.write(f"{FOLDER}/{planted}", drill.hourly.read(planted)[:-1])
    refused(drill.run(), 66, "no verified dump")


def test_a_file_that_is_no_gzip_though_its_manifest_agrees(drill: Drill) -> None:
    data = drill.sample.dump[:-1000]
    drill.hourly.plant(timedelta(minutes=9), dump=data, sha256=hashlib.sha256(data).hexdigest())
    refused(drill.run(), 65, "cannot be unpacked")


# ---- image and space ----


def test_an_extension_that_the_image_lacks(drill: Drill) -> None:
    name = drill.plant(more("extension", "frag", "unheard", "1.0"))
    refused(drill.run(), 78, "lacks the extension unheard", name)


def test_an_extension_of_another_version(drill: Drill) -> None:
    drill.plant(more("extension", "frag", "hstore", "9.9"))
    refused(drill.run(), 78, "of the extension hstore", "has 9.9")


def test_an_extension_that_only_the_dump_knows(drill: Drill) -> None:
    drill.plant(sql=before_the_tables("CREATE EXTENSION unheard;"))
    refused(drill.run(), 78, "could not be loaded", "unheard")


@pytest.mark.usefixtures("planted")
def test_scratch_space_that_is_too_small(drill: Drill) -> None:
    drill.install(scratch={"size": "120Mi"})  # the least that the chart takes
    refused(drill.run(), 73, "scratch space", "databaseDrill.scratch.size")


def test_scratch_space_that_is_full_in_the_end(drill: Drill) -> None:
    """The estimate may be wrong."""
    drill.install(scratch={"size": "320Mi"})
    big = "CREATE TABLE public.big AS SELECT repeat('x', 1900) FROM generate_series(1, 200000);"
    drill.plant(sql=before_the_tables(big))
    refused(drill.run(), 73, "scratch.size")


# ---- assertions ----


@pytest.mark.usefixtures("planted")
def test_assertions_that_hold_and_others(drill: Drill) -> None:
    drill.install(
        assertions={
            "users": "SELECT count(*) > 1 FROM auth_user",
            "no-users": "SELECT count(*) = 0 FROM auth_user",
            "number": "SELECT 1",
            "nothing": "SELECT true WHERE false",
            "two": "SELECT true UNION ALL SELECT true",
            "mistake": "SELECT true FROM no_such_table",
            "statistics": "SELECT reltuples > 0 FROM pg_class WHERE relname = 'auth_user'",
        }
    )
    result = drill.run()
    refused(result, 65, "These assertions do not hold: mistake, no-users, nothing, number, two.")
    assert result.verdict["assertions"] == 7
    assert "The assertion users holds." in result.log
    assert 'relation "no_such_table" does not exist' in result.log


# ---- the media that the database names ----


@pytest.fixture
def media(drill: Drill) -> Iterator[LocalVolume]:
    """The replica of the media, with some files of awkward names."""
    if REPLICA not in drill.stack._claims:
        drill.stack.add_claim(REPLICA)
    volume = drill.stack.volume(REPLICA)
    for path in ("a b/ c", "né/e\u0301", "-rf", "two\nlines", "'\"`$"):
        volume.write(path, b"x")
    yield volume
    volume.clear()


def naming(*paths: str) -> dict[str, str]:
    """A query that returns these paths."""
    literals = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    return {"references": f"SELECT unnest(ARRAY[{literals}, NULL, ''])"}


PATHS = ("a b/ c", "né/e\u0301", "-rf", "two\nlines", "'\"`$")


@pytest.mark.usefixtures("planted", "media")
def test_every_file_that_the_database_names_is_there(drill: Drill) -> None:
    drill.install(values=REFERENCING, **naming(*PATHS))
    verdict = proved(drill.run()).verdict
    assert (verdict["references"], verdict["missing"]) == (5, 0)


@pytest.mark.usefixtures("planted")
def test_files_that_are_missing_are_named(drill: Drill, media: LocalVolume) -> None:
    media.write(".stack-backup/state", b"format\t1\nstatus\tcomplete\ncompleted\t2022-11-28T02:40:00Z\n")
    drill.install(values=REFERENCING, **naming(*PATHS, "né/é", "a b/c", *(f"gone {n}" for n in range(120))))
    result = drill.run()
    refused(result, 65, "122 of 127 media files", "missing")
    assert (result.verdict["references"], result.verdict["missing"]) == (127, 122)
    assert "last complete mirror is of 2022-11-28T02:40:00Z" in result.verdict["message"]
    assert "Missing in the replica of the media: a b/c\n" in result.log
    assert result.log.count("Missing in the replica") == 100


@pytest.mark.usefixtures("planted", "media")
def test_paths_that_lead_out_of_the_replica(drill: Drill) -> None:
    drill.install(values=REFERENCING, **naming("-rf", "/etc/passwd", "a b/../-rf", "..", "a..b"))
    result = drill.run()
    refused(result, 65, "3 of 5 paths", "lead out", "1 of 5 media files")
    assert "No path within the replica: /etc/passwd" in result.log


@pytest.mark.usefixtures("planted", "media")
def test_a_query_for_references_that_fails(drill: Drill) -> None:
    drill.install(values=REFERENCING, references="SELECT path FROM nowhere")
    refused(drill.run(), 65, 'relation "nowhere" does not exist')


@pytest.mark.usefixtures("media")
def test_all_that_is_wrong_is_said_at_once(drill: Drill) -> None:
    drill.plant(more("table", "frag", "public.more", "0"))
    drill.install(values=REFERENCING, assertions={"never": "SELECT false"}, **naming("gone"))
    refused(drill.run(), 65, "public.more", "never", "1 of 1 media files")


# ---- ends from outside ----

PACKAGE = "stack_backup_jobs"
SPAWN = "subprocess.Popen"
POINTS = {
    "initdb": faults.hold_python(SPAWN, "path.endswith('initdb')"),
    "the start": faults.hold_python(f"{PACKAGE}.private_server:PrivateServer._await"),
    "the reading": faults.hold_python(f"{PACKAGE}.reader:read"),
    "amid the load": faults.hold_python(f"{PACKAGE}.session:Session.copy_in", "b'viewer_text' in args[0]"),
    "the counting": faults.hold_python(f"{PACKAGE}.compare:found"),
}


@pytest.mark.usefixtures("planted")
def test_the_deadline_ends_a_load_that_hangs(drill: Drill) -> None:
    result = drill.run(environment={"DEADLINE_SECONDS": "124"}, python=POINTS["amid the load"])
    refused(result, 124, "within 4 s")


@pytest.mark.usefixtures("planted")
def test_progress_is_in_the_log(drill: Drill) -> None:
    quick = faults.patch_python(f"{PACKAGE}.run", "TICK = 0.2")
    slow = faults.patch_python(
        f"{PACKAGE}.pack",
        """
import time
real = Unpacker.chunks
def slowly(self, *place, **how):
    for chunk in real(self, *place, **how):
        time.sleep(0.05)
        yield chunk
Unpacker.chunks = slowly
""",
    )
    log = proved(drill.run(python=quick + slow)).log
    assert re.search(r" \d+ s, \d+ MiB of text read\n", log), log
    assert re.search(r" \d+ s, \d+ MiB of rows loaded\n", log), log


# ---- without one safeguard ----

MUTANTS: dict[str, tuple[str, str, str, Callable[[Drill], None]]] = {
    "nothing is compared": (
        "drill.py",
        "wrong += restore.differences(part, held)",
        "wrong += []",
        test_rows_that_got_lost,
    ),
    "the server's errors are passed over": (
        "loader.py",
        "self._refused(session, statement, error)",
        "pass",
        test_a_statement_that_the_server_refuses_is_named,
    ),
    "any age will do": ("drill.py", "dump.age > settings.maximum_age_seconds", "False", test_a_stale_dump),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(drill: Drill, tmp_path: Path, name: str) -> None:
    file, safeguard, instead, test = MUTANTS[name]
    chart = mutant(tmp_path, f"{PACKAGE}/{file}", safeguard, instead)
    drill.stack.apply(render(merge_values(VALUES, DRILL), namespace=NAMESPACE, chart=chart))
    with pytest.raises(AssertionError):
        test(drill)
