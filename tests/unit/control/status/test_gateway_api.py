"""The status of Gateways and routes: what is in force, what is not and by whose doing, in the Gateway API's words."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.sources.kubernetes.status import State, wanted
from pymesh.control.status.gateways import CONTROLLER, class_status, gateway_status
from pymesh.control.status.objects import Object
from pymesh.control.status.routes import route_status
from pymesh.control.store.store import MeshOptions, Store
from pymesh.control.store.usable import assemble_usable

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 3}
spec:
  gatewayClassName: pymesh
  listeners:
    - {name: http, port: 8080, protocol: HTTP, hostname: "*.shop.test"}
    - {name: tcp, port: 9000, protocol: TCP}
"""
SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.0.0.5, ports: [{name: http, port: 80}, {name: tcp, port: 81, appProtocol: tcp}]}
"""
EDGE = """
apiVersion: v1
kind: Service
metadata: {name: edge, namespace: shop}
spec:
  clusterIP: 10.0.0.9
  selector: {gateway.networking.k8s.io/gateway-name: edge}
  ports: [{name: http, port: 80, targetPort: 8080}]
"""
SLICE = """
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: edge-1, namespace: shop, labels: {kubernetes.io/service-name: edge}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1]}]
"""


def route(spec: str, name: str = "r", kind: str = "HTTPRoute", version: str = "v1") -> str:
    head = f"apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\n"
    return f"{head}metadata: {{name: {name}, namespace: shop, generation: 7}}\nspec: {{{spec}}}\n"


TO_CART = "rules: [{backendRefs: [{name: cart, port: 80}]}]"


def mesh(*documents: str) -> tuple[Store, dict[str, Object]]:
    """The store of what can be used, and each object with what was found about it, by kind and name."""
    report, resources, read = Report(), [], {}
    for number, text in enumerate(documents):
        own = Report()
        made = load_text(f"f{number}", text, own)
        report.add(own.diagnostics)
        if made and not own.failed:
            resources += made
            read[f"f{number}"] = made[0]
    store, used = assemble_usable(resources, MeshOptions(), report, lambda _: None)
    in_force = {one.at.file: one for one in used}
    objects = {}
    for number, text in enumerate(documents):
        document = yaml.safe_load(text)
        found = tuple(one for one in report.diagnostics if one.at.file == f"f{number}")
        key = f"{document['kind']} {document['metadata']['name']}"
        was, now = read.get(f"f{number}"), in_force.get(f"f{number}")
        objects[key] = Object(document["apiVersion"], document["kind"], document, was, found, now)
    return store, objects


def shown(conditions: Sequence[Any]) -> list[str]:
    return [f"{one['type']}={one['status']} {one['reason']}" for one in conditions]


def of_route(*documents: str, key: str = "HTTPRoute r") -> list[Any]:
    store, objects = mesh(*documents)
    gateways = {("shop", one.name): one for one in objects.values() if one.kind == "Gateway"}
    status = route_status(store, objects[key], gateways, NOW)
    parents: list[Any] = status["parents"]
    return parents


def of_gateway(*documents: str) -> Any:
    store, objects = mesh(*documents)
    services = [one for one in objects.values() if one.kind == "Service"]
    return gateway_status(store, objects["Gateway edge"], services, NOW)


def test_a_gateway_with_an_address_and_a_proxy_is_programmed() -> None:
    status = of_gateway(GATEWAY, EDGE, SLICE, SERVICE, route(f"parentRefs: [{{name: edge}}], {TO_CART}"))
    assert status["addresses"] == [{"type": "IPAddress", "value": "10.0.0.9"}]
    assert shown(status["conditions"]) == ["Accepted=True Accepted", "Programmed=True Programmed"]
    http, tcp = status["listeners"]
    assert (http["name"], http["attachedRoutes"], tcp["attachedRoutes"]) == ("http", 1, 0)
    assert [one["kind"] for one in http["supportedKinds"]] == ["HTTPRoute", "GRPCRoute"]
    assert shown(http["conditions"]) == [
        "Accepted=True Accepted",
        "Conflicted=False NoConflicts",
        "ResolvedRefs=True ResolvedRefs",
        "Programmed=True Programmed",
    ]
    assert {one["observedGeneration"] for one in (*status["conditions"], *http["conditions"])} == {3}


@pytest.mark.parametrize(
    ("documents", "reason", "message"),
    [
        ((GATEWAY,), "AddressNotAssigned", "no Service in namespace 'shop' selects the proxies with the label"),
        ((GATEWAY, EDGE), "NoResources", "no proxy with the label"),
        (
            (GATEWAY, EDGE.replace("clusterIP: 10.0.0.9", "clusterIP: None"), SLICE),
            "AddressNotAssigned",
            "no address was given to Service edge yet",
        ),
    ],
)
def test_a_gateway_that_nobody_runs_says_what_is_missing(documents: tuple[str, ...], reason: str, message: str) -> None:
    status = of_gateway(*documents)
    assert shown(status["conditions"]) == ["Accepted=True Accepted", f"Programmed=False {reason}"]
    assert message in status["conditions"][1]["message"]
    assert shown(status["listeners"][0]["conditions"])[-1] == "Programmed=False Pending"


def test_a_gateway_that_cannot_be_read_is_refused_with_place_and_hint() -> None:
    status = of_gateway(GATEWAY.replace("protocol: HTTP,", "protocol: SCTP,"), EDGE, SLICE)
    assert shown(status["conditions"]) == ["Accepted=False Invalid", "Programmed=False Invalid"]
    assert "f0:8:42" in status["conditions"][0]["message"]
    assert [one["name"] for one in status["listeners"]] == ["http", "tcp"]


def test_a_gateway_that_asks_for_an_address_is_told_that_it_is_that() -> None:
    asking = GATEWAY.replace("  listeners:", "  addresses: [{type: IPAddress, value: 10.0.0.7}]\n  listeners:")
    status = of_gateway(asking, EDGE, SLICE)
    assert shown(status["conditions"]) == ["Accepted=False UnsupportedAddress", "Programmed=False Invalid"]


def test_a_certificate_that_is_not_there_is_the_listeners() -> None:
    text = GATEWAY.replace(
        "{name: tcp, port: 9000, protocol: TCP}",
        "{name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}",
    )
    status = of_gateway(text, EDGE, SLICE)
    assert shown(status["conditions"])[0] == "Accepted=False Invalid"
    assert "there is no Secret shop/none" in status["conditions"][0]["message"]


@pytest.mark.parametrize(
    ("listener", "kinds", "expected"),
    [
        ("protocol: UDP", [], "Accepted=False UnsupportedProtocol"),
        (
            "protocol: HTTPS, tls: {certificateRefs: [{name: none}]}",
            ["HTTPRoute", "GRPCRoute"],
            "ResolvedRefs=False InvalidCertificateRef",
        ),
        (
            "protocol: HTTPS, tls: {certificateRefs: [{name: none, group: a.test, kind: Vault}]}",
            ["HTTPRoute", "GRPCRoute"],
            "ResolvedRefs=False InvalidCertificateRef",
        ),
        (
            "protocol: HTTP, allowedRoutes: {kinds: [{kind: HTTPRoute}, {kind: Strange}]}",
            ["HTTPRoute"],
            "ResolvedRefs=False InvalidRouteKinds",
        ),
        ("protocol: HTTP, allowedRoutes: {kinds: [{kind: Strange}]}", [], "ResolvedRefs=False InvalidRouteKinds"),
        ("protocol: HTTP, mystery: 1", ["HTTPRoute", "GRPCRoute"], "Accepted=False Invalid"),
    ],
)
def test_a_listener_that_is_left_out_says_why_in_the_standards_words(
    listener: str, kinds: list[str], expected: str
) -> None:
    """The only one of its Gateway: so it is in the standard's own tests."""
    head, _, _ = GATEWAY.partition("  listeners:")
    status = of_gateway(f"{head}  listeners: [{{name: it, port: 8443, {listener}}}]\n", EDGE, SLICE)
    (it,) = status["listeners"]
    assert expected in shown(it["conditions"])
    assert "Programmed=False Invalid" in shown(it["conditions"])
    assert [one["kind"] for one in it["supportedKinds"]] == kinds


