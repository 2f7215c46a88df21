"""From counts to the picture: a pure function of a window's total and of what is known to be there.

Nodes are versions of an application, edges are requests between them, services and namespaces are sums of those. A
request is told by two proxies. The caller's is believed about how often, how well and how fast, since it also knows of
those that reached nobody; the called one's is asked about mutual TLS, of which it alone knows, and stands in for
callers that tell nothing: without a proxy, or with one that has no Istio metrics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, Final

from pymesh.control.live.inventory import Inventory, Name
from pymesh.control.live.samples import Counts, End, Link
from pymesh.control.live.window import Total

#: Kind -> id -> what people are shown of it, as JSON.
State = dict[str, dict[str, dict[str, Any]]]
Edge = tuple[End, End]

#: Callers without an identity, and requests that no route leads anywhere.
OUTSIDE: Final = End("", "outside the mesh")
NOWHERE: Final = End("", "no route")
#: Answers that a service lists.
MOST_ANSWERS: Final = 12


def picture(total: Total, known: Inventory) -> State:
    """The graph."""
    edges = _edges(total.links, known)
    security = _security(total.links, edges, known)
    incoming: dict[End, Counts] = defaultdict(Counts)
    outgoing: dict[End, Counts] = defaultdict(Counts)
    for (source, destination), counts in edges.items():
        incoming[destination].add(counts)
        outgoing[source].add(counts)
    nodes = _nodes(known, {end for edge in edges for end in edge})
    in_flight: dict[End, int] = defaultdict(int)
    for one in known.workloads:
        in_flight[one.end] += total.in_flight.get((one.namespace, one.name), 0)
    # Nobody in the mesh calls a gateway: what it does for those outside is what it sends.
    served = {end: (outgoing if node["kind"] == "gateway" else incoming)[end] for end, node in nodes.items()}
    for end, node in nodes.items():
        node |= {**signals(served[end], total.seconds), "inFlight": in_flight[end]}
    return {
        "nodes": {node["id"]: node for node in nodes.values()},
        "edges": {
            _edge_id(edge): {
                "id": _edge_id(edge),
                "source": id_of(edge[0]),
                "target": id_of(edge[1]),
                "mtls": security.get(edge, "unknown"),
                **signals(counts, total.seconds),
            }
            for edge, counts in edges.items()
        },
        "services": _services(nodes, served, in_flight, total.seconds),
        "namespaces": _namespaces(nodes, served, total.seconds),
    }


def id_of(end: End) -> str:
    """A node's id."""
    return "/".join(end) if end.version else f"{end.namespace}/{end.app}"


def _edge_id(edge: Edge) -> str:
    return f"{id_of(edge[0])}>{id_of(edge[1])}"


def signals(counts: Counts, seconds: float) -> dict[str, Any]:
    """Rate a second, share of successes, median and 99th percentile in milliseconds; None where nothing is known."""
    p50, p99 = counts.quantile(0.5), counts.quantile(0.99)
    return {
        "rate": _short(counts.requests / seconds) if seconds else None,
        "success": round(1 - counts.failed / counts.requests, 4) if counts.requests else None,
        "p50": None if p50 is None else _short(p50),
        "p99": None if p99 is None else _short(p99),
    }


def _short(value: float) -> float:
    """Three digits are what a person reads, and what need not be sent again for nothing."""
    return float(f"{value:.3g}")


def _edges(links: Mapping[Link, Counts], known: Inventory) -> dict[Edge, Counts]:
    edges: dict[Edge, Counts] = defaultdict(Counts)
    for link, counts in links.items():
        if link.reporter == "source":
            edges[link.source, _destination(link, known)].add(counts)
    callers: dict[End, set[End]] = defaultdict(set)
    for source, destination in edges:
        callers[destination].add(source)
    told = {destination: frozenset(sources) for destination, sources in callers.items()}
    secured = {(_account(one.principal), one.destination) for one in links if one.principal}
    for link, counts in links.items():
        if link.reporter != "destination":
            continue
        account = _account(link.principal)
        sources = told.get(link.destination, frozenset())
        if account is None:
            # In the clear: by those of whom it is told that they call, unless each of them is seen to use mutual TLS.
            plain = [one for one in sources if not _is_one_of(one, link.destination, secured, known)]
            if not plain:
                edges[OUTSIDE, link.destination].add(counts)
        elif not sources & known.accounts.get(account, frozenset()):
            edges[_caller(account, known), link.destination].add(counts)
    return dict(edges)


def _is_one_of(source: End, destination: End, secured: set[tuple[Name | None, End]], known: Inventory) -> bool:
    return any(
        source in known.accounts.get(account, frozenset())
        for account, called in secured
        if account is not None and called == destination
    )


def _destination(link: Link, known: Inventory) -> End:
    """Where a request went, or should have gone if there was nobody."""
    if link.destination.app:
        return link.destination
    if link.service[1]:
        namespace, name = link.service
        return End(namespace, known.app_of((namespace, name)))
    return End("", link.host) if link.host else NOWHERE


