"""What `pymesh run` is to do, from flags, `PYMESH_*` variables and a workload file, in this order.

The file is a document of kind LocalWorkload; it is read with the decoder of the control plane's resources, so its
errors look like theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pymesh.control.config import Address, SettingsError
from pymesh.control.resources.decode import Located, PortNumber, Problem, model
from pymesh.control.resources.diagnostics import ConfigError, Report
from pymesh.control.resources.metadata import Metadata
from pymesh.local import meshfile
from pymesh.local.bootstrap import ControlAddress
from pymesh.local.errors import LocalMeshError
from pymesh.local.meshfile import App
from pymesh.local.plan import ADDRESS, InboundPort, Workload

Crash = Literal["restart", "end"]

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Times:
    """How long things may take, in seconds."""

    #: Until the sidecar's first configuration is in force.
    ready: float = 60.0
    #: Between the drain's beginning and the signal to the application.
    notice: float = 1.0
    #: For the application to end, as Kubernetes' `terminationGracePeriodSeconds`.
    grace: float = 30.0
    #: For the sidecar's connections to end, after the application.
    drain: float = 5.0


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it."""

    workload: Workload
    control: ControlAddress
    token: Path
    #: Folder of the control plane's configuration that is told of the workload while it runs.
    register: Path | None = None
    times: Times = field(default_factory=Times)
    #: What a crash of the sidecar leads to.
    on_crash: Crash = "restart"
    concurrency: int = 1
    #: Where the sidecar's output goes; None: to a file that is gone at the end.
    log: Path | None = None


@model
class Control(Located):
    """The control plane, in a workload file."""

    #: HOST:PORT; the host is an IP address.
    address: str = ""
    #: Files, beside the workload file.
    root: str = ""
    token: str = ""


@model
class Spec(Located):
    """What a workload is."""

    service: str = ""
    version: str = "v1"
    service_account: str = ""
    #: Where others reach it.
    address: str = ADDRESS
    locality: str = ""
    #: Port name -> where the application listens.
    ports: Mapping[str, PortNumber] = field(default_factory=dict)
    #: Called service -> loopback port of the sidecar that leads there.
    calls: Mapping[str, PortNumber] = field(default_factory=dict)
    control: Control = field(default_factory=Control)
    register: str = ""


@model
class Document(Located):
    """The document in the file."""

    api_version: Literal["local.pymesh.dev/v1alpha1"]
    kind: Literal["LocalWorkload"]
    metadata: Metadata
    spec: Spec

    def problems(self) -> Iterator[Problem]:
        if self.metadata.labels:
            yield Problem("metadata", "labels are made of service and version", "set spec.service and spec.version")


@dataclass(frozen=True, slots=True)
class Given:
    """What was said by flags and variables; None where nothing was."""

    name: str | None = None
    namespace: str | None = None
    service: str | None = None
    version: str | None = None
    service_account: str | None = None
    address: str | None = None
    control: str | None = None
    root: Path | None = None
    token: Path | None = None
    register: Path | None = None
    #: `NAME=PORT`, as they were written.
    ports: tuple[str, ...] = ()
    #: `SERVICE=PORT`.
    calls: tuple[str, ...] = ()


def workload(
    given: Given, file: Path | None, command: tuple[str, ...], port: Callable[[], int]
) -> tuple[Workload, ControlAddress, Path, Path | None]:
    """The workload, its control plane, its token and where to register it. Raises :class:`LocalMeshError`.

    `port` gives a free port at each call."""
    written, folder = _written(file)
    spec, metadata = (written.spec, written.metadata) if written else (Spec(), None)
    name = given.name or (metadata.name if metadata else "") or _missing("the workload's name", "--name", "NAME")
    _label("--name", name)
    namespace = given.namespace or (metadata.namespace if metadata else "default")
    service = given.service or spec.service or name
    account = given.service_account or spec.service_account or name
    version = given.version or spec.version
    ports = _numbers("--port", given.ports) or spec.ports
    calls = _numbers("--call", given.calls) or spec.calls
    register = given.register or (folder / spec.register if spec.register else None)
    if (ports or calls) and register is None:
        raise LocalMeshError(
            "--port and --call describe the workload to a control plane on this machine, and none is told of it\n"
            "hint: --register DIR, a folder of its configuration; or leave them out: a WorkloadEntry and a Sidecar "
            "of the mesh say the same"
        )
    made = Workload(
        name,
        namespace,
        account,
        {"app": service, "version": version, "workload": name},
        port(),
        App(name=name, command=command, ports={}, service=service, version=version, locality=spec.locality),
        tuple(InboundPort(key, "", number, port()) for key, number in ports.items()),
        dict(calls),
        dict.fromkeys(calls, "HTTP"),
        given.address or spec.address,
    )
    control = _control(given.control or spec.control.address, given.root or _beside(folder, spec.control.root))
    token = given.token or _beside(folder, spec.control.token) or _missing("its join token", "--token", "TOKEN")
    for what, path in (("--token", token), ("--root", control.root)):
        if not path.is_file():
            raise LocalMeshError(f"{what}: there is no file {path}")
    return made, control, token.resolve(), register


def _written(file: Path | None) -> tuple[Document | None, Path]:
    if file is None:
        return None, Path()
    report = Report()
    document = meshfile.document_of(Document, file, "LocalWorkload", report)
    if document is None or report.failed:
        raise LocalMeshError(str(ConfigError(report.diagnostics)))
    return document, file.parent


def _beside(folder: Path, written: str) -> Path | None:
    return folder / written if written else None


def _control(written: str, root: Path | None) -> ControlAddress:
    try:
        address = Address.parse(written or _missing("the control plane", "--control HOST:PORT", "CONTROL"))
    except SettingsError as error:
        raise LocalMeshError(f"--control: {error}") from error
    root = root or _missing("the roots that the control plane is trusted by", "--root FILE", "ROOT")
    return ControlAddress(address.port, root.resolve(), ADDRESS if address.host == "localhost" else address.host)


def _missing(what: str, flag: str, variable: str) -> Any:
    raise LocalMeshError(f"{what} is not known; hint: {flag}, PYMESH_{variable}, or a workload file (--file)")


def _label(what: str, text: str) -> None:
    if not _LABEL.fullmatch(text):
        hint = "lower-case letters, digits and '-', at most 63; it starts and ends with a letter or digit"
        raise LocalMeshError(f"{what}: {text!r} is not a DNS label; hint: {hint}")


def _numbers(flag: str, written: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for one in written:
        name, _, number = one.partition("=")
        if not name or not number.isascii() or not number.isdecimal() or not 0 < int(number) < 65536:
            raise LocalMeshError(f"{flag}: {one!r} is not NAME=PORT; hint: {flag} http=9080")
        _label(flag, name)
        if name in found:
            raise LocalMeshError(f"{flag}: {name!r} is there twice")
        found[name] = int(number)
    return found
