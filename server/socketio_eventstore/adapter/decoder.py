"""Decoding: the packets of clients, assembled from parts within limits, and checked."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

from socketio import packet

from socketio_eventstore.adapter.encoder import has_default_json
from socketio_eventstore.core.event_rules import RESERVED_EVENTS
from socketio_eventstore.transport.inbox_owner import InvalidPacket

_REFUSED_EVENTS: Final = RESERVED_EVENTS | {"*", "session_expired"}
"""The reserved names, the catch-all name, and the event of the server itself; a client that sends any of
these is disconnected."""

_HEAD: Final = re.compile(r"([23])(?:(/[^,?]*),)?([0-9]{1,15})?(?=\[)")
"""The part before the array of a usual EVENT or ACK (Socket.IO protocol 5, "Packet encoding").

python-socketio's packet class takes five times as long to decode such a packet."""

_CONNECT: Final = re.compile(r"0(?:(/[^,?]*),)?(\{.*)?", re.DOTALL)
"""A usual CONNECT, with or without ``auth``."""

_EVENT: Final = packet.EVENT
_ACK: Final = packet.ACK
_EVENTS: Final = (packet.EVENT, packet.BINARY_EVENT)
_JSON_SPACE: Final = " \t\n\r"
_JSON_TYPES: Final = (dict, list, str, int, float, bytes, type(None))


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # as NaN, no client could receive the number
        raise ValueError(f"{text[:20]} is larger than any number")
    return value


_decoder = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_scan: Callable[[str, int], tuple[Any, int]] = _decoder.scan_once  # type: ignore[attr-defined]  # undocumented


def _decode(text: str, start: int = 0) -> Any:
    """Decode the value that begins at an index and ends with the text.

    ``JSONDecoder.decode`` first looks for white space, which takes as long as the rest. Raises ValueError.
    """
    try:
        value, end = _scan(text, start)
    except StopIteration as error:
        raise ValueError("no value") from error
    if end < len(text) and text[end:].strip(_JSON_SPACE):
        raise ValueError("something follows the packet")
    return value


class _StrictJson:
    """Replaces the ``json`` of a packet class for decoding: NaN is refused, as no client could receive it."""

    @staticmethod
    def loads(text: str) -> Any:
        return _decoder.decode(text)


class _StrictPacket(packet.Packet):  # type: ignore[misc]  # python-socketio is not typed
    json = _StrictJson


class ClientPacket(NamedTuple):
    """A complete packet of a client; the field names are python-socketio's."""

    packet_type: int
    namespace: str
    id: int | None
    data: Any


class Decoder:
    """Decodes packets, and waits for the attachments of binary packets."""

    def __init__(self, packet_class: Any, max_bytes: int, max_attachments: int) -> None:
        """``max_attachments``: per packet. ``max_bytes``: for all attachments of a packet together."""
        self._is_standard = packet_class is packet.Packet and has_default_json(packet_class)
        self._packet_class = _StrictPacket if self._is_standard else packet_class
        self._max_bytes = max_bytes
        self._max_attachments = max_attachments
        self._incomplete: dict[str, tuple[Any, int]] = {}
        """Incomplete packets with the remaining bytes, by connection id."""

    def add(self, connection_id: str, data: str | bytes) -> ClientPacket | None:
        """Return the packet completed by the data; None while attachments are missing.

        Raises InvalidPacket.
        """
        try:
            match = _HEAD.match(data) if self._is_standard and isinstance(data, str) else None
            if match is None or connection_id in self._incomplete:
                pkt = self._add_rare(connection_id, data)
                if pkt is None:
                    return None
            else:
                digit, namespace, ack_id = match.groups()
                kind = _EVENT if digit == "2" else _ACK
                ack_id = None if ack_id is None else int(ack_id)
                # As ``ClientPacket(...)``, without the function of a named tuple.
                pkt = tuple.__new__(
                    ClientPacket, (kind, namespace or "/", ack_id, _decode(match.string, match.end()))
                )
        except Exception as error:  # an application's serializer may raise any, and the client decides when
            raise InvalidPacket("not a Socket.IO packet") from error
        kind, _, _, values = pkt
        if kind in _EVENTS:
            name = values[0] if isinstance(values, list) and values else None
            if not isinstance(name, str) or name in _REFUSED_EVENTS:
                raise InvalidPacket("not an event")
        return pkt

    def forget(self, connection_id: str) -> None:
        """Drop the incomplete packet of an ended connection."""
        self._incomplete.pop(connection_id, None)

    def clear(self) -> None:
        """Drop the incomplete packets of all connections."""
        self._incomplete.clear()

    def _add_rare(self, connection_id: str, data: str | bytes) -> ClientPacket | None:
        """Decode what is no usual EVENT or ACK."""
        if connection_id in self._incomplete:
            return self._add_attachment(connection_id, data)
        if self._is_standard and isinstance(data, str) and (match := _CONNECT.fullmatch(data)) is not None:
            namespace, content = match.groups()
            auth = None if content is None else _decode(content)
            return ClientPacket(packet.CONNECT, namespace or "/", None, auth)
        pkt = self._packet_class(encoded_packet=data)
        if pkt.packet_type == packet.CONNECT:
            pkt.data = _auth_of(pkt.data)
        if pkt.attachment_count == 0:
            return _complete(pkt)
        if pkt.attachment_count > self._max_attachments:
            raise ValueError("too many attachments")
        self._incomplete[connection_id] = pkt, self._max_bytes
        return None

    def _add_attachment(self, connection_id: str, data: str | bytes) -> ClientPacket | None:
        pkt, remaining_bytes = self._incomplete[connection_id]
        remaining_bytes -= len(data)
        if isinstance(data, str) or remaining_bytes < 0:
            raise ValueError("text instead of an attachment, or attachments beyond the limit")
        self._incomplete[connection_id] = pkt, remaining_bytes
        if not pkt.add_attachment(data):
            return None
        self.forget(connection_id)
        return _complete(pkt)


def _auth_of(payload: Any) -> dict[str, Any] | None:
    """Return the ``auth`` of a CONNECT packet. Raises ValueError for other types (socket.io-parser 4).

    Encoders of msgpack write JavaScript's undefined as an extension type; JSON leaves undefined out.
    """
    if isinstance(payload, dict):
        return {key: value for key, value in payload.items() if isinstance(value, _JSON_TYPES)}
    if payload is not None and isinstance(payload, _JSON_TYPES):
        raise ValueError("the payload of CONNECT must be an object")
    return None


def _complete(pkt: Any) -> ClientPacket:
    # Packets of msgpack may hold values of any type.
    if not isinstance(pkt.namespace, str | None) or not isinstance(pkt.id, int | None):
        raise TypeError("no namespace, or no id")
    return ClientPacket(pkt.packet_type, pkt.namespace or "/", pkt.id, pkt.data)
