"""`mesh.yaml`: which apps and gateways a local mesh has, parsed into frozen data or refused with every error at once.

It is read with the decoder of the control plane's resources, so its errors look like theirs. Invariant: a
:class:`LocalMesh` that exists is consistent: names are DNS labels and unique, every called service is one that an app
offers, every folder that it names is there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml

from pymesh.control.resources.decode import BAD, Decoder, Located, Problem, Range, model
from pymesh.control.resources.diagnostics import ConfigError, Position, Report, did_you_mean
from pymesh.control.resources.metadata import Metadata
from pymesh.local.errors import LocalMeshError

FILE_NAME = "mesh.yaml"
MAX_BYTES = 1 << 20

#: Among the calls of an app: whatever the mesh knows.
EVERYTHING = "*"

T = TypeVar("T")

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL_HINT = "lower-case letters, digits and '-', at most 63; it starts and ends with a letter or digit"


class MeshFileError(LocalMeshError):
    """A mesh file with errors: all of them, with their places."""


@model
class App(Located):
    """A program that is started `replicas` times and offers one version of a service."""

    name: str
    command: tuple[str, ...]
    #: Port name -> environment variable that tells the app where to listen. As with Istio the name begins with the
    #: protocol: `http`, `grpc-api`, `tcp`.
    ports: Mapping[str, str]
    service: str = ""
    version: str = "v1"
    service_account: str = ""
    replicas: Annotated[int, Range(1, 100)] = 1
    #: Services that it calls; each gets a loopback port of the sidecar. `*` stands for one more port, by which every
    #: host that the mesh knows is reached, as by an HTTP proxy.
    calls: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    #: Where it runs, as Istio writes it: REGION/ZONE/SUBZONE.
    locality: str = ""
    #: Path that answers 200 once the app is ready; without one, accepting connections is enough.
    readiness: str | None = None

    @property
    def protocol(self) -> str:
        """What is spoken on its first port, where callers are led."""
        return protocol(next(iter(self.ports)))

    @property
    def service_name(self) -> str:
        """The service that it belongs to: its own name unless the file says otherwise."""
        return self.service or self.name

    @property
    def account(self) -> str:
        """The service account that it runs as."""
        return self.service_account or self.name

    def problems(self) -> Iterator[Problem]:
        yield from _labels({"name": self.name, "service": self.service, "serviceAccount": self.service_account})
        if not self.command:
            yield Problem("command", "the command is empty", "write it as in [python3, apps/web.py]")
        if not self.ports:
            yield Problem("ports", "an app needs a port", "write it as in {http: PORT}")
        for port, variable in self.ports.items():
            if not _VARIABLE.fullmatch(variable):
                yield Problem(
                    "ports",
                    f"{port}: {variable!r} is not the name of an environment variable",
                    "the mesh picks the port and tells the app in a variable: {http: PORT}",
                )
        if self.locality.count("/") > 2 or self.locality.strip("/") != self.locality:
            yield Problem("locality", f"{self.locality!r} is no locality", "REGION, REGION/ZONE or REGION/ZONE/SUBZONE")
        if self.readiness is not None and not self.readiness.startswith("/"):
            yield Problem("readiness", f"{self.readiness!r} is not a path", "it starts with '/'")


def protocol(port: str) -> str:
    """The protocol that the name of a port begins with; HTTP where it says none."""
    said = port.partition("-")[0].upper()
    return said if said in ("GRPC", "HTTP2", "TCP", "TLS") else "HTTP"


@model
class Gateway(Located):
    """A proxy without an app. Which of its ports are open is said by the Gateway resources that select its labels."""

    name: str
    labels: Mapping[str, str]
    service_account: str = ""

    @property
    def account(self) -> str:
        """The service account that it runs as."""
        return self.service_account or self.name

    def problems(self) -> Iterator[Problem]:
        yield from _labels({"name": self.name, "serviceAccount": self.service_account})


@model
class Traffic(Located):
    """The requests that `pymesh up` sends while it runs."""

    gateway: str
    path: str = "/"
    per_second: Annotated[int, Range(1, 1000)] = 10

    def problems(self) -> Iterator[Problem]:
        if not self.path.startswith("/"):
            yield Problem("path", f"{self.path!r} is not a path", "it starts with '/'")


@model
class Spec(Located):
    """What a mesh is made of."""

    #: Folders of resources, beside the mesh file.
    config: tuple[str, ...]
    apps: tuple[App, ...]
    gateways: tuple[Gateway, ...] = ()
    traffic: Traffic | None = None

    def problems(self) -> Iterator[Problem]:
        names = Counter((*(app.name for app in self.apps), *(gateway.name for gateway in self.gateways)))
        for name in sorted(name for name, count in names.items() if count > 1):
            yield Problem("apps", f"the name {name!r} is used twice", "apps and gateways have names of their own")
        services = {app.service_name for app in self.apps}
        for app in self.apps:
            for called in sorted(set(app.calls) - services - {EVERYTHING}):
                hint = did_you_mean(called, services)
                yield Problem("apps", f"{app.name} calls {called!r}, which no app offers", hint)
        gateways = {gateway.name for gateway in self.gateways}
        if self.traffic is not None and self.traffic.gateway not in gateways:
            hint = did_you_mean(self.traffic.gateway, gateways, otherwise="add one to gateways")
            yield Problem("traffic", f"there is no gateway {self.traffic.gateway!r}", hint)


@model
class Document(Located):
    """The document in the file."""

    api_version: Literal["local.pymesh.dev/v1alpha1"]
    kind: Literal["LocalMesh"]
    metadata: Metadata
    spec: Spec

    def problems(self) -> Iterator[Problem]:
        yield from _labels({"metadata": self.metadata.name})


@dataclass(frozen=True, slots=True)
class LocalMesh:
    """A mesh file that can be used."""

    folder: Path
    name: str
    namespace: str
    config: tuple[Path, ...]
    apps: tuple[App, ...]
    gateways: tuple[Gateway, ...]
    traffic: Traffic | None
    #: Services that scenarios bring with their apps: who calls one must find it from the beginning.
    services: tuple[Mapping[str, Any], ...] = ()


def read(target: Path) -> LocalMesh:
    """Read `target`, a mesh file or the folder that holds one. Raises :class:`MeshFileError`."""
    file = target / FILE_NAME if target.is_dir() else target
    report = Report()
    document = document_of(Document, file, "LocalMesh", report)
    folder = file.parent.resolve()
    config = _config(document, folder, report) if document is not None else ()
    if document is None or report.failed:
        raise MeshFileError(str(ConfigError(report.diagnostics)))
    spec = document.spec
    return LocalMesh(
        folder, document.metadata.name, document.metadata.namespace, config, spec.apps, spec.gateways, spec.traffic
    )


def document_of(kind: type[T], file: Path, title: str, report: Report) -> T | None:
    """The one document of a file; None if it has errors, which are in the report then."""
    whole = Position(str(file))
    try:
        content = file.read_bytes()
    except OSError as error:
        hint = f"a local mesh is a folder with a {FILE_NAME}" if title == "LocalMesh" else ""
        report.error(whole, f"cannot be read: {error.strerror}", hint)
        return None
    if len(content) > MAX_BYTES:
        report.error(whole, f"is larger than {MAX_BYTES} bytes")
        return None
    try:
        root = yaml.compose(content, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        not_yaml(file, error, report)
        return None
    if root is None:
        report.error(whole, "is empty")
        return None
    decoded = Decoder(str(file), report).decode(kind, root, title)
    return None if decoded is BAD else decoded


def not_yaml(file: Path, error: yaml.YAMLError | RecursionError, report: Report) -> None:
    """Tell what the parser has said of a file."""
    place, said = Position(str(file)), str(error)
    if isinstance(error, yaml.MarkedYAMLError):
        said = error.problem or error.context or said
        if mark := error.problem_mark or error.context_mark:
            place = Position(str(file), mark.line + 1, mark.column + 1)
    elif isinstance(error, yaml.reader.ReaderError):
        said = said.splitlines()[0]
    report.error(place, f"is not YAML: {said}")


def _config(document: Document, folder: Path, report: Report) -> tuple[Path, ...]:
    paths = tuple(folder / name for name in document.spec.config)
    for path in paths:
        if not path.is_dir():
            report.error(document.spec.place("config"), f"there is no folder {path}", "it stands beside the mesh file")
    return paths


def _labels(names: Mapping[str, str]) -> Iterator[Problem]:
    for key, name in names.items():
        # Services and accounts that are not said have the name of the app.
        if (name or key in ("name", "metadata")) and not _LABEL.fullmatch(name):
            yield Problem(key, f"{name!r} is not a DNS label", _LABEL_HINT)
