"""``logger=True`` and ``engineio_logger=True`` say what stock python-socketio says."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.embedded import Seen, serving

LOGGERS = ("socketio.server", "engineio.server")


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """python-socketio sets the level of its loggers once, and adds a handler."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(log.level, list(log.handlers)) for log in loggers]
    for log in loggers:
        log.setLevel(logging.NOTSET)
    yield
    for log, (level, handlers) in zip(loggers, before, strict=True):
        log.setLevel(level)
        log.handlers[:] = handlers


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == name]


async def talk(path: Path, **options: Any) -> str:
    """A client connects, upgrades, sends and receives events, and is disconnected; returns its sid."""
    acknowledged = Seen()

    def register(sio: Any) -> None:
        sio.on("hello", lambda sid, *_: "answer")

    async with serving(path, register=register, **options) as server:
        polling = await server.polling()
        sid: str = (await polling.connect())["sid"]
        socket = await polling.websocket()
        await socket.send("2probe")
        assert await socket.packet() == "3probe"
        await socket.send("5")
        assert await socket.call("hello", b"".hex()) == ["answer"]
        await socket.send('42/nowhere,["lost"]')
        await server.sio.enter_room(sid, "room")
        await server.sio.emit("news", 1, room="room")
        await server.sio.emit("news", 2)
        await server.sio.emit("question", to=sid, callback=acknowledged)
        await server.sio.leave_room(sid, "room")
        await server.sio.close_room("room")
        packets = [await socket.packet() for _ in range(3)]
        number = re.sub(r"^42(\d+).*", r"\1", str(packets[-1]))
        await socket.send(f"43{number}[]")
        await acknowledged.until(1)
        await server.sio.disconnect(sid)
        assert await socket.packet() == "41"
        return sid


async def test_logger_says_what_stock_says(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lines of ``logger=True`` are those of stock python-socketio."""
    sid = await talk(path, logger=True)
    said = lines(caplog, "socketio.server")
    expected = [
        f'received event "hello" from {sid} [/]',
        f"{sid} is entering room room [/]",
        'emitting event "news" to room [/]',
        'emitting event "news" to all [/]',
        f'emitting event "question" to {sid} [/]',
        f"{sid} is leaving room room [/]",
        "room room is closing [/]",
        f"received ack from {sid} [/]",
        f"Disconnecting {sid} [/]",
        "Socket.IO is shutting down",
    ]
    assert [line for line in said if line in expected] == expected
    assert any(line.endswith(" is not connected to namespace /nowhere") for line in said)
    assert lines(caplog, "engineio.server") == []


async def test_engineio_logger_says_what_stock_says(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The lines of ``engineio_logger=True`` are those of stock python-engineio."""
    await talk(path, engineio_logger=True)
    said = [line.partition(": ")[2] or line for line in lines(caplog, "engineio.server")]
    for line in (
        "Received packet MESSAGE data 0",
        "Received request to upgrade to websocket",
        "Upgrade to websocket successful",
        'Received packet MESSAGE data 27["hello", ""]',
        'Sending packet MESSAGE data 37["answer"]',
        "Sending packet MESSAGE data 1",
    ):
        assert line in said, said
    assert said[0] == "Server initialized for aiohttp." or said[0].startswith("Sending packet OPEN data {")
    assert lines(caplog, "socketio.server") == []


async def test_refused_transport_is_logged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A transport that is refused is named."""
    async with serving(path, engineio_logger=True) as server:

        async def refused(_: object) -> bool:
            return False

        server.engine.connection_opened = refused
        response = await server.http.get(server.url, params={"EIO": "4", "transport": "polling"})
        assert response.status == 503
    assert "Application rejected connection" in lines(caplog, "engineio.server")


async def test_loggers_are_silent_by_default(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without the arguments neither logger says anything."""
    await talk(path)
    assert not lines(caplog, "engineio.server") and not lines(caplog, "socketio.server")
