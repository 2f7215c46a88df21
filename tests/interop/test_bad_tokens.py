"""Tokens that nobody may be let in with: ours refuses each with its own reason, and none reaches the origin or a log.

The same are shown to Envoy. Where it says something else, or lets one in, the table says so: it skips empty parts and
blanks, knows no `crit`, takes `exp` of zero for none, and lets a key verify whatever algorithm a token names.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tests.differential.asking import Ask
from tests.differential.client import ask_all
from tests.differential.running import KINDS, all_logged, behind
from tests.proxy.bootstrap import Json, access_log, bootstrap, cluster, http_listener, to_cluster, virtual_host
from tests.proxy.running import proxy
from tests.tools.ports import free_port, free_ports
from tests.tools.signing import encode, signers

_TYPE = "type.googleapis.com/envoy.extensions.filters.http"
_ISSUER = "https://issuer.test"
#: Envoy lets it in.
ADMITS = "via_upstream"
_FORM = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
_FAILS = "Jwt verification fails"


@dataclass
class Bad:
    """A token, or several, and why it is refused."""

    reason: str
    token: str = ""
    #: What Envoy says, if that is something else.
    envoy: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    target: str = "/"


def claims(**others: Any) -> Json:
    return {"iss": _ISSUER, "sub": "ann", "aud": "shop", "exp": int(time.time()) + 3600} | others


def good(key: str = "rsa", header: Json | None = None, **others: Any) -> str:
    signer = signers()[key]
    alg = signer.algorithms[0]
    return signer.token({"alg": alg, "kid": key, **(header or {})}, claims(**others))


def parts(*texts: str | bytes) -> str:
    return ".".join(encode(text if isinstance(text, bytes) else text.encode()) for text in texts)


def table() -> dict[str, Bad]:
    rsa, ec = signers()["rsa"], signers()["secp256r1"]
    head, body, signature = good().split(".")
    ec_head, ec_body, ec_signature = good("secp256r1").split(".")
    raw = _decoded(ec_signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    now = int(time.time())
    payload = json.dumps(claims())
    twice = payload[:-1] + ', "sub": "root"}'

    def by_rsa(header: str, claims: str) -> str:
        signed = parts(header, claims)
        return f"{signed}.{encode(rsa.sign('RS256', signed.encode()))}"

    def hs256(secret: bytes, kid: str = "rsa") -> str:
        signed = parts(json.dumps({"alg": "HS256", "kid": kid}), payload)
        return f"{signed}.{encode(hmac.digest(secret, signed.encode(), 'sha256'))}"

    rs256 = '{"alg":"RS256","kid":"rsa"}'
    return {
        "no token": Bad("Jwt is missing"),
        "basic": Bad("Jwt is missing", headers=[("authorization", "Basic YTpi")]),
        "none": Bad(_FORM, parts('{"alg":"none"}', payload) + "."),
        "none-signed": Bad("Jwt header [alg] is not supported", parts('{"alg":"none"}', payload, "x")),
        "None": Bad("Jwt header [alg] is not supported", parts('{"alg":"NoNe"}', payload, "x")),
        "no-alg": Bad("Jwt header [alg] field is required and must be a string", parts("{}", payload, "x")),
        "alg-confusion-jwk": Bad(_FAILS, hs256(json.dumps(rsa.jwk).encode())),
        "alg-confusion-n": Bad(_FAILS, hs256(rsa.jwk["n"].encode())),
        "alg-confusion-ec": Bad(_FAILS, hs256(ec.jwk["x"].encode(), "secp256r1")),
        "alg-not-the-keys": Bad(_FAILS, good("secp256r1", {"alg": "RS256"}), envoy=ADMITS),
        "wrong-key": Bad(_FAILS, signers()["rsa2"].token({"alg": "RS256", "kid": "rsa"}, claims())),
        "wrong-key-of-no-name": Bad(_FAILS, signers()["rsa2"].token({"alg": "RS256"}, claims())),
        "unknown-kid": Bad(
            "Jwks doesn't have key to match kid or alg from Jwt", rsa.token({"alg": "RS256", "kid": "x"}, claims())
        ),
        "kid-injection": Bad(
            "Jwks doesn't have key to match kid or alg from Jwt",
            rsa.token({"alg": "RS256", "kid": "../../dev/null"}, claims()),
        ),
        "kid-no-text": Bad("Jwt header [kid] field is not a string", rsa.token({"alg": "RS256", "kid": 1}, claims())),
        "audience": Bad("Audiences in Jwt are not allowed", good(aud="other")),
        "no-audience": Bad("Audiences in Jwt are not allowed", good(aud=[])),
        "audience-no-text": Bad("Jwt payload [aud] field is not a string or string list", good(aud=[["shop"]])),
        "issuer": Bad("Jwt issuer is not configured", good(iss="https://issuer.test.evil")),
        "issuer-no-text": Bad("Jwt payload [iss] field is not a string", good(iss=[_ISSUER])),
        "expired": Bad("Jwt is expired", good(exp=now - 3600)),
        "expired-in-1970": Bad("Jwt is expired", good(exp=0), envoy=ADMITS),
        "expires-as-text": Bad("Jwt payload [exp] field is not an integer", good(exp=str(now + 3600))),
        "expires-before-time": Bad("Jwt payload [exp] field is not a positive 64 bit integer", good(exp=-1)),
        "not-yet-valid": Bad("Jwt not yet valid", good(nbf=now + 3600)),
        "base64-header": Bad("Jwt header is an invalid Base64url encoded", f"{head[:5]}*{head[5:]}.{body}.{signature}"),
        "base64-payload": Bad("Jwt payload is an invalid Base64url encoded", f"{head}.{body}*.{signature}"),
        "base64-signature": Bad("Jwt signature is an invalid Base64url encoded", f"{head}.{body}.{signature}*"),
        "base64-standard": Bad("Jwt signature is an invalid Base64url encoded", f"{head}.{body}.ab+/"),
        "json-header": Bad("Jwt header is an invalid JSON", parts("{", payload, "x")),
        "json-header-list": Bad("Jwt header is an invalid JSON", parts('["RS256"]', payload, "x")),
        "json-payload": Bad("Jwt payload is an invalid JSON", by_rsa(rs256, payload[:-1])),
        "json-behind": Bad("Jwt payload is an invalid JSON", by_rsa(rs256, payload + "{}")),
        "json-nested": Bad("Jwt payload is an invalid JSON", by_rsa(rs256, '{"a":' + "[" * 2000 + "]" * 2000 + "}")),
        "claim-twice": Bad("Jwt payload is an invalid JSON", by_rsa(rs256, twice)),
        "alg-twice": Bad("Jwt header is an invalid JSON", by_rsa('{"alg":"RS256","alg":"none"}', payload)),
        "crit": Bad("Jwt header [crit] asks for what is not supported", good(header={"crit": ["exp"]}), envoy=ADMITS),
        "jwk": Bad(
            _FAILS, signers()["rsa2"].token({"alg": "RS256", "kid": "rsa", "jwk": signers()["rsa2"].jwk}, claims())
        ),
        "jku": Bad(
            _FAILS, signers()["rsa2"].token({"alg": "RS256", "kid": "rsa", "jku": "http://127.0.0.1:1/"}, claims())
        ),
        "x5u": Bad(
            _FAILS, signers()["rsa2"].token({"alg": "RS256", "x5u": "http://127.0.0.1:1/", "x5c": ["AA=="]}, claims())
        ),
        "ecdsa-der": Bad(_FAILS, f"{ec_head}.{ec_body}.{encode(der)}"),
        "ecdsa-zeros": Bad(_FAILS, f"{ec_head}.{ec_body}.{encode(bytes(64))}"),
        "ecdsa-short-zeros": Bad(_FAILS, f"{ec_head}.{ec_body}.{encode(bytes(2))}"),
        "ed25519-zeros": Bad(_FAILS, ".".join([*good("ed").split(".")[:2], encode(bytes(64))])),
        "ed25519-short": Bad(
            "Jwt ED25519 signature is wrong length", ".".join([*good("ed").split(".")[:2], encode(bytes(48))])
        ),
        "signature-truncated": Bad(_FAILS, f"{head}.{body}.{encode(_decoded(signature)[:-3])}"),
        "signature-of-another": Bad(_FAILS, f"{head}.{body}.{good(sub='bob').split('.')[2]}"),
        "payload-changed": Bad(_FAILS, f"{head}.{encode(json.dumps(claims(sub='root')).encode())}.{signature}"),
        "no-signature": Bad(_FORM, f"{head}.{body}"),
        "empty-signature": Bad(_FORM, f"{head}.{body}."),
        "four-parts": Bad(_FORM, f"{head}.{body}.{signature}.{signature}"),
        "dot-behind": Bad(_FORM, f"{head}.{body}.{signature}.", envoy=ADMITS),
        "two-dots": Bad(_FORM, f"{head}..{body}.{signature}", envoy=ADMITS),
        "garbage-behind": Bad(
            "Jwt signature is an invalid Base64url encoded", f"{head}.{body}.{signature} x", envoy=_FAILS
        ),
        "blank-within": Bad(
            "Jwt signature is an invalid Base64url encoded",
            f"{head}.{body}.{signature[:9]} {signature[9:]}",
            envoy=ADMITS,
        ),
        "two-headers": Bad(_FORM, good(), headers=[("authorization", f"Bearer {good()}")]),
        "good-and-bad": Bad("Jwt is expired", good(), target=f"/?access_token={good(exp=1)}"),
        "bad-and-good": Bad("Jwt is expired", good(exp=1), target=f"/?access_token={good()}"),
        "not-ascii": Bad("Jwt header is an invalid Base64url encoded", f"{head}\xff.{body}.{signature}"),
    }


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _bootstrap(port: int, admin: int, log: Path, origin: list[int]) -> Json:
    keys = [{**signers()[key].jwk, "kid": key} for key in ("rsa", "secp256r1", "ed")]
    # Or Envoy takes every token for one of its.
    keys[2]["alg"] = "EdDSA"
    shared = json.dumps({"keys": [signers()["oct"].jwk]})
    provider = {
        "issuer": _ISSUER,
        "audiences": ["shop"],
        "local_jwks": {"inline_string": json.dumps({"keys": keys})},
        "payload_in_metadata": "payload",
    }
    jwt = {
        "@type": f"{_TYPE}.jwt_authn.v3.JwtAuthentication",
        # Keys of the other are shared, not public: nobody is shown them.
        "providers": {"p": provider, "q": {"issuer": "q", "local_jwks": {"inline_string": shared}}},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "p"}}],
    }
    filters = [
        {"name": "envoy.filters.http.jwt_authn", "typed_config": jwt},
        {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{_TYPE}.router.v3.Router"}},
    ]
    line = "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA(envoy.filters.http.jwt_authn)%\n"
    hosts = [virtual_host("all", [to_cluster("a")])]
    listener = http_listener(port, hosts, http_filters=filters, access_log=[access_log(log, line)])
    return bootstrap([listener], [cluster("a", origin)], admin)


def _asks(bad: dict[str, Bad]) -> dict[int, Ask]:
    made = {}
    for number, one in enumerate(bad.values()):
        token = [("authorization", f"Bearer {one.token}")] if one.token else []
        made[number] = Ask("GET", "shop.test", one.target, [*token, *one.headers])
    return made


@pytest.fixture(scope="module")
def bad() -> dict[str, Bad]:
    return table()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_tokens(kind: str, bad: dict[str, Bad], tmp_path: Path) -> None:
    admitted: Callable[[Bad], bool] = lambda one: kind == "envoy" and one.envoy == ADMITS  # noqa: E731
    seen, reached, logged, dumped = asyncio.run(_ask(kind, _asks(bad), tmp_path / "log"))
    wrong = []
    for number, (name, one) in enumerate(bad.items()):
        reason = (kind == "envoy" and one.envoy) or one.reason
        details = reason if reason == ADMITS else f"jwt_authn_access_denied{{{reason.replace(' ', '_')}}}"
        status = 200 if reason == ADMITS else 403 if reason == "Audiences in Jwt are not allowed" else 401
        if seen[number] != f"{status} {details}":
            wrong.append(f"{name}: {seen[number]}, not {status} {details}")
    assert not wrong, "\n".join(wrong)
    assert reached == sum(admitted(one) for one in bad.values())
    # Nor is a token, or what signs one, told to anybody.
    for one in bad.values():
        signature = one.token.rpartition(".")[2]
        assert len(signature) < 20 or signature not in logged, one
    assert "issuer.test" in dumped
    assert (signers()["oct"].jwk["k"] in dumped) == (kind == "envoy")


async def _ask(kind: str, asked: dict[int, Ask], log: Path) -> tuple[dict[int, str], int, str, str]:
    """What the log says of each, how many reached the origin, and everything that the proxy has said."""
    port, origins = free_port(), {"a": free_ports(1)}
    arrived: Counter[str] = Counter()
    async with behind(origins, arrived):
        with proxy(kind, _bootstrap(port, free_port(), log, list(origins["a"]))) as started:
            await ask_all(port, asked)
            logged = await all_logged(log, len(asked))
            dumped = await asyncio.to_thread(started.admin, "/config_dump")
            said = log.read_text() + started.process.tail()
    seen = {int(line.split(" ")[0]): " ".join(line.split(" ")[1:3]) for line in logged}
    return seen, sum(arrived.values()), said, dumped
