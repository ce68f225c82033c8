"""Handlers that make much out of a packet.

The client that fills the commit queue does not get its neighbours' room, and its next packets wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from socketio_eventstore.adapter.departures import SESSIONS_PER_STEP
from socketio_eventstore.core import commit_queue
from socketio_eventstore.core.commit_queue import CommitQueue, QueueFull
from socketio_eventstore.core.senders import SENDER_BYTES, SENDER_OPERATIONS
from socketio_eventstore.core.sessions import State
from support.clients import Client, NodeClients
from support.core import pausable_commits
from support.embedded import Seen, Server, serving, until

QUEUE = 1000


class Handlers:
    """``amplify`` emits many events for one packet, ``relay`` in a background task; ``tell`` emits one."""

    def __init__(self) -> None:
        self.begun = Seen()
        self.amplified = Seen()

    def register(self, sio: Any) -> None:
        async def amplify(sid: str, count: int, size_bytes: int = 0) -> None:
            self.begun(sid)
            events = (sio.emit("much", "x" * size_bytes, room="nobody") for _ in range(count))
            results = await asyncio.gather(*events, return_exceptions=True)
            self.amplified([type(result) for result in results])

        async def relay(_sid: str, count: int) -> None:
            sio.start_background_task(amplify, "", count)

        sio.on("relay", relay)

        async def tell(_sid: str) -> bool:
            return isinstance(await sio.emit("told", room="nobody"), str)

        sio.on("amplify", amplify)
        sio.on("tell", tell)


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def server(path: Path, handlers: Handlers) -> AsyncIterator[Server]:
    async with serving(path, register=handlers.register) as server:
        yield server


@pytest.fixture
async def clients(server: Server, node: NodeClients) -> list[Client]:
    """Three official clients."""
    url = server.url.removesuffix("/socket.io/")
    clients = [await node.client(url) for _ in range(3)]
    for client in clients:
        await client.connected()
    return clients


@asynccontextmanager
async def waiting_store(server: Server) -> AsyncIterator[CommitQueue]:
    """The queue while a commit does not end."""
    queue = (await server.manager.start()).queue
    async with pausable_commits(server) as commits:
        commits.pause()
        first = asyncio.ensure_future(server.sio.emit("first"))
        await commits.reached.wait()
        yield queue
        commits.resume()
        await first


async def test_neighbours_keep_room_in_the_queue(
    server: Server, handlers: Handlers, clients: list[Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One client gets a half of the queue, the next one a half of the rest; a third one is served."""
    monkeypatch.setattr(commit_queue, "QUEUE_OPERATIONS", QUEUE)
    greedy, next_one, neighbour = clients
    async with waiting_store(server) as queue:
        await greedy.emit("amplify", QUEUE)
        await until(lambda: queue.refused["queue_full"] >= QUEUE // 3)
        await next_one.emit("amplify", QUEUE)
        await until(lambda: queue.refused["queue_full"] >= QUEUE)
        assert QUEUE / 2 < queue.waiting_operations < QUEUE
        before = queue.waiting_operations
        telling = asyncio.create_task(neighbour.call("tell"))
        await until(lambda: queue.waiting_operations > before)
    assert await telling is True
    first, second = (types.count(str) for types in await handlers.amplified.until(2))
    assert QUEUE * 0.45 < first < QUEUE * 0.55 and QUEUE * 0.2 < second < QUEUE * 0.3
    assert all(set(types) == {str, QueueFull} for types in handlers.amplified.all)


@pytest.mark.parametrize(("count", "size_bytes"), [(SENDER_OPERATIONS, 0), (20, SENDER_BYTES // 20)])
async def test_packets_of_a_greedy_client_wait(
    server: Server, handlers: Handlers, clients: list[Client], count: int, size_bytes: int
) -> None:
    """While much of a client waits for the store, its next packets are not handled; those of others are."""
    greedy, neighbour, _ = clients
    async with waiting_store(server) as queue:
        await greedy.emit("amplify", count, size_bytes)
        await until(lambda: queue.waiting_operations == count)
        await greedy.emit("amplify", count, size_bytes)
        await greedy.emit("amplify", count, size_bytes)
        await neighbour.emit("amplify", 1)
        await handlers.begun.until(2)
        assert handlers.begun.all == [greedy.sid, neighbour.sid]
        assert queue.waiting_operations == count + 1
    await handlers.amplified.until(4)
    assert handlers.begun.all[2:] == [greedy.sid] * 2


async def test_background_task_counts_to_no_client(
    server: Server, handlers: Handlers, clients: list[Client]
) -> None:
    """The client whose handler has started a background task is served while much of the task waits."""
    client, _, _ = clients
    async with waiting_store(server) as queue:
        await client.emit("relay", SENDER_OPERATIONS)
        await until(lambda: queue.waiting_operations == SENDER_OPERATIONS)
        await client.emit("amplify", 1)
        await handlers.begun.until(2)
        assert handlers.begun.all == ["", client.sid]
    await handlers.amplified.until(2)


async def test_posts_of_a_greedy_client_wait(server: Server, handlers: Handlers) -> None:
    """The response to a POST waits with the packets that it has brought; nothing is lost."""
    polling = await server.polling()
    await polling.connect()
    async with waiting_store(server):
        packet = f'42["amplify",{SENDER_OPERATIONS}]'
        await polling.post(packet)
        await handlers.begun.until(1)
        posting = asyncio.create_task(polling.post("\x1e".join([packet] * 2)))
        await server.socket()  # by then the POST has been read
        assert len(handlers.begun.all) == 1 and not posting.done()
    assert (await posting)[0] == 200
    await handlers.amplified.until(3)


async def test_departing_sessions_leave_room_between(path: Path) -> None:
    """The sessions of a connection that ends wait for the store in steps; others find a place between."""
    count = 6 * SESSIONS_PER_STEP
    async with serving(path, namespaces="*", recovery={"namespaces_per_connection": count}) as server:
        socket = await server.socket()
        for number in range(count):
            await socket.send(f"40/{number},")
        packets = [str(await socket.packet()) for _ in range(count)]
        assert all(packet.startswith("40/") for packet in packets)
        registry = (await server.manager.start()).registry
        async with waiting_store(server) as queue:
            await socket.leave()
            await until(lambda: queue.waiting_operations >= 2 * SESSIONS_PER_STEP)
            await server.socket()  # by then all of them would wait
            assert queue.waiting_operations < 2 * SESSIONS_PER_STEP + 3  # heartbeats
            emitting = asyncio.ensure_future(server.sio.emit("between"))
        await emitting
        await until(lambda: all(session.state is State.AWAY for session in registry))
