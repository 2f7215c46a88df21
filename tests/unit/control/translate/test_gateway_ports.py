"""A port of a Gateway is one of the Service before its proxies: who else has to know where that leads."""

from __future__ import annotations

from pathlib import Path

import yaml

from pymesh.control.network import layer4
from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import Store, build
from pymesh.control.translate import translate
from pymesh.control.translate.origins import Origins
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

CASE = Path(__file__).parents[3] / "golden" / "gateway-ports" / "in.yaml"
HEAD, _, RESOURCES = CASE.read_text().partition("\n---\n")


def gateway() -> tuple[Store, Proxy]:
    (described,) = yaml.safe_load(HEAD)["proxies"]
    store, _ = build(load_text("in.yaml", RESOURCES, Report()))
    return store, Proxy.parse(described["id"], described["metadata"])


def test_what_a_listener_comes_from_is_found() -> None:
    store, proxy = gateway()
    servers = [server.at for server in store.gateways[0].spec.servers]
    listeners = translate(store, proxy).messages[pb.LISTENER]
    origins = Origins(store, proxy)
    found = {name: [at for at in origins.of(one) if at in servers] for name, one in listeners.items()}
    at_80, at_443, at_9000 = ([one] for one in servers)
    assert found == {"0.0.0.0_8080": at_80, "0.0.0.0_8443": at_443, "0.0.0.0_9000": at_9000}


def test_the_network_below_lets_in_where_the_proxy_listens() -> None:
    store, _ = gateway()
    # What the proxy calls "secure" is known to the proxy alone.
    assert [one.istio_ports for one in layer4.edges(store, "edge")] == [frozenset({80, 443, 9000, 8080})]
