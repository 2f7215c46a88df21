"""Prometheus's HTTP service discovery: a group for each proxy that tells where its metrics are."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from pymesh.control.admin import process, targets
from pymesh.control.xds.delta import DeltaSession
from pymesh.control.xds.fleet import Fleet
from pymesh.control.xds.metrics import XdsMetrics
from pymesh.control.xds.node import Node


def _connect(fleet: Fleet, name: str, peer: str, **metadata: Any) -> None:
    node = Node(f"sidecar~10.0.0.1~{name}~x", "web", metadata, ("", "", ""), "pymesh", None)
    fleet.connect(node, DeltaSession(), peer, "delta")


def test_each_proxy_once_with_who_it_is() -> None:
    fleet = Fleet(lambda *_: {}, XdsMetrics(CollectorRegistry()))
    _connect(fleet, "web.shop", "127.0.0.1:5000", ENVOY_PROMETHEUS_PORT=15090)
    # Two streams of one proxy, whose successor has another port.
    _connect(fleet, "cart.shop", "10.0.0.7:5000", ENVOY_PROMETHEUS_PORT="15090", NAMESPACE="shop")
    _connect(fleet, "cart.shop", "10.0.0.7:5001", ENVOY_PROMETHEUS_PORT="15091", NAMESPACE="shop")
    _connect(fleet, "till.shop", "::1:5000", ENVOY_PROMETHEUS_PORT=15090)
    _connect(fleet, "silent.shop", "127.0.0.1:5000")
    found = targets.groups(fleet.connections())
    assert [(one["targets"], one["labels"]["proxy"]) for one in found] == [
        (["10.0.0.7:15091"], "cart"),
        (["[::1]:15090"], "till"),
        (["127.0.0.1:15090"], "web"),
    ]
    assert {one["labels"]["namespace"] for one in found} == {"shop"}
    assert {one["labels"]["__metrics_path__"] for one in found} == {"/stats/prometheus"}


def test_the_process_tells_its_version() -> None:
    registry = CollectorRegistry()
    process.register(registry)
    told = generate_latest(registry).decode()
    assert 'istio_build{component="pilot",tag="' in told
    assert "process_resident_memory_bytes" in told
