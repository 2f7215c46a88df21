"""No secret is told: not in a log, a dump, an error, nor by the process table.

A mesh is given secrets of every kind, asked for everything it shows, and led into every error in which it might quote
what it was given. The search is proven first: planted in a text in many a guise, each secret is found.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.identity import private_files
from tests.proxy import bootstrap
from tests.proxy.running import eventually, pymesh
from tests.tools.certificates import Authority
from tests.tools.known_secrets import Known
from tests.tools.ports import free_ports
from tests.tools.processes import Running, group, running
from tests.tools.wire.origin import origin

PATIENCE = 90
EDGE, WEB = "join-token-of-the-edge-4f1c", "join-token-of-the-web-77ab"
STRANGER = "join-token-that-nobody-knows-9d20"
#: What clients send, and what should never have been written where it was.
BEARER, COOKIE, API_KEY = (
    "eyJhbGciOiJSUzI1NiJ9.e30.c2lnbmF0dXJl-d41d",
    "session=5up3r-53cr3t-c00k13",
    "k3y-0f-a-client-58b1",
)
BODY, CLEARTEXT, MISTAKE = "password-in-a-body-0be1", "token-in-clear-text-e34c", "secret-in-a-wrong-document-a70d"
PIN = "4711081547110815"

MESH = """
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: 80, targetPort: http}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: web-1, namespace: shop}}
spec:
  address: 127.0.0.1
  ports: {{http: {inbound}}}
  labels: {{app: web, security.istio.io/tlsMode: istio}}
  serviceAccount: web
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: web, namespace: shop}}
spec:
  workloadSelector: {{labels: {{app: web}}}}
  ingress:
    - {{port: {{number: {inbound}, protocol: HTTP, name: http}}, bind: 127.0.0.1, defaultEndpoint: "127.0.0.1:{app}"}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {plain}, name: http, protocol: HTTP}}
      bind: 127.0.0.1
      hosts: ["*"]
    - port: {{number: {tls}, name: https, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: ["*"]
      tls: {{mode: SIMPLE, credentialName: edge}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [edge]
  http:
    - {{match: [{{uri: {{prefix: /gone}}}}], route: [{{destination: {{host: gone.internal}}}}]}}
    - {{match: [{{uri: {{prefix: /web}}}}], route: [{{destination: {{host: web.shop.svc.cluster.local}}}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: gone, namespace: shop}}
spec:
  hosts: [gone.internal]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 1}}]
  endpoints: [{{address: 127.0.0.1}}]
"""
#: Secrets of the gateway that it cannot use.
UNFIT = {
    "no PEM": "metadata: {{name: edge, namespace: shop}}\nstringData: {{tls.crt: x, tls.key: {mistake}}}\n",
    "another's key": "metadata: {{name: edge, namespace: shop}}\n"
    "stringData:\n  tls.crt: |\n{crt}\n  tls.key: |\n{other}\n",
}
#: Secrets as people write them in a hurry, behind their kind.
WRONG = {
    "no Base64": "metadata: {{name: b, namespace: shop}}\ndata: {{tls.key: '{mistake}!'}}\n",
    "no mapping": "metadata: {{name: c, namespace: shop}}\nstringData: {mistake}\n",
    "no text": "metadata: {{name: d, namespace: shop}}\nstringData: {{tls.key: [{mistake}]}}\n",
    "an unknown field": "metadata: {{name: e, namespace: shop}}\nstringDate: {{tls.key: {mistake}}}\n",
    "an unknown type": "metadata: {{name: f, namespace: shop}}\ntype: [{mistake}]\ndata: {{a: {mistake}}}\n",
    "no YAML": "metadata: {{name: g, namespace: shop}}\nstringData:\n  tls.key: |\n{other}\n tls.crt: ]{mistake}\n",
    "an open quote": 'metadata: {{name: h, namespace: shop}}\nstringData: {{tls.key: "{mistake}\n',
    "said twice": "metadata: {{name: i, namespace: shop}}\nstringData: {{a: {mistake}, a: {mistake}}}\n",
    "a tabulator": "metadata: {{name: j, namespace: shop}}\nstringData:\n\ttls.key: {mistake}\n",
    "a number": "metadata: {{name: n, namespace: shop}}\nstringData: {{pin: {pin}}}\n",
    "no quotes": "metadata: {{name: k, namespace: shop}}\nstringData: {{password: @{mistake}}}\n",
    "an unknown alias": "metadata: {{name: l, namespace: shop}}\nstringData: {{password: *{mistake}}}\n",
}


def test_the_search_finds_what_is_planted() -> None:
    known = Known()
    key = ec.generate_private_key(ec.SECP256R1())
    pem = _pem(key)
    known.key("key", pem)
    known.text("token", EDGE)
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    sec1 = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    for planted in (
        pem,
        sec1,
        der,
        repr(der).encode() + der,
        json.dumps({"a": pem.decode()}).encode(),
        der.hex().encode(),
    ):
        assert known.found_in(b"before " + planted + b" behind") == {"key"}, planted
    for planted in (base64.b64encode(pem), base64.urlsafe_b64encode(b"x" + der)):
        # Twice encoded is beyond it; once at any place is not.
        assert known.found_in(planted) <= {"key"}
    for planted in (f"Bearer {EDGE}", base64.b64encode(f"a{EDGE}b".encode()).decode(), EDGE.encode().hex().upper()):
        assert known.found_in(planted.encode()) == {"token"}, planted
    assert known.found_in(b"nothing of the kind") == set()


@dataclass
class Mesh:
    """The processes, and all that was said to whoever asked."""

    folder: Path
    known: Known
    control: Running
    proxies: dict[str, Running]
    admins: dict[str, int]
    control_admin: int
    plain: int
    tls: int
    heard: dict[str, bytes] = field(default_factory=dict)

    def hear(self, what: str, content: bytes) -> None:
        """Something that was shown to somebody."""
        self.heard[what] = self.heard.get(what, b"") + content

    def page(self, what: str, port: int, path: str) -> bytes:
        """A page of an admin, whatever its status."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                content: bytes = answer.read()
        except urllib.error.HTTPError as error:
            content = error.read()
        self.hear(f"{what} {path}", content)
        return content

    def ask(self, what: str, octets: bytes, *, tls: bool = False) -> bytes:
        """What the gateway answers to these octets."""
        with socket.create_connection(("127.0.0.1", self.tls if tls else self.plain), timeout=20) as raw:
            connection = _unjudging().wrap_socket(raw, server_hostname="edge.example") if tls else raw
            content = b""
            with connection, contextlib.suppress(OSError):
                connection.sendall(octets)
                while piece := connection.recv(65536):
                    content += piece
        self.hear(f"answer to {what}", content)
        return content


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    known = Known()
    for name, value in (("edge's token", EDGE), ("web's token", WEB), ("stranger's token", STRANGER)):
        known.text(name, value)
    for name, value in (("bearer", BEARER), ("cookie", COOKIE.partition("=")[2]), ("API key", API_KEY), ("body", BODY)):
        known.text(name, value)
    known.text("token in clear text", CLEARTEXT)
    known.text("secret in a wrong document", MISTAKE)
    known.text("number in a wrong document", PIN)
    control, control_admin, inbound, plain, tls, edge_admin, web_admin = free_ports(7)
    (tmp_path / "mesh").mkdir()
    pair = Authority(tmp_path).issue("edge", dns=["edge.example"])
    known.key("gateway's key", pair.key.read_bytes())
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "edge", "namespace": "shop"}}
    secret["stringData"] = {"tls.crt": pair.chain.read_text(), "tls.key": pair.key.read_text()}
    (tmp_path / "mesh" / "secret.yaml").write_text(json.dumps(secret))
    _write_tokens(tmp_path, EDGE=("edge", EDGE), WEB=("web", WEB))
    plane = [*pymesh(), "control", "--config", str(tmp_path / "mesh"), "--state", str(tmp_path / "state")]
    plane += ["--tokens", str(tmp_path / "tokens.json"), "--listen", f"127.0.0.1:{control}"]
    plane += ["--admin", f"127.0.0.1:{control_admin}", "--log-level", "debug", "--access-log", "JSON"]
    with contextlib.ExitStack() as stack:
        behind = stack.enter_context(origin())
        values = {"inbound": inbound, "app": behind.port, "plain": plain, "tls": tls}
        (tmp_path / "mesh" / "mesh.yaml").write_text(MESH.format(**values))
        ports = [control, control_admin]
        started = stack.enter_context(running(plane, title="control", ports=ports, timeout=PATIENCE))
        made = Mesh(tmp_path, known, started, {}, {"edge": edge_admin, "web": web_admin}, control_admin, plain, tls)
        kept = _private_keys(tmp_path / "state")
        assert kept, "the authority's, at least"
        for name, pem in kept.items():
            known.key(name, pem)
        for account, token, node, labels in (
            ("edge", EDGE, "router~127.0.0.1~edge-1.shop~shop.svc.cluster.local", {"istio": "ingressgateway"}),
            ("web", WEB, "sidecar~127.0.0.1~web-1.shop~shop.svc.cluster.local", {"app": "web"}),
        ):
            file = _bootstrap(tmp_path, account, token, node, labels, control, made.admins[account])
            command = [*pymesh(), "proxy", "-c", str(file), "--concurrency", "2", "--drain-time-s", "1"]
            made.proxies[account] = stack.enter_context(
                running(
                    command,
                    title=account,
                    ports=[made.admins[account]],
                    timeout=PATIENCE,
                    env={"RUST_LOG": "trace", "RUST_BACKTRACE": "full", "PYTHONDEVMODE": "1"},
                )
            )
        request = _request("/web", [])
        for tls in (False, True):
            answers = lambda tls=tls: b" 200 " in _or_nothing(made, request, tls=tls)  # noqa: E731
            assert eventually(answers, PATIENCE), made.proxies["edge"].tail()
        yield made


