"""What the exporter says of the runs of a history, read back by the parser of Prometheus' own client."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stack_backup_jobs.formats import Record, seconds_of
from stack_backup_jobs.metrics import BUDGETS, GAUGES, READ, Sample, exposition, samples_of
from stack_backup_lab.paths import PROJECT

HOURLY, DRILL, MIRROR, CHECK = (
    "postgres-backup-hourly",
    "database-drill",
    "media-replicator",
    "replica-check",
)


def run(hour: int, exit_code: int = 0, outcome: str = "published", **figures: Any) -> Record:
    """Of 25 November, at that hour."""
    begun, ended = f"2026-11-25T{hour:02}:51:00Z", f"2026-11-25T{hour:02}:52:30Z"
    verdict = {"exit": exit_code, "outcome": outcome, "message": "…", **figures, "seconds": 90}
    return Record(begun, ended, f"pod-{hour}", verdict)


def dump(hour: int) -> str:
    return f"backup-2026-11-25T{hour:02}:51:08Z-dumpall.sql.gz"


def at(time: str) -> float:
    return seconds_of(f"2026-11-25T{time}Z")


def told(job: str, *records: Record) -> dict[str, float]:
    """The metrics without their prefix; of those with further labels, these in the name."""
    found = {}
    for family in text_string_to_metric_families(exposition(samples_of(job, records))):
        for sample in family.samples:
            labels = dict(sample.labels)
            assert labels.pop("cronjob") == job
            name = sample.name.removeprefix("stack_backup_")
            found[" ".join([name, *labels.values()])] = sample.value
    return found


def test_a_job_that_has_never_run_has_no_sample() -> None:
    assert told(HOURLY) == {}


def test_of_each_fact_the_newest_run_that_knows_it_tells() -> None:
    good = run(10, dump=dump(10), bytes=2000, rows=50, volume_bytes=9000, free_bytes=4000, days_to_full=33)
    assert told(HOURLY, run(9, dump=dump(9), bytes=1), good, run(11, 69, "failed")) == {
        "last_run_timestamp_seconds": at("11:52:30"),
        "last_success_timestamp_seconds": at("10:52:30"),
        "last_exit_code": 69,
        "last_duration_seconds": 90,
        "dump_timestamp_seconds": at("10:51:08"),
        "dump_bytes": 2000,
        "dump_rows": 50,
        "dump_suspicious": 0,
        "volume_size_bytes": 9000,
        "volume_free_bytes": 4000,
        "volume_days_to_full": 33,
    }


def test_a_suspicious_dump_is_shown_and_is_no_restore_point() -> None:
    found = told(
        HOURLY,
        run(10, dump=dump(10), bytes=2000, rows=50),
        run(11, 65, "suspicious", dump=dump(11), bytes=20, rows=5),
    )
    assert found["dump_timestamp_seconds"] == at("10:51:08")
    assert (found["dump_suspicious"], found["dump_bytes"], found["dump_rows"]) == (1, 20, 5)


def test_a_red_drill_takes_away_no_earlier_proof() -> None:
    proof = run(3, 0, "proved", dump=dump(2), recovery_seconds=240, data_loss_seconds=3690)
    found = told(DRILL, proof, run(4, 65, "failed", dump=dump(3)))
    assert found["drill_timestamp_seconds"] == at("02:51:08")
    assert (found["drill_recovery_seconds"], found["drill_data_loss_seconds"]) == (240, 3690)
    assert found["last_exit_code"] == 65
    assert "dump_timestamp_seconds" not in found


def test_a_drill_over_its_budget_has_proved_its_dump() -> None:
    over = run(4, 76, "proved", dump=dump(3), recovery_seconds=900, budget_exceeded=["recoverySeconds"])
    found = told(DRILL, run(3, 0, "proved", dump=dump(2), recovery_seconds=240), over)
    assert found["drill_timestamp_seconds"] == at("03:51:08")
    assert {budget: found[f"budget_exceeded {budget}"] for budget in BUDGETS} == {
        "recoverySeconds": 1,
        "dataLossSeconds": 0,
    }


def test_the_mirror_of_the_media() -> None:
    whole = run(2, files=579, bytes=6300, exceptions=2, completed="2026-11-25T02:52:00Z")
    found = told(MIRROR, whole, run(3, 74, "failed", files=600, bytes=7000))
    assert (found["media_files"], found["media_bytes"]) == (600, 7000)
    assert found["media_exceptions"] == 2
    assert found["media_complete_timestamp_seconds"] == at("02:52:00")
    assert told(MIRROR, whole, run(4, completed="2026-11-25T04:52:00Z"))["media_exceptions"] == 0


def test_the_check_names_the_stack_whose_replica_it_sees() -> None:
    seen = run(5, dump=dump(2), bytes=7, stack="production-stack")
    media = {"media_completed": "2026-11-25T02:10:00Z", "media_files": 3, "media_stack": "production-stack"}
    found = told(CHECK, seen, run(6, 65, "failed", **media))
    assert found["dump_info production-stack"] == found["media_info production-stack"] == 1
    assert found["dump_timestamp_seconds"] == at("02:51:08")
    assert found["media_complete_timestamp_seconds"] == at("02:10:00")
    assert found["media_exceptions"] == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)
FIGURES = [
    *("exit", "seconds", "outcome", "dump", "bytes", "rows", "stack", "recovery_seconds", "budget_exceeded"),
    *(
        "files",
        "completed",
        "exceptions",
        "media_files",
        "media_completed",
        "media_exceptions",
        "media_stack",
    ),
    *("media_stack", "volume_bytes", "days_to_full"),
]


@given(
    st.sampled_from([HOURLY, DRILL, MIRROR, CHECK, "offsite", "media-recovery"]),
    st.lists(st.dictionaries(st.sampled_from(FIGURES), JSON | st.just(dump(3))), max_size=3),
)
def test_no_verdict_breaks_the_text(job: str, verdicts: list[dict[str, Any]]) -> None:
    """Neither one of another release nor one that somebody wrote there."""
    records = [Record("2026-11-25T01:00:00Z", "2026-11-25T02:00:00Z", "pod", one) for one in verdicts]
    text = exposition(samples_of(job, records))
    families = list(text_string_to_metric_families(text))
    assert {family.name for family in families} <= GAUGES.keys()
    for figure, name in (("stack", "dump_info"), ("media_stack", "media_info")):
        wanted = next(
            (one[figure] for one in verdicts[::-1] if isinstance(one.get(figure), str) and one[figure]), None
        )
        shown = [
            sample.labels["stack"]
            for family in families
            for sample in family.samples
            if family.name == f"stack_backup_{name}"
        ]
        assert shown == ([] if wanted is None else [wanted])


def test_names_keep_prometheus_conventions() -> None:
    """Base units at the end, no unit in the middle, one prefix."""
    for name, about in GAUGES.items():
        assert re.fullmatch(r"stack_backup(_[a-z]+)+", name)
        assert not re.search(r"_(total|count|sum|bucket)$", name), "a name of a counter or histogram"
        assert ("second" not in name) or name.endswith("_seconds")
        assert ("bytes" not in name) or name.endswith("_bytes")
        assert about.endswith(".") or about.endswith("never.")
    text = exposition([Sample(name, {}, 1.5) for name in GAUGES])
    assert {family.name: family.type for family in text_string_to_metric_families(text)} == dict.fromkeys(
        GAUGES, "gauge"
    )
    assert READ in GAUGES


@pytest.mark.parametrize("value", [0, 1795607560, 3.3 * 2**30, 123456789012345, 0.25])
def test_a_value_comes_back_as_it_was(value: float) -> None:
    (family,) = text_string_to_metric_families(exposition([Sample(READ, {}, value)]))
    assert family.samples[0].value == value


def test_the_page_of_the_metrics_has_each_with_its_meaning() -> None:
    page = (PROJECT / "docs" / "metrics.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"(?m)^\| `(stack_backup_\w+)` \|.*\| (.*) \|$", page))
    assert rows == GAUGES


@pytest.mark.parametrize("stack", ['a"b', "a\\b", "a\nb", 'a\\"\\n\nb', "ä☃"])
def test_whatever_a_label_holds_comes_back(stack: str) -> None:
    (family,) = text_string_to_metric_families(exposition([Sample(READ, {"stack": stack}, 1)]))
    assert family.samples[0].labels == {"stack": stack}
