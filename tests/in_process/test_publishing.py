"""Publishing from outside of the handlers."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from socketio_eventlog.errors import StoreUnavailable
from socketio_eventstore import AsyncServer
from socketio_eventstore.adapter.messages import IdempotencyKey, KeyRefused, Message, MessageRefused
from socketio_eventstore.adapter.publishing import Publisher
from support.core import pausable_commits
from support.embedded import Server
from support.storing import sqlite


@pytest.fixture
def publisher(server: Server) -> Publisher:
    return Publisher(server.sio)


def key(text: str = "key", body: str = "body", publisher: str = "ci") -> IdempotencyKey:
    return IdempotencyKey(publisher, text, hashlib.sha256(body.encode()).digest())


def messages(*texts: str, **fields: Any) -> list[Message]:
    return [Message("said", [text], **fields) for text in texts]


def payloads(path: Path) -> list[str]:
    return sqlite(path, "SELECT payload FROM events ORDER BY offset").splitlines()


async def test_events_together(server: Server, publisher: Publisher, path: Path) -> None:
    """Events that are published together have consecutive offsets, as they were sent."""
    first = await publisher.publish(messages("a"))
    offsets = await publisher.publish(messages("b", "c", "d"))
    numbers = [int(str(offset).partition(".")[2]) for offset in (*first, *offsets)]
    assert numbers == [1, 2, 3, 4]
    assert payloads(path) == [f'["said","{text}"]' for text in "abcd"]


async def test_order_of_calls(server: Server, publisher: Publisher, path: Path) -> None:
    """A small group that comes behind a large one is behind it in the log, and not within it."""
    large, small = [str(number) for number in range(100)], ["a", "b"]
    await asyncio.gather(publisher.publish(messages(*large)), publisher.publish(messages(*small)))
    assert payloads(path) == [f'["said","{text}"]' for text in large + small]


async def test_others_while_events_are_made(publisher: Publisher) -> None:
    """While the events of a group are made, the loop serves others after some of them."""
    seen: list[int] = []
    made = 0

    class Counted(list[Any]):
        def __iter__(self) -> Iterator[Any]:
            nonlocal made
            made += 1
            return super().__iter__()

    publishing = asyncio.ensure_future(publisher.publish([Message("said", Counted([1]))] * 100))
    while not publishing.done():
        await asyncio.sleep(0)
        seen.append(made)
    assert max(after - before for before, after in pairwise([0, *seen])) <= 20


async def test_all_or_nothing(server: Server, publisher: Publisher, path: Path) -> None:
    """When one event is wrong, none is stored, and the error names the event and its field."""
    wrong = [
        (Message("connect", []), "event"),
        (Message("a", [], namespace="/" + "x" * 1000), "namespace"),
        (Message("a", [], rooms=[2**63]), "rooms"),
        (Message("a", [], skip=["\udc80"]), "skip"),
        (Message("a", [float("nan")]), "args"),
        (Message("a", ["x" * 3_000_000]), "args"),
        (Message("a", [], is_volatile=True), "volatile"),
    ]
    for message, field in wrong:
        with pytest.raises(MessageRefused) as refused:
            await publisher.publish([*messages("a", "b"), message])
        assert (refused.value.index, refused.value.field) == (2, field)
    async with pausable_commits(server) as commits:
        commits.failure = lambda _: StoreUnavailable("for the test")
        with pytest.raises(StoreUnavailable):
            await publisher.publish(messages("a", "b"), key())
    assert payloads(path) == [] and sqlite(path, "SELECT count(*) FROM publications") == "0\n"


async def test_repeat(server: Server, publisher: Publisher, path: Path) -> None:
    """A repeat gets the first offsets and stores nothing, also from another object after a restart."""
    offsets = await publisher.publish(messages("a", "b"), key())
    assert await publisher.publish(messages("a", "b"), key()) == offsets
    assert await Publisher(server.sio).publish(messages("a", "b"), key()) == offsets
    await publisher.publish(messages("a"), key(publisher="ops"))
    assert payloads(path) == ['["said","a"]', '["said","b"]', '["said","a"]']


async def test_repeat_during_the_first_call(server: Server, publisher: Publisher, path: Path) -> None:
    """A repeat waits for the first call; a cancelled first call does not stop it."""
    async with pausable_commits(server) as commits:
        commits.pause()
        calls = [asyncio.create_task(publisher.publish(messages("a"), key())) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(KeyRefused, match="another request"):
            await publisher.publish(messages("b"), key(body="other"))
        calls[0].cancel()
        commits.resume()
        assert await calls[1] == await calls[2]
    assert payloads(path) == ['["said","a"]']


async def test_refused_keys(server: Server, publisher: Publisher, path: Path) -> None:
    """A key for another body, an invalid key, and a key for a volatile event are refused."""
    await publisher.publish(messages("a"), key())
    for other in (key(body="other"), key(""), key("x" * 201), key("\udc80")):
        with pytest.raises(KeyRefused):
            await publisher.publish(messages("b"), other)
    with pytest.raises(KeyRefused, match="volatile"):
        await publisher.publish(messages("b", is_volatile=True), key("new"))
    assert payloads(path) == ['["said","a"]']


async def test_another_run_came_first(server: Server, publisher: Publisher, path: Path) -> None:
    """Two publishers that do not know of each other publish once."""
    both = [publisher.publish(messages("a"), key()), Publisher(server.sio).publish(messages("a"), key())]
    first, second = await asyncio.gather(*both)
    assert first == second and payloads(path) == ['["said","a"]']


async def test_volatile_event(publisher: Publisher, path: Path) -> None:
    """A volatile event is not stored and has no offset."""
    assert await publisher.publish(messages("a", is_volatile=True)) == [None]
    assert payloads(path) == []


@pytest.fixture
async def forgetful() -> AsyncIterator[AsyncServer]:
    sio = AsyncServer(None, async_mode="aiohttp")
    await sio.start()
    yield sio
    await sio.shutdown()


async def test_without_recovery(forgetful: AsyncServer) -> None:
    """Without recovery there are no offsets, and an idempotency key is refused."""
    publisher = Publisher(forgetful)
    assert await publisher.publish(messages("a", "b")) == [None, None]
    with pytest.raises(KeyRefused, match="recovery is disabled"):
        await publisher.publish(messages("a"), key())
