"""Ours and Envoy send the same key to the same endpoint, and to the same version of a service.

Both run on one bootstrap, one after the other on the same ports, since a cookie's value follows from the two ends of a
connection. The endpoints are one origin at many addresses (`tests/tools/addresses.py`), which says where it was asked.
"""

from __future__ import annotations

import http.client
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.proxy.bootstrap import Json, bootstrap, http_listener, tcp_listener, virtual_host
from tests.proxy.running import proxy
from tests.tools.addresses import HERE, address, addresses
from tests.tools.ports import free_port

KINDS = ["envoy", "pymesh"]
HOSTS = 25
KEYS = 200
#: Nobody is there.
DOWN = 200


def members(count: int, *, without: Sequence[int] = (), **fields: Callable[[int], Any]) -> list[Json]:
    """Endpoints by number; each of `fields` says what an endpoint has besides its address."""
    numbers = [number for number in range(1, count + 1) if number not in without]
    return [{"number": number, **{name: of(number) for name, of in fields.items()}} for number in numbers]


RING: Json = {"lb_policy": "RING_HASH"}
MAGLEV: Json = {"lb_policy": "MAGLEV"}


def ring(**settings: Any) -> Json:
    """A ring with settings."""
    return {**RING, "ring_hash_lb_config": settings}


def _hash_key(number: int) -> Json:
    return {"filter_metadata": {"envoy.lb": {"hash_key": f"key-{number % 7}-{number}"}}}


def _weight(number: int) -> int:
    return 1 + number * number % 11


BY_NAME: Json = {
    "type": "STRICT_DNS",
    "common_lb_config": {"consistent_hashing_lb_config": {"use_hostname_for_hashing": True}},
}

#: Clusters: their policy, and their endpoints.
TABLES: dict[str, tuple[Json, list[Json]]] = {
    "ring": (RING, members(3)),
    "ring-one": (RING, members(1)),
    "ring-many": (RING, members(HOSTS)),
    "ring-left": (RING, members(HOSTS, without=[7])),
    "ring-weights": (RING, members(9, load_balancing_weight=_weight)),
    "ring-murmur": (ring(hash_function="MURMUR_HASH_2"), members(9)),
    "ring-small": (ring(minimum_ring_size=12), members(5)),
    "ring-bounded": (ring(minimum_ring_size=5, maximum_ring_size=20), members(9, load_balancing_weight=_weight)),
    "ring-keys": (RING, members(9, metadata=_hash_key)),
    "ring-names": ({**RING, **BY_NAME}, members(9, hostname=lambda number: f"host-{number}.test")),
    "maglev": (MAGLEV, members(3)),
    "maglev-many": (MAGLEV, members(HOSTS)),
    "maglev-left": (MAGLEV, members(HOSTS, without=[7])),
    "maglev-weights": (MAGLEV, members(9, load_balancing_weight=_weight)),
    "maglev-small": ({**MAGLEV, "maglev_lb_config": {"table_size": 101}}, members(9, load_balancing_weight=_weight)),
    "maglev-keys": (MAGLEV, members(9, metadata=_hash_key)),
    "maglev-names": ({**MAGLEV, **BY_NAME}, members(9, hostname=lambda number: f"host-{number}.test")),
    "priorities": (MAGLEV, members(4) + members(8, without=[1, 2, 3, 4], priority=lambda _: 1)),
    "unhealthy": (
        MAGLEV,
        members(9, health_status=lambda number: "UNHEALTHY" if number in (2, 5) else "HEALTHY"),
    ),
    "panic": (RING, members(5, health_status=lambda number: "UNHEALTHY" if number > 2 else "HEALTHY")),
}

COOKIE: Json = {"name": "user", "ttl": "0s"}


def by_header(name: str, **fields: Any) -> Json:
    """A policy that hashes a header."""
    return {"header": {"header_name": name, **fields}}


#: Routes to the cluster `maglev-many` by what is hashed.
POLICIES: dict[str, list[Json]] = {
    "header": [by_header("x-user")],
    "pseudo": [by_header(":path")],
    "rewrite": [by_header("x-user", regex_rewrite={"pattern": {"regex": "id=([0-9]+);.*"}, "substitution": "\\1"})],
    "cookie": [{"cookie": {"name": "user"}}],
    "query": [{"query_parameter": {"name": "user"}}],
    "source": [{"connection_properties": {"source_ip": True}}],
    "both": [by_header("x-user"), {"query_parameter": {"name": "user"}}],
    "twice": [by_header("x-user"), by_header("x-user")],
    "terminal": [{**by_header("x-user"), "terminal": True}, {"query_parameter": {"name": "user"}}],
}

#: Requests: path, headers, and the client's address.
REQUESTS: list[tuple[str, Mapping[str, str], str]] = [
    *((f"/?user=u{n}&user=x", {"x-user": f"u{n}"}, address(1)) for n in range(20)),
    *((f"/?a=b&user=u{n}", {"cookie": f"a=b; user=u{n}; user=x"}, address(2)) for n in range(20)),
    *((f"/{n}?user", {"cookie": f'user="u{n}"', "x-user": f"id={n};rest"}, address(n + 3)) for n in range(20)),
    *(
        (f"/{n}", {"x-user": f"id={n};rest", "x-forwarded-for": f"10.0.0.{n}, 10.1.0.{n}"}, address(3))
        for n in range(20)
    ),
]


