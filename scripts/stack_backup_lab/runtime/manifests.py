"""The objects of the cluster runtime's own pods: database servers, and helpers that reach a claim's files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from stack_backup_lab.runtime.postgres import SETTINGS, SUPERUSER

Object = dict[str, Any]

UID = 999  # of the user postgres in Debian's image
PORT = 5432
OURS = {"app.kubernetes.io/managed-by": "stack-backup-testbed"}
"""Label of the namespaces that the runtime made: no other one is ever removed."""
_SECRETS = "/secrets/database"
_SERVER_VOLUMES = [
    {"name": "run", "emptyDir": {}},
    {"name": "tmp", "emptyDir": {}},
    {"name": "secrets", "secret": {"secretName": "database"}},
]
_SERVE = r"""
set -Eeuo pipefail
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  initdb --username="$SUPERUSER" --pwfile="$PASSWORD_FILE" --encoding=UTF8 --locale=C.UTF-8 \
    --auth-local=trust --auth-host=scram-sha-256 --no-sync
  printf 'host all all all scram-sha-256\n' >>"$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*' "$@"
"""


def namespace_object(name: str) -> Object:
    """A namespace that enforces the restricted Pod Security level, and warns of pods that it would refuse."""
    level = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": level | OURS}}


def claim_object(name: str) -> Object:
    """A claim of the cluster's default class, for what a stack brings itself."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": spec,
    }


def export_objects(namespace: str, claim: str, path: str) -> Iterator[Object]:
    """A folder of the node as a volume and the claim bound to it: what an NFS export is elsewhere."""
    name = f"{namespace}-{claim}"
    common = {"accessModes": ["ReadWriteMany"], "storageClassName": ""}
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": common
        | {
            "capacity": {"storage": "1Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "claimRef": {"namespace": namespace, "name": claim},
            "hostPath": {"path": path, "type": "Directory"},
        },
    }
    yield {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": claim},
        "spec": common | {"volumeName": name, "resources": {"requests": {"storage": "1Gi"}}},
    }


def files_pod(name: str, claim: str, image: str) -> Object:
    """A pod that does nothing but mount the claim at /files."""
    container = {
        "name": "files",
        "image": image,
        "command": ["sleep", "infinity"],
        "volumeMounts": [{"name": "files", "mountPath": "/files"}],
    }
    return _pod(name, container, [{"name": "files", "persistentVolumeClaim": {"claimName": claim}}])


def server_pod(name: str, image: str) -> Object:
    """A throw-away PostgreSQL server: its data goes with the pod."""
    return _pod(name, _server_container(image), [{"name": "data", "emptyDir": {}}, *_SERVER_VOLUMES])


def database_objects(image: str, passwords: Mapping[str, str]) -> Iterator[Object]:
    """Secret, Service and StatefulSet `database`, as a stack has them."""
    labels = {"app": "database"}
    named = {"metadata": {"name": "database", "labels": labels}}
    yield {"apiVersion": "v1", "kind": "Secret", **named, "stringData": dict(passwords)}
    service = {"selector": labels, "ports": [{"name": "postgresql", "port": PORT}]}
    yield {"apiVersion": "v1", "kind": "Service", **named, "spec": service}
    yield {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        **named,
        "spec": {
            "serviceName": "database",
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": _pod_spec(_server_container(image), _SERVER_VOLUMES),
            },
            # A claim, so that the data is there again after the server was away.
            "volumeClaimTemplates": [
                {
                    "metadata": {"name": "data"},
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "resources": {"requests": {"storage": "1Gi"}},
                    },
                }
            ],
        },
    }


def _pod(name: str, container: Object, volumes: list[Object]) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": _pod_spec(container, volumes),
    }


def _pod_spec(container: Object, volumes: list[Object]) -> Object:
    return {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # Servers and helpers here hold nothing that outlives the stack: no reason to wait for a clean stop.
        "terminationGracePeriodSeconds": 1,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "imagePullPolicy": "IfNotPresent",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "2Gi"}},
                **container,
            }
        ],
        "volumes": volumes,
    }


def _server_container(image: str) -> Object:
    data = "/var/lib/postgresql/data"
    answers = {
        "exec": {
            "command": ["pg_isready", "--host=127.0.0.1", f"--username={SUPERUSER}", "--dbname=postgres"]
        },
        "timeoutSeconds": 10,
    }
    settings = [word for key, value in SETTINGS.items() for word in ("-c", f"{key}={value}")]
    return {
        "name": "database",
        "image": image,
        "command": ["bash", "-c", _SERVE, "serve", *settings],
        "env": [
            # Not the volume's own root: that may be root's, or hold lost+found.
            {"name": "PGDATA", "value": f"{data}/pgdata"},
            {"name": "SUPERUSER", "value": SUPERUSER},
            {"name": "PASSWORD_FILE", "value": f"{_SECRETS}/root_password"},
        ],
        "ports": [{"name": "postgresql", "containerPort": PORT}],
        # Often until it has started, then seldom: each probe is a process of Perl's, in every stack.
        "startupProbe": answers | {"periodSeconds": 1, "failureThreshold": 180},
        "readinessProbe": answers | {"periodSeconds": 20},
        "volumeMounts": [
            {"name": "data", "mountPath": data},
            {"name": "run", "mountPath": "/var/run/postgresql"},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "secrets", "mountPath": _SECRETS, "readOnly": True},
        ],
    }
