"""`pymesh explain`: why a request is answered as it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from pymesh._bridge import ProxyError
from pymesh.cli.problem import give_up
from pymesh.control.config import DEFAULT_TRUST_DOMAIN
from pymesh.control.store.store import MeshOptions
from pymesh.explain import question, text
from pymesh.explain.admin import AdminSource
from pymesh.explain.files import FileSource
from pymesh.explain.question import Question, QuestionError
from pymesh.explain.source import Source, SourceError
from pymesh.explain.story import tell
from pymesh.explain.walk import Walker


@click.command("explain")
@click.argument("request", default="GET /", metavar='["METHOD /path"]')
@click.option("--from", "sender", required=True, metavar="ID",
              help="Who asks: a workload, NAMESPACE/ACCOUNT, spiffe://..., a gateway (where the request comes in), "
              "or `none` for somebody outside of the mesh.")  # fmt: skip
@click.option("--to", "service", required=True, metavar="SERVICE", help="Who is asked: NAME, NAME.NAMESPACE or a host.")
@click.option("--config", multiple=True, type=click.Path(path_type=Path), metavar="DIR",
              help="The mesh's resources, or a folder with a mesh.yaml; may be given several times.")  # fmt: skip
@click.option("--admin", metavar="HOST:PORT", help="In place of files: the admin address of a running control plane.")
@click.option("--header", "headers", multiple=True, metavar='"NAME: VALUE"', help="Of the request; repeatable.")
@click.option("--host", metavar="HOST", help="Of the request, in place of the service's name.")
@click.option("--port", type=click.IntRange(1, 65535), help="Of the service, or of the gateway.")
@click.option("--source-ip", default="192.0.2.1", show_default=True, metavar="IP", help="Of a client outside.")
@click.option("--sni", metavar="NAME", help="The client speaks TLS for this server name.")
@click.option("--claims", metavar="JSON", help="The client brings a token with these claims, and it is believed.")
@click.option("--trust-domain", default=DEFAULT_TRUST_DOMAIN, show_default=True, help="With --config.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def command(
    request: str,
    sender: str,
    service: str,
    config: tuple[Path, ...],
    admin: str | None,
    headers: tuple[str, ...],
    host: str | None,
    port: int | None,
    source_ip: str,
    sni: str | None,
    claims: str | None,
    trust_domain: str,
    as_json: bool,
) -> None:
    """Explain what becomes of a request, and why.

    It goes through the real proxies' decisions, each proxy with the configuration that the control plane gives it, on a
    network that is not there: nothing is sent, and nothing has to run. Filters in Python are called."""
    if bool(config) == bool(admin):
        give_up("say where the mesh is described\nhint: --config DIR, or --admin HOST:PORT of a running control plane")
    try:
        method, target = question.parse_request(request)
        asked = Question(
            sender,
            service,
            method,
            target,
            tuple(question.parse_header(one) for one in headers),
            question.parse_host(host) if host is not None else None,
            port,
            question.parse_ip(source_ip),
            question.parse_server_name(sni) if sni is not None else None,
            question.parse_claims(claims) if claims is not None else None,
        )
        source: Source = AdminSource(admin) if admin else FileSource(config, MeshOptions(trust_domain=trust_domain))
        walker = Walker(source)
        story = tell(walker.ask(asked), source, walker.names)
    except (QuestionError, SourceError, ProxyError) as error:
        give_up(str(error))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(story), indent=2))
    else:
        click.echo(text.render(story), nl=False)
