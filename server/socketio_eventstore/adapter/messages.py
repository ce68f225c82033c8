"""The messages that are published from outside of the handlers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from socketio_eventlog.events import Room


@dataclass(frozen=True, slots=True)
class Message:
    """An event to be published; the fields are those of ``emit``."""

    event: str
    arguments: Sequence[Any]
    rooms: Sequence[Room] | None = None
    """None addresses the whole namespace."""
    skip: Sequence[str] = ()
    """The sids of sessions that do not receive it."""
    namespace: str = "/"
    is_volatile: bool = False


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key under which a request takes effect once, however often it is repeated."""

    publisher: str
    """The name of the publisher; each publisher has its own keys."""
    key: str
    digest: bytes
    """SHA-256 of the request."""


class MessageRefused(ValueError):
    """A message cannot be sent. ``index`` counts the messages, ``field`` is the field that is wrong."""

    def __init__(self, index: int, field: str, detail: str) -> None:
        super().__init__(detail)
        self.index = index
        self.field = field


class KeyRefused(ValueError):
    """The idempotency key cannot be used: for another request, for an event that is not stored, or at all."""
