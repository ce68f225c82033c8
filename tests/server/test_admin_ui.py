"""The Socket.IO Admin UI, as its page connects: an official client in the namespace of the admins."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from support.clients import Client, NodeClients
from support.embedded import Seen, Server, serving
from support.processes import DEADLINE

LOGIN = {"username": "admin", "password": "secret of the admin"}
SECRETS = ("secret of the admin", "secret cookie", "secret token")
HEADERS = {"Cookie": "id=secret cookie", "Authorization": "Bearer secret token"}


class Page:
    """The admin's page: it keeps what it is told, as the Admin UI does."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def told(self, event: str, count: int = 1) -> list[list[Any]]:
        """The arguments of all events of this name so far; waits until there are so many."""
        return [received.args for received in await self.client.received(event, count)]

    async def told_of(self, event: str, *values: object) -> list[Any]:
        """The arguments of the first event of this name that has these values among its arguments."""

        def matching() -> list[list[Any]]:
            events = self.client.by_name[event]
            return [one.args for one in events if all(value in one.args for value in values)]

        await self.client.until(lambda: bool(matching()), f"{event} with {values}")
        return matching()[0]


@asynccontextmanager
async def administrated(
    path: Path | None,
    node: NodeClients,
    *,
    register: Any = lambda _: None,
    recovery: Any = None,
    **arguments: Any,
) -> AsyncIterator[tuple[Server, Page]]:
    """An instrumented server, and an admin that is connected."""

    def instrument(sio: Any) -> None:
        register(sio)
        sio.instrument(auth=LOGIN, **({"server_stats_interval": 0.2} | arguments))

    async with serving(path, register=instrument, recovery=recovery) as server:
        namespace = arguments.get("namespace", "/admin")
        admin = await node.client(base(server), namespace, auth=LOGIN, extraHeaders=HEADERS)
        await admin.connected()
        yield server, Page(admin)
        await admin.disconnect()


def base(server: Server) -> str:
    return server.url.removesuffix("/socket.io/")


def stored(path: Path) -> bytes:
    return b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.mark.parametrize("namespace", ["/admin", "/operators"])
async def test_nothing_of_the_admins_is_stored(path: Path, node: NodeClients, namespace: str) -> None:
    """The events of the admin namespace are not stored, and no secret of a client is."""
    async with administrated(path, node, namespace=namespace) as (server, page):
        client = await node.client(base(server), extraHeaders=HEADERS, auth={"token": "secret token"})
        await client.connected()
        for number in range(10):
            await server.sio.emit("news", number)
        await server.sio.emit("notice", "for admins", namespace=namespace)
        assert (await page.told("notice"))[0][0] == "for admins"
        assert len(await page.told("event_sent", 10)) == 10
        (_, connected) = [args[0] for args in [[None], *await page.told("socket_connected")]]
        assert connected["handshake"]["headers"]["cookie"] == HEADERS["Cookie"]
        with sqlite3.connect(path) as database:
            rows = database.execute("SELECT namespace, count(*) FROM events GROUP BY 1").fetchall()
        database.close()
        assert rows == [("/", 10)]
        for secret in SECRETS:
            assert secret.encode() not in stored(path)
        await client.disconnect()


async def test_what_the_admin_sees(path: Path, node: NodeClients) -> None:
    """The page is told about clients, rooms and events as they are."""

    def register(sio: Any) -> None:
        sio.on("echo", lambda _, text: text)
        sio.on("connect", lambda *_: None, namespace="/chat")

    async with administrated(path, node, register=register) as (server, page):
        ((config, *_),) = await page.told("config")
        assert {"AGGREGATED_EVENTS", "ALL_EVENTS", "JOIN", "EMIT"} <= set(config["supportedFeatures"])
        ((sockets,),) = await page.told("all_sockets")
        assert [(one["nsp"], one["transport"]) for one in sockets] == [("/admin", "websocket")]
        client = await node.client(base(server), transports=("polling", "websocket"), query={"colour": "red"})
        sid = (await client.connected()).sid
        (shown, _) = (await page.told("socket_connected"))[0]
        assert (shown["id"], shown["nsp"], shown["rooms"]) == (sid, "/", [sid])
        assert shown["handshake"]["query"]["colour"] == "red"
        assert shown["handshake"]["address"] == "127.0.0.1"
        assert shown["transport"] == "websocket" or await page.told_of(
            "socket_updated", {"id": sid, "nsp": "/", "transport": "websocket"}
        )
        await server.sio.enter_room(sid, "room")
        assert (await page.told("room_joined"))[0][:3] == ["/", "room", sid]
        await server.sio.leave_room(sid, "room")
        assert (await page.told("room_left"))[0][:3] == ["/", "room", sid]
        assert await client.call("echo", "hello") == "hello"
        assert (await page.told("event_received"))[0][:3] == ["/", sid, ["echo", "hello"]]
        await server.sio.emit("two", ("a", b"\0"))
        assert (await page.told("event_sent"))[0][:3] == ["/", sid, ["two", "a", b"\0"]]
        stats = await statistics(page, "/", 1, pollingClientsCount=0)  # it has polled before its upgrade
        counts = {one["name"]: one["socketsCount"] for one in stats["namespaces"]}
        assert counts == {"/": 1, "/admin": 1, "/chat": 0}
        assert stats["clientsCount"] == 2
        await client.disconnect()
        assert await page.told_of("socket_disconnected", "/", sid, "client disconnect")
        assert await page.told_of("room_left", "/", sid)
        await statistics(page, "/", 0)
        traffic = {"rawConnection", "rawDisconnection", "packetsIn", "packetsOut", "bytesIn", "bytesOut"}
        await page.client.until(lambda: counted(page) == traffic, "all kinds of traffic")


