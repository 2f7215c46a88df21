"""The Gateway API's Gateway and HTTPRoute. The other routes are in `gateway_routes.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Final, Literal

from pymesh.control.resources.consistent_hash import cookie_name_problems
from pymesh.control.resources.decode import Located, PortNumber, Problem, Range, Weight, derived, key, model
from pymesh.control.resources.header_values import HEADER_NAME, value_problems
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.traffic import OF_ONE_CONNECTION, back_off_problems, is_authority, regex_problems

_HOST_NAME = re.compile(r"(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
GROUP: Final = "gateway.networking.k8s.io"
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\*|(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?)(:\d{1,5})?")


@model
class CertificateRef(Located):
    """A Secret."""

    name: str
    group: Literal[""] = ""
    kind: Literal["Secret"] = "Secret"
    namespace: str = ""


@model
class ListenerTls(Located):
    """TLS that a listener terminates, or passes on by its server name."""

    REFUSED: ClassVar = {
        "frontendValidation": "use Istio's Gateway with tls.mode: MUTUAL",
        "options": "use Istio's Gateway with tls.minProtocolVersion, tls.cipherSuites and the like",
    }

    #: Several: the server name and what the client can verify choose among them.
    certificate_refs: tuple[CertificateRef, ...] = ()
    mode: Literal["Terminate", "Passthrough"] = "Terminate"

    def problems(self) -> Iterator[Problem]:
        if self.mode == "Terminate" and not self.certificate_refs:
            yield Problem("certificateRefs", "mode: Terminate needs a certificate", "name a Secret")
        if self.mode == "Passthrough" and self.certificate_refs:
            hint = "remove 'certificateRefs'"
            yield Problem("certificateRefs", "mode: Passthrough leaves TLS to whoever is behind the gateway", hint)


@model
class LabelRequirement(Located):
    """One condition on labels."""

    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        if bool(self.values) != (self.operator in ("In", "NotIn")):
            yield Problem("values", f"operator {self.operator} {'has no' if self.values else 'needs'} values")

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels fit."""
        found = labels.get(self.key)
        if self.operator in ("In", "NotIn"):
            return (found in self.values) == (self.operator == "In")
        return (found is not None) == (self.operator == "Exists")


@model
class NamespaceSelector(Located):
    """Namespaces by their labels."""

    match_labels: Mapping[str, str] = field(default_factory=dict)
    match_expressions: tuple[LabelRequirement, ...] = ()

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a namespace with these labels is meant."""
        return self.match_labels.items() <= labels.items() and all(one.holds(labels) for one in self.match_expressions)


@model
class RouteNamespaces(Located):
    """From which namespaces routes may bind."""

    from_: Literal["Same", "All", "Selector", "None"] = key("from", default="Same")
    selector: NamespaceSelector | None = None

    def problems(self) -> Iterator[Problem]:
        if (self.from_ == "Selector") != (self.selector is not None):
            yield Problem("selector", "'selector' belongs to from: Selector, which needs it")

    def admits(self, namespace: str, labels: Mapping[str, str], own: str) -> bool:
        """Whether routes of a namespace, which has these labels, may bind to a Gateway in ``own``."""
        if self.selector is not None:
            return self.selector.selects(labels)
        return self.from_ == "All" or (self.from_ == "Same" and namespace == own)


RouteKindName = Literal["HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute"]


@model
class RouteKind(Located):
    """A kind of route."""

    kind: RouteKindName
    group: Literal["gateway.networking.k8s.io"] = GROUP


@model
class AllowedRoutes(Located):
    """Which routes may bind to a listener."""

    namespaces: RouteNamespaces = RouteNamespaces()
    #: Empty: all that fit the protocol.
    kinds: tuple[RouteKind, ...] = ()


@dataclass(frozen=True, slots=True)
class Conflict:
    """Why a listener cannot be told from another one of its Gateway."""

    reason: Literal["ProtocolConflict", "HostnameConflict"]
    message: str
    hint: str


def conflicts(listeners: Sequence[tuple[str, int, str, str]]) -> dict[int, Conflict]:
    """By the number of the listener, from the name, port, hostname and protocol of each. By the standard none of those
    that conflict is used, since nothing says which of them was meant.
    """
    found: dict[int, Conflict] = {}
    for number, (name, port, host, protocol) in enumerate(listeners):
        for before, (first, its_port, its_host, its_protocol) in enumerate(listeners[:number]):
            of_both = {protocol, its_protocol}
            reason: Literal["ProtocolConflict", "HostnameConflict"]
            reason = "ProtocolConflict" if len(of_both) == 2 else "HostnameConflict"
            if port != its_port:
                continue
            if host == its_host:
                message = f"listeners {first!r} and {name!r} are both for {_hosts_of(host)} on port {port}"
                one = Conflict(reason, message, "give each its own hostname or port")
            elif len(of_both) == 2 and of_both & {"HTTP", "TCP"}:
                message = f"listeners {first!r} and {name!r} on port {port} speak {its_protocol} and {protocol}"
                one = Conflict(reason, message, "give each its own port")
            else:
                continue
            found.setdefault(before, one)
            found.setdefault(number, one)
    return found


def _hosts_of(hostname: str) -> str:
    return f"hostname {hostname!r}" if hostname else "every hostname"


def possible_kinds(protocol: str, passes_on: bool) -> tuple[RouteKindName, ...]:
    """The kinds of routes that fit a listener's protocol; none if that is not known."""
    if protocol in ("HTTP", "HTTPS"):
        return ("HTTPRoute", "GRPCRoute")
    if protocol in ("TLS", "TCP"):
        return ("TLSRoute",) if passes_on else ("TCPRoute",) if protocol == "TCP" else ("TLSRoute", "TCPRoute")
    return ()


