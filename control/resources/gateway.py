"""Istio's Gateway: ports that a gateway proxy opens, and for which hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, Problem, model
from pymesh.control.resources.diagnostics import did_you_mean
from pymesh.control.resources.kubernetes import is_host_name, is_ip
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import Port

#: Of TLS 1.2, as OpenSSL and Envoy call them; those of TLS 1.3 are not for choice.
CIPHER_SUITES = (
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384", "ECDHE-RSA-CHACHA20-POLY1305",
)  # fmt: skip

Version = Literal["TLS_AUTO", "TLSV1_2", "TLSV1_3"]
_HASH = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_SPKI = re.compile(r"[A-Za-z0-9+/]{43}=")


@model
class ServerTls(Located):
    """TLS that the gateway terminates, or passes on by its server name."""

    REFUSED: ClassVar = {
        "tlsCertificates": "put the certificates into Secrets and name those in credentialNames",
        "caCertCredentialName": "put ca.crt into the Secret that credentialName names",
        "caCrl": "let certificates live for a short time, or name those that are good in verifyCertificateSpki",
    }

    mode: Literal["SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL", "ISTIO_MUTUAL", "PASSTHROUGH"] = "SIMPLE"
    https_redirect: bool = False
    credential_name: str = ""
    #: Several, as one with an RSA key and one with an ECDSA key; the server name and the client's abilities choose.
    credential_names: tuple[str, ...] = ()
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""
    min_protocol_version: Version = "TLS_AUTO"
    max_protocol_version: Version = "TLS_AUTO"
    cipher_suites: tuple[str, ...] = ()
    #: Names of which a client's certificate must have one.
    subject_alt_names: tuple[str, ...] = ()
    #: SHA-256 of the clients' certificates that are let in, and of their keys.
    verify_certificate_hash: tuple[str, ...] = ()
    verify_certificate_spki: tuple[str, ...] = ()

    @property
    def credentials(self) -> tuple[str, ...]:
        """The Secrets with certificates."""
        return (self.credential_name,) if self.credential_name else self.credential_names

    @property
    def terminates(self) -> bool:
        """Whether there is TLS at all: a server may carry only ``httpsRedirect``."""
        return bool(self.credentials or self.server_certificate) or self.mode == "ISTIO_MUTUAL"

    @property
    def asks_for_certificate(self) -> bool:
        """Whether clients may show a certificate, against an authority of the user's."""
        return self.mode in ("MUTUAL", "OPTIONAL_MUTUAL")

    def problems(self) -> Iterator[Problem]:
        files = self.present("serverCertificate", "privateKey", "caCertificates")
        secrets = self.present("credentialName", "credentialNames")
        if len(secrets) > 1:
            yield Problem(secrets[1], "'credentialName' and 'credentialNames' exclude each other", "keep one of them")
        elif secrets and files:
            yield Problem(files[0], f"{secrets[0]!r} and {files[0]!r} exclude each other", "keep one of them")
        if bool(self.server_certificate) != bool(self.private_key):
            yield Problem("", "'serverCertificate' and 'privateKey' belong together", "give both")
        if self.mode == "PASSTHROUGH":
            for name in (*secrets, *files):
                yield Problem(name, "PASSTHROUGH leaves TLS to whoever is behind the gateway", f"remove {name!r}")
        if self.mode == "ISTIO_MUTUAL":
            for name in (*secrets, *files):
                yield Problem(name, "ISTIO_MUTUAL presents the mesh's certificate", f"remove {name!r}, or use MUTUAL")
        if self.asks_for_certificate and self.server_certificate and not self.ca_certificates:
            yield Problem("mode", f"{self.mode} needs 'caCertificates'", "name the authority of the clients")
        yield from self._client_problems()
        yield from self._parameter_problems()

    def _client_problems(self) -> Iterator[Problem]:
        about_clients = ("subjectAltNames", "verifyCertificateHash", "verifyCertificateSpki")
        if not self.asks_for_certificate:
            for name in self.present(*about_clients):
                yield Problem(name, f"{name!r} judges certificates of clients, and {self.mode} takes none of yours",
                              "use mode: MUTUAL")  # fmt: skip
        for value in self.verify_certificate_hash:
            if not _HASH.fullmatch(value):
                hint = "write what `openssl x509 -fingerprint -sha256` says"
                yield Problem("verifyCertificateHash", f"{value!r} is not a SHA-256 hash in hexadecimal", hint)
        for value in self.verify_certificate_spki:
            if not _SPKI.fullmatch(value):
                hint = "it is the hash of the public key in DER"
                yield Problem("verifyCertificateSpki", f"{value!r} is not a SHA-256 hash in Base64", hint)

    def _parameter_problems(self) -> Iterator[Problem]:
        if self.mode == "PASSTHROUGH" or not self.terminates:
            for name in self.present("minProtocolVersion", "maxProtocolVersion", "cipherSuites"):
                yield Problem(name, f"{name!r} has no meaning for TLS that ends elsewhere", f"remove {name!r}")
        if (self.min_protocol_version, self.max_protocol_version) == ("TLSV1_3", "TLSV1_2"):
            yield Problem("maxProtocolVersion", "the lowest TLS version is above the highest")
        for suite in self.cipher_suites:
            if suite not in CIPHER_SUITES:
                hint = did_you_mean(suite, CIPHER_SUITES, otherwise=f"known: {', '.join(CIPHER_SUITES)}")
                yield Problem("cipherSuites", f"cipher suite {suite!r} is not supported", hint)
        if self.cipher_suites and self.min_protocol_version == "TLSV1_3":
            hint = "remove 'cipherSuites', or set minProtocolVersion: TLSV1_2"
            yield Problem("cipherSuites", "the suites of TLS 1.3 are not for choice", hint)


