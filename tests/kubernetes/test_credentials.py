"""Every way to prove oneself to an API server, shown to a real one; and what becomes of one that is not taken."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.sources.kubernetes import access
from pymesh.control.sources.kubernetes.access import Access
from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
from tests.kubernetes.cluster import Cluster

REVIEW = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
V1 = "client.authentication.k8s.io/v1"


def who(found: Access) -> str:
    """Whom the server takes us for."""

    async def ask() -> str:
        client = ApiClient(found)
        try:
            answer = await client.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", REVIEW)
        finally:
            await client.close()
        return str(answer["status"]["userInfo"]["username"])

    return asyncio.run(ask())


def of(cluster: Cluster, name: str, **user: Any) -> Access:
    return access.from_kubeconfig([cluster.kubeconfig_of(name=name, **user)])


def certificate(cluster: Cluster, name: str) -> dict[str, str]:
    pair = cluster.authority.issue(name)
    return {"chain": pair.chain.read_text(), "key": pair.key.read_text()}


def test_a_token(cluster: Cluster) -> None:
    assert who(of(cluster, "by-token", token=cluster.token)) == "administrator"


def test_a_client_certificate(cluster: Cluster) -> None:
    made = certificate(cluster, "operator")
    user = {
        "client_certificate_data": base64.b64encode(made["chain"].encode()).decode(),
        "client_key_data": base64.b64encode(made["key"].encode()).decode(),
    }
    assert who(of(cluster, "by-certificate", **user)) == "operator"


def test_a_pods_own_account(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(cluster.ca.read_bytes())
    (tmp_path / "namespace").write_text(namespace)
    (tmp_path / "token").write_text(cluster.account_token(namespace, "default"))
    host, port = cluster.url.removeprefix("https://").split(":")
    env = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    assert who(access.in_cluster(env, tmp_path)) == f"system:serviceaccount:{namespace}:default"


def test_a_token_that_is_exchanged_meanwhile(cluster: Cluster, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("stale")
    found = of(cluster, "by-file", tokenFile=str(token))
    with pytest.raises(ApiError) as refused:
        who(found)
    assert (refused.value.code, refused.value.reason) == (401, "Unauthorized")
    token.write_text(cluster.token)
    assert who(found) == "administrator"


def test_a_plugin_gives_tokens_and_certificates(cluster: Cluster, tmp_path: Path) -> None:
    """The first token is not taken: it is asked again, and may say something else."""
    script, answers = tmp_path / "plugin.py", tmp_path / "answers.json"
    made = certificate(cluster, "by-plugin")
    said = [
        {"token": "stale"},
        {"token": cluster.token},
        {"clientCertificateData": made["chain"], "clientKeyData": made["key"]},
    ]
    answers.write_text(json.dumps(said))
    script.write_text(
        "import json, pathlib, sys\n"
        "path = pathlib.Path(sys.argv[1]); first, *rest = json.loads(path.read_text())\n"
        "path.write_text(json.dumps(rest))\n"
        f"print(json.dumps({{'apiVersion': {V1!r}, 'kind': 'ExecCredential', 'status': first}}))\n"
    )
    plugin = {"apiVersion": V1, "command": sys.executable, "args": [str(script), str(answers)]}
    found = of(cluster, "by-exec", exec=plugin)
    assert who(found) == "administrator"
    assert len(json.loads(answers.read_text())) == 1
    found.credential.refused()
    assert who(found) == "by-plugin"


def test_a_server_that_nobody_vouches_for(cluster: Cluster, tmp_path: Path) -> None:
    found = of(cluster, "distrustful", token=cluster.token)
    stranger = Access(found.server, found.credential)
    with pytest.raises(ApiError, match="certificate verify failed"):
        who(stranger)
    assert who(Access(found.server, found.credential, insecure=True)) == "administrator"
    assert who(Access(found.server, found.credential, found.authorities, server_name="kubernetes")) == "administrator"
    with pytest.raises(ApiError, match="certificate"):
        who(Access(found.server, found.credential, found.authorities, server_name="somebody.else"))


def test_what_is_not_allowed_is_said(cluster: Cluster, namespace: str) -> None:
    found = of(cluster, "nobody", token=cluster.account_token(namespace, "default"))

    async def ask() -> None:
        client = ApiClient(found)
        try:
            await client.request("GET", "/api/v1/secrets")
        finally:
            await client.close()

    with pytest.raises(ApiError) as refused:
        asyncio.run(ask())
    assert refused.value.code == 403
    assert 'cannot list resource "secrets" in API group "" at the cluster scope' in str(refused.value)
