"""``GET /api/events/stream``: the stored events as they are stored, as server-sent events.

A stream holds a position and no events. A slow reader makes the stream wait, and a stuck reader is cut off;
with the last id, the reader goes on at the same position.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from pydantic import Field

from socketio_eventlog.errors import StoreError
from socketio_eventlog.events import LoggedEvent
from socketio_eventstore.adapter.administration import Administration
from socketio_eventstore.adapter.feeds import CursorRefused, Feed
from socketio_eventstore.core.tail import EventsDeleted
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.event_texts import EventTexts
from socketio_eventstore.program.api.events import FilterQuery
from socketio_eventstore.program.api.names import Cursor
from socketio_eventstore.program.api.problems import Problem, deleted_events, wrong_cursor

LAST_EVENT_ID: Final = "Last-Event-ID"


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """The bounds of all streams together, and of each stream."""

    streams: int = 20
    """The most simultaneous readers; the work for every event grows with the readers."""
    keep_alive_seconds: float = 15.0
    """The longest silence of a stream."""
    look_seconds: float = 1.0
    """How soon the end of a reader is noticed in a silence."""
    write_seconds: float = 30.0
    """The longest time without reads; then the reader is cut off."""


class StreamQuery(FilterQuery):
    """Which events, and from where on."""

    after: Cursor | None = Field(
        default=None, description=f"Events beyond this offset; {LAST_EVENT_ID} wins. By default new events."
    )


def stream_endpoint(administration: Administration, limits: StreamLimits | None = None) -> Endpoint:
    """Return the operation."""
    present = limits or StreamLimits()
    free = asyncio.Semaphore(present.streams)
    texts = EventTexts()

    async def stream(call: Call) -> web.StreamResponse:
        if free.locked():
            text = f"{present.streams} readers follow the log already."
            raise Problem(503, text, headers={"Retry-After": "10"})
        async with free:
            feed = await _feed(administration, call)
            return await _Stream(call.request, feed, present, texts).run()

    return Endpoint(
        name="streamEvents",
        method="GET",
        path="/events/stream",
        summary="The stored events as they come, as server-sent events.",
        answer=stream,
        result="text/event-stream",
        query=StreamQuery,
        headers={LAST_EVENT_ID: "The id of the last event that was received: the stream goes on behind it."},
        statuses=(409, 410, 422, 503),
    )


async def _feed(administration: Administration, call: Call) -> Feed:
    query: StreamQuery = call.query
    last_id = call.request.headers.get(LAST_EVENT_ID)
    try:
        return await administration.follow(query.wanted(), last_id or query.after)
    except CursorRefused as refused:
        raise wrong_cursor(LAST_EVENT_ID if last_id else refused.field, str(refused)) from None
    except EventsDeleted:
        raise deleted_events() from None


class _Stream:
    """The stream of one reader."""

    def __init__(self, request: web.Request, feed: Feed, limits: StreamLimits, texts: EventTexts) -> None:
        self._request = request
        self._feed = feed
        self._limits = limits
        self._event_texts = texts
        self._response = web.StreamResponse(
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # nginx would gather the events
        )
        self._response.content_type = "text/event-stream"
        self._response.charset = "utf-8"

    async def run(self) -> web.StreamResponse:
        """Write events until the reader or the server goes, or the reader is too slow."""
        response = self._response
        await response.prepare(self._request)
        try:
            await self._write(b"retry: 1000\n\n")
            async for text in self._texts():
                await self._write(text)
        except (StoreError, EventsDeleted):  # the server ends, or the reader is slower than the retention
            return response
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
        return response

    async def _texts(self) -> AsyncIterator[bytes]:
        """Yield the texts of the stream. After a silence the text is an id alone, which is no event."""
        loop = asyncio.get_running_loop()
        silent_since = loop.time()
        while self._request.transport is not None:
            for event in await self._next():
                yield self._event_texts.of(self._feed, event)
                silent_since = loop.time()
            if loop.time() - silent_since >= self._limits.keep_alive_seconds:
                cursor = self._feed.cursor
                yield b": nothing\n\n" if cursor is None else f"id: {cursor}\n\n".encode()
                silent_since = loop.time()

    async def _next(self) -> list[LoggedEvent]:
        try:
            async with asyncio.timeout(self._limits.look_seconds):
                await self._feed.grown()
        except TimeoutError:
            return []
        return await self._feed.next()  # without the limit: an interrupted search would begin anew

    async def _write(self, text: bytes) -> None:
        async with asyncio.timeout(self._limits.write_seconds):
            await self._response.write(text)
