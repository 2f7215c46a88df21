"""A mesh that a test edits as a person does: client -> edge -> relay -> server -> origins, with mutual TLS in between.

`edge` is a gateway. `relay` stands for a service that calls another one: what its sidecar takes it leads to itself,
on the ports by which its application would call out. `server` is the sidecar of the origins, two versions of one and
one of each of the others. All of them have identities of the control plane, and two workers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pymesh.local import bootstrap, tokens
from pymesh.local.bootstrap import ControlAddress
from pymesh.local.certificates import Authority
from pymesh.local.meshfile import App
from pymesh.local.plan import Workload
from tests.lifecycle.load import Origins
from tests.lifecycle.replica import PATIENCE
from tests.proxy.running import pymesh
from tests.tools.ports import free_ports
from tests.tools.processes import Running, running
from tests.tools.wire.client import fetch
from tests.tools.wire.message import Request

Json = dict[str, Any]
ISTIO, GATEWAY, OWN = "networking.istio.io/v1", "gateway.networking.k8s.io/v1", "extensions.pymesh.dev/v1alpha1"
SECURITY = "security.istio.io/v1"
#: A line of an access log.
_FAILED = re.compile(r'HTTP/[12](\.1)?" [45]\d\d ')
PROTOCOLS = {"http": "HTTP", "grpc": "GRPC", "websocket": "HTTP"}


def document(version: str, kind: str, name: str, labels: Mapping[str, str] | None = None, **spec: Any) -> Json:
    """A resource with a spec."""
    metadata = {"name": name, "namespace": "load", **({"labels": dict(labels)} if labels else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec}


def to(host: str, **destination: Any) -> Json:
    """A share of a VirtualService's route."""
    return {"destination": {"host": host, **destination}}


@dataclass(frozen=True)
class Ports:
    """Where everybody listens."""

    edge: int
    #: Of the edge, for what comes and goes.
    other: int
    #: By protocol: what the relay's sidecar takes, and where it leads it.
    taken: Mapping[str, int]
    called: Mapping[str, int]
    #: What the server's sidecar takes, by origin.
    served: Mapping[str, int]

    @classmethod
    def free(cls) -> Ports:
        """Any."""
        edge, other, *more = free_ports(12)
        served = dict(zip(("v1", "v2", "grpc", "websocket"), more[6:], strict=True))
        taken, called = (dict(zip(PROTOCOLS, more[at : at + 3], strict=True)) for at in (0, 3))
        return cls(edge, other, taken, called, served)


