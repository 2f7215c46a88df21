"""Ours and Envoy spread the same load over the same endpoints.

Clusters of random priorities, localities, weights and health, in one bootstrap that both run. For each, the share of
every endpoint agrees within what chance allows, and so do the endpoints that take no part and the decision to panic.
`PYMESH_SEED` asks about other clusters, `PYMESH_CASES` about more.
"""

from __future__ import annotations

import http.client
import math
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, http_listener, socket_address, to_cluster, virtual_host
from tests.proxy.running import Proxy, proxy
from tests.tools.ports import free_port
from tests.tools.shares import numbered_origins, shares

SEED = int(os.environ.get("PYMESH_SEED", "1"))
CASES = int(os.environ.get("PYMESH_CASES", "20"))
REQUESTS = 500
ORIGINS = 12
KINDS = ("pymesh", "envoy")

#: Standard deviations that two fair counts may be apart: one comparison in two million is.
APART = 5.0
#: An endpoint that one of them never asks may be asked so often by the other, out of `REQUESTS`, by chance.
RARELY = 10
MEMBERSHIP = ("membership_total", "membership_healthy", "membership_degraded", "membership_excluded")
HEALTH = ("UNKNOWN", "DEGRADED", "UNHEALTHY", "UNHEALTHY", "DRAINING", "TIMEOUT")


def random_cluster(number: int, ports: list[int]) -> Json:
    """A cluster that nobody thought of."""
    rng = random.Random(f"{SEED}-{number}")
    unused = rng.sample(ports, len(ports))
    # How ill the cluster is: of some nobody is, of others nearly everybody.
    well = rng.choice([1.0, 0.6, 0.3, 0.0])
    # Equal weights take another path than those that differ.
    weights = rng.choice([[1], [1, 2, 5]])
    localities = []
    for priority in rng.sample(range(4), rng.choice([1, 1, 2, 3])):
        for zone in range(rng.choice([1, 1, 2, 3])):
            members = [unused.pop() for _ in range(min(rng.randint(0, 4), len(unused)))]
            localities.append(
                {
                    "priority": priority,
                    "locality": {"region": "r", "zone": f"z{zone}"},
                    "lb_endpoints": [
                        {
                            "endpoint": {"address": socket_address(port)},
                            "health_status": "HEALTHY" if rng.random() < well else rng.choice(HEALTH),
                            "load_balancing_weight": rng.choice(weights),
                        }
                        for port in members
                    ],
                    **({"load_balancing_weight": rng.randint(1, 5)} if rng.random() < 0.8 else {}),
                }
            )
    policy: Json = {"overprovisioning_factor": rng.choice([100, 140, 200])} if rng.random() < 0.5 else {}
    policy["weighted_priority_health"] = rng.random() < 0.3
    common: Json = {"locality_weighted_lb_config": {}} if rng.random() < 0.5 else {}
    if rng.random() < 0.5:
        common["healthy_panic_threshold"] = {"value": rng.choice([0, 1, 20.9, 66.5, 100])}
    name = f"c{number}"
    fields: Json = {"lb_policy": rng.choice(["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"]), "common_lb_config": common}
    if fields["lb_policy"] == "LEAST_REQUEST" and rng.random() < 0.5:
        bias = {"default_value": rng.choice([0, 0.5, 2]), "runtime_key": "any"}
        fields["least_request_lb_config"] = {"active_request_bias": bias, "choice_count": 3}
    assignment = {"cluster_name": name, "endpoints": localities, "policy": policy}
    return cluster(name, [], **fields) | {"load_assignment": assignment}


def dropping(name: str, port: int, percent: int) -> Json:
    """A cluster that is to be spared so many of its requests."""
    made = cluster(name, [port])
    drop = {"category": "any", "drop_percentage": {"numerator": percent}}
    made["load_assignment"]["policy"] = {"drop_overloads": [drop]}
    return made


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, Json]]:
    """Every cluster of the bootstrap, by name."""
    with numbered_origins(ORIGINS) as ports:
        made = [random_cluster(number, ports) for number in range(CASES)]
        made += [dropping("some", ports[0], 30), dropping("all", ports[0], 100)]
        yield {one["name"]: one for one in made}


