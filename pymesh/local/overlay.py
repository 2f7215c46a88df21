"""A scenario's resources laid over a copy of the mesh's configuration, and taken off again.

A resource takes the place of the one of the same kind and name, wherever that stands. The ports of gateways are moved
to free ones where the mesh's are, and so are those that rules at gateways ask for. Every change is one that an editor
could make: files are replaced one at a time, and the control plane sees them as it would a user's.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pymesh.local import config
from pymesh.local.errors import LocalMeshError
from pymesh.local.scenario import APP_PORT

Resource = Mapping[str, Any]

_FILE = "scenario.yaml"


class Overlay:
    """The configuration folders of a run, of which the first takes what scenarios add."""

    def __init__(
        self, folders: Iterable[Path], kept: Path, port: Callable[[int], int], apps: Mapping[str, int] | None = None
    ) -> None:
        """`kept` is a folder for the originals; `port` gives the port that stands for a gateway's; `apps` where apps
        and their sidecars listen, by `workload.port` and `workload.port.sidecar`.
        """
        self._folders = tuple(folders)
        self._kept = kept
        self._port = port
        self._apps = dict(apps or {})
        for number, folder in enumerate(self._folders):
            shutil.copytree(folder, kept / str(number))

    def apply(self, resources: Iterable[Resource], namespace: str) -> None:
        """Add resources, each in the place of its namesake."""
        added = [self._moved(resource, namespace) for resource in resources]
        replaced = {_identity(one) for one in added}
        file = self._folders[0] / _FILE
        present = [one for one in config.documents(file) if _identity(one) not in replaced]
        # First the new, then the old away: nothing is ever missing, and while a resource is there twice the control
        # plane refuses the files and keeps what it has.
        config.write(file, [*present, *added])
        self._without(replaced, but=file)

    def remove(self, names: Iterable[str], namespace: str) -> None:
        """Take resources away, written as `Kind/name`."""
        gone = set()
        for name in names:
            kind, _, of = name.partition("/")
            gone.add((kind, namespace, of))
        files = [file for folder in self._folders for file in _files(folder)]
        known = {_identity(one) for file in files for one in config.documents(file)}
        for identity in sorted(gone - known):
            raise LocalMeshError(f"there is no {identity[0]} {identity[2]!r} to remove")
        self._without(gone)

    def restore(self) -> None:
        """Everything as it was at first."""
        for number, folder in enumerate(self._folders):
            for file in _files(self._kept / str(number)):
                there = folder / file.relative_to(self._kept / str(number))
                if not there.exists() or there.read_bytes() != file.read_bytes():
                    config.write_text(there, file.read_text())
        (self._folders[0] / _FILE).unlink(missing_ok=True)

    def _without(self, identities: set[tuple[str, str, str]], but: Path | None = None) -> None:
        for folder in self._folders:
            for file in _files(folder):
                if file == but:
                    continue
                there = config.documents(file)
                left = [one for one in there if _identity(one) not in identities]
                if len(left) != len(there):
                    config.write(file, left)

    def _app_port(self, written: re.Match[str]) -> str:
        if written[1] not in self._apps:
            known = ", ".join(sorted(self._apps))
            raise LocalMeshError(f"no app listens on {written[0]!r}; hint: one of {known}")
        return str(self._apps[written[1]])

    def _moved(self, resource: Resource, namespace: str) -> dict[str, Any]:
        """The resource with its namespace, and with gateway ports that are free here."""
        made: dict[str, Any] = yaml.safe_load(APP_PORT.sub(self._app_port, yaml.safe_dump(dict(resource))))
        if isinstance(metadata := made.get("metadata"), dict):
            metadata.setdefault("namespace", namespace)
        spec = made.get("spec")
        if made.get("kind") == "Gateway" and isinstance(spec, dict):
            for server in spec.get("servers") or ():
                server["port"]["number"] = self._port(server["port"]["number"])
            for listener in spec.get("listeners") or ():
                listener["port"] = self._port(listener["port"])
        if made.get("kind") == "VirtualService" and isinstance(spec, dict) and _is_for_gateways(spec):
            rules = [rule for kind in ("http", "tls", "tcp") for rule in spec.get(kind) or ()]
            for match in (match for rule in rules for match in rule.get("match") or ()):
                if "port" in match:
                    match["port"] = self._port(match["port"])
        return made


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in (".yaml", ".yml"))


def _is_for_gateways(spec: Mapping[str, Any]) -> bool:
    """Whether the ports that rules of a VirtualService ask for are those of gateways."""
    return bool(set(spec.get("gateways") or ()) - {"mesh"})


def _identity(resource: Resource) -> tuple[str, str, str]:
    metadata = resource.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return str(resource.get("kind")), str(metadata.get("namespace", "default")), str(metadata.get("name"))
