"""Questions of the doctor's, and their findings. A question returns a sentence where all is well; else it
raises JobError (a job could not do its work), DoubtError (it may not), or NotAskedError.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stack_backup_jobs.errors import JobError
from stack_backup_jobs.formats import FAILED, OK, SKIPPED, WARNING, Finding
from stack_backup_jobs.run import of_any

Question = Callable[[], str]


class DoubtError(Exception):
    """What was found, and what to do about it."""

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


class NotAskedError(Exception):
    """Why a question could not be asked, or need not be."""


class Examination:
    """Of one subject. `codes` has the exit code of each failure."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.findings: list[Finding] = []
        self.codes: list[int] = []

    def ask(self, check: str, question: Question) -> bool:
        """Whether it has not failed."""
        try:
            self._found(OK, check, question())
        except DoubtError as doubt:
            self._found(WARNING, check, doubt.what, doubt.advice)
        except NotAskedError as why:
            self._found(SKIPPED, check, str(why))
        except Exception as error:
            self.fail(check, of_any(error))
            return False
        return True

    def fail(self, check: str, failure: JobError) -> None:
        self.codes.append(int(failure.code))
        self._found(FAILED, check, failure.what, failure.advice)

    def in_turn(self, questions: Iterable[tuple[str, Question]]) -> bool:
        """Each needs those before it: after a failure the others are skipped. Whether none has failed."""
        failed = ""
        for check, question in questions:
            if failed:
                self._found(SKIPPED, check, f"It needs what `{failed}` asks.")
            elif not self.ask(check, question):
                failed = check
        return not failed

    def _found(self, result: str, check: str, message: str, advice: str = "") -> None:
        self.findings.append(Finding(result, self.subject, check, message, advice))
