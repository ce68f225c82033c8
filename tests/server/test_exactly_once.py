"""Client events with an idempotency key are handled once, and repeats get the same acknowledgement."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import Iterator

import aiohttp
import pytest

from support.clients import Client, NodeClients, NotAnswered
from support.keyed import TUTORIAL, logged, marker, serving_keyed_events
from support.polling import RawPolling
from support.processes import ServerProcess
from support.proxies import OneWay


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with serving_keyed_events(tmp_path_factory.mktemp("server")) as server:
        yield server


async def test_tutorial_step_eight_sends_each_message_once(server: ServerProcess, node: NodeClients) -> None:
    """Step 8 of the tutorial sends each message once."""
    sender = await node.client(server.url, **TUTORIAL)
    other = await node.client(server.url)
    for client in (sender, other):
        await client.connected()
    answers = [
        await sender.call("chat message", f"message {number}", f"{sender.sid}-{number}")
        for number in range(5)
    ]
    texts = [f"message {number}" for number in range(5)]
    assert [answer["text"] for answer in answers] == texts
    assert len({answer["run"] for answer in answers}) == 5
    for client in (sender, other):
        events = await client.received("chat message", 5)
        assert [event.data for event in events] == [[text] for text in texts]
    assert [logged(server, text) for text in texts] == [1] * 5


async def test_crash_before_the_acknowledgement(server: ServerProcess, node: NodeClients) -> None:
    """A crash between the commit and the acknowledgement handles no message twice."""
    other = await node.client(server.url)
    await other.connected()
    async with OneWay(server.port) as proxy:
        sender = await node.client(proxy.url, **TUTORIAL)
        first = await sender.connected()
        for number in range(3):
            text = f"unacknowledged {number}"
            proxy.silence()
            sending = asyncio.create_task(sender.call("chat message", text, f"{first.sid}-{number}"))
            # The other client receives the message, so it is stored; the sender gets no acknowledgement.
            await other.received("chat message", number + 1)
            await asyncio.to_thread(server.kill)
            for client in (sender, other):
                await client.gone()
            await asyncio.to_thread(server.start)
            for client in (sender, other):
                await client.recovered_again()
            assert (await sending)["text"] == text
            await sender.received("chat message", number + 1)
            assert logged(server, text) == 1
        last = await other.call("say", "last")
        for client in (sender, other):
            assert (await client.received("said"))[-1].offset == last
            texts = [event.data[0] for event in client.by_name["chat message"]]
            assert texts == [f"unacknowledged {number}" for number in range(3)]


@pytest.mark.timeout(600)
async def test_crashes_at_random_moments(server: ServerProcess, node: NodeClients) -> None:
    """Crashes at random moments handle each message exactly once."""
    seed = int(os.environ.get("ONCE_SEED") or random.randrange(2**32))
    print(f"ONCE_SEED={seed}")
    chance = random.Random(seed)
    senders = [await node.client(server.url, retries=50, ackTimeout=10_000) for _ in range(3)]
    other = await node.client(server.url)
    for client in (*senders, other):
        await client.connected()
    answered: list[str] = []
    writing = True

    async def write(number: int, sender: Client) -> None:
        for count in itertools.count():
            if not writing:
                return
            text = f"{seed} {number} {count}"
            assert (await sender.call("chat message", text, text))["text"] == text
            answered.append(text)

    async with asyncio.TaskGroup() as tasks:
        for number, sender in enumerate(senders):
            tasks.create_task(write(number, sender))
        for _ in range(8):
            # At every message of this client some messages are handled and not acknowledged.
            await other.received("chat message", len(other.by_name["chat message"]) + chance.randrange(1, 40))
            await asyncio.to_thread(server.kill)
            for client in (*senders, other):
                await client.gone()
            await asyncio.to_thread(server.start)
            await other.recovered_again()
        writing = False
    last = await other.call("say", "last")
    for client in (*senders, other):
        assert (await client.received("said"))[-1].offset == last
        texts = [event.data[0] for event in client.by_name["chat message"]]
        assert sorted(texts) == sorted(answered)
    assert [logged(server, text) for text in answered] == [1] * len(answered)
    print(f"{len(answered)} messages")


async def test_repeat_gets_the_first_acknowledgement(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    """A repeat gets the first acknowledgement, and its handler is not called."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    answer = await client.call("deed", {"say": ["once"], "join": "room"}, "repeated", namespace="/")
    assert (await client.event())[:2] == ["said", "once"]
    for repeated in ({"say": ["once"], "join": "room"}, {"say": ["another wish"]}):
        assert await client.call("deed", repeated, "repeated", namespace="/") == answer
    expected = await marker(control, session["sid"])
    assert await client.packet() == expected
    # A repeat may come from the recovered session or from another one.
    await client.close()
    again = RawPolling(http, server.url)
    await again.connect(auth={"pid": session["pid"], "offset": expected.split('"')[3]})
    assert await again.call("deed", {}, "repeated", namespace="/") == answer
    another = RawPolling(http, server.url)
    await another.connect()
    await another.connect("/other")
    assert await another.call("deed", {}, "repeated", namespace="/") == answer
    # Another key, another event name and another namespace are no repeats.
    assert await again.call("deed", {}, "another key", namespace="/") != answer
    await again.call("chat message", "text", "repeated", namespace="/")
    assert (await again.event())[:2] == ["chat message", "text"]
    assert await another.call("deed", {"say": ["there"]}, "repeated", namespace="/other")
    assert (await another.event())[:2] == ["chat message", "text"]
    assert (await another.event("/other"))[:2] == ["said", "there"]
    assert logged(server, "once") == 1