def test_a_route_is_attached_to_a_listener_whose_certificate_is_not_there() -> None:
    listener = "{name: tls, port: 8443, protocol: HTTPS, tls: {certificateRefs: [{name: none}]}}"
    head, _, _ = GATEWAY.partition("  listeners:")
    store, objects = mesh(
        f"{head}  listeners: [{listener}]\n", SERVICE, route(f"parentRefs: [{{name: edge}}], {TO_CART}")
    )
    found = {one.name: status for one, status in wanted(State(store, list(objects.values())), {}, NOW)}
    assert [one["attachedRoutes"] for one in found["edge"]["listeners"]] == [1]
    assert shown(found["r"]["parents"][0]["conditions"]) == ["Accepted=False Pending", "ResolvedRefs=True ResolvedRefs"]


def test_a_route_that_is_taken_says_so_for_each_of_its_parents() -> None:
    refs = 'parentRefs: [{name: edge, sectionName: http}, {group: "", kind: Service, name: cart, port: 80}]'
    first, second = of_route(GATEWAY, SERVICE, route(f"{refs}, {TO_CART}"))
    assert first["parentRef"] == {"name": "edge", "sectionName": "http"}
    assert second["parentRef"] == {"group": "", "kind": "Service", "name": "cart", "port": 80}
    for one in (first, second):
        assert one["controllerName"] == CONTROLLER
        assert shown(one["conditions"]) == ["Accepted=True Accepted", "ResolvedRefs=True ResolvedRefs"]
        assert {o["observedGeneration"] for o in one["conditions"]} == {7}


