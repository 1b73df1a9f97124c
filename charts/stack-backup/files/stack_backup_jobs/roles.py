"""The roles of a dump: those that a server lacks are made as the dump has them, but cannot log in; those that
are there keep what they are, and where they differ is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from stack_backup_jobs.session import ServerError, Session, UnreachableError, identifier, literal

_NAME = r'("(?:[^"]|"")*"|[^\s";]+)'
_CREATE = re.compile(rf"CREATE ROLE {_NAME};", re.DOTALL)
_ALTER = re.compile(rf"ALTER ROLE {_NAME} WITH (.*);", re.DOTALL)
_SET = re.compile(rf"ALTER ROLE {_NAME} SET (.*);", re.DOTALL)
_TOLD = re.compile(rf"(?:COMMENT ON ROLE|SECURITY LABEL .*? ON ROLE) {_NAME} IS .*;", re.DOTALL)
_GRANT = re.compile(rf"GRANT {_NAME} TO {_NAME}( WITH .*?)??( GRANTED BY {_NAME})?;", re.DOTALL)
_PASSWORD = re.compile(r" PASSWORD '(?:[^']|'')*'")
_UNTIL = re.compile(r" VALID UNTIL '((?:[^']|'')*)'")
_LIMIT = re.compile(r" CONNECTION LIMIT (-?\d+)")
ATTRIBUTES = {
    "SUPERUSER": "rolsuper",
    "INHERIT": "rolinherit",
    "CREATEROLE": "rolcreaterole",
    "CREATEDB": "rolcreatedb",
    "REPLICATION": "rolreplication",
    "BYPASSRLS": "rolbypassrls",
}
POWERS = {"SUPERUSER", "CREATEROLE", "REPLICATION", "BYPASSRLS"}


def unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


@dataclass
class Role:
    """A role as the dump has it."""

    name: str
    attributes: str = ""
    """What follows `WITH`, without a password."""
    settings: list[str] = field(default_factory=list)
    """Statements: its settings, comment and security labels."""

    def differs(self, there: dict[str, str]) -> bool:
        """From the role of that name in the server, of whose attributes `there` tells (by the columns of
        pg_roles).
        """
        words = set(_UNTIL.sub("", f" {self.attributes}").split())
        limit = _LIMIT.search(f" {self.attributes}")
        said = {
            column: "t" if word in words else "f"
            for word, column in ATTRIBUTES.items()
            if words & {word, f"NO{word}"}
        }
        return {**there, **said, "rolconnlimit": limit[1] if limit else "-1"} != there


@dataclass
class Roles:
    """All of a dump: its roles in their order, and who is a member of whom."""

    roles: dict[str, Role] = field(default_factory=dict)
    memberships: list[tuple[str, str, str]] = field(default_factory=list)
    """Role, member, options."""
    tablespaces: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, statements: Iterable[str]) -> Roles:
        """From the statements that stand before the first database of a dump."""
        found = cls()
        for statement in statements:
            if (match := _CREATE.fullmatch(statement)) is not None:
                found.roles[unquoted(match[1])] = Role(unquoted(match[1]))
            elif (match := _ALTER.fullmatch(statement)) is not None and unquoted(match[1]) in found.roles:
                found.roles[unquoted(match[1])].attributes = _PASSWORD.sub("", f" {match[2]}").strip()
            elif (match := _SET.fullmatch(statement) or _TOLD.fullmatch(statement)) is not None:
                if unquoted(match[1]) in found.roles:
                    found.roles[unquoted(match[1])].settings.append(statement)
            elif (match := _GRANT.fullmatch(statement)) is not None:
                found.memberships.append((unquoted(match[1]), unquoted(match[2]), match[3] or ""))
            elif (match := re.match(rf"CREATE TABLESPACE {_NAME} ", statement)) is not None:
                found.tablespaces.append(unquoted(match[1]))
        return found

    def make(
        self, session: Session, refused: Callable[[str, ServerError], None]
    ) -> tuple[list[str], list[str]]:
        """Makes what the server lacks, or nothing. Returns the names of the roles that were made, and of
        those that differ.

        What a role is to be or to have that the server does not take, `refused` hears with the role's name;
        it goes on when that returns. Raises ServerError.
        """
        columns = [*ATTRIBUTES.values(), "rolconnlimit"]
        rows = session.query(f"SELECT rolname, {', '.join(columns)} FROM pg_roles")
        there = {str(row[0]): dict(zip(columns, map(str, row[1:]), strict=True)) for row in rows}
        new = [role for name, role in self.roles.items() if name not in there]
        made = {role.name for role in new}
        strong = self.strong(session)
        session.execute("BEGIN")
        for name, statement in [*self._new(new), *self._joined(made, strong)]:
            session.execute("SAVEPOINT before")
            try:
                session.execute(statement)
            except UnreachableError:
                raise
            except ServerError as error:
                session.execute("ROLLBACK TO SAVEPOINT before")
                refused(name, error)
            session.execute("RELEASE SAVEPOINT before")
        session.execute("COMMIT")
        return sorted(made), self._differing(session, there, made)

    @staticmethod
    def _new(roles: list[Role]) -> Iterator[tuple[str, str]]:
        """The statements that make them, each with the role's name."""
        for role in roles:
            yield role.name, f"CREATE ROLE {identifier(role.name)} NOLOGIN"
        for role in roles:
            if words := re.sub(r"(?<!\S)(?:NO)?LOGIN(?!\S)", "", role.attributes).strip():
                yield role.name, f"ALTER ROLE {identifier(role.name)} WITH {words}"
            for statement in role.settings:
                yield role.name, statement

    def strong(self, session: Session) -> set[str]:
        """The roles, of the dump and of the server, by which a member has or can get rights over the server:
        superusers and their like, PostgreSQL's own roles, and their members.
        """
        rows = session.query(
            f"SELECT rolname, {' OR '.join(ATTRIBUTES[word] for word in POWERS)} FROM pg_roles"
        )
        there = {str(name): power == "t" for name, power in rows}
        new = {name: bool(POWERS & {*role.attributes.split()}) for name, role in self.roles.items()}
        strong = {name for name, power in (new | there).items() if power or name.startswith("pg_")}
        of = _members(session) | {(role, name) for role, name, _ in self.memberships if name not in there}
        while more := {member for role, member in of if role in strong} - strong:
            strong |= more
        return strong

    def _joined(self, made: set[str], strong: set[str]) -> Iterator[tuple[str, str]]:
        """No role that was there gets power by what a dump says."""
        for role, member, options in self.memberships:
            if member in made or role in made - strong:
                yield member, f"GRANT {identifier(role)} TO {identifier(member)}{options}"

    def _differing(self, session: Session, there: dict[str, dict[str, str]], made: set[str]) -> list[str]:
        joined = _members(session)
        differing = {
            role.name for name, role in self.roles.items() if name in there and role.differs(there[name])
        }
        for role_name, member, _ in self.memberships:
            if member not in made and (role_name, member) not in joined:
                differing.add(member)
        return sorted(differing)


def _members(session: Session) -> set[tuple[str, str]]:
    """Role and member, as they are in the server."""
    rows = session.query(
        "SELECT r.rolname, m.rolname FROM pg_auth_members JOIN pg_roles r ON r.oid = roleid JOIN "
        "pg_roles m ON m.oid = member"
    )
    return {(str(role), str(member)) for role, member in rows}


def exists(session: Session, role: str) -> bool:
    return bool(session.query(f"SELECT FROM pg_roles WHERE rolname = {literal(role)}"))
