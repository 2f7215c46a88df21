"""Ours and Envoy as TCP proxies: half-closed connections, TLS on either side, deadlines, logs and counters.

Every test runs both on the same bootstrap; what is compared is what both ends saw, the line of the access log, and the
counters that both have.
"""

from __future__ import annotations

import random
import re
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.interop.test_same_filter_chain import connected, everything, inspector
from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    downstream_tls,
    tcp_chain,
    tcp_listener,
    upstream_tls,
)
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.banner import banners
from tests.tools.certificates import Authority, KeyPair
from tests.tools.ports import free_port
from tests.tools.tls_ends import PlainEnd, TlsEnd

KINDS = ["envoy", "pymesh"]
LINE = (
    "%RESPONSE_FLAGS% %UPSTREAM_CLUSTER% %UPSTREAM_HOST% %BYTES_RECEIVED% %BYTES_SENT% %REQUESTED_SERVER_NAME% "
    "%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %UPSTREAM_REQUEST_ATTEMPT_COUNT% "
    "%ACCESS_LOG_TYPE% %FILTER_CHAIN_NAME% %UPSTREAM_PEER_DNS_SAN%\n"
)
REQUEST, ANSWER = b"question" * 1000, random.Random(5).randbytes(3_000_000)

End = PlainEnd | TlsEnd


@pytest.fixture(scope="module")
def pair_of_keys(authority: Authority) -> KeyPair:
    return authority.issue("tcp", dns=["localhost", "a.test", "b.test"])


@pytest.mark.parametrize("first", ["client", "server"])
@pytest.mark.parametrize("up", ["clear", "tls"])
@pytest.mark.parametrize("down", ["clear", "tls"])
def test_either_half_closes_first(
    down: str, up: str, first: str, authority: Authority, pair_of_keys: KeyPair, tmp_path: Path
) -> None:
    seen = {}
    for kind in KINDS:
        log = tmp_path / kind
        with _server() as (port, server):
            down_tls = downstream_tls(pair_of_keys, alpn=()) if down == "tls" else None
            up_tls = upstream_tls(str(authority.root), "localhost") if up == "tls" else None
            logs = {"access_log": [access_log(log, LINE)]}
            filters = [inspector("tls_inspector")] if down == "tls" else []
            listener = tcp_listener(free_port(), "server", tls=down_tls, filters=filters, **logs)
            config = bootstrap([listener], [cluster("server", [port], tls=up_tls)], free_port())
            with proxy(kind, config) as started:
                before = _settled(started, server, is_counted=down == "clear")
                server_tls = _server_context(pair_of_keys) if up == "tls" else None
                client_tls = ssl.create_default_context(cafile=str(authority.root)) if down == "tls" else None
                talked = _talk(started.port, server, client_tls, server_tls, first)
                line = _line(log, f" 127.0.0.1:{port} {len(REQUEST)} ")
                seen[kind] = (*talked, _without_host(line), _changes(started, before))
    assert seen["pymesh"] == seen["envoy"]
    assert seen["pymesh"][:2] == (REQUEST, ANSWER)


def _talk(
    port: int,
    server: socket.socket,
    client_tls: ssl.SSLContext | None,
    server_tls: ssl.SSLContext | None,
    first: str,
) -> tuple[object, ...]:
    """A question and an answer; `first` closes its half behind its own, the other then sends what is left."""
    got: dict[str, bytes] = {}
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            with _accepted(server) as raw:
                end: End = TlsEnd(raw, server_tls, server=True) if server_tls else PlainEnd(raw)
                got["question"] = _turn(end, ANSWER, is_first=first == "server")
        except BaseException as error:
            failed.append(error)

    serving = threading.Thread(target=serve)
    serving.start()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        end: End = TlsEnd(raw, client_tls, name="localhost") if client_tls else PlainEnd(raw)
        got["answer"] = _turn(end, REQUEST, is_first=first == "client")
        serving.join(60)
    assert not failed, failed
    return got["question"], got["answer"]


