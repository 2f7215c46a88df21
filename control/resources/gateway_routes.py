"""The Gateway API's routes beside HTTPRoute, and the grants that let routes and Gateways refer to other namespaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, Problem, Weight, key, model
from pymesh.control.resources.gateway_api import (
    Backend,
    BackendRef,
    NamedMatch,
    ParentRef,
    RouteFilter,
    parent_problems,
    repeated,
)
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.traffic import regex_problems

_SERVICE = re.compile(r"(?i)\.?[a-z_][a-z_0-9]*(\.[a-z_][a-z_0-9]*)*")
_METHOD = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


@model
class GrpcMethodMatch(Located):
    """Which service and method a call must name; what is left out may be any."""

    type: Literal["Exact", "RegularExpression"] = "Exact"
    service: str = ""
    method: str = ""

    def problems(self) -> Iterator[Problem]:
        if not self.service and not self.method:
            yield Problem("", "one of 'service', 'method' is needed")
        for name, value, known in (("service", self.service, _SERVICE), ("method", self.method, _METHOD)):
            if not value:
                continue
            if self.type == "RegularExpression":
                yield from regex_problems(name, value)
            elif not known.fullmatch(value):
                yield Problem(name, f"{value!r} is no gRPC {name}", "as in package.Service, and in Method")


@model
class GrpcMatch(Located):
    """Conditions on a call, all of which must hold."""

    method: GrpcMethodMatch | None = None
    headers: tuple[NamedMatch, ...] = ()

    @property
    def telling_headers(self) -> list[NamedMatch]:
        """One condition for each header: of two with one name the first counts."""
        return list({one.name.lower(): one for one in reversed(self.headers)}.values())[::-1]


@model
class GrpcRule(Located):
    """Matches (any of them), and what to do."""

    REFUSED: ClassVar = {"sessionPersistence": "nothing replaces it yet"}

    name: str = ""
    matches: tuple[GrpcMatch, ...] = (GrpcMatch(),)
    filters: tuple[RouteFilter, ...] = ()
    backend_refs: tuple[BackendRef, ...] = ()

    def problems(self) -> Iterator[Problem]:
        types = [one.type for one in self.filters]
        for name in ("RequestRedirect", "URLRewrite"):
            if name in types:
                yield Problem("filters", f"{name} is not for gRPC", "write an HTTPRoute")
        yield from repeated(self.filters)


@model
class GRPCRouteSpec(Located):
    """Rules, and where they hold."""

    REFUSED: ClassVar = {"useDefaultGateways": "name the Gateway in parentRefs"}

    parent_refs: tuple[ParentRef, ...]
    hostnames: tuple[str, ...] = ()
    rules: tuple[GrpcRule, ...] = (GrpcRule(),)

    def problems(self) -> Iterator[Problem]:
        yield from parent_problems(self.parent_refs, self.hostnames)


@model
class GRPCRoute(Resource):
    """``gateway.networking.k8s.io`` GRPCRoute."""

    spec: GRPCRouteSpec
    status: Any = None


@model
class L4BackendRef(Backend):
    """A share of the connections."""

    weight: Weight = 1


@model
class L4Rule(Located):
    """Where connections go."""

    backend_refs: tuple[L4BackendRef, ...]
    name: str = ""

    def problems(self) -> Iterator[Problem]:
        if not sum(one.weight for one in self.backend_refs):
            yield Problem("backendRefs", "the weights of the backends add up to 0", "name a backend with a weight")


@model
class TCPRouteSpec(Located):
    """Where the connections of a listener go."""

    REFUSED: ClassVar = {"useDefaultGateways": "name the Gateway in parentRefs"}

    parent_refs: tuple[ParentRef, ...]
    rules: tuple[L4Rule, ...]

    def problems(self) -> Iterator[Problem]:
        yield from parent_problems(self.parent_refs)
        if len(self.rules) != 1:
            yield Problem("rules", "nothing tells the rules apart", "write exactly one")


@model
class TCPRoute(Resource):
    """``gateway.networking.k8s.io`` TCPRoute."""

    spec: TCPRouteSpec
    status: Any = None


@model
class TLSRouteSpec(Located):
    """Where TLS connections go that ask for certain server names."""

    REFUSED: ClassVar = {"useDefaultGateways": "name the Gateway in parentRefs"}

    parent_refs: tuple[ParentRef, ...]
    rules: tuple[L4Rule, ...]
    hostnames: tuple[str, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from parent_problems(self.parent_refs, self.hostnames)
        if len(self.rules) != 1:
            yield Problem("rules", "nothing tells the rules apart", "write exactly one")


@model
class TLSRoute(Resource):
    """``gateway.networking.k8s.io`` TLSRoute."""

    spec: TLSRouteSpec
    status: Any = None


@model
class GrantFrom(Located):
    """Who may refer."""

    group: str
    kind: str
    namespace: str


@model
class GrantTo(Located):
    """What may be referred to: all of a kind in the grant's namespace, or one."""

    group: str
    kind: str
    name: str = ""


@model
class ReferenceGrantSpec(Located):
    """Who may refer to what."""

    from_: tuple[GrantFrom, ...] = key("from")
    to: tuple[GrantTo, ...]


@model
class ReferenceGrant(Resource):
    """``gateway.networking.k8s.io`` ReferenceGrant: lets other namespaces refer to resources of its own."""

    spec: ReferenceGrantSpec

    def allows(self, group: str, kind: str, namespace: str, to_group: str, to_kind: str, name: str) -> bool:
        """Whether a resource of a kind in another namespace may refer to one here."""
        spec = self.spec
        return any((one.group, one.kind, one.namespace) == (group, kind, namespace) for one in spec.from_) and any(
            (one.group, one.kind) == (to_group, to_kind) and one.name in ("", name) for one in spec.to
        )
