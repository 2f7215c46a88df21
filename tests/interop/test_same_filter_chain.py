"""Ours and Envoy choose the same filter chain.

Tables of chains are made at random from few values, so that they overlap in all ways; connections are made from the
same values. Every chain leads to a server of its own, whose line tells which one was chosen. `PYMESH_SEEDS` runs more.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.proxy.bootstrap import Json, bootstrap, cluster, tcp_chain
from tests.proxy.running import command, proxy
from tests.tools.banner import banners
from tests.tools.hello import HTTP1, HTTP2, HTTP10, RAW, client_hello
from tests.tools.ports import free_port, free_ports

SEEDS = range(int(os.environ.get("PYMESH_SEEDS", "4")))
LISTENERS = 16
CHAINS = 16
CONNECTIONS = 30

NAMES = ["example.com", "a.example.com", "b.a.example.com", "*.example.com", "*.a.example.com", "*.com", "other.test"]
PREFIXES = ["127.0.0.0/8", "127.0.0.0/30", "127.0.0.1/32", "127.0.0.2/31", "127.0.0.4/30", "10.0.0.0/8"]
PROTOCOLS = ["h2", "http/1.1", "http/1.0", "h2c", "istio"]
INSPECTORS = {
    "tls_inspector": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "http_inspector": "type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
}


@dataclass(frozen=True)
class Connection:
    """One connection to make: from where, to which listener and address, with which first octets."""

    listener: int
    source: str
    source_port: int
    destination: str
    says: bytes = field(repr=False)
    about: str


@pytest.mark.parametrize("seed", SEEDS)
def test_same_chain(seed: int) -> None:
    rng = random.Random(seed)
    source_ports = free_ports(3)
    tables = [_table(rng, source_ports) for _ in range(LISTENERS)]
    connections = [_connection(rng, source_ports) for _ in range(LISTENERS * CONNECTIONS)]
    chosen: dict[str, list[bytes]] = {}
    with banners([b"chain %d" % number for number in range(CHAINS + 1)]) as servers:
        clusters = [cluster(str(number), [port]) for number, port in enumerate(servers)]
        for kind in ("envoy", "pymesh"):
            ports = free_ports(LISTENERS)
            listeners = [_listener(port, table) for port, table in zip(ports, tables, strict=True)]
            with proxy(kind, bootstrap(listeners, clusters, free_port())):
                chosen[kind] = [_answer(one, ports[one.listener]) for one in connections]
    differences = [
        (one, tables[one.listener], envoys, ours)
        for one, envoys, ours in zip(connections, chosen["envoy"], chosen["pymesh"], strict=True)
        if envoys != ours
    ]
    assert not differences, f"{len(differences)} of {len(connections)}, the first: {differences[0]}"
    # Tables that nothing matches would prove nothing.
    assert len(set(chosen["envoy"])) > 4
    assert sum(1 for answer in chosen["envoy"] if answer) > len(connections) // 4


REFUSED: dict[str, list[Json]] = {
    "the same twice": [{"server_names": ["a.test"]}, {"server_names": ["a.test"]}],
    "no criteria twice": [{}, {}],
    "one name in common": [{"server_names": ["a.test", "b.test"]}, {"server_names": ["c.test", "b.test"]}],
    "one port in common": [{"source_ports": [1, 2]}, {"source_ports": [2, 3]}],
    "one network, written twice": [
        {"prefix_ranges": [{"address_prefix": "10.1.2.3", "prefix_len": 8}]},
        {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
    ],
    "a name twice in one chain": [{"server_names": ["a.test", "a.test"]}],
    "a partial wildcard": [{"server_names": ["a*.test"]}],
    "a wildcard alone": [{"server_names": ["*"]}],
}
TAKEN: dict[str, list[Json]] = {
    "exact and wildcard": [{"server_names": ["a.test"]}, {"server_names": ["*.test"]}, {}],
    "networks within each other": [
        {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        {"prefix_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 9}]},
    ],
    "told apart by the last criterion": [
        {"server_names": ["a.test"], "source_ports": [1]},
        {"server_names": ["a.test"], "source_ports": [2]},
    ],
}


@pytest.mark.parametrize("matches", [*REFUSED.values(), *TAKEN.values()], ids=[*REFUSED, *TAKEN])
def test_same_tables_are_refused(matches: list[Json], tmp_path: Path) -> None:
    chains = [tcp_chain("0", filter_chain_match=match) for match in matches]
    listener = {"name": "in", "address": _anywhere(free_port()), "filter_chains": chains}
    file = tmp_path / "bootstrap.json"
    file.write_text(json.dumps(bootstrap([listener], [cluster("0", [1])], free_port())))
    taken = {}
    for kind in ("envoy", "pymesh"):
        result = subprocess.run(
            [*command(kind, file), "--mode", "validate"], capture_output=True, timeout=60, cwd=tmp_path
        )
        taken[kind] = result.returncode == 0
    assert taken["pymesh"] == taken["envoy"] == (matches in TAKEN.values())


def _table(rng: random.Random, source_ports: Sequence[int]) -> Json:
    """A listener's chains and filters; no two chains end in the same leaf of the tree."""
    matches: list[Json] = []
    leaves: set[tuple[object, ...]] = set()
    for _ in range(rng.randrange(1, CHAINS + 1)):
        match = _match(rng, source_ports)
        mine = set(_leaves(match))
        if mine.isdisjoint(leaves):
            leaves |= mine
            matches.append(match)
    inspectors = rng.choice([["tls_inspector", "http_inspector"], ["tls_inspector"], ["http_inspector"], []])
    return {"matches": matches, "inspectors": inspectors, "default": rng.random() < 0.5}


