"""Istio's Gateway: ports that a gateway proxy opens, and for which hosts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field
from typing import Any, ClassVar, Literal

from pymesh.control.resources.decode import Located, Problem, model
from pymesh.control.resources.kubernetes import is_ip
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.workloads import Port


@model
class ServerTls(Located):
    """TLS that the gateway terminates, or passes on by its server name."""

    REFUSED: ClassVar = {
        "subjectAltNames": "check the client in the application",
        "minProtocolVersion": "TLS 1.2 and 1.3 are served; remove it",
        "maxProtocolVersion": "TLS 1.2 and 1.3 are served; remove it",
        "cipherSuites": "remove it",
        "verifyCertificateSpki": "use mode: MUTUAL with caCertificates",
        "verifyCertificateHash": "use mode: MUTUAL with caCertificates",
        "credentialNames": "write one server per credentialName",
        "tlsCertificates": "write one server per certificate",
        "caCrl": "remove it",
    }

    mode: Literal["SIMPLE", "MUTUAL", "PASSTHROUGH"] = "SIMPLE"
    https_redirect: bool = False
    credential_name: str = ""
    server_certificate: str = ""
    private_key: str = ""
    ca_certificates: str = ""

    @property
    def terminates(self) -> bool:
        """Whether there is TLS at all: a server may carry only ``httpsRedirect``."""
        return bool(self.credential_name or self.server_certificate)

    def problems(self) -> Iterator[Problem]:
        files = self.present("serverCertificate", "privateKey", "caCertificates")
        if self.credential_name and files:
            yield Problem(files[0], f"'credentialName' and {files[0]!r} exclude each other", "keep one of them")
        if bool(self.server_certificate) != bool(self.private_key):
            yield Problem("", "'serverCertificate' and 'privateKey' belong together", "give both")
        if self.mode == "PASSTHROUGH":
            for name in self.present("credentialName", "serverCertificate", "privateKey", "caCertificates"):
                yield Problem(name, "PASSTHROUGH leaves TLS to whoever is behind the gateway", f"remove {name!r}")
        if self.mode == "MUTUAL" and self.server_certificate and not self.ca_certificates:
            yield Problem("mode", "MUTUAL needs 'caCertificates'", "name the authority of the clients")


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


@model
class Gateway(Resource):
    """``networking.istio.io`` Gateway."""

    spec: GatewaySpec
    status: Any = None
