"""Our control plane behind capture: what it sends is right for Envoy and ours, and carries what applications do.

The workload has no Sidecar resource and no address but those that everybody else uses: host names and virtual IPs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import MeshOptions, build
from pymesh.control.translate import bootstrap as static_bootstrap
from pymesh.control.translate import translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb
from tests.capture.bootstrap import ADMIN
from tests.capture.pod import Sidecar, get, start
from tests.capture.world import ANYWHERE, POD, WORLD, url
from tests.proxy.bootstrap import cluster, dynamic
from tests.proxy.running import eventually, pymesh
from tests.tools.certificates import Authority
from tests.tools.nginx import nginx
from tests.tools.peers import peer
from tests.tools.processes import running

GOLDEN = Path(__file__).parents[1] / "golden" / "captured-sidecar" / "in.yaml"
CONTROL = 15010
WEB, DATABASE = "10.99.0.1", "10.99.0.2"
#: Where a service of the mesh speaks HTTP, and somebody outside of it TLS.
SECURE = 8444
#: The workload takes plain text.
PLAIN = """\
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: client, namespace: shop}
spec: {selector: {matchLabels: {app: client}}, mtls: {mode: DISABLE}}"""
MESH = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec:
  selector: {{app: web}}
  clusterIP: {WEB}
  ports: [{{name: http, port: 80, targetPort: http}}]
---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec:
  selector: {{app: web}}
  clusterIP: {DATABASE}
  ports: [{{name: tcp, port: 5432, targetPort: tcp}}]
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: web-1, namespace: shop}}
spec:
  address: {WORLD[4]}
  ports: {{http: 8081, tcp: 3307}}
  labels: {{app: web}}
---
apiVersion: v1
kind: Service
metadata: {{name: store, namespace: shop}}
spec: {{clusterIP: None, ports: [{{name: http, port: 8081}}, {{name: tcp, port: 3307}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: admin, namespace: shop}}
spec: {{clusterIP: 10.99.0.3, selector: {{app: web}}, ports: [{{name: http, port: {SECURE}, targetPort: http}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: store-a, namespace: shop, labels: {{kubernetes.io/service-name: store}}}}
addressType: IPv4
ports: [{{name: http, port: 8081}}, {{name: tcp, port: 3307}}]
endpoints: [{{addresses: [{WORLD[4]}], hostname: store-0}}, {{addresses: [{ANYWHERE[4]}], hostname: store-1}}]
---
{PLAIN}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: client, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: client}}}}
  action: DENY
  rules: [{{to: [{{operation: {{ports: ["8080"]}}}}]}}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: wild, namespace: shop}}
spec: {{hosts: ["*.wild.test"], resolution: NONE, ports: [{{number: 80, name: http, protocol: HTTP}}]}}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: databases, namespace: shop}}
spec:
  hosts: [databases.test]
  addresses: [{ANYWHERE[4].rpartition(".")[0]}.0/24]
  resolution: NONE
  ports: [{{number: 9999, name: tcp, protocol: TCP}}]
"""

