"""The alerts for Prometheus: each fires when it should and is quiet else, as promtool evaluates them.

Every rule of a release with all parts has its pair in `CASES`, or a test fails. Thresholds are written out by
hand.
"""

from __future__ import annotations

import re
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from stack_backup_jobs.metrics import GAUGES
from stack_backup_lab.bed import prometheus
from stack_backup_lab.paths import PROJECT
from stack_backup_lab.render import CHART, load_values, merge_values, render
from tests.render.stacks import STACKS

Rule = dict[str, Any]
RUNBOOKS = PROJECT / "docs" / "runbooks"
NAMESPACE = "production-stack"
VALUES = STACKS["ci/everything"][0]
SEVERITIES: dict[str, str] = load_values(CHART / "values.yaml")["monitoring"]["alerts"]["severity"]

HOUR, DAY = 3600, 86400
AT = 2 * HOUR
"""When promtool looks."""
STEP = 300
"""Seconds between two evaluations, and between two samples."""

# The longest gap of the schedule, startingDeadlineSeconds, deadlineSeconds.
ALLOWED = {
    "postgres-backup-hourly": HOUR + 600 + 2700,
    "postgres-backup-daily": DAY + 14400 + 1800,
    "postgres-backup-weekly": 7 * DAY + 14400 + 1800,
    "postgres-backup-monthly": 31 * DAY + 14400 + 1800,
    "postgres-replicator-backup": DAY + 14400 + 7200,
    "media-replicator": DAY + 14400 + 18000,
    "offsite": DAY + 14400 + 18000,
    "database-drill": 7 * DAY + 7200 + 7200,
    "replica-check": HOUR + 600 + 2700,
}
DEADLINE = {
    "postgres-backup-hourly": 2700,
    "postgres-backup-daily": 1800,
    "postgres-backup-weekly": 1800,
    "postgres-backup-monthly": 1800,
    "postgres-replicator-backup": 7200,
    "media-replicator": 18000,
    "offsite": 18000,
    "database-drill": 7200,
    "replica-check": 2700,
    "database-recovery": 14400,
    "media-recovery": 18000,
    "doctor": 300,
}
BY_HAND = {"database-recovery", "media-recovery", "doctor"}


@dataclass(frozen=True)
class Series:
    name: str
    value: float
    labels: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        labels = {"namespace": NAMESPACE, **self.labels}
        return self.name + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


@dataclass(frozen=True)
class Case:
    """What makes a rule fire, and what does not; `value` is what its annotations say then."""

    fires: Sequence[Series]
    quiet: Sequence[Series]
    value: str = ""


def of(job: str, name: str, value: float, **labels: str) -> Series:
    """A series of kube-state-metrics or the exporter about a CronJob."""
    return Series(name, value, {"cronjob": job, **labels})


def ago(job: str, name: str, seconds: float) -> Series:
    """A time that lies so far back when promtool looks."""
    return of(job, name, AT - seconds)


def run(job: str, name: str, started: float, ended: str = "", namespace: str = NAMESPACE) -> list[Series]:
    """A Job of a CronJob as kube-state-metrics has it: when it started, and `complete` or `failed`."""
    labels = {"job_name": name, "namespace": namespace}
    owner = {"owner_kind": "CronJob", "owner_name": job}
    found = [
        Series("kube_job_status_start_time", started, labels),
        Series("kube_job_owner", 1, labels | owner),
    ]
    for condition in ("true", "false", "unknown") if ended else ():
        told = Series(f"kube_job_{ended}", float(condition == "true"), labels | {"condition": condition})
        found.append(told)
    return found


SUCCESS = "kube_cronjob_status_last_successful_time"
PROVED = "stack_backup_last_success_timestamp_seconds"


def older(job: str, series: str, limit: int) -> Case:
    """Something has been too old for five minutes, or is just old enough."""
    fires = [ago(job, series, limit + STEP + 1)]
    return Case(fires, [ago(job, series, limit)], humanized(limit + STEP + 1))


def humanized(seconds: int) -> str:
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    whole = f"{hour}h {minute}m {second}s" if hours else f"{minute}m {second}s"
    return f"{days}d {whole}" if days else whole


