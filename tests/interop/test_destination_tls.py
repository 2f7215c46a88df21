"""TLS to services outside of the mesh as DestinationRules say at every level, by our proxy and by Envoy.

The servers tell what they saw of TLS: the server name that was asked for, and whose certificate was shown.
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.routing.mesh import GATEWAYS, Document, Rig, document, running, two_ports
from tests.routing.outcome import Asked
from tests.tools.certificates import Authority, KeyPair
from tests.tools.serving import accepting

Tls = dict[str, Any]
DISABLE: Tls = {"mode": "DISABLE"}
SIMPLE: Tls = {"mode": "SIMPLE", "caCertificates": "ROOT"}
MUTUAL: Tls = {**SIMPLE, "mode": "MUTUAL", "clientCertificate": "CHAIN", "privateKey": "KEY"}
PLAIN, NOBODY = {"tls": False}, None


def seen(name: str, peer: str = "") -> Tls:
    """What a server tells of a connection over TLS."""
    return {"tls": True, "sni": name, "peer": peer}


def at_port(tls: Tls) -> Document:
    return {"portLevelSettings": [{"port": {"number": 80}, "tls": tls}]}


#: Name -> policy of the rule, policy of the subset that is called (None: no subset is), the server, what it sees.
#: Servers: `tls` for the host that is called, `other` for another name, `strange` by an authority that nobody knows.
CASES: dict[str, tuple[Document, Document | None, str, Tls | None]] = {
    "no rule": ({}, None, "plain", PLAIN),
    "disable": ({"tls": DISABLE}, None, "plain", PLAIN),
    "disable-to-tls": ({"tls": DISABLE}, None, "tls", NOBODY),
    "simple": ({"tls": SIMPLE}, None, "tls", seen("simple.test")),
    "simple-to-plain": ({"tls": SIMPLE}, None, "plain", NOBODY),
    "simple-sni": ({"tls": {**SIMPLE, "sni": "other.test"}}, None, "other", seen("other.test")),
    "simple-other-name": ({"tls": SIMPLE}, None, "other", NOBODY),
    "simple-named": ({"tls": {**SIMPLE, "subjectAltNames": ["other.test"]}}, None, "other", seen("simple-named.test")),
    "simple-misnamed": ({"tls": {**SIMPLE, "subjectAltNames": ["third.test"]}}, None, "tls", NOBODY),
    "simple-strange": ({"tls": SIMPLE}, None, "strange", NOBODY),
    "simple-of-the-system": ({"tls": {"mode": "SIMPLE"}}, None, "tls", NOBODY),
    "simple-unjudged": (
        {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}},
        None,
        "strange",
        seen("simple-unjudged.test"),
    ),
    "mutual": ({"tls": MUTUAL}, None, "tls", seen("mutual.test", "client.test")),
    "mutual-strange": ({"tls": MUTUAL}, None, "strange", NOBODY),
    "port": (at_port(SIMPLE), None, "tls", seen("port.test")),
    "port-before-rule": ({"tls": MUTUAL, **at_port(DISABLE)}, None, "plain", PLAIN),
    "port-in-place-of-rule": (
        {"tls": SIMPLE, "portLevelSettings": [{"port": {"number": 80}}]},
        None,
        "plain",
        PLAIN,
    ),
    "subset": ({}, {"tls": SIMPLE}, "tls", seen("subset.test")),
    "subset-before-rule": ({"tls": DISABLE}, {"tls": MUTUAL}, "tls", seen("subset-before-rule.test", "client.test")),
    "subset-after-rule": ({"tls": SIMPLE}, {}, "tls", seen("subset-after-rule.test")),
    "subset-before-port": (at_port(SIMPLE), {"tls": DISABLE}, "plain", PLAIN),
    "subset-after-port": (at_port(SIMPLE), {}, "tls", seen("subset-after-port.test")),
    "port-of-subset": ({"tls": SIMPLE}, {"tls": SIMPLE, **at_port(DISABLE)}, "plain", PLAIN),
}
HOSTS = {name: f"{name.replace(' ', '-')}.test" for name in CASES}


@contextmanager
def server(pair: KeyPair | None, clients: Path) -> Iterator[int]:
    """A server that tells what it saw; over TLS it takes certificates of clients of an authority."""
    names: dict[ssl.SSLObject | ssl.SSLSocket, str] = {}
    context = None
    if pair is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.chain, pair.key)
        context.verify_mode = ssl.CERT_OPTIONAL
        context.load_verify_locations(clients)
        context.sni_callback = lambda one, name, _: names.update({one: name or ""})  # type: ignore[misc]

    def serve(raw: socket.socket) -> None:
        raw.settimeout(20)
        end = context.wrap_socket(raw, server_side=True) if context else raw
        told: Tls = {"tls": context is not None}
        if isinstance(end, ssl.SSLSocket):
            certificate: Any = end.getpeercert() or {}
            told["sni"] = names.get(end, "")
            told["peer"] = next((name for _, name in certificate.get("subjectAltName", ())), "")
        head = b""
        while b"\r\n\r\n" not in head:
            head += end.recv(4096) or b"\r\n\r\n"
            if head[0] == 22:  # TLS, of which a server of plain text knows nothing
                return
        body = json.dumps(told).encode()
        end.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        end.close()

    with accepting(serve) as port:
        yield port


def resources(name: str, port: int, files: dict[str, str], gateways: list[str]) -> list[Document]:
    """A service outside of the mesh, the rule for it, and the way there."""
    general, of_subset, _, _ = CASES[name]
    host = HOSTS[name]
    entry = {
        "hosts": [host],
        "location": "MESH_EXTERNAL",
        "resolution": "STATIC",
        "ports": [{"number": 80, "name": "http", "protocol": "HTTP"}],
        "endpoints": [{"address": "127.0.0.1", "ports": {"http": port}, "labels": {"version": "v1"}}],
    }
    rule: Document = {"host": host, "trafficPolicy": general}
    target: Document = {"host": host, "port": {"number": 80}}
    if of_subset is not None:
        rule["subsets"] = [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": of_subset}]
        target["subset"] = "v1"
    for word, file in files.items():
        rule = json.loads(json.dumps(rule).replace(f'"{word}"', json.dumps(file)))
    once = [{"route": [{"destination": target}], "retries": {"attempts": 0}}]
    way = {"hosts": [host], "gateways": gateways, "http": once}
    made = [{**document("ServiceEntry", host, entry), "apiVersion": "networking.istio.io/v1"}]
    made += [document("DestinationRule", host, rule)] if name != "no rule" else []
    return [*made, document("VirtualService", host, way)]


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    folder = tmp_path_factory.mktemp("origination")
    ours, theirs = folder / "ours", folder / "theirs"
    ours.mkdir()
    theirs.mkdir()
    authority, stranger = Authority(ours), Authority(theirs)
    client = authority.issue("client", dns=["client.test"])
    files = {"ROOT": str(authority.root), "CHAIN": str(client.chain), "KEY": str(client.key)}
    hosts = list(HOSTS.values())
    pairs = {
        "plain": None,
        "tls": authority.issue("tls", dns=hosts),
        "other": authority.issue("other", dns=["other.test"]),
        "strange": stranger.issue("strange", dns=hosts),
    }
    with ExitStack() as stack:
        listening = {name: stack.enter_context(server(pair, authority.root)) for name, pair in pairs.items()}
        ports = two_ports()
        written = []
        for kind, port in ports.items():
            opened = {"port": {"number": port, "protocol": "HTTP", "name": "http"}, "hosts": ["*"]}
            written.append(document("Gateway", kind, {"selector": {"gateway": kind}, "servers": [opened]}))
        for name in CASES:
            written += resources(name, listening[CASES[name][2]], files, list(ports))
        yield stack.enter_context(running(folder, written, ports))


@pytest.mark.parametrize("name", CASES)
def test_what_the_server_sees(rig: Rig, name: str) -> None:
    wanted = CASES[name][3]
    for kind in GATEWAYS:
        answer = rig.ask(kind, [Asked(HOSTS[name], "/")])[0]
        if wanted is None:
            assert answer.status in (502, 503), (kind, answer)
        else:
            assert (answer.status, json.loads(answer.body)) == (200, wanted), (kind, answer)
