"""The history of a session in words."""

from __future__ import annotations

from typing import Final

from socketio_eventlog.history import HistoryEntry, HistoryKind
from socketio_eventlog.session_changes import SessionEnd
from socketio_eventstore.core.recovery import RecoveryResult

_WHY_NOT: Final[dict[str, str]] = {
    RecoveryResult.UNKNOWN_SESSION: "the session was over, or had never been",
    RecoveryResult.EXPIRED: "it had been away for too long",
    RecoveryResult.BAD_OFFSET: "its offset was not one of this server",
    RecoveryResult.ROLLED_BACK: "its offset was of a log that this database has lost",
    RecoveryResult.TOO_MANY_MISSED: "it had missed too many events",
    RecoveryResult.REFUSED: "the connect handler did not let it have the session",
    RecoveryResult.POISONED: "it could not read an event that it had missed",
    RecoveryResult.INCOMPLETE: "an event that it had missed was lost or changed in the database",
    RecoveryResult.AUTH_CHANGED: "it had left by itself, and came back with other credentials",
}
_WHY_ENDED: Final[dict[str, str]] = {
    SessionEnd.TRANSPORT.value: "its connection ended, and nothing could recover it",
    SessionEnd.REFUSED.value: "the connect handler refused the client",
    SessionEnd.DISCONNECTED.value: "the application disconnected the client",
    SessionEnd.REVOKED.value: "the application revoked it",
    SessionEnd.EXPIRED.value: "its client did not come back in time",
}
_SENTENCES: Final = {
    HistoryKind.OPENED: "The session began.",
    HistoryKind.CONNECTED: "The client connected.",
    HistoryKind.RECOVERED: "The client recovered the session. Events that it had missed: {detail}.",
    HistoryKind.AWAY: "The client went away: {reason}.",
    HistoryKind.REFUSED: "The client did not get the session back: {why_not}.",
    HistoryKind.REPLACED: "The client came back and got the new session {detail}: {why_not}.",
    HistoryKind.JOINED: "The session joined the room {detail}.",
    HistoryKind.LEFT: "The session left the room {detail}.",
    HistoryKind.BOUND: "The session belongs to {detail} from here on.",
    HistoryKind.ENDED: "The session ended: {why_ended}.",
}
_WITH_REASON: Final = {
    **_SENTENCES,
    HistoryKind.OPENED: "The session began. Its client did not get {former} back: {why_not}.",
    HistoryKind.LEFT: "The session left the room {detail}: {reason}.",
}
_UNKNOWN: Final = "nothing says why"


def sentence(entry: HistoryEntry) -> str:
    """Return an entry in words."""
    reason = entry.reason or ""
    return (_WITH_REASON if reason else _SENTENCES)[entry.kind].format(
        detail=entry.detail,
        former="its session" if entry.detail is None else f"session {entry.detail}",
        reason=reason or _UNKNOWN,
        why_not=_WHY_NOT.get(reason, reason or _UNKNOWN),
        why_ended=_WHY_ENDED.get(reason, reason or _UNKNOWN),
    )
