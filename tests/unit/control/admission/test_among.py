"""Who asks a webhook learns no names that he did not bring."""

from __future__ import annotations

from pymesh.control.admission.among import findings
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions

SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: prod-wildcard-2026, namespace: bank}\n"
SERVICE = "---\napiVersion: v1\nkind: Service\nmetadata: {name: ledger, namespace: bank}\nspec: {ports: [{port: 80}]}\n"
GATEWAY = (
    "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: probe, namespace: bank}\n"
    "spec: {selector: {a: b}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: [x.example], "
    "tls: {mode: SIMPLE, credentialName: prod-wildcard-2025}}]}\n"
)
ROUTE = (
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: probe, namespace: x}\n"
    "spec: {hosts: [x.example], http: [{route: [{destination: {host: ledgre.bank}}]}]}\n"
)


def test_names_of_secrets_and_services_are_not_told() -> None:
    report = Report()
    in_force = load_text("mesh.yaml", SECRET + SERVICE, report)
    gateway, route = load_text("a.yaml", GATEWAY, report)[0], load_text("b.yaml", ROUTE, report)[0]
    assert not report.diagnostics
    found = [*findings(gateway, in_force, MeshOptions()), *findings(route, in_force, MeshOptions())]
    messages = [one.message for one in found]
    assert "there is no Secret bank/prod-wildcard-2025" in messages
    assert "there is no service 'ledgre.bank'" in messages
    assert not [one for one in found if "2026" in str(one) or "ledger" in str(one)]


def test_what_others_refer_to_in_vain_keeps_nobody_from_being_looked_at() -> None:
    """They are in force, and the newcomer is told what `pymesh analyze` finds about it."""
    report = Report()
    others = ROUTE.replace("hosts: [x.example]", "hosts: [ledger.bank]").replace("probe", "other")
    in_force = load_text("mesh.yaml", SERVICE, report) + load_text("other.yaml", others, report)
    rule = "{host: ledger.bank.svc.cluster.local, trafficPolicy: {tls: {mode: SIMPLE, insecureSkipVerify: true}}}"
    head = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: bank}\n"
    (new,) = load_text("new.yaml", f"{head}spec: {rule}\n", report)
    assert not report.diagnostics
    assert [one.code for one in findings(new, in_force, MeshOptions())] == ["IST0128"]
