"""What applies to a service, a workload or a gateway: routes, policies by effect, TLS, filters, endpoints, each with
its place. Pure functions that ask the store, and translation's selection, what they would do; nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from pymesh.control.resources.diagnostics import Position, did_you_mean
from pymesh.control.resources.gateway import Gateway
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.python_filter import FilterTarget
from pymesh.control.resources.security import AuthorizationPolicy
from pymesh.control.resources.traffic import HttpMatch, HttpRoute, StringMatch, TcpRoute, TlsRoute, VirtualService
from pymesh.control.store.references import gateway_key
from pymesh.control.store.route_conflicts import MESH, all_routes, mesh_routes
from pymesh.control.store.services import Service
from pymesh.control.store.store import Store
from pymesh.control.store.workloads import Workload
from pymesh.control.translate import selection
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.scope import Scope

#: What can be described.
KINDS: Final = ("service", "workload", "gateway")
#: In the order in which proxies ask them.
_ACTIONS: Final = ("CUSTOM", "DENY", "ALLOW", "AUDIT")
_EFFECTS: Final = {
    "CUSTOM": "asks a provider",
    "DENY": "refuses",
    "ALLOW": "lets in; who matches none of these is refused",
    "AUDIT": "notes",
}


class UnknownError(Exception):
    """There is nothing of that name; for people."""


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that applies."""

    text: str
    at: Position | None = None


@dataclass(slots=True)
class Description:
    """What is known of one thing."""

    title: str
    at: Position | None
    #: Of a service.
    host: str = ""
    #: Heading -> lines.
    sections: dict[str, list[Line]] = field(default_factory=dict)

    def add(self, heading: str, text: str, at: Position | None = None) -> None:
        """One more line; each once."""
        lines, line = self.sections.setdefault(heading, []), Line(text, at)
        if line not in lines:
            lines.append(line)

    def places(self) -> set[Position]:
        """Every place that is named."""
        found = {line.at for lines in self.sections.values() for line in lines}
        return {at for at in (self.at, *found) if at is not None}

    def as_data(self) -> dict[str, Any]:
        """For machines."""
        return {
            "title": self.title,
            "at": str(self.at) if self.at else None,
            "host": self.host or None,
            "sections": {
                heading: [{"text": one.text, "at": str(one.at) if one.at else None} for one in lines]
                for heading, lines in self.sections.items()
            },
        }


def describe(store: Store, kind: str, name: str, namespace: str) -> Description:
    """``kind`` is service, workload or gateway; ``name`` may have its namespace behind a dot. Raises UnknownError."""
    return {"service": _service, "workload": _workload, "gateway": _gateway}[kind](store, name, namespace)


def _service(store: Store, name: str, namespace: str) -> Description:
    service = _found_service(store, name, namespace)
    made = Description(f"Service {service.host}", service.at, service.host)
    for port in service.ports:
        target = f" -> {port.target}" if port.target != port.number else ""
        made.add("Ports", f"{port.number}{target} {port.name or '-'} {port.protocol}")
    made.add("Found by", _resolution(service))
    _routes_to(store, service, made)
    rule = store.destination_rule(service, service.namespace)
    if rule is not None:
        made.add("Clients", f"{rule.title}: {_policy(rule.spec.traffic_policy)}", rule.at)
        for subset in rule.spec.subsets:
            labels = ", ".join(f"{key}: {value}" for key, value in subset.labels.items())
            made.add("Clients", f"subset {subset.name} ({labels or 'all endpoints'})", subset.at)
    for port in service.ports:
        for backend in service.backends.get(port.number, ()):
            one = backend.workload
            words = [f"{_address(one.address, backend.port)} {one.name or '-'}", one.labels.get("version", "")]
            words += ["" if one.in_mesh else "without a proxy", "draining" if one.health == "DRAINING" else ""]
            made.add("Endpoints", " ".join(filter(None, words)), one.at)
            _mutual_tls(store, one, backend.port, made)
    workloads = {(b.workload.namespace, b.workload.name): b.workload for p in service.backends.values() for b in p}
    for workload in workloads.values():
        _guards(store, _proxy_of(workload), made)
    if not workloads:
        made.add("Endpoints", "none: requests for it fail")
    return made


def _workload(store: Store, name: str, namespace: str) -> Description:
    backends = [b for service in store.services.values() for ported in service.backends.values() for b in ported]
    known = {(b.workload.namespace, b.workload.name): b.workload for b in backends if b.workload.name}
    found = [one for key, one in known.items() if name in (one.name, f"{key[1]}.{key[0]}") or (namespace, name) == key]
    if not found:
        names = [f"{own}.{space}" for space, own in known]
        raise UnknownError(f"no service has a workload {name!r}\nhint: {did_you_mean(name, names)}")
    one = next((one for one in found if one.namespace == namespace), found[0])
    made = Description(f"Workload {one.namespace}/{one.name}", one.at)
    made.add("Address", one.address)
    made.add("Labels", ", ".join(f"{key}: {value}" for key, value in one.labels.items()) or "none")
    made.add("Identity", f"service account {one.service_account or 'default'}")
    for service in store.services.values():
        for number, ported in service.backends.items():
            for backend in ported:
                if backend.workload == one:
                    made.add("Serves", f"{service.host}:{number} on port {backend.port}", service.at)
                    _mutual_tls(store, one, backend.port, made)
    sidecar = store.sidecar(one.namespace, one.labels)
    if sidecar is not None:
        made.add("Sidecar", sidecar.title, sidecar.at)
    _guards(store, _proxy_of(one), made)
    return made


