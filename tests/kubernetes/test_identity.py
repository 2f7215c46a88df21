"""Workloads' tokens before a real API server: who is believed, who no longer is, and what holds while it is away."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.token_review import AUDIENCE, TokenReviews
from pymesh.control.identity.tokens import UnavailableError
from pymesh.control.identity.verdicts import FRESH_FOR
from pymesh.control.sources.kubernetes import access
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from tests.kubernetes.cluster import Cluster


class Door:
    """The judge of tokens, and its clock."""

    def __init__(self, cluster: Cluster) -> None:
        self.late = timedelta(0)
        self._cluster = cluster
        self.asked = 0
        self.reviews = TokenReviews(self._create, "cluster.local", clock=lambda: datetime.now(UTC) + self.late)

    async def _create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked += 1
        client = ApiClient(access.from_kubeconfig([self._cluster.kubeconfig]))
        try:
            return await client.request("POST", path, body)
        except ApiError as error:
            raise UnavailableError(str(error)) from error
        finally:
            await client.close()

    def who(self, token: str) -> Identity | None:
        return asyncio.run(self.reviews.authenticate(token))

    def is_gateway(self, identity: Identity) -> bool:
        return asyncio.run(self.reviews.is_gateway(identity))


@pytest.fixture
def account(cluster: Cluster, namespace: str) -> str:
    meta = {"name": "cart", "namespace": namespace}
    cluster.apply([{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta}])
    return "cart"


def _pod(namespace: str) -> Any:
    spec = {"serviceAccountName": "cart", "nodeName": "n", "containers": [{"name": "c", "image": "i"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "cart-1", "namespace": namespace}, "spec": spec}


def _token_of(cluster: Cluster, pod: Any) -> str:
    meta = pod["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    spec = {"audiences": [AUDIENCE], "expirationSeconds": 600, "boundObjectRef": bound}
    path = f"/api/v1/namespaces/{meta['namespace']}/serviceaccounts/cart/token"
    made = cluster.request(
        "POST", path, {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    )
    return str(made["status"]["token"])


def test_a_projected_token_proves_its_account_and_only_with_our_audience(
    cluster: Cluster, namespace: str, account: str
) -> None:
    door = Door(cluster)
    assert door.who(cluster.account_token(namespace, account, AUDIENCE)) == Identity(
        "cluster.local", namespace, account
    )
    assert door.who(cluster.account_token(namespace, account, AUDIENCE, "other")) is not None
    asked = door.asked
    for audience in ("other", "https://kubernetes.default.svc"):
        assert door.who(cluster.account_token(namespace, account, audience)) is None
    assert door.asked == asked, "the token itself says that it is not for us"


def test_a_token_that_somebody_else_has_signed_proves_nothing(cluster: Cluster, namespace: str, account: str) -> None:
    head, claims, signature = cluster.account_token(namespace, account, AUDIENCE).split(".")
    door = Door(cluster)
    assert door.who(".".join((head, claims, signature[::-1]))) is None
    assert door.asked == 1


def test_a_pod_that_is_gone_is_nobody_any_more(cluster: Cluster, namespace: str, account: str) -> None:
    (pod,) = cluster.apply([_pod(namespace)])
    token, door = _token_of(cluster, pod), Door(cluster)
    assert door.who(token) == Identity("cluster.local", namespace, account)
    cluster.delete("v1", "Pod", "cart-1", namespace)
    assert door.who(token) is not None, "it is not asked for again at once"
    # The API server itself remembers what it has judged for ten seconds.
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while door.who(token) is not None:
        assert datetime.now(UTC) < deadline
        door.late += FRESH_FOR


def test_a_gateway_is_who_may_list_secrets_where_it_is(cluster: Cluster, namespace: str, account: str) -> None:
    identity = Identity("cluster.local", namespace, account)
    assert not Door(cluster).is_gateway(identity)
    meta = {"name": "gateway", "namespace": namespace}
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list", "watch"]}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "gateway"}
    subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
    version = "rbac.authorization.k8s.io/v1"
    cluster.apply(
        [
            {"apiVersion": version, "kind": "Role", "metadata": meta, "rules": [rule]},
            {"apiVersion": version, "kind": "RoleBinding", "metadata": meta, "roleRef": role, "subjects": [subject]},
        ]
    )
    deadline = datetime.now(UTC) + timedelta(seconds=60)
    while not Door(cluster).is_gateway(identity):
        assert datetime.now(UTC) < deadline
    assert not Door(cluster).is_gateway(Identity("cluster.local", "default", account))


def test_while_the_api_server_is_away_who_was_known_is_known(tmp_path: Any) -> None:
    with Cluster.running(tmp_path) as own, own.namespace("shop"):
        token, other = (own.account_token("shop", "default", AUDIENCE) for _ in range(2))
        door = Door(own)
        assert door.who(token) is not None
        own.apiserver.stop()
        try:
            door.late = timedelta(minutes=5)
            assert door.who(token) == Identity("cluster.local", "shop", "default")
            with pytest.raises(UnavailableError):
                door.who(other)
            door.late = timedelta(minutes=11)
            assert door.who(token) is None, "its own end is the end"
        finally:
            own.start_apiserver()
