"""The log for handlers and operators: stored events with arguments, and sessions."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from socketio_eventlog.errors import OffsetRefused
from socketio_eventlog.events import LoggedEvent, Room
from socketio_eventstore.adapter import encoder
from socketio_eventstore.adapter.catching_up import locate
from socketio_eventstore.core.event_pages import MAX_EVENTS, EventFilter, EventPages
from socketio_eventstore.core.event_rules import check_text
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session, State
from socketio_eventstore.core.slices import in_slices

DEFAULT_LIMIT: Final = 100
FETCHED_AT_ONCE: Final = 50
"""Sessions that are fetched before the event loop serves others; each takes up to 10 µs, most of it for its
data."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event of the log."""

    offset: str
    """The offset, in the form of clients."""
    namespace: str
    event: str
    """The name of the event."""
    args: list[Any]
    """The arguments, binary arguments as ``bytes``.

    Empty for an unreadable changed row, and for arguments nested in more than 400 levels, which clients
    receive nevertheless.
    """
    rooms: tuple[Room, ...] | None
    """The addressed rooms; None for the whole namespace."""
    skip: tuple[str, ...]
    """The skipped sids."""
    emitted_at: float
    """Seconds since 1970, by the server's clock."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session, connected or away."""

    sid: str
    namespace: str
    is_connected: bool
    """Whether the client is connected; otherwise the session waits for the client's return."""
    rooms: tuple[Room, ...]
    """The joined rooms, without the sid."""
    identity: str | None
    """The identity from ``bind``."""
    data: dict[str, Any]
    """The data from ``save_session``."""


async def events(
    runtime: Runtime,
    *,
    room: Any = None,
    namespace: str | None = None,
    event: str | None = None,
    before: str | None = None,
    after: str | None = None,
    limit: int = DEFAULT_LIMIT,
) -> list[StoredEvent]:
    """Return events as ``RecoveryServer.events`` does."""
    if not isinstance(limit, int):
        raise TypeError(f"limit must be int, not {type(limit).__name__}")
    if not 0 < limit <= MAX_EVENTS:
        raise ValueError(f"limit must be 1 to {MAX_EVENTS}, not {limit}")
    namespace = namespace or "/"
    check_text(namespace, "a namespace")
    if event is not None:
        check_text(event, "an event's name")
    wanted = EventFilter(namespace, encoder.rooms_of(room), event)
    start, end = await _sequence(runtime, after, "after"), await _sequence(runtime, before, "before")
    pages = EventPages(runtime.context)
    if after is not None:
        page = await pages.after(start or 0, wanted, limit, end, thorough=True)
    else:
        page = await pages.before(end, wanted, limit, thorough=True)
    return [stored_event(runtime, logged) for logged in page.events]


async def _sequence(runtime: Runtime, offset: str | None, name: str) -> int | None:
    if offset is None:
        return None
    try:
        return await locate(runtime, offset)
    except OffsetRefused as error:
        raise ValueError(f"{name}: {error}") from None


def stored_event(runtime: Runtime, logged: LoggedEvent) -> StoredEvent:
    """Return an event with offset and decoded arguments."""
    event = logged.event
    try:
        _, *arguments = runtime.encoder.values(event.payload, event.attachments)
    except (ValueError, TypeError, RecursionError):  # changed by another program, or nested too deeply
        arguments = []
    return StoredEvent(
        offset=str(runtime.log.offset_of(logged.sequence)),
        namespace=event.namespace,
        event=event.name,
        args=arguments,
        rooms=event.rooms,
        skip=event.skip,
        emitted_at=event.emitted_at,
    )


async def sessions(runtime: Runtime, room: Any, namespace: str | None) -> list[SessionInfo]:
    """Return sessions as ``RecoveryServer.fetch_sessions`` does."""
    members: Iterable[Session] = runtime.registry.members(namespace or "/", encoder.rooms_of(room))
    found: list[SessionInfo] = []
    async for part in in_slices(members, FETCHED_AT_ONCE):
        found += [_info(session) for session in part if session.state is not State.ENDED]
    return found


def _info(session: Session) -> SessionInfo:
    return SessionInfo(
        sid=session.sid,
        namespace=session.namespace,
        is_connected=session.is_connected or session.is_elsewhere,
        rooms=tuple(session.joined),
        identity=session.identity,
        data=json.loads(session.data if session.saving is None else session.saving),
    )
