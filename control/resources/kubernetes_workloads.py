"""Kubernetes' workloads and where they run: pods, nodes and namespaces.

They are written by others and for others. Of each, the few fields are read that say who a workload is and where.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from pymesh.control.resources.decode import Located, key, model
from pymesh.control.resources.metadata import Resource

REGION_LABEL: Final = "topology.kubernetes.io/region"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
#: Istio's; Kubernetes knows no part of a zone.
SUB_ZONE_LABEL: Final = "topology.istio.io/subzone"


@model
class PodSpec(Located):
    """Where a pod runs, and as whom."""

    PARTIAL: ClassVar = True

    node_name: str = ""
    service_account_name: str = "default"


@model
class PodIP(Located):
    """One address of a pod."""

    ip: str = ""


@model
class PodCondition(Located):
    """One statement about a pod."""

    PARTIAL: ClassVar = True

    type: str = ""
    status: str = ""


@model
class PodStatus(Located):
    """What the kubelet says of a pod."""

    PARTIAL: ClassVar = True

    phase: str = ""
    pod_ip: str = key("podIP", default="")
    pod_ips: tuple[PodIP, ...] = key("podIPs", default=())
    conditions: tuple[PodCondition, ...] = ()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The one that it is known by, and that of the other IP version if it has one; at least one, maybe empty."""
        return tuple(dict.fromkeys((self.pod_ip, *(one.ip for one in self.pod_ips))))


@model
class Pod(Resource):
    """``v1`` Pod."""

    PARTIAL: ClassVar = True

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, and its address may be another's."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def is_ready(self) -> bool:
        """Whether it is to get requests."""
        return any((one.type, one.status) == ("Ready", "True") for one in self.status.conditions)


@model
class Node(Resource):
    """``v1`` Node."""

    PARTIAL: ClassVar = True


@model
class Namespace(Resource):
    """``v1`` Namespace."""

    spec: Any = None
    status: Any = None
