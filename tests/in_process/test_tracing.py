"""Spans of OpenTelemetry: which there are, how they are nested, and what is in them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

from socketio_eventstore.adapter.tracing import Tracing
from support.embedded import Server, away, serving, until
from support.spans import Spans

SECRET = "planted-secret"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Spans:
    """A provider that is set for this test; the API itself sets one only once."""
    spans = Spans()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", spans)
    return spans


async def test_event_and_its_emit(path: Path, spans: Spans) -> None:
    """The emit of a handler belongs to the event of the client, and the commit has its own span."""
    async with serving(path) as server:
        _answer_events(server)
        client = await server.client()
        await client.send(f'42["hello","{SECRET}"]')
        await client.event()
        await until(lambda: len([span for span in spans.all if span.is_ended]) == len(spans.all))
        (event,), (emit,) = spans.named("socketio event"), spans.named("socketio emit")
    assert emit.parent is event and event.parent is None
    expected = {"socketio.sid": client.sid, "socketio.namespace": "/", "socketio.event": "hello"}
    assert event.attributes == expected and event.kind is trace.SpanKind.SERVER
    assert emit.attributes["socketio.event"] == "news" and emit.attributes["socketio.offset"]
    commits = spans.named("socketio commit")
    assert commits and all(span.attributes["socketio.changes"] >= 1 for span in commits)
    assert all(0 < span.seconds < 60 for span in commits)
    assert SECRET not in repr([span.attributes for span in spans.all])


def _answer_events(server: Server) -> None:
    async def hello(sid: str, text: str) -> None:
        await server.sio.emit("news", text)

    server.sio.on("hello", hello)


async def test_connect_and_recovery(path: Path, spans: Spans) -> None:
    """A connect handler has a span, and so has the decision about a client that comes back."""
    async with serving(path) as server:
        server.sio.on("connect", lambda sid, environ, auth: None)
        client = await server.socket()
        pid = (await client.connect())["pid"]
        await away(server, client)
        await server.client(auth={"pid": pid})
        first, second = spans.named("socketio connect")
        (recovery,) = spans.named("socketio recovery")
    assert (first.attributes["socketio.recovered"], second.attributes["socketio.recovered"]) == (False, True)
    assert recovery.attributes["socketio.result"] == "recovered"
    assert pid not in repr([span.attributes for span in spans.all])


async def test_refusal(path: Path, spans: Spans) -> None:
    """The span of a connect handler says whether the client was refused."""
    async with serving(path) as server:
        server.sio.on("connect", lambda sid, environ, auth: False)
        client = await server.socket()
        await client.send("40")
        assert str(await client.packet()).startswith("44")
        (connect,) = spans.named("socketio connect")
    assert connect.attributes["socketio.refused"] is True


async def test_handler_that_fails(path: Path, spans: Spans) -> None:
    """The span of an event has the exception of its handler."""

    def fail(*_: Any) -> None:
        raise RuntimeError("of a test")

    async with serving(path) as server:
        server.sio.on("hello", fail)
        client = await server.client()
        await client.send('42["hello"]')
        await until(lambda: any(span.errors for span in spans.all))
        (event,) = spans.named("socketio event")
    assert str(event.errors[0]) == "of a test"


async def test_commits_go_on_when_a_span_fails(path: Path) -> None:
    """An exception of the tracing is reported to the event loop, and stops no commit."""
    reported: list[object] = []
    async with serving(path) as server:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        queue, error = (await server.manager.start()).queue, RuntimeError("of a test")

        def fail(seconds: float, changes: int) -> None:
            raise error

        queue.effects.on_commit = fail
        assert await server.sio.emit("first") and await server.sio.emit("second")
        await until(lambda: len(reported) >= 2)
        queue.effects.on_commit = None
    assert set(reported) == {error}


async def test_no_provider_is_set(server: Server) -> None:
    """Without a provider of the application there are no spans."""
    await server.sio.start()
    assert Tracing.configured() is None
    assert server.sio.clients.calls.tracing is None
    assert (await server.manager.start()).queue.effects.on_commit is None


def test_api_is_not_installed() -> None:
    """Without the extra, the server works."""
    code = """
import sys
sys.modules["opentelemetry"] = None
from socketio_eventstore.adapter.tracing import Tracing
assert Tracing.configured() is None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
