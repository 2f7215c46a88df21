"""Our own resource: a filter in Python for the requests of some workloads or gateways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Any, Literal

from pymesh.control.resources.decode import Located, Problem, exactly_one, key, model
from pymesh.control.resources.metadata import Resource

#: A filter is code that runs for each request: a whole library does not belong into it.
LARGEST_SOURCE = 256 * 1024


@model
class LabelSelector(Located):
    """Labels that a workload must have, all of them."""

    match_labels: Mapping[str, str]


@model
class FilterTarget(Located):
    """A Gateway, or a Service whose workloads are meant."""

    name: str
    kind: Literal["Service", "Gateway"]
    group: Literal["", "networking.istio.io", "gateway.networking.k8s.io"] = ""


@model
class PythonFilterSpec(Located):
    """A class, where its source is, and what happens when it fails."""

    class_: str = key("class")
    selector: LabelSelector | None = None
    target_refs: tuple[FilterTarget, ...] = ()
    #: The module's text. Without it and ``file`` the proxy imports the module from its environment.
    source: str = ""
    #: A file with the module's text, relative to the YAML file. Reading it fills ``source``.
    file: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    failure_policy: Literal["CLOSED", "OPEN"] = "CLOSED"
    timeout: timedelta = timedelta(milliseconds=100)

    def problems(self) -> Iterator[Problem]:
        yield from exactly_one(self, "selector", "targetRefs")
        if len(self.present("source", "file")) > 1:
            yield Problem("file", "'source' and 'file' exclude each other", "keep one of them")
        if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.class_):
            yield Problem("class", f"{self.class_!r} is not MODULE:CLASS", "write it as in my_filters:AddHeader")
        if len(self.source.encode()) > LARGEST_SOURCE:
            yield Problem("source", f"the source is larger than {LARGEST_SOURCE} bytes", "install it as a package")


@model
class PythonFilter(Resource):
    """``extensions.pymesh.dev/v1alpha1`` PythonFilter."""

    spec: PythonFilterSpec
    status: Any = None
