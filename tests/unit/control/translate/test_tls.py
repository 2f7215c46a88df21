"""The one config source that is encoded by hand: Envoy's companion."""

from pymesh.control.translate import tls
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
    from pymesh.control.resources.diagnostics import Report
    from pymesh.control.resources.load import load_text

    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {tls.key: sesame}\n"
    (secret,) = load_text("f", text, Report())
    assert "sesame" not in repr(secret)
