"""`scenarios/NAME.yaml`: what to change in a mesh, what to do to it, and what is to be seen then.

A scenario is a file of several documents. The first, of kind `Scenario`, has the steps; the others are resources as in
the mesh's configuration, and take the place of those of the same kind and name there. `docs/guide/scenarios.md` is the
reference. Everything here is data; `pymesh.local.stage` does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml

from pymesh.control.resources.decode import BAD, Decoder, Located, PortNumber, Problem, Range, exactly_one, key, model
from pymesh.control.resources.decode import plain as plain_data
from pymesh.control.resources.diagnostics import ConfigError, Position, Report, did_you_mean
from pymesh.control.resources.metadata import Metadata
from pymesh.local.errors import LocalMeshError
from pymesh.local.meshfile import EVERYTHING, App, LocalMesh, not_yaml

FOLDER = "scenarios"
#: What a request of a protocol has not.
_WITHOUT = {
    "TCP": ("method", "path", "headers", "cookies"),
    "WebSocket": ("method", "cookies"),
    "GRPC": ("method", "cookies"),
}
#: The port on which an app itself listens, behind its sidecar, `$(partner.http)`; the sidecar's for it,
#: `$(partner.http.sidecar)`.
APP_PORT = re.compile(r"'?\$\(([a-z0-9.-]+)\)'?")
_METHOD = re.compile(r"/[\w.]+/\w+")
_REMOVED = re.compile(r"[A-Z]\w*/[^/\s]+")
_RESOURCE = "a resource has a kind and metadata with a name"
#: RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)%")


class ScenarioError(LocalMeshError):
    """A scenario with errors: all of them, with their places; or a name that no scenario has."""


@model
class Tls(Located):
    """A request goes over TLS. The certificate must be one of the scenario's `certificates` unless `verify` is off."""

    server_name: str = ""
    verify: bool = True


@model
class Send(Located):
    """Requests, all alike."""

    method: str = "GET"
    path: str = "/"
    #: `host` among them names the authority.
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    count: Annotated[int, Range(1, 20_000)] = 1
    #: Requests at a time, each on a connection of its own.
    connections: Annotated[int, Range(1, 256)] = 1
    #: Whose outbound proxy takes them, in place of the gateway: a workload, `web` or `catalog-0`.
    source: str = key("from", default="")
    #: The service that they go to; needs `from`. `*`: wherever the host among the headers leads.
    to: str = ""
    #: A workload whose sidecar is asked from outside of the mesh, without an identity.
    direct: str = ""
    #: The gateway's port as its resource writes it.
    port: PortNumber | None = None
    tls: Tls | None = None
    #: Each connection sends back the cookies that it was given.
    cookies: bool = False
    #: HTTP is HTTP/1.1. GRPC: `body` is the message of a unary call, `path` its method. WebSocket: `body` is one text
    #: message, what comes back the answer's body. TCP: `body` is sent as it is, and what comes back until the peer is
    #: silent is the answer's body.
    protocol: Literal["HTTP", "HTTP2", "GRPC", "WebSocket", "TCP"] = "HTTP"

    def problems(self) -> Iterator[Problem]:
        if bool(self.source) != bool(self.to):
            yield Problem("from" if self.source else "to", "'from' and 'to' go together", "from: web, to: reviews")
        if self.direct and (self.to or self.port is not None):
            yield Problem("direct", "'direct' says where requests go", "leave out 'from', 'to' and 'port'")
        if self.to == EVERYTHING and "host" not in {name.lower() for name in self.headers}:
            yield Problem("to", "nothing says which host is meant", "add it: headers: {host: partner.example}")
        for name in self.present(*_WITHOUT.get(self.protocol, ())):
            yield Problem(name, f"{name!r} has no meaning for {self.protocol}", "leave it out")
        if self.protocol == "GRPC" and not _METHOD.fullmatch(self.path):
            yield Problem("path", f"{self.path!r} is no method of gRPC", "write it as in /shop.Cart/Get")
        if self.to and self.port is not None:
            yield Problem("port", "a port belongs to the gateway", "leave out 'from' and 'to', or the port")
        if not self.path.startswith("/"):
            yield Problem("path", f"{self.path!r} is not a path", "it starts with '/'")
        if not _TOKEN.fullmatch(self.method):
            yield Problem("method", f"{self.method!r} is not a method", "write it as in GET")


