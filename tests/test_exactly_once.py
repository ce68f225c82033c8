"""Events of clients that carry an idempotency key: handled once, answered alike, or not handled at all."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Self

import aiohttp
import pytest
from clients import Client, NodeClients, NotAnswered, RawPolling
from processes import HOST, ServerProcess

TUTORIAL: dict[str, Any] = {"retries": 3, "ackTimeout": 10_000}
"""The client's options in step 8 of the tutorial."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    server = ServerProcess(tmp_path_factory.mktemp("server"))
    server.start()
    try:
        yield server
    finally:
        server.kill()
    # Handlers that fail are in the log with their traceback; nothing of ours may be.
    ends = (
        "\nhandlers_for_tests.FailedOnPurpose",
        "\nValueError: the last argument of",
        "\nTypeError: answer[",
    )
    assert server.log.count("Traceback") == sum(server.log.count(end) for end in ends), server.log


def rows(server: ServerProcess, query: str, *parameters: object) -> list[tuple[Any, ...]]:
    """What the database holds at this moment."""
    with closing(sqlite3.connect(server.database)) as connection:
        return connection.execute(query, parameters).fetchall()


def logged(server: ServerProcess, text: str) -> int:
    """How many events have this text as their only argument."""
    query = "SELECT count(*) FROM events WHERE json_extract(payload, '$[1]') = ?"
    return int(rows(server, query, text)[0][0])