def test_no_secret_is_told(mesh: Mesh) -> None:
    with _tapped(mesh):
        _requests_that_carry_secrets(mesh)
    _documents_that_are_wrong(mesh)
    _strangers(mesh)
    _bootstraps_that_are_wrong(mesh)
    _everything_that_is_shown(mesh)
    _ends(mesh)
    leaks = {what: found for what, content in mesh.heard.items() if (found := mesh.known.found_in(content))}
    # The file of a proxy's own bootstrap, its token and the state are private; nothing else is to have any of it.
    assert leaks == {}
    # Keys that only a proxy knows would look like this.
    marks = (b"PRIVATE KEY-----\\n", b"PRIVATE KEY-----\n", b"MIGHAgEAMBMGByqGSM49", b"MHcCAQEEI")
    assert [what for what, content in mesh.heard.items() if any(mark in content for mark in marks)] == []


@contextlib.contextmanager
def _tapped(mesh: Mesh) -> Iterator[None]:
    """What the proxies tell of requests while they pass, which is a page without an end."""
    with contextlib.ExitStack() as stack:
        taps = {}
        for name, port in mesh.admins.items():
            taps[name] = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=3))
            taps[name].sendall(b"GET /tap HTTP/1.1\r\nHost: admin\r\n\r\n")
        yield
        for name, tap in taps.items():
            with contextlib.suppress(TimeoutError):
                while piece := tap.recv(65536):
                    mesh.hear(f"{name} /tap", piece)
    assert b"/nowhere" in mesh.heard["edge /tap"]


