"""The check of tokens: signatures, algorithms and claims."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter.authentication import TokenRefused
from socketio_eventstore.program.auth.setup import authentication_of
from socketio_eventstore.program.auth.tokens import JwtAuthentication, TokenRules
from socketio_eventstore.program.auth.verification_keys import InvalidKey, parse_key
from socketio_eventstore.program.auth_settings import AuthSettings
from socketio_eventstore.program.errors import StartError
from support.tokens import SECRET, authentication, claims_of, private_key, public_pem, signed, token_of


async def code_of(checking: JwtAuthentication, token: object, namespace: str = "/") -> str | None:
    """The code of the refusal; None for a valid token."""
    try:
        await checking.check({"token": token}, namespace)
    except TokenRefused as refusal:
        return str(refusal.reason["data"]["code"])
    return None


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
async def test_each_algorithm_is_checked(algorithm: str) -> None:
    """A token is valid with the key of its issuer, and with no changed byte of claims or signature."""
    key = parse_key(SECRET if algorithm == "HS256" else public_pem(algorithm))
    checking = JwtAuthentication(TokenRules((algorithm,)), key)
    token = signed(claims_of(), algorithm)
    assert (await checking.check({"token": token}, "/")).identity == "https://issuer.example ann"
    head, body, signature = token.split(".")
    for changed in (
        f"{head}.{signed(claims_of('bob'), algorithm).split('.')[1]}.{signature}",
        f"{head}.{body}.",
        f"{head}.{body}.{signature[:-8]}AAAAAAAA",
    ):
        assert await code_of(checking, changed) == "token_invalid"


def unsigned(header: dict[str, Any], key: bytes | None = None) -> str:
    """A token by hand: without a signature, or by HS256 with any key."""
    parts = [json.dumps(part).encode() for part in (header, claims_of())]
    text = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = b"" if key is None else hmac.digest(key, text, hashlib.sha256)
    return f"{text.decode()}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


async def test_the_token_does_not_choose_its_algorithm() -> None:
    """No token passes by ``none``, or by HS256 with the text of the public key as secret."""
    allowed = ("HS256", "RS256", "ES256", "EdDSA")
    checking = JwtAuthentication(TokenRules(allowed), parse_key(public_pem("RS256")))
    pem = public_pem("RS256")
    for token in (
        unsigned({"alg": "none"}),
        unsigned({"alg": "None"}),
        unsigned({}),
        unsigned({"alg": ["RS256"]}),
        unsigned({"alg": "HS256"}, pem),
        unsigned({"alg": "HS256"}, pem.strip()),
        unsigned({"alg": "HS512"}, pem),
        signed(claims_of(), "ES256"),
        signed(claims_of(), "RS512", key=private_key("RS256")),
    ):
        assert await code_of(checking, token) == "token_invalid"
    assert await code_of(checking, signed(claims_of(), "RS256")) is None
    only_elliptic = JwtAuthentication(TokenRules(("ES256",)), parse_key(pem))
    assert await code_of(only_elliptic, signed(claims_of(), "RS256")) == "token_invalid"


@pytest.mark.parametrize(
    ("auth", "code"),
    [
        (None, "token_missing"),
        ("text", "token_missing"),
        ({}, "token_missing"),
        ({"token": None}, "token_missing"),
        ({"token": 7}, "token_invalid"),
        ({"token": ""}, "token_invalid"),
        ({"token": "a.b.c"}, "token_invalid"),
        ({"token": "\ud800.b.c"}, "token_invalid"),
        ({"token": "x" * 100_000}, "token_invalid"),
        ({"token": "W10.W10.W10"}, "token_invalid"),
    ],
)
async def test_no_token_is_refused(auth: Any, code: str) -> None:
    with pytest.raises(TokenRefused) as refused:
        await authentication().check(auth, "/")
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"seconds": -60.0}, "token_expired"),
        ({"exp": None}, "token_invalid"),
        ({"exp": float("inf")}, "token_invalid"),
        ({"exp": "soon"}, "token_invalid"),
        ({"nbf": time.time() + 9999}, "token_invalid"),
        ({"iss": "https://other.example"}, "token_invalid"),
        ({"iss": None}, "token_invalid"),
        ({"aud": "another service"}, "token_invalid"),
        ({"sub": None}, "token_invalid"),
        ({"sub": ""}, "token_invalid"),
        ({"sub": "x" * 2000}, "token_invalid"),
        ({"sub": "\ud800"}, "token_invalid"),
        ({"rooms": "a"}, "token_invalid"),
        ({"rooms": [True]}, "token_invalid"),
        ({"rooms": [{"a": 1}]}, "token_invalid"),
        ({"rooms": list(range(20))}, "token_invalid"),
        ({"namespaces": "/"}, "token_invalid"),
        ({"namespaces": ["/other"]}, "token_namespace"),
        ({"namespaces": []}, "token_namespace"),
        ({"seconds": -2.0}, None),
        ({"exp": 10**400}, None),
        ({"rooms": ["a", 7, "a"], "namespaces": ["/", "/b"]}, None),
    ],
)
async def test_claims_are_checked(claims: dict[str, Any], code: str | None) -> None:
    """Each claim is checked, with the leeway for clocks; the counts have each refusal."""
    checking = authentication(leeway_seconds=5.0, max_rooms=10)
    assert await code_of(checking, signed(claims_of(**claims))) == code
    assert checking.refused == ({} if code is None else {code: 1})


async def test_optional_rules() -> None:
    """The audience, a token without an end, and another key of ``auth`` are configurable."""
    checking = authentication(audience=("chat", "news"), requires_exp=False, token_name="jwt")
    token = token_of(aud=["news", "x"], exp=None, rooms=["a", 7, "a"])
    found = await checking.check({"jwt": token}, "/")
    assert (found.rooms, found.expires_at, found.connection_ends_at) == (("a", 7), None, None)
    for aud in ("other", None):
        with pytest.raises(TokenRefused, match="not valid"):
            await checking.check({"jwt": token_of(aud=aud)}, "/")


async def test_identities_are_unambiguous() -> None:
    """No two pairs of issuer and subject have the same identity."""
    checking = authentication(issuer="")
    found = await checking.check({"token": token_of("a b")}, "/")
    assert found.identity == "https://issuer.example a b"
    assert (await checking.check({"token": token_of("ann", iss=None)}, "/")).identity == "ann"
    for subject, issuer in (("https://issuer.example ann", None), ("ann", "a b"), ("ann", ""), ("ann", 7)):
        claims = {**claims_of(subject), "iss": issuer}
        token = signed({name: value for name, value in claims.items() if value is not None})
        assert await code_of(checking, token) == "token_invalid"


def test_keys_of_the_wrong_kind_are_refused() -> None:
    """A short secret, a private key and a key of SSH are refused, and no text shows them."""
    begin = "-----BEGIN RSA PRIVATE KEY-----\n", "-----BEGIN PUBLIC KEY-----\n", "ssh-rsa ", ""
    for start in begin:
        with pytest.raises(InvalidKey) as refused:
            parse_key(f"{start}s3cret".encode())
        assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"key": "short", "algorithms": ("HS256",)}, "key is a secret of 5 bytes"),
        ({"key": "x" * 40, "algorithms": ("RS256",)}, "key fits HS256, and algorithms has RS256"),
        ({"key_file": "no.pem", "algorithms": ("RS256",)}, "no.pem cannot be read: No such file"),
        ({"key_file": "rs.pem", "algorithms": ("HS256",)}, "key_file fits RS256, and algorithms has HS256"),
    ],
)
def test_a_key_that_cannot_be_used(tmp_path: Path, settings: dict[str, Any], text: str) -> None:
    """A key that cannot be used ends the start with a line that names the setting and not the key."""
    (tmp_path / "rs.pem").write_bytes(public_pem("RS256"))
    with pytest.raises(StartError, match=text):
        authentication_of(AuthSettings(**settings), tmp_path, 1000)
    accepted = AuthSettings(key_file="rs.pem", algorithms=("RS256",))
    assert authentication_of(accepted, tmp_path, 1000) is not None


def test_without_pyjwt_the_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socketio_eventstore.program.auth.setup.find_spec", lambda name: None)
    assert authentication_of(AuthSettings(), tmp_path, 1000) is None
    with pytest.raises(StartError, match="install the extra jwt"):
        authentication_of(AuthSettings(key="x" * 40, algorithms=("HS256",)), tmp_path, 1000)
