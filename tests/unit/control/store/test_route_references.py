"""Routes of the Gateway API that lead nowhere, or that nobody takes: the exact text, with place and remedy."""

import pytest

from tests.tools.told import told


def document(kind: str, name: str, spec: str, namespace: str = "shop", version: str = "v1") -> str:
    head = f"apiVersion: gateway.networking.k8s.io/{version}\nkind: {kind}\n"
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n---\n"


def route(kind: str, spec: str, name: str = "r", namespace: str = "shop") -> str:
    return document(kind, name, spec, namespace, "v1alpha2" if kind in ("TCPRoute", "TLSRoute") else "v1")


SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\n"
    "spec: {ports: [{name: http, port: 80}, {name: tcp, port: 81}]}\n---\n"
)
GATEWAY = document(
    "Gateway",
    "edge",
    "gatewayClassName: pymesh, listeners: [{name: http, port: 8080, protocol: HTTP, hostname: '*.test'}, "
    "{name: tcp, port: 9000, protocol: TCP}]",
)


def selecting(labels: str) -> str:
    allowed = f"allowedRoutes: {{namespaces: {{from: Selector, selector: {{matchLabels: {{{labels}}}}}}}}}"
    listeners = f"listeners: [{{name: http, port: 8080, protocol: HTTP, {allowed}}}]"
    return document("Gateway", "edge", f"gatewayClassName: pymesh, {listeners}")


SELECTING, BY_NAME = selecting("team: shop"), selecting("kubernetes.io/metadata.name: other")
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {{name: other, labels: {{team: {team}}}}}\n---\n"
OF_SHOP = "parentRefs: [{name: edge, namespace: shop}]"
HERE = "parentRefs: [{name: edge}]"
OF_CART = "{group: '', kind: Service, name: cart"
TO_CART = "rules: [{backendRefs: [{name: cart, port: 80}]}]"
TO_TCP = "rules: [{backendRefs: [{name: cart, port: 81}]}]"
GRANT = document(
    "ReferenceGrant",
    "g",
    "from: [{group: gateway.networking.k8s.io, kind: GRPCRoute, namespace: other}], "
    "to: [{group: '', kind: Service, name: basket}]",
)