@model
class Listener(Located):
    """One port, for one host or all."""

    name: str
    port: PortNumber
    protocol: Literal["HTTP", "HTTPS", "TLS", "TCP"]
    hostname: str = ""
    tls: ListenerTls | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()

    @property
    def passes_on(self) -> bool:
        """Whether TLS goes through to whoever is behind."""
        return self.tls is not None and self.tls.mode == "Passthrough"

    @property
    def kinds(self) -> tuple[RouteKindName, ...]:
        """The kinds of routes that may bind."""
        possible = possible_kinds(self.protocol, self.passes_on)
        wanted = [one.kind for one in self.allowed_routes.kinds]
        return tuple(one for one in possible if not wanted or one in wanted)

    def problems(self) -> Iterator[Problem]:
        secured = self.protocol in ("HTTPS", "TLS")
        if secured and self.tls is None:
            yield Problem("tls", f"protocol {self.protocol} needs 'tls'", "give tls.certificateRefs")
        if not secured and self.tls is not None:
            yield Problem("tls", f"protocol {self.protocol} has no TLS", "use protocol: HTTPS or TLS")
        if self.protocol == "HTTPS" and self.passes_on:
            yield Problem("tls", "HTTPS ends at the listener", "use protocol: TLS to pass it on")
        if self.protocol == "TCP" and self.hostname:
            yield Problem("hostname", "nothing in a TCP connection names a host", "remove 'hostname'")
        if self.hostname:
            yield from hostname_problems("hostname", self.hostname)
        if not self.kinds:
            hint = "HTTPRoute and GRPCRoute need HTTP or HTTPS; TLSRoute needs TLS; TCPRoute TCP, or TLS that ends here"
            yield Problem("allowedRoutes", f"no such route can bind to protocol {self.protocol}", hint)


@model
class Infrastructure(Located):
    """What everything carries that a cluster makes to run a Gateway."""

    REFUSED: ClassVar = {
        "parametersRef": "run the proxies yourself, with a Service that selects them by their label "
        "gateway.networking.k8s.io/gateway-name",
    }

    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


