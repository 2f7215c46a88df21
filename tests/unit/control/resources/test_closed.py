"""What takes the place of a RequestAuthentication that cannot be used: no token is good where it looked for one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pymesh.control.resources.closed import closed
from pymesh.control.resources.request_authentication import RequestAuthentication
from tests.unit.testing.shop import AT_THE_EDGE, shop

RATINGS = "http://ratings:9080/ratings"
OTHER = """\
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: other, namespace: shop}
spec:
  selector: {matchLabels: {app: ratings}}
  jwtRules: [{issuer: "https://other.test", jwksUri: "https://other.test/keys"}]
"""


def unusable(rules: Any, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "RequestAuthentication",
        "metadata": {"name": "tokens", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "ratings"}}, "jwtRules": rules, **spec},
    }


def standing_in(rules: Any) -> RequestAuthentication:
    made = closed(unusable(rules))
    assert isinstance(made, RequestAuthentication)
    return made


def written(one: RequestAuthentication) -> str:
    """The stand-in as its author would have written it, for a mesh of files."""
    rules = [
        {
            "issuer": rule.issuer,
            "jwks": rule.jwks,
            "fromHeaders": [{"name": header.name, "prefix": header.prefix} for header in rule.from_headers],
            "fromParams": list(rule.from_params),
        }
        for rule in one.spec.jwt_rules
    ]
    return f"---\n{json.dumps(unusable(rules))}\n"


def test_no_token_is_good_and_who_brings_none_passes() -> None:
    instead = standing_in([{"issuer": "https://issuer.test", "jwks": "{"}])
    with shop(AT_THE_EDGE + written(instead)) as mesh:

        def status(**headers: str) -> int:
            return mesh.get(RATINGS, source="reviews", headers=headers).status

        token = mesh.token({"iss": "https://issuer.test", "sub": "anna"})
        assert status() == 200
        assert [status(authorization=f"Bearer {one}") for one in (token, "no-token")] == [401, 401]
        assert mesh.get(f"{RATINGS}?access_token={token}", source="reviews").status == 401


def test_tokens_of_another_resource_stay_good() -> None:
    instead = standing_in([{"issuer": "https://issuer.test", "jwks": "{"}])
    with shop(AT_THE_EDGE + OTHER + written(instead)) as mesh:
        headers = {"authorization": f"Bearer {mesh.token({'iss': 'https://other.test', 'sub': 'anna'})}"}
        assert mesh.get(RATINGS, source="reviews", headers=headers).status == 200


def test_tokens_are_refused_where_the_rules_look_for_them() -> None:
    place = {"fromHeaders": [{"name": "x-jwt"}], "fromParams": ["jwt"]}
    instead = standing_in([{"issuer": "https://issuer.test", "jwks": "{", **place}])
    with shop(AT_THE_EDGE + written(instead)) as mesh:
        token = mesh.token({"iss": "https://issuer.test", "sub": "anna"})
        statuses = [
            mesh.get(RATINGS + query, source="reviews", headers=headers).status
            for query, headers in (
                ("", {"x-jwt": token}),
                (f"?jwt={token}", {}),
                ("", {"authorization": f"Bearer {token}"}),
            )
        ]
        assert statuses == [401, 401, 200], "what stands elsewhere was no token to it before"


@pytest.mark.parametrize(
    "rules", ["no list", [5], [{"issuer": 5}], [{"fromHeaders": "x"}], [{"issuer": "i", "jwksUri": "ftp://a"}]]
)
def test_whatever_is_wrong_with_the_rules_something_stands_in(rules: Any) -> None:
    assert standing_in(rules).spec.jwt_rules


@pytest.mark.parametrize("rules", [None, []])
def test_who_looks_at_no_token_closes_nothing(rules: Any) -> None:
    assert closed(unusable(rules, surprise=1)) is None


SYSTEM = {"mode": "SIMPLE", "sni": "api.test"}


def rule(**spec: Any) -> Any:
    meta = {"name": "api", "namespace": "shop"}
    whole = {"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule", "metadata": meta}
    made = closed({**whole, "spec": {"host": "api.test", **spec}})
    return None if made is None else made.spec  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("tls", "expected"),
    [(SYSTEM, ("SIMPLE", "api.test", ())), ({"mode": "SIMPEL"}, ("SIMPLE", "", ("cannot-be-used.invalid",)))],
)
def test_a_rule_that_cannot_be_read_lets_nobody_speak_in_plain_text(tls: Any, expected: Any) -> None:
    wished = {"tls": tls, "mystery": 1}
    one = rule(trafficPolicy=wished).traffic_policy.tls
    assert (one.mode, one.sni, one.subject_alt_names) == expected
    ported = rule(trafficPolicy={"portLevelSettings": [{"port": {"number": 443}, **wished}]}).traffic_policy
    one = ported.tls or ported.port_level_settings[0].tls
    assert (one.mode, one.sni, one.subject_alt_names) == expected


def test_subsets_of_a_rule_that_cannot_be_read_keep_their_tls() -> None:
    subsets = [{"name": "v1", "labels": {"version": "v1"}, "trafficPolicy": {"tls": SYSTEM}}, {"name": "v2"}]
    found = rule(subsets=subsets, exportTo=["."], trafficPolicy={"mystery": 1, "loadBalancer": {"simple": "RANDOM"}})
    first, second = found.subsets
    assert (first.name, dict(first.labels), first.traffic_policy.tls.mode) == ("v1", {"version": "v1"}, "SIMPLE")
    assert (second.name, second.traffic_policy, found.export_to) == ("v2", None, (".",))


@pytest.mark.parametrize("policy", [{}, {"tls": {"mode": "DISABLE"}, "mystery": 1}, {"connectionPool": 5}])
def test_a_rule_that_asks_for_no_tls_closes_nothing(policy: Any) -> None:
    assert rule(trafficPolicy=policy) is None


def sidecar(**spec: Any) -> Any:
    meta = {"name": "narrow", "namespace": "shop"}
    made = closed({"apiVersion": "networking.istio.io/v1", "kind": "Sidecar", "metadata": meta, "spec": spec})
    return None if made is None else made.spec  # type: ignore[attr-defined]


SELECTED = {"workloadSelector": {"labels": {"app": "web"}}}


@pytest.mark.parametrize(
    ("egress", "expected"),
    [
        ([{"hosts": ["./*"]}, {"hosts": ["nobody"]}], [("./*",)]),
        ([{"hosts": ["./*"], "mystery": 1}], [("~/*",)]),
        ([{"hosts": ["./*"]}, {"hosts": ["shop/*"]}], [("~/*",)]),
        ("./*", [("~/*",)]),
    ],
)
def test_of_a_sidecar_what_can_be_read_is_reached_and_no_more(egress: Any, expected: Any) -> None:
    found = sidecar(**SELECTED, egress=egress, mystery=1)
    assert [one.hosts for one in found.egress] == expected
    assert found.workload_selector.labels == {"app": "web"}


@pytest.mark.parametrize(
    ("policy", "expected"), [({"mode": "ALLOW_ANY"}, "ALLOW_ANY"), ({"mode": "X"}, "REGISTRY_ONLY")]
)
def test_a_sidecar_that_cannot_be_read_opens_nothing_that_no_resource_describes(policy: Any, expected: str) -> None:
    ingress = [{"port": {"number": 80, "protocol": "HTTP", "name": "http"}, "defaultEndpoint": "127.0.0.1:8080"}]
    found = sidecar(outboundTrafficPolicy=policy, ingress=ingress, mystery=1)
    assert (found.outbound_traffic_policy.mode, len(found.ingress), found.egress) == (expected, 1, ())


@pytest.mark.parametrize(
    "spec", [{"ingress": []}, {"egress": []}, {"workloadSelector": {"labels": 5}, "egress": [{"hosts": ["./*"]}]}]
)
def test_a_sidecar_that_narrows_nothing_or_is_for_nobody_closes_nothing(spec: Any) -> None:
    assert sidecar(**spec, mystery=1) is None