@pytest.mark.parametrize(
    ("spec", "expected", "message"),
    [
        (
            f"parentRefs: [{{name: edge, sectionName: https}}], {TO_CART}",
            "Accepted=False NoMatchingParent",
            "has no listener 'https'",
        ),
        (f"parentRefs: [{{name: edge, port: 1}}], {TO_CART}", "Accepted=False NoMatchingParent", "on port 1"),
        (
            f"parentRefs: [{{name: edge, sectionName: tcp}}], {TO_CART}",
            "Accepted=False NotAllowedByListeners",
            "takes kind HTTPRoute",
        ),
        (
            f"parentRefs: [{{name: edge}}], hostnames: [other.test], {TO_CART}",
            "Accepted=False NoMatchingListenerHostname",
            "its listeners are for *.shop.test",
        ),
        (
            'parentRefs: [{group: "", kind: Service, name: cart, port: 99}], ' + TO_CART,
            "Accepted=False NoMatchingParent",
            "has no port 99",
        ),
        (
            "parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cartt, port: 80}]}]",
            "ResolvedRefs=False BackendNotFound",
            "did you mean 'cart'?",
        ),
        (
            "parentRefs: [{name: edge}], rules: [{backendRefs: [{kind: Bucket, group: x.test, name: cart}]}]",
            "ResolvedRefs=False InvalidKind",
            "backends of kind 'Bucket.x.test' are not supported",
        ),
        (
            "parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 81}]}]",
            "ResolvedRefs=False UnsupportedProtocol",
            "is TCP, not HTTP",
        ),
        (
            "parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, namespace: other, port: 80}]}]",
            "ResolvedRefs=False RefNotPermitted",
            "write a ReferenceGrant there",
        ),
        (
            "parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cart, port: 80}], mystery: 1}]",
            "Accepted=False UnsupportedValue",
            "mystery",
        ),
    ],
)
def test_a_route_that_is_not_taken_says_by_whose_doing(spec: str, expected: str, message: str) -> None:
    (parent,) = of_route(GATEWAY, SERVICE, route(spec))
    assert expected in shown(parent["conditions"])
    text = next(one["message"] for one in parent["conditions"] if expected.startswith(one["type"]))
    assert message in text


