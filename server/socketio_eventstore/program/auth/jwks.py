"""The keys at a URL of a JSON Web Key Set (RFC 7517): fetched when needed, kept, and fetched again in time.

All waiting is on the event loop, and bounded. After a failed fetch (timeout, too large, invalid), the former
keys stay in force for a while. Strangers cannot cause more than one fetch in ``LEAST_PAUSE_SECONDS``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from socketio_eventstore.adapter.authentication import KeysNotAvailable
from socketio_eventstore.core.repeated_failures import RepeatedFailures
from socketio_eventstore.program.auth.verification_keys import Key, algorithm_of, key_of_jwk

logger = logging.getLogger(__name__)

FRESH_SECONDS: Final = 300.0
"""Older keys are fetched again; the old keys count meanwhile."""
LONGEST_SECONDS: Final = 3600.0
"""Older keys do not count: a withdrawn key must not stay valid while the issuer is down."""
LEAST_PAUSE_SECONDS: Final = 10.0
"""The least time between the beginnings of two fetches: strangers can send tokens with unknown key ids."""
TIMEOUT_SECONDS: Final = 5.0
MAX_BYTES: Final = 256_000
MAX_KEYS: Final = 100


class UnknownKey(Exception):
    """The set has no key for the token."""


class FetchFailed(Exception):
    """The set could not be fetched. The text says why."""


class Jwks:
    """The keys at a URL."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``url`` has the scheme http or https; ``clock`` returns seconds."""
        self._url = url
        self._clock = clock
        self._keys: list[tuple[str | None, Key]] = []
        self._fetched_at: float | None = None
        """The beginning of the last successful fetch."""
        self._tried_at: float | None = None
        """The beginning of the last fetch."""
        self._fetching: asyncio.Task[None] | None = None
        self._failures = RepeatedFailures(logger)
        self.fetches: Counter[str] = Counter()
        """The number of fetches by result: ``ok`` or ``failed``."""

    async def key(self, key_id: str | None, algorithm: str) -> Key:
        """Return the key for a token. Raises UnknownKey, KeysNotAvailable.

        A token without key id has a key only if a single one fits the algorithm. KeysNotAvailable also
        stands for an unknown key while no fetch is allowed.
        """
        if self._age(self._fetched_at) > LONGEST_SECONDS:
            await self._fetch_now()
        elif self._age(self._fetched_at) > FRESH_SECONDS and self._may_fetch:
            _ = self._begin_fetch()  # without a wait
        found = self._find(key_id, algorithm)
        if found is None:
            # Not UnknownKey while no fetch is allowed: a stranger with an unknown id may have used the fetch
            # just before a rotation, and the client with the new key would be refused for good.
            await self._fetch_now()
            found = self._find(key_id, algorithm)
        if found is None:
            raise UnknownKey
        return found

    @property
    def _has_failed(self) -> bool:
        return self._fetched_at is None or self._fetched_at != self._tried_at

    def _find(self, key_id: str | None, algorithm: str) -> Key | None:
        fitting = [
            key for known, key in self._keys if key_id in (None, known) and algorithm_of(key) == algorithm
        ]
        return fitting[0] if len(fitting) == 1 else None

    def _age(self, moment: float | None) -> float:
        return float("inf") if moment is None else self._clock() - moment

    @property
    def _may_fetch(self) -> bool:
        return self._fetching is None and self._age(self._tried_at) >= LEAST_PAUSE_SECONDS

    async def _fetch_now(self) -> None:
        """Wait for a fetch. Raises KeysNotAvailable for a failed fetch, or if no fetch is allowed yet."""
        fetching = self._fetching or (self._begin_fetch() if self._may_fetch else None)
        if fetching is None:
            raise KeysNotAvailable
        await asyncio.shield(fetching)  # other tasks wait for the same fetch
        if self._has_failed:
            raise KeysNotAvailable

    def _begin_fetch(self) -> asyncio.Task[None]:
        self._tried_at = self._clock()
        self._fetching = asyncio.get_running_loop().create_task(self._fetch(self._tried_at))
        return self._fetching

    async def _fetch(self, begun_at: float) -> None:
        try:
            self._keys = keys_of(await _content(self._url))
        except FetchFailed as error:
            self.fetches["failed"] += 1
            text = f"The keys at [auth] jwks_url cannot be fetched: {error}"
            self._failures.failed("jwks", text, level=logging.WARNING)
        else:
            self.fetches["ok"] += 1
            self._fetched_at = begun_at
        finally:
            self._fetching = None


async def _content(url: str) -> bytes:
    """Fetch the set. Raises FetchFailed after a time, beyond a size, and for a redirect.

    A redirect could lead to another scheme or into the network of the server; the URL is the final one.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
    headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    cookies = aiohttp.DummyCookieJar()
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, cookie_jar=cookies, auto_decompress=False) as http,
            http.get(url, allow_redirects=False, headers=headers) as response,
        ):
            if response.status != 200:
                hint = "; redirects are not followed" if 300 <= response.status < 400 else ""
                raise FetchFailed(f"status {response.status}{hint}")
            content = bytearray()
            async for chunk in response.content.iter_any():
                content += chunk
                if len(content) > MAX_BYTES:
                    raise FetchFailed(f"more than {MAX_BYTES} bytes")
            return bytes(content)
    except TimeoutError as error:
        raise FetchFailed(f"no answer within {TIMEOUT_SECONDS:g} s") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise FetchFailed(type(error).__name__) from error  # the text may contain the query of the URL


def keys_of(content: bytes) -> list[tuple[str | None, Key]]:
    """Return the usable keys of a set, each with its id. Raises FetchFailed for a set without usable keys."""
    try:
        found: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FetchFailed("not JSON") from error
    entries = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise FetchFailed('no list "keys"')
    if len(entries) > MAX_KEYS:
        raise FetchFailed(f"more than {MAX_KEYS} keys")
    keys = [key for key in map(_entry, entries) if key is not None]
    if not keys:  # a fault of the issuer, which must not drop the known keys
        raise FetchFailed("no usable key")
    return keys


def _entry(jwk: object) -> tuple[str | None, Key] | None:
    """Return a key with its id; None for an unusable key, so the other keys stay usable."""
    if not isinstance(jwk, Mapping):
        return None
    key_id = jwk.get("kid")
    try:
        return (key_id if isinstance(key_id, str) else None), key_of_jwk(jwk)
    except Exception:  # noqa: BLE001 -- a set of others may hold anything in the place of a key
        return None
