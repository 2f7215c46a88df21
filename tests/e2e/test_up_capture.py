"""`pymesh up --capture`: apps that know nothing of a mesh find each other by name, and the wire has nothing of theirs.

As root and as an ordinary user. What goes between the workloads' namespaces is read off the cables by a packet socket;
that it could read what is in the clear is shown on a service for which mutual TLS is off.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pymesh.capture import system
from pymesh.local import check, ground, meshfile, scenario
from pymesh.local.errors import LocalMeshError
from tests.proxy.running import eventually
from tests.tools import ordinary
from tests.tools.marked import Mark
from tests.tools.peers import peer
from tests.tools.processes import running

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
PYMESH = [sys.executable, "-m", "pymesh"]
PATIENCE_S = 90
SECRET, OPEN = b"only-for-whom-it-is-meant", b"for-everybody-to-read"

#: Answers with a text, and with what it finds at a URL. It listens and calls as any program does.
APP = """
import http.server, json, os, sys, urllib.error, urllib.parse, urllib.request
class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        _, _, url = self.path.partition("?url=")
        said = {"text": sys.argv[1], "user": os.getuid()}
        if url:
            try:
                with urllib.request.urlopen(urllib.parse.unquote(url), timeout=20) as answer:
                    said["found"] = json.load(answer)["text"]
            except urllib.error.HTTPError as error:
                said["failed"] = str(error.code)
            except OSError as error:
                said["failed"] = str(error)
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Pages).serve_forever()
"""
MESH = """\
apiVersion: local.pymesh.dev/v1alpha1
kind: LocalMesh
metadata: {name: names, namespace: shop}
spec:
  config: [config]
  gateways: [{name: ingress, labels: {istio: ingressgateway}}]
  apps:
    - {name: caller, command: [python3, app.py, caller], ports: {http: PORT}}
    - {name: secret, command: [python3, app.py, SECRET], ports: {http: PORT}}
    - {name: open, command: [python3, app.py, OPEN], ports: {http: PORT}}
