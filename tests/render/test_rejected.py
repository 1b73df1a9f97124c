"""What the chart refuses, and that every tool that a user may check with refuses it alike, naming the key."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from stack_backup_lab.paths import BIN
from stack_backup_lab.render import CHART, RenderError, load_values, merge_values, render
from tests.render.schema import Key, complaints, default_keys, dotted, load, nested, nodes
from tests.render.stacks import computed, lint

SCHEMA = load()
KEYS = default_keys(load_values(CHART / "values.yaml"), SCHEMA)
CLOSED: list[Key] = [
    key for key, node in {(): SCHEMA, **nodes(SCHEMA)}.items() if node.get("additionalProperties") is False
]


def _said(values: dict[str, Any], executable: str = "helm") -> dict[str, str]:
    """What each way of checking says against the values; a way that accepts them says nothing."""
    try:
        render(values, helm=BIN / executable)
        by_template = ""
    except RenderError as error:
        by_template = str(error)
    accepted, by_lint = lint(values, executable)
    return {
        "jsonschema": "\n".join(complaints(computed(values), SCHEMA)),
        f"{executable} template": by_template,
        f"{executable} lint": "" if accepted else by_lint,
    }


BAD: list[tuple[str, dict[str, Any]]] = [
    ("keep", {"postgresBackupHourly": {"keep": 0}}),
    ("keep", {"postgresBackupHourly": {"keep": -1}}),
    ("keep", {"postgresBackupHourly": {"keep": "24"}}),
    ("keep", {"postgresBackupHourly": {"keep": 24.5}}),
    ("compressor", {"postgresBackupHourly": {"compressor": "bzip2"}}),
    ("compressor", {"postgresBackupHourly": {"compressor": ""}}),
    ("host", {"database": {"host": ""}}),
    ("host", {"database": {"host": "data base"}}),
    ("port", {"database": {"port": 0}}),
    ("port", {"database": {"port": 65536}}),
    ("port", {"database": {"port": "5432"}}),
    ("superuser", {"database": {"superuser": ""}}),
    ("name", {"database": {"name": ""}}),
    ("name", {"database": {"secret": {"name": "Not_A_Name"}}}),
    ("superuserKey", {"database": {"secret": {"superuserKey": "a/b"}}}),
    ("minimumShare", {"postgresBackupHourly": {"minimumShare": 101}}),
    ("deadlineSeconds", {"postgresBackupHourly": {"deadlineSeconds": 0}}),
    ("startingDeadlineSeconds", {"postgresBackupHourly": {"startingDeadlineSeconds": 9}}),
    ("timeZone", {"postgresBackupHourly": {"timeZone": ""}}),
    ("suspend", {"postgresBackupHourly": {"suspend": "no"}}),
    ("runAsUser", {"pod": {"runAsUser": 0}}),
    ("size", {"volumes": {"databaseBackup": {"size": "100 GB"}}}),
    ("size", {"volumes": {"databaseBackup": {"size": 0}}}),
    ("accessModes", {"volumes": {"databaseBackup": {"accessModes": ["ReadWrite"]}}}),
    ("tag", {"database": {"image": {"tag": "latest"}}}),
    ("digest", {"database": {"image": {"digest": "sha256:abc"}}}),
    ("pullPolicy", {"database": {"image": {"pullPolicy": "Sometimes"}}}),
    ("kepe", {"postgresBackupHourly": {"kepe": 24}}),
    ("backups", {"backups": {}}),
    ("postgresBackupHourly", {"postgresBackupHourly": []}),
    ("keep", {"postgresBackupHourly": {"keep": None}}),
    ("labels", {"jobDefaults": {"labels": {"app.kubernetes.io/name": "mine"}}}),
    ("podLabels", {"postgresBackupHourly": {"podLabels": {"batch.kubernetes.io/job-name": "mine"}}}),
    ("podLabels", {"postgresBackupHourly": {"podLabels": {"team": "not a value"}}}),
    ("annotations", {"volumes": {"databaseBackup": {"annotations": {"helm.sh/resource-policy": "delete"}}}}),
    ("commonLabels", {"commonLabels": {"helm.sh/chart": "mine"}}),
    ("limits", {"postgresBackupHourly": {"resources": {"limits": {"disk": "1Gi"}}}}),
    ("ephemeral-storage", {"postgresBackupHourly": {"resources": {"limits": {"ephemeral-storage": "1 GB"}}}}),
    ("not a key", {"jobDefaults": {"labels": {"not a key": "mine"}}}),
    ("a/b/c", {"postgresBackupHourly": {"podAnnotations": {"a/b/c": "mine"}}}),
    ("nodeSelector", {"jobDefaults": {"nodeSelector": {"disk": "not a value"}}}),
    ("team-of-mine", {"monitoring": {"alerts": {"alertLabels": {"team-of-mine": "data"}}}}),
    ("databasePeers", {"networkPolicy": {"databasePeers": [{}]}}),
    ("enabled", {"enabled": False}),
]
SCHEDULES = [
    "", "hourly", "51 * * *", "51 * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *",
    "* * * * 8", "TZ=UTC 51 * * * *", "CRON_TZ=UTC 51 * * * *", "@reboot", "51,* * * *", "a * * * *",
    "*/0 * * * *",
]  # fmt: skip


@pytest.mark.parametrize(("key", "values"), BAD, ids=str)
def test_a_bad_value_is_refused_by_every_tool(key: str, values: dict[str, Any]) -> None:
    for tool, said in _said(values).items():
        assert said, f"{tool} accepts {values}"
        assert key in said, f"{tool} does not name {key}: {said}"


# Values of one key that are refused, by their place. A tool gets many at once, for speed: it lists them all.
REFUSED: dict[str, list[Any]] = {
    "rclone.image.tag": ["latest", ""],
    "rclone.image.repository": ["", "rclone/rclone@sha256:abc", "rclone/rclone:1.76.0", "https://rclone/rclone"],
    "postgresBackupTiers.enabled": ["yes"],
    "postgresBackupTiers.daily.keep": [0],
    "postgresBackupTiers.daily.schedule": ["", "21 0 * *"],
    "postgresBackupTiers.weekly.schedule": ["31 0 * * 7"],
    "postgresBackupTiers.monthly.keep": [-1],
    "postgresBackupTiers.maximumAgeSeconds": [59],
    "postgresReplicatorBackup.folder": ["", ".manifest", "../hourly", "a/b", "-x"],
    "postgresReplicatorBackup.keep": [0],
    "postgresReplicatorBackup.graceSeconds": [-1],
    "postgresReplicatorBackup.schedule": ["@reboot"],
    "postgresReplicatorBackup.sanitise.sql": [{"Has Rows": "SELECT 1"}, {"rows": ""}],
    "postgresReplicatorBackup.sanitise.jobs": [0],
    "postgresReplicatorBackup.sanitise.scratch.size": [40],
    "mediaReplicator.minimumShare": [101, -1],
    "mediaReplicator.sentinel": ["/etc/passwd", "two\nlines"],
    "mediaReplicator.trashDays": [0],
    "mediaReplicator.transfers": [0, 257],
    "mediaReplicator.checkers": [0],
    "mediaReplicator.bandwidthLimit": ["0", "50 MB", "fast", "-1M"],
    "mediaReplicator.sampleFiles": [0],
    "databaseRecovery.source": ["production", ""],
    "databaseDrill.source": ["replica"],
    "mediaRecovery.source": ["backup"],
    "mediaRecovery.folder": ["", "/media", "media/../dumps"],
    "databaseRecovery.dump": ["", "newest", "2022-11-28", "backup-2022-11-28T08:51:08Z-dumpall.sql.gz"],
    "databaseRecovery.confirm": ["Production", "a b"],
    "databaseRecovery.allowSourceServer": ["yes"],
    "databaseRecovery.keepFormerSeconds": [-1],
    "databaseRecovery.scratch.size": ["", "10 GB"],
    "databaseRecovery.scratch.storageClass": ["Fast!"],
    "databaseRecovery.schedule": ["daily", "60 5 * * *"],
    "mediaRecovery.confirm": ["Staging"],
    "mediaRecovery.delete": ["false"],
    "mediaRecovery.transfers": [0],
    "mediaRecovery.schedule": ["@reboot"],
    "databaseDrill.assertions": [
        {"Has Rows": "SELECT true"},
        {"rows": ""},
        {"rows": 1},
        {61 * "a": "SELECT true"},
    ],
    "databaseDrill.dump": ["oldest"],
    "databaseDrill.schedule": [""],
    "databaseDrill.maximumAgeSeconds": [0],
    "databaseDrill.budget.recoverySeconds": [-1, "1h"],
    "databaseDrill.budget.dataLossSeconds": [-1, 1.5],
    "databaseDrill.scratch.size": [40],
    "replicaCheck.maximumAgeSeconds": [0],
    "replicaCheck.mediaMaximumAgeSeconds": ["1d"],
    "replicaCheck.rereadSeconds": [-1],
    "notify.ping": [["hourly"], ["offsite", "offsite"], "offsite"],
    "notify.webhook": ["a/b"],
    "notify.secret.name": ["", "Not_A_Name"],
    "notify.ports": [[], [0]],
    "offsite.remote": ["backups", ":s3:backups", "s3:two\nlines"],
    "offsite.folders": [[], ["daily", "daily"], ["../daily"], ["daily weekly"]],
    "offsite.keep": [0],
    "offsite.trashDays": [0],
    "offsite.secret.name": ["", "Not_A_Name"],
    "offsite.secret.key": ["", "a/b"],
    "monitoring.alerts.runbookUrl": ["docs/%s.md", "https://docs.example.org", "https://a b/%s"],
    "monitoring.alerts.severity.jobLate": ["very bad", 1],
    "monitoring.alerts.volumeDaysToFull": [0],
    "monitoring.alerts.volumeFreePercent": [0, 100],
    "volumes.databaseReplica.existingClaim": ["Not_A_Name"],
    "volumes.databaseReplica.nfs.server": ["nfs server", "-nfs"],
    "volumes.databaseReplica.nfs.path": ["", "nfs/dumps"],
    "volumes.databaseReplica.nfs.mountOptions": [[""], ["soft"], "hard", ["hard,soft"], ["softerr"]],
    "volumes.databaseReplica.size": ["20 GB"],
    "volumes.mediaReplica.nfs.path": ["media"],
    "volumes.media.existingClaim": ["", "a..b", "a.-b"],
    "volumes.accessModes": [["ReadWriteMany", "ReadWriteOncePod"]],
    "volumes.replicaCheck.accessModes": [["ReadOnlyMany"]],
    "databaseRecovery.backoffLimit": [1],
    "mediaRecovery.backoffLimit": [1],
    "databaseDrill.backoffLimit": [-1, 11],
    "offsite.ttlSecondsAfterFinished": [0, 3600, "1d"],
    "offsite.successfulJobsHistoryLimit": [0],
    "jobDefaults.failedJobsHistoryLimit": [0],
    "jobDefaults.resources.requests.memory": ["1 GB"],
    "jobDefaults.priorityClassName": ["High!"],
    "jobDefaults.extraEnv": [[{"value": "x"}], [{"name": "a-b", "value": "x"}], [{"name": "A", "value": 1}]],
    "jobDefaults.extraVolumes": [[{"name": "lonely"}], [{"emptyDir": {}}]],
    "jobDefaults.extraVolumeMounts": [[{"name": "a", "mountPath": "relative"}]],
    "jobDefaults.topologySpreadConstraints": [[{"maxSkew": 1}]],
    "python.resources.limits.cpu": [0, "fast"],
    "global.imageRegistry": ["a b", "https://mirror.example.org"],
    "global.imagePullSecrets": [["Not_A_Name"], [{"name": ""}]],
    "pod.imagePullSecrets": [["name"]],
    "volumes.databaseBackup.volumeName": ["Not_A_Name"],
    "database.tls.mode": ["verify", "allow", True],
    "database.tls.secret.name": ["Not_A_Name"],
    "database.tls.secret.caKey": ["", "a/b", ".", "..", "..data", 254 * "a"],
    "networkPolicy.offsitePorts": [[], [0], ["443"]],
    "networkPolicy.offsitePeers": [[{}]],
}  # fmt: skip


@cache
def _said_of_all(turn: int) -> dict[str, str]:
    """What every tool says when each key has its bad value of this turn, or its last one."""
    bad = [
        nested(tuple(key.split(".")), values[min(turn, len(values) - 1)]) for key, values in REFUSED.items()
    ]
    values = merge_values(*bad)
    return _said(values) | _said(values, "helm3")


@pytest.mark.parametrize(
    ("key", "turn"), [(key, turn) for key, values in REFUSED.items() for turn in range(len(values))]
)
def test_a_bad_value_of_an_optional_part_is_refused_by_every_tool(key: str, turn: int) -> None:
    for tool, said in _said_of_all(turn).items():
        assert f"'/{key.replace('.', '/')}" in said, f"{tool} accepts {REFUSED[key][turn]!r} for {key}"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("databaseRecovery.schedule", ""),
        ("databaseRecovery.dump", "2022-11-28T08:51:08Z"),
        ("mediaReplicator.bandwidthLimit", "1.5M"),
        ("mediaReplicator.sentinel", "a folder/ümlaut"),
        ("databaseDrill.assertions", {"has-rows-2": "SELECT true"}),
        ("offsite.remote", "s3-crypt:"),
        ("volumes.databaseReplica.nfs.server", "fd00::7"),
        ("volumes.databaseReplica.nfs.path", "/"),
        ("volumes.databaseReplica.nfs.mountOptions", ["nfsvers=4.1,softreval"]),
        ("database.image.repository", "localhost:5000/a__b/c-d.e"),
        ("volumes.databaseReplica.existingClaim", "by.hand"),
        ("database.tls.secret.caKey", ".ca-crt"),
        ("jobDefaults.resources.requests.memory", "0.125Gi"),
        ("jobDefaults.nodeSelector", {"kubernetes.io/arch": "amd64", "spare": ""}),
        ("enabled", True),
    ],
    ids=str,
)
def test_an_unusual_value_of_an_optional_part_is_accepted(key: str, value: Any) -> None:
    values = nested(tuple(key.split(".")), value)
    assert complaints(computed(values), SCHEMA) == []
    assert render(values).of_kind("CronJob")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_that_is_no_cron_expression_is_refused(schedule: str) -> None:
    values = {"postgresBackupHourly": {"schedule": schedule}}
    assert "/postgresBackupHourly/schedule" in "\n".join(complaints(computed(values), SCHEMA))
    with pytest.raises(RenderError, match="/postgresBackupHourly/schedule"):
        render(values)


@pytest.mark.parametrize(
    "schedule",
    ["51 * * * *", "*/20 0-6,22 1 */3 1-5", "9-9 4 * JAN-dec sun-SAT/2", "@hourly", "0 0 1 JAN SUN"],
)
def test_a_schedule_that_is_a_cron_expression_is_accepted(schedule: str) -> None:
    assert (
        render({"postgresBackupHourly": {"schedule": schedule}}).of_kind("CronJob")[0]["spec"]["schedule"]
        == schedule
    )


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_key_that_no_map_knows_is_refused_at_every_level(executable: str) -> None:
    """All at once, for speed: every tool lists every breach."""
    values = merge_values(*(nested((*key, f"Stray {number}"), 1) for number, key in enumerate(CLOSED)))
    assert len(CLOSED) > 5
    for tool, said in _said(values, executable).items():
        for number, key in enumerate(CLOSED):
            assert f"'Stray {number}'" in said, (
                f"{tool} takes an unknown key under {dotted(key) or 'the root'}"
            )


@pytest.mark.parametrize("executable", ["helm", "helm3"])
def test_a_value_of_the_wrong_type_is_refused_for_every_key(executable: str) -> None:
    leaves = [key for key in KEYS if not any(other[:-1] == key for other in KEYS)]
    values = merge_values(*(nested(key, _of_a_wrong_type(nodes(SCHEMA)[key])) for key in leaves))
    for tool, said in _said(values, executable).items():
        for key in leaves:
            assert f"'/{'/'.join(key)}'" in said, f"{tool} takes any type for {dotted(key)}"


def _of_a_wrong_type(node: dict[str, Any]) -> Any:
    """A value of a type that the schema's node does not name."""
    return [1] if node.get("type") != "array" else {"wrong": 1}


