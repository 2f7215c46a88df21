"""gRPC's own interoperability client and server, through two proxies that speak mutual TLS with each other.

client -> proxy A -> HTTP/2 over mTLS, both ends verified by SPIFFE identity -> proxy B -> server
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest

from tests.proxy.bootstrap import (
    Json,
    bootstrap,
    cluster,
    downstream_tls,
    http_listener,
    to_cluster,
    upstream_tls,
    virtual_host,
)
from tests.proxy.running import Proxy
from tests.tools.certificates import Authority
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running

# All of the client's cases, but for those that need a cloud's credentials (compute_engine_*, service_account_creds,
# jwt_token_creds, per_rpc_creds, oauth2_auth_token, google_default_credentials) and for pick_first_unary, which the
# suite's own server cannot answer (it sends no server id, with or without a proxy).
CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
    "orca_per_rpc",
    "orca_oob",
    "rpc_soak",
    "channel_soak",
]
# These give up at once, maybe before anything was sent that far.
SHORT_LIVED = {"timeout_on_sleeping_server", "cancel_after_begin"}
# The balancer inside the client that records load reports for the two orca cases.
_ORCA = '{"loadBalancingConfig": [{"test_backend_metrics_load_balancer": {}}]}'


@pytest.fixture(scope="module")
def path(
    run_proxy: Callable[[Json], AbstractContextManager[Proxy]], authority: Authority
) -> Iterator[tuple[Proxy, Proxy]]:
    """The two proxies, with the server behind the second."""
    server_port = free_port()
    near_port, near_admin, far_port, far_admin = free_ports(4)
    near_pair = authority.issue("near", uris=["spiffe://cluster.local/ns/default/sa/near"])
    far_identity = "spiffe://cluster.local/ns/default/sa/far"
    far_pair = authority.issue("far", uris=[far_identity])
    # As the mesh's own routes: a call may take as long as its client will wait.
    outbound = {"timeout": "0s", "max_grpc_timeout": "0s"}
    inbound = {"timeout": "0s", "max_stream_duration": {"grpc_timeout_header_max": "0s"}}
    far = bootstrap(
        [
            http_listener(
                far_port,
                [virtual_host("all", [to_cluster("server", **inbound)])],
                tls=downstream_tls(far_pair, client_root=str(authority.root), alpn=["h2"]),
            )
        ],
        [cluster("server", [server_port], http2=True)],
        far_admin,
    )
    to_far = upstream_tls(
        str(authority.root),
        "server",
        pair=near_pair,
        alpn=["h2"],
        sans=[{"san_type": "URI", "matcher": {"exact": far_identity}}],
    )
    near = bootstrap(
        [http_listener(near_port, [virtual_host("all", [to_cluster("far", **outbound)])])],
        [cluster("far", [far_port], http2=True, tls=to_far)],
        near_admin,
    )
    with running([peer("grpc-interop-server"), f"--port={server_port}"], ports=[server_port]):
        with run_proxy(far) as far_proxy, run_proxy(near) as near_proxy:
            yield near_proxy, far_proxy


@pytest.mark.parametrize("case", CASES)
def test_case(case: str, path: tuple[Proxy, Proxy]) -> None:
    near, far = path
    before = far.stats().get("cluster.server.upstream_rq_total", 0)
    client = subprocess.run(
        [peer("grpc-interop-client"), "--server_host=127.0.0.1", f"--server_port={near.port}"]
        + [f"--test_case={case}", "--soak_iterations=100", "--soak_overall_timeout_seconds=60"]
        + ([f"--service_config_json={_ORCA}"] if case.startswith("orca") else []),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert client.returncode == 0, client.stdout + client.stderr
    assert case in SHORT_LIVED or far.stats()["cluster.server.upstream_rq_total"] > before
    assert near.process.alive() and far.process.alive()
