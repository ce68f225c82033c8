"""What the server answers besides the protocol: its page, the official client, health and readiness."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from aiohttp import web

from socketio_eventstore.adapter.manager import RecoveryManager

CLIENT_FILES = (
    "socket.io.js",
    "socket.io.js.map",
    "socket.io.min.js",
    "socket.io.min.js.map",
    "socket.io.msgpack.min.js",
    "socket.io.msgpack.min.js.map",
    "socket.io.esm.min.js",
    "socket.io.esm.min.js.map",
)
"""The builds of the official client; set-up takes them from npm."""

FRESH = {"Cache-Control": "no-cache"}
"""Browsers ask whether a file has changed, so that an upgrade does not mix old and new ones."""


def add_routes(app: web.Application, path: str, pages: Path | None, manager: RecoveryManager) -> None:
    """Serve the pages of the handlers, the client below the Socket.IO path, and the probes."""
    bundle = Path(str(files("socketio_eventstore.program"))) / "client_bundle"

    async def client(request: web.Request) -> web.StreamResponse:
        file = bundle / request.match_info["file"]
        if request.match_info["file"] not in CLIENT_FILES:
            raise web.HTTPNotFound
        if not file.exists():
            raise web.HTTPNotFound(text="The official client is not installed; set-up (make) brings it.")
        return web.FileResponse(file, headers=FRESH)

    async def page(request: web.Request) -> web.StreamResponse:
        file = (pages / request.match_info.get("file", "index.html")) if pages is not None else None
        if file is None or not file.is_file() or file.parent != pages:
            raise web.HTTPNotFound(text="There is no such page.")
        return web.FileResponse(file, headers=FRESH)

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(request: web.Request) -> web.Response:
        is_ready = manager.runtime is not None
        return web.Response(text="ok\n" if is_ready else "not ready\n", status=200 if is_ready else 503)

    app.router.add_get("/", page)
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/readyz", ready)
    app.router.add_get(f"{path}{{file:socket\\.io\\..+}}", client)
    app.router.add_get("/pages/{file:[^/]+}", page)
