"""The HTTP routes beside the protocol: the handlers' pages, the official client, health and readiness."""

from __future__ import annotations

from functools import partial
from importlib.resources import files
from pathlib import Path, PurePosixPath

from aiohttp import web

from socketio_eventstore.adapter.async_server import AsyncServer
from socketio_eventstore.program.readiness import problems

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
"""The builds of the official client; ``make`` copies the files from npm."""

NO_CACHE = {"Cache-Control": "no-cache"}
"""Browsers revalidate each file, so no page mixes files of two versions after an upgrade."""


CLIENT_MODULE = """\
// The official client, for the path of this server. All URLs are relative, so a path prefix may precede them.
import "./{path}socket.io.js";

const connect = globalThis.io;
export const path = new URL("./{path}", import.meta.url).pathname;
export const io = (options) => connect({{ path, ...options }});
"""
"""A JavaScript module beside ``/``: pages need not know ``path``, nor the prefix of a proxy."""


def add_routes(app: web.Application, path: str, pages: Path | None, sio: AsyncServer) -> None:
    """Add the routes to ``app``.

    ``path`` is the Socket.IO path with a slash at both ends; the official client is served below it.
    ``pages`` is the folder of the handlers' pages: ``index.html`` is served at ``/``, all files at
    ``/pages/``, subfolders included. ``/healthz`` and ``/readyz`` are the probes.
    """
    bundle = Path(str(files("socketio_eventstore.program"))) / "client_bundle"

    async def client(request: web.Request) -> web.StreamResponse:
        file = bundle / request.match_info["file"]
        if request.match_info["file"] not in CLIENT_FILES:
            raise web.HTTPNotFound
        if not file.exists():
            raise web.HTTPNotFound(text="The official client is not installed; `make setup` installs it.")
        return web.FileResponse(file, headers=NO_CACHE)

    async def page(request: web.Request) -> web.StreamResponse:
        if path == "/" and "file" not in request.match_info and "transport" in request.query:
            response: web.StreamResponse = await sio.handle_request(request)
            return response
        file = None if pages is None else _file_in(pages, request.match_info.get("file", "index.html"))
        if file is None:
            raise web.HTTPNotFound(text="There is no such page.")
        return web.FileResponse(file, headers=NO_CACHE)

    async def healthy(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(request: web.Request) -> web.Response:
        if found := problems(sio):
            return web.Response(text=f"not ready: {'; '.join(found)}\n", status=503)
        return web.Response(text="ok\n")

    app.router.add_get("/", page)
    app.router.add_get("/client.js", partial(_client_module, path))
    app.router.add_get("/healthz", healthy)
    app.router.add_get("/readyz", ready)
    app.router.add_get(f"{path}{{file:socket\\.io\\..+}}", client)
    app.router.add_get("/pages/{file:.+}", page)


def _file_in(folder: Path, name: str) -> Path | None:
    """Return the file of a request in a folder or its subfolders; None for an absent file.

    A name that ends in a slash stands for the ``index.html`` of a subfolder. Names that begin with a dot are
    hidden, such as ``.env`` and ``.git``; only ``.well-known`` is not.
    """
    path = PurePosixPath(f"{name}index.html" if name.endswith("/") else name)
    if path.is_absolute() or any(part.startswith(".") and part != ".well-known" for part in path.parts):
        return None
    file = folder / path
    try:
        return file if file.is_file() else None
    except OSError:  # an overlong path, or a subfolder without permission
        return None


async def _client_module(path: str, _: web.Request) -> web.Response:
    text = CLIENT_MODULE.format(path=path.removeprefix("/"))
    return web.Response(text=text, content_type="text/javascript", headers=NO_CACHE)