def job_failed(job: str, _: Rule) -> list[Case]:
    good, code, active = (
        of(job, SUCCESS, 2000),
        of(job, "stack_backup_last_exit_code", 65),
        of(job, "kube_cronjob_status_active", 1),
    )
    failed = run(job, "a", 3000, "failed")
    another = run("another", "a", 3000, "failed")
    elsewhere = run(job, "a", 3000, "failed", namespace="staging-stack")
    return [
        Case([*failed, good], [*failed, of(job, SUCCESS, 4000)]),
        Case(failed, [*failed, of(job, PROVED, 4000)]),
        Case([*run(job, "b", 1000, "complete"), *failed], run(job, "a", 3000, "complete")),
        Case(failed, another),
        Case(failed, elsewhere),
        # Kubernetes has forgotten the Job, or nobody asks it.
        Case([code, good], [of(job, "stack_backup_last_exit_code", 0), good]),
        Case([code], [code, active]),
        Case([code, of(job, "kube_cronjob_status_active", 0)], []),
    ]


def job_late(job: str, _: Rule) -> list[Case]:
    limit = ALLOWED[job]
    late = older(job, SUCCESS, limit)
    return [
        late,
        older(job, PROVED, limit),
        Case(late.fires, [*late.fires, ago(job, PROVED, 60)], late.value),
        Case([*late.fires, ago(job, PROVED, 90 * DAY)], [], late.value),
    ]


def job_never_succeeded(job: str, _: Rule) -> list[Case]:
    plain = older(job, "kube_cronjob_created", ALLOWED[job])
    return [
        plain,
        *(Case(plain.fires, [*plain.fires, of(job, name, 10)], plain.value) for name in (SUCCESS, PROVED)),
    ]


def job_suspended(job: str, _: Rule) -> list[Case]:
    series = "kube_cronjob_spec_suspend"
    return [Case([of(job, series, 1)], [of(job, series, 0)])]


def job_running_too_long(job: str, _: Rule) -> list[Case]:
    limit = DEADLINE[job] + 600
    stuck, value = run(job, "a", AT - limit - 1), humanized(limit + 1)
    return [
        Case(stuck, run(job, "a", AT - limit), value),
        *(Case(stuck, run(job, "a", AT - limit - 1, ended), value) for ended in ("complete", "failed")),
        Case([*stuck, *run(job, "b", AT - 60)], run("another", "a", AT - limit - 1), value),
    ]


def job_absent(job: str, _: Rule) -> list[Case]:
    series = "kube_cronjob_created"
    return [Case([], [of(job, series, 0)]), Case([of("another", series, 0)], [of(job, series, 0)])]


def above_zero(series: str, value: float) -> Callable[[str, Rule], list[Case]]:
    def cases(job: str, _: Rule) -> list[Case]:
        return [
            Case([of(job, series, value)], [of(job, series, 0)], f"{value:g}"),
            Case([of(job, series, 1)], [], "1"),
        ]

    return cases


def replica_stale(job: str, rule: Rule) -> list[Case]:
    data = rule["labels"]["data"]
    series = {
        "database": "stack_backup_dump_timestamp_seconds",
        "media": "stack_backup_media_complete_timestamp_seconds",
    }[data]
    age = {"postgres-replicator-backup": 10800, "replica-check": 93600}[job]
    return [older(job, series, age + ALLOWED[job])]


def volume_filling(job: str, _: Rule) -> list[Case]:
    series = "stack_backup_volume_days_to_full"
    return [Case([of(job, series, 13)], [of(job, series, 14)], "13"), Case([of(job, series, 0)], [], "0")]


def volume_low(job: str, _: Rule) -> list[Case]:
    size = of(job, "stack_backup_volume_size_bytes", 200)
    full, enough = (of(job, "stack_backup_volume_free_bytes", free) for free in (18, 20))
    return [Case([size, full], [size, enough], "9"), Case([size, of(job, full.name, 0)], [full], "0")]


def exporter_absent(_: str, __: Rule) -> list[Case]:
    read = "stack_backup_exporter_history_read_timestamp_seconds"
    fresh, old, elsewhere = (
        Series(read, AT - 900),
        Series(read, AT - 1801),
        Series(read, AT, {"namespace": "staging-stack"}),
    )
    return [Case([], [fresh]), Case([old], [fresh]), Case([elsewhere], [fresh])]


