"""The metrics that Istio's stock dashboards ask for: whether a mesh of ours has them, and why not.

The dashboards themselves are those of the Istio that `tests/tools/istioctl` is built of. A name that is in neither
table is new there, and has to be thought about.
"""

from __future__ import annotations

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from tests.tools.peers import ROOT

#: Those that are about the mesh; the others are about Wasm, ztunnel and Kubernetes.
STOCK = (
    "istio-mesh-dashboard.gen.json",
    "istio-service-dashboard.json",
    "istio-workload-dashboard.json",
    "istio-performance-dashboard.json",
    "pilot-dashboard.gen.json",
)

ANSWERED = {
    "istio_requests_total",
    "istio_request_duration_milliseconds_bucket",
    "istio_request_bytes_bucket",
    "istio_request_bytes_sum",
    "istio_response_bytes_bucket",
    "istio_response_bytes_sum",
    "istio_tcp_received_bytes_total",
    "istio_tcp_sent_bytes_total",
    "istio_build",
    "pilot_xds",
    "pilot_xds_pushes",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_cpu_seconds_total",
    "process_open_fds",
}

_CONTAINERS = "the kubelet tells it of containers; there are none"
_GO = "the control plane is no Go program"
_KUBERNETES = "of a control plane on Kubernetes"
ABSENT = {
    "istio_request_duration_seconds_bucket": "an older name, asked for beside the one of today",
    "container_cpu_usage_seconds_total": _CONTAINERS,
    "container_memory_working_set_bytes": _CONTAINERS,
    "container_fs_usage_bytes": _CONTAINERS,
    "go_goroutines": _GO,
    "go_memstats_alloc_bytes": _GO,
    "go_memstats_alloc_bytes_total": _GO,
    "go_memstats_heap_alloc_bytes": _GO,
    "go_memstats_heap_inuse_bytes": _GO,
    "go_memstats_heap_sys_bytes": _GO,
    "go_memstats_mallocs_total": _GO,
    "go_memstats_stack_inuse_bytes": _GO,
    "pilot_k8s_cfg_events": _KUBERNETES,
    "pilot_k8s_reg_events": _KUBERNETES,
    "galley_validation_passed": _KUBERNETES,
    "galley_validation_failed": _KUBERNETES,
    "sidecar_injection_success_total": _KUBERNETES,
    "sidecar_injection_failure_total": _KUBERNETES,
    "pilot_total_xds_rejects": "nothing has been refused",
    "pilot_total_xds_internal_errors": "not counted",
    "pilot_push_triggers": "not counted",
    "pilot_xds_push_time_bucket": "not counted: pilot_proxy_convergence_time is",
    "pilot_xds_config_size_bytes_bucket": "not counted: pilot_xds_sent_bytes is",
    "envoy_cluster_upstream_cx_active": "the stream to the control plane is no cluster of the data path",
}

#: What a query for one reporter cannot find in a mesh where everything is mutual TLS. A source's proxy says of a
#: connection's security that it is unknown, as Istio's does.
IMPOSSIBLE = {
    "source": ('connection_security_policy="mutual_tls"', 'destination_principal!~"spiffe'),
    "destination": ('connection_security_policy!="mutual_tls"', 'source_principal!~"spiffe'),
}


@cache
def folder() -> Path:
    """Where the dashboards are."""
    module = ROOT / "tests" / "tools" / "istioctl"
    done = subprocess.run(
        ["go", "mod", "download", "-json", "istio.io/istio"], cwd=module, capture_output=True, text=True, check=True
    )
    return Path(json.loads(done.stdout)["Dir"]) / "manifests" / "addons" / "dashboards"


def dashboard(name: str) -> Any:
    """One of them."""
    return json.loads((folder() / name).read_text())