CASES = {
    "no such Gateway": (
        GATEWAY + route("HTTPRoute", "parentRefs: [{name: egde}]"),
        ["9:28: error: there is no Gateway shop/egde\n  hint: did you mean 'edge'?"],
    ),
    "backends of other kinds": (
        SERVICE + GATEWAY + route(
            "HTTPRoute",
            f"{HERE}, rules: [{{backendRefs: [{{name: cart, kind: ServiceImport, group: multicluster.x-k8s.io}}, "
            "{name: cart, group: example.test, port: 80}]}]",
        ),
        ["14:78: error: backends of kind 'ServiceImport.multicluster.x-k8s.io' are not supported\n"
         "  hint: name a Service",
         "14:144: error: backends of kind 'Service.example.test' are not supported\n  hint: name a Service"],
    ),
    "no such listener": (
        GATEWAY + route("HTTPRoute", "parentRefs: [{name: edge, sectionName: https}]"),
        ["9:47: error: Gateway shop/edge has no listener 'https'\n  hint: did you mean 'http'?"],
    ),
    "no such port of the listener": (
        GATEWAY + route("HTTPRoute", "parentRefs: [{name: edge, sectionName: http, port: 80}]"),
        ["9:59: error: Gateway shop/edge has no such listener on port 80"],
    ),
    "listener of another kind": (
        GATEWAY + route("HTTPRoute", "parentRefs: [{name: edge, sectionName: tcp}]"),
        ["9:28: error: no listener of Gateway shop/edge that is meant takes kind HTTPRoute\n"
         "  hint: see the listener's protocol and allowedRoutes.kinds"],
    ),
    "namespace that is not let in": (
        GATEWAY + route("HTTPRoute", "parentRefs: [{name: edge, namespace: shop}]", namespace="other"),
        ["9:45: error: Gateway shop/edge takes no routes of namespace 'other'\n"
         "  hint: set allowedRoutes.namespaces on the listener; from: All lets every namespace in"],
    ),
    "namespace without the label": (
        NAMESPACE.format(team="billing") + SELECTING + route("HTTPRoute", OF_SHOP, namespace="other"),
        ["13:45: error: Gateway shop/edge takes no routes of namespace 'other'\n"
         "  hint: give the namespace the labels that allowedRoutes.namespaces.selector of the listener asks for"],
    ),
    "namespace of which nothing is written": (
        SELECTING + route("HTTPRoute", OF_SHOP, namespace="other"),
        ["9:45: error: Gateway shop/edge takes no routes of namespace 'other'\n"
         "  hint: give the namespace the labels that allowedRoutes.namespaces.selector of the listener asks for"],
    ),
    "namespace with the label": (
        NAMESPACE.format(team="shop") + SELECTING + route("HTTPRoute", OF_SHOP, namespace="other"), [],
    ),
    "name that is written otherwise": (
        "apiVersion: v1\nkind: Namespace\n"
        "metadata: {name: other, labels: {kubernetes.io/metadata.name: third}}\n---\n"
        + BY_NAME + route("HTTPRoute", OF_SHOP, namespace="other"), [],
    ),
    "no hostname in common": (
        GATEWAY + route("HTTPRoute", f"{HERE}, hostnames: [test, a.example]"),
        ["9:47: warning: no hostname in common with Gateway shop/edge: the route is not used there\n"
         "  hint: its listeners are for *.test"],
    ),
    "no such backend": (
        SERVICE + GATEWAY + route("HTTPRoute", f"{HERE}, rules: [{{backendRefs: [{{name: card, port: 80}}]}}]"),
        ["14:66: error: there is no service 'card'\n  hint: did you mean 'cart'?"],
    ),
    "backend without a port": (
        SERVICE + GATEWAY + route("HTTPRoute", f"{HERE}, rules: [{{backendRefs: [{{name: cart}}]}}]"),
        ["14:59: error: the backend 'cart' needs a port"],
    ),
    "port that the backend has not": (
        SERVICE + GATEWAY + route("TCPRoute", f"{HERE}, rules: [{{backendRefs: [{{name: cart, port: 82}}]}}]"),
        ["14:78: error: 'cart.shop.svc.cluster.local' has no port 82\n  hint: known: 80, 81"],
    ),
    "requests for a TCP port": (
        SERVICE + GATEWAY + route("GRPCRoute", f"{HERE}, {TO_TCP}"),
        ["14:78: error: port 81 of 'cart.shop.svc.cluster.local' is TCP, not HTTP\n"
         "  hint: begin the port's name with 'http', or set appProtocol"],
    ),
    "backend of another namespace": (
        SERVICE
        + GRANT
        + route(
            "GRPCRoute",
            "parentRefs: [{group: '', kind: Service, name: cart, namespace: shop}], "
            "rules: [{backendRefs: [{name: cart, namespace: shop, port: 80}]}]",
            namespace="other",
        ),
        ["14:126: error: namespace 'shop' does not let a GRPCRoute of 'other' refer to its Service 'cart'\n"
         "  hint: write a ReferenceGrant there, from GRPCRoute in 'other' to Service"],
    ),
    "backend of another namespace that lets it": (
        SERVICE
        + GRANT.replace("basket", "cart")
        + route(
            "GRPCRoute",
            "parentRefs: [{group: '', kind: Service, name: cart, namespace: shop}], "
            "rules: [{backendRefs: [{name: cart, namespace: shop, port: 80}]}]",
            namespace="other",
        ),
        [],
    ),
    "Secret of another namespace": (
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: other}\n---\n"
        + document(
            "Gateway",
            "edge",
            "gatewayClassName: pymesh, listeners: [{name: a, port: 1, protocol: HTTPS, "
            "tls: {certificateRefs: [{name: s, namespace: other}]}}]",
        ),
        ["8:127: error: namespace 'other' does not let Gateway shop/edge use its Secret 's'\n"
         "  hint: write a ReferenceGrant there, from Gateway in 'shop' to Secret"],
    ),
    "section of a Service": (
        SERVICE + route("HTTPRoute", "parentRefs: [{group: '', kind: Service, name: cart, sectionName: htpp}]"),
        ["9:73: error: 'cart.shop.svc.cluster.local' has no port 'htpp'\n  hint: did you mean 'http'?"],
    ),
    "section of a Service that is another port": (
        SERVICE + route("TCPRoute", f"parentRefs: [{OF_CART}, sectionName: http, port: 81}}], {TO_TCP}"),
        ["9:73: error: port 'http' of 'cart.shop.svc.cluster.local' is 80, not 81\n"
         "  hint: remove one of 'port' and 'sectionName'"],
    ),
    "section of a Service that is not HTTP": (
        SERVICE + route("HTTPRoute", f"parentRefs: [{OF_CART}, sectionName: tcp}}], {TO_CART}"),
        ["9:73: error: port 81 of 'cart.shop.svc.cluster.local' is TCP, not HTTP\n"
         "  hint: begin the port's name with 'http', or set appProtocol"],
    ),
    "port of a Service": (
        SERVICE + route("TCPRoute", f"parentRefs: [{{group: '', kind: Service, name: cart, port: 8}}], {TO_TCP}"),
        ["9:66: error: 'cart.shop.svc.cluster.local' has no port 8\n  hint: known: 80, 81"],
    ),
    "hostnames inside the mesh": (
        SERVICE + route("HTTPRoute", "parentRefs: [{group: '', kind: Service, name: cart}], hostnames: [a.test]"),
        ["9:73: warning: hostnames have no meaning for a Service parent\n  hint: remove them"],
    ),
    "calls and requests for one host": (
        SERVICE
        + GATEWAY
        + route("HTTPRoute", f"{HERE}, hostnames: [a.test], {TO_CART}", "h")
        + route("GRPCRoute", f"{HERE}, hostnames: [b.test, a.test], {TO_CART}", "c"),
        ["14:47: error: 'a.test' at listener 'http' is that of GRPCRoute shop/c already\n"
         "  hint: give one of them another hostname; the GRPCRoute is at f:16:1"],
    ),
    "two for the same connections": (
        SERVICE + GATEWAY + route("TCPRoute", f"{HERE}, {TO_TCP}", "a") + route("TCPRoute", f"{HERE}, {TO_TCP}", "b"),
        ["19:20: error: listener 'tcp' of Gateway shop/edge has a TCPRoute already\n"
         "  hint: nothing tells their connections apart; the other is at f:11:1"],
    ),
    "VirtualService and GRPCRoute": (
        SERVICE
        + route("GRPCRoute", f"parentRefs: [{{group: '', kind: Service, name: cart}}], {TO_CART}")
        + "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: shop}\n"
        "spec: {hosts: [cart], http: [{directResponse: {status: 200}}]}\n",
        ["14:15: error: 'cart.shop.svc.cluster.local' has both a VirtualService and a GRPCRoute\n"
         "  hint: keep one of them; the GRPCRoute is at f:6:1"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_told(case: str) -> None:
    text, wanted = CASES[case]
    assert told(text) == wanted


def aged(text: str, year: int) -> str:
    return text.replace("metadata: {", f"metadata: {{creationTimestamp: '{year}-01-01T00:00:00Z', ", 1)


@pytest.mark.parametrize("older", ["HTTPRoute", "GRPCRoute"])
def test_the_oldest_kind_of_route_has_a_host(older: str) -> None:
    """As the standard says, whatever their names are."""
    written = [
        aged(route(kind, f"{HERE}, hostnames: [a.test], {TO_CART}", name), 2024 if kind == older else 2026)
        for kind, name in (("HTTPRoute", "m"), ("GRPCRoute", "a" if older == "HTTPRoute" else "z"))
    ]
    (found,) = told(SERVICE + GATEWAY + "".join(written))
    assert f"'a.test' at listener 'http' is that of {older} shop/" in found
    assert f"the {older} is at" in found


@pytest.mark.parametrize("older", ["HTTPRoute", "VirtualService"])
def test_a_newer_resource_of_another_namespace_takes_no_service_over(older: str) -> None:
    kept = aged(route("HTTPRoute", f"parentRefs: [{{group: '', kind: Service, name: cart}}], {TO_CART}", "z"), 2025)
    other = (
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: a, namespace: other}\n"
        "spec: {hosts: [cart.shop], http: [{directResponse: {status: 200}}]}\n"
    )
    (found,) = told(SERVICE + kept + aged(other, 2026 if older == "HTTPRoute" else 2024))
    newer = "VirtualService" if older == "HTTPRoute" else "HTTPRoute"
    assert f"has both a {newer} and a {older}\n" in found
