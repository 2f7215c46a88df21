"""From the objects of an API server to typed resources, by the same rules as from YAML.

What the server adds for itself is left out first: a resource is the same whether a file or a server tells of it. Of a
Service, what concerns others is left out too, such as how clients outside of the cluster get in: kube-proxy and the
cloud do that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import yaml

from pymesh.control.resources.decode import Decoder
from pymesh.control.resources.diagnostics import Position, Report
from pymesh.control.resources.load import DEEPEST, KINDS, resource
from pymesh.control.resources.metadata import Resource

Object = Mapping[str, Any]

#: Of ``metadata``, what a resource has.
_METADATA: Final = (
    "name", "namespace", "labels", "annotations", "uid", "generation", "resourceVersion", "creationTimestamp",
)  # fmt: skip
#: Read nowhere, or written by us.
_WITHOUT_STATUS: Final = frozenset(name for _, name in KINDS) - {"Pod"}
#: What others do for a Service.
_OF_OTHERS: Final = (
    "allocateLoadBalancerNodePorts", "externalIPs", "externalTrafficPolicy", "healthCheckNodePort", "loadBalancerClass",
    "loadBalancerIP", "loadBalancerSourceRanges",
)  # fmt: skip
#: Of the reference from an endpoint to its pod.
_TARGET: Final = ("kind", "name", "namespace", "uid")
_TOO_DEEP: Final = ("the object is nested too deeply", f"nothing in it may be deeper than {DEEPEST} levels")
#: Of the path of a field that is too deep.
_SHOWN: Final = 40
#: Kinds that more than one group has.
_AMBIGUOUS: Final = frozenset(kind for kind, times in Counter(kind for _, kind in KINDS).items() if times > 1)
_STR, _INT, _FLOAT, _BOOL, _NULL, _MAP, _SEQ = (
    f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")
)


class _Mark(NamedTuple):
    """Where a node is: in place of a line and a column."""

    field: str


class _TooDeepError(Exception):
    """There is more below this field than any document has."""


class _ObjectDecoder(Decoder):
    def placed(self, mark: Any) -> Position:
        return Position(self._file, field=mark.field)


def place(one: Object) -> str:
    """The object's place, as a file's name is for a document."""
    group = str(one.get("apiVersion", "")).rpartition("/")[0]
    kind, meta = str(one.get("kind", "")), one.get("metadata") or {}
    shown = f"{kind}.{group}" if kind in _AMBIGUOUS else kind
    return "/".join(part for part in (shown, meta.get("namespace"), meta.get("name")) if part)


def load_object(one: Object, report: Report, without: frozenset[str] = frozenset()) -> Resource | None:
    """The resource that an object is; None, with everything wrong in ``report``, if it cannot be used.

    ``without`` are fields of entries of lists, as in ``spec.servers[1]``, that are taken for not being there.
    """
    own = Report()
    try:
        node = _node(without_others(one), "", 1, without)
    except _TooDeepError as error:
        report.error(Position(place(one), field=str(error)), *_TOO_DEEP)
        return None
    made = resource(_ObjectDecoder(place(one), own), node, "", own)
    report.add(own.diagnostics)
    return None if own.failed else made


def without_others(one: Object) -> dict[str, Any]:
    """The object without what servers and others write."""
    kind = one.get("kind")
    meta = one.get("metadata") or {}
    bare = {
        **one,
        "metadata": {name: meta[name] for name in _METADATA if name in meta},
    }
    if kind in _WITHOUT_STATUS:
        bare.pop("status", None)
    if kind == "Service":
        bare["spec"] = _service(one.get("spec") or {})
    elif kind == "EndpointSlice":
        bare["ports"] = [port for port in one.get("ports") or () if port.get("port") and _is_tcp(port)]
        bare["endpoints"] = [_endpoint(endpoint) for endpoint in one.get("endpoints") or ()]
    return bare


def is_for_mesh(one: Object) -> bool:
    """Whether it can tell the mesh anything: not a Service or a slice without a TCP port. Another name needs none."""
    kind = one.get("kind")
    if kind == "Service":
        spec = one.get("spec") or {}
        ports = spec.get("ports") or ()
        return any(_is_tcp(port) for port in ports) or (not ports and spec.get("type") == "ExternalName")
    if kind == "EndpointSlice":
        return one.get("addressType") != "FQDN"
    return True


def _service(spec: Object) -> dict[str, Any]:
    kept = {name: value for name, value in spec.items() if name not in _OF_OTHERS}
    kept["ports"] = [
        {name: value for name, value in port.items() if name != "nodePort"}
        for port in spec.get("ports") or ()
        if _is_tcp(port)
    ]
    # The server adds it to ``sessionAffinity: ClientIP``: how long kube-proxy remembers a client.
    kept.pop("sessionAffinityConfig", None)
    if kept.get("type") in ("NodePort", "LoadBalancer"):
        kept["type"] = "ClusterIP"  # to clients inside it is one
    return kept


def _endpoint(endpoint: Object) -> dict[str, Any]:
    kept = {name: value for name, value in endpoint.items() if name != "deprecatedTopology"}
    hints, target = endpoint.get("hints"), endpoint.get("targetRef")
    if hints:
        # Of nodes too, where trafficDistribution says so; that is read from the Service itself.
        kept["hints"] = {name: value for name, value in hints.items() if name == "forZones"}
    if target:
        kept["targetRef"] = {name: value for name, value in target.items() if name in _TARGET}
    return kept


def _is_tcp(port: Object) -> bool:
    return bool(port.get("protocol", "TCP") == "TCP")


def _node(value: Any, field: str, depth: int, without: frozenset[str]) -> yaml.Node:
    """The node of a YAML document that says the same. Raises _TooDeepError."""
    mark: Any = _Mark(field)
    if depth > DEEPEST:
        raise _TooDeepError(field[:_SHOWN].rstrip("."))
    if isinstance(value, Mapping):
        pairs = []
        for name, one in value.items():
            inner = _inside(field, name)
            pairs.append((_node(name, inner, depth + 1, without), _node(one, inner, depth + 1, without)))
        return yaml.MappingNode(_MAP, pairs, mark, mark)
    if isinstance(value, str):
        return yaml.ScalarNode(_STR, value, mark, mark)
    if isinstance(value, Sequence):
        entries = ((f"{field}[{number}]", one) for number, one in enumerate(value))
        kept = [_node(one, inner, depth + 1, without) for inner, one in entries if inner not in without]
        return yaml.SequenceNode(_SEQ, kept, mark, mark)
    if value is None:
        return yaml.ScalarNode(_NULL, "null", mark, mark)
    if isinstance(value, bool):
        return yaml.ScalarNode(_BOOL, "true" if value else "false", mark, mark)
    return yaml.ScalarNode(_INT if isinstance(value, int) else _FLOAT, repr(value), mark, mark)


def _inside(field: str, name: object) -> str:
    """A field's path; a key that would be read as a path is quoted, as labels are."""
    text = str(name)
    if "." in text or "/" in text:
        return f"{field}[{text!r}]"
    return f"{field}.{text}" if field else text
