"""Responses to HTTP requests, refusals included.

Sources: Engine.IO protocol 4, "HTTP long-polling"; the error codes are from ``BaseServer.verify`` in
engine.io 6.
"""

from __future__ import annotations

from typing import Any

from socketio_eventstore.core.packets import dumps

Response = dict[str, Any]
"""A response in the form for python-engineio's drivers: ``status``, ``headers`` and ``response`` (bytes)."""

UNKNOWN_TRANSPORT = (0, "Transport unknown")
UNKNOWN_SESSION = (1, "Session ID unknown")
BAD_METHOD = (2, "Bad handshake method")
BAD_REQUEST = (3, "Bad request")
FORBIDDEN = (4, "Forbidden")
UNAVAILABLE = (4, "The server is not available at the moment")
TOO_MANY = (4, "Too many handshakes from this address")
RETRY_AFTER_SECONDS = 5
UNSUPPORTED_VERSION = (5, "Unsupported protocol version")


class RequestRefused(Exception):
    """The server answers a request with an error. ``error`` is the code and the message of the JSON body."""

    def __init__(self, error: tuple[int, str], status: str = "400 BAD REQUEST") -> None:
        super().__init__(error[1])
        code, message = error
        self.response = plain_response(dumps({"code": code, "message": message}), status, "application/json")


def unavailable() -> RequestRefused:
    """Return the refusal of a handshake with the advice to try again."""
    refusal = RequestRefused(UNAVAILABLE, "503 SERVICE UNAVAILABLE")
    refusal.response["headers"].append(("Retry-After", str(RETRY_AFTER_SECONDS)))
    return refusal


def plain_response(
    body: str | bytes, status: str = "200 OK", content_type: str = "text/plain; charset=UTF-8"
) -> Response:
    """Return a response."""
    content = body.encode() if isinstance(body, str) else body
    headers = [("Content-Type", content_type), ("Cache-Control", "no-store")]
    return {"status": status, "headers": headers, "response": content}
