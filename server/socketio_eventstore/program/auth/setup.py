"""The check of tokens, from the settings of ``[auth]``."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from socketio_eventstore.program.errors import StartError

if TYPE_CHECKING:
    from socketio_eventstore.program.auth.jwks import Jwks
    from socketio_eventstore.program.auth.tokens import JwtAuthentication
    from socketio_eventstore.program.auth.verification_keys import Key
    from socketio_eventstore.program.auth_settings import AuthSettings

logger = logging.getLogger(__name__)

MAX_KEY_BYTES: Final = 100_000
LOCAL: Final = ("localhost", "127.0.0.1", "::1")


def authentication_of(settings: AuthSettings, folder: Path, max_rooms: int) -> JwtAuthentication | None:
    """Return the check of tokens; None if no token is needed.

    Relative paths count from ``folder``. Raises StartError for an unusable key, and without PyJWT.
    """
    if not settings.is_needed:
        return None
    if find_spec("jwt") is None or find_spec("cryptography") is None:
        raise StartError("[auth] needs PyJWT with cryptography: install the extra jwt")
    from socketio_eventstore.program.auth.tokens import JwtAuthentication, TokenRules

    rules = TokenRules(
        settings.algorithms,
        settings.issuer,
        settings.audience,
        settings.leeway,
        settings.require_exp,
        settings.token,
        max_rooms,
    )
    return JwtAuthentication(rules, _keys(settings, folder))


def _keys(settings: AuthSettings, folder: Path) -> Key | Jwks:
    from socketio_eventstore.program.auth.jwks import Jwks
    from socketio_eventstore.program.auth.verification_keys import InvalidKey, algorithm_of, parse_key

    if settings.jwks_url:
        parts = urlsplit(settings.jwks_url)
        if parts.scheme == "http" and parts.hostname not in LOCAL:
            logger.warning("[auth] jwks_url has no TLS: somebody on the way could put own keys in the place.")
        return Jwks(settings.jwks_url)
    source = "key_file" if settings.key_file else "key"
    content = _read(folder / settings.key_file) if settings.key_file else settings.key.encode()
    try:
        key = parse_key(content)
    except InvalidKey as error:
        raise StartError(f"[auth] {source} is {error}") from error
    if algorithm_of(key) not in settings.algorithms:
        given = ", ".join(settings.algorithms)
        raise StartError(f"[auth] {source} fits {algorithm_of(key)}, and algorithms has {given}")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_KEY_BYTES)
    except (OSError, ValueError) as error:
        text = error.strerror if isinstance(error, OSError) else error
        raise StartError(f"[auth] key_file {path} cannot be read: {text}") from error