def _requests_that_carry_secrets(mesh: Mesh) -> None:
    """Good ones and bad ones of every kind."""
    carried = [f"Authorization: Bearer {BEARER}", f"Cookie: {COOKIE}", f"X-Api-Key: {API_KEY}"]
    length = f"Content-Length: {len(BODY)}"
    for path, status in (("/web", b" 200 "), ("/gone", b" 503 "), ("/nowhere", b" 404 "), ("/web%00", b" 400 ")):
        for tls in (False, True):
            answer = mesh.ask(path, _request(path, [*carried, length], BODY), tls=tls)
            assert status in answer, (path, answer)
    broken = {
        "a field without a colon": [f"Authorization Bearer {BEARER}"],
        "a control character": [f"X-Api-Key: {API_KEY}\x01"],
        "a folded line": ["X: y", f" {BEARER}"],
        "two lengths": [*carried, "Content-Length: 1", "Content-Length: 2"],
        "an unknown coding": [*carried, f"Transfer-Encoding: {API_KEY}"],
        "too large": [*carried, "X: " + (API_KEY + " ") * 20_000],
        "an expectation": [*carried, f"Expect: {API_KEY}"],
    }
    for what, fields in broken.items():
        mesh.ask(what, _request("/web", fields, BODY))
        mesh.ask(what, _request("/web", fields, BODY), tls=True)
    for what, octets in {
        "a secret for a version": f"GET / {API_KEY}\r\nHost: a\r\n\r\n",
        "a secret for a host": f"GET / HTTP/1.1\r\nHost: {BEARER}@a b\r\n\r\n",
        "chunks that are none": f"POST /web HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{BODY}\r\n",
        "HTTP/2 that is none": f"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n{BEARER}",
    }.items():
        mesh.ask(what, octets.encode())
    with socket.create_connection(("127.0.0.1", mesh.tls), timeout=20) as raw:
        raw.sendall(f"GET / HTTP/1.1\r\nAuthorization: Bearer {BEARER}\r\n\r\n".encode())
        mesh.hear("answer to plain text where TLS is spoken", raw.recv(65536))


