"""The examples run as their READMEs say, and their clients recover through a crash."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import pytest

from support.clients import Client, NodeClients
from support.processes import HOST, ServerCommand

EXAMPLES = Path(__file__).parents[2] / "examples"


class ChatExample(ServerCommand):
    """``examples/chat`` in a copy, since its database lies beside its config file."""

    healthy = ("/readyz", 200)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.example = shutil.copytree(EXAMPLES / "chat", folder / "chat")

    def command(self) -> Sequence[str]:
        config = str(self.example / "config.toml")
        program = (sys.executable, "-m", "socketio_eventstore", "serve")
        return (*program, "--config", config, "--port", str(self.port))


class FastApiExample(ServerCommand):
    """``examples/fastapi`` where it lies; its database is in the folder in which it is started."""

    healthy = ("/", 200)

    def command(self) -> Sequence[str]:
        example = str(EXAMPLES / "fastapi")
        program = (sys.executable, "-m", "uvicorn", "--app-dir", example, "app:app")
        return (*program, "--host", HOST, "--port", str(self.port))


async def test_the_chat(tmp_path: Path, node: NodeClients, http: aiohttp.ClientSession) -> None:
    with ChatExample(tmp_path) as server:
        async with http.get(server.url) as page:
            assert page.status == 200 and "chat" in (await page.text()).lower()
        reader = await node.client(server.url, reconnection=False)
        await reader.connected()
        writer = await node.client(server.url)
        await writer.connected()
        assert await texts(reader, 1) == ["A new member is here."]
        assert (await writer.call("chat message", "before"))["status"] == "ok"
        assert await texts(reader, 2) == ["A new member is here.", "before"]
        assert (await writer.call("chat message", ""))["status"] == "refused"

        server.kill()
        await reader.gone()
        await writer.gone()
        server.start()
        await writer.recovered_again()
        assert (await writer.call("chat message", "missed"))["status"] == "ok"
        await reader.connect()
        await reader.recovered_again()
        assert await texts(reader, 3) == ["A new member is here.", "before", "missed"]
        assert [event.data[0] for event in writer.events] == ["before", "missed"]


@pytest.mark.parametrize("transports", [("websocket",), ("polling", "websocket")])
async def test_the_application_on_fastapi(
    tmp_path: Path, node: NodeClients, http: aiohttp.ClientSession, transports: tuple[str, ...]
) -> None:
    with FastApiExample(tmp_path) as server:
        topic = {"topic": "sports"}
        reader = await node.client(server.url, reconnection=False, auth=topic, transports=transports)
        await reader.connected()

        async def publish(text: str, topic: str = "sports") -> str:
            async with http.post(f"{server.url}/news", json={"topic": topic, "text": text}) as answer:
                assert answer.status == 200, await answer.text()
                offset = json.loads(await answer.text())["offset"]
                assert isinstance(offset, str)
                return offset

        offsets = [await publish("before")]
        await publish("of another topic", "weather")
        await reader.received("news")
        server.kill()
        await reader.gone()
        server.start()
        offsets.append(await publish("missed"))
        await reader.connect()
        await reader.recovered_again()
        news = await reader.received("news", 2)
        assert [event.data for event in news] == [["before"], ["missed"]]
        assert [event.offset for event in news] == offsets

        ended = await asyncio.to_thread(server.terminate)
        assert ended.duration < 20 and "Application shutdown complete" in server.log
        assert files(tmp_path) == [
            "events.db",
            "events.db-reserve",
            "server.log",
        ]  # closed in order: SQLite has tidied up
        await reader.gone()
        server.start()
        await reader.connect()
        await reader.recovered_again()


async def texts(client: Client, count: int) -> list[str]:
    return [event.data[0] for event in await client.received("chat message", count)]


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())
