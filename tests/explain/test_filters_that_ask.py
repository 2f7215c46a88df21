"""Filters that ask somebody or check tokens, put into what a sidecar is told by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.xds import pb
from pymesh.explain.files import FileSource
from pymesh.explain.question import Question, QuestionError
from pymesh.explain.source import Member, Messages
from pymesh.explain.story import Story, tell
from pymesh.explain.walk import Walker

_MESH = Path(__file__).parent / "mesh"


class WithFilters(FileSource):
    """The mesh, where requests to ``orders`` pass other filters first."""

    def __init__(self, filters: Sequence[Mapping[str, Any]]) -> None:
        super().__init__([_MESH])
        self._filters = filters

    def messages(self, member: Member) -> Messages:
        """What a proxy is told."""
        messages = super().messages(member)
        if member.name != "orders-v1":
            return messages
        listener = messages[pb.LISTENER]["virtualInbound"]
        for chain in listener.filter_chains:
            for one in chain.filters:
                manager = pb.unpack(one.typed_config)
                if manager.DESCRIPTOR.name == "HttpConnectionManager":
                    own = [pb.message("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter")(**f)
                           for f in self._filters]  # fmt: skip
                    others = list(manager.http_filters)
                    del manager.http_filters[:]
                    manager.http_filters.extend([*own, *others])
                    one.typed_config.CopyFrom(pb.pack(manager))
        return messages


def ask(filters: Sequence[Mapping[str, Any]], **asked: Any) -> Story:
    source = WithFilters(filters)
    walker = Walker(source)
    return tell(walker.ask(Question("front-1", "orders.back", **asked)), source, walker.names)


def authorizer(service: Mapping[str, Any]) -> dict[str, Any]:
    config = pb.message("envoy.extensions.filters.http.ext_authz.v3.ExtAuthz")(transport_api_version="V3", **service)
    return {"name": "envoy.filters.http.ext_authz", "typed_config": pb.pack(config)}


@pytest.mark.parametrize("by", ["http", "grpc"])
def test_an_external_authorizer_is_asked_and_named(by: str) -> None:
    cluster = f"outbound|{9000 if by == 'grpc' else 80}||api.partner.example"
    server = {"uri": "http://api.partner.example", "cluster": cluster, "timeout": {"seconds": 1}}
    service = {
        "http": {"http_service": {"server_uri": server}},
        "grpc": {"grpc_service": {"envoy_grpc": {"cluster_name": cluster, "authority": "api.partner.example"}}},
    }
    story = ask([authorizer(service[by])])
    steps = [(step.what, step.text) for step in story.hops[1].steps if "ext_authz" in step.text]
    name = "envoy.filters.http.ext_authz"
    assert steps == [("asks", f"{name}: {cluster}, which lets it pass here"), ("passes", name)]
    assert story.status == 200


def test_an_authorizer_that_is_not_there_refuses() -> None:
    story = ask([authorizer({"grpc_service": {"envoy_grpc": {"cluster_name": "nobody"}}})])
    assert (story.status, story.details) == (403, "ext_authz_error")
    assert story.why == "the external authorizer of orders-v1.back cannot be asked, so it refuses"


def test_claims_of_nobody() -> None:
    with pytest.raises(QuestionError, match="--claims has no 'iss'\nhint: no RequestAuthentication asks for tokens"):
        ask([], claims={"sub": "ann"})
