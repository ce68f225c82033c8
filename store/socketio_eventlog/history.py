"""The history of a session: the entries that changes add, and the entries that a read returns. No I/O.

Every engine writes the entries of ``notes`` in the transaction of the change, so history and state never
disagree. An entry contains only names from the log, never a private id, credentials or a payload.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from socketio_eventlog.session_changes import (
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionAway,
    SessionBound,
    SessionEnd,
    SessionOpened,
    SessionResumed,
)
from socketio_eventlog.snapshot import Membership

ENTRIES_KEPT: Final = 200
"""The newest entries of a session, which pruning leaves."""
ENTRIES_READ: Final = 1000
"""The most entries in a read, newest first; a read also returns entries before their pruning."""
ROOM_CLOSED: Final = "the room was closed"
ROOM_NOT_NAMED: Final = "the client's new token does not name the room"
ENDS_WITHOUT_HISTORY: Final = frozenset({SessionEnd.REFUSED, SessionEnd.NEVER_ACCEPTED})
"""The ends of a session that delete the history: refused clients must not use up the space for histories."""
NODE_GONE: Final = "the server is gone"
"""The reason for sessions of a dead server, such as after ``kill -9``."""


class HistoryKind(StrEnum):
    """The kind of an entry in a session's history."""

    OPENED = "opened"
    """The session began. With a ``reason``: instead of another session; ``detail`` is its sid, if known."""
    CONNECTED = "connected"
    """The client of the new session is connected to the ``node``; the connect handler is asked now."""
    RECOVERED = "recovered"
    """The returning client was accepted on the ``node``; ``detail`` is the number of missed events."""
    AWAY = "away"
    """The client's transport ended; ``reason`` says why."""
    REFUSED = "refused"
    """The returning client was refused for the ``reason``. The session waits for the owner."""
    REPLACED = "replaced"
    """The returning client received another session, ``detail``, for the ``reason``."""
    JOINED = "joined"
    """The session joined the room ``detail``."""
    LEFT = "left"
    """The session left the room ``detail``; ``reason``, if the server caused the end of the membership."""
    BOUND = "bound"
    """The session belongs to the identity ``detail`` from here on."""
    ENDED = "ended"
    """The session is over; ``reason`` is a SessionEnd."""


class Note(NamedTuple):
    """An entry that a change adds to the history of a session."""

    kind: str
    """The value of a HistoryKind. Each recovery writes notes, and SQLite binds a text faster."""
    at: float | None = None
    """The wall-clock time in seconds; None is the time of the transaction."""
    node: str | None = None
    reason: str | None = None
    detail: str | int | None = None
    sequence: int | None = None
    """The sequence of the last event before the entry; None means the position of the change."""


_OPENED: Final = HistoryKind.OPENED.value
_CONNECTED: Final = HistoryKind.CONNECTED.value
_RECOVERED: Final = HistoryKind.RECOVERED.value
_AWAY: Final = HistoryKind.AWAY.value
_REFUSED: Final = HistoryKind.REFUSED.value
_REPLACED: Final = HistoryKind.REPLACED.value
_JOINED: Final = HistoryKind.JOINED.value
_LEFT: Final = HistoryKind.LEFT.value
_BOUND: Final = HistoryKind.BOUND.value
_ENDED: Final = HistoryKind.ENDED.value


def opened(change: SessionOpened, node: str, former_sid: str | None) -> tuple[Note, Note]:
    """Return the notes of a new session; ``former_sid`` is the requested session."""
    reason = None if change.instead_of is None else change.instead_of.result
    at = change.opened_at
    return Note(_OPENED, at, None, reason, former_sid), Note(_CONNECTED, at, node)


def replaced(change: SessionOpened) -> Note | None:
    """Return the note for the requested session, when another session was opened instead."""
    if change.instead_of is None:
        return None
    return Note(_REPLACED, change.opened_at, None, change.instead_of.result, change.sid)


def resumed(change: SessionResumed, node: str) -> Note:
    """Return the note of an acceptance."""
    return Note(_RECOVERED, change.resumed_at, node, None, change.missed)


def away(change: SessionAway, _: str) -> Note:
    """Return the note of a lost transport, or of a refused claim."""
    if change.refusal is not None:
        return Note(_REFUSED, change.disconnected_at, None, change.refusal)
    return Note(_AWAY, change.disconnected_at, None, change.reason or None)


def node_gone() -> Note:
    """Return the note of a session of a dead node."""
    return Note(_AWAY, None, None, NODE_GONE)


def ended(reason: SessionEnd) -> Note:
    """Return the note of the end of a session."""
    return Note(_ENDED, None, None, reason.value)


def of_room(change: RoomJoined | RoomLeft | RoomClosed) -> Note:
    """Return the note of a membership that begins or ends; the second join of a room has no note."""
    match change:
        case RoomJoined(room=room):
            return Note(_JOINED, None, None, None, room)
        case RoomLeft(room=room, through=through):
            return Note(_LEFT, None, None, None if through is None else ROOM_NOT_NAMED, room, through)
        case RoomClosed(room=room):
            return Note(_LEFT, None, None, ROOM_CLOSED, room)


def bound(change: SessionBound) -> Note:
    """Return the note of a new identity; the same identity again has none."""
    return Note(_BOUND, None, None, None, change.identity)


class RowBound(NamedTuple):
    """An upper bound of the number of entries, from a count and the numbers given out since then.

    Without the count, deleted entries, such as entries of refused clients, would displace existing entries.
    """

    rows: int
    """The entries at the count, less the entries pruned since then."""
    newest: int
    """The number of the newest entry at the count."""

    def at(self, newest: int) -> int:
        """Return the bound when ``newest`` is the number of the newest entry."""
        return self.rows + newest - self.newest

    def is_loose(self, newest: int, max_rows: int) -> bool:
        """Whether the entries need a new count, because of the many numbers since the last count."""
        return newest - self.newest > max_rows // 16


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An entry in the history of a session."""

    number: int
    """Ascending in the order of the log."""
    kind: HistoryKind
    at: float
    """Wall-clock time in seconds."""
    sequence: int
    """The sequence of the last event before the entry."""
    node: str | None
    reason: str | None
    detail: str | int | None


@dataclass(frozen=True, slots=True)
class EndedState:
    """The record of an ended session with a history."""

    identity: str | None
    start: int
    """The sequence of the last event before the session."""
    confirmed: int
    """The confirmed position: the client has received the events up to this sequence."""
    memberships: Sequence[Membership]
    """The rooms at the session's end; without the namespace and the sid's room."""


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """The history of a session, and the record of its end."""

    entries: Sequence[HistoryEntry]
    """In the order of the log, the newest last."""
    ended: EndedState | None
    """None before the session's end."""

    @property
    def is_complete(self) -> bool:
        """Whether the entries go back to the opening of the session."""
        return bool(self.entries) and self.entries[0].kind is HistoryKind.OPENED
