"""uvicorn in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import uvicorn

from support.processes import HOST, free_port


@asynccontextmanager
async def uvicorn_server(app: Any, **options: Any) -> AsyncIterator[int]:
    """Serve an ASGI application; the value is the port."""
    port = free_port()
    config = uvicorn.Config(app, host=HOST, port=port, log_config=None, lifespan="off", **options)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    try:
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.01)
        yield port
    finally:
        server.should_exit = server.force_exit = True
        with suppress(asyncio.CancelledError):
            await serving