#: No port says what is spoken there.
UNTOLD = f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{selector: {{app: web}}, clusterIP: {WEB}, ports: [{{port: 80, targetPort: 8081}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: db, namespace: shop}}
spec: {{selector: {{app: web}}, clusterIP: {DATABASE}, ports: [{{name: main, port: 5432, targetPort: 3307}}]}}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {{name: web-1, namespace: shop}}
spec: {{address: {WORLD[4]}, labels: {{app: web}}}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: web, namespace: shop}}
spec:
  hosts: [web]
  http:
    - {{match: [{{uri: {{prefix: /teapot}}}}], directResponse: {{status: 418}}}}
    - {{route: [{{destination: {{host: web}}}}], headers: {{response: {{set: {{x-route: main}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: client, namespace: shop}}
spec: {{selector: {{app: client}}, clusterIP: 10.99.0.5, ports: [{{name: a, port: 8080}}, {{name: b, port: 9000}}]}}
---
{PLAIN}
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: client, namespace: shop}}
spec:
  selector: {{matchLabels: {{app: client}}}}
  action: DENY
  rules: [{{to: [{{operation: {{paths: [/secret], ports: ["8080"]}}}}]}}]
"""


def test_envoy_takes_every_resource(tmp_path: Path) -> None:
    head, _, rest = GOLDEN.read_text().partition("\n---\n")
    store, _ = build(load_text("in.yaml", rest, Report()), MeshOptions())
    for number, described in enumerate(yaml.safe_load(head)["proxies"]):
        # A companion gives Envoy its certificates, in whatever proxy the case is about.
        proxy = Proxy.parse(described["id"], described["metadata"], "envoy")
        file = tmp_path / f"{number}.pb"
        file.write_bytes(pb.encode(static_bootstrap.static(translate(store, proxy))))
        with running([peer("envoy"), "--mode", "validate", "-c", str(file)], title="envoy") as judge:
            assert judge.wait(60) == 0, judge.tail()


@contextmanager
def _controlled(kind: str, policy: str, folder: Path, mesh: str = MESH) -> Iterator[Sidecar]:
    (folder / "mesh").mkdir()
    (folder / "mesh" / "mesh.yaml").write_text(mesh)
    server = cluster("control", [CONTROL], http2=True)
    config = dynamic("DELTA_GRPC", server, ADMIN)
    config["node"] = {
        "id": f"sidecar~{POD[4]}~client-1.shop~shop.svc.cluster.local",
        "cluster": "client.shop",
        "metadata": {"NAMESPACE": "shop", "LABELS": {"app": "client"}, "INTERCEPTION_MODE": "REDIRECT"},
    }
    control = [*pymesh(), "control", "--config", str(folder / "mesh"), "--state", str(folder / "state")]
    control += ["--insecure-xds", "--listen", f"127.0.0.1:{CONTROL}", "--admin", "127.0.0.1:15014"]
    control += ["--outbound-traffic-policy", policy, "--access-log", "OFF"]
    with start(kind, config, "REDIRECT", beside=control) as made:
        yield made


@pytest.fixture(scope="module", params=["pymesh", "envoy"])
def allowing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with _controlled(request.param, "ALLOW_ANY", tmp_path_factory.mktemp("mesh")) as made:
        yield made


@pytest.fixture(scope="module", params=["pymesh", "envoy"])
def untold(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with _controlled(request.param, "ALLOW_ANY", tmp_path_factory.mktemp("mesh"), UNTOLD) as made:
        yield made


def test_http_is_seen_where_no_port_says_it(untold: Sidecar) -> None:
    status, headers, body = get(untold.pod, url(WEB, 80))
    assert (status, headers["x-route"], body[:2]) == (200, "main", [WORLD[4], "8081"])
    for version in ("--http1.1", "--http2-prior-knowledge"):
        status, _, _ = get(untold.pod, url(WEB, 80, "/teapot"), version)
        assert status == 418
    status, headers, body = get(untold.world, url(POD[4], 8080))
    assert (status, body[:2], "x-envoy-upstream-service-time" in headers) == (200, [POD[4], "8080"], True)
    status, _, _ = get(untold.world, url(POD[4], 8080, "/secret"))
    assert status == 403


def test_what_is_no_http_passes_where_no_port_says_it(untold: Sidecar) -> None:
    """Also where the server speaks first: nobody waits for ever for what the client would say."""
    assert untold.pod.talk(DATABASE, 5432) == [f"hello {WORLD[4]} 3307 {POD[4]}", "ping"]
    assert untold.world.talk(POD[4], 9000) == [f"hello {POD[4]} 9000 127.0.0.6", "ping"]


@pytest.mark.parametrize("target", [url(ANYWHERE[4], 80), url(WEB, 80)])
def test_http_by_name_or_virtual_address(allowing: Sidecar, target: str) -> None:
    named = ("-H", "host: web.shop") if WEB not in target else ()
    status, _, body = get(allowing.pod, target, *named)
    assert (status, body[:2]) == (200, [WORLD[4], "8081"])


def test_tcp_by_virtual_address(allowing: Sidecar) -> None:
    hello, answer = allowing.pod.talk(DATABASE, 5432)
    assert (hello, answer) == (f"hello {WORLD[4]} 3307 {POD[4]}", "ping")


def test_the_unknown_is_let_through(allowing: Sidecar) -> None:
    status, _, body = get(allowing.pod, url(ANYWHERE[4], 80), "-H", "host: unknown.test")
    assert (status, body[:2]) == (200, [ANYWHERE[4], "80"])
    hello, _ = allowing.pod.talk(ANYWHERE[4], 9999)
    assert hello == f"hello {ANYWHERE[4]} 9999 {POD[4]}"


def test_tls_to_others_passes_where_the_mesh_has_http(allowing: Sidecar, tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("bank", addresses=[ANYWHERE[4]])
    secure = f"""server {{ listen {SECURE} ssl; ssl_certificate {pair.chain}; ssl_certificate_key {pair.key};
        location / {{ return 200 "paid\\n"; }} }}"""
    with nginx(secure, [], prefix=allowing.world.argv([])):
        assert eventually(lambda: allowing.world.listens(SECURE), 60)
        done = allowing.pod.curl(f"https://{ANYWHERE[4]}:{SECURE}/", "-k")
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["paid"]), done.stderr
    # What is for the service is HTTP as ever.
    status, _, body = get(allowing.pod, url("10.99.0.3", SECURE))
    assert (status, body[:2]) == (200, [WORLD[4], "8081"])


def test_ports_that_no_service_tells_of_are_reached_as_policies_say(allowing: Sidecar) -> None:
    hello, _ = allowing.world.talk(POD[4], 9000)
    assert hello == f"hello {POD[4]} 9000 127.0.0.6"
    assert allowing.pod.curl("http://127.0.0.1:8080/").returncode == 0
    assert allowing.world.curl(url(POD[4], 8080)).returncode != 0


def test_who_asks_for_the_proxy_itself_meets_nobody(allowing: Sidecar) -> None:
    for where, port in ((allowing.pod, 15001), (allowing.world, 15006)):
        assert where.curl(url(ANYWHERE[4] if where is allowing.pod else POD[4], port)).returncode != 0
    assert allowing.proxy.alive()


@pytest.mark.parametrize("address", [WORLD[4], ANYWHERE[4]])
def test_a_client_chooses_the_endpoint_of_a_headless_service(allowing: Sidecar, address: str) -> None:
    name = "cluster.outbound|8081||store.shop.svc.cluster.local.upstream_rq_total"
    for host in ("store-1.store.shop.svc.cluster.local", "store.shop", address):
        before = allowing.count(name)
        status, _, body = get(allowing.pod, url(address, 8081), "-H", f"host: {host}")
        assert (status, body[:2]) == (200, [address, "8081"])
        assert eventually(lambda: allowing.count(name) == before + 1, 30), "by the service's cluster, not as unknown"  # noqa: B023
    hello, answer = allowing.pod.talk(address, 3307)
    assert (hello, answer) == (f"hello {address} 3307 {POD[4]}", "ping")
    assert allowing.count("cluster.outbound|3307||store.shop.svc.cluster.local.upstream_cx_total") > 0


@pytest.mark.parametrize("kind", ["pymesh", "envoy"])
def test_the_unknown_is_refused(kind: str, tmp_path: Path) -> None:
    with _controlled(kind, "REGISTRY_ONLY", tmp_path) as made:
        status, _, _ = get(made.pod, url(ANYWHERE[4], 80), "-H", "host: unknown.test")
        assert status == 502
        status, _, body = get(made.pod, url(WEB, 80))
        assert (status, body[:2]) == (200, [WORLD[4], "8081"])
        assert made.pod.curl(url(ANYWHERE[4], 8888)).returncode != 0
        # What a ServiceEntry lets through: hosts below a suffix wherever they are, and a network.
        status, _, body = get(made.pod, url(ANYWHERE[4], 80), "-H", "host: a.wild.test")
        assert (status, body[:2]) == (200, [ANYWHERE[4], "80"])
        hello, _ = made.pod.talk(ANYWHERE[4], 9999)
        assert hello == f"hello {ANYWHERE[4]} 9999 {POD[4]}"
        assert made.pod.curl(url(WORLD[4], 9999)).returncode != 0
