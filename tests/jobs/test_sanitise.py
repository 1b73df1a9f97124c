"""The sanitised replica: what SQL of the values removes from a copy is in no byte that left."""

from __future__ import annotations

import gzip
import hashlib
import signal
from typing import Any

import pytest

from stack_backup.runs import JobResult
from stack_backup_jobs.sanitise import options_of_the_dump
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import USER, LocalStack, LocalVolume
from stack_backup_lab.runtime.pod import Faults
from tests.jobs import faults
from tests.jobs.chain import Chain, ask, names, value
from tests.jobs.dumps import DumpFolder
from tests.outcomes import green, red

JOB = "postgres-replicator-backup"
CANARY = b"canary"
SANITISED: dict[str, Any] = {
    "postgresReplicatorBackup": {"sanitise": {"enabled": True, "scratch": {"size": "2Gi"}}}
}
# Tables as Django and the apps beside it make them; what the chart's SQL does not name is there to stay.
SCHEMA = """
CREATE TABLE auth_user (
    id serial PRIMARY KEY, password varchar(128) NOT NULL, last_login timestamptz,
    is_superuser boolean NOT NULL, username varchar(150) NOT NULL UNIQUE, first_name varchar(150) NOT NULL,
    last_name varchar(150) NOT NULL, email varchar(254) NOT NULL,
    is_staff boolean NOT NULL, date_joined timestamptz NOT NULL);
CREATE TABLE django_session (session_key varchar(40) PRIMARY KEY, session_data text, expire_date timestamptz);
CREATE TABLE django_admin_log (
    id serial PRIMARY KEY, object_repr varchar(200), change_message text,
    user_id integer NOT NULL REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE authtoken_token (
    key varchar(40) PRIMARY KEY, user_id integer REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE social_auth_usersocialauth (
    id serial PRIMARY KEY, uid text, extra_data jsonb,
    user_id integer REFERENCES auth_user DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE account_emailaddress (
    id serial PRIMARY KEY, email varchar(254), user_id integer REFERENCES auth_user);
CREATE TABLE account_emailconfirmation (
    id serial PRIMARY KEY, key varchar(64), email_address_id integer REFERENCES account_emailaddress);
CREATE TABLE viewer_csetkeys ("user" varchar(50), uuid uuid PRIMARY KEY);
CREATE TABLE viewer_computedsetsubmitter (
    id serial PRIMARY KEY, name varchar(50), email varchar(100), institution varchar(50), method varchar(50),
    UNIQUE (name, method), UNIQUE (email, method));
CREATE TABLE viewer_target (
    id serial PRIMARY KEY, title text, "contact e_mail" text, "contact_Email" text,
    uploader integer REFERENCES auth_user);
CREATE TABLE changes (at timestamptz DEFAULT now(), row text);
CREATE FUNCTION log() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN INSERT INTO changes (row) VALUES (OLD::text); RETURN NEW; END';
CREATE MATERIALIZED VIEW people AS SELECT username, email FROM auth_user;

INSERT INTO auth_user
    (password, last_login, is_superuser, username, first_name, last_name, email, is_staff, date_joined)
    SELECT 'pbkdf2_sha256$canary$' || n, now(), n = 1, 'canary-' || n, 'Canary', 'O''Canary',
        'Canary.' || n || '@example.org', false, now() FROM generate_series(1, 200) n;
INSERT INTO auth_user (password, is_superuser, username, first_name, last_name, email, is_staff, date_joined)
    VALUES ('!', false, 'AnonymousUser', '', '', '', false, now());
INSERT INTO django_session SELECT 'canary' || n, 'canary', now() FROM generate_series(1, 100) n;
INSERT INTO django_admin_log (object_repr, change_message, user_id) VALUES ('canary', 'canary', 1);
INSERT INTO authtoken_token VALUES ('canary', 1);
INSERT INTO social_auth_usersocialauth (uid, extra_data, user_id)
    VALUES ('canary', '{"access_token": "canary"}', 2);
INSERT INTO account_emailaddress (email, user_id) VALUES ('canary@example.org', 1);
INSERT INTO account_emailconfirmation (key, email_address_id) VALUES ('canary', 1);
INSERT INTO viewer_csetkeys VALUES ('canary@example.org', gen_random_uuid());
INSERT INTO viewer_computedsetsubmitter (name, email, institution, method)
    VALUES ('Canary', 'canary@example.org', 'Canary', 'a'), ('Canary', 'canary@example.org', 'Canary', 'b');
INSERT INTO viewer_target (title, "contact e_mail", "contact_Email", uploader)
    SELECT 'Mpro ' || n, 'canary@example.org', NULL, 1 FROM generate_series(1, 300) n;
CREATE TRIGGER log BEFORE UPDATE ON auth_user FOR EACH ROW EXECUTE FUNCTION log();
REFRESH MATERIALIZED VIEW people;
COMMENT ON TABLE auth_user IS 'ask canary';
CREATE EXTENSION postgres_fdw;
CREATE SERVER elsewhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'elsewhere.example.org');
CREATE USER MAPPING FOR PUBLIC SERVER elsewhere OPTIONS (user 'x', password 'canary');
CREATE USER MAPPING FOR fragalysis SERVER elsewhere OPTIONS (user 'x', password 'canary');
CREATE SUBSCRIPTION abroad CONNECTION 'host=elsewhere.example.org password=canary' PUBLICATION all_of_it
    WITH (connect = false);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO fragalysis;
ANALYZE;
"""
ELSEWHERE = "CREATE TABLE other (text text); INSERT INTO other VALUES ('canary')"


