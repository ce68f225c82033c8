"""The changes of sessions and rooms, as callers append them. Times are wall-clock times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from socketio_eventlog.events import Room


class RefusedRecovery(NamedTuple):
    """A session that a client requested and did not get back."""

    result: str
    """The reason: a result of a recovery other than ``recovered``."""
    sid: str | None = None
    """The sid in the same namespace, if known."""
    pid_hash: bytes | None = None
    """SHA-256 of the private id from the client: finds the history of an ended session."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """A client received a new session. The session starts at the head of the log at this change.

    The node of the batch has the session, under claim 1.
    """

    namespace: str
    sid: str
    pid_hash: bytes
    """SHA-256 of the private id; the pid itself is never stored."""
    former_offset: str | None
    """The offset of the client from an earlier session. The client repeats the offset until an event
    arrives, so on a reconnection the same text means "nothing received yet"."""
    opened_at: float
    """Wall-clock time in seconds."""
    auth_hash: bytes | None = None
    """SHA-256 of the client's credentials, the pid included; the credentials themselves are never stored."""
    instead_of: RefusedRecovery | None = None
    """For the histories of both sessions; None for a client without a former session."""


@dataclass(frozen=True, slots=True)
class SessionClaimed:
    """A returning client connected; the node of the batch has the session from here on.

    The store counts the claims of a session and gives the number out (``Committed.claim``): a fencing token.
    The last claim wins. Changes with an earlier claim have no effect any more. A session that was connected
    counts as away from this change on; ``away_since`` of a session that is away stays, so a series of claims
    keeps no session alive. Without effect when the session has ended.
    """

    namespace: str
    sid: str


@dataclass(frozen=True, slots=True)
class SessionResumed:
    """The connect handler accepted the client of the claim: the session is not away any more.

    Without effect, ``deferred`` included, when another claim or the session's end came between.
    """

    namespace: str
    sid: str
    claim: int
    resumed_at: float
    """Wall-clock time in seconds."""
    deferred: tuple[DataSaved | SessionBound | TokenAccepted | RoomJoined | RoomLeft, ...] = ()
    """Changes of the same session by the connect handler, which take effect with the acceptance."""
    missed: int = 0
    """The number of missed events, at most; for the history (see ``MissedSummary.at_most``)."""


@dataclass(frozen=True, slots=True)
class SessionAway:
    """No client has the session, which waits for the client's return.

    The transport ended recoverably, or the claim was refused. Without effect when another claim or the
    session's end came between. ``away_since`` becomes the uptime of the batch, unless the session counts as
    away already.
    """

    namespace: str
    sid: str
    claim: int
    disconnected_at: float
    """Wall-clock time in seconds, for people."""
    confirmed: int
    """The confirmed sequence: the client has received every event up to the sequence."""
    left_by_client: bool = False
    """Whether the client itself called ``disconnect()``, perhaps to log in as another user. The value stays
    true until a client resumes the session; a refused claim does not change the value."""
    reason: str = ""
    """Why the transport ended, for the history."""
    refusal: str | None = None
    """The reason of a refused claim, for the history: a result of a recovery. None for a lost transport."""


class SessionEnd(Enum):
    """The reason for the end of a session."""

    TRANSPORT = "transport"
    """The transport ended in an unrecoverable way."""
    REFUSED = "refused"
    """The connect handler refused a new session."""
    NEVER_ACCEPTED = "never_accepted"
    """The transport of a new session ended before the connect handler had decided."""
    DISCONNECTED = "disconnected"
    """The application disconnected the client, which receives a DISCONNECT packet."""
    REVOKED = "revoked"
    """The application revoked the session; the client's transport is closed, and the client may return."""
    EXPIRED = "expired"
    """The client did not return in time."""


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """The session ended for good and cannot be recovered."""

    namespace: str
    sid: str
    reason: SessionEnd
    claim: int | None = None
    """Without effect when another claim came between; None ends the session under any claim."""


@dataclass(frozen=True, slots=True)
class DataSaved:
    """The handlers replaced the data of a session."""

    namespace: str
    sid: str
    data: str
    """A JSON object."""


@dataclass(frozen=True, slots=True)
class SessionBound:
    """A session was bound to an identity; no other identity can recover the session."""

    namespace: str
    sid: str
    identity: str


@dataclass(frozen=True, slots=True)
class TokenAccepted:
    """The client of a session has shown a token, which is valid; the store has nothing else of the token."""

    namespace: str
    sid: str
    expires_at: float | None
    """The wall-clock time in seconds at which the token ends; None for a token without an end."""
    rooms: tuple[Room, ...]
    """The rooms in the token. The joins are separate changes."""


@dataclass(frozen=True, slots=True)
class IdentityRevoked:
    """All sessions of an identity ended for good, in every namespace, also sessions bound just before."""

    identity: str


@dataclass(frozen=True, slots=True)
class RoomJoined:
    """A session joined a room; the membership covers the events after this change."""

    namespace: str
    sid: str
    room: Room


@dataclass(frozen=True, slots=True)
class RoomLeft:
    """A session left a room; the membership covers the events up to this change, or fewer."""

    namespace: str
    sid: str
    room: Room
    through: int | None = None
    """The sequence of the last event of the membership, from before this change; None for the last event
    before this change."""


@dataclass(frozen=True, slots=True)
class RoomClosed:
    """All members left a room, also members since an earlier change of the same transaction."""

    namespace: str
    room: Room
