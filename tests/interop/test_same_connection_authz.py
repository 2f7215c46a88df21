"""External authorization of connections: ours and Envoy ask the same, and do the same with the answer.

There is one difference, on purpose: ours asks as soon as a client has connected, and connects to nobody before it has
an answer; Envoy connects first, and asks when the client has sent something. So clients speak first here, and what of a
connection that is refused has reached the endpoint is only looked at for ours.
"""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from pathlib import Path
from typing import Any

import pytest

from tests.proxy.bootstrap import (
    Json,
    access_log,
    bootstrap,
    cluster,
    http_listener,
    tcp_listener,
    to_cluster,
    virtual_host,
)
from tests.proxy.running import Proxy, eventually, lines_of, proxy
from tests.tools.authorizer import PLAIN, Raw, grpc_authorizer
from tests.tools.certificates import Authority
from tests.tools.ports import free_port
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request
from tests.tools.wire.origin import origin

KINDS = ("pymesh", "envoy")
SAID = "%DYNAMIC_METADATA(envoy.filters.network.ext_authz)%"
LINE = f"%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% {SAID}\n"
REQUEST = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
_FILTER = "type.googleapis.com/envoy.extensions.filters.network.ext_authz.v3.ExtAuthz"
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"

ALLOWED: Json = {"status": {"code": 0}}
DENIED: Json = {"status": {"code": 7}, "dynamic_metadata": {"who": "nobody"}}
NEVER: Json = {"filter_enabled_metadata": {"filter": "x", "path": [{"key": "k"}], "value": {"present_match": True}}}
#: As Istio's CUSTOM: of connections that a policy in front has picked out.
PICKED: Json = {
    "filter_enabled_metadata": {
        "filter": "envoy.filters.network.rbac",
        "path": [{"key": "custom_shadow_effective_policy_id"}],
        "value": {"string_match": {"prefix": "picked"}},
    }
}


@pytest.mark.parametrize(
    ("answer", "fields"),
    [
        pytest.param(ALLOWED, {}, id="allowed"),
        pytest.param({**ALLOWED, "dynamic_metadata": {"who": "ann"}}, {}, id="metadata"),
        pytest.param(DENIED, {}, id="denied"),
        pytest.param(DENIED, {"failure_mode_allow": True}, id="denied-open"),
        pytest.param("UNAVAILABLE", {}, id="error"),
        pytest.param("UNAVAILABLE", {"failure_mode_allow": True}, id="error-open"),
        pytest.param(Raw(b"\xff"), {}, id="rubbish"),
        pytest.param({"status": {"code": 13}, "error_response": {}}, {}, id="own-error"),
        pytest.param(DENIED, NEVER, id="disabled"),
        pytest.param(DENIED, PICKED, id="picked"),
        pytest.param(None, {}, id="dead"),
        pytest.param(None, {"failure_mode_allow": True}, id="dead-open"),
    ],
)
def test_same_with_this_answer(answer: Any, fields: Json, tmp_path: Path) -> None:
    seen = {kind: _seen(kind, answer, fields, tmp_path / kind) for kind in KINDS}
    assert seen["pymesh"] == seen["envoy"]


def _seen(kind: str, answer: Any, fields: Json, log: Path) -> tuple[bool, str, list[Json], dict[str, int]]:
    """Whether the client was answered, and what the log, the service and the counters say."""
    with grpc_authorizer() as service, origin("o") as behind:
        service.script[PLAIN] = answer
        port = service.port if answer is not None else free_port()
        with proxy(kind, _bootstrap(behind.port, port, fields, log)) as started:
            # The one that looked whether it listens has been asked about, too.
            assert eventually(lambda: len(lines_of(log)) == 1)
            service.clear()
            answered = asyncio.run(_talk(started.port))
            assert eventually(lambda: len(lines_of(log)) == 2)
            counted = _counters(started)
        if kind == "pymesh" and not answered:
            assert behind.connections == 0
        return bool(answered), _without_duration(lines_of(log)[1]), [_settled(one) for one in service.asked], counted