@model
class KubeGatewaySpec(Located):
    """Listeners. The proxies that run them carry the Gateway's name in a label."""

    REFUSED: ClassVar = {
        "addresses": "use Istio's Gateway with `bind`",
        "backendTLS": "use a DestinationRule",
        "allowedListeners": "write the listeners here",
    }

    gateway_class_name: Literal["pymesh"]
    listeners: tuple[Listener, ...]
    infrastructure: Infrastructure = Infrastructure()
    #: Names of the listeners that are written and cannot be used.
    left_out: tuple[str, ...] = derived(())
    #: Port and protocol of each of those, where that can be told.
    left_out_ports: tuple[tuple[int, str], ...] = derived(())

    def problems(self) -> Iterator[Problem]:
        if not self.listeners:
            yield Problem("listeners", "a Gateway needs a listener")
        names = [listener.name for listener in self.listeners]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem("listeners", f"listener {name!r} is here twice")
        found = conflicts([(one.name, one.port, one.hostname, one.protocol) for one in self.listeners])
        for number, one in found.items():
            yield Problem("listeners", one.message, one.hint, self.listeners[number].at)


@model
class KubeGateway(Resource):
    """``gateway.networking.k8s.io`` Gateway."""

    #: A proxy runs the Gateway of its namespace that this label of the proxy names.
    PROXY_LABEL: ClassVar = "gateway.networking.k8s.io/gateway-name"

    #: Istio's annotation: the type of the Service before the proxies.
    SERVICE_TYPE: ClassVar = "networking.istio.io/service-type"

    spec: KubeGatewaySpec
    status: Any = None

    def problems(self) -> Iterator[Problem]:
        if self.service_type not in ("LoadBalancer", "NodePort", "ClusterIP"):
            hint = "LoadBalancer, NodePort or ClusterIP"
            yield Problem("metadata", f"{self.SERVICE_TYPE}: there are no Services of type {self.service_type!r}", hint)

    @property
    def service_type(self) -> str:
        """Of the Service that a cluster makes for it."""
        return self.metadata.annotations.get(self.SERVICE_TYPE, "LoadBalancer")

    @property
    def title(self) -> str:
        return f"Gateway {self.namespace}/{self.name}"


@model
class ParentRef(Located):
    """What a route binds to: a Gateway at the edge, or a Service inside the mesh."""

    name: str
    group: Literal["gateway.networking.k8s.io", ""] = GROUP
    kind: Literal["Gateway", "Service"] = "Gateway"
    namespace: str = ""
    section_name: str = ""
    port: PortNumber | None = None

    def problems(self) -> Iterator[Problem]:
        if (self.kind == "Service") != (self.group == ""):
            wanted = '""' if self.kind == "Service" else GROUP
            yield Problem("group", f"a {self.kind} is not in group {self.group!r}", f"group: {wanted}")


@model
class PathMatch(Located):
    """How the path must look."""

    type: Literal["PathPrefix", "Exact", "RegularExpression"] = "PathPrefix"
    value: str = "/"

    def problems(self) -> Iterator[Problem]:
        if self.type == "RegularExpression":
            yield from regex_problems("value", self.value)
        else:
            yield from path_problems("value", self.value)


@model
class NamedMatch(Located):
    """How a header or query parameter must look."""

    name: str
    value: str
    type: Literal["Exact", "RegularExpression"] = "Exact"

    def problems(self) -> Iterator[Problem]:
        if self.type == "RegularExpression":
            yield from regex_problems("value", self.value)


@model
class RouteMatch(Located):
    """Conditions, all of which must hold."""

    path: PathMatch = PathMatch()
    headers: tuple[NamedMatch, ...] = ()
    query_params: tuple[NamedMatch, ...] = ()
    method: Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"] | None = None

    @property
    def telling_headers(self) -> list[NamedMatch]:
        """One condition for each header: of two with one name the first counts."""
        return list({one.name.lower(): one for one in reversed(self.headers)}.values())[::-1]

    @property
    def telling_params(self) -> list[NamedMatch]:
        """One condition for each query parameter."""
        return list({one.name: one for one in reversed(self.query_params)}.values())[::-1]

    def problems(self) -> Iterator[Problem]:
        for one in self.headers:
            if not HEADER_NAME.fullmatch(one.name):
                yield Problem("headers", f"{one.name!r} is not a header name")


@model
class HeaderValue(Located):
    """A header and its value."""

    name: str
    value: str

    def problems(self) -> Iterator[Problem]:
        yield from value_problems("value", {self.name: self.value}, commands=False)


