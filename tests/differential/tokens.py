"""Random token policies, and requests whose tokens are right or nearly right.

What is left out is where ours is meant to differ (`rust/jwt/src/lib.rs`, `rust/engine/src/http_filter/jwt_authn`):
tokens that ours refuses although their key has signed them (an algorithm that is not the key's, `crit`, members that
stand twice, `exp` of zero, blanks within, more dots than two), keys below 2048 bits, and several tokens where none is
required. A header that a provider promises and a client forges is taken away always, not only where that provider
judges.
"""

from __future__ import annotations

import functools
import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.differential.asking import Ask
from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.tools.signing import Signer, encode, signers

_TYPE = "type.googleapis.com/envoy.extensions.filters.http"
_JWT = "envoy.filters.http.jwt_authn"
LOG = f"%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %DYNAMIC_METADATA({_JWT})%\n"
#: What a client sends in a header that a provider promises.
FORGED = "forged"

_ISSUERS = ("https://a.test", "https://b.test", "c", "d", "", "https://e.test")
_AUDIENCES = ("https://shop.test/", "shop.test", "api", "http://api/", "other")
_SUBJECTS = ("ann", "bob", "spiffe://mesh.test/ns/shop/sa/web")
_HEADERS = ("authorization", "x-token", "x-jwt-assertion")
_CLAIMS = ("sub", "iss", "level", "admin", "realm", "realm.role", "ratio", "scope", "groups", "none")


def _promised(provider: Json) -> list[str]:
    """The headers that a provider sets."""
    claims: list[str] = [claim["header_name"] for claim in provider.get("claim_to_headers", ())]
    return claims + [provider[key] for key in ("forward_payload_header",) if key in provider]


