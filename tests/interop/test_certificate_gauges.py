"""When certificates end: the same gauges as Envoy on the same bootstrap, by name, label and value."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pymesh.control.identity.authority import self_signed
from tests.proxy.bootstrap import bootstrap, cluster, http_listener, to_cluster
from tests.proxy.bootstrap import virtual_host as host
from tests.proxy.running import Proxy, envoy, ours
from tests.tools.certificates import Authority, KeyPair
from tests.tools.ports import free_ports

_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3"


def _transport(kind: str, secret: str) -> dict[str, Any]:
    common = {
        "tls_certificate_sds_secret_configs": [{"name": secret}],
        "validation_context_sds_secret_config": {"name": "roots"},
    }
    sni = {"sni": "localhost"} if kind == "Upstream" else {}
    context = {"@type": f"{_TLS}.{kind}TlsContext", "common_tls_context": common, **sni}
    return {"name": "envoy.transport_sockets.tls", "typed_config": context}


def _config(pairs: dict[str, KeyPair], roots: str) -> dict[str, Any]:
    http, admin = free_ports(2)
    listener = http_listener(http, [host("all", [to_cluster("origin")])], tls=_transport("Downstream", "short"))
    made = bootstrap([listener], [cluster("origin", [9], tls=_transport("Upstream", "long"))], admin)
    chains = [
        {
            "name": name,
            "tls_certificate": {
                "certificate_chain": {"filename": str(pair.chain)},
                "private_key": {"filename": str(pair.key)},
            },
        }
        for name, pair in pairs.items()
    ]
    made["static_resources"]["secrets"] = [
        *chains, {"name": "roots", "validation_context": {"trusted_ca": {"inline_string": roots}}},
    ]  # fmt: skip
    return made


def _gauges(proxy: Proxy, page: str) -> set[str]:
    lines = proxy.admin(page).splitlines()
    found = [line for line in lines if "expiration_unix_time" in line or "days_until_first_cert" in line]
    # Labels have no order, and an empty set of them is none.
    return {
        ",".join(sorted(re.split(r"[,{}]+", re.sub(r"127\.0\.0\.1_\d+", "ADDRESS", line.replace("{}", "")))))
        for line in found
    }


def test_certificates_end_when_envoy_says_so(tmp_path: Path) -> None:
    authority, now = Authority(tmp_path), datetime.now(UTC)
    pairs = {
        "short": authority.issue("short", dns=["localhost"], lifetime=timedelta(days=3, hours=5)),
        "long": authority.issue("long", dns=["localhost"], lifetime=timedelta(days=30, hours=5)),
    }
    roots = "".join(self_signed("a.example", now - timedelta(days=age)).root_pem for age in (1, 100, 50))
    with envoy(_config(pairs, roots)) as theirs, ours(_config(pairs, roots)) as mine:
        for page, least in (("/stats", 5), ("/stats/prometheus", 5)):
            assert len(_gauges(mine, page)) >= least
            assert _gauges(mine, page) == _gauges(theirs, page)


def test_without_certificates() -> None:
    http, admin = free_ports(2)
    listener = http_listener(http, [host("all", [to_cluster("origin")])])
    made = bootstrap([listener], [cluster("origin", [9])], admin)
    with envoy(made) as theirs:
        expected = _gauges(theirs, "/stats")
    with ours(made) as mine:
        assert _gauges(mine, "/stats") == expected != set()
