"""TLS: the mesh's mutual TLS between proxies, and TLS with others at the edges.

Inside the mesh a proxy presents the secret ``default`` and trusts the secret ``ROOTCA``; where those come
from is the proxy's affair. Ours makes its key itself and never asks; Envoy asks the companion behind its
static cluster ``sds-grpc``, as in Istio.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymesh.control.resources.destination import ClientTls
from pymesh.control.resources.gateway import ServerTls
from pymesh.control.resources.kubernetes import Secret, is_ip
from pymesh.control.store.services import Service
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.wire import ADS, extension, wrapped
from pymesh.control.xds import pb

SDS_CLUSTER = "sds-grpc"
_TLS = "envoy.transport_sockets.tls"
_PACKAGE = "envoy.extensions.transport_sockets.tls.v3."
#: ``ConfigSource.api_config_source``, length-delimited. Our own proxy has no such source, so the pinned
#: descriptor set leaves the field out; Envoy needs it.
_API_CONFIG_SOURCE = b"\x12"


#: What clients of the mesh ask for beside HTTP. No server chooses it: it tells TLS of the mesh from others'.
MESH_PROTOCOL = "istio"


def inbound(proxy: Proxy, trust_domain: str, *, http: bool) -> dict[str, Any]:
    """Mutual TLS with whoever calls: a member of the trust domain."""
    context = pb.message(_PACKAGE + "DownstreamTlsContext")(
        common_tls_context=_mesh(proxy, [{"prefix": f"spiffe://{trust_domain}/"}], ["h2", "http/1.1"] if http else []),
        require_client_certificate=wrapped(True),
    )
    return extension(_TLS, context)


def outbound(proxy: Proxy, identities: Iterable[str], sni: str, alpn: list[str]) -> dict[str, Any]:
    """Mutual TLS with a service whose workloads are one of ``identities``."""
    names = [{"exact": identity} for identity in sorted(set(identities))]
    common = _mesh(proxy, names, [MESH_PROTOCOL, *alpn])
    context = pb.message(_PACKAGE + "UpstreamTlsContext")(common_tls_context=common, sni=sni)
    return extension(_TLS, context)


def raw_buffer() -> dict[str, Any]:
    """No TLS."""
    return extension(
        "envoy.transport_sockets.raw_buffer",
        pb.message("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")(),
    )


def client(tls: ClientTls, service: Service, alpn: list[str]) -> dict[str, Any]:
    """TLS with a service outside of the mesh, as a DestinationRule says."""
    names = tls.subject_alt_names or service.subject_alt_names
    validation: dict[str, Any] = {
        "trusted_ca": {"filename": tls.ca_certificates or "/etc/ssl/certs/ca-certificates.crt"}
    }
    if names:
        validation["match_typed_subject_alt_names"] = [_exactly(name) for name in names]
    common: dict[str, Any] = {"validation_context": validation, "alpn_protocols": alpn}
    if tls.mode == "MUTUAL":
        common["tls_certificates"] = [_files(tls.client_certificate, tls.private_key)]
    context = pb.message(_PACKAGE + "UpstreamTlsContext")(
        common_tls_context=common,
        sni=tls.sni or service.host,
        # Names of its own replace the check against the server name.
        auto_sni_san_validation=not names,
    )
    return extension(_TLS, context)


def server(tls: ServerTls, namespace: str) -> dict[str, Any]:
    """TLS that a gateway terminates."""
    common: dict[str, Any] = {"alpn_protocols": ["h2", "http/1.1"]}
    mutual = tls.mode == "MUTUAL"
    if tls.credential_name:
        name = secret_name(namespace, tls.credential_name)
        common["tls_certificate_sds_secret_configs"] = [{"name": name, "sds_config": ADS}]
        if mutual:
            common["validation_context_sds_secret_config"] = {"name": f"{name}-cacert", "sds_config": ADS}
    else:
        common["tls_certificates"] = [_files(tls.server_certificate, tls.private_key)]
        if mutual:
            common["validation_context"] = {"trusted_ca": {"filename": tls.ca_certificates}}
    context = pb.message(_PACKAGE + "DownstreamTlsContext")(common_tls_context=common)
    if mutual:
        context.require_client_certificate.value = True
    return extension(_TLS, context)


def secret_name(namespace: str, name: str) -> str:
    """The name of a gateway's certificate, as Istio forms it."""
    return f"kubernetes://{namespace}/{name}"


def secrets(secret: Secret) -> dict[str, Any]:
    """What a gateway is given of a Secret: the certificate with its key, and the clients' authority."""
    name = secret_name(secret.namespace, secret.name)
    message = pb.message(_PACKAGE + "Secret")
    found: dict[str, Any] = {}
    certificate, key, authority = (secret.content(entry) for entry in ("tls.crt", "tls.key", "ca.crt"))
    if certificate and key:
        found[name] = message(
            name=name,
            tls_certificate={
                "certificate_chain": {"inline_bytes": certificate},
                "private_key": {"inline_bytes": key},
            },
        )
    if authority:
        found[f"{name}-cacert"] = message(
            name=f"{name}-cacert", validation_context={"trusted_ca": {"inline_bytes": authority}}
        )
    return found


def _exactly(name: str) -> dict[str, Any]:
    """The matcher of a certificate's name, whose type is seen by its form."""
    kind = "URI" if "://" in name else "IP_ADDRESS" if is_ip(name) else "DNS"
    return {"san_type": kind, "matcher": {"exact": name}}


def _files(certificate: str, key: str) -> dict[str, Any]:
    return {"certificate_chain": {"filename": certificate}, "private_key": {"filename": key}}


def _mesh(proxy: Proxy, names: list[dict[str, str]], alpn: list[str]) -> dict[str, Any]:
    source = _companion() if proxy.is_envoy else ADS
    return {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "tls_certificate_sds_secret_configs": [{"name": "default", "sds_config": source}],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": name} for name in names]
            },
            "validation_context_sds_secret_config": {"name": "ROOTCA", "sds_config": source},
        },
        "alpn_protocols": alpn,
    }


def _companion() -> Any:
    """The config source of Envoy's companion: gRPC over the static cluster ``sds-grpc``."""
    api = pb.message("envoy.config.core.v3.ApiConfigSource")(
        api_type="GRPC",
        transport_api_version="V3",
        set_node_on_first_message_only=True,
        grpc_services=[{"envoy_grpc": {"cluster_name": SDS_CLUSTER}}],
    )
    encoded = pb.encode(api)
    source = pb.message("envoy.config.core.v3.ConfigSource")(resource_api_version="V3", initial_fetch_timeout={})
    source.MergeFromString(_API_CONFIG_SOURCE + bytes([len(encoded)]) + encoded)
    return source
