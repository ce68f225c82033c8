"""Questions about a running server, and changes of it, for people and programs that operate it.

The HTTP interface asks here. This class knows no HTTP. The answers come from the registry and the log, which
are the same on every node; each change is an operation as one of the handlers would make it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from socketio_eventlog.errors import OffsetRefused
from socketio_eventstore.adapter.history import StoredEvent, stored_event
from socketio_eventstore.adapter.publishing import IdempotencyKey, Message, Publisher
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.core.event_pages import EventFilter, EventPages
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.sessions import Session, State
from socketio_eventstore.core.tail import Follower, Tail

SessionState: TypeAlias = Literal["connected", "connecting", "away"]

_STATES: dict[State, SessionState] = {
    State.CONNECTING: "connecting",
    State.REPLAYING: "connected",
    State.LIVE: "connected",
    State.ELSEWHERE: "connected",
    State.AWAY: "away",
}


@dataclass(frozen=True, slots=True)
class Stats:
    """A server in numbers."""

    connections: int
    """Open connections to this process."""
    sessions: dict[SessionState, int]
    rooms: int
    """Rooms with members; a sid does not count as a room."""
    head_offset: str | None
    """The offset of the last event; None without recovery."""
    pruned_through: int
    """The sequence of the last deleted event; 0 for none."""
    recoveries: dict[str, int]
    """Reconnections since the start of the process, by result."""
    problems: list[str]
    """Why the server is not ready, as ``/readyz`` says; empty if it is."""


@dataclass(frozen=True, slots=True)
class History:
    """A page of stored events."""

    events: list[StoredEvent]
    """The newest is the last one."""
    older: str | None
    """The ``before`` of the page before this one; None at the beginning of the log."""
    newer: str | None
    """The ``after`` of the page behind this one, which may be empty; None without recovery."""


class CursorRefused(ValueError):
    """A cursor is not of this log. ``field`` is the name of the argument."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class Feed:
    """Stored events as they take effect."""

    def __init__(self, runtime: Runtime, follower: Follower) -> None:
        self._runtime = runtime
        self._follower = follower

    @property
    def cursor(self) -> str | None:
        """Where to go on after an interruption."""
        return _cursor(self._runtime, self._follower.reached)

    async def next(self) -> list[StoredEvent]:
        """Wait for the next events that fit the filter; perhaps none. Raises EventsDeleted, StoreError."""
        return [stored_event(self._runtime, logged) for logged in await self._follower.next()]


def _located(runtime: Runtime, field: str, offset: str | None) -> int | None:
    if offset is None:
        return None
    try:
        return runtime.log.locate(offset).sequence
    except OffsetRefused as error:
        raise CursorRefused(field, str(error)) from None


def _cursor(runtime: Runtime, sequence: int | None) -> str | None:
    if sequence is None or not runtime.is_enabled:
        return None
    return str(runtime.log.offset_of(sequence))


def state_of(session: Session) -> SessionState | None:
    """Return the state of a session for people; None for a session that is over."""
    return _STATES.get(session.state)


class Administration:
    """Answers questions, and makes changes, on a server that has been started."""

    def __init__(self, server: RecoveryServer) -> None:
        self._server = server
        self._publisher = Publisher(server)
        self._tail: tuple[Runtime, Tail] | None = None

    async def publish(
        self, messages: Sequence[Message], key: IdempotencyKey | None = None
    ) -> list[str | None]:
        """Publish messages as ``Publisher.publish`` does."""
        return await self._publisher.publish(messages, key)

    async def events(
        self, wanted: EventFilter, *, after: str | None, before: str | None, limit: int
    ) -> History:
        """Return a page of stored events: the last ones, or with ``after`` the first ones beyond it.

        The work for a page is bounded, so a page may have few events although there are more: the cursors
        say where to go on. Raises CursorRefused, StoreError.
        """
        runtime = await self._runtime()
        start, end = _located(runtime, "after", after), _located(runtime, "before", before)
        pages = EventPages(runtime.context)
        if start is None:
            page = await pages.before(end, wanted, limit)
            newest = page.events[-1].sequence if page.events else runtime.context.position
            older, newer = None if page.is_end else page.reached, newest
        else:
            page = await pages.after(start, wanted, limit, end)
            older, newer = page.events[0].sequence if page.events else None, page.reached
        return History(
            events=[stored_event(runtime, logged) for logged in page.events],
            older=_cursor(runtime, older),
            newer=_cursor(runtime, newer),
        )

    async def follow(self, wanted: EventFilter, after: str | None) -> Feed:
        """Follow the log from an offset on, None from now on. Raises CursorRefused, EventsDeleted."""
        runtime = await self._runtime()
        start = _located(runtime, "after", after)
        if self._tail is None or self._tail[0] is not runtime:
            self._tail = (runtime, Tail(runtime.context))
        position = runtime.context.position if start is None else start
        return Feed(runtime, Follower(runtime.context, self._tail[1], wanted, position))

    async def stats(self) -> Stats:
        """Return the server in numbers. Raises StoreClosed."""
        runtime = await self._runtime()
        states = Counter(map(state_of, list(runtime.registry)))
        return Stats(
            connections=len(self._server.eio.sockets),
            sessions={state: states[state] for state in ("connected", "connecting", "away")},
            rooms=len(runtime.registry.rooms),
            head_offset=runtime.context.offset,
            pruned_through=runtime.log.pruned_through,
            recoveries={str(result): count for result, count in runtime.recovery.results.items()},
            problems=list(runtime.health.problems()),
        )

    async def _runtime(self) -> Runtime:
        return await self._server.manager.opened()