def _size(size: str, **backup: Any) -> dict[str, Any]:
    return {"volumes": {"databaseBackup": {"size": size}}, "postgresBackupHourly": backup}


def _places(**nfs: Any) -> dict[str, Any]:
    """Both replicas on exports of one server."""
    names = ("databaseReplica", "mediaReplica")
    return {"volumes": {name: {"nfs": {"server": "nfs.example.org", **nfs}} for name in names}}


def _on(*sections: str, **values: Any) -> dict[str, Any]:
    """These parts switched on, their volumes in place, and further values."""
    return merge_values(_places(), {name: {"enabled": True} for name in sections}, values)


def _sanitise(**own: Any) -> dict[str, Any]:
    return {"sanitise": {"enabled": True, **own}}


CLAIMED = {"databaseBackup": {"existingClaim": "made-by-hand"}}
NO_BACKUP = {"postgresBackupHourly": {"enabled": False}}
EXPORTS = "lie in one another: the mirror of the media would delete the dumps. Name two exports."

# What a schema cannot express, because it depends on several keys.
GUARDS: list[tuple[dict[str, Any], str]] = [
    (
        _size("100Gi"),
        "volumes.databaseBackup.size is 100Gi, but postgresBackupHourly.keep 24 dumps of "
        "postgresBackupHourly.dumpSize 3400Mi",
    ),
    (_size("120Gi", keep=48), "postgresBackupHourly.keep 48"),
    (_size("120Gi", dumpSize="1Ti"), "postgresBackupHourly.dumpSize 1Ti"),
    (_size("100000000"), "volumes.databaseBackup.size is 100000000"),
    (_size("12.9Gi", keep=9, dumpSize="1Gi"), "need 13312Mi: make the volume larger or keep fewer dumps"),
    (
        {"postgresBackupHourly": {"deadlineSeconds": 3300}},
        "postgresBackupHourly.deadlineSeconds 3300 and postgresBackupHourly.startingDeadlineSeconds 600",
    ),
    (
        {"postgresBackupHourly": {"startingDeadlineSeconds": 901}},
        "postgresBackupHourly.startingDeadlineSeconds 901",
    ),
    ({"postgresBackupHourly": {"schedule": "@hourly", "deadlineSeconds": 3300}}, "exceed the hour"),
    ({"postgresBackupHourly": {"schedule": "7 * * * *", "deadlineSeconds": 3300}}, "exceed the hour"),
    (
        _on("replicaCheck", replicaCheck={"deadlineSeconds": 3300}),
        "replicaCheck.deadlineSeconds 3300 and replicaCheck.startingDeadlineSeconds 600",
    ),
    (
        _on("postgresBackupTiers"),
        "postgresBackupHourly.keep 24 and 7 daily, 4 weekly and 12 monthly (postgresBackupTiers) dumps "
        "of postgresBackupHourly.dumpSize 3400Mi",
    ),
    (
        _on("postgresBackupTiers", postgresBackupTiers={"monthly": {"keep": 60}}, **_size("210Gi")),
        "4 weekly and 60 monthly",
    ),
    (
        _on("postgresReplicatorBackup", postgresReplicatorBackup={"keep": 10}),
        "volumes.databaseReplica.size is 20Gi, but postgresReplicatorBackup.keep 10 dumps of "
        "postgresBackupHourly.dumpSize 3400Mi",
    ),
    *(
        ({section: {"enabled": True}}, f"volumes.{volume} names neither nfs.server nor existingClaim")
        for section, volume in [
            ("postgresReplicatorBackup", "databaseReplica"),
            ("databaseRecovery", "databaseReplica"),
            ("replicaCheck", "databaseReplica"),
            ("mediaReplicator", "mediaReplica"),
            ("mediaRecovery", "mediaReplica"),
        ]
    ),
    (
        _on("databaseRecovery", databaseRecovery={"source": "backup", "sanitisedOnly": True}),
        "databaseRecovery.sanitisedOnly is true, but databaseRecovery.source is backup",
    ),
    (
        {"databaseDrill": {"enabled": True, "references": "SELECT file FROM media"}},
        "volumes.mediaReplica names neither nfs.server nor existingClaim",
    ),
    *(
        (
            _on(section, **{section: {"confirm": "staging-stack"}}),
            f'{section}.confirm is "staging-stack", but this release is in namespace "production-stack"',
        )
        for section in ("databaseRecovery", "mediaRecovery")
    ),
    *(
        (
            _on(section, **{section: {"schedule": "30 5 * * *"}}),
            f'{section}.schedule is "30 5 * * *", but {section}.confirm is empty: a recovery that runs',
        )
        for section in ("databaseRecovery", "mediaRecovery")
    ),
    (
        _on("replicaCheck", replicaCheck={"database": False, "media": False}),
        "replicaCheck.database and replicaCheck.media are both false",
    ),
    ({"offsite": {"enabled": True}}, "offsite.remote is empty, but offsite.enabled is true"),
    *(
        (
            _on(section, **{section: {"source": "offsite"}}),
            f"offsite.remote is empty, but {section}.source is offsite",
        )
        for section in ("databaseRecovery", "databaseDrill", "mediaRecovery")
    ),
    (
        _on("databaseDrill", databaseDrill={"source": "offsite", "scratch": {"size": "29Gi"}})
        | {"offsite": {"remote": "s3:backups"}},
        "databaseDrill.scratch.size is 29Gi, but a dump of postgresBackupHourly.dumpSize 3400Mi needs 30600",
    ),
    (
        {"monitoring": {"alerts": {"enabled": True}}},
        "monitoring.alerts.runbookUrl is empty, but monitoring.alerts.enabled is true",
    ),
    (
        {"offsite": {"enabled": True, "remote": "s3:backups"}},
        'offsite.folders names "daily", but only hourly are written (postgresBackupTiers.enabled is false)',
    ),
    (
        _on(
            "postgresBackupTiers",
            offsite={"enabled": True, "remote": "s3:backups", "folders": ["nightly"]},
            **_size("210Gi"),
        ),
        'offsite.folders names "nightly", but only hourly, daily, weekly, monthly are written',
    ),
    *(
        (
            _on(section, **NO_BACKUP),
            f"{section}.enabled: these need dumps, but postgresBackupHourly.enabled is false",
        )
        for section in ("postgresReplicatorBackup", "databaseDrill", "postgresBackupTiers")
    ),
    (
        _on("databaseRecovery", databaseRecovery={"source": "backup"}, **NO_BACKUP),
        "databaseRecovery.source backup: these need dumps",
    ),
    (
        _on("databaseDrill", "postgresBackupTiers", "offsite", **NO_BACKUP),
        "databaseDrill.enabled, offsite.enabled, postgresBackupTiers.enabled: these need",
    ),
    (
        _on("databaseDrill", databaseDrill={"scratch": {"size": "26Gi"}}),
        "databaseDrill.scratch.size is 26Gi, but a dump of postgresBackupHourly.dumpSize 3400Mi needs "
        "27200Mi there",
    ),
    (
        _on("postgresReplicatorBackup", postgresReplicatorBackup=_sanitise(scratch={"size": "26Gi"})),
        "postgresReplicatorBackup.sanitise.scratch.size is 26Gi, but a dump of "
        "postgresBackupHourly.dumpSize 3400Mi needs 27200Mi there",
    ),
    (
        _on("postgresReplicatorBackup", postgresReplicatorBackup=_sanitise(fragalysis=False)),
        "its fragalysis is false and its sql is empty",
    ),
    ({"notify": {"ping": ["offsite"]}}, "notify.ping names offsite, which this release does not have"),
    (
        _on("databaseRecovery", databaseRecovery={"scratch": {"size": "3Gi"}}),
        "databaseRecovery.scratch.size is 3Gi, but a dump of postgresBackupHourly.dumpSize 3400Mi needs "
        "3400Mi there",
    ),
    (_on("replicaCheck", **_places(path="/nfs")), EXPORTS),
    (_on("replicaCheck", volumes={"mediaReplica": {"nfs": {"path": "/nfs/"}}}), EXPORTS),
    (_on("replicaCheck", volumes={"mediaReplica": {"nfs": {"path": "//media/../nfs"}}}), EXPORTS),
    (
        _on("replicaCheck", volumes={"mediaReplica": {"nfs": {"path": "/nfs", "server": "NFS.example.org"}}}),
        EXPORTS,
    ),
    (
        _on("replicaCheck", volumes={"mediaReplica": {"nfs": {"path": "/nfs/kubernetes-db-replica/media"}}}),
        EXPORTS,
    ),
    *(
        (
            merge_values(
                _on("postgresReplicatorBackup", "mediaReplicator", "replicaCheck"),
                {"volumes": {one: {"existingClaim": name}, other: {"existingClaim": name}}},
            ),
            f'volumes.{one} and volumes.{other} are the same claim, "{name}"',
        )
        for one, other, name in [
            ("databaseBackup", "databaseReplica", "same"),
            ("databaseBackup", "media", "database-backup"),
            ("databaseReplica", "mediaReplica", "same"),
            ("media", "mediaReplica", "media"),
            ("media", "replicaCheck", "same"),
        ]
    ),
    # A late run of any job must not take the place of the next one.
    (
        _on("postgresReplicatorBackup", postgresReplicatorBackup={"schedule": "H * * * *"}),
        "postgresReplicatorBackup.deadlineSeconds 7200 and "
        "postgresReplicatorBackup.startingDeadlineSeconds 14400",
    ),
    *(
        ({"pod": {old: value}}, f"pod.{old} is jobDefaults.{new} now")
        for old, new, value in [
            ("nodeSelector", "nodeSelector", {"disk": "ssd"}),
            ("tolerations", "tolerations", [{"operator": "Exists"}]),
            ("affinity", "affinity", {"podAffinity": {}}),
            ("labels", "podLabels", {"team": "1"}),
            ("annotations", "podAnnotations", {"team": "1"}),
        ]
    ),
    *(
        ({"database": {"tls": tls}}, f"database.tls.mode {mode} and database.tls.secret.certificateKey")
        for mode, tls in [
            ("verify-ca", {"mode": "verify-ca"}),
            ("prefer", {"secret": {"certificateKey": "tls.crt"}}),
        ]
    ),
    # What is added to a pod takes the place of nothing that its program relies on.
    (
        {"postgresBackupHourly": {"extraEnv": [{"name": "PGHOST", "value": "x"}]}},
        "postgresBackupHourly.extraEnv sets PGHOST, a variable",
    ),
    (
        {"jobDefaults": {"extraEnv": [{"name": "HOME", "value": "/"}]}, "doctor": {"enabled": False}},
        "postgresBackupHourly.extraEnv sets HOME, a variable",
    ),
    (
        {"postgresBackupHourly": {"extraEnv": [{"name": "PGOPTIONS", "value": "x"}]}},
        "postgresBackupHourly.extraEnv sets PGOPTIONS, a",
    ),
    (
        _on("databaseDrill", databaseDrill={"extraVolumes": [{"name": "scratch", "emptyDir": {}}]}),
        'databaseDrill.extraVolumes has a volume "scratch", as the pod of database-drill has already',
    ),
    (
        {"postgresBackupHourly": {"extraVolumes": 2 * [{"name": "own", "emptyDir": {}}]}},
        'postgresBackupHourly.extraVolumes has a volume "own"',
    ),
    *(
        (
            {"postgresBackupHourly": {"extraVolumeMounts": [{"name": "tmp", "mountPath": path}]}},
            f"postgresBackupHourly.extraVolumeMounts mounts at {path}, which hides or lies within {own} "
            "of the pod",
        )
        for path, own in [
            ("/", "/programs"),
            ("/backup", "/backup"),
            ("/backup/hourly", "/backup"),
            ("/secrets", "/secrets/database"),
        ]
    ),
    (
        {"postgresBackupHourly": {"extraVolumeMounts": [{"name": "own", "mountPath": "/own"}]}},
        'postgresBackupHourly.extraVolumeMounts mounts "own", but the pod of postgres-backup-hourly has no',
    ),
    (
        _on("databaseDrill", databaseDrill={"resources": {"limits": {"ephemeral-storage": "39Gi"}}}),
        "databaseDrill.resources.limits.ephemeral-storage is 39Gi, but the pod requests 40Gi",
    ),
    (
        {
            "postgresBackupHourly": {
                "resources": {
                    "requests": {"ephemeral-storage": "2Gi"},
                    "limits": {"ephemeral-storage": "1Gi"},
                }
            }
        },
        "postgresBackupHourly.resources.limits.ephemeral-storage is 1Gi, but the pod requests 2Gi",
    ),
    *(
        (
            merge_values(
                _on("postgresBackupTiers", **_size("210Gi")),
                nested((*values.split("."), "resources", "requests"), {amount: request}),
            ),
            f"{named}.resources.limits.{amount} is {limit}, but the pod requests {request}: it could not be "
            "made. Raise the limit, or lower the request.",
        )
        for values, named, amount, request, limit in [
            ("postgresBackupHourly", "postgresBackupHourly", "memory", "1.5Gi", "1Gi"),
            ("jobDefaults", "postgresBackupTiers", "memory", "513Mi", "512Mi"),
            ("jobDefaults", "postgresBackupTiers", "cpu", 3, "2"),
            ("python", "python", "cpu", "1001m", "1"),
            ("rclone", "rclone", "memory", "1G", "256Mi"),
            ("monitoring.exporter", "monitoring.exporter", "cpu", 0.75, "500m"),
        ]
    ),
    (
        _on(
            "databaseRecovery",
            databaseRecovery={"source": "backup", "schedule": "@daily", "confirm": "production-stack"},
        ),
        'databaseRecovery.schedule is "@daily", but databaseRecovery.source is backup: the database would be',
    ),
    (
        _on(
            "mediaRecovery",
            "mediaReplicator",
            mediaRecovery={"schedule": "@daily", "confirm": "production-stack"},
        ),
        'mediaRecovery.schedule is "@daily", but mediaReplicator.enabled is true: the media would be',
    ),
    (
        {
            "monitoring": {"exporter": {"enabled": True}},
            "volumes": {"databaseBackup": {"accessModes": ["ReadWriteOncePod"]}},
        },
        "monitoring.exporter.enabled is true, but the claim history is ReadWriteOncePod",
    ),
    (
        {"postgresBackupHourly": {"schedule": "51 22-2 * * *"}},
        'postgresBackupHourly.schedule is "51 22-2 * * *", but its range 22-2 runs backwards',
    ),
    (
        _on(
            "postgresBackupTiers",
            postgresBackupTiers={"daily": {"schedule": "1 2 * * FRI-sun"}},
            **_size("210Gi"),
        ),
        'postgresBackupTiers.daily.schedule is "1 2 * * FRI-sun", but its range FRI-sun runs backwards',
    ),
    (
        {"jobDefaults": {"extraEnv": [{"name": "LANG", "value": value} for value in "ab"]}},
        "extraEnv sets LANG twice: keep one of them.",
    ),
    (
        {
            "postgresBackupHourly": {
                "extraVolumes": [{"name": "own", "emptyDir": {}}],
                "extraVolumeMounts": [{"name": "own", "mountPath": path} for path in ("/own", "/own/")],
            }
        },
        "postgresBackupHourly.extraVolumeMounts mounts twice at /own/: keep one of them.",
    ),
    (
        {
            "monitoring": {
                "exporter": {"enabled": True},
                "podMonitor": {"enabled": True, "interval": "1m", "scrapeTimeout": "61s"},
            }
        },
        "monitoring.podMonitor.scrapeTimeout 61s exceeds monitoring.podMonitor.interval 1m",
    ),
]


