"""References that lead nowhere, as users are told of them."""

import pytest

from pymesh.control.resources.diagnostics import ConfigError, Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import build

SERVICE = (
    "apiVersion: v1\nkind: Service\nmetadata: {name: cart, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n"
)
ISTIO = "---\napiVersion: networking.istio.io/v1\nmetadata: {name: x, namespace: shop}\n"
VIRTUAL = ISTIO + "kind: VirtualService\nspec: {hosts: [cart], "
ROUTE = VIRTUAL + "http: [{route: [{destination: {host: cart, "

CASES = {
    "host": (
        ISTIO + "kind: VirtualService\nspec: {hosts: [cart], http: [{route: [{destination: {host: carts}}]}]}\n",
        "f.yaml:9:60: error: there is no service 'carts'\n  hint: did you mean 'cart'?",
    ),
    "subset": (
        ISTIO + "kind: VirtualService\nspec: {hosts: [cart], "
        "http: [{route: [{destination: {host: cart, subset: v1}}]}]}\n",
        "f.yaml:9:74: error: 'cart.shop.svc.cluster.local' has no subset 'v1'\n"
        "  hint: define it in a DestinationRule for the host",
    ),
    "port": (
        ISTIO + "kind: VirtualService\nspec: {hosts: [cart], "
        "http: [{route: [{destination: {host: cart, port: {number: 8}}}]}]}\n",
        "f.yaml:9:81: error: 'cart.shop.svc.cluster.local' has no port 8\n  hint: known: 80",
    ),
    "gateway": (
        ISTIO + "kind: VirtualService\nspec: {hosts: [cart], gateways: [edge], "
        "http: [{route: [{destination: {host: cart}}]}]}\n",
        "f.yaml:9:33: error: there is no Gateway 'edge'\n  hint: known: mesh",
    ),
    "twice": (
        "---\n" + SERVICE,
        "f.yaml:8:18: error: Service shop/cart is defined twice\n  hint: the first is at f.yaml:3:18",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str) -> None:
    text, wanted = CASES[case]
    report = Report()
    resources = load_text("f.yaml", SERVICE + text, report)
    assert not report.failed, report.diagnostics
    with pytest.raises(ConfigError) as refused:
        build(resources)
    assert wanted in [str(one) for one in refused.value.diagnostics]


@pytest.mark.parametrize("host", ["cart", "cart.shop", "cart.shop.svc", "cart.shop.svc.cluster.local"])
def test_a_service_has_many_names(host: str) -> None:
    store, _ = build(load_text("f.yaml", SERVICE, Report()))
    found = store.service(host, "shop")
    assert found is not None
    assert found.host == "cart.shop.svc.cluster.local"
    assert store.service("cart", "other") is None