def _documents_that_are_wrong(mesh: Mesh) -> None:
    """Each is told as wrong."""
    other = _pem(ec.generate_private_key(ec.SECP256R1()))
    mesh.known.key("key in a wrong document", other)
    values = {
        "mistake": MISTAKE,
        "pin": PIN,
        "other": _indented(other.decode()),
        "crt": _indented((mesh.folder / "edge.pem").read_text()),
    }
    folder = mesh.folder / "mesh"
    good = (folder / "secret.yaml").read_text()
    told: set[str] = set()

    def are_told(files: set[str]) -> bool:
        wrong = json.loads(mesh.page("control", mesh.control_admin, "/debug/configz"))["diagnostics"]
        told.update(Path(one["at"].partition(":")[0]).name for one in wrong)
        return files <= told

    for number, text in enumerate(WRONG.values()):
        (folder / f"wrong-{number}.yaml").write_text("apiVersion: v1\nkind: Secret\n" + text.format(**values))
    expected = {f"wrong-{number}.yaml" for number in range(len(WRONG))}
    assert eventually(lambda: are_told(expected), 30), expected - told
    for name in expected:
        (folder / name).unlink()
    # The Gateway is where a Secret is missed that cannot be used.
    for text in UNFIT.values():
        told.clear()
        (folder / "secret.yaml").write_text("apiVersion: v1\nkind: Secret\n" + text.format(**values))
        assert eventually(lambda: are_told({"mesh.yaml"}), 30), text
    (folder / "secret.yaml").write_text(good)
    # A token in place of its hash, then no JSON at all; what was valid stays so.
    tokens = mesh.folder / "tokens.json"
    kept = tokens.read_bytes()
    for wrong in (json.dumps({CLEARTEXT: {"namespace": "shop"}}), f'{{"{CLEARTEXT}": ', json.dumps([CLEARTEXT])):
        before = len(mesh.control.output())
        private_files.write(tokens, wrong.encode())
        mesh.hear("answer to a stranger", _sign(mesh, STRANGER))
        assert eventually(lambda before=before: "token" in mesh.control.output()[before:], 20), wrong
    private_files.write(tokens, kept)


def _strangers(mesh: Mesh) -> None:
    """Who shows the wrong token, and who shows the right one for something wrong."""
    for token in (STRANGER, WEB):
        mesh.hear("answer to a signing request", _sign(mesh, token))
    file = _bootstrap(
        mesh.folder,
        "stranger",
        STRANGER,
        "sidecar~127.0.0.1~x.shop~shop.svc.cluster.local",
        {},
        *_control_and_admin(mesh),
    )
    with running([*pymesh(), "proxy", "-c", str(file)], title="stranger") as process:
        assert eventually(lambda: "token" in process.output() or "UNAUTHENTICATED" in process.output().upper(), 30)
        mesh.hear("log of a stranger", process.output().encode())


