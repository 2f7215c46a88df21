"""`pymesh proxy-config`: what a proxy runs on, as tables or as Envoy's messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import click

from pymesh.cli.problem import give_up
from pymesh.operate import dump, show
from pymesh.operate.dump import KINDS, Dump, DumpError, Json, Row
from pymesh.operate.mesh import ControlPlane, PageError, page

_URLS = {
    "listeners": "envoy.config.listener.v3.Listener",
    "routes": "envoy.config.route.v3.RouteConfiguration",
    "clusters": "envoy.config.cluster.v3.Cluster",
    "endpoints": "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "secrets": "envoy.extensions.transport_sockets.tls.v3.Secret",
}


@dataclass(frozen=True, slots=True)
class Looked:
    """A proxy's pages, or a saved dump."""

    dump: Dump
    #: Of a running proxy: the page at a path.
    page: Callable[[str], bytes] | None = None
    #: Type and name of a resource -> the places that it comes from; of a proxy that the control plane knows.
    origins: Mapping[tuple[str, str], Sequence[Json]] = field(default_factory=dict)

    def places(self, kind: str, name: str) -> str:
        """Where a resource comes from."""
        found = self.origins.get((_URLS.get(kind, ""), name), ())
        more = f" + {len(found) - 1} more" if len(found) > 1 else ""
        return f"{found[0]['kind']} {found[0]['at']}{more}" if found else "-"


@click.group("proxy-config")
def command() -> None:
    """Show what a proxy runs on: listeners, routes, clusters, endpoints, secrets.

    \b
    pymesh proxy-config routes reviews-v1               of a proxy that is connected
    pymesh proxy-config clusters reviews-v1 -o wide     with the file and line that each comes from
    pymesh proxy-config listeners 127.0.0.1:15000       of the proxy with these admin pages, Envoy's as well
    pymesh proxy-config all -f dump.json                from a saved /config_dump
    pymesh proxy-config endpoints ingress --name reviews -o json

    Columns and words follow `istioctl proxy-config`."""


def _options(function: Callable[..., None]) -> Callable[..., None]:
    for one in (
        show.OUTPUT,
        click.option("--name", default="", metavar="TEXT", help="Only what has this text in its row."),
        show.ADMIN,
        click.option("-f", "--file", type=click.Path(path_type=Path), metavar="FILE", help="A saved /config_dump."),
        click.argument("proxy", required=False),
    ):
        function = one(function)
    return function


def _add(kind: str, text: str) -> None:
    @command.command(kind, help=text)
    @_options
    def shown(proxy: str | None, file: Path | None, admin: str | None, name: str, output: show.Format) -> None:
        looked = _look(proxy, file, admin, output)
        try:
            click.echo(_shown(looked, kind, name, output), nl=False)
        except PageError as error:
            give_up(str(error))


for _kind, _text in (
    ("listeners", "Where connections are taken, and where each filter chain leads."),
    ("routes", "Which requests go where, in the order in which routes are tried."),
    ("clusters", "Where can be gone to."),
    ("endpoints", "Who serves each cluster, and what the proxy thinks of them."),
    ("secrets", "Certificates and roots, never keys."),
    ("log", "What is logged of requests and connections, and where."),
):
    _add(_kind, _text)


@command.command("bootstrap")
@_options
def bootstrap(proxy: str | None, file: Path | None, admin: str | None, name: str, output: show.Format) -> None:
    """What the proxy was started with, without keys."""
    looked = _look(proxy, file, admin, output)
    click.echo(show.data({"bootstrap": looked.dump.bootstrap}, "yaml" if output == "yaml" else "json"), nl=False)


@command.command("all")
@_options
def everything(proxy: str | None, file: Path | None, admin: str | None, name: str, output: show.Format) -> None:
    """Everything, one table after the other."""
    looked = _look(proxy, file, admin, output)
    try:
        if output in ("json", "yaml"):
            found = {kind: _messages(looked, kind, name) for kind in KINDS if kind != "log"}
            click.echo(show.data({"bootstrap": looked.dump.bootstrap, **found}, output), nl=False)
            return
        for kind in KINDS:
            click.echo(f"{kind.upper()}\n{_shown(looked, kind, name, output)}")
    except PageError as error:
        give_up(str(error))


def _look(proxy: str | None, file: Path | None, admin: str | None, output: show.Format) -> Looked:
    if (proxy is None) == (file is None):
        give_up("say which proxy\nhint: name it as `pymesh proxy-status` does, or give HOST:PORT, or -f FILE")
    try:
        if file is not None:
            return Looked(dump.parse(file.read_bytes()))
        assert proxy is not None
        host, _, port = proxy.rpartition(":")
        if host and port.isdecimal():
            return _running(proxy)
        plane = ControlPlane(admin)
        found = plane.find(proxy)
        origins: dict[tuple[str, str], Sequence[Json]] = {}
        if output == "wide":
            for one in plane.page("/debug/provenance", proxyID=found.node_id):
                origins[one["type_url"].rpartition("/")[2], one["name"]] = one["objects"]
        return _running(found.own_admin(), origins)
    except (PageError, DumpError) as error:
        give_up(str(error))
    except OSError as error:
        give_up(f"{file}: {error.strerror}")


def _running(address: str, origins: Mapping[tuple[str, str], Sequence[Json]] | None = None) -> Looked:
    return Looked(
        dump.parse(page(address, "/config_dump?include_eds")), lambda path: page(address, path), origins or {}
    )


def _messages(looked: Looked, kind: str, name: str) -> list[Json]:
    known = KINDS[kind]
    return [message for _, message in known.pick(looked.dump) if name in known.name(message)]


def _shown(looked: Looked, kind: str, name: str, output: show.Format) -> str:
    if output in ("json", "yaml"):
        return show.data(_messages(looked, kind, name), output)
    headings: Row = KINDS[kind].columns
    rows = _rows(looked, kind, wide=output == "wide")
    if output == "wide" and kind in _URLS and kind != "secrets":
        headings = (*headings, "VERSION", "FROM")
    return show.table(headings, [row for row in rows if name in " ".join(row)])


def _rows(looked: Looked, kind: str, *, wide: bool) -> list[Row]:
    known = KINDS[kind]
    if kind == "secrets" and looked.page is not None:
        return dump.certificate_rows(json.loads(looked.page("/certs")), datetime.now(UTC))
    live: dict[str, list[Row]] = {}
    if kind == "endpoints" and looked.page is not None:
        for row in dump.live_endpoint_rows(looked.page("/clusters").decode(errors="replace")):
            live.setdefault(row[-1], []).append(row)
    versions: dict[str, str] = {}
    found: list[tuple[str, list[Row]]] = []
    for version, message in known.pick(looked.dump):
        name = known.name(message)
        versions[name] = version
        found.append((name, known.rows(message)))
    if live:
        # The proxy's own view has static clusters, too, and what health checks found out.
        found = sorted(live.items())
    if not wide or kind not in _URLS or kind == "secrets":
        return [row for _, rows in found for row in rows]
    return [
        (*row, versions.get(name, "")[:12] or "-", looked.places(kind, name)) for name, rows in found for row in rows
    ]
