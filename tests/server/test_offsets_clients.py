"""Offsets that this log never gave out, or gave out in a lost future, are refused and logged."""

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
from support.scrapes import scrape
from support.storing import put_back


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("server")) as server:
        yield server


GARBAGE = {
    "empty": "",
    "no dot": "garbage",
    "no sequence": "{epoch}.",
    "no epoch": ".1",
    "a negative sequence": "{epoch}.-1",
    "a leading zero": "{epoch}.01",
    "a fraction": "{epoch}.1.5",
    "beyond what JavaScript counts": "{epoch}.9007199254740993",
    "other digits": "{epoch}.١",
    "a line's end": "{epoch}.1\n",
    "SQL": "{epoch}.1' OR '1'='1",
}
FOREIGN = {
    "another log's": "AAAAAAAA.1",
    "of a sequence not yet reached": "{epoch}.999999999",
    "of the largest sequence": "{epoch}.9007199254740991",
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
async def test_foreign_offset_gives_a_new_session(
    server: ServerProcess, node: NodeClients, http: aiohttp.ClientSession, kind: str
) -> None:
    """An offset that is not of this log gives a new session, which recovers."""
    control = await node.control(server.url)
    client = RawPolling(http, server.url)
    session = await client.connect()
    sid, pid = session["sid"], session["pid"]
    offset = await control.call("publish", {"name": "seen", "to": sid})
    assert await client.event() == ["seen", offset]
    await client.close()
    missed = await control.call("publish", {"name": "missed", "to": sid})
    wrong = (GARBAGE | FOREIGN)[kind].replace("{epoch}", offset.partition(".")[0])
    reason = "bad_offset" if kind in GARBAGE else "rolled_back"
    before = scrape(server.port).value("recoveries_total", result=reason)

    lost = RawPolling(http, server.url)
    fresh = await lost.connect(auth={"pid": pid, "offset": wrong})
    assert fresh["sid"] != sid and fresh["pid"] != pid
    assert scrape(server.port).value("recoveries_total", result=reason) == before + 1
    await lost.close()
    # Before its first event the official client goes on sending the offset of its former session.
    live = await control.call("publish", {"name": "missed afresh", "to": fresh["sid"]})
    once_more = RawPolling(http, server.url)
    assert await once_more.connect(auth={"pid": fresh["pid"], "offset": wrong}) == fresh
    assert await once_more.event() == ["missed afresh", live]
    await once_more.close()
    once_more = RawPolling(http, server.url)
    assert await once_more.connect(auth={"pid": fresh["pid"], "offset": live}) == fresh

    # The attempt that failed has not consumed the session of its pid.
    owner = RawPolling(http, server.url)
    assert await owner.connect(auth={"pid": pid, "offset": offset}) == session
    assert await owner.event() == ["missed", missed]


@pytest.mark.parametrize("kind", list(NO_TEXT))
async def test_offset_of_another_type_gives_a_new_session(
    server: ServerProcess, http: aiohttp.ClientSession, kind: str
) -> None:
    """An offset of another type gives a new session."""
    client = RawPolling(http, server.url)
    session = await client.connect()
    await client.close()
    lost = RawPolling(http, server.url)
    fresh = await lost.connect(auth={"pid": session["pid"], "offset": NO_TEXT[kind]})
    assert fresh["sid"] != session["sid"]
    owner = RawPolling(http, server.url)
    assert await owner.connect(auth={"pid": session["pid"]}) == session


async def test_official_client_with_a_foreign_offset(server: ServerProcess, node: NodeClients) -> None:
    """The official client with a foreign offset gets a new session, which recovers."""
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
        # First the foreign offset in the application's auth, then the client's own offset.
        await client.connect(**({"offset": "AAAAAAAA.17"} if number == 0 else {"some": "auth"}))
        await client.recovered_again()
        await client.received("missed", number + 1)
    assert [event.name for event in client.events] == ["missed"] * 3


async def test_offset_of_the_former_session_recovers(server: ServerProcess, node: NodeClients) -> None:
    """A client that keeps the offset of its former session recovers the new one."""
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
async def test_older_copy_refuses_offsets_of_lost_future(
    tmp_path: Path, node: NodeClients, http: aiohttp.ClientSession, later_starts: int
) -> None:
    """An older copy that is put back refuses the offsets of the lost future."""
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
        # This client connects after the copy was made, so the copy has no session for it.
        late = await node.client(server.url, reconnection=False)
        late_first = await late.connected()
        await asyncio.to_thread(server.terminate)
        put_back(copy, server.database)
        await asyncio.to_thread(server.start)

        for one in (control, client, late):
            await one.gone()
        await control.reconnected()
        # The new log gets as long as the lost one, so that sequences alone could not tell them apart.
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
        # A client that received no event of the lost future is recovered.
        await quiet.connect()
        assert (await quiet.recovered_again()).sid == first_quiet.sid
        await quiet.received("another future", 10)

        # The new sessions received no event, and their clients still send the former offsets.
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

        # On the wire: an offset of the lost future with the former pid leaks nothing.
        raw = RawPolling(http, server.url)
        fresh = await raw.connect(auth={"pid": first.pid, "offset": lost[-1]})
        assert fresh["sid"] not in (first.sid, second.sid)
        offset = await control.call("publish", {"name": "end"})
        assert await raw.packet() == f'42["end","{offset}"]'
