"""How the run of a job must have ended, for every layer: `green` or `red`.

What a test module calls `refused` is a run that is red and has left everything as it was; what that is, the
module of each job says.
"""

from __future__ import annotations

from stack_backup.runs import JobResult


def green(result: JobResult, *outcomes: str) -> JobResult:
    """It ended well, with one of these outcomes where any are given."""
    assert result.succeeded, f"{result.reason}\n{result.log}"
    assert (result.verdict["job"], result.verdict["exit"]) == (result.job, 0)
    assert not outcomes or result.verdict["outcome"] in outcomes, result.verdict
    return result


def red(result: JobResult, code: int, *words: str) -> JobResult:
    """It ended with this exit code, its verdict says so, in one line that holds `words`, and is the last."""
    assert result.exit_code == code, result.log
    verdict = result.verdict
    assert verdict, f"no verdict in the termination message:\n{result.log}"
    assert (verdict["job"], verdict["exit"], verdict["outcome"]) == (result.job, code, "failed"), verdict
    for word in words:
        assert word.lower() in verdict["message"].lower(), verdict["message"]
    assert "\n" not in verdict["message"]
    assert result.log.splitlines()[-1].startswith("{"), "the verdict is the last line of the log"
    return result
