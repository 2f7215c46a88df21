"""The proxy that configuration is made for, as its node describes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from pymesh.control.store.workloads import NODE_LABEL, SOMEWHERE, Locality

Interception = Literal["NONE", "REDIRECT", "TPROXY"]


class ProxyError(ValueError):
    """A node that does not say what the mesh needs to know."""


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy of the mesh."""

    kind: Literal["sidecar", "router"]
    address: str
    name: str
    namespace: str
    labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    cluster_id: str = "Kubernetes"
    #: A foreign proxy: Envoy's own extensions, and no Python.
    is_envoy: bool = False
    #: How the kernel leads the workload's connections to it; NONE: it listens on explicit ports.
    interception: Interception = "NONE"
    #: Where it runs.
    locality: Locality = SOMEWHERE
    #: What its connections are marked with, for rules that know it by that (`SO_MARK`); None: they know it otherwise.
    mark: int | None = None
    #: Whether it may have the Secrets of its namespace.
    reads_secrets: bool = True
    #: The workload's TCP ports that have a name, by it.
    ports: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_captured(self) -> bool:
        """Whether connections come with the address that the client wanted."""
        return self.kind == "sidecar" and self.interception != "NONE"

    @property
    def is_ipv6(self) -> bool:
        """Which version of IP it prefers; as with Istio, that of its address."""
        return ":" in self.address

    @classmethod
    def parse(
        cls,
        node_id: str,
        metadata: Mapping[str, Any],
        user_agent: str = "",
        locality: Locality = SOMEWHERE,
        reads_secrets: bool = True,
    ) -> Proxy:
        """From Istio's node id ``KIND~ADDRESS~NAME.NAMESPACE~DOMAIN``, metadata, user agent, and locality."""
        parts = node_id.split("~")
        if len(parts) != 4 or parts[0] not in ("sidecar", "router"):
            raise ProxyError(f"node id {node_id!r}; hint: sidecar~IP~NAME.NAMESPACE~DOMAIN, or router~...")
        name, _, in_id = parts[2].rpartition(".")
        namespace = str(metadata.get("NAMESPACE") or in_id)
        if not name or not namespace:
            raise ProxyError(f"node id {node_id!r} names no workload; hint: its third part is NAME.NAMESPACE")
        labels = metadata.get("LABELS") or {}
        if not isinstance(labels, Mapping):
            raise ProxyError("node metadata LABELS must be a mapping of strings")
        return cls(
            "sidecar" if parts[0] == "sidecar" else "router",
            parts[1],
            name,
            namespace,
            {**_of_node(metadata), **{str(key): str(value) for key, value in labels.items()}},
            str(metadata.get("SERVICE_ACCOUNT") or "default"),
            str(metadata.get("CLUSTER_ID") or "Kubernetes"),
            user_agent == "envoy",
            _interception(metadata.get("INTERCEPTION_MODE") or "NONE"),
            locality,
            _mark(metadata.get("UPSTREAM_MARK")),
            reads_secrets,
            _ports(metadata.get("POD_PORTS")),
        )


def _of_node(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The label that tells where a workload runs."""
    name = metadata.get("NODE_NAME")
    return {NODE_LABEL: str(name)} if name else {}


def _ports(written: object) -> dict[str, int]:
    """Istio's POD_PORTS: container ports as Kubernetes has them, a list or the JSON text of one."""
    if written is None or written == "":
        return {}
    try:
        listed = json.loads(written) if isinstance(written, str) else written
    except ValueError:
        listed = None
    if not isinstance(listed, list) or not all(isinstance(one, Mapping) for one in listed):
        raise ProxyError(f"node metadata POD_PORTS {str(written)[:80]!r}; hint: a list of container ports in JSON")
    found: dict[str, int] = {}
    for one in listed:
        name, number = one.get("name"), one.get("containerPort")
        if name and isinstance(number, int | float) and one.get("protocol", "TCP") == "TCP":
            found.setdefault(str(name), int(number))
    return found


def _mark(written: object) -> int | None:
    if written is None:
        return None
    text = str(int(written)) if isinstance(written, float) else str(written)
    if not text.isascii() or not text.isdecimal() or not 0 < int(text) < 2**32:
        raise ProxyError(f"node metadata UPSTREAM_MARK {written!r}; hint: a number from 1 to 4294967295")
    return int(text)


def _interception(written: object) -> Interception:
    for mode in get_args(Interception):
        if written == mode:
            return mode  # type: ignore[no-any-return]
    raise ProxyError(f"node metadata INTERCEPTION_MODE {written!r}; hint: REDIRECT, TPROXY or NONE")
