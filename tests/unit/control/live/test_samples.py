"""Pages of a proxy, one after another: what grew."""

from __future__ import annotations

import pytest

from pymesh.control.live.samples import Counts, End, Page

LABELS = {
    "reporter": "source",
    "source_workload": "web-0",
    "source_canonical_service": "web",
    "source_canonical_revision": "v1",
    "source_workload_namespace": "shop",
    "source_principal": "unknown",
    "destination_workload": "reviews-1",
    "destination_canonical_service": "reviews",
    "destination_canonical_revision": "v2",
    "destination_workload_namespace": "shop",
    "destination_service": "reviews.shop.svc.cluster.local",
    "destination_service_name": "reviews",
    "destination_service_namespace": "shop",
    "request_protocol": "http",
    "response_code": "200",
    "response_flags": "-",
    "connection_security_policy": "unknown",
    "grpc_response_status": "",
}


def line(value: float, metric: str = "istio_requests_total", **labels: str) -> str:
    text = ",".join(f'{key}="{one}"' for key, one in {**LABELS, **labels}.items())
    return f"{metric}{{{text}}} {value}\n"


def bucket(value: float, le: str) -> str:
    return line(value, "istio_request_duration_milliseconds_bucket", le=le)


def test_the_first_page_is_where_counting_begins() -> None:
    page = Page()
    first, second = page.read(line(100)), page.read(line(130))
    (link,) = first.links
    assert (link.source, link.destination) == (End("shop", "web", "v1"), End("shop", "reviews", "v2"))
    assert (link.service, link.host) == (("shop", "reviews"), "reviews.shop.svc.cluster.local")
    assert first.links[link].requests == 0
    assert second.links[link].requests == 30


def test_a_series_that_is_new_later_grew_from_zero_and_so_did_one_that_fell() -> None:
    page = Page()
    page.read(line(5))
    assert [
        one.requests for one in page.read(line(5) + line(7, response_code="503", response_flags="UH")).links.values()
    ] == [7]
    # The proxy came back and counts anew.
    assert [
        one.requests for one in page.read(line(3) + line(7, response_code="503", response_flags="UH")).links.values()
    ] == [3]


@pytest.mark.parametrize(
    ("labels", "failed", "answer"),
    [
        ({}, 0, "200"),
        ({"response_code": "404"}, 0, "404"),
        ({"response_code": "503", "response_flags": "UH"}, 4, "503 UH"),
        ({"response_code": "0", "response_flags": "DC"}, 4, "0 DC"),
        ({"grpc_response_status": "14"}, 4, "200 grpc 14"),
        ({"grpc_response_status": "5"}, 0, "200 grpc 5"),
    ],
)
def test_what_counts_as_a_failure(labels: dict[str, str], failed: int, answer: str) -> None:
    page = Page()
    page.read("")
    (counts,) = page.read(line(4, **labels)).links.values()
    assert (counts.failed, counts.answers) == (failed, {answer: 4})


def test_durations_are_of_the_requests_since_the_last_page() -> None:
    page = Page()
    page.read(bucket(100, "10") + bucket(100, "20") + bucket(100, "+Inf"))
    (counts,) = page.read(bucket(100, "10") + bucket(120, "20") + bucket(120, "+Inf")).links.values()
    assert counts.quantile(0.5) == pytest.approx(15)


def test_quantiles_are_interpolated_as_by_prometheus() -> None:
    counts = Counts(buckets={1.0: 10, 5.0: 90, 10.0: 100, float("inf"): 100})
    assert counts.quantile(0.5) == pytest.approx(3)
    assert counts.quantile(0.99) == pytest.approx(9.5)
    assert Counts(buckets={1.0: 0, float("inf"): 2}).quantile(0.5) == 1
    assert Counts().quantile(0.5) is None


def test_labels_are_unescaped_and_what_is_not_known_is_empty() -> None:
    page = Page()
    (link,) = page.read(
        line(
            1,
            source_canonical_service="unknown",
            source_workload='a"\\\\b'.replace('"', '\\"'),
            source_canonical_revision="latest",
        )
    ).links
    assert link.source == End("shop", 'a"\\b', "")


def test_requests_in_flight_are_those_of_inbound_listeners() -> None:
    gauges = 'envoy_http_downstream_rq_active{envoy_http_conn_manager_prefix="%s"} %d\n'
    page = gauges % ("inbound_127.0.0.1_80", 3) + gauges % ("inbound_127.0.0.1_81", 2) + gauges % ("outbound_x", 50)
    assert Page().read(page).in_flight == 5


@pytest.mark.parametrize(
    "text", ["istio_requests_total{", "istio_requests_total{} x\n", 'istio_requests_total{a="b" 1', "\x00", "x" * 9999]
)
def test_rubbish_is_no_reason_to_stop(text: str) -> None:
    page = Page()
    page.read(text)
    assert sum(one.requests for one in page.read(text).links.values()) == 0