@dataclass(frozen=True)
class Seen:
    """What a client sees of where it was sent."""

    status: int
    here: str | None
    cluster: str | None
    cookies: tuple[str, ...] = ()


@contextmanager
def client(port: int, source: str = "127.0.0.1", source_port: int = 0) -> Iterator[http.client.HTTPConnection]:
    """A connection that can be made again at once from the same port."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30, source_address=(source, source_port))
    connection.connect()
    connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    try:
        yield connection
    finally:
        connection.close()


def ask(connection: http.client.HTTPConnection, host: str, path: str = "/", **headers: str) -> Seen:
    """One request; underscores in names of headers stand for hyphens."""
    connection.request("GET", path, headers={"host": host, **{k.replace("_", "-"): v for k, v in headers.items()}})
    answer = connection.getresponse()
    answer.read()
    cookies = tuple(answer.headers.get_all("set-cookie") or ())
    return Seen(answer.status, answer.headers.get(HERE), answer.headers.get("x-cluster"), cookies)


def lb_cluster(name: str, port: int, policy: Json, endpoints: Sequence[Json]) -> Json:
    """A static cluster of some of the origin's addresses."""
    localities: dict[int, list[Json]] = {}
    for one in endpoints:
        fields = {key: value for key, value in one.items() if key not in ("number", "hostname", "priority")}
        where = {"socket_address": {"address": address(one["number"]), "port_value": port}}
        endpoint = {"address": where, **{key: one[key] for key in ("hostname",) if key in one}}
        localities.setdefault(one.get("priority", 0), []).append({"endpoint": endpoint, **fields})
    groups = [{"priority": priority, "lb_endpoints": group} for priority, group in localities.items()]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": groups},
        **policy,
    }


def hashed(host: str, cluster: str, policies: Sequence[Json], **action: Any) -> Json:
    """A virtual host whose requests go to a cluster, hashed."""
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster, "hash_policy": list(policies), **action}}
    return virtual_host(host, [route], [host])


def split(host: str, weights: Mapping[str, int], policies: Sequence[Json], **by: Any) -> Json:
    """A virtual host whose requests are shared by clusters."""
    clusters = {"clusters": [{"name": name, "weight": weight} for name, weight in weights.items()], **by}
    action = {"weighted_clusters": clusters, "hash_policy": list(policies)}
    return virtual_host(host, [{"match": {"prefix": "/"}, "route": action}], [host])


RETRY: Json = {
    "retry_on": "connect-failure",
    "num_retries": 3,
    "retry_host_predicate": [
        {
            "name": "previous_hosts",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
            },
        }
    ],
    "host_selection_retry_max_attempts": 3,
    "retry_back_off": {"base_interval": "0.001s", "max_interval": "0.001s"},
}


def config(origin: int, listener: int, tcp: int) -> Json:
    """One virtual host for each table, each policy, each kind of split, and retries."""
    by_user = [by_header("x-user")]
    hosts = [hashed(f"table-{name}", name, by_user) for name in TABLES]
    hosts += [hashed(f"policy-{name}", "maglev-many", policies) for name, policies in POLICIES.items()]
    full = {**COOKIE, "ttl": "3600s", "path": "/shop", "attributes": [{"name": "SameSite", "value": "Lax"}]}
    hosts += [
        hashed("cookie-session", "maglev", [{"cookie": COOKIE}]),
        hashed("cookie-full", "ring", [{"cookie": full}]),
        hashed("cookie-two", "ring", [{"cookie": COOKIE}, {"cookie": full}]),
        hashed("cookie-not-hashed", "round-robin", [{"cookie": COOKIE}]),
        split("split-hash", {"ring": 90, "maglev": 10}, by_user, use_hash_policy=True),
        split("split-three", {"ring": 5, "maglev": 0, "ring-many": 12}, by_user, use_hash_policy=True, total_weight=17),
        split("split-header", {"ring": 3, "maglev": 7}, by_user, header_name="x-number"),
        hashed("retry-ring", "ring-down", by_user, retry_policy=RETRY),
        hashed("retry-maglev", "maglev-down", by_user, retry_policy=RETRY),
    ]
    some_down = [*members(4), {"number": DOWN}, {"number": DOWN + 1}]
    clusters = [lb_cluster(name, origin, policy, endpoints) for name, (policy, endpoints) in TABLES.items()]
    clusters += [
        lb_cluster("round-robin", origin, {}, members(3)),
        lb_cluster("ring-down", origin, RING, some_down),
        lb_cluster("maglev-down", origin, MAGLEV, some_down),
    ]
    told = [{"header": {"key": "x-cluster", "value": "%UPSTREAM_CLUSTER%"}}]
    http = http_listener(listener, [])
    manager = http["filter_chains"][0]["filters"][0]["typed_config"]
    manager["route_config"] = {"name": "r", "virtual_hosts": hosts, "response_headers_to_add": told}
    source_ip = [{"source_ip": {}}]
    listeners = [http, tcp_listener(tcp, "maglev-many", hash_policy=source_ip)]
    return bootstrap(listeners, clusters, free_port())


