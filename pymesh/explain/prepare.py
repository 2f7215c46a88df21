"""What a proxy is told, made fit for a network that is not there.

Everything that decides about a request stays. What changes: every request and connection is logged, in a form to be
read by machine; endpoints are taken to be healthy; names in DNS are taken to exist, each at an address of its own; TLS
with servers outside of the mesh, which cannot be asked, is taken to succeed; tokens of this walk are believed; and
hooks of filters are not timed, since they take real time, and how much of it a busy machine decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from pymesh.control.identity.names import ROOTS
from pymesh.control.translate.wire import extension, struct
from pymesh.control.xds import pb
from pymesh.explain import tokens
from pymesh.explain.source import Messages
from pymesh.explain.tokens import Signer
from pymesh.explain.told import chains

ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog"
#: Of a request; of a TCP connection what there is of it.
ACCESS_LOG_FIELDS = {
    "status": "%RESPONSE_CODE%",
    "details": "%RESPONSE_CODE_DETAILS%",
    "flags": "%RESPONSE_FLAGS%",
    "route": "%ROUTE_NAME%",
    "cluster": "%UPSTREAM_CLUSTER_RAW%",
    "upstream": "%UPSTREAM_HOST%",
    "transport_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "termination": "%CONNECTION_TERMINATION_DETAILS%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(:PATH)%",
    "original_path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
    "peer": "%DOWNSTREAM_PEER_URI_SAN%",
    "tls": "%DOWNSTREAM_TLS_VERSION%",
    "local": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "duration": "%DURATION%",
}

_LOGGING = (
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
)


@dataclass(slots=True)
class Names:
    """Addresses that stand for names in DNS."""

    #: Name -> address.
    known: dict[str, str] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """That of a name: in a network that is for benchmarks, so nobody in a mesh has it."""
        number = len(self.known) + 1
        return self.known.setdefault(name, f"198.18.{number // 250}.{number % 250 + 1}")

    def shown(self, address: str) -> str:
        """An address (``IP:PORT``) by the name that it stands for."""
        ip, _, port = address.rpartition(":")
        name = self.name(ip)
        return address if name is None else f"{name}:{port}"

    def name(self, ip: str) -> str | None:
        """The name that an address stands for."""
        return next((name for name, known in self.known.items() if known == ip), None)


def access_log() -> dict[str, Any]:
    """One JSON line for each request."""
    log = pb.message(ACCESS_LOG)()
    log.log_format.json_format.CopyFrom(struct(ACCESS_LOG_FIELDS))
    return extension("envoy.access_loggers.stdout", log)


def prepared(
    messages: Messages, secrets: Mapping[str, Any], names: Names, signer: Signer, *, at_rest: bool = True
) -> dict[str, dict[str, Any]]:
    """The messages as the simulated proxy is to hear them, with its own secrets. A mesh that is not ``at_rest`` finds
    out itself who is healthy."""
    found = {url: dict(named) for url, named in messages.items()}
    found[pb.LISTENER] = {name: _listener(one, signer) for name, one in found.get(pb.LISTENER, {}).items()}
    found[pb.CLUSTER] = {name: _cluster(one, names, at_rest) for name, one in found.get(pb.CLUSTER, {}).items()}
    found[pb.SECRET] = {**found.get(pb.SECRET, {}), **secrets}
    return found


def _listener(listener: Any, signer: Signer) -> Any:
    made = deepcopy(listener)
    made.ClearField("access_log")
    for one in (one for chain in chains(made) for one in chain.filters):
        if one.typed_config.type_url.rpartition("/")[2] in _LOGGING:
            config = pb.unpack(one.typed_config)
            config.ClearField("access_log")
            config.access_log.add(**access_log())
            if "tracing" in config.DESCRIPTOR.fields_by_name:
                # Nobody collects spans here.
                config.ClearField("tracing")
            for http in getattr(config, "http_filters", ()):
                if tokens.is_jwt(http):
                    http.typed_config.CopyFrom(pb.pack(signer.believe(pb.unpack(http.typed_config))))
            one.typed_config.CopyFrom(pb.pack(config))
    return made


def _cluster(cluster: Any, names: Names, at_rest: bool) -> Any:
    made = deepcopy(cluster)
    if at_rest:
        made.ClearField("health_checks")
        made.ClearField("outlier_detection")
    if made.HasField("transport_socket") and not _is_of_the_mesh(made.transport_socket):
        made.ClearField("transport_socket")
    if made.type in (pb.Cluster.STRICT_DNS, pb.Cluster.LOGICAL_DNS):
        made.type = pb.Cluster.STATIC
        for locality in made.load_assignment.endpoints:
            for one in locality.lb_endpoints:
                address = one.endpoint.address.socket_address
                address.address = names.address(address.address)
    return made


def _is_of_the_mesh(socket: Any) -> bool:
    if not socket.HasField("typed_config") or not socket.typed_config.type_url.endswith(".UpstreamTlsContext"):
        return False
    common = pb.unpack(socket.typed_config).common_tls_context
    return bool(common.combined_validation_context.validation_context_sds_secret_config.name == ROOTS)
