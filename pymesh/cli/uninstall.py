"""`pymesh uninstall`: the mesh out of a Kubernetes cluster."""

from __future__ import annotations

from pathlib import Path

import click

from pymesh.cli.install import cluster_options, with_cluster
from pymesh.control.install.apply import Cluster
from pymesh.control.install.objects import objects
from pymesh.control.install.values import Values


@click.command("uninstall")
@cluster_options
@click.option("--purge", is_flag=True, help="Also the definitions of our kinds with all that is written in them, the "
              "namespace, the volume with the mesh's root, and in all namespaces the roots' ConfigMaps and what runs "
              "Gateways of class pymesh.")  # fmt: skip
def command(namespace: str, kubeconfig: Path | None, context: str, gateway: bool, purge: bool) -> None:
    """Remove the mesh from a Kubernetes cluster.

    Pods keep their sidecars, and those the last configuration that they had, until the pods are made anew."""

    async def run(cluster: Cluster) -> None:
        await cluster.remove(objects(Values(namespace=namespace, gateway=gateway)), purge=purge)

    with_cluster(kubeconfig, context, run)
