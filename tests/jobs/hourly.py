"""Production's hourly backup as a test sees it: names, volume, verdict, what must hold in any case."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stack_backup.runs import JobResult
from stack_backup_jobs.formats import MANIFESTS
from stack_backup_lab.render import merge_values
from stack_backup_lab.runtime.local import LocalStack, RunningJob
from stack_backup_lab.runtime.pod import Faults
from tests.jobs.dumps import FINAL, DumpFolder, Sample, await_a_free_second
from tests.outcomes import green
from tests.render import contract

__all__ = ["FINAL", "DumpFolder", "Hourly", "Sample"]

JOB = contract.HOURLY
NAMESPACE = contract.NAMESPACE
CLAIM = contract.CLAIM
FOLDER = contract.FOLDER
KEEP = contract.KEEP

IMAGE = "postgres:15"
VALUES: dict[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "postgresBackupHourly": {"dumpSize": "15Mi"},
}


class Hourly(DumpFolder):
    """The hourly backup of a stack."""

    def __init__(self, stack: LocalStack, sample: Sample | None) -> None:
        super().__init__(stack.volume(CLAIM), FOLDER, sample)
        self.stack = stack

    def install(self, values: Mapping[str, Any]) -> None:
        """Upgrade the release to the layer's own values with these on top."""
        self.stack.install(merge_values(VALUES, values))

    def start(self, **faults: Any) -> RunningJob:
        """Start the job with `Faults(**faults)`, in a second of its own, by which its dump is named when it
        begins, and its record in the history when it ends.
        """
        # A killed run may leave a manifest.
        taken = [*self.dumps(), *self.volume.list(f"{FOLDER}/{MANIFESTS}")]
        if contract.HISTORY in self.stack.claims:
            taken += self.stack.volume(contract.HISTORY).list(JOB)
        await_a_free_second(taken)
        return self.stack.start(JOB, Faults(**faults))

    def run(self, **faults: Any) -> JobResult:
        with self.start(**faults) as job:
            return job.wait()

    def backup(self, **faults: Any) -> str:
        """Take a backup that must succeed; its file name."""
        before = self.dumps()
        result = self.run(**faults)
        green(result)
        [name] = set(self.dumps()) - set(before)
        assert result.verdict["dump"] == name
        return name
