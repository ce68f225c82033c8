"""Errors of operations as problem documents."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from socketio_eventlog.errors import ConditionFailed, DatabaseTooNew, LogFull, StoreClosed, StoreError
from socketio_eventstore.program.api.app import api_application
from socketio_eventstore.program.api.endpoints import Call, Endpoint


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


@pytest.mark.parametrize(
    ("error", "status"), [(LogFull("x"), 507), (StoreClosed("x"), 503), (ConditionFailed("x"), 422)]
)
async def test_store_error(error: StoreError, status: int, caplog: pytest.LogCaptureFixture) -> None:
    """The state of the store has a status of its own, and is no fault of the server."""
    async with failing(error) as response:
        assert response.status == status
    assert caplog.messages == []


@pytest.mark.parametrize("error", [DatabaseTooNew("secret"), StoreError("secret"), ValueError("secret")])
async def test_fault(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """The log has a fault of the server, and the answer shows nothing of it."""
    async with failing(error) as response:
        assert response.status == 500 and "secret" not in await response.text()
    assert any("secret" in message for message in caplog.messages)