@model
class HeaderModifier(Located):
    """Changes of a message's headers."""

    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for field_name, names in (
            ("set", [one.name for one in self.set]),
            ("add", [one.name for one in self.add]),
            ("remove", list(self.remove)),
        ):
            folded = [name.lower() for name in names]
            for name in names:
                if not HEADER_NAME.fullmatch(name):
                    yield Problem(field_name, f"{name!r} is not a header name")
                elif is_authority(name):
                    yield Problem(field_name, "the host is no header here", "use a URLRewrite filter with hostname")
                elif name.lower() in OF_ONE_CONNECTION and field_name != "remove":
                    yield Problem(field_name, f"{name!r} belongs to one connection and cannot be set", "remove it")
            for name in sorted({name for name in folded if folded.count(name) > 1}):
                yield Problem(field_name, f"header {name!r} is here twice", "keep one of them")


@model
class PathModifier(Located):
    """A new path, or a new prefix in place of the one that matched."""

    type: Literal["ReplaceFullPath", "ReplacePrefixMatch"]
    replace_full_path: str | None = None
    replace_prefix_match: str | None = None

    def problems(self) -> Iterator[Problem]:
        wanted = self.type[0].lower() + self.type[1:]
        if self.present("replaceFullPath", "replacePrefixMatch") != [wanted]:
            yield Problem("", f"type {self.type} needs {wanted!r} and nothing else")
        for name, path in (
            ("replaceFullPath", self.replace_full_path),
            ("replacePrefixMatch", self.replace_prefix_match),
        ):
            if path and not path.startswith("/"):
                yield Problem(name, f"the path {path!r} does not start with '/'")


@model
class RequestRedirect(Located):
    """Send the client elsewhere."""

    scheme: Literal["http", "https"] | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: PortNumber | None = None
    status_code: int = 302

    def problems(self) -> Iterator[Problem]:
        if self.hostname is not None:
            yield from hostname_problems("hostname", self.hostname, precise=True)
        if self.status_code not in (301, 302, 303, 307, 308):
            yield Problem("statusCode", f"{self.status_code} is no redirect", "301, 302, 303, 307 or 308")


@model
class UrlRewrite(Located):
    """What the upstream sees in place of host and path."""

    hostname: str | None = None
    path: PathModifier | None = None

    def problems(self) -> Iterator[Problem]:
        if self.hostname is not None:
            yield from hostname_problems("hostname", self.hostname, precise=True)


@model
class Cors(Located):
    """Which scripts of other origins may see answers."""

    allow_origins: tuple[str, ...] = ()
    allow_credentials: bool = False
    allow_methods: tuple[str, ...] = ()
    allow_headers: tuple[str, ...] = ()
    expose_headers: tuple[str, ...] = ()
    max_age: Annotated[int, Range(1, 2**31 - 1)] = 5

    def problems(self) -> Iterator[Problem]:
        for origin in self.allow_origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                hint = "write it as in https://shop.example, https://*.shop.example or '*'"
                yield Problem("allowOrigins", f"{origin!r} is not an origin", hint)
        for name, words in (
            ("allowMethods", self.allow_methods),
            ("allowHeaders", self.allow_headers),
            ("exposeHeaders", self.expose_headers),
        ):
            if "*" in words and len(words) > 1:
                yield Problem(name, "'*' means all; nothing else can stand beside it", "keep one of them")
            for word in words:
                if not HEADER_NAME.fullmatch(word):
                    what = "a method" if name == "allowMethods" else "a header name"
                    yield Problem(name, f"{word!r} is not {what}")

    def origin_patterns(self) -> Iterator[str]:
        """A regular expression for each of the origins. A wildcard stands for one label and more."""
        for origin in self.allow_origins:
            yield ".*" if origin == "*" else re.escape(origin).replace(r"\*", "[^/:@]+")


@model
class Fraction(Located):
    """A share of all requests."""

    numerator: Annotated[int, Range(0, 2**31 - 1)]
    denominator: Annotated[int, Range(1, 2**31 - 1)] = 100

    def problems(self) -> Iterator[Problem]:
        if self.numerator > self.denominator:
            yield Problem("numerator", f"{self.numerator} of {self.denominator} is more than all")


