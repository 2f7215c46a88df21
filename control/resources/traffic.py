"""Istio's VirtualService: which request goes where, and what happens to it on the way."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

from pymesh.control.resources import visibility
from pymesh.control.resources.decode import (
    Located,
    PortNumber,
    Problem,
    Range,
    Weight,
    derived,
    exactly_one,
    key,
    model,
)
from pymesh.control.resources.fault import Fault
from pymesh.control.resources.header_values import HEADER_NAME, value_problems
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.percent import Percent

#: A redirect's uri that begins with it replaces what a prefix match matched, and nothing else.
PREFIX_MARK: Final = "%PREFIX()%"
#: A header match that begins with it asks for a claim of the request's token: ``.a.b`` or ``[a][b]``.
CLAIMS: Final = "@request.auth.claims"
_CLAIM: Final = re.compile(r"@request\.auth\.claims(?:\.(?P<dotted>[^.]+(?:\.[^.]+)*)|(?P<boxed>(?:\[[^\[\]]+\])+))")
#: The proxy's limit for one pattern.
_LONGEST_PATTERN: Final = 1024
#: Istio's limit for the body of a direct response.
_LARGEST_BODY: Final = 1024 * 1024

#: What RFC 9110 makes a matter of one connection, and what frames a message.
OF_ONE_CONNECTION: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "content-length"}
)

#: What ``retryOn`` may name; a number is a status.
RETRY_CONDITIONS = frozenset(
    {
        "5xx", "gateway-error", "reset", "reset-before-request", "connect-failure", "retriable-4xx",
        "refused-stream", "retriable-status-codes", "retriable-headers", "envoy-ratelimited", "cancelled",
        "deadline-exceeded", "internal", "resource-exhausted", "unavailable",
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
        yield from _empty_problems(self, "leave the condition out")
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
        yield from _empty_problems(self, "write {} to ask that it is there")
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
    #: The namespace that a short host is of; empty: that of the VirtualService which has the rule.
    home: str = derived("")


@model
class HeaderOperations(Located):
    """Changes of a message's headers."""

    set: Mapping[str, str] = field(default_factory=dict)
    add: Mapping[str, str] = field(default_factory=dict)
    remove: tuple[str, ...] = ()

    @property
    def authority(self) -> str:
        """What is put in place of the host, which is set like a header but is none."""
        found = [value for values in (self.set, self.add) for name, value in values.items() if is_authority(name)]
        return found[0] if found else ""

    def problems(self) -> Iterator[Problem]:
        for field_name, names in (("set", self.set), ("add", self.add), ("remove", self.remove)):
            for name in names:
                if not re.fullmatch(rf":?{HEADER_NAME.pattern}", name):
                    yield Problem(field_name, f"{name!r} is not a header name")
                elif is_authority(name) and field_name == "remove":
                    yield Problem("remove", "a request without a host is none", "set another with set.host")
                elif name.startswith(":") and not is_authority(name):
                    yield Problem(field_name, f"{name!r} cannot be changed as a header", "use rewrite or redirect")
                elif name.lower() in OF_ONE_CONNECTION and field_name != "remove":
                    yield Problem(field_name, f"{name!r} belongs to one connection and cannot be set", "remove it")
        yield from value_problems("set", self.set)
        yield from value_problems("add", self.add)
        if len([name for name in (*self.set, *self.add) if is_authority(name)]) > 1:
            yield Problem("", "the host is set twice", "keep one of them")


@model
class Headers(Located):
    """Header changes in both directions."""

    request: HeaderOperations = HeaderOperations()
    response: HeaderOperations = HeaderOperations()

    def problems(self) -> Iterator[Problem]:
        if self.response.authority:
            yield Problem("response", "a response has no host", "set it under `request`")


def is_authority(name: str) -> bool:
    """Whether a header of this name is the request's host."""
    return name.lower() in ("host", ":authority")


def claim_of(name: str) -> tuple[str, ...] | None:
    """The claim that a header match is about, behind those in which it lies; None for a header."""
    found = _CLAIM.fullmatch(name)
    if found is None:
        return None
    return tuple(found["dotted"].split(".") if found["dotted"] else found["boxed"][1:-1].split("]["))


