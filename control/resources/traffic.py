"""Istio's VirtualService: which request goes where, and what happens to it on the way."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pymesh.control.resources.decode import Located, PortNumber, Problem, Range, Weight, exactly_one, model
from pymesh.control.resources.metadata import Resource

#: What ``retryOn`` may name; a number is a status.
RETRY_CONDITIONS = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx",
        "refused-stream", "retriable-status-codes", "cancelled", "deadline-exceeded", "internal",
        "resource-exhausted", "unavailable",
    }
)  # fmt: skip


@model
class StringMatch(Located):
    """How a text must look; regular expressions match the whole text."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "exact", "prefix", "regex")
        if self.regex is not None:
            yield from regex_problems("regex", self.regex)


@model
class HeaderMatch(Located):
    """How a header must look; ``{}`` asks only that it is there."""

    exact: str | None = None
    prefix: str | None = None
    regex: str | None = None

    def problems(self) -> Iterator[Problem]:
        if self.where:
            yield from exactly_one(self, "exact", "prefix", "regex")
        if self.regex is not None:
            yield from regex_problems("regex", self.regex)


@model
class PortSelector(Located):
    """A port by number."""

    number: PortNumber


@model
class Destination(Located):
    """A service, perhaps one subset and one port of it."""

    host: str
    subset: str = ""
    port: PortSelector | None = None


