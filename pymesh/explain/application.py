"""What stands for everything that is no proxy of the mesh: applications, and servers outside. It answers 200."""

from __future__ import annotations

import json

from pymesh._bridge.simulated import SimulatedProxy
from pymesh.control.xds import pb
from pymesh.explain.prepare import access_log
from pymesh.simulated.network import Node

_EXTENSIONS = "type.googleapis.com/envoy.extensions.filters"


def application(seed: int, unix_nanos: int) -> Node:
    """It speaks HTTP/1.1 and HTTP/2, logs what it is asked, and listens to whatever is said."""
    log = access_log()
    manager = {
        "@type": f"{_EXTENSIONS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "application",
        "access_log": [
            {
                "name": log["name"],
                "typed_config": {
                    "@type": log["typed_config"].type_url,
                    **pb.to_json(pb.unpack(log["typed_config"])),
                },
            }
        ],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_EXTENSIONS}.http.router.v3.Router"}}
        ],
    }
    listener = {
        "name": "application",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 80}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    bootstrap = {"static_resources": {"listeners": [listener]}}
    return Node("application", "127.0.0.1", SimulatedProxy(json.dumps(bootstrap), seed=seed, unix_nanos=unix_nanos))