@dataclass
class Mesh:
    """What the files say. `edit` writes those whose text has changed, one after the other."""

    folder: Path
    ports: Ports
    behind: Origins
    #: The second version, and what mirrors and other listeners lead to.
    more: int
    authority: Authority
    turn: int = 0
    #: The service of the HTTP origins, and who serves it: version -> locality.
    host: str = "http"
    versions: dict[str, str] = field(default_factory=lambda: {"v1": "eu/a"})
    #: Of its VirtualService: the rule for all requests, rules before it, and shares by version.
    rule: Json = field(default_factory=dict)
    before: list[Json] = field(default_factory=list)
    request_headers: Json = field(default_factory=dict)
    weights: dict[str, int] = field(default_factory=dict)
    #: HTTPRoute and GRPCRoute in place of VirtualServices.
    by_gateway_api: bool = False
    #: Of its DestinationRule.
    subsets: tuple[str, ...] = ()
    policy: dict[str, Json] = field(default_factory=dict)
    #: At the gateway.
    hosts: tuple[str, ...] = ("load.test",)
    servers: list[Json] = field(default_factory=list)
    at_edge: list[Json] = field(default_factory=list)
    #: Policies, by what they are about.
    more_resources: dict[str, list[Json]] = field(default_factory=dict)
    #: Of the relay's Sidecar.
    egress: list[Json] = field(default_factory=list)

    def files(self) -> dict[str, list[Json]]:
        """Every resource, by the file that it is in."""
        return {
            "services": [*self._services(), *self._workloads()],
            "sidecars": self._sidecars(),
            "policies": [*self._destination_rules(), *(one for found in self.more_resources.values() for one in found)],
            "routes": self._routes(),
            "gateway": self._gateway(),
        }

    def edit(self) -> None:
        """Each file is replaced whole, as editors do; between two of them the mesh may be none."""
        for name, documents in self.files().items():
            text = "---\n".join(yaml.safe_dump(one) for one in documents)
            path = self.folder / f"{name}.yaml"
            if not path.exists() or path.read_text() != text:
                new = self.folder / f".{name}"
                new.write_text(text)
                new.replace(path)

    def _services(self) -> list[Json]:
        def service(name: str, app: str, protocol: str) -> Json:
            port = {"name": protocol.lower(), "port": 80, "targetPort": "in"}
            return document("v1", "Service", name, selector={"app": app}, ports=[port])

        made = [service(f"front-{name}", f"relay-{name}", protocol) for name, protocol in PROTOCOLS.items()]
        names = {"http": self.host, "grpc": "grpc", "websocket": "websocket"}
        made += [service(names[name], name, protocol) for name, protocol in PROTOCOLS.items()]
        aside = document("v1", "Service", "aside", ports=[{"name": "http", "port": 80}])
        labels = {"kubernetes.io/service-name": "aside"}
        endpoints = {
            **document("discovery.k8s.io/v1", "EndpointSlice", "aside", labels),
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": self.more}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        }
        del endpoints["spec"]
        return [*made, aside, endpoints]

    def _workloads(self) -> list[Json]:
        def entry(name: str, app: str, port: int, account: str, version: str = "v1", locality: str = "") -> Json:
            labels = {"app": app, "version": version, "security.istio.io/tlsMode": "istio"}
            where = {"locality": locality} if locality else {}
            found = {"address": "127.0.0.1", "ports": {"in": port}, "labels": labels, "serviceAccount": account}
            return document(ISTIO, "WorkloadEntry", name, **found, **where)

        made = [entry(f"relay-{name}", f"relay-{name}", port, "relay") for name, port in self.ports.taken.items()]
        served = self.ports.served
        made += [entry(name, name, served[name], "server") for name in ("grpc", "websocket")]
        return made + [
            entry(f"http-{version}", "http", served[version], "server", version, locality)
            for version, locality in self.versions.items()
        ]

    def _sidecars(self) -> list[Json]:
        def ingress(port: int, protocol: str, name: str, app: int) -> Json:
            at = {"number": port, "protocol": protocol, "name": f"{protocol.lower()}-{name}"}
            return {"port": at, "bind": "127.0.0.1", "defaultEndpoint": f"127.0.0.1:{app}"}

        taken, called = self.ports.taken, self.ports.called
        relay = [ingress(taken[name], protocol, name, called[name]) for name, protocol in PROTOCOLS.items()]
        names = {"http": self.host, "grpc": "grpc", "websocket": "websocket"}
        egress = [
            {
                "port": {"number": called[name], "protocol": protocol, "name": name},
                "bind": "127.0.0.1",
                "captureMode": "NONE",
                "hosts": [f"load/{names[name]}.load.svc.cluster.local"],
            }
            for name, protocol in PROTOCOLS.items()
        ]
        apps = {"v1": self.behind.http, "v2": self.more, "grpc": self.behind.grpc, "websocket": self.behind.websocket}
        server = [
            ingress(port, PROTOCOLS.get(name, "HTTP"), name, apps[name]) for name, port in self.ports.served.items()
        ]
        return [
            document(
                ISTIO, "Sidecar", "relay", workloadSelector=_of("relay"), ingress=relay, egress=egress + self.egress
            ),
            document(ISTIO, "Sidecar", "server", workloadSelector=_of("server"), ingress=server),
        ]

    def _destination_rules(self) -> list[Json]:
        subsets = [{"name": name, "labels": {"version": name}} for name in self.subsets]
        return [document(ISTIO, "DestinationRule", "http", host=self.host, trafficPolicy=self.policy, subsets=subsets)]

    def _routes(self) -> list[Json]:
        """How the relay's sidecar leads requests on."""
        if self.by_gateway_api:
            header = {"set": [{"name": "x-turn", "value": str(self.turn)}]}
            parent = {"group": "", "kind": "Service"}
            http = {
                "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": header}],
                "backendRefs": [{"name": self.host, "port": 80}],
            }
            grpc = {
                "matches": [{"method": {"service": "load.Echo"}}],
                "backendRefs": [{"name": "grpc", "port": 80}],
            }
            return [
                document(GATEWAY, "HTTPRoute", "http", parentRefs=[{**parent, "name": self.host}], rules=[http]),
                document(GATEWAY, "GRPCRoute", "grpc", parentRefs=[{**parent, "name": "grpc"}], rules=[grpc]),
            ]
        shares = [{**to(self.host, subset=name), "weight": weight} for name, weight in self.weights.items()]
        headers = {"request": self.request_headers, "response": {"set": {"x-turn": str(self.turn)}}}
        rule = {"headers": headers, "route": shares or [to(self.host)], **self.rule}
        grpc = {"timeout": f"{30 + self.turn}s", "route": [to("grpc")]}
        return [
            document(ISTIO, "VirtualService", "http", hosts=[self.host], http=[*self.before, rule]),
            document(ISTIO, "VirtualService", "grpc", hosts=["grpc"], http=[grpc]),
        ]

    def _gateway(self) -> list[Json]:
        servers = [{"port": {"number": self.ports.edge, "name": "http", "protocol": "HTTP"}, "hosts": list(self.hosts)}]
        headers = {"response": {"set": {"x-edge-turn": str(self.turn)}}}
        rules = [
            {"match": [{"uri": {"prefix": "/load.Echo/"}}], "route": [to("front-grpc")]},
            {"match": [{"uri": {"prefix": "/websocket"}}], "route": [to("front-websocket")]},
            {"headers": headers, "route": [to("front-http")]},
        ]
        selector = {"istio": "ingressgateway"}
        return [
            document(ISTIO, "Gateway", "edge", selector=selector, servers=servers + self.servers),
            document(ISTIO, "VirtualService", "load", hosts=list(self.hosts), gateways=["edge"], http=rules),
            *self.at_edge,
        ]