@model
class Expectation(Located):
    """What must hold of the answers of a step, or of what a proxy has counted and logged meanwhile.

    The subject is one of `status`, `header`, `json`, `body`, `certificate`, `seconds` (of each answer), `stat`,
    `metric`, `log` (of a proxy). Of answers all must fit unless `share`, `atLeast` or `atMost` say how many; `distinct`
    counts values.
    """

    SUBJECTS: ClassVar = ("status", "header", "json", "body", "certificate", "seconds", "stat", "metric", "log")

    #: `status: 200`; 0 stands for no answer.
    status: Annotated[int, Range(0, 599)] | None = None
    #: A response header's name.
    header: str | None = None
    #: A place in the answer's JSON: `reviews.version`, `items.0.name`.
    json: str | None = None
    #: A text that the body contains.
    body: str | None = None
    #: A name of the server's certificate.
    certificate: str | None = None
    #: An answer took at least so long. There is no upper bound: machines are slow at times.
    seconds: float | None = None
    #: A counter or gauge of the proxy `of`, by Envoy's name. `*` stands for any text; several are added up.
    stat: str | None = None
    #: A Prometheus metric of the proxy `of`; those that have all `labels` are added up.
    metric: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    #: A regular expression; lines of the proxy `of` in which it is found are counted.
    log: str | None = None

    equals: str | int | None = key("is", default=None)
    #: A regular expression that is found in the value.
    matches: str | None = None
    #: The header, or the place in the JSON, is not there.
    absent: bool = False
    #: Share of the answers: 80% means within four standard deviations of a fair draw.
    share: str | None = None
    at_least: str | int | None = None
    at_most: str | int | None = None
    #: How many different values there are.
    distinct: Annotated[int, Range(1, 10_000)] | None = None
    #: The workload whose proxy is asked; a gateway's name.
    of: str = ""

    def problems(self) -> Iterator[Problem]:
        subjects = list(exactly_one(self, *self.SUBJECTS))
        yield from subjects
        if subjects:
            return
        about_proxy = bool(self.present("stat", "metric", "log"))
        if about_proxy != bool(self.of):
            yield Problem(
                "of", "'stat', 'metric' and 'log' need the proxy that is meant, other subjects have none", "of: web"
            )
        if about_proxy and not self.present("is", "atLeast", "atMost"):
            yield Problem("", "a number is missing", "is: 1, atLeast: 1 or atMost: 1")
        for name in self.present("share", "atLeast", "atMost"):
            value = {"share": self.share, "atLeast": self.at_least, "atMost": self.at_most}[name]
            if not about_proxy and (not isinstance(value, str) or not _is_share(value)):
                yield Problem(name, f"{value!r} is no share", "a share of the answers is written as in 80%")
            elif about_proxy and not isinstance(value, int):
                yield Problem(name, f"{value!r} is no number", "what a proxy counts is a number")
        if about_proxy and self.equals is not None and not isinstance(self.equals, int):
            yield Problem("is", f"{self.equals!r} is no number", "what a proxy counts is a number")
        about_values = bool(self.present("header", "json"))
        for name in () if about_values else self.present("matches", "absent", "distinct"):
            yield Problem(name, f"{name!r} is for 'header' and 'json'", "leave it out")
        if not about_values and not about_proxy and self.present("is"):
            yield Problem("is", "'is' is for 'header', 'json' and what proxies count", "leave it out")
        if self.labels and self.metric is None:
            yield Problem("labels", "'labels' are those of a 'metric'", "leave them out")
        for name, *others in (("distinct", "share", "atLeast", "atMost"), ("share", "atLeast", "atMost")):
            if self.present(name) and (found := self.present(*others)):
                yield Problem(found[0], f"{name!r} and {found[0]!r} exclude each other", "keep one of them")
        if self.matches is not None and (problem := _bad_pattern("matches", self.matches)):
            yield problem
        if self.log is not None and (problem := _bad_pattern("log", self.log)):
            yield problem

    @property
    def subject(self) -> str:
        """Which of the subjects it has."""
        return self.present(*self.SUBJECTS)[0]