def _bootstraps_that_are_wrong(mesh: Mesh) -> None:
    """Files that hold a key and cannot be used; the error may not quote them."""
    key, chain = (mesh.folder / "edge.key").read_text(), (mesh.folder / "edge.pem").read_text()
    other = _pem(ec.generate_private_key(ec.SECP256R1()))
    mesh.known.key("key in a wrong bootstrap", other)
    certificate = {"certificate_chain": {"inline_string": chain}}
    for name, entry in {
        "another's key": {**certificate, "private_key": {"inline_string": other.decode()}},
        "no chain": {"private_key": {"inline_string": key}},
        "no key": {**certificate, "private_key": {"inline_string": MISTAKE}},
        "cut short": {**certificate, "private_key": {"inline_string": key[:150]}},
        "a wrong field": {**certificate, "private_key": {"inline_strin": key}},
        "a wrong type": {**certificate, "private_key": key},
        "no base64": {**certificate, "private_key": {"inline_bytes": f"!{MISTAKE}"}},
        "a password": {**certificate, "private_key": {"inline_string": key}, "password": {"inline_string": MISTAKE}},
    }.items():
        context = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificates": [entry]},
        }
        socket_ = {"name": "envoy.transport_sockets.tls", "typed_config": context}
        made = bootstrap.bootstrap([bootstrap.tcp_listener(1, "x", tls=socket_)], [bootstrap.cluster("x", [1])], 1)
        mesh.hear(f"a bootstrap with {name}", _validated(mesh.folder / "wrong.json", json.dumps(made)))
    for name, text in {
        "broken JSON": json.dumps(made)[:-3],
        "broken YAML": f"static_resources:\n  secrets:\n  - name: a\n    key: |\n{_indented(key)}\n   b: ]{MISTAKE}\n",
    }.items():
        mesh.hear(name, _validated(mesh.folder / "wrong.yaml", text))


def _everything_that_is_shown(mesh: Mesh) -> None:
    """All pages, and the process table."""
    for name, port in mesh.admins.items():
        pages = re.findall(r"^\s+(/\S+)", mesh.page(name, port, "/help").decode(), re.MULTILINE)
        assert {"/config_dump", "/certs", "/clusters", "/stats", "/server_info"} <= set(pages), pages
        for path in [*pages, "/", "/stats/prometheus", "/config_dump?include_eds=on", f"/{API_KEY[:3]}"]:
            if not re.search("quit|drain|/tap", path):
                mesh.page(name, port, path)
    assert b"edge.example" in mesh.heard["edge /certs"]
    api = ("/api/v1/graph", "/api/v1/configuration", "/api/v1/proxies", "/api/v1/services/shop/web/history")
    for path in ("/ready", "/metrics", "/debug/syncz", "/debug/configz", "/debug/config_dump", *api):
        mesh.page("control", mesh.control_admin, path)
    proxies = json.loads(mesh.heard["control /debug/config_dump"])["proxies"]
    assert len(proxies) == 2, proxies
    for proxy in proxies:
        mesh.page("control", mesh.control_admin, f"/debug/config_dump?proxyID={proxy}")
    for title, process in {"control": mesh.control, **mesh.proxies}.items():
        members = group(process.pid)
        assert members
        for pid in members:
            for entry in ("cmdline", "environ", "status"):
                mesh.hear(f"{title}: /proc/.../{entry}", Path(f"/proc/{pid}/{entry}").read_bytes())


def _ends(mesh: Mesh) -> None:
    """One is told to go, the others are killed in a way that leaves a trace; then the logs are read as a whole."""
    everyone = {"control": mesh.control, **mesh.proxies}
    assert "debug" in mesh.control.output()
    mesh.proxies["edge"].signal(signal.SIGTERM)
    mesh.proxies["web"].signal(signal.SIGSEGV)
    mesh.control.signal(signal.SIGABRT)
    for title, process in everyone.items():
        process.wait(60)
        output = process.output()
        assert output, title
        mesh.hear(f"log of {title}", output.encode())
        for left in process.log.parent.iterdir():
            if left != process.log:
                mesh.hear(f"{title} left {left.name}", left.read_bytes())
    lines = [line for line in mesh.proxies["edge"].output().splitlines() if '"path":"/web' in line]
    assert lines, "the access log is among what was read"


