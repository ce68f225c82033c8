"""The texts of events in streams: each is made once, however many readers follow the log."""

from __future__ import annotations

from typing import Final

from socketio_eventlog.events import Event, LoggedEvent
from socketio_eventstore.adapter.feeds import Feed
from socketio_eventstore.program.api.events import event_result
from socketio_eventstore.program.api.json_text import json_text

LIMIT_BYTES: Final = 4_000_000
"""The size of the kept texts; readers that follow the end of the log need the newest texts."""


class EventTexts:
    """The newest texts of events in streams."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._texts: dict[str, tuple[Event, bytes]] = {}
        """Event and text by offset, the oldest first. A text counts only while an operator has not redacted
        the event.
        """
        self._size_bytes = 0

    def of(self, feed: Feed, logged: LoggedEvent) -> bytes:
        """Return the text of an event of the feed in the form of a stream."""
        offset = feed.offset_of(logged)
        event, text = self._texts.get(offset, (None, b""))
        if event != logged.event:
            text = f"id: {offset}\ndata: {json_text(event_result(feed.stored(logged)))}\n\n".encode()
            self._keep(offset, logged.event, text)
        return text

    def _keep(self, offset: str, event: Event, text: bytes) -> None:
        _, former = self._texts.pop(offset, (None, b""))
        self._texts[offset] = (event, text)
        self._size_bytes += len(text) - len(former)
        while self._size_bytes > self._limit_bytes:
            _, oldest = self._texts.pop(next(iter(self._texts)))
            self._size_bytes -= len(oldest)
