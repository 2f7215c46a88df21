"""The composed control plane: what it refuses to start with, and one whole life as a process's loop."""

import asyncio
import hashlib
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from pymesh.control.app import ControlPlane, StartError
from pymesh.control.config import Address, Settings, SettingsError
from pymesh.control.identity import private_files
from pymesh.control.identity.agent import Agent, AgentSettings
from pymesh.control.identity.service import PATH
from pymesh.control.xds import pb
from pymesh.control.xds.node import Node
from pymesh.control.xds.server import SERVICE

TOKEN = "the-cart's-token"
ANY_PORT = Address("127.0.0.1", 0)


class OneCluster:
    """A mesh that is one cluster, exchanged at will."""

    def __init__(self, *errors: str) -> None:
        self.name = "first"
        self.errors = errors
        self.changed = threading.Event()
        self._exchanged: Callable[[], None] = lambda: None

    def load(self) -> list[str]:
        return list(self.errors)

    async def synced(self) -> None:
        pass

    async def watch(self, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._exchanged = lambda: loop.call_soon_threadsafe(changed) and None
        self.changed.set()
        await asyncio.Event().wait()

    def gone(self, node: Node) -> None:
        """Nothing is kept."""

    def messages(self, node: Node) -> Mapping[str, Mapping[str, Any]]:
        return {pb.CLUSTER: {self.name: pb.Cluster(name=self.name)}}

    def resources(self) -> Sequence[dict[str, Any]]:
        return [{"kind": "Service", "name": self.name}]

    def names(self) -> Mapping[str, Any]:
        """Nobody has a name."""
        return {}

    def diagnostics(self) -> Sequence[dict[str, Any]]:
        return []

    def standing(self) -> dict[str, Any]:
        return {"inForceSince": None, "refusedSince": None}

    def known(self) -> tuple[Sequence[Any], Sequence[Any]]:
        return (), ()

    def exchange(self, name: str) -> None:
        assert self.changed.wait(10)
        self.name = name
        self._exchanged()


class Running:
    """A control plane on its own thread."""

    def __init__(self, settings: Settings, mesh: OneCluster) -> None:
        self._serving = threading.Event()
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._run, args=(settings, mesh))
        self._thread.start()
        assert self._serving.wait(10)
        if self._failure:
            raise self._failure[0]

    def _run(self, settings: Settings, mesh: OneCluster) -> None:
        try:
            asyncio.run(self._main(settings, mesh))
        except BaseException as error:
            self._failure.append(error)
            self._serving.set()

    async def _main(self, settings: Settings, mesh: OneCluster) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.plane = ControlPlane(settings, mesh)
        await self.plane.run(self._stop, self._serving.set)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
        assert not self._thread.is_alive()
        assert not self._failure


def settings(folder: Path, **changes: Any) -> Settings:
    tokens = folder / "tokens.json"
    hashed = hashlib.sha256(TOKEN.encode()).hexdigest()
    private_files.write(tokens, json.dumps({hashed: {"namespace": "shop", "serviceAccount": "cart"}}).encode())
    values = {
        "config": (folder,),
        "state": folder / "state",
        "listen": ANY_PORT,
        "admin": ANY_PORT,
        "tokens": tokens,
    }
    return Settings(**{**values, **changes})


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[Running, OneCluster]]:
    mesh = OneCluster()
    plane = Running(settings(tmp_path), mesh)
    yield plane, mesh
    plane.stop()


def secure_channel(plane: ControlPlane) -> grpc.Channel:
    trust = grpc.ssl_channel_credentials(plane.rotation.trust.bundle.encode())
    return grpc.secure_channel(str(plane.xds_address), trust)


def page(plane: ControlPlane, path: str) -> Any:
    with urllib.request.urlopen(f"http://{plane.admin_address}{path}", timeout=10) as answer:
        body = answer.read()
    return json.loads(body) if path.startswith("/debug") else body.decode()


def test_a_proxy_follows_the_mesh_over_tls(running: tuple[Running, OneCluster]) -> None:
    plane, mesh = running[0].plane, running[1]
    metadata = [("authorization", f"Bearer {TOKEN}")]
    with secure_channel(plane) as channel:
        call = channel.stream_stream(
            SERVICE + "DeltaAggregatedResources",
            request_serializer=pb.encode,
            response_deserializer=pb.DeltaDiscoveryResponse.FromString,
        )
        asked = threading.Event()

        def requests() -> Iterator[Any]:
            yield pb.DeltaDiscoveryRequest(type_url=pb.CLUSTER, node=pb.Node(id="p1"))
            asked.wait(10)

        responses = call(requests(), metadata=metadata, timeout=10)
        assert [r.name for r in next(responses).resources] == ["first"]
        mesh.exchange("second")
        second, third = next(responses), next(responses)
        assert [r.name for r in second.resources] == ["second"]
        assert list(third.removed_resources) == ["first"]
        (synced,) = page(plane, "/debug/syncz")
        assert synced["proxy"] == "p1"
        assert synced["identity"] == "spiffe://cluster.local/ns/shop/sa/cart"
        assert synced["types"][pb.CLUSTER]["sent"]
        assert not synced["types"][pb.CLUSTER]["synced"]
        dumped = page(plane, "/debug/config_dump?proxyID=p1")
        assert dumped["types"][pb.CLUSTER]["resources"][0]["resource"] == {"name": "second"}
        asked.set()


