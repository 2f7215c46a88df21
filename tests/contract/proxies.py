"""Cases as Envoy bootstraps: a listener for each, with its filter, two routes and an access log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.contract.case import Case, Lane, Outcome
from tests.proxy.bootstrap import Json, http_listener, virtual_host

LOG_LINE = "%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %ROUTE_NAME%\n"
_ROUTER = {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}


def listener(case: Case, lane: Lane, number: int, port: int, log: Json) -> Json:
    """The listener of a case; its cluster and the prefix of its counters are :func:`name`."""
    kind: Json = {
        "@type": "type.googleapis.com/pymesh.filters.v1.PythonFilter",
        "name": name(number),
        "class": case.compiled or "probe:Probe",
        "source": "" if case.compiled else case.source(lane),
        "config": dict(case.config),
        "failure_policy": case.policy,
    }
    if case.timeout is not None:
        kind["timeout"] = f"{case.timeout}s"
    gold = {"headers": [{"name": "x-tier", "string_match": {"exact": "gold"}}]}
    routes = [
        {"name": "gold", "match": {"prefix": "/", **gold}, "route": {"cluster": name(number)}},
        {"name": "plain", "match": {"prefix": "/"}, "route": {"cluster": name(number)}},
    ]
    filters = [{"name": "probe", "typed_config": kind}, {"name": "router", "typed_config": _ROUTER}]
    hosts = [virtual_host("all", routes)]
    return http_listener(port, hosts, name=name(number), http_filters=filters, access_log=[log])


def name(number: int) -> str:
    """Of a case's listener and cluster."""
    return f"case-{number}"


def logged(line: str) -> tuple[str, str, str]:
    """Flags, details and route of a line of the access log."""
    flags, details, route = line.split(" ")
    return flags, details, route


def outcome(number: int, line: str, stats: Mapping[str, int], **parts: Any) -> Outcome:
    """From what the proxy logged and counted."""
    flags, details, route = logged(line)
    counter = f"http.{name(number)}.python_filter"
    return Outcome(
        flags=flags,
        details=details,
        route=route,
        failures=stats[f"{counter}_failures"],
        entered=stats[f"{counter}_calls"] > 0,
        **parts,
    )
