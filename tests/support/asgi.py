"""uvicorn in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn

from support.processes import DEADLINE, HOST


@asynccontextmanager
async def uvicorn_server(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve an ASGI application; the value is the port."""
    # asyncio writes without delay only if the socket names a protocol, as uvicorn's own socket does.
    listening = socket.socket(proto=socket.IPPROTO_TCP)
    listening.bind((HOST, 0))
    config = uvicorn.Config(app, log_config=None, lifespan="off", **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve([listening]))
    try:
        async with asyncio.timeout(DEADLINE):
            while not server.started:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        with suppress(asyncio.CancelledError):
            await serving
