"""What documents and messages name is there: links, values, exit codes, files, commands, jobs, alerts.

Each rule takes a text and gives its complaints. It is held against all that users read, and against examples
that it must refuse. What a rule cannot tell apart, it passes over; an exception has its reason beside it.
"""

from __future__ import annotations

import ast
import errno
import os
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
import yaml

from stack_backup import Exit as OwnExit
from stack_backup.app import Kind, app
from stack_backup_jobs import run
from stack_backup_jobs.formats import Exit, dump_name
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART
from tests.render.schema import load, nodes

PACKAGE = CHART / "files" / "stack_backup_jobs"
TEMPLATES = CHART / "templates"

ELSEWHERE = {
    "NAME_former_TIME": "the name of a database, as an example",
    "NAME_restore_TIME": "the name of a database, as an example",
    "backups.database": "a value of fragalysis-helm",
    "backups.database.enabled": "a value of fragalysis-helm",
    "rcloneBucketAndPath": "a value of fragalysis-helm",
    "fragalysis-stack": "its chart",
    "media-backup": "its CronJob",
    "shared_preload_libraries": "a setting of PostgreSQL that nothing here reads",
    "honorLabels": "a setting of a scrape",
    "kubernetes.core": "an Ansible collection",
    "pgBackRest": "a product",
    "pgBouncer": "a product",
    "pre-commit": "a tool",
    "….rclonelink": "what rclone makes of a link",
}
"""Names in code marks that are no name of this project, and why they are right."""

FRAME = {Exit.USAGE, Exit.TRANSIENT, Exit.SETUP, Exit.TIMEOUT, Exit.KILLED, Exit.STOPPED}
"""What every program may end with: `settings`, `run`, start.sh."""


# ---- what there is -----------------------------------------------------------------------------------------


def _walk() -> Iterator[Path]:
    """The files of the project; what tools leave behind is none."""
    kept = {".github", ".ci", ".devcontainer"}
    for folder, folders, files in os.walk(PROJECT):
        folders[:] = [
            name
            for name in folders
            if (not name.startswith(".") or name in kept)
            and name not in ("__pycache__", "build", "dist", "site")
            and not name.endswith(".egg-info")
        ]
        yield from (Path(folder, name) for name in files)


FILES = sorted(_walk())
DOCUMENTS = [path for path in FILES if path.name.endswith((".md", ".md.gotmpl"))]
PAGES = sorted((PROJECT / "docs" / "jobs").glob("*.md"))
NAMES = {str(path.relative_to(PROJECT)) for path in FILES} | {
    str(parent.relative_to(PROJECT)) for path in FILES for parent in path.parents if PROJECT in parent.parents
}
"""Files and folders, from the project's root."""


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _python() -> list[Path]:
    return [path for path in FILES if path.suffix == ".py"]


@cache
def _nodes(module: str) -> tuple[ast.AST, ...]:
    """All of the syntax tree of a module of the package."""
    return tuple(ast.walk(ast.parse(_read(PACKAGE / f"{module}.py"))))


@cache
def _strings(path: Path) -> tuple[tuple[int, str], ...]:
    """The string literals of a module with their lines; `{}` where an f-string has a value."""
    found: list[tuple[int, str]] = []
    tree = ast.parse(_read(path))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and id(node) not in inner:
            if isinstance(node.value, bytes):
                found.append((node.lineno, node.value.decode("latin-1")))
            elif isinstance(node.value, str):
                found.append((node.lineno, node.value))
    return tuple(found)


@cache
def _values() -> dict[tuple[str, ...], bool]:
    """Every value of the chart, and whether it is a map that takes any key."""
    return {
        key: node.get("type") == "object"
        and ("properties" not in node or node.get("additionalProperties") is not False)
        for key, node in nodes(load()).items()
    }


SECTIONS = {key[0] for key in _values()}
SEGMENTS = {name for key in _values() for name in key}


def is_value(path: str, below: str = "") -> bool:
    """A path of values, with `*` for a segment that is not told."""
    segments = (f"{below}.{path}" if below else path).split(".")
    for key, free in _values().items():
        fits = len(key) == len(segments) or (free and len(key) < len(segments))
        if fits and all(fnmatchcase(name, wanted) for name, wanted in zip(key, segments, strict=False)):
            return True
    return False


@cache
def _identifiers() -> frozenset[str]:
    """Names that Python code has."""
    return frozenset(
        name
        for path in _python()
        if path.name != Path(__file__).name
        for node in ast.walk(ast.parse(_read(path)))
        for field in ("id", "attr", "arg", "name")
        if isinstance(name := getattr(node, field, None), str)
    )


@cache
def _words() -> frozenset[str]:
    """Names that code has: identifiers and keys, and strings without a space. No words of messages."""
    found = set(_identifiers())
    for path in _python():
        if "tests" not in path.relative_to(PROJECT).parts:
            for _, text in _strings(path):
                words = text.split()
                if len(words) == 1 or all(re.search("[A-Z0-9]", word) for word in words):
                    found |= set(words)
    for path in FILES:
        if (
            path.suffix in (".yaml", ".yml", ".tpl", ".json", ".toml", ".sh", ".in")
            or path.name == "Makefile"
        ):
            found |= set(re.findall(r"(?m)^[\s-]*\"?([\w./-]+)\"?\s*[:=]", _read(path)))
            found |= set(re.findall(r"[\"'`]([\w./-]+)[\"'`]", _read(path)))
            found |= set(re.findall(r"(?m):\s+([\w./-]+)$", _read(path)))
            found |= set(re.findall(r"\$[({]?(\w+)", _read(path)))
    return frozenset(found)


