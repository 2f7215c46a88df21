"""Probes keep working: the kubelet asks the sidecar, and the sidecar asks the application in its place.

The kubelet has no identity in the mesh: mutual TLS would turn it away, and a TCP probe would find the proxy where it
means the application. So a probe (HTTP, TCP, gRPC; of containers that start, are ready, live) and an HTTP hook of a
container's life become HTTP to the sidecar, at the paths of Istio's agent, and what they were is told to the sidecar in
an environment variable: path -> the probe as Kubernetes has it, with the number of the port in place of its name.
Nobody reaches more of the application by this than what it shows to be probed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pymesh.control.injection.problems import Fault

#: Where the sidecar answers; Istio's.
PORT = 15020
#: The environment variable of the sidecar; Istio's.
VARIABLE = "ISTIO_KUBE_APP_PROBERS"

_PROBES = {"readinessProbe": "readyz", "livenessProbe": "livez", "startupProbe": "startupz"}
_HOOKS = {"postStart": "poststartz", "preStop": "prestopz"}
_KINDS = ("httpGet", "tcpSocket", "grpc")

Json = dict[str, Any]

_DEFAULTS: Mapping[str, Json] = {"httpGet": {"path": "/", "scheme": "HTTP"}, "tcpSocket": {}, "grpc": {"service": ""}}


def rewrite(container: Json, path: str, faults: list[Fault]) -> tuple[Json, dict[str, Json]]:
    """The container with its probes rewritten, and what they were, by the paths that they are asked at now."""
    found: dict[str, Json] = {}
    changed = dict(container)
    name = str(container.get("name", ""))
    for field, action in _PROBES.items():
        probe = container.get(field)
        if isinstance(probe, Mapping) and (asked := _asked(probe, _KINDS, container, f"{path}.{field}", faults)):
            at = f"/app-health/{name}/{action}"
            found[at] = {**asked, "timeoutSeconds": probe.get("timeoutSeconds", 1)}
            changed[field] = _instead(probe, at)
    hooks = container.get("lifecycle")
    if isinstance(hooks, Mapping):
        for field, action in _HOOKS.items():
            hook = hooks.get(field)
            where = f"{path}.lifecycle.{field}"
            if isinstance(hook, Mapping) and (asked := _asked(hook, _KINDS[:1], container, where, faults)):
                at = f"/app-lifecycle/{name}/{action}"
                found[at] = asked
                changed["lifecycle"] = {**changed["lifecycle"], field: _instead(hook, at)}
    return changed, found


def variables(asked: Mapping[str, Json]) -> dict[str, str]:
    """What the sidecar's environment says of the probes that were rewritten."""
    return {VARIABLE: json.dumps(asked, separators=(",", ":"), sort_keys=True)} if asked else {}


def _instead(probe: Mapping[str, Any], at: str) -> Json:
    kept = {key: value for key, value in probe.items() if key not in _KINDS}
    return {**kept, "httpGet": {"path": at, "port": PORT, "scheme": "HTTP"}}


def _asked(
    probe: Mapping[str, Any], kinds: Sequence[str], container: Json, path: str, faults: list[Fault]
) -> Json | None:
    """What the probe asks for, with its port as a number; None: it asks nobody in the pod's network."""
    for kind in kinds:
        action = probe.get(kind)
        if not isinstance(action, Mapping) or action.get("host"):
            continue  # with a host it is somewhere else that is asked
        if action.get("port") == PORT:
            return None  # it is the sidecar that is asked
        port = action.get("port")
        if isinstance(port, str):
            port = int(port) if port.isascii() and port.isdecimal() else _named(container, port)
        if not isinstance(port, int) or isinstance(port, bool) or not 0 < port < 65536:
            names = sorted(name for name, _ in _ports(container))
            hint = f"its ports have the names {', '.join(names)}" if names else "write its number"
            faults.append(Fault(f"{path}.{kind}.port", f"{action.get('port')!r} is no port of the container", hint))
            return None
        # With what an API server would add: it has added it already where the webhook is asked.
        return {kind: {**_DEFAULTS[kind], **action, "port": port}}
    return None


def _named(container: Json, name: str) -> int | None:
    return next((number for known, number in _ports(container) if known == name), None)


def _ports(container: Json) -> Iterator[tuple[str, int]]:
    for port in container.get("ports") or ():
        if isinstance(port, Mapping) and isinstance(port.get("containerPort"), int):
            yield str(port.get("name", "")), port["containerPort"]
