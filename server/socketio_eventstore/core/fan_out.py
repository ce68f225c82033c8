"""Fan-out: the frames of a batch for each connection, joined for a single write to the connection.

This is the fast path. A write per client and event would cost six to nine microseconds. Here consecutive
events for an address are joined into a buffer that all clients share, and a client costs one write per batch,
for any number of events.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from socketio_eventlog.events import Room
from socketio_eventstore.core.frames import Frames
from socketio_eventstore.core.registry import Registry
from socketio_eventstore.core.sessions import ClientConnection

logger = logging.getLogger(__name__)

Address = tuple[str, tuple[Room, ...] | None, tuple[str, ...]]
"""Namespace, rooms (None: the whole namespace), and the skipped sids."""


class FanOut:
    """Gathers frames in the order of the log; ``flush`` hands the frames to the connections."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._waiting: dict[ClientConnection, list[Frames]] = {}
        self.address: Address | None = None
        """The address of the events that wait for ``end_run``; None when there are none."""
        self._run: list[Frames] = []
        self.waiting_bytes = 0
        """The bytes gathered since the last flush; a broadcast counts once."""
        self.broadcasts = 0
        """The number of stored and volatile events for the live members of an address."""
        self.asking_events = 0
        """The number of events with acknowledgements, which are not broadcasts."""
        self.deliveries = 0
        """The number of events for clients: a broadcast counts for each recipient."""
        self.sent_bytes = 0
        """The bytes of all packets for clients."""

    def broadcast(self, address: Address, frames: Frames) -> None:
        """Add an event for the live members of an address.

        ``end_run`` or ``flush`` looks up the recipients. Until then no session may join, leave or change
        state.
        """
        if address != self.address:
            self.end_run()
            self.address = address
        self._run.append(frames)
        self.broadcasts += 1
        self.waiting_bytes += frames.size_bytes

    def end_run(self) -> None:
        """Give the consecutive events for an address, joined, to each live member."""
        if self.address is not None:
            recipients, joined = self._take_run(self.address)
            self._put(recipients, joined)

    def put(self, connection: ClientConnection, frames: Frames) -> None:
        """Add frames for one connection, behind everything added before."""
        if self.address is not None:
            self.end_run()
        self.waiting_bytes += frames.size_bytes
        self.sent_bytes += frames.size_bytes
        waiting = self._waiting.get(connection)
        if waiting is None:
            self._waiting[connection] = [frames]
        else:
            waiting.append(frames)

    def flush(self) -> None:
        """Hand all gathered frames to the connections."""
        self.waiting_bytes = 0
        if self.address is not None and not self._waiting:
            recipients, joined = self._take_run(self.address)  # the whole batch has a single address
            batch = (joined,)
            for connection in recipients:
                try:
                    connection.write(batch)
                except Exception as error:  # noqa: BLE001 -- see ``_not_written``
                    _not_written(connection, error)
            return
        self.end_run()
        waiting, self._waiting = self._waiting, {}
        for connection, frames in waiting.items():
            try:
                connection.write(frames)
            except Exception as error:  # noqa: BLE001 -- see ``_not_written``
                _not_written(connection, error)

    def _take_run(self, address: Address) -> tuple[Iterable[ClientConnection], Frames]:
        """End the run; return the recipients and the joined frames."""
        run, self._run, self.address = self._run, [], None
        recipients, joined = self._registry.recipients(*address), Frames.join(run)
        count = len(recipients)
        self.deliveries += count * len(run)
        self.sent_bytes += count * joined.size_bytes
        return recipients, joined

    def _put(self, connections: Iterable[ClientConnection], frames: Frames) -> None:
        waiting = self._waiting
        for connection in connections:
            try:
                waiting[connection].append(frames)
            except KeyError:
                waiting[connection] = [frames]


def _not_written(connection: ClientConnection, error: Exception) -> None:
    """End a connection: its frames cannot be encoded, for instance. The other clients must get theirs."""
    logger.error("%s could not be written to", connection.id, exc_info=error)
    connection.abort("the frames could not be written")
