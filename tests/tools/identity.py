"""One proxy at both ends of mutual TLS, with certificates from our control plane.

The plain listener sends to the proxy's own inbound listener through a cluster with mutual TLS, so that every request
is a handshake's or a pooled connection's business on both sides.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

from cryptography import x509

from pymesh.control.app import ControlPlane
from pymesh.control.identity import private_files
from tests.proxy import bootstrap
from tests.tools import resources
from tests.tools.control import Mesh

TOKEN = "token-of-the-cart"
IDENTITY = "spiffe://cluster.local/ns/shop/sa/cart"
NODE = "sidecar~127.0.0.1~cart.shop~shop.svc.cluster.local"


def mesh(outbound: int, inbound: int, app: int) -> Mesh:
    """From the outbound listener over mutual TLS to the inbound one, and on to the app."""
    return Mesh(
        resources.cluster("peer", transport_socket=resources.mutual_tls("default", "ROOTCA", IDENTITY)),
        resources.endpoints("peer", inbound),
        resources.cluster("app"),
        resources.endpoints("app", app),
        resources.listener("outbound", outbound, "out"),
        resources.routes("out", "peer"),
        resources.listener("inbound", inbound, "in", secret="default", roots="ROOTCA"),
        resources.routes("in", "app"),
    )


def config(control: bootstrap.Json, folder: Path, admin: int, identity: str = IDENTITY) -> bootstrap.Json:
    """The bootstrap of a proxy that makes its own key."""
    token = folder / "token"
    private_files.write(token, TOKEN.encode())
    made = bootstrap.dynamic("DELTA_GRPC", control, admin, metadata=[("authorization", f"Bearer {TOKEN}")])
    made["node"]["id"] = NODE
    extension = {
        "@type": "type.googleapis.com/pymesh.identity.v1.WorkloadIdentity",
        "ca_cluster": control["name"],
        "spiffe_id": identity,
        "token_path": str(token),
    }
    made["bootstrap_extensions"] = [{"name": "pymesh.identity", "typed_config": extension}]
    return made


def secured(plane: ControlPlane, folder: Path) -> bootstrap.Json:
    """The control plane as a cluster, with trust in its root."""
    root = folder / "trusted.pem"
    root.write_text(plane.rotation.trust.bundle)
    tls = bootstrap.upstream_tls(str(root), "localhost", alpn=["h2"])
    return bootstrap.cluster("control", [plane.xds_address.port], http2=True, tls=tls)


def shown(port: int) -> x509.Certificate:
    """The certificate that a stranger is shown."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(("127.0.0.1", port), timeout=10) as plain:
        with context.wrap_socket(plain) as connection:
            der = connection.getpeercert(binary_form=True)
    assert der
    return x509.load_der_x509_certificate(der)
