"""Tokens of clients, and the keys of the issuer."""

from __future__ import annotations

import json
import time
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt import api_jws
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from socketio_eventstore.program.auth.tokens import JwtAuthentication, TokenRules

SECRET = b"a secret of the issuer, which has enough bytes"
ISSUER = "https://issuer.example"
RULES = TokenRules(("HS256",), issuer=ISSUER)


@cache
def private_key(algorithm: str, number: int = 0) -> Any:
    """A key of the issuer; another key for each number."""
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case _:
            return SECRET


def public_pem(algorithm: str) -> bytes:
    pem: bytes = (
        private_key(algorithm).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return pem


def jwk(algorithm: str, key_id: str | None, number: int = 0) -> dict[str, Any]:
    """The public key as the issuer publishes it."""
    kinds: dict[str, Any] = {"RS256": RSAAlgorithm, "ES256": ECAlgorithm, "EdDSA": OKPAlgorithm}
    published: dict[str, Any] = json.loads(
        kinds[algorithm].to_jwk(private_key(algorithm, number).public_key())
    )
    return published if key_id is None else {**published, "kid": key_id}


def claims_of(subject: str = "ann", seconds: float = 3600.0, **more: Any) -> dict[str, Any]:
    """Claims of a token that ends after ``seconds``; a claim with None is left out."""
    claims = {"iss": ISSUER, "sub": subject, "exp": time.time() + seconds, **more}
    return {name: value for name, value in claims.items() if value is not None}


def token_of(subject: str = "ann", seconds: float = 3600.0, **more: Any) -> str:
    """A token signed with the secret."""
    return signed(claims_of(subject, seconds, **more))


def signed(
    claims: dict[str, Any],
    algorithm: str = "HS256",
    *,
    key: Any = None,
    key_id: str | None = None,
    headers: dict[str, Any] | None = None,
) -> str:
    headers = {**(headers or {}), **({} if key_id is None else {"kid": key_id})}
    content = json.dumps(claims).encode()  # jwt.encode refuses claims that a hostile issuer may sign
    return api_jws.encode(content, key or private_key(algorithm), algorithm, headers=headers)


def authentication(**rules: Any) -> JwtAuthentication:
    """The check of tokens signed with the secret."""
    return JwtAuthentication(TokenRules(("HS256",), **{"issuer": ISSUER, **rules}), SECRET)
