"""A real Kubernetes API server before a real etcd, and what tests do with it.

There is no controller: a namespace gets its `default` account from `namespace()`, which also removes what was in it.
Either server can be stopped, frozen and started again on its port with what it had stored.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.kubernetes.api import Api, ApiRefused, Object
from tests.tools.certificates import Authority
from tests.tools.peers import peer
from tests.tools.ports import free_port
from tests.tools.processes import Running, running

_TOKEN = "of-the-administrator"
#: The namespaces that every cluster has.
_OWN = ("default", "kube-system", "kube-public", "kube-node-lease")
_numbers = itertools.count(1)


class Server:
    """One of the two programs: started on the same port with the same options each time."""

    def __init__(self, title: str, argv: Sequence[str], port: int) -> None:
        self.title = title
        self.port = port
        self._argv = tuple(argv)
        self._stack = ExitStack()
        self._process: Running | None = None

    def start(self) -> None:
        """Start it; it accepts connections afterwards."""
        if self._process is None:
            self._process = self._stack.enter_context(
                running(self._argv, title=self.title, ports=[self.port], timeout=120)
            )

    def stop(self, *, kill: bool = False) -> None:
        """End it, at once with `kill`."""
        if self._process is not None:
            self.thaw()
            if kill:
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None
            self._stack.close()

    def freeze(self) -> None:
        """It keeps its connections and does nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        """What it has printed since it started."""
        return self._process.output() if self._process is not None else ""

    @property
    def pid(self) -> int:
        """Its process."""
        if self._process is None:
            raise RuntimeError(f"{self.title} does not run")
        return self._process.pid

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.alive():
            os.killpg(self._process.pid, number)


class Cluster(Api):
    """The two servers, and requests to the API as the administrator."""

    def __init__(self, folder: Path, flags: Sequence[str] = (), address: str = "127.0.0.1") -> None:
        self.folder = folder
        self.authority = Authority(folder, "cluster")
        self.ca = self.authority.root
        etcd_port, peer_port, port = free_port(), free_port(), free_port()
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        serving = self.authority.issue("apiserver", dns=names, addresses=["127.0.0.1", address])
        accounts = self.authority.issue("service-accounts", with_rsa=True)
        tokens = folder / "tokens.csv"
        tokens.write_text(f"{_TOKEN},administrator,1,system:masters\n")
        super().__init__(f"https://{address}:{port}", self.ca, _TOKEN)
        self.kubeconfig = self.kubeconfig_of(token=_TOKEN, name="administrator")
        etcd = f"http://127.0.0.1:{etcd_port}"
        peers = f"http://127.0.0.1:{peer_port}"
        self.etcd = Server(
            "etcd",
            [
                peer("etcd"),
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls={peers}",
                f"--initial-advertise-peer-urls={peers}",
                f"--initial-cluster=default={peers}",
            ],
            etcd_port,
        )
        self.apiserver = Server(
            "kube-apiserver",
            [
                peer("kube-apiserver"),
                f"--etcd-servers={etcd}",
                f"--bind-address={address}",
                f"--advertise-address={address}",
                f"--secure-port={port}",
                f"--tls-cert-file={serving.chain}",
                f"--tls-private-key-file={serving.key}",
                f"--client-ca-file={self.ca}",
                f"--cert-dir={folder}",
                f"--token-auth-file={tokens}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={accounts.key}",
                f"--service-account-signing-key-file={accounts.key}",
                "--service-cluster-ip-range=10.96.0.0/16,fd01::/112",
                "--endpoint-reconciler-type=none",
                "--allow-privileged=true",
                "--profiling=false",
                *flags,
            ],
            port,
        )

    @classmethod
    @contextmanager
    def running(cls, folder: Path, *flags: str, address: str = "127.0.0.1") -> Iterator[Cluster]:
        """A cluster for the length of a block; `flags` are further options of the API server."""
        made = cls(folder, flags, address)
        try:
            made.etcd.start()
            made.start_apiserver()
            yield made
        finally:
            made.apiserver.stop(kill=True)
            made.etcd.stop(kill=True)

    def start_apiserver(self) -> None:
        """Start the API server; it is ready afterwards."""
        self.apiserver.start()
        # When etcd has been away for minutes its client tries again after two, and a third of one.
        deadline = time.monotonic() + 300
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the API server is not ready:\n{self.apiserver.log()[-3000:]}")
            time.sleep(0.05)

    @contextmanager
    def namespace(self, name: str = "", labels: Mapping[str, str] | None = None) -> Iterator[str]:
        """A fresh namespace with its `default` account; everything in it is removed with the block."""
        name = name or f"test-{os.getpid()}-{next(_numbers)}"
        self.apply(
            [
                {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels or {})}},
                {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": name}},
            ]
        )
        try:
            yield name
        finally:
            self.remove_namespace(name)

    def remove_namespace(self, name: str) -> None:
        """What the namespace controller would do: remove everything in it, and then itself."""
        self.clear(name)
        if name in _OWN:
            return
        self.delete("v1", "Namespace", name)
        self.clear(name)
        found = self.get("v1", "Namespace", name)
        if found is not None:
            found["spec"] = {"finalizers": []}
            self.request("PUT", f"/api/v1/namespaces/{name}/finalize", found)

    def account_token(self, namespace: str, account: str, *audiences: str, seconds: int = 600) -> str:
        """A token of a service account, as the kubelet asks for it."""
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"audiences": list(audiences), "expirationSeconds": seconds},
        }
        made = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", asked)
        return str(made["status"]["token"])

    def kubeconfig_of(self, *, name: str, **user: Any) -> Path:
        """A kubeconfig file; `user` is what it says of the user, with `_` in place of `-`."""
        who = {key.replace("_", "-") if key != "tokenFile" else key: value for key, value in user.items()}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, **self._trusted()}}],
            "users": [{"name": name, "user": who}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        }
        path = self.folder / f"{name}.kubeconfig"
        path.touch(mode=0o600)
        path.write_text(yaml.safe_dump(config))
        return path

    def _trusted(self) -> dict[str, str]:
        return {"certificate-authority-data": base64.b64encode(self.ca.read_bytes()).decode()}

    def _is_ready(self) -> bool:
        try:
            self.request("GET", "/readyz")
        except (OSError, ApiRefused, json.JSONDecodeError):
            return False
        return True


__all__ = ["ApiRefused", "Cluster", "Object", "Server"]