""".replace("SECRET", SECRET.decode()).replace("OPEN", OPEN.decode())
CONFIG = """\
apiVersion: v1
kind: Service
metadata: {name: caller, namespace: shop}
spec: {selector: {app: caller}, ports: [{name: http, port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: secret, namespace: shop}
spec: {selector: {app: secret}, ports: [{name: http, port: 9080, targetPort: http}]}
---
apiVersion: v1
kind: Service
metadata: {name: open, namespace: shop}
spec: {selector: {app: open}, ports: [{name: http, port: 9080, targetPort: http}]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: shop}
spec: {selector: {matchLabels: {app: open}}, mtls: {mode: DISABLE}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: open, namespace: shop}
spec: {host: open, trafficPolicy: {tls: {mode: DISABLE}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: ingress, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 8080, name: http, protocol: HTTP}, bind: 127.0.0.1, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: ingress, namespace: shop}
spec: {hosts: ["*"], gateways: [ingress], http: [{route: [{destination: {host: caller}}]}]}
"""
#: Writes every frame on the cables of the workloads to a file, each behind its length, until it is told to end.
SNIFFER = """
import signal, socket, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
with open(sys.argv[1], "wb", buffering=0) as sink:
    sink.write(b"\\0\\0\\0\\0")
    while True:
        frame, where = wire.recvfrom(1 << 17)
        if where[0].startswith("mesh") and where[0] != "mesh0":
            sink.write(len(frame).to_bytes(4, "big") + frame)
"""


class Run:
    """A started `pymesh up --capture ...`, by root or by somebody else."""

    def __init__(self, temporary: Path, who: str, *words: str, **env: str) -> None:
        self.mark = Mark()
        self.temporary = temporary
        self.output = temporary / "output"
        argv = [*PYMESH, "up", "--capture", "--port", "0", *words]
        if who == "user":
            # pytest's folders are their owner's alone.
            for one in (temporary, *temporary.parents):
                if one.stat().st_uid == os.getuid() and not one.stat().st_mode & 0o001:
                    one.chmod(0o755)
            for one in (temporary, *temporary.rglob("*")):
                os.chown(one, ordinary.USER, ordinary.USER)
            argv = ordinary.command(*argv)
        with self.output.open("wb") as sink:
            self.child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd="/",
                env=self.mark.environment(TMPDIR=str(temporary), COLUMNS="400", **env),
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def says(self, text: str) -> str:
        """The rest of the line that has this."""
        assert eventually(lambda: text in self.said or self.child.poll() is not None, PATIENCE_S)
        assert text in self.said, self.said
        return self.said.partition(text)[2].partition("\n")[0].strip()

    @property
    def said(self) -> str:
        return self.output.read_text()

    def inside(self) -> int:
        """The first process of the mesh's own namespaces."""
        return next(
            pid
            for pid, words in self.mark.processes().items()
            if " --door " in words and "unshare" not in words.split()[0]
        )


@contextmanager
def run(temporary: Path, who: str, *words: str, **env: str) -> Iterator[Run]:
    started = Run(temporary, who, *words, **env)
    try:
        yield started
    finally:
        for pid in started.mark.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.child.wait()


def of_the_host() -> tuple[str, str, str]:
    """What a mesh must not change."""
    links = subprocess.run([peer("ip"), "-o", "link"], capture_output=True, text=True, check=True).stdout
    tables = subprocess.run([peer("nft"), "list", "tables"], capture_output=True, text=True, check=True).stdout
    named = [line.split(":")[1] for line in links.splitlines() if "mesh" in line]
    return (
        "".join(named),
        "".join(one for one in tables.splitlines() if "pymesh" in one),
        Path("/etc/resolv.conf").read_text(),
    )


def namespaces(pid: int) -> set[str]:
    return {str(Path(f"/proc/{pid}/ns/{kind}").readlink()) for kind in ("net", "mnt", "pid")}


def in_use() -> set[str]:
    found: set[str] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                found |= namespaces(int(entry.name))
    return found


#: `make capture` plays the long version.
WHOLE = bool(os.environ.get("PYMESH_CAPTURE_WHOLE"))


@pytest.mark.parametrize("who", ["root", "user"] if WHOLE else ["user"])
def test_the_shop_keeps_its_promises(who: str, tmp_path: Path) -> None:
    # As root one of the sidecars is an Envoy, whose connections are told by the same mark.
    words = ["--envoy", "reviews-v2"] if who == "root" else []
    path = os.pathsep.join((str(Path(peer("envoy")).parent), os.environ["PATH"]))
    with run(tmp_path, who, str(SHOP), "--check", *words, PATH=path) as mesh:
        assert mesh.child.wait(300) == 0, mesh.said
        assert mesh.said.count("kept") == len(check.PROMISES), mesh.said
        assert ("as root" if who == "root" else "without root") in mesh.says("capture: ")
        assert mesh.mark.all_gone(), mesh.mark.processes()


@pytest.mark.parametrize(("who", "number"), [("root", signal.SIGINT), ("user", signal.SIGKILL)], ids=["root", "user"])
def test_names_the_wire_and_the_end(who: str, number: signal.Signals, tmp_path: Path) -> None:
    host = of_the_host()
    folder = tmp_path / "mesh"
    (folder / "config").mkdir(parents=True)
    (folder / "mesh.yaml").write_text(MESH)
    (folder / "app.py").write_text(APP)
    (folder / "config" / "all.yaml").write_text(CONFIG)
    with run(tmp_path, who, str(folder)) as mesh:
        gateway = mesh.says("gateway ingress: ")
        mesh.says("logs: ")

        def ask(url: str) -> dict[str, object]:
            page = f"{gateway}?url={urllib.parse.quote(url, safe='')}"
            with urllib.request.urlopen(page, timeout=30) as answer:
                said: dict[str, object] = json.load(answer)
                return said

        def answers() -> bool:
            with suppress(urllib.error.HTTPError):
                return "found" in ask("http://secret:9080/") and "found" in ask("http://open:9080/")
            return False

        assert eventually(answers, PATIENCE_S)
        first = mesh.inside()
        sniffed = tmp_path / "frames"
        sniffer = [peer("nsenter"), "-t", str(first), "--net", sys.executable, "-c", SNIFFER, str(sniffed)]
        with running(sniffer) as wire:
            assert eventually(sniffed.exists, PATIENCE_S), wire.tail()
            for host_name in ("secret", "secret.shop", "secret.shop.svc.cluster.local", "SECRET.shop.svc"):
                said = ask(f"http://{host_name}:9080/")
                assert said["found"] == SECRET.decode(), said
                assert said["user"] == (0 if who == "root" else ordinary.USER)
            assert ask("http://open:9080/")["found"] == OPEN.decode()
            for host_name in ("nobody", "secret.elsewhere", "example.com"):
                assert "Name or service not known" in str(ask(f"http://{host_name}:9080/")["failed"])
            assert eventually(lambda: OPEN in sniffed.read_bytes(), PATIENCE_S)
        assert SECRET not in sniffed.read_bytes()
        assert sum(map(is_tls_data, payloads(sniffed))) >= 8
        mine = namespaces(first)
        assert not mine & namespaces(os.getpid())
        mesh.child.send_signal(number)
        assert mesh.child.wait(PATIENCE_S) == (-signal.SIGKILL if number == signal.SIGKILL else 0), mesh.said
        assert mesh.mark.all_gone(), mesh.mark.processes()
        assert eventually(lambda: not mine & in_use(), PATIENCE_S)
        assert list(tmp_path.glob("pymesh-*")) == []
        assert of_the_host() == host
        assert "Traceback" not in mesh.said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda one: one.name)
def test_an_early_end(number: signal.Signals, tmp_path: Path) -> None:
    host = of_the_host()
    for count in (3, 9):
        folder = tmp_path / str(count)
        folder.mkdir()
        with run(folder, "root", str(SHOP)) as mesh:
            # So many processes run.
            assert eventually(lambda: len(mesh.mark.processes()) >= count, PATIENCE_S)  # noqa: B023
            mesh.child.send_signal(number)
            mesh.child.wait(PATIENCE_S)
            assert mesh.mark.all_gone(), mesh.mark.processes()
            assert "Traceback" not in mesh.said, mesh.said
            assert "error" not in mesh.said, mesh.said
        assert of_the_host() == host


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with run(tmp_path, "root", str(SHOP), "--port", port) as mesh:
            assert mesh.child.wait(PATIENCE_S) == 1
            assert f"error: port {port} on 127.0.0.1, for the mesh, is in use" in mesh.said
            assert mesh.mark.all_gone(), mesh.mark.processes()


def payloads(file: Path) -> Iterator[bytes]:
    """What the TCP segments of the frames carry."""
    content, at = file.read_bytes(), 4
    while at + 4 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        frame, at = content[at + 4 : at + 4 + length], at + 4 + length
        if frame[12:14] == b"\x08\x00" and frame[23] == 6:
            ip = frame[14:]
            tcp = ip[(ip[0] & 15) * 4 : int.from_bytes(ip[2:4], "big")]
            yield tcp[(tcp[12] >> 4) * 4 :]


def is_tls_data(payload: bytes) -> bool:
    return payload.startswith(b"\x17\x03\x03")


def test_where_namespaces_are_not_to_be_had_ports_are_explicit(tmp_path: Path) -> None:
    # Somebody without rights, where user namespaces have been forbidden.
    forbid = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    output = tmp_path / "output"
    words = [*PYMESH, "up", str(SHOP), "--capture", "--port", "0", "--keep", str(tmp_path / "run")]
    mark = Mark()
    with output.open("wb") as sink:
        child = subprocess.Popen(
            [peer("unshare"), "--user", "--map-root-user", "sh", "-c", forbid, "sh", *words],
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=mark.environment(COLUMNS="400"),
        )
    try:
        assert eventually(lambda: "logs: " in output.read_text() or child.poll() is not None, PATIENCE_S)
        said = output.read_text()
        assert "capture: not possible here (" in said
        assert "; explicit ports instead" in said
        assert "No space left on device" in said
        assert "logs: " in said
    finally:
        for pid, line in mark.processes().items():
            if " up " in line and "sh -c" not in line:
                os.kill(pid, signal.SIGTERM)
        child.wait(PATIENCE_S)
    assert mark.all_gone(), mark.processes()


@pytest.mark.parametrize(("name", "package"), [("nft", "nftables"), ("ip", "iproute2"), ("unshare", "util-linux")])
def test_a_program_that_is_missing_is_told(name: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def which(wanted: str, path: str | None = None) -> str | None:
        return None if wanted == name else f"/usr/bin/{wanted}"

    monkeypatch.setattr(system.shutil, "which", which)
    with pytest.raises(LocalMeshError, match=f"--capture: {name} is not installed\nhint: apt-get install {package}"):
        ground.choose()


#: Of each way to ask one: by the gateway, from a workload, from outside, over TCP, gRPC and TLS, with processes that
#: end and applications that misbehave.
SCENARIOS = ["canary", "async-filter", "tcp-routing", "grpc-routing", "tls-passthrough"]
if WHOLE:
    every = scenario.chosen(meshfile.read(SHOP), ("all",))
    SCENARIOS = [one.name for one in every if not one.explicit_port]


@pytest.mark.parametrize("who", ["root", "user"] if WHOLE else ["user"])
def test_scenarios_hold(who: str, tmp_path: Path) -> None:
    words = [word for name in SCENARIOS for word in ("--scenario", name)]
    with run(tmp_path, who, str(SHOP), "--check", *words) as mesh:
        code = mesh.child.wait(1200)
        broken = [line for line in mesh.said.splitlines() if line.startswith("  broken")]
        assert (code, broken) == (0, []), mesh.said
        assert mesh.said.count("  held ") > 10
        assert mesh.mark.all_gone(), mesh.mark.processes()


def test_a_scenario_of_ports_on_loopback_is_refused_by_name(tmp_path: Path) -> None:
    with run(tmp_path, "root", str(SHOP), "--scenario", "egress") as mesh:
        assert mesh.child.wait(PATIENCE_S) == 1, mesh.said
        assert "scenarios/egress.yaml: $(outsider.http) is a port on loopback" in mesh.said
        assert "hint: play it without --capture" in mesh.said
