"""Rows of `pymesh stat` from the control plane's picture."""

from __future__ import annotations

import pytest

from pymesh.operate import golden

SIGNALS = {"rate": 12.5, "success": 0.995, "p50": 1.25, "p99": None}
NOTHING = {"rate": None, "success": None, "p50": None, "p99": None}
PICTURE = {
    "services": [
        {"id": "shop/idle", "namespace": "shop", "versions": [], "workloads": 1, **NOTHING},
        {"id": "shop/reviews", "namespace": "shop", "versions": ["v1", "v2"], "workloads": 2, **SIGNALS},
        {"id": "bank/vault", "namespace": "bank", "versions": [], "workloads": 1, **SIGNALS, "rate": 1.0},
    ],
    "nodes": [
        {"id": "shop/reviews/v1", "namespace": "shop", "service": "reviews", "version": "v1", "workloads": 2,
         "proxies": 1, **SIGNALS},
    ],
    "edges": [{"id": "x", "source": "shop/web/v1", "target": "bank/vault", "mtls": "mutual_tls", **SIGNALS}],
    "namespaces": [{"id": "shop", "services": 2, **SIGNALS}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "namespace", "rows"),
    [
        ("services", "", [
            ("reviews.shop", "v1,v2", "2", "12.5", "99.50%", "1.25", "-"),
            ("vault.bank", "-", "1", "1", "99.50%", "1.25", "-"),
            ("idle.shop", "-", "1", "-", "-", "-", "-"),
        ]),
        ("services", "bank", [("vault.bank", "-", "1", "1", "99.50%", "1.25", "-")]),
        ("workloads", "shop", [("reviews.shop", "v1", "1/2", "12.5", "99.50%", "1.25", "-")]),
        ("edges", "bank", [("web@v1.shop", "vault.bank", "mutual_tls", "12.5", "99.50%", "1.25", "-")]),
        ("edges", "other", []),
        ("namespaces", "", [("shop", "2", "12.5", "99.50%", "1.25", "-")]),
    ],
)  # fmt: skip
def test_rows(kind: str, namespace: str, rows: list[tuple[str, ...]]) -> None:
    assert [golden.row(kind, one) for one in golden.chosen(PICTURE, kind, namespace)] == rows
    assert all(len(row) == len(golden.headings(kind)) for row in rows)
