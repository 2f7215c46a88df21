"""Istio's security resources: whom workloads let in.

PeerAuthentication: whether connections must, may or cannot be mutual TLS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, Literal

from pymesh.control.resources.decode import Located, Problem, model
from pymesh.control.resources.metadata import Resource

#: UNSET: as the next wider policy says.
MtlsMode = Literal["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]


@model
class Selector(Located):
    """Labels that a workload must have, all of them."""

    match_labels: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        for key, value in self.match_labels.items():
            if "*" in key + value:
                yield Problem("matchLabels", f"{key}: {value} has a wildcard", "name the label's value")

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether a workload with these labels is meant."""
        return self.match_labels.items() <= labels.items()


@model
class Mtls(Located):
    """Whether connections are mutual TLS."""

    mode: MtlsMode = "UNSET"


@model
class PeerAuthenticationSpec(Located):
    """For all workloads of the namespace (of the mesh, in the root namespace), or for those that it selects."""

    selector: Selector | None = None
    mtls: Mtls = Mtls()
    #: Port of the workload -> in place of ``mtls`` there.
    port_level_mtls: Mapping[str, Mtls] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        if self.port_level_mtls and (self.selector is None or not self.selector.match_labels):
            yield Problem(
                "portLevelMtls", "ports belong to workloads, and none is selected", "add selector.matchLabels"
            )
        for port in self.port_level_mtls:
            if not port.isdecimal() or not 0 < int(port) < 65536:
                yield Problem("portLevelMtls", f"{port!r} is not a port", "write the number of the workload's port")


@model
class PeerAuthentication(Resource):
    """``security.istio.io`` PeerAuthentication."""

    spec: PeerAuthenticationSpec = PeerAuthenticationSpec()
    status: Any = None