class OneWay:
    """A TCP proxy that keeps what the server says to itself, from a word on."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._silent = False
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, HOST, 0)
        self.url = f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        for writer in self._writers:
            writer.close()

    def silence(self) -> None:
        """From here on clients hear nothing, on the connections that there are."""
        self._silent = True

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            server_reader, server_writer = await asyncio.open_connection(HOST, self._target)
        except ConnectionError:  # the server has ended
            writer.close()
            return
        self._silent = False
        self._writers += [writer, server_writer]
        for source, target, mute in ((reader, server_writer, False), (server_reader, writer, True)):
            self._pumps.add(asyncio.create_task(self._pump(source, target, mute)))

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, can_be_mute: bool
    ) -> None:
        try:
            while data := await source.read(65536):
                if not (can_be_mute and self._silent):
                    target.write(data)
                    await target.drain()
        except ConnectionError:
            pass  # the same as an end
        target.close()


async def marker(control: Client, sid: str, name: str = "marker") -> str:
    """Something that comes after what was sent before; returns its packet."""
    offset = await control.call("publish", {"name": name, "to": sid})
    return f'42["{name}","{offset}"]'


async def test_the_tutorials_step_eight_sends_each_message_once(
    server: ServerProcess, node: NodeClients
) -> None:
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


async def test_a_crash_between_the_handling_and_its_acknowledgement_handles_no_message_twice(
    server: ServerProcess, node: NodeClients
) -> None:
    other = await node.client(server.url)
    await other.connected()
    async with OneWay(server.port) as proxy:
        sender = await node.client(proxy.url, **TUTORIAL)
        first = await sender.connected()
        for number in range(3):
            text = f"unacknowledged {number}"
            proxy.silence()
            sending = asyncio.create_task(sender.call("chat message", text, f"{first.sid}-{number}"))
            # The others see it, so it was handled and stored; the sender will never hear of it.
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


@pytest.mark.timeout(240)
async def test_crashes_at_any_moment_handle_each_message_exactly_once(
    server: ServerProcess, node: NodeClients
) -> None:
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
            # Every message of the others is a moment at which some are handled and not acknowledged.
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


async def test_a_repeat_gets_the_first_answer_and_does_nothing(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    answer = await client.call("deed", {"say": ["once"], "join": "room"}, "repeated", namespace="/")
    assert (await client.event())[:2] == ["said", "once"]
    for repeated in ({"say": ["once"], "join": "room"}, {"say": ["another wish"]}):
        assert await client.call("deed", repeated, "repeated", namespace="/") == answer
    expected = await marker(control, session["sid"])
    assert await client.packet() == expected
    # Whatever carries the repeat: the session after a reconnection, or another one.
    await client.close()
    again = RawPolling(http, server.url)
    await again.connect(auth={"pid": session["pid"], "offset": expected.split('"')[3]})
    assert await again.call("deed", {}, "repeated", namespace="/") == answer
    another = RawPolling(http, server.url)
    await another.connect()
    await another.connect("/other")
    assert await another.call("deed", {}, "repeated", namespace="/") == answer
    # Another key, another event and another namespace are another matter.
    assert await again.call("deed", {}, "another key", namespace="/") != answer
    await again.call("chat message", "text", "repeated", namespace="/")
    assert (await again.event())[:2] == ["chat message", "text"]
    assert await another.call("deed", {"say": ["there"]}, "repeated", namespace="/other")
    assert (await another.event())[:2] == ["chat message", "text"]
    assert (await another.event("/other"))[:2] == ["said", "there"]
    assert logged(server, "once") == 1


async def test_the_keys_of_one_identity_are_not_those_of_another(
    server: ServerProcess, node: NodeClients
) -> None:
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
    # Nothing was said and nothing acknowledged: this comes first.
    expected = await marker(control, sid)
    assert await client.packet() == expected
    await control.call("open_gate", {"gate": "first run"})
    assert (await client.event())[:2] == ["said", "held"]
    acks = sorted([await client.packet() for _ in range(3)])
    assert [ack[:5] for ack in acks] == ["43100", "43101", "43102"]
    assert len({ack[5:] for ack in acks}) == 1
    assert logged(server, "held") == 1


async def test_a_client_that_goes_while_its_event_is_handled_gets_the_answer_when_it_returns(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False, **TUTORIAL)
    await client.connected()
    wishes = {"gate": "gone meanwhile", "say": ["handled while away"], "join": "entered while away"}
    sending = asyncio.create_task(client.call("deed", wishes, "gone meanwhile"))
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


async def test_an_exception_discards_emits_joins_and_saves_and_the_repeat_does_them(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect(auth={"rooms": ["kept"]}))["sid"]
    wishes = '"say":["discarded","as well"],"join":"room","leave":"kept","save":{"a":1}'
    await client.post(f'42200["deed",{{{wishes},"gate":"failing","fail":true}},"failing"]')
    await control.call("until_reached", {"gate": "failing"})
    await control.call("open_gate", {"gate": "failing"})
    await client.call("whoami", namespace="/")
    expected = await marker(control, sid)
    assert await client.packet() == expected
    assert await control.call("rooms", {"sid": sid}) == sorted(["kept", sid])
    assert await control.call("load", {"sid": sid}) == {}
    assert logged(server, "discarded") == 0
    assert rows(server, "SELECT key FROM answers WHERE key = 'failing'") == []

    assert set(await client.call("deed", {"say": ["in the end"]}, "failing", namespace="/")) == {"run"}
    assert (await client.event())[:2] == ["said", "in the end"]
    assert rows(server, "SELECT count(*) FROM answers WHERE key = 'failing'") == [(1,)]


async def test_an_exception_leaves_a_room_open_that_the_handler_has_closed(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, auth={"rooms": ["open"]})
    sid = (await client.connected()).sid
    await client.emit("deed", {"close": "open", "fail": True, "gate": "closing"}, "closing")
    await control.call("until_reached", {"gate": "closing"})
    assert await control.call("rooms", {"sid": sid}) == sorted(["open", sid])
    await control.call("open_gate", {"gate": "closing"})
    await client.call("whoami")
    assert await client.call("rooms") == sorted(["open", sid])
    await client.call("deed", {"close": "open"}, "closing")
    assert await client.call("rooms") == [sid]


async def test_a_handler_reads_what_it_has_saved_itself(server: ServerProcess, node: NodeClients) -> None:
    client = await node.client(server.url)
    await client.connected()
    await client.call("deed", {"count": 3}, "counting")
    await client.call("deed", {"count": 3}, "counting")
    assert await client.call("load") == {"count": 3}


async def test_handlers_that_run_at_the_same_time_lose_nothing_that_they_saved(
    server: ServerProcess, node: NodeClients
) -> None:
    client = await node.client(server.url)
    sid = (await client.connected()).sid
    async with asyncio.TaskGroup() as tasks:
        for number in range(10):
            tasks.create_task(client.call("deed", {"count": 1}, f"{sid}-{number}"))
    assert await client.call("load") == {"count": 10}


async def test_what_a_handler_asked_for_is_on_disk_with_its_key_when_it_is_acknowledged(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    sid = (await client.connected()).sid
    wishes = {"say": ["one", "two"], "join": "joined", "save": {"saved": True}}
    answer = await client.call("deed", wishes, "all of it")
    server.kill()
    await client.gone()
    await control.gone()
    await asyncio.to_thread(server.start)
    await control.reconnected()
    await control.call("publish", {"name": "missed", "to": "joined"})
    await client.connect()
    await client.recovered_again()
    await client.received("missed")
    assert [event.data for event in client.events] == [["one"], ["two"], []]
    assert await client.call("rooms") == sorted(["joined", sid])
    assert await client.call("load") == {"saved": True}
    assert await client.call("deed", wishes, "all of it") == answer
    assert len(client.by_name["said"]) == 2


async def test_a_crash_inside_the_handler_leaves_nothing_and_the_repeat_does_everything(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, **TUTORIAL)
    sid = (await client.connected()).sid
    wishes = {"gate": "crash", "say": ["survives the crash"], "join": "room", "save": {"saved": True}}
    sending = asyncio.create_task(client.call("deed", wishes, "crash"))
    await control.call("until_reached", {"gate": "crash"})
    server.kill()
    for one in (client, control):
        await one.gone()
    assert logged(server, "survives the crash") == 0
    assert rows(server, "SELECT room FROM rooms WHERE sid = ?", sid) == []
    await asyncio.to_thread(server.start)
    await control.reconnected()
    await client.recovered_again()
    await control.call("until_reached", {"gate": "crash"})
    await control.call("open_gate", {"gate": "crash"})
    assert set(await sending) == {"run"}
    await client.received("said")
    assert [event.data for event in client.events] == [["survives the crash"]]
    assert await client.call("rooms") == sorted(["room", sid])
    assert await client.call("load") == {"saved": True}


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
async def test_an_event_without_a_proper_key_is_not_handled_and_harms_nobody(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, arguments: str
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect())["sid"]
    complaints = server.log.count("must be an idempotency key")
    await client.post(f'42300["deed",{arguments}]')
    await client.post('42301["deed"]')
    assert await client.call("whoami", namespace="/") == {"sid": sid, "recovered": False}
    expected = await marker(control, sid)
    assert await client.packet() == expected, "no acknowledgement, which would say that it was handled"
    assert server.log.count("must be an idempotency key") > complaints
    assert logged(server, "no key") == 0
    assert set(await client.call("deed", {}, f"after {len(arguments)} {sid}", namespace="/")) == {"run"}


async def test_the_official_client_hears_that_an_event_without_a_key_was_not_handled(
    server: ServerProcess, node: NodeClients
) -> None:
    client = await node.client(server.url, retries=1, ackTimeout=200)
    await client.connected()
    with pytest.raises(NotAnswered, match="timed out"):
        await client.call("deed", {"say": ["without a key"]})
    assert (await client.call("chat message", "with a key", f"{client.sid}-1"))["text"] == "with a key"
    await client.received("chat message")
    assert [event.data for event in client.events] == [["with a key"]]
    assert logged(server, "without a key") == 0


async def test_an_answer_that_cannot_be_kept_discards_everything(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    sid = (await client.connect())["sid"]
    await client.post('42400["deed",{"unanswerable":true,"say":["unanswered"]},"unanswerable"]')
    await client.call("whoami", namespace="/")
    expected = await marker(control, sid)
    assert await client.packet() == expected
    assert logged(server, "unanswered") == 0
    assert set(await client.call("deed", {}, "unanswerable", namespace="/")) == {"run"}
