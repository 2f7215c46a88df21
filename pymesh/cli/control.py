"""`pymesh control`: the control plane."""

from __future__ import annotations

import ipaddress
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from pymesh.cli.problem import give_up
from pymesh.control import app
from pymesh.control.config import DEFAULT_TRUST_DOMAIN, Address, Settings, SettingsError
from pymesh.control.resources.decode import duration
from pymesh.control.resources.diagnostics import ConfigError
from pymesh.control.sources.mesh import FileMesh
from pymesh.control.store.addresses import VIRTUAL_NETWORK
from pymesh.control.store.store import MeshOptions

if TYPE_CHECKING:
    from pymesh.control.sources.kubernetes.cluster import Cluster

PATH = click.Path(path_type=Path)


@click.command("control")
@click.option(
    "--config",
    "config",
    multiple=True,
    type=PATH,
    metavar="DIR",
    help="Folder with the mesh's resources; may be given several times.",
)
@click.option("--kubernetes", is_flag=True, help="Take the resources from a Kubernetes API server, not from folders.")
@click.option(
    "--kubeconfig",
    type=PATH,
    metavar="FILE",
    help="How to reach the API server; without it: as a pod, by KUBECONFIG, or by ~/.kube/config.",
)
@click.option("--context", default="", metavar="NAME", help="Another context of the kubeconfig than the current one.")
@click.option("--state", required=True, type=PATH, metavar="DIR", help="Where the root key is kept.")
@click.option(
    "--listen",
    default="127.0.0.1:15012",
    show_default=True,
    metavar="HOST:PORT",
    help="For proxies: xDS and certificates. Port 0 lets the system choose.",
)
@click.option(
    "--admin", default="127.0.0.1:15014", show_default=True, metavar="HOST:PORT", help="For people, on loopback."
)
@click.option("--tokens", type=PATH, metavar="FILE", help="Hashes of the workloads' join tokens (mode 0600).")
@click.option("--trust-domain", default=DEFAULT_TRUST_DOMAIN, show_default=True)
@click.option("--authority", type=PATH, metavar="DIR", help="Istio's plug-in CA files, instead of an own root.")
@click.option(
    "--certificate-lifetime",
    default="24h",
    show_default=True,
    metavar="TIME",
    help="Of workloads that ask for no other; proxies renew at half of it.",
)
@click.option(
    "--access-log",
    type=click.Choice(["TEXT", "JSON", "OFF"]),
    default="TEXT",
    show_default=True,
    help="What proxies log of each request.",
)
@click.option(
    "--outbound-traffic-policy",
    type=click.Choice(["ALLOW_ANY", "REGISTRY_ONLY"]),
    default="ALLOW_ANY",
    show_default=True,
    help="What captured traffic to unknown destinations may do.",
)
@click.option(
    "--auto-allocate",
    metavar="CIDR",
    is_flag=False,
    flag_value=str(VIRTUAL_NETWORK),
    help=f"Give services without a virtual address one of this network, {VIRTUAL_NETWORK} if it is left out.",
)
@click.option(
    "--webhook",
    metavar="HOST:PORT",
    help="For an API server: admission webhooks over TLS. Port 0 lets the system choose.",
)
@click.option(
    "--namespace",
    default="",
    metavar="NAME",
    help="With --kubernetes: that of the installation, where its Lease is and what holds for the whole mesh; "
    "by default the Lease is in the pod's, or the kubeconfig's, and what holds for all in istio-system.",
)
@click.option("--injection", type=PATH, metavar="FILE", help="InjectionSettings: pods get sidecars by the webhook.")
@click.option(
    "--server-name",
    "server_names",
    multiple=True,
    metavar="NAME",
    help="Another name that proxies and the API server know this by, for its certificates; repeatable.",
)
@click.option("--insecure-xds", is_flag=True, help="Cleartext, no authentication; loopback only, for tests.")
@click.option("--ports-file", type=PATH, metavar="FILE", help="Write the addresses there as JSON when ready.")
@click.option("--log-level", default="info", show_default=True)
def command(
    config: tuple[Path, ...],
    kubernetes: bool,
    kubeconfig: Path | None,
    context: str,
    state: Path,
    listen: str,
    admin: str,
    tokens: Path | None,
    trust_domain: str,
    authority: Path | None,
    certificate_lifetime: str,
    access_log: Literal["TEXT", "JSON", "OFF"],
    outbound_traffic_policy: Literal["ALLOW_ANY", "REGISTRY_ONLY"],
    auto_allocate: str | None,
    webhook: str | None,
    injection: Path | None,
    namespace: str,
    server_names: tuple[str, ...],
    insecure_xds: bool,
    ports_file: Path | None,
    log_level: str,
) -> None:
    """Run the control plane on folders of YAML, or on a Kubernetes API server."""
    if (kubeconfig is not None or context) and not kubernetes:
        give_up("--kubeconfig and --context tell how to reach an API server; hint: add --kubernetes")
    try:
        settings = Settings(
            config=config,
            kubernetes=kubernetes,
            state=state,
            listen=Address.parse(listen),
            admin=Address.parse(admin),
            tokens=tokens,
            trust_domain=trust_domain,
            authority=authority,
            certificate_lifetime=_lifetime(certificate_lifetime),
            server_names=server_names,
            insecure_xds=insecure_xds,
            webhook=Address.parse(webhook) if webhook else None,
            injection=injection,
            ports_file=ports_file,
        )
    except SettingsError as error:
        give_up(str(error))
    options = MeshOptions(
        trust_domain=trust_domain,
        access_log=access_log,
        outbound_traffic_policy=outbound_traffic_policy,
        virtual_network=_network(auto_allocate),
    )
    if not kubernetes:
        sys.exit(app.run(settings, FileMesh(config, options), log_level=log_level))
    mesh, cluster = _of_cluster(kubeconfig, context, options, namespace, injection, has_webhooks=webhook is not None)
    authenticator = None if insecure_xds else cluster.authenticator
    sys.exit(app.run(settings, mesh, companions=[cluster.run], authenticator=authenticator, log_level=log_level))


