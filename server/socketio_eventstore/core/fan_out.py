"""Fan-out: what a batch of turns has for each connection, joined, so that each is written to once.

This is the fast path. A write per client and event would cost six to nine microseconds each; here the
consecutive events for one audience are joined into one buffer that all its clients share, and a client
costs one write per batch, however many events are in it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from socketio_eventlog.records import Room
from socketio_eventstore.core.packets import Frames
from socketio_eventstore.core.sessions import ClientConnection, Registry, Session, State

logger = logging.getLogger(__name__)

Address = tuple[str, tuple[Room, ...] | None, tuple[str, ...]]
"""Namespace, rooms, and the sids that are skipped."""


class FanOut:
    """Gathers frames in the order of dispatch until ``flush`` hands them to the connections."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: dict[ClientConnection, list[Frames]] = {}
        self._address: Address | None = None
        self._group: list[Frames] = []
        self.waiting_bytes = 0
        """The bytes gathered since the last flush, each broadcast counted once."""

    def broadcast(self, address: Address, frames: Frames) -> None:
        """Add an event for the live members of an audience.

        Its recipients are settled at ``end_stretch`` or ``flush``: until then nobody may join, leave or
        change state.
        """
        if address != self._address:
            self.end_group()
            self._address = address
        self._group.append(frames)
        self.waiting_bytes += frames.size_bytes

    def end_group(self) -> None:
        """Give the consecutive events for one audience, joined, to each of its live members."""
        if self._address is not None:
            recipients, joined = self._take_group(self._address)
            self._put(recipients, joined)

    def put(self, connection: ClientConnection, frames: Frames) -> None:
        """Add frames for one connection, behind everything that it gets before."""
        self.end_group()
        self.waiting_bytes += frames.size_bytes
        self._put((connection,), frames)

    def flush(self) -> None:
        """Hand everything to the connections."""
        self.waiting_bytes = 0
        if self._address is not None and not self._waiting:
            # All of the batch is one stretch: the first client need not wait until the others are looked up.
            recipients, joined = self._take_group(self._address)
            batch = (joined,)
            for connection in recipients:
                _write(connection, batch)
            return
        self.end_group()
        waiting, self._waiting = self._waiting, {}
        for connection, frames in waiting.items():
            _write(connection, frames)

    def _take_group(self, address: Address) -> tuple[Iterator[ClientConnection], Frames]:
        """End the stretch for this audience: who gets it, looked up one by one, and what, joined."""
        range_, self._group, self._address = self._group, [], None
        namespace, rooms, skip = address
        members = list(self._registry.members(namespace, rooms))  # which may change while it is written
        return _live(members, skip), Frames.join(range_)

    def _put(self, connections: Iterable[ClientConnection], frames: Frames) -> None:
        waiting = self._waiting
        for connection in connections:
            try:
                waiting[connection].append(frames)
            except KeyError:
                waiting[connection] = [frames]


def _live(sessions: Iterable[Session], skip: Sequence[str]) -> Iterator[ClientConnection]:
    """The connections of those that are sent every event at its turn."""
    for session in sessions:
        if session.state is State.LIVE and session.connection is not None and session.sid not in skip:
            yield session.connection


def _write(connection: ClientConnection, batch: Sequence[Frames]) -> None:
    try:
        connection.write(batch)
    except Exception:  # what cannot be encoded, for instance; nobody else must miss anything for it
        logger.exception("%s could not be written to", connection.id)
        connection.abort("it could not be written to")
