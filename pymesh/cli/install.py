"""`pymesh install`: the mesh in a Kubernetes cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
import yaml

from pymesh.cli.problem import give_up
from pymesh.control.config import DEFAULT_TRUST_DOMAIN
from pymesh.control.injection.manifest_yaml import Dumper
from pymesh.control.install.apply import Cluster, RefusedError
from pymesh.control.install.objects import objects
from pymesh.control.install.values import DEFAULT_IMAGE, NAMESPACE, Values

PATH = click.Path(path_type=Path)
#: What users write, that is not ours to install.
_APIS: Final[Mapping[str, str]] = {
    "networking.istio.io": "VirtualService, DestinationRule, Gateway, ServiceEntry, Sidecar",
    "security.istio.io": "AuthorizationPolicy, PeerAuthentication, RequestAuthentication",
    "gateway.networking.k8s.io": "the Gateway API",
}


def cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Which cluster, and which installation in it."""
    for option in (
        click.option("--namespace", default=NAMESPACE, show_default=True, help="Of the control plane and the gateway."),
        click.option("--kubeconfig", type=PATH, metavar="FILE", help="As kubectl's; $KUBECONFIG or ~/.kube/config."),
        click.option("--context", default="", metavar="NAME", help="Of the kubeconfig."),
        click.option("--gateway/--no-gateway", default=True, show_default=True, help="An ingress gateway as well."),
    ):
        command = option(command)
    return command


@click.command("install")
@cluster_options
@click.option("--image", default=DEFAULT_IMAGE, show_default=True, help="Of the control plane, gateway and sidecars.")
@click.option("--image-pull-policy", type=click.Choice(["Always", "IfNotPresent", "Never"]), default="IfNotPresent",
              show_default=True)  # fmt: skip
@click.option("--trust-domain", default=DEFAULT_TRUST_DOMAIN, show_default=True)
@click.option("--cluster-id", default="Kubernetes", show_default=True, help="Of this cluster among others, in metrics.")
@click.option("--gateway-replicas", type=click.IntRange(1, 100), default=1, show_default=True)
@click.option("--gateway-service-type", type=click.Choice(["LoadBalancer", "NodePort", "ClusterIP"]),
              default="LoadBalancer", show_default=True)  # fmt: skip
@click.option("--storage-class", default="", help="Of the volume that keeps the mesh's root; the cluster's default.")
@click.option("--injection-failure-policy", type=click.Choice(["Fail", "Ignore"]), default="Fail", show_default=True,
              help="Of new pods while the control plane does not answer.")  # fmt: skip
@click.option("--validation-failure-policy", type=click.Choice(["Fail", "Ignore"]), default="Ignore",
              show_default=True, help="Of resources in that time.")  # fmt: skip
@click.option("--dry-run", type=click.Choice(["client", "server"]), is_flag=False, flag_value="client",
              help="Print what would be applied, or have the API server judge it and change nothing.")  # fmt: skip
def command(kubeconfig: Path | None, context: str, dry_run: str | None, **chosen: Any) -> None:
    """Install the mesh into a Kubernetes cluster.

    \b
    pymesh install --dry-run                          print the manifests
    pymesh install --dry-run=server                   have the API server check them
    pymesh install --image registry.example/pymesh:1  apply them (server-side apply; again and again if you like)

    Definitions of Istio's and the Gateway API's own kinds are theirs to install; what is missing is told."""
    wanted = objects(Values(**chosen))
    if dry_run == "client":
        click.echo(yaml.dump_all(wanted, Dumper=Dumper, sort_keys=False, width=4096), nl=False)
        return

    async def run(cluster: Cluster) -> None:
        await cluster.apply(wanted, check_only=dry_run == "server")
        for one in await cluster.missing_apis(_APIS):
            click.echo(f"note: the cluster has no {one}; install its definitions to use them", err=True)

    with_cluster(kubeconfig, context, run)


def with_cluster(kubeconfig: Path | None, context: str, work: Callable[[Cluster], Any]) -> None:
    """Do something with the cluster that the options name; what fails is told, and ends the process with 1."""
    try:
        from pymesh.control.sources.kubernetes import access
        from pymesh.control.sources.kubernetes.client import ApiClient, ApiError
        from pymesh.control.sources.kubernetes.credential import CredentialsError
    except ImportError as error:
        give_up(f"the Kubernetes client is not installed ({error.name})\nhint: pip install 'pymesh-proxy[kubernetes]'")

    async def run() -> None:
        api = ApiClient(access.find(kubeconfig, context))
        try:
            await work(Cluster(api, ApiError, click.echo))
        finally:
            await api.close()

    try:
        asyncio.run(run())
    except (RefusedError, ApiError, CredentialsError) as error:
        give_up("\n".join(map(str, error.args)))
