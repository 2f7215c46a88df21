"""What the control plane tells of its own process on `/metrics`: its version, by Istio's name, memory, CPU, files."""

from __future__ import annotations

from importlib import metadata

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector


def register(registry: CollectorRegistry) -> None:
    """Once for a registry."""
    ProcessCollector(registry=registry)
    build = Gauge("istio_build", "Component and version: 1.", ["component", "tag"], registry=registry)
    build.labels("pilot", _version()).set(1)


def _version() -> str:
    try:
        return metadata.version("pymesh-proxy")
    except metadata.PackageNotFoundError:
        return "unknown"
