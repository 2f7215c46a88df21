"""What stands for everything that is no proxy of the mesh: applications, and servers outside. It answers 200.

An external authorizer that is asked by gRPC lets everything pass; one that is asked by HTTP does so with that 200.
"""

from __future__ import annotations

import json
from typing import Any

from pymesh._bridge.simulated import SimulatedProxy
from pymesh.control.xds import pb
from pymesh.explain.credentials import Credentials
from pymesh.explain.prepare import ACCESS_LOG, ACCESS_LOG_FIELDS
from pymesh.explain.told import split
from pymesh.simulated.grpc import GrpcServer
from pymesh.simulated.network import End, Node

#: Where the part of it that speaks gRPC listens; nobody in a mesh has this address.
GRPC_ADDRESS = "198.19.0.1:50051"
#: A call to an external authorizer.
CHECK = "/envoy.service.auth.v3.Authorization/Check"
#: `CheckResponse` with `status` OK.
_MAY_PASS = b"\x0a\x00"
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
    bootstrap = {"static_resources": {"listeners": [listener], "clusters": [_grpc_cluster()]}}
    return Node("application", "127.0.0.1", SimulatedProxy(json.dumps(bootstrap), seed=seed, unix_nanos=unix_nanos))


def authorizer(peer: End) -> End:
    """An end of a connection to :data:`GRPC_ADDRESS`."""
    return GrpcServer(peer, lambda _, __: _MAY_PASS)


def _grpc_cluster() -> dict[str, Any]:
    ip, port = split(GRPC_ADDRESS)
    options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"@type": f"type.googleapis.com/{options}", "explicit_http_config": {"http2_protocol_options": {}}}
    endpoint = {"endpoint": {"address": {"socket_address": {"address": ip, "port_value": port}}}}
    return {
        "name": "grpc",
        "type": "STATIC",
        "typed_extension_protocol_options": {options: http2},
        "load_assignment": {"cluster_name": "grpc", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }


def _manager() -> dict[str, Any]:
    log = {"@type": f"{pb.TYPE_PREFIX}{ACCESS_LOG}", "log_format": {"json_format": ACCESS_LOG_FIELDS}}
    check = {"match": {"path": CHECK}, "route": {"cluster": "grpc"}}
    answer = {"match": {"prefix": "/"}, "direct_response": {"status": 200}}
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    config = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "application",
        "access_log": [{"name": "envoy.access_loggers.stdout", "typed_config": log}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [check, answer]}]},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": router}],
    }
    return {"name": "envoy.filters.network.http_connection_manager", "typed_config": config}
