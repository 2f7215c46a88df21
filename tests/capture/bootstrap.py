"""A captured sidecar's bootstrap, shaped as Istio shapes it; the same file runs Envoy and ours.

Each listener is there twice, for the two versions of IP. Out of what is bound only the virtual listeners 15001 and
15006; those on 80 and 3306 get their connections from the first.
"""

from __future__ import annotations

from typing import Any

from tests.capture.world import POD, WORLD
from tests.proxy.bootstrap import bootstrap, http_listener, tcp_listener, to_cluster, virtual_host

Json = dict[str, Any]

OUTBOUND, INBOUND, ADMIN = 15001, 15006, 15000
#: An address that no machine has; a listener stands for it.
VIRTUAL_IP = {4: "10.99.0.1", 6: "fd99::1"}
_ANY = {4: "0.0.0.0", 6: "::"}
_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def sidecar(transparent: bool) -> Json:
    """The whole of it."""
    listeners = [made for version in (4, 6) for made in _listeners(version, transparent)]
    clusters = [
        _static("known", (WORLD[4], 8081)),
        _static("database", (WORLD[4], 3307)),
        _static("own", (POD[4], 8080)),
        _original("PassthroughCluster"),
        _original("InboundPassthroughCluster", _bind("127.0.0.6", "::6")),
    ]
    return bootstrap(listeners, clusters, ADMIN)


def _listeners(version: int, transparent: bool) -> list[Json]:
    def at(made: Json, name: str, address: str, port: int, **more: Any) -> Json:
        where = {"socket_address": {"address": address, "port_value": port}}
        return {**made, "name": f"{name}{version}", "address": where, **more}

    any_address = _ANY[version]
    routes = [
        virtual_host("known", [to_cluster("known")], ["known.test"], response_headers_to_add=[_header("x-out")]),
        virtual_host("own", [to_cluster("own")], ["own.test"], response_headers_to_add=[_header("x-out")]),
        virtual_host("any", [to_cluster("PassthroughCluster")], response_headers_to_add=[_header("x-out")]),
    ]
    inbound = http_listener(
        0,
        [virtual_host("in", [to_cluster("InboundPassthroughCluster")], response_headers_to_add=[_header("x-in")])],
        name="in",
    )
    chain = {**inbound["filter_chains"][0], "filter_chain_match": {"destination_port": 8080}}
    inbound_tcp = tcp_listener(0, "InboundPassthroughCluster", name="in-tcp")
    original_dst = {"@type": f"{_FILTERS}.listener.original_dst.v3.OriginalDst"}
    virtual_inbound: Json = {
        "filter_chains": [chain],
        "default_filter_chain": inbound_tcp["filter_chains"][0],
        "listener_filters": [{"name": "envoy.filters.listener.original_dst", "typed_config": original_dst}],
    }
    if transparent:
        virtual_inbound["transparent"] = True
    passthrough = tcp_listener(0, "PassthroughCluster", name="passthrough")
    return [
        at(passthrough, "virtualOutbound", any_address, OUTBOUND, use_original_dst=True),
        at(virtual_inbound, "virtualInbound", any_address, INBOUND),
        at(http_listener(0, routes, name="out"), "http", any_address, 80, bind_to_port=False),
        at(tcp_listener(0, "database", name="db"), "database", VIRTUAL_IP[version], 3306, bind_to_port=False),
    ]


def _header(name: str) -> Json:
    return {"header": {"key": name, "value": "yes"}}


def _static(name: str, address: tuple[str, int]) -> Json:
    where = {"socket_address": {"address": address[0], "port_value": address[1]}}
    endpoints = [{"lb_endpoints": [{"endpoint": {"address": where}}]}]
    load = {"cluster_name": name, "endpoints": endpoints}
    return {"name": name, "type": "STATIC", "connect_timeout": "5s", "load_assignment": load}


def _original(name: str, bind: Json | None = None) -> Json:
    options: Json = {"@type": f"type.googleapis.com/{_OPTIONS}", "use_downstream_protocol_config": {}}
    made: Json = {
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "5s",
        "cleanup_interval": "1s",
        "typed_extension_protocol_options": {_OPTIONS: options},
    }
    return {**made, "upstream_bind_config": bind} if bind else made


def _bind(source: str, extra: str) -> Json:
    return {
        "source_address": {"address": source, "port_value": 0},
        "extra_source_addresses": [{"address": {"address": extra, "port_value": 0}}],
    }
