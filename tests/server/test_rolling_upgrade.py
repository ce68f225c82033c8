"""Servers of two versions beside each other on one database, while clients are there and events come."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

import pytest

from support import postgres
from support.clients import Client, NodeClients, sequence_of
from support.http_requests import ask
from support.next_version import NextVersion
from support.processes import DEADLINE, ServerProcess
from support.proxies import Balancer


@pytest.mark.timeout(180)
async def test_servers_are_upgraded_one_by_one(node: NodeClients, tmp_path: Path) -> None:
    """The old servers go on beside the new ones until they must not, and no client loses an event.

    They leave out the change that they may leave out, and stop at the one that they do not know: not ready,
    with a clear line, and their clients recover on the new servers.
    """
    config = {"store": {"url": postgres.new_url()}}
    following = NextVersion(tmp_path / "next")
    with ExitStack() as stack:
        old = [stack.enter_context(ServerProcess(_new(tmp_path / f"old{at}"), config)) for at in (1, 2)]
        new = stack.enter_context(following.server(_new(tmp_path / "new1"), config))  # it migrates
        one, other = old
        async with Balancer(one.port, new.port) as first, Balancer(other.port, new.port) as second:
            clients = [await node.client(balancer.url) for balancer in (first, second)]
            for client in clients:
                await client.connected()
            publisher = await node.control(new.url)
            await publisher.pump("publish", {"name": "numbered", "namespace": "/"}, window=4)
            await publisher.has_acknowledged(20)
            writer = await node.client(new.url)
            assert await writer.call("write", "Noted") == "Noted"
            await publisher.has_acknowledged(len(publisher.acknowledged) + 20)
            assert (await asyncio.to_thread(one.terminate)).code == 0
            await clients[0].recovered_again()
            # The old version joins beside the new one: the schema is newer, and not the format. The clients'
            # connections pass this process, which must not stand still.
            await asyncio.to_thread(one.start)
            assert not clients[1].disconnects, "the old server has left out what it may leave out"
            assert await writer.call("write", "Renamed") == "Renamed"
            assert await clients[1].gone() == "transport close"
            await second.turn_to(new.port)  # as a load balancer does, which asks for readiness
            await clients[1].recovered_again()
            await publisher.has_acknowledged(len(publisher.acknowledged) + 20)
            await publisher.stop()
            last = await publisher.call("publish", {"name": "last", "namespace": "/"})
            for client in clients:
                await _check(client, publisher, last)
        for server in old:
            await _until_it_says(server, "has format 2; this program knows 1")
            # Either the batch has stopped it, or before that the answer to a heartbeat: chance decides.
            assert "A newer version of this program writes the log" in server.log
            answer = ask(server.port, "/readyz", Host="localhost")
            assert answer.status == 503 and b"written by a newer version" in answer.body
            assert (await asyncio.to_thread(server.terminate)).code == 0


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def _check(client: Client, publisher: Client, last: str) -> None:
    """Compare what a client has received with what was published."""
    assert (await client.received("last"))[0].offset == last
    received = [(sequence_of(event.offset), event.data[0]["number"]) for event in client.by_name["numbered"]]
    published = sorted((sequence_of(offset), number) for number, offset in publisher.acknowledged.items())
    assert received == published, client.story()


async def _until_it_says(server: ServerProcess, line: str) -> None:
    async with asyncio.timeout(DEADLINE):
        while line not in server.log:  # noqa: ASYNC110 - no event reports it
            await asyncio.sleep(0.01)