class Tokens:
    """What one seed makes."""

    def __init__(self, seed: int, hosts: int) -> None:
        self.random = random.Random(seed)
        self.now = int(time.time())
        # A blank within a token is skipped by Envoy: who looks for one in a header agrees on what stands before it.
        prefixes = ("", "Bearer ", "jwt:")
        self.prefixes = {name: self.random.choice(prefixes) for name in _HEADERS} | {"authorization": "Bearer "}
        self.issuers = self.random.sample(_ISSUERS, len(_ISSUERS))
        self.keys: dict[str, list[tuple[str, Json]]] = {}
        self.providers = {f"p{number}": self._provider(f"p{number}") for number in range(len(_ISSUERS))}
        self.promised = [header for provider in self.providers.values() for header in _promised(provider)]
        self.requirements = {f"r{number}": self._requirement(2) for number in range(hosts)}
        self.rules: list[Json] = []
        #: What each host says, if it is not said by a rule.
        self.said = [self._said(number) for number in range(hosts)]
        self.bypass = self._chance(0.5)
        self.strip = self._chance(0.2)
        self.general = self._rules()
        self.made: list[str] = []

    # --- configuration ----------------------------------------------------------------------------------------------

    def bootstrap(self, port: int, admin: int, log: Path, origin: Sequence[int]) -> Json:
        """One listener; a virtual host for each requirement."""
        hosts = []
        for number, said in enumerate(self.said):
            host = virtual_host(f"host-{number}", [to_cluster("a")], [f"h{number}.test"])
            if said is not None:
                host["typed_per_filter_config"] = {_JWT: {"@type": f"{_TYPE}.jwt_authn.v3.PerRouteConfig", **said}}
            hosts.append(host)
        filters = [
            {
                "name": _JWT,
                "typed_config": {
                    "@type": f"{_TYPE}.jwt_authn.v3.JwtAuthentication",
                    "providers": self.providers,
                    "rules": self.rules,
                    "requirement_map": self.requirements,
                    "bypass_cors_preflight": self.bypass,
                    "strip_failure_response": self.strip,
                },
            },
            {
                "name": "envoy.filters.http.rbac",
                "typed_config": {"@type": f"{_TYPE}.rbac.v3.RBAC", "rules": self.general},
            },
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.router.v3.Router"}},
        ]
        listener = http_listener(port, hosts, http_filters=filters, access_log=[access_log(log, LOG)])
        return bootstrap([listener], [cluster("a", origin)], admin)

    def _said(self, number: int) -> Json | None:
        if self._chance(0.05):
            return self.random.choice(({"disabled": True}, {"requirement_name": "nothing"}, None))
        if self._chance(0.5):
            return {"requirement_name": f"r{number}"}
        authority = {"name": ":authority", "string_match": {"exact": f"h{number}.test"}}
        match = {"prefix": self.random.choice(("/", "/a")), "headers": [authority]}
        required = self._pick(
            (5, lambda: {"requirement_name": f"r{number}"}),
            (5, lambda: {"requires": self.requirements[f"r{number}"]}),
            (1, dict),
        )
        self.rules.append({"match": match, **required})
        return None

    def _provider(self, name: str) -> Json:
        keys = self.random.sample(sorted(signers()), self.random.randint(1, 3))
        self.keys[name] = [(key, self._jwk(key)) for key in keys]
        local = json.dumps({"keys": [jwk for _, jwk in self.keys[name]]})
        # Each once: which of several Envoy takes for a token of any provider is left to the order of a hash map.
        issuer = self.issuers.pop()
        made: Json = {"issuer": issuer, "local_jwks": {"inline_string": local}}
        if self._chance(0.5):
            made["audiences"] = self.random.sample(_AUDIENCES, self.random.randint(1, 2))
        if self._chance(0.2):
            made["subjects"] = self.random.choice(({"exact": "ann"}, {"prefix": "spiffe://"}, {"contains": "n"}))
        if self._chance(0.2):
            made["require_expiration"] = True
        if self._chance(0.2):
            made["max_lifetime"] = "7200s"
        if self._chance(0.3):
            made["clock_skew_seconds"] = 600
        if self._chance(0.5):
            made["forward"] = True
        if self._chance(0.4):
            made["from_headers"] = [
                {"name": header, "value_prefix": self.prefixes[header]}
                for header in self.random.sample(_HEADERS, self.random.randint(1, 2))
            ]
        if self._chance(0.2):
            made["from_params"] = self.random.sample(("access_token", "t", "a:b"), 1)
        if self._chance(0.2):
            made["from_cookies"] = self.random.sample(("session", "token"), 1)
        if self._chance(0.4):
            made["forward_payload_header"] = self.random.choice(("x-payload", "x-payload-2"))
            made["pad_forward_payload_header"] = self._chance(0.3)
        if self._chance(0.5):
            claims = self.random.sample(_CLAIMS, self.random.randint(1, 3))
            made["claim_to_headers"] = [
                {"header_name": f"x-claim-{index}", "claim_name": claim} for index, claim in enumerate(claims)
            ]
        if self._chance(0.6):
            made["payload_in_metadata"] = self.random.choice(("payload", name))
            if self._chance(0.5):
                made["normalize_payload_in_metadata"] = {"space_delimited_claims": ["scope", "sub", "level"]}
        if self._chance(0.2):
            made["header_in_metadata"] = "header"
        if self._chance(0.3):
            made["failed_status_in_metadata"] = "failed"
        if self._chance(0.3):
            made["jwt_cache_config"] = {"jwt_cache_size": self.random.choice((0, 2, 50))}
        return made

    def _jwk(self, key: str) -> Json:
        jwk = dict(signers()[key].jwk)
        if self._chance(0.6):
            jwk["kid"] = key
        # Without it Envoy lets a key verify whatever a token says.
        algorithms = signers()[key].algorithms
        if len(algorithms) == 1 or jwk["kty"] == "oct" or self._chance(0.3):
            jwk["alg"] = self.random.choice(algorithms)
        return jwk

    def _requirement(self, depth: int) -> Json:
        some = lambda: {"requirements": [self._requirement(depth - 1) for _ in range(self.random.randint(2, 3))]}  # noqa: E731
        return self._pick(
            (6, lambda: {"provider_name": self._some_provider()}),
            (
                2,
                lambda: {
                    "provider_and_audiences": {
                        "provider_name": self._some_provider(),
                        "audiences": self.random.sample(_AUDIENCES, self.random.randint(0, 2)),
                    }
                },
            ),
            (depth and 4, lambda: {"requires_any": some()}),
            (depth and 3, lambda: {"requires_all": some()}),
            (1, lambda: {"allow_missing": {}}),
            (1, lambda: {"allow_missing_or_failed": {}}),
            (1, dict),
        )

    def _some_provider(self) -> str:
        return self.random.choice(sorted(self.providers))

    def _rules(self) -> Json:
        """What tokens have to say, beyond that they are good."""
        policies = {}
        for name in ("a", "b"):
            policies[name] = {"permissions": [{"any": True}], "principals": [self._principal(1) for _ in range(2)]}
        return {"action": self.random.choice(("DENY", "DENY", "ALLOW")), "policies": policies}

    def _principal(self, depth: int) -> Json:
        return self._pick(
            (4, self._metadata),
            (depth and 2, lambda: {"not_id": self._principal(depth - 1)}),
            (depth and 2, lambda: {"and_ids": {"ids": [self._principal(depth - 1) for _ in range(2)]}}),
        )

    def _metadata(self) -> Json:
        claim = self.random.choice(("sub", "iss", "groups", "scope", "level", "admin", "aud", "realm"))
        path = ["payload", claim] + (["role"] if claim == "realm" else [])
        text = {"string_match": {"exact": self.random.choice((*_SUBJECTS, "read", "group-1", "admin", "api"))}}
        value: Json = self._pick(
            (3, lambda: text),
            (3, lambda: {"list_match": {"one_of": text}}),
            (1, lambda: {"double_match": {"range": {"start": 3, "end": 7}}}),
            (1, lambda: {"bool_match": True}),
            (1, lambda: {"present_match": True}),
            (1, lambda: {"or_match": {"value_matchers": [text, {"list_match": {"one_of": text}}]}}),
        )
        return {"metadata": {"filter": _JWT, "path": [{"key": key} for key in path], "value": value}}

    # --- requests ---------------------------------------------------------------------------------------------------

    def ask(self) -> Ask:
        """The next request."""
        number = self.random.randrange(len(self.requirements))
        made = Ask(
            self.random.choice(("GET", "GET", "POST")), f"h{number}.test", self.random.choice(("/", "/a", "/a/b?q=1"))
        )
        wanted = self._wanted(self.requirements[f"r{number}"])
        # Where any token may be missing, ours judges all of several, and Envoy not.
        alone = "allow_missing" in json.dumps(self.requirements[f"r{number}"]).replace("allow_missing_or_failed", "")
        count = 1 if alone else self.random.choice((0, 1, 1, 1, 1, 2, 3))
        if self._chance(0.1):
            count = 0
        for _ in range(count):
            provider = self.random.choice(wanted) if wanted and self._chance(0.9) else self._some_provider()
            self._place(made, provider, self._again() or self._token(provider))
        if self.promised and self._chance(0.1):
            made.headers.append((self.random.choice(self.promised), FORGED))
        if self._chance(0.05):
            made.method = "OPTIONS"
            made.headers += [("origin", "http://o.test"), ("access-control-request-method", "PUT")]
        return made

    def _wanted(self, requirement: Json) -> list[str]:
        """The providers that a requirement names."""
        for kind, said in requirement.items():
            if kind == "provider_name":
                return [said]
            if kind == "provider_and_audiences":
                return [said["provider_name"]]
            if kind in ("requires_any", "requires_all"):
                return [name for one in said["requirements"] for name in self._wanted(one)]
        return []

    def _again(self) -> str | None:
        """A token of an earlier request."""
        return self.random.choice(self.made) if self.made and self._chance(0.2) else None

    def _token(self, provider: str) -> str:
        config = self.providers[provider]
        key, jwk = self.random.choice(self.keys[provider])
        signer = signers()[key]
        header: Json = {"alg": jwk.get("alg") or self.random.choice(signer.algorithms), "typ": "JWT"}
        if "kid" in jwk and self._chance(0.7):
            header["kid"] = jwk["kid"]
        claims: Json = {"sub": self.random.choice(_SUBJECTS), "level": self.random.randint(1, 9), "ratio": 0.25}
        if config["issuer"] or self._chance(0.5):
            claims["iss"] = config["issuer"] or "whoever"
        if self._chance(0.8):
            claims["exp"] = self.now + 3600
        if self._chance(0.7):
            audiences = self.random.sample(config.get("audiences", _AUDIENCES), 1)
            claims["aud"] = audiences[0] if self._chance(0.5) else [*audiences, "more"]
        if self._chance(0.5):
            claims |= {"admin": self._chance(0.5), "scope": "read write", "realm": {"role": "admin"}}
        if self._chance(0.5):
            claims["groups"] = [f"group-{number}" for number in range(self.random.randint(0, 3))]
        signed_by = signer
        text = ""
        bend = self.random.random()
        if bend < 0.35:
            text, signed_by = self._bend_claims(claims, header, signer)
        elif bend < 0.45:
            made = signer.token(header, claims)
            return self._bend_text(made)
        made = signed_by.token(header, text or claims)
        if len(self.made) < 50:
            self.made.append(made)
        return made

    def _bend_claims(self, claims: Json, header: Json, signer: Signer) -> tuple[str, Signer]:
        """Something is not as it should be, and signed nonetheless; perhaps by somebody else."""
        match self.random.randrange(16):
            case 0:
                claims["iss"] = self.random.choice(("https://evil.test", "c", "https://a.test", ""))
            case 1:
                claims["aud"] = self.random.choice(("nobody", [], ["other", "api"], "https://api"))
            case 2:
                claims["exp"] = self.now + self.random.choice((-3600, -300, -30, 86400))
            case 3:
                claims["nbf"] = self.now + self.random.choice((3600, 300, 30, -30))
            case 4:
                header["kid"] = self.random.choice(("rsa", "nothing", "", "oct"))
            case 5:
                return "", signers()[self.random.choice(("rsa2", "rsa", "oct"))]
            case 6:
                header["alg"] = self.random.choice(("none", "RS1", "HS256 ", "", "ES256K", "hs256"))
            case 7:
                header["alg"] = self.random.choice(("", 1, None, ["RS256"]))
            case 8:
                name = self.random.choice(("iss", "sub", "jti"))
                claims[name] = self.random.choice((1, True, None, {}, []))
            case 9:
                name = self.random.choice(("exp", "nbf", "iat"))
                claims[name] = self.random.choice(("1", -1, 1e30, None, True, []))
            case 10:
                claims["aud"] = self.random.choice((1, [1], {"a": "b"}, ["api", None]))
            case 11:
                return self.random.choice(("[]", "1", "{", '{"sub":', '"text"', "{}")), signer
            case 12:
                header["kid"] = self.random.choice((1, None, ["rsa"]))
            case 13:
                header["jwk"], header["jku"] = signers()["rsa2"].jwk, "http://evil.test/keys"
            case 14:
                claims["deep"] = functools.reduce(lambda inner, _: [inner], range(self.random.choice((5, 90))), [])
            case _:
                claims["sub"] = "x" * self.random.choice((1000, 5000))
        return "", signer

    def _bend_text(self, token: str) -> str:
        header, payload, signature = token.split(".")
        match self.random.randrange(8):
            case 0:
                at = self.random.randrange(len(signature) - 2)
                flipped = "A" if signature[at] != "A" else "B"
                return f"{header}.{payload}.{signature[:at]}{flipped}{signature[at + 1 :]}"
            case 1:
                return f"{header}.{payload}"
            case 2:
                return f"{header}.{encode(b'{}')}.{signature}"
            case 3:
                return f"{header}.{payload}.{signature[: len(signature) // 8 * 4]}"
            case 4:
                return f"!{header}.{payload}.{signature}"
            case 5:
                return f"{header}.***.{signature}"
            case 6:
                return self.random.choice(("", "x", "a.b.c", "a.b.c.d"))
            case _:
                return f"{header}.{payload}.$$$"

    def _place(self, made: Ask, provider: str, token: str) -> None:
        """Where the provider looks, or somewhere else."""
        config = self.providers[provider]
        places: list[tuple[str, str, str]] = [
            ("header", header["name"], header["value_prefix"]) for header in config.get("from_headers", ())
        ]
        places += [("param", name, "") for name in config.get("from_params", ())]
        places += [("cookie", name, "") for name in config.get("from_cookies", ())]
        if not places or self._chance(0.1):
            places = [("header", "authorization", "Bearer "), ("param", "access_token", "")]
        kind, name, prefix = self.random.choice(places)
        if kind == "header":
            if prefix and self._chance(0.05):
                prefix = self.random.choice((prefix.lower(), f"x {prefix}", f"{prefix} ", ""))
            made.headers.append((name, prefix + token))
        elif kind == "cookie":
            made.headers.append(("cookie", f"a=1; {name}={token}"))
        else:
            mark = "&" if "?" in made.target else "?"
            made.target += f"{mark}{name.replace(':', '%3A')}={token}"
            if self._chance(0.3):
                made.target += "&z=1&b=%41"

    def _chance(self, share: float) -> bool:
        return self.random.random() < share

    def _pick(self, *options: tuple[int, Callable[[], Json]]) -> Json:
        return self.random.choices([make for _, make in options], [weight for weight, _ in options])[0]()
