"""TLS between proxies: the one config source that is encoded by hand, Envoy's companion; and who is spoken to how."""

import pytest

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import build
from pymesh.control.translate import clusters, tls
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

ENVOY = Proxy("sidecar", "127.0.0.1", "a", "b", is_envoy=True)
OURS = Proxy("sidecar", "127.0.0.1", "a", "b")


def source(proxy: Proxy) -> bytes:
    made = pb.unpack(tls.inbound(proxy, "cluster.local", http=True)["typed_config"])
    (secret,) = made.common_tls_context.tls_certificate_sds_secret_configs
    encoded: bytes = secret.sds_config.SerializeToString(deterministic=True)
    return encoded


def test_envoy_asks_its_companion() -> None:
    assert b"sds-grpc" in source(ENVOY)


def test_ours_asks_nobody() -> None:
    assert source(OURS) == pb.message("envoy.config.core.v3.ConfigSource")(
        ads={}, resource_api_version="V3"
    ).SerializeToString(deterministic=True)


def test_keys_of_secrets_are_not_shown() -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {tls.key: sesame}\n"
    (secret,) = load_text("f", text, Report())
    assert "sesame" not in repr(secret)


ENDPOINTS = """\
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec: {selector: {app: api}, ports: [{name: http, port: 80}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: inside, namespace: shop}
spec: {address: 10.0.0.1, serviceAccount: api, labels: {app: api, security.istio.io/tlsMode: istio}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: bare, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: api}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: api, namespace: shop}
spec: {host: api, trafficPolicy: POLICY}
"""


@pytest.mark.parametrize(
    ("policy", "sockets", "by_endpoint"),
    [
        # Who can speak it is spoken to so; the others in plain text.
        ("{}", [], ["tlsMode-istio", "tlsMode-disabled"]),
        # Who asks for it gets it, or no connection.
        ("{tls: {mode: ISTIO_MUTUAL}}", ["envoy.transport_sockets.tls"], []),
        ("{tls: {mode: DISABLE}}", [], []),
        ("{tls: {mode: SIMPLE}}", ["envoy.transport_sockets.tls"], []),
    ],
)
def test_no_endpoint_is_spoken_to_otherwise_than_asked_for(
    policy: str, sockets: list[str], by_endpoint: list[str]
) -> None:
    store, _ = build(load_text("f", ENDPOINTS.replace("POLICY", policy), Report()))
    service = store.services["api.shop.svc.cluster.local"]
    ((cluster,), _) = clusters.outbound(store, OURS, service, service.ports[0], store.destination_rule(service, "shop"))
    assert [one.name for one in cluster.transport_socket_matches] == by_endpoint
    assert [cluster.transport_socket.name] == (sockets or [""])
    if "ISTIO_MUTUAL" in policy:
        validation = pb.unpack(cluster.transport_socket.typed_config).common_tls_context.combined_validation_context
        (name,) = validation.default_validation_context.match_typed_subject_alt_names
        assert name.matcher.exact == "spiffe://cluster.local/ns/shop/sa/api"


@pytest.mark.parametrize(
    ("tls_settings", "sni", "names"),
    [
        ("", "outbound_.80_._.api.shop.svc.cluster.local", ["spiffe://cluster.local/ns/shop/sa/api"]),
        # An egress gateway tells its servers apart by it.
        (", sni: www.example", "www.example", ["spiffe://cluster.local/ns/shop/sa/api"]),
        (
            ", subjectAltNames: [spiffe://old/ns/shop/sa/api]",
            "outbound_.80_._.api.shop.svc.cluster.local",
            ["spiffe://old/ns/shop/sa/api"],
        ),
    ],
)
def test_a_rule_for_the_meshs_tls_says_which_server_is_asked_for_and_who_may_answer(
    tls_settings: str, sni: str, names: list[str]
) -> None:
    policy = f"{{tls: {{mode: ISTIO_MUTUAL{tls_settings}}}}}"
    store, _ = build(load_text("f", ENDPOINTS.replace("POLICY", policy), Report()))
    service = store.services["api.shop.svc.cluster.local"]
    ((cluster,), _) = clusters.outbound(store, OURS, service, service.ports[0], store.destination_rule(service, "shop"))
    context = pb.unpack(cluster.transport_socket.typed_config)
    judged = context.common_tls_context.combined_validation_context.default_validation_context
    assert context.sni == sni
    assert [one.matcher.exact for one in judged.match_typed_subject_alt_names] == names
