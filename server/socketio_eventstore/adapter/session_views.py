"""Sessions in the form for operators."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from socketio_eventlog.events import Room
from socketio_eventstore.core.receipts import confirmed
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session, State

SessionState: TypeAlias = Literal["connected", "connecting", "away"]

STATES: Final[dict[State, SessionState]] = {
    State.CONNECTING: "connecting",
    State.REPLAYING: "connected",
    State.LIVE: "connected",
    State.ELSEWHERE: "connected",
    State.AWAY: "away",
}
"""The states of sessions before their end."""
MISSED_COUNTED: Final = 1000
"""The largest count of missed events."""


@dataclass(frozen=True, slots=True)
class SessionSummary:
    """A session in a list."""

    namespace: str
    sid: str
    state: SessionState | Literal["ended"]
    """Lists have no ended sessions."""
    identity: str | None
    rooms: int
    """The number of joined rooms, without the sid."""
    connected_at: float | None
    """When the present connection was accepted, in seconds since 1970; None if unknown to this process."""
    away_seconds: float | None
    """How long no accepted client has had the session, on the uptime clock; None for a connected session."""
    remaining_seconds: float | None
    """How long the client may still stay away."""


@dataclass(frozen=True, slots=True)
class SessionDetails(SessionSummary):
    """A session by itself."""

    joined: tuple[Room, ...]
    """The joined rooms, without the sid."""
    is_recovered: bool
    """Whether the present or last connection recovered the session."""
    confirmed_offset: str | None
    """The offset of the confirmed position; None without recovery."""
    missed: int
    """Events for the session beyond the confirmed position; counted up to MISSED_COUNTED."""
    is_missed_complete: bool
    """Whether ``missed`` is the exact number."""


def summary(runtime: Runtime, session: Session) -> SessionSummary:
    """Return a session before its end."""
    return SessionSummary(*_fields(runtime, session))


async def details(runtime: Runtime, session: Session) -> SessionDetails:
    """Return a session before its end, with missed events. Raises StoreError."""
    fields = _fields(runtime, session)  # before the search, during which the session may end
    log, position = runtime.log, runtime.context.position
    through = confirmed(session, runtime.context.nodes)
    memberships = list(session.memberships())
    missed = await log.missed(session.namespace, memberships, through, position, at_most=MISSED_COUNTED)
    count = len(missed.sequences)
    return SessionDetails(
        *fields,
        joined=tuple(session.joined),
        is_recovered=session.current.recovered,
        confirmed_offset=str(log.offset_of(through)) if runtime.is_enabled else None,
        missed=min(count, MISSED_COUNTED),
        is_missed_complete=count <= MISSED_COUNTED,
    )


def _fields(
    runtime: Runtime, session: Session
) -> tuple[str, str, SessionState, str | None, int, float | None, float | None, float | None]:
    state = STATES[session.state]
    away = remaining = None
    since = session.away_since
    if since is not None and since != -math.inf and state != "connected":
        away = max(0.0, runtime.context.uptime - since)
        remaining = max(0.0, runtime.recovery.max_disconnection_seconds - away)
    return (
        session.namespace,
        session.sid,
        state,
        session.identity,
        len(session.joined),
        _connected_at(session),
        away,
        remaining,
    )


def _connected_at(session: Session) -> float | None:
    return (session.current.connected_at or None) if session.is_connected else None
