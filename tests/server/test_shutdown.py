"""A server that is asked to end does so in time, and its clients recover afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import aiohttp
import pytest

from support.clients import NodeClients, NotAnswered, sequence_of
from support.polling import RawPolling
from support.processes import ServerProcess, Termination
from support.proxies import Stranding

GRACE = 5.0
SLACK = 15.0
"""For machines under load."""
CONFIG = {"server": {"shutdown_grace": GRACE}}
SIGNALS = [signal.SIGTERM, signal.SIGINT]


async def ends_well(server: ServerProcess, by: signal.Signals) -> None:
    ended: Termination = await asyncio.to_thread(server.terminate, by)
    assert ended.code == (130 if by is signal.SIGINT else 0), server.log
    assert ended.duration < GRACE + SLACK
    assert "Traceback" not in server.log, server.log


@pytest.mark.parametrize("by", SIGNALS)
async def test_shutdown_sends_no_disconnect(tmp_path: Path, node: NodeClients, by: signal.Signals) -> None:
    """Open WebSockets and polls end without a DISCONNECT, and their clients recover."""
    with ServerProcess(tmp_path, CONFIG) as server:
        websockets = [await node.client(server.url) for _ in range(3)]
        upgraded = await node.client(server.url, transports=("polling", "websocket"))
        polling = await node.client(server.url, transports=("polling",))
        other = await node.client(server.url, "/other", beside=websockets[0])
        clients = [*websockets, upgraded, polling, other]
        for client in clients:
            await client.connected()
        await upgraded.upgraded()

        await ends_well(server, by)
        for client in (*websockets, upgraded, other):
            assert await client.gone() == "transport close"
        assert await polling.gone() in ("transport close", "transport error")

        await asyncio.to_thread(server.start)
        for client in clients:
            await client.recovered_again()
        await websockets[0].call("say", "hello")
        for client in (*websockets, upgraded, polling):
            assert (await client.received("said"))[0].data == ["hello"]
        await ends_well(server, by)


@pytest.mark.parametrize("by", SIGNALS)
async def test_pending_poll_ends_without_a_disconnect(
    tmp_path: Path, http: aiohttp.ClientSession, by: signal.Signals
) -> None:
    """A pending poll is answered without a DISCONNECT packet."""
    with ServerProcess(tmp_path, CONFIG) as server:
        client = RawPolling(http, server.url)
        session = await client.connect()
        poll = asyncio.create_task(client.poll())
        # The answer to this request shows that the poll before it has arrived.
        witness = RawPolling(http, server.url)
        await witness.connect("/control")

        await ends_well(server, by)
        # The poll may be answered or fail, but it has no packet that ends the session.
        with contextlib.suppress(aiohttp.ClientError, NotAnswered):
            assert not [packet for packet in await poll if packet.startswith("4")]

        await asyncio.to_thread(server.start)
        again = RawPolling(http, server.url)
        assert await again.connect(auth={"pid": session["pid"]}) == session
        server.terminate()


async def test_lost_network_does_not_delay_the_shutdown(tmp_path: Path, node: NodeClients) -> None:
    """A client whose network is lost does not delay the shutdown."""
    config = {"server": {"shutdown_grace": GRACE, "ping_interval": 25.0, "ping_timeout": 20.0}}
    with ServerProcess(tmp_path, config) as server:
        async with Stranding(server.port) as proxy:
            for transports in (("websocket",), ("polling",)):
                client = await node.client(proxy.url, transports=transports, reconnection=False)
                await client.connected()
            await proxy.strand()
            await ends_well(server, signal.SIGTERM)


async def test_acknowledged_events_survive_the_shutdown(tmp_path: Path, node: NodeClients) -> None:
    """Events that were acknowledged before the shutdown are received after it."""
    with ServerProcess(tmp_path, CONFIG) as server:
        client = await node.client(server.url)
        await client.connected()
        publisher = await node.control(server.url)
        await publisher.pump("publish", {"name": "numbered"}, window=16)
        await publisher.has_acknowledged(200)
        await ends_well(server, signal.SIGTERM)
        await client.gone()
        await publisher.gone()
        await publisher.stop()
        await asyncio.to_thread(server.start)
        await client.recovered_again()
        await publisher.recovered_again()
        await publisher.call("publish", {"name": "last"})
        await client.received("last")
        received = {event.data[0]["number"]: event.offset for event in client.by_name["numbered"]}
        assert len(received) == len(client.by_name["numbered"])
        assert publisher.acknowledged.items() <= received.items()
        sequences = [sequence_of(offset) for offset in received.values()]
        assert sequences == sorted(sequences)
