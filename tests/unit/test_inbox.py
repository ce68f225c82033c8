from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from socketio_eventstore.transport.inbox import (
    MAX_QUEUED_BYTES,
    MAX_RUNNING_BYTES,
    QUEUED_PACKET_BYTES,
    Inbox,
)
from socketio_eventstore.transport.inbox_owner import InvalidPacket, Packet
from socketio_eventstore.transport.shared_rounds import PACKETS_AT_ONCE, PACKETS_PER_STEP, SharedRounds


class CountingTask(asyncio.Task[None]):
    """A task that counts how many callbacks were added to any."""

    added = 0

    def add_done_callback(self, *arguments: Any, **options: Any) -> None:
        type(self).added += 1
        super().add_done_callback(*arguments, **options)


class Connection:
    """An inbox owner; the handler of each packet runs until ``end_one``."""

    def __init__(self) -> None:
        self.handled: list[Packet] = []
        self.running: list[asyncio.Event] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.invalid: list[InvalidPacket] = []
        self.is_paused = False
        self.handlers_at_once = 1
        self.incomplete: Packet = "no handler"

    def handle_packet(self, packet: Packet) -> asyncio.Task[None] | None:
        if packet == "invalid":
            raise InvalidPacket(packet)
        self.handled.append(packet)
        if packet in ("no handler", self.incomplete):
            return None
        self.running.append(asyncio.Event())
        self.tasks.append(asyncio.create_task(self._handle(self.running[-1])))
        return self.tasks[-1]

    async def _handle(self, may_end: asyncio.Event) -> None:
        await may_end.wait()

    def fail(self, error: InvalidPacket) -> None:
        self.invalid.append(error)

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    async def end_one(self) -> None:
        """End the oldest handler and run the callbacks of its end."""
        self.running.pop(0).set()
        await self.tasks.pop(0)
        await asyncio.sleep(0)


@pytest.fixture
async def connection() -> AsyncIterator[Connection]:
    connection = Connection()
    yield connection
    while connection.running:
        await connection.end_one()


async def test_handlers_run_concurrently(connection: Connection) -> None:
    """Handlers run concurrently up to handlers_at_once."""
    connection.handlers_at_once = 2
    inbox = Inbox(connection, SharedRounds())
    for packet in ("a", "b", "c", "d"):
        inbox.put(packet)
    assert connection.handled == ["a", "b"]
    await connection.end_one()
    assert connection.handled == ["a", "b", "c"]
    await connection.end_one()
    assert connection.handled == ["a", "b", "c", "d"]


async def test_packets_keep_their_order(connection: Connection) -> None:
    """A packet without a handler does not overtake a queued packet."""
    inbox = Inbox(connection, SharedRounds())
    for packet in ("a", "no handler", "b", "no handler"):
        inbox.put(packet)
    assert connection.handled == ["a"]
    await connection.end_one()
    assert connection.handled == ["a", "no handler", "b"]
    await connection.end_one()
    assert connection.handled == ["a", "no handler", "b", "no handler"]


async def test_call_when_idle(connection: Connection) -> None:
    """call_when_idle runs the action after the earlier packets."""
    inbox = Inbox(connection, SharedRounds())
    ends: list[list[Packet]] = []
    inbox.put("a")
    inbox.put("b")
    inbox.call_when_idle(lambda: ends.append(list(connection.handled)))
    assert ends == []
    await connection.end_one()
    await connection.end_one()
    assert ends == [["a", "b"]]
    inbox.call_when_idle(lambda: ends.append([]))
    assert ends[1:] == [[]]


async def test_reading_pauses_above_the_limit(connection: Connection) -> None:
    """Reading pauses above MAX_QUEUED_BYTES and resumes when handlers have ended."""
    inbox = Inbox(connection, SharedRounds())
    inbox.put("a")
    inbox.put("x" * (MAX_QUEUED_BYTES - QUEUED_PACKET_BYTES))
    assert not connection.is_paused
    inbox.put("b")
    assert connection.is_paused
    await connection.end_one()
    assert not connection.is_paused


async def test_small_packets_count_in_full(connection: Connection) -> None:
    """Packets of two bytes pause the reading before they take much more memory than MAX_QUEUED_BYTES."""
    inbox = Inbox(connection, SharedRounds())
    inbox.put("a")
    queued = 0
    while not connection.is_paused:
        inbox.put("6x")
        queued += 1
    memory_bytes = queued * (sys.getsizeof("6x") + 8)  # and a place in the queue
    assert memory_bytes < 1.2 * MAX_QUEUED_BYTES
    inbox.close()


