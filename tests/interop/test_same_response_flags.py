"""Every response flag, provoked one by one on ours and on Envoy: the same flag, the same details, the same status.

One bootstrap for both; each case is one request (or what a broken client sends), and its line in the access log.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.xds import pb
from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    http_listener,
    tcp_listener,
    to_cluster,
    virtual_host,
)
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.ports import free_port, free_ports
from tests.tools.wire.client import fetch, http2_connection
from tests.tools.wire.message import Aborted, Request
from tests.tools.wire.origin import origin

KINDS = ("pymesh", "envoy")
LINE = "%RESPONSE_FLAGS%\t%RESPONSE_CODE%\t%RESPONSE_CODE_DETAILS%\t%UPSTREAM_CLUSTER%\n"
_HTTP = "type.googleapis.com/envoy.extensions.filters.http"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_ALL = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


def _fault(**what: Any) -> Json:
    return {"envoy.filters.http.fault": {"@type": f"{_HTTP}.fault.v3.HTTPFault", **what}}


def _limit() -> Json:
    bucket = {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"}
    return {
        "envoy.filters.http.local_ratelimit": {
            "@type": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": bucket,
            "filter_enabled": _ALL,
            "filter_enforced": _ALL,
        }
    }


def _authorizer(port: int) -> Json:
    uri = {"uri": f"http://127.0.0.1:{port}", "cluster": "authorizer", "timeout": "5s"}
    return {
        "name": "envoy.filters.http.ext_authz",
        "typed_config": {
            "@type": f"{_HTTP}.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            # It is the origin, which answers what it is asked to.
            "http_service": {
                "server_uri": uri,
                "authorization_request": {"headers_to_add": [{"key": "x-want-status", "value": "403"}]},
            },
        },
    }


#: Where a flag comes of one request: what the origin is asked to do.
WANTS: dict[str, dict[str, str]] = {
    "/none": {},
    "/UH": {},
    "/UF": {},
    "/UO": {},
    "/NC": {},
    "/URX": {"x-want-status": "503"},
    "/URX-UF": {},
    "/UT": {"x-want-delay": "20"},
    "/URX-UT": {"x-want-delay": "20"},
    "/UC": {"x-want-reset": "before"},
    "/UPE-late": {"x-want-reset": "after"},
    "/UR": {"x-want-reset": "before"},
    "/UPE": {},
    "/SI": {"x-want-delay": "20"},
    "/UMSDR": {"x-want-delay": "20"},
    "/DI": {},
    "/FI": {},
    "/DI-FI": {},
    "/UDO": {},
    "/DO": {},
}
#: Those that come of something else: tests of their own.
OTHERS = {"NR", "RL", "UAEX", "DC", "DR", "DPE", "DT"}
#: Envoy's others, and why nothing provokes them here. Where a field of Envoy's is named, ours refuses it by name.
ABSENT = {
    "LH": "the health check filter's answer for a host that was told to fail (`envoy.filters.http.health_check`)",
    "LR": "the router's word for a stream that its own codec resets: only under the runtime guard "
    "`allow_multiplexed_upstream_half_close`, off by default, where an HTTP/1 endpoint answers an unfinished request",
    "RLSE": "a rate limit service that fails (`envoy.filters.http.ratelimit`)",
    "IH": "the router's `strict_check_headers`",
    "RFCF": "an answer from the cache filter (`envoy.filters.http.cache`)",
    "NFCF": "a filter whose configuration ECDS has not brought (`config_discovery`)",
    "OM": "the overload manager's action `reset_high_memory_stream`, and its load shed points",
    "DF": "names of the dynamic forward proxy (`envoy.filters.http.dynamic_forward_proxy`)",
}


def _routes() -> list[Json]:
    retry = {"retry_on": "5xx,connect-failure", "num_retries": 1, "retry_back_off": {"base_interval": "0.001s"}}
    delay = {"delay": {"fixed_delay": "0.01s", "percentage": {"numerator": 100}}}
    abort = {"abort": {"http_status": 418, "percentage": {"numerator": 100}}}
    return [
        to_cluster("empty", "/UH"),
        to_cluster("down", "/URX-UF", retry_policy=retry),
        to_cluster("down", "/UF"),
        to_cluster("full", "/UO"),
        to_cluster("unknown", "/NC"),
        to_cluster("a", "/URX-UT", retry_policy={"retry_on": "reset", "num_retries": 0, "per_try_timeout": "0.2s"}),
        to_cluster("a", "/URX", retry_policy=retry),
        to_cluster("a", "/UT", timeout="0.2s"),
        to_cluster("http2", "/UR"),
        to_cluster("a", "/UPE-late"),
        to_cluster("garbage", "/UPE"),
        to_cluster("a", "/SI", idle_timeout="0.2s"),
        to_cluster("brief", "/UMSDR"),
        {**to_cluster("a", "/DI-FI"), "typed_per_filter_config": _fault(**delay, **abort)},
        {**to_cluster("a", "/DI"), "typed_per_filter_config": _fault(**delay)},
        {**to_cluster("a", "/FI"), "typed_per_filter_config": _fault(**abort)},
        {**to_cluster("a", "/RL"), "typed_per_filter_config": _limit()},
        to_cluster("dropped", "/UDO"),
        to_cluster("spared", "/DO"),
        to_cluster("a", "/DC", timeout="0s"),
        to_cluster("a"),
    ]


@dataclass
class Both:
    """Both proxies: listeners `plain`, `guarded` and `raw`, and their logs."""

    proxies: dict[str, Proxy]
    logs: dict[str, Path]

    def line(self, kind: str, provoke: Callable[[Proxy], None]) -> list[str]:
        """The line that comes of it: flags, status, details, cluster."""
        before = len(lines_of(self.logs[kind]))
        provoke(self.proxies[kind])
        assert eventually(lambda: len(lines_of(self.logs[kind])) > before, 20), self.proxies[kind].process.tail()
        [line] = lines_of(self.logs[kind])[before:]
        # Envoy goes on with what the system said of a connection.
        return re.sub(r"\|[^}]*}", "}", line).split("\t")

    def same(self, provoke: Callable[[Proxy], None]) -> list[str]:
        ours, envoys = (self.line(kind, provoke) for kind in KINDS)
        assert ours == envoys
        return ours


@contextmanager
def rubbish() -> Iterator[int]:
    """A server that speaks no HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    taken, _ = server.accept()
                    with taken:
                        taken.recv(4096)
                        taken.sendall(b"220 ready to serve you\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(10)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("logs")
    with ExitStack() as stack:
        behind = {name: stack.enter_context(origin(name, http2=name == "http2")) for name in ("a", "http2")}
        garbage, down = stack.enter_context(rubbish()), free_port()
        proxies, logs = {}, {}
        for kind in KINDS:
            logs[kind] = folder / kind
            log = [access_log(logs[kind], LINE)]
            filters = [
                {"name": "envoy.filters.http.fault", "typed_config": {"@type": f"{_HTTP}.fault.v3.HTTPFault"}},
                {
                    "name": "envoy.filters.http.local_ratelimit",
                    "typed_config": {"@type": f"{_HTTP}.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "limit"},
                },
            ]
            router = {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_HTTP}.router.v3.Router"},
            }
            plain, guarded, raw, admin = free_ports(4)
            hosts = [virtual_host("all", _routes(), ["a.test"])]
            first = http_listener(plain, hosts, name="plain", access_log=log, http_filters=[*filters, router])
            first["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["validate_clusters"] = False
            asks = [_authorizer(behind["a"].port), router]
            open_ = [virtual_host("all", [to_cluster("a")])]
            second = http_listener(guarded, open_, name="guarded", access_log=log, http_filters=asks)
            third = tcp_listener(raw, "a", name="raw", access_log=log, max_downstream_connection_duration="0.2s")
            limits = {"thresholds": [{"max_pending_requests": 0, "max_connections": 0}]}
            brief = cluster("brief", [behind["a"].port], idle_timeout="3600s")
            options = brief["typed_extension_protocol_options"][_OPTIONS]
            options["common_http_protocol_options"]["max_stream_duration"] = "0.2s"
            dropped, spared = (cluster(name, [behind["a"].port]) for name in ("dropped", "spared"))
            # All of it is a flag of its own: but for one in a million it is the other.
            for target, millionths in ((dropped, 1_000_000), (spared, 999_999)):
                share = {"numerator": millionths, "denominator": "MILLION"}
                target["load_assignment"]["policy"] = {"drop_overloads": [{"category": "x", "drop_percentage": share}]}
            clusters = [
                cluster("a", [behind["a"].port]),
                cluster("http2", [behind["http2"].port], http2=True),
                cluster("authorizer", [behind["a"].port]),
                cluster("empty", []),
                cluster("down", [down]),
                cluster("full", [behind["a"].port], circuit_breakers=limits),
                cluster("garbage", [garbage]),
                brief,
                dropped,
                spared,
            ]
            proxies[kind] = stack.enter_context(proxy(kind, bootstrap([first, second, third], clusters, admin)))
            # Whoever waited for the ports was relayed too.
            assert eventually(lambda kind=kind: bool(lines_of(logs[kind])) and not proxies[kind].active())
        yield Both(proxies, logs)


def _asking(path: str, wants: dict[str, str], port: int = 0, host: str = "a.test") -> Callable[[Proxy], None]:
    def provoke(started: Proxy) -> None:
        with suppress(Aborted):
            fetch(started.ports[port], Request("GET", path, host, list(wants.items())), b"")

    return provoke


@pytest.mark.parametrize(("path", "wants"), WANTS.items(), ids=str)
def test_a_request_provokes_it(path: str, wants: dict[str, str], both: Both) -> None:
    flags, *_ = both.same(_asking(path, wants))
    expected = path.strip("/").removesuffix("-late").replace("-", ",").replace("none", "-")
    assert flags == expected


def test_no_host_is_no_route(both: Both) -> None:
    assert both.same(_asking("/", {}, host="unknown.test"))[0] == "NR"


def test_one_request_too_many(both: Both) -> None:
    flags = [both.same(_asking("/RL", {}))[0] for _ in range(2)]
    assert flags == ["-", "RL"]


def test_an_authorizer_denies(both: Both) -> None:
    assert both.same(_asking("/", {}, port=1))[0] == "UAEX"


@pytest.mark.parametrize("by", ["FIN", "RST"])
def test_a_client_that_goes_away(by: str, both: Both) -> None:
    def leave(started: Proxy) -> None:
        with socket.create_connection(("127.0.0.1", started.port)) as client:
            client.sendall(b"GET /DC HTTP/1.1\r\nhost: a.test\r\nx-want-delay: 20\r\n\r\n")
            assert eventually(lambda: started.stats()["cluster.a.upstream_rq_active"] >= 1)
            if by == "RST":
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    flags, _, details, _ = both.same(leave)
    assert (flags, details) == ("DC", "downstream_remote_disconnect")


def test_a_client_that_resets_its_stream(both: Both) -> None:
    async def reset(started: Proxy) -> None:
        def active(wanted: int) -> bool:
            return eventually(lambda: started.stats()["cluster.a.upstream_rq_active"] == wanted, 20)

        async with http2_connection(started.port) as connection:
            asked = Request("GET", "/DC", "a.test", [("x-want-delay", "20")])
            stream = await connection.send(asked, end=True)
            assert await asyncio.to_thread(active, 1)
            await stream.reset()
            # It is read before the connection is closed.
            assert await asyncio.to_thread(active, 0)

    flags, _, details, _ = both.same(lambda started: asyncio.run(reset(started)))
    assert (flags, details) == ("DR", "http2.remote_reset")


def test_a_client_that_breaks_the_protocol(both: Both) -> None:
    def break_it(started: Proxy) -> None:
        with socket.create_connection(("127.0.0.1", started.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nno header at all\r\n\r\n")
            while client.recv(4096):
                pass

    assert both.same(break_it)[0] == "DPE"


def test_a_relayed_connection_that_lives_too_long(both: Both) -> None:
    def stay(started: Proxy) -> None:
        with socket.create_connection(("127.0.0.1", started.ports[2]), timeout=30) as client:
            assert client.recv(1) == b""

    assert both.same(stay)[0] == "DT"


@contextmanager
def _alone(kind: str, log: Path, **fields: Any) -> Iterator[Proxy]:
    """A proxy with one listener; `fields` are added to its bootstrap."""
    with origin("a") as behind:
        port, admin = free_ports(2)
        hosts = [virtual_host("all", [to_cluster("a", timeout="0s")])]
        listener = http_listener(port, hosts, access_log=[access_log(log, LINE)])
        made = bootstrap([listener], [cluster("a", [behind.port])], admin)
        with proxy(kind, {**made, **fields}) as started:
            yield started


def test_no_flag_for_a_request_that_an_overloaded_proxy_refuses(tmp_path: Path) -> None:
    heap = "type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig"
    memory = "envoy.resource_monitors.fixed_heap"
    # Any memory at all is above this threshold.
    trigger = {"name": memory, "threshold": {"value": 0}}
    action = {"name": "envoy.overload_actions.stop_accepting_requests", "triggers": [trigger]}
    limit = {"@type": heap, "max_heap_size_bytes": 1 << 40}
    manager = {
        "refresh_interval": "0.05s",
        "resource_monitors": [{"name": memory, "typed_config": limit}],
        "actions": [action],
    }
    for kind in KINDS:
        log = tmp_path / kind
        with _alone(kind, log, overload_manager=manager) as started:
            name = "overload.envoy.overload_actions.stop_accepting_requests.active"
            assert eventually(lambda started=started, name=name: started.stats()[name] == 1)
            assert fetch(started.port, Request("GET", "/", "a.test"), b"").status == 503
            assert eventually(lambda log=log: lines_of(log) == ["-\t503\toverload\t-"]), (kind, lines_of(log))


def test_a_request_that_outlives_the_proxy(tmp_path: Path) -> None:
    for kind in KINDS:
        log = tmp_path / kind
        with _alone(kind, log) as started, socket.create_connection(("127.0.0.1", started.port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: a.test\r\nx-want-delay: 60\r\n\r\n")
            assert eventually(lambda started=started: started.stats()["cluster.a.upstream_rq_active"] == 1)
            started.process.signal(signal.SIGTERM)
            started.process.wait(30)
        # Each goes on with its own reason, in brackets.
        assert [line.partition("(")[0] for line in lines_of(log)] == ["DC\t0\tdownstream_local_disconnect"], kind


def test_all_flags_are_provoked_here() -> None:
    """Those of the engine's own list, and no other is known to Envoy."""
    source = Path(__file__).resolve().parents[2] / "rust" / "engine" / "src" / "telemetry" / "flags.rs"
    known = set(re.findall(r'^    [A-Z_]+ = "([A-Z]+)",', source.read_text(), re.MULTILINE))
    assert known == {part for path in WANTS for part in re.findall(r"[A-Z]{2,}", path)} | OTHERS
    assert not known & ABSENT.keys()
    assert known | ABSENT.keys() == _envoys()


def _envoys() -> set[str]:
    """What Envoy's own rules let a filter of access logs name."""
    flags = pb.message("envoy.config.accesslog.v3.ResponseFlagFilter").DESCRIPTOR.fields_by_name["flags"]
    options = pb.message("google.protobuf.FieldOptions").FromString(flags.GetOptions().SerializeToString())
    rules: Any = options.Extensions[pb.pool().FindExtensionByName("validate.rules")]
    return set(getattr(rules.repeated.items.string, "in"))