@model
class Backend(Located):
    """A port of a service. What else it may be is a matter of its own: by the standard a kind that is not known fails
    the requests that are sent there, and no others.
    """

    name: str
    group: str = ""
    kind: str = "Service"
    namespace: str = ""
    port: PortNumber | None = None

    @property
    def is_service(self) -> bool:
        """Whether it is of the one kind that there is."""
        return (self.group, self.kind) == ("", "Service")


@model
class RequestMirror(Located):
    """A share of the requests is sent to another backend too, which nobody waits for."""

    backend_ref: Backend
    percent: Annotated[int, Range(0, 100)] | None = None
    fraction: Fraction | None = None

    @property
    def millionths(self) -> int:
        """The share as proxies count it."""
        share = self.fraction or Fraction(numerator=100 if self.percent is None else self.percent)
        return round(share.numerator * 1_000_000 / share.denominator)

    def problems(self) -> Iterator[Problem]:
        if len(self.present("percent", "fraction")) == 2:
            yield Problem("fraction", "'percent' and 'fraction' exclude each other", "keep one of them")


_FILTERS = ("requestHeaderModifier", "responseHeaderModifier", "requestRedirect", "urlRewrite", "requestMirror", "cors")


@model
class RouteFilter(Located):
    """One thing that happens to a request or its response."""

    REFUSED: ClassVar = {
        "extensionRef": "select the workload in a PythonFilter",
        "externalAuth": "write a PythonFilter",
    }

    type: Literal[
        "RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "RequestMirror", "CORS"
    ]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None
    request_mirror: RequestMirror | None = None
    cors: Cors | None = None

    def problems(self) -> Iterator[Problem]:
        named = {"URLRewrite": "urlRewrite", "CORS": "cors"}
        wanted = named.get(self.type, self.type[0].lower() + self.type[1:])
        found = self.present(*_FILTERS)
        if found != [wanted]:
            yield Problem("", f"type {self.type} needs {wanted!r} and nothing else")


