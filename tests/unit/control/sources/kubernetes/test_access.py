"""Kubeconfig files and pods' own folders: what they lead to, and what is said of those that lead nowhere."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from pymesh.control.sources.kubernetes import access
from pymesh.control.sources.kubernetes.credential import CredentialsError, Fixed, Shown
from tests.tools.certificates import Authority

V1 = "client.authentication.k8s.io/v1"


def kubeconfig(folder: Path, user: Any = None, cluster: Any = None, **more: Any) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "one", "cluster": {"server": "https://10.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "me", "user": user or {}}],
        "contexts": [{"name": "here", "context": {"cluster": "one", "user": "me", "namespace": "shop"}}],
        "current-context": "here",
        **more,
    }
    path = folder / "config"
    path.write_text(yaml.safe_dump(document))
    return path


def shown(found: access.Access) -> Shown:
    return asyncio.run(found.credential.shown())


def test_a_token(tmp_path: Path) -> None:
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"token": "s3cret"})])
    assert (found.server, found.namespace) == ("https://10.0.0.1:6443", "shop")
    assert shown(found) == Shown("s3cret")
    assert "s3cret" not in repr(found)


def test_a_token_file_is_read_again_each_time(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"tokenFile": "token"})])
    assert shown(found) == Shown("first")
    (tmp_path / "token").write_text("second\n")
    assert shown(found) == Shown("second")
    (tmp_path / "token").write_text("t\u00f6ken\n")
    with pytest.raises(CredentialsError, match="no header can have"):
        shown(found)
    (tmp_path / "token").unlink()
    with pytest.raises(CredentialsError, match="token: No such file"):
        shown(found)


@pytest.mark.parametrize("inline", [True, False])
def test_a_client_certificate(tmp_path: Path, inline: bool) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("operator")
    names = {"client-certificate": pair.chain, "client-key": pair.key}
    trusted = {"certificate-authority": authority.root}
    if inline:
        user = {f"{name}-data": base64.b64encode(path.read_bytes()).decode() for name, path in names.items()}
        cluster = {"certificate-authority-data": base64.b64encode(authority.root.read_bytes()).decode()}
    else:
        user = {name: path.name for name, path in names.items()}
        cluster = {name: path.name for name, path in trusted.items()}
    found = access.from_kubeconfig([kubeconfig(tmp_path, user, cluster)])
    assert shown(found).certificate == (pair.chain.read_text(), pair.key.read_text())
    assert len(found.tls(shown(found)).get_ca_certs()) == 1


def test_another_context_and_several_files(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir(), second.mkdir()
    contexts = [{"name": "there", "context": {"cluster": "one", "user": "me"}}]
    files = [kubeconfig(first, {"token": "a"}), kubeconfig(second, {"token": "b"}, contexts=contexts)]
    found = access.from_kubeconfig(files, "there")
    assert (shown(found), found.namespace) == (Shown("a"), "default")
    with pytest.raises(CredentialsError, match="there is no context 'nowhere'; known: here, there"):
        access.from_kubeconfig(files, "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"current-context": ""}, "there is no current-context; hint: --context NAME"),
        ({"clusters": []}, "there is no cluster 'one'; known: none"),
        ({"users": []}, "there is no user 'me'; known: none"),
        ({"kind": "Pod"}, "it is no kubeconfig; hint: kind: Config"),
        ({"cluster": {"server": "http://10.0.0.1"}}, "the server 'http://10.0.0.1' is not https://HOST[:PORT]"),
        ({"cluster": {"server": "https://10.0.0.1:644300"}}, "the server 'https://10.0.0.1:644300' is not"),
        ({"cluster": {"server": "https://10.0.0.1:api"}}, "the server 'https://10.0.0.1:api' is not https://HOST"),
        ({"cluster": {"server": "https://"}}, "is not https://HOST[:PORT]"),
        ({"cluster": {"server": "https://[fd00::1"}}, "the server 'https://[fd00::1' is not https://HOST[:PORT]"),
        ({"user": {"token": "t\u00f6ken"}}, "the token has a character that no header can have"),
        ({"user": {"token": "a\nb"}}, "the token has a character that no header can have"),
        ({"cluster": {"proxy-url": "socks5://x"}}, "cluster 'one': 'proxy-url' is not supported"),
        ({"user": {"username": "u", "password": "p"}}, "'username' is not supported; hint: use a token or a client"),
        (
            {"user": {"auth-provider": {"name": "gcp"}}},
            "'auth-provider' is not supported; hint: use the provider's exec",
        ),
        ({"user": {"client-certificate-data": "LS0="}}, "client-certificate and client-key belong together"),
        ({"user": {"client-certificate-data": "%%"}}, "client-certificate-data is not base64 of PEM"),
        ({"user": {"client-certificate": "no.pem"}}, "no.pem: No such file or directory"),
        ({"user": {"exec": {"command": "x"}}}, "user 'me': exec: apiVersion '' is not supported; hint: client.auth"),
        (
            {"user": {"exec": {"command": "x", "apiVersion": V1, "interactiveMode": "Always"}}},
            "interactiveMode: Always needs a person",
        ),
    ],
)
def test_what_leads_nowhere(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    user, cluster = changes.pop("user", None), changes.pop("cluster", None)
    with pytest.raises(CredentialsError) as refused:
        access.from_kubeconfig([kubeconfig(tmp_path, user, cluster, **changes)])
    assert said in str(refused.value)


def test_a_pod_finds_its_cluster(tmp_path: Path) -> None:
    for name, content in (("ca.crt", ""), ("namespace", "mesh"), ("token", "of-the-pod")):
        (tmp_path / name).write_text(content)
    env = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    found = access.in_cluster(env, tmp_path)
    assert (found.server, found.namespace, shown(found)) == ("https://[fd00::1]:6443", "mesh", Shown("of-the-pod"))
    (tmp_path / "ca.crt").unlink()
    with pytest.raises(CredentialsError, match="the pod needs a service account"):
        access.in_cluster(env, tmp_path)


def test_where_it_is_looked_for(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "t"})
    assert access.find(path, environment={}).server == "https://10.0.0.1:6443"
    assert access.find(environment={"KUBECONFIG": f":{path}"}).server == "https://10.0.0.1:6443"
    with pytest.raises(CredentialsError, match="no Kubernetes cluster is named"):
        access.find(environment={"HOME": str(tmp_path)})


def plugin(folder: Path, answer: Any, code: int = 0) -> dict[str, Any]:
    """A program that counts its calls and says this."""
    script = folder / "plugin.py"
    script.write_text(
        "import json, os, pathlib, sys\n"
        "calls = pathlib.Path(sys.argv[1]); calls.write_text(calls.read_text() + '.' if calls.exists() else '.')\n"
        "pathlib.Path(sys.argv[1] + '.info').write_text(os.environ['KUBERNETES_EXEC_INFO'])\n"
        f"print({json.dumps(answer) if isinstance(answer, str) else repr(json.dumps(answer))}); sys.exit({code})\n"
    )
    return {"apiVersion": V1, "command": sys.executable, "args": [str(script), str(folder / "calls")]}


def credential(**status: Any) -> dict[str, Any]:
    return {"apiVersion": V1, "kind": "ExecCredential", "status": status}


def test_a_plugin_is_asked_once_and_again_when_the_server_refuses(tmp_path: Path) -> None:
    asked = {**plugin(tmp_path, credential(token="from-a-plugin")), "provideClusterInfo": True}
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"exec": asked})])

    async def whole() -> None:
        assert [await found.credential.shown() for _ in range(3)] == [Shown("from-a-plugin")] * 3
        assert (tmp_path / "calls").read_text() == "."
        found.credential.refused()
        await asyncio.gather(*(found.credential.shown() for _ in range(5)))
        assert (tmp_path / "calls").read_text() == ".."

    asyncio.run(whole())
    info = json.loads((tmp_path / "calls.info").read_text())
    assert info["spec"] == {"interactive": False, "cluster": {"server": "https://10.0.0.1:6443/"}}


def test_a_plugin_is_asked_again_before_its_credential_expires(tmp_path: Path) -> None:
    asked = plugin(tmp_path, credential(token="short", expirationTimestamp="2026-01-01T00:00:00Z"))
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"exec": asked})])
    asyncio.run(found.credential.shown())
    asyncio.run(found.credential.shown())
    assert (tmp_path / "calls").read_text() == ".."


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ("no JSON", 0, "its output is no ExecCredential"),
        (credential(), 0, "its output is no ExecCredential"),
        (credential(clientCertificateData="x"), 0, "its output is no ExecCredential"),
        ({**credential(token="t"), "apiVersion": "v2"}, 0, "its output is no ExecCredential"),
        (credential(token="t"), 3, "it ended with 3"),
    ],
)
def test_a_plugin_that_fails(tmp_path: Path, answer: Any, code: int, said: str) -> None:
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"exec": plugin(tmp_path, answer, code)})])
    with pytest.raises(CredentialsError, match=said):
        asyncio.run(found.credential.shown())


def test_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    asked = {"apiVersion": V1, "command": "no-such-plugin", "installHint": "install the cloud's tools"}
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"exec": asked})])
    with pytest.raises(CredentialsError, match="it is not installed; hint: install the cloud's tools"):
        asyncio.run(found.credential.shown())


def test_a_plugin_that_cannot_be_run(tmp_path: Path) -> None:
    script = tmp_path / "plugin"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"exec": {"apiVersion": V1, "command": str(script)}})])
    with pytest.raises(CredentialsError, match=r"plugin: it cannot be run \(No such file or directory\)"):
        shown(found)


def test_a_plugin_that_nobody_waits_for_is_ended(tmp_path: Path) -> None:
    """Else each who gives up leaves one behind."""
    script, told = tmp_path / "plugin", tmp_path / "pid"
    os.mkfifo(told)
    script.write_text(f"#!/bin/sh\necho $$ > {told}\nexec sleep 600\n")
    script.chmod(0o755)
    found = access.from_kubeconfig([kubeconfig(tmp_path, {"exec": {"apiVersion": V1, "command": str(script)}})])

    async def given_up() -> str:
        asking = asyncio.create_task(found.credential.shown())
        number = (await asyncio.to_thread(told.read_text)).strip()
        asking.cancel()
        await asyncio.wait([asking])
        return number

    assert not Path(f"/proc/{asyncio.run(given_up())}").exists()


def test_a_variable_of_a_plugin_may_be_empty(tmp_path: Path) -> None:
    made = plugin(tmp_path, credential(token="t"))
    made["env"] = [*made.get("env", ()), {"name": "EMPTY"}]
    assert shown(access.from_kubeconfig([kubeconfig(tmp_path, {"exec": made})])) == Shown("t")


def test_files_of_kubeconfig_may_be_missing_or_empty(tmp_path: Path) -> None:
    """As for kubectl, which many give a list of files that are there on some of their machines."""
    (tmp_path / "empty").touch()
    there = kubeconfig(tmp_path, {"token": "t"})
    listed = f"{tmp_path / 'missing'}:{tmp_path / 'empty'}:{there}"
    assert access.find(environment={"KUBECONFIG": listed}).server == "https://10.0.0.1:6443"
    with pytest.raises(CredentialsError, match="missing: No such file"):
        access.find(environment={"KUBECONFIG": str(tmp_path / "missing")})


def test_nobody_is_asked_for_the_password_of_a_key(tmp_path: Path, authority: Authority) -> None:
    """OpenSSL would ask at the terminal, and the program would stand still."""
    issued = authority.issue("me")
    key = load_pem_private_key(issued.key.read_bytes(), None)
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"s3cret")).decode()
    found = access.Access("https://10.0.0.1:6443", Fixed())
    with pytest.raises(CredentialsError, match="are encrypted"):
        found.tls(Shown("", (issued.chain.read_text(), encrypted)))


def test_an_authority_need_not_follow_rfc_5280_to_the_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.13 asks for that by default; what kubeadm and others have made for years does not."""
    default = ssl.create_default_context

    def strict(*given: Any, **more: Any) -> ssl.SSLContext:
        made = default(*given, **more)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    monkeypatch.setattr(ssl, "create_default_context", strict)
    context = access.Access("https://10.0.0.1:6443", Fixed()).tls(Shown())
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