def _caller(account: Name, known: Inventory) -> End:
    """Who calls under a service account, as far as that tells."""
    ends = known.accounts.get(account, frozenset())
    apps = {end.app for end in ends}
    if len(ends) == 1:
        return next(iter(ends))
    return End(account[0], next(iter(apps)) if len(apps) == 1 else account[1])


def _account(principal: str) -> Name | None:
    """Of ``spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT``."""
    parts = principal.split("/")
    return (parts[4], parts[6]) if len(parts) == 7 and (parts[3], parts[5]) == ("ns", "sa") else None


def _security(links: Mapping[Link, Counts], edges: Iterable[Edge], known: Inventory) -> dict[Edge, str]:
    """What the called proxies say of each edge: `mutual_tls`, `none`, or `mixed`."""
    accounts: dict[End, set[Name]] = defaultdict(set)
    for account, ends in known.accounts.items():
        for end in ends:
            accounts[end].add(account)
    # What was never spoken about in this window is remembered from before it.
    seen: dict[bool, dict[End, set[tuple[Name | None, str]]]] = {True: defaultdict(set), False: defaultdict(set)}
    for link, counts in links.items():
        if link.reporter == "destination" and link.security in ("mutual_tls", "none"):
            seen[counts.requests > 0][link.destination].add((_account(link.principal), link.security))
    found = {}
    for source, destination in edges:
        of_source = accounts.get(source, set())
        for is_recent in (True, False):
            said = seen[is_recent].get(destination, set())
            kinds = {kind for account, kind in said if account in of_source}
            # If nobody of its identity was seen there, it is among those that have shown none.
            kinds = kinds or {kind for account, kind in said if account is None}
            if kinds:
                break
        if kinds:
            found[source, destination] = kinds.pop() if len(kinds) == 1 else "mixed"
    return found


def _nodes(known: Inventory, seen: Iterable[End]) -> dict[End, dict[str, Any]]:
    nodes: dict[End, dict[str, Any]] = {}
    for one in known.workloads:
        node = nodes.setdefault(one.end, _node(one.end, "gateway" if one.is_gateway else "service"))
        node["workloads"] += 1
        node["proxies"] += one.is_connected
    external = {known.app_of(name) for name, one in known.services.items() if one.is_external}
    external |= {one.host for one in known.services.values() if one.is_external}
    for end in seen:
        if end in nodes:
            continue
        kind = "service"
        if end in (OUTSIDE, NOWHERE):
            kind = "unknown"
        elif not end.namespace or end.app in external:
            kind = "external"
        nodes[end] = _node(end, kind)
    for one_service in known.services.values():
        # A service that nobody serves is there all the same.
        end = End(one_service.namespace, known.app_of((one_service.namespace, one_service.name)))
        if not one_service.apps and not any((node.namespace, node.app) == (end.namespace, end.app) for node in nodes):
            nodes[end] = _node(end, "external" if one_service.is_external else "service")
    return nodes


def _node(end: End, kind: str) -> dict[str, Any]:
    return {
        "id": id_of(end),
        "namespace": end.namespace,
        "service": end.app,
        "version": end.version,
        "kind": kind,
        "workloads": 0,
        "proxies": 0,
    }


def _services(
    nodes: Mapping[End, dict[str, Any]], served: Mapping[End, Counts], in_flight: Mapping[End, int], seconds: float
) -> dict[str, dict[str, Any]]:
    grouped: dict[Name, list[End]] = defaultdict(list)
    for end in sorted(nodes):
        grouped[end.namespace, end.app].append(end)
    services = {}
    for (namespace, app), ends in grouped.items():
        total = Counts()
        for end in ends:
            total.add(served[end])
        identity = f"{namespace}/{app}"
        answers = sorted(total.answers.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_ANSWERS]
        services[identity] = {
            "id": identity,
            "namespace": namespace,
            "service": app,
            "kind": nodes[ends[0]]["kind"],
            "versions": [end.version for end in ends if end.version],
            "workloads": sum(nodes[end]["workloads"] for end in ends),
            "proxies": sum(nodes[end]["proxies"] for end in ends),
            **signals(total, seconds),
            "errors": _short(total.failed / seconds) if seconds else None,
            "inFlight": sum(in_flight[end] for end in ends),
            "answers": {answer: _short(count / seconds) for answer, count in answers} if seconds else {},
        }
    return services


def _namespaces(
    nodes: Mapping[End, dict[str, Any]], served: Mapping[End, Counts], seconds: float
) -> dict[str, dict[str, Any]]:
    grouped: dict[str, list[End]] = defaultdict(list)
    for end in nodes:
        if end.namespace:
            grouped[end.namespace].append(end)
    namespaces = {}
    for name, ends in sorted(grouped.items()):
        total = Counts()
        for end in ends:
            total.add(served[end])
        services = len({end.app for end in ends})
        namespaces[name] = {"id": name, "services": services, **signals(total, seconds)}
    return namespaces
