"""A gateway of our control plane, ours and Envoy, as curl and openssl see it.

For each server name the same certificate, the same versions and suites, the same clients let in; certificates change
under open connections.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.proxy.controlled import Counted, controlled, secret, write
from tests.proxy.running import Proxy, eventually
from tests.tools.certificates import Authority, KeyPair
from tests.tools.peers import peer
from tests.tools.ports import free_ports

LABELS = {"istio": "ingressgateway", "gateway.networking.k8s.io/gateway-name": "edge"}
PATIENCE = 90

MESH = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [web.internal]
  location: MESH_INTERNAL
  resolution: STATIC
  ports:
    - {{number: 80, name: http, protocol: HTTP, targetPort: {web}}}
    - {{number: 443, name: tls, protocol: TLS, targetPort: {secure}}}
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: ingress, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers:
    - port: {{number: {plain}, name: http, protocol: HTTP}}
      bind: 127.0.0.1
      hosts: [a.example]
      tls: {{httpsRedirect: true}}
    - port: {{number: {tls}, name: a, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [a.example]
      tls: {{credentialName: a}}
    - port: {{number: {tls}, name: b, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: ["*.b.example"]
      tls: {{credentialNames: [b-rsa, b-ecdsa]}}
    - port: {{number: {tls}, name: mutual, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [mutual.example]
      tls: {{mode: MUTUAL, credentialName: mutual, subjectAltNames: [client.example, "spiffe://x/client"]}}
    - port: {{number: {tls}, name: pinned, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [pinned.example]
      tls: {{mode: MUTUAL, credentialName: mutual, verifyCertificateHash: ["{pin}"], verifyCertificateSpki: ["{key}"]}}
    - port: {{number: {tls}, name: optional, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [optional.example]
      tls: {{mode: OPTIONAL_MUTUAL, credentialName: mutual}}
    - port: {{number: {tls}, name: old, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [old.example]
      tls: {{credentialName: a, maxProtocolVersion: TLSV1_2, cipherSuites: [ECDHE-ECDSA-AES256-GCM-SHA384]}}
    - port: {{number: {tls}, name: new, protocol: HTTPS}}
      bind: 127.0.0.1
      hosts: [new.example]
      tls: {{credentialName: a, minProtocolVersion: TLSV1_3}}
    - port: {{number: {tls}, name: pass, protocol: TLS}}
      bind: 127.0.0.1
      hosts: [pass.example]
      tls: {{mode: PASSTHROUGH}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [a.example, "*.b.example", mutual.example, pinned.example, optional.example, old.example, new.example]
  gateways: [ingress]
  http: [{{route: [{{destination: {{host: web.internal, port: {{number: 80}}}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: pass, namespace: shop}}
spec:
  hosts: [pass.example]
  gateways: [ingress]
  tls:
    - match: [{{sniHosts: [pass.example]}}]
      route: [{{destination: {{host: web.internal, port: {{number: 443}}}}}}]
---
# Outside: who answers wants a certificate of the client, too.
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: partners, namespace: shop}}
spec:
  hosts: [mutual.partner, simple.partner, stranger.partner, blind.partner]
  resolution: STATIC
  ports: [{{number: 80, name: http, protocol: HTTP, targetPort: {partner}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: mutual, namespace: shop}}
spec:
  host: mutual.partner
  trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: outgoing, sni: pass.example}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: simple, namespace: shop}}
spec:
  host: simple.partner
  trafficPolicy: {{tls: {{mode: SIMPLE, credentialName: outgoing, sni: pass.example}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: stranger, namespace: shop}}
spec:
  host: stranger.partner
  trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: outgoing, sni: other.example}}}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: blind, namespace: shop}}
spec:
  host: blind.partner
  trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: outgoing, insecureSkipVerify: true, sni: other.example}}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: out, namespace: shop}}
spec:
  selector: {{istio: ingressgateway}}
  servers: [{{port: {{number: {out}, name: http, protocol: HTTP}}, bind: 127.0.0.1, hosts: ["*"]}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: out, namespace: shop}}
spec:
  hosts: ["*"]
  gateways: [out]
  http:
    - {{match: [{{authority: {{prefix: mutual}}}}], route: [{{destination: {{host: mutual.partner}}}}]}}
    - {{match: [{{authority: {{prefix: simple}}}}], route: [{{destination: {{host: simple.partner}}}}]}}
    - {{match: [{{authority: {{prefix: stranger}}}}], route: [{{destination: {{host: stranger.partner}}}}]}}
    - {{match: [{{authority: {{prefix: blind}}}}], route: [{{destination: {{host: blind.partner}}}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec:
  gatewayClassName: pymesh
  listeners:
    - {{name: http, port: {kube_plain}, protocol: HTTP}}
    - name: https
      port: {kube}
      protocol: HTTPS
      tls: {{certificateRefs: [{{name: a}}, {{name: b-ecdsa}}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: to-https, namespace: shop}}
spec:
  parentRefs: [{{name: edge, sectionName: http}}]
  rules: [{{filters: [{{type: RequestRedirect, requestRedirect: {{scheme: https, statusCode: 301}}}}]}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{name: http, port: 80, targetPort: {web}}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-a, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{name: http, port: {web}}}]
endpoints: [{{addresses: [127.0.0.1]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: web, namespace: shop}}
spec:
  parentRefs: [{{name: edge, sectionName: https}}]
  rules: [{{backendRefs: [{{name: web, port: 80}}]}}]
"""