def _turn(end: End, says: bytes, is_first: bool) -> bytes:
    if is_first:
        end.sendall(says)
        end.close_half()
        return end.everything()
    # Only the end of the other's half lets this one speak.
    got = end.everything()
    end.sendall(says)
    end.close_half()
    return got


def test_sni_leads_to_whoever_has_the_certificate(authority: Authority, tmp_path: Path) -> None:
    names = {"a.test": authority.issue("sni-a", dns=["a.test"]), "b.test": authority.issue("sni-b", dns=["b.test"])}
    context = ssl.create_default_context(cafile=str(authority.root))
    seen: dict[str, list[object]] = {}
    for kind in KINDS:
        log = tmp_path / kind
        with _server() as (port_a, server_a), _server() as (port_b, server_b):
            chains = [
                tcp_chain(
                    name, proxy={"access_log": [access_log(log, LINE)]}, filter_chain_match={"server_names": [name]}
                )
                for name in names
            ]
            listener = {
                **tcp_listener(free_port(), "a.test"),
                "filter_chains": chains,
                "listener_filters": [inspector("tls_inspector")],
            }
            clusters = [cluster("a.test", [port_a]), cluster("b.test", [port_b])]
            with proxy(kind, bootstrap([listener], clusters, free_port())) as started:
                seen[kind] = []
                for name, server in (("a.test", server_a), ("b.test", server_b)):
                    seen[kind].append(_echoed(name, started.port, server, context, _server_context(names[name])))
                with socket.create_connection(("127.0.0.1", started.port), timeout=30) as raw:
                    with pytest.raises((ssl.SSLError, ConnectionError)):
                        TlsEnd(raw, context, name="c.test")
                seen[kind].append([_without_sizes(line) for line in _lines(log, 2)])
    assert seen["pymesh"] == seen["envoy"]


def _echoed(
    name: str, port: int, server: socket.socket, client_tls: ssl.SSLContext, server_tls: ssl.SSLContext
) -> bytes:
    def serve() -> None:
        with _accepted(server) as raw:
            end = TlsEnd(raw, server_tls, server=True)
            end.sendall(end.everything())
            end.close_half()

    serving = threading.Thread(target=serve)
    serving.start()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as raw:
        end = TlsEnd(raw, client_tls, name=name)
        end.sendall(b"hello")
        end.close_half()
        answer = end.everything()
        serving.join(60)
    return answer


DEADLINES: dict[str, Json] = {
    "idle": {"idle_timeout": "0.5s"},
    "too old": {"max_downstream_connection_duration": "0.5s"},
    "idle before it is too old": {"idle_timeout": "0.5s", "max_downstream_connection_duration": "60s"},
}


@pytest.mark.parametrize("limits", DEADLINES.values(), ids=DEADLINES)
def test_deadlines(limits: Json, tmp_path: Path) -> None:
    seen = {}
    for kind in KINDS:
        log = tmp_path / kind
        with _server() as (port, server):
            listener = tcp_listener(free_port(), "server", access_log=[access_log(log, LINE)], **limits)
            with proxy(kind, bootstrap([listener], [cluster("server", [port])], free_port())) as started:
                before = _settled(started, server)
                with socket.create_connection(("127.0.0.1", started.port), timeout=30) as client:
                    client.sendall(b"x")
                    with _accepted(server) as peer:
                        got = (peer.recv(1), everything(peer), everything(client))
                line = _line(log, f" 127.0.0.1:{port} 1 ")
                seen[kind] = (got, _without_host(line), _changes(started, before))
    assert seen["pymesh"] == seen["envoy"]


ATTEMPTS: dict[str, tuple[list[str], Json]] = {
    "one that fails": (["nobody"], {}),
    "three that fail": (["nobody"], {"max_connect_attempts": 3}),
    "the second does": (["nobody", "live"], {"max_connect_attempts": 2}),
    "nobody at all": ([], {"max_connect_attempts": 3}),
}


