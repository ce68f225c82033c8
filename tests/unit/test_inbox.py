from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from socketio_eventstore.transport.inbox import MAX_QUEUED_BYTES, Inbox, InvalidPacket, Packet


class Connection:
    """Starts a handler for each packet, which runs until it is told to end."""

    def __init__(self) -> None:
        self.begun: list[Packet] = []
        self.running: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.invalid: list[InvalidPacket] = []
        self.is_held_back = False
        self.handlers_at_once = 1

    def handle_packet(self, packet: Packet) -> asyncio.Task[None] | None:
        if packet == "invalid":
            raise InvalidPacket(packet)
        self.begun.append(packet)
        if packet == "no handler":
            return None
        self.running.append(asyncio.Event())
        self.tasks.append(asyncio.create_task(self._handle(self.running[-1])))
        return self.tasks[-1]

    async def _handle(self, may_end: asyncio.Event) -> None:
        await may_end.wait()

    def close_invalid(self, error: InvalidPacket) -> None:
        self.invalid.append(error)

    def hold_back(self, *, paused: bool) -> None:
        self.is_held_back = paused

    async def end_one(self) -> None:
        """Lets the oldest handler end, and what follows from it happen."""
        self.running.pop(0).set()
        await self.tasks.pop(0)
        await asyncio.sleep(0)


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = Connection()
    yield connection
    while connection.running:
        await connection.end_one()


async def test_handlers_run_side_by_side_up_to_the_limit(connection: Connection) -> None:
    connection.handlers_at_once = 2
    inbox = Inbox(connection)
    for packet in ("a", "b", "c", "d"):
        inbox.put(packet)
    assert connection.begun == ["a", "b"]
    await connection.end_one()
    assert connection.begun == ["a", "b", "c"]
    await connection.end_one()
    assert connection.begun == ["a", "b", "c", "d"]


async def test_nothing_overtakes_a_packet_that_waits(connection: Connection) -> None:
    inbox = Inbox(connection)
    for packet in ("a", "no handler", "b", "no handler"):
        inbox.put(packet)
    assert connection.begun == ["a"]
    await connection.end_one()
    assert connection.begun == ["a", "no handler", "b"]
    await connection.end_one()
    assert connection.begun == ["a", "no handler", "b", "no handler"]


async def test_the_end_comes_after_what_was_put_before_it(connection: Connection) -> None:
    inbox = Inbox(connection)
    ends: list[list[Packet]] = []
    inbox.put("a")
    inbox.put("b")
    inbox.call_when_idle(lambda: ends.append(list(connection.begun)))
    assert ends == []
    await connection.end_one()
    await connection.end_one()
    assert ends == [["a", "b"]]
    inbox.call_when_idle(lambda: ends.append([]))
    assert ends[1:] == [[]]


async def test_a_client_that_sends_faster_than_handlers_end_is_held_back(connection: Connection) -> None:
    inbox = Inbox(connection)
    inbox.put("a")
    inbox.put("x" * MAX_QUEUED_BYTES)
    assert not connection.is_held_back
    inbox.put("b")
    assert connection.is_held_back
    await connection.end_one()
    assert not connection.is_held_back


async def test_an_invalid_packet_is_told_at_once_or_when_it_is_its_turn(connection: Connection) -> None:
    inbox = Inbox(connection)
    with pytest.raises(InvalidPacket):
        inbox.put("invalid")
    inbox.put("a")
    inbox.put("invalid")
    assert connection.invalid == []
    await connection.end_one()
    assert [str(error) for error in connection.invalid] == ["invalid"]


async def test_what_waits_is_forgotten_when_the_connection_is_closed(connection: Connection) -> None:
    inbox = Inbox(connection)
    inbox.put("a")
    inbox.put("b")
    inbox.clear()
    await connection.end_one()
    assert connection.begun == ["a"]


async def test_one_can_wait_until_a_packet_need_not(connection: Connection) -> None:
    inbox = Inbox(connection)
    inbox.put("a")
    waiting = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    await connection.end_one()
    await waiting