def _match(rng: random.Random, source_ports: Sequence[int]) -> Json:
    def some(values: Sequence[object]) -> list[object]:
        return rng.sample(values, rng.randrange(1, min(3, len(values)) + 1))

    def prefixes() -> list[Json]:
        ranges = (str(prefix).split("/") for prefix in some(PREFIXES))
        return [{"address_prefix": address, "prefix_len": int(length)} for address, length in ranges]

    criteria = {
        "destination_port": lambda: rng.choice(["here", "here", 1]),
        "prefix_ranges": prefixes,
        "server_names": lambda: some(NAMES),
        "transport_protocol": lambda: rng.choice(["tls", "raw_buffer"]),
        "application_protocols": lambda: some(PROTOCOLS),
        "direct_source_prefix_ranges": prefixes,
        "source_type": lambda: rng.choice(["SAME_IP_OR_LOOPBACK", "EXTERNAL"]),
        "source_prefix_ranges": prefixes,
        "source_ports": lambda: some(source_ports),
    }
    asked = rng.sample(sorted(criteria), rng.choice([0, 1, 1, 2, 2, 3, 4]))
    return {name: criteria[name]() for name in asked}


def _leaves(match: Json) -> Iterator[tuple[object, ...]]:
    lists = [
        match.get(name) if isinstance(match.get(name), list) else [match.get(name)]
        for name in (
            "destination_port",
            "prefix_ranges",
            "server_names",
            "transport_protocol",
            "application_protocols",
            "direct_source_prefix_ranges",
            "source_type",
            "source_prefix_ranges",
            "source_ports",
        )
    ]
    for leaf in itertools.product(*lists):
        yield tuple(json.dumps(value) for value in leaf)


def _listener(port: int, table: Json) -> Json:
    chains = []
    for number, match in enumerate(table["matches"]):
        here = {**match, "destination_port": port} if match.get("destination_port") == "here" else match
        chains.append(tcp_chain(str(number), name=f"chain-{number}", filter_chain_match=here))
    listener: Json = {
        "name": f"in-{port}",
        "address": _anywhere(port),
        "filter_chains": chains,
        "listener_filters": [inspector(name) for name in table["inspectors"]],
    }
    if table["default"]:
        listener["default_filter_chain"] = tcp_chain(str(CHAINS))
    return listener


def inspector(name: str) -> Json:
    """A listener filter."""
    return {"name": f"envoy.filters.listener.{name}", "typed_config": {"@type": INSPECTORS[name]}}


def _anywhere(port: int) -> Json:
    return {"socket_address": {"address": "0.0.0.0", "port_value": port}}


def _connection(rng: random.Random, source_ports: Sequence[int]) -> Connection:
    about, says = rng.choice([("http/1.1", HTTP1), ("http/1.0", HTTP10), ("h2c", HTTP2), ("raw", RAW), ("tls", b"")])
    if about == "tls":
        wild = rng.choice([None, "b.com", "x.y.com", "c.example.com", "c.a.example.com", "com", "Other.Test", *NAMES])
        name = wild.replace("*", "any") if wild else None
        alpn = rng.sample(PROTOCOLS, rng.randrange(0, 3))
        about, says = f"tls {name} {alpn}", client_hello(name, alpn)
    return Connection(
        rng.randrange(LISTENERS),
        f"127.0.0.{rng.randrange(1, 7)}",
        rng.choice([0, *source_ports]),
        f"127.0.0.{rng.randrange(1, 7)}",
        says,
        about,
    )


def _answer(one: Connection, port: int) -> bytes:
    with connected((one.destination, port), (one.source, one.source_port)) as client:
        client.sendall(one.says)
        return everything(client)


@contextmanager
def connected(destination: tuple[str, int], source: tuple[str, int] = ("", 0)) -> Iterator[socket.socket]:
    """A connection that ends with RST, so that its source port is free again at once."""
    with ExitStack() as stack:
        client = stack.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.settimeout(30)
        client.bind(source)
        client.connect(destination)
        yield client


def everything(client: socket.socket) -> bytes:
    """All that comes until the peer closes, in order or not."""
    pieces = []
    with suppress(ConnectionResetError):
        while piece := client.recv(65536):
            pieces.append(piece)
    return b"".join(pieces)
