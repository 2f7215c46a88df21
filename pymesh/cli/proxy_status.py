"""`pymesh proxy-status`: what each proxy was sent, has taken, and runs on all of its workers."""

from __future__ import annotations

from typing import Any

import click

from pymesh.cli.problem import give_up
from pymesh.control.admin import sync
from pymesh.control.admin.sync import TYPES, TypeState, Workers
from pymesh.operate import show
from pymesh.operate.mesh import ConnectedProxy, ControlPlane, PageError, each, json_page

_Own = dict[str, Any] | None


@click.command("proxy-status")
@click.argument("proxy", required=False)
@show.ADMIN
@show.OUTPUT
def command(proxy: str | None, admin: str | None, output: show.Format) -> None:
    """Show what each proxy was sent, has taken, and runs on all of its workers.

    \b
    pymesh proxy-status                         every proxy that is connected
    pymesh proxy-status reviews-v1              one of them, type by type
    pymesh proxy-status --admin 127.0.0.1:9000  of the control plane with these admin pages
    pymesh proxy-status -o json                 for scripts

    SYNCED: what the control plane has for the proxy is in force on every worker. STALE: it is not, and the reason is
    told. NOT SENT: the proxy asks for nothing of the type, or there is nothing yet. What a proxy has refused is traced
    to the resource, file and line that it comes from."""
    plane = ControlPlane(admin)
    try:
        wanted = plane.proxies if proxy is None else (plane.find(proxy),)
        looked = each(lambda one: _look(plane, one), wanted)
    except PageError as error:
        give_up(str(error))
    if output in ("json", "yaml"):
        found = [_as_data(one, own, why, states) for one, own, why, states in looked]
        click.echo(show.data(found if proxy is None else found[0], output), nl=False)
    elif proxy is not None:
        click.echo(show.marked(_one(*looked[0]), "STALE"), nl=False)
    elif not looked:
        click.echo("no proxy is connected")
    else:
        click.echo(show.marked(_all(looked, wide=output == "wide"), "STALE"), nl=False)


_Looked = tuple[ConnectedProxy, _Own, str, dict[str, TypeState]]


def _look(plane: ControlPlane, one: ConnectedProxy) -> _Looked:
    """A proxy, its own page (or why there is none), and how far it is."""
    own: _Own = None
    why = ""
    try:
        if one.is_ours:
            own = json_page(one.own_admin(), "/config_sync")
        else:
            why = "it is not pymesh's own proxy"
    except PageError as error:
        why = str(error).splitlines()[0]
        if "404" in why:
            why = "its version has no page /config_sync"

    def trace(url: str, name: str, path: str) -> list[dict[str, Any]]:
        found = plane.page("/debug/provenance", proxyID=one.node_id, type=url, name=name, path=path)
        return found[0]["objects"] if found else []

    return one, own, why, sync.judge(one.synced, own, trace)


def _workers(own: _Own) -> Workers | None:
    return sync.workers(own) if own is not None else None


def _all(looked: list[_Looked], *, wide: bool) -> str:
    headings = ["NAME", *(short for short, _ in TYPES), "WORKERS", "VERSION"]
    if wide:
        headings += ["PEER", "CONNECTED", "ADMIN"]
    rows = []
    for one, own, _, states in looked:
        count = _workers(own)
        row: list[object] = [one.title, *(states[short].state for short, _ in TYPES), count or "?", one.version or "?"]
        if wide:
            row += [one.synced["peer"], one.synced["connected_at"], one.admin or "-"]
        rows.append(row)
    text = show.table(headings, rows)
    notes = []
    for one, _, why, states in looked:
        notes += [f"{one.title}: workers not known: {why}"] if why else []
        for short, _ in TYPES:
            if states[short].state == "STALE":
                notes += _told(f"{short} of {one.title}", states[short])
    return text + "".join(f"{line}\n" for line in (["", *notes] if notes else []))


def _told(what: str, state: TypeState) -> list[str]:
    return [f"{what}: {state.reason}", *(f"  {line}" for one in state.problems for line in one.lines())]


def _one(one: ConnectedProxy, own: _Own, why: str, states: dict[str, TypeState]) -> str:
    rows = []
    for short, _ in TYPES:
        state = states[short]
        if state.sent[0]:
            force = "?" if state.effective is None else state.effective or "-"
            rows.append([short, state.state, state.resources, _pair(state.sent), _pair(state.acked), force])
        else:
            rows.append([short, state.state, 0, "-", "-", "-"])
    count = _workers(own)
    text = f"{one.title} ({one.version or 'unknown version'}), connected from {one.synced['peer']}\n"
    text += f"workers on the newest snapshot: {count or f'not known: {why}'}\n\n"
    text += show.table(["TYPE", "STATE", "RESOURCES", "SENT", "ACKNOWLEDGED", "IN FORCE"], rows)
    for short, _ in TYPES:
        if states[short].reason:
            text += "\n" + "\n".join(_told(short, states[short]))
    return text.rstrip("\n") + "\n"


def _pair(answer: tuple[str, str]) -> str:
    nonce, version = answer
    return f"{nonce} ({version[:12]})" if nonce else "-"


def _as_data(one: ConnectedProxy, own: _Own, why: str, states: dict[str, TypeState]) -> dict[str, Any]:
    count = _workers(own)
    return {
        "name": one.title,
        "proxy": one.node_id,
        "version": one.version,
        "peer": one.synced["peer"],
        "connected_at": one.synced["connected_at"],
        "admin": one.admin,
        "workers": {"current": count.current, "total": count.total} if count else None,
        "unknown": why or None,
        "types": {short: states[short].as_data() for short, _ in TYPES},
    }