def _gateway(store: Store, name: str, namespace: str) -> Description:
    own, _, space = name.partition(".")
    both: list[Gateway | KubeGateway] = [*store.gateways, *store.kube_gateways]
    gateways = {(one.namespace, one.name): one for one in both}
    found = gateways.get((space or namespace, own)) or next(
        (one for (_, known), one in gateways.items() if known == name), None
    )
    if found is None:
        names = [f"{known}.{where}" for where, known in gateways]
        raise UnknownError(
            f"there is no Gateway {name!r}\nhint: {did_you_mean(name, names, otherwise='none is known')}"
        )
    made = Description(f"Gateway {found.namespace}/{found.name}", found.at)
    if isinstance(found, Gateway):
        _istio_gateway(store, found, made)
        labels = dict(found.spec.selector)
    else:
        _kube_gateway(store, found, made)
        labels = {KubeGateway.PROXY_LABEL: found.name}
    made.add("Proxies", "those with " + ", ".join(f"{key}: {value}" for key, value in labels.items()))
    _guards(store, Proxy("router", "192.0.2.1", found.name, found.namespace, labels), made, found.name)
    return made


def _istio_gateway(store: Store, gateway: Gateway, made: Description) -> None:
    for server in gateway.spec.servers:
        tls = f", TLS {server.tls.mode}" if server.tls is not None and server.tls.mode else ""
        hosts = ", ".join(server.hosts)
        made.add("Servers", f"{server.port.number} {server.port.protocol} for {hosts}{tls}", server.at)
    for virtual in store.virtual_services:
        names = [gateway_key(one, virtual.namespace) for one in virtual.spec.gateways if one != MESH]
        if (gateway.namespace, gateway.name) in names:
            _rules(virtual, made, f"{virtual.title} ({', '.join(virtual.spec.hosts)})")


def _kube_gateway(store: Store, gateway: KubeGateway, made: Description) -> None:
    for listener in gateway.spec.listeners:
        made.add("Servers", f"{listener.port} {listener.protocol} for {listener.hostname or '*'}", listener.at)
        for route in all_routes(store):
            if store.binds(route, gateway, listener):
                made.add("Routes", f"{route.title} at listener {listener.name}", route.at)


def _found_service(store: Store, name: str, namespace: str) -> Service:
    found = store.service(name, namespace)
    if found is None:
        candidates = [one for one in store.services.values() if name in (one.name, *one.aliases)]
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise UnknownError(f"{name!r} may be {' or '.join(sorted(one.host for one in candidates))}\nhint: name one")
        known = [alias for one in store.services.values() for alias in (one.host, one.name)]
        raise UnknownError(
            f"there is no service {name!r}\nhint: {did_you_mean(name, known, otherwise='none is known')}"
        )
    return found


def _resolution(service: Service) -> str:
    words = {
        "EDS": "endpoints that the control plane knows",
        "DNS": "DNS",
        "DNS_ROUND_ROBIN": "DNS, one address at a time",
        "NONE": "the address that the client wants",
    }[service.resolution]
    return f"{words}{', outside of the mesh' if service.external else ''}{', headless' if service.headless else ''}"


def _routes_to(store: Store, service: Service, made: Description) -> None:
    """How requests in the mesh are led, and which gateways lead some to it."""
    virtual = store.mesh_virtual_services(service, service.namespace)
    bound = mesh_routes(store, service)
    for one in virtual[:1]:
        _rules(one, made, f"{one.title} in the mesh")
    for shadowed in virtual[1:]:
        made.add("Routes", f"{shadowed.title} is not used: the one before it names the host more closely", shadowed.at)
    for route in bound:
        made.add("Routes", f"{route.title} in the mesh", route.at)
    if not virtual and not bound:
        made.add("Routes", "in the mesh: every request to all endpoints")
    for one in store.virtual_services:
        at_gateway = [name for name in one.spec.gateways if name != MESH]
        targets = [share.destination for rule in one.spec.http for share in rule.route]
        if at_gateway and any(store.service(to.host, to.home or one.namespace) is service for to in targets):
            made.add("Routes", f"{one.title} at gateway {', '.join(at_gateway)} ({', '.join(one.spec.hosts)})", one.at)


