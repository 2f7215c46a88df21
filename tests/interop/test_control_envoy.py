"""Real Envoy as the sidecar of our control plane: everything it is sent is acknowledged and traffic flows over mTLS.

One Envoy plays both ends: its plain listener sends to its own inbound listener through a cluster with mTLS, whose
certificates come from our authority by way of the agent. The mesh is made by hand, so that a failure here is one of
the discovery service, the identity or the agent and not one of translation.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import http.server
import json
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.app import ControlPlane
from pymesh.control.config import Address, Settings
from pymesh.control.identity import operator, private_files
from pymesh.control.identity.agent import Agent, AgentSettings
from pymesh.control.xds import pb
from pymesh.control.xds.node import Node
from tests.tools.peers import peer
from tests.tools.ports import free_ports
from tests.tools.processes import running

TOKEN = "token-of-the-cart"
IDENTITY = "spiffe://cluster.local/ns/shop/sa/cart"
ANY_PORT = Address("127.0.0.1", 0)
HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


class HandMade:
    """A mesh of one service whose instances and answer header can be exchanged."""

    def __init__(self, outbound: int, inbound: int, app: int) -> None:
        self.outbound, self.inbound, self.app = outbound, inbound, app
        self.generation = "1"
        self.retired = True
        self._watching = threading.Event()
        self._changed: Callable[[], object] = lambda: None

    def load(self) -> list[str]:
        return []

    async def synced(self) -> None:
        pass

    async def watch(self, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._changed = lambda: loop.call_soon_threadsafe(changed)
        self._watching.set()
        await asyncio.Event().wait()

    def resources(self) -> Sequence[dict[str, Any]]:
        return []

    def names(self) -> Mapping[str, Any]:
        """Nobody has a name."""
        return {}

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        return []

    def exchange(self, **values: Any) -> None:
        assert self._watching.wait(10)
        for name, value in values.items():
            setattr(self, name, value)
        self._changed()

    def gone(self, node: Node) -> None:
        """Nothing is kept."""

    def messages(self, node: Node) -> Mapping[str, Mapping[str, Any]]:
        clusters = [self._mtls(), self._app()]
        if self.retired:
            clusters.append(pb.Cluster(name="retired", type=pb.Cluster.STATIC))
        listeners = [self._listener("outbound", self.outbound), self._listener("inbound", self.inbound)]
        self._secure(listeners[1])
        return {
            pb.CLUSTER: {c.name: c for c in clusters},
            pb.ENDPOINTS: {"app": self._assignment("app", self.app)},
            pb.LISTENER: {made.name: made for made in listeners},
            pb.ROUTES: {"outbound": self._routes("outbound", "mtls"), "inbound": self._routes("inbound", "app")},
        }

    def _app(self) -> Any:
        made = pb.Cluster(name="app", type=pb.Cluster.EDS)
        made.connect_timeout.FromSeconds(2)
        _from_ads(made.eds_cluster_config.eds_config)
        return made

    def _mtls(self) -> Any:
        made = pb.Cluster(name="mtls", type=pb.Cluster.STATIC)
        made.connect_timeout.FromSeconds(2)
        made.load_assignment.CopyFrom(self._assignment("mtls", self.inbound))
        context = pb.UpstreamTlsContext()
        _certificates(context.common_tls_context)
        made.transport_socket.name = "tls"
        made.transport_socket.typed_config.CopyFrom(pb.pack(context))
        return made

    def _secure(self, listener: Any) -> None:
        context = pb.DownstreamTlsContext()
        context.require_client_certificate.value = True
        _certificates(context.common_tls_context)
        socket = listener.filter_chains[0].transport_socket
        socket.name = "tls"
        socket.typed_config.CopyFrom(pb.pack(context))

    def _listener(self, name: str, port: int) -> Any:
        manager = pb.HttpConnectionManager(stat_prefix=name)
        manager.rds.route_config_name = name
        _from_ads(manager.rds.config_source)
        manager.http_filters.add(name="router", typed_config=pb.pack(pb.Router()))
        made = pb.Listener(name=name)
        made.address.socket_address.address, made.address.socket_address.port_value = "127.0.0.1", port
        made.filter_chains.add().filters.add(name="http", typed_config=pb.pack(manager))
        return made

    def _routes(self, name: str, cluster: str) -> Any:
        made = pb.RouteConfiguration(name=name)
        host = made.virtual_hosts.add(name="all", domains=["*"])
        route = host.routes.add()
        route.match.prefix = "/"
        route.route.cluster = cluster
        header = host.response_headers_to_add.add().header
        header.key, header.value = f"x-{name}", self.generation
        return made

    @staticmethod
    def _assignment(name: str, port: int) -> Any:
        made = pb.ClusterLoadAssignment(cluster_name=name)
        address = made.endpoints.add().lb_endpoints.add().endpoint.address.socket_address
        address.address, address.port_value = "127.0.0.1", port
        return made


def _from_ads(source: Any) -> None:
    source.ads.SetInParent()
    source.resource_api_version = pb.enum("envoy.config.core.v3.ApiVersion").Value("V3")


def _certificates(common: Any) -> None:
    """The agent's secrets, and exactly our own identity accepted."""
    for config, name in (
        (common.tls_certificate_sds_secret_configs.add(), "default"),
        (common.combined_validation_context.validation_context_sds_secret_config, "ROOTCA"),
    ):
        config.name = name
        source = config.sds_config
        source.resource_api_version = pb.enum("envoy.config.core.v3.ApiVersion").Value("V3")
        # Field 2, `api_config_source`, is not among the messages that our own proxy takes.
        api = pb.message("envoy.config.core.v3.ApiConfigSource")(
            api_type="GRPC", transport_api_version="V3", grpc_services=[{"envoy_grpc": {"cluster_name": "agent"}}]
        )
        encoded = pb.encode(api)
        source.MergeFromString(bytes([0x12, len(encoded)]) + encoded)
    names = common.combined_validation_context.default_validation_context.match_typed_subject_alt_names
    name = names.add(san_type=pb.SubjectAltNameMatcher.URI)
    name.matcher.exact = IDENTITY


