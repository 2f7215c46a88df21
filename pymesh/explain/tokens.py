"""Tokens whose claims are believed: signed with a key of this walk, which every provider of keys is taken to have.

Keys that a configuration holds itself stay beside it, so tokens that these have signed are judged as ever. Keys that
would be fetched are not.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from pymesh.control.xds import pb
from pymesh.explain.question import Question, QuestionError
from pymesh.explain.source import Messages
from pymesh.explain.told import http_filters

_JWT = "envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
_KEY_ID = "explain"
_LIFETIME_SECONDS = 3600
#: Octets of each half of an ES256 signature (RFC 7518, 3.4).
_HALF = 32


@dataclass(frozen=True, slots=True)
class Provider:
    """Whose tokens a proxy takes, and where it looks for them."""

    issuer: str
    #: Name and what stands before the token.
    headers: tuple[tuple[str, str], ...]
    parameters: tuple[str, ...]
    cookies: tuple[str, ...]


class Signer:
    """Signs tokens, and makes configuration believe them."""

    def __init__(self, now: datetime) -> None:
        self._now = int(now.timestamp())
        self._key = ec.generate_private_key(ec.SECP256R1())

    def believe(self, config: Any) -> Any:
        """A filter's configuration whose providers have our key."""
        for provider in config.providers.values():
            keys = [*_keys(provider), self._public()]
            provider.ClearField("remote_jwks")
            provider.local_jwks.inline_string = json.dumps({"keys": keys})
        return config

    def token(self, claims: Mapping[str, Any]) -> str:
        """A token with these claims, which expires in an hour if they do not say when."""
        filled = {"exp": self._now + _LIFETIME_SECONDS, **claims}
        parts = ({"alg": "ES256", "kid": _KEY_ID, "typ": "JWT"}, filled)
        signed = b".".join(_base64(json.dumps(part).encode()) for part in parts)
        r, s = utils.decode_dss_signature(self._key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return (signed + b"." + _base64(r.to_bytes(_HALF) + s.to_bytes(_HALF))).decode()

    def _public(self) -> dict[str, str]:
        numbers = self._key.public_key().public_numbers()
        x, y = (_base64(one.to_bytes(_HALF)).decode() for one in (numbers.x, numbers.y))
        return {"kty": "EC", "crv": "P-256", "alg": "ES256", "kid": _KEY_ID, "x": x, "y": y}


def with_claims(question: Question, providers: Sequence[Provider], signer: Signer) -> Question:
    """The question with a token for its claims, where a proxy of that issuer looks for it. Raises
    :class:`QuestionError`."""
    claims = dict(question.claims or {})
    issuers = sorted({one.issuer for one in providers})
    if "iss" not in claims:
        if len(issuers) != 1:
            known = f"known: {', '.join(issuers)}" if issuers else "no RequestAuthentication asks for tokens"
            raise QuestionError(f"--claims has no 'iss'\nhint: {known}")
        claims["iss"] = issuers[0]
    token = signer.token(claims)
    place = next((one for one in providers if one.issuer == claims["iss"]), Provider("", (), (), ()))
    if place.parameters and not place.headers:
        mark = "&" if "?" in question.target else "?"
        return question.with_target(f"{question.target}{mark}{place.parameters[0]}={token}")
    if place.cookies and not place.headers:
        return question.with_header("cookie", f"{place.cookies[0]}={token}")
    name, prefix = place.headers[0] if place.headers else ("authorization", "Bearer ")
    return question.with_header(name, prefix + token)


def providers(messages: Messages) -> Iterator[Provider]:
    """Those that the listeners of a proxy know."""
    for listener in messages.get(pb.LISTENER, {}).values():
        for config in (pb.unpack(one.typed_config) for one in http_filters(listener) if is_jwt(one)):
            for one in config.providers.values():
                headers = tuple((header.name, header.value_prefix) for header in one.from_headers)
                yield Provider(one.issuer, headers, tuple(one.from_params), tuple(one.from_cookies))


def is_jwt(http_filter: Any) -> bool:
    """Whether an HTTP filter checks tokens."""
    return bool(http_filter.typed_config.type_url.endswith(_JWT))


def _keys(provider: Any) -> list[Any]:
    """The keys that a provider's configuration holds."""
    if not provider.HasField("local_jwks"):
        return []
    try:
        return list(json.loads(provider.local_jwks.inline_string or "{}").get("keys") or [])
    except (ValueError, AttributeError, TypeError):
        return []


def _base64(octets: bytes) -> bytes:
    return base64.urlsafe_b64encode(octets).rstrip(b"=")
