"""The stacks of the stories: their namespaces, and their values for a cluster on one machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stack_backup_lab.paths import PROJECT

NAMESPACE = "production-stack"
STAGING = "staging-stack"
DEVELOPER = "stack-alice-default"

VALUES = PROJECT / "values" / "production.yaml"
CONSUMER_VALUES = VALUES.with_name("consumer.yaml")

JOB = "postgres-backup-hourly"
CLAIM = "database-backup"
FOLDER = "hourly"
MEDIA = "media"

STOCK: Mapping[str, Any] = {
    "database": {"image": {"repository": "postgres", "tag": "15"}},
    "databaseDrill": {"references": ""},
}
"""Values laid over a stack's where the stock image runs, and the tables are not Fragalysis' own."""

_LITTLE = {"resources": {"requests": {"cpu": "50m", "memory": "64Mi"}}}
_SCRATCH = {"scratch": {"size": "1Gi"}}
TEST_MACHINE: Mapping[str, Any] = {
    "database": {"image": {"repository": "localhost/stack-database", "tag": "15"}},
    "postgresBackupHourly": {"dumpSize": "15Mi", **_LITTLE},
    **dict.fromkeys(
        ("postgresBackupTiers", "postgresReplicatorBackup", "mediaReplicator", "replicaCheck", "offsite"),
        _LITTLE,
    ),
    "databaseRecovery": _LITTLE | _SCRATCH,
    "databaseDrill": _LITTLE | _SCRATCH | STOCK["databaseDrill"],
    "mediaRecovery": _LITTLE,
    "volumes": {
        "databaseBackup": {"size": "1Gi", "accessModes": ["ReadWriteOnce"]},
        "databaseReplica": {"size": "1Gi"},
        "mediaReplica": {"size": "1Gi"},
    },
}
"""Values laid over a stack's for one machine: its own image and tables, little data, small volumes."""

_OFF = {"enabled": False}
BACKUP_ALONE: Mapping[str, Any] = dict.fromkeys(
    (
        "postgresBackupTiers",
        "postgresReplicatorBackup",
        "mediaReplicator",
        "databaseRecovery",
        "mediaRecovery",
        "databaseDrill",
    ),
    _OFF,
)
"""Laid over production's values where only the hourly backup is of interest."""

EVERY_MINUTE: Mapping[str, Any] = {"postgresBackupHourly": {"schedule": "* * * * *", "suspend": False}}
SUSPENDED: Mapping[str, Any] = {"jobDefaults": {"suspend": True}}
"""Laid over where nothing may run but what is run by hand, whatever the hour is."""