@model
class HeaderOperations(Located):
    """Changes of a message's headers."""

    set: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for name in (*self.set, *self.add, *self.remove):
            if not re.fullmatch(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                yield Problem("", f"{name!r} is not a header name")
            elif name.startswith(":") or name.lower() == "host":
                yield Problem("", f"{name!r} cannot be changed as a header", "use rewrite.authority or rewrite.uri")


@model
class Headers(Located):
    """Header changes in both directions."""

    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()


@model
class HttpMatch(Located):
    """Conditions on a request, all of which must hold."""

    REFUSED: ClassVar = {
        "sourceNamespace": "match sourceLabels",
        "statPrefix": "remove it; metrics name the route's service",
        "withoutQueryParams": "match the wanted parameters with queryParams in an earlier route",
    }

    name: str = ""
    uri: StringMatch | None = None
    scheme: StringMatch | None = None
    method: StringMatch | None = None
    authority: StringMatch | None = None
    headers: Mapping[str, HeaderMatch] = field(default_factory=dict)
    without_headers: Mapping[str, HeaderMatch] = field(default_factory=dict)
    query_params: Mapping[str, HeaderMatch] = field(default_factory=dict)
    ignore_uri_case: bool = False
    port: PortNumber | None = None
    source_labels: Mapping[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] = ()


@model
class HttpDestination(Located):
    """A share of the requests."""

    destination: Destination
    weight: Weight | None = None
    headers: Headers = Headers()


@model
class Rewrite(Located):
    """What the upstream sees in place of path and authority."""

    REFUSED: ClassVar = {"uriRegexRewrite": "use uri with a prefix match"}

    uri: str | None = None
    authority: str | None = None


@model
class Redirect(Located):
    """Send the client elsewhere."""

    REFUSED: ClassVar = {"derivePort": "name the port with `port`"}

    uri: str | None = None
    authority: str | None = None
    port: PortNumber | None = None
    scheme: str | None = None
    redirect_code: int = 301

    def problems(self) -> Iterator[Problem]:
        if self.redirect_code not in (301, 302, 303, 307, 308):
            yield Problem("redirectCode", f"{self.redirect_code} is no redirect", "301, 302, 303, 307 or 308")


@model
class Body(Located):
    """The text of a direct response."""

    REFUSED: ClassVar = {"bytes": "write the text with `string`"}

    string: str = ""


@model
class DirectResponse(Located):
    """Answer without asking any service."""

    status: Annotated[int, Range(200, 599)]
    body: Body = Body()


@model
class Retries(Located):
    """When to try again, and how often."""

    REFUSED: ClassVar = {
        "retryRemoteLocalities": "locality-aware balancing comes later; remove it",
        "retryIgnorePreviousHosts": "hosts that failed are always avoided; remove it",
        "backoff": "the default (25 ms, doubling to 250 ms) applies; remove it",
    }

    attempts: Annotated[int, Range(0, 100)] = 2
    per_try_timeout: timedelta | None = None
    retry_on: str | None = None

    def problems(self) -> Iterator[Problem]:
        for condition in self.conditions():
            if condition not in RETRY_CONDITIONS and not re.fullmatch(r"[1-5]\d\d", condition):
                known = ", ".join(sorted(RETRY_CONDITIONS))
                yield Problem("retryOn", f"{condition!r} is no retry condition", f"known: {known}, or a status")

    def conditions(self) -> list[str]:
        """The conditions one by one."""
        return [part.strip() for part in (self.retry_on or "").split(",") if part.strip()]


@model
class HttpRoute(Located):
    """A rule: matches (any of them), and what to do."""

    REFUSED: ClassVar = {
        "fault": "inject faults in the application for now",
        "mirror": "nothing replaces it yet",
        "mirrors": "nothing replaces it yet",
        "mirrorPercentage": "nothing replaces it yet",
        "corsPolicy": "answer CORS preflights in the application",
        "delegate": "write the delegate's routes here",
    }

    name: str = ""
    match: tuple[HttpMatch, ...] = ()
    route: tuple[HttpDestination, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    rewrite: Rewrite | None = None
    timeout: timedelta | None = None
    retries: Retries | None = None
    headers: Headers = Headers()

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "route", "redirect", "directResponse")
        if "route" not in self.where:
            for name in self.present("rewrite", "timeout", "retries"):
                yield Problem(name, f"{name!r} needs 'route'")
        yield from weight_problems(self.route, "route")


@model
class L4Match(Located):
    """Conditions on a TCP connection."""

    REFUSED: ClassVar = {
        "destinationSubnets": "match `port`",
        "sourceNamespace": "match sourceLabels",
    }

    port: PortNumber | None = None
    source_labels: Mapping[str, str] = field(default_factory=dict)
    gateways: tuple[str, ...] = ()


@model
class TcpDestination(Located):
    """A share of the connections."""

    destination: Destination
    weight: Weight | None = None


@model
class TcpRoute(Located):
    """A rule for connections."""

    route: tuple[TcpDestination, ...]
    match: tuple[L4Match, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from weight_problems(self.route, "route")


@model
class TlsMatch(L4Match):
    """Conditions on a TLS connection: the server name that the client asks for, and those on any connection."""

    sni_hosts: tuple[str, ...]

    def problems(self) -> Iterator[Problem]:
        if not self.sni_hosts:
            yield Problem("sniHosts", "a server name is needed", 'for every name: sniHosts: ["*"]')
        for host in self.sni_hosts:
            inner = host.removeprefix("*.")
            if host != "*" and (not inner or "*" in inner):
                yield Problem("sniHosts", f"{host!r} is no server name", "write a whole name, '*.suffix' or '*'")


@model
class TlsRoute(Located):
    """A rule for TLS connections that are passed on as they are."""

    match: tuple[TlsMatch, ...]
    route: tuple[TcpDestination, ...]

    def problems(self) -> Iterator[Problem]:
        if not self.match:
            yield Problem("match", "a TLS route needs a match", "give match.sniHosts")
        yield from weight_problems(self.route, "route")


@model
class VirtualServiceSpec(Located):
    """Rules for hosts, at gateways or inside the mesh."""

    REFUSED: ClassVar = {
        "exportTo": "every namespace sees it; remove the field",
    }

    hosts: tuple[str, ...]
    gateways: tuple[str, ...] = ("mesh",)
    http: tuple[HttpRoute, ...] = ()
    tls: tuple[TlsRoute, ...] = ()
    tcp: tuple[TcpRoute, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if not self.hosts:
            yield Problem("hosts", "a VirtualService needs a host")
        if not self.http and not self.tls and not self.tcp:
            yield Problem("", "a VirtualService needs http, tls or tcp routes")
        if "mesh" in self.gateways and "*" in self.hosts:
            yield Problem("hosts", "host '*' needs a gateway", "name the services, or set gateways")


@model
class VirtualService(Resource):
    """``networking.istio.io`` VirtualService."""

    spec: VirtualServiceSpec
    status: Any = None


def weight_problems(route: tuple[HttpDestination, ...] | tuple[TcpDestination, ...], key: str) -> Iterator[Problem]:
    """What is wrong with the shares of one rule: a lone destination may leave its weight out."""
    if len(route) > 1 and not sum(share.weight or 0 for share in route):
        yield Problem(key, "the weights of the destinations add up to 0", "give each destination a weight")


def regex_problems(field_name: str, pattern: str) -> Iterator[Problem]:
    """What keeps the proxies from compiling the pattern. They use RE2's syntax."""
    try:
        re.compile(pattern)
    except re.error as error:
        yield Problem(field_name, f"{pattern!r} is not a regular expression: {error}")
    else:
        if found := re.search(r"\(\?(=|!|<=|<!|P=)|(?<!\\)\\[1-9]", pattern):
            yield Problem(
                field_name,
                f"{pattern!r} uses {found.group()!r}, which RE2 lacks",
                "look-around and back references are not available",
            )
