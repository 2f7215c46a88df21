"""Certificate signing requests: parsed defensively, reduced to a public key.

A request proves possession of a key. It decides nothing else: what it asks to be called is only compared
with the identity that the caller authenticated as.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from pymesh.control.identity.spiffe import Identity

MAX_CSR = 64 * 1024
_CURVES = ("secp256r1", "secp384r1")

PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | rsa.RSAPublicKey


class BadRequestError(Exception):
    """The request cannot be read or its key not be used."""


class WrongIdentityError(Exception):
    """The request asks for a name that is not the caller's."""


def public_key(pem: str, identity: Identity) -> PublicKey:
    """The key to certify for ``identity``.

    Whatever the bytes are, raises nothing but :class:`BadRequestError` and :class:`WrongIdentityError`.
    """
    if len(pem) > MAX_CSR:
        raise BadRequestError(f"the request is larger than {MAX_CSR} bytes")
    try:
        request = x509.load_pem_x509_csr(pem.encode("utf-8", "surrogateescape"))
        if not request.is_signature_valid:
            raise BadRequestError("the request is not signed by its own key")
        _check_names(request, identity)
        return _checked_key(request.public_key())
    except (BadRequestError, WrongIdentityError):
        raise
    except (ValueError, TypeError, UnsupportedAlgorithm, InvalidSignature) as error:
        raise BadRequestError(f"the request cannot be parsed: {error}") from error
    except Exception as error:  # The parser is fed by strangers: a surprise in it must not reach the server.
        raise BadRequestError(f"the request cannot be parsed: {type(error).__name__}") from error


def _check_names(request: x509.CertificateSigningRequest, identity: Identity) -> None:
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for name in names:
        if not isinstance(name, x509.UniformResourceIdentifier) or name.value != str(identity):
            shown = str(getattr(name, "value", name))[:200]
            raise WrongIdentityError(f"the request asks for {shown!r}, the caller is {str(identity)!r}")


def _checked_key(key: object) -> PublicKey:
    match key:
        case ec.EllipticCurvePublicKey() if key.curve.name in _CURVES:
            return key
        case ed25519.Ed25519PublicKey():
            return key
        case rsa.RSAPublicKey() if 2048 <= key.key_size <= 8192:
            return key
    raise BadRequestError("the key is not accepted; use ECDSA P-256 or P-384, Ed25519, or RSA 2048 to 8192")
