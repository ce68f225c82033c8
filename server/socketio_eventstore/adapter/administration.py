"""Questions about a running server, and changes of the server, for operators and their programs.

The HTTP interface uses this module, which is independent of HTTP. The answers come from the registry and the
log, which are the same on every node; each change is an operation, as a change by a handler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from socketio_eventlog.events import Room
from socketio_eventstore.adapter.feeds import Feed, History, cursor, located
from socketio_eventstore.adapter.history import StoredEvent, stored_event
from socketio_eventstore.adapter.maintenance import Maintenance
from socketio_eventstore.adapter.messages import IdempotencyKey, Message
from socketio_eventstore.adapter.publishing import Publisher
from socketio_eventstore.adapter.server import RecoveryServer
from socketio_eventstore.adapter.session_timelines import (
    Timeline,
    ended_details,
    reach_of_ended,
    timeline,
)
from socketio_eventstore.adapter.session_views import (
    STATES,
    SessionDetails,
    SessionState,
    SessionSummary,
    details,
    summary,
)
from socketio_eventstore.core import recipients, registry_pages
from socketio_eventstore.core.event_pages import EventFilter, EventPages
from socketio_eventstore.core.recipients import Receipt
from socketio_eventstore.core.registry_pages import RoomKey, RoomMembers, SessionFilter, SessionKey
from socketio_eventstore.core.runtime import Runtime
from socketio_eventstore.core.session_events import reach_of
from socketio_eventstore.core.sessions import Session
from socketio_eventstore.core.slices import in_slices
from socketio_eventstore.core.tail import EventsDeleted, Follower, Tail


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
    """The reasons why the server is not ready, as in ``/readyz``; empty for a ready server."""


@dataclass(frozen=True, slots=True)
class RecipientsPage:
    """A page of the recipients of an event, for operators."""

    counts: Mapping[Receipt, int]
    """The number of all recipients by receipt."""
    page: list[tuple[SessionSummary, Receipt]]
    next: str | None
    """The sid behind which the next page begins; None on the last page."""


class Administration:
    """Answers questions, and makes changes, on a started server."""

    def __init__(self, server: RecoveryServer) -> None:
        self._server = server
        self.maintenance = Maintenance(server)
        """Changes of the log as a whole."""
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
        """Return a page of stored events: the last events, or with ``after`` the first events beyond.

        The work for a page is bounded, so a page may have few events although there are more: the cursors say
        where to go on. Raises CursorRefused, StoreError, and EventsDeleted if the first events beyond
        ``after`` were deleted.
        """
        runtime = await self._runtime()
        start, end = await located(runtime, "after", after), await located(runtime, "before", before)
        if wanted.text is not None:  # the log has texts in the form of JSON
            wanted = replace(wanted, text=runtime.encoder.payload([wanted.text])[0][2:-2])
        pages = EventPages(runtime.context)
        if start is None:
            page = await pages.before(end, wanted, limit)
            newest = page.events[-1].sequence if page.events else runtime.context.position
            older, newer = None if page.is_end else page.reached, newest
        else:
            page = await pages.after(start, wanted, limit, end)
            if start < runtime.log.pruned_through:  # also during the search
                raise EventsDeleted
            older, newer = page.events[0].sequence if page.events else None, page.reached
        return History(
            events=[stored_event(runtime, logged) for logged in page.events],
            older=cursor(runtime, older),
            newer=cursor(runtime, newer),
        )

    async def recipients(
        self, offset: str, wanted: Receipt | None, after: str | None, limit: int
    ) -> tuple[StoredEvent, RecipientsPage]:
        """Return an event, and a page of the recipients behind a sid.

        Raises KeyError for an event outside the log, CursorRefused for an invalid offset.
        """
        runtime = await self._runtime()
        sequence = await located(runtime, "offset", offset) or 0
        page = await EventPages(runtime.context).before(sequence + 1, EventFilter(), 1, sequence - 1)
        if not page.events:
            raise KeyError(offset)
        (logged,) = page.events
        found = await recipients.recipients(runtime.context, logged, wanted, after, limit)
        views = [
            (summary(runtime, session), known) for session, known in found.page if session.state in STATES
        ]
        return stored_event(runtime, logged), RecipientsPage(found.counts, views, found.next)

    async def follow(self, wanted: EventFilter, after: str | None) -> Feed:
        """Follow the log from an offset on, None from now on. Raises CursorRefused, EventsDeleted."""
        runtime = await self._runtime()
        start = await located(runtime, "after", after)
        if self._tail is None or self._tail[0] is not runtime:
            self._tail = (runtime, Tail(runtime.context))
        position = runtime.context.position if start is None else start
        return Feed(runtime, Follower(runtime.context, self._tail[1], wanted, position))

    async def sessions(
        self, wanted: SessionFilter, after: SessionKey | None, limit: int
    ) -> tuple[list[SessionSummary], SessionKey | None]:
        """Return a page of sessions in the order of namespace and sid, and the key of the next page."""
        runtime = await self._runtime()
        found, following = await registry_pages.sessions(runtime.registry, wanted, after, limit)
        return [summary(runtime, session) for session in found if session.state in STATES], following

    async def session(
        self, namespace: str, sid: str, *, after: int = 0, before: str | None = None, limit: int
    ) -> tuple[SessionDetails, Timeline]:
        """Return a session with the timeline; also an ended session with a history.

        The timeline has entries behind the number ``after``, and the last events below ``before``. Raises
        KeyError, CursorRefused, StoreError.
        """
        runtime = await self._runtime()
        end = await located(runtime, "before", before)
        history = await runtime.log.session_history(namespace, sid)
        session = runtime.registry.get(namespace, sid)  # after the read, since the session may end meanwhile
        if history is not None and history.ended is not None:
            reach = reach_of_ended(namespace, sid, history, history.ended)
            shown = await ended_details(runtime, history, history.ended, reach)
        elif session is None or session.state not in STATES:
            raise KeyError(sid)
        else:
            entries = () if history is None else history.entries
            reach = reach_of(session, entries, runtime.context)
            shown = await details(runtime, session)
        return shown, await timeline(runtime, history, reach, after=after, before=end, limit=limit)

    async def disconnect(self, namespace: str, sid: str) -> None:
        """Disconnect a session as ``disconnect`` of a handler does. Raises KeyError, StoreError."""
        await self._session(namespace, sid)
        await self._server.disconnect(sid, namespace)

    async def revoke(self, namespace: str, sid: str) -> None:
        """Revoke a session as ``revoke`` of a handler does. Raises KeyError, StoreError."""
        await self._session(namespace, sid)
        await self._server.revoke(sid, namespace)

    async def join(self, namespace: str, sid: str, room: Room) -> None:
        """Put a session into a room. Raises KeyError, ValueError, StoreError."""
        await self._session(namespace, sid)
        await self._server.enter_room(sid, room, namespace)

    async def leave(self, namespace: str, sid: str, room: Room) -> None:
        """Take a session out of a room. Raises KeyError, ValueError, StoreError."""
        await self._session(namespace, sid)
        await self._server.leave_room(sid, room, namespace)

    async def rooms(
        self, namespace: str | None, after: RoomKey | None, limit: int
    ) -> tuple[list[RoomMembers], RoomKey | None]:
        """Return a page of rooms in the order of the keys, and the key of the next page."""
        return await registry_pages.rooms((await self._runtime()).registry, namespace, after, limit)

    async def stats(self) -> Stats:
        """Return the server in numbers. Raises StoreClosed."""
        runtime = await self._runtime()
        states: Counter[str | None] = Counter()
        async for sessions in in_slices(runtime.registry):
            states.update([STATES.get(session.state) for session in sessions])
        return Stats(
            connections=len(self._server.eio.sockets),
            sessions={state: states[state] for state in ("connected", "connecting", "away")},
            rooms=len(runtime.registry.rooms),
            head_offset=runtime.context.offset,
            pruned_through=runtime.log.pruned_through,
            recoveries={str(result): count for result, count in runtime.recovery.results.items()},
            problems=list(runtime.health.problems()),
        )

    async def _session(self, namespace: str, sid: str) -> Session:
        session = (await self._runtime()).registry.get(namespace, sid)
        if session is None or session.state not in STATES:
            raise KeyError(sid)
        return session

    async def _runtime(self) -> Runtime:
        return await self._server.manager.opened()
