"""Istio's metric names for the certificate authority."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Gauge

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
        self.root_expiry = Gauge(
            "citadel_server_root_cert_expiry_timestamp",
            "When the root expires (Unix time).",
            registry=registry,
        )