@model
class Server(Located):
    """One port, for some hosts."""

    REFUSED: ClassVar = {"defaultEndpoint": "route with a VirtualService"}

    port: Port
    hosts: tuple[str, ...]
    bind: str = ""
    tls: ServerTls | None = None
    name: str = ""

    def problems(self) -> Iterator[Problem]:
        if self.bind and not is_ip(self.bind):
            yield Problem("bind", f"{self.bind!r} is not an IP address")
        if not self.hosts:
            yield Problem("hosts", "a server needs a host", 'for every host: hosts: ["*"]')
        for written in self.hosts:
            namespace, slash, host = written.rpartition("/")
            if (slash and not namespace) or (host != "*" and not is_host_name(host.removeprefix("*."))):
                hint = "write HOST or NAMESPACE/HOST; a host is a whole name, '*.suffix' or '*'"
                yield Problem("hosts", f"{written!r} is not a host", hint)
        tls = self.tls is not None and self.tls.terminates
        passes = self.tls is not None and self.tls.mode == "PASSTHROUGH"
        if self.port.protocol in ("HTTPS", "TLS") and not tls and not passes:
            hint = "give tls.credentialName, or tls.serverCertificate and tls.privateKey"
            yield Problem("tls", f"{self.port.protocol} needs a certificate", hint)
        if self.port.protocol not in ("HTTPS", "TLS") and (tls or passes):
            yield Problem("tls", f"{self.port.protocol} has no TLS", "use protocol: HTTPS")


@model
class GatewaySpec(Located):
    """Servers, and which proxies run them."""

    servers: tuple[Server, ...]
    selector: Mapping[str, str] = field(default_factory=dict)

    def problems(self) -> Iterator[Problem]:
        names = [server.port.name for server in self.servers if server.port.name]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield Problem("servers", f"port name {name!r} is here twice", "give each server's port its own name")
        taken: dict[tuple[str, int, bool, str], None] = {}
        for server in self.servers:
            secured = server.tls is not None and (server.tls.terminates or server.tls.mode == "PASSTHROUGH")
            for host in dict.fromkeys(written.rpartition("/")[2] for written in server.hosts):
                mark = (server.bind, server.port.number, secured, host)
                if secured and mark in taken:
                    hint = "a client's server name must lead to one of them; join the servers"
                    yield Problem("servers", f"host {host!r} is in two servers on port {server.port.number}", hint)
                taken[mark] = None


@model
class Gateway(Resource):
    """``networking.istio.io`` Gateway."""

    spec: GatewaySpec
    status: Any = None