@dataclass
class Edge:
    """A running gateway, its mesh and who is around it."""

    proxy: Proxy
    folder: Path
    authority: Authority
    clients: dict[str, KeyPair]
    ports: dict[str, int]
    web: Counted

    def put_secrets(self, **replaced: KeyPair) -> None:
        """The Secrets, some of them with another certificate than at first."""
        pairs = {**self.clients, **replaced}
        text = "".join(
            secret(name, tls_crt=pairs[of].chain, tls_key=pairs[of].key)
            for name, of in (("a", "a"), ("b-rsa", "b-rsa"), ("b-ecdsa", "b-ecdsa"))
        )
        mutual = pairs["mutual"]
        good = pairs["good"]
        text += secret("outgoing", tls_crt=good.chain, tls_key=good.key)
        text += secret("outgoing-cacert", ca_crt=self.authority.root)
        text += secret("mutual", tls_crt=mutual.chain, tls_key=mutual.key, ca_crt=self.authority.root)
        write(self.folder, "secrets.yaml", text)

    def curl(self, host: str, *arguments: str, port: str = "tls", scheme: str = "https") -> tuple[int, int, str]:
        """curl's exit code, the status and the body (or the place that a redirect leads to)."""
        number = self.ports[port]
        command = [peer("curl"), "-sS", "-m", "30", "--cacert", str(self.authority.root)]
        command += ["--resolve", f"{host}:{number}:127.0.0.1", "-w", "\n%{http_code} %{redirect_url}", *arguments]
        done = subprocess.run(
            [*command, f"{scheme}://{host}:{number}/"], capture_output=True, text=True, timeout=60, check=False
        )
        body, _, last = done.stdout.rpartition("\n")
        status, _, redirect = last.partition(" ")
        return done.returncode, int(status or 0), redirect or body.strip()

    def client(self, name: str) -> list[str]:
        """curl's arguments for a client with that certificate."""
        return ["--cert", str(self.clients[name].chain), "--key", str(self.clients[name].key)]

    def s_client(self, server_name: str, *arguments: str, port: str = "tls") -> dict[str, str]:
        """What openssl tells of a handshake: subject, protocol, cipher, kind of key; empty if there is none."""
        command = [peer("openssl"), "s_client", "-connect", f"127.0.0.1:{self.ports[port]}", *arguments]
        command += ["-servername", server_name] if server_name else ["-noservername"]
        done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
        found = re.search(r"New, (?P<version>\S+), Cipher is (?P<cipher>\S+)", done.stdout)
        subject = re.search(r"^subject=.*?CN ?= ?(\S+)", done.stdout, re.MULTILINE)
        key = re.search(r"Peer signature type: (\S+)", done.stdout)
        if found is None or found["cipher"] == "(NONE)" or subject is None:
            return {}
        return {**found.groupdict(), "subject": subject[1], "signature": key[1] if key else ""}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, dict[str, KeyPair]]:
    authority = Authority(tmp_path_factory.mktemp("pki"))
    stranger = Authority(tmp_path_factory.mktemp("stranger"), "nobody's authority")
    names = ["a.example", "old.example", "new.example"]
    pairs = {
        "a": authority.issue("a", dns=names),
        "a-renewed": authority.issue("a-renewed", dns=names),
        "b-rsa": authority.issue("b-rsa", dns=["*.b.example"], with_rsa=True),
        "b-ecdsa": authority.issue("b-ecdsa", dns=["*.b.example"]),
        "mutual": authority.issue("mutual", dns=["mutual.example", "pinned.example", "optional.example"]),
        "pass": authority.issue("pass", dns=["pass.example"]),
        "good": authority.issue("good", dns=["client.example"]),
        "by-uri": authority.issue("by-uri", uris=["spiffe://x/client"]),
        "unnamed": authority.issue("unnamed", dns=["other.example"]),
        "unknown": stranger.issue("unknown", dns=["client.example"]),
    }
    return authority, pairs


