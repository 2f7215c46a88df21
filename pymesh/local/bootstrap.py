"""The Envoy v3 bootstrap of each proxy: who it is, where its configuration comes from, and how it gets its identity.

One shape for both proxies. Ours makes its key itself (`pymesh.identity.v1.WorkloadIdentity`); Envoy cannot, and asks a
companion, `pymesh agent`, for secrets over a Unix socket. Ours reads its join token from a file whenever it needs it;
Envoy's bootstrap holds it, and is private.

The control plane is trusted by the secret `ROOTCA`, as everybody in the mesh: when roots change, a proxy that has run
for long still reaches it. Ours begins with the roots of a file under that name; Envoy's companion does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymesh.control.identity.names import ROOTS
from pymesh.control.xds.node import ADMIN_ADDRESS
from pymesh.local.plan import ADDRESS, CLUSTER_ID, PROXY_MARK, Workload
from pymesh.pod.bootstrap import (
    XDS_CLUSTER,
    ControlAddress,
    discovery,
    first_roots,
    grpc,
    grpc_cluster,
    identity,
    xds_cluster,
)

__all__ = ["ControlAddress", "for_envoy", "for_pymesh"]

Json = dict[str, Any]

#: What Istio calls the cluster that serves secrets beside a proxy.
SDS_CLUSTER = "sds-grpc"


def for_pymesh(workload: Workload, control: ControlAddress, token_file: Path) -> Json:
    """The bootstrap of our proxy."""
    return {
        **_shared(workload, grpc(XDS_CLUSTER)),
        "static_resources": {
            "clusters": [xds_cluster(control, {"name": ROOTS})],
            "secrets": [first_roots(control.root)],
        },
        "bootstrap_extensions": [identity(workload.spiffe_id, token_file)],
    }


def for_envoy(workload: Workload, control: ControlAddress, token: str, secrets: Path) -> Json:
    """The bootstrap of Envoy, with `secrets` the socket of its companion."""
    sds = grpc_cluster(SDS_CLUSTER, {"pipe": {"path": str(secrets)}})
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [grpc(SDS_CLUSTER)]}
    roots = {"name": ROOTS, "sds_config": {"api_config_source": source, "resource_api_version": "V3"}}
    service = {
        **grpc(XDS_CLUSTER),
        "initial_metadata": [{"key": "authorization", "value": f"Bearer {token}"}],
    }
    return {**_shared(workload, service), "static_resources": {"clusters": [xds_cluster(control, roots), sds]}}


def _shared(workload: Workload, service: Json) -> Json:
    # In a network of the mesh's own the control plane asks for metrics where the proxy's stream comes from.
    admin = "0.0.0.0" if workload.is_captured or (workload.gateway and workload.address != ADDRESS) else ADDRESS
    return {
        "node": {
            "id": workload.node_id,
            "locality": _locality(workload),
            "cluster": f"{workload.labels.get('app', workload.name)}.{workload.namespace}",
            "metadata": {
                "NAMESPACE": workload.namespace,
                "NAME": workload.name,
                "WORKLOAD_NAME": workload.app.name if workload.app else workload.name,
                "SERVICE_ACCOUNT": workload.service_account,
                "CLUSTER_ID": CLUSTER_ID,
                **_interception(workload),
                # As Istio's agent: where the metrics are. The control plane reads them for its web UI.
                "ENVOY_PROMETHEUS_PORT": workload.admin_port,
                ADMIN_ADDRESS: f"{ADDRESS}:{workload.admin_port}",
                "LABELS": dict(workload.labels),
            },
        },
        "admin": {"address": {"socket_address": {"address": admin, "port_value": workload.admin_port}}},
        "dynamic_resources": discovery(service),
    }


def _interception(workload: Workload) -> Json:
    if workload.network is None:
        return {"INTERCEPTION_MODE": "NONE"}
    return {"INTERCEPTION_MODE": "REDIRECT", "UPSTREAM_MARK": str(PROXY_MARK)}


def _locality(workload: Workload) -> Json:
    written = workload.app.locality if workload.app is not None else ""
    return dict(zip(("region", "zone", "sub_zone"), filter(None, written.split("/")), strict=False))
