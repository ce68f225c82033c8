"""The limits for one address, one client and one identity."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from socketio_eventstore.core.sessions import State
from socketio_eventstore.transport.rate_limits import TokenBucket
from support.clients import NodeClients
from support.embedded import Server, Socket, answering_pings, away, serving, until
from support.processes import HOST
from support.tokens import authentication, token_of

QUERY = {"EIO": "4", "transport": "websocket"}
PROXY = [HOST]


async def from_address(server: Server, address: str) -> Socket:
    """A WebSocket of a client that a proxy names."""
    socket = await server.open_socket(QUERY, {"X-Forwarded-For": f"198.51.100.1, {address}"})
    await socket.content("0")
    return socket


async def status_of(server: Server, address: str) -> tuple[int, str | None]:
    query = {"EIO": "4", "transport": "polling"}
    headers = {"X-Forwarded-For": address}
    async with server.http.get(server.url, params=query, headers=headers) as response:
        return response.status, response.headers.get("Retry-After")


async def code_of(socket: Socket, packet: str = "40") -> str:
    """The code of the CONNECT_ERROR."""
    await socket.send(packet)
    answer = await socket.packet()
    assert isinstance(answer, str) and answer.startswith("44"), answer
    code: str = json.loads(answer[answer.index("{") :])["data"]["code"]
    return code


async def test_handshakes_of_one_address(path: Path) -> None:
    """An address may have so many handshakes without a namespace; one that is done makes room."""
    recovery = {"handshakes_per_address": 2, "trusted_proxies": PROXY}
    async with serving(path, recovery=recovery) as server:
        first, second = [await from_address(server, "203.0.113.7") for _ in range(2)]
        assert await status_of(server, "203.0.113.7") == (429, "5")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await from_address(server, "203.0.113.7")
        assert refused.value.status == 429
        await from_address(server, "203.0.113.8")
        await first.connect()
        third = await from_address(server, "203.0.113.7")
        await second.leave()
        await until(lambda: len(server.engine.sockets) == 3)
        await from_address(server, "203.0.113.7")
        await third.leave()
        assert server.engine.refused_handshakes == {"handshakes_per_address": 2}
        for _ in range(3):  # a client of the machine itself is exempt
            await server.socket()
    await until(lambda: not server.engine.address_limits._counts)


async def test_connections_of_one_address(path: Path) -> None:
    """Beyond the limit a new client is refused and closed; a client with a valid private id passes."""
    recovery = {"connections_per_address": 2, "trusted_proxies": PROXY}
    async with serving(path, recovery=recovery) as server:
        first, second = [await from_address(server, "2001:db8::1"), await from_address(server, "2001:db8::2")]
        answer = await first.connect()
        await second.connect()
        third = await from_address(server, "2001:db8::3")  # of the same network
        assert await code_of(third) == "connections_per_address"
        assert await third.rest() == []
        await (await from_address(server, "2001:db8:0:1::1")).connect()
        await away(server, first)
        other = await from_address(server, "2001:db8::1")
        await other.connect()
        back = await from_address(server, "2001:db8::1")
        assert (await back.connect(auth={"pid": answer["pid"]}))["sid"] == answer["sid"]
        stranger = await from_address(server, "2001:db8::1")
        assert await code_of(stranger, '40{"pid":"invented"}') == "connections_per_address"
        assert server.sio.clients.refused == {"connections_per_address": 2}
    await until(lambda: not server.engine.address_limits._counts)


async def test_namespaces_of_one_connection(path: Path) -> None:
    """A connection may join so many namespaces; a namespace that is left makes room."""
    async with serving(path, recovery={"namespaces_per_connection": 2}, namespaces="*") as server:
        socket = await server.client()
        await socket.connect("/b")
        assert await code_of(socket, "40/c,") == "namespaces_per_connection"
        await socket.send("41/b,")
        await socket.connect("/c")
        assert server.sio.clients.refused == {"namespaces_per_connection": 1}


async def test_sessions_of_one_identity(path: Path) -> None:
    """The session that is away for the longest time makes room; when all are connected, there is none."""

    def register(sio: Any) -> None:
        sio.authentication = authentication()

    async with serving(path, recovery={"sessions_per_identity": 2}, register=register) as server:
        auth = {"token": token_of()}
        first, second = await server.client(auth), await server.client(auth)
        sockets = [await server.socket() for _ in range(5)]
        async with answering_pings(first, second):
            codes = await asyncio.gather(*(code_of(socket, f"40{json.dumps(auth)}") for socket in sockets))
        assert codes == ["sessions_per_identity"] * 5
        await server.client({"token": token_of("bob")})
        await away(server, first)
        await away(server, second)
        third = await server.client(auth)
        registry = (await server.manager.start()).registry
        left = registry.of_identity("https://issuer.example ann")
        assert [session.sid for session in left] == [second.sid, third.sid]
        assert registry.get("/", first.sid) is None
        assert server.sio.clients.refused == {"sessions_per_identity": 5}


async def test_sessions_that_handlers_bind(path: Path) -> None:
    """``bind`` refuses the client beyond the limit, and may be called again for the same session."""

    def register(sio: Any) -> None:
        async def connect(sid: str, environ: Any, auth: Any) -> None:
            await sio.bind(sid, "ann")

        sio.on("connect", connect)

    async with serving(path, recovery={"sessions_per_identity": 1}, register=register) as server:
        client = await server.client()
        await server.sio.bind(client.sid, "ann")
        async with answering_pings(client):
            assert await code_of(await server.socket()) == "sessions_per_identity"
        await server.sio.disconnect(client.sid)
        await server.client()


def test_a_bucket_lets_a_burst_pass() -> None:
    """A quiet client may send two seconds' worth at once; then as much as comes in."""
    bucket = TokenBucket(10.0, 1.0, now=0.0)
    assert [bucket.take(1, 0.0) for _ in range(19)] == [0.0] * 19
    assert bucket.take(1, 0.0) == pytest.approx(0.0001)
    assert bucket.take(10, 0.0) == pytest.approx(1.0001)
    assert bucket.take(1, 2.0) == 0.0 and not bucket.is_half_full
    assert bucket.take(0, 60.0) == 0.0 and bucket.is_half_full


