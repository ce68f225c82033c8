"""The environ of an ASGI request, with the keys of python-engineio's.

python-engineio defines a class for each request. A class is a reference cycle: class and request stay in
memory until the cyclic garbage collector runs.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from socketio_eventstore.transport.websocket import Environ

Receive = Callable[[], Awaitable[dict[str, Any]]]

_FIRST_EVENTS: Final = frozenset({"http.request", "websocket.connect"})
_CONTENT_HEADERS: Final = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})


class RequestBody:
    """The body of a request, ``wsgi.input``."""

    def __init__(self, first: Mapping[str, Any], receive: Receive) -> None:
        self._receive = receive
        self._unread = bytearray()
        self._has_more = False
        self._take(first)

    async def read(self, length: int | None = None) -> bytes:
        """Return at most ``length`` bytes, none at the end; without ``length``, all bytes."""
        while self._has_more and (length is None or len(self._unread) < length):
            self._take(await self._receive())
        taken = bytes(self._unread[:length])
        del self._unread[: len(taken)]
        return taken

    def _take(self, event: Mapping[str, Any]) -> None:
        is_part = event["type"] == "http.request"
        self._has_more = is_part and bool(event.get("more_body"))
        if is_part:
            self._unread += event.get("body") or b""


async def translate_request(scope: Mapping[str, Any], receive: Receive, send: Any) -> Environ:
    """Translate a request. Returns an empty dict for another event, such as the lifespan's."""
    event = await receive()
    if event["type"] not in _FIRST_EVENTS:
        return {}
    path: str = scope["path"]
    query = _text(scope.get("query_string") or b"") or ""
    environ: Environ = {
        "wsgi.input": RequestBody(event, receive),
        "wsgi.errors": sys.stderr,
        "wsgi.version": (1, 0),
        "wsgi.async": True,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "SERVER_SOFTWARE": "asgi",
        "REQUEST_METHOD": scope.get("method", "GET"),
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "RAW_URI": f"{path}?{query}" if query else path,
        "SCRIPT_NAME": "",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",  # as in python-engineio; the address is in asgi.scope
        "REMOTE_PORT": "0",
        "SERVER_NAME": "asgi",
        "SERVER_PORT": "0",
        "asgi.receive": receive,
        "asgi.send": send,
        "asgi.scope": scope,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = _text(raw_name), _text(raw_value)
        if name is not None and value is not None:
            _add_header(environ, name.upper().replace("-", "_"), value)
    environ["wsgi.url_scheme"] = environ.get("HTTP_X_FORWARDED_PROTO", "http")
    return environ


def _add_header(environ: Environ, name: str, value: str) -> None:
    if name in _CONTENT_HEADERS:
        environ[name] = value
        return
    key = f"HTTP_{name}"
    environ[key] = f"{environ[key]},{value}" if key in environ else value


def _text(raw: bytes) -> str | None:
    """Decode a part of a request; None for invalid UTF-8, which python-engineio leaves out."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None
