"""Secrets for TLS that a proxy begins: those that its identity may read."""

from __future__ import annotations

from pathlib import Path

from pymesh.control.resources.diagnostics import Report
from pymesh.control.resources.load import load_text
from pymesh.control.store.store import Store, build
from pymesh.control.translate import Translation, translate
from pymesh.control.translate.proxy import Proxy
from pymesh.control.xds import pb

INPUT = Path(__file__).parents[3] / "golden" / "origination" / "in.yaml"
CLUSTER = "outbound|80||mutual.example"


def mesh() -> Store:
    text = INPUT.read_text().partition("\n---\n")[2]
    store, _ = build(load_text("origination", text, Report()))
    return store


def made(store: Store, name: str, *, reads_secrets: bool) -> Translation:
    proxy = Proxy("sidecar", "10.0.0.9", name, "shop", interception="REDIRECT", reads_secrets=reads_secrets)
    return translate(store, proxy)


def test_who_may_not_read_secrets_is_given_none_and_does_not_connect() -> None:
    # Of one store: what was made for the one may not be handed to the other.
    store = mesh()
    for name in ("a-1", "a-2"):
        reader, other = made(store, name, reads_secrets=True), made(store, name, reads_secrets=False)
        assert any("PRIVATE KEY" in str(one) for one in reader.messages[pb.SECRET].values())
        assert not [one for one in other.messages[pb.SECRET] if one.startswith("kubernetes://")]
        assert reader.messages[pb.CLUSTER][CLUSTER].transport_socket.name
        blind = other.messages[pb.CLUSTER][CLUSTER]
        assert not blind.transport_socket.name and not blind.load_assignment.endpoints
        told = [one.message for one in other.warnings if "'client'" in one.message]
        assert told and all("may not list Secrets" in one for one in told)
