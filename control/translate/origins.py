"""Which of the users' resources stand behind a part of a proxy's configuration.

Translation names what it makes by Istio's scheme and leaves the names of routes, policies and filters in it, so the way
back is a lookup in the same store: from a resource that a proxy was sent, or a path into it (as the proxy's refusals
tell one), to the places where its reasons are written. What is built in (the virtual listeners of a captured workload,
black holes) has no place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from google.protobuf.message import Message

from pymesh.control.resources.diagnostics import Position
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.store import jwks
from pymesh.control.store.services import Service
from pymesh.control.store.store import Store
from pymesh.control.translate import application, names
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

_STEP = re.compile(r'\.?(?P<field>\w+)|\[(?P<index>\d+)\]|\["(?P<key>[^"]*)"\]')
_RULE = re.compile(r"ns\[(?P<namespace>[^\]]*)\]-policy\[(?P<name>[^\]]*)\]-rule\[(?P<rule>\d+)\]")
#: Filters of our own resources: what stands before NAMESPACE/NAME.
_FILTERS = ("pymesh.filters.python.", "pymesh.local_rate_limit.")
_GATEWAY_TABLE = re.compile(r"https?\.(\d+)")
_TOKENS = "envoy.filters.http.jwt_authn"
#: What comes of a Telemetry -> the field of it that says so.
_TELEMETRY = {
    "envoy.access_loggers.file": "accessLogging",
    "envoy.access_loggers.open_telemetry": "accessLogging",
    "envoy.tracers.opentelemetry": "tracing",
    "tracing": "tracing",
    "istio.stats": "metrics",
}


class Origins:
    """The way back for one proxy."""

    def __init__(self, store: Store, proxy: Proxy) -> None:
        self._store = store
        self._proxy = proxy
        #: Name of a route -> where rules of that name stand.
        self._routes: dict[str, list[Position]] = {}
        for virtual in store.virtual_services:
            for number, rule in enumerate(virtual.spec.http):
                self._routes.setdefault(rule.name or f"{virtual.name}.{number}", []).append(rule.at)
        for route in store.http_routes:
            for number, part in enumerate(route.spec.rules):
                self._routes.setdefault(part.name or f"{route.name}.{number}", []).append(part.at)
        for call in store.grpc_routes:
            for number, piece in enumerate(call.spec.rules):
                self._routes.setdefault(piece.name or f"{call.name}.{number}", []).append(piece.at)

    def of(self, message: Message, path: str = "") -> list[Position]:
        """Where the reasons for a resource are written, or for what is at ``path`` in it; the closest first."""
        for name in reversed(_names_along(message, path)):
            found = list(dict.fromkeys(self._named(name)))
            if found:
                return found
        return list(dict.fromkeys(self._whole(message)))

    def _whole(self, message: Any) -> Iterator[Position]:
        kind = pb.type_url(message)
        if kind == pb.CLUSTER:
            yield from self._cluster(message.name)
        elif kind == pb.ENDPOINTS:
            yield from self._endpoints(message.cluster_name)
        elif kind == pb.LISTENER:
            yield from self._listener(message)
        elif kind == pb.ROUTES:
            yield from self._table(message)
        elif kind == pb.SECRET:
            namespace, _, name = message.name.removeprefix("kubernetes://").rpartition("/")
            for written in (name, name.removesuffix("-cacert")):
                if (namespace, written) in self._store.secrets:
                    yield self._store.secrets[namespace, written].at

    def _cluster(self, name: str) -> Iterator[Position]:
        direction, _, rest = name.partition("|")
        port, _, rest = rest.partition("|")
        subset, _, host = rest.partition("|")
        if direction == "inbound" and port.isdecimal():
            yield from self._application(int(port))
        if direction == "jwks":
            yield from self._key_server(name)
        service = self._store.services.get(host)
        if service is None:
            return
        rule = self._store.destination_rule(service, self._proxy.namespace)
        if rule is not None:
            yield from (one.at for one in rule.spec.subsets if one.name == subset)
            yield rule.at
        yield service.at

    def _endpoints(self, name: str) -> Iterator[Position]:
        _, _, rest = name.partition("|")
        port, _, rest = rest.partition("|")
        service = self._store.services.get(rest.partition("|")[2])
        if service is not None:
            yield service.at
            yield from (one.workload.at for one in service.backends.get(int(port), ()))

    def _key_server(self, name: str) -> Iterator[Position]:
        """The rules whose keys a cluster brings."""
        for one in self._store.request_authentications:
            for rule in one.spec.jwt_rules:
                service = jwks.service(self._store, rule, one.namespace) if rule.jwks_uri else None
                host = service.host if service is not None else rule.uri.hostname if rule.jwks_uri else ""
                if rule.jwks_uri and name == names.key_server(jwks.port(rule), host or ""):
                    yield rule.place("jwksUri")

    def _application(self, port: int) -> Iterator[Position]:
        """What says that the workload serves a port."""
        resource = self._store.sidecar(self._proxy.namespace, self._proxy.labels)
        if resource is not None:
            yield from (one.at for one in resource.spec.ingress if one.port.number == port)
        yield from (service.at for known, service, _ in application.served(self._store, self._proxy) if known == port)

    def _listener(self, message: Any) -> Iterator[Position]:
        address = message.address.socket_address
        if self._proxy.kind == "router":
            yield from self._servers(address.port_value)
        else:
            yield from self._of_sidecar(message.name, address.address, address.port_value)
        for chain in (*message.filter_chains, message.default_filter_chain):
            for one in chain.filters:
                yield from self._filter(one)

    def _servers(self, port: int) -> Iterator[Position]:
        """The parts of the proxy's Gateways that open a port."""
        labels = self._proxy.labels
        for gateway in self._store.gateways:
            if gateway.spec.selector.items() <= labels.items():
                yield from (one.at for one in gateway.spec.servers if port in self._at(one.port.number))
        for kube in self._store.kube_gateways:
            if (kube.name, kube.namespace) == (labels.get(KubeGateway.PROXY_LABEL), self._proxy.namespace):
                yield from (one.at for one in kube.spec.listeners if one.port == port)

    def _at(self, number: int) -> list[int]:
        """The port that a Gateway names, and where the proxy listens for it."""
        return [number, *application.bound(self._store, self._proxy, number)]

    def _of_sidecar(self, name: str, address: str, port: int) -> Iterator[Position]:
        resource = self._store.sidecar(self._proxy.namespace, self._proxy.labels)
        if resource is not None:
            yield from (one.at for one in resource.spec.ingress if one.port.number == port)
            yield from (one.at for one in resource.spec.egress if one.port and one.port.number == port)
        if not self._proxy.is_captured or name == "virtualOutbound":
            return
        for service in self._store.services.values():
            if name == "virtualInbound":
                if service.selects(self._proxy.namespace, self._proxy.labels):
                    yield service.at
            elif service.port(port) and (address in ("0.0.0.0", "::") or _has_address(service, address)):
                yield service.at

    def _filter(self, one: Any) -> Iterator[Position]:
        """The resources that a network filter, or a filter of its connection manager, comes from."""
        for name in _names_within(one):
            yield from self._named(name)

    def _table(self, message: Any) -> Iterator[Position]:
        found = _GATEWAY_TABLE.match(message.name)
        if found is not None and self._proxy.kind == "router":
            yield from self._servers(int(found[1]))
        for host in message.virtual_hosts:
            for route in host.routes:
                yield from self._named(host.name if route.name == "default" else route.name)

    def _named(self, name: str) -> Iterator[Position]:
        """Where what translation calls so is written."""
        rule = _RULE.search(name)
        if rule is not None:
            for policy in self._store.policies:
                if (policy.namespace, policy.name) == (rule["namespace"], rule["name"]):
                    number = int(rule["rule"])
                    yield policy.spec.rules[number].at if number < len(policy.spec.rules) else policy.at
            return
        for prefix in _FILTERS:
            if name.startswith(prefix):
                wanted = name.removeprefix(prefix)
                yield from (one.at for one in self._store.filters if f"{one.namespace}/{one.name}" == wanted)
        if name == _TOKENS:
            own = (self._proxy.namespace, self._store.options.root_namespace)
            yield from (one.at for one in self._store.request_authentications if one.namespace in own)
        if name in _TELEMETRY:
            root, proxy = self._store.options.root_namespace, self._proxy
            telemetries = list(self._store.telemetries.of(root, proxy.namespace, proxy.labels))
            closest_first = [one.spec for one in reversed(telemetries)]
            yield from (one.where[field] for one in closest_first for field in one.present(_TELEMETRY[name]))
            yield from (self._store.mesh.where[key] for key in self._store.mesh.present("defaultProviders"))
        yield from self._routes.get(name, ())
        service = self._store.services.get(name.rpartition(":")[0])
        if service is not None:
            yield service.at


