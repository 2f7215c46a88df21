"""PythonFilter resources as HTTP filters."""

from __future__ import annotations

from typing import Any

from pymesh.control.resources.python_filter import PythonFilter
from pymesh.control.translate.wire import extension, seconds, struct
from pymesh.control.xds import pb


def made(one: PythonFilter) -> dict[str, Any]:
    """The filter."""
    spec = one.spec
    name = f"{one.namespace}/{one.name}"
    message = pb.message("pymesh.filters.v1.PythonFilter")(
        **{"class": spec.class_},
        name=name,
        source=spec.source,
        config=struct(spec.config),
        failure_policy=spec.failure_policy,
        timeout=seconds(spec.timeout),
    )
    return extension(f"pymesh.filters.python.{name}", message)
