"""What several resources say together about services: errors and warnings, and what becomes of the rest."""

import pytest

from pymesh.control.resources.diagnostics import ConfigError, Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import Store, build
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy

HEAD = "apiVersion: {0}\nkind: {1}\nmetadata: {{{{name: {2}, namespace: shop{3}}}}}\n{{}}\n---\n"
SERVICE = HEAD.format("v1", "Service", "web", "")
SLICE = HEAD.format("discovery.k8s.io/v1", "EndpointSlice", "web-x", ", labels: {{kubernetes.io/service-name: {}}}")
WORKLOAD = HEAD.format("networking.istio.io/v1", "WorkloadEntry", "vm", "")
ENTRY = HEAD.format("networking.istio.io/v1", "ServiceEntry", "vms", "")
HTTP = "ports: [{name: http, port: 80}]"


def made(text: str) -> tuple[Store, list[str]]:
    report = Report()
    store, warnings = build(load_text("f.yaml", text, report))
    assert not report.diagnostics, report.diagnostics
    return store, [str(one) for one in warnings]


REFUSED = {
    "a slice of nobody": (
        SLICE.format("", "addressType: IPv4\nendpoints: []").replace("name: }", 'name: ""}'),
        "f.yaml:3:50: error: EndpointSlice shop/web-x belongs to no service\n"
        "  hint: give it the label kubernetes.io/service-name",
    ),
    "a slice of a service that is not there": (
        SLICE.format("wob", "addressType: IPv4\nendpoints: []"),
        "f.yaml:3:50: error: there is no Service shop/wob\n  hint: the label kubernetes.io/service-name names it",
    ),
    "endpoints somewhere near": (
        SERVICE.replace("shop}", "shop, annotations: {{networking.istio.io/traffic-distribution: Near}}}").format(
            f"spec: {{{HTTP}}}"
        ),
        "f.yaml:3:53: error: networking.istio.io/traffic-distribution: 'Near' is not supported\n"
        "  hint: known: PreferClose, PreferSameNode, PreferSameZone",
    ),
    "another name of a port that is not there": (
        SERVICE.format(f"spec: {{{HTTP}}}")
        + SERVICE.replace("web", "alias").format(
            "spec: {type: ExternalName, externalName: web.shop.svc.cluster.local, ports: [{port: 81}]}"
        ),
        "f.yaml:6:1: error: 'web.shop.svc.cluster.local' has no port 81\n  hint: known: 80",
    ),
    "another name of another name": (
        SERVICE.replace("web", "one").format(
            f"spec: {{type: ExternalName, externalName: two.shop.svc.cluster.local, {HTTP}}}"
        )
        + SERVICE.replace("web", "two").format(f"spec: {{type: ExternalName, externalName: a.example, {HTTP}}}"),
        "f.yaml:1:1: error: 'two.shop.svc.cluster.local' is only another name, too\n"
        "  hint: name a service that is not an ExternalName itself",
    ),
    "one host twice": (
        ENTRY.format("spec: {hosts: [a.example, a.example], ports: [{number: 80, protocol: HTTP}]}"),
        "f.yaml:4:15: error: host 'a.example' is defined twice\n  hint: the first is at f.yaml:4:15",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    text, wanted = REFUSED[case]
    report = Report()
    resources = load_text("f.yaml", text, report)
    assert not report.failed, report.diagnostics
    with pytest.raises(ConfigError) as refused:
        build(resources)
    assert wanted in [str(one) for one in refused.value.diagnostics]


def test_a_workload_that_has_a_name_only_is_left_out_where_names_are_not_looked_up() -> None:
    vm = WORKLOAD.format("spec: {address: vm.example, labels: {app: web}}")
    store, warnings = made(vm + SERVICE.format(f"spec: {{selector: {{app: web}}, {HTTP}}}"))
    assert warnings == [
        "f.yaml:4:17: warning: Service shop/web leaves vm out: 'vm.example' is a name\n"
        "  hint: give it an IP address, or select it in a ServiceEntry with resolution: DNS"
    ]
    assert store.services["web.shop.svc.cluster.local"].backends[80] == ()
    selected = "ports: [{number: 80, protocol: HTTP}], workloadSelector: {labels: {app: web}}"
    store, warnings = made(vm + ENTRY.format(f"spec: {{hosts: [web.example], resolution: DNS, {selected}}}"))
    assert not warnings
    assert [one.workload.address for one in store.services["web.example"].backends[80]] == ["vm.example"]


def test_a_name_for_a_port_that_no_workload_has() -> None:
    text = WORKLOAD.format("spec: {address: 10.0.0.1, labels: {app: web}}")
    text += SERVICE.format("spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: web}]}")
    _, warnings = made(text)
    assert warnings == [
        "f.yaml:6:1: warning: vm has no port 'web' of Service shop/web\n  hint: name it under the entry's ports"
    ]


def _warned(text: str, interception: str) -> list[str]:
    store, _ = made(text)
    proxy = Proxy("sidecar", "10.0.0.9", "client", "shop", interception=interception)  # type: ignore[arg-type]
    return [str(one) for one in translate(store, proxy).warnings]


def test_a_client_that_is_not_captured_cannot_choose_the_address() -> None:
    text = ENTRY.format("spec: {hosts: [a.example], ports: [{number: 80, name: http, protocol: HTTP}]}")
    text += HEAD.format("networking.istio.io/v1", "Sidecar", "all", "").format(
        'spec: {egress: [{port: {number: 8080, protocol: HTTP}, captureMode: NONE, hosts: ["./a.example"]}]}'
    )
    assert _warned(text, "NONE") == [
        "f.yaml:4:15: warning: 'a.example' is where the client goes, and client.shop cannot see that\n"
        "  hint: capture the workload's traffic (INTERCEPTION_MODE), or use resolution: DNS or STATIC"
    ]


def test_tcp_services_that_cannot_be_told_apart() -> None:
    one = "spec: {{hosts: [{}], resolution: STATIC, ports: [{{number: 5432, protocol: TCP}}], addresses: [{}]}}"
    text = ENTRY.format(one.format("a.example", "10.0.0.0/24")) + ENTRY.replace("vms", "b").format(
        one.format("b.example", "10.0.0.9/24")
    )
    assert _warned(text, "REDIRECT") == [
        "f.yaml:9:15: warning: 10.0.0.0/24 port 5432 is that of 'a.example'\n  hint: give each its own network"
    ]
    text = ENTRY.format(one.format("a.example", "")) + ENTRY.replace("vms", "b").format(one.format("b.example", ""))
    assert _warned(text, "REDIRECT") == [
        "f.yaml:9:15: warning: connections to 'b.example' port 5432 cannot be told from others\n"
        "  hint: a TCP service needs a virtual IP: clusterIP of a Service, addresses of a ServiceEntry"
    ]


def test_a_headless_service_half_in_the_mesh() -> None:
    text = SERVICE.format(f"spec: {{clusterIP: None, selector: {{app: web}}, {HTTP}}}")
    text += WORKLOAD.format("spec: {address: 10.0.0.1, labels: {app: web, security.istio.io/tlsMode: istio}}")
    text += WORKLOAD.replace("vm", "vm2").format("spec: {address: 10.0.0.2, labels: {app: web}}")
    assert _warned(text, "REDIRECT") == [
        "f.yaml:1:1: warning: 'web.shop.svc.cluster.local' is reached over mutual TLS, which some of its endpoints do "
        "not speak\n  hint: give all of them a proxy, or set tls.mode: DISABLE in a DestinationRule"
    ]


def test_another_name_without_ports_has_those_where_a_name_is_heard() -> None:
    alias = SERVICE.replace("web", "alias").format(
        "spec: {type: ExternalName, externalName: web.shop.svc.cluster.local}"
    )
    served = WORKLOAD.format("spec: {address: 10.0.0.1, labels: {app: web}}")
    ports = "ports: [{name: http, port: 80}, {name: tcp, port: 81}]"
    store, warnings = made(served + SERVICE.format(f"spec: {{selector: {{app: web}}, {ports}}}") + alias)
    one, web = (store.services[f"{name}.shop.svc.cluster.local"] for name in ("alias", "web"))
    # A connection to any address at 81 would be for it, if it had the port.
    assert (one.ports, one.resolution, warnings) == (web.ports[:1], "EDS", [])
    assert one.backends == {80: web.backends[80]}


def test_another_name_for_somebody_outside_needs_no_ports() -> None:
    alias = SERVICE.format("spec: {type: ExternalName, externalName: db.example}")
    store, warnings = made(alias)
    assert (store.services["web.shop.svc.cluster.local"].ports, warnings) == ((), [])


def test_a_headless_service_needs_no_ports() -> None:
    store, warnings = made(SERVICE.format("spec: {selector: {app: web}, clusterIP: None}"))
    assert (store.services["web.shop.svc.cluster.local"].ports, warnings) == ((), [])
