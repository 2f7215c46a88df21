"""Whose service accounts are those of proxies that run Gateways."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install import gateways
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.objects import load_object
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from pymesh.control.sources.kubernetes.gateway_deployments import GatewayDeployments

Json = dict[str, Any]
LISTENERS = [{"name": "http", "port": 80, "protocol": "HTTP"}]


class Leader:
    leads = True


def gateway(name: str = "edge", listeners: Any = LISTENERS, of_class: str = "pymesh") -> Json:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": name, "namespace": "shop", "uid": "1"},
        "spec": {"gatewayClassName": of_class, "listeners": listeners},
    }


def service(labels: Json) -> Json:
    selector = {"gateway.networking.k8s.io/gateway-name": "edge"}
    metadata = {"name": "edge", "namespace": "shop", "labels": labels}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"selector": selector}}


def runs(namespace: str, account: str, documents: list[Json], services: list[Json]) -> bool:
    settings = InjectionSettings(image="x")
    api: ApiClient = None  # type: ignore[assignment]
    return GatewayDeployments(api, Leader(), lambda: (documents, services), lambda: settings).runs(namespace, account)


@pytest.mark.parametrize(
    ("namespace", "account", "document", "is_one"),
    [
        ("shop", "edge-pymesh", gateway(), True),
        ("bank", "edge-pymesh", gateway(), False),
        ("shop", "edge", gateway(), False),
        ("shop", "edge-pymesh", gateway(of_class="istio"), False),
        ("shop", "edge-istio", gateway(of_class="istio"), False),
        ("shop", "-pymesh", gateway(), False),
        # What cannot be read keeps what it has, and its proxies what they may.
        ("shop", "edge-pymesh", gateway(listeners=[{"name": "http", "port": 80, "protocol": "PIGEON"}]), True),
    ],
)
def test_whose_account_it_is(namespace: str, account: str, document: Json, is_one: bool) -> None:
    assert runs(namespace, account, [document], []) == is_one


def test_where_somebody_else_runs_the_gateway_the_account_is_nobodys() -> None:
    assert not runs("shop", "edge-pymesh", [gateway()], [service({})])
    assert runs("shop", "edge-pymesh", [gateway()], [service({gateways.MANAGED_LABEL: gateways.MANAGED})])


class Server:
    """An API server with one Service that runs the Gateway `edge`."""

    def __init__(self, gateways_there: list[Json] | None) -> None:
        #: None: it does not serve the kind.
        self._gateways = gateways_there
        self.deleted: list[str] = []

    async def request(self, method: str, path: str, body: Any = None, **how: Any) -> Json:
        if method == "DELETE":
            self.deleted.append(path)
        elif path == "/api/v1/services":
            labels = {gateways.MANAGED_LABEL: gateways.MANAGED, KubeGateway.PROXY_LABEL: "edge"}
            return {"items": [{"metadata": {"name": "edge-pymesh", "namespace": "shop", "uid": "2", "labels": labels}}]}
        elif path == "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways":
            if self._gateways is None:
                raise ApiError("GET: the server could not find the requested resource", code=404, reason="NotFound")
            return {"items": self._gateways}
        return {}


@pytest.mark.parametrize(
    ("there", "is_gone"),
    [([], True), ([gateway(of_class="istio")], True), ([gateway()], False), (None, False)],
    ids=["removed", "of another class", "not seen yet", "kind not served"],
)
def test_what_runs_a_gateway_goes_only_if_the_gateway_is_gone(there: list[Json] | None, is_gone: bool) -> None:
    """An API server that starts answers 404 for kinds that it will serve in a moment."""
    server, settings = Server(there), InjectionSettings(image="x")
    api = cast(ApiClient, server)
    asyncio.run(GatewayDeployments(api, Leader(), lambda: ([], []), lambda: settings).round())
    assert bool(server.deleted) == is_gone


def test_an_account_is_known_by_the_name_that_it_is_made_with() -> None:
    read = load_object(gateway("a-b"), Report())
    assert isinstance(read, KubeGateway)
    assert gateways.of_account(gateways.name(read), "pymesh") == "a-b"
