"""Tokens of clients in the adapter; the program reads and checks tokens (see ``program.auth``)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from socketio_eventlog.changes import Change
from socketio_eventlog.events import Room
from socketio_eventlog.session_changes import RoomJoined, SessionBound, TokenAccepted
from socketio_eventstore.core.sessions import SessionConnection


@dataclass(frozen=True, slots=True)
class Token:
    """The contents of a valid token."""

    identity: str
    """The identity to which the session is bound."""
    claims: Mapping[str, Any] = field(repr=False)
    """All claims, for the handlers."""
    rooms: tuple[Room, ...] = ()
    """The rooms of the session while the client has this token."""
    expires_at: float | None = None
    """The end of the token, a wall-clock time in seconds; None for a token without an end."""
    leeway_seconds: float = 0.0
    """How long after the end the token still counts, since clocks differ."""

    @property
    def connection_ends_at(self) -> float | None:
        """The time at which the connection ends, a wall-clock time in seconds."""
        return None if self.expires_at is None else self.expires_at + self.leeway_seconds

    def opening(self, namespace: str, sid: str) -> tuple[Change, ...]:
        """Return the changes of a new session, for the transaction of the opening."""
        return (
            SessionBound(namespace, sid, self.identity),
            TokenAccepted(namespace, sid, self.expires_at, self.rooms),
            *[RoomJoined(namespace, sid, room) for room in self.rooms],
        )

    def shown_on(self, attached: SessionConnection) -> None:
        """Note the token on the connection."""
        attached.authenticated_as = self.identity
        attached.claims, attached.expires_at = self.claims, self.connection_ends_at


class TokenRefused(Exception):
    """The client has no valid token. ``code`` is for programs, the text for people; neither has a secret."""

    def __init__(self, code: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.code = code
        self.detail = detail
        """More for the log of the server, which the client is not told."""

    @property
    def reason(self) -> dict[str, Any]:
        """The content of CONNECT_ERROR."""
        return {"message": str(self), "data": {"code": self.code}}


class KeysNotAvailable(Exception):
    """The keys for the check of the token are not available at the moment. The client is to try again."""


class Authentication(Protocol):
    """The check of the tokens of clients."""

    refused: Counter[str]
    """The number of refusals by code."""

    @property
    def key_fetches(self) -> Counter[str]:
        """The number of fetches of keys by result: ``ok`` or ``failed``."""
        ...

    async def check(self, auth: Any, namespace: str) -> Token:
        """Check the token in the ``auth`` of a CONNECT packet. Raises TokenRefused, KeysNotAvailable."""
        ...
