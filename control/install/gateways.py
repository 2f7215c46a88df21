"""What runs a Gateway of the Gateway API: a Deployment of proxies, a Service before them, and who they are.

The names, labels and the order of things are those of Istio's automated deployment: everything is named
GATEWAY-CLASS, carries the labels of GEP-1762 and what the Gateway's `infrastructure` says, and is owned by the Gateway,
so that it goes with it. A pure function of the Gateway and of the mesh's settings; who applies it is
:mod:`pymesh.control.sources.kubernetes.gateway_deployments`.
"""

from __future__ import annotations

from typing import Any, Final

from pymesh.control.injection.inject import READY_PORT, gateway_container
from pymesh.control.injection.settings import InjectionSettings
from pymesh.control.install import pods
from pymesh.control.resources.gateway_api import GROUP, KubeGateway

Json = dict[str, Any]

CLASS_LABEL: Final = f"{GROUP}/gateway-class-name"
#: Istio's: whose controller made it.
MANAGED_LABEL: Final = "gateway.istio.io/managed"
MANAGED: Final = "pymesh.dev-gateway-controller"
_APP_PROTOCOLS: Final = {"HTTP": "http", "HTTPS": "https", "TLS": "tls", "TCP": "tcp"}


def name(gateway: KubeGateway) -> str:
    """Of everything that runs a Gateway; of its service account, too."""
    return f"{gateway.name}-{gateway.spec.gateway_class_name}"


def of_account(account: str, gateway_class: str) -> str:
    """The Gateway of that class whose proxies have the service account; empty: none has."""
    end = f"-{gateway_class}"
    return account.removesuffix(end) if account.endswith(end) else ""


def objects(gateway: KubeGateway, settings: InjectionSettings) -> list[Json]:
    """All of them, what is needed first, first."""
    return [
        _object("v1", "ServiceAccount", gateway),
        {**_object("apps/v1", "Deployment", gateway), "spec": _deployment(gateway, settings)},
        {**_object("v1", "Service", gateway), "spec": _service(gateway)},
    ]


def _object(version: str, kind: str, gateway: KubeGateway) -> Json:
    infrastructure = gateway.spec.infrastructure
    owner = {"apiVersion": f"{GROUP}/v1", "kind": "Gateway", "name": gateway.name, "uid": gateway.metadata.uid}
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": name(gateway),
            "namespace": gateway.namespace,
            "labels": _labels(gateway),
            "annotations": dict(infrastructure.annotations),
            "ownerReferences": [owner],
        },
    }


def _labels(gateway: KubeGateway) -> dict[str, str]:
    return {
        **gateway.spec.infrastructure.labels,
        KubeGateway.PROXY_LABEL: gateway.name,
        CLASS_LABEL: gateway.spec.gateway_class_name,
        MANAGED_LABEL: MANAGED,
    }


def _deployment(gateway: KubeGateway, settings: InjectionSettings) -> Json:
    """How many there are is its owner's, or an autoscaler's, to say."""
    container, volumes = gateway_container(settings, name(gateway))
    annotations = gateway.spec.infrastructure.annotations
    return {
        "strategy": pods.ROLLING,
        "selector": {"matchLabels": {KubeGateway.PROXY_LABEL: gateway.name}},
        "template": pods.of_gateway(
            container, volumes, name(gateway), labels=_labels(gateway), annotations=annotations
        ),
    }


def _service(gateway: KubeGateway) -> Json:
    ports = {READY_PORT: {"name": "status-port", "appProtocol": "tcp"}}
    listened = [(one.port, one.protocol) for one in gateway.spec.listeners]
    # A mistake in a listener takes no port from the Service: a load balancer would be told to close it and to open it.
    for number, spoken in (*listened, *gateway.spec.left_out_ports):
        protocol = _APP_PROTOCOLS[spoken]
        ports.setdefault(number, {"name": f"{protocol}-{number}", "appProtocol": protocol})
    return {
        "type": gateway.service_type,
        "selector": {KubeGateway.PROXY_LABEL: gateway.name},
        "ports": [
            {**described, "port": number, "targetPort": number, "protocol": "TCP"}
            for number, described in ports.items()
        ],
    }
