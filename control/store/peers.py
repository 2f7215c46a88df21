"""Whether connections to a workload's port are mutual TLS, as PeerAuthentications say.

The closest policy that says something counts: the port's, the workload's, its namespace's, the mesh's. Of two for the
same the older one counts. Without any, it must be mutual TLS: what Istio allows for the time of a migration, plain text
from whoever comes, is to be asked for here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.security import MtlsMode, PeerAuthentication, PeerAuthenticationSpec
from pymesh.control.store.services import Backend

DEFAULT: MtlsMode = "STRICT"


@dataclass(frozen=True, slots=True)
class Peers:
    """The PeerAuthentications of a mesh, the oldest first."""

    policies: Sequence[PeerAuthentication] = ()
    root_namespace: str = "istio-system"

    def mode(self, namespace: str, labels: Mapping[str, str], port: int) -> MtlsMode:
        """Of connections to a port of a workload; never UNSET."""
        return next((mode for mode in self._said(namespace, labels, port) if mode != "UNSET"), DEFAULT)

    def ports(self, namespace: str, labels: Mapping[str, str]) -> list[int]:
        """Those of a workload that have a setting of their own."""
        return [int(port) for spec in self._selecting(namespace, labels)[:1] for port in spec.port_level_mtls]

    def accepts_mutual_tls(self, backend: Backend) -> bool:
        """Whether clients speak it to a port of a workload: its proxy can, and no policy forbids it."""
        workload = backend.workload
        if not workload.in_mesh:
            return False
        return not self.policies or self.mode(workload.namespace, workload.labels, backend.port) != "DISABLE"

    def _said(self, namespace: str, labels: Mapping[str, str], port: int) -> Iterator[MtlsMode]:
        """What the policies say, the closest first."""
        for spec in self._selecting(namespace, labels)[:1]:
            ported = spec.port_level_mtls.get(str(port))
            if ported is not None:
                yield ported.mode
            yield spec.mtls.mode
        for owner in (namespace, self.root_namespace):
            for one in self.policies:
                if one.namespace == owner and _is_general(one):
                    yield one.spec.mtls.mode
                    break

    def _selecting(self, namespace: str, labels: Mapping[str, str]) -> list[PeerAuthenticationSpec]:
        """Of policies for this workload and not for all of its namespace."""
        return [
            one.spec
            for one in self.policies
            if one.namespace == namespace
            and one.spec.selector is not None
            and one.spec.selector.match_labels
            and one.spec.selector.selects(labels)
        ]


def gather(written: Sequence[PeerAuthentication], root_namespace: str, report: Report) -> Peers:
    """All of them; a general one that another stands before is told."""
    general: dict[str, PeerAuthentication] = {}
    for one in written:
        if _is_general(one):
            first = general.setdefault(one.namespace, one)
            if first is not one:
                report.warning(
                    one.metadata.place("name"),
                    f"{one.title} has no effect: {first.title} is older and for the same workloads",
                    f"remove one of them; the other is at {first.at}",
                )
    return Peers(written, root_namespace)


def _is_general(one: PeerAuthentication) -> bool:
    return one.spec.selector is None or not one.spec.selector.match_labels
