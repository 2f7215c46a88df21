"""Protocols that are not plain requests, through the control plane and two sidecars, ours or real Envoys.

A client's sidecar routes by VirtualServices (weights, subsets, headers); a server's sidecar takes what arrives. Redis
and PostgreSQL are judged by their own clients, gRPC by grpcio, a server that speaks first by what it says.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.lifecycle import websocket
from tests.lifecycle.load import origins
from tests.proxy.bootstrap import Json, cluster, dynamic
from tests.proxy.running import command, eventually, pymesh
from tests.tools.banner import banners
from tests.tools.peers import peer
from tests.tools.ports import free_port, free_ports
from tests.tools.processes import running

NAMES = ["redis", "database", "greeter", "chat", "calls"]
PROTOCOLS = {"redis": "TCP", "database": "TCP", "greeter": "TCP", "chat": "HTTP", "calls": "GRPC"}
#: PostgreSQL does not run as root.
NOBODY = 65534


def document(kind: str, name: str, version: str = "networking.istio.io/v1", **spec: Any) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec}


def to(host: str, subset: str, weight: int | None = None) -> Json:
    share: Json = {"destination": {"host": host, "subset": subset}}
    return share if weight is None else {**share, "weight": weight}


def routes() -> list[Json]:
    """The VirtualServices: connections by weight, requests and calls by header and by weight."""
    by_header = {"match": [{"headers": {"x-version": {"exact": "v2"}}}]}

    def http(name: str) -> Json:
        rules = [{**by_header, "route": [to(name, "v2")]}, {"route": [to(name, "v1", 70), to(name, "v2", 30)]}]
        return document("VirtualService", name, hosts=[name], http=rules)

    redis = [{"route": [to("redis", "v1", 75), to("redis", "v2", 25)]}]
    return [http("chat"), http("calls"), document("VirtualService", "redis", hosts=["redis"], tcp=redis)]


def resources(apps: dict[str, list[int]], inbound: dict[str, list[int]], outbound: dict[str, int]) -> list[Json]:
    made = [document("PeerAuthentication", "plain", "security.istio.io/v1", mtls={"mode": "DISABLE"}), *routes()]
    ingress, egress = [], []
    for name in NAMES:
        port = {"name": PROTOCOLS[name].lower(), "port": 80, "targetPort": "in"}
        made.append(document("Service", name, "v1", selector={"app": name}, ports=[port]))
        subsets = [{"name": version, "labels": {"version": version}} for version in ("v1", "v2")]
        made.append(document("DestinationRule", name, host=name, subsets=subsets))
        for number, (app, own) in enumerate(zip(apps[name], inbound[name], strict=True), 1):
            labels = {"app": name, "version": f"v{number}"}
            made.append(
                document("WorkloadEntry", f"{name}-{number}", address="127.0.0.1", ports={"in": own}, labels=labels)
            )
            at = {"number": own, "protocol": PROTOCOLS[name], "name": f"{PROTOCOLS[name].lower()}-{name}-{number}"}
            ingress.append({"port": at, "bind": "127.0.0.1", "defaultEndpoint": f"127.0.0.1:{app}"})
        at = {"number": outbound[name], "protocol": PROTOCOLS[name], "name": f"{PROTOCOLS[name].lower()}-{name}"}
        hosts = [f"shop/{name}.shop.svc.cluster.local"]
        egress.append({"port": at, "bind": "127.0.0.1", "captureMode": "NONE", "hosts": hosts})
    for name, spec in (("client", {"egress": egress}), ("server", {"ingress": ingress})):
        made.append(document("Sidecar", name, workloadSelector={"labels": {"app": name}}, **spec))
    return made


@dataclass(frozen=True)
class World:
    """What the client's sidecar offers, by service, and who is behind the server's."""

    ports: dict[str, int]
    apps: dict[str, list[int]]
    admin: int

    def requests(self, name: str) -> dict[str, int]:
        """What the client's sidecar has sent to each version."""
        text = subprocess.run(
            [peer("curl"), "-s", f"http://127.0.0.1:{self.admin}/stats?filter=upstream_rq_total"],
            capture_output=True, text=True, check=True, timeout=30,
        ).stdout  # fmt: skip
        found = {}
        for line in text.splitlines():
            what, _, value = line.rpartition(": ")
            for version in ("v1", "v2"):
                if (
                    what.startswith("cluster.")
                    and f"|{version}|{name}." in what
                    and what.endswith(".upstream_rq_total")
                ):
                    found[version] = int(value)
        return found