def bootstrap(kind: str, control: Address, agent: Path, root: Path, admin: int) -> dict[str, Any]:
    http2 = {
        HTTP_OPTIONS: {"@type": pb.TYPE_PREFIX + HTTP_OPTIONS, "explicit_http_config": {"http2_protocol_options": {}}}
    }

    def static(name: str, address: dict[str, Any]) -> dict[str, Any]:
        endpoint = {"endpoint": {"address": address}}
        return {
            "name": name,
            "connect_timeout": "2s",
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
            "typed_extension_protocol_options": http2,
        }

    xds = static("xds", {"socket_address": {"address": control.host, "port_value": control.port}})
    xds["transport_socket"] = {
        "name": "tls",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": "localhost",
            "common_tls_context": {
                "alpn_protocols": ["h2"],
                "validation_context": {"trusted_ca": {"filename": str(root)}},
            },
        },
    }
    return {
        "node": {"id": "sidecar~127.0.0.1~cart.shop~shop.svc.cluster.local", "cluster": "cart"},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "dynamic_resources": {
            "lds_config": {"ads": {}, "resource_api_version": "V3"},
            "cds_config": {"ads": {}, "resource_api_version": "V3"},
            "ads_config": {
                "api_type": kind,
                "transport_api_version": "V3",
                "grpc_services": [
                    {
                        "envoy_grpc": {"cluster_name": "xds"},
                        "initial_metadata": [{"key": "authorization", "value": f"Bearer {TOKEN}"}],
                    }
                ],
            },
        },
        "static_resources": {"clusters": [xds, static("agent", {"pipe": {"path": str(agent)}})]},
    }


@contextmanager
def control_and_agent(folder: Path, mesh: HandMade, listen: Address = ANY_PORT) -> Iterator[tuple[ControlPlane, Path]]:
    """A control plane and an agent on a thread of their own."""
    tokens, token, agent_socket = folder / "tokens.json", folder / "token", folder / "sds.sock"
    hashed = hashlib.sha256(TOKEN.encode()).hexdigest()
    private_files.write(tokens, json.dumps({hashed: {"namespace": "shop", "serviceAccount": "cart"}}).encode())
    private_files.write(token, TOKEN.encode())
    settings = Settings(config=(folder,), state=folder / "state", listen=listen, admin=ANY_PORT, tokens=tokens)
    started = threading.Event()
    held: dict[str, Any] = {}

    async def main() -> None:
        held["loop"], held["stop"] = asyncio.get_running_loop(), asyncio.Event()
        held["plane"] = plane = ControlPlane(settings, mesh)
        serving, certified = asyncio.Event(), asyncio.Event()
        async with asyncio.TaskGroup() as group:
            group.create_task(plane.run(held["stop"], serving.set))
            await serving.wait()
            root = folder / "state" / "ca" / "root-cert.pem"
            agent = Agent(AgentSettings(plane.xds_address, token, agent_socket, root))
            group.create_task(agent.run(held["stop"], certified.set))
            await certified.wait()
            started.set()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    assert started.wait(20), "the control plane did not start"
    try:
        yield held["plane"], agent_socket
    finally:
        held["loop"].call_soon_threadsafe(held["stop"].set)
        thread.join(20)
        assert not thread.is_alive()


