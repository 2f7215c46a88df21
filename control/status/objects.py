"""A resource as its API server has it, beside what was made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pymesh.control.resources.diagnostics import Diagnostic
from pymesh.control.resources.gateway import Gateway
from pymesh.control.resources.gateway_api import KubeGateway
from pymesh.control.resources.metadata import Resource

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Object:
    """One resource."""

    #: ``group/version``, or ``version`` of the core group.
    version: str
    kind: str
    #: The document, with its ``metadata`` and the ``status`` that it has now.
    document: Json
    #: None: it could not be read.
    resource: Resource | None = None
    #: Everything that was found about it, errors and warnings.
    findings: tuple[Diagnostic, ...] = ()
    #: What is in force in its place; None: nothing is.
    in_force: Resource | None = None

    @property
    def name(self) -> str:
        """Its name in its namespace."""
        return str(self.document["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """The namespace that it is in; empty if it is in none."""
        return str(self.document["metadata"].get("namespace", ""))

    @property
    def uid(self) -> str:
        """What tells it from another of the same name."""
        return str(self.document["metadata"].get("uid", ""))

    @property
    def generation(self) -> int:
        """Of what its author wrote."""
        return int(self.document["metadata"].get("generation") or 0)

    @property
    def spec(self) -> Json:
        """What its author wrote; empty if that is no mapping."""
        return _mapping(self.document.get("spec"))

    @property
    def status(self) -> Json:
        """What was told of it before."""
        return _mapping(self.document.get("status"))

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        """What is wrong with it."""
        return tuple(one for one in self.findings if one.severity == "error")

    @property
    def is_partial(self) -> bool:
        """Whether it is in force but for what is wrong: references to what is not there, or some of its listeners."""
        return bool(self.errors) and (_serves(self.in_force) or self.in_force is self.resource is not None)

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.kind} {self.namespace}/{self.name}"


def _serves(rest: Resource | None) -> bool:
    """Whether it is a Gateway with at least one listener left."""
    if isinstance(rest, Gateway):
        return bool(rest.spec.servers)
    return isinstance(rest, KubeGateway) and bool(rest.spec.listeners)


def _mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}
