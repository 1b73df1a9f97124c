"""Schemas that nobody has thought of, with rows: dump, drill and recovery bring each back the same."""

from __future__ import annotations

import random

import pytest

from tests.jobs.chain import Chain

SCHEMAS = 15
"""In the database of one seed, each with about ten objects."""

TYPES = {
    "int": lambda r: str(r.randint(-(2**31), 2**31 - 1)),
    "numeric(20, 5)": lambda r: str(r.uniform(-1e9, 1e9)),
    "text": lambda r: quoted(text(r)),
    "bytea": lambda r: f"'\\x{r.randbytes(r.randint(0, 40)).hex()}'",
    "boolean": lambda r: r.choice(["true", "false"]),
    "date": lambda r: f"date '2000-01-01' + {r.randint(-90000, 90000)}",
    "timestamptz": lambda r: f"to_timestamp({r.uniform(-1e10, 1e10)})",
    "interval": lambda r: f"interval '{r.randint(-999, 999)} months {r.randint(0, 10**6)} seconds'",
    "jsonb": lambda r: f"jsonb_build_object({quoted(text(r))}, {quoted(text(r))})",
    "text[]": lambda r: f"ARRAY[{quoted(text(r))}, NULL, {quoted(text(r))}]",
    "float8": lambda r: r.choice([repr(r.uniform(-1e300, 1e300)), "'NaN'", "'-Infinity'"]),
    "int4range": lambda r: f"int4range({r.randint(0, 9)}, {r.randint(10, 99)})",
    "uuid": lambda r: f"'{r.randbytes(16).hex()}'",
    "point": lambda r: f"point({r.uniform(-9, 9)}, {r.uniform(-9, 9)})",
}
PIECES = [
    "a",
    "ä",
    "\\",
    "\\.",
    "\n",
    "\t",
    "\r",
    "'",
    '"',
    "$$",
    ";",
    "--",
    "/*",
    "\\connect x\n",
    "\\N",
    "",
    "猫",
    "%",
]
WORDS = [
    "Select",
    "a b",
    "ü",
    "x;y",
    'q"q',
    "$d",
    "back\\slash",
    "plain",
    "it's",
    "COPY x FROM stdin;",
    "\\.",
]


def text(r: random.Random) -> str:
    return "".join(r.choices(PIECES, k=r.randint(0, 8)))


def quoted(value: str) -> str:
    return "E'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