def _of_cluster(
    kubeconfig: Path | None,
    context: str,
    options: MeshOptions,
    namespace: str,
    injection: Path | None,
    *,
    has_webhooks: bool,
) -> tuple[app.Mesh, Cluster]:
    try:
        from pymesh.control.sources.kubernetes.client import ApiClient
    except ModuleNotFoundError as error:
        give_up(f"--kubernetes needs {error.name}; hint: pip install 'pymesh-proxy[kubernetes]'")
    from pymesh.control.admission.serving import SettingsFile
    from pymesh.control.sources.kubernetes import access
    from pymesh.control.sources.kubernetes.cluster import Cluster
    from pymesh.control.sources.kubernetes.credential import CredentialsError
    from pymesh.control.sources.kubernetes.mesh import KubernetesMesh

    try:
        found = access.find(kubeconfig, context)
        if namespace:
            # As in Istio: what holds for the whole mesh stands where the control plane is installed.
            options = replace(options, root_namespace=namespace)
        settings = SettingsFile(injection) if injection else None
        cluster_id = None if settings is None else lambda: settings.current().cluster_id
        mesh = KubernetesMesh(ApiClient(found), options, cluster_id=cluster_id)
        where = namespace or found.namespace
        return mesh, Cluster(
            ApiClient(found),
            mesh,
            where,
            options.trust_domain,
            has_webhooks=has_webhooks,
            injection=settings,
        )
    except CredentialsError as error:
        give_up(str(error))
    except ConfigError as error:
        give_up("\n".join(map(str, error.diagnostics)))


def _network(text: str | None) -> ipaddress.IPv4Network | None:
    try:
        found = None if text is None else ipaddress.IPv4Network(text)
    except ValueError as error:
        give_up(f"--auto-allocate: {error}; hint: {VIRTUAL_NETWORK}")
    if found is not None and found.prefixlen > 30:
        give_up(f"--auto-allocate: {found} has no room; hint: {VIRTUAL_NETWORK}")
    return found


def _lifetime(text: str) -> timedelta:
    parsed = duration(text)
    if parsed is None:
        raise SettingsError(f"--certificate-lifetime {text!r} is not a duration; hint: write 24h or 90m")
    return parsed