def test_a_route_with_a_backend_that_is_not_there_is_in_force() -> None:
    (parent,) = of_route(
        GATEWAY, SERVICE, route("parentRefs: [{name: edge}], rules: [{backendRefs: [{name: cartt, port: 80}]}]")
    )
    assert shown(parent["conditions"]) == ["Accepted=True Accepted", "ResolvedRefs=False BackendNotFound"]


def test_a_route_that_is_not_in_force_is_never_accepted() -> None:
    nobody = "{group: '', kind: Service, name: nobody}"
    (parent,) = of_route(GATEWAY, SERVICE, route(f"parentRefs: [{nobody}], {TO_CART}"))
    assert "Accepted=False NoMatchingParent" in shown(parent["conditions"])


def test_each_parent_says_by_itself_whether_it_takes_the_route() -> None:
    """The older route has the host at one listener only."""
    listeners = "\n    - {name: other, port: 8081, protocol: HTTP}\n    - {name: tcp"
    refs = "parentRefs: [{name: edge, sectionName: http}, {name: edge, sectionName: other}, {name: edge, port: 1}]"
    first, second, third = of_route(
        GATEWAY.replace("\n    - {name: tcp", listeners),
        SERVICE,
        route(f"parentRefs: [{{name: edge, sectionName: http}}], {TO_CART}", "calls", "GRPCRoute"),
        route(f"{refs}, {TO_CART}"),
    )
    assert shown(first["conditions"]) == ["Accepted=False UnsupportedValue", "ResolvedRefs=True ResolvedRefs"]
    assert (
        "'*.shop.test' at listener 'http' is that of GRPCRoute shop/calls already" in first["conditions"][0]["message"]
    )
    assert shown(second["conditions"])[0] == "Accepted=True Accepted"
    assert shown(third["conditions"])[0] == "Accepted=False NoMatchingParent"


def test_a_route_of_a_refused_gateway_waits() -> None:
    broken = GATEWAY.replace("protocol: HTTP,", "protocol: SCTP,")
    (parent,) = of_route(broken, SERVICE, route(f"parentRefs: [{{name: edge}}], {TO_CART}"))
    assert shown(parent["conditions"])[0] == "Accepted=False Pending"


def test_parents_of_others_and_their_entries_are_left_alone() -> None:
    store, objects = mesh(GATEWAY, SERVICE, route(f"parentRefs: [{{name: theirs}}, {{name: edge}}], {TO_CART}"))
    theirs = {"parentRef": {"name": "theirs"}, "controllerName": "example.com/other", "conditions": []}
    old = {"parentRef": {"name": "gone"}, "controllerName": CONTROLLER, "conditions": []}
    before = objects["HTTPRoute r"]
    known = Object(
        before.version,
        before.kind,
        {**before.document, "status": {"parents": [theirs, old]}},
        before.resource,
        before.findings,
    )
    gateways = {("shop", "edge"): objects["Gateway edge"]}
    parents = route_status(store, known, gateways, NOW)["parents"]
    assert parents[0] == theirs
    assert [one["parentRef"] for one in parents] == [{"name": "theirs"}, {"name": "edge"}]


def test_a_condition_keeps_its_time_until_it_changes() -> None:
    store, objects = mesh(GATEWAY, EDGE, SLICE)
    services = [objects["Service edge"]]
    first = gateway_status(store, objects["Gateway edge"], services, NOW)
    document = {**objects["Gateway edge"].document, "status": first}
    again = Object("v1", "Gateway", document, objects["Gateway edge"].resource)
    later = NOW + timedelta(hours=1)
    assert gateway_status(store, again, services, later) == first
    changed = gateway_status(store, again, [], later)["conditions"]
    assert [one["lastTransitionTime"] for one in changed] == ["2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z"]


def test_the_class_is_accepted_by_its_name() -> None:
    def of(name: str) -> list[str]:
        document = {"metadata": {"name": name}, "spec": {"controllerName": CONTROLLER}}
        return shown(class_status(Object("gateway.networking.k8s.io/v1", "GatewayClass", document), NOW)["conditions"])

    assert of("pymesh") == ["Accepted=True Accepted"]
    assert of("another") == ["Accepted=False Unsupported"]
