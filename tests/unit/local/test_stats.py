"""Edges and quantiles from metrics pages."""

from __future__ import annotations

import pytest

from pymesh.local import stats

EDGE = 'source_workload="web",destination_service_name="catalog"'
PAGE = """# TYPE istio_requests_total counter
istio_requests_total{reporter="source",EDGE,response_code="200"} 9
istio_requests_total{reporter="source",EDGE,response_code="503"} 1
istio_requests_total{reporter="destination",EDGE,response_code="200"} 9
istio_request_duration_milliseconds_bucket{reporter="source",EDGE,le="1"} 5
istio_request_duration_milliseconds_bucket{reporter="source",EDGE,le="5"} 9
istio_request_duration_milliseconds_bucket{reporter="source",EDGE,le="+Inf"} 10
""".replace("EDGE", EDGE)


def test_an_edge_counts_what_the_caller_saw() -> None:
    edge = stats.edges([PAGE, PAGE])[("web", "catalog")]
    assert (edge.requests, edge.failed) == (20, 2)
    assert edge.success == pytest.approx(0.9)


def test_quantiles_are_interpolated_in_their_bucket() -> None:
    edge = stats.edges([PAGE])[("web", "catalog")]
    assert edge.quantile(0.5) == pytest.approx(1.0)
    assert edge.quantile(0.7) == pytest.approx(3.0)
    assert edge.quantile(0.99) == pytest.approx(5.0), "above the last bound nothing is known"
    assert stats.Edge().quantile(0.5) is None


def test_label_values_may_hold_quotes() -> None:
    ((name, labels, value),) = stats.samples('a{x="1\\"2",y=""} 3')
    assert (name, labels, value) == ("a", {"x": '1\\"2', "y": ""}, 3.0)
