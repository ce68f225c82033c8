"""Packets of clients: put together from their parts, within bounds, and checked before they are acted on."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

from socketio import packet

from socketio_eventstore.adapter.encoder import auth_of, has_usual_json
from socketio_eventstore.transport.inbox import InvalidPacket

MAX_ATTACHMENTS = 1000
"""Of one packet of a client; together they may weigh as much as ``max_payload``."""

_RESERVED = {"*", "connect", "connect_error", "disconnect", "disconnecting", "session_expired"}
"""Events that only the server raises (socket.io-parser 4), and what handlers of all other events are
registered under; a client that sends one is refused."""

_PLAIN = re.compile(r"([23])(?:(/[^,?]*),)?([0-9]{1,15})?(\[.*)", re.DOTALL)
"""An EVENT or ACK as nearly all are (Socket.IO protocol 5, "Packet encoding"): read without python-socketio's
packet class, which takes five times as long."""


_JSON_SPACE = " \t\n\r"


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_refuse)


def _decoded(text: str) -> Any:
    """A text that begins with its value: ``decode`` would look for white space first, which takes as long."""
    value, end = _decoder.raw_decode(text)
    if end < len(text) and text[end:].strip(_JSON_SPACE):
        raise ValueError("something follows the packet")
    return value


class _StrictJson:
    """What takes the place of a packet class's ``json`` for reading: no NaN, which nobody could be sent."""

    @staticmethod
    def loads(text: str) -> Any:
        return _decoder.decode(text)


class _StrictPacket(packet.Packet):  # type: ignore[misc]  # python-socketio is not typed
    json = _StrictJson


class ClientPacket(NamedTuple):
    """A complete packet; the names are python-socketio's."""

    packet_type: int
    namespace: str
    id: int | None
    data: Any


class Decoder:
    """Decodes packets, and waits for the attachments of binary ones."""

    def __init__(self, packet_class: Any, max_bytes: int) -> None:
        self._is_standard = packet_class is packet.Packet and has_usual_json(packet_class)
        self._packet_class = _StrictPacket if self._is_standard else packet_class
        self._max_bytes = max_bytes
        self._waiting: dict[str, tuple[Any, int]] = {}

    def add(self, connection_id: str, data: str | bytes) -> ClientPacket | None:
        """The packet that is complete with these data, None while attachments are missing.

        Raises InvalidPacket.
        """
        try:
            pkt = self._add(connection_id, data)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            raise InvalidPacket(f"not a Socket.IO packet: {data[:40]!r}") from error
        if pkt is not None and pkt.packet_type in (packet.EVENT, packet.BINARY_EVENT):
            _check_event(pkt.data)
        return pkt

    def forget(self, connection_id: str) -> None:
        """A connection has ended."""
        self._waiting.pop(connection_id, None)

    def _add(self, connection_id: str, data: str | bytes) -> ClientPacket | None:
        if connection_id in self._waiting:
            return self._add_attachment(connection_id, data)
        if self._is_standard and isinstance(data, str) and (match := _PLAIN.fullmatch(data)) is not None:
            kind, namespace, number, content = match.groups()
            return ClientPacket(
                packet.EVENT if kind == "2" else packet.ACK,
                namespace or "/",
                None if number is None else int(number),
                _decoded(content),
            )
        pkt = self._packet_class(encoded_packet=data)
        if pkt.packet_type == packet.CONNECT:
            pkt.data = auth_of(pkt.data)
        if pkt.attachment_count == 0:
            return _complete(pkt)
        if pkt.attachment_count > MAX_ATTACHMENTS:
            raise ValueError("too many attachments")
        self._waiting[connection_id] = pkt, self._max_bytes
        return None

    def _add_attachment(self, connection_id: str, data: str | bytes) -> ClientPacket | None:
        pkt, bytes_left = self._waiting[connection_id]
        bytes_left -= len(data)
        if isinstance(data, str) or bytes_left < 0:
            raise ValueError("text instead of an attachment, or too much of them")
        self._waiting[connection_id] = pkt, bytes_left
        if not pkt.add_attachment(data):
            return None
        self.forget(connection_id)
        return _complete(pkt)


def _complete(pkt: Any) -> ClientPacket:
    # Packets of msgpack may hold anything.
    if not isinstance(pkt.namespace, str | None) or not isinstance(pkt.id, int | None):
        raise TypeError("no namespace, or no id")
    return ClientPacket(pkt.packet_type, pkt.namespace or "/", pkt.id, pkt.data)


def _check_event(data: Any) -> None:
    if not isinstance(data, list) or not data or not isinstance(data[0], str) or data[0] in _RESERVED:
        raise InvalidPacket("not an event")
