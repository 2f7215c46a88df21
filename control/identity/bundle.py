"""The trust bundle over xDS: the secret ``ROOTCA``, for every proxy, and who has taken it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pymesh.control.identity.names import ROOTS
from pymesh.control.identity.rotation import Rotation
from pymesh.control.xds import pb
from pymesh.control.xds.cache import Resource, ResourceCache
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.layers import Layer, Layered


@dataclass(frozen=True, slots=True)
class Asking:
    """A stream that asks for the bundle."""

    key: tuple[str, str]
    has_bundle: bool


class TrustBundle:
    """See the module."""

    def __init__(self, rotation: Rotation, cache: ResourceCache) -> None:
        self._rotation = rotation
        self._cache = cache
        self._resource: Resource
        self._layer: Layer
        self._renew()
        rotation.on_change(self._renew)

    def beside(self, messages: Mapping[str, Mapping[str, pb.Message]]) -> Mapping[str, Mapping[str, pb.Message]]:
        """A proxy's messages with the bundle among its secrets."""
        return {**messages, pb.SECRET: Layered(self._layer, messages.get(pb.SECRET, {}))}

    def asking(self, fleet: Fleet) -> Iterator[Asking]:
        """Every stream that has asked for the bundle, and whether it acknowledged the one that is in use."""
        for connection in fleet.connections():
            session, identity = connection.session, connection.node.identity
            if session.asks_for(pb.SECRET, ROOTS):
                key = (str(identity) if identity is not None else "", connection.node.id)
                yield Asking(key, session.has_taken(pb.SECRET, ROOTS, self._resource.version))

    def _renew(self) -> None:
        secret = pb.Secret(name=ROOTS)
        secret.validation_context.trusted_ca.inline_bytes = self._rotation.trust.bundle.encode()
        self._layer = Layer({ROOTS: secret})
        self._resource = self._cache.resource(pb.SECRET, ROOTS, secret)
