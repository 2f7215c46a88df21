"""The ports that a pod's containers name, told to its sidecar.

A Service may name its target port, and which number that is says the pod. From the pod itself the sidecar knows it
before any other knows of the pod, so nobody who comes early finds it without a filter chain for the port.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

#: The environment variable of the sidecar; Istio's. The node's metadata has it as POD_PORTS.
VARIABLE = "ISTIO_META_POD_PORTS"


def variables(spec: Mapping[str, Any]) -> dict[str, str]:
    """What the sidecar's environment says of the ports with a name of a pod (its ``spec``), as Kubernetes has them.

    As where Kubernetes looks a name up itself, it may be that of a container, or of an init container that stays.
    """
    stays = [one for one in spec.get("initContainers") or () if one.get("restartPolicy") == "Always"]
    found = [port for one in (*(spec.get("containers") or ()), *stays) for port in _named(one)]
    return {VARIABLE: json.dumps(found, separators=(",", ":"), sort_keys=True)} if found else {}


def _named(container: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for port in container.get("ports") or ():
        name, number = port.get("name"), port.get("containerPort")
        if name and isinstance(name, str) and isinstance(number, int):
            # With what an API server would add: it has added it already where the webhook is asked.
            yield {"containerPort": number, "name": name, "protocol": port.get("protocol") or "TCP"}
