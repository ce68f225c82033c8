"""The events of clients that never disconnect, computed from the order of a log."""

from __future__ import annotations

import json
from collections.abc import Iterable

from socketio_eventlog.changes import Batch, Committed
from socketio_eventlog.events import Event, Room
from socketio_eventlog.session_changes import (
    DataSaved,
    RoomClosed,
    RoomJoined,
    RoomLeft,
    SessionEnded,
    SessionOpened,
    SessionResumed,
)
from support.simulated_state import SessionKey


class Twins:
    """The events of clients that never disconnect, computed from the promise, change by change.

    There are no intervals, cursors and states: a member of a room at an event receives the event.
    """

    def __init__(self, batches: Iterable[Batch] = ()) -> None:
        self.received: dict[SessionKey, list[tuple[int, Event]]] = {}
        """The events of each session since the opening, ended sessions included."""
        self.present: dict[SessionKey, set[Room]] = {}
        """The rooms of the sessions before their end."""
        self.data: dict[SessionKey, str] = {}
        for batch in batches:
            self.add(batch)

    def add(self, batch: Batch) -> None:
        for committed in batch.changes:
            if committed.took_effect:
                self._add(committed)

    def _add(self, committed: Committed) -> None:
        match committed.change:
            case Event() as event:
                self._deliver(committed.position, event)
            case SessionOpened(namespace, sid):
                self.present[namespace, sid] = {sid}
                self.received[namespace, sid] = []
                self.data[namespace, sid] = "{}"
            case SessionResumed(deferred=deferred):
                for change in deferred:
                    self._add(Committed(change, committed.position))
            case SessionEnded(namespace, sid):
                self.present.pop((namespace, sid), None)
            case RoomJoined(namespace, sid, room) if (namespace, sid) in self.present:
                self.present[namespace, sid].add(room)
            case RoomLeft(namespace, sid, room) if (namespace, sid) in self.present:
                self.present[namespace, sid].discard(room)
            case RoomClosed(namespace, room):
                self._empty(namespace, room)
            case DataSaved(namespace, sid, data):
                self.data[namespace, sid] = data
            case _:
                pass

    def _deliver(self, position: int, event: Event) -> None:
        for (namespace, sid), rooms in self.present.items():
            addressed = event.rooms is None or not rooms.isdisjoint(event.rooms)
            if namespace == event.namespace and addressed and sid not in event.skip:
                self.received[namespace, sid].append((position, event))

    def _empty(self, namespace: str, room: Room) -> None:
        for (other, _), rooms in self.present.items():
            if other == namespace:
                rooms.discard(room)


def text_of(event: Event) -> str:
    """The text of an event: the last argument."""
    text = json.loads(event.payload)[-1]
    assert isinstance(text, str)
    return text