def test_certificates_are_signed_for_the_token(running: tuple[Running, OneCluster]) -> None:
    plane = running[0].plane
    with secure_channel(plane) as channel:
        create = channel.unary_unary(
            PATH, request_serializer=pb.encode, response_deserializer=pb.IstioCertificateResponse.FromString
        )
        for token, csr, code in (
            ("wrong", "", grpc.StatusCode.UNAUTHENTICATED),
            (TOKEN, "garbage", grpc.StatusCode.INVALID_ARGUMENT),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                create(
                    pb.IstioCertificateRequest(csr=csr),
                    metadata=[("authorization", f"Bearer {token}")],
                    timeout=10,
                )
            assert refused.value.code() is code
    metrics = page(plane, "/metrics").splitlines()
    assert "citadel_server_csr_count 2.0" in metrics
    assert "citadel_server_authentication_failure_count 1.0" in metrics
    assert "citadel_server_csr_parsing_err_count 1.0" in metrics


def test_admin_pages(running: tuple[Running, OneCluster]) -> None:
    plane = running[0].plane
    assert page(plane, "/ready") == "ready\n"
    assert page(plane, "/debug/configz") == {
        "resources": [{"kind": "Service", "name": "first"}],
        "diagnostics": [],
    }
    for path, status in (("/debug/config_dump", 400), ("/debug/config_dump?proxyID=x", 404)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            page(plane, path)
        refused.value.close()
        assert refused.value.code == status


def test_the_agent_serves_rotating_secrets_on_a_private_socket(
    running: tuple[Running, OneCluster], tmp_path: Path
) -> None:
    plane = running[0].plane
    token, path = tmp_path / "token", tmp_path / "sds.sock"
    private_files.write(token, TOKEN.encode())
    root = tmp_path / "state" / "ca" / "root-cert.pem"
    # The shortest lifetime that policy grants is 10 s, so that rotation happens while the test looks.
    agent = Agent(AgentSettings(plane.xds_address, token, path, root, lifetime_seconds=1))
    chains = asyncio.run(_two_certificates(agent, path))
    assert len(chains) == 2
    assert not path.exists()


async def _two_certificates(agent: Agent, path: Path) -> set[bytes]:
    stop, started = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(agent.run(stop, started.set))
    await asyncio.wait_for(started.wait(), 10)
    assert path.stat().st_mode & 0o777 == 0o600
    chains = await asyncio.to_thread(_chains, path)
    stop.set()
    await asyncio.wait_for(task, 10)
    return chains


def _chains(path: Path) -> set[bytes]:
    request = pb.DiscoveryRequest(type_url=pb.SECRET, resource_names=["default"], node=pb.Node(id="envoy"))
    chains: set[bytes] = set()
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call = channel.stream_stream(
            "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            request_serializer=pb.encode,
            response_deserializer=pb.DiscoveryResponse.FromString,
        )
        done = threading.Event()

        def requests() -> Iterator[Any]:
            yield request
            done.wait(20)

        for response in call(requests(), timeout=20):
            (packed,) = response.resources
            certificate = pb.unpack(packed).tls_certificate
            assert certificate.private_key.inline_bytes.startswith(b"-----BEGIN PRIVATE KEY")
            chains.add(certificate.certificate_chain.inline_bytes)
            if len(chains) == 2:
                done.set()
                return chains
    return chains


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listen": Address("0.0.0.0", 0), "insecure_xds": True}, "on loopback only"),
        ({"tokens": None}, "--tokens FILE"),
        ({"config": ()}, "--config DIR"),
        ({"admin": Address("0.0.0.0", 0)}, "not on loopback"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        settings(tmp_path, **changes)


@pytest.mark.parametrize("text", ["", "15012", "localhost", "a:b", ":1", "h:70000"])
def test_addresses_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        Address.parse(text)


def test_addresses_survive_parsing() -> None:
    assert str(Address.parse("[::1]:7")) == "[::1]:7"
    assert Address.parse("[::1]:7").loopback
    assert not Address.parse("10.0.0.1:7").loopback


def test_all_errors_of_the_mesh_are_reported_at_once(tmp_path: Path) -> None:
    with pytest.raises(StartError) as refused:
        ControlPlane(settings(tmp_path), OneCluster("a.yaml:1:1: bad", "b.yaml:2:2: worse"))
    assert refused.value.args == ("a.yaml:1:1: bad", "b.yaml:2:2: worse")


def test_a_port_in_use_is_one_clear_line(running: tuple[Running, OneCluster], tmp_path: Path) -> None:
    taken = running[0].plane.xds_address
    with pytest.raises(StartError, match=r"cannot listen on 127\.0\.0\.1:\d+: Address already in use; hint"):
        ControlPlane(settings(tmp_path, listen=taken), OneCluster())


def test_a_bad_trust_domain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="trust domain 'No/Domain'"):
        ControlPlane(settings(tmp_path, trust_domain="No/Domain"), OneCluster())