class Schema:
    """Statements that make one schema with tables, what hangs on them, and rows."""

    def __init__(self, r: random.Random, number: int) -> None:
        self.r, self.number = r, 0
        self.sql: list[str] = []
        self.tables: list[str] = []
        self.schema = self.name(f"{number} {r.choice(WORDS)}")
        self.sql.append(f"CREATE SCHEMA {self.schema}")
        self.enum, self.domain = self.own("type"), self.own("domain")
        self.sql.append(f"CREATE TYPE {self.enum} AS ENUM ('b', 'a', {quoted(r.choice(WORDS))})")
        self.sql.append(f"CREATE DOMAIN {self.domain} AS text CHECK (length(VALUE) < 1000)")
        self.fires = self.own("fires")
        body = f"BEGIN PERFORM {quoted(text(r))}; RETURN NEW; END"
        self.sql.append(
            f"CREATE FUNCTION {self.fires}() RETURNS trigger LANGUAGE plpgsql AS $body$ {body} $body$"
        )
        for _ in range(r.randint(2, 5)):
            r.choice([self.table, self.table, self.partitioned, self.child])()
        for _ in range(r.randint(2, 6)):
            r.choice([self.index, self.reference, self.view, self.trigger, self.comment, self.grant])()

    def name(self, word: str) -> str:
        return '"' + word.replace('"', '""') + '"'

    def own(self, kind: str) -> str:
        """The quoted name of something new in the schema."""
        self.number += 1
        return f"{self.schema}.{self.name(f'{self.r.choice(WORDS)} {kind} {self.number}')}"

    def rows(self, table: str, kinds: list[str]) -> None:
        for _ in range(self.r.randint(0, 12)):
            values = [TYPES[kind](self.r) if self.r.random() < 0.8 else "NULL" for kind in kinds]
            extra = [quoted(self.r.choice(["a", "b"])), quoted(text(self.r))]
            names = ", ".join(["kind", "note", *(f"c{n}" for n in range(len(kinds)))])
            self.sql.append(f"INSERT INTO {table} ({names}) VALUES ({', '.join(extra + values)})")

    def columns(self, kinds: list[str]) -> str:
        own = [f"c{n} {kind}" for n, kind in enumerate(kinds)]
        more = [
            f"id int GENERATED {self.r.choice(['ALWAYS', 'BY DEFAULT'])} AS IDENTITY",
            f"kind {self.enum} NOT NULL DEFAULT 'a'",
            f"note {self.domain}",
            "size int GENERATED ALWAYS AS (length(note::text)) STORED",
        ]
        return ", ".join([*more, *own])

    def kinds(self) -> list[str]:
        return self.r.choices(list(TYPES), k=self.r.randint(0, 5))

    def table(self) -> None:
        name, kinds = self.own("table"), self.kinds()
        unlogged = self.r.choice(["", "", "UNLOGGED "])
        check = self.r.choice(["", f", CONSTRAINT {self.name(self.r.choice(WORDS))} CHECK (size >= 0)"])
        key = ", PRIMARY KEY (id)"
        self.sql.append(f"CREATE {unlogged}TABLE {name} ({self.columns(kinds)}{key}{check})")
        self.rows(name, kinds)
        if not unlogged:
            self.tables.append(name)

    def partitioned(self) -> None:
        name, kinds = self.own("tree"), self.kinds()
        self.sql.append(
            f"CREATE TABLE {name} (kind {self.enum} NOT NULL, note {self.domain},"
            f" {', '.join([*(f'c{n} {kind}' for n, kind in enumerate(kinds)), 'last int'])})"
            f" PARTITION BY {self.r.choice(['HASH (note)', 'LIST (kind)'])}"
        )
        if self.sql[-1].endswith("LIST (kind)"):
            self.sql.append(f"CREATE TABLE {self.own('part')} PARTITION OF {name} FOR VALUES IN ('a')")
            self.sql.append(f"CREATE TABLE {self.own('part')} PARTITION OF {name} DEFAULT")
        else:
            for rest in range(3):
                self.sql.append(
                    f"CREATE TABLE {self.own('part')} PARTITION OF {name}"
                    f" FOR VALUES WITH (MODULUS 3, REMAINDER {rest})"
                )
        self.sql.append(f"CREATE INDEX ON {name} (note)")
        self.rows(name, kinds)

    def child(self) -> None:
        if self.tables:
            name = self.own("child")
            self.sql.append(f"CREATE TABLE {name} (more text) INHERITS ({self.r.choice(self.tables)})")
            self.sql.append(f"INSERT INTO {name} (id, more) OVERRIDING SYSTEM VALUE VALUES (1, 'x')")

    def index(self) -> None:
        if self.tables:
            what = self.r.choice(["(lower(note::text))", "(kind, size DESC)", "(id) WHERE size > 3"])
            self.sql.append(f"CREATE INDEX ON {self.r.choice(self.tables)} {what}")

    def reference(self) -> None:
        if len(self.tables) > 1:
            one, other = self.r.sample(self.tables, 2)
            name = self.own("refers")
            self.sql.append(f"CREATE TABLE {name} (one int REFERENCES {one}, other int REFERENCES {other})")
            self.sql.append(f"INSERT INTO {name} SELECT min(id), NULL FROM ONLY {one}")

    def view(self) -> None:
        if self.tables:
            kind = self.r.choice(["VIEW", "MATERIALIZED VIEW"])
            table = self.r.choice(self.tables)
            self.sql.append(
                f"CREATE {kind} {self.own('view')} AS SELECT kind, count(*) FROM {table} GROUP BY kind"
            )

    def trigger(self) -> None:
        if self.tables:
            name = self.name(f"{self.r.choice(WORDS)} {len(self.sql)}")
            self.sql.append(
                f"CREATE TRIGGER {name} AFTER UPDATE ON {self.r.choice(self.tables)}"
                f" FOR EACH ROW EXECUTE FUNCTION {self.fires}()"
            )

    def comment(self) -> None:
        if self.tables:
            self.sql.append(f"COMMENT ON TABLE {self.r.choice(self.tables)} IS {quoted(text(self.r) + 'x')}")

    def grant(self) -> None:
        if self.tables:
            self.sql.append(f"GRANT SELECT (kind), UPDATE ON {self.r.choice(self.tables)} TO fragalysis")


@pytest.mark.parametrize("seed", [1, 2])
def test_random_schemas_come_back_the_same(chain: Chain, seed: int) -> None:
    r = random.Random(seed)
    for number in range(SCHEMAS):
        sql = ";\n".join(Schema(r, number).sql)
        chain.production.database.execute(f"SET search_path = ''; {sql};", "frag")
    chain.there_and_back(
        {"databaseRecovery": {"jobs": 1 + seed % 2}, "databaseDrill": {"jobs": 1 + seed % 2}}
    )