MEDIA = "stack_backup_media_complete_timestamp_seconds"
CASES: dict[str, Callable[[str, Rule], list[Case]]] = {
    "StackBackupJobFailed": job_failed,
    "StackBackupJobLate": job_late,
    "StackBackupJobNeverSucceeded": job_never_succeeded,
    "StackBackupJobSuspended": job_suspended,
    "StackBackupJobRunningTooLong": job_running_too_long,
    "StackBackupJobAbsent": job_absent,
    "StackBackupReplicaStale": replica_stale,
    "StackBackupReplicaCheckRed": above_zero("stack_backup_last_exit_code", 65),
    "StackBackupDrillRed": above_zero("stack_backup_last_exit_code", 65),
    "StackBackupDrillStale": lambda job, _: [
        older(job, "stack_backup_drill_timestamp_seconds", 10800 + ALLOWED[job])
    ],
    "StackBackupDrillOverBudget": lambda job, _: [
        Case(
            [of(job, "stack_backup_budget_exceeded", 1, budget="recoverySeconds")],
            [of(job, "stack_backup_budget_exceeded", 0, budget="recoverySeconds")],
            "recoverySeconds",
        )
    ],
    "StackBackupDumpShrank": above_zero("stack_backup_dump_suspicious", 1),
    "StackBackupMediaUnfinished": lambda job, _: [older(job, MEDIA, ALLOWED[job])],
    "StackBackupMediaSkipped": above_zero("stack_backup_media_exceptions", 3),
    "StackBackupVolumeFilling": volume_filling,
    "StackBackupVolumeLow": volume_low,
    "StackBackupOffsiteStale": lambda job, _: [older(job, PROVED, ALLOWED[job])],
    "StackBackupExporterAbsent": exporter_absent,
}


def _groups(stack: str = "ci/everything", **alerts: Any) -> list[dict[str, Any]]:
    monitoring = {"exporter": {"enabled": True}, "alerts": alerts}
    objects = render(merge_values(STACKS[stack][0], {"monitoring": monitoring}), namespace=NAMESPACE)
    groups: list[dict[str, Any]] = objects.get("PrometheusRule", "stack-backup")["spec"]["groups"]
    return groups


def _rules(stack: str = "ci/everything", **alerts: Any) -> list[Rule]:
    return [rule for group in _groups(stack, **alerts) for rule in group["rules"]]


def _test(rule: Rule, series: Iterable[Series], expected: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "interval": f"{STEP}s",
        "input_series": [_input(one) for one in series],
        "alert_rule_test": [{"eval_time": f"{AT}s", "alertname": rule["alert"], "exp_alerts": expected}],
    }


def _input(series: Series) -> dict[str, str]:
    return {"series": str(series), "values": f"{series.value:.0f}+0x{AT // STEP + 1}"}


def _fired(rule: Rule, case: Case) -> dict[str, Any]:
    """The alert as it is sent, its templates filled in."""
    said = {name: re.sub(r"\{\{.*?\}\}", case.value, text) for name, text in rule["annotations"].items()}
    labels = dict(rule["labels"])
    if "budget" in rule["expr"]:
        labels["budget"] = case.value
    return {"exp_labels": labels, "exp_annotations": said}