def counted(page: Page) -> set[str]:
    """The kinds of traffic in the statistics so far."""
    told = [one.args[0] for one in page.client.by_name["server_stats"]]
    return {counter["type"] for stats in told for counter in stats["aggregatedEvents"]}


async def statistics(page: Page, namespace: str, sockets: int, **more: object) -> dict[str, Any]:
    """The last statistics in which a namespace has so many clients, and ``more`` holds."""

    def matching() -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = [one.args[0] for one in page.client.by_name["server_stats"]]
        wanted = {"name": namespace, "socketsCount": sockets}
        return [one for one in told if wanted in one["namespaces"] and more.items() <= one.items()]

    await page.client.until(lambda: bool(matching()), f"{sockets} clients in {namespace}")
    return matching()[-1]


async def test_disconnect_handler_after_a_recovery(path: Path, node: NodeClients) -> None:
    """With ``skip_middlewares`` the disconnect handler of a recovered client is called, and it is shown."""
    seen = Seen()

    def register(sio: Any) -> None:
        sio.on("disconnect", lambda sid, _: seen(sid))

    recovery = {"skip_middlewares": True}
    async with administrated(path, node, register=register, recovery=recovery) as (server, page):
        client = await node.client(base(server))
        sid = (await client.connected()).sid
        await server.sio.enter_room(sid, "room")
        await client.cut()
        await client.recovered_again()
        shown = [args[0] for args in await page.told("socket_connected", 2)]
        assert [one["id"] for one in shown] == [sid, sid]
        assert set(shown[1]["rooms"]) == {sid, "room"}
        await client.disconnect()
        assert await seen.until(2) == [sid, sid]


async def test_admins_are_told_again_after_a_cut(path: Path, node: NodeClients) -> None:
    """An admin that returns gets a new session and all clients: what it missed was not stored."""
    async with administrated(path, node) as (server, page):
        await page.told("all_sockets")
        client = await node.client(base(server))
        sid = (await client.connected()).sid
        await page.client.cut()
        again = await page.client.reconnected()
        assert not again.recovered and again.pid is None
        (_, (sockets,)) = await page.told("all_sockets", 2)
        assert {one["id"] for one in sockets} == {sid, again.sid}
        await client.disconnect()


async def test_commands_of_an_admin(path: Path, node: NodeClients) -> None:
    """Joins, emits, leaves and disconnections that the page asks for happen."""
    async with administrated(path, node) as (server, page):
        client = await node.client(base(server))
        sid = (await client.connected()).sid
        await page.client.emit("join", "/", "room", sid)
        await page.told("room_joined")
        await page.client.emit("emit", "/", "room", "hello", "world")
        assert (await client.received("hello"))[0].data == ["world"]
        await page.client.emit("leave", "/", "room", sid)
        await page.told("room_left")
        await page.client.emit("_disconnect", "/", False, sid)
        assert await client.gone() == "io server disconnect"
        assert "event_received" not in page.client.by_name


async def test_a_foreign_admin_is_refused(path: Path, node: NodeClients) -> None:
    async with administrated(path, node) as (server, page):
        thief = await node.client(base(server), "/admin", auth={**LOGIN, "password": "guessed"})
        assert (await thief.refused())["message"] == "authentication failed"
        await server.sio.emit("news")
        await server.sio.emit("notice", namespace="/admin")
        await page.told("notice")
        assert not thief.events


@pytest.mark.parametrize("mode", ["production", "read_only"])
async def test_an_admin_without_commands(path: Path, node: NodeClients, mode: str) -> None:
    """In production an admin sees statistics only; with ``read_only`` nothing can be changed."""
    arguments = {"mode": mode} if mode == "production" else {"read_only": True}
    async with administrated(path, node, **arguments) as (server, page):
        ((config, *_),) = await page.told("config")
        expected = {"AGGREGATED_EVENTS"} if mode == "production" else {"AGGREGATED_EVENTS", "ALL_EVENTS"}
        assert set(config["supportedFeatures"]) == expected
        client = await node.client(base(server))
        await client.connected()
        await statistics(page, "/", 1)
        assert bool(page.client.by_name["socket_connected"]) == (mode != "production")
        await client.disconnect()


async def test_exactly_once_handlers_are_reported_once(path: Path, node: NodeClients) -> None:
    """The emit of a handler transaction is reported when it is sent, and a failed one is not."""
    failures = iter([True, False])

    def register(sio: Any) -> None:
        async def order(_sid: str, _key: str) -> str:
            await sio.emit("ordered")
            if next(failures):
                raise ValueError("on purpose")
            return "done"

        sio.exactly_once("order")(order)

    async with administrated(path, node, register=register) as (server, page):
        client = await node.client(base(server))
        sid = (await client.connected()).sid
        await client.emit("order", "first key")
        async with asyncio.timeout(DEADLINE):
            assert await client.call("order", "second key") == "done"
        assert (await page.told("event_sent"))[0][:3] == ["/", sid, ["ordered"]]
        assert len(page.client.by_name["event_sent"]) == 1
        await client.disconnect()


async def test_emits_wait_for_no_report(path: Path, node: NodeClients) -> None:
    """With an admin and with 50 clients an emit is one commit."""
    async with administrated(path, node) as (server, page):
        clients = [await server.client() for _ in range(50)]
        runtime = await server.manager.start()
        before = runtime.log.head
        for _ in range(3):
            await server.sio.emit("news")
        assert runtime.log.head == before + 3
        sent = await page.told("event_sent", 150)
        assert {args[1] for args in sent} == {client.sid for client in clients}