@pytest.mark.parametrize(("endpoints", "fields"), ATTEMPTS.values(), ids=ATTEMPTS)
def test_attempts_to_connect(endpoints: list[str], fields: Json, tmp_path: Path) -> None:
    seen = {}
    with banners([b"here"]) as (live,):
        ports = {"live": live, "nobody": free_port()}
        for kind in KINDS:
            log = tmp_path / kind
            listener = tcp_listener(free_port(), "some", access_log=[access_log(log, LINE)], **fields)
            clusters = [cluster("some", [ports[name] for name in endpoints])]
            with proxy(kind, bootstrap([listener], clusters, free_port())) as started:
                before = len(_lines(log, 1))
                with connected(("127.0.0.1", started.port)) as client:
                    answer = everything(client)
                line = _lines(log, before + 1)[before].split()
                seen[kind] = (answer, set(line[0].split(",")), line[1:])
    assert seen["pymesh"] == seen["envoy"]


def test_shares_by_weight() -> None:
    weights = [("light", 10), ("heavy", 30), ("other", 60)]
    with banners([name.encode() for name, _ in weights]) as ports:
        clusters = [cluster(name, [port]) for (name, _), port in zip(weights, ports, strict=True)]
        shares = {"clusters": [{"name": name, "weight": weight} for name, weight in weights]}
        listener = tcp_listener(free_port(), "", weighted_clusters=shares)
        with proxy("pymesh", bootstrap([listener], clusters, free_port())) as started:
            counted: Counter[str] = Counter()
            for _ in range(400):
                with connected(("127.0.0.1", started.port)) as client:
                    counted[everything(client).decode()] += 1
    # Five standard deviations around the expectation.
    for name, weight in weights:
        share = weight / 100
        assert abs(counted[name] - 400 * share) < 5 * (400 * share * (1 - share)) ** 0.5, counted


@contextmanager
def _server() -> Iterator[tuple[int, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(30)
        yield server.getsockname()[1], server


def _accepted(server: socket.socket) -> socket.socket:
    peer, _ = server.accept()
    peer.settimeout(30)
    return peer


def _settled(started: Proxy, *servers: socket.socket, is_counted: bool = True) -> dict[str, int]:
    """Counters, once nothing is left of whoever looked whether the proxy listens: it was passed on as well.

    It has to be seen at all first, but for where inspection waits for its first octets: then it is not counted.
    """

    def over() -> bool:
        counted = (value for name, value in started.stats().items() if name.startswith("tcp.") and "cx_total" in name)
        if is_counted and not any(counted):
            return False
        for server in servers:
            server.setblocking(False)
            with suppress(BlockingIOError):
                while True:
                    server.accept()[0].close()
            server.settimeout(30)
        return not started.active()

    assert eventually(over), started.active()
    wanted = ("idle_timeout", "max_downstream_connection_duration", "downstream_cx_total", "bytes_total")
    return {name: value for name, value in started.stats().items() if name.startswith("tcp.") and name.endswith(wanted)}


def _changes(started: Proxy, before: dict[str, int]) -> dict[str, int]:
    after = _settled(started)
    return {name: value - before.get(name, 0) for name, value in after.items()}


def _server_context(pair: KeyPair) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.chain, pair.key)
    return context


def _lines(log: Path, count: int) -> list[str]:
    assert eventually(lambda: len(lines_of(log)) >= count), lines_of(log)
    return lines_of(log)


def _line(log: Path, part: str) -> str:
    """The line that has this in it."""

    def read() -> list[str]:
        return [line for line in lines_of(log) if part in line]

    assert eventually(lambda: bool(read())), log.read_text()
    return read()[0]


def _without_host(line: str) -> str:
    fields = line.split()
    return " ".join([*fields[:2], *fields[3:]])


def _without_sizes(line: str) -> str:
    """TLS that is passed on is as long as its random parts happen to make it."""
    return re.sub(r" \d+ \d+ ", " ", _without_host(line))
