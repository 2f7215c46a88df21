"""The names that Istio gives to what it generates: tools and people know them."""

from __future__ import annotations

from pymesh.control.store.services import Port, Service


def outbound(service: Service, port: Port, subset: str = "", *, tcp: bool = False) -> str:
    """The cluster for a port of a service, or for one subset of it; with ``tcp`` for connections that are no HTTP.

    Where what is spoken is looked for there are both: the other end is told which it is when TLS begins.
    """
    direction = "outbound_tcp" if tcp and port.is_sniffed else "outbound"
    return f"{direction}|{port.number}|{subset}|{service.host}"


def inbound(port: int) -> str:
    """The cluster for the proxy's own application behind an inbound port."""
    return f"inbound|{port}||"


def key_server(port: int, host: str) -> str:
    """The cluster of a server of keys that is no service's own."""
    return f"jwks|{port}||{host}"


def listener(address: str, port: int) -> str:
    """A listener."""
    return f"{address}_{port}"


def domains(service: Service, namespace: str) -> list[str]:
    """The names by which a proxy in ``namespace`` may call a service."""
    aliases = service.aliases if service.namespace == namespace else service.aliases[1:]
    return [service.host, *aliases]


def spiffe_id(trust_domain: str, namespace: str, service_account: str) -> str:
    """The identity of a workload."""
    return f"spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}"
