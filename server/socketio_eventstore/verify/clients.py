"""The clients and publishers of a run, and the records of published events and moves."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Final

from socketio_eventstore.verify.client import Client, NotAcknowledged
from socketio_eventstore.verify.event_counter import EventCounter
from socketio_eventstore.verify.handlers import PUBLISHERS as PUBLISHERS_NAMESPACE
from socketio_eventstore.verify.history import MARKER, VOLATILE, History, Moved, Published, Received
from socketio_eventstore.verify.plan import (
    NAMESPACES,
    PUBLISHERS,
    Move,
    Plan,
    Publication,
    TransportKind,
    publications,
)

_WINDOW: Final = 2
"""The most events of a publisher without an acknowledgement."""
_TIMEOUT_SECONDS: Final = 20.0


class Clients:
    """All clients of the server: the members, which are under test, and the publishers."""

    def __init__(self, plan: Plan, url: Callable[[], str], counter: EventCounter) -> None:
        self.published: list[Published] = []
        self.moves: list[Moved] = []
        self.markers: set[str] = set()
        self._plan = plan
        self._counter = counter
        self._move_ids = itertools.count(1)
        self._stopping = False
        self.members = [
            self._client(f"client {index}", member.namespace, member.transport_kind, url)
            for index, member in enumerate(plan.members)
        ]
        self.publishers = [
            self._client(f"publisher {index}", PUBLISHERS_NAMESPACE, TransportKind.WEBSOCKET, url)
            for index in range(PUBLISHERS)
        ]
        self._move_locks = [asyncio.Lock() for _ in self.members]
        self._with_marker: set[str] = set()

    @property
    def all_clients(self) -> list[Client]:
        """The members, then the publishers; the plan's client indexes refer to this order."""
        return [*self.members, *self.publishers]

    async def wait_until_connected(self, timeout_seconds: float) -> bool:
        """Wait until all clients are connected. Returns False after the timeout."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for client in self.all_clients:
                    await client.connected.wait()
        return all(client.connected.is_set() for client in self.all_clients)

    async def join_initial_rooms(self) -> None:
        """Let each member join the rooms of the plan."""
        await asyncio.gather(
            *(
                self.move(Move(index, room, joining=True, own=True))
                for index, member in enumerate(self._plan.members)
                for room in member.rooms
            )
        )

    async def move(self, move: Move) -> None:
        """Let a member join or leave a room. The moves of a member never overlap."""
        caller = self.members[move.client] if move.own else self.publishers[move.client % PUBLISHERS]
        # The wait for a connection is outside the lock: a publisher may move a member that stays away.
        while await _connected(caller):
            async with self._move_locks[move.client]:
                if caller.connected.is_set():
                    await self._call_move(caller, move, self.members[move.client])
                    return

    async def _call_move(self, caller: Client, move: Move, member: Client) -> None:
        sid, move_id = member.sid, f"move {next(self._move_ids)}"
        message: dict[str, object] = {"id": move_id, "sid": sid, "namespace": member.namespace}
        message |= {"room": move.room, "joining": move.joining}
        before = after = None
        try:
            with suppress(NotAcknowledged):
                before, after = await caller.call("move", message)
        finally:  # also when cancelled: the server may handle the move all the same
            self.moves.append(Moved(member.namespace, sid, move.room, move.joining, before, after))
        for offset, edge in ((before, "<"), (after, ">")):
            if offset is not None:
                self.published.append(Published(move_id + edge, offset))

    # Publishing -------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publish events at the rate of the acknowledgements, until ``stop_publishing``."""
        async with asyncio.TaskGroup() as group:
            for index, publisher in enumerate(self.publishers):
                supply = publications(self._plan, index)
                for _ in range(_WINDOW):
                    group.create_task(self._publish_all(publisher, supply))

    def stop_publishing(self) -> None:
        """Let ``publish`` return after the acknowledgement or loss of each event already sent."""
        self._stopping = True
        self._counter.check_waiters()

    async def _publish_all(self, publisher: Client, supply: Iterator[Publication]) -> None:
        while not self._stopping:
            await self._counter.wait_for(lambda: self._counter.may_publish or self._stopping)
            # Each event is sent at most once: an event without acknowledgement may be stored or not.
            if await _connected(publisher) and not self._stopping:
                with suppress(NotAcknowledged):
                    await self._publish(publisher, self._message(next(supply)))

    def _message(self, publication: Publication) -> dict[str, object]:
        to = list(publication.rooms)
        if publication.client is not None:
            to.append(self.members[publication.client].sid)
        skipped = None if publication.skipped is None else self.members[publication.skipped].sid
        return {
            "id": publication.id,
            "name": VOLATILE if publication.volatile else "numbered",
            "namespace": publication.namespace,
            "to": to,
            "skip": skipped,
            "binary": publication.binary,
            "hostile": publication.hostile,
        }

    async def _publish(self, publisher: Client, message: dict[str, object]) -> None:
        offset = await publisher.call("publish", message)
        self._counter.add()
        if message["name"] != VOLATILE:
            self.published.append(Published(str(message["id"]), offset))

    # The end ----------------------------------------------------------------------------------------

    async def send_markers(self) -> bool:
        """Send a last event to each namespace and wait. Returns whether all members have the last event."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                for namespace in NAMESPACES:
                    await self._send_marker(namespace)
                await self._counter.wait_for(lambda: len(self._with_marker) == len(self.members))
        return len(self._with_marker) == len(self.members)

    async def _send_marker(self, namespace: str) -> None:
        for attempt in itertools.count():
            marker = f"{MARKER} {namespace} {attempt}"
            message: dict[str, object] = {"id": marker, "name": MARKER, "namespace": namespace}
            message |= {"to": None, "skip": None, "binary": False, "hostile": False}
            await self.publishers[0].connected.wait()
            with suppress(NotAcknowledged):
                await self._publish(self.publishers[0], message)
                self.markers.add(marker)
                return

    def _client(
        self, name: str, namespace: str, transport_kind: TransportKind, url: Callable[[], str]
    ) -> Client:
        random = Random(f"{self._plan.settings.seed}/{name}")  # noqa: S311 -- repeatable by the seed

        def listener(received: Received) -> None:
            if received.name == MARKER:
                self._with_marker.add(name)
                self._counter.check_waiters()

        return Client(History(name, namespace), url, transport_kind, random, listener)


async def _connected(client: Client) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_TIMEOUT_SECONDS):
            await client.connected.wait()
    return client.connected.is_set()
