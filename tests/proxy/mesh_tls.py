"""TLS as our control plane configures it, for a bootstrap that has everything in itself.

The transport sockets are those that sidecars and gateways get; only where their secrets come from is another.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pymesh.control.resources.gateway import ServerTls
from pymesh.control.translate import tls
from pymesh.control.translate.proxy import Proxy as Node
from pymesh.control.xds import pb
from tests.proxy.bootstrap import Json
from tests.tools.certificates import KeyPair

_NODE = Node("sidecar", "127.0.0.1", "web", "shop")
_TRUST_DOMAIN = "cluster.local"
_EDGE = "edge"


def sidecar() -> Json:
    """Who calls a sidecar's workload."""
    return _static(tls.inbound(_NODE, _TRUST_DOMAIN, http=True))


def client(identity: str, sni: str) -> Json:
    """A sidecar calls a workload that has this identity."""
    return _static(tls.outbound(_NODE, [identity], sni, ["http/1.1"]))


def gateway(**fields: Any) -> Json:
    """A server of a Gateway, with these fields of its `tls`."""
    asked = ServerTls(credential_name=_EDGE, **fields)
    return _static(tls.server(asked, [(_NODE.namespace, _EDGE)], _NODE, _TRUST_DOMAIN))


def secrets(own: KeyPair, roots: Path) -> list[Json]:
    """What all of them ask for: `static_resources.secrets`."""
    certificate = {"certificate_chain": {"filename": str(own.chain)}, "private_key": {"filename": str(own.key)}}
    trusted = {"trusted_ca": {"filename": str(roots)}}
    edge = tls.secret_name(_NODE.namespace, _EDGE)
    return [
        {"name": "default", "tls_certificate": certificate},
        {"name": "ROOTCA", "validation_context": trusted},
        {"name": edge, "tls_certificate": certificate},
        {"name": f"{edge}-cacert", "validation_context": trusted},
    ]


def _static(transport: Json) -> Json:
    """A transport socket in JSON whose secrets nobody is asked for."""
    context = pb.unpack(transport["typed_config"])
    common = context.common_tls_context
    validation = common.combined_validation_context.validation_context_sds_secret_config
    for secret in [*common.tls_certificate_sds_secret_configs, validation]:
        secret.ClearField("sds_config")
    if not validation.name:
        common.ClearField("combined_validation_context")
    return {"name": transport["name"], "typed_config": {"@type": pb.type_url(context), **pb.to_json(context)}}