@model
class BackendRef(Backend):
    """A share of the requests."""

    weight: Weight = 1
    filters: tuple[RouteFilter, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for one in self.filters:
            if one.type not in ("RequestHeaderModifier", "ResponseHeaderModifier"):
                yield Problem("filters", f"{one.type} is not supported on a backend yet", "put it on the rule")


@model
class Timeouts(Located):
    """Limits on a request, retries included, and on each try."""

    request: timedelta | None = None
    backend_request: timedelta | None = None

    def problems(self) -> Iterator[Problem]:
        if self.request and self.backend_request and self.backend_request > self.request:
            yield Problem("backendRequest", "a try may not take longer than the request")


@model
class Retry(Located):
    """When to try again: where no answer came, and where it has one of these statuses."""

    codes: tuple[Annotated[int, Range(400, 599)], ...] = ()
    attempts: Annotated[int, Range(0, 100)] | None = None
    backoff: timedelta | None = None

    def problems(self) -> Iterator[Problem]:
        yield from back_off_problems(self.backoff)


@model
class CookieConfig(Located):
    """How long a cookie lives."""

    lifetime_type: Literal["Session", "Permanent"] = "Session"


@model
class SessionPersistence(Located):
    """Clients stay where they have begun: at one backend, and at one endpoint of it."""

    REFUSED: ClassVar = {"idleTimeout": "set absoluteTimeout with cookieConfig.lifetimeType: Permanent"}

    session_name: str = "pymesh-session"
    type: Literal["Cookie", "Header"] = "Cookie"
    absolute_timeout: timedelta | None = None
    cookie_config: CookieConfig = CookieConfig()

    def problems(self) -> Iterator[Problem]:
        yield from cookie_name_problems("sessionName", self.session_name)
        if self.type == "Header":
            hint = "use type: Cookie, or consistentHash.httpHeaderName in a DestinationRule"
            yield Problem("type", "a session that a header names is not supported yet", hint)
        is_permanent = self.cookie_config.lifetime_type == "Permanent"
        if is_permanent != (self.absolute_timeout is not None):
            hint = "set both, or neither"
            yield Problem("absoluteTimeout", "it belongs to cookieConfig.lifetimeType: Permanent, which needs it", hint)


@model
class RouteRule(Located):
    """Matches (any of them), and what to do."""

    name: str = ""
    matches: tuple[RouteMatch, ...] = (RouteMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: Timeouts = Timeouts()
    retry: Retry | None = None
    session_persistence: SessionPersistence | None = None

    def problems(self) -> Iterator[Problem]:
        types = [one.type for one in self.filters]
        yield from repeated(self.filters)
        if "RequestRedirect" in types:
            if "RequestMirror" in types:
                yield Problem("filters", "a redirect is not mirrored", "remove the RequestMirror filter")
            if self.backend_refs:
                yield Problem("backendRefs", "a redirect asks no backend", "remove backendRefs")
            if self.session_persistence is not None:
                yield Problem("sessionPersistence", "a redirect asks no backend", "remove sessionPersistence")
            if "URLRewrite" in types:
                yield Problem("filters", "RequestRedirect and URLRewrite exclude each other")
        replaces = [
            one for one in self.filters for path in (_path_of(one),) if path and path.type == "ReplacePrefixMatch"
        ]
        if replaces and any(match.path.type != "PathPrefix" for match in self.matches):
            yield Problem("filters", "ReplacePrefixMatch needs matches of type PathPrefix")


def repeated(filters: tuple[RouteFilter, ...]) -> Iterator[Problem]:
    """Filters of which there may be one only."""
    types = [one.type for one in filters if one.type != "RequestMirror"]
    for name in sorted({name for name in types if types.count(name) > 1}):
        yield Problem("filters", f"{name} is here twice", "make it one filter")


def mirrors(filters: tuple[RouteFilter, ...]) -> list[RequestMirror]:
    """Who is sent copies."""
    return [one.request_mirror for one in filters if one.request_mirror is not None]


def _path_of(one: RouteFilter) -> PathModifier | None:
    change = one.request_redirect or one.url_rewrite
    return change.path if change else None


@model
class HTTPRouteSpec(Located):
    """Rules, and where they hold."""

    REFUSED: ClassVar = {"useDefaultGateways": "name the Gateway in parentRefs"}

    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    rules: tuple[RouteRule, ...] = (RouteRule(),)

    def problems(self) -> Iterator[Problem]:
        yield from parent_problems(self.parent_refs, self.hostnames)


@model
class HTTPRoute(Resource):
    """``gateway.networking.k8s.io`` HTTPRoute."""

    spec: HTTPRouteSpec
    status: Any = None


def parent_problems(parents: tuple[ParentRef, ...], hostnames: tuple[str, ...] = ()) -> Iterator[Problem]:
    """What is wrong with where a route binds."""
    if not parents:
        yield Problem("parentRefs", "a route needs a parent", "a Gateway, or a Service inside the mesh")
    for host in hostnames:
        yield from hostname_problems("hostnames", host)


def hostname_problems(field_name: str, host: str, *, precise: bool = False) -> Iterator[Problem]:
    """What is wrong with a host name, or (unless ``precise``) a pattern ``*.suffix``."""
    if is_ip(host) or not _HOST_NAME.fullmatch(host) or (precise and host.startswith("*")):
        hint = "a DNS name in lower case" + ("" if precise else ", or '*.suffix'") + "; no address, no port"
        yield Problem(field_name, f"{host!r} is no host name", hint)


def path_problems(field_name: str, path: str) -> Iterator[Problem]:
    """What keeps a path from ever matching: requests are made canonical before they are routed."""
    if not path.startswith("/"):
        yield Problem(field_name, f"the path {path!r} does not start with '/'")
    for part in ("//", "/./", "/../", "%2f", "%2F", "#"):
        if part in path:
            yield Problem(field_name, f"the path {path!r} contains {part!r}", "write it as it is after it is resolved")
    if path.endswith(("/..", "/.")):
        yield Problem(
            field_name, f"the path {path!r} ends with a dot segment", "write it as it is after it is resolved"
        )