@model
class HttpMatch(Located):
    """Conditions on a request, all of which must hold."""

    REFUSED: ClassVar = {
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
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for field_name, names in (("headers", self.headers), ("withoutHeaders", self.without_headers)):
            for name in names:
                if name.startswith(CLAIMS):
                    if claim_of(name) is None:
                        hint = f"write it as in {CLAIMS}.groups or {CLAIMS}[user][name]"
                        yield Problem(field_name, f"{name!r} names no claim", hint)
                elif name in ("uri", "scheme", "method", "authority"):
                    yield Problem(field_name, f"{name!r} is no header here", f"write {name!r} beside {field_name!r}")
                elif not HEADER_NAME.fullmatch(name):
                    yield Problem(field_name, f"{name!r} is not a header name")
        if self.ignore_uri_case and self.uri is not None and self.uri.regex is not None:
            yield Problem("ignoreUriCase", "it has no effect on a regex", "begin the pattern with (?i)")


@model
class HttpDestination(Located):
    """A share of the requests."""

    destination: Destination
    weight: Weight | None = None
    headers: Headers = Headers()


@model
class RegexRewrite(Located):
    """Every match of a pattern in the path is replaced; ``\\1`` stands for the first group."""

    match: str
    rewrite: str

    def problems(self) -> Iterator[Problem]:
        found = list(regex_problems("match", self.match))
        yield from found
        if not self.match:
            yield Problem("match", "an empty pattern rewrites nothing", 'for the whole path: match: "^/.*$"')
        if found:
            return
        groups = re.compile(self.match).groups
        for escaped in re.findall(r"\\(.?)", self.rewrite, re.DOTALL):
            if escaped == "\\":
                continue
            if escaped not in set("0123456789"):
                yield Problem("rewrite", "a backslash must be followed by a digit or a backslash", "write it twice")
            elif int(escaped) > groups:
                yield Problem("rewrite", f"the pattern has no group {escaped}", f"it has {groups}")


@model
class Rewrite(Located):
    """What the upstream sees in place of path and authority."""

    uri: str | None = None
    authority: str | None = None
    uri_regex_rewrite: RegexRewrite | None = None

    def problems(self) -> Iterator[Problem]:
        if self.uri and self.uri_regex_rewrite is not None:
            yield Problem("uriRegexRewrite", "'uri' and 'uriRegexRewrite' exclude each other", "keep one of them")
        if self.authority:
            yield from value_problems("authority", {"authority": self.authority}, commands=False)
        if not self.uri and not self.authority and self.uri_regex_rewrite is None:
            yield Problem("", "a rewrite needs 'uri', 'uriRegexRewrite' or 'authority'")


@model
class Redirect(Located):
    """Send the client elsewhere."""

    uri: str | None = None
    authority: str | None = None
    port: PortNumber | None = None
    derive_port: Literal["FROM_PROTOCOL_DEFAULT", "FROM_REQUEST_PORT"] | None = None
    scheme: str | None = None
    redirect_code: int = 301

    def problems(self) -> Iterator[Problem]:
        if not self.present("uri", "authority", "port", "derivePort", "scheme"):
            yield Problem("", "a redirect needs 'uri', 'authority', 'scheme', 'port' or 'derivePort'")
        if self.authority:
            yield from value_problems("authority", {"authority": self.authority}, commands=False)
        if len(self.present("port", "derivePort")) == 2:
            yield Problem("derivePort", "'port' and 'derivePort' exclude each other", "keep one of them")
        if self.scheme is not None and self.scheme.lower() not in ("http", "https"):
            yield Problem("scheme", f"{self.scheme!r} is no scheme of a redirect", "http or https")
        if self.uri is not None and not self.uri.startswith(("/", PREFIX_MARK)):
            yield Problem("uri", f"the path {self.uri!r} does not start with '/'")
        if self.redirect_code not in (301, 302, 303, 307, 308):
            yield Problem("redirectCode", f"{self.redirect_code} is no redirect", "301, 302, 303, 307 or 308")


@model
class Body(Located):
    """The text of a direct response."""

    string: str | None = None
    #: In base64.
    octets: str | None = key("bytes", default=None)

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "string", "bytes")
        if self.octets is not None:
            try:
                base64.b64decode(self.octets, validate=True)
            except (binascii.Error, ValueError):
                yield Problem("bytes", "this is not base64", "plain text goes under `string`")
                return
        if len(self.content) > _LARGEST_BODY:
            yield Problem("", f"the body has {len(self.content)} octets", f"at most {_LARGEST_BODY} are allowed")

    @property
    def content(self) -> bytes:
        """What is sent."""
        return base64.b64decode(self.octets) if self.octets is not None else (self.string or "").encode()


@model
class DirectResponse(Located):
    """Answer without asking any service."""

    status: Annotated[int, Range(200, 599)]
    body: Body | None = None


@model
class Retries(Located):
    """When to try again, and how often."""

    REFUSED: ClassVar = {
        "retryRemoteLocalities": "remove it: every try chooses among all localities by their health",
    }

    attempts: Annotated[int, Range(0, 100)] = 2
    per_try_timeout: timedelta | None = None
    retry_on: str | None = None
    retry_ignore_previous_hosts: bool = True
    backoff: timedelta | None = None

    def problems(self) -> Iterator[Problem]:
        yield from back_off_problems(self.backoff)
        for condition in self.conditions():
            if condition not in RETRY_CONDITIONS and not re.fullmatch(r"[1-5]\d\d", condition):
                known = ", ".join(sorted(RETRY_CONDITIONS))
                yield Problem("retryOn", f"{condition!r} is no retry condition", f"known: {known}, or a status")

    def conditions(self) -> list[str]:
        """The conditions one by one."""
        return [part.strip() for part in (self.retry_on or "").split(",") if part.strip()]


