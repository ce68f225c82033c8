"""The history of a session: what each change adds to it, and what is read of it. No I/O.

Every engine writes the entries of ``notes`` in the transaction of the change, so that history and state never
disagree. An entry holds names that are in the log anyway, and never a private id, credentials or a payload.
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
"""The newest entries of a session that a read returns, those included that pruning has not reached yet."""
ROOM_CLOSED: Final = "the room was closed"
ROOM_NOT_NAMED: Final = "the client's new token does not name the room"
UNKEPT: Final = frozenset({SessionEnd.REFUSED, SessionEnd.NEVER_ACCEPTED})
"""The ends with which the history goes: clients that nobody let in must not fill the room of others."""
NODE_GONE: Final = "the server is gone"
"""The reason of sessions that a server left behind, such as after ``kill -9``."""


class HistoryKind(StrEnum):
    """What happened to a session."""

    OPENED = "opened"
    """The session began. With a reason: instead of another session, ``detail``, if that is known."""
    CONNECTED = "connected"
    """The client of the new session is connected to the ``node``; the connect handler is asked now."""
    RECOVERED = "recovered"
    """The client that came back was accepted on the ``node``; ``detail`` is the number of missed events."""
    AWAY = "away"
    """The client's transport ended; ``reason`` says why."""
    REFUSED = "refused"
    """The client that came back was not accepted; ``reason`` says why. The session waits for its owner."""
    REPLACED = "replaced"
    """The client that came back got another session, ``detail``, for the ``reason``."""
    JOINED = "joined"
    """The session joined the room ``detail``."""
    LEFT = "left"
    """The session left the room ``detail``; ``reason`` if it did not do so itself."""
    BOUND = "bound"
    """The session belongs to the identity ``detail`` from here on."""
    ENDED = "ended"
    """The session is over; ``reason`` is a SessionEnd."""


class Note(NamedTuple):
    """What a change adds to the history of its session."""

    kind: str
    """The value of a HistoryKind: one of each recovery is written, and SQLite binds a text faster."""
    at: float | None = None
    """The wall-clock time in seconds; None is the time of the transaction."""
    node: str | None = None
    reason: str | None = None
    detail: str | int | None = None
    sequence: int | None = None
    """The sequence of the last event before it; None is that at the change."""


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
    """Return the notes of a new session; ``former_sid`` is the session that its client asked for."""
    reason = None if change.instead_of is None else change.instead_of.result
    at = change.opened_at
    return Note(_OPENED, at, None, reason, former_sid), Note(_CONNECTED, at, node)


def replaced(change: SessionOpened) -> Note | None:
    """Return what the opening of a session adds to the session that its client asked for."""
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


def left_behind() -> Note:
    """Return the note of a session whose node is gone."""
    return Note(_AWAY, None, None, NODE_GONE)


def ended(reason: SessionEnd) -> Note:
    """Return the note of the end of a session."""
    return Note(_ENDED, None, None, reason.value)


def of_room(change: RoomJoined | RoomLeft | RoomClosed) -> Note:
    """Return the note of a membership that begins or ends; a second join of a room has none."""
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

    Without the count, the numbers of entries that are gone, such as those of refused clients, would push out
    the entries of others.
    """

    rows: int
    """The entries at the count, less those that pruning has deleted since then."""
    newest: int
    """The number of the newest entry at the count."""

    def at(self, newest: int) -> int:
        """Return the bound when ``newest`` is the number of the newest entry."""
        return self.rows + newest - self.newest

    def is_loose(self, newest: int, max_rows: int) -> bool:
        """Whether so many numbers were given out that the entries are to be counted again."""
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
    """The sequence of the last event before it."""
    node: str | None
    reason: str | None
    detail: str | int | None


@dataclass(frozen=True, slots=True)
class EndedState:
    """What the log keeps of a session that is over and whose history is still there."""

    identity: str | None
    start: int
    """The sequence of the last event before the session."""
    confirmed: int
    """The client is known to have received the events up to this sequence."""
    memberships: Sequence[Membership]
    """The rooms at its end; without the namespace and the sid's room."""


@dataclass(frozen=True, slots=True)
class SessionHistory:
    """What the log keeps of a session."""

    entries: Sequence[HistoryEntry]
    """In the order of the log: the newest is the last one."""
    ended: EndedState | None
    """None for a session that is not over."""

    @property
    def is_complete(self) -> bool:
        """Whether the entries go back to the opening of the session."""
        return bool(self.entries) and self.entries[0].kind is HistoryKind.OPENED
