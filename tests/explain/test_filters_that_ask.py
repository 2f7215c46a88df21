"""Filters that ask somebody or check tokens, put into what a sidecar is told by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pymesh.control.xds import pb
from pymesh.explain.files import FileSource
from pymesh.explain.question import Question, QuestionError
from pymesh.explain.source import Member, Messages
from pymesh.explain.story import Story, tell
from pymesh.explain.tokens import Signer
from pymesh.explain.walk import Walker

_MESH = Path(__file__).parent / "mesh"


class WithFilters(FileSource):
    """The mesh, where requests to ``orders`` pass other filters first."""

    def __init__(self, filters: Sequence[Mapping[str, Any]]) -> None:
        super().__init__([_MESH])
        self._filters = filters

    def messages(self, member: Member) -> Messages:
        """What a proxy is told."""
        messages = deepcopy(super().messages(member))
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


# --- tokens -----------------------------------------------------------------------------------------------------------

_ISSUER = "https://issuer.test"


def checker(**provider: Any) -> dict[str, Any]:
    """Every request needs a token of the provider, whose keys are nowhere to be had unless it holds them itself."""
    remote = {"http_uri": {"uri": "https://issuer.test/keys", "cluster": "nobody", "timeout": {"seconds": 1}}}
    keys = {} if "local_jwks" in provider else {"remote_jwks": remote}
    config = pb.message("envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication")(
        providers={"p": {"issuer": _ISSUER, **keys, **provider}},
        rules=[{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
    )
    return {"name": "envoy.filters.http.jwt_authn", "typed_config": pb.pack(config)}


@pytest.mark.parametrize(
    ("claims", "details"),
    [
        (None, "jwt_authn_access_denied{Jwt_is_missing}"),
        ({"sub": "ann", "iss": _ISSUER}, "via_upstream"),
        ({"iss": "https://other.test"}, "jwt_authn_access_denied{Jwt_issuer_is_not_configured}"),
        ({"iss": _ISSUER, "exp": 1}, "jwt_authn_access_denied{Jwt_is_expired}"),
    ],
)
def test_claims_are_believed(claims: Mapping[str, Any] | None, details: str) -> None:
    story = ask([checker()], claims=claims)
    assert story.details == details
    steps = [step.what for step in story.hops[1].steps if step.text == "envoy.filters.http.jwt_authn"]
    assert steps == ["passes" if details == "via_upstream" else "ANSWERS"]
    # What is brought is told by its claims, not as a token.
    assert "eyJ" not in repr(story)


@pytest.mark.parametrize(
    "places",
    [
        {"from_headers": [{"name": "x-token", "value_prefix": "T "}]},
        {"from_params": ["token"]},
        {"from_cookies": ["session"]},
        {"audiences": ["shop"]},
    ],
)
def test_a_token_is_where_it_is_looked_for(places: Mapping[str, Any]) -> None:
    story = ask([checker(**places)], claims={"iss": _ISSUER, "sub": "ann", "aud": "shop"})
    assert story.status == 200


def test_keys_that_a_configuration_holds_still_count() -> None:
    foreign = Signer(datetime.now(UTC))
    config = foreign.believe(pb.unpack(checker(local_jwks={"inline_string": "{}"})["typed_config"]))
    keys = config.providers["p"].local_jwks.inline_string
    token = foreign.token({"iss": _ISSUER, "sub": "ann"})
    bearer = (("authorization", f"Bearer {token}"),)
    # Two keys of one id: the proxy tries both.
    assert ask([checker(local_jwks={"inline_string": keys})], headers=bearer).status == 200
    assert ask([checker()], headers=bearer).status == 401


def test_claims_of_one_of_several_issuers() -> None:
    with pytest.raises(QuestionError) as caught:
        ask([checker()], claims={"sub": "ann"})
    assert str(caught.value) == "--claims has no 'iss'\nhint: known: https://accounts.example, https://issuer.test"
