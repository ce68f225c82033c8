"""The handshakes of Engine.IO 4: validity, query, and answer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qs

from socketio_eventstore.core.packets import dumps
from socketio_eventstore.transport.request_head import RequestHead
from socketio_eventstore.transport.responses import (
    BAD_METHOD,
    BAD_REQUEST,
    UNSUPPORTED_VERSION,
    RequestRefused,
)

PYTHON_TIMESTAMP: Final = re.compile(r"[0-9]+\.[0-9]+")
"""The parameter ``t`` of python-engineio: seconds with a decimal point. Official clients for JavaScript send
milliseconds in base 36 or 64 when polling, and no ``t`` on WebSocket."""


def takes_offsets(query: Mapping[str, str]) -> bool:
    """Whether the client of a handshake accepts an offset as the last argument of each event.

    Handlers on python-socketio's client would get one argument too many. ``offsets=0`` and ``offsets=1`` in
    the query of the handshake override the recognition.
    """
    match query.get("offsets"):
        case "0":
            return False
        case "1":
            return True
        case _:
            return "t" not in query or not is_python(query)


def is_python(query: Mapping[str, str]) -> bool:
    """Whether the client of a handshake is python-engineio's."""
    return PYTHON_TIMESTAMP.fullmatch(query.get("t", "")) is not None


PYTHON_POLL_PACKETS: Final = 16
"""The most packets of one response that python-engineio's client accepts (``Payload.max_decode_packets``)."""


def check_handshake(head: RequestHead, transport: str, query: Mapping[str, str]) -> None:
    """Raise RequestRefused for a handshake unlike any client's."""
    if query.get("EIO") != "4":
        raise RequestRefused(UNSUPPORTED_VERSION)
    if head.method != "GET":
        raise RequestRefused(BAD_METHOD)
    if transport == "websocket" and not wants_websocket(head):
        raise RequestRefused(BAD_REQUEST)
    # The request lives as long as the connection, and so would a body.
    if head.header("content-length") not in ("", "0") or head.headers("transfer-encoding"):
        raise RequestRefused(BAD_REQUEST)


def wants_websocket(head: RequestHead) -> bool:
    """Whether a request asks for a WebSocket."""
    return head.header("upgrade").lower() == "websocket"


@lru_cache(maxsize=64)
def parse_query(text: str) -> Mapping[str, str]:
    """Return the first value of each key. The handshakes of WebSockets have few different queries."""
    return {key: values[0] for key, values in parse_qs(text).items()}


@lru_cache(maxsize=8)
def end_of_handshake(may_upgrade: bool, timeout: float, interval: float, max_payload: int) -> str:
    """Return the end of a handshake, which is equal for all clients; durations are in seconds."""
    values = {
        "upgrades": ["websocket"] if may_upgrade else [],
        "pingTimeout": round(timeout * 1000),
        "pingInterval": round(interval * 1000),
        "maxPayload": max_payload,
    }
    return dumps(values).removeprefix("{")