@cache
def _snakes() -> frozenset[str]:
    """Words with an underscore anywhere in the code, in lower case; SQL and messages included."""
    kinds = (".py", ".sql", ".sh", ".yaml", ".tpl", ".c")
    texts = [_read(path) for path in FILES if path.suffix in kinds and path.name != Path(__file__).name]
    return frozenset(word.lower() for text in texts for word in re.findall(r"\w+_\w+", text))


@cache
def _kebabs() -> str:
    """Words with hyphens anywhere in the code, with hyphens around them."""
    kinds = (".py", ".sql", ".sh", ".yaml", ".yml", ".tpl", ".json", ".toml")
    texts = [_read(path) for path in FILES if path.suffix in kinds and path.name != Path(__file__).name]
    return " ".join({f"-{word}-" for text in texts for word in re.findall(r"[\w%]+(?:-[\w%]+)+", text)})


@cache
def _cronjobs() -> frozenset[str]:
    """Names of CronJobs, from the templates."""
    found: set[str] = set()
    for path in sorted(TEMPLATES.rglob("*.yaml")):
        text = _read(path)
        found |= set(re.findall(r'"component" "([\w-]+)"', text))
        for name in re.findall(r'"component" \(printf "([\w-]+)-%s"', text):
            found |= {f"{name}-{tier}" for tier in ("daily", "weekly", "monthly")}
    assert len(found) > 8
    return frozenset(found)


@cache
def _targets() -> frozenset[str]:
    return frozenset(re.findall(r"(?m)^([a-z][a-z-]*):", _read(PROJECT / "Makefile")))


@cache
def _options() -> dict[str, set[str]]:
    """The command line's commands with their options; those of no command under an empty name."""
    group = typer.main.get_command(app)
    commands: dict[str, set[str]] = {
        name: {one for found in command.params for one in (*found.opts, *found.secondary_opts)} | {"--help"}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }
    return commands | {"": {option for parameter in group.params for option in parameter.opts} | {"--help"}}


# ---- a document --------------------------------------------------------------------------------------------


