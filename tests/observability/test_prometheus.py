"""Istio's stock dashboards on a mesh of ours, by a real Prometheus: each query is answered, with the labels it shows.

A query that finds nothing does so for a reason that is written down (`istio_dashboards.py`), and one for which there is
a reason does find nothing.
"""

from __future__ import annotations

import re

import pytest

from tests.observability import grafana
from tests.observability.istio_dashboards import ABSENT, ANSWERED, IMPOSSIBLE, STOCK, dashboard
from tests.observability.prometheus import Prometheus
from tests.observability.shop import CHOSEN
from tests.proxy.running import eventually
from tests.tools.shop import Shop

_METRIC = re.compile(r"\b(?:istio|envoy|pilot|container|process|go|galley|citadel|sidecar)_[a-z0-9_]+")


def _is_answered(asked: str, expression: str, protocol: str) -> bool:
    """Whether one of the alternatives of a query has to find something."""
    # What is nothing may be divided by one.
    whole = (one.replace("or on () vector(1)", "") for one in (asked, expression))
    alternatives = zip(*(re.split(r"\bor\b", one) for one in whole), strict=True)
    return any(_has_data(*one, protocol) for one in alternatives)


def _has_data(asked: str, expression: str, protocol: str) -> bool:
    metrics = set(_METRIC.findall(expression)) - {"istio_ingressgateway"}
    unknown = metrics - ANSWERED - ABSENT.keys()
    assert not unknown, f"of Istio, and in no table: {unknown}"
    if metrics & ABSENT.keys():
        return False
    about = {"tcp" if name.startswith("istio_tcp_") else "http" for name in metrics if name.startswith("istio_")}
    # Who is asked about speaks one of them.
    if re.search(r"\$(service|workload)\b", asked) and not about <= {protocol}:
        return False
    asks = set(re.findall(r'reporter=~?"([^"]*)"', expression))
    # `source|waypoint`
    reporters = {one for alternatives in asks for one in alternatives.split("|")} - {"waypoint"}
    impossible = [what for one in reporters for what in IMPOSSIBLE[one]] if len(reporters) == 1 else []
    # A gateway of Istio's own name, which is not ours.
    return not any(what in expression for what in impossible) and "istio-ingressgateway" not in expression


@pytest.mark.parametrize("protocol", CHOSEN)
@pytest.mark.parametrize("reporter", ["source", "destination"])
@pytest.mark.parametrize("name", STOCK)
def test_stock_dashboards_are_answered(name: str, reporter: str, protocol: str, prometheus: Prometheus) -> None:
    stock = dashboard(name)
    known = grafana.values(stock, prometheus, {**CHOSEN[protocol], "qrep": reporter})
    wrong: list[str] = []

    def is_right() -> bool:
        wrong[:] = _wrong(stock, known, protocol, prometheus)
        return not wrong

    # A moment without requests is no answer: of nothing there is no quantile.
    assert eventually(is_right, 30), "\n".join(wrong)


def _wrong(stock: grafana.Json, known: dict[str, str], protocol: str, prometheus: Prometheus) -> list[str]:
    """What is not answered as it should be."""
    wrong, answered = [], 0
    for panel in grafana.panels(stock):
        expression = grafana.filled(panel.expression, known)
        found = prometheus.query(expression)
        answered += bool(found)
        expected = _is_answered(panel.expression, expression, protocol)
        if bool(found) != expected and "vector(0)" not in expression:
            wrong.append(f"{'nothing' if not found else 'something'} found: {panel.title}: {expression}")
        for labels, value in found:
            lacking = grafana.labels_of(panel.legend) - labels.keys()
            if lacking or value < 0:
                wrong.append(f"{panel.title}: {lacking} lacks in {labels} {value}: {expression}")
    return wrong if answered else ["nothing is answered"]


def test_tcp_is_counted_on_both_sides_with_both_identities(prometheus: Prometheus) -> None:
    """What one side says of an edge is what the other one says."""
    for metric in ("connections_opened", "connections_closed", "sent_bytes", "received_bytes"):
        for source, destination in (("clerk", "ledger"), ("ledger", "clerk")):
            edge = (
                f'source_workload="{source}", source_principal="spiffe://cluster.local/ns/shop/sa/{source}", '
                f'destination_service="{destination}.shop.svc.cluster.local", request_protocol="tcp", '
                f'destination_principal="spiffe://cluster.local/ns/shop/sa/{destination}"'
            )
            rate = f"sum by (reporter) (rate(istio_tcp_{metric}_total{{{edge}}}[20s])) > 0"

            def is_same(rate: str = rate) -> bool:
                found = {labels["reporter"]: value for labels, value in prometheus.query(rate)}
                return found.keys() == {"source", "destination"} and found["source"] == pytest.approx(
                    found["destination"], rel=0.5
                )

            assert eventually(is_same, 30), (rate, prometheus.query(rate))


def test_every_target_is_told_by_the_control_plane(shop: Shop, prometheus: Prometheus) -> None:
    targets = prometheus.api("targets", state="active")["activeTargets"]
    proxies = {
        one["labels"]["proxy"]: one["discoveredLabels"]["__address__"]
        for one in targets
        if one["labels"]["job"] == "pymesh-proxies"
    }
    assert proxies == {name.removesuffix(".shop"): address for name, address in shop.proxies.items()}
    assert {one["health"] for one in targets} == {"up"}


def test_rates_are_those_of_the_traffic(prometheus: Prometheus) -> None:
    """Twenty requests a second come to the gateway; each asks the catalogue and the reviews."""
    rate = 'sum by (destination_service_name) (rate(istio_requests_total{reporter="destination"}[20s]))'
    found = {labels["destination_service_name"]: value for labels, value in prometheus.query(rate)}
    assert {"web", "catalog", "reviews", "ratings"} <= found.keys()
    for asked in ("catalog", "reviews"):
        assert found[asked] == pytest.approx(found["web"], rel=0.5)
    both = "sum by (reporter) (increase(istio_requests_total{destination_service_name='reviews'}[20s]))"
    source, destination = (value for _, value in sorted(prometheus.query(both), key=lambda one: one[0]["reporter"]))
    assert source == pytest.approx(destination, rel=0.5)


def test_what_is_no_metric_is_not_asked_for_by_mistake() -> None:
    assert not ANSWERED & ABSENT.keys()
    assert all(ABSENT.values())
