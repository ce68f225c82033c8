"""Logins of browsers with a key, or with a link for a single use. Pure state without I/O.

Everything is in memory, so a restart ends all logins. The tokens are kept as hashes only. A login ends with
the removal of the login's key.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from socketio_eventstore.program.keys import ApiKeys, hash_of

LOGIN_SECONDS: Final = 12 * 3600.0
"""How long a login lasts."""
LINK_SECONDS: Final = 120.0
"""How long a link waits to be opened."""
MAX_LOGINS: Final = 100
"""The most logins; beyond, the oldest login ends."""
MAX_LINKS: Final = 20
MAX_FAILURES: Final = 10
"""The most wrong keys of an address in ``FAILURE_SECONDS``; further keys of the address are not checked."""
FAILURE_SECONDS: Final = 60.0
MAX_ADDRESSES: Final = 1000
"""The most addresses with a count of failures. The key is the protection, the count only saves work."""
TOKEN_BYTES: Final = 32
COOKIE: Final = "eventstore_inspector"
"""The beginning of the cookie's name."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Login:
    """A browser with access, or a link that gives access."""

    name: str
    """The name of the key."""
    key_hash: str | None
    """The hash of the key; None for the owner of the database."""
    ends_at: float


class Tokens:
    """Logins by random tokens. Each login has an end; the number of logins is bounded."""

    def __init__(self, seconds: float, most: int, clock: Clock) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._logins: dict[bytes, Login] = {}
        """By the hash of the token, the oldest first."""

    def add(self, name: str, key_hash: str | None) -> str:
        """Add a login; return the token."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        if len(self._logins) >= self._most:
            del self._logins[next(iter(self._logins))]
        self._logins[_hashed(token)] = Login(name, key_hash, self._clock() + self._seconds)
        return token

    def get(self, token: str) -> Login | None:
        """Return the login of a token; None for an ended or unknown login."""
        login = self._logins.get(_hashed(token))
        if login is None or login.ends_at <= self._clock():
            self.end(token)
            return None
        return login

    def end(self, token: str) -> Login | None:
        """End a login at once; return the login."""
        return self._logins.pop(_hashed(token), None)


class Logins:
    """The logins of the inspector, and the links that become logins."""

    def __init__(self, keys: ApiKeys, clock: Clock = time.monotonic) -> None:
        self._keys = keys
        self._tokens = Tokens(LOGIN_SECONDS, MAX_LOGINS, clock)
        self._links = Tokens(LINK_SECONDS, MAX_LINKS, clock)
        self.failures = Failures(clock)
        self.cookie = f"{COOKIE}_{secrets.token_hex(4)}"
        """The name of the cookie. Cookies do not know ports: the servers of a host need different names."""

    def __bool__(self) -> bool:
        """Whether there is an inspector: without a key there is none."""
        return bool(self._keys)

    def with_key(self, key: str) -> str | None:
        """Return the token of a new login; None for an invalid key."""
        name = self._keys.name_of(key)
        return None if name is None else self._tokens.add(name, hash_of(key))

    def with_link(self, link: str) -> str | None:
        """Return the token of a new login; None for a used, expired or unknown link."""
        login = self._links.get(link)
        self._links.end(link)
        if login is None or not self._is_valid(login):
            return None
        return self._tokens.add(login.name, login.key_hash)

    def new_link(self, name: str, key: str | None) -> str:
        """Return a link for the holder of a key; None is the owner of the database."""
        return self._links.add(name, None if key is None else hash_of(key))

    def name_of(self, token: str) -> str | None:
        """Return the name of the key with which a token was made; None if the token opens nothing."""
        login = self._tokens.get(token)
        return login.name if login is not None and self._is_valid(login) else None

    def is_valid(self, token: str) -> bool:
        """Whether a token opens something."""
        return self.name_of(token) is not None

    def end(self, token: str) -> None:
        """End a login."""
        self._tokens.end(token)

    def _is_valid(self, login: Login) -> bool:
        return bool(self._keys) if login.key_hash is None else self._keys.has(login.key_hash)


class Failures:
    """Counts wrong keys by address."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, tuple[int, float]] = {}
        """By address: the number of failures, and the time of the next reset."""

    def wait_seconds(self, address: str) -> float:
        """Return the wait of an address in seconds; 0 for an address that may try."""
        count, forgotten_at = self._counts.get(address, (0, 0.0))
        return max(0.0, forgotten_at - self._clock()) if count >= MAX_FAILURES else 0.0

    def failed(self, address: str) -> None:
        """Count a wrong key."""
        now = self._clock()
        count, forgotten_at = self._counts.pop(address, (0, now + FAILURE_SECONDS))
        if forgotten_at <= now:
            count, forgotten_at = 0, now + FAILURE_SECONDS
        if len(self._counts) >= MAX_ADDRESSES:
            del self._counts[next(iter(self._counts))]
        self._counts[address] = (count + 1, forgotten_at)


def _hashed(token: str) -> bytes:
    """Return the hash of a token. The time of a look-up by a hash says nothing about the token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
