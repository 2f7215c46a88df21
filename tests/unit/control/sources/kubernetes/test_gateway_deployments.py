"""Whose service accounts are those of proxies that run Gateways."""

from __future__ import annotations

from typing import Any

import pytest

from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install import gateways
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.objects import load_object
from pymesh.control.sources.kubernetes.client import ApiClient
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


def test_an_account_is_known_by_the_name_that_it_is_made_with() -> None:
    read = load_object(gateway("a-b"), Report())
    assert isinstance(read, KubeGateway)
    assert gateways.of_account(gateways.name(read), "pymesh") == "a-b"
