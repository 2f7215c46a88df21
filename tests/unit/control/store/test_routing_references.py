"""VirtualServices beside each other: delegates, exports and conflicts, as users are told of them."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, assemble
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb
from tests.tools.told import told

SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n"
)


def istio(kind: str, name: str, spec: str, namespace: str = "shop") -> str:
    head = "---\napiVersion: networking.istio.io/v1\n"
    return f"{head}kind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"


def virtual(name: str, spec: str, namespace: str = "shop") -> str:
    return istio("VirtualService", name, spec, namespace)


def exported(to: str) -> str:
    return SERVICE.replace("shop}", f"shop, annotations: {{networking.istio.io/exportTo: '{to}'}}}}")


OK = "http: [{directResponse: {status: 200}}]"

CASES = {
    "no such delegate": (
        SERVICE + virtual("root", "hosts: [cart], http: [{delegate: {name: rules}}]"),
        ["9:48: error: there is no VirtualService shop/rules without hosts\n"
         "  hint: a delegate is a VirtualService without `hosts`"],
    ),
    "misspelt delegate": (
        SERVICE + virtual("root", "hosts: [cart], http: [{delegate: {name: rulse}}]") + virtual("rules", OK),
        ["9:48: error: there is no VirtualService shop/rulse without hosts\n  hint: did you mean 'shop/rules'?",
         "14:7: warning: VirtualService shop/rules has no hosts and nothing delegates to it\n"
         "  hint: name its hosts, or name it as delegate in another VirtualService"],
    ),
    "delegate that is not exported": (
        SERVICE
        + virtual("root", "hosts: [cart], http: [{delegate: {name: rules, namespace: other}}]")
        + virtual("rules", OK + ", exportTo: ['.']", "other"),
        ["9:48: error: VirtualService other/rules is not exported to namespace 'shop'\n"
         "  hint: add it to exportTo at f:14:59",
         "14:7: warning: VirtualService other/rules has no hosts and nothing delegates to it\n"
         "  hint: name its hosts, or name it as delegate in another VirtualService"],
    ),
    "delegate that matches more": (
        SERVICE
        + virtual("root", "hosts: [cart], http: [{match: [{uri: {prefix: /a}, port: 80}], delegate: {name: rules}}]")
        + virtual("rules", "http: [{match: [{uri: {prefix: /}}], directResponse: {status: 200}}]"),
        ["14:23: warning: http[0] of VirtualService shop/rules matches more than the rule at f:9:30 that delegates "
         "to it\n  hint: make its matches narrower than those there; the rule is left out"],
    ),
    "service that is not exported": (
        exported(".")
        + virtual("rules", "hosts: [cart.shop], http: [{route: [{destination: {host: cart.shop}}]}]", "b"),
        ["9:15: error: 'cart.shop.svc.cluster.local' is not exported to namespace 'b'\n"
         "  hint: add it to exportTo of the service at f:1:1",
         "9:65: error: 'cart.shop.svc.cluster.local' is not exported to namespace 'b'\n"
         "  hint: add it to exportTo of the service at f:1:1"],
    ),
    "annotation": (
        exported("*, Shop"),
        ["3:54: error: networking.istio.io/exportTo: '*' stands alone\n  hint: keep it, or the others",
         "3:54: error: networking.istio.io/exportTo: 'Shop' is no namespace\n"
         "  hint: write a namespace, '.' for this one, '*' for all"],
    ),
    "two for one host": (
        SERVICE + virtual("a", f"hosts: [cart], {OK}") + virtual("b", f"hosts: [cart.shop], {OK}"),
        ["14:15: error: 'cart.shop.svc.cluster.local' has two VirtualServices in the mesh\n"
         "  hint: move this into the one at f:6:1"],
    ),
    "two for one host that no namespace sees both of": (
        SERVICE
        + virtual("a", f"hosts: [cart], exportTo: ['.'], {OK}")
        + virtual("b", f"hosts: [cart.shop], exportTo: ['.'], {OK}", "other"),
        [],
    ),
    "a pattern and a whole name": (
        SERVICE
        + virtual("a", f"hosts: [cart], {OK}")
        + virtual("b", f"hosts: ['*.shop.svc.cluster.local'], {OK}"),
        [],
    ),
    "a pattern for nothing": (
        SERVICE + virtual("a", f"hosts: ['*.nowhere.test'], {OK}"),
        ["9:15: warning: no service is within '*.nowhere.test'\n  hint: name the services"],
    ),
    "two DestinationRules of one namespace": (
        SERVICE + istio("DestinationRule", "a", "host: cart") + istio("DestinationRule", "b", "host: cart.shop"),
        ["14:14: error: 'cart.shop.svc.cluster.local' has two DestinationRules\n"
         "  hint: move this into the one at f:6:1"],
    ),
    "DestinationRules of two namespaces": (
        SERVICE + istio("DestinationRule", "a", "host: cart") + istio("DestinationRule", "b", "host: cart.shop", "c"),
        [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_told(case: str) -> None:
    text, wanted = CASES[case]
    assert told(text) == wanted


def test_a_delegates_destinations_are_those_of_its_own_namespace() -> None:
    """Two teams have a service of the same name: that of the delegate's author is meant, not that of the root's."""
    mine = SERVICE.replace("namespace: shop}", "namespace: team}")
    rule = "{route: [{destination: {host: cart}}], mirrors: [{destination: {host: cart}}]}"
    root = virtual("root", "hosts: [cart.shop], http: [{delegate: {name: rules, namespace: team}}]")
    report = Report()
    text = f"{SERVICE}---\n{mine}{root}{virtual('rules', f'http: [{rule}]', 'team')}"
    store = assemble(load_text("f", text, report), MeshOptions(), report)
    assert not report.diagnostics
    made = translate(store, Proxy("sidecar", "10.0.0.1", "web", "shop", interception="REDIRECT")).messages
    action = made[pb.ROUTES]["80"].virtual_hosts[0].routes[0].route
    there = "outbound|80||cart.team.svc.cluster.local"
    assert (action.cluster, [one.cluster for one in action.request_mirror_policies]) == (there, [there])


def test_a_client_takes_the_rule_of_its_own_namespace() -> None:
    report = Report()
    rules = (
        istio("DestinationRule", "a", "host: cart, subsets: [{name: s}]")
        + istio("DestinationRule", "b", "host: cart.shop", "client")
        + istio("DestinationRule", "c", "host: cart.shop", "third")
    )
    store = assemble(load_text("f", SERVICE + rules, report), MeshOptions(), report)
    service = store.services["cart.shop.svc.cluster.local"]
    names = {
        namespace: rule.name if (rule := store.destination_rule(service, namespace)) else None
        for namespace in ("shop", "client", "third", "other")
    }
    assert names == {"shop": "a", "client": "b", "third": "c", "other": "a"}
    assert store.subset(service, "s", "other") is not None
    assert store.subset(service, "s", "client") is None
