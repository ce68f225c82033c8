"""Offsets that this log never gave out, or gave out in a future that is lost: refused, and said so."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import aiohttp
import pytest

from support.clients import NodeClients
from support.polling import RawPolling
from support.processes import ServerProcess
from support.storing import put_back


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


GARBAGE = {
    "empty": "",
    "no dot": "garbage",
    "no number": "{boot}.",
    "no boot": ".1",
    "a negative number": "{boot}.-1",
    "a leading zero": "{boot}.01",
    "a fraction": "{boot}.1.5",
    "beyond what JavaScript counts": "{boot}.9007199254740993",
    "other digits": "{boot}.١",
    "a line's end": "{boot}.1\n",
    "SQL": "{boot}.1' OR '1'='1",
}
FOREIGN = {
    "another log's": "AAAAAAAA.1",
    "of a number not yet reached": "{boot}.999999999",
    "of no number at all in it": "{boot}.9007199254740991",
}
NO_TEXT: dict[str, object] = {
    "a number": 12,
    "a list": ["a.1"],
    "an object": {"offset": 1},
    "true": True,
    "half a character": "\ud800.1",
    "very long": "a" * 100_000,
}


@pytest.mark.parametrize("kind", [*GARBAGE, *FOREIGN])
async def test_an_offset_that_is_not_of_this_log_gives_a_fresh_session_that_recovers(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, kind: str
) -> None:
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    sid, pid = session["sid"], session["pid"]
    offset = await control.call("publish", {"name": "seen", "to": sid})
    assert await client.event() == ["seen", offset]
    await client.close()
    missed = await control.call("publish", {"name": "missed", "to": sid})
    wrong = (GARBAGE | FOREIGN)[kind].replace("{boot}", offset.partition(".")[0])
    reason = "bad_offset" if kind in GARBAGE else "rolled_back"
    before = server.log.count(f": {reason}\n")

    lost = RawPolling(http, server.url)
    fresh = await lost.connect(auth={"pid": pid, "offset": wrong})
    assert fresh["sid"] != sid and fresh["pid"] != pid
    assert server.log.count(f": {reason}\n") == before + 1
    await lost.close()
    # Having received nothing, the official client goes on sending the offset of its former session.
    live = await control.call("publish", {"name": "missed afresh", "to": fresh["sid"]})
    once_more = RawPolling(http, server.url)
    assert await once_more.connect(auth={"pid": fresh["pid"], "offset": wrong}) == fresh
    assert await once_more.event() == ["missed afresh", live]
    await once_more.close()
    once_more = RawPolling(http, server.url)
    assert await once_more.connect(auth={"pid": fresh["pid"], "offset": live}) == fresh

    # The attempt that failed has not consumed the session that it was about.
    owner = RawPolling(http, server.url)
    assert await owner.connect(auth={"pid": pid, "offset": offset}) == session
    assert await owner.event() == ["missed", missed]


@pytest.mark.parametrize("kind", list(NO_TEXT))
async def test_an_offset_that_is_no_text_gives_a_fresh_session(
    server: ServerProcess, http: aiohttp.ClientSession, kind: str
) -> None:
    client = RawPolling(http, server.url)
    session = await client.connect()
    await client.close()
    lost = RawPolling(http, server.url)
    fresh = await lost.connect(auth={"pid": session["pid"], "offset": NO_TEXT[kind]})
    assert fresh["sid"] != session["sid"]
    owner = RawPolling(http, server.url)
    assert await owner.connect(auth={"pid": session["pid"]}) == session


async def test_the_official_client_with_a_foreign_offset_starts_anew_and_is_well_afterwards(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    first = await client.connected()
    await client.cut()
    await client.connect(offset="AAAAAAAA.17")
    second = await client.reconnected()
    assert not second.recovered and second.sid != first.sid
    for number in range(3):
        await client.cut()
        await control.call("publish", {"name": "missed", "to": second.sid})
        # As long as the application keeps the foreign offset in its auth; then the client's own.
        await client.connect(**({"offset": "AAAAAAAA.17"} if number == 0 else {"some": "auth"}))
        await client.recovered_again()
        await client.received("missed", number + 1)
    assert [event.name for event in client.events] == ["missed"] * 3


async def test_a_client_that_keeps_the_offset_of_its_former_session_recovers_the_new_one(
    server: ServerProcess, node: NodeClients
) -> None:
    control = await node.control(server.url)
    client = await node.client(server.url, reconnection=False)
    first = await client.connected()
    await control.call("publish", {"name": "seen", "to": first.sid})
    await client.received("seen")
    await client.cut()
    await control.call("revoke", {"sid": first.sid})
    await control.call("publish", {"name": "between two sessions"})
    await client.connect()
    second = await client.reconnected()
    assert not second.recovered
    former = await client.last_offset()
    for crash in (False, True):
        await client.cut()
        if crash:
            await asyncio.to_thread(server.restart)
            await control.reconnected()
        assert await client.last_offset() == former
        await client.connect()
        await client.recovered_again()
    await client.cut()
    await control.call("publish", {"name": "missed", "to": second.sid})
    await client.connect()
    await client.recovered_again()
    await client.received("missed")
    assert [event.name for event in client.events] == ["seen", "missed"]


def copy_while_it_runs(database: Path, copy: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))


@pytest.mark.parametrize("later_starts", [0, 2], ids=["same start", "later start"])
async def test_an_older_copy_put_back_is_told_apart_from_the_future_that_was_lost(
    tmp_path: Path, node: NodeClients, http: aiohttp.ClientSession, later_starts: int
) -> None:
    copy = tmp_path / "copy.db"
    with ServerProcess(tmp_path) as server:
        control = await node.control(server.url)
        client = await node.client(server.url, reconnection=False)
        quiet = await node.client(server.url, reconnection=False)
        first, first_quiet = await client.connected(), await quiet.connected()
        await control.call("publish", {"name": "before"})
        for one in (client, quiet):
            await one.received("before")
        copy_while_it_runs(server.database, copy)
        await quiet.cut()

        for _ in range(later_starts):
            await asyncio.to_thread(server.terminate)
            await asyncio.to_thread(server.start)
            await control.reconnected()
            await client.gone()
            await client.connect()
            await client.recovered_again()
        lost = [await control.call("publish", {"name": "lost future"}) for _ in range(5)]
        await client.received("lost future", 5)
        # This one came after the copy was made: its session is not in it.
        late = await node.client(server.url, reconnection=False)
        late_first = await late.connected()
        await asyncio.to_thread(server.terminate)
        put_back(copy, server.database)
        await asyncio.to_thread(server.start)

        for one in (control, client, late):
            await one.gone()
        await control.reconnected()
        # As long as the new log, so that numbers alone could not tell.
        for _ in range(10):
            await control.call("publish", {"name": "another future"})
        await client.connect()
        second = await client.reconnected()
        assert not second.recovered and second.sid != first.sid and second.pid != first.pid
        assert f": {'rolled_back'}\n" in server.log
        await late.connect()
        assert not (late_second := await late.reconnected()).recovered
        assert late_second.sid != late_first.sid
        assert ": unknown_session\n" in server.log
        # Who has seen nothing of the lost future lacks nothing.
        await quiet.connect()
        assert (await quiet.recovered_again()).sid == first_quiet.sid
        await quiet.received("another future", 10)

        # The fresh sessions received nothing yet, and their clients still send what they sent.
        assert await client.last_offset() == lost[-1]
        for one in (client, late):
            await one.cut()
            await one.connect()
            await one.recovered_again()
            await one.cut()
        offset = await control.call("publish", {"name": "missed"})
        assert offset not in lost
        for one in (client, late):
            await one.connect()
            await one.recovered_again()
            assert (await one.received("missed"))[-1].offset == offset
        assert [event.name for event in client.events] == ["before", *["lost future"] * 5, "missed"]
        assert [event.name for event in quiet.events] == ["before", *["another future"] * 10, "missed"]

        # On the wire: the lost future's offset with the new session's own private id, and nothing leaks.
        raw = RawPolling(http, server.url)
        fresh = await raw.connect(auth={"pid": first.pid, "offset": lost[-1]})
        assert fresh["sid"] not in (first.sid, second.sid)
        offset = await control.call("publish", {"name": "end"})
        assert await raw.packet() == f'42["end","{offset}"]'
