"""The Gateway API's Gateway and HTTPRoute."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, ClassVar, Final, Literal

from pymesh.control.resources.decode import Located, PortNumber, Problem, Weight, key, model
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.traffic import regex_problems

GROUP: Final = "gateway.networking.k8s.io"


@model
class CertificateRef(Located):
    """A Secret."""

    REFUSED: ClassVar = {"namespace": "keep the Secret beside the Gateway"}

    name: str
    group: Literal[""] = ""
    kind: Literal["Secret"] = "Secret"


@model
class ListenerTls(Located):
    """TLS that a listener terminates."""

    REFUSED: ClassVar = {
        "frontendValidation": "use Istio's Gateway with tls.mode: MUTUAL",
        "options": "remove it",
    }

    certificate_refs: tuple[CertificateRef, ...]
    mode: Literal["Terminate"] = "Terminate"

    def problems(self) -> Iterator[Problem]:
        if len(self.certificate_refs) != 1:
            yield Problem("certificateRefs", "exactly one certificate is supported", "write one listener for each")


@model
class RouteNamespaces(Located):
    """From which namespaces routes may bind."""

    REFUSED: ClassVar = {"selector": "use from: Same or from: All"}

    from_: Literal["Same", "All"] = key("from", default="Same")


@model
class AllowedRoutes(Located):
    """Which routes may bind to a listener."""

    REFUSED: ClassVar = {"kinds": "HTTPRoute is the only kind; remove it"}

    namespaces: RouteNamespaces = RouteNamespaces()


@model
class Listener(Located):
    """One port, for one host or all."""

    name: str
    port: PortNumber
    protocol: Literal["HTTP", "HTTPS"]
    hostname: str = ""
    tls: ListenerTls | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()

    def problems(self) -> Iterator[Problem]:
        if (self.protocol == "HTTPS") != (self.tls is not None):
            yield Problem("tls", "'tls' belongs to protocol HTTPS, and HTTPS needs it")


@model
class KubeGatewaySpec(Located):
    """Listeners. The proxies that run them carry the Gateway's name in a label."""

    REFUSED: ClassVar = {
        "addresses": "use Istio's Gateway with `bind`",
        "infrastructure": "remove it",
        "backendTLS": "use a DestinationRule",
        "allowedListeners": "write the listeners here",
    }

    gateway_class_name: Literal["pymesh"]
    listeners: tuple[Listener, ...]

    def problems(self) -> Iterator[Problem]:
        names = [listener.name for listener in self.listeners]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem("listeners", f"listener {name!r} is here twice")


@model
class KubeGateway(Resource):
    """``gateway.networking.k8s.io`` Gateway."""

    #: A proxy runs the Gateway of its namespace that this label of the proxy names.
    PROXY_LABEL: ClassVar = "gateway.networking.k8s.io/gateway-name"

    spec: KubeGatewaySpec
    status: Any = None

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
        elif not self.value.startswith("/"):
            yield Problem("value", f"the path {self.value!r} does not start with '/'")


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


@model
class HeaderValue(Located):
    """A header and its value."""

    name: str
    value: str


@model
class HeaderModifier(Located):
    """Changes of a message's headers."""

    set: tuple[HeaderValue, ...] = ()
    add: tuple[HeaderValue, ...] = ()
    remove: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        for name in (*(one.name for one in self.set), *(one.name for one in self.add), *self.remove):
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                yield Problem("", f"{name!r} is not a header name")


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


@model
class RequestRedirect(Located):
    """Send the client elsewhere."""

    scheme: Literal["http", "https"] | None = None
    hostname: str | None = None
    path: PathModifier | None = None
    port: PortNumber | None = None
    status_code: int = 302

    def problems(self) -> Iterator[Problem]:
        if self.status_code not in (301, 302, 303, 307, 308):
            yield Problem("statusCode", f"{self.status_code} is no redirect", "301, 302, 303, 307 or 308")


@model
class UrlRewrite(Located):
    """What the upstream sees in place of host and path."""

    hostname: str | None = None
    path: PathModifier | None = None


@model
class RouteFilter(Located):
    """One thing that happens to a request or its response."""

    REFUSED: ClassVar = {
        "requestMirror": "nothing replaces it yet",
        "cors": "answer CORS preflights in the application",
        "extensionRef": "select the workload in a PythonFilter",
        "externalAuth": "write a PythonFilter",
    }

    type: Literal["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite"]
    request_header_modifier: HeaderModifier | None = None
    response_header_modifier: HeaderModifier | None = None
    request_redirect: RequestRedirect | None = None
    url_rewrite: UrlRewrite | None = None

    def problems(self) -> Iterator[Problem]:
        wanted = "urlRewrite" if self.type == "URLRewrite" else self.type[0].lower() + self.type[1:]
        found = self.present("requestHeaderModifier", "responseHeaderModifier", "requestRedirect", "urlRewrite")
        if found != [wanted]:
            yield Problem("", f"type {self.type} needs {wanted!r} and nothing else")


@model
class BackendRef(Located):
    """A share of the requests."""

    REFUSED: ClassVar = {"namespace": "other namespaces need a ReferenceGrant, which comes later"}

    name: str
    group: Literal[""] = ""
    kind: Literal["Service"] = "Service"
    port: PortNumber | None = None
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
class RouteRule(Located):
    """Matches (any of them), and what to do."""

    REFUSED: ClassVar = {
        "retry": "the mesh's defaults apply; a VirtualService can set retries",
        "sessionPersistence": "nothing replaces it yet",
    }

    name: str = ""
    matches: tuple[RouteMatch, ...] = (RouteMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()
    timeouts: Timeouts = Timeouts()

    def problems(self) -> Iterator[Problem]:
        types = [one.type for one in self.filters]
        for name in sorted({name for name in types if types.count(name) > 1}):
            yield Problem("filters", f"{name} is here twice", "make it one filter")
        if "RequestRedirect" in types:
            if self.backend_refs:
                yield Problem("backendRefs", "a redirect asks no backend", "remove backendRefs")
            if "URLRewrite" in types:
                yield Problem("filters", "RequestRedirect and URLRewrite exclude each other")
        replaces = [
            one for one in self.filters for path in (_path_of(one),) if path and path.type == "ReplacePrefixMatch"
        ]
        if replaces and any(match.path.type != "PathPrefix" for match in self.matches):
            yield Problem("filters", "ReplacePrefixMatch needs matches of type PathPrefix")


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
        if not self.parent_refs:
            yield Problem("parentRefs", "a route needs a parent", "a Gateway, or a Service inside the mesh")


@model
class HTTPRoute(Resource):
    """``gateway.networking.k8s.io`` HTTPRoute."""

    spec: HTTPRouteSpec
    status: Any = None
