"""A cluster's API: its objects as plain dictionaries, by the `kubernetes` client."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from kubernetes.client import ApiClient, ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import NotFoundError

from stack_backup.runs import Object

Found = TypeVar("Found")

_GROUPS = {
    "CronJob": "batch/v1",
    "Job": "batch/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
    "StatefulSet": "apps/v1",
}
_GONE = 410


class NotInTimeError(Exception):
    """What was waited for has not come within the time."""


class Api:
    """The objects of one cluster. What the API server refuses is the client's own `ApiException`."""

    def __init__(self, client: ApiClient) -> None:
        # No discovery cache (nothing can lie under /dev/null): it would outlive the cluster behind that port.
        self._dynamic = DynamicClient(client, cache_file=f"{os.devnull}/none")  # type: ignore[no-untyped-call]

    def resource(self, kind: str) -> Any:
        return self._dynamic.resources.get(api_version=_GROUPS.get(kind, "v1"), kind=kind)

    def create(self, body: Object, namespace: str | None = None) -> Object:
        made: Object = self.resource(body["kind"]).create(body=body, namespace=namespace).to_dict()
        return made

    def get(self, kind: str, name: str, namespace: str | None = None) -> Object | None:
        """The live object, or None if there is none."""
        try:
            found: Object = self.resource(kind).get(name=name, namespace=namespace).to_dict()
        except NotFoundError:
            return None
        return found

    def metadata(self, kind: str, name: str, namespace: str) -> Object | None:
        """The object's metadata alone: of a Secret, the API server sends no value. None if there is none."""
        alone = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
        try:
            found: Object = (
                self.resource(kind).get(name=name, namespace=namespace, header_params=alone).to_dict()
            )
        except NotFoundError:
            return None
        return found

    def find(self, kind: str, namespace: str | None = None, labels: str | None = None) -> list[Object]:
        items: list[Object] = (
            self.resource(kind).get(namespace=namespace, label_selector=labels).to_dict()["items"]
        )
        return items

    def patch(self, kind: str, name: str, namespace: str, body: Object) -> Object:
        """A JSON merge patch: null removes, lists are replaced."""
        patched: Object = (
            self.resource(kind)
            .patch(name=name, namespace=namespace, body=body, content_type="application/merge-patch+json")
            .to_dict()
        )
        return patched

    def delete(self, kind: str, name: str, namespace: str | None = None, grace: int | None = None) -> None:
        """Delete an object and, in the background, what it owns; one that is gone already is no error."""
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": "Background"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            self.resource(kind).delete(name=name, namespace=namespace, body=options)
        except NotFoundError:
            return

    def watch(
        self,
        kind: str,
        until: Callable[[list[Object]], Found | None],
        *,
        timeout: float,
        namespace: str | None = None,
        name: str | None = None,
        labels: str | None = None,
    ) -> Found:
        """Watch the selected objects until `until`, given all of them, returns something true; return that.

        `timeout` in seconds; raises `NotInTimeError` when it has passed.
        """
        resource = self.resource(kind)
        selection = {"namespace": namespace, "label_selector": labels}
        field = None if name is None else f"metadata.name={name}"
        deadline = time.monotonic() + timeout
        while True:
            listing = resource.get(field_selector=field, **selection).to_dict()
            objects = {item["metadata"]["uid"]: item for item in listing["items"]}
            if found := until(list(objects.values())):
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotInTimeError(f"not within {timeout:.0f} s")
            try:
                for event in resource.watch(
                    name=name,
                    resource_version=listing["metadata"]["resourceVersion"],
                    timeout=math.ceil(min(left, 60)),
                    **selection,
                ):
                    item = event["raw_object"]
                    if event["type"] == "DELETED":
                        objects.pop(item["metadata"]["uid"], None)
                    else:
                        objects[item["metadata"]["uid"]] = item
                    if found := until(list(objects.values())):
                        return found
            except ApiException as error:
                if error.status != _GONE:  # too old a version: list again
                    raise