def _of(name: str) -> Json:
    return {"labels": {"app": name}}


@dataclass(frozen=True)
class Started:
    """The processes, and what was read of them."""

    proxies: dict[str, Running]
    admin: int

    def has_arrived(self, mesh: Mesh) -> bool:
        """Whichever worker is asked, it has what was written last; and every proxy has acknowledged everything."""
        for _ in range(8):
            answer = fetch(mesh.ports.edge, Request("GET", "/", "load.test"))
            if {answer.header("x-turn"), answer.header("x-edge-turn")} != {str(mesh.turn)}:
                return False
        page = fetch(self.admin, Request("GET", "/debug/syncz", "localhost")).body
        return b'"synced": true' in page and b'"synced": false' not in page

    def said(self) -> str:
        """What the control plane has said last, and what the proxies have said of requests that failed."""
        failed = {
            name: "\n".join(line for line in one.output().splitlines() if _FAILED.search(line))
            for name, one in self.proxies.items()
        }
        return "\n".join([self.proxies["control"].tail(12), *(f"{name}:\n{text}" for name, text in failed.items())])


@contextmanager
def started(folder: Path, mesh: Mesh) -> Iterator[Started]:
    """The control plane on the mesh's files, and its proxies."""
    control, admin, *admins = free_ports(5)
    app = App(name="app", command=("none",), ports={}, locality="eu/a/one")
    labels = {"edge": {"istio": "ingressgateway", "gateway.networking.k8s.io/gateway-name": "kube"}}
    workloads = [
        Workload(name, "load", name, labels.get(name, {"app": name}), port, None if name == "edge" else app)
        for name, port in zip(("server", "relay", "edge"), admins, strict=True)
    ]
    (folder / "tokens").mkdir()
    tokens.issue(workloads, folder / "tokens.json", folder / "tokens")
    words = [*pymesh(), "control", "--config", str(mesh.folder), "--state", str(folder / "state")]
    words += ["--tokens", str(folder / "tokens.json"), "--listen", f"127.0.0.1:{control}"]
    words += ["--admin", f"127.0.0.1:{admin}"]
    ready = {"edge": [mesh.ports.edge], "relay": [*mesh.ports.called.values()], "server": [*mesh.ports.served.values()]}
    with ExitStack() as stack:
        proxies = {"control": stack.enter_context(running(words, title="control", ports=[control], timeout=PATIENCE))}
        address = ControlAddress(control, folder / "state" / "ca" / "root-cert.pem")
        for one in workloads:
            file = folder / f"{one.name}.json"
            file.write_text(json.dumps(bootstrap.for_pymesh(one, address, folder / "tokens" / one.name)))
            argv = [*pymesh(), "proxy", "-c", str(file), "--concurrency", "2"]
            proxies[one.name] = stack.enter_context(
                running(argv, title=one.name, ports=ready[one.name], timeout=PATIENCE)
            )
        yield Started(proxies, admin)
