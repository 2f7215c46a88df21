"""Small pieces of Envoy's messages that many of the larger ones are made of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from pymesh.control.xds import pb

#: "Ask the stream that this came over."
ADS: Mapping[str, Any] = {"ads": {}, "resource_api_version": "V3"}


def seconds(value: timedelta) -> dict[str, int]:
    """A ``google.protobuf.Duration``."""
    return {"seconds": value.days * 86400 + value.seconds, "nanos": value.microseconds * 1000}


def wrapped(value: object) -> dict[str, object]:
    """One of ``google.protobuf``'s wrappers: a value that can be absent."""
    return {"value": value}


def socket_address(address: str, port: int) -> dict[str, Any]:
    """A TCP address."""
    return {"socket_address": {"address": address, "port_value": port}}


def struct(value: Mapping[str, Any]) -> Any:
    """A ``google.protobuf.Struct``."""
    made = pb.message("google.protobuf.Struct")()
    made.update(value)
    return made


def metadata(**filters: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of Envoy: extension name -> values."""
    return {"filter_metadata": {name: struct(value) for name, value in filters.items()}}


def extension(name: str, message: Any) -> dict[str, Any]:
    """A named extension with its configuration."""
    return {"name": name, "typed_config": pb.pack(message)}


def grpc_service(cluster: str) -> dict[str, Any]:
    """How a gRPC service in this cluster is named to be asked; a host has no '|' in it."""
    return {"envoy_grpc": {"cluster_name": cluster, "authority": cluster.replace("|", "_.")}}
