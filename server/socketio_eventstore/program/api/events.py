"""``GET /api/events``: the stored events, in pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from socketio_eventlog.events import Room
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.feeds import CursorRefused
from socketio_eventstore.adapter.history import DEFAULT_LIMIT, StoredEvent
from socketio_eventstore.core.event_pages import EventFilter
from socketio_eventstore.core.tail import EventsDeleted
from socketio_eventstore.program.api.binary import encoded
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.names import (
    Cursor,
    Limit,
    Moment,
    QueryName,
    QueryNamespace,
    SearchText,
)
from socketio_eventstore.program.api.problems import deleted_events, wrong_cursor

_DIGITS: Final = 20


class FilterQuery(BaseModel):
    """Which events."""

    model_config = ConfigDict(extra="forbid")

    namespace: QueryNamespace | None = Field(
        default=None, description='Only events of this namespace. With a room the default is "/".'
    )
    room: QueryName | None = Field(default=None, description="Only events that are addressed to this room.")
    event: QueryName | None = Field(default=None, description="Only events with this name.")

    def wanted(self) -> EventFilter:
        """Return the filter."""
        if self.room is None:
            return EventFilter(self.namespace, None, self.event)
        return EventFilter(self.namespace or "/", rooms_named(self.room), self.event)


class EventsQuery(FilterQuery):
    """Which page of which events."""

    since: Moment | None = Field(default=None, description="Only events that were emitted then or later.")
    until: Moment | None = Field(default=None, description="Only events that were emitted before.")
    text: SearchText | None = Field(
        default=None,
        description="Only events with this text in the name or in an argument, binary ones aside. "
        "Capital ASCII letters are no different.",
    )
    after: Cursor | None = Field(default=None, description="Only events beyond this offset or cursor.")
    before: Cursor | None = Field(default=None, description="Only events below this offset or cursor.")
    limit: Limit = DEFAULT_LIMIT

    def wanted(self) -> EventFilter:
        """Return the filter."""
        return replace(
            super().wanted(),
            emitted_from=None if self.since is None else self.since.timestamp(),
            emitted_before=None if self.until is None else self.until.timestamp(),
            text=self.text,
        )


class EventResult(BaseModel):
    """A stored event."""

    offset: str = Field(description="The offset, as clients see it.")
    namespace: str
    event: str = Field(description="The name of the event.")
    args: list[Any] = Field(
        description='The arguments. Binary data are `{"$binary": "base64"}`. '
        "Arguments that are nested more than 400 levels deep may be left out."
    )
    rooms: list[str | int] | None = Field(description="The addressed rooms; null is the whole namespace.")
    skip: list[str] = Field(description="The sids that did not receive it.")
    emitted_at: datetime


class EventsResult(BaseModel):
    """A page of stored events."""

    events: list[EventResult] = Field(description="The newest is the last one.")
    older: str | None = Field(description="The `before` of the page before this one; null at the beginning.")
    newer: str | None = Field(description="The `after` of the page behind this one, which may be empty.")


def rooms_named(text: str) -> tuple[Room, ...]:
    """Return the possible rooms for a text in a URL: ``42`` may be a text or a number."""
    is_number = len(text) <= _DIGITS and text.removeprefix("-").isdecimal() and str(int(text)) == text
    if is_number and -(2**63) <= int(text) < 2**63:
        return text, int(text)
    return (text,)


def events_endpoint(administration: Administration) -> Endpoint:
    """Return the operation for pages."""

    async def events(call: Call) -> EventsResult:
        query: EventsQuery = call.query
        try:
            history = await administration.events(
                query.wanted(), after=query.after, before=query.before, limit=query.limit
            )
        except CursorRefused as refused:
            raise wrong_cursor(refused.field, str(refused)) from None
        except EventsDeleted:
            raise deleted_events() from None
        found = [event_result(event) for event in history.events]
        return EventsResult(events=found, older=history.older, newer=history.newer)

    return Endpoint(
        name="getEvents",
        method="GET",
        path="/events",
        summary="A page of the stored events, the newest last.",
        answer=events,
        result=EventsResult,
        query=EventsQuery,
        statuses=(409, 410, 422, 503),
    )


def event_result(event: StoredEvent) -> EventResult:
    """Return an event in the form of the interface."""
    return EventResult(
        offset=event.offset,
        namespace=event.namespace,
        event=event.event,
        args=encoded(event.args),
        rooms=None if event.rooms is None else list(event.rooms),
        skip=list(event.skip),
        emitted_at=shown_time(event.emitted_at),
    )


def shown_time(seconds: float) -> datetime:
    """Return a wall-clock time in seconds in the form of the interface."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):  # another program changed the row
        return datetime.fromtimestamp(0, UTC)
