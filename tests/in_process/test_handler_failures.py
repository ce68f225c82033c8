"""Handlers that raise: one line with event, namespace and sid, however often they raise."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from support.embedded import Seen, away, serving, until


async def test_event_handler_that_raises(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The exceptions of an event's handler are one line that names event, namespace and sid."""
    seen = Seen()

    async def broken(sid: str, number: int) -> None:
        seen(number)
        raise ZeroDivisionError(f"in call {number}")

    def register(sio: Any) -> None:
        sio.on("broken", broken, namespace="/a")
        sio.on("broken", broken, namespace="/b")

    async with serving(tmp_path / "events.db", register=register) as server:
        client = await server.socket()
        first, second = (await client.connect("/a"))["sid"], (await client.connect("/b"))["sid"]
        for number in range(50):
            await client.send(f'42/a,["broken",{number}]')
        await client.send('42/b,["broken",0]')
        await seen.until(51)
        await until(lambda: "/b" in caplog.text)
        assert caplog.messages == [
            f"The 'broken' handler of /a failed for {first}: ZeroDivisionError('in call 0')",
            f"The 'broken' handler of /b failed for {second}: ZeroDivisionError('in call 0')",
        ]
        assert "in broken" in caplog.text  # the traceback


async def test_connect_and_disconnect_handlers_that_raise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The exceptions of connect and disconnect handlers name namespace and sid."""

    def register(sio: Any) -> None:
        def disconnect(_sid: str, _reason: str) -> None:
            raise ZeroDivisionError

        def connect(_sid: str, _environ: Any) -> None:
            raise KeyError("key")

        sio.on("disconnect", disconnect)
        sio.on("connect", connect, namespace="/refused")

    async with serving(tmp_path / "events.db", register=register) as server:
        client = await server.client()
        await client.send("40/refused,")
        assert str(await client.packet()).startswith("44/refused,")
        assert caplog.messages[0].startswith("The connect handler of /refused failed for ")
        await away(server, client)
        await until(lambda: len(caplog.messages) == 2)
        assert (
            caplog.messages[1] == f"The disconnect handler of / failed for {client.sid}: ZeroDivisionError()"
        )


async def test_handlers_of_any_name_that_raise(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The exceptions of a handler for all events and namespaces are one line, whatever their names."""
    seen = Seen()

    async def broken(event: str, namespace: str, _sid: str) -> None:
        seen(event, namespace)
        raise ZeroDivisionError

    names = [(f"e{number}", f"/n{number % 5}") for number in range(50)]
    async with serving(
        tmp_path / "events.db", register=lambda sio: sio.on("*", broken, "*"), namespaces="*"
    ) as server:
        client = await server.socket()
        sids = [(await client.connect(f"/n{number}"))["sid"] for number in range(5)]
        for event, namespace in names:
            await client.send(f'42{namespace},["{event}"]')
        assert await seen.until(50) == names
        await until(lambda: caplog.messages)
        assert caplog.messages == [f"The 'e0' handler of /n0 failed for {sids[0]}: ZeroDivisionError()"]


async def test_invalid_posts_share_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A client cannot make a line for each invalid POST, whatever the POST contains."""
    caplog.set_level(logging.INFO, "socketio_eventstore.transport.connection")
    async with serving(tmp_path / "events.db") as server:
        for number in range(20):
            polling = await server.polling()
            assert (await polling.post(b"4" * number + b"\xff"))[0] == 400
            assert (await (await server.polling()).post(chr(0x100 + number)))[0] == 400
        first, *others = caplog.messages
        assert "transport aborted: invalid packet: 'utf-8' codec" in first and others == []


async def test_exception_that_has_no_text(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A connect handler whose exception cannot be shown refuses the client like any other exception."""

    class Unshown(Exception):
        def __repr__(self) -> str:
            raise ZeroDivisionError

    def connect(*_: Any) -> None:
        raise Unshown

    async with serving(path, register=lambda sio: sio.on("connect", connect)) as server:
        client = await server.socket()
        await client.send("40")
        assert str(await client.packet()).startswith("44")
        assert f"{Unshown.__name__}, whose text cannot be shown" in caplog.text
        assert len(server.engine.sockets) == 1