def digest(pair: KeyPair, *what: str) -> bytes:
    """The SHA-256 that openssl makes of a certificate, or of its key."""
    show = [peer("openssl"), "x509", "-in", str(pair.chain)]
    der = subprocess.run([*show, "-outform", "DER"], capture_output=True, check=True).stdout
    if what:
        pem = subprocess.run([*show, "-pubkey", "-noout"], capture_output=True, check=True).stdout
        der = subprocess.run(
            [peer("openssl"), "pkey", "-pubin", "-outform", "DER"], input=pem, capture_output=True, check=True
        ).stdout
    return subprocess.run(
        [peer("openssl"), "dgst", "-sha256", "-binary"], input=der, capture_output=True, check=True
    ).stdout


@pytest.fixture(scope="module", params=["pymesh", "envoy"])
def edge(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    pki: tuple[Authority, dict[str, KeyPair]],
) -> Iterator[Edge]:
    authority, pairs = pki
    folder = tmp_path_factory.mktemp(f"edge-{request.param}")
    names = ["plain", "tls", "kube", "kube_plain", "out"]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pairs["pass"].chain, pairs["pass"].key)
    strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    strict.load_cert_chain(pairs["pass"].chain, pairs["pass"].key)
    strict.load_verify_locations(authority.root)
    strict.verify_mode = ssl.CERT_REQUIRED
    with ExitStack() as stack:
        partner = stack.enter_context(Counted("partner", context=strict).serving())
        web = stack.enter_context(Counted("web").serving())
        secure = stack.enter_context(Counted("secure", context=context).serving())
        values = {
            **ports,
            "web": web.port,
            "secure": secure.port,
            "partner": partner.port,
            "pin": digest(pairs["good"]).hex(),
            "key": base64.b64encode(digest(pairs["by-uri"], "key")).decode(),
        }
        write(folder, "mesh.yaml", MESH.format(**values))
        made = Edge(None, folder, authority, pairs, ports, web)  # type: ignore[arg-type]
        made.put_secrets()
        node = "router~127.0.0.1~edge-1.shop~shop.svc.cluster.local"
        made.proxy = stack.enter_context(controlled(request.param, folder, node, LABELS))
        assert eventually(lambda: made.curl("a.example")[:2] == (0, 200), PATIENCE), made.proxy.process.tail()
        assert eventually(lambda: made.curl("a.example", port="kube")[:2] == (0, 200), PATIENCE)
        yield made


def test_each_server_name_has_its_certificate(edge: Edge) -> None:
    for name, subject in (("a.example", "a"), ("x.b.example", "b-ecdsa"), ("mutual.example", "mutual")):
        assert edge.s_client(name)["subject"] == subject
    assert edge.s_client("pass.example")["subject"] == "pass", "the origin's own"
    assert edge.s_client("unknown.example") == {}
    assert edge.s_client("") == {}, "who names no server meets none"


def test_a_client_that_can_only_verify_rsa_is_shown_the_rsa_certificate(edge: Edge) -> None:
    only_rsa = ["-sigalgs", "rsa_pss_rsae_sha256:rsa_pkcs1_sha256"]
    assert edge.s_client("x.b.example", *only_rsa)["subject"] == "b-rsa"
    assert edge.s_client("x.b.example", *only_rsa, "-tls1_2")["subject"] == "b-rsa"
    assert edge.s_client("x.b.example", "-sigalgs", "ecdsa_secp256r1_sha256")["subject"] == "b-ecdsa"


def test_two_certificates_of_one_kubernetes_listener(edge: Edge) -> None:
    assert edge.s_client("a.example", port="kube")["subject"] == "a"
    assert edge.s_client("y.b.example", port="kube")["subject"] == "b-ecdsa"
    assert edge.s_client("unknown.example", port="kube")["subject"] == "a", "the first, for want of a better one"