async def test_keys_belong_to_an_identity(server: ServerProcess, node: NodeClients) -> None:
    """The idempotency keys of one identity are not those of another."""
    ann, again, bob = [
        await node.client(server.url, auth={"bind": identity}) for identity in ("ann", "ann", "bob")
    ]
    for client in (ann, again, bob):
        await client.connected()
    answer = await ann.call("deed", {}, "key of hers")
    assert await again.call("deed", {}, "key of hers") == answer
    assert await bob.call("deed", {}, "key of hers") != answer


async def test_a_repeat_during_the_first_run_waits_for_it(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect())["sid"]
    for ack_id in (100, 101):
        await client.post(f'42{ack_id}["deed",{{"gate":"first run","say":["held"]}},"held"]')
    await control.call("until_reached", {"gate": "first run"})
    await client.post('42102["deed",{},"held"]')
    # The marker comes first: nothing was emitted and nothing acknowledged before.
    expected = await marker(control, sid)
    assert await client.packet() == expected
    await control.call("open_gate", {"gate": "first run"})
    assert (await client.event())[:2] == ["said", "held"]
    acks = sorted([await client.packet() for _ in range(3)])
    assert [ack[:5] for ack in acks] == ["43100", "43101", "43102"]
    assert len({ack[5:] for ack in acks}) == 1
    assert logged(server, "held") == 1


async def test_recovered_client_gets_the_acknowledgement(server: ServerProcess, node: NodeClients) -> None:
    """A client that disconnects during the handler gets the acknowledgement on recovery."""
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False, **TUTORIAL)
    await client.connected()
    options = {"gate": "gone meanwhile", "say": ["handled while away"], "join": "entered while away"}
    sending = asyncio.create_task(client.call("deed", options, "gone meanwhile"))
    await control.call("until_reached", {"gate": "gone meanwhile"})
    await client.cut()
    await control.call("open_gate", {"gate": "gone meanwhile"})
    await client.connect()
    await client.recovered_again()
    assert set(await sending) == {"run"}
    await client.received("said")
    assert [event.data for event in client.events] == [["handled while away"]]
    assert "entered while away" in await client.call("rooms")
    assert logged(server, "handled while away") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        '{"say":["no key"]}',
        '{},""',
        "{},7",
        "{},null",
        '{},["list"]',
        '{},{"object":1}',
        '{},"%s"' % ("k" * 201),
    ],
    ids=["missing", "empty", "number", "null", "list", "object", "too long"],
)
async def test_event_with_an_invalid_key_is_not_handled(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, arguments: str
) -> None:
    """An event with an invalid key is not handled, and its connection stays open."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect())["sid"]
    await client.post(f'42300["deed",{arguments}]')
    await client.post('42301["deed"]')
    assert await client.call("whoami", namespace="/") == {"sid": sid, "recovered": False}
    expected = await marker(control, sid)
    assert await client.packet() == expected, "no acknowledgement, which would say that it was handled"
    assert "must be an idempotency key" in server.log  # a repeated failure is one line
    assert logged(server, "no key") == 0
    assert set(await client.call("deed", {}, f"after {len(arguments)} {sid}", namespace="/")) == {"run"}


async def test_event_without_a_key_times_out(server: ServerProcess, node: NodeClients) -> None:
    """The official client reports a timeout for an event without a key."""
    client = await node.client(server.url, retries=1, ackTimeout=2_000)
    await client.connected()
    with pytest.raises(NotAnswered, match="timed out"):
        await client.call("deed", {"say": ["without a key"]})
    assert (await client.call("chat message", "with a key", f"{client.sid}-1"))["text"] == "with a key"
    await client.received("chat message")
    assert [event.data for event in client.events] == [["with a key"]]
    assert logged(server, "without a key") == 0
