"""`pymesh policy`: the mesh's policies for the network below it."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import click
import yaml

from pymesh.capture.rules import OPEN_PORTS
from pymesh.cli.problem import give_up
from pymesh.control.config import DEFAULT_TRUST_DOMAIN
from pymesh.control.injection.manifest_yaml import Dumper
from pymesh.control.network import network_policy, nftables
from pymesh.control.network.layer4 import Network
from pymesh.control.resources.diagnostics import Report, did_you_mean
from pymesh.control.resources.workloads import WorkloadEntry
from pymesh.control.store.store import MeshOptions, assemble
from pymesh.explain.files import read
from pymesh.explain.source import SourceError


@click.group("policy")
def command() -> None:
    """Write the mesh's policies as rules of the network below it."""


def _networks(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(text, strict=False) for text in texts)
    except ValueError as error:
        raise click.BadParameter(f"{error}; hint: 10.0.0.0/8", context, parameter) from None


@command.command("export")
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FOLDER...")
@click.option("-o", "--output", type=click.Choice(["networkpolicy", "nftables"]), default="networkpolicy",
              show_default=True)  # fmt: skip
@click.option("-n", "--namespace", "namespaces", multiple=True, help="Only for these; all that there are by default.")
@click.option("--open-port", "open_ports", multiple=True, type=click.IntRange(1, 65535), metavar="PORT",
              help="NetworkPolicy: open to everybody, as one that pods exclude from capture.")  # fmt: skip
@click.option("--workload", metavar="NAME.NAMESPACE", help="nftables: the WorkloadEntry of the host.")
@click.option("--known-only", is_flag=True,
              help="nftables: the mesh's clients are the WorkloadEntries there are, and no others.")  # fmt: skip
@click.option("--mesh-network", "edge", multiple=True, callback=_networks, metavar="CIDR",
              help="nftables: the mesh's clients are in these networks.")  # fmt: skip
@click.option("--trust-domain", default=DEFAULT_TRUST_DOMAIN, show_default=True)
def export(
    folders: tuple[Path, ...],
    output: str,
    namespaces: tuple[str, ...],
    open_ports: tuple[int, ...],
    workload: str | None,
    known_only: bool,
    edge: tuple[Network, ...],
    trust_domain: str,
) -> None:
    """Write what AuthorizationPolicies and PeerAuthentications let in, as the network can say it.

    \b
    pymesh policy export config/ | kubectl apply -f -
    pymesh policy export config/ -o nftables --workload db-0.shop | nft -f -

    A network knows addresses and ports. What is written lets in at least whom the mesh lets in: it is a second wall
    behind the first. What cannot be said is told on standard error."""
    options, report = MeshOptions(trust_domain=trust_domain), Report()
    try:
        resources, _ = read(folders, report)
    except SourceError as error:
        give_up(str(error))
    store = assemble(resources, options, report)
    if report.failed:
        give_up("\n".join(str(one) for one in report.diagnostics if one.severity == "error"))
    entries = [one for one in resources if isinstance(one, WorkloadEntry)]
    if output == "nftables":
        try:
            click.echo(nftables.export(store, entries, _entry(entries, workload), known_only, edge), nl=False)
        except nftables.ExportError as error:
            give_up(str(error))
        return
    wanted = namespaces or {one.namespace for one in resources}
    # What capture leaves alone reaches the application past the proxy, and its policies.
    found, notes = network_policy.export(store, entries, wanted, (*OPEN_PORTS, *open_ports))
    for note in notes:
        click.echo(f"note: {note}", err=True)
    click.echo(yaml.dump_all(found, Dumper=Dumper, sort_keys=False, width=4096), nl=False)


def _entry(entries: list[WorkloadEntry], name: str | None) -> WorkloadEntry:
    known = {f"{one.name}.{one.namespace}": one for one in entries}
    if not name:
        give_up(f"which host? hint: --workload NAME.NAMESPACE; {did_you_mean('', known, otherwise='')}".rstrip("; "))
    if name not in known:
        give_up(f"there is no WorkloadEntry {name!r}; hint: {did_you_mean(name, known)}")
    return known[name]
