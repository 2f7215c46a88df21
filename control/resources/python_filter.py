"""Our own resource: a filter in Python for the requests of some workloads or gateways."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, PortNumber, Problem, Range, exactly_one, key, model
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
class FilterPort(Located):
    """A port that traffic comes in at, as the listener has it."""

    number: PortNumber


@model
class TrafficSelector(Located):
    """Some of the traffic of the selected proxies."""

    #: SERVER: what comes to the workload; CLIENT: what it asks of others, and what a gateway takes.
    mode: Literal["CLIENT", "SERVER", "CLIENT_AND_SERVER"] = "CLIENT_AND_SERVER"
    ports: tuple[FilterPort, ...] = ()

    def takes(self, side: Literal["CLIENT", "SERVER"], port: int) -> bool:
        """Whether traffic on that side at that port is meant."""
        numbers = [one.number for one in self.ports]
        return self.mode in (side, "CLIENT_AND_SERVER") and (not numbers or port in numbers)


#: Without ``match``: gateways, and what comes to workloads.
_EITHER = (TrafficSelector(mode="SERVER"),)


@model
class PythonFilterSpec(Located):
    """A class, where its source is, and what happens when it fails."""

    REFUSED: ClassVar = {
        "failStrategy": "write failurePolicy: CLOSED or OPEN",
        "imagePullPolicy": "a filter is no image: give its source, or install its package where the proxy runs",
        "imagePullSecret": "a filter is no image: give its source, or install its package where the proxy runs",
        "lane": 'the class says it: lane = "async"',
        "pluginConfig": "write config",
        "pluginName": "write class: MODULE:CLASS",
        "sha256": "a filter is no image: give its source, or install its package where the proxy runs",
        "type": "HTTP is the only kind of filter",
        "url": "a filter is no image: write source or file",
        "vmConfig": "settings are given by config",
    }

    class_: str = key("class")
    selector: LabelSelector | None = None
    target_refs: tuple[FilterTarget, ...] = ()
    #: The module's text. Without it and ``file`` the proxy imports the module from its environment.
    source: str = ""
    #: A file with the module's text, relative to the YAML file. Reading it fills ``source``.
    file: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    failure_policy: Literal["CLOSED", "OPEN"] = "CLOSED"
    #: Of each call of a hook; 0 is no limit.
    timeout: timedelta = timedelta(milliseconds=100)
    #: Where among the proxy's own filters, as in Istio's WasmPlugin: before JWTs are checked, between that and the
    #: access policies, right behind those, or (by default) behind all of them.
    phase: Literal["UNSPECIFIED_PHASE", "AUTHN", "AUTHZ", "STATS"] = "UNSPECIFIED_PHASE"
    #: Within a phase the highest comes first; filters of one priority are in the order of their names.
    priority: Annotated[int, Range(-2_147_483_648, 2_147_483_647)] = 0
    match: tuple[TrafficSelector, ...] = ()

    def takes(self, side: Literal["CLIENT", "SERVER"], port: int, *, is_gateway: bool = False) -> bool:
        """Whether traffic on that side at that port passes the filter."""
        if not self.match and is_gateway:
            return True
        return any(one.takes(side, port) for one in self.match or _EITHER)

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
