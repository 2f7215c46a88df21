"""Others live in a cluster, too: what is theirs is neither used nor called wrong."""

from __future__ import annotations

from typing import Any

import pytest

from pymesh.control.admission.review import Asked
from pymesh.control.admission.validating import answer
from pymesh.control.sources.kubernetes.kinds import watched
from pymesh.control.sources.kubernetes.selection import for_mesh, ours

GATEWAY_API = "gateway.networking.k8s.io/v1"


def one(version: str, kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, **fields}


def gateway(name: str, of: str) -> dict[str, Any]:
    return one(GATEWAY_API, "Gateway", name, spec={"gatewayClassName": of})


def route(name: str, *parents: dict[str, Any]) -> dict[str, Any]:
    return one(GATEWAY_API, "HTTPRoute", name, spec={"parentRefs": list(parents), "rules": []})


def test_gateways_of_other_classes_and_what_is_bound_to_them() -> None:
    ours, theirs, istio = (
        gateway("ours", "pymesh"),
        gateway("theirs", "cilium"),
        one("networking.istio.io/v1", "Gateway", "theirs"),
    )
    both = route("both", {"name": "theirs"}, {"name": "ours"}, {"kind": "Service", "name": "theirs"})
    found = for_mesh([ours, theirs, istio, both, route("only", {"name": "theirs"}), route("lost", {"name": "nobody"})])
    assert [(each["kind"], each["metadata"]["name"]) for each in found] == [
        ("Gateway", "ours"), ("Gateway", "theirs"), ("HTTPRoute", "both"), ("HTTPRoute", "lost"),
    ]  # fmt: skip
    assert found[1] is istio
    assert [parent["name"] for parent in found[2]["spec"]["parentRefs"]] == ["ours", "theirs"]


def test_parents_of_kinds_that_others_know_are_others() -> None:
    other = {"kind": "ListenerSet", "group": "gateway.networking.x-k8s.io", "name": "set"}
    both, alone = route("both", {"name": "ours"}, other), route("alone", other)
    found = for_mesh([gateway("ours", "pymesh"), both, alone])
    assert found[1]["spec"]["parentRefs"] == [{"name": "ours"}]
    assert found[2] is alone, "perhaps it is mistyped"


def test_what_is_for_the_gateways_of_others_is_theirs() -> None:
    theirs, ours = gateway("theirs", "cilium"), gateway("ours", "pymesh")
    sets = [one(GATEWAY_API, "ListenerSet", name, spec={"parentRef": {"name": name}}) for name in ("theirs", "ours")]
    policy = one(GATEWAY_API, "BackendTLSPolicy", "tls", spec={"targetRefs": [{"kind": "Service", "name": "web"}]})
    assert for_mesh([theirs, policy, sets[0]]) == []
    assert for_mesh([theirs, ours, policy, *sets]) == [ours, policy, sets[1]]
    assert for_mesh([policy]) == [policy], "with no Gateway at all it is for us to say that we do not know it"


LISTENERS = [{"name": "a", "port": 80, "protocol": "UDP"}]
EXTENDED = {"filters": [{"type": "ExtensionRef", "extensionRef": {"group": "x.test", "kind": "X", "name": "x"}}]}


def bound(to: str, kind: str = "HTTPRoute", **more: Any) -> dict[str, Any]:
    return one(GATEWAY_API, kind, "new", spec={"parentRefs": [{"name": to, **more}], "rules": [EXTENDED]})


@pytest.mark.parametrize(
    ("new", "is_refused", "is_warned"),
    [
        (one(GATEWAY_API, "Gateway", "new", spec={"gatewayClassName": "cilium", "listeners": LISTENERS}), False, False),
        (one(GATEWAY_API, "Gateway", "new", spec={"gatewayClassName": "pymesh", "listeners": LISTENERS}), True, False),
        (bound("theirs"), False, False),
        (bound("theirs", "UDPRoute"), False, False),
        (bound("ours"), True, False),
        (bound("ours", "UDPRoute"), True, False),
        (bound("web", kind="Service", group=""), True, False),
        (bound("not-there-yet"), False, True),
        (one(GATEWAY_API, "BackendTLSPolicy", "new", spec={"targetRefs": []}), False, True),
        (one(GATEWAY_API, "ListenerSet", "new", spec={"parentRef": {"name": "theirs"}}), False, False),
        (one(GATEWAY_API, "ListenerSet", "new", spec={"parentRef": {"name": "ours"}}), True, False),
        (one("networking.istio.io/v1", "VirtualService", "new", spec={"rote": 1}), True, False),
    ],
)  # fmt: skip
def test_nobody_is_kept_from_what_others_serve(new: dict[str, Any], is_refused: bool, is_warned: bool) -> None:
    """Whoever serves Gateways in the same cluster decides what its Gateways and routes may say."""
    known = [gateway("ours", "pymesh"), gateway("theirs", "cilium")]
    group = new["apiVersion"].partition("/")[0]
    asked = Asked("1", new["kind"], group, "CREATE", "shop", "new", new)
    said = answer(asked, lambda _: (), lambda each: ours(each, known))
    assert (bool(said.refusal), bool(said.warnings)) == (is_refused, is_warned)


def test_slices_of_services_that_are_gone() -> None:
    service = one("v1", "Service", "web", spec={"ports": [{"port": 80}]})
    slices = [one("discovery.k8s.io/v1", "EndpointSlice", name, addressType="IPv4") for name in ("a", "b")]
    for each, owner in zip(slices, ("web", "gone"), strict=True):
        each["metadata"]["labels"] = {"kubernetes.io/service-name": owner}
    assert for_mesh([*slices, service]) == [slices[0], service]


def test_where_kinds_are_served() -> None:
    paths = {kind.name: kind.path(kind.versions[0]) for kind in watched("istio-system") if kind.name != "Gateway"}
    assert paths["Service"] == "/api/v1/services"
    assert paths["ConfigMap"] == "/api/v1/namespaces/istio-system/configmaps"
    assert paths["EndpointSlice"] == "/apis/discovery.k8s.io/v1/endpointslices"
    assert paths["ServiceEntry"] == "/apis/networking.istio.io/v1/serviceentries"
    assert paths["AuthorizationPolicy"] == "/apis/security.istio.io/v1/authorizationpolicies"
    assert paths["EnvoyFilter"] == "/apis/networking.istio.io/v1alpha3/envoyfilters"
    (secrets,) = (kind for kind in watched("istio-system") if kind.name == "Secret")
    assert "type!=kubernetes.io/service-account-token" in secrets.field_selector