@pytest.fixture(scope="module")
def pair(clusters: dict[str, Json]) -> Iterator[list[Proxy]]:
    """Ours and Envoy on one bootstrap; a cluster's name is its authority."""
    hosts = [virtual_host(name, [to_cluster(name)], [name]) for name in clusters]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                proxy(kind, bootstrap([http_listener(free_port(), hosts)], list(clusters.values()), free_port()))
            )
            for kind in KINDS
        ]


def test_random_clusters_are_shared_alike(pair: list[Proxy], clusters: dict[str, Json]) -> None:
    """See the module."""
    differences = []
    counted = {name: [shares(one.port, name, REQUESTS) for one in pair] for name in clusters}
    stats = [one.stats() for one in pair]
    for name, seen in counted.items():
        (ours, our_panic), (theirs, their_panic) = (_facts(name, one) for one in stats)
        wrong = _unequal(seen)
        if ours != theirs:
            wrong.append(f"{ours} and {theirs}")
        if not _is_fair(our_panic, their_panic, REQUESTS):
            wrong.append(f"panic {our_panic} and {their_panic}")
        if wrong:
            differences.append(f"{name}: {'; '.join(wrong)}\n{clusters[name]}")
    assert not differences, "\n".join(differences)


def test_every_way_is_taken(clusters: dict[str, Json], pair: list[Proxy]) -> None:
    """The random clusters would prove nothing if none of them panicked, spilled, or shared by locality."""
    stats = pair[1].stats()
    panicked = [name for name in clusters if stats[f"cluster.{name}.lb_healthy_panic"]]
    degraded = [name for name in clusters if stats[f"cluster.{name}.membership_degraded"]]
    excluded = [name for name in clusters if stats[f"cluster.{name}.membership_excluded"]]
    assert min(map(len, (panicked, degraded, excluded))) >= CASES // 10, (panicked, degraded, excluded)


@pytest.mark.parametrize("name", ["some", "all"])
def test_dropped_requests_are_answered_alike(pair: list[Proxy], name: str) -> None:
    """The share that is dropped is in the table above; here is what is said to the client."""
    assert _dropped(pair[0], name) == _dropped(pair[1], name)


def _dropped(asked: Proxy, host: str) -> tuple[str, bytes]:
    for _ in range(200):
        connection = http.client.HTTPConnection("127.0.0.1", asked.port, timeout=30)
        connection.request("GET", "/", headers={"host": host})
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        if answer.status == 503:
            headers = sorted((name.lower(), value) for name, value in answer.getheaders())
            return str([(n, v) for n, v in headers if n not in ("date", "server")]), body
    raise AssertionError(f"{asked.kind} dropped none of 200")


def _facts(name: str, stats: dict[str, int]) -> tuple[dict[str, int], int]:
    """How many endpoints there are of each kind, and how many choices were made in panic."""
    of = {stat: stats[f"cluster.{name}.{stat}"] for stat in (*MEMBERSHIP, "lb_healthy_panic")}
    return of, of.pop("lb_healthy_panic")


def _unequal(seen: list[Counter[str]]) -> list[str]:
    ours, theirs = seen
    return [
        f"{who} {ours[who]} and {theirs[who]}"
        for who in sorted(ours.keys() | theirs.keys())
        if not _is_fair(ours[who], theirs[who], REQUESTS)
    ]


def _is_fair(one: int, other: int, of: int) -> bool:
    """Two counts of the same chance."""
    if 0 in (one, other):
        return max(one, other) <= RARELY
    share = (one + other) / (2 * of)
    deviation = math.sqrt(2 * of * share * (1 - share)) if share < 1 else 0.0
    return abs(one - other) <= max(APART * deviation, 2.0)
