"""The wait for an inbox ends, whatever the inbox was busy with when the wait began."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from socketio_eventstore.core.senders import SENDER_OPERATIONS, Sender, current_sender
from socketio_eventstore.transport.inbox import Inbox
from socketio_eventstore.transport.inbox_owner import Packet
from socketio_eventstore.transport.rate_limits import RateLimitedInbox, RateLimits
from socketio_eventstore.transport.shared_rounds import SharedRounds


class Client:
    """The owner of an inbox, one handler at a time; the tests end the handlers, and fill the store."""

    handlers_at_once = 1

    def __init__(self) -> None:
        self.handled: list[Packet] = []
        self.closed_by: list[Exception] = []
        self.end_of_handlers = asyncio.Event()
        self.sender: Sender | None = None
        self.inbox = self.make_inbox()

    def make_inbox(self) -> Inbox:
        return Inbox(self, SharedRounds())

    def handle_packet(self, packet: Packet) -> asyncio.Task[None] | None:
        if packet == "fault":
            raise ZeroDivisionError
        self.handled.append(packet)
        self.sender = current_sender.get()
        return asyncio.create_task(self._handle()) if packet == "handler" else None

    async def _handle(self) -> None:
        await self.end_of_handlers.wait()

    def hold(self) -> None:
        """Emit so much, without waiting for it, that the next packets have to wait for the store."""
        assert self.sender is not None
        self.sender.waiting_operations += SENDER_OPERATIONS

    def store(self) -> None:
        """Let the store take all of it."""
        assert self.sender is not None
        self.sender.waiting_operations = 0
        self.sender.look_at_room()

    def fail(self, error: Exception) -> None:
        self.closed_by.append(error)
        self.inbox.close()

    def pause_reading(self) -> None:
        """Nothing is read."""

    def resume_reading(self) -> None:
        """Nothing is read."""

    def rate_exceeded(self, limit: str) -> None:
        raise AssertionError(limit)


class LimitedClient(Client):
    """A client that may send two events at once, and then one each 100 seconds."""

    def make_inbox(self) -> Inbox:
        return RateLimitedInbox(self, RateLimits(0.01, 0.0, 1e6), SharedRounds())


async def callbacks() -> None:
    """Let the event loop run what is ready, and what that makes ready."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    client = Client()
    yield client
    client.end_of_handlers.set()
    await asyncio.gather(*client.inbox.handlers)


async def test_emits_without_waiting(client: Client) -> None:
    """A wait that began for a handler ends, although the handler has filled the store meanwhile."""
    client.inbox.put("handler")
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    client.hold()
    client.end_of_handlers.set()
    await callbacks()
    assert not waiting.done()
    client.store()
    await callbacks()
    assert waiting.done()


async def test_the_store_fills_after_a_queue(client: Client) -> None:
    """The same for a wait that began behind a queued packet, which is the last before the store is full."""
    client.inbox.put("handler")
    client.inbox.put("no handler")
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    client.hold()
    client.end_of_handlers.set()
    await callbacks()
    assert client.handled == ["handler"] and not waiting.done()
    client.store()
    await callbacks()
    assert waiting.done() and client.handled == ["handler", "no handler"]


async def test_a_wait_for_the_store_alone(client: Client) -> None:
    """A wait that begins when the store is full, and nothing is queued, ends with the store."""
    client.inbox.put("no handler")
    client.hold()
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    assert not waiting.done()
    client.store()
    await callbacks()
    assert waiting.done()


async def test_close_ends_a_wait_for_a_handler(client: Client) -> None:
    """close ends a wait, although the handlers of a closed connection run on."""
    client.inbox.put("handler")
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    client.inbox.close()
    await callbacks()
    assert waiting.done() and len(client.inbox.handlers) == 1


async def test_close_ends_a_wait_for_the_store(client: Client) -> None:
    """close ends a wait, although the store has not taken what the client has caused."""
    client.inbox.put("no handler")
    client.hold()
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    client.inbox.close()
    await callbacks()
    assert waiting.done()


async def test_close_ends_a_pause() -> None:
    """close ends a wait for a client that is above a limit of what it may send."""
    client = LimitedClient()
    for _ in range(3):
        client.inbox.put("no handler")
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    assert not waiting.done()
    client.inbox.close()
    await callbacks()
    assert waiting.done()


async def test_a_fault_closes_the_connection(client: Client) -> None:
    """A queued packet whose handling raises keeps nothing waiting: the connection is closed for it.

    A packet that is handled at once lets asyncio close the WebSocket, since ``data_received`` raises.
    """
    raised: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
    for packet in ("handler", "fault", "never handled"):
        client.inbox.put(packet)
    waiting = asyncio.create_task(client.inbox.wait_until_idle())
    await callbacks()
    client.end_of_handlers.set()
    await callbacks()
    assert waiting.done() and client.handled == ["handler"]
    assert len(client.closed_by) == 1 and [type(error) for error in raised] == [ZeroDivisionError]
