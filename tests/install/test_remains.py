"""What `pymesh uninstall --purge` finds beside what was installed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from pymesh.control.install import remains
from pymesh.control.sources.kubernetes import roots
from pymesh.control.status import gateways

CLASS = f"/apis/gateway.networking.k8s.io/v1/gatewayclasses/{gateways.CLASS}"


@pytest.mark.parametrize(
    ("controller", "kinds"),
    [(gateways.CONTROLLER, ["GatewayClass"]), ("somebody.else/controller", []), ("", [])],
)
def test_the_class_goes_if_it_is_ours(controller: str, kinds: list[str]) -> None:
    async def get(at: str, query: Mapping[str, str]) -> dict[str, Any]:
        if at == CLASS and controller:
            return {"metadata": {"name": gateways.CLASS}, "spec": {"controllerName": controller}}
        return {}

    assert [one["kind"] for one in asyncio.run(remains.found(get))] == kinds


@pytest.mark.parametrize(("manager", "count"), [(roots._MANAGER, 1), ("istiod", 0)])
def test_the_roots_go_if_they_are_ours(manager: str, count: int) -> None:
    async def get(at: str, query: Mapping[str, str]) -> dict[str, Any]:
        if at == "/api/v1/configmaps" and query == {"fieldSelector": f"metadata.name={roots.CONFIG_MAP}"}:
            named = {"name": roots.CONFIG_MAP, "namespace": "shop", "uid": "1"}
            return {"items": [{"metadata": {**named, "managedFields": [{"manager": manager}]}}]}
        return {}

    found = asyncio.run(remains.found(get))
    wanted = {"name": roots.CONFIG_MAP, "namespace": "shop"}
    assert found == [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": wanted}] * count
