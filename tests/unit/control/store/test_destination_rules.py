"""Which DestinationRule says how a client speaks to a service."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import build

SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bank, namespace: shop}
spec: {hosts: [bank.example], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS}
"""
WEB, BANK = "web.shop.svc.cluster.local", "bank.example"


def rule(name: str, namespace: str, host: str, more: str = "") -> str:
    head = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n"
    return f"{head}metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{host: '{host}'{more}}}\n"


ROOT = rule("mesh", "istio-system", "*.local")
SERVICES_OWN = rule("own", "shop", "web")
CLIENTS = rule("client", "other", WEB)


@pytest.mark.parametrize(
    ("rules", "client", "host", "wanted"),
    [
        (ROOT, "shop", WEB, "mesh"),
        (ROOT, "other", WEB, "mesh"),
        (ROOT, "istio-system", WEB, "mesh"),
        (ROOT, "other", BANK, None),
        (rule("all", "istio-system", "*"), "other", BANK, "all"),
        (rule("all", "istio-system", "*") + ROOT, "other", WEB, "mesh"),
        (ROOT + SERVICES_OWN, "other", WEB, "own"),
        (ROOT + SERVICES_OWN + CLIENTS, "other", WEB, "client"),
        # A gateway in the root namespace is no exception, unless the rule is for it alone.
        (ROOT + SERVICES_OWN, "istio-system", WEB, "own"),
        (rule("edge", "istio-system", WEB, ", exportTo: [.]") + SERVICES_OWN, "istio-system", WEB, "edge"),
        (rule("edge", "istio-system", WEB, ", exportTo: [.]"), "other", WEB, None),
        # Of one namespace the closest.
        (ROOT + rule("closer", "istio-system", WEB), "other", WEB, "closer"),
    ],
)
def test_whose_rule_holds(rules: str, client: str, host: str, wanted: str | None) -> None:
    store, _ = build(load_text("f", SERVICES + rules, Report()))
    found = store.destination_rule(store.services[host], client)
    assert (found.name if found else None) == wanted
