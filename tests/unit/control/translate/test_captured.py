"""Who has an address that two services give: what came first, whatever their names are."""

from __future__ import annotations

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import build
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

SERVICE = """
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: bank{age}}}
spec: {{clusterIP: 10.96.0.10, ports: [{{name: {protocol}, port: 5432}}]}}
---
"""
ENTRY = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: x, namespace: {namespace}{age}}}
spec:
  hosts: [{host}]
  addresses: [10.96.0.10]
  ports: [{{number: 5432, name: port, protocol: {upper}}}]
  resolution: STATIC
  endpoints: [{{address: 10.66.6.6}}]
---
"""


def service(protocol: str, year: int) -> str:
    return SERVICE.format(protocol=protocol, age=f", creationTimestamp: '{year}-01-01T00:00:00Z'")


def entry(protocol: str, host: str, year: int) -> str:
    age = f", creationTimestamp: '{year}-01-01T00:00:00Z'"
    return ENTRY.format(namespace=host.rpartition(".")[2], age=age, host=host, upper=protocol.upper())


def leading(text: str, protocol: str) -> tuple[str, list[str]]:
    """The cluster of what is asked for at the address, and what is told."""
    report = Report()
    store, _ = build(load_text("f", text, report))
    assert not report.diagnostics
    made = translate(store, Proxy("sidecar", "10.0.0.1", "a-1", "shop", {"app": "a"}, interception="REDIRECT"))
    told = [each.message for each in made.warnings]
    if protocol == "tcp":
        (chain,) = made.messages[pb.LISTENER]["10.96.0.10_5432"].filter_chains
        proxy = pb.message("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy")()
        chain.filters[-1].typed_config.Unpack(proxy)
        return proxy.cluster, told
    (found,) = [one for one in made.messages[pb.ROUTES]["5432"].virtual_hosts if "10.96.0.10" in one.domains]
    return found.routes[0].route.cluster, told


@pytest.mark.parametrize("protocol", ["tcp", "http"])
@pytest.mark.parametrize("year", [2020, 2026])
def test_a_cluster_ip_is_the_services_own(protocol: str, year: int) -> None:
    led, _ = leading(entry(protocol, "a.evil", year) + service(protocol, 2024), protocol)
    assert led == "outbound|5432||db.bank.svc.cluster.local"


@pytest.mark.parametrize("protocol", ["tcp", "http"])
def test_of_two_entries_the_older_has_the_address(protocol: str) -> None:
    led, _ = leading(entry(protocol, "a.evil", 2026) + entry(protocol, "z.bank", 2024), protocol)
    assert led == "outbound|5432||z.bank"


def test_a_services_short_name_is_its_own() -> None:
    led, told = leading(entry("http", "db.bank", 2020) + service("http", 2024), "http")
    assert led == "outbound|5432||db.bank.svc.cluster.local"
    assert "'db.bank' at port 5432 is a name of 'db.bank.svc.cluster.local'" in told
