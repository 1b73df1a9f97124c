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
FILE_NAME = re.compile(r"backup-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ-dumpall\.sql\.gz")
FILE_NAME_EXAMPLE = "backup-2022-11-28T08:51:08Z-dumpall.sql.gz"

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