def _promtool(*arguments: str | Path) -> None:
    done = subprocess.run(
        [prometheus.ensure() / "promtool", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _write(path: Path, content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.parametrize("alert", CASES)
def test_every_rule_fires_when_it_should_and_is_quiet_else(alert: str, tmp_path: Path) -> None:
    rules = [rule for rule in _rules() if rule["alert"] == alert]
    assert rules
    files = []
    for number, rule in enumerate(rules):
        alone = {"groups": [{"name": alert, "rules": [rule]}]}
        cases = CASES[alert](rule["labels"].get("cronjob", ""), rule)
        assert any(case.fires != case.quiet for case in cases)
        tests = [_test(rule, case.fires, [_fired(rule, case)]) for case in cases]
        tests += [_test(rule, case.quiet, []) for case in cases]
        content = {
            "rule_files": [_write(tmp_path / f"rules-{number}.yaml", alone).name],
            "evaluation_interval": f"{STEP}s",
            "tests": tests,
        }
        files.append(_write(tmp_path / f"test-{number}.yaml", content))
    _promtool("test", "rules", *files)


def test_there_are_cases_for_every_alert_of_the_values_and_no_others() -> None:
    assert {f"StackBackup{name[0].upper()}{name[1:]}" for name in SEVERITIES} == set(CASES)


@pytest.mark.parametrize("stack", ["ci/everything", "production", "staging"])
def test_every_rule_says_what_it_means_and_where_its_runbook_is(stack: str) -> None:
    rules = _rules(stack, runbookUrl="https://docs.example.org/%s", enabled=True)
    assert rules
    for rule in rules:
        key = next(name for name in SEVERITIES if rule["alert"].lower() == f"stackbackup{name.lower()}")
        page = re.sub(r"(?=[A-Z])", "-", key).lower()
        assert rule["annotations"]["runbook_url"] == f"https://docs.example.org/{page}"
        assert (RUNBOOKS / f"{page}.md").is_file(), page
        assert rule["labels"]["severity"] == SEVERITIES[key]
        assert rule["labels"]["namespace"] == NAMESPACE
        assert len(rule["annotations"]["summary"]) <= 120, rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")
        for series in re.findall(r"\b(?:kube|stack_backup)_\w+\{[^}]*\}", rule["expr"]):
            assert f'namespace="{NAMESPACE}"' in series, (
                f"{rule['alert']} looks at other stacks, too: {series}"
            )


def test_the_list_of_alerts_is_that_of_the_values() -> None:
    """Each with its severity; and no runbook is left over."""
    text = (RUNBOOKS / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| \[`(\w+)`\]\(([\w-]+)\.md\) \| (\w+) \|", text)
    assert {(alert, severity) for alert, _, severity in rows} == {
        (f"StackBackup{name[0].upper()}{name[1:]}", severity) for name, severity in SEVERITIES.items()
    }
    pages = {path.stem for path in RUNBOOKS.glob("*.md")}
    assert pages == {page for _, page, _ in rows} | {"README"}
    for alert, page, _ in rows:
        assert (RUNBOOKS / f"{page}.md").read_text(encoding="utf-8").startswith(f"# `{alert}`\n")


def test_every_series_is_one_that_the_exporter_or_kube_state_metrics_has() -> None:
    kubernetes = {
        "kube_cronjob_created",
        "kube_cronjob_spec_suspend",
        "kube_cronjob_status_active",
        "kube_cronjob_status_last_successful_time",
        "kube_job_complete",
        "kube_job_failed",
        "kube_job_owner",
        "kube_job_status_start_time",
    }
    named = {name for rule in _rules() for name in re.findall(r"\b(?:kube|stack_backup)_\w+", rule["expr"])}
    assert named - kubernetes <= GAUGES.keys()
    assert kubernetes <= named


def test_no_two_alerts_are_taken_for_one() -> None:
    found = [(rule["alert"], tuple(sorted(rule["labels"].items()))) for rule in _rules()]
    assert len(found) == len(set(found)) > 60


def test_every_job_has_its_alerts() -> None:
    of_jobs = defaultdict(set)
    for rule in _rules():
        if rule["alert"].startswith("StackBackupJob"):
            of_jobs[rule["labels"]["cronjob"]].add(rule["alert"].removeprefix("StackBackupJob"))
    assert of_jobs.keys() == DEADLINE.keys()
    by_hand = {"RunningTooLong", "Absent"}
    every = by_hand | {"Failed", "Late", "NeverSucceeded", "Suspended"}
    assert of_jobs == {job: by_hand if job in BY_HAND else every for job in DEADLINE}


def test_the_room_of_a_volume_is_told_once_by_the_job_that_knows_it_best() -> None:
    found = [
        (rule["alert"].removeprefix("StackBackupVolume"), rule["labels"]["volume"], rule["labels"]["cronjob"])
        for rule in _rules()
        if "volume" in rule["labels"]
    ]
    assert sorted(found) == [
        (alert, volume, job)
        for alert in ("Filling", "Low")
        for volume, job in (
            ("databaseBackup", "postgres-backup-hourly"),
            ("databaseReplica", "postgres-replicator-backup"),
            ("mediaReplica", "media-replicator"),
        )
    ]


def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    _promtool("check", "rules", _write(tmp_path / "rules.yaml", {"groups": _groups()}))


# -- all rules at once ---------------------------------------------------------------------------------------


def _kubernetes(created: float = 40 * DAY, success: bool = True) -> list[Series]:
    """What kube-state-metrics has of all jobs where all is well."""
    found = []
    for job in DEADLINE:
        found += [ago(job, "kube_cronjob_created", created), of(job, "kube_cronjob_status_active", 0)]
        found += [of(job, "kube_cronjob_spec_suspend", float(job in BY_HAND))]
        if success and job not in BY_HAND:
            found += [ago(job, SUCCESS, HOUR), *run(job, f"{job}-1", AT - 2 * HOUR, "complete")]
    return found


READ = Series("stack_backup_exporter_history_read_timestamp_seconds", AT)


def _facts() -> list[Series]:
    """What the exporter has where all is well."""
    found = [READ]
    for job in ALLOWED:
        found += [ago(job, PROVED, HOUR), of(job, "stack_backup_last_exit_code", 0)]
        found += [
            of(job, "stack_backup_volume_size_bytes", 100),
            of(job, "stack_backup_volume_free_bytes", 50),
        ]
        found += [of(job, "stack_backup_volume_days_to_full", 90), ago(job, MEDIA, HOUR)]
        found += [ago(job, name, HOUR) for name in ("stack_backup_dump_timestamp_seconds",)]
        found += [
            of(job, name, 0) for name in ("stack_backup_media_exceptions", "stack_backup_dump_suspicious")
        ]
    found.append(ago("database-drill", "stack_backup_drill_timestamp_seconds", DAY))
    found.append(of("database-drill", "stack_backup_budget_exceeded", 0, budget="recoverySeconds"))
    return found


ABSENT = {("StackBackupJobAbsent", job) for job in DEADLINE}
NO_FACTS = {("StackBackupExporterAbsent", "")}
SCENARIOS: dict[str, tuple[list[Series], set[tuple[str, str]]]] = {
    "all is well": ([*_kubernetes(), *_facts()], set()),
    "nothing ran at all, and nobody knows of anything": ([], ABSENT | NO_FACTS),
    "installed, and nothing ran at all": (
        [*_kubernetes(success=False), READ],
        {("StackBackupJobNeverSucceeded", job) for job in ALLOWED},
    ),
    "installed a moment ago": ([*_kubernetes(created=60, success=False), READ], set()),
    "kube-state-metrics is gone": (_facts(), ABSENT),
    "the exporter is gone": (_kubernetes(), NO_FACTS),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_rules_together(name: str, tmp_path: Path) -> None:
    """What operators would be told, and nothing else."""
    series, expected = SCENARIOS[name]
    samples = [
        {"labels": "{" + f'alertname="{alert}"' + (f',cronjob="{job}"' if job else "") + "}", "value": 1}
        for alert, job in sorted(expected)
    ]
    firing = 'count by (alertname, cronjob) (ALERTS{alertstate="firing"})'
    content = {
        "rule_files": [_write(tmp_path / "rules.yaml", {"groups": _groups()}).name],
        "evaluation_interval": f"{STEP}s",
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": [_input(one) for one in series],
                "promql_expr_test": [{"expr": firing, "eval_time": f"{AT}s", "exp_samples": samples}],
            }
        ],
    }
    _promtool("test", "rules", _write(tmp_path / "test.yaml", content))


def test_a_rule_that_is_wrong_is_found(tmp_path: Path) -> None:
    """promtool is asked, and heard."""
    rules = yaml.safe_dump({"groups": _groups()}).replace("time() - max", "time() + max")
    (tmp_path / "rules.yaml").write_text(rules)
    series, _ = SCENARIOS["all is well"]
    content = {
        "rule_files": ["rules.yaml"],
        "tests": [
            {
                "interval": f"{STEP}s",
                "input_series": [_input(one) for one in series],
                "promql_expr_test": [
                    {"expr": 'ALERTS{alertstate="firing"}', "eval_time": f"{AT}s", "exp_samples": []}
                ],
            }
        ],
    }
    with pytest.raises(AssertionError, match="StackBackupJobLate"):
        _promtool("test", "rules", _write(tmp_path / "test.yaml", content))


# -- what an operator chooses --------------------------------------------------------------------------------


def test_there_are_none_unless_they_are_asked_for() -> None:
    values, namespace = STACKS["production"]
    assert render(values, namespace=namespace).of_kind("PrometheusRule") == []


def test_without_the_exporter_there_are_those_about_jobs_alone() -> None:
    off = {"enabled": False}
    values = merge_values(VALUES, {"monitoring": {"exporter": off, "podMonitor": off}})
    spec = render(values, namespace=NAMESPACE).get("PrometheusRule", "stack-backup")["spec"]
    found = {rule["alert"] for group in spec["groups"] for rule in group["rules"]}
    assert found == {name for name in CASES if name.startswith("StackBackupJob")}


def test_an_alert_without_a_severity_is_left_out() -> None:
    left = {rule["alert"] for rule in _rules(severity={"jobSuspended": ""})}
    assert left == CASES.keys() - {"StackBackupJobSuspended"}


def test_thresholds_follow_the_jobs_own_values() -> None:
    values = merge_values(
        VALUES,
        {
            "postgresBackupHourly": {
                "schedule": "15 6,18 * * *",
                "startingDeadlineSeconds": 1000,
                "deadlineSeconds": 2000,
            }
        },
    )
    spec = render(values, namespace=NAMESPACE).get("PrometheusRule", "stack-backup")["spec"]
    (late,) = [
        rule
        for group in spec["groups"]
        for rule in group["rules"]
        if rule["alert"] == "StackBackupJobLate" and rule["labels"]["cronjob"] == "postgres-backup-hourly"
    ]
    assert late["expr"].endswith(f"> {12 * HOUR + 3000}")
    assert "12h 50m" in late["annotations"]["description"]