@model
class Step(Located):
    """One thing that is done, and what is to be seen then. All parts are optional; they are done in this order."""

    title: str
    #: Resources that are added, or take the place of others of their kind and name.
    apply: tuple[Any, ...] = ()
    #: Resources that go: `VirtualService/reviews`.
    remove: tuple[str, ...] = ()
    #: `catalog-0: kill`; `.proxy` behind a name means its sidecar.
    processes: Mapping[str, Literal["kill", "pause", "resume", "start"]] = field(default_factory=dict)
    #: App -> how its apps answer from now on, as the query of its page `/_behave`; empty: as always.
    behave: Mapping[str, str] = field(default_factory=dict)
    #: A phase of a root rotation (`pymesh ca`), begun as soon as no proxy is left behind. Until then, and once more
    #: after that, the step's requests are sent, and all of them count.
    authority: Literal["prepare", "activate", "revoke"] | None = None
    send: Send | None = None
    expect: tuple[Expectation, ...] = ()
    #: What is expected must come true within this time: the step's requests are sent again until then.
    within: timedelta = timedelta(seconds=15)

    def problems(self) -> Iterator[Problem]:
        for number, resource in enumerate(self.apply):
            if not _is_resource(resource):
                yield Problem("apply", f"apply[{number}] is no resource", _RESOURCE)
        for name in self.remove:
            if not _REMOVED.fullmatch(name):
                yield Problem("remove", f"{name!r} is not KIND/NAME", "write it as in VirtualService/reviews")
        if self.expect and self.send is None and any(not one.of for one in self.expect):
            yield Problem("expect", "answers are expected, but nothing is sent", "add 'send'")


@model
class Spec(Located):
    """What a scenario shows, and how."""

    #: The feature, in a few words, as README's table has it.
    shows: str
    steps: tuple[Step, ...]
    #: Programs that run beside the mesh's own.
    apps: tuple[App, ...] = ()
    #: Name of a Secret that is made -> the host names of its certificate.
    certificates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        if not self.steps:
            yield Problem("steps", "nothing is done", "a step has a title, and what to send and to expect")


