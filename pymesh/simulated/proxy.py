"""A simulated proxy with the configuration that a control plane would send it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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


#: What a proxy hears; None: nothing, for longer than it waits.
Steps = Sequence[bytes | None]


def configured(node: Mapping[str, Any], messages: Messages, *, seed: int, unix_nanos: int) -> SimulatedProxy:
    """A proxy that has heard these messages (type URL -> name -> message). ``node`` is Envoy's, as JSON.

    Raises :class:`ConfigurationRefusedError`.
    """
    return started(node, steps(messages), seed=seed, unix_nanos=unix_nanos)


def started(node: Mapping[str, Any], heard: Steps, *, seed: int, unix_nanos: int, now: int = 0) -> SimulatedProxy:
    """A proxy that has heard, now, what a control plane tells one that is new. Raises
    :class:`ConfigurationRefusedError`."""
    proxy = SimulatedProxy(json.dumps(_bootstrap(node)), seed=seed, unix_nanos=unix_nanos)
    proxy.turn(now)
    tell(proxy, heard)
    return proxy


def tell(proxy: SimulatedProxy, heard: Steps) -> None:
    """Let a proxy hear something. Raises :class:`ConfigurationRefusedError`."""
    problems: list[str] = []
    for step in heard:
        problems += proxy.wait(_PATIENCE_SECONDS) if step is None else proxy.hear(step)
    if problems:
        raise ConfigurationRefusedError(*problems)


def steps(messages: Messages) -> list[bytes | None]:
    """A whole configuration, in the order of a control plane."""
    found: list[bytes | None] = []
    for step, url in enumerate(_ORDER):
        found.append(_response(url, messages.get(url, {}), f"{step}"))
        if _ORDER[step : step + 2] == (pb.SECRET, pb.LISTENER):
            found.append(None)
    return [*found, None]


def changes(before: Messages, after: Messages) -> list[bytes | None]:
    """What a control plane tells a proxy that has the one configuration and is to have the other."""
    found: list[bytes | None] = []
    for url in _ORDER[:-1]:
        old, new = before.get(url, {}), after.get(url, {})
        newer = {name: one for name, one in new.items() if name not in old or old[name] != one}
        removed = sorted(set(old) - set(new))
        if newer or removed:
            found.append(_response(url, newer, f"change-{url}", removed))
    return [*found, None] if found else []


def _response(url: str, named: Mapping[str, pb.Message], nonce: str, removed: Sequence[str] = ()) -> bytes:
    response = pb.message("envoy.service.discovery.v3.DeltaDiscoveryResponse")(
        type_url=url, nonce=nonce, removed_resources=removed
    )
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
