"""The mesh's own resources, as far as a local run has to look into them: the gateways' ports and the routes' weights.

The control plane reads and judges these files; here they are only searched, and rewritten in copies. A file that is
not YAML is left alone, for the control plane to refuse.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pymesh.local.errors import LocalMeshError
from pymesh.local.meshfile import Gateway

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Server:
    """A port that a Gateway resource opens."""

    file: Path
    gateway: str
    port: int


def servers(folders: Iterable[Path], gateway: Gateway) -> list[Server]:
    """The ports that the resources open on `gateway`."""
    found = []
    for file, document in _documents(folders):
        if document.get("kind") != "Gateway" or not _selects(document, gateway.labels):
            continue
        for server in document["spec"].get("servers") or []:
            number = (server.get("port") or {}).get("number")
            if isinstance(number, int):
                found.append(Server(file, str(document["metadata"]["name"]), number))
    return found


def service_port(folders: Iterable[Path], name: str, namespace: str) -> int:
    """The first port of a Service; 80 if there is none of that name."""
    for _, document in _documents(folders):
        metadata, spec = document.get("metadata"), document.get("spec")
        if document.get("kind") != "Service" or not isinstance(metadata, dict) or not isinstance(spec, dict):
            continue
        if (metadata.get("name"), metadata.get("namespace", "default")) == (name, namespace):
            for port in spec.get("ports") or []:
                if isinstance(port, dict) and isinstance(port.get("port"), int):
                    return int(port["port"])
    return 80


def copied(home: Path, folders: Iterable[Path], target: Path) -> tuple[Path, ...]:
    """A copy of the mesh's folder under `target`, free to be changed; where `folders` are in it.

    The whole folder is copied, since resources refer to files beside them.
    """
    shutil.copytree(home, target, ignore=shutil.ignore_patterns("__pycache__"))
    return tuple(target / folder.relative_to(home) for folder in folders)


def move_server(server: Server, port: int) -> None:
    """Give the server another port, in its file."""

    def change(document: Document) -> None:
        if document.get("kind") == "Gateway" and document["metadata"]["name"] == server.gateway:
            for one in document["spec"]["servers"]:
                if one["port"]["number"] == server.port:
                    one["port"]["number"] = port

    _rewrite(server.file, change)


def set_weights(folders: Iterable[Path], host: str, weights: Mapping[str, int]) -> None:
    """Set the weights of the VirtualService for `host`, by subset, where each of them stands."""
    changed = 0

    def change(document: Document) -> None:
        nonlocal changed
        if document.get("kind") != "VirtualService" or host not in document["spec"].get("hosts", ()):
            return
        for route in document["spec"].get("http") or []:
            for destination in route.get("route") or []:
                subset = destination.get("destination", {}).get("subset")
                if subset in weights:
                    destination["weight"] = weights[subset]
                    changed += 1

    for file in _files(folders):
        if any(document.get("kind") == "VirtualService" for document in documents(file)):
            _rewrite(file, change)
    if changed != len(weights):
        raise LocalMeshError(f"no VirtualService for {host!r} routes to the subsets {', '.join(sorted(weights))}")


def _selects(document: Document, labels: Mapping[str, str]) -> bool:
    spec, metadata = document.get("spec"), document.get("metadata")
    if not isinstance(spec, dict) or not isinstance(metadata, dict):
        return False
    selector = spec.get("selector") or {}
    return isinstance(selector, dict) and selector.items() <= labels.items()


def _documents(folders: Iterable[Path]) -> Iterator[tuple[Path, Document]]:
    for file in _files(folders):
        for document in documents(file):
            yield file, document


def _files(folders: Iterable[Path]) -> list[Path]:
    return [f for folder in folders for f in sorted(folder.rglob("*")) if f.suffix in (".yaml", ".yml")]


def documents(file: Path) -> list[Document]:
    """The mappings in a file; none if it is not there or not YAML."""
    try:
        loaded = list(yaml.safe_load_all(file.read_bytes()))
    except (OSError, yaml.YAMLError):
        return []
    return [document for document in loaded if isinstance(document, dict)]


def _rewrite(file: Path, change: Callable[[Document], None]) -> None:
    """Change a file's documents."""
    found = documents(file)
    for document in found:
        change(document)
    write(file, found)


def write(file: Path, contents: Iterable[Document]) -> None:
    """Write a file of these documents."""
    write_text(file, yaml.safe_dump_all(list(contents), sort_keys=False))


def write_text(file: Path, text: str) -> None:
    """Replace a file at once, so that nobody reads half of it."""
    staged = file.with_name(f".{file.name}.new")
    staged.write_text(text)
    staged.replace(file)
