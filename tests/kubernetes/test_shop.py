"""The shop as pods of a cluster: a real API server, the installation that `pymesh install` makes, sidecars put in by
the webhook, connections led through them by nftables, and everybody known by the token of a service account.

Where a request was and how it came there say the sidecars' own numbers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.kubernetes.cluster import Cluster
from tests.kubernetes.shop import Shop, shop
from tests.tools.peers import peer

_PRINCIPAL = "spiffe://cluster.local/ns/shop/sa"
_ASK = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.fixture(scope="module")
def mesh(mesh_apis: Cluster) -> Iterator[Shop]:
    with shop(mesh_apis) as made:
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
