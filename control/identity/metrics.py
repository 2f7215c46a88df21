"""Istio's metric names for the certificate authority, and our own for its rotation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pymesh.control.identity.authority import fingerprint
from pymesh.control.identity.rotation import Rotation
from pymesh.control.identity.trust import Phase
from pymesh.control.xds.metrics import PlainCounter


class IdentityMetrics:
    """What the certificate service counts."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = PlainCounter(registry, "citadel_server_csr_count", "Signing requests received.")
        self.issued = PlainCounter(registry, "citadel_server_success_cert_issuance_count", "Certificates issued.")
        self.unauthenticated = PlainCounter(
            registry, "citadel_server_authentication_failure_count", "Signing requests without a valid token."
        )
        self.unreadable = PlainCounter(
            registry, "citadel_server_csr_parsing_err_count", "Signing requests that could not be read."
        )
        self.wrong_identity = PlainCounter(
            registry, "citadel_server_id_extraction_err_count", "Signing requests for somebody else's name."
        )
        self.sign_errors = PlainCounter(
            registry,
            "citadel_server_csr_sign_err_count",
            "Signing requests that the authority could not sign.",
        )


class RotationMetrics(Collector):
    """Where a root rotation stands, read when it is asked for."""

    def __init__(self, registry: CollectorRegistry, rotation: Rotation) -> None:
        self._rotation = rotation
        registry.register(self)

    def describe(self) -> list[Metric]:
        """Nothing is read before everything is there."""
        return []

    def collect(self) -> Iterator[Metric]:
        trust = self._rotation.trust
        expiry = trust.signer.root.not_valid_after_utc.timestamp()
        yield GaugeMetricFamily(
            "citadel_server_root_cert_expiry_timestamp", "When the root that signs expires (Unix time).", expiry
        )
        phase = GaugeMetricFamily("pymesh_ca_phase", "The phase of the root rotation: 1.", labels=["phase"])
        for one in get_args(Phase):
            phase.add_metric([one], 1 if trust.phase == one else 0)
        yield phase
        roots = GaugeMetricFamily(
            "pymesh_ca_root_expiry_timestamp_seconds", "When a trusted root expires (Unix time).", labels=["root"]
        )
        for root in trust.roots:
            roots.add_metric([fingerprint(root)], root.not_valid_after_utc.timestamp())
        yield roots
        held = GaugeMetricFamily(
            "pymesh_ca_certificates", "Proxies whose certificate leads to a root.", labels=["root"]
        )
        for name, count in self._rotation.certificates().items():
            held.add_metric([name], count)
        yield held
        yield GaugeMetricFamily(
            "pymesh_ca_proxies_without_bundle",
            "Proxies that have not taken the trust bundle as it is now.",
            len(self._rotation.without_bundle()),
        )