@contextmanager
def app(answer: bytes) -> Iterator[int]:
    """A plain HTTP service."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def get(port: int) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/")
        answer = connection.getresponse()
        return answer.status, answer.read(), {k.lower(): v for k, v in answer.getheaders()}
    finally:
        connection.close()


def eventually(what: str, check: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def page(address: object, path: str) -> Any:
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        return json.loads(answer.read())


def synced(plane: ControlPlane) -> bool:
    """Envoy acknowledged the latest of every type and refused nothing; its companion hears of roots alone."""
    proxies = page(plane.admin_address, "/debug/syncz")
    assert not [t for p in proxies for t in p["types"].values() if "rejected" in t], proxies
    companions = [p for p in proxies if set(p["types"]) == {pb.SECRET}]
    envoys = [p for p in proxies if p not in companions]
    is_complete = len(companions) == 1 and bool(envoys) and all(len(p["types"]) == 4 for p in envoys)
    return is_complete and all(t["synced"] for p in proxies for t in p["types"].values())


@pytest.mark.parametrize("kind", ["DELTA_GRPC", "GRPC"])
def test_envoy_takes_everything_and_traffic_flows(tmp_path: Path, kind: str) -> None:
    outbound, inbound, admin = free_ports(3)
    with app(b"one") as first, app(b"two") as second:
        mesh = HandMade(outbound, inbound, first)
        with control_and_agent(tmp_path, mesh) as (plane, agent):
            root = tmp_path / "state" / "ca" / "root-cert.pem"
            config = tmp_path / "envoy.json"
            config.write_text(json.dumps(bootstrap(kind, plane.xds_address, agent, root, admin)))
            argv = [peer("envoy"), "-c", str(config), "--concurrency", "1", "--log-level", "warning"]
            with running([*argv, "--use-dynamic-base-id"], title="envoy", ports=[admin, outbound, inbound]) as envoy:
                eventually("Envoy acknowledged everything", lambda: synced(plane))
                status, body, headers = get(outbound)
                assert (status, body) == (200, b"one"), envoy.tail()
                assert (headers["x-outbound"], headers["x-inbound"]) == ("1", "1")

                # Endpoints move, routes change and a cluster goes, while requests run: none of them may fail.
                mesh.exchange(app=second, generation="2", retired=False)
                seen: list[tuple[int, bytes, str]] = []

                def followed() -> bool:
                    status, body, headers = get(outbound)
                    seen.append((status, body, headers["x-outbound"]))
                    return (body, headers["x-outbound"], headers["x-inbound"]) == (b"two", "2", "2")

                eventually("Envoy follows the change", followed)
                assert {status for status, _, _ in seen} == {200}
                eventually("the change was acknowledged", lambda: synced(plane))
                clusters = page(f"127.0.0.1:{admin}", "/clusters?format=json")["cluster_statuses"]
                assert "retired" not in {c["name"] for c in clusters}


def test_envoy_follows_a_rotation_of_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its companion: it trusts both roots, shows a certificate of the new one, and trusts that alone in the end."""
    monkeypatch.setattr("pymesh.control.identity.agent.SPREAD_SECONDS", 0.5)
    outbound, inbound, admin = free_ports(3)
    state = tmp_path / "state"

    def trusted() -> list[set[str]]:
        """The serial numbers of the roots that each of Envoy's TLS contexts trusts."""
        entries = page(f"127.0.0.1:{admin}", "/certs")["certificates"]
        return [{one["serial_number"] for one in entry["ca_cert"]} for entry in entries if entry["cert_chain"]]

    def begun(phase: str) -> bool:
        try:
            operator.ask(state, phase)
        except operator.RefusedError:
            return False
        return True

    with app(b"one") as only:
        mesh = HandMade(outbound, inbound, only)
        with control_and_agent(tmp_path, mesh) as (plane, agent):
            config = tmp_path / "envoy.json"
            root = state / "ca" / "root-cert.pem"
            config.write_text(json.dumps(bootstrap("DELTA_GRPC", plane.xds_address, agent, root, admin)))
            argv = [peer("envoy"), "-c", str(config), "--concurrency", "1", "--log-level", "warning"]
            with running([*argv, "--use-dynamic-base-id"], title="envoy", ports=[admin, outbound, inbound]) as envoy:
                eventually("Envoy acknowledged everything", lambda: synced(plane))
                (old,) = trusted()[0]
                seen = []
                for phase in ("prepare", "activate", "revoke"):
                    eventually(phase, lambda phase=phase: begun(phase))
                    seen += [get(outbound)[0] for _ in range(20)]
                (new,) = {f"{one.root.serial_number:040x}" for one in plane.rotation.trust.authorities}
                eventually("Envoy trusts the new root alone", lambda: all(one == {new} for one in trusted()))
                seen += [get(outbound)[0] for _ in range(20)]
                assert set(seen) == {200}, envoy.tail()
                assert old != new and trusted()
