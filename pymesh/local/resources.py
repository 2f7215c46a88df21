"""The resources that describe a plan to the control plane: what runs where, and which ports lead where.

In a cluster Kubernetes and a CNI know these things; here they are Istio's `WorkloadEntry` and `Sidecar`, one of each
per replica, generated anew for every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from pymesh.local.meshfile import EVERYTHING, protocol
from pymesh.local.plan import ADDRESS, Workload

API_VERSION = "networking.istio.io/v1"

Resource = dict[str, Any]


def documents(workloads: Iterable[Workload]) -> str:
    """All of them as one YAML stream."""
    return yaml.safe_dump_all([document for workload in workloads for document in describe(workload)], sort_keys=False)


def describe(workload: Workload) -> list[Resource]:
    """The resources of one workload; a gateway needs none, for nobody in the mesh calls it."""
    if workload.gateway:
        return []
    return [_entry(workload), _sidecar(workload)]


def _entry(workload: Workload) -> Resource:
    return {
        "apiVersion": API_VERSION,
        "kind": "WorkloadEntry",
        "metadata": {"name": workload.name, "namespace": workload.namespace},
        "spec": {
            "address": workload.address,
            "ports": {port.name: port.sidecar for port in workload.inbound},
            # The label with which Istio marks who accepts mutual TLS.
            "labels": {**workload.labels, "security.istio.io/tlsMode": "istio"},
            "serviceAccount": workload.service_account,
            **({"locality": workload.app.locality} if workload.app and workload.app.locality else {}),
        },
    }


def _sidecar(workload: Workload) -> Resource:
    # Where connections are captured, ports are the application's own, and whom it calls needs no listener.
    bind = {} if workload.is_captured else {"bind": workload.address}
    ingress = [
        {
            "port": {"number": port.sidecar, "protocol": protocol(port.name), "name": port.name},
            **bind,
            "defaultEndpoint": f"{ADDRESS}:{port.app}",
        }
        for port in workload.inbound
    ]
    egress = [
        {
            "port": {"number": port, "protocol": workload.protocols[service], "name": service},
            "bind": ADDRESS,
            "captureMode": "NONE",
            "hosts": [_host(workload, service)],
        }
        for service, port in workload.outbound.items()
    ]
    selector = {"labels": dict(workload.labels)}
    return {
        "apiVersion": API_VERSION,
        "kind": "Sidecar",
        "metadata": {"name": workload.name, "namespace": workload.namespace},
        "spec": {
            "workloadSelector": selector,
            "ingress": ingress,
            **({} if workload.is_captured else {"egress": egress}),
        },
    }


def _host(workload: Workload, service: str) -> str:
    """What is reached by a call of a service, as a Sidecar writes it."""
    if service == EVERYTHING:
        return "*/*"
    return f"{workload.namespace}/{service}.{workload.namespace}.svc.cluster.local"
