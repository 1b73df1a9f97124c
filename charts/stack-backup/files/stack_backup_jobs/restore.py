"""The recovery of one database of a dump into a server: the procedure that recovery and drill share.

read the dump to its last byte -> can this server hold it? -> roles -> the new database with its own settings,
owner and privileges -> load -> count -> ANALYZE; `Target.swap` is then one transaction.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from stack_backup_jobs import compare
from stack_backup_jobs.choice import Source
from stack_backup_jobs.errors import JobError
from stack_backup_jobs.folder import Folder, read_afresh
from stack_backup_jobs.formats import MIB, Dump, Exit, Manifest
from stack_backup_jobs.job import Job, say
from stack_backup_jobs.loader import Broken, Loaded, Loader, failure_of, is_accepted
from stack_backup_jobs.pack import Unpacker, cores
from stack_backup_jobs.reader import Part, Reader, read
from stack_backup_jobs.roles import Roles, exists
from stack_backup_jobs.room import Room, watched
from stack_backup_jobs.session import (
    EXTRA,
    SETTINGS,
    Row,
    ServerError,
    Session,
    UnreachableError,
    codec,
    identifier,
    literal,
)
from stack_backup_jobs.target import Target

_OWN = {"client_encoding", "application_name", "synchronous_commit", "maintenance_work_mem"}
OURS = {key.lower() for key in {*SETTINGS, *EXTRA}} - {"datestyle", "intervalstyle"} | _OWN
"""Settings of our sessions that no database changes."""
_OF_THE_ROLE = """
SELECT key, coalesce(
    (SELECT substr(entry, length(key) + 2) FROM pg_db_role_setting, unnest(setconfig) entry
      WHERE setdatabase = 0 AND setrole = 0 AND lower(split_part(entry, '=', 1)) = lower(key)),
    (SELECT setting FROM pg_file_settings f WHERE lower(f.name) = lower(key) AND applied LIMIT 1),
    boot_val, '')
FROM pg_db_role_setting JOIN pg_roles r ON r.oid = setrole AND rolname = session_user,
  unnest(setconfig) entry, split_part(entry, '=', 1) key LEFT JOIN pg_settings s ON lower(s.name) = lower(key)
WHERE coalesce(source, 'user') IN ('user', 'database user')
  AND coalesce(context, 'user') IN ('user', 'superuser')
"""
"""What the superuser's role has set here, as it is for who has set nothing."""
_OF_THE_DATABASE = """
SELECT key, substr(entry, length(key) + 2) FROM pg_db_role_setting, unnest(setconfig) entry,
  split_part(entry, '=', 1) key LEFT JOIN pg_settings ON lower(name) = lower(key)
WHERE setrole = 0 AND coalesce(context, 'user') IN ('user', 'superuser')
  AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
_IN_SPACE = re.compile(r' TABLESPACE = (?:"(?:[^"]|"")*"|\S+)')
_OF_THE_SWAP = re.compile(
    r'ALTER DATABASE (?:"(?:[^"]|"")*"|\S+) '
    r'(?:(?:WITH )?(?:CONNECTION LIMIT|IS_TEMPLATE)\b|SET "?stack_backup\.)'
)


UNCOUNTED = "this dump has INSERT statements, so their number is unknown"


def patterns(text: str) -> tuple[str, ...]:
    """The patterns of objects that may be missing, of a variable that has one in each line."""
    return tuple(line for line in text.split("\n") if line)


@dataclass(frozen=True)
class Options:
    """How a recovery is done; the values of the same names."""

    jobs: int = 2
    accepted: tuple[str, ...] = ()
    owner: str = ""
    """Whom the stack's database belongs to; nothing takes the dump's."""
    other_owner: bool = False
    tablespaces: bool = True
    """Whether the dump's are needed; else all goes to the default one."""
    room: int | None = None
    """Free bytes of the server's volume, where the server may not be asked."""


