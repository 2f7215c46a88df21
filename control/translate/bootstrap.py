"""A translation as one static Envoy bootstrap: to look at, and to have Envoy judge it.

What would be discovered is written out: routes inside their listener, endpoints inside their cluster,
secrets beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pymesh.control.translate import Translation
from pymesh.control.translate.tls import SDS_CLUSTER
from pymesh.control.translate.wire import socket_address
from pymesh.control.xds import pb

_MANAGER = "http_connection_manager"


def static(translation: Translation) -> Any:
    """The ``envoy.config.bootstrap.v3.Bootstrap``; its encoded form is a ``.pb`` file for ``envoy -c``."""
    messages = translation.messages
    made = pb.Bootstrap(node={"id": "static", "cluster": "static"})
    for listener in messages[pb.LISTENER].values():
        copy = made.static_resources.listeners.add()
        copy.CopyFrom(listener)
        # Reading the default chain where there is none must not make an empty one.
        default = [copy.default_filter_chain] if copy.HasField("default_filter_chain") else []
        for chain in [*copy.filter_chains, *default]:
            for one in chain.filters:
                if one.name.endswith(_MANAGER):
                    one.typed_config.CopyFrom(_inlined(one.typed_config, messages[pb.ROUTES]))
    for cluster in messages[pb.CLUSTER].values():
        copy = made.static_resources.clusters.add()
        copy.CopyFrom(cluster)
        if cluster.type == pb.Cluster.EDS:
            copy.type = pb.Cluster.STATIC
            copy.ClearField("eds_cluster_config")
            copy.load_assignment.CopyFrom(messages[pb.ENDPOINTS][cluster.eds_cluster_config.service_name])
    made.static_resources.secrets.extend(messages[pb.SECRET].values())
    companion = pb.Cluster(
        name=SDS_CLUSTER,
        type="STATIC",
        connect_timeout={"seconds": 1},
        load_assignment={
            "cluster_name": SDS_CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket_address("127.0.0.1", 1)}}]}],
        },
    )
    options = pb.message("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")()
    options.explicit_http_config.http2_protocol_options.SetInParent()
    companion.typed_extension_protocol_options[options.DESCRIPTOR.full_name].CopyFrom(pb.pack(options))
    made.static_resources.clusters.append(companion)
    made.dynamic_resources.ads_config.api_type = 2
    made.dynamic_resources.ads_config.transport_api_version = 2
    made.dynamic_resources.ads_config.grpc_services.add(envoy_grpc={"cluster_name": SDS_CLUSTER})
    return made


def _inlined(packed: Any, tables: Mapping[str, Any]) -> Any:
    manager = pb.unpack(packed)
    if manager.HasField("rds"):
        manager.route_config.CopyFrom(tables[manager.rds.route_config_name])
    return pb.pack(manager)