def observe(http_port: int, tcp_port: int, source_port: int) -> dict[str, Any]:
    """Everything that has to be the same."""
    seen: dict[str, Any] = {}
    with client(http_port) as connection:
        for name in TABLES:
            seen[name] = [ask(connection, f"table-{name}", x_user=f"u{key}") for key in range(KEYS)]
        for name in ("split-hash", "split-three", "retry-ring", "retry-maglev"):
            seen[name] = [ask(connection, name, x_user=f"u{key}") for key in range(KEYS)]
        numbers = [*range(25), 2**64 - 1]
        seen["split-header"] = [ask(connection, "split-header", x_number=str(number)) for number in numbers]
    for name in POLICIES:
        # Without a hash it is chance.
        seen[f"policy {name}"] = []
        for path, headers, source in REQUESTS:
            if _is_hashed(name, path, headers):
                with client(http_port, source) as connection:
                    found = ask(
                        connection, f"policy-{name}", path, **{k.replace("-", "_"): v for k, v in headers.items()}
                    )
                seen[f"policy {name}"].append(found)
    for name in ("cookie-session", "cookie-full", "cookie-two"):
        with client(http_port, source_port=source_port) as connection:
            first = ask(connection, name)
            pair = "; ".join(cookie.partition(";")[0] for cookie in first.cookies)
            seen[name] = [first, ask(connection, name), ask(connection, name, cookie=pair)]
    with client(http_port, source_port=source_port) as connection:
        seen["no cookie where nobody hashes"] = ask(connection, "cookie-not-hashed").cookies
    seen["tcp"] = []
    for number in range(1, 60):
        with client(tcp_port, address(number)) as connection:
            seen["tcp"].append(ask(connection, "any"))
    return seen


def _is_hashed(policy: str, path: str, headers: Mapping[str, str]) -> bool:
    finds = {
        "header": "x-user" in headers,
        "cookie": "cookie" in headers,
        "query": "user" in path,
        "pseudo": True,
        "source": True,
    }
    return finds.get(policy, finds["header"] or (finds["query"] and policy != "rewrite" and policy != "twice"))


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    """What clients of either have seen."""
    http_port, tcp_port, source_port = free_port(), free_port(), free_port()
    found = {}
    with addresses(HOSTS) as origin:
        made = config(origin, http_port, tcp_port)
        for kind in KINDS:
            with proxy(kind, made):
                found[kind] = observe(http_port, tcp_port, source_port)
    return found


@pytest.mark.parametrize("name", TABLES)
def test_same_endpoint_for_a_key(name: str, seen: dict[str, dict[str, Any]]) -> None:
    assert seen["pymesh"][name] == seen["envoy"][name]
    assert all(one.status == 200 for one in seen["envoy"][name])
    reached = {one.here for one in seen["envoy"][name]}
    # Nobody is left out, but for those that are not to be used, or of a ring too small for their weight.
    assert len(reached) >= {"ring-bounded": 2, "priorities": 4}.get(name, len(TABLES[name][1]) - 2), reached


@pytest.mark.parametrize("name", POLICIES)
def test_same_hash_of_a_request(name: str, seen: dict[str, dict[str, Any]]) -> None:
    assert seen["pymesh"][f"policy {name}"] == seen["envoy"][f"policy {name}"]
    assert len({one.here for one in seen["envoy"][f"policy {name}"]}) > 5


@pytest.mark.parametrize("name", ["cookie-session", "cookie-full", "cookie-two"])
def test_same_cookie(name: str, seen: dict[str, dict[str, Any]]) -> None:
    assert seen["pymesh"][name] == seen["envoy"][name]
    first, second, with_cookie = seen["envoy"][name]
    assert first.cookies and first == second and with_cookie.cookies == () and with_cookie.here == first.here


def test_no_cookie_where_nobody_hashes(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["pymesh"]["no cookie where nobody hashes"] == seen["envoy"]["no cookie where nobody hashes"] == ()


@pytest.mark.parametrize("name", ["split-hash", "split-three", "split-header"])
def test_same_share(name: str, seen: dict[str, dict[str, Any]]) -> None:
    ours, theirs = ([(one.status, one.cluster) for one in seen[kind][name]] for kind in ("pymesh", "envoy"))
    assert ours == theirs
    assert len(set(theirs)) == 2


@pytest.mark.parametrize("name", ["retry-ring", "retry-maglev"])
def test_same_endpoint_after_retries(name: str, seen: dict[str, dict[str, Any]]) -> None:
    assert seen["pymesh"][name] == seen["envoy"][name]
    assert len({one.here for one in seen["envoy"][name]}) >= 4


def test_same_endpoint_for_an_address_over_tcp(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["pymesh"]["tcp"] == seen["envoy"]["tcp"]
    assert len({one.here for one in seen["envoy"]["tcp"]}) > 10
