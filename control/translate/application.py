"""What the workload's application serves: the ports that services lead to at the workload."""

from __future__ import annotations

from collections.abc import Iterator

from pymesh.control.store.services import Port, Service
from pymesh.control.store.store import Store
from pymesh.control.translate.proxy import Proxy


def served(store: Store, proxy: Proxy) -> Iterator[tuple[int, Service, Port]]:
    """The workload's port, and the service and its port that lead there; services in the order of their hosts."""
    for host in sorted(store.services):
        service = store.services[host]
        if service.selects(proxy.namespace, proxy.labels):
            for port in service.ports:
                for number in _targets(service, port, proxy):
                    yield number, service, port


def bound(store: Store, proxy: Proxy, number: int) -> list[int]:
    """Where a gateway listens for a port that its Gateway names. As with Istio that is a port of the Service before it,
    which leads to another one at the proxy; without such a Service it is the proxy's own.
    """
    found = {target for target, _, port in served(store, proxy) if port.number == number}
    return sorted(found) or [number]


def _targets(service: Service, port: Port, proxy: Proxy) -> list[int]:
    """Where the endpoints of a service's port say that it is; before they are there, where it will be.

    The proxy has to know before its clients do: who finds it without a chain for the port stays a connection whose
    requests nobody sees. So what the workload says itself counts before what is to be heard of it.
    """
    own = [one.port for one in service.backends[port.number] if one.workload.is_at(proxy.address)]
    if own:
        return own
    if isinstance(port.target, int):
        return [port.target]
    known = proxy.ports.get(port.target, service.awaited.get(port.number, {}).get(proxy.address))
    return [] if known is None else [known]
