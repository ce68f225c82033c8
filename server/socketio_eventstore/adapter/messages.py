"""Messages from publishers outside of the handlers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from socketio_eventlog.events import Room


@dataclass(frozen=True, slots=True)
class Message:
    """An event to be published, with the fields of ``emit``."""

    event: str
    arguments: Sequence[Any]
    rooms: Sequence[Room] | None = None
    """None addresses the whole namespace."""
    skip: Sequence[str] = ()
    """The sids of sessions to skip."""
    namespace: str = "/"
    is_volatile: bool = False


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key under which a request takes effect once, for any number of repeats."""

    publisher: str
    """The name of the publisher; publishers have separate keys."""
    key: str
    digest: bytes
    """SHA-256 of the request."""


class MessageRefused(ValueError):
    """A message cannot be sent. ``index`` counts the messages, ``field`` is the wrong field."""

    def __init__(self, index: int, field: str, detail: str) -> None:
        super().__init__(detail)
        self.index = index
        self.field = field


class KeyRefused(ValueError):
    """The idempotency key cannot be used: for another request, for an unstored event, or at all."""
