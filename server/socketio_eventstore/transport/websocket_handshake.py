"""The handshake of a WebSocket on aiohttp. Sources: RFC 6455 section 4.2, RFC 7692 section 7.1.

aiohttp's ``WebSocketResponse`` makes a reader, a writer and a queue, which ``AiohttpWebSocket`` replaces at
once; and the response would be a separate write, before the write of the first packet.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha1
from typing import Final, TypeAlias

from aiohttp import hdrs, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

IGNORES_WEBSOCKETS: Final = "ignores_websockets"
"""The attribute of a signal ``on_response_prepare``, or of a middleware, without effect on the handshake of a
WebSocket. If all have the attribute, no response object is made for a handshake (see also ``front_door``)."""
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES: Final = 16
_VERSIONS: Final = ("13", "8", "7")
_ACCEPTED_PARAMETERS: Final = frozenset(
    {"client_max_window_bits", "client_no_context_takeover", "server_no_context_takeover"}
)
_DEFLATE: Final = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
"""No context takeover: no memory per client, and frames shared by all clients (RFC 7692 section 7.1.1)."""


Acceptance: TypeAlias = tuple[bytes, bool]
"""The response that accepts a WebSocket, and whether messages are compressed."""


class InvalidHandshake(Exception):
    """The request is no valid handshake of a WebSocket. The text says why."""

    def __init__(self, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.headers = headers
        """The expected headers of the response."""


async def accept(request: web.Request, *, may_compress: bool) -> Acceptance:
    """Return the response that accepts a WebSocket, with the headers from the application.

    ``may_compress``: messages are compressed if the client offers compression. Raises HTTPBadRequest for an
    invalid handshake.
    """
    compresses = may_compress and offers_deflate(request.headers.getall(hdrs.SEC_WEBSOCKET_EXTENSIONS, ()))
    try:
        headers = _accepting(request.headers, compresses=compresses)
    except InvalidHandshake as error:
        raise web.HTTPBadRequest(text=str(error), headers=error.headers) from None
    for app in request.match_info.apps:
        if not all(getattr(signal, IGNORES_WEBSOCKETS, False) for signal in app.on_response_prepare):
            return _response(await _prepare(request, headers)), compresses
    return _response(headers.items()), compresses


def accept_plainly(asked: Mapping[str, str], extensions: Sequence[str], *, may_compress: bool) -> Acceptance:
    """Return the response of ``accept`` where no application adds headers.

    ``extensions`` are all values of ``Sec-WebSocket-Extensions``. Raises InvalidHandshake.
    """
    compresses = may_compress and offers_deflate(extensions)
    return _response(_accepting(asked, compresses=compresses).items()), compresses


def _accepting(asked: Mapping[str, str], *, compresses: bool) -> dict[str, str]:
    headers: dict[str, str] = {
        hdrs.UPGRADE: "websocket",
        hdrs.CONNECTION: "upgrade",
        hdrs.SEC_WEBSOCKET_ACCEPT: _accept_value(asked),
    }
    if compresses:
        headers[hdrs.SEC_WEBSOCKET_EXTENSIONS] = _DEFLATE
    if offered := asked.get(hdrs.SEC_WEBSOCKET_PROTOCOL):
        # The first offered subprotocol, as in the reference (ws 8).
        if not offered.isascii():
            raise InvalidHandshake("The header Sec-WebSocket-Protocol is invalid.")
        headers[hdrs.SEC_WEBSOCKET_PROTOCOL] = offered.partition(",")[0].strip()
    return headers


def _response(headers: Iterable[tuple[str, str]]) -> bytes:
    return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *map(": ".join, headers), "", ""]).encode()


async def _prepare(request: web.Request, headers: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Let the application change the headers, as aiohttp does before each response."""
    # Applications change or delete these headers: aiohttp sets both before the signal, too.
    common: dict[str, str] = {hdrs.DATE: rfc822_formatted_time(), hdrs.SERVER: SERVER_SOFTWARE}
    response = web.StreamResponse(status=101, headers=common | dict(headers))
    for app in request.match_info.apps:
        await app.on_response_prepare.send(request, response)
    if any("\r" in value or "\n" in value for value in response.headers.values()):
        raise ValueError("a header of the application has a line break")
    return response.headers.items()


def offers_deflate(extensions: Sequence[str]) -> bool:
    """Whether the client accepts compression with any window and without context takeover."""
    for offer in ",".join(extensions).split(","):
        name, *parameters = [part.strip().partition("=")[0].strip() for part in offer.split(";")]
        if name == "permessage-deflate" and _ACCEPTED_PARAMETERS.issuperset(parameters):
            return True
    return False


def _accept_value(headers: Mapping[str, str]) -> str:
    """Check the request, and return the value of Sec-WebSocket-Accept. Raises InvalidHandshake."""
    if headers.get(hdrs.UPGRADE, "").strip().lower() != "websocket":
        raise InvalidHandshake("The header Upgrade does not name the WebSocket protocol.")
    if "upgrade" not in headers.get(hdrs.CONNECTION, "").lower():
        raise InvalidHandshake("The header Connection does not name the header Upgrade.")
    if headers.get(hdrs.SEC_WEBSOCKET_VERSION) not in _VERSIONS:
        raise InvalidHandshake(
            "This version of WebSocket is not supported.", {hdrs.SEC_WEBSOCKET_VERSION: "13"}
        )
    key = headers.get(hdrs.SEC_WEBSOCKET_KEY, "")
    try:
        is_valid = len(a2b_base64(key)) == _KEY_BYTES
    except ValueError:
        is_valid = False
    if not is_valid:
        raise InvalidHandshake("The header Sec-WebSocket-Key is invalid.")
    proof = sha1(key.encode() + _GUID, usedforsecurity=False).digest()
    return b2a_base64(proof, newline=False).decode()
