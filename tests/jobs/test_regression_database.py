"""PostgreSQL's own regression database, which has objects of nearly every kind in the states that the
server's makers have thought of: dump, drill and recovery bring it back the same.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stack_backup_lab.runtime.local import USER, LocalRuntime, LocalStack
from stack_backup_lab.runtime.postgres import SOCKETS, SUPERUSER
from tests.jobs.chain import STAGING_NAMESPACE, Chain
from tests.outcomes import green
from tests.render import contract

IMAGE = "postgres-regress:15"
DATABASE, REFERENCE = "regression", "reference"
# Some tests fail, for they are not of this server's minor version: what they make counts, not what they say.
MAKE = f"""
libraries=$(pg_config --pkglibdir)
tests=$libraries/pgxs/src/test/regress
cp -R "$tests" /exchange/regress
cd /exchange/regress
sed -E -i "$1" sql/*.sql
timeout --signal=KILL 300 ./pg_regress --bindir= --dlpath="$libraries" --inputdir="$PWD" --outputdir="$PWD" \\
  --schedule=parallel_schedule --max-concurrent-tests=20 \\
  --host={SOCKETS} --port=5432 --user={SUPERUSER} --dbname={DATABASE} >said 2>&1
echo "$?"
tail --lines=12 said
rm -r "$PWD"
"""
# Most tests take away what they have made. Without these lines they leave it, and more kinds of objects stay.
LEAVE = "/^DROP (SCHEMA|OWNED BY|FOREIGN DATA WRAPPER|PUBLICATION|ROLE|USER) .*;/Id"
# What stays then, and pg_dump itself cannot bring back: options that were given before there was a validator,
# which refuses them; an index of a tree of partitions by a function that refuses all but the owner; views
# that the server shows in other words when they were made of what it has shown.
LEFT = """
DROP FOREIGN DATA WRAPPER foo CASCADE; DROP TABLE sro_ptab CASCADE;
DROP VIEW testviewschm2.pubview, testviewschm2.tt22v
"""
# The way that everybody knows.
LOAD = f"""
set -o pipefail
createdb --template=template0 {REFERENCE}
pg_dump {DATABASE} | psql --no-psqlrc --quiet --set=ON_ERROR_STOP=1 --output=/dev/null {REFERENCE}
"""


@pytest.fixture(params=["", LEAVE], ids=["as it is", "with all that its tests make"])
def chain(runtime: LocalRuntime, request: pytest.FixtureRequest) -> Iterator[Chain]:
    with (
        runtime.stack(contract.NAMESPACE, IMAGE) as production,
        runtime.stack(STAGING_NAMESPACE, IMAGE) as staging,
    ):
        chain = Chain(production, staging)
        server = production.database
        code, _, said = server.output("bash", "-c", MAKE, "make", request.param).decode().partition("\n")
        assert code in ("0", "1"), said  # all tests have run
        server.execute(f"ALTER DATABASE {DATABASE} OWNER TO {USER}")
        if request.param:
            server.execute(LEFT, DATABASE)
        yield chain


def written(stack: LocalStack, *command: str) -> str:
    """What pg_dump or pg_dumpall writes, without the words that it makes up."""
    text = stack.database.output(*command).decode()
    return re.sub(r"^\\(un)?restrict .*\n", "", text, flags=re.MULTILINE)


_ROWS = re.compile(r"^COPY (\S+) (?:\((.*)\))? FROM stdin;\n((?:.*\n)*?)\\\.\n", re.MULTILINE)
_TABLE = re.compile(r"^(CREATE TABLE .* \(\n)((?:    .*\n)*)\)", re.MULTILINE)


def block(table: str, columns: str, rows: list[str]) -> str:
    """Rows of a table, as pg_dump writes them but for their end; a table may have no columns."""
    return "\n".join([f"COPY {table} ({columns}) FROM stdin;", *rows, "\\.", ""])


def rows_in_any_order(text: str) -> str:
    """The server puts a row where it finds room: its place is nothing of the table's."""
    return _ROWS.sub(lambda found: block(found[1], found[2] or "", sorted(found[3].splitlines())), text)


def columns_in_any_order(text: str) -> str:
    """pg_dump gives a table that inherits the columns of its parents first, wherever they were before."""

    def rows(found: re.Match[str]) -> str:
        names = (found[2] or "").split(", ")
        order = sorted(range(len(names)), key=names.__getitem__)
        fields = (row.split("\t") for row in found[3].splitlines())
        return block(found[1], ", ".join(sorted(names)), ["\t".join(row[n] for n in order) for row in fields])

    def table(found: re.Match[str]) -> str:
        return found[1] + "\n".join(sorted(re.split(r",?\n", found[2]))) + "\n)"

    return _TABLE.sub(table, _ROWS.sub(rows, text))


def assert_same(one: str, other: str) -> None:
    if one != other:
        found = list(difflib.unified_diff(one.splitlines(), other.splitlines(), lineterm="", n=1))
        pytest.fail("\n".join(line[:200] for line in found[:60]))


def without_logins(stack: LocalStack) -> str:
    """The roles; memberships are granted by the superuser who made them."""
    text = written(stack, "pg_dumpall", "--roles-only", "--no-role-passwords")
    text = re.sub(r'(ROLE "?regress_.* )LOGIN ', r"\1NOLOGIN ", text)
    return re.sub(r" GRANTED BY \S+;", ";", text)


def test_it_comes_back_the_same(chain: Chain) -> None:
    """As it was; to the order of columns, as the way that everybody knows brings it back; and with its roles,
    but for their logins.
    """
    chain.install(
        {"database": {"name": DATABASE}, "databaseDrill": {"jobs": 1}, "databaseRecovery": {"jobs": 2}}
    )
    green(chain.backup())
    with ThreadPoolExecutor(1) as pool:
        usual_way = pool.submit(chain.production.database.output, "bash", "-c", LOAD)
        proved, recovered = green(chain.drill()), green(chain.recover())
    usual_way.result()
    whole = [
        columns_in_any_order(written(stack, "pg_dump", "--create", DATABASE))
        for stack in (chain.production, chain.staging)
    ]
    assert_same(*map(rows_in_any_order, whole))
    usual, ours = written(chain.production, "pg_dump", REFERENCE), written(chain.staging, "pg_dump", DATABASE)
    assert_same(*map(rows_in_any_order, (usual, ours)))
    assert "left_out" not in recovered.verdict
    assert "not_valid" not in recovered.verdict
    assert (
        proved.verdict["rows"]
        == recovered.verdict["rows"]
        == sum(block[3].count("\n") for block in _ROWS.finditer(ours))
    )
    assert recovered.verdict["tables"] > 500
    assert_same(*map(without_logins, (chain.production, chain.staging)))
