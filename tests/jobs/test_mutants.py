"""Programs with one safeguard taken out: the tests must see it. What they cannot see is not tested."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stack_backup_lab.render import render
from tests.jobs import test_hourly, test_hourly_failures
from tests.jobs.hourly import NAMESPACE, VALUES, Hourly
from tests.jobs.mutants import mutant

MUTANTS: dict[str, tuple[str, str, str, Callable[[Hourly], None]]] = {
    "every database need not be there": (
        "hourly.py",
        "if name not in held:",
        "if False:",
        test_hourly_failures.test_dump_that_lacks_a_database,
    ),
    "nothing is read back": (
        "hourly.py",
        'if read_afresh(job, target, "the new dump") != packed.sha256:',
        "if False:",
        test_hourly_failures.test_disk_that_gives_back_something_else,
    ),
    "everybody reads the dumps": (
        "run.py",
        "os.umask(0o027)",
        "os.umask(0o022)",
        test_hourly.test_a_dump_has_the_contracts_name_and_nobody_else_can_read_it,
    ),
    "backslashes of a password are not escaped": (
        "server.py",
        '.replace("\\\\", "\\\\\\\\")',
        "",
        test_hourly.test_a_newline_at_the_end_of_the_secret_is_no_part_of_the_password,
    ),
    "former databases are dumped": (
        "hourly.py",
        "for name in there.left_out]",
        "for name in ()]",
        lambda hourly: test_hourly.test_a_former_database_counts_nowhere(hourly, "true"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_missing_safeguard_is_seen(hourly: Hourly, tmp_path: Path, name: str) -> None:
    file, safeguard, instead, test = MUTANTS[name]
    chart = mutant(tmp_path, f"stack_backup_jobs/{file}", safeguard, instead)
    hourly.stack.apply(render(VALUES, namespace=NAMESPACE, chart=chart))
    with pytest.raises(AssertionError):
        test(hourly)
