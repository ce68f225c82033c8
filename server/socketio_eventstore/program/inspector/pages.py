"""The files of the inspector, and the files from npm. No file contains data of the server."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

from aiohttp import web

MEDIA_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
INDEX: Final = "index.html"
BUNDLED: Final = {
    "uPlot.iife.min.js": "inspector/bundle",
    "uPlot.min.css": "inspector/bundle",
    "socket.io.esm.min.js": "client_bundle",
}
"""The files that ``make`` copies from npm, with folders."""
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_pages(app: web.Application) -> None:
    """Add the files, and a redirect from the path without slash."""
    app.router.add_get("", _to_index)
    app.router.add_get("/", _file)
    app.router.add_get("/{file:[A-Za-z0-9.-]+\\.(?:css|js|svg)}", _file)


def is_page(request: web.Request) -> bool:
    """Whether a request is for a file; files need no login."""
    return request.match_info.handler in (_file, _to_index)


async def _file(request: web.Request) -> web.StreamResponse:
    name = request.match_info.get("file", INDEX)
    program = Path(str(files("socketio_eventstore.program")))
    path = program / BUNDLED.get(name, "inspector/pages") / name
    if not path.is_file():
        raise web.HTTPNotFound
    return web.FileResponse(path, headers={**HEADERS, "Content-Type": _media_type(path)})


def _media_type(path: Path) -> str:
    return f"{MEDIA_TYPES[path.suffix]}; charset=utf-8"


async def _to_index(request: web.Request) -> web.Response:
    raise web.HTTPPermanentRedirect(f"{request.path.rpartition('/')[2]}/")  # relative, for a path prefix
