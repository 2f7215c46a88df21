"""Resources in their wire form, encoded once and shared by every proxy that gets them.

A resource's version is a hash of its content, so equal content is one :class:`Resource` object however
many proxies and pushes use it, and a control plane that restarts computes the same versions again. Both
protocol variants carry resources in field 2 of the response: the bytes kept here are those fields, tag
and length included, and a response is a header followed by the fields of its resources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from pymesh.control.xds import pb
from pymesh.control.xds.layers import Layer, Layered

#: Tag of field 2, length-delimited, in DiscoveryResponse (``resources``) and DeltaDiscoveryResponse
#: (``resources``).
_FIELD_2 = b"\x12"


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Resource:
    """One encoded resource. Two are the same exactly when they are the same object."""

    type_url: str
    name: str
    #: Hash of the content.
    version: str
    #: The encoded message itself.
    body: bytes
    #: As a field of a state-of-the-world DiscoveryResponse.
    sotw: bytes
    #: As a field of a DeltaDiscoveryResponse.
    delta: bytes
    #: For a cluster that discovers its endpoints: the name of the endpoint resource it waits for.
    endpoints: str | None = None

    def message(self) -> Any:
        """The decoded message, for people to look at."""
        return pb.unpack(pb.Any(type_url=self.type_url, value=self.body))


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All resources of one type for one proxy."""

    resources: Mapping[str, Resource]
    #: Hash over the names and versions of the resources.
    version: str


#: What one proxy should have: type URL -> table.
Snapshot = Mapping[str, Table]


class ResourceCache:
    """Interns resources and tables by content; entries live as long as a snapshot or a stream uses them."""

    def __init__(self) -> None:
        self._resources: WeakValueDictionary[tuple[str, str, str], Resource] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._resources)

    def resource(self, type_url: str, name: str, message: pb.Message) -> Resource:
        """The shared encoded form of ``message``."""
        body = pb.encode(message)
        version = hashlib.blake2b(body, digest_size=12).hexdigest()
        key = (type_url, name, version)
        known = self._resources.get(key)
        if known is not None:
            return known
        packed = pb.Any(type_url=type_url, value=body)
        framed = pb.message("envoy.service.discovery.v3.Resource")(name=name, version=version, resource=packed)
        fresh = Resource(
            type_url=type_url,
            name=name,
            version=version,
            body=body,
            sotw=_field(pb.encode(packed)),
            delta=_field(pb.encode(framed)),
            endpoints=_awaited_endpoints(message) if type_url == pb.CLUSTER else None,
        )
        self._resources[key] = fresh
        return fresh

    def snapshot(self, messages: Mapping[str, Mapping[str, pb.Message]], previous: Snapshot | None = None) -> Snapshot:
        """Encode what translation made for one proxy (type URL -> name -> message).

        A table equal to the one in ``previous`` is that same object: that is how a stream sees at once
        that nothing of a type changed.
        """
        tables: dict[str, Table] = {}
        for type_url, named in messages.items():
            before = previous.get(type_url) if previous is not None else None
            if isinstance(named, Layered):
                table = self._layered(type_url, named, before)
            else:
                table = self._table(type_url, named)
            tables[type_url] = before if before and before.version == table.version else table
        return tables

    def _table(self, type_url: str, named: Mapping[str, pb.Message]) -> Table:
        resources = {name: self.resource(type_url, name, named[name]) for name in sorted(named)}
        return Table(resources, _table_version(resources))

    def _layered(self, type_url: str, named: Layered, before: Table | None) -> Table:
        common = self._layer(type_url, named.common)
        if not named.own:
            return common
        own = self._layer(type_url, named.own)
        version = _digest([common.version, own.version])
        if before is not None and before.version == version:
            return before
        merged = {**common.resources, **own.resources}
        return Table({name: merged[name] for name in sorted(merged)}, version)

    def _layer(self, type_url: str, layer: Layer) -> Table:
        """A layer is encoded once, whoever gets it and however often."""
        if layer.encoded is None or layer.encoded[0] is not self:
            layer.encoded = (self, self._of_origin(type_url, layer) or self._table(type_url, layer))
            layer.origin = None  # of which nothing more is needed
        table: Table = layer.encoded[1]
        return table

    def _of_origin(self, type_url: str, layer: Layer) -> Table | None:
        """The table of a layer that is another one but for a few messages; None: it is not."""
        if layer.origin is None:
            return None
        origin, names = layer.origin
        if origin.encoded is None or origin.encoded[0] is not self:
            return None
        before: Table = origin.encoded[1]
        fresh = {name: self.resource(type_url, name, layer[name]) for name in names}
        if all(before.resources.get(name) is one for name, one in fresh.items()):
            return before
        resources = {**before.resources, **fresh}
        return Table(resources, _table_version(resources))


def _table_version(resources: Mapping[str, Resource]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for name, resource in resources.items():
        digest.update(f"{len(name)}:{name}{resource.version}".encode())
    return digest.hexdigest()


def _digest(versions: Iterable[str]) -> str:
    return hashlib.blake2b(" ".join(versions).encode(), digest_size=12).hexdigest()


def _awaited_endpoints(cluster: Any) -> str | None:
    if cluster.type != pb.Cluster.EDS:
        return None
    return str(cluster.eds_cluster_config.service_name or cluster.name)


def _field(encoded: bytes) -> bytes:
    """``encoded`` as field 2: tag, varint length, bytes."""
    length = bytearray()
    rest = len(encoded)
    while rest > 0x7F:
        length.append(rest & 0x7F | 0x80)
        rest >>= 7
    length.append(rest)
    return _FIELD_2 + bytes(length) + encoded
