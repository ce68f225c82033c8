from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from engineio.async_drivers import asgi as stock

from socketio_eventstore.transport.asgi_environ import translate_request

SCOPE: dict[str, Any] = {
    "type": "http",
    "method": "POST",
    "path": "/socket.io/",
    "query_string": b"EIO=4&transport=polling",
    "headers": [
        (b"host", b"localhost"),
        (b"content-type", b"text/plain"),
        (b"content-length", b"6"),
        (b"x-forwarded-for", b"10.0.0.1"),
        (b"x-forwarded-for", b"10.0.0.2"),
        (b"x-forwarded-proto", b"https"),
        (b"x-strange", b"\xff"),
    ],
}
SCOPES = {
    "http": SCOPE,
    "websocket": {**SCOPE, "type": "websocket", "headers": []},
    "without query": {key: value for key, value in SCOPE.items() if key != "query_string"},
    "invalid query": {**SCOPE, "query_string": b"\xff"},
}


def receiving(*events: dict[str, Any]) -> Callable[[], Awaitable[dict[str, Any]]]:
    remaining = iter(events)

    async def receive() -> dict[str, Any]:
        return next(remaining)

    return receive


async def send(_: object) -> None:
    pass


@pytest.mark.parametrize("name", SCOPES)
async def test_environ_is_that_of_python_engineio(name: str) -> None:
    """The environ has the keys and values of python-engineio's, but for the object of the body."""
    scope = SCOPES[name]
    kind = "websocket.connect" if scope["type"] == "websocket" else "http.request"
    mine = await translate_request(scope, receiving({"type": kind}), send)
    expected = await stock.translate_request(scope, receiving({"type": kind}), send)
    different = {"wsgi.input", "asgi.receive"}
    assert mine.keys() == expected.keys()
    for key in expected.keys() - different:
        assert mine[key] == expected[key], key


async def test_other_events_are_no_request() -> None:
    assert await translate_request(SCOPE, receiving({"type": "http.disconnect"}), send) == {}


async def test_body_in_parts() -> None:
    """A body is read in parts of any length, and ends with no bytes."""
    parts: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.request", "body": b"def", "more_body": True},
        {"type": "http.request", "body": b"g"},
    ]
    body = (await translate_request(SCOPE, receiving(*parts), send))["wsgi.input"]
    assert [await body.read(2), await body.read(3), await body.read(), await body.read(1)] == [
        b"ab",
        b"cde",
        b"fg",
        b"",
    ]


async def test_body_of_a_lost_client() -> None:
    """A body whose client has left ends with the bytes that have come."""
    events: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.disconnect"},
    ]
    body = (await translate_request(SCOPE, receiving(*events), send))["wsgi.input"]
    assert [await body.read(), await body.read()] == [b"abc", b""]
