"""`pymesh describe`: what applies to a service, a workload or a gateway, and where it is written."""

from __future__ import annotations

from typing import Any

import click

from pymesh.cli.problem import give_up
from pymesh.operate import dump, show
from pymesh.operate.mesh import ControlPlane, PageError, each, page

#: Proxies that are asked how they find the endpoints of a service.
_MOST_ASKED = 32


@click.command("describe")
@click.argument("kind", type=click.Choice(["service", "workload", "gateway"]))
@click.argument("name")
@click.option("-n", "--namespace", default="default", show_default=True, metavar="NAME", help="Of short names.")
@show.ADMIN
@show.OUTPUT
def command(kind: str, name: str, namespace: str, admin: str | None, output: show.Format) -> None:
    """Show what applies to a service, a workload or a gateway.

    Each line has the file, line and column where it is written.

    \b
    pymesh describe service reviews        routes, policies, mutual TLS, filters, endpoints
    pymesh describe workload reviews-v1.shop
    pymesh describe gateway ingress -o json

    For a service the proxies that call it are asked which endpoints they have put out."""
    plane = ControlPlane(admin)
    try:
        found = plane.page("/debug/describe", kind=kind, name=name, namespace=namespace)
        if "error" in found:
            give_up(found["error"])
        health = _health(plane, found["host"]) if found.get("host") else []
    except PageError as error:
        give_up(str(error))
    if health:
        found["sections"]["Seen by callers"] = health
    if output in ("json", "yaml"):
        click.echo(show.data(found, output), nl=False)
    else:
        click.echo(_text(found), nl=False)


def _health(plane: ControlPlane, host: str) -> list[dict[str, Any]]:
    """Endpoints of a service that a caller's proxy has found unhealthy or has ejected."""
    asked = [one.admin for one in plane.proxies if one.admin is not None][:_MOST_ASKED]
    titles = [one.title for one in plane.proxies if one.admin is not None][:_MOST_ASKED]
    told = []
    for title, text in zip(titles, each(_clusters, asked), strict=True):
        for address, status, outlier, cluster in dump.live_endpoint_rows(text):
            is_bad = status != "HEALTHY" or outlier != "OK"
            if is_bad and cluster.startswith("outbound|") and cluster.endswith(f"|{host}"):
                shown = status.lower() if status != "HEALTHY" else "ejected by outlier detection"
                told.append({"text": f"{address} is {shown} for {title}", "at": None})
    return told


def _clusters(address: str) -> str:
    try:
        return page(address, "/clusters").decode(errors="replace")
    except PageError:
        return ""


def _text(found: dict[str, Any]) -> str:
    lines = [found["title"] + (f"   {found['at']}" if found["at"] else "")]
    for heading, items in found["sections"].items():
        lines += ["", f"{heading}:"]
        width = max(len(one["text"]) for one in items)
        lines += [f"  {one['text'].ljust(width)}   {one['at'] or ''}".rstrip() for one in items]
    if found["findings"]:
        lines += ["", "Findings:"]
        for one in found["findings"]:
            hint = f"\n    hint: {one['hint']}" if one["hint"] else ""
            lines.append(f"  {one['at']}: {one['severity']}: [{one['code']}] {one['message']}{hint}")
    return "\n".join(lines) + "\n"
