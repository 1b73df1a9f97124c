"""What init containers leave in volumes of their pod, kept for the pods that begin in the same way.

Nearly every pod of the chart begins with the same copy of an interpreter and the same programs compiled: more
work than most jobs have. Two pods do it, and the later ones find what the second left: what one pod alone
needs, as one with a mutant does, is not worth a copy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from stack_backup_lab.runtime.folders import own_folder

Json = Mapping[str, Any]
_KEEPING = threading.Lock()


@dataclass(frozen=True)
class Beginning:
    """What the init containers of a pod leave in `volumes` (names); it lies in `place` once it is kept."""

    place: Path
    volumes: Sequence[str]
    again: bool
    """Whether a pod before has begun so."""

    @property
    def kept(self) -> bool:
        return self.place.exists()

    def keep(self, folders: Mapping[str, Path]) -> None:
        """Keep a copy of each volume, whose folders are given by their names."""
        with _KEEPING:
            if self.kept or not self.again:
                return
            partial = self.place.with_suffix(".partial")
            partial.mkdir()
            for name in self.volumes:
                copy = ("cp", "--archive", "--no-target-directory", folders[name], partial / name)
                subprocess.run(copy, check=True)
            partial.rename(self.place)


class Lent:
    """The kept volumes of a runtime, in a folder that ends with it."""

    def __init__(self) -> None:
        self._folder, self._lock = own_folder("lent")
        self._begun: set[str] = set()
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def beginning(
        self,
        spec: Json,
        config_maps: Mapping[str, Mapping[str, bytes]],
        images: Mapping[str, Path],
        faults: Json,
    ) -> Beginning | None:
        """How a pod begins; None where its init containers have variables, or reach more than their images,
        ConfigMaps, and volumes on disk that end with the pod: what they do then is not known beforehand.

        `images` has the root file systems of the images by name, `faults` what a test has changed for them.
        """
        containers = spec.get("initContainers", [])
        mounted = {mount["name"] for one in containers for mount in one.get("volumeMounts", [])}
        volumes = {volume["name"]: volume for volume in spec.get("volumes", []) if volume["name"] in mounted}
        empty = [
            name for name, volume in volumes.items() if "medium" not in volume.get("emptyDir", ["medium"])
        ]
        texts = {
            name: {key: sha256(text).hexdigest() for key, text in config_maps.get(called, {}).items()}
            for name, volume in volumes.items()
            if (called := volume.get("configMap", {}).get("name"))
        }
        if not empty or len(empty) + len(texts) < len(mounted) or any("env" in one for one in containers):
            return None
        made_of = {
            "containers": containers,
            "as": spec.get("securityContext"),
            "images": [str(images[one["image"]]) for one in containers],
            "volumes": volumes,
            "texts": texts,
            "faults": faults,
        }
        digest = sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
        again = digest in self._begun
        self._begun.add(digest)
        return Beginning(self._folder / digest[:16], empty, again)
