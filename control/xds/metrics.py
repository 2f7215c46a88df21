"""Istio's metric names for the discovery service, so that its control-plane dashboards work."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pymesh.control.xds import pb

_SHORT = {
    pb.CLUSTER: "cds",
    pb.ENDPOINTS: "eds",
    pb.LISTENER: "lds",
    pb.ROUTES: "rds",
    pb.SECRET: "sds",
}


def short_type(type_url: str) -> str:
    """``cds`` and the like. Clients choose type URLs, so all others share one label value."""
    return _SHORT.get(type_url, "other")


class PlainCounter(Collector):
    """A counter under exactly its name. The client library would add ``_total``, which Istio's names lack."""

    def __init__(self, registry: CollectorRegistry, name: str, documentation: str, label: str | None = None) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._values: dict[str, float] = {} if label else {"": 0.0}
        registry.register(self)

    def inc(self, value: str = "", amount: float = 1.0) -> None:
        """Count; ``value`` is that of the label."""
        self._values[value] = self._values.get(value, 0.0) + amount

    def collect(self) -> Iterator[Metric]:
        metric = Metric(self._name, self._documentation, "unknown")
        for value, count in sorted(self._values.items()):
            metric.add_sample(self._name, {self._label: value} if self._label else {}, count)
        yield metric


class XdsMetrics:
    """What the discovery service counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.connected = Gauge("pilot_xds", "Proxies connected by xDS.", ["version"], registry=registry)
        self.pushes = PlainCounter(registry, "pilot_xds_pushes", "Responses sent, by type.", "type")
        self.rejects = PlainCounter(registry, "pilot_total_xds_rejects", "Responses refused (NACK), by type.", "type")
        self.expired = PlainCounter(registry, "pilot_xds_expired_nonce", "Requests with an old nonce.", "type")
        self.refused = PlainCounter(registry, "pilot_xds_refused_streams", "Streams refused, by reason.", "reason")
        self.strange_secrets = PlainCounter(
            registry, "pymesh_xds_refused_secrets", "Secrets that proxies asked for and that are not their own."
        )
        self.convergence = Histogram(
            "pilot_proxy_convergence_time",
            "Seconds from a change of configuration until a proxy was sent everything.",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 3, 5, 10, 20, 30),
            registry=registry,
        )
        self.sent_bytes = PlainCounter(registry, "pilot_xds_sent_bytes", "Bytes of responses, by type.", "type")