def test_versions_and_suites(edge: Edge) -> None:
    assert edge.s_client("a.example")["version"] == "TLSv1.3"
    assert edge.s_client("a.example", "-tls1_2")["version"] == "TLSv1.2"
    assert edge.s_client("new.example", "-tls1_2") == {}
    assert edge.s_client("new.example")["version"] == "TLSv1.3"
    assert edge.s_client("old.example", "-tls1_3") == {}
    old = edge.s_client("old.example")
    assert (old["version"], old["cipher"]) == ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384")
    assert edge.s_client("old.example", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256") == {}
    assert edge.s_client("a.example", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0") == {}


#: Which clients get in, by server name. None is without a certificate.
CLIENTS = {
    "mutual.example": {"good": True, "by-uri": True, "unnamed": False, "unknown": False, None: False},
    "pinned.example": {"good": True, "by-uri": True, "unnamed": False, "unknown": False, None: False},
    "optional.example": {"good": True, "unnamed": True, "unknown": False, None: True},
    "a.example": {"good": True, "unknown": True, None: True},
}


@pytest.mark.parametrize("host", CLIENTS)
def test_which_clients_are_let_in(edge: Edge, host: str) -> None:
    for client, is_in in CLIENTS[host].items():
        code, status, body = edge.curl(host, *(edge.client(client) if client else ()))
        assert (status, bool(body)) == ((200, True) if is_in else (0, False)), (client, code, body)


def test_http_is_sent_to_https(edge: Edge) -> None:
    port = edge.ports["plain"]
    assert edge.curl("a.example", port="plain", scheme="http") == (0, 301, f"https://a.example:{port}/")
    assert edge.curl("other.example", port="plain", scheme="http")[1] == 404
    assert edge.curl("a.example", port="kube_plain", scheme="http")[1:] == (301, "https://a.example:443/")


def test_tls_begins_at_the_gateway(edge: Edge) -> None:
    seen = {
        kind: edge.curl(f"{kind}.partner", port="out", scheme="http")[1:]
        for kind in ("mutual", "blind", "simple", "stranger")
    }
    assert seen["mutual"] == (200, f"partner mutual.partner:{edge.ports['out']}")
    assert seen["blind"] == (200, f"partner blind.partner:{edge.ports['out']}"), "whoever answers will do"
    assert seen["simple"][0] == 503, "no certificate is shown"
    assert seen["stranger"][0] == 503, "the certificate is for another name"


def test_tls_that_passes_ends_at_the_origin(edge: Edge) -> None:
    code, status, body = edge.curl("pass.example")
    assert (code, status, body) == (0, 200, f"secure pass.example:{edge.ports['tls']}")


def test_a_renewed_certificate_takes_effect_and_costs_no_connection(edge: Edge) -> None:
    context = ssl.create_default_context(cafile=str(edge.authority.root))

    def connected() -> http.client.HTTPSConnection:
        made = http.client.HTTPSConnection("127.0.0.1", edge.ports["tls"], timeout=60, context=context)
        raw = socket.create_connection(("127.0.0.1", made.port))
        made.sock = context.wrap_socket(raw, server_hostname="a.example")
        return made

    def ask(one: http.client.HTTPSConnection) -> int:
        one.request("GET", "/", headers={"host": "a.example"})
        answer = one.getresponse()
        answer.read()
        return answer.status

    old = connected()
    assert ask(old) == 200
    socket_of_old = old.sock
    edge.put_secrets(a=edge.clients["a-renewed"])
    assert eventually(lambda: edge.s_client("a.example").get("subject") == "a-renewed", PATIENCE)
    assert ask(old) == 200
    assert old.sock is socket_of_old, "the client had to connect again"
    # One that does not fit its key is refused as a whole; what was good stays.
    broken = KeyPair(edge.clients["a"].chain, edge.clients["a-renewed"].key)
    edge.put_secrets(a=broken)
    assert edge.curl("a.example")[:2] == (0, 200)
    assert edge.s_client("a.example")["subject"] == "a-renewed"
    edge.put_secrets()
    assert eventually(lambda: edge.s_client("a.example").get("subject") == "a", PATIENCE)
    assert ask(old) == 200
    assert old.sock is socket_of_old
    old.close()
