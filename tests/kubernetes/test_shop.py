"""The shop as pods of a cluster: a real API server, the installation that `pymesh install` makes, sidecars put in by
the webhook, connections led through them by nftables, and everybody known by the token of a service account.

Where a request was and how it came there say the sidecars' own numbers, and the node's cables. `make test-kubernetes`
has the API server away for five minutes.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pymesh.control.install.values import NAMESPACE
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.kubelet.pod import Pod
from tests.kubernetes.kubelet.wire import watched
from tests.kubernetes.shop import Shop, shop
from tests.tools.peers import peer

_PRINCIPAL = "spiffe://cluster.local/ns/shop/sa"
_ASK = """
import http.client, sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
except (OSError, http.client.HTTPException) as error:  # the end of the connection, or the alert of who expects TLS
    print(f"refused: {error!r}")
"""
WHOLE = "PYMESH_KUBERNETES_WHOLE" in os.environ
_GATEWAY_API = "gateway.networking.k8s.io/v1"
_RUNS_A_GATEWAY = (("v1", "ServiceAccount"), ("apps/v1", "Deployment"), ("v1", "Service"))
AWAY_SECONDS = 300.0 if WHOLE else 0.0
#: What a request or an answer of the shop has, and nobody may read who looks at a cable.
_READABLE = (b"HTTP/1.1", b"PRI * HTTP/2.0", b"Boils before I am awake.", b"tin kettle")


@pytest.fixture(scope="module")
def mesh(mesh_apis: Cluster) -> Iterator[Shop]:
    # Half of it is left when a sidecar asks anew: longer than the control plane is away here, also on a busy machine.
    with shop(mesh_apis, certificate_lifetime="120s") as made:
        yield made


def _policy(kind: str, name: str, spec: str) -> str:
    head = f"apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\n"
    return f"{head}spec: {{{spec}}}\n"


def _canary(first: int, second: int) -> str:
    return f"""
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: reviews, namespace: shop}}
spec:
  hosts: [reviews]
  http:
    - route:
        - {{destination: {{host: reviews, subset: v1}}, weight: {first}}}
        - {{destination: {{host: reviews, subset: v2}}, weight: {second}}}
