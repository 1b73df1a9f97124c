"""What the operators rely on, written out once and by hand.

Nothing here is read from the chart: a changed default must not change the contract with it. The names stand
in the operators' own jobs, dashboards and runbooks, so a change of any line is a change for them.
"""

from __future__ import annotations

import re

NAMESPACE = "production-stack"

# The hourly database backup.
HOURLY = "postgres-backup-hourly"
SCHEDULE = "51 * * * *"
TIME_ZONE = "Etc/UTC"
CLAIM = "database-backup"
MOUNT = "/backup"
FOLDER = "hourly"
KEEP = 24
DUMP_GIB = 3.3
"""Size of one compressed dump, November 2023."""

# The start of the run, UTC. The recovery tool in use takes the last of `/backup/*/backup*` as the latest.
FILE_NAME_EXAMPLE, FILE_NAME_TIME = "backup-2022-11-28T08:51:08Z-dumpall.sql.gz", "2022-11-28T08:51:08Z"

COMMAND = ("pg_dumpall", "--username=admin", "--no-password")

# The database of a stack.
SERVICE = "database"
PORT = 5432
SUPERUSER = "admin"
DATABASE = "frag"
OWNER = "fragalysis"
SECRET = "database"
SECRET_KEYS = {"superuser": "root_password", "owner": "user_password"}

# Every namespace that the chart is installed in: the two stacks, and one per developer.
NAMESPACES = re.compile(r"production-stack|staging-stack|stack-[a-z0-9]+-[a-z0-9-]+")

# What production runs by itself, with the time of each; all in TIME_ZONE.
MEDIA_REPLICATOR = "media-replicator"
DATABASE_REPLICATOR = "postgres-replicator-backup"
# Folder beside `hourly`, and how many dumps are kept there.
TIERS = {
    "postgres-backup-daily": ("daily", 7),
    "postgres-backup-weekly": ("weekly", 4),
    "postgres-backup-monthly": ("monthly", 12),
}
SCHEDULES = {
    HOURLY: SCHEDULE,
    "postgres-backup-daily": "21 0 * * *",
    "postgres-backup-weekly": "31 0 * * 0",
    "postgres-backup-monthly": "41 0 8 * *",
    DATABASE_REPLICATOR: "4 2 * * *",
    MEDIA_REPLICATOR: "4 2 * * *",
    "database-drill": "11 3 * * 6",
}

# What runs by hand alone, on every stack: it replaces what is there.
DATABASE_RECOVERY = "database-recovery"
MEDIA_RECOVERY = "media-recovery"

# What examines all that the others need, by hand and by `helm test`, on every stack.
DOCTOR = "doctor"

# What every stack that loads from the replicas runs by itself.
REPLICA_CHECK = "replica-check"
HISTORY = "history"

# A copy in another place, for who wants one.
OFFSITE = "offsite"

# The exports that both clusters mount.
NFS_SERVER = "130.246.213.182"
DATABASE_EXPORT = "/nfs/kubernetes-db-replica"
MEDIA_EXPORT = "/nfs/kubernetes-media-replica"
REPLICA_FOLDER = "hourly"
REPLICA_KEEP = 2

# A stack's own media files.
MEDIA_CLAIM = "media"
MEDIA_GIB = 240
"""About 135,000 files, September 2025."""

CONSUMERS = {"staging": "staging-stack", "developer": "stack-alice-default"}
"""The stacks that load from the replicas, with a namespace of theirs."""
