"""Which objects of a cluster are for this mesh: others live there, too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from pymesh.control.resources.kubernetes import EndpointSlice
from pymesh.control.resources.objects import Object, is_for_mesh

GATEWAY_API: Final = "gateway.networking.k8s.io"
#: The class of our Gateways.
CLASS: Final = "pymesh"
ROUTES: Final = frozenset({"HTTPRoute", "GRPCRoute", "TLSRoute", "TCPRoute", "UDPRoute"})


def for_mesh(objects: Iterable[Object]) -> list[Object]:
    """Those that are ours, without what in them is for others.

    Not ours are Services and slices that have nothing to do with TCP, slices whose Service is gone, Gateways of other
    classes, and routes and ListenerSets as far as they are bound to those. Where all Gateways are others', so are
    policies for what is behind Gateways.
    """
    everything = [one for one in objects if is_for_mesh(one)]
    services = {_key(one) for one in everything if one["kind"] == "Service"}
    gateways = {_key(one): _class(one) for one in everything if _is_kube_gateway(one)}
    foreign = {key for key, name in gateways.items() if name != CLASS}
    found: list[Object] = []
    for one in everything:
        kind = one["kind"]
        if kind == "EndpointSlice":
            owner = (one["metadata"].get("labels") or {}).get(EndpointSlice.SERVICE_LABEL, "")
            if (_key(one)[0], owner) in services:
                found.append(one)
        elif kind in ROUTES:
            ours = _without_parents(one, foreign)
            found += [ours] if ours is not None else []
        elif not _is_of_others(one, foreign, nobody_else=len(foreign) == len(gateways) > 0):
            found.append(one)
    return found


def _is_of_others(one: Object, foreign: set[tuple[str, str]], *, nobody_else: bool) -> bool:
    if one["kind"] == "ListenerSet":
        return _parent(one, _mapping(one.get("spec")).get("parentRef")) in foreign
    if one["kind"] == "BackendTLSPolicy":
        return nobody_else
    return _is_kube_gateway(one) and _key(one) in foreign


def ours(one: Object, gateways: Iterable[Object]) -> tuple[Object, bool] | None:
    """What of an object on its way into the cluster is for this mesh, and whether that is sure; None: it is others'.

    It is not sure of what is bound to Gateways that are not there yet, and of policies for Services, which any
    implementation may heed.
    """
    if _is_kube_gateway(one):
        return (one, True) if _class(one) == CLASS else None
    kind, spec = one["kind"], one.get("spec")
    if not str(one["apiVersion"]).startswith(f"{GATEWAY_API}/") or not isinstance(spec, Mapping):
        return one, True
    classes = {_key(gateway): _class(gateway) for gateway in gateways}
    foreign = {key for key, name in classes.items() if name != CLASS}
    parents: Any = [spec.get("parentRef")]
    if kind == "ListenerSet":
        if _parent(one, parents[0]) in foreign:
            return None
    elif kind in ROUTES:
        left = _without_parents(one, foreign)
        if left is None:
            return None
        one, parents = left, left["spec"].get("parentRefs")
    else:
        return one, kind != "BackendTLSPolicy"
    listed = [each for each in parents if isinstance(each, Mapping)] if isinstance(parents, list) else []
    return one, any(each.get("kind") == "Service" or classes.get(_parent(one, each)) == CLASS for each in listed)


def _parent(one: Object, reference: Any) -> tuple[str, str]:
    """Namespace and name of what an object is bound to."""
    named = _mapping(reference)
    return str(named.get("namespace") or _key(one)[0]), str(named.get("name", ""))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _without_parents(route: Object, foreign: set[tuple[str, str]]) -> Object | None:
    """The route without the parents that are others'; None if it has no more.

    A parent of a kind that is not known is another implementation's, if there is one beside it that may be ours: alone
    it is told of, since it may be mistyped.
    """
    written = route.get("spec")
    spec: Mapping[str, Any] = written if isinstance(written, Mapping) else {}
    parents = spec.get("parentRefs")
    if not isinstance(parents, list) or not all(isinstance(one, Mapping) for one in parents):
        return route
    rest = [one for one in parents if one.get("kind", "Gateway") != "Gateway" or _parent(route, one) not in foreign]
    if not rest:
        return route if not parents else None
    ours = [one for one in rest if _is_parent(one)] or rest
    return route if len(ours) == len(parents) else {**route, "spec": {**spec, "parentRefs": ours}}


def _is_parent(reference: Mapping[str, Any]) -> bool:
    """Whether it is of a kind that routes are bound to here, perhaps with a mistake in its group."""
    kind, group = reference.get("kind", "Gateway"), reference.get("group", GATEWAY_API)
    return kind in ("Gateway", "Service") and group in (GATEWAY_API, "")


def _is_kube_gateway(one: Object) -> bool:
    return one["kind"] == "Gateway" and str(one["apiVersion"]).startswith(f"{GATEWAY_API}/")


def _class(gateway: Object) -> str:
    spec = gateway.get("spec")
    return str(spec.get("gatewayClassName", "")) if isinstance(spec, Mapping) else ""


def _key(one: Object) -> tuple[str, str]:
    meta = one["metadata"]
    return meta.get("namespace", ""), meta.get("name", "")
