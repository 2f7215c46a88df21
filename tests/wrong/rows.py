"""The table of wrong resources: its rows, and what follows from the kind of a resource alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import KINDS, REFUSED_KINDS
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.objects import load_object
from pymesh.control.sources.kubernetes.kinds import watched

Object = dict[str, Any]

_HERE = Path(__file__).parent
#: What the rows are tried beside.
MESH: Final = (_HERE / "mesh.yaml").read_text()
NAMESPACE: Final = "shop"
FAULTS: Final = ("unknown field", "wrong value", "missing reference")
#: Kinds that decide who gets in: what cannot be used closes what it was for.
CLOSING: Final = ("AuthorizationPolicy", "PeerAuthentication", "PythonFilter", "RequestAuthentication", "Sidecar")
ROUTES: Final = ("HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute")

_ISTIO, _OURS = "istio.io", "extensions.pymesh.dev"
_GATEWAY_API = "gateway.networking.k8s.io"


@dataclass(frozen=True, eq=False)
class Row:
    """See the head of table.yaml. Each is itself alone."""

    kind: str
    fault: str
    body: Mapping[str, Any]
    at: str
    message: str
    hint: str = ""
    severity: str = "error"
    partial: bool = False
    by: str = "store"
    code: str = ""
    webhook_hint: str | None = None
    server: str = ""
    conditions: tuple[str, ...] | None = None
    condition_message: str = ""

    @property
    def version(self) -> str:
        """``apiVersion``."""
        name, _, group = self.kind.partition(".")
        known = {(one.name, one.group): one for one in watched("istio-system")}
        found = next(one for (kind, of), one in known.items() if kind == name and group in ("", of))
        return found.version(found.versions[0])

    @property
    def group(self) -> str:
        """Of the kind; empty: Kubernetes' own."""
        return self.version.rpartition("/")[0]

    @property
    def name(self) -> str:
        """Of the kind, without its group."""
        return self.kind.partition(".")[0]

    def document(self, named: str = "wrong", namespace: str = NAMESPACE) -> Object:
        """The resource."""
        metadata: Object = {"name": named, "namespace": namespace}
        if self.name in ("Node", "Namespace"):
            del metadata["namespace"]
        elif self.name == "ConfigMap":
            metadata = {"name": "istio", "namespace": "istio-system"}
        body = dict(self.body)
        metadata |= body.pop("metadata", {})
        return {"apiVersion": self.version, "kind": self.name, "metadata": metadata, **body}

    @property
    def place(self) -> str:
        """Where it is in a cluster."""
        metadata = self.document()["metadata"]
        shown = f"Gateway.{self.group}" if self.name == "Gateway" else self.name
        object_ = "/".join(part for part in (shown, metadata.get("namespace"), metadata["name"]) if part)
        return f"{object_}:{self.at}" if self.at else object_

    @property
    def told_code(self) -> str:
        """`pymesh analyze`'s."""
        return self.code or ("IST0101" if self.fault == "missing reference" else "IST0106")

    @property
    def line(self) -> str:
        """As conditions and Events have it."""
        return f"{self.place}: {self.message}" + (f"; hint: {self.hint}" if self.hint else "")

    @property
    def event(self) -> str:
        """The reason of the Event."""
        return "PartiallyInvalid" if self.partial else "Refused"

    @property
    def is_found_in_a_cluster(self) -> bool:
        """Whether the control plane finds it among the objects of a cluster."""
        return self.by == "store"

    def expected_conditions(self) -> list[tuple[str, str]]:
        """TYPE=STATUS REASON and message of each condition, in their order."""
        is_wrong, text = self.severity == "error", self.line if self.is_found_in_a_cluster else ""
        if self.conditions is not None:
            shown = list(self.conditions)
        elif self.name in ROUTES:
            shown = ["Accepted=False UnsupportedValue"]
        elif self.group == _GATEWAY_API:
            shown = ["Accepted=False Invalid", "Programmed=False Invalid"] if self.name == "Gateway" else []
        elif self.group == _OURS:
            shown = ["Accepted=True Accepted", "Programmed=True Programmed"]
            shown = ["Accepted=False Invalid", "Programmed=False Invalid"] if is_wrong else shown
        elif self.group.endswith(_ISTIO):
            shown = ["Accepted=False Invalid"] if is_wrong else ["Accepted=True Accepted"]
            shown = ["Accepted=True PartiallyInvalid"] if self.partial else shown
        else:
            shown = []  # its status is others'
        return [(one, self._message(one, text)) for one in shown]

    def _message(self, condition: str, text: str) -> str:
        if self.group == _OURS and condition.startswith("Programmed"):
            return ""
        if self.group == _GATEWAY_API:
            return (self.condition_message or text) if "=False" in condition else ""
        return text


def rows() -> list[Row]:
    """All of them."""
    written = yaml.safe_load((_HERE / "table.yaml").read_text())
    return [Row(**{**one, "conditions": tuple(one["conditions"]) if "conditions" in one else None}) for one in written]


def kinds() -> list[str]:
    """Every kind that there is to be wrong, as rows name it."""
    several = {name for _, name in KINDS if sum(name == other for _, other in KINDS) > 1}
    read = [f"{name}.{group}" if name in several else name for group, name in KINDS]
    return [*read, *(one.name for one in watched("istio-system") if one.name in REFUSED_KINDS)]


@cache
def mesh() -> tuple[Resource, ...]:
    """What the rows are tried beside, as a cluster has it."""
    found = [load_object(one, Report()) for one in yaml.safe_load_all(MESH)]
    made = [one for one in found if one is not None]
    assert len(made) == len(found)
    return tuple(made)
