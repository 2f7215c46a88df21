"""Istio's RequestAuthentication: whose JSON Web Tokens are believed, where they stand, and what becomes of them.

A request with a token that is not good is refused; one without a token passes. Who must have one is said by an
AuthorizationPolicy.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import field
from datetime import timedelta
from typing import Any, ClassVar, Final
from urllib.parse import SplitResult, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.resources.decode import Located, Problem, model
from pymesh.control.resources.header_values import HEADER_NAME
from pymesh.control.resources.kubernetes import is_host_name
from pymesh.control.resources.metadata import Resource
from pymesh.control.resources.security import Selector, TargetRef, two_ways_to_select
from pymesh.control.resources.traffic import OF_ONE_CONNECTION

#: Kinds of keys that can check a signature without being able to make one.
_PUBLIC_KINDS: Final = ("RSA", "EC", "OKP")
#: What the proxy can use.
_USABLE: Final = "RSA of 2048 to 8192 bits, EC on P-256, P-384 or P-521, OKP with Ed25519"
_CURVES: Final[dict[str, type[ec.EllipticCurve]]] = {
    "P-256": ec.SECP256R1,
    "P-384": ec.SECP384R1,
    "P-521": ec.SECP521R1,
}
#: Of a key that does not say its curve.
_CURVE_OF: Final = {"ES384": "P-384", "ES512": "P-521"}
#: Members of a JSON Web Key that are secret (RFC 7518, section 6).
_SECRET_MEMBERS: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


@model
class JwtHeader(Located):
    """A header with the token behind a prefix."""

    name: str
    prefix: str = ""

    def problems(self) -> Iterator[Problem]:
        yield from _header_problems("name", self.name, sets=False)


@model
class ClaimToHeader(Located):
    """A claim that the application finds in a header."""

    header: str
    #: ``a.b`` is the claim ``b`` inside of ``a``.
    claim: str

    def problems(self) -> Iterator[Problem]:
        yield from _header_problems("header", self.header, sets=True)
        if not self.claim or not all(self.claim.split(".")):
            yield Problem("claim", f"{self.claim!r} names no claim", "as in email or user.email")


@model
class JwtRule(Located):
    """Whose tokens, and how they are checked."""

    issuer: str
    #: A token must be for one of these; without any, for whoever.
    audiences: tuple[str, ...] = ()
    #: Where the keys are fetched, by the proxy.
    jwks_uri: str = ""
    #: Or the keys themselves.
    jwks: str = ""
    #: Where tokens stand. Without any: ``Authorization: Bearer``, and the parameter ``access_token``.
    from_headers: tuple[JwtHeader, ...] = ()
    from_params: tuple[str, ...] = ()
    from_cookies: tuple[str, ...] = ()
    output_payload_to_header: str = ""
    output_claim_to_headers: tuple[ClaimToHeader, ...] = ()
    forward_original_token: bool = False
    #: How long fetching the keys may take.
    timeout: timedelta = timedelta(seconds=5)
    #: Claims that are lists, written as text; ``scope`` and ``permission`` always are.
    space_delimited_claims: tuple[str, ...] = ()

    @property
    def uri(self) -> SplitResult:
        """``jwksUri``, in its parts."""
        return urlsplit(self.jwks_uri)

    def problems(self) -> Iterator[Problem]:
        if not self.issuer:
            yield Problem("issuer", "'issuer' is empty", "write what tokens have in their claim 'iss'")
        if self.jwks_uri and self.jwks:
            yield Problem("jwks", "'jwksUri' and 'jwks' exclude each other", "keep one of them")
        elif not self.jwks_uri and not self.jwks:
            hint = "keys are not looked for at the issuer: its /.well-known/openid-configuration says its 'jwks_uri'"
            yield Problem("", "one of 'jwksUri', 'jwks' is needed", hint)
        if self.jwks_uri:
            yield from _uri_problems(self.jwks_uri)
        if self.jwks:
            yield from _key_problems(self.jwks)
        if self.output_payload_to_header:
            yield from _header_problems("outputPayloadToHeader", self.output_payload_to_header, sets=True)
        for name in self.from_params:
            if not name:
                yield Problem("fromParams", "a parameter has a name")
        for name in self.from_cookies:
            if not HEADER_NAME.fullmatch(name):
                yield Problem("fromCookies", f"{name!r} is not the name of a cookie")
        for name in self.space_delimited_claims:
            if not name:
                yield Problem("spaceDelimitedClaims", "a claim has a name")
        if self.timeout < timedelta(milliseconds=1):
            yield Problem("timeout", "'timeout' leaves no time", "give it a millisecond at least, or remove it")
        elif "timeout" in self.where and not self.jwks_uri:
            yield Problem("timeout", "'timeout' is about fetching keys, which are here", "remove it")


@model
class RequestAuthenticationSpec(Located):
    """Rules for the workloads of a namespace, or for those that are selected."""

    REFUSED: ClassVar = {"targetRef": "write it as an entry of 'targetRefs'"}

    selector: Selector | None = None
    target_refs: tuple[TargetRef, ...] = ()
    jwt_rules: tuple[JwtRule, ...] = ()

    def problems(self) -> Iterator[Problem]:
        yield from two_ways_to_select(self)
        if not self.jwt_rules:
            yield Problem("jwtRules", "without 'jwtRules' no token is looked at", "name an issuer and its keys")


@model
class RequestAuthentication(Resource):
    """``security.istio.io`` RequestAuthentication."""

    spec: RequestAuthenticationSpec = field(default_factory=RequestAuthenticationSpec)
    status: Any = None


def _header_problems(name: str, header: str, *, sets: bool) -> Iterator[Problem]:
    if not HEADER_NAME.fullmatch(header):
        yield Problem(name, f"{header!r} is not a header name")
    elif sets and header.lower() in OF_ONE_CONNECTION | {"host"}:
        yield Problem(name, f"{header!r} says where the request goes and ends", "take a name of its own, as x-jwt-sub")


def _uri_problems(written: str) -> Iterator[Problem]:
    # A name, so that the server's certificate can be held against it.
    hint = "write it as in https://issuer.example/keys.json"
    try:
        uri = urlsplit(written)
        port = uri.port
    except ValueError:
        yield Problem("jwksUri", f"{written!r} is not a URI", hint)
        return
    host = uri.hostname or ""
    if uri.scheme not in ("http", "https") or not is_host_name(host) or port == 0:
        yield Problem("jwksUri", f"{written!r} is no place to fetch from", hint)
    elif uri.username is not None or uri.password is not None or uri.fragment or re.search(r"\s", written):
        # Not told as it is written: it may have a password in it.
        yield Problem("jwksUri", "a URI of keys has a host, a path and a query, and nothing else", hint)


def _key_problems(written: str) -> Iterator[Problem]:
    """What keeps a JSON Web Key Set (RFC 7517) from being used."""
    hint = 'write it as in {"keys": [{"kty": "EC", "crv": "P-256", "x": "...", "y": "..."}]}'
    try:
        found = json.loads(written, object_pairs_hook=_once)
    except RecursionError:
        yield Problem("jwks", "the keys are nested too deeply", hint)
        return
    except ValueError as error:
        yield Problem("jwks", f"the keys are not JSON: {error}", hint)
        return
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        yield Problem("jwks", "there are no keys", hint)
        return
    for number, key in enumerate(keys):
        kind = key.get("kty")
        if kind == "oct":
            hint = "who can check with it can sign with it; use RSA, EC or OKP"
            yield Problem("jwks", f"keys[{number}] is a shared secret", hint)
        elif kind not in _PUBLIC_KINDS:
            yield Problem("jwks", f"keys[{number}] is of kind {kind!r}", f"known: {', '.join(_PUBLIC_KINDS)}")
        elif _SECRET_MEMBERS & key.keys():
            member = min(_SECRET_MEMBERS & key.keys())
            yield Problem("jwks", f"keys[{number}] is a private key: it has {member!r}", "publish the public part only")
    # A proxy would refuse the whole listener, with whatever else is changed there.
    if not any(map(_is_usable, keys)):
        yield Problem("jwks", "no proxy can use any of the keys", f"known: {_USABLE}")


def _once(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Of two members of one name readers believe one or the other."""
    found = dict(members)
    if len(found) != len(members):
        twice = next(name for number, (name, _) in enumerate(members) if name in dict(members[:number]))
        raise ValueError(f"{twice!r} is here twice")
    return found


def _is_usable(key: dict[str, Any]) -> bool:
    """Whether the proxy can check signatures with it."""
    try:
        match key.get("kty"):
            case "RSA":
                n, e = _number(key["n"]), _number(key["e"])
                return 2048 <= n.bit_length() <= 8192 and e in (3, 65537)
            case "EC":
                curve = _CURVES[key.get("crv") or _CURVE_OF.get(key.get("alg", ""), "P-256")]
                ec.EllipticCurvePublicNumbers(_number(key["x"]), _number(key["y"]), curve()).public_key()
                return True
            case "OKP":
                return key["crv"] == "Ed25519" and len(_octets(key["x"])) == 32
    except (KeyError, TypeError, AttributeError, ValueError):
        pass
    return False


def _number(text: str) -> int:
    return int.from_bytes(_octets(text), "big")


def _octets(text: str) -> bytes:
    """Base64url, padded or not."""
    bare = text.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)
