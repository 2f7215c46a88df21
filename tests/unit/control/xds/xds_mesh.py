"""Small resources and transcript helpers for the tests of the discovery service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymesh.control.xds import pb
from pymesh.control.xds.cache import ResourceCache, Snapshot
from pymesh.control.xds.session import Response, Session

CACHE = ResourceCache()


def cluster(name: str, *, timeout: int = 1, eds: bool = False) -> Any:
    made = pb.Cluster(name=name, type=pb.Cluster.EDS if eds else pb.Cluster.STATIC)
    made.connect_timeout.FromSeconds(timeout)
    return made


def endpoints(name: str, *ports: int) -> Any:
    made = pb.ClusterLoadAssignment(cluster_name=name)
    locality = made.endpoints.add()
    for port in ports:
        address = locality.lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
    return made


def listener(name: str, prefix: str = "") -> Any:
    return pb.Listener(name=name, stat_prefix=prefix)


def routes(name: str, domain: str = "*") -> Any:
    made = pb.RouteConfiguration(name=name)
    made.virtual_hosts.add(name="all", domains=[domain])
    return made


def snapshot(*messages: Any, previous: Snapshot | None = None) -> Snapshot:
    """A snapshot of ``messages``, keyed as proxies ask for them."""
    tables: dict[str, dict[str, Any]] = {url: {} for url in (pb.CLUSTER, pb.ENDPOINTS, pb.LISTENER, pb.ROUTES)}
    for made in messages:
        name = made.cluster_name if hasattr(made, "cluster_name") else made.name
        tables[pb.type_url(made)][name] = made
    return CACHE.snapshot(tables, previous)


def sotw(type_url: str, *names: str, nonce: str = "", version: str = "", error: str | None = None) -> Any:
    request = pb.DiscoveryRequest(type_url=type_url, resource_names=names, response_nonce=nonce, version_info=version)
    if error is not None:
        request.error_detail.message = error
    return request


def delta(
    type_url: str,
    *subscribe: str,
    unsubscribe: tuple[str, ...] = (),
    nonce: str = "",
    have: Mapping[str, str] | None = None,
    error: str | None = None,
) -> Any:
    request = pb.DeltaDiscoveryRequest(
        type_url=type_url,
        resource_names_subscribe=subscribe,
        resource_names_unsubscribe=unsubscribe,
        response_nonce=nonce,
        initial_resource_versions=have,
    )
    if error is not None:
        request.error_detail.message = error
    return request


def transcript(session: Session) -> list[tuple[str, list[str], list[str]]]:
    """Pull everything: (short type, names sent, names removed) per response, in order."""
    return [said(response) for response in pulled(session)]


def pulled(session: Session) -> list[Response]:
    responses: list[Response] = []
    while (response := session.pull()) is not None:
        responses.append(response)
        assert len(responses) < 50, "the session never settles"
    return responses


def said(response: Response) -> tuple[str, list[str], list[str]]:
    """Decode a response as a client would."""
    short = response.type_url.rpartition(".")[2]
    if b"DeltaDiscovery" in response.body:
        raise AssertionError("a response never names its own type")
    decoded = pb.DeltaDiscoveryResponse.FromString(response.body)
    if decoded.resources and not decoded.resources[0].name:
        decoded = pb.DiscoveryResponse.FromString(response.body)
        named = [pb.unpack(r) for r in decoded.resources]
        return short, [getattr(m, "cluster_name", "") or m.name for m in named], []
    return short, [r.name for r in decoded.resources], list(decoded.removed_resources)
