"""Golden signals as rows: rate, success, latencies, from the control plane's picture (`/api/v1/graph`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Row = tuple[str, ...]

#: What can be shown, and what stands before the signals.
KINDS: Mapping[str, Row] = {
    "services": ("SERVICE", "VERSIONS", "WORKLOADS"),
    "workloads": ("WORKLOAD", "VERSION", "PROXIES"),
    "edges": ("FROM", "TO", "MTLS"),
    "namespaces": ("NAMESPACE", "SERVICES"),
}
SIGNALS: Row = ("RATE/S", "SUCCESS", "P50 MS", "P99 MS")
#: In the picture's own words.
_LISTS = {"services": "services", "workloads": "nodes", "edges": "edges", "namespaces": "namespaces"}


def headings(kind: str) -> Row:
    """Of a table."""
    return (*KINDS[kind], *SIGNALS)


def chosen(picture: Mapping[str, Any], kind: str, namespace: str) -> list[dict[str, Any]]:
    """The entries of one kind, the busiest first; of one namespace if it is named."""
    found = [one for one in picture.get(_LISTS[kind], ()) if not namespace or _is_in(one, namespace)]
    return sorted(found, key=lambda one: (-(one["rate"] or 0.0), str(one["id"])))


def _is_in(one: Mapping[str, Any], namespace: str) -> bool:
    if "source" in one:
        return any(str(one[side]).partition("/")[0] == namespace for side in ("source", "target"))
    return bool(namespace == one.get("namespace", one["id"]))


def row(kind: str, one: Mapping[str, Any]) -> Row:
    """An entry in the columns of :func:`headings`."""
    if kind == "services":
        what: Row = (_name(one["id"]), ",".join(one["versions"]) or "-", str(one["workloads"]))
    elif kind == "workloads":
        what = (
            _name(f"{one['namespace']}/{one['service']}"),
            one["version"] or "-",
            f"{one['proxies']}/{one['workloads']}",
        )
    elif kind == "edges":
        what = (_name(one["source"]), _name(one["target"]), str(one["mtls"]))
    else:
        what = (one["id"], str(one["services"]))
    success = "-" if one["success"] is None else f"{one['success']:.2%}"
    return (*what, _number(one["rate"]), success, _number(one["p50"]), _number(one["p99"]))


def _name(identity: str) -> str:
    """NAMESPACE/SERVICE[/VERSION] as people write it."""
    namespace, _, rest = identity.partition("/")
    name, _, version = rest.partition("/")
    return f"{name}{f'@{version}' if version else ''}{f'.{namespace}' if namespace else ''}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
