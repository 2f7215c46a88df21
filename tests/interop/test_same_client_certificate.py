"""Ours and Envoy tell the origin the same about a client's certificate, and believe a client as little."""

from __future__ import annotations

import json
import ssl

import pytest

from tests.proxy.bootstrap import bootstrap, cluster, downstream_tls, http_listener, to_cluster, virtual_host
from tests.proxy.running import proxy
from tests.tools.certificates import Authority
from tests.tools.ports import free_port
from tests.tools.wire.client import client_context, fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

MODES = ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"]
_CLAIM = [("x-forwarded-client-cert", "By=spiffe://claimed;Hash=00")]


@pytest.mark.parametrize("mode", MODES)
def test_same_client_certificate(mode: str, authority: Authority) -> None:
    server = authority.issue("xfcc-server", dns=["localhost"], uris=["spiffe://cluster.local/ns/default/sa/server"])
    client = authority.issue("xfcc-client", dns=["client.test"], uris=["spiffe://cluster.local/ns/default/sa/client"])
    mutual = client_context(str(authority.root), ["http/1.1"])
    mutual.load_cert_chain(client.chain, client.key)
    transport = downstream_tls(server, client_root=str(authority.root))
    # A client may come without a certificate, but not with a bad one.
    del transport["typed_config"]["require_client_certificate"]
    with origin() as behind:
        told = {}
        for kind in ("envoy", "pymesh"):
            listener = http_listener(
                free_port(),
                [virtual_host("all", [to_cluster("origin")])],
                tls=transport,
                forward_client_cert_details=mode,
                set_current_client_cert_details={"subject": True, "uri": True, "dns": True},
            )
            with proxy(kind, bootstrap([listener], [cluster("origin", [behind.port])], free_port())) as started:
                anonymous = client_context(str(authority.root), ["http/1.1"])
                told[kind] = [_told(started.port, tls) for tls in (mutual, anonymous)]
    assert told["pymesh"] == told["envoy"]


def _told(port: int, tls: ssl.SSLContext) -> list[list[str]]:
    """What the origin hears of the certificate, without and with a claim of the client's."""
    heard = []
    for claim in ([], _CLAIM):
        report = json.loads(fetch(port, Request("GET", "/", "localhost", claim), tls=tls).body)
        heard.append([value for name, value in report["headers"] if name == "x-forwarded-client-cert"])
    return heard
