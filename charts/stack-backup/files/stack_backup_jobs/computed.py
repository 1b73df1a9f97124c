"""What a server computes of rows as they come in, for where it fails: generated columns, and the CHECKs of
tables and domains. Not every error says which of them it was, so that is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stack_backup_jobs.session import ServerError, Session, UnreachableError, literal

# Each is of the table, one of its partitions, or what it inherits from; a domain, of any type that is within
# one of its columns.
_RULES = """
WITH RECURSIVE tree(oid) AS (
  SELECT TABLE::regclass::oid
  UNION SELECT inhrelid FROM tree JOIN pg_inherits ON inhparent = tree.oid
    JOIN pg_class c ON c.oid = inhparent AND relkind = 'p'
), up(oid) AS (
  SELECT oid FROM tree UNION SELECT inhparent FROM up JOIN pg_inherits ON inhrelid = up.oid
), relation AS (
  SELECT c.oid, nspname || '.' || relname AS name, c.oid::regclass::text AS sql
  FROM up JOIN pg_class c ON c.oid = up.oid JOIN pg_namespace n ON n.oid = relnamespace
), used(oid) AS (
  SELECT atttypid FROM pg_attribute JOIN tree ON attrelid = tree.oid AND attnum > 0 AND NOT attisdropped
  UNION SELECT part.oid FROM used JOIN pg_type t ON t.oid = used.oid, LATERAL (
    SELECT typbasetype UNION ALL SELECT typelem
    UNION ALL SELECT rngsubtype FROM pg_range WHERE rngtypid = t.oid
    UNION ALL SELECT rngtypid FROM pg_range WHERE rngmultitypid = t.oid
    UNION ALL SELECT atttypid FROM pg_attribute
      WHERE attrelid = typrelid AND attnum > 0 AND NOT attisdropped) part(oid)
  WHERE part.oid <> 0
), domain AS (
  SELECT t.oid, nspname || '.' || typname AS name, t.oid::regtype::text AS sql, typnotnull
  FROM used JOIN pg_type t ON t.oid = used.oid AND typtype = 'd' JOIN pg_namespace n ON n.oid = typnamespace
)
SELECT 'CHECK CONSTRAINT', name || ' ' || conname,
  format('ALTER TABLE %s DROP CONSTRAINT %I', sql, conname),
  format('ALTER TABLE %s ADD CONSTRAINT %I %s', sql, conname, pg_get_constraintdef(k.oid)),
  format('COMMENT ON CONSTRAINT %I ON %s IS %L', conname, sql, obj_description(k.oid, 'pg_constraint'))
FROM relation JOIN pg_constraint k ON conrelid = relation.oid AND contype = 'c' AND coninhcount = 0
WHERE NOT connoinherit OR relation.oid IN (SELECT oid FROM tree)
UNION ALL
SELECT 'CHECK CONSTRAINT', name || ' ' || conname,
  format('ALTER DOMAIN %s DROP CONSTRAINT %I', sql, conname),
  format('ALTER DOMAIN %s ADD CONSTRAINT %I %s', sql, conname, pg_get_constraintdef(k.oid)),
  format('COMMENT ON CONSTRAINT %I ON DOMAIN %s IS %L', conname, sql, obj_description(k.oid, 'pg_constraint'))
FROM domain JOIN pg_constraint k ON contypid = domain.oid AND contype = 'c'
UNION ALL
SELECT 'DOMAIN', name || ' NOT NULL', format('ALTER DOMAIN %s DROP NOT NULL', sql),
  format('ALTER DOMAIN %s SET NOT NULL', sql), ''
FROM domain WHERE typnotnull
UNION ALL
SELECT 'DEFAULT', name || ' ' || attname,
  format('ALTER TABLE %s ALTER %I DROP EXPRESSION, ALTER %2$I DROP NOT NULL', sql, attname),
  format('SELECT count(CAST(%s AS %s)) FROM %s', pg_get_expr(adbin, adrelid),
    format_type(atttypid, atttypmod), sql), ''
FROM relation JOIN pg_attribute ON attrelid = relation.oid AND attgenerated = 's' AND attinhcount = 0
  JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
"""


@dataclass(frozen=True)
class Rule:
    """One of them. `again` brings it back for rows that are there; what is generated is only computed by it:
    no column becomes a generated one again.
    """

    type: str
    label: str
    drop: str
    again: str
    comment: str
    """A statement, or nothing."""

    @property
    def name(self) -> str:
        """As pg_dump labels it where it writes it by itself."""
        return f"{self.type} {self.label}"

    @property
    def lasting(self) -> bool:
        """Whether it can be brought back at all."""
        return self.type != "DEFAULT"


@contextmanager
def transaction(session: Session, *, keep: bool = True) -> Iterator[None]:
    """What is done in it stays, or (not `keep`) is only tried."""
    session.execute("BEGIN")
    try:
        yield
    except UnreachableError:
        raise
    except ServerError:
        session.execute("ROLLBACK")
        raise
    session.execute("COMMIT" if keep else "ROLLBACK")


def without(session: Session, table: str, copy: Callable[[], None]) -> list[tuple[Rule, ServerError]]:
    """Lets `copy` bring rows into a table without those rules that they break, which are dropped; each with
    what the server said of it. Raises ServerError where that is not why it fails.
    """
    with transaction(session, keep=False):
        dropped = _drop(session, table)
        copy()
        # A table's own before that of its parent, which then takes it for its own.
        broken = [(rule, error) for rule in reversed(dropped) if (error := _refusal(session, rule))]
    names = {rule.drop for rule, _ in broken}
    with transaction(session):
        for rule in dropped:
            if rule.drop in names:
                session.execute(rule.drop)
        copy()
    return broken


def _drop(session: Session, table: str) -> list[Rule]:
    """Until there is none: what a table has of its own, too, is seen when its parent's is gone."""
    dropped: list[Rule] = []
    while rows := session.query(_RULES.replace("TABLE", literal(table), 1)):
        for row in rows:
            rule = Rule(*(text or "" for text in row))
            session.execute(rule.drop)
            dropped.append(rule)
    return dropped


def _refusal(session: Session, rule: Rule) -> ServerError | None:
    """Brings a rule back, and tells why the rows do not let it."""
    session.execute("SAVEPOINT before")
    try:
        session.execute(rule.again)
    except UnreachableError:
        raise
    except ServerError as error:
        session.execute("ROLLBACK TO SAVEPOINT before")
        return error
    finally:
        if not session.broken:
            session.execute("RELEASE SAVEPOINT before")
    return None