class Document(NamedTuple):
    path: Path
    text: str

    @classmethod
    def of(cls, path: Path) -> Document:
        """A template's actions stand for nothing."""
        text = _read(path)
        return cls(path, re.sub(r"\{\{.*?\}\}", "", text) if path.suffix == ".gotmpl" else text)

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and text of every block of code."""
        return [
            (found[2], found[3])
            for found in re.finditer(r"(?ms)^( *)```(\w*)[^\n]*\n(.*?)^ *```$", self.text)
        ]

    @property
    def prose(self) -> str:
        """All but blocks of code and comments."""
        without = re.sub(r"(?ms)^ *```.*?^ *```$", "\n", self.text)
        return re.sub(r"(?s)<!--.*?-->", "", without)

    @property
    def spans(self) -> list[str]:
        """What stands in code marks."""
        found = []
        for part in re.split(r"\n\s*\n|\n(?=\|)", self.prose):
            found += [" ".join(span[1].split()) for span in re.finditer(r"(?<!`)`([^`]+)`(?!`)", part)]
        return found

    @property
    def shell(self) -> list[str]:
        """The lines of blocks that a shell runs, those that go on joined."""
        blocks = [text for language, text in self.blocks if language in ("", "bash", "sh", "console")]
        return [line for text in blocks for line in text.replace("\\\n", " ").splitlines()]


Rule = Callable[[Document], list[str]]


# ---- links -------------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What links into a page may name, as GitHub and MkDocs make it of headings."""
    found: dict[str, int] = {}
    result = set(re.findall(r'<a (?:id|name)="([^"]+)"', text))
    for heading in re.findall(r"(?m)^#{1,6} +(.+?)\s*#*$", re.sub(r"(?ms)^ *```.*?^ *```$", "", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        result.add(f"{slug}-{count}" if count else slug)
    return result


def links(document: Document) -> list[str]:
    """A relative link leads to a file, and to a heading that it has."""
    prose = re.sub(r"`[^`\n]+`", "", document.prose)
    targets = re.findall(r"\]\(\s*<?([^)\s>]+)>?[^)]*\)", prose)
    targets += re.findall(r"(?m)^\[[^\]]+\]:\s*(\S+)", prose)
    targets += re.findall(r'(?:href|src)="([^"]+)"', prose)
    complaints = []
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (document.path.parent / file) if file else document.path
        if file.startswith("/") or not there.exists() or PROJECT not in there.resolve().parents:
            complaints.append(f"leads nowhere: {target}")
        elif anchor and anchor not in anchors(_read(there) if file else document.text):
            complaints.append(f"no such heading: {target}")
    return complaints


# ---- values ------------------------------------------------------------------------------------------------

DOTTED = re.compile(
    r"(?<![\w./$%~@-])((?:[a-z][A-Za-z]*|%s|\{\}|…)(?:\.(?:[a-z][A-Za-z]*|%s|\{\}|…))+)(?![\w/(@-])(?!\.\w)"
)
KUBERNETES = {"metadata", "spec", "status"}
"""A path with one of these is of an object of Kubernetes."""


def _jobs_of(document: Document) -> list[str]:
    """The sections of the jobs that a document is about (one on a job's page): it may leave them out."""
    modules = [module for job, module in run.JOBS.items() if document.path.stem.startswith(job)]
    return [_sections()[module] for module in modules or _sections()]


def is_elsewhere(name: str) -> bool:
    """A dotted name of something else: Kubernetes' objects, Python, a file, an Ansible module."""
    parts = set(name.split("."))
    python = name.split(".")[0] not in SEGMENTS and parts <= _identifiers()
    return bool(python or KUBERNETES & parts or is_file(name) or name in ELSEWHERE or name in _words())


def unknown_values(text: str) -> list[str]:
    """Dotted names of a sentence that look like values, and are none. Those of other things do not begin with
    a section of the values and have no capital in them.
    """
    complaints = []
    for found in DOTTED.finditer(text):
        name = found[1].removeprefix("Values.")
        path = re.sub(r"%s|\{\}|…", "*", name)
        segments = path.split(".")
        looks = any(re.search(r"[a-z][A-Z]", segment) for segment in segments) or segments[0] in SECTIONS
        if looks and not is_value(path) and not is_elsewhere(name):
            complaints.append(f"no such value: {name}")
    return complaints


def unknown_words(text: str) -> list[str]:
    """The same of the last part of a path alone, such as `dumpSize`."""
    found = set(re.findall(r"(?<![\w./$%-])[a-z]+(?:[A-Z][a-z0-9]+)+(?![\w./(-])", text))
    return [f"no value of that name: {name}" for name in sorted(found - SEGMENTS - _words() - set(ELSEWHERE))]


def values(document: Document) -> list[str]:
    """A value that a document names is one of the chart: in a sentence, in code, with --set, as YAML."""
    plain = re.sub(r"\]\([^)]*\)|https?://\S+", "]", document.prose).replace("`", " ")
    complaints = unknown_values(plain) + unknown_words(plain)
    for span in document.spans:
        name = re.split(r": |=", span)[0]
        if re.fullmatch(r"[a-z][A-Za-z]*(\.[a-zA-Z]+)+", name):
            known = is_value(name) or is_elsewhere(name) or f"no such value: {name}" in complaints
            if not known and not any(is_value(name, section) for section in _jobs_of(document)):
                complaints.append(f"no such value: {name}")
    for line in document.shell + document.spans:
        for name in re.findall(r"--set(?:-string|-json|-file)?[ =]([a-z][\w.-]*)=", line):
            if not is_value(name) and name not in ELSEWHERE:
                complaints.append(f"no such value: --set {name}")
    for language, text in document.blocks:
        if language in ("yaml", "yml"):
            complaints += [f"no such value: {key}" for key in _unknown_keys(text)]
    return complaints


UNITS = {"s": 1, "seconds": 1, "minutes": 60, "hours": 3600, "hour": 3600, "days": 86400, "day": 86400}


def defaults(document: Document) -> list[str]:
    """What stands in brackets after a value is its default: `postgresBackupTiers.maximumAgeSeconds` (3 "
    "hours)."""
    complaints = []
    for found in re.finditer(
        r"`([a-z]\w*(?:\.\w+)+)`(?:\s+percent)?\s+\((\d+|an?)(?:\s+([a-z]+))?\)", document.prose
    ):
        value: object = _defaults()
        for name in found[1].split("."):
            value = value.get(name) if isinstance(value, dict) else None
        said = (int(found[2]) if found[2].isdigit() else 1) * UNITS.get(found[3] or "", 1)
        if value is not None and value != said:
            complaints.append(f"not the default: {found[1]} {said}")
    return complaints


@cache
def _defaults() -> dict[str, object]:
    values: dict[str, object] = yaml.safe_load(_read(CHART / "values.yaml"))
    return values


def _unknown_keys(text: str) -> list[str]:
    """Of a block of YAML that is values: all of its keys are sections, or one of them is."""
    content = yaml.safe_load(text)
    if not isinstance(content, dict) or not SECTIONS & set(content):
        return []

    def walk(part: dict[str, object], before: str) -> Iterator[str]:
        for name, value in part.items():
            path = f"{before}.{name}" if before else name
            if not is_value(path):
                yield path
            elif isinstance(value, dict):
                yield from walk(value, path)

    return list(walk(content, ""))


# ---- messages ----------------------------------------------------------------------------------------------


def messages() -> Iterator[tuple[str, str]]:
    """All that programs, chart, command line and playbooks say: where, and the text."""
    for path in _python():
        if "tests" in path.relative_to(PROJECT).parts:
            continue
        for line, text in _strings(path):
            yield f"{path.relative_to(PROJECT)}:{line}", text
    others = [*TEMPLATES.rglob("*"), *CHART.glob("values*"), *CHART.glob("files/*.sh")]
    others += [*(PROJECT / "values").iterdir(), *(PROJECT / "scripts" / "awx").rglob("*")]
    for path in others:
        if path.is_file() and path.suffix not in (".md", ".lock", ".in"):
            yield str(path.relative_to(PROJECT)), _read(path)


@cache
def _imports(module: str) -> frozenset[str]:
    """The modules of the package that a module needs, itself included; `run` is every program's frame."""
    found, left = {module}, [module]
    while left:
        for node in _nodes(left.pop()):
            if isinstance(node, ast.ImportFrom) and node.module:
                top, _, name = node.module.partition(".")
                names = {name} if name else {alias.name for alias in node.names}
                if top == "stack_backup_jobs":
                    new = {one for one in names if (PACKAGE / f"{one}.py").exists()} - found - {"run"}
                    found |= new
                    left += new
    return frozenset(found)


@cache
def _sections() -> dict[str, str]:
    """The programs' modules, and the sections of their values."""
    table = _read(TEMPLATES / "_jobs.tpl").replace("{{ . }}", "tier")
    rows = re.findall(r"(?m)^([a-z-]+):\n  section: (\w+)$", table)
    found = {run.JOBS[job]: section for job, section in rows}
    assert set(found) == {module for program, module in run.JOBS.items() if program not in run.OF_NO_JOB}
    return found


def unknown_abbreviations(text: str, module: str) -> list[str]:
    """`(value X)` names a value; of "this job" one that each job has whose program needs the module."""
    complaints = []
    for found in re.finditer(r"(of this job )?\((?:the )?values? ([^()]+)\)", text):
        names = re.split(r",? and |, ", re.sub(r" of this job$", "", found[2]))
        own = bool(found[1]) or found[2].endswith(" of this job")
        before = ""
        for name in names:
            if not re.fullmatch(r"[\w.{}]+", name):
                continue
            path = re.sub(r"\{\}", "*", name)
            users = [section for one, section in _sections().items() if module in {*_imports(one), "run"}]
            if own:
                right = bool(users) and all(is_value(path, section) for section in users)
            else:
                right = is_value(path) or bool(before and is_value(path, before))
            if not right:
                complaints.append(f"no such value: {name}")
            before = name.rpartition(".")[0]
    return complaints


def unknown_template_values(text: str) -> list[str]:
    return [
        f"no such value: {name}" for name in re.findall(r"\.Values\.([\w.]+\w)", text) if not is_value(name)
    ]


# ---- exit codes --------------------------------------------------------------------------------------------


def _codes(text: str) -> set[int]:
    """The codes in the first column of every table of codes."""
    found: set[int] = set()
    for part in re.split(r"(?m)^\| Code \| ", text)[1:]:
        for line in part.splitlines()[2:]:
            if not line.startswith("|"):
                break
            found |= set(map(int, re.findall(r"\d+", line.strip("|").split("|")[0])))
    return found


def codes(document: Document) -> list[str]:
    """A code is one of the programs or of the command line; a job's page has it in its table."""
    known = set(map(int, Exit)) | set(map(int, OwnExit))
    named = set(map(int, re.findall(r"exit codes?[ =:]+`?(\d+)", document.prose, re.IGNORECASE)))
    named |= set(map(int, re.findall(r"\((6[4-9]|7[0-8]|12[4-9]|13\d|14[0-3])[,)]", document.prose)))
    named |= _codes(document.text)
    complaints = [f"no such exit code: {code}" for code in sorted(named - known)]
    if document.path.parent.name == "jobs" and (table := _codes(document.text)):
        complaints += [f"not in the table of codes: {code}" for code in sorted((named & known) - table)]
    return complaints


def _ends(module: str) -> set[Exit]:
    """The failures that a program can end with: what the modules name that it needs."""
    return FRAME | {
        Exit[node.attr]
        for one in _imports(module) - {"formats"}
        for node in _nodes(one)
        if isinstance(node, ast.Attribute)
        and getattr(node.value, "id", "") == "Exit"
        and node.attr in Exit.__members__
    } - {Exit.DONE}


def _page(job: str) -> Path:
    found = [page for page in PAGES if page.stem.startswith(job)]
    return found[0] if found else PROJECT / "docs" / "exit-codes.md"


# ---- commands and files ------------------------------------------------------------------------------------


def commands(document: Document) -> list[str]:
    """Targets of make, commands and options of the command line, jobs and variables are there."""
    complaints = []
    for line in document.shell + document.spans:
        for target in re.findall(r"(?:^|[;&|(] *)make ((?:[a-z][a-z-]* ?)+)", line):
            complaints += [f"no such target: make {one}" for one in target.split() if one not in _targets()]
        for call in re.findall(r"(?:^|[;&|(] *)(?:\S*/)?stack-backup((?: +[^|;&)#]+)?)", line):
            complaints += _unknown_call(call)
        for job in re.findall(r"(?:cronjob/|component=|cronjob )([a-z][a-z-]*[a-z])\b(?![\w.]*[{%])", line):
            if job not in _cronjobs():
                complaints.append(f"no such CronJob: {job}")
        for name in (
            re.findall(r"(?:^|set env .* |--set )([A-Z][A-Z_]+)=", line)
            if "set env" in line or "--set " in line
            else []
        ):
            if name.lower() not in _words() and name not in ("NAME",):
                complaints.append(f"no such variable: {name}")
        if (playbook := re.search(r"ansible-playbook (\S+\.yaml)", line)) is not None:
            text = _read(PROJECT / playbook[1]) if (PROJECT / playbook[1]).exists() else ""
            complaints += [
                f"no such variable of {playbook[1]}: {name}"
                for name in re.findall(r" -e (\w+)=", line)
                if not re.search(rf"\b{name}\b", text)
            ]
    if document.path.name == "command-line.md":
        known = set().union(*_options().values())
        for span in document.spans:
            if span.startswith("-") and span.split()[0] not in known:
                complaints.append(f"no such option: {span}")
    return complaints


def unknown_calls(text: str) -> list[str]:
    """Of a message: commands in code marks or quotes, codes, and documents."""
    complaints = []
    for line in re.findall(r"[`']((?:stack-backup|make) [a-z][^`'\n]*)[`']", text):
        complaints += commands(Document(PROJECT / "message", f"`{line}`"))
    complaints += [
        f"no such CronJob: {job}"
        for job in re.findall(r"--from=cronjob/([a-z][a-z-]*)", text)
        if job not in _cronjobs()
    ]
    known = set(map(int, Exit)) | set(map(int, OwnExit))
    complaints += [
        f"no such exit code: {code}"
        for code in re.findall(r"(?i)exit codes? (\d+)", text)
        if int(code) not in known
    ]
    complaints += [
        f"no such file: {name}"
        for name in re.findall(r"(?<![\w/.-])[\w./-]+\.md\b", text)
        if not is_file(name.replace("../", ""))
    ]
    return complaints


def _unknown_call(call: str) -> list[str]:
    """Of the words after `stack-backup`."""
    words = call.replace("[", " ").replace("]", " ").split()
    if not words:
        return []
    name = "" if words[0].startswith("-") else words.pop(0)
    if name.isupper():
        return []
    if name not in _options():
        return [f"no such command: stack-backup {name}"]
    complaints = [
        f"no such option: stack-backup {name} {word}"
        for word in (word.partition("=")[0] for word in words if word.startswith("-"))
        if word not in _options()[name]
    ]
    argument = next(iter(words), "-")
    if name == "recover" and argument not in (*Kind, "WHAT") and not argument.startswith("-"):
        complaints.append(f"no such thing to recover: {argument}")
    if name == "run" and argument not in (*_cronjobs(), "JOB") and not argument.startswith("-"):
        complaints.append(f"no such job: stack-backup run {argument}")
    return complaints


SUFFIXES = (
    "py|md|gotmpl|yaml|yml|json|toml|tpl|sh|sql|lock|in|mod|sum|txt|c|"
    "tsv|gz|zst|conf|state|stored|partial|rclonelink"
)


def _patterns(name: str) -> str:
    """A name with `*` for what is only an example: NAME, …, a time."""
    name = re.sub(r"\d{4}-\d\d-\d\dT[\d:-]+Z", "*", name)
    return re.sub(r"…|\b[A-Z][A-Z_-]*[A-Z]\b|<[^>]*>|\{\}|\{[\w,]*\}", "*", name)


def is_file(name: str) -> bool:
    """A file or folder of the project, by its path or the end of it."""
    pattern = _patterns(name).rstrip("/")
    if not re.search(r"[A-Za-z0-9]", pattern):
        return False
    if re.search(r"[*?\[]", pattern):
        return any(fnmatchcase(known, pattern) or fnmatchcase(known, f"*/{pattern}") for known in NAMES)
    return pattern in NAMES or any(known.endswith(f"/{pattern}") for known in NAMES)


@cache
def _volume_words() -> frozenset[str]:
    """The parts of names that volumes and pods have: strings of the package without a space, and paths of the
    templates and the values.
    """
    texts = [text for path in sorted(PACKAGE.glob("*.py")) for _, text in _strings(path)]
    found = {part for text in texts if not re.search(r"\s", text) for part in re.split(r"/|\{\}", text)}
    for path in [*sorted(TEMPLATES.rglob("*")), CHART / "values.yaml"]:
        if path.is_file():
            found |= {
                part for one in re.findall(r"(?<![\w.])(?:/[\w.-]+)+", _read(path)) for part in one.split("/")
            }
    found |= {dump_name("", suffix) for suffix in ("gz", "zst")} | {"hourly", "daily", "weekly", "monthly"}
    return frozenset(found) - {""}


def of_a_volume(name: str) -> bool:
    """A path in a pod or on a volume: each part is one of its names, or the begin or end of one."""
    for part in re.split("/", _patterns(name)):
        pieces = [piece for piece in part.split("*") if piece]
        for piece in pieces:
            ends = {word for word in _volume_words() if word.startswith(piece) or word.endswith(piece)}
            if not (ends if part != piece else piece in _volume_words()):
                return False
    return bool(re.search(r"[a-z]", _patterns(name)))


def files(document: Document) -> list[str]:
    """A path in code marks is of the project, or of a volume; one of the project in a command is there."""
    complaints = []
    for span in document.spans:
        for word in span.split() if re.match(r"[a-z]+ ", span) else [span]:
            word = word.strip(",;()'\"")
            if re.search(r"[:=\\@<|]|^[~-]|^\d+$", re.sub(r"T[\d:]+Z", "", word)) or " " in word:
                continue
            looks = "/" in word.strip("/") or word.startswith("/") or re.search(rf"\.(?:{SUFFIXES})$", word)
            if not looks or word == "/" or re.match(r"(?:cronjob|job|pod)/", word):
                continue
            known = is_value(word) or is_file(word) or of_a_volume(word)
            if not (known or word in _words() or word in ELSEWHERE):
                complaints.append(f"no such file: {word}")
    roots = "|".join(
        re.escape(path.name) for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
    for line in document.shell:
        for word in re.findall(rf"(?<![\w./~-])((?:{roots})/[\w./*-]+)", line):
            if not is_file(word):
                complaints.append(f"no such file: {word}")
        for path, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", line):
            if not is_file(path) or f"def {name}(" not in _read(PROJECT / path):
                complaints.append(f"no such test: {name}")
    return complaints


# ---- names -----------------------------------------------------------------------------------------


def names(document: Document) -> list[str]:
    """A name in code marks is one that the code has: figures, variables, reasons; an alert or metric, too."""
    shell = set(re.findall(r"\w+", "\n".join(text for _, text in document.blocks)))
    complaints = []
    for span in document.spans:
        name = span.partition("=")[0].partition(": ")[0]
        snake = re.fullmatch(r"[a-z]\w*_\w+|[A-Z][A-Z0-9]*_[A-Z0-9_]+", name)
        camel = re.fullmatch(r"([A-Z][a-z]+){2,}", name)
        kebab = re.fullmatch(r"[a-z]+(-[a-z]+)+", name)
        if (
            (snake and name.lower() not in _snakes() | shell and name not in ELSEWHERE)
            or (camel and name not in _words() | shell | set(ELSEWHERE))
            or (kebab and f"-{name}-" not in _kebabs() and name not in shell | set(ELSEWHERE))
        ):
            complaints.append(f"no such name: {name}")
    section = document.text.partition("\n## Figures of the verdict\n")[2].partition("\n## ")[0]
    for name in Document(document.path, section).spans:
        if re.fullmatch(r"[a-z_]+", name) and name not in _figures(document.path.stem):
            complaints.append(f"no such figure: {name}")
    return complaints


@cache
def _figures(page: str) -> frozenset[str]:
    """Names that the program of a page has: of arguments, and strings without a space."""
    modules = [module for job, module in run.JOBS.items() if page.startswith(job)]
    needed = {one for module in modules for one in {*_imports(module), "run", "history"}}
    found = {node.arg for one in needed for node in _nodes(one) if isinstance(node, ast.keyword) and node.arg}
    texts = {text for one in needed for _, text in _strings(PACKAGE / f"{one}.py")}
    return frozenset(found | {text for text in texts if " " not in text})


# ---- wording -----------------------------------------------------------------------------------------------

WORDING = {
    "something that passes": "a transient error",
    "tried again": "retried",
    "out of turn": "outside its schedule",
    "pass(?:ed|es)? over": "skip",
    "at work": "running",
    "makes? no sense": "invalid",
    "for want of": "lacks",
    "for who": "for anyone who",
    "for ever": "forever",
    "anew": "again",
    "spoil[ts]?": "damage",
    "mend(?:s|ed|ing)?": "fix",
    "look (?:if|why|whether)": "check whether, find out why",
    "(?:has|have) (?:it|them)? ?no more": "no longer",
}
"""Words that no operator would use, as patterns, and what they would say."""


def wording(document: Document) -> list[str]:
    """Sentences have the field's words. What a program says stands in code marks, and is left to it."""
    prose = re.sub(r"`[^`]*`", "", document.prose)
    return [
        f"say {better!r}: {found[0]}"
        for pattern, better in WORDING.items()
        for found in re.finditer(rf"\b{pattern}\b".replace(" ", r"\s+"), prose, re.IGNORECASE)
    ]


# ---- the tests ---------------------------------------------------------------------------------------------

ELSE = PROJECT / "docs" / "jobs" / "media-recovery.md"
"""The page that the examples below are taken for."""


@pytest.mark.parametrize(
    ("rule", "text", "complaint"),
    [
        (links, "See [the page](../no-such-page.md).", "leads nowhere: ../no-such-page.md"),
        (
            links,
            "See [the\npage](../formats.md#no-such-heading).",
            "no such heading: ../formats.md#no-such-heading",
        ),
        (links, "See [below](#no-such-heading).", "no such heading: #no-such-heading"),
        (links, "See [it](/absent/page.md).", "leads nowhere: /absent/page.md"),
        (values, "Set `network.offsitePeers`.", "no such value: network.offsitePeers"),
        (values, "Set `scratch.bytes`.", "no such value: scratch.bytes"),
        (values, "Set `databaseDrill.every: 3`.", "no such value: databaseDrill.every"),
        (values, "Set postgresBackupHourly.often, or not.", "no such value: postgresBackupHourly.often"),
        (values, "Set `keepForeverSeconds`.", "no value of that name: keepForeverSeconds"),
        (
            values,
            "```bash\nhelm upgrade x y --set postgresBackupHourly.often=3\n```\n",
            "no such value: --set postgresBackupHourly.often",
        ),
        (values, "```yaml\ndatabaseDrill:\n  often: 3\n```\n", "no such value: databaseDrill.often"),
        (
            defaults,
            "As `postgresBackupTiers.maximumAgeSeconds` (4 hours) says.",
            "not the default: postgresBackupTiers.maximumAgeSeconds 14400",
        ),
        (
            defaults,
            "Less than `postgresBackupTiers.minimumShare` percent (40).",
            "not the default: postgresBackupTiers.minimumShare 40",
        ),
        (codes, "It ends with exit code 71.", "no such exit code: 71"),
        (codes, "It is refused (71).", "no such exit code: 71"),
        (codes, "| Code | When |\n| --- | --- |\n| 64, 79 | Never |\n", "no such exit code: 79"),
        (codes, "(65)\n\n| Code | When |\n| --- | --- |\n| 64 | Never |\n", "not in the table of codes: 65"),
        (commands, "Run `make everything`.", "no such target: make everything"),
        (commands, "```bash\nmake demo everything\n```\n", "no such target: make everything"),
        (commands, "`stack-backup destroy`", "no such command: stack-backup destroy"),
        (commands, "`stack-backup drill [--delete]`", "no such option: stack-backup drill --delete"),
        (commands, "`stack-backup recover roles`", "no such thing to recover: roles"),
        (commands, "`stack-backup run database-backup`", "no such job: stack-backup run database-backup"),
        (commands, "```bash\nkubectl create job x --from=cronjob/backup\n```\n", "no such CronJob: backup"),
        (commands, "```bash\n a | kubectl set env -f - SURE=yes\n```\n", "no such variable: SURE"),
        (
            commands,
            "```bash\nansible-playbook scripts/awx/install.yaml -e colour=red\n```\n",
            "no such variable of scripts/awx/install.yaml: colour",
        ),
        (files, "See `scripts/no_such_file.py`.", "no such file: scripts/no_such_file.py"),
        (files, "See `no_such_file.py`.", "no such file: no_such_file.py"),
        (files, "It lies in `/backups/hourly`.", "no such file: /backups/hourly"),
        (files, "It lies in `.stack-backup/notes`.", "no such file: .stack-backup/notes"),
        (files, "```bash\nhelm install --values values/none.yaml\n```\n", "no such file: values/none.yaml"),
        (files, "```bash\npytest tests/unit/test_run.py::test_none\n```\n", "no such test: test_none"),
        (names, "The figure `not_there_yet`.", "no such name: not_there_yet"),
        (names, "The job `replica-checker`.", "no such name: replica-checker"),
        (names, "It fires `StackBackupTooOld`.", "no such name: StackBackupTooOld"),
        (names, "The metric `stack_backup_age_seconds`.", "no such name: stack_backup_age_seconds"),
        (names, "\n## Figures of the verdict\n`elephants`", "no such figure: elephants"),
        (wording, "It is something that\npasses.", "say 'a transient error': something that\npasses"),
    ],
)
def test_a_rule_sees_what_is_not_there(rule: Rule, text: str, complaint: str) -> None:
    assert complaint in rule(Document(ELSE, text))


@pytest.mark.parametrize(
    ("module", "text", "complaint"),
    [
        (
            "hourly",
            "Raise it (value postgresBackupHourly.memory).",
            "no such value: postgresBackupHourly.memory",
        ),
        ("rclone", "It may not (values networkPolicy.offsitePeers and ports).", "no such value: ports"),
        ("pack", "Raise the limit of this job (value keep).", "no such value: keep"),
        ("pack", "Raise the limit (value resources).", "no such value: resources"),
    ],
)
def test_a_message_s_abbreviations_are_seen(module: str, text: str, complaint: str) -> None:
    assert complaint in unknown_abbreviations(text, module)
    right = "Look (values networkPolicy.offsitePeers and offsitePorts), of this job (value resources)."
    assert unknown_abbreviations(right, module) == []


@pytest.mark.parametrize(
    "text",
    [
        "Run `make everything`.",
        "See `stack-backup destroy`.",
        "It is exit code 71.",
        "See docs/none.md.",
        "kubectl create job now --from=cronjob/backup",
    ],
)
def test_a_message_s_commands_codes_and_pages_are_seen(text: str) -> None:
    assert unknown_calls(text)


@pytest.mark.parametrize(
    "rule",
    [links, values, defaults, codes, commands, files, names, wording],
    ids=lambda rule: rule.__name__,
)
def test_what_a_document_names_is_there(rule: Rule) -> None:
    assert len(DOCUMENTS) > 15
    complaints = [
        f"{path.relative_to(PROJECT)}: {one}" for path in DOCUMENTS for one in rule(Document.of(path))
    ]
    assert not complaints, "\n" + "\n".join(complaints)


def test_what_a_workflow_makes_is_there() -> None:
    paths = [path for path in FILES if path.relative_to(PROJECT).parts[0].startswith(".")]
    found = {
        target
        for path in paths
        for target in re.findall(r"(?:^|: |[\"'&;] *)make ([a-z][a-z-]*)", _read(path), re.MULTILINE)
    }
    assert found
    assert found - _targets() == set()


def test_what_operators_are_told_has_their_words() -> None:
    tools = ("scripts/stack_backup/", "scripts/awx/")
    said = [(where, text) for where, text in messages() if where.startswith(tools)]
    assert len(said) > 100
    found = [f"{where}: {one}" for where, text in said for one in wording(Document(PROJECT, text))]
    assert not found, "\n" + "\n".join(found)


def test_what_a_message_names_is_there() -> None:
    complaints = []
    for where, text in messages():
        complaints += [f"{where}: {one}" for one in unknown_values(text) + unknown_calls(text)]
        if "values" in where:
            comments = re.findall(r"(?m)^\s*# .*|\"description\": .*", text)
            complaints += [f"{where}: {one}" for one in unknown_words(chr(10).join(comments))]
        if where.startswith(str(PACKAGE.relative_to(PROJECT))):
            module = Path(where.partition(":")[0]).stem
            complaints += [f"{where}: {one}" for one in unknown_abbreviations(text, module)]
        if where.startswith(str(TEMPLATES.relative_to(PROJECT))):
            complaints += [f"{where}: {one}" for one in unknown_template_values(text)]
    assert not complaints, "\n" + "\n".join(complaints)


SAID_BY_OTHERS = {
    "Kubernetes": """Job was active longer than specified deadline
MountVolume.SetUp failed for volume "
Multi-Attach error for volume "
Usage of EmptyDir volume "scratch" exceeds the limit "
The node was low on resource: ephemeral-storage
Not starting job because prior execution is running and concurrency policy is Forbid
Missed scheduled time to start a job
Back-off pulling image \"""",
    "the C library": "Name or service not known",
}
"""What the page of messages quotes beside our own."""


@cache
def _said() -> str:
    """All messages, a line each, with … where they have a value."""
    values = re.compile(r"\{\{.*?\}\}|\{\}|%[sdvq]|\$\{?\w+\}?", re.DOTALL)
    ours = [" ".join(values.sub("…", text).split()) for _, text in messages()]
    systems = [os.strerror(number) for number in errno.errorcode]
    return "\n".join([*ours, *systems, *SAID_BY_OTHERS.values()])


def is_said(text: str) -> bool:
    """Whether a message has these words; it may be put together of two or three."""
    if len(text) < 4 or text in _said():
        return True
    words = text.split(" ")
    return any(
        " ".join(words[:end]) in _said() and is_said(" ".join(words[end:]).strip(" .:(),"))
        for end in range(2, len(words) - 1)
    )


def unsaid(document: Document) -> list[str]:
    """A sentence in code marks is said by a program, the chart or the command line; … stands for a value."""
    quoted = [span for span in document.spans if len(span.split()) > 3 and re.match("[A-Z…]", span)]
    return [
        f"nobody says: {span}"
        for span in quoted
        if not all(is_said(part.strip(" .:(),")) for part in span.split("…"))
    ]


def test_a_message_that_the_page_of_messages_quotes_is_said() -> None:
    document = Document.of(PROJECT / "docs" / "troubleshooting.md")
    assert unsaid(document) == []
    assert unsaid(Document(document.path, "`The volume has no room, alas.`"))
    assert unsaid(Document(document.path, "`The source … is what its manifest says: its sha256 agrees.`"))


@pytest.mark.parametrize("job", sorted(run.JOBS.keys() - run.OF_NO_JOB))
def test_a_job_s_page_has_each_failure_that_its_program_can_end_with(job: str) -> None:
    ends = _ends(run.JOBS[job])
    table = _codes(_read(_page(job)))
    assert sorted(map(int, ends - table)) == [], f"{_page(job).name} does not name them"
    assert sorted(table - ends - {Exit.DONE}) == [], f"{_page(job).name} names them, and no module does"


def test_the_page_of_the_command_line_has_its_codes() -> None:
    assert _codes(_read(PROJECT / "docs" / "command-line.md")) == set(map(int, OwnExit))


def _times(text: str) -> set[int]:
    return {int(times) for times in re.findall("(?<![.\\d])(\\d+) \u00d7 ", text)} - {1}


def test_scratch_is_as_large_as_the_guards_ask_for() -> None:
    (table,) = re.findall(r"\$times := dict (.*?) \}\}", _read(TEMPLATES / "validate.yaml"))
    guards = re.findall(r'"([\w.]+)" (\d+)', table)
    assert len(guards) > 1
    readme = _read(CHART / "README.md")
    capacity = _read(PROJECT / "docs" / "capacity.md")
    for key, times in guards:
        (row,) = re.findall(rf"(?m)^\| {key}\.scratch\.size \|.*$", readme)
        assert _times(row) == {int(times)} - {1}
        section = key.partition(".")[0]
        job = next(job for job, module in run.JOBS.items() if _sections().get(module) == section)
        (row,) = re.findall(rf"(?m)^\| scratch of `{job}`.*$", capacity)
        assert _times(row) == {int(times)} - {1}