@model
class Document(Located):
    """The first document of the file."""

    api_version: Literal["local.pymesh.dev/v1alpha1"]
    kind: Literal["Scenario"]
    metadata: Metadata
    spec: Spec


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario that can be run."""

    file: Path
    name: str
    spec: Spec
    resources: tuple[Mapping[str, Any], ...]

    @property
    def explicit_port(self) -> str:
        """A port on loopback that it speaks of, as in `$(partner.http)`; empty if it can be played anywhere."""
        changed = [resource for step in self.spec.steps for resource in step.apply]
        found = APP_PORT.search(yaml.safe_dump_all([*map(dict, self.resources), *changed]))
        return f"$({found[1]})" if found else ""


def names(mesh: LocalMesh) -> list[str]:
    """The scenarios that a mesh has."""
    return sorted(file.stem for file in (mesh.folder / FOLDER).glob("*.yaml"))


def chosen(mesh: LocalMesh, wanted: tuple[str, ...]) -> tuple[Scenario, ...]:
    """The scenarios of these names, `all` for every one. Raises :class:`ScenarioError`."""
    known = names(mesh)
    for name in wanted:
        if name != "all" and name not in known:
            hint = did_you_mean(name, known, otherwise=f"a file {FOLDER}/{name}.yaml beside the mesh file")
            raise ScenarioError(f"there is no scenario {name!r}; hint: {hint}")
    every = known if "all" in wanted else list(dict.fromkeys(wanted))
    return tuple(read(mesh.folder / FOLDER / f"{name}.yaml") for name in every)


def read(file: Path) -> Scenario:
    """Read a scenario's file. Raises :class:`ScenarioError` with everything that is wrong in its first document.

    What is wrong in its resources is for the control plane to say.
    """
    report = Report()
    document, resources = _documents(file, report)
    if document is not None and document.metadata.name != file.stem:
        place = document.metadata.place("name")
        report.error(place, f"{document.metadata.name!r} is not the name of its file", f"write {file.stem}")
    if document is None or report.failed:
        raise ScenarioError(str(ConfigError(report.diagnostics)))
    return Scenario(file, file.stem, document.spec, resources)


def with_apps(mesh: LocalMesh, scenarios: tuple[Scenario, ...]) -> LocalMesh:
    """The mesh with the apps that scenarios bring. Raises :class:`ScenarioError` with all that do not fit in."""
    report = Report()
    apps = {app.name: app for app in mesh.apps}
    for one in scenarios:
        for app in one.spec.apps:
            known = apps.setdefault(app.name, app)
            if known != app:
                report.error(app.place("name"), f"the mesh has another app {app.name!r}", "choose another name")
    services = {app.service_name for app in apps.values()}
    for app in apps.values():
        for called in app.calls:
            if called not in (*services, EVERYTHING):
                hint = did_you_mean(called, services)
                report.error(app.place("calls"), f"{app.name} calls {called!r}, which no app offers", hint)
    if report.failed:
        raise ScenarioError(str(ConfigError(report.diagnostics)))
    brought = {name for app in apps.values() for name in app.calls} - {app.service_name for app in mesh.apps}
    described = {
        str(resource["metadata"]["name"]): resource
        for one in scenarios
        for resource in one.resources
        if resource.get("kind") == "Service" and (resource.get("metadata") or {}).get("name") in brought
    }
    return replace(mesh, apps=tuple(apps.values()), services=tuple(described.values()))


def _documents(file: Path, report: Report) -> tuple[Document | None, tuple[Mapping[str, Any], ...]]:
    try:
        nodes = list(yaml.compose_all(file.read_bytes(), Loader=yaml.CSafeLoader))
    except OSError as error:
        report.error(Position(str(file)), f"cannot be read: {error.strerror}")
        return None, ()
    except (yaml.YAMLError, RecursionError) as error:
        not_yaml(file, error, report)
        return None, ()
    if not nodes:
        report.error(Position(str(file)), "is empty", "its first document is of kind Scenario")
        return None, ()
    first, *others = nodes
    decoder = Decoder(str(file), report)
    decoded = decoder.decode(Document, first, "Scenario")
    resources = []
    for node in others:
        # A document of nothing but comments is none.
        resource = plain_data(node)
        if _is_resource(resource):
            resources.append(resource)
        elif resource is not None:
            report.error(decoder.position(node), "this document is no resource", _RESOURCE)
    return None if decoded is BAD else decoded, tuple(resources)


def _is_resource(document: Any) -> bool:
    """Whether it can be told from others: by its kind and name."""
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        return False
    return isinstance(document.get("kind"), str) and isinstance(document["metadata"].get("name"), str)


def _bad_pattern(name: str, pattern: str) -> Problem | None:
    try:
        re.compile(pattern)
    except re.error as error:
        hint = "a backslash takes a character as it is: '\\('"
        return Problem(name, f"{pattern!r} is not a regular expression: {error}", hint)
    return None


def _is_share(text: str) -> bool:
    return bool(_PERCENT.fullmatch(text)) and percent(text) <= 1


def percent(text: str) -> float:
    """`80%` as 0.8."""
    return float(text.removesuffix("%")) / 100
