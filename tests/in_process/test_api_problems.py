"""Errors of operations as problem documents."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from socketio_eventlog.errors import (
    ConditionFailed,
    DatabaseTooNew,
    LogFull,
    OutcomeUnknown,
    StoreClosed,
    StoreError,
)
from socketio_eventstore.program.api.app import api_application
from socketio_eventstore.program.api.endpoints import Call, Endpoint
from socketio_eventstore.program.api.publish import validated
from socketio_eventstore.program.slow_requests import closes_slow_requests
from support.processes import DEADLINE

INFLATED_BYTES = 20_000_000


@asynccontextmanager
async def failing(error: Exception) -> AsyncIterator[aiohttp.ClientResponse]:
    """The response of an operation that fails."""

    async def answer(_: Call) -> web.StreamResponse:
        raise error

    endpoint = Endpoint("fail", "GET", "/fail", "Fail.", answer, None)
    async with (
        TestServer(api_application(None, [endpoint])) as serving,
        aiohttp.request("GET", serving.make_url("/fail")) as response,
    ):
        yield response


async def test_wrong_compression(caplog: pytest.LogCaptureFixture) -> None:
    """A body that is not compressed as it says is the fault of the client."""

    async def answer(_: Call) -> web.StreamResponse:
        return web.Response()

    endpoint = Endpoint("take", "POST", "/take", "Take.", answer, None, validate=validated)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    async with (
        TestServer(api_application(None, [endpoint])) as serving,
        aiohttp.request("POST", serving.make_url("/take"), data=b"{}", headers=headers) as response,
    ):
        assert (response.status, response.content_type) == (400, "application/problem+json")
    assert not any("failed" in message for message in caplog.messages)


async def test_compressed_body_that_is_not_read() -> None:
    """A body that no handler reads is not inflated: it may stand for a thousand times its bytes."""
    contents: list[aiohttp.StreamReader] = []

    async def refuse(request: web.Request) -> web.Response:
        contents.append(request.content)
        return web.Response(status=405)

    app = web.Application(middlewares=[closes_slow_requests(DEADLINE)])
    app.router.add_post("/", refuse)
    bomb = gzip.compress(bytes(INFLATED_BYTES))
    head = (
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n"
    )
    async with TestServer(app) as serving:
        reader, writer = await asyncio.open_connection(serving.host, serving.port)
        writer.write(head.encode() + bomb)
        assert (await reader.readline()).startswith(b"HTTP/1.1 405")
        with suppress(ConnectionResetError):
            await reader.read()
        writer.close()
    assert contents[0].total_bytes < INFLATED_BYTES / 10


@pytest.mark.parametrize(
    ("error", "status"), [(LogFull("x"), 507), (StoreClosed("x"), 503), (ConditionFailed("x"), 422)]
)
async def test_store_error(error: StoreError, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """The state of the store has a status of its own, and is no fault of the server."""
    async with failing(error) as response:
        assert response.status == status
    assert caplog.messages == []


async def test_unknown_outcome_is_not_to_be_repeated() -> None:
    """A program that obeys Retry-After would publish the event twice, so the answer has none."""
    async with failing(OutcomeUnknown()) as response:
        assert response.status == 503 and "Retry-After" not in response.headers
        assert "Idempotency-Key" in (await response.json())["detail"]
    async with failing(StoreClosed()) as response:
        assert response.headers["Retry-After"] == "1"


@pytest.mark.parametrize("error", [DatabaseTooNew("secret"), StoreError("secret"), ValueError("secret")])
async def test_fault(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The log has a fault of the server, and the answer shows nothing of it."""
    async with failing(error) as response:
        assert response.status == 500 and "secret" not in await response.text()
    assert any("secret" in message for message in caplog.messages)