@model
class Mirror(Located):
    """A service that is sent a copy of the requests; nobody waits for its answers."""

    destination: Destination
    percentage: Percent = Percent(value=100)


@model
class CorsPolicy(Located):
    """Which scripts of other origins may see answers."""

    #: Deprecated: whole origins. ``allowOrigins`` counts where both are there.
    allow_origin: tuple[str, ...] = ()
    allow_origins: tuple[StringMatch, ...] = ()
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: timedelta | None = None
    allow_credentials: bool | None = None
    unmatched_preflights: Literal["UNSPECIFIED", "FORWARD", "IGNORE"] = "UNSPECIFIED"

    def problems(self) -> Iterator[Problem]:
        if not self.present("allowOrigin", "allowOrigins"):
            yield Problem("", "nobody is allowed: 'allowOrigins' is needed", 'for every origin: [{regex: ".*"}]')
        for key_of, names in (
            ("allowMethods", self.allow_methods),
            ("allowHeaders", self.allow_headers),
            ("exposeHeaders", self.expose_headers),
        ):
            for name in names:
                if not HEADER_NAME.fullmatch(name):
                    yield Problem(
                        key_of, f"{name!r} is not a {'method' if key_of == 'allowMethods' else 'header name'}"
                    )
        if self.max_age is not None and self.max_age.microseconds:
            yield Problem("maxAge", "it is told in whole seconds")


@model
class Delegate(Located):
    """Another VirtualService, without hosts, whose rules stand in for this one."""

    name: str
    namespace: str = ""


_MIRRORING = ("mirror", "mirrors", "mirrorPercentage", "mirrorPercent")


@model
class HttpRoute(Located):
    """A rule: matches (any of them), and what to do."""

    REFUSED: ClassVar = {}

    name: str = ""
    match: tuple[HttpMatch, ...] = ()
    route: tuple[HttpDestination, ...] = ()
    redirect: Redirect | None = None
    direct_response: DirectResponse | None = None
    delegate: Delegate | None = None
    rewrite: Rewrite | None = None
    timeout: timedelta | None = None
    retries: Retries | None = None
    fault: Fault | None = None
    cors_policy: CorsPolicy | None = None
    headers: Headers = Headers()
    mirror: Destination | None = None
    mirrors: tuple[Mirror, ...] = ()
    mirror_percentage: Percent | None = None
    #: Deprecated, as a whole number.
    mirror_percent: Annotated[int, Range(0, 100)] | None = None

    @property
    def copies(self) -> list[Mirror]:
        """Where copies go, in either way of writing it."""
        if self.mirror is None:
            return list(self.mirrors)
        share = self.mirror_percentage
        if share is None:
            share = Percent(value=100 if self.mirror_percent is None else self.mirror_percent)
        return [Mirror(destination=self.mirror, percentage=share), *self.mirrors]

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "route", "redirect", "directResponse", "delegate")
        if "route" not in self.where and self.delegate is None:
            for name in self.present("rewrite", "timeout", "retries", "corsPolicy", *_MIRRORING):
                yield Problem(name, f"{name!r} needs 'route'")
        yield from share_problems(self)
        yield from self._mirror_problems()
        redirect = self.redirect
        if redirect is not None and redirect.uri is not None and redirect.uri.startswith(PREFIX_MARK):
            for match in self.match:
                if match.uri is not None and match.uri.prefix is None:
                    yield Problem("redirect", f"{PREFIX_MARK} needs matches of uri.prefix", "write the whole path")

    def _mirror_problems(self) -> Iterator[Problem]:
        for one, other in (("mirror", "mirrors"), ("mirrorPercentage", "mirrorPercent")):
            if len(self.present(one, other)) == 2:
                yield Problem(other, f"{one!r} and {other!r} exclude each other", "keep one of them")
        for name in self.present("mirrorPercentage", "mirrorPercent"):
            if self.mirror is None and self.delegate is None:
                yield Problem(name, f"{name!r} needs 'mirror'", "each of `mirrors` has a `percentage` of its own")


@model
class L4Match(Located):
    """Conditions on a TCP connection."""

    REFUSED: ClassVar = {"sourceSubnet": "match sourceLabels or sourceNamespace"}

    destination_subnets: tuple[str, ...] = ()
    port: PortNumber | None = None
    source_labels: Mapping[str, str] = field(default_factory=dict)
    source_namespace: str = ""
    gateways: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for subnet in self.destination_subnets:
            try:
                ipaddress.ip_network(subnet, strict=False)
            except ValueError:
                yield Problem("destinationSubnets", f"{subnet!r} is no subnet", "write it as in 10.1.0.0/16")


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
        yield from share_problems(self)


