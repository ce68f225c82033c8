"""The check of a client's JSON Web Token (RFC 7519)."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

import jwt
from jwt import exceptions

from socketio_eventlog.events import Room
from socketio_eventstore.adapter.authentication import Token, TokenRefused
from socketio_eventstore.core.bounded_lines import BoundedLines
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.program.auth.jwks import Jwks, UnknownKey
from socketio_eventstore.program.auth.verification_keys import Key, algorithm_of

logger = logging.getLogger(__name__)

MISSING: Final = "token_missing"
INVALID: Final = "token_invalid"
EXPIRED: Final = "token_expired"
NAMESPACE: Final = "token_namespace"
CODES: Final = (MISSING, INVALID, EXPIRED, NAMESPACE)
"""The codes of refusals: ``data.code`` of CONNECT_ERROR, and the reasons in the metrics."""
MAX_TOKEN_CHARACTERS: Final = 16_000
"""A longer text is no token, and is not decoded."""

_DETAILS: Final[Mapping[type[Exception], str]] = {
    exceptions.InvalidSignatureError: "the signature is wrong",
    exceptions.InvalidIssuerError: "another issuer (iss)",
    exceptions.InvalidAudienceError: "another audience (aud)",
    exceptions.ImmatureSignatureError: "not valid yet (nbf, iat)",
    exceptions.MissingRequiredClaimError: "a claim is missing: exp, iss, aud or sub",
}
"""The texts of the log. The texts of PyJWT may show parts of a token."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """The requirements of a token: the keys of ``[auth]``."""

    algorithms: Sequence[str]
    issuer: str = ""
    """The expected ``iss``; any with ""."""
    audience: Sequence[str] = ()
    """The allowed audiences of a token. Without any, a token must have no audience."""
    leeway_seconds: float = 0.0
    requires_exp: bool = True
    token_name: str = "token"  # noqa: S105 -- the name of a key in ``auth``
    max_rooms: int = 1000


class JwtAuthentication:
    """Checks the tokens in the ``auth`` of clients."""

    def __init__(self, rules: TokenRules, keys: Key | Jwks) -> None:
        """``keys`` is a single key, or the keys at a URL."""
        self._rules = rules
        self._keys = keys
        self.refused: Counter[str] = Counter()
        """The number of refusals by code."""
        self._lines = BoundedLines(logger, "refused tokens")

    @property
    def key_fetches(self) -> Counter[str]:
        """The number of fetches of keys by result: ``ok`` or ``failed``."""
        return self._keys.fetches if isinstance(self._keys, Jwks) else Counter()

    async def check(self, auth: Any, namespace: str) -> Token:
        """Check the token of a CONNECT packet. Raises TokenRefused, KeysNotAvailable."""
        try:
            return await self._check(auth, namespace)
        except TokenRefused as refusal:
            self.refused[refusal.code] += 1
            if self._lines.admit():
                detail = f": {refusal.detail}" if refusal.detail else ""
                extra = {"reason": refusal.code, "detail": refusal.detail}
                logger.info("refused a token (%s)%s", refusal.code, detail, extra=extra)
            raise

    async def _check(self, auth: Any, namespace: str) -> Token:
        text = auth.get(self._rules.token_name) if isinstance(auth, dict) else None
        if text is None:
            raise TokenRefused(MISSING, "A token is needed")
        if not isinstance(text, str) or len(text) > MAX_TOKEN_CHARACTERS or not text.isascii():
            _refuse("no text of a token")
        algorithm, key_id = self._header(text)
        claims = self._decode(text, await self._key(key_id, algorithm), algorithm)
        self._check_namespace(claims, namespace)
        return Token(
            _identity(claims),
            claims,
            self._rooms(claims),
            self._end(claims),
            self._rules.leeway_seconds,
        )

    def _header(self, text: str) -> tuple[str, str | None]:
        """Return the algorithm, checked as allowed, and the id of the key."""
        try:
            header = jwt.get_unverified_header(text)
        except (exceptions.PyJWTError, ValueError, RecursionError):
            _refuse("no token in the compact form")
        algorithm, key_id = header.get("alg"), header.get("kid")
        if algorithm not in self._rules.algorithms:
            _refuse("the algorithm is not one of [auth] algorithms")
        if "crit" in header:  # mandatory extensions (RFC 7515, section 4.1.11)
            _refuse("the header has extensions (crit)")
        return str(algorithm), key_id if isinstance(key_id, str) else None

    async def _key(self, key_id: str | None, algorithm: str) -> Key:
        if isinstance(self._keys, Jwks):
            try:
                return await self._keys.key(key_id, algorithm)
            except UnknownKey:
                _refuse("no key for its key id (kid) and algorithm")
        if algorithm_of(self._keys) != algorithm:
            _refuse("the key does not fit the algorithm")
        return self._keys

    def _decode(self, text: str, key: Key, algorithm: str) -> dict[str, Any]:
        rules = self._rules
        required = ["sub", *(["exp"] if rules.requires_exp else []), *(["iss"] if rules.issuer else [])]
        try:
            return jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=list(rules.audience) or None,
                issuer=rules.issuer or None,
                leeway=rules.leeway_seconds,
                options={"require": required},
            )
        except exceptions.ExpiredSignatureError:
            raise TokenRefused(EXPIRED, "The token has expired") from None
        except exceptions.PyJWTError as error:
            _refuse(_DETAILS.get(type(error), "not valid"))
        except (ValueError, TypeError, ArithmeticError, RecursionError):  # such as an exp of Infinity
            _refuse("not valid")

    def _check_namespace(self, claims: Mapping[str, Any], namespace: str) -> None:
        allowed = claims.get("namespaces")
        if allowed is None:
            return
        if not isinstance(allowed, list) or not all(isinstance(one, str) for one in allowed):
            _refuse("the claim namespaces is no list of texts")
        if namespace not in allowed:
            raise TokenRefused(NAMESPACE, "The token does not allow this namespace")

    def _rooms(self, claims: Mapping[str, Any]) -> tuple[Room, ...]:
        rooms = claims.get("rooms")
        if rooms is None:
            return ()
        if not isinstance(rooms, list) or not all(map(_is_room, rooms)):
            _refuse("the claim rooms is no list of texts and whole numbers")
        unique = tuple(dict.fromkeys(rooms))
        if len(unique) > self._rules.max_rooms:
            _refuse("the claim rooms has more rooms than rooms_per_session")
        return unique

    def _end(self, claims: Mapping[str, Any]) -> float | None:
        end = claims.get("exp")
        try:
            return None if end is None else float(end)
        except OverflowError:  # beyond the end of all clocks
            return None


def _identity(claims: Mapping[str, Any]) -> str:
    """Return the identity of a token: ``iss``, a space, and ``sub``; ``sub`` alone without ``iss``.

    At most one space can divide ``iss`` from ``sub``, so no two tokens share an identity.
    """
    issuer, subject = claims.get("iss"), claims["sub"]
    if not isinstance(subject, str) or not subject:
        _refuse("the claim sub is no text")
    if issuer is not None and (not isinstance(issuer, str) or not issuer or _has_space(issuer)):
        _refuse("the claim iss is no text without spaces")
    if issuer is None and _has_space(subject):
        _refuse("the claim sub has a space, and there is no iss")
    identity = subject if issuer is None else f"{issuer} {subject}"
    try:
        check_text(identity, "an identity")
    except ValueError:
        _refuse("the claims iss and sub are too long, or no valid text")
    return identity


def _has_space(text: str) -> bool:
    return any(character.isspace() for character in text)


def _is_room(room: object) -> bool:
    if isinstance(room, int):
        return not isinstance(room, bool) and abs(room) < 2**53
    if not isinstance(room, str):
        return False
    try:
        check_text(room, "a room's name")
    except ValueError:
        return False
    return True


def _refuse(detail: str) -> NoReturn:
    """Refuse a token; the client is not told why, and the log is."""
    raise TokenRefused(INVALID, "The token is not valid", detail)
