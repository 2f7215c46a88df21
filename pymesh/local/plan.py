"""From a mesh file to a plan: every workload with its name, its identity and all of its ports.

Pure but for the ports, which are asked for one by one. A workload is one replica of an app, or a gateway; its proxy's
node id is Istio's, `sidecar~127.0.0.1~<workload>.<namespace>~<namespace>.svc.cluster.local`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pymesh.capture.namespace import NetworkNamespace
from pymesh.local.meshfile import EVERYTHING, App, Gateway, LocalMesh

ADDRESS = "127.0.0.1"
CLUSTER_ID = "local"
TRUST_DOMAIN = "cluster.local"
#: Of the connections of proxies that have no user of their own.
PROXY_MARK = 1338


@dataclass(frozen=True, slots=True)
class InboundPort:
    """A port of an app, behind its sidecar."""

    name: str
    #: Environment variable in which the app is told `app`.
    variable: str
    #: Where the app listens.
    app: int
    #: Where its sidecar takes requests for it.
    sidecar: int


@dataclass(frozen=True, slots=True)
class Workload:
    """One proxy, and the app process beside it unless it is a gateway."""

    name: str
    namespace: str
    service_account: str
    labels: Mapping[str, str]
    admin_port: int
    app: App | None = None
    inbound: tuple[InboundPort, ...] = ()
    #: Called service -> loopback port of the sidecar that leads there.
    outbound: Mapping[str, int] = field(default_factory=dict)
    #: Called service -> what is spoken with it.
    protocols: Mapping[str, str] = field(default_factory=dict)
    #: Where others reach it.
    address: str = ADDRESS
    #: Called service -> its port, where names are resolved and connections captured; `outbound` is empty then.
    named: Mapping[str, int] = field(default_factory=dict)
    #: Its own; None: it is in ours, and listens on explicit ports.
    network: NetworkNamespace | None = field(default=None, compare=False)

    @property
    def gateway(self) -> bool:
        """Whether it stands alone at the mesh's edge."""
        return self.app is None

    @property
    def node_id(self) -> str:
        """How its proxy introduces itself."""
        role = "router" if self.gateway else "sidecar"
        domain = f"{self.namespace}.svc.cluster.local"
        return f"{role}~{self.address}~{self.name}.{self.namespace}~{domain}"

    @property
    def spiffe_id(self) -> str:
        """Who it is."""
        return f"spiffe://{TRUST_DOMAIN}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def is_captured(self) -> bool:
        """Whether the kernel leads its connections through its proxy."""
        return self.network is not None

    @property
    def proxy_name(self) -> str:
        """Of its proxy's process and log."""
        return self.name if self.gateway else f"{self.name}.proxy"

    def environment(self) -> dict[str, str]:
        """What its app finds in the environment, in Kubernetes' words where it has them."""
        assert self.app is not None
        found = {"REPLICA": self.name, "VERSION": self.app.version, **self.app.env}
        found |= {port.variable: str(port.app) for port in self.inbound}
        return {**found, **self.whereabouts()}

    def whereabouts(self) -> dict[str, str]:
        """Where it finds the services that it calls."""
        found: dict[str, str] = {}
        for service, port in self.named.items():
            prefix = service.upper().replace("-", "_")
            found |= {f"{prefix}_SERVICE_HOST": service, f"{prefix}_SERVICE_PORT": str(port)}
        for service, port in self.outbound.items():
            if service == EVERYTHING:
                found["http_proxy"] = f"http://{ADDRESS}:{port}"
                continue
            prefix = service.upper().replace("-", "_")
            found |= {f"{prefix}_SERVICE_HOST": ADDRESS, f"{prefix}_SERVICE_PORT": str(port)}
        return found


def workloads(mesh: LocalMesh, port: Callable[[], int]) -> tuple[Workload, ...]:
    """Everything that gets a proxy: gateways first. `port` gives a free port at each call."""
    gateways = [_gateway(gateway, mesh.namespace, port) for gateway in mesh.gateways]
    protocols = {app.service_name: app.protocol for app in mesh.apps}
    replicas = [_replica(app, n, mesh.namespace, port, protocols) for app in mesh.apps for n in range(app.replicas)]
    return (*gateways, *replicas)


def _gateway(gateway: Gateway, namespace: str, port: Callable[[], int]) -> Workload:
    return Workload(gateway.name, namespace, gateway.account, dict(gateway.labels), port())


def _replica(app: App, number: int, namespace: str, port: Callable[[], int], protocols: Mapping[str, str]) -> Workload:
    name = app.name if app.replicas == 1 else f"{app.name}-{number}"
    return Workload(
        name=name,
        namespace=namespace,
        service_account=app.account,
        # `workload` tells replicas apart, for the Sidecar resource that is one replica's alone.
        labels={"app": app.service_name, "version": app.version, "workload": name},
        admin_port=port(),
        app=app,
        inbound=tuple(InboundPort(key, variable, port(), port()) for key, variable in app.ports.items()),
        outbound={service: port() for service in app.calls},
        protocols={service: protocols.get(service, "HTTP") for service in app.calls},
    )
