"""The Envoy v3 bootstrap of each proxy: who it is, where its configuration comes from, and how it gets its identity.

One shape for both proxies. Ours makes its key itself (`pymesh.identity.v1.WorkloadIdentity`); Envoy cannot, and asks a
companion, `pymesh agent`, for secrets over a Unix socket. Ours reads its join token from a file whenever it needs it;
Envoy's bootstrap holds it, and is private.

The control plane is trusted by the secret `ROOTCA`, as everybody in the mesh: when roots change, a proxy that has run
for long still reaches it. Ours begins with the roots of a file under that name; Envoy's companion does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymesh.control.identity.names import ROOTS
from pymesh.control.xds.node import ADMIN_ADDRESS
from pymesh.local.plan import ADDRESS, CLUSTER_ID, PROXY_MARK, Workload

Json = dict[str, Any]

XDS_CLUSTER = "xds-grpc"
#: What Istio calls the cluster that serves secrets beside a proxy.
SDS_CLUSTER = "sds-grpc"

_TYPE = "type.googleapis.com/"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """How a proxy reaches the control plane and whom it trusts there at first."""

    port: int
    root: Path
    host: str = ADDRESS


def for_pymesh(workload: Workload, control: ControlAddress, token_file: Path) -> Json:
    """The bootstrap of our proxy."""
    identity = {
        "@type": f"{_TYPE}pymesh.identity.v1.WorkloadIdentity",
        "ca_cluster": XDS_CLUSTER,
        "spiffe_id": workload.spiffe_id,
        "token_path": str(token_file),
    }
    return {
        **_shared(workload, _grpc(XDS_CLUSTER)),
        "static_resources": {
            "clusters": [_xds_cluster(control, {"name": ROOTS})],
            "secrets": [{"name": ROOTS, "validation_context": {"trusted_ca": {"filename": str(control.root)}}}],
        },
        "bootstrap_extensions": [{"name": "pymesh.identity", "typed_config": identity}],
    }


def for_envoy(workload: Workload, control: ControlAddress, token: str, secrets: Path) -> Json:
    """The bootstrap of Envoy, with `secrets` the socket of its companion."""
    sds = _cluster(SDS_CLUSTER, {"pipe": {"path": str(secrets)}})
    source = {"api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [_grpc(SDS_CLUSTER)]}
    roots = {"name": ROOTS, "sds_config": {"api_config_source": source, "resource_api_version": "V3"}}
    service = {
        **_grpc(XDS_CLUSTER),
        "initial_metadata": [{"key": "authorization", "value": f"Bearer {token}"}],
    }
    return {**_shared(workload, service), "static_resources": {"clusters": [_xds_cluster(control, roots), sds]}}


def _grpc(cluster: str) -> Json:
    return {"envoy_grpc": {"cluster_name": cluster}}


def _shared(workload: Workload, service: Json) -> Json:
    source = {"api_type": "DELTA_GRPC", "transport_api_version": "V3", "grpc_services": [service]}
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
        "dynamic_resources": {
            "ads_config": source,
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
        },
    }


def _interception(workload: Workload) -> Json:
    if workload.network is None:
        return {"INTERCEPTION_MODE": "NONE"}
    return {"INTERCEPTION_MODE": "REDIRECT", "UPSTREAM_MARK": str(PROXY_MARK)}


def _locality(workload: Workload) -> Json:
    written = workload.app.locality if workload.app is not None else ""
    return dict(zip(("region", "zone", "sub_zone"), filter(None, written.split("/")), strict=False))


def _xds_cluster(control: ControlAddress, roots: Json) -> Json:
    address = {"socket_address": {"address": control.host, "port_value": control.port}}
    context = {
        "@type": f"{_TYPE}envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "localhost",
        "common_tls_context": {
            "alpn_protocols": ["h2"],
            "combined_validation_context": {
                "default_validation_context": {
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": "localhost"}}],
                },
                "validation_context_sds_secret_config": roots,
            },
        },
    }
    return {
        **_cluster(XDS_CLUSTER, address),
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
    }


def _cluster(name: str, address: Json) -> Json:
    options = {"@type": _TYPE + _HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {_HTTP_OPTIONS: options},
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    }
