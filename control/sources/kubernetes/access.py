"""Where the API server is and who we are: from inside of a cluster, or from a kubeconfig file.

What `kubectl` takes is taken: tokens, token files, client certificates and exec plugins. What is deprecated there
(passwords, auth providers) is refused by name.
"""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import tempfile
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from pymesh.control.sources.kubernetes.credential import Credential, CredentialsError, Fixed, Shown, TokenFile
from pymesh.control.sources.kubernetes.exec_plugin import ExecPlugin

#: Where the kubelet puts what a pod needs to speak to the API server.
ACCOUNT_FOLDER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_REFUSED_USER: Final[Mapping[str, str]] = {
    "username": "use a token or a client certificate",
    "password": "use a token or a client certificate",
    "auth-provider": "use the provider's exec plugin",
    "as": "give the user itself the permissions",
    "as-groups": "give the user itself the permissions",
}
_REFUSED_CLUSTER: Final[Mapping[str, str]] = {
    "proxy-url": "give the address of the API server itself",
}


@dataclass(frozen=True, slots=True)
class Access:
    """An API server, and who we are there."""

    #: As in https://10.96.0.1:443, without a slash at the end.
    server: str
    credential: Credential
    #: Authorities that may vouch for the server, as PEM; empty: those of the system.
    authorities: str = ""
    #: A name for the server's certificate other than the address's.
    server_name: str = ""
    insecure: bool = False
    #: The namespace that is meant where none is named.
    namespace: str = "default"

    def tls(self, shown: Shown) -> ssl.SSLContext:
        """How to speak to the server. Raises CredentialsError."""
        try:
            context = ssl.create_default_context(cadata=self.authorities or None)
        except ssl.SSLError as error:
            raise CredentialsError(f"the authorities for {self.server} are no PEM certificates") from error
        # From Python 3.13 on the default is RFC 5280 to the letter. Authorities of many clusters are not so: without an
        # authority key identifier, or with a key usage that is not critical. No other client refuses them.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if shown.certificate is not None:
            _present(context, *shown.certificate)
        return context


def _present(context: ssl.SSLContext, chain: str, key: str) -> None:
    # Python's ssl reads certificates from files alone.
    with tempfile.TemporaryDirectory(prefix="pymesh-") as folder:
        chain_file, key_file = Path(folder) / "chain", Path(folder) / "key"
        chain_file.write_text(chain)
        key_file.touch(mode=0o600)
        key_file.write_text(key)
        try:
            # Without a password OpenSSL would ask whoever sits at the terminal, and wait for him.
            context.load_cert_chain(chain_file, key_file, password="")
        except (ssl.SSLError, ValueError) as error:
            raise CredentialsError(
                "the client certificate and its key are no PEM, are encrypted, or do not fit together"
            ) from error


def find(kubeconfig: Path | None = None, context: str = "", environment: Mapping[str, str] | None = None) -> Access:
    """The cluster that is meant: the file's, the one we are in, or that of KUBECONFIG or ~/.kube/config."""
    env = os.environ if environment is None else environment
    if kubeconfig is not None:
        return from_kubeconfig([kubeconfig], context)
    if "KUBERNETES_SERVICE_HOST" in env and not context:
        return in_cluster(env)
    named = [Path(one) for one in env.get("KUBECONFIG", "").split(os.pathsep) if one]
    home = Path(env.get("HOME", "/")) / ".kube" / "config"
    # As with kubectl KUBECONFIG may name files that are not there; only all of them must not be missing.
    files = [one for one in named if one.exists()] or named or ([home] if home.exists() else [])
    if not files:
        hint = "--kubeconfig FILE, or run it in a pod with a service account"
        raise CredentialsError(f"no Kubernetes cluster is named; hint: {hint}")
    return from_kubeconfig(files, context)


def in_cluster(environment: Mapping[str, str], folder: Path = ACCOUNT_FOLDER) -> Access:
    """The cluster that this process is a pod of. Raises CredentialsError."""
    host, port = environment["KUBERNETES_SERVICE_HOST"], environment.get("KUBERNETES_SERVICE_PORT", "443")
    try:
        authorities = (folder / "ca.crt").read_text(encoding="utf-8")
        namespace = (folder / "namespace").read_text(encoding="utf-8").strip()
    except OSError as error:
        hint = "the pod needs a service account, with automountServiceAccountToken"
        raise CredentialsError(f"{error.filename}: {error.strerror}; hint: {hint}") from error
    shown = f"[{host}]" if ":" in host else host
    return Access(f"https://{shown}:{port}", TokenFile(folder / "token"), authorities, namespace=namespace)