@pytest.mark.parametrize(("values", "sentence"), GUARDS, ids=lambda part: str(part)[:70])
def test_a_guard_says_what_is_wrong(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RenderError) as caught:
        render(values)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        _size("13Gi", keep=9, dumpSize="1Gi"),
        _size("14G", keep=9, dumpSize="1000M"),
        _size("13312Mi", keep=9, dumpSize="1073741824"),
        {"volumes": {"databaseBackup": {"size": "1Gi", "existingClaim": "made-by-hand"}}},
        {"postgresBackupHourly": {"deadlineSeconds": 3000}},
        {"postgresBackupHourly": {"deadlineSeconds": 7200, "schedule": "51 */4 * * *"}},
        _on("postgresBackupTiers", **_size("208Gi")),
        _on("postgresReplicatorBackup", postgresReplicatorBackup={"keep": 3}),
        _on(
            "postgresReplicatorBackup",
            volumes={"databaseReplica": {"existingClaim": "made-by-hand", "size": "1Gi"}},
        ),
        _on("databaseDrill", databaseDrill={"scratch": {"size": "27200Mi"}}),
        _on("databaseRecovery", databaseRecovery={"scratch": {"size": "3400Mi"}}),
        _on("databaseRecovery", databaseRecovery={"schedule": "@daily", "confirm": "production-stack"}),
        _on("databaseRecovery", databaseRecovery={"confirm": "production-stack"}),
        _on("databaseRecovery", **NO_BACKUP),
        _on(
            "databaseDrill",
            "postgresBackupTiers",
            "postgresReplicatorBackup",
            postgresBackupHourly={"enabled": False},
            volumes=CLAIMED,
        ),
        _on("databaseRecovery", databaseRecovery={"source": "backup"}, volumes=CLAIMED, **NO_BACKUP),
        {"offsite": {"enabled": True, "remote": "s3:backups", "folders": ["hourly"]}},
        {"offsite": {"enabled": True, "remote": "s3:backups", "folders": ["nightly"]}, "volumes": CLAIMED},
        _on("replicaCheck", volumes={"mediaReplica": {"nfs": {"path": "/nfs/kubernetes-db-replica-media"}}}),
        _on("replicaCheck", volumes={"mediaReplica": {"nfs": {"path": "/nfs", "server": "another"}}}),
        _on("databaseRecovery", **_places(path="/nfs")),
        {"volumes": {"media": {"existingClaim": "database-backup"}}},
        {"pod": {"nodeSelector": {}, "tolerations": []}},
        {"database": {"tls": {"mode": "require", "secret": {"name": ""}}}},
        {"postgresBackupHourly": {"extraVolumeMounts": [{"name": "tmp", "mountPath": "/backup-of-mine"}]}},
        _on("databaseDrill", databaseDrill={"resources": {"limits": {"ephemeral-storage": "40Gi"}}}),
        {"jobDefaults": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": 2}}}},
        {"postgresBackupHourly": {"resources": {"requests": {"cpu": 8}, "limits": {"cpu": None}}}},
        _on(
            "databaseDrill",
            databaseDrill={
                "resources": {"limits": {"ephemeral-storage": "1Gi"}},
                "scratch": {"storageClass": "fast"},
            },
        ),
    ],
    ids=str,
)
def test_a_guard_lets_pass_what_just_fits(values: dict[str, Any]) -> None:
    assert render(values).of_kind("CronJob")
