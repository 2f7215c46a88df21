"""JSON Web Tokens and their keys, made for a test."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature


def encoded(octets: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


class Issuer:
    """Somebody who signs tokens with ES256."""

    def __init__(self, name: str, kid: str = "1") -> None:
        self.name, self._kid = name, kid
        self._key = ec.generate_private_key(ec.SECP256R1())

    @property
    def jwks(self) -> str:
        """The public key, as a JSON Web Key Set."""
        point = self._key.public_key().public_numbers()
        x, y = (encoded(number.to_bytes(32, "big")) for number in (point.x, point.y))
        return json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "kid": self._kid, "alg": "ES256", "x": x, "y": y}]})

    def token(self, subject: str = "alice", **claims: Any) -> str:
        """A token that is good for an hour, unless the claims say otherwise."""
        payload = {"iss": self.name, "sub": subject, "exp": int(time.time()) + 3600, **claims}
        signed = f"{_part({'alg': 'ES256', 'kid': self._kid, 'typ': 'JWT'})}.{_part(payload)}"
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _part(value: dict[str, Any]) -> str:
    return encoded(json.dumps(value, separators=(",", ":")).encode())
