"""Secrets that a test knows, and the search for them in whatever somebody could read."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Known:
    """Secrets by name, each as the octets that must not be seen."""

    secrets: dict[str, bytes] = field(default_factory=dict)

    def text(self, name: str, value: str) -> None:
        """A token, a password."""
        self.secrets[name] = value.encode()

    def key(self, name: str, pem: bytes) -> None:
        """A private key of an elliptic curve: the number that makes it private."""
        key = serialization.load_pem_private_key(pem, password=None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.secrets[name] = key.private_numbers().private_value.to_bytes(32, "big")

    def found_in(self, content: bytes) -> set[str]:
        """Which are in there in any guise: as they are, in hexadecimal, in Base64 at any place, wrapped or escaped."""
        squeezed = re.sub(rb"\\[nrt]|[\s\"',:|]", b"", content)
        lower = squeezed.lower()
        return {
            name
            for name, secret in self.secrets.items()
            if any(guise in content or guise in squeezed for guise in _guises(secret)) or secret.hex().encode() in lower
        }


def _guises(secret: bytes) -> Iterator[bytes]:
    yield secret
    for shift in range(3):
        # What stands before and behind it decides over the characters at its ends.
        encoded = base64.b64encode(b"\0" * shift + secret)
        middle = encoded[-(-shift * 8 // 6) : (shift + len(secret)) * 8 // 6]
        yield middle
        yield middle.translate(bytes.maketrans(b"+/", b"-_"))
