"""Virtual addresses and the name table, from resources."""

from __future__ import annotations

import ipaddress

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store import addresses
from pymesh.control.store.store import MeshOptions, Store, assemble

TEXT = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: own, namespace: shop}
spec: {clusterIP: 240.240.0.1, selector: {app: own}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: store, namespace: shop}
spec: {clusterIP: None, selector: {app: store}, ports: [{name: tcp, port: 9}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: store-0, namespace: shop}
spec: {address: 10.0.0.9, labels: {app: store}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: outside, namespace: shop}
spec: {hosts: [api.test], resolution: DNS, location: MESH_EXTERNAL, ports: [{number: 80, name: http, protocol: HTTP}]}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: wild, namespace: shop}
spec: {hosts: ["*.wild.test", any.test], resolution: NONE, ports: [{number: 80, name: http, protocol: HTTP}]}
"""
NETWORK = ipaddress.IPv4Network("240.240.0.0/16")


def store(text: str, network: ipaddress.IPv4Network | None = NETWORK) -> Store:
    report = Report()
    made = assemble(load_text("in.yaml", text, report), MeshOptions(virtual_network=network), report)
    assert not report.failed, report.diagnostics
    return made


def test_who_lacks_an_address_gets_one() -> None:
    found = {host: one.addresses for host, one in store(TEXT).services.items()}
    (web,), (outside,) = found["web.shop.svc.cluster.local"], found["api.test"]
    assert ipaddress.ip_address(web) in NETWORK
    assert ipaddress.ip_address(outside) in NETWORK
    assert found["own.shop.svc.cluster.local"] == ("240.240.0.1",)
    assert found["store.shop.svc.cluster.local"] == found["*.wild.test"] == found["any.test"] == ()


def test_an_address_stays_whatever_comes_beside_it() -> None:
    more = "".join(
        f"\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\n"
        "spec: {selector: {app: a}, ports: [{name: http, port: 80}]}"
        for n in range(50)
    )
    before, after = store(TEXT).services, store(TEXT + more).services
    assert all(after[host].addresses == before[host].addresses for host in before)


def test_nobody_shares_one() -> None:
    more = "".join(
        f"\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: s{n}, namespace: shop}}\n"
        "spec: {selector: {app: a}, ports: [{name: http, port: 80}]}"
        for n in range(28)
    )
    # With two more that lack one: as many as there are.
    small = ipaddress.IPv4Network("240.240.1.0/27")
    given = [one for service in store(TEXT + more, small).services.values() for one in service.addresses]
    assert len(given) == len(set(given)) == 31


def test_names_are_those_with_addresses() -> None:
    table = addresses.names(store(TEXT).services)
    assert table["store.shop.svc.cluster.local"]["ips"] == ["10.0.0.9"]
    assert table["own.shop.svc.cluster.local"] == {
        "ips": ["240.240.0.1"],
        "registry": "Kubernetes",
        "shortname": "own",
        "namespace": "shop",
    }
    assert table["api.test"]["registry"] == "External"
    assert set(table) == {"api.test", *(f"{name}.shop.svc.cluster.local" for name in ("web", "own", "store"))}


def test_without_a_network_nothing_is_given() -> None:
    assert store(TEXT, None).services["web.shop.svc.cluster.local"].addresses == ()


@pytest.mark.parametrize("prefix", ["240.240.0.0/33", "x", "240.240.0.0/31"])
def test_a_network_that_is_none_is_told(prefix: str) -> None:
    from click.testing import CliRunner

    from pymesh.cli.control import command

    done = CliRunner().invoke(command, ["--config", ".", "--state", ".", "--insecure-xds", "--auto-allocate", prefix])
    assert done.exit_code == 1
    assert "--auto-allocate" in done.output
    assert "hint: 240.240.0.0/16" in done.output
