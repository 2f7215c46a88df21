"""JSON Web Tokens and their keys, made for a test."""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Json = dict[str, Any]
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def encode(octets: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(octets).decode().rstrip("=")


@dataclass(frozen=True)
class Signer:
    """A key: its JWK, and what it signs with each of its algorithms."""

    jwk: Json
    algorithms: Sequence[str]
    sign: Callable[[str, bytes], bytes]

    def token(self, header: Json, claims: Json | str) -> str:
        """A token; the header says with which algorithm."""
        payload = claims if isinstance(claims, str) else json.dumps(claims)
        signed = f"{encode(json.dumps(header).encode())}.{encode(payload.encode())}"
        algorithm = header.get("alg", "")
        by = algorithm if algorithm in self.algorithms else self.algorithms[0]
        return f"{signed}.{encode(self.sign(by, signed.encode()))}"


@functools.cache
def signers() -> Mapping[str, Signer]:
    """One of each kind, and a second RSA key."""
    made = {name: _rsa() for name in ("rsa", "rsa2")}
    made |= {curve.name: _ec(curve, name, alg) for curve, name, alg in _CURVES}
    key = ed25519.Ed25519PrivateKey.generate()
    x = encode(key.public_key().public_bytes_raw())
    made["ed"] = Signer({"kty": "OKP", "crv": "Ed25519", "x": x}, ["EdDSA"], lambda _, data: key.sign(data))
    secret = b"a secret that is shared by who signs and who verifies"
    made["oct"] = Signer(
        {"kty": "oct", "k": encode(secret)},
        ["HS256", "HS384", "HS512"],
        lambda alg, data: hmac.new(secret, data, getattr(hashlib, f"sha{alg[2:]}")).digest(),
    )
    return made


_CURVES = ((ec.SECP256R1(), "P-256", "ES256"), (ec.SECP384R1(), "P-384", "ES384"), (ec.SECP521R1(), "P-521", "ES512"))


def _rsa() -> Signer:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    numbers = key.public_key().public_numbers()

    def sign(alg: str, data: bytes) -> bytes:
        kind = _HASHES[alg[2:]]
        pss = padding.PSS(padding.MGF1(kind), salt_length=kind.digest_size)
        return key.sign(data, pss if alg[0] == "P" else padding.PKCS1v15(), kind)

    jwk = {"kty": "RSA", "n": encode(_octets(numbers.n)), "e": encode(_octets(numbers.e))}
    return Signer(jwk, ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"], sign)


def _ec(curve: ec.EllipticCurve, name: str, algorithm: str) -> Signer:
    key = ec.generate_private_key(curve)
    size = (curve.key_size + 7) // 8
    numbers = key.public_key().public_numbers()

    def sign(alg: str, data: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(_HASHES[alg[2:]])))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    x, y = (encode(number.to_bytes(size, "big")) for number in (numbers.x, numbers.y))
    return Signer({"kty": "EC", "crv": name, "x": x, "y": y}, [algorithm], sign)


def _octets(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


class Issuer:
    """Somebody who signs tokens with ES256."""

    def __init__(self, name: str, kid: str = "1") -> None:
        self.name, self._kid = name, kid
        self._signer = _ec(*_CURVES[0])

    @property
    def jwks(self) -> str:
        """The public key, as a JSON Web Key Set."""
        return json.dumps({"keys": [{**self._signer.jwk, "kid": self._kid, "alg": "ES256"}]})

    def token(self, subject: str = "alice", **claims: Any) -> str:
        """A token that is good for an hour, unless the claims say otherwise."""
        payload = {"iss": self.name, "sub": subject, "exp": int(time.time()) + 3600, **claims}
        return self._signer.token({"alg": "ES256", "kid": self._kid, "typ": "JWT"}, payload)
