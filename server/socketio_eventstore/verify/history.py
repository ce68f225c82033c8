"""What is written down while the chaos runs: the evidence that ``judge`` gets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

MARKER = "marker"
"""The name of the last event of a run, which goes to everyone in a namespace."""
VOLATILE = "volatile"
"""The name of events that are not stored, so nothing is promised of them."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The server sent CONNECT."""

    sid: str
    returning: bool
    """Whether the client had sent the private id of its session."""
    recovered: bool
    """Whether it was given that session back, as the official client decides it: the pid is the same."""


@dataclass(frozen=True, slots=True)
class Received:
    """A listener of the client was called."""

    sid: str
    """The client's session at that moment."""
    name: str
    id: str
    """What the publisher put into the event; no two events have the same."""
    offset: str | None
    """The last argument, if it was text."""


@dataclass(frozen=True, slots=True)
class SentAway:
    """The server sent DISCONNECT or CONNECT_ERROR, after which a client does not return by itself."""

    reason: str


Entry: TypeAlias = Connected | Received | SentAway


@dataclass(frozen=True, slots=True)
class History:
    """Everything that one client saw, in order."""

    client: str
    namespace: str
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Published:
    """The server acknowledged an event: it is stored, and this is its offset."""

    id: str
    offset: str | None


@dataclass(frozen=True, slots=True)
class Moved:
    """A handler was asked to let a session join or leave a room."""

    namespace: str
    sid: str
    room: str
    joining: bool
    before: str | None
    """Offset of an event emitted just before; None where the handler's answer never came."""
    after: str | None
    """Offset of an event emitted when the join or leave was on disk."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen from outside."""

    histories: tuple[History, ...]
    published: tuple[Published, ...]
    moves: tuple[Moved, ...]
    """In the order in which they were asked for; those of one session never overlap."""
    markers: frozenset[str]
    """The ids of the last events that were acknowledged; nothing after them is judged."""