def _request(path: str, fields: Iterable[str], body: str = "") -> bytes:
    # The application is not to answer with what it is told.
    lines = [f"POST {path} HTTP/1.1", "Host: edge.example", "Connection: close", "X-Want-Bytes: 2", *fields]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def _or_nothing(mesh: Mesh, request: bytes, *, tls: bool) -> bytes:
    """What is answered, if anybody is there yet."""
    try:
        return mesh.ask("nothing special", request, tls=tls)
    except OSError:
        return b""


def _unjudging() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _sign(mesh: Mesh, token: str) -> bytes:
    """What the control plane says to a signing request that is none; curl speaks gRPC well enough for that."""
    control, _ = _control_and_admin(mesh)
    command = ["curl", "-sk", "--http2", "-i", "-m", "20", "-H", "content-type: application/grpc", "-H", "te: trailers"]
    command += ["-H", f"authorization: Bearer {token}", "--data-binary", f"\0\0\0\0\x04{MISTAKE}"]
    command.append(f"https://127.0.0.1:{control}/istio.v1.auth.IstioCertificateService/CreateCertificate")
    # An argument cannot hold NUL.
    command[command.index("--data-binary") + 1] = "@-"
    done = subprocess.run(
        command, input=b"\0\0\0\0\x1e" + MISTAKE.encode(), capture_output=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


def _control_and_admin(mesh: Mesh) -> tuple[int, int]:
    """The control plane's port, and a free one."""
    words = mesh.control.child.args
    assert isinstance(words, list)
    return int(words[words.index("--listen") + 1].rpartition(":")[2]), free_ports(1)[0]


def _validated(file: Path, text: str) -> bytes:
    private_files.write(file, text.encode())
    command = [*pymesh(), "proxy", "-c", str(file), "--mode", "validate"]
    done = subprocess.run(
        command, capture_output=True, timeout=120, check=False, env={**os.environ, "RUST_BACKTRACE": "full"}
    )
    assert done.returncode != 0, text
    return done.stdout + done.stderr


def _write_tokens(folder: Path, **tokens: tuple[str, str]) -> None:
    hashed = {
        hashlib.sha256(token.encode()).hexdigest(): {
            "namespace": "shop",
            "serviceAccount": account,
            "gateway": account == "edge",
        }
        for account, token in tokens.values()
    }
    private_files.write(folder / "tokens.json", json.dumps(hashed).encode())


def _bootstrap(
    folder: Path, account: str, token: str, node: str, labels: dict[str, str], control: int, admin: int
) -> Path:
    """A proxy's, as `pymesh up` writes them; private, for it holds the token."""
    file, token_file = folder / f"{account}.json", folder / f"{account}.token"
    private_files.write(token_file, token.encode())
    root = folder / "state" / "ca" / "root-cert.pem"
    plane = bootstrap.cluster(
        "xds-grpc", [control], http2=True, tls=bootstrap.upstream_tls(str(root), "localhost", alpn=["h2"])
    )
    made = bootstrap.dynamic("DELTA_GRPC", plane, admin, metadata=[("authorization", f"Bearer {token}")])
    made["node"] = {
        "id": node,
        "cluster": f"{account}.shop",
        "metadata": {"NAMESPACE": "shop", "SERVICE_ACCOUNT": account, "LABELS": labels, "INTERCEPTION_MODE": "NONE"},
    }
    identity = {
        "@type": "type.googleapis.com/pymesh.identity.v1.WorkloadIdentity",
        "ca_cluster": "xds-grpc",
        "spiffe_id": f"spiffe://cluster.local/ns/shop/sa/{account}",
        "token_path": str(token_file),
    }
    made["bootstrap_extensions"] = [{"name": "pymesh.identity", "typed_config": identity}]
    private_files.write(file, json.dumps(made).encode())
    return file


def _private_keys(state: Path) -> dict[str, bytes]:
    """Every private key that the control plane keeps, by its file."""
    block = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*-----\n", re.DOTALL)
    found = {}
    for file in sorted(one for one in state.rglob("*") if one.is_file()):
        # In JSON as well.
        for number, key in enumerate(block.findall(file.read_bytes().replace(rb"\n", b"\n"))):
            found[f"{file.relative_to(state)} {number}"] = key
    return found


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.strip().splitlines())