"""


def test_the_page_is_made_by_all_services_through_the_ingress_gateway(mesh: Shop) -> None:
    answer = mesh.get()
    assert answer.status == 200
    assert [one["name"] for one in answer.body["catalog"]["products"]] == ["tin kettle", "wool blanket", "hand lamp"]
    assert answer.body["reviews"]["reviews"][0] == "Boils before I am awake."


def test_the_webhook_has_put_a_sidecar_into_each_pod(mesh: Shop) -> None:
    for one in mesh.node.all("shop"):
        names = [c["name"] for c in one.document["spec"]["initContainers"]]
        assert names[:2] == ["istio-init", "istio-proxy"], one.name
        assert "table inet pymesh" in one.space.call(_ruleset)


def _ruleset() -> str:
    return subprocess.run([peer("nft"), "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def test_services_call_each_other_by_mutual_tls_as_their_service_accounts(mesh: Shop) -> None:
    def counted() -> int:
        return sum(
            mesh.requests_total(
                one,
                reporter="destination",
                connection_security_policy="mutual_tls",
                source_principal=f"{_PRINCIPAL}/web",
                destination_principal=f"{_PRINCIPAL}/catalog",
                response_code="200",
            )
            for one in mesh.node.all("shop", app="catalog")
        )

    before = counted()
    for _ in range(4):
        assert mesh.get().status == 200
    assert counted() == before + 4


def test_a_canary_takes_what_it_is_given_and_then_everything(mesh: Shop) -> None:
    assert set(mesh.versions(60)) == {"v1", "v2"}

    mesh.apply(_canary(0, 100))
    mesh.node.wait("only the canary answers", lambda: set(mesh.versions(5)) == {"v2"})
    assert mesh.versions(20) == {"v2": 20}
    assert mesh.get().body["reviews"]["stars"] == 5, "it asks the ratings, two hops further in"
    mesh.apply(_canary(80, 20))
    mesh.node.wait("both answer", lambda: set(mesh.versions(20)) == {"v1", "v2"})


def test_only_whom_a_policy_names_may_call(mesh: Shop) -> None:
    reviews = mesh.pod("reviews", version="v1")

    def asked() -> str:
        return reviews.run("reviews", "python3", "-c", _ASK, "http://catalog/products").strip()

    mesh.node.wait("everybody may", lambda: asked() == "200")
    web = '{from: [{source: {principals: ["cluster.local/ns/shop/sa/web"]}}]}'
    allow = f"action: ALLOW, selector: {{matchLabels: {{app: catalog}}}}, rules: [{web}]"
    mesh.apply(_policy("AuthorizationPolicy", "catalog", allow))
    try:
        mesh.node.wait("the reviews may not", lambda: asked() == "403")
        assert mesh.get().status == 200
    finally:
        mesh.cluster.delete("security.istio.io/v1", "AuthorizationPolicy", "catalog", "shop")
    mesh.node.wait("everybody may again", lambda: asked() == "200")


_PAGES = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: pages, namespace: shop}
spec:
  hosts: [pages.test]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]
  workloadSelector: {labels: {app: catalog}}
"""
_ASK_FOR = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(urllib.request.Request(sys.argv[1], headers={"Host": sys.argv[2]}), timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def test_a_service_entry_selects_pods(mesh: Shop) -> None:
    reviews = mesh.pod("reviews", version="v1")
    mesh.apply(_PAGES)
    try:

        def answers() -> bool:
            asked = reviews.run("reviews", "python3", "-c", _ASK_FOR, "http://catalog/products", "pages.test")
            told = {"reporter": "source", "destination_service": "pages.test", "response_code": "200"}
            return asked.strip() == "200" and mesh.requests_total(reviews, **told) > 0

        mesh.node.wait("the catalog's pods answer for it", answers)
    finally:
        mesh.cluster.delete("networking.istio.io/v1", "ServiceEntry", "pages", "shop")


_SHELF = """
apiVersion: v1
kind: Service
metadata: {name: shelf, namespace: shop}
spec: {selector: {app: catalog}, sessionAffinity: ClientIP, ports: [{name: http, port: 80, targetPort: http}]}
"""


def test_a_service_keeps_its_clients(mesh: Shop) -> None:
    """What `sessionAffinity: ClientIP` is to kube-proxy where there is no mesh."""
    reviews, pods = mesh.pod("reviews", version="v1"), mesh.node.all("shop", app="catalog")
    assert len(pods) == 2
    told = {"reporter": "destination", "source_principal": f"{_PRINCIPAL}/reviews", "response_code": "200"}

    def answered() -> list[int]:
        return [mesh.requests_total(one, **told) for one in pods]

    def ask() -> str:
        return reviews.run("reviews", "python3", "-c", _ASK_FOR, "http://catalog/products", "shelf").strip()

    mesh.apply(_SHELF)
    try:
        mesh.node.wait("the shelf answers", lambda: ask() == "200")
        before = answered()
        for _ in range(12):
            assert ask() == "200"
        assert sorted(now - known for now, known in zip(answered(), before, strict=True)) == [0, 12]
    finally:
        mesh.cluster.delete("v1", "Service", "shelf", "shop")


def test_a_port_that_says_nothing_carries_http_all_the_same(mesh: Shop) -> None:
    """As `kubectl expose` makes it. Over mutual TLS, too, the other side knows that these are requests."""
    path = "/api/v1/namespaces/shop/services/catalog"
    reviews, pods = mesh.pod("reviews", version="v1"), mesh.node.all("shop", app="catalog")
    told = {"reporter": "destination", "source_principal": f"{_PRINCIPAL}/reviews", "response_code": "200"}

    def known() -> bool:
        def read() -> bytes:
            with urllib.request.urlopen("http://127.0.0.1:15000/config_dump", timeout=20) as page:
                return bytes(page.read())

        inward = all(b'"istio-http/1.1"' in pod.space.call(read) for pod in pods)
        return inward and b"outbound_tcp|80||catalog.shop.svc.cluster.local" in reviews.space.call(read)

    def ports(*wanted: dict[str, object]) -> None:
        changed = {"spec": {"ports": list(wanted)}}
        mesh.cluster.request("PATCH", path, changed, content_type="application/merge-patch+json")

    def asked() -> str:
        """Over a connection of its own: those that are open stay what they were."""
        return reviews.run("reviews", "python3", "-c", _ASK, "http://catalog/products").strip()

    def counted() -> int:
        return sum(mesh.requests_total(one, **told) for one in pods)

    ports({"port": 80, "targetPort": "http"})
    try:
        mesh.node.wait("the port is no longer HTTP by its name", known)
        # Until the slices have the port's new name nobody serves it.
        mesh.node.wait("it is served", lambda: asked() == "200")
        before = counted()
        assert [asked() for _ in range(4)] == ["200"] * 4
        assert counted() == before + 4
        who = '[{source: {principals: ["cluster.local/ns/shop/sa/reviews"]}}]'
        rule = f"{{from: {who}, to: [{{operation: {{paths: [/products]}}}}]}}"
        wanted = f"action: DENY, selector: {{matchLabels: {{app: catalog}}}}, rules: [{rule}]"
        mesh.apply(_policy("AuthorizationPolicy", "catalog", wanted))
        mesh.node.wait("the reviews may not", lambda: asked() == "403")
    finally:
        mesh.cluster.delete("security.istio.io/v1", "AuthorizationPolicy", "catalog", "shop")
        ports({"name": "http", "port": 80, "targetPort": "http"})
    mesh.node.wait("it is by its name", lambda: not known())
    mesh.node.wait("the shop serves", lambda: all(mesh.serves() for _ in range(10)) and asked() == "200")


_NAMELESS = """
apiVersion: v1
kind: Service
metadata: {name: nameless, namespace: shop}
spec: {selector: {app: catalog}, ports: [{port: 80, targetPort: http}]}
"""


def test_a_port_that_says_nothing_may_be_another_service_s_for_http(mesh: Shop) -> None:
    reviews, pods = mesh.pod("reviews", version="v1"), mesh.node.all("shop", app="catalog")
    told = {"reporter": "destination", "source_principal": f"{_PRINCIPAL}/reviews", "response_code": "200"}
    mesh.apply(_NAMELESS)
    try:

        def asked() -> str:
            return reviews.run("reviews", "python3", "-c", _ASK, "http://nameless/products").strip()

        mesh.node.wait("it is served", lambda: asked() == "200")
        before = sum(mesh.requests_total(one, **told) for one in pods)
        assert [asked() for _ in range(4)] == ["200"] * 4
        assert sum(mesh.requests_total(one, **told) for one in pods) == before + 4
    finally:
        mesh.cluster.delete("v1", "Service", "nameless", "shop")


def test_a_deployment_is_rolled_while_requests_are_answered(mesh: Shop) -> None:
    before = {one.name for one in mesh.node.all("shop", app="catalog")}
    deployment = mesh.cluster.get("apps/v1", "Deployment", "catalog", "shop")
    assert deployment is not None
    template = {"metadata": {"annotations": {"rolled": "once"}}}
    path = "/apis/apps/v1/namespaces/shop/deployments/catalog"
    patch = {"spec": {"template": template}}
    mesh.cluster.request("PATCH", path, patch, content_type="application/merge-patch+json")

    def rolled() -> bool:
        assert mesh.get().status == 200
        now = {one.name for one in mesh.node.all("shop", app="catalog")}
        return len(now) == 2 and not now & before

    mesh.node.wait("the catalog's pods are new", rolled)
    for _ in range(20):
        assert mesh.get().status == 200


_EDGE = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: edge
  namespace: shop
  annotations: {networking.istio.io/service-type: ClusterIP}
spec:
  gatewayClassName: pymesh
  infrastructure: {labels: {team: front}, annotations: {example.com/paid-by: front}}
  listeners:
    - {name: http, port: 80, protocol: HTTP}
    - name: https
      port: 443
      protocol: HTTPS
      tls: {certificateRefs: [{name: edge}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: edge, namespace: shop}
spec:
  parentRefs: [{name: edge}]
  rules: [{backendRefs: [{name: web, port: 80}]}]
"""


def test_a_gateway_gets_proxies_and_a_service_and_they_go_with_it(mesh: Shop) -> None:
    cluster = mesh.cluster
    issued = cluster.authority.issue("edge", dns=["edge.test"])
    pair = {"tls.crt": issued.chain.read_bytes(), "tls.key": issued.key.read_bytes()}
    data = {name: base64.b64encode(content).decode() for name, content in pair.items()}
    meta = {"name": "edge", "namespace": "shop"}
    cluster.apply([{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "kubernetes.io/tls", "data": data}])
    (gateway, _) = cluster.apply(_EDGE)

    def programmed() -> bool:
        found = cluster.get(_GATEWAY_API, "Gateway", "edge", "shop") or {}
        told = {one["type"]: one["status"] for one in found.get("status", {}).get("conditions", ())}
        return told.get("Programmed") == "True"

    mesh.node.wait("the Gateway is programmed", programmed)
    made = {kind: cluster.get(version, kind, "edge-pymesh", "shop") or {} for version, kind in _RUNS_A_GATEWAY}
    for one in made.values():
        meta = one["metadata"]
        assert meta["labels"]["gateway.networking.k8s.io/gateway-name"] == "edge"
        assert (meta["labels"]["team"], meta["annotations"]["example.com/paid-by"]) == ("front", "front")
        assert [each["uid"] for each in meta["ownerReferences"]] == [gateway["metadata"]["uid"]]
    address = made["Service"]["spec"]["clusterIP"]
    status = (cluster.get(_GATEWAY_API, "Gateway", "edge", "shop") or {})["status"]
    assert status["addresses"] == [{"type": "IPAddress", "value": address}]
    assert mesh.ask(address, 80, "/products/1").status == 200
    (proxy,) = mesh.node.all("shop", team="front")
    assert [one.name for one in proxy.main] == ["istio-proxy"]
    # Its key is in a Secret, which no Role of the namespace lets it read.
    trusting = ssl.create_default_context(cafile=str(cluster.ca))
    with mesh.node.network.from_node(address, 443, 20) as plain:
        with trusting.wrap_socket(plain, server_hostname="edge.test") as secured:
            assert secured.version() == "TLSv1.3"

    # A backend that is not there gets its share, which fails; the other one answers.
    cluster.apply(_EDGE.replace("{name: web, port: 80}", "{name: web, port: 80}, {name: gone, port: 80}"))

    def statuses(asked: int) -> set[int]:
        return {mesh.ask(address, 80, "/products/1").status for _ in range(asked)}

    mesh.node.wait("some requests fail", lambda: 500 in statuses(5))
    assert statuses(40) == {200, 500}

    def told() -> dict[str, tuple[str, str]]:
        (parent,) = (cluster.get(_GATEWAY_API, "HTTPRoute", "edge", "shop") or {})["status"]["parents"]
        return {one["type"]: (one["status"], one["reason"]) for one in parent["conditions"]}

    missing = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("False", "BackendNotFound")}
    mesh.node.wait("the route says so", lambda: told() == missing)

    # What somebody changes by hand, or removes, is put right; another port is another port of the Service.
    cluster.delete("v1", "Service", "edge-pymesh", "shop")
    listeners = [{"name": "http", "port": 8080, "protocol": "HTTP"}]
    patch = {"spec": {"listeners": listeners}}
    path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/edge"
    cluster.request("PATCH", path, patch, content_type="application/merge-patch+json")

    def ports() -> list[int]:
        service = cluster.get("v1", "Service", "edge-pymesh", "shop")
        return [one["port"] for one in service["spec"]["ports"]] if service else []

    mesh.node.wait("the Service has the new port", lambda: ports() == [15021, 8080])

    cluster.delete(_GATEWAY_API, "Gateway", "edge", "shop")
    cluster.delete(_GATEWAY_API, "HTTPRoute", "edge", "shop")

    def gone() -> bool:
        return not any(cluster.get(version, kind, "edge-pymesh", "shop") for version, kind in _RUNS_A_GATEWAY)

    mesh.node.wait("what ran it is gone", gone)
    mesh.node.wait("its pod is gone", lambda: proxy.is_gone)
    assert mesh.get().status == 200


@contextmanager
def _outsider(mesh: Shop) -> Iterator[Pod]:
    """A pod without a sidecar, in a namespace of its own."""
    with mesh.cluster.namespace("outside"):
        spec = {
            "containers": [
                {"name": "idle", "image": "pymesh-shop", "command": ["python3", "-c", "import time; time.sleep(3600)"]}
            ]
        }
        meta = {"name": "outsider", "namespace": "outside", "labels": {"app": "outsider"}}
        mesh.cluster.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}])

        def runs() -> bool:
            return any(one.container("idle").is_running for one in mesh.node.all("outside"))

        mesh.node.wait("the outsider runs", runs)
        outsider = mesh.node.pod("outside", app="outsider")
        yield outsider
    mesh.node.wait("the outsider is gone", lambda: outsider.is_gone)


def test_strict_mutual_tls_shuts_out_plaintext_and_nobody_can_read_along(mesh: Shop) -> None:
    with _outsider(mesh) as outsider:

        def asked() -> str:
            where = f"http://catalog.shop/products?{uuid.uuid4()}"
            return outsider.run("idle", "python3", "-c", _ASK, where).strip()

        def refused() -> bool:
            return asked().startswith("refused")

        assert refused(), "this is the default"
        try:
            mesh.apply(_policy("PeerAuthentication", "default", "mtls: {mode: PERMISSIVE}"))
            mesh.node.wait("plaintext is taken", lambda: asked() == "200")
            with watched(mesh.node.network) as wire:
                assert asked() == "200"
            assert wire.with_text(*_READABLE), "and can be read"

            mesh.apply(_policy("PeerAuthentication", "default", "mtls: {mode: STRICT}"))
            mesh.node.wait("plaintext is refused", refused)
            gateways = {one.address for one in mesh.node.all(NAMESPACE, app="istio-ingressgateway")}
            members = {one.address for one in mesh.node.all("shop")}
            with watched(mesh.node.network) as wire:
                for _ in range(10):
                    assert mesh.get().status == 200
            for senders in (gateways, members):
                assert len(wire.between(senders, members)) >= 10, "requests have gone from pod to pod"
            assert wire.with_text(*_READABLE) == []
            mesh.node.wait_ready("shop")
        finally:
            mesh.cluster.delete("security.istio.io/v1", "PeerAuthentication", "default", "shop")


def _scale(mesh: Shop, deployment: str, replicas: int) -> None:
    path = f"/apis/apps/v1/namespaces/shop/deployments/{deployment}"
    patch = {"spec": {"replicas": replicas}}
    mesh.cluster.request("PATCH", path, patch, content_type="application/merge-patch+json")


def _newcomer_serves(mesh: Shop) -> None:
    """One more pod joins, takes its share of the requests, and goes."""
    before = {one.name for one in mesh.node.all("shop", app="catalog")}
    _scale(mesh, "catalog", len(before) + 1)

    def serves() -> bool:
        new = [one for one in mesh.node.all("shop", app="catalog") if one.name not in before]
        ready = [one for one in new if all(each.is_ready for each in (*one.init[1:], *one.main))]
        return bool(ready) and mesh.requests_total(ready[0], reporter="destination", response_code="200") > 0

    mesh.node.wait("a new pod answers", serves)
    _scaled_down(mesh, "catalog", len(before))


def _scaled_down(mesh: Shop, app: str, replicas: int) -> None:
    """Fewer pods, until those that were too many have ended."""
    before = mesh.node.all("shop", app=app)
    _scale(mesh, app, replicas)
    mesh.node.wait("they are to end", lambda: len(mesh.node.all("shop", app=app)) == replicas)
    mesh.node.wait("they are gone", lambda: sum(not one.is_gone for one in before) == replicas)


_NO_RETRIES = """
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: catalog, namespace: shop}
spec: {hosts: [catalog], http: [{retries: {attempts: 0}, route: [{destination: {host: catalog}}]}]}
"""


def test_pods_go_and_no_request_is_lost(mesh: Shop) -> None:
    """Their applications end at SIGTERM, nothing is tried again, and others hear of it when they do."""
    known = mesh.cluster.get("networking.istio.io/v1", "VirtualService", "catalog", "shop")
    assert known is not None
    replicas = len(mesh.node.all("shop", app="catalog"))
    mesh.apply(_NO_RETRIES)
    try:
        with mesh.traffic() as traffic:

            def more_answers() -> None:
                answered = traffic.answered
                mesh.node.wait("requests are answered", lambda: traffic.answered >= answered + 20)

            def serve() -> bool:
                here = mesh.node.all("shop", app="catalog")
                return len(here) == replicas + 2 and all(c.is_ready for o in here for c in (*o.init[1:], *o.main))

            _scale(mesh, "catalog", replicas + 2)
            mesh.node.wait("new pods serve", serve)
            more_answers()
            _scaled_down(mesh, "catalog", replicas)
            more_answers()
        assert traffic.lost == []
    finally:
        mesh.cluster.apply([{**known, "metadata": {"name": "catalog", "namespace": "shop"}}])


def test_the_control_plane_starts_again_and_no_request_is_lost(mesh: Shop) -> None:
    with mesh.traffic() as traffic:
        first = mesh.node.pod(NAMESPACE, app="pymesh-control")
        first.container("control").kill()
        mesh.node.wait("its container runs again", lambda: first.container("control").restarts == 1)
        mesh.node.wait_ready(NAMESPACE)
        mesh.apply(_canary(100, 0))
        mesh.node.wait("changes arrive", lambda: set(mesh.versions(5)) == {"v1"})

        mesh.cluster.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}/pods/{first.name}")
        mesh.node.wait("its pod is another", lambda: first.is_gone)
        mesh.node.wait_ready(NAMESPACE)
        mesh.apply(_canary(0, 100))
        mesh.node.wait("changes arrive", lambda: set(mesh.versions(5)) == {"v2"})
        _newcomer_serves(mesh)
        answered = traffic.answered
        mesh.node.wait("requests are answered", lambda: traffic.answered >= answered + 5)
    assert traffic.lost == []


def _serial(pod: Pod) -> str:
    """Of the certificate that a sidecar shows."""

    def read() -> str:
        with urllib.request.urlopen("http://127.0.0.1:15000/certs", timeout=20) as page:
            entries = json.load(page)["certificates"]
        return str(next(one["cert_chain"][0]["serial_number"] for one in entries if one["cert_chain"]))

    return pod.space.call(read)


def _known(mesh: Shop) -> set[str]:
    """Pods that the control plane has a stream with."""

    def read() -> set[str]:
        with urllib.request.urlopen("http://127.0.0.1:15014/debug/syncz", timeout=20) as page:
            return {str(one["proxy"]).split("~")[2].partition(".")[0] for one in json.load(page)}

    return mesh.node.pod(NAMESPACE, app="pymesh-control").space.call(read)


def test_certificates_are_replaced_while_the_api_server_is_away_and_no_request_is_lost(mesh: Shop) -> None:
    pods = mesh.node.all("shop")
    # A control plane that has never had somebody's token judged knows nobody, and this one may be new.
    mesh.node.wait("all are known", lambda: _known(mesh) >= {one.name for one in pods})
    with mesh.traffic() as traffic:
        mesh.node.wait("requests are answered", lambda: traffic.answered >= 5)
        began, before = time.monotonic(), {one.name: _serial(one) for one in pods}
        mesh.cluster.apiserver.stop()
        try:

            def replaced() -> bool:
                others = sum(_serial(one) != before[one.name] for one in pods)
                return others >= (len(pods) if WHOLE else 1) and time.monotonic() - began >= AWAY_SECONDS

            mesh.node.wait("certificates are replaced", replaced, AWAY_SECONDS + 120)
            answered = traffic.answered
            mesh.node.wait("requests are answered", lambda: traffic.answered >= answered + 5)
        finally:
            mesh.cluster.start_apiserver()
        mesh.apply(_canary(50, 50))
        mesh.node.wait("both answer", lambda: set(mesh.versions(20)) == {"v1", "v2"})
        if WHOLE:
            _newcomer_serves(mesh)
    assert traffic.lost == []
