"""Virtual addresses for services that have none, and the names of all: what an API server and a DNS give a cluster.

An address is chosen by the service's host, and so stays the same from one reading of the files to the next; where two
hosts want the same, the second in the order of names takes the next one that is free.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pymesh.control.store.services import Service

#: Istio's, of addresses that nobody has.
VIRTUAL_NETWORK = ipaddress.IPv4Network("240.240.0.0/16")


def allocate(services: Mapping[str, Service], network: ipaddress.IPv4Network) -> dict[str, Service]:
    """The services, those that lack an address with one. As with Istio, wildcards and those that are no one's do."""
    taken = {one for service in services.values() for one in service.addresses}
    found = dict(services)
    for host in sorted(services):
        service = services[host]
        if service.addresses or service.headless or service.is_wildcard or service.resolution == "NONE":
            continue
        # Neither the network's own address nor its broadcast.
        size = network.num_addresses - 2
        first = int.from_bytes(hashlib.sha256(host.encode()).digest()[:8]) % size
        for step in range(size):
            address = str(network[1 + (first + step) % size])
            if address not in taken:
                taken.add(address)
                found[host] = replace(service, addresses=(address,))
                break
    return found


def names(services: Mapping[str, Service]) -> dict[str, dict[str, Any]]:
    """Host -> its addresses, in the words of Istio's name table. Services without any are left out."""
    table = {}
    for host, service in sorted(services.items()):
        found = service.virtual_ips
        if service.headless:
            workloads = [one.workload for backends in service.backends.values() for one in backends]
            found = tuple(dict.fromkeys(one for w in workloads for one in (w.address, w.second_address) if one))
        if found and not service.is_wildcard:
            table[host] = {
                "ips": list(found),
                "registry": "Kubernetes" if service.aliases else "External",
                "shortname": service.name,
                "namespace": service.namespace,
            }
    return table
