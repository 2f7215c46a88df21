"""Pods and their nodes: who is behind an endpoint of a slice, and where it runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pymesh.control.resources.kubernetes_workloads import REGION_LABEL, SUB_ZONE_LABEL, ZONE_LABEL, Node, Pod
from pymesh.control.resources.metadata import Resource
from pymesh.control.store.workloads import NODE_LABEL, SOMEWHERE, Locality, Workload


@dataclass(frozen=True, slots=True)
class Pods:
    """The pods of a mesh by namespace and name, and the localities of nodes that tell one."""

    pods: Mapping[tuple[str, str], Pod] = field(default_factory=dict)
    localities: Mapping[str, Locality] = field(default_factory=dict)

    def named(self, namespace: str, name: str) -> Pod | None:
        """A pod."""
        return self.pods.get((namespace, name))

    def serving(self) -> list[Workload]:
        """The pods that are ready, as what serves."""
        return [
            Workload(
                pod.name,
                pod.namespace,
                first,
                labels=labels_of(pod.spec.node_name, pod),
                service_account=pod.spec.service_account_name,
                locality=self.localities.get(pod.spec.node_name, SOMEWHERE),
                second_address=others[0] if others else "",
                at=pod.at,
            )
            for pod in self.pods.values()
            if pod.is_ready
            for first, *others in (pod.status.addresses,)
            if first
        ]

    def places(self) -> dict[tuple[str, str], Locality]:
        """Where each pod runs, of those that is known of."""
        found = {key: self.localities.get(pod.spec.node_name, SOMEWHERE) for key, pod in self.pods.items()}
        return {key: place for key, place in found.items() if place != SOMEWHERE}


NO_PODS = Pods()


def labels_of(node: str, pod: Pod | None) -> dict[str, str]:
    """The labels of what runs on a node, as its clients see them."""
    return {**({NODE_LABEL: node} if node else {}), **(pod.metadata.labels if pod is not None else {})}


def gather(resources: Iterable[Resource]) -> Pods:
    """Those that have not ended."""
    pods: dict[tuple[str, str], Pod] = {}
    localities: dict[str, Locality] = {}
    for one in resources:
        if isinstance(one, Pod) and not one.is_over:
            pods[one.namespace, one.name] = one
        elif isinstance(one, Node):
            labels = one.metadata.labels
            place = Locality(*(labels.get(name, "") for name in (REGION_LABEL, ZONE_LABEL, SUB_ZONE_LABEL)))
            if place != SOMEWHERE:
                localities[one.name] = place
    return Pods(pods, localities)