def _rules(virtual: VirtualService, made: Description, title: str) -> None:
    for number, rule in enumerate(virtual.spec.http):
        conditions = " or ".join(_match(one) for one in rule.match) or "every request"
        made.add("Routes", f"{title} rule {rule.name or number}: {conditions} -> {_target(rule)}", rule.at)
    l4: list[TlsRoute | TcpRoute] = [*virtual.spec.tls, *virtual.spec.tcp]
    for part in l4:
        shares = ", ".join(one.destination.host for one in part.route)
        made.add("Routes", f"{title}: connections -> {shares}", part.at)


def _match(match: HttpMatch) -> str:
    found = []
    for label, wanted in (("method", match.method), ("path", match.uri), ("authority", match.authority)):
        if wanted is not None:
            found.append(f"{label} {_string(wanted)}")
    found += [f"header {name}" for name in match.headers]
    found += [f"without header {name}" for name in match.without_headers]
    found += [f"parameter {name}" for name in match.query_params]
    if match.source_labels or match.source_namespace:
        found.append("some clients")
    return " and ".join(found) or "every request"


def _string(wanted: StringMatch) -> str:
    if wanted.exact is not None:
        return wanted.exact
    return f"{wanted.prefix}*" if wanted.prefix is not None else f"~{wanted.regex}"


def _target(rule: HttpRoute) -> str:
    if rule.redirect is not None:
        return "redirect"
    if rule.direct_response is not None:
        return f"response {rule.direct_response.status}"
    shares = []
    for share in rule.route:
        to = share.destination
        weight = f" {share.weight}%" if share.weight is not None and len(rule.route) > 1 else ""
        shares.append(f"{to.host}{f' {to.subset}' if to.subset else ''}{weight}")
    extras = [
        word for word, value in (("timeout", rule.timeout), ("retries", rule.retries), ("fault", rule.fault)) if value
    ]
    return ", ".join(shares) + (f" (with {', '.join(extras)})" if extras else "")


def _policy(policy: Any) -> str:
    """Which settings a traffic policy has."""
    if policy is None:
        return "no settings for all of it"
    found = [
        one
        for one in ("loadBalancer", "connectionPool", "outlierDetection", "tls", "retryBudget")
        if policy.present(one)
    ]
    if policy.tls is not None:
        found[found.index("tls")] = f"tls {policy.tls.mode}"
    return ", ".join(found) or "no settings for all of it"


def _mutual_tls(store: Store, one: Workload, port: int, made: Description) -> None:
    if not one.in_mesh:
        made.add("Mutual TLS", f"port {port} of {one.name}: none, it has no proxy")
        return
    mode = store.peers.mode(one.namespace, one.labels, port)
    said = [
        policy
        for policy in store.peers.policies
        if policy.namespace in (one.namespace, store.options.root_namespace)
        and (policy.spec.selector is None or policy.spec.selector.selects(one.labels))
    ]
    if not said:
        made.add("Mutual TLS", f"port {port} of {one.name}: {mode}, as nothing says otherwise")
    for policy in said:
        made.add("Mutual TLS", f"port {port} of {one.name}: {mode}, by {policy.title}", policy.at)


def _proxy_of(one: Workload) -> Proxy:
    return Proxy("sidecar", one.address, one.name, one.namespace, one.labels, one.service_account or "default")


def _guards(store: Store, proxy: Proxy, made: Description, gateway: str | None = None) -> None:
    """Policies by effect, tokens, and filters, at a proxy."""
    scope = Scope(store, proxy)
    select = selection.for_workload(scope) if gateway is None else selection.for_gateway(scope, gateway)
    policies = select(store.policies)
    for action in _ACTIONS:
        for one in (policy for policy in policies if policy.spec.action == action):
            trial = ", only on trial" if one.is_dry_run else ""
            made.add("Policies", f"{action} {one.title} ({_rules_of(one)}): {_EFFECTS[action]}{trial}", one.at)
    if not policies:
        made.add("Policies", "none: whoever can connect is let in")
    for tokens in select(store.request_authentications):
        issuers = ", ".join(rule.issuer for rule in tokens.spec.jwt_rules)
        made.add("Tokens", f"{tokens.title}: tokens of {issuers or 'nobody'} are checked", tokens.at)
    for telemetry in store.telemetries.of(store.options.root_namespace, proxy.namespace, proxy.labels):
        said = ", ".join(telemetry.spec.present("tracing", "metrics", "accessLogging"))
        made.add("Telemetry", f"{telemetry.title} says something of {said or 'nothing'}", telemetry.at)
    for one_filter in store.filters:
        selector = one_filter.spec.selector
        by_label = selector is not None and selector.match_labels.items() <= proxy.labels.items()
        named = any(_is_target(scope, target, gateway) for target in one_filter.spec.target_refs)
        if one_filter.namespace == proxy.namespace and (by_label or named):
            made.add("Filters", one_filter.title, one_filter.at)


def _is_target(scope: Scope, target: FilterTarget, gateway: str | None) -> bool:
    if target.kind == "Gateway":
        return target.name == gateway
    return gateway is None and scope.serves(target.name)


def _rules_of(one: AuthorizationPolicy) -> str:
    count = len(one.spec.rules)
    return f"{count} rule{'' if count == 1 else 's'}"


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