@pytest.mark.parametrize("is_http", [False, True], ids=["connection", "request"])
def test_same_of_certificates(is_http: bool, authority: Authority, tmp_path: Path) -> None:
    server = authority.issue("server", dns=["server.test"], uris=["spiffe://mesh.test/server"])
    clients = {
        "uri": authority.issue("uri", uris=["spiffe://mesh.test/ann"], dns=["ann.test"]),
        "dns": authority.issue("dns", dns=["bob.test", "other.test"]),
        "subject": authority.issue("subject"),
        "none": None,
    }
    common = {
        "tls_certificates": [
            {"certificate_chain": {"filename": str(server.chain)}, "private_key": {"filename": str(server.key)}}
        ],
        "validation_context": {"trusted_ca": {"filename": str(authority.root)}},
    }
    tls = {"name": "tls", "typed_config": {"@type": _TLS, "common_tls_context": common}}
    shown = {"include_peer_certificate": True, "include_tls_session": True}
    seen: dict[str, dict[str, Any]] = {}
    for kind in KINDS:
        seen[kind] = {}
        with grpc_authorizer() as service, origin("o") as behind:
            config = _bootstrap(behind.port, service.port, shown, tmp_path / kind, tls=tls, is_http=is_http)
            with proxy(kind, config) as started:
                for name, pair in clients.items():
                    service.clear()
                    context = ssl.create_default_context(cafile=str(authority.root))
                    context.check_hostname = False
                    if pair:
                        context.load_cert_chain(pair.chain, pair.key)
                    if is_http:
                        assert fetch(started.port, Request("GET", "/", "a"), tls=context).status == 200
                    else:
                        assert asyncio.run(_talk(started.port, context))
                    (asked,) = service.asked
                    seen[kind][name] = _settled(asked)
    assert seen["pymesh"] == seen["envoy"]
    principals = [seen["pymesh"][name]["attributes"]["source"].get("principal") for name in clients]
    assert principals[:2] == ["spiffe://mesh.test/ann", "bob.test"] and principals[3] is None
    assert "CERTIFICATE" in seen["pymesh"]["uri"]["attributes"]["source"]["certificate"]


def _bootstrap(
    endpoint: int, service: int, fields: Json, log: Path, *, tls: Json | None = None, is_http: bool = False
) -> Json:
    config = {
        "transport_api_version": "V3",
        "grpc_service": {"envoy_grpc": {"cluster_name": "authz"}, "timeout": "5s"},
        "metadata_context_namespaces": ["envoy.filters.network.rbac"],
        **fields,
    }
    if is_http:
        kind = "type.googleapis.com/envoy.extensions.filters.http"
        filters = [
            {"name": "authz", "typed_config": {"@type": f"{kind}.ext_authz.v3.ExtAuthz", **config}},
            {"name": "router", "typed_config": {"@type": f"{kind}.router.v3.Router"}},
        ]
        hosts = [virtual_host("all", [to_cluster("o")])]
        listener = http_listener(free_port(), hosts, http_filters=filters, tls=tls)
    else:
        listener = tcp_listener(free_port(), "o", tls=tls, access_log=[access_log(log, LINE)])
        filter_ = {"name": "authz", "typed_config": {"@type": _FILTER, "stat_prefix": "gate", **config}}
        listener["filter_chains"][0]["filters"][:0] = [_picks(), filter_]
    clusters = [cluster("o", [endpoint]), cluster("authz", [service], http2=True)]
    return bootstrap([listener], clusters, free_port())


def _picks() -> Json:
    """A policy that refuses nobody, and tells the filter behind whom it would."""
    everybody = {"permissions": [{"any": True}], "principals": [{"any": True}]}
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
        "stat_prefix": "picks.",
        "shadow_rules": {"action": "DENY", "policies": {"picked": everybody}},
        "shadow_rules_stat_prefix": "custom_",
    }
    return {"name": "rbac", "typed_config": config}


async def _talk(port: int, tls: ssl.SSLContext | None = None) -> bytes:
    """Sends a request and reads all that comes, in any case until the other side closes."""
    name = "server.test" if tls else None
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=name)
    writer.write(REQUEST)
    try:
        return await asyncio.wait_for(reader.read(), 60)
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _counters(started: Proxy) -> dict[str, int]:
    counted = {name: value for name, value in started.stats().items() if name.startswith("ext_authz.gate.") and value}
    # Envoy counts each piece that comes, ours each connection.
    counted.pop("ext_authz.gate.disabled", None)
    return counted


def _settled(asked: Json) -> Json:
    """A question without ports, times and ids."""
    asked = copy.deepcopy(asked)
    for peer in ("source", "destination"):
        asked["attributes"][peer]["address"]["socket_address"].pop("port_value")
    if "request" in asked["attributes"]:
        del asked["attributes"]["request"]
    return asked


def _without_duration(line: str) -> str:
    *front, said = line.split(" ", 3)
    known = json.loads(said) if said != "-" else {}
    known.pop("ext_authz_duration", None)
    return " ".join([*front, json.dumps(known)])
