"""Envoy's, Istio's and the well-known protobuf messages, in a pool of our own.

The classes are built at first use from one pinned descriptor set (``proto/envoy.binpb``, the same file
that the Rust side compiles). The pool is private on purpose: another package of the same process that
registers its own ``envoy.*`` files in protobuf's default pool can neither clash with these classes nor
change them.

    from pymesh.control.xds import pb

    listener = pb.Listener(name="inbound")             # unambiguous short name of a top-level message or enum
    http = pb.message("envoy.config.core.v3.Node")     # any message by its full name
    listener.filter_chains.add().filters.add(name="hcm", typed_config=pb.pack(pb.Router()))

Messages of this pool never mix with messages of generated ``*_pb2`` modules: assigning one to the other
raises.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from functools import cache
from importlib import resources

from google.protobuf import descriptor_pb2, json_format, message_factory
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import DecodeError, Message

__all__ = [
    "CLUSTER",
    "ENDPOINTS",
    "LISTENER",
    "ROUTES",
    "SECRET",
    "TYPE_PREFIX",
    "DecodeError",
    "Message",
    "encode",
    "enum",
    "from_json",
    "message",
    "pack",
    "pool",
    "to_json",
    "type_url",
    "unpack",
]

TYPE_PREFIX = "type.googleapis.com/"

CLUSTER = TYPE_PREFIX + "envoy.config.cluster.v3.Cluster"
ENDPOINTS = TYPE_PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LISTENER = TYPE_PREFIX + "envoy.config.listener.v3.Listener"
ROUTES = TYPE_PREFIX + "envoy.config.route.v3.RouteConfiguration"
SECRET = TYPE_PREFIX + "envoy.extensions.transport_sockets.tls.v3.Secret"


@cache
def _files() -> tuple[DescriptorPool, tuple[str, ...]]:
    """The private pool and the names of the files in it. Read once."""
    encoded = resources.files(__package__).joinpath("proto", "envoy.binpb").read_bytes()
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(encoded)
    private = DescriptorPool()
    for file in descriptors.file:
        private.AddSerializedFile(file.SerializeToString())
    return private, tuple(file.name for file in descriptors.file)


def pool() -> DescriptorPool:
    """The private descriptor pool, for calls that resolve ``Any`` by name."""
    return _files()[0]


@cache
def message(full_name: str) -> typing.Any:
    """The class of the message ``full_name``, as in ``envoy.config.core.v3.Node``.

    Raises ``KeyError`` when the descriptor set lacks it.
    """
    return message_factory.GetMessageClass(pool().FindMessageTypeByName(full_name))


@cache
def enum(full_name: str) -> EnumTypeWrapper:
    """The enum ``full_name``: ``enum("envoy.type.v3.CodecClientType").Value("HTTP2")``."""
    descriptor: EnumDescriptor = pool().FindEnumTypeByName(full_name)
    return EnumTypeWrapper(descriptor)


@cache
def _short_names() -> Mapping[str, tuple[str, ...]]:
    """Short name -> full names of the top-level messages and enums that carry it."""
    private, files = _files()
    index: dict[str, tuple[str, ...]] = {}
    for name in files:
        file = private.FindFileByName(name)
        for descriptor in (*file.message_types_by_name.values(), *file.enum_types_by_name.values()):
            index[descriptor.name] = (*index.get(descriptor.name, ()), descriptor.full_name)
    return index


def __getattr__(name: str) -> typing.Any:
    """``pb.Listener`` and the like: a top-level message or enum by its short name."""
    candidates = _short_names().get(name, ()) if name[:1].isupper() else ()
    if not candidates:
        raise AttributeError(f"the descriptor set has no top-level message or enum {name!r}")
    if len(candidates) > 1:
        # udpa.* and xds.* repeat some of Envoy's names; what is meant here is Envoy's.
        candidates = tuple(c for c in candidates if c.startswith("envoy.")) or candidates
    if len(candidates) > 1:
        raise AttributeError(f"{name!r} is ambiguous; use pb.message() with one of: {', '.join(candidates)}")
    (full_name,) = candidates
    try:
        found = message(full_name)
    except KeyError:
        found = enum(full_name)
    globals()[name] = found
    return found


def type_url(of: Message | type[Message]) -> str:
    """The type URL of a message or message class."""
    return TYPE_PREFIX + str(of.DESCRIPTOR.full_name)


def encode(of: Message) -> bytes:
    """The one wire form of a message: map entries in sorted order, so that equal messages have equal
    bytes.
    """
    return of.SerializeToString(deterministic=True)


def pack(of: Message) -> typing.Any:
    """``of`` in a ``google.protobuf.Any``, encoded deterministically."""
    return message("google.protobuf.Any")(type_url=type_url(of), value=encode(of))


def unpack(packed: typing.Any) -> typing.Any:
    """The message inside an ``Any``. Raises ``KeyError`` for a type we do not know, ``DecodeError`` for
    bad bytes.
    """
    return message(packed.type_url.rpartition("/")[2]).FromString(packed.value)


def to_json(of: Message) -> dict[str, typing.Any]:
    """The message in protobuf's JSON form with proto field names, as Envoy's ``/config_dump`` shows it."""
    return json_format.MessageToDict(of, preserving_proto_field_name=True, descriptor_pool=pool())


def from_json(full_name: str, value: Mapping[str, typing.Any]) -> typing.Any:
    """The message ``full_name`` from its JSON form. Raises ``json_format.ParseError`` on unknown fields."""
    return json_format.ParseDict(dict(value), message(full_name)(), descriptor_pool=pool())