@pytest.fixture
def chain(stacks: tuple[LocalStack, LocalStack]) -> Chain:
    """Production has canaries wherever a dump could carry them, a first dump, and a sanitised replica."""
    chain = Chain(*stacks)
    database = chain.production.database
    database.execute(SCHEMA, "frag")
    for command in (
        "DROP DATABASE IF EXISTS elsewhere",
        "DROP ROLE IF EXISTS reader",
        "CREATE DATABASE elsewhere",
        "CREATE ROLE reader LOGIN PASSWORD 'canary'",
        "COMMENT ON ROLE reader IS 'canary'",
    ):
        database.execute(command)
    database.execute(ELSEWHERE, "elsewhere")
    chain.install(SANITISED)
    green(chain.backup())
    clear(chain)
    return chain


def clear(chain: Chain) -> None:
    """The replica without what `Chain.backup` puts there."""
    for name in chain.replica.list():
        chain.replica.remove(name)


def replicate(chain: Chain, **injected: Any) -> JobResult:
    return chain.production.run(JOB, faults=Faults(**injected))


def folder(chain: Chain) -> DumpFolder:
    return DumpFolder(chain.replica, "hourly", None)


def bytes_of(volume: LocalVolume) -> dict[str, bytes]:
    """Every file of a volume, under its name; of dumps what they hold, too."""
    files = {
        str(path.relative_to(volume.path)): path.read_bytes()
        for path in volume.path.rglob("*")
        if path.is_file()
    }
    return files | {
        f"{name}, unpacked": gzip.decompress(data) for name, data in files.items() if name.endswith(".gz")
    }


def tell(volume: LocalVolume) -> list[str]:
    """Which files of a volume hold a canary, in their names, too."""
    return [
        name
        for name, data in bytes_of(volume).items()
        if CANARY in data.lower() or CANARY in name.encode().lower()
    ]


def verifiers(stack: LocalStack) -> list[bytes]:
    rows = ask(stack, "SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL", "postgres")
    return [str(verifier).encode() for (verifier,) in rows]


# ---- what leaves ----


def test_no_canary_is_in_a_byte_that_left(chain: Chain) -> None:
    assert len(tell(chain.volume)) == 1, "the search finds them in production's own dump"
    passwords = verifiers(chain.production)
    assert len(passwords) >= 3
    text = gzip.decompress(chain.volume.read(f"hourly/{chain.dump}"))
    assert all(verifier in text for verifier in passwords)

    result = green(replicate(chain), "published")
    assert folder(chain).dumps() == folder(chain).verified() == [chain.dump]
    assert tell(chain.replica) == []
    left = b"".join(bytes_of(chain.replica).values())
    assert [verifier for verifier in passwords if verifier in left] == []
    assert b"SCRAM-SHA-256" not in left
    assert (b"SUBSCRIPTION" in text, b"SUBSCRIPTION" in left) == (True, False)
    assert (b"elsewhere;" in text, b"connect elsewhere" in left) == (True, False)
    assert result.verdict["sanitised_by"] == ["fragalysis"]
    assert result.verdict["dump"] == chain.dump
    assert CANARY not in result.log.lower().encode()


