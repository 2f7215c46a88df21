"""The captured listener for one port number at the wildcard address: what is known of a connection but its address.

The filter chains ask, in Envoy's order: the network that the client wanted (services whose addresses are networks), the
server name (TLS), and at last what is left, which is HTTP, told apart by host, or the one TCP service that has no
address, or what no service is known for.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pymesh.control.store.services import Port, Service
from pymesh.control.translate import listeners, names, routes, selected_filters, sidecar
from pymesh.control.translate.l4 import L4Rule
from pymesh.control.translate.scope import Scope

PASSTHROUGH = "PassthroughCluster"
TLS_PROTOCOLS = frozenset({"HTTPS", "TLS"})
_TLS = {"transport_protocol": "tls"}


@dataclass(slots=True)
class AtPort:
    """The services that share a port number."""

    number: int
    #: HTTP, and TLS with networks for addresses or with none.
    by_host: list[tuple[Service, Port]] = field(default_factory=list)
    #: TCP, with networks for addresses or with none.
    by_network: list[tuple[Service, Port]] = field(default_factory=list)

    def build(
        self, scope: Scope, any_address: str, unknown: dict[str, Any], allows_any: bool
    ) -> tuple[list[dict[str, Any]], dict[str, Any], Any | None]:
        """The filter chains, the one for the rest, and the route table if there is HTTP."""
        chains = self._networks(scope)
        rules: list[L4Rule] = []
        for service, port in self.by_host:
            if port.protocol in TLS_PROTOCOLS:
                rules += by_server_name(scope, service, port)
        chains += listeners.l4(scope, rules, tls=True)
        with_hosts = [(service, port) for service, port in self.by_host if port.is_http]
        if not with_hosts:
            return chains, self._rest(scope) or unknown, None
        for service, _ in self._without_address():
            self._cannot_be_told(scope, service)
        filters = selected_filters.outbound(scope, self.number)
        prefix = f"outbound_{any_address}_{self.number}"
        network = listeners.http(scope, prefix, "outbound", str(self.number), filters)
        # A port number may be HTTP in the mesh and TLS at others': nobody here could read that.
        if _TLS not in [chain.get("filter_chain_match") for chain in chains]:
            chains.append({**unknown, "filter_chain_match": _TLS})
        return chains, {"filters": [network]}, self._table(scope, with_hosts, allows_any)

    def _networks(self, scope: Scope) -> list[dict[str, Any]]:
        rules: list[L4Rule] = []
        taken: dict[str, Service] = {}
        for service, port in self.by_network:
            wanted = [one for one in service.addresses if "/" in one]
            for one in wanted:
                first = taken.setdefault(one, service)
                if first is not service:
                    scope.report.warning(
                        service.at, f"{one} port {self.number} is that of {first.host!r}", "give each its own network"
                    )
            ranges = tuple(one for one in wanted if taken[one] is service)
            if ranges:
                told = sidecar.tcp_rules(scope, service, port)
                rules += [replace(one, subnets=one.subnets or ranges) for one in told]
        if self._without_address():
            rules += sidecar.tcp_rules(scope, *self._without_address()[0])[:-1]
        return listeners.l4(scope, rules)

    def _without_address(self) -> list[tuple[Service, Port]]:
        return [(service, port) for service, port in self.by_network if not service.addresses]

    def _rest(self, scope: Scope) -> dict[str, Any] | None:
        """Connections to anywhere at this port are for the one TCP service that has no address."""
        found = self._without_address()
        for service, _ in found[1:]:
            self._cannot_be_told(scope, service)
        if not found:
            return None
        return listeners.l4(scope, sidecar.tcp_rules(scope, *found[0])[-1:])[0]

    def _cannot_be_told(self, scope: Scope, service: Service) -> None:
        scope.report.warning(
            service.at,
            f"connections to {service.host!r} port {self.number} cannot be told from others",
            "a TCP service needs a virtual IP: clusterIP of a Service, addresses of a ServiceEntry",
        )

    def _table(self, scope: Scope, found: list[tuple[Service, Port]], allows_any: bool) -> Any:
        number = self.number
        table = sidecar.route_table(str(number))
        # Services may have names and addresses in common; a domain can be in one virtual host only.
        owner: dict[str, Service] = {}
        for service, port in sorted(found, key=lambda pair: pair[0].precedence):
            for domain in _domains(scope, service, port):
                owner.setdefault(domain, service)
        for service, port in found:
            domains = [one for one in _domains(scope, service, port) if owner[one] is service]
            if not domains:
                first = owner[service.host]
                message = f"{service.host!r} at port {number} is a name of {first.host!r}"
                scope.report.warning(service.at, message, "give it a host of its own")
                continue
            sidecar.add_service(scope, table, service, port, domains)
        route: dict[str, Any] = {"name": "block_all", "match": {"prefix": "/"}, "direct_response": {"status": 502}}
        if allows_any:
            action = {"cluster": PASSTHROUGH, **routes.within(scope, None)}
            route = {"name": "allow_any", "match": {"prefix": "/"}, "route": action}
        table.virtual_hosts.add(name=route["name"], domains=["*"], routes=[route])
        return routes.allow_bodies(table)


def by_server_name(scope: Scope, service: Service, port: Port) -> list[L4Rule]:
    """Where connections to a TLS service go, by the server names that VirtualServices ask for, or by its own."""
    domains = tuple(names.domains(service, scope.proxy.namespace))
    told = sidecar.tls_rules(scope, service, port, domains)
    return told or [replace(one, server_names=domains) for one in sidecar.tcp_rules(scope, service, port)]


def _domains(scope: Scope, service: Service, port: Port) -> list[str]:
    """What a client may write as host: names and virtual IPs; of a headless service also those of its endpoints."""
    found = names.domains(service, scope.proxy.namespace)
    addresses = service.virtual_ips
    if service.headless:
        found += [f"*.{name}" for name in found]
        workloads = [one.workload for one in service.backends[port.number]]
        addresses = tuple(one for w in workloads for one in (w.address, w.second_address) if one)
    return list(dict.fromkeys([*found, *(f"[{one}]" if ":" in one else one for one in addresses)]))