@pytest.mark.parametrize("limit", [{"events_per_second": 100.0}, {"bytes_per_second": 1_500.0}], ids=str)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
async def test_a_client_is_held_back(path: Path, limit: dict[str, float], transport: str) -> None:
    """A client that sends a burst is read more slowly: each event is handled, in order, and acknowledged."""
    seen: list[int] = []

    def register(sio: Any) -> None:
        async def count(sid: str, number: int) -> int:
            seen.append(number)
            return number

        sio.on("count", count)

    async with serving(path, recovery=limit, register=register) as server:
        packets = [f'42{number}["count",{number}]' for number in range(300)]
        if transport == "websocket":
            client = await server.client()
            await asyncio.gather(*(client.send(packet) for packet in packets))  # in one round of the loop
            received = [await client.packet() for _ in packets]
            assert received == [f"43{number}[{number}]" for number in range(300)]
        else:
            polling = await server.polling()
            await polling.connect()
            await polling.send(*packets)
        assert seen == list(range(300))
        assert server.engine.rate_limits.pauses > 0
        assert not server.engine.refused_handshakes


async def test_a_client_that_goes_on_is_cut_off(path: Path) -> None:
    """A client that goes on above the limit loses its transport, with all acknowledgements before it."""
    handled = Counter[str]()

    def register(sio: Any) -> None:
        async def count(sid: str) -> str:
            handled["events"] += 1
            return "done"

        sio.on("count", count)

    limit = {"events_per_second": 50.0}
    async with serving(path, recovery=limit, register=register, ping_timeout=1) as server:
        client = await server.client()
        for number in range(1000):
            await client.send(f'42{number}["count"]')
        acknowledged = await client.rest()
        assert 100 <= len(acknowledged) == handled["events"] < 300
        assert acknowledged == [f'43{number}["done"]' for number in range(len(acknowledged))]
        assert server.engine.refused_handshakes == {"events_per_second": 1}
        session = (await server.manager.start()).registry.get("/", client.sid)
        assert session is not None and session.state is State.AWAY


async def test_official_clients_meet_the_limits(path: Path, node: NodeClients) -> None:
    """After 429 an official client comes back by itself; after CONNECT_ERROR it knows the reason."""

    def register(sio: Any) -> None:
        async def count(sid: str, number: int) -> int:
            return number

        sio.on("count", count)

    recovery: dict[str, Any] = {
        "handshakes_per_address": 1,
        "connections_per_address": 1,
        "events_per_second": 10.0,
        "trusted_proxies": PROXY,
    }
    options: dict[str, Any] = {
        "extraHeaders": {"X-Forwarded-For": "203.0.113.7"},
        "reconnectionDelay": 50,
        "transports": ("polling",),
    }
    async with serving(path, recovery=recovery, register=register) as server:
        url = server.url.removesuffix("/socket.io/")
        pending = await from_address(server, "203.0.113.7")
        client = await node.client(url, **options)
        assert (await client.refused())["message"] == "xhr poll error"
        assert server.engine.refused_handshakes["handshakes_per_address"] > 0
        await pending.leave()
        first = await client.connected()
        second = await node.client(url, **options)
        assert (await second.refused())["data"] == {"code": "connections_per_address"}
        calls = (client.call("count", number) for number in range(50))  # many more than a slow machine makes
        assert await asyncio.gather(*calls) == list(range(50))
        assert server.engine.rate_limits.pauses > 0
        await client.cut()
        assert (await client.recovered_again()).sid == first.sid