def test_the_manifest_is_of_the_sanitised_dump_and_of_productions_server(chain: Chain) -> None:
    result = green(replicate(chain))
    ours, theirs = (
        folder(chain).manifest(chain.dump),
        DumpFolder(chain.volume, "hourly", None).manifest(chain.dump),
    )
    for key in ("name", "started", "namespace", "system_identifier", "server_version", "compressor"):
        assert ours[key] == theirs[key], key
    dump = folder(chain).read(chain.dump)
    assert ours["sanitised"] == [["yes"]]
    assert "sanitised" not in theirs
    assert ours["bytes"] == [[str(len(dump))]] == [[str(result.verdict["bytes"])]]
    assert ours["sha256"] == [[hashlib.sha256(dump).hexdigest()]]
    rows = {name: int(count) for _, name, count in ours["table"]}
    assert (rows["public.auth_user"], rows["public.django_session"], rows["public.viewer_target"]) == (
        201,
        0,
        300,
    )
    assert {name for name, *_ in ours["table"]} == {"frag"}
    assert [name for name, _ in ours["size"]] == ["frag", "postgres", "template1"]


def test_staging_recovers_from_it_and_keeps_its_own_passwords(chain: Chain) -> None:
    green(replicate(chain))
    result = green(chain.recover())
    assert result.verdict["dump"] == chain.dump
    assert "The dump is sanitised" in result.verdict["message"]
    staging = chain.staging
    assert value(staging, "SELECT count(*) FROM auth_user", user=USER) == 201, "the owner logs in"
    assert value(staging, "SELECT count(*) FROM viewer_target JOIN auth_user u ON u.id = uploader") == 300
    assert (
        value(staging, "SELECT count(DISTINCT username) FROM auth_user WHERE username ~ '^user-[0-9]+$'")
        == 201
    )
    assert (
        value(
            staging, "SELECT count(DISTINCT email) FROM auth_user WHERE email ~ '^mail-.*@example.invalid$'"
        )
        == 200
    )
    assert value(staging, "SELECT count(*) FROM auth_user WHERE email = ''") == 1
    assert value(staging, "SELECT count(DISTINCT password) FROM auth_user WHERE password ~ '^!.{40}$'") == 201
    assert value(staging, 'SELECT count(DISTINCT "contact e_mail") FROM viewer_target') == 1
    assert value(staging, "SELECT count(*) FROM people WHERE email LIKE 'mail-%'") == 200
    assert value(staging, "SELECT count(DISTINCT email) FROM viewer_computedsetsubmitter") == 1
    gone = (
        "django_session",
        "authtoken_token",
        "social_auth_usersocialauth",
        "account_emailaddress",
        "viewer_csetkeys",
    )
    for table in (*gone, "django_admin_log", "account_emailconfirmation", "changes"):
        assert value(staging, f"SELECT count(*) FROM {table}") == 0, table
    assert value(staging, "SELECT tgenabled FROM pg_trigger WHERE tgname = 'log'") == "O"


def test_a_stack_that_takes_sanitised_dumps_alone_refuses_every_other(chain: Chain) -> None:
    before = names(chain.staging)
    for path in (chain.dump, f".manifest/{chain.dump}.tsv"):
        chain.replica.write(f"hourly/{path}", chain.volume.read(f"hourly/{path}"))
    for asked in ({}, {"dump": chain.stamp}, {"tables": "viewer_target"}):
        result = chain.recover(sanitised_only="true", **asked)
        said = ("databaseRecovery.sanitisedOnly", "The live database is as it was")
        red(result, 77, f"{chain.dump} is not to come here", *said)
    assert names(chain.staging) == before
    green(replicate(chain), "published")
    green(chain.recover(sanitised_only="true"), "recovered")


def test_what_lacks_these_tables_is_sanitised_by_further_sql_in_its_order(chain: Chain) -> None:
    further = {"b-second": "UPDATE t SET x = x || '2'", "a-first": "UPDATE t SET x = '1'; ANALYZE t"}
    values = merge_values(SANITISED, {"postgresReplicatorBackup": {"sanitise": {"sql": further}}})
    chain = Chain(chain.production, chain.staging)
    chain.production.database.execute("CREATE TABLE t AS SELECT 'canary' AS x", "frag")
    chain.install(values)
    green(chain.backup())
    clear(chain)
    result = green(replicate(chain))
    assert result.verdict["sanitised_by"] == ["fragalysis", "a-first", "b-second"]
    assert tell(chain.replica) == []
    green(chain.recover())
    assert value(chain.staging, "SELECT x FROM t") == "12"


