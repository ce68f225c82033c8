"""What the reference's own recovery tests demand, in bare polling requests.

They are the tests of socketio/socket.io, ``connection-state-recovery.ts``, in meaning. One thing is
different on purpose: CONNECT comes first, then the missed events (a client keeps what comes before
CONNECT, so a replay that breaks off would be delivered twice). What holds when recovery is disabled
is in ``test_disabled.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.clients import number_of
from support.polling import RawPolling
from support.processes import ServerProcess


async def opened(http: aiohttp.ClientSession, server: ServerProcess) -> tuple[RawPolling, dict[str, Any]]:
    client = RawPolling(http, server.url)
    return client, await client.connect()


async def controlling(http: aiohttp.ClientSession, server: ServerProcess) -> RawPolling:
    control = RawPolling(http, server.url)
    await control.connect("/control")
    return control


def names(records: list[dict[str, Any]]) -> list[str]:
    return [record["what"] for record in records]


async def test_session_and_missed_packets_are_restored_after_connect_in_order(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        assert session["sid"] and session["pid"] and session["sid"] != session["pid"]
        assert await client.call("join", "room1", namespace="/") == "joined"
        first = await control.call("publish", {"name": "hello"})
        assert await client.event() == ["hello", first]

        await client.close()
        missed = [
            ["hello1", await control.call("publish", {"name": "hello1"})],
            ["hello2", await control.call("publish", {"name": "hello2", "to": "room1"})],
            ["hello3", 3, await control.call("publish", {"name": "hello3", "data": 3, "to": session["sid"]})],
        ]
        await control.call("publish", {"name": "not for this client", "to": "room2"})

        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"], "offset": first}) == session
        assert [await again.event() for _ in missed] == missed
        numbers = [number_of(event[-1]) for event in missed]
        assert sorted(set(numbers)) == numbers and numbers[0] > number_of(first)

        # The session is live again, at the end of what it missed.
        live = await control.call("publish", {"name": "hello4"})
        assert await again.event() == ["hello4", live]


async def test_what_was_received_before_the_connection_broke_is_not_sent_again(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        offsets = await control.call("publish_many", {"name": "hello", "count": 5})
        for offset in offsets:
            assert (await client.event())[-1] == offset
        await client.close()

        # The client says itself how far it came; here it lost the last two on its way.
        again = RawPolling(http, server.url)
        await again.connect(auth={"pid": session["pid"], "offset": offsets[2]})
        assert await again.event() == ["hello", 3, offsets[3]]
        assert await again.event() == ["hello", 4, offsets[4]]
        last = await control.call("publish", {"name": "last"})
        assert await again.event() == ["last", last]


async def test_rooms_and_data_are_restored(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with ServerProcess(tmp_path) as server:
        client, session = await opened(http, server)
        for room in ("room1", "room2", "room3"):
            await client.call("join", room, namespace="/")
        await client.call("leave", "room2", namespace="/")
        await client.call("save", {"foo": "bar", "nested": {"numbers": [1, 2.5, None]}}, namespace="/")
        assert await client.call("whoami", namespace="/") == {"sid": session["sid"], "recovered": False}
        await client.close()

        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"]}) == session
        assert await again.call("whoami", namespace="/") == {"sid": session["sid"], "recovered": True}
        assert await again.call("rooms", namespace="/") == sorted(["room1", "room3", session["sid"]])
        assert await again.call("load", namespace="/") == {
            "foo": "bar",
            "nested": {"numbers": [1, 2.5, None]},
        }


async def test_connect_handlers_are_called_upon_recovery_by_default(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        again = RawPolling(http, server.url)
        await again.connect(auth={"pid": session["pid"]})

        records = await control.call("seen", {"sid": session["sid"]})
        assert names(records) == ["connect", "disconnect", "connect"]
        assert [records[0]["recovered"], records[2]["recovered"]] == [False, True]
        # What the client adds for recovery is not the handler's business, and no auth stays no auth.
        assert [records[0]["auth"], records[2]["auth"]] == [None, None]


async def test_connect_handlers_are_not_called_upon_recovery_with_skip_middlewares(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with ServerProcess(tmp_path, {"connection_state_recovery": {"skip_middlewares": True}}) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"], "refuse": "nobody asks"}) == session
        assert await again.call("whoami", namespace="/") == {"sid": session["sid"], "recovered": True}
        assert names(await control.call("seen", {"sid": session["sid"]})) == ["connect", "disconnect"]


async def test_a_refused_recovery_leaks_nothing_and_leaves_the_session_as_it_was(
    tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        missed = await control.call("publish", {"name": "missed"})

        intruder = RawPolling(http, server.url)
        await intruder.open()
        await intruder.post(f'40{{"pid":"{session["pid"]}","refuse":"no"}}')
        packet = await intruder.packet()
        refusal = {"message": "refused by the test", "data": {"reason": "no"}}
        assert packet[:2] == "44" and json.loads(packet[2:]) == refusal

        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"]}) == session
        assert await again.event() == ["missed", missed]


@pytest.mark.parametrize("offset", ["foo", "", "1", "0123456789abcdef.1", 7, None])
async def test_an_unknown_session_gets_a_fresh_one(
    tmp_path: Path, http: aiohttp.ClientSession, offset: object
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        await control.call("publish", {"name": "past"})
        client = RawPolling(http, server.url)
        session = await client.connect(auth={"pid": "foo", "offset": offset})
        assert session["sid"] and session["pid"] not in ("foo", session["sid"])
        assert await client.call("whoami", namespace="/") == {"sid": session["sid"], "recovered": False}
        offset = await control.call("publish", {"name": "future"})
        assert await client.event() == ["future", offset]


@pytest.mark.parametrize("offset", ["foo", "", "0123456789abcdef.1", 7])
async def test_an_offset_that_is_not_of_this_log_gets_a_fresh_session(
    tmp_path: Path, http: aiohttp.ClientSession, offset: object
) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        await control.call("publish", {"name": "missed"})

        again = RawPolling(http, server.url)
        fresh = await again.connect(auth={"pid": session["pid"], "offset": offset})
        assert fresh["sid"] != session["sid"] and fresh["pid"] != session["pid"]
        live = await control.call("publish", {"name": "live"})
        assert await again.event() == ["live", live]


async def test_a_pid_opens_only_its_own_namespace(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        await control.call("publish", {"name": "secret", "to": session["sid"]})

        elsewhere = RawPolling(http, server.url)
        other = await elsewhere.connect("/other", auth={"pid": session["pid"]})
        assert other["sid"] != session["sid"] and other["pid"] != session["pid"]
        live = await control.call("publish", {"name": "live", "namespace": "/other"})
        assert await elsewhere.event("/other") == ["live", live]

        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"]}) == session