@contextmanager
def postgres(port: int) -> Iterator[None]:
    with tempfile.TemporaryDirectory(prefix="postgres-") as made, ExitStack() as stack:
        folder = Path(made)
        os.chown(folder, NOBODY, NOBODY)
        nobody = [peer("setpriv"), f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        initdb = [*nobody, peer("initdb"), "-D", str(folder / "data"), "-U", "tester", "-A", "trust", "--no-sync"]
        subprocess.run(initdb, check=True, capture_output=True, timeout=120, cwd="/")
        server = [
            *nobody,
            peer("postgres"),
            "-D",
            str(folder / "data"),
            "-p",
            str(port),
            "-c",
            "listen_addresses=127.0.0.1",
        ]
        server += ["-c", f"unix_socket_directories={folder}", "-c", "fsync=off"]
        stack.enter_context(running(server, title="postgres", ports=[port], timeout=60))
        yield


def bootstrap(kind: str, name: str, control: int, admin: int, folder: Path) -> list[str]:
    made = dynamic("DELTA_GRPC", cluster("control", [control], http2=True), admin)
    made["node"] = {
        "id": f"sidecar~127.0.0.1~{name}-1.shop~shop.svc.cluster.local",
        "cluster": name,
        "metadata": {"NAMESPACE": "shop", "LABELS": {"app": name}},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(made))
    return command(kind, file)


@pytest.fixture(scope="module", params=["pymesh", "envoy"])
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("protocols")
    (folder / "mesh").mkdir()
    with ExitStack() as stack:
        one, two = (stack.enter_context(origins()) for _ in range(2))
        redis, database = free_ports(2), free_port()
        for port in redis:
            server = [
                peer("redis-server"),
                "--port",
                str(port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--dir",
                str(folder),
            ]
            stack.enter_context(running(server, title="redis", ports=[port]))
        stack.enter_context(postgres(database))
        greeter = stack.enter_context(banners([b"hello\n"]))
        apps = {
            "redis": redis,
            "database": [database],
            "greeter": greeter,
            "chat": [one.websocket, two.websocket],
            "calls": [one.grpc, two.grpc],
        }
        inbound = {name: free_ports(len(ports)) for name, ports in apps.items()}
        outbound = dict(zip(NAMES, free_ports(len(NAMES)), strict=True))
        documents = resources(apps, inbound, outbound)
        (folder / "mesh" / "mesh.yaml").write_text("---\n".join(yaml.safe_dump(made) for made in documents))
        control, other, *admins = free_ports(4)
        words = [*pymesh(), "control", "--config", str(folder / "mesh"), "--state", str(folder / "state")]
        words += ["--insecure-xds", "--listen", f"127.0.0.1:{control}", "--admin", f"127.0.0.1:{other}"]
        stack.enter_context(running([*words, "--access-log", "OFF"], title="control", ports=[control], timeout=60))
        at = {"server": [port for ports in inbound.values() for port in ports], "client": list(outbound.values())}
        for name, admin in zip(("server", "client"), admins, strict=True):
            argv = bootstrap(request.param, name, control, admin, folder)
            stack.enter_context(running(argv, title=f"{name}'s {request.param}", ports=at[name], timeout=60))
        yield World(outbound, apps, admins[1])


def within(count: int, of: int, share: float) -> bool:
    """Four standard deviations around the share."""
    return bool(abs(count - of * share) <= 4 * (of * share * (1 - share)) ** 0.5)


def test_redis_by_weights(world: World) -> None:
    """Each connection is for one of the two, and stays there."""
    answers: Counter[str] = Counter()
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", world.ports["redis"]), timeout=30) as connection:
            stream = connection.makefile("rwb")
            asked = []
            for _ in range(3):
                stream.write(b"CONFIG GET port\r\n")
                stream.flush()
                asked.append([stream.readline() for _ in range(5)][4].strip().decode())
            assert len(set(asked)) == 1
            answers[asked[0]] += 1
    first, second = map(str, world.apps["redis"])
    assert answers[first] + answers[second] == 100
    assert within(answers[second], 100, 0.25), answers


def test_redis_by_its_own_client(world: World) -> None:
    ask = [peer("redis-cli"), "-p", str(world.ports["redis"])]
    value = "x" * 300_000
    script = "".join(f"SET key-{at} {at}\n" for at in range(500)) + f"SET large {value}\nSTRLEN large\n"
    done = subprocess.run(ask, input=script, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["OK"] * 501 + [str(len(value))]


def test_postgresql_by_its_own_client(world: World) -> None:
    where = ["-h", "127.0.0.1", "-p", str(world.ports["database"]), "-U", "tester", "-d", "postgres", "-AtX"]
    script = (
        "CREATE TEMP TABLE numbers AS SELECT generate_series(1, 100000) AS n;\n"
        "SELECT sum(n) FROM numbers;\n"
        "SELECT length(repeat('x', 3000000));\n"
        "\\copy (SELECT n FROM numbers ORDER BY n DESC LIMIT 3) TO STDOUT\n"
    )
    done = subprocess.run(
        [peer("psql"), *where, "-f", "-"], input=script, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["SELECT", "100000", "5000050000", "3000000", "100000", "99999", "99998"]


def test_a_server_that_speaks_first(world: World) -> None:
    """The client says nothing until it is greeted: nobody may wait for its first octets."""
    with socket.create_connection(("127.0.0.1", world.ports["greeter"]), timeout=30) as connection:
        assert connection.makefile("rb").readline().strip() == b"hello"


def _grown(world: World, name: str, before: dict[str, int]) -> dict[str, int]:
    now = world.requests(name)
    return {version: now.get(version, 0) - before.get(version, 0) for version in ("v1", "v2")}


def test_websocket_by_header_and_weights(world: World) -> None:
    async def talk(*fields: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports["chat"])
        client = websocket.Client(reader, writer)
        await client.open("/websocket", *fields)
        for at in range(3):
            await client.echo(b"message %d" % at)
        await client.close()
        writer.close()

    async def many(count: int, *fields: str) -> None:
        for _ in range(count):
            await asyncio.wait_for(talk(*fields), 30)

    before = world.requests("chat")
    asyncio.run(many(10, "x-version: v2"))
    assert eventually(lambda: _grown(world, "chat", before) == {"v1": 0, "v2": 10}), _grown(world, "chat", before)
    before = world.requests("chat")
    asyncio.run(many(100))
    assert eventually(lambda: sum(_grown(world, "chat", before).values()) == 100)
    assert within(_grown(world, "chat", before)["v2"], 100, 0.3), _grown(world, "chat", before)


def test_grpc_by_header_and_weights(world: World) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{world.ports['calls']}") as channel:
        say, chat = channel.unary_unary("/load.Echo/Say"), channel.stream_stream("/load.Echo/Chat")
        before = world.requests("calls")
        for _ in range(10):
            assert say(b"once", timeout=30, metadata=[("x-version", "v2")], wait_for_ready=True) == b"once"
        assert list(chat(iter([b"a", b"b"]), timeout=30, metadata=[("x-version", "v2")])) == [b"a", b"b"]
        assert eventually(lambda: _grown(world, "calls", before) == {"v1": 0, "v2": 11}), _grown(world, "calls", before)
        before = world.requests("calls")
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda at: say(b"%d" % at, timeout=30), range(200)))
        assert answers == [b"%d" % at for at in range(200)]
        assert eventually(lambda: sum(_grown(world, "calls", before).values()) == 200)
        assert within(_grown(world, "calls", before)["v2"], 200, 0.3), _grown(world, "calls", before)
