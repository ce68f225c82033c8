"""Keys for the check of signatures: the types of keys, and the algorithm of each type.

The algorithm never comes from the token alone. A token signed by HS256 with the text of a public key, and a
token without signature (``none``), are refused, since the type of a key fits one algorithm only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

PublicKey: TypeAlias = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey
Key: TypeAlias = bytes | PublicKey

LEAST_SECRET_BYTES: Final = 32
"""A secret of HS256 has at least the length of the hash (RFC 7518, section 3.2)."""
RSA_BITS: Final = range(2048, 8193)
"""Shorter keys are broken, and longer keys take too long to check."""
_PEM: Final = b"-----BEGIN"
_SSH: Final = (b"ssh-", b"ecdsa-sha2-")


class InvalidKey(Exception):
    """A key cannot be used. The text says why, and shows nothing of the key."""


def algorithm_of(key: Key) -> str:
    """Return the only algorithm for a key. Raises InvalidKey."""
    match key:
        case bytes():
            return "HS256"
        case RSAPublicKey():
            if key.key_size in RSA_BITS:
                return "RS256"
            raise InvalidKey(
                f"an RSA key of {key.key_size} bits; it must have {RSA_BITS[0]} to {RSA_BITS[-1]}"
            )
        case EllipticCurvePublicKey():
            if isinstance(key.curve, SECP256R1):
                return "ES256"
            raise InvalidKey(f"a key of the curve {key.curve.name}; ES256 takes P-256")
        case Ed25519PublicKey():
            return "EdDSA"


def parse_key(content: bytes) -> Key:
    """Parse a public key in PEM; any other content is a secret of HS256. Raises InvalidKey."""
    content = content.strip()
    if content.startswith(_SSH):
        raise InvalidKey("a key of SSH; PEM is expected (ssh-keygen -e -m pkcs8 converts it)")
    if not content.startswith(_PEM):
        if len(content) < LEAST_SECRET_BYTES:
            raise InvalidKey(f"a secret of {len(content)} bytes; it must have at least {LEAST_SECRET_BYTES}")
        return content
    if b"PRIVATE KEY" in content:
        raise InvalidKey("a private key, which only the issuer of the tokens has; the public key is expected")
    try:
        found = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise InvalidKey("no public key in PEM (-----BEGIN PUBLIC KEY-----)") from error
    return checked(found)


def key_of_jwk(jwk: Mapping[str, Any]) -> PublicKey:
    """Return the public key of a JWK. Raises InvalidKey for a secret, and for a key of another use."""
    if jwk.get("use", "sig") != "sig" or "verify" not in jwk.get("key_ops", ("verify",)):
        raise InvalidKey("a key for another use")
    kinds: Mapping[object, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    kind = kinds.get(jwk.get("kty"))
    if kind is None or "d" in jwk:
        raise InvalidKey("no public key")
    try:
        key = checked(kind.from_jwk(dict(jwk)))
    except (PyJWTError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidKey("not a valid key") from error
    if jwk.get("alg", algorithm_of(key)) != algorithm_of(key):
        raise InvalidKey("a key for another algorithm")
    return key


def checked(key: object) -> PublicKey:
    """Return a key of a known type. Raises InvalidKey."""
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey):
        raise InvalidKey(f"a key of the type {type(key).__name__}; RSA, P-256 and Ed25519 are known")
    algorithm_of(key)
    return key
