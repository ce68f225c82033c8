"""The page that shows the document. The page needs no key, but asks for a key, and keeps it in memory."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from aiohttp import web

PAGES: Final = {
    "/": ("index.html", "text/html"),
    "/api.css": ("api.css", "text/css"),
    "/api.js": ("api.js", "text/javascript"),
}
"""The files by path, with media types."""
HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def add_pages(api: web.Application) -> None:
    """Add the files of the page."""
    for path in PAGES:
        api.router.add_get(path, _page)
    api.router.add_get("", _to_page)


def is_page(request: web.Request) -> bool:
    """Whether a request is for the page, which shows nothing of the server."""
    return request.match_info.handler in (_page, _to_page)


async def _page(request: web.Request) -> web.Response:
    resource = request.match_info.route.resource
    assert resource is not None
    name, media_type = PAGES[f"/{resource.canonical.rpartition('/')[2]}"]
    text = (files("socketio_eventstore.program.api") / "pages" / name).read_text(encoding="utf-8")
    return web.Response(text=text, content_type=media_type, headers=HEADERS)


async def _to_page(request: web.Request) -> web.Response:
    raise web.HTTPPermanentRedirect(f"{request.path.rpartition('/')[2]}/")  # relative, for a path prefix
