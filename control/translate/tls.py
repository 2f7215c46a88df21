"""TLS: the mesh's mutual TLS between proxies, and TLS with others at the edges.

Inside the mesh a proxy presents the secret ``default`` and trusts the secret ``ROOTCA``; where those come
from is the proxy's affair. Ours makes its key itself and never asks; Envoy asks the companion behind its
static cluster ``sds-grpc``, as in Istio.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pymesh.control.identity.names import CERTIFICATE, ROOTS
from pymesh.control.resources.destination import ClientTls
from pymesh.control.resources.gateway import ServerTls
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.store.credentials import Credential
from pymesh.control.translate.proxy import Proxy
from pymesh.control.translate.wire import ADS, extension, wrapped
from pymesh.control.xds import pb

SDS_CLUSTER = "sds-grpc"
_TLS = "envoy.transport_sockets.tls"
#: Appended to the name of a certificate: the authority beside it.
_AUTHORITY = "-cacert"
_PUBLIC_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_VERSIONS = {"TLS_AUTO": "", "TLSV1_2": "TLSv1_2", "TLSV1_3": "TLSv1_3"}
_PACKAGE = "envoy.extensions.transport_sockets.tls.v3."
#: ``ConfigSource.api_config_source``, length-delimited. Our own proxy has no such source, so the pinned
#: descriptor set leaves the field out; Envoy needs it.
_API_CONFIG_SOURCE = b"\x12"


#: What clients of the mesh ask for beside HTTP. No server chooses it: it tells TLS of the mesh from others'.
MESH_PROTOCOL = "istio"
#: What they ask for first where what they speak is looked for, and is HTTP (as Istio's), and what Istio's may ask for.
MESH_HTTP = "istio-http/1.1"
MESH_HTTPS = ("istio-http/1.0", MESH_HTTP, "istio-h2")


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
    common = _mesh(proxy, names, alpn)
    context = pb.message(_PACKAGE + "UpstreamTlsContext")(common_tls_context=common, sni=sni)
    return extension(_TLS, context)


def raw_buffer() -> dict[str, Any]:
    """No TLS."""
    return extension(
        "envoy.transport_sockets.raw_buffer",
        pb.message("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer")(),
    )


def client(
    tls: ClientTls, host: str, alpn: list[str], namespace: str, subject_alt_names: tuple[str, ...] = ()
) -> dict[str, Any]:
    """TLS with a server outside of the mesh, as a DestinationRule says; Secrets are those of this namespace.

    The certificate is for the host, if neither the rule nor ``subject_alt_names`` says for whom else.
    """
    names = tls.subject_alt_names or subject_alt_names
    common: dict[str, Any] = {"alpn_protocols": alpn}
    secret = secret_name(namespace, tls.credential_name)
    if tls.mode == "MUTUAL" and tls.credential_name:
        common["tls_certificate_sds_secret_configs"] = [{"name": secret, "sds_config": ADS}]
    elif tls.mode == "MUTUAL":
        common["tls_certificates"] = [_files(tls.client_certificate, tls.private_key)]
    if not tls.insecure_skip_verify:
        judged = {"match_typed_subject_alt_names": [_exactly(name) for name in names]}
        common |= _validation(judged, secret if tls.credential_name else "", tls.ca_certificates or _PUBLIC_AUTHORITIES)
    context = pb.message(_PACKAGE + "UpstreamTlsContext")(
        common_tls_context=common,
        sni=tls.sni or host,
        # Names of its own replace the check against the server name.
        auto_sni_san_validation=not names and not tls.insecure_skip_verify,
    )
    return extension(_TLS, context)


def server(tls: ServerTls, secrets: Iterable[tuple[str, str]], proxy: Proxy, trust_domain: str) -> dict[str, Any]:
    """TLS that a gateway terminates, with the certificates of these Secrets."""
    if tls.mode == "ISTIO_MUTUAL":
        return inbound(proxy, trust_domain, http=True)
    common: dict[str, Any] = {"alpn_protocols": ["h2", "http/1.1"]}
    found = {
        "tls_minimum_protocol_version": _VERSIONS[tls.min_protocol_version],
        "tls_maximum_protocol_version": _VERSIONS[tls.max_protocol_version],
        "cipher_suites": list(tls.cipher_suites),
    }
    parameters = {name: value for name, value in found.items() if value}
    if parameters:
        common["tls_params"] = parameters
    names = [secret_name(namespace, name) for namespace, name in secrets]
    if names:
        common["tls_certificate_sds_secret_configs"] = [{"name": name, "sds_config": ADS} for name in names]
    else:
        common["tls_certificates"] = [_files(tls.server_certificate, tls.private_key)]
    if tls.asks_for_certificate:
        judged = {
            "match_typed_subject_alt_names": [_exactly(name) for name in tls.subject_alt_names],
            "verify_certificate_hash": list(tls.verify_certificate_hash),
            "verify_certificate_spki": list(tls.verify_certificate_spki),
        }
        common |= _validation(judged, names[0] if names else "", tls.ca_certificates)
    context = pb.message(_PACKAGE + "DownstreamTlsContext")(common_tls_context=common)
    if tls.mode == "MUTUAL":
        context.require_client_certificate.value = True
    return extension(_TLS, context)


def _validation(judged: dict[str, Any], secret: str, file: str) -> dict[str, Any]:
    """How the other side is judged: by an authority from SDS beside a secret, else from a file."""
    judged = {name: value for name, value in judged.items() if value}
    if not secret:
        return {"validation_context": {"trusted_ca": {"filename": file}, **judged}}
    source = {"name": secret + _AUTHORITY, "sds_config": ADS}
    if not judged:
        return {"validation_context_sds_secret_config": source}
    return {
        "combined_validation_context": {
            "default_validation_context": judged,
            "validation_context_sds_secret_config": source,
        }
    }


def secret_name(namespace: str, name: str) -> str:
    """The name of a certificate from a Secret, as Istio forms it."""
    return f"kubernetes://{namespace}/{name}"


def secrets(namespace: str, name: str, found: Credential) -> dict[str, Any]:
    """What a proxy is given of a credential: the certificate with its key, and the other side's authority."""
    title = secret_name(namespace, name)
    message = pb.message(_PACKAGE + "Secret")
    made: dict[str, Any] = {}
    if found.certificate and found.key:
        made[title] = message(
            name=title,
            tls_certificate={
                "certificate_chain": {"inline_bytes": found.certificate},
                "private_key": {"inline_bytes": found.key},
            },
        )
    if found.authority:
        name = title + _AUTHORITY
        made[name] = message(name=name, validation_context={"trusted_ca": {"inline_bytes": found.authority}})
    return made


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
        "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, "sds_config": source}],
        "combined_validation_context": {
            "default_validation_context": {
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": name} for name in names]
            },
            "validation_context_sds_secret_config": {"name": ROOTS, "sds_config": source},
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
