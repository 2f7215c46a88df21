"""What serves: workloads with an address, labels and a place, whatever resource told of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from pymesh.control.resources.diagnostics import Position
from pymesh.control.resources.workloads import Endpoint, WorkloadEntry

#: On an endpoint: its proxy takes the mesh's mutual TLS.
TLS_MODE_LABEL = "security.istio.io/tlsMode"
#: The node that something runs on.
NODE_LABEL = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True, order=True)
class Locality:
    """Where something runs; an empty part is not known."""

    region: str = ""
    zone: str = ""
    sub_zone: str = ""

    @property
    def tells_zone_alone(self) -> bool:
        """As EndpointSlices do: region and sub-zone are not empty, but unknown."""
        return bool(self.zone) and not self.region

    @classmethod
    def parse(cls, text: str) -> Locality:
        """Istio's ``REGION/ZONE/SUBZONE``, as much of it as is known."""
        return cls(*text.split("/", 2)) if text else cls()


#: Where what tells of no place is.
SOMEWHERE = Locality()


@dataclass(frozen=True, slots=True)
class Workload:
    """Something with an address and labels."""

    name: str
    namespace: str
    address: str
    ports: Mapping[str, int] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    weight: int = 0
    locality: Locality = SOMEWHERE
    #: Its address of the other IP version, where it has both.
    second_address: str = ""
    #: What it is called below the name of a headless service.
    hostname: str = ""
    #: DRAINING: it still serves who is connected, and gets nobody new.
    health: Literal["HEALTHY", "DRAINING"] = "HEALTHY"
    #: Zones whose clients should prefer it, as EndpointSlices hint.
    for_zones: tuple[str, ...] = ()
    #: Whoever described it has named its service account, which it has as a member of the mesh.
    is_member: bool = False
    #: The document that tells of it.
    at: Position = field(default=Position("<built in>"), compare=False, repr=False)

    @property
    def in_mesh(self) -> bool:
        """Whether a proxy that speaks mutual TLS stands before it: its label says so, or else that it is a member."""
        return self.labels.get(TLS_MODE_LABEL, "istio" if self.is_member else "") == "istio"

    def address_for(self, ipv6: bool) -> str:
        """The address for a client that prefers this IP version."""
        return self.second_address if self.second_address and (":" in self.address) != ipv6 else self.address

    def is_at(self, address: str) -> bool:
        """Whether this is one of its addresses."""
        return address in (self.address, self.second_address) and bool(address)


def from_entry(entry: WorkloadEntry) -> Workload:
    """The workload of a WorkloadEntry."""
    return from_endpoint(entry.spec, entry.name, entry.namespace, {**entry.metadata.labels, **entry.spec.labels})


def from_endpoint(spec: Endpoint, name: str, namespace: str, labels: Mapping[str, str]) -> Workload:
    """The workload that an endpoint of a ServiceEntry, or the spec of a WorkloadEntry, describes."""
    locality = Locality.parse(spec.locality)
    return Workload(
        name,
        namespace,
        spec.address,
        spec.ports,
        labels,
        spec.service_account,
        spec.weight,
        locality,
        # As with Istio: "the service account associated with the workload if a sidecar is present in the workload".
        is_member=bool(spec.service_account),
        at=spec.place("address"),
    )


def select(workloads: Iterable[Workload], namespace: str, selector: Mapping[str, str]) -> list[Workload]:
    """The workloads of a namespace that have all the labels; none if none are asked for."""
    if not selector:
        return []
    return [w for w in workloads if w.namespace == namespace and selector.items() <= w.labels.items()]
