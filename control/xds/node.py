"""Who connects: the node that a proxy describes, checked against the identity that it proved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf import json_format

from pymesh.control.identity.spiffe import Identity

#: Istio's metadata keys that say who a proxy is.
NAMESPACE = "NAMESPACE"
SERVICE_ACCOUNT = "SERVICE_ACCOUNT"
#: Ours: where an operator's commands find the proxy's admin pages.
ADMIN_ADDRESS = "ADMIN_ADDRESS"


class NodeRefusedError(Exception):
    """The node's description cannot be accepted."""


class NotYetError(Exception):
    """There is no configuration for anybody yet: ask again."""


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Node:
    """A proxy's description of itself."""

    id: str
    cluster: str
    metadata: Mapping[str, Any]
    locality: tuple[str, str, str]
    #: ``user_agent_name``: ``envoy`` for Envoy, which does not know our private types.
    user_agent: str
    #: What the proxy proved with its token; None only where authentication is off.
    identity: Identity | None
    #: Of the proxy's program, if it says so in a word; Envoy says it otherwise.
    user_agent_version: str = ""
    #: Whether it may have the Secrets of its namespace.
    reads_secrets: bool = True


def accept(described: Any, identity: Identity | None) -> Node:
    """The node of a first request. Raises :class:`NodeRefusedError`.

    A proxy may not describe itself as part of another namespace or service account than it authenticated as, nor leave
    out what would tell: whatever reads the metadata finds what was proved.
    """
    if not described.id:
        raise NodeRefusedError("the first request must name the proxy: node.id is empty")
    if len(described.id) > 1024:
        raise NodeRefusedError("node.id is longer than 1024 characters")
    try:
        metadata = json_format.MessageToDict(described.metadata)
    except (json_format.SerializeToJsonError, ValueError, RecursionError) as error:
        raise NodeRefusedError(f"node.metadata cannot be read: {error}") from error
    if identity is not None:
        for key, proved in ((NAMESPACE, identity.namespace), (SERVICE_ACCOUNT, identity.service_account)):
            claimed = metadata.get(key, proved)
            if claimed != proved:
                raise NodeRefusedError(f"node.metadata {key} is {claimed!r}, the token is of {proved!r}")
            metadata[key] = proved
        in_id = _namespace_in(described.id)
        if in_id not in ("", identity.namespace):
            raise NodeRefusedError(f"node.id is of namespace {in_id!r}, the token is of {identity.namespace!r}")
    where = described.locality
    locality = (where.region, where.zone, where.sub_zone)
    agent = described.user_agent_name
    return Node(described.id, described.cluster, metadata, locality, agent, identity, described.user_agent_version[:64])


def is_gateway(node_id: str) -> bool:
    """Whether a node id is that of a proxy at the mesh's edge: Istio's ``router~...``."""
    return node_id.partition("~")[0] == "router"


def _namespace_in(node_id: str) -> str:
    """The namespace in Istio's ``KIND~ADDRESS~NAME.NAMESPACE~DOMAIN``; empty if there is none."""
    parts = node_id.split("~")
    return parts[2].rpartition(".")[2] if len(parts) == 4 and "." in parts[2] else ""