def from_kubeconfig(files: Sequence[Path], context: str = "") -> Access:
    """What a context of these files says; of several entries with a name the first counts. Raises CredentialsError."""
    loaded = [(path, _loaded(path)) for path in files]
    chosen = context or next((doc["current-context"] for _, doc in loaded if doc.get("current-context")), "")
    where = ":".join(map(str, files))
    if not chosen:
        raise CredentialsError(f"{where}: there is no current-context; hint: --context NAME")
    _, meant = _entry(loaded, "context", chosen, where)
    cluster_path, cluster = _entry(loaded, "cluster", str(meant.get("cluster", "")), where)
    _refuse(cluster, _REFUSED_CLUSTER, f"{cluster_path}: cluster {meant.get('cluster')!r}")
    server = str(cluster.get("server", "")).rstrip("/")
    if not _is_url(server):
        raise CredentialsError(f"{cluster_path}: the server {server!r} is not https://HOST[:PORT]")
    authorities = _content(cluster, "certificate-authority", cluster_path)
    credential: Credential = Fixed()
    if meant.get("user"):
        user_path, user = _entry(loaded, "user", str(meant["user"]), where)
        credential = _credential(user, user_path, str(meant["user"]), cluster, authorities)
    return Access(
        server,
        credential,
        authorities,
        str(cluster.get("tls-server-name", "")),
        bool(cluster.get("insecure-skip-tls-verify")),
        str(meant.get("namespace", "default")),
    )


def _is_url(server: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(server)
        return parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        return False


def _credential(
    user: Mapping[str, Any], path: Path, name: str, cluster: Mapping[str, Any], authorities: str
) -> Credential:
    title = f"{path}: user {name!r}"
    _refuse(user, _REFUSED_USER, title)
    chain, key = _content(user, "client-certificate", path), _content(user, "client-key", path)
    if bool(chain) != bool(key):
        raise CredentialsError(f"{title}: client-certificate and client-key belong together")
    if user.get("tokenFile") and not chain:
        return TokenFile(path.parent / str(user["tokenFile"]))
    if user.get("exec"):
        server = {
            "server": cluster.get("server"),
            "tls-server-name": cluster.get("tls-server-name"),
            "insecure-skip-tls-verify": cluster.get("insecure-skip-tls-verify"),
            "certificate-authority-data": base64.b64encode(authorities.encode()).decode() if authorities else None,
        }
        try:
            return ExecPlugin.parse(user["exec"], path.parent, {k: v for k, v in server.items() if v})
        except ValueError as error:
            raise CredentialsError(f"{title}: exec: {error}") from error
    return Fixed(Shown(str(user.get("token", "")), (chain, key) if chain else None))


def _refuse(entry: Mapping[str, Any], refused: Mapping[str, str], title: str) -> None:
    for name, hint in refused.items():
        if entry.get(name):
            raise CredentialsError(f"{title}: {name!r} is not supported; hint: {hint}")


def _loaded(path: Path) -> Mapping[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CredentialsError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CredentialsError(f"{path}: it is not YAML") from error
    if found is None:
        return {}  # nothing is in it yet
    if not isinstance(found, Mapping) or found.get("kind", "Config") != "Config":
        raise CredentialsError(f"{path}: it is no kubeconfig; hint: kind: Config")
    return found


def _entry(
    loaded: Sequence[tuple[Path, Mapping[str, Any]]], kind: str, name: str, where: str
) -> tuple[Path, Mapping[str, Any]]:
    known = []
    for path, document in loaded:
        for one in document.get(f"{kind}s") or ():
            known.append(str(one.get("name")))
            if known[-1] == name:
                return path, one.get(kind) or {}
    raise CredentialsError(f"{where}: there is no {kind} {name!r}; known: {', '.join(known) or 'none'}")


def _content(entry: Mapping[str, Any], name: str, path: Path) -> str:
    """What is under NAME-data, or in the file that NAME names; empty if neither is there."""
    data, file = entry.get(f"{name}-data"), entry.get(name)
    try:
        if data:
            return base64.b64decode(str(data), validate=True).decode()
        return (path.parent / str(file)).read_text(encoding="utf-8") if file else ""
    except (binascii.Error, ValueError) as error:
        raise CredentialsError(f"{path}: {name}-data is not base64 of PEM") from error
    except OSError as error:
        raise CredentialsError(f"{error.filename}: {error.strerror}; hint: {path} names it as {name!r}") from error
