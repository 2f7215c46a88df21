"""Istio's VirtualService rules for connections: TCP, and TLS that is passed on by its server name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pymesh.control.resources.traffic import TcpRoute, TlsRoute, VirtualService
from pymesh.control.translate.routes import Place, applies
from pymesh.control.translate.scope import Scope

Shares = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class L4Rule:
    """Where connections go: clusters by weight; for some server names and destinations, or for all (empty)."""

    shares: Shares
    server_names: tuple[str, ...] = ()
    subnets: tuple[str, ...] = ()


def tcp_rules(scope: Scope, virtual: VirtualService, place: Place) -> Iterator[L4Rule]:
    """The TCP rules of a VirtualService that are for this place."""
    for rule in virtual.spec.tcp:
        here = [match for match in rule.match if applies(scope, match, virtual.namespace, place)]
        if rule.match and not here:
            continue
        shares = _shares(scope, rule, virtual, place)
        everywhere = not rule.match or any(not match.destination_subnets for match in here)
        yield L4Rule(
            shares, (), () if everywhere else tuple(one for match in here for one in match.destination_subnets)
        )


def tls_rules(scope: Scope, virtual: VirtualService, place: Place) -> Iterator[L4Rule]:
    """The TLS rules of a VirtualService that are for this place, one for each match."""
    for rule in virtual.spec.tls:
        here = [match for match in rule.match if applies(scope, match, virtual.namespace, place)]
        shares = _shares(scope, rule, virtual, place) if here else []
        for match in here:
            yield L4Rule(shares, match.sni_hosts, match.destination_subnets)


def _shares(scope: Scope, rule: TcpRoute | TlsRoute, virtual: VirtualService, place: Place) -> Shares:
    shares = []
    for share in rule.route:
        cluster = scope.destination(share.destination, virtual.namespace, place.default_port, tcp=True)
        weight = 1 if len(rule.route) == 1 else share.weight or 0
        if weight:
            shares.append((cluster, weight))
    return shares
