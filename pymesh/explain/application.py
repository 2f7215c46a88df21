"""What stands for everything that is no proxy of the mesh: applications, and servers outside. It answers 200."""

from __future__ import annotations

import json
from typing import Any

from pymesh._bridge.simulated import SimulatedProxy
from pymesh.control.xds import pb
from pymesh.explain.credentials import Credentials
from pymesh.explain.prepare import access_log
from pymesh.simulated.network import Node

_TYPE = "type.googleapis.com/envoy.extensions"


def application(credentials: Credentials, seed: int, unix_nanos: int) -> Node:
    """It speaks HTTP/1.1 and HTTP/2, also over TLS, and logs what it is asked."""
    certificate, key = credentials.server()
    tls = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [
                {"certificate_chain": {"inline_string": certificate}, "private_key": {"inline_string": key.decode()}}
            ],
        },
    }
    with_tls = {
        "filter_chain_match": {"transport_protocol": "tls"},
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
        "filters": [_manager()],
    }
    inspector = {"@type": f"{_TYPE}.filters.listener.tls_inspector.v3.TlsInspector"}
    listener = {
        "name": "application",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
        "listener_filters": [{"name": "envoy.filters.listener.tls_inspector", "typed_config": inspector}],
        "filter_chains": [with_tls, {"filters": [_manager()]}],
    }
    bootstrap = {"static_resources": {"listeners": [listener]}}
    return Node("application", "127.0.0.1", SimulatedProxy(json.dumps(bootstrap), seed=seed, unix_nanos=unix_nanos))


def _manager() -> dict[str, Any]:
    log = access_log()
    logged = {"@type": log["typed_config"].type_url, **pb.to_json(pb.unpack(log["typed_config"]))}
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    config = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "application",
        "access_log": [{"name": log["name"], "typed_config": logged}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [answer]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}