def _has_address(service: Service, address: str) -> bool:
    backends = (one.workload for ported in service.backends.values() for one in ported)
    return address in service.addresses or any(one.is_at(address) for one in backends)


def _names_along(message: Message, path: str) -> list[str]:
    """The names of what a path leads through, and the keys of its maps, from the outside to the inside."""
    found: list[str] = []
    here: Any = message
    for step in _STEP.finditer(path):
        here = _unpacked(here)
        try:
            if step["field"] is not None:
                here = getattr(here, step["field"])
                # It has no name of its own.
                found += [step["field"]] if step["field"] == "tracing" else []
            elif step["index"] is not None:
                here = here[int(step["index"])]
            else:
                found.append(step["key"])
                here = here[step["key"]]
        except (AttributeError, LookupError, TypeError):
            break
        name = getattr(here, "name", "") if isinstance(here, Message) else ""
        if isinstance(name, str) and name:
            found.append(name)
    return found


def _names_within(one: Any) -> Iterable[str]:
    """The names of a filter, of its policies, and of the filters and routes in it."""
    yield one.name
    config = _unpacked(one.typed_config)
    fields = config.DESCRIPTOR.fields_by_name
    if "rules" in fields and config.DESCRIPTOR.name == "RBAC":
        yield from (*config.rules.policies, *config.shadow_rules.policies)
    for inner in config.http_filters if "http_filters" in fields else ():
        yield from _names_within(inner)


def _unpacked(value: Any) -> Any:
    """The message in an ``Any``, where its type is known."""
    if isinstance(value, Message) and value.DESCRIPTOR.full_name == "google.protobuf.Any":
        try:
            return pb.unpack(value)
        except (KeyError, pb.DecodeError):
            return value
    return value
