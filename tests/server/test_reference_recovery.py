"""The recovery tests of the reference, in bare polling requests.

They are the tests of socketio/socket.io, ``connection-state-recovery.ts``, in meaning. One fact is
different on purpose: CONNECT comes first, then the missed events (a client keeps events from before
CONNECT, so a replay that breaks off would be delivered twice). The tests of disabled recovery are
in ``test_disabled.py``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.clients import sequence_of
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


async def test_session_and_missed_events_are_restored(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """The session and its missed events are restored after CONNECT, in order."""
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
        sequences = [sequence_of(event[-1]) for event in missed]
        assert sorted(set(sequences)) == sequences and sequences[0] > sequence_of(first)

        # The session is live again after the missed events.
        live = await control.call("publish", {"name": "hello4"})
        assert await again.event() == ["hello4", live]


async def test_received_events_are_not_sent_again(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Events that were received before the disconnection are not sent again."""
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        offsets = await control.call("publish_many", {"name": "hello", "count": 5})
        for offset in offsets:
            assert (await client.event())[-1] == offset
        await client.close()

        # The offset of the client shows its progress; here it lost the last two events on the way.
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


async def test_connect_handlers_are_called_on_recovery(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """Connect handlers are called on recovery by default."""
    with ServerProcess(tmp_path) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        again = RawPolling(http, server.url)
        await again.connect(auth={"pid": session["pid"]})

        records = await control.call("seen", {"sid": session["sid"]})
        assert names(records) == ["connect", "disconnect", "connect"]
        assert [records[0]["recovered"], records[2]["recovered"]] == [False, True]
        # The handler receives auth without pid and offset; an auth of only these becomes None.
        assert [records[0]["auth"], records[2]["auth"]] == [None, None]


async def test_skip_middlewares_skips_connect_handlers(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """With ``skip_middlewares`` connect handlers are not called on recovery."""
    with ServerProcess(tmp_path, {"connection_state_recovery": {"skip_middlewares": True}}) as server:
        control = await controlling(http, server)
        client, session = await opened(http, server)
        await client.close()
        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"], "refuse": "nobody asks"}) == session
        assert await again.call("whoami", namespace="/") == {"sid": session["sid"], "recovered": True}
        assert names(await control.call("seen", {"sid": session["sid"]})) == ["connect", "disconnect"]


async def test_refused_recovery_leaks_nothing(tmp_path: Path, http: aiohttp.ClientSession) -> None:
    """A refused recovery leaks nothing and leaves the session as it was."""
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
async def test_unknown_pid_gets_a_new_session(
    tmp_path: Path, http: aiohttp.ClientSession, offset: object
) -> None:
    """An unknown pid gets a new session."""
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
async def test_foreign_offset_gets_a_new_session(
    tmp_path: Path, http: aiohttp.ClientSession, offset: object
) -> None:
    """An offset that is not of this log gets a new session."""
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
