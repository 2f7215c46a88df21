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
from weakref import ReferenceType, WeakKeyDictionary, WeakValueDictionary, ref

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


#: So many tables in a row, each known to be another but for a few names, are looked through for a change.
_STEPS = 8
_NO_NAMES: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Table:
    """All resources of one type for one proxy."""

    #: In the order of names.
    resources: Mapping[str, Resource]
    #: Hash over the names and versions of the resources.
    version: str
    #: The tables that it is put together from, if it is.
    layers: tuple[Table, ...] = ()
    #: The table that it is but for resources of these names.
    origin: tuple[ReferenceType[Table], frozenset[str]] | None = None

    def all(self) -> Iterable[Resource]:
        """The resources, in the order of names."""
        if not isinstance(self.resources, Layered):
            return self.resources.values()
        merged = {**self.resources.common, **self.resources.own}
        return [merged[name] for name in sorted(merged)]

    def differing(self, before: Table) -> frozenset[str] | None:
        """The names about which it may say something else than a table before it; None: that is not known."""
        names = _NO_NAMES
        if len(self.layers) == len(before.layers) != 0:
            for mine, theirs in zip(self.layers, before.layers, strict=True):
                part = mine.differing(theirs)
                if part is None:
                    return None
                names = names | part if names and part else names or part
            return names
        at = self
        for _ in range(_STEPS):
            if at is before:
                return names
            if at.origin is None:
                return None
            earlier, changed = at.origin[0](), at.origin[1]
            if earlier is None:
                return None
            names, at = names | changed if names else changed, earlier
        return None


#: What one proxy should have: type URL -> table.
Snapshot = Mapping[str, Table]


class ResourceCache:
    """Interns resources and tables by content; entries live as long as a snapshot or a stream uses them."""

    def __init__(self) -> None:
        self._resources: WeakValueDictionary[tuple[str, str, str], Resource] = WeakValueDictionary()
        self._tables: WeakValueDictionary[tuple[str, str], Table] = WeakValueDictionary()
        #: A table -> the latest other resources in it, and what it became: many proxies have it and are told the same.
        self._after: WeakKeyDictionary[Table, tuple[dict[str, Resource], ReferenceType[Table]]] = WeakKeyDictionary()

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
            table = self._made(type_url, named, before)
            is_same = before is table or (before is not None and before.version == table.version)
            tables[type_url] = before if before is not None and is_same else table
        return tables

    def _made(self, type_url: str, named: Mapping[str, pb.Message], before: Table | None = None) -> Table:
        if isinstance(named, Layered):
            return self._layered(type_url, named, before)
        return self._layer(type_url, named) if isinstance(named, Layer) else self._table(type_url, named)

    def _table(self, type_url: str, named: Mapping[str, pb.Message]) -> Table:
        return self._interned(type_url, {name: self.resource(type_url, name, one) for name, one in named.items()})

    def _interned(
        self,
        type_url: str,
        resources: Mapping[str, Resource],
        origin: tuple[ReferenceType[Table], frozenset[str]] | None = None,
    ) -> Table:
        ordered = {name: resources[name] for name in sorted(resources)}
        made = Table(ordered, _table_version(ordered), origin=origin)
        return self._tables.setdefault((type_url, made.version), made)

    def _layered(self, type_url: str, named: Layered[pb.Message], before: Table | None) -> Table:
        known = named.encoded
        if known is None or known[0] is not self:
            known = named.encoded = (self, self._of_both(type_url, named, before))
        table: Table = known[1]
        return table

    def _of_both(self, type_url: str, named: Layered[pb.Message], before: Table | None) -> Table:
        common, own = self._made(type_url, named.common), self._made(type_url, named.own)
        if not own.resources or not common.resources:
            return common if common.resources else own
        if before is not None and before.layers == (common, own):
            return before
        version = _digest(common.version, own.version)
        if before is not None and before.version == version:
            return before
        return Table(Layered(common.resources, own.resources), version, (common, own))

    def _layer(self, type_url: str, layer: Layer) -> Table:
        """A layer is encoded once, whoever gets it and however often."""
        known = layer.encoded
        if known is None or known[0] is not self:
            known = layer.encoded = (self, self._encoded(type_url, layer))
            layer.origin = None  # of which nothing more is needed
        table: Table = known[1]
        return table

    def _encoded(self, type_url: str, layer: Layer) -> Table:
        if not layer.parts:
            return self._table(type_url, layer)
        parts: dict[str, Resource] = {}
        for part in layer.parts:
            parts.update(self._layer(type_url, part).resources)
        if layer.origin is None:
            return self._interned(type_url, parts)
        before = self._layer(type_url, layer.origin)
        known = self._after.get(before)
        table = known[1]() if known is not None and known[0] == parts else None
        if table is None:
            table = self._replaced(type_url, before, parts)
            self._after[before] = (parts, ref(table))
        return table

    def _replaced(self, type_url: str, before: Table, parts: Mapping[str, Resource]) -> Table:
        changed = frozenset(name for name, one in parts.items() if before.resources.get(name) is not one)
        if not changed:
            return before
        return self._interned(type_url, {**before.resources, **parts}, (ref(before), changed))


def _table_version(resources: Mapping[str, Resource]) -> str:
    digest = hashlib.blake2b(digest_size=12)
    for name, resource in resources.items():
        digest.update(f"{len(name)}:{name}{resource.version}".encode())
    return digest.hexdigest()


def _digest(common: str, own: str) -> str:
    return hashlib.blake2b(f"{common} {own}".encode(), digest_size=12).hexdigest()


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
