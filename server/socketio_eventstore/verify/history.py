"""The records of a run: the evidence for ``judge``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

MARKER = "marker"
"""The name of the last event of a run, sent to all sessions of a namespace."""
VOLATILE = "volatile"
"""The name of events that are not stored. No promise covers volatile events."""


@dataclass(frozen=True, slots=True)
class Connected:
    """The server sent CONNECT."""

    sid: str
    returning: bool
    """Whether the client had sent a pid."""
    recovered: bool
    """Whether the pid is the previous pid; the official client sets ``recovered`` by the same rule."""


@dataclass(frozen=True, slots=True)
class Received:
    """A listener of the client was called."""

    sid: str
    """The client's session at the time of the call."""
    name: str
    id: str
    """The publisher's id of the event; unique among all events."""
    offset: str | None
    """The last argument, if text."""


@dataclass(frozen=True, slots=True)
class DisconnectedByServer:
    """The server sent DISCONNECT or CONNECT_ERROR. The official client does not reconnect after either."""

    reason: str


Entry: TypeAlias = Connected | Received | DisconnectedByServer


@dataclass(frozen=True, slots=True)
class History:
    """All packets of one client, in order."""

    client: str
    namespace: str
    entries: list[Entry] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Published:
    """The server acknowledged an event: the event is stored, with this offset."""

    id: str
    offset: str | None


@dataclass(frozen=True, slots=True)
class Moved:
    """A client called a handler that lets a session join or leave a room."""

    namespace: str
    sid: str
    room: str
    joining: bool
    before: str | None
    """The offset of an event emitted just before the move; None without an acknowledgement."""
    after: str | None
    """The offset of an event emitted after the move was on disk; None without an acknowledgement."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All records of a run."""

    histories: tuple[History, ...]
    published: tuple[Published, ...]
    moves: tuple[Moved, ...]
    """In the order of the calls. The moves of one session never overlap."""
    markers: frozenset[str]
    """The ids of the acknowledged last events. Later events are not judged."""
