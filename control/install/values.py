"""What an installer decides; everything else of the manifests follows from it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from typing import Final, Literal

from pymesh.control.config import DEFAULT_TRUST_DOMAIN


def _version() -> str:
    try:
        return metadata.version("pymesh-proxy")
    except metadata.PackageNotFoundError:  # a source tree that nobody has installed
        return "0"


VERSION: Final = _version()
DEFAULT_IMAGE: Final = f"pymesh:{VERSION}"
#: Where resources hold for the whole mesh: Istio's name of it.
NAMESPACE: Final = "istio-system"


@dataclass(frozen=True, slots=True)
class Values:
    """See the module."""

    namespace: str = NAMESPACE
    #: Of the control plane, gateway and sidecars: one image has everything (`deploy/Dockerfile`).
    image: str = DEFAULT_IMAGE
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    cluster_id: str = "Kubernetes"
    #: An ingress gateway for Istio's and the Gateway API's Gateways.
    gateway: bool = True
    gateway_replicas: int = 1
    gateway_service_type: Literal["LoadBalancer", "NodePort", "ClusterIP"] = "LoadBalancer"
    #: Of the volume that keeps the mesh's root key; empty: the cluster's default.
    storage_class: str = ""
    #: What becomes of pods, and of resources, while the control plane does not answer.
    injection_failure_policy: Literal["Fail", "Ignore"] = "Fail"
    validation_failure_policy: Literal["Fail", "Ignore"] = "Ignore"

    @property
    def control(self) -> str:
        """Where proxies find the control plane."""
        return f"pymesh-control.{self.namespace}.svc:15012"
