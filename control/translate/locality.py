"""The endpoints of a service in the order in which a client of some locality takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pymesh.control.resources.locality import LocalityLbSetting, TrafficDistribution
from pymesh.control.store.services import Backend, Service
from pymesh.control.store.workloads import NODE_LABEL, SOMEWHERE, Locality
from pymesh.control.translate.proxy import Proxy

_REGION, _SUB_ZONE = "topology.kubernetes.io/region", "topology.istio.io/subzone"
_ZONE = ("topology.istio.io/network", _REGION, "topology.kubernetes.io/zone")
#: What a client and the endpoints that it prefers have in common, from the first label on.
_DISTRIBUTIONS: Mapping[TrafficDistribution, tuple[str, ...]] = {
    "PreferClose": _ZONE,
    "PreferSameZone": _ZONE,
    "PreferSameNode": (*_ZONE, _SUB_ZONE, NODE_LABEL),
}


@dataclass(frozen=True)
class Group:
    """Endpoints that share one locality, priority and weight."""

    locality: Locality
    priority: int
    weight: int
    backends: list[Backend]


def setting_for(written: LocalityLbSetting | None, service: Service, notices: bool) -> tuple[LocalityLbSetting, bool]:
    """A cluster's setting, and whether it fails over. As with Istio a DestinationRule's comes first, then what the
    service says, which needs nobody to notice failures, then the mesh's, which is to fail over where somebody does.
    """
    if written is None and service.distribution is not None:
        return LocalityLbSetting(failover_priority=_DISTRIBUTIONS[service.distribution]), True
    return written or LocalityLbSetting(), notices


def applies(setting: LocalityLbSetting, fails_over: bool) -> bool:
    """Whether a setting changes anything."""
    return setting.enabled and bool(setting.distribute or fails_over)


def groups(found: Sequence[Backend], proxy: Proxy, setting: LocalityLbSetting, fails_over: bool) -> list[Group]:
    """All endpoints, by locality and in Istio's order of preference."""
    if not applies(setting, fails_over):
        return _group(found, [0] * len(found))
    if setting.distribute:
        return _distributed(_group(found, [0] * len(found)), proxy.locality, setting)
    # As with Istio, places count beside labels only where it is said which region stands in for which.
    by_place = proxy.locality != SOMEWHERE and bool(setting.failover or not setting.failover_priority)
    ranks = [
        (
            _missing(one, proxy, setting.failover_priority),
            _distance(one.workload.locality, proxy.locality, setting) if by_place else 0,
        )
        for one in found
    ]
    return _group(found, _dense(ranks))


def _group(found: Sequence[Backend], priorities: Sequence[int]) -> list[Group]:
    by_place: dict[tuple[int, Locality], list[Backend]] = {}
    for one, priority in zip(found, priorities, strict=True):
        by_place.setdefault((priority, one.workload.locality), []).append(one)
    return [
        Group(locality, priority, sum(one.workload.weight or 1 for one in members), members)
        for (priority, locality), members in sorted(by_place.items(), key=lambda item: item[0])
    ]


def _dense(ranks: list[tuple[int, int]]) -> list[int]:
    """Priorities without gaps."""
    order = sorted(set(ranks))
    return [order.index(rank) for rank in ranks]


def _distance(where: Locality, client: Locality, setting: LocalityLbSetting) -> int:
    if where.region != client.region:
        chosen = [one.to for one in setting.failover if one.from_ == client.region]
        return 3 if not chosen or where.region in chosen else 4
    if where.zone != client.zone:
        return 2
    return 1 if where.sub_zone != client.sub_zone else 0


def _missing(one: Backend, proxy: Proxy, labels: Sequence[str]) -> int:
    """How many labels are left from the first one on that the endpoint and the client do not share."""
    for index, text in enumerate(labels):
        name, given, value = text.partition("=")
        wanted = value if given else _label(proxy.labels, proxy.locality, name)
        has = _label(one.workload.labels, one.workload.locality, name)
        if not has and name in (_REGION, _SUB_ZONE) and one.workload.locality.tells_zone_alone:
            continue
        if has != wanted:
            return len(labels) - index
    return 0


def _label(labels: Mapping[str, str], where: Locality, name: str) -> str:
    """A label; those of Kubernetes' and Istio's topology are told by the locality."""
    topology = {
        _REGION: where.region,
        "topology.kubernetes.io/zone": where.zone,
        _SUB_ZONE: where.sub_zone,
    }
    return labels.get(name) or topology.get(name, "")


def _distributed(all_groups: list[Group], client: Locality, setting: LocalityLbSetting) -> list[Group]:
    rule = next((one for one in setting.distribute if _matches(client, one.from_)), None)
    if rule is None:
        return all_groups
    made: list[Group] = []
    left = list(all_groups)
    for pattern, percent in rule.to.items():
        meant = [one for one in left if _matches(one.locality, pattern)]
        left = [one for one in left if one not in meant]
        total = sum(one.weight for one in meant)
        made += [
            Group(one.locality, 0, math.ceil(one.weight * percent / total), one.backends) for one in meant if percent
        ]
    return sorted(made, key=lambda one: one.locality)


def _matches(where: Locality, pattern: str) -> bool:
    """``region/zone/subzone``, as much of it as is written; ``*`` is anything from there on."""
    for part, actual in zip(pattern.split("/"), (where.region, where.zone, where.sub_zone), strict=False):
        if part == "*":
            return True
        if part != actual:
            return False
    return True
