"""What is put in a job's way: shims in the place of commands, and points at which its Python stops."""

from __future__ import annotations

REAL = "export PATH=${PATH#/faults/bin:}"
"""Makes a shim's later commands the image's own."""

PAUSE = "touch /faults/reached; until [[ -e /faults/go ]]; do sleep 0.02; done"
"""Says that the point is reached, and waits to be let go on."""


def real(command: str) -> str:
    """The end of a shim: the command that it stands for, as it was called."""
    return f'{REAL}; exec {command} "$@"'


def hold(command: str, when: str = "true") -> dict[str, str]:
    """Stops the command before its first call for which `when` is true (bash, `$*` is the call)."""
    return {command: f"if [[ ! -e /faults/reached ]] && {when}; then {PAUSE}; fi; {real(command)}"}


def hold_amid(command: str, size: int, when: str = "true") -> dict[str, str]:
    """Lets a filter have `size` bytes, then stops it as `hold` does."""
    feed = f"{{ head -c {size}; {PAUSE}; cat; }}"
    return {
        command: f"if [[ ! -e /faults/reached ]] && {when}; then {REAL}; "
        f'set -o pipefail; {feed} | {command} "$@"; exit; fi; {real(command)}'
    }


def fail(command: str, code: int, message: str, when: str = "true") -> dict[str, str]:
    """Lets the calls for which `when` is true fail with a message, without doing anything."""
    return {command: f'if {when}; then printf "%s\\n" "{message}" >&2; exit {code}; fi; {real(command)}'}


def dump_by(script: str) -> dict[str, str]:
    """Lets pg_dumpall be `script` (its arguments are in `$@`), but for the question after its version."""
    return {
        "pg_dumpall": f"if [[ $* != *--version* ]]; then {REAL}; {script}; exit; fi; {real('pg_dumpall')}"
    }


def amid_pipe(command: str, script: str) -> dict[str, str]:
    """Lets a stage of a pipe be `script`; where the command does not read a pipe it is itself."""
    return {command: f"if [[ -p /dev/stdin ]]; then {REAL}; {script}; exit; fi; {real(command)}"}


def hold_python(
    event: str, when: str = "True", *, point: str = "reached", go: str = "go", after: bool = False
) -> str:
    """Stops a Python program where `event` happens for the first time with `when`, until it is let go on.

    `Faults(python=...)` takes the sum of such texts; `runtime/python_faults.py` says what an event is and
    what `when` knows: "os.link" with "target.endswith('.gz')", or a function of the program, such as
    "stack_backup_jobs.session:Session.execute" (with `after`: where it has returned).
    """
    return f"hold({event!r}, {when!r}, {point!r}, {go!r}, {after})\n"


def fail_python(event: str, code: str, when: str = "True", *, times: int = 0, after: bool = False) -> str:
    """Lets `event` raise the OSError of this name, such as EIO: always, or so many times in a pod."""
    return f"fail({event!r}, {code!r}, {when!r}, {times}, {after})\n"


def kill_python(event: str, when: str = "True", *, after: bool = False) -> str:
    """Ends the process in which `event` happens, as `kill -9` does."""
    return f"kill({event!r}, {when!r}, {after})\n"


def patch_python(module: str, source: str) -> str:
    """Runs `source` among the names of a module of the programs when it has been loaded."""
    return f"patch({module!r}, {source!r})\n"


HEARD = patch_python(
    "stack_backup_jobs.job",
    """
real = Job.stop
def stop(self):
    open("/faults/heard", "w").close()
    real(self)
Job.stop = stop
""",
)
"""Makes the file `heard` when the worker has heard that it is to stop: what goes on sooner may end well."""
