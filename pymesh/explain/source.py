"""Who is in a mesh, and what each proxy is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pymesh.control.identity.spiffe import Identity

#: Type URL -> name -> message.
Messages = Mapping[str, Mapping[str, Any]]


class SourceError(Exception):
    """A mesh that cannot be looked at: what is wrong, one problem a line."""


@dataclass(frozen=True, slots=True)
class Member:
    """A proxy of the mesh."""

    kind: Literal["sidecar", "router"]
    name: str
    namespace: str
    address: str
    #: None where proxies have none (xDS without authentication).
    identity: str | None

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.name}.{self.namespace}"

    @property
    def node_id(self) -> str:
        """How it introduces itself to a control plane."""
        return f"{self.kind}~{self.address}~{self.title}~{self.namespace}.svc.cluster.local"


@dataclass(frozen=True, slots=True)
class Written:
    """A resource of the mesh, and where it was written."""

    kind: str
    namespace: str
    name: str
    at: str
    #: Rules by number (policies) or by the name of their route -> where they stand, as far as that is known.
    parts: Mapping[str, str] = field(default_factory=dict)


class Source(Protocol):
    """A mesh."""

    @property
    def trust_domain(self) -> str:
        """That of its identities."""

    def members(self) -> Sequence[Member]:
        """Its proxies, by name."""

    def messages(self, member: Member) -> Messages:
        """What a proxy is told. Raises :class:`SourceError`."""

    def stranger(self, identity: Identity) -> Member | None:
        """A sidecar of this identity, where no member has it; None if what it would be told is not known."""

    def why_not(self, name: str) -> str | None:
        """Why a workload of this name is no member, if there is one."""

    def written(self) -> Sequence[Written]:
        """The resources in use."""
