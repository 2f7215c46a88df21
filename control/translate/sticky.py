"""Routes that keep a client where it is: at one endpoint, and in one share of a weighted route.

Policies are put on routes as Istio does it: for each destination what its DestinationRule hashes, but each policy once.
Where all shares of a weighted route hash the same, or the route itself asks for it (``sessionPersistence``), the hash
chooses the share too. The shares of such a route are written as parts of one million, so that a change of weights moves
the clients between the old and the new bounds and nobody else (``docs/decisions/008-sticky-shares.md``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from pymesh.control.resources.consistent_hash import ConsistentHash
from pymesh.control.resources.gateway_api import SessionPersistence
from pymesh.control.translate import clusters
from pymesh.control.translate.scope import Scope
from pymesh.control.translate.wire import seconds

WHOLE = 1_000_000


def by_destination(scope: Scope, action: Any, targets: Sequence[str]) -> None:
    """The policies of the clusters that a route action sends to."""
    found = [_hash_of(scope, target) for target in targets]
    policies = [_policy(one) for one in found if one is not None]
    for at, policy in enumerate(policies):
        if policy not in policies[:at]:
            action.hash_policy.add(**policy)
    if len(policies) == len(targets) and all(policy == policies[0] for policy in policies):
        _share_by_hash(action)


def by_session(action: Any, session: SessionPersistence) -> None:
    """What a rule says itself, in place of what the services say."""
    ttl = session.absolute_timeout if session.cookie_config.lifetime_type == "Permanent" else None
    cookie = {"name": session.session_name, "ttl": seconds(ttl or timedelta(0)), "path": "/"}
    del action.hash_policy[:]
    action.hash_policy.add(cookie=cookie)
    _share_by_hash(action)


def hash_address(scope: Scope, targets: Iterable[str]) -> bool:
    """Whether a cluster that connections go to hashes the client's address: all that is known of a connection."""
    found = (_hash_of(scope, target) for target in targets)
    return any(one is not None and one.use_source_ip for one in found)


def _hash_of(scope: Scope, target: str) -> ConsistentHash | None:
    _, port, subset, host = target.split("|")
    service = scope.store.services.get(host)
    found = service.port(int(port)) if service is not None else None
    if service is None or found is None:
        return None  # nobody is there
    return clusters.balancer(scope.store, scope.proxy, service, found, subset).consistent_hash


def _policy(hashed: ConsistentHash) -> dict[str, Any]:
    if hashed.http_header_name is not None:
        return {"header": {"header_name": hashed.http_header_name}}
    if hashed.http_query_parameter_name is not None:
        return {"query_parameter": {"name": hashed.http_query_parameter_name}}
    cookie = hashed.http_cookie
    if cookie is None:
        return {"connection_properties": {"source_ip": True}}
    told: dict[str, Any] = {"name": cookie.name, "path": cookie.path}
    if cookie.ttl is not None:
        told["ttl"] = seconds(cookie.ttl)
    told["attributes"] = [{"name": one.name, "value": one.value} for one in cookie.attributes]
    return {"cookie": told}


def _share_by_hash(action: Any) -> None:
    entries = action.weighted_clusters.clusters if action.HasField("weighted_clusters") else ()
    if len(entries) < 2:
        return
    action.weighted_clusters.use_hash_policy.value = True
    for entry, part in zip(entries, parts([entry.weight.value for entry in entries]), strict=True):
        entry.weight.value = part


def parts(weights: Sequence[int]) -> list[int]:
    """Weights as parts of one million: each bound between two of them is rounded by itself, so none moves another."""
    whole = sum(weights)
    bounds = [round(WHOLE * sum(weights[:at]) / whole) for at in range(len(weights) + 1)]
    return [after - before for before, after in pairwise(bounds)]
