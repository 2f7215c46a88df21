"""A simulated proxy with the configuration that a control plane would send it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pymesh._bridge.simulated import SimulatedProxy
from pymesh.control.xds import pb

#: Longer than a proxy waits for configuration that does not come.
_PATIENCE_SECONDS = 60.0
#: In the order in which a proxy asks for them; it may want secrets twice, for clusters and for listeners.
_ORDER = (pb.CLUSTER, pb.ENDPOINTS, pb.SECRET, pb.LISTENER, pb.ROUTES, pb.SECRET)

Messages = Mapping[str, Mapping[str, pb.Message]]


class ConfigurationRefusedError(Exception):
    """The proxy does not take a configuration. Each argument is one problem."""


def configured(node: Mapping[str, Any], messages: Messages, *, seed: int, unix_nanos: int) -> SimulatedProxy:
    """A proxy that has heard these messages (type URL -> name -> message). ``node`` is Envoy's, as JSON.

    Raises :class:`ConfigurationRefusedError`.
    """
    proxy = SimulatedProxy(json.dumps(_bootstrap(node)), seed=seed, unix_nanos=unix_nanos)
    problems: list[str] = []
    for step, url in enumerate(_ORDER):
        problems += proxy.hear(_response(url, messages.get(url, {}), f"{step}"))
        if _ORDER[step : step + 2] == (pb.SECRET, pb.LISTENER):
            problems += proxy.wait(_PATIENCE_SECONDS)
    problems += proxy.wait(_PATIENCE_SECONDS)
    if problems:
        raise ConfigurationRefusedError(*problems)
    return proxy


def _response(url: str, named: Mapping[str, pb.Message], nonce: str) -> bytes:
    response = pb.message("envoy.service.discovery.v3.DeltaDiscoveryResponse")(type_url=url, nonce=nonce)
    for name, message in sorted(named.items()):
        response.resources.add(name=name, version="1", resource=pb.pack(message))
    return pb.encode(response)


def _bootstrap(node: Mapping[str, Any]) -> dict[str, Any]:
    endpoint = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 1}}}}
    control = {
        "name": "xds",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
    ads: dict[str, Any] = {"ads": {}, "resource_api_version": "V3"}
    source = {
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    }
    return {
        "node": dict(node),
        "static_resources": {"clusters": [control]},
        "dynamic_resources": {"ads_config": source, "lds_config": ads, "cds_config": ads},
    }