class Restore:
    """Of one dump: `read` it first, then `load` its databases, each into a target of its own."""

    def __init__(self, job: Job, folder: Source, dump: Dump, options: Options) -> None:
        self._job, self._folder, self.dump, self.options = job, folder, dump, options
        self.dumped: Reader
        self.warnings: list[str] = []
        self._rowless: dict[str, set[compare.Name]] = {}

    # ---- the dump ----

    def read(self, *, copied: Path | None = None) -> None:
        """Proves that the dump is whole before a byte of it reaches a server; with `copied`, of a copy in
        that folder; else where it lies, on a volume.
        """
        manifest = self.dump.manifest
        say(f"Reading {self.dump.name} ({self.dump.size // MIB} MiB).")
        if copied is not None:
            path, digest = self._copy(copied)
        else:
            assert isinstance(self._folder, Folder)
            path = self._folder.file(self.dump.name)
            digest = read_afresh(self._job, path, "read") if manifest else ""
        if manifest is None:
            say(
                "An older tool made this dump: it has no manifest, so only its own text can tell that it is "
                "whole."
            )
        elif digest != manifest.get("sha256"):
            raise JobError(
                Exit.DATA,
                f"The dump {self.dump.name} is not what its manifest says: its sha256 differs.",
                "It was changed or damaged: use another dump, and check the place that it is from.",
            )
        self._unpacker = Unpacker(self._job, path)
        self.dumped = read(self._unpacker.chunks(threads=cores()), self._job)
        self._check_text()
        self.roles = Roles.read(self.dumped.roles)

    def _copy(self, folder: Path) -> tuple[Path, str]:
        need, free = self.dump.size + MIB, shutil.disk_usage(folder).free
        if free < need:
            raise JobError(
                Exit.NO_ROOM,
                f"The scratch space has {free // MIB} MiB, and the dump needs {need // MIB} MiB.",
                "Raise the value databaseRecovery.scratch.size.",
            )
        target = folder / self.dump.name
        self._job.ends.callback(target.unlink, missing_ok=True)
        return target, self._folder.bring(self.dump, target)

    def _check_text(self) -> None:
        name = self.dump.name
        if not self.dumped.whole:
            raise JobError(
                Exit.DATA, f"{name} is cut off: its text ends before its last line.", "Use another dump."
            )
        if self.dumped.foreign:
            first = self.dumped.foreign[0]
            raise JobError(
                Exit.DATA,
                f"{name} holds a command that no dump has: {first.word} at byte {first.at} of its text.",
                "It may be meant to run a program in this pod: find out who wrote it, and use another dump.",
            )
        if not re.match(r"\d+", self.dumped.version):
            raise JobError(
                Exit.DATA,
                f"{name} does not say which version of PostgreSQL it is from.",
                "It was not made by pg_dumpall.",
            )

    def part(self, database: str) -> Part:
        """Raises JobError when the dump has no such database."""
        if database not in self.dumped.parts:
            raise JobError(
                Exit.SOURCE,
                f"{self.dump.name} holds no database {database}.",
                f"It holds: {' '.join(self.dumped.parts)}. Check that the backup is of the right server "
                "(value database.host).",
            )
        return self.dumped.parts[database]

    def said(self, database: str) -> compare.Held:
        """What must be in the database: by the manifest, else by the dump's own text."""
        manifest = self.dump.manifest or Manifest(tuple(self.dumped.records))
        held = compare.expected(manifest, database)
        if not manifest.all("sequence"):  # of an older release
            held.sequences = compare.expected(Manifest(tuple(self.dumped.records)), database).sequences
        return held

    # ---- can the server hold it? ----

    def check(self, target: Target, part: Part) -> None:
        """All that can be refused before anything is done. Raises JobError."""
        name, major = self.dump.name, int(re.findall(r"\d+", self.dumped.version)[0])
        if major > target.major:
            raise JobError(
                Exit.SETUP,
                f"The dump is from PostgreSQL {self.dumped.version}, and the server is {target.version}.",
                "A server of the same or a newer major version is needed.",
            )
        if self.dump.manifest is not None:
            there = {
                str(key): str(value)
                for key, value in target.server.query(
                    "SELECT name, default_version FROM pg_available_extensions"
                )
            }
            for extension, version in compare.expected(self.dump.manifest, part.name).extensions.items():
                if extension not in there:
                    raise JobError(
                        Exit.SETUP,
                        f"The image lacks the extension {extension}, which the database {part.name} of {name}"
                        " needs.",
                        "Run the stack with the database image that has it (value database.image): the "
                        "server lacks it, too.",
                    )
                if there[extension] != version:
                    self.warnings.append(
                        f"The image brings {there[extension]} of the extension {extension}, and the database"
                        f" {part.name} of {name}"
                        f" has {version}."
                    )
        self._check_tablespaces(target, part)
        if self.options.owner:
            self.check_owner(target, part, self.options.owner)

    def _check_tablespaces(self, target: Target, part: Part) -> None:
        if not self.options.tablespaces:
            return
        there = {str(name) for (name,) in target.server.query("SELECT spcname FROM pg_tablespace")}
        if missing := sorted(part.tablespaces - there - {""}):
            raise JobError(
                Exit.SETUP,
                f"The server lacks tablespaces that the database {part.name} of {self.dump.name} uses:"
                f" {', '.join(missing)}.",
                "Make them, or set databaseRecovery.tablespaces to false: all goes to the server's default "
                "one then.",
            )

    def check_owner(self, target: Target, part: Part, owner: str) -> None:
        """Is the dump's owner the one that the stack's database has?"""
        if not part.owner or part.owner == owner:
            return
        with target.server.session() as session:
            strong = self.roles.strong(session)
        if part.owner in strong:
            raise JobError(
                Exit.SETUP,
                f"The database {part.name} of {self.dump.name} belongs to {part.owner}, which has or can get"
                f" a superuser's rights, and here it must belong to {owner} (value database.owner), who must"
                " not get them.",
                "Name that owner in the values, or give the database to that one where the dump is from.",
            )
        if not self.options.other_owner:
            raise JobError(
                Exit.SETUP,
                f"The database {part.name} of {self.dump.name} belongs to {part.owner}, and here it must"
                f" belong to {owner}"
                " (value database.owner).",
                "Name that owner in the values, or set databaseRecovery.allowOtherOwner: the stack's owner "
                "becomes a member of"
                " the dump's then.",
            )

    def _room(self, target: Target, part: Part) -> tuple[Room, int]:
        """Refuses a server without room for a second copy; with the bytes that must remain free."""
        sizes = (int(values[1]) for values in self._records("size") if values[0] == part.name)
        return self._room_for(target, part, next(sizes, 2 * part.size))

    def _room_for(self, target: Target, part: Part, size: int) -> tuple[Room, int]:
        room = Room(target, part.tablespaces - {""} if self.options.tablespaces else (), self.options.room)
        return room, room.check(size)

    def _records(self, key: str) -> list[tuple[str, ...]]:
        return self.dump.manifest.all(key) if self.dump.manifest else []

    # ---- the new database ----

    def load(self, target: Target, part: Part, *, watched: bool) -> compare.Held:
        """Makes the new database, ready for the swap; returns what it holds. Raises JobError."""
        try:
            room = self._room(target, part) if watched else None
            self._make(target, part)
        except ServerError as error:
            raise failure_of(Broken("", error)) from error
        say(f"Loading {part.rows} rows of {len(part.blocks)} tables into {target.side}.")
        self._fill(target, part, room)
        say("Counting the rows of every table.")
        with self._job.lap("compare_seconds"):
            said, jobs = self.said(part.name), self.options.jobs
            held = compare.found(lambda: self.session(target, part.encoding), said, jobs)
        self._analyse(target)
        return held

    def load_some(
        self, target: Target, part: Part, chosen: Callable[[Session], Collection[compare.Name]]
    ) -> tuple[Room, int]:
        """Makes the new database with all its definitions, and the rows of some tables: those that `chosen`
        names, once the definitions are there. No index, and no constraint that comes after the rows. Returns
        the server's room, which is enough for these rows twice, and what must remain of it. Raises JobError.
        """
        end = part.after[1]
        bare = dataclasses.replace(part, blocks=[], between=[], after=(end, end))
        try:
            self._make(target, part)
            self._fill(target, bare, None)
            with self.session(target) as session:
                names = chosen(session)
            # INSERT statements are not told apart: all rows come then.
            whole = part.inserts or not part.orderly
            blocks = [block for block in part.blocks if whole or compare.names(block.table) in names]
            size = part.size if whole else sum(block.length for block in blocks)
            room = self._room_for(target, part, 4 * size)  # here, and beside the live tables
        except ServerError as error:
            raise failure_of(Broken("", error)) from error
        rows = dataclasses.replace(
            part, before=(0, 0), blocks=blocks, between=part.between if whole else [], after=(end, end)
        )
        say(f"Loading {rows.rows} rows of {len(blocks)} tables into {target.side}.")
        self._fill(target, rows, room)
        return room

    def _fill(self, target: Target, part: Part, room: tuple[Room, int] | None) -> None:
        """Loads what the part names, the server's room watched where it was asked before."""
        loader = Loader(
            self._job,
            self._unpacker,
            part,
            lambda: self.session(target),
            self.options.jobs,
            self.options.accepted,
            self.options.tablespaces,
        )
        with watched(target, room, loader.stop), self._job.lap("load_seconds"):
            self._outcome(part, loader.run())

    @staticmethod
    def connection_limit(part: Part) -> int:
        """The dump's own; where it was taken behind the fence of a recovery, the one before that."""
        fence = re.compile(r"""ALTER DATABASE .* SET "?stack_backup\.fence"? TO '?(-?\d+)'?;""", re.DOTALL)
        fences = [found for statement in part.properties if (found := fence.fullmatch(statement))]
        return int(fences[-1][1]) if fences else part.connection_limit

    def differences(self, part: Part, held: compare.Held) -> list[str]:
        """Between what must be there and what is. Rows that INSERT statements bring, nobody has counted
        before.
        """
        said = self.said(part.name)
        if part.inserts:
            tables = compare.folded(said, held.members)
            held = dataclasses.replace(
                held, tables={name: rows for name, rows in held.tables.items() if name in tables}
            )
        if rowless := self._rowless[part.name]:
            tables = compare.folded(said, held.members)
            held = dataclasses.replace(held, tables={**held.tables, **{key: tables[key] for key in rowless}})
        return compare.differences(part.name, said, held)

    def _outcome(self, part: Part, loaded: Loaded) -> None:
        self._rowless[part.name] = {compare.names(table) for table in loaded.rowless}
        if loaded.left_out:
            self._job.figure(left_out=sorted({*loaded.left_out, *self._figure("left_out")}))
        if loaded.not_valid:
            self._job.figure(not_valid=sorted({*loaded.not_valid, *self._figure("not_valid")}))

    def lacking(self) -> str:
        """Of the verdict, where something is not as in the dump, or the dump not as its server was."""
        said = ""
        if self._figure("left_out") or self._figure("not_valid"):
            said += " What was accepted as missing or not valid, the figures of this verdict name."
        if self.dump.manifest is not None and self.dump.manifest.sanitised:
            said += " The dump is sanitised: SQL had changed it before it left its server's cluster."
        return said

    def _figure(self, key: str) -> list[str]:
        value = self._job.figures.get(key, [])
        return value if isinstance(value, list) else []

    def session(self, target: Target, encoding: str = "UTF8", *, ours: bool = True) -> Session:
        """Of the new database, with what the database itself has set, on which what is computed may depend,
        whatever the superuser's role has set here. Where it is for SQL of the user's (not `ours`), with the
        path by which the application finds its tables, too.
        """
        settings = {"synchronous_commit": "off", "maintenance_work_mem": "128MB"}
        if not ours:
            settings["search_path"] = '"$user", public'
        session = target.server.session(target.side, encoding=encoding, **settings)
        for key, value in [*session.query(_OF_THE_ROLE), *session.query(_OF_THE_DATABASE)]:
            if str(key).lower() in (OURS if ours else OURS - {"search_path"}):
                continue
            try:
                session.query(f"SELECT set_config({literal(str(key))}, {literal(str(value))}, false)")
            except UnreachableError:
                raise
            except ServerError as error:
                say(f"{key} of the database is not set: {error}.")  # nor does a login set it
        return session

    def _make(self, target: Target, part: Part) -> None:
        """Roles, the new database, and all that belongs to the database itself."""
        with target.server.session() as session:
            made, differing = self.roles.make(session, self._role_refused)
            if self.options.owner and not exists(session, self.options.owner):
                session.execute(f"CREATE ROLE {identifier(self.options.owner)} NOLOGIN")
        if made:
            say(f"Roles that were made, without a login: {', '.join(made)}.")
        if differing:
            say(f"Roles that are not as in the dump, and stay as they are: {', '.join(differing)}.")
            self._job.figure(roles_differ=differing[:20])
        create = part.create if self.options.tablespaces else _IN_SPACE.sub("", part.create)
        owner = self.options.owner or part.owner
        target.begin(create or f"WITH TEMPLATE = template0 ENCODING = '{part.encoding}'")
        with target.server.session() as session:
            if owner:
                session.execute(f"ALTER DATABASE {identifier(target.side)} OWNER TO {identifier(owner)}")
            if part.owner and owner != part.owner:
                session.execute(f"GRANT {identifier(part.owner)} TO {identifier(owner)}")
        # From within: text that belongs to the database is of its own encoding, wherever it is kept.
        with target.server.session(target.side, encoding=part.properties_encoding) as session:
            for statement in part.properties:
                self._property(session, target, part, statement)
            if owner and owner != part.owner:
                session.execute(
                    f"GRANT ALL PRIVILEGES ON DATABASE {identifier(target.side)} TO {identifier(owner)}"
                )

    def _property(self, session: Session, target: Target, part: Part, statement: str) -> None:
        """A statement that names the database itself, for the new one. What a swap sets is left to it."""
        if _OF_THE_SWAP.match(statement):
            return
        name = f"DATABASE PROPERTIES {part.name}"
        try:
            side = target.side.encode().decode(codec(part.properties_encoding), "surrogateescape")
            session.execute(renamed(statement, side))
        except UnreachableError:
            raise
        except ServerError as error:
            said = re.sub(r"\s+", " ", statement)[:80]
            self._accept(name, said, error)

    def _role_refused(self, name: str, error: ServerError) -> None:
        self._accept(f"ROLE {name}", f"what the dump sets of the role {name}", error)

    def _accept(self, name: str, said: str, error: ServerError) -> None:
        """What is not in the database goes on where it is accepted. Raises JobError."""
        if not is_accepted(name, self.options.accepted):
            say(f"The server refuses: {said}")
            raise failure_of(Broken(name, error)) from error
        say(f"{name} is left out in part, as it was accepted: {said}: {error}.")
        self._job.figure(left_out=sorted({*self._figure("left_out"), name}))

    def _analyse(self, target: Target) -> None:
        """Only the planner needs it: a table that cannot be analysed is no reason to end."""
        say("Analysing the new database.")
        with self.session(target) as session:
            # A partitioned table with its partitions; those alone where that fails.
            tables = session.query(
                "SELECT format('%I.%I', nspname, relname), relkind FROM pg_class c"
                " JOIN pg_namespace n ON n.oid = relnamespace WHERE relkind IN ('r', 'm', 'p')"
                " AND relpersistence <> 't' AND NOT relispartition AND nspname <> 'information_schema'"
                " AND nspname !~ '^pg_toast' ORDER BY relpages DESC"
            )

        def one(session: Session, row: Row) -> None:
            table, kind = map(str, row)
            if _analyses(session, table) or kind != "p":
                return
            leaves = f"SELECT relid::regclass FROM pg_partition_tree({literal(table)}::regclass) WHERE isleaf"
            for (leaf,) in session.query(leaves):
                _analyses(session, str(leaf))

        compare.shared(lambda: self.session(target), tables, self.options.jobs, one)


def _analyses(session: Session, table: str) -> bool:
    try:
        session.execute(f"ANALYZE {table}")
    except UnreachableError:
        raise
    except ServerError as error:
        say(f"{table} could not be analysed: {error}.")
        return False
    return True


def renamed(statement: str, new: str) -> str:
    """A statement of pg_dump about a database, about another one: its name follows the first `DATABASE`."""
    done = False

    def other(found: re.Match[str]) -> str:
        nonlocal done
        if found[1] is None or done:
            return found[0]
        done = True
        return f"DATABASE {identifier(new)}"

    pattern = r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\bDATABASE ("(?:[^"]|"")*"|[^\s;"]+)"""
    return re.sub(pattern, other, statement)
