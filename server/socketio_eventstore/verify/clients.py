"""The clients and the publishers of a run, and what is written down about them."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress
from random import Random
from typing import Final

from socketio_eventstore.verify.client import Client, Unanswered
from socketio_eventstore.verify.handlers import PUBLISHERS as PUBLISHERS_NAMESPACE
from socketio_eventstore.verify.history import MARKER, VOLATILE, History, Moved, Published, Received
from socketio_eventstore.verify.meter import Meter
from socketio_eventstore.verify.plan import (
    NAMESPACES,
    PUBLISHERS,
    Move,
    Plan,
    Publication,
    Wire,
    publications,
)

_WINDOW: Final = 2
"""Events that a publisher has on the way at a time."""
_PATIENCE_SECONDS: Final = 20.0


class Crowd:
    """Everybody who connects to the server."""

    def __init__(self, plan: Plan, url: str, meter: Meter) -> None:
        self.published: list[Published] = []
        self.moves: list[Moved] = []
        self.markers: set[str] = set()
        self._plan = plan
        self._meter = meter
        self._move_ids = itertools.count(1)
        self._stopping = False
        self.members = [
            self._client(f"client {number}", member.namespace, member.wire, url)
            for number, member in enumerate(plan.members)
        ]
        self.publishers = [
            self._client(f"publisher {number}", PUBLISHERS_NAMESPACE, Wire.WEBSOCKET, url)
            for number in range(PUBLISHERS)
        ]
        self._moving = [asyncio.Lock() for _ in self.members]
        self._marked: set[str] = set()

    @property
    def everyone(self) -> list[Client]:
        """Members first, then publishers, as the plan numbers them."""
        return [*self.members, *self.publishers]

    async def gather(self, seconds: float) -> bool:
        """Wait until everybody is connected; return whether it came to that."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for client in self.everyone:
                    await client.connected.wait()
        return all(client.connected.is_set() for client in self.everyone)

    async def settle_in(self) -> None:
        """Everybody joins the rooms of the beginning."""
        await asyncio.gather(
            *(
                self.move(Move(number, room, joining=True, own=True))
                for number, member in enumerate(self._plan.members)
                for room in member.rooms
            )
        )

    async def move(self, wish: Move) -> None:
        """Let a member join or leave a room; those of one member come one after the other."""
        asked = self.members[wish.client] if wish.own else self.publishers[wish.client % PUBLISHERS]
        # Nobody waits for a connection inside of the lock: others may move a member that stays away.
        while await _connected(asked):
            async with self._moving[wish.client]:
                if asked.connected.is_set():
                    await self._ask(asked, wish, self.members[wish.client])
                    return

    async def _ask(self, asked: Client, wish: Move, member: Client) -> None:
        sid, name = member.sid, f"move {next(self._move_ids)}"
        message: dict[str, object] = {"id": name, "sid": sid, "namespace": member.namespace}
        message |= {"room": wish.room, "joining": wish.joining}
        before = after = None
        try:
            with suppress(Unanswered):
                before, after = await asked.call("move", message)
        finally:  # it may happen even if nobody waits for it any more
            self.moves.append(Moved(member.namespace, sid, wish.room, wish.joining, before, after))
        for offset, edge in ((before, "<"), (after, ">")):
            if offset is not None:
                self.published.append(Published(name + edge, offset))

    # Publishing -------------------------------------------------------------------------------------

    async def publish(self) -> None:
        """Publish as fast as the server acknowledges, until ``stop_publishing``."""
        async with asyncio.TaskGroup() as group:
            for number, publisher in enumerate(self.publishers):
                supply = publications(self._plan, number)
                for _ in range(_WINDOW):
                    group.create_task(self._pump(publisher, supply))

    def stop_publishing(self) -> None:
        """Let ``publish`` return, when what is on the way has been answered or lost."""
        self._stopping = True
        self._meter.look()

    async def _pump(self, publisher: Client, supply: Iterator[Publication]) -> None:
        while not self._stopping:
            await self._meter.until(lambda: self._meter.may_go_on or self._stopping)
            # An event is published once at most: what was on the way may be stored or not.
            if await _connected(publisher) and not self._stopping:
                with suppress(Unanswered):
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
        }

    async def _publish(self, publisher: Client, message: dict[str, object]) -> None:
        offset = await publisher.call("publish", message)
        self._meter.add()
        if message["name"] != VOLATILE:
            self.published.append(Published(str(message["id"]), offset))

    # The end ----------------------------------------------------------------------------------------

    async def mark_the_end(self) -> bool:
        """Send everybody a last event, and wait until they have it; return whether they do."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_SECONDS):
                for namespace in NAMESPACES:
                    await self._mark(namespace)
                await self._meter.until(lambda: len(self._marked) == len(self.members))
        return len(self._marked) == len(self.members)

    async def _mark(self, namespace: str) -> None:
        for attempt in itertools.count():
            name = f"{MARKER} {namespace} {attempt}"
            message: dict[str, object] = {"id": name, "name": MARKER, "namespace": namespace}
            message |= {"to": None, "skip": None, "binary": False}
            await self.publishers[0].connected.wait()
            with suppress(Unanswered):
                await self._publish(self.publishers[0], message)
                self.markers.add(name)
                return

    def _client(self, name: str, namespace: str, wire: Wire, url: str) -> Client:
        chance = Random(f"{self._plan.settings.seed}/{name}")  # noqa: S311 -- to be repeatable

        def listen(received: Received) -> None:
            if received.name == MARKER:
                self._marked.add(name)
                self._meter.look()

        return Client(History(name, namespace), url, wire, chance, listen)


async def _connected(client: Client) -> bool:
    with suppress(TimeoutError):
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await client.connected.wait()
    return client.connected.is_set()
