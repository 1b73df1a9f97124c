"""What a test plants as `sitecustomize` in a pod's Python: it stops, fails or kills a program at a point.

A point is an audit event of Python (`os.link`, `open`, `subprocess.Popen`, `socket.connect`, ...), a
function of `os` that has no event (`os.fsync`, `os.stat`, ...), or a function of a package
(`package.module:Class.method`). The lines of a test follow this text in the planted file, and call `hold`,
`fail` and `kill`. Their `when` is an expression over

args, kwargs  what the event or function was given (without the object or class of a method)
path          the first of them: text, or of a descriptor what it stands for
target        the second of them as text (of `os.link` and `os.rename`: the new name)

and false where it raises an error. With `after`, the point is where the function has returned.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.abc
import importlib.machinery
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any

FOLDER = "/faults"
LINES = "lines-"
"""How the files are called that `record` writes."""
ACT = Callable[[tuple[Any, ...]], None]

_rules: dict[str, list[tuple[str, ACT]]] = {}
_functions: dict[str, list[str]] = {}
"""The functions of packages at which rules wait, by module."""
_patches: dict[str, list[str]] = {}
"""What is run among the names of a module, by module."""
_at_it = threading.local()
"""What a rule itself does is no point."""
_real_open, _real_sleep, _real_kill, _real_write = os.open, time.sleep, os.kill, os.write


def hold(event: str, when: str = "True", point: str = "reached", go: str = "go", after: bool = False) -> None:
    """Stops the program: makes the file `point` and waits for the file `go`; once, in whichever process."""

    def act(_: tuple[Any, ...]) -> None:
        if not os.path.exists(f"{FOLDER}/{point}"):  # noqa: PTH110 (pathlib has points of its own)
            os.close(_real_open(f"{FOLDER}/{point}", os.O_CREAT | os.O_WRONLY, 0o666))
            while not os.path.exists(f"{FOLDER}/{go}"):  # noqa: PTH110
                _real_sleep(0.01)

    _at(event, when, act, after)


def fail(event: str, code: str, when: str = "True", times: int = 0, after: bool = False) -> None:
    """Raises the OSError `code` (such as `EIO`): always, or as many `times`, in whichever process."""
    number = getattr(errno, code)
    name = f"{FOLDER}/failed-{sum(map(len, _rules.values()))}"

    def act(args: tuple[Any, ...]) -> None:
        if times and not any(_first(f"{name}-{count}") for count in range(times)):
            return
        paths = args[: 2 if event in ("os.link", "os.rename", "os.symlink") else 1]
        names = [os.fspath(arg) for arg in paths if isinstance(arg, (str, bytes, os.PathLike))]
        first, second = (*names, None, None)[:2]
        raise OSError(number, os.strerror(number), first, None, second)

    _at(event, when, act, after)


def kill(event: str, when: str = "True", after: bool = False) -> None:
    """Ends the process as by `kill -9`."""

    def act(_: tuple[Any, ...]) -> None:
        _real_kill(os.getpid(), 9)
        os._exit(137)  # the first process of a pod cannot be killed from within

    _at(event, when, act, after)


def patch(module: str, source: str) -> None:
    """Runs `source` among the names of a module of a package when that has been loaded."""
    _functions.setdefault(module, [])
    _patches.setdefault(module, []).append(source)


def record(folder: str) -> None:
    """Writes every line of the programs in `folder` that is run, at once: however the process ends.

    Needs Python 3.12 or newer, and does nothing in an older one.
    """
    if sys.version_info < (3, 12):
        return
    monitoring = sys.monitoring
    sink = _real_open(f"{FOLDER}/{LINES}{os.getuid()}-{os.getpid()}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def line(code: CodeType, number: int) -> Any:
        if code.co_filename.startswith(folder):
            _real_write(sink, f"{code.co_filename}:{number}\n".encode())
        return monitoring.DISABLE

    monitoring.use_tool_id(monitoring.COVERAGE_ID, "lines")
    monitoring.register_callback(monitoring.COVERAGE_ID, monitoring.events.LINE, line)
    monitoring.set_events(monitoring.COVERAGE_ID, monitoring.events.LINE)


def _first(name: str) -> bool:
    try:
        os.close(_real_open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    return True


def _at(event: str, when: str, act: ACT, after: bool) -> None:
    module, _, function = event.partition(":")
    if function:
        _functions.setdefault(module, []).append(function)
    elif event.startswith("os.") and event not in _AUDITED:
        name = event.removeprefix("os.")
        if event not in _rules and f"{event} ended" not in _rules:
            setattr(os, name, _wrapped(event, getattr(os, name)))
    elif after:
        raise ValueError(f"{event} is seen before it happens alone")
    _rules.setdefault(f"{event} ended" if after else event, []).append((when, act))


def _judge(event: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Do what the rules for this event say."""
    rules = _rules.get(event)
    if not rules or getattr(_at_it, "it", False):
        return
    _at_it.it = True
    try:
        names = {"args": args, "kwargs": kwargs, "path": _text(args[0:1]), "target": _text(args[1:2])}
        for when, act in rules:
            wanted = False
            with contextlib.suppress(Exception):
                wanted = bool(eval(when, {"os": os}, names))
            if wanted:
                act(args)
    finally:
        _at_it.it = False


def _text(args: tuple[Any, ...]) -> str:
    if not args:
        return ""
    (arg,) = args
    if isinstance(arg, int):
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{arg}")  # noqa: PTH115
    return os.fsdecode(arg) if isinstance(arg, (bytes, os.PathLike)) else str(arg)


def _wrapped(event: str, function: Callable[..., Any], first: int = 0) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        _judge(event, args[first:], kwargs)
        result = function(*args, **kwargs)
        _judge(f"{event} ended", args[first:], kwargs)
        return result

    return wrapper


def _wrap_in(module: ModuleType) -> None:
    """Patch a module that has just been loaded, and wrap those of its functions at which rules wait."""
    for source in _patches.get(module.__name__, []):
        exec(source, vars(module))
    for dotted in dict.fromkeys(_functions[module.__name__]):
        *owners, name = dotted.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        found = vars(owner)[name]
        event = f"{module.__name__}:{dotted}"
        if isinstance(found, (staticmethod, classmethod)):
            method = isinstance(found, classmethod)
            setattr(owner, name, type(found)(_wrapped(event, found.__func__, method)))
        else:
            setattr(owner, name, _wrapped(event, found, bool(owners)))


class _Loader(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader) -> None:
        self._real = real

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._real.exec_module(module)
        _wrap_in(module)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in _functions:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


_AUDITED = {
    f"os.{name}"
    for name in (
        *(
            "chmod",
            "chown",
            "exec",
            "fork",
            "kill",
            "link",
            "listdir",
            "listxattr",
            "mkdir",
            "posix_spawn",
            "putenv",
        ),
        *(
            "remove",
            "rename",
            "rmdir",
            "scandir",
            "setxattr",
            "getxattr",
            "symlink",
            "truncate",
            "utime",
            "walk",
            "unsetenv",
        ),
    )
}
sys.meta_path.insert(0, _Finder())
sys.addaudithook(lambda event, args: _judge(event, args, {}))