@model
class TlsMatch(L4Match):
    """Conditions on a TLS connection: the server name that the client asks for, and those on any connection."""

    sni_hosts: tuple[str, ...]

    def problems(self) -> Iterator[Problem]:
        yield from super().problems()
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
        yield from share_problems(self)


@model
class VirtualServiceSpec(Located):
    """Rules for hosts, at gateways or inside the mesh."""

    #: None: a delegate, whose rules others take over.
    hosts: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ("mesh",)
    http: tuple[HttpRoute, ...] = ()
    tls: tuple[TlsRoute, ...] = ()
    tcp: tuple[TcpRoute, ...] = ()
    export_to: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from visibility.problems(self.export_to)
        for host in self.hosts:
            inner = host.removeprefix("*.")
            if host != "*" and (not inner or "*" in inner):
                yield Problem("hosts", f"{host!r} is no host", "write a whole name, '*.suffix' or '*'")
        if not self.hosts:
            yield from self._delegate_problems()
        if not self.http and not self.tls and not self.tcp:
            yield Problem("", "a VirtualService needs http, tls or tcp routes")
        if "mesh" in self.gateways and "*" in self.hosts:
            yield Problem("hosts", "host '*' needs a gateway", "name the services, or set gateways")

    def _delegate_problems(self) -> Iterator[Problem]:
        for name in self.present("gateways", "tls", "tcp"):
            yield Problem(name, f"{name!r} has no meaning without hosts", "name the hosts; a delegate has http alone")
        for rule in self.http:
            if rule.delegate is not None:
                yield Problem("http", "a VirtualService without hosts is a delegate, which cannot delegate", "")


@model
class VirtualService(Resource):
    """``networking.istio.io`` VirtualService."""

    spec: VirtualServiceSpec
    status: Any = None


def _empty_problems(text: StringMatch | HeaderMatch, hint: str) -> Iterator[Problem]:
    """An empty prefix or pattern takes everything, which the proxies refuse as a likely mistake."""
    for name in ("prefix", "regex"):
        if getattr(text, name) == "":
            yield Problem(name, f"an empty {name} takes everything", hint)


def share_problems(rule: HttpRoute | TcpRoute | TlsRoute) -> Iterator[Problem]:
    """What is wrong with the shares of one rule: a lone destination may leave its weight out."""
    if not rule.route:
        if rule.present("route"):
            yield Problem("route", "a route without destinations leads nowhere", "name a destination")
    elif len(rule.route) > 1 and not sum(share.weight or 0 for share in rule.route):
        yield Problem("route", "the weights of the destinations add up to 0", "give each destination a weight")


def back_off_problems(value: timedelta | None) -> Iterator[Problem]:
    """What is wrong with the least wait before a retry: proxies count in milliseconds."""
    if value is not None and value < timedelta(milliseconds=1):
        yield Problem("backoff", "a wait of less than a millisecond is none", "remove it: 25ms is the default")


def regex_problems(field_name: str, pattern: str) -> Iterator[Problem]:
    """What keeps the proxies from compiling the pattern. They use RE2's syntax."""
    if len(pattern) > _LONGEST_PATTERN:
        yield Problem(field_name, f"the pattern is longer than {_LONGEST_PATTERN} characters", "split the rule")
        return
    try:
        re.compile(pattern)
    except re.error as error:
        yield Problem(field_name, f"{pattern!r} is not a regular expression: {error}")
    else:
        if found := _beyond_re2(pattern):
            yield Problem(
                field_name,
                f"{pattern!r} uses {found!r}, which RE2 lacks",
                "look-around and back references are not available",
            )


_CLASS_OR_ESCAPE = re.compile(r"(\\.)|\[\^?\]?(?:\\.|[^\\\]])*\]", re.DOTALL)
_TOKEN = re.compile(r"\\.|\(\?(?:[=!>(]|<[=!]|P=)|[*+?}]\+|\{\d+(?:,\d*)?|.", re.DOTALL)


def _beyond_re2(pattern: str) -> str:
    """The first construct that Python knows and RE2 does not, or nothing."""
    without_classes = _CLASS_OR_ESCAPE.sub(lambda found: found.group(1) or "_", pattern)
    for token in _TOKEN.findall(without_classes):
        if len(token) > 1 and (token[0] in "(*+?}" or re.fullmatch(r"\\[1-9Z]", token)):
            return str(token)
        if token[0] == "{" and any(int(number) > 1000 for number in re.findall(r"\d+", token)):
            return str(token)
    return ""