async def test_bytes_of_running_handlers(connection: Connection) -> None:
    """A packet is queued while the packets of the running handlers have MAX_RUNNING_BYTES."""
    connection.handlers_at_once = 1000
    inbox = Inbox(connection, SharedRounds())
    half = "x" * (MAX_RUNNING_BYTES // 2)
    for packet in (half, half, "a", "b"):
        inbox.put(packet)
    assert connection.handled == [half, half]
    await connection.end_one()
    assert connection.handled == [half, half, "a", "b"]


async def test_attachments_of_running_handlers(connection: Connection) -> None:
    """The parts of a binary packet count, and not only the last one, which starts the handler."""
    connection.handlers_at_once = 1000
    connection.incomplete = b"x" * (MAX_RUNNING_BYTES - 1)
    inbox = Inbox(connection, SharedRounds())
    for packet in ("no handler", connection.incomplete, b"last", "a"):
        inbox.put(packet)
    assert connection.handled == ["no handler", connection.incomplete, b"last"]
    await connection.end_one()
    assert connection.handled[-1] == "a"


async def test_invalid_packet(connection: Connection) -> None:
    """An invalid packet raises at once, or fails the connection when taken from the queue."""
    inbox = Inbox(connection, SharedRounds())
    with pytest.raises(InvalidPacket):
        inbox.put("invalid")
    inbox.put("a")
    inbox.put("invalid")
    assert connection.invalid == []
    await connection.end_one()
    assert [str(error) for error in connection.invalid] == ["invalid"]


async def test_close(connection: Connection) -> None:
    """close drops the queued packets."""
    inbox = Inbox(connection, SharedRounds())
    inbox.put("a")
    inbox.put("b")
    inbox.close()
    await connection.end_one()
    assert connection.handled == ["a"]


async def test_wait_until_idle(connection: Connection) -> None:
    """wait_until_idle returns when the next packet is not queued."""
    inbox = Inbox(connection, SharedRounds())
    inbox.put("a")
    waiting = asyncio.create_task(inbox.wait_until_idle())
    await asyncio.sleep(0)
    assert not waiting.done()
    await connection.end_one()
    await waiting


async def test_wait_costs_nothing_per_handler(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait for one of many handlers adds no callback to each of them."""

    def counted(loop: asyncio.AbstractEventLoop, work: Any, **more: Any) -> Any:
        return CountingTask(work, loop=loop, **more)

    asyncio.get_running_loop().set_task_factory(counted)
    monkeypatch.setattr(CountingTask, "added", 0)
    connection.handlers_at_once = 50
    inbox = Inbox(connection, SharedRounds())
    for number in range(50):
        inbox.put(str(number))
    waiting = [asyncio.ensure_future(inbox.wait_until_idle()) for _ in range(2)]
    await asyncio.sleep(0)
    before = CountingTask.added
    waiting[0].cancel()
    await connection.end_one()
    await waiting[1]
    assert waiting[0].cancelled()
    assert before <= 50 + 2 and CountingTask.added <= before + 4


async def test_many_packets_take_several_steps(connection: Connection) -> None:
    """The event loop serves others after PACKETS_AT_ONCE packets, then every few; the order stays."""
    inbox = Inbox(connection, SharedRounds())
    connection.handlers_at_once = 10
    packets = ["no handler"] * (PACKETS_AT_ONCE + PACKETS_PER_STEP) + ["a", "b"]
    for packet in packets:
        inbox.put(packet)
    ends: list[Packet] = []
    inbox.call_when_idle(lambda: ends.extend(connection.handled))
    assert connection.handled == packets[:PACKETS_AT_ONCE] and ends == []
    await asyncio.sleep(0)
    assert connection.handled == packets[:-2] and ends == []
    await inbox.wait_until_idle()
    assert connection.handled == packets == ends


async def test_bursts_below_the_limit(connection: Connection) -> None:
    """Packets do not wait in bursts below PACKETS_AT_ONCE, between which handlers have ended."""
    inbox = Inbox(connection, SharedRounds())
    connection.handlers_at_once = PACKETS_AT_ONCE
    for _ in range(3):
        for _ in range(PACKETS_AT_ONCE - 1):
            inbox.put("a")
            assert not inbox._is_resting
        while connection.running:
            await connection.end_one()
