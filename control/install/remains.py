"""What a mesh that ran has made in a cluster, beside what was installed: it goes with `pymesh uninstall --purge`.

The control plane writes in every namespace, and what it has made there nobody else would remove: namespaces of
applications outlive the mesh.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from pymesh.control.injection.inject import ROOTS_CONFIG_MAP
from pymesh.control.install.gateways import MANAGED, MANAGED_LABEL
from pymesh.control.resources.gateway_api import GROUP

Json = dict[str, Any]

#: The object at a path of the API server; none if the server has no such place.
Get = Callable[[str, Mapping[str, str]], Awaitable[Json]]

#: As whom the control plane writes the roots: in a namespace of Istio's own mesh the map is istiod's.
_MANAGER: Final = "pymesh-control"
_CLASS, _CONTROLLER = "pymesh", "pymesh.dev/gateway-controller"


async def found(get: Get) -> list[Json]:
    """Kind, namespace and name of each."""
    made: list[Json] = []
    managed = {"labelSelector": f"{MANAGED_LABEL}={MANAGED}"}
    for version, kind, root in (
        ("v1", "Service", "/api/v1/services"),
        ("apps/v1", "Deployment", "/apis/apps/v1/deployments"),
        ("v1", "ServiceAccount", "/api/v1/serviceaccounts"),
    ):
        answer = await get(root, managed)
        made += [_named(version, kind, one) for one in answer.get("items") or ()]
    maps = await get("/api/v1/configmaps", {"fieldSelector": f"metadata.name={ROOTS_CONFIG_MAP}"})
    made += [_named("v1", "ConfigMap", one) for one in maps.get("items") or () if _is_ours(one)]
    known = await get(f"/apis/{GROUP}/v1/gatewayclasses/{_CLASS}", {})
    if (known.get("spec") or {}).get("controllerName") == _CONTROLLER:
        made.append(_named(f"{GROUP}/v1", "GatewayClass", known))
    return made


def _named(version: str, kind: str, one: Mapping[str, Any]) -> Json:
    metadata = {name: one["metadata"][name] for name in ("namespace", "name") if one["metadata"].get(name)}
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _is_ours(one: Mapping[str, Any]) -> bool:
    return any(each.get("manager") == _MANAGER for each in one["metadata"].get("managedFields") or ())