def test_the_planners_samples_stay_where_a_dump_could_have_them() -> None:
    assert "--no-statistics" in options_of_the_dump(18)
    assert "--no-statistics" not in options_of_the_dump(17), "which does not know it"


# ---- what nobody may take any more ----


def test_dumps_that_are_not_sanitised_are_removed_as_soon_as_one_is(chain: Chain) -> None:
    """However few there are, and however young: the same dump among them, under the same name."""
    first = chain.dump
    for _ in range(2):
        green(chain.backup())
    older = folder(chain).dumps()
    assert len(older) == 2
    chain.replica.write(f"hourly/{first}", b"of an older tool, without a manifest")
    result = green(replicate(chain), "published")
    assert folder(chain).dumps() == folder(chain).verified() == [chain.dump]
    assert result.verdict["unsanitised_removed"] == 2
    assert tell(chain.replica) == []


def test_a_second_run_has_nothing_to_do_and_a_damaged_copy_is_found(chain: Chain) -> None:
    green(replicate(chain), "published")
    with folder(chain).unharmed():
        green(replicate(chain), "present")
    path = f"hourly/{chain.dump}"
    data = chain.replica.read(path)
    chain.replica.write(path, data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    with folder(chain).unharmed():
        red(replicate(chain), 65, chain.dump, "sha256 differs")


def test_switched_off_the_next_dump_is_copied_as_it_is(chain: Chain) -> None:
    green(replicate(chain), "published")
    chain.install()
    with folder(chain).unharmed():
        result = green(replicate(chain), "present")
    assert "sanitised" in result.verdict["message"]


# ---- what fails ----


def with_sql(chain: Chain, sql: str) -> None:
    further = {"mine": sql}
    chain.install(merge_values(SANITISED, {"postgresReplicatorBackup": {"sanitise": {"sql": further}}}))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE no_such_table SET x = 1", "no_such_table"),
        ("DELETE FROM auth_user", "foreign key"),
        ("UPDATE viewer_target SET title = ''; SELECT 1 / 0", "division by zero"),
    ],
)
def test_sql_that_fails_lets_nothing_leave(chain: Chain, sql: str, said: str) -> None:
    green(chain.backup())
    with_sql(chain, sql)
    with folder(chain).unharmed():
        result = replicate(chain)
    red(result, 78, "The SQL mine failed", said, "Nothing was published", "1 of them not sanitised")


def test_told_to_stop_as_it_dumps(chain: Chain) -> None:
    with folder(chain).unharmed():
        hold = faults.hold_python("stack_backup_jobs.pack:Packer.write", "True")
        with chain.production.start(JOB, Faults(python=hold)) as job:
            job.reached("reached")
            job.signal(signal.SIGTERM)
            result = job.wait()
    red(result, 143, "Nothing was published")
    assert folder(chain).others() == []


def test_a_copy_that_shrank_pushes_out_no_good_one(chain: Chain) -> None:
    green(replicate(chain), "published")
    kept = chain.dump
    data = {path: chain.replica.read(f"hourly/{path}") for path in (kept, f".manifest/{kept}.tsv")}
    green(chain.backup())
    clear(chain)
    for path, content in data.items():
        chain.replica.write(f"hourly/{path}", content)
    with_sql(
        chain,
        "DROP TABLE viewer_target, changes, viewer_csetkeys, authtoken_token; DELETE FROM django_session; "
        "DROP TABLE social_auth_usersocialauth, account_emailconfirmation, viewer_computedsetsubmitter",
    )
    with folder(chain).unharmed():
        red(replicate(chain), 65, "shrank", "not published")


def test_a_scratch_space_that_is_too_small(chain: Chain) -> None:
    values = {
        "postgresReplicatorBackup": {"sanitise": {"scratch": {"size": "100Mi"}}},
        "postgresBackupHourly": {"dumpSize": "10Mi"},
    }
    chain.install(merge_values(SANITISED, values))
    with folder(chain).unharmed():
        red(replicate(chain), 73, "scratch space", "postgresReplicatorBackup.sanitise.scratch.size")
